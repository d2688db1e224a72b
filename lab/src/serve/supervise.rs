//! Starts a server as a process of its own, and ends it with all that it has started.

use std::future::pending;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit};
use thead::sys::reap::{self, Peek};
use thead::sys::spawn::Limit;
use thead::{Child, Command, ExitStatus, Stdio};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Announcement, Arguments, ServeError, event};
use crate::model::{Kind, Model};
use crate::peer::{Place, Running};

/// From being asked to end until it is made to.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until it is told to end by SIGTERM, SIGINT or the end of standard input. Returns the exit code; by then nothing is
/// left of the server.
///
/// # Errors
/// [`ServeError`].
pub fn serve(arguments: &Arguments) -> Result<u8, ServeError> {
    let (processes, threads) = arguments.extent()?;
    let place = Place {
        address: arguments.place.listen,
        backlog: arguments.place.backlog,
        processes,
        threads,
    };
    // Whatever outlives its own parent is ours then, and is ended too.
    reap::become_subreaper().map_err(ServeError::system("orphans cannot be adopted"))?;
    event::runtime()?.block_on(async {
        let ended = ended(arguments.until_stdin_closes)?;
        let (command, peer) = match arguments.kind {
            Kind::Model(model) => (command(model, place)?, None),
            Kind::Peer(peer) => {
                let (command, running) = peer.prepare(place)?;
                (command, Some(running))
            }
        };
        let child = start(command)?;
        let result = tokio::select! {
            status = child.wait() => died(status),
            Err(error) = announce(peer.as_ref(), child.id()) => Err(error),
            () = ended => Ok(0),
        };
        end(&child).await?;
        result
    })
}

/// The model as a process. It says itself when it is ready.
fn command(model: Model, place: Place) -> Result<Command, ServeError> {
    let program = std::env::current_exe().map_err(ServeError::system("this program is not found"))?;
    let numbers = [
        ("--backlog", place.backlog),
        ("--processes", place.processes),
        ("--threads", place.threads),
    ];
    let command = Command::new(program).args(["model", model.name(), "--listen", &place.address.to_string()]);
    Ok(numbers.into_iter().fold(command, |command, (name, number)| {
        command.arg(name).arg(number.to_string())
    }))
}

fn start(command: Command) -> Result<Child, ServeError> {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = |resource, limit| Limit {
        resource,
        limit: Rlimit {
            current: limit,
            maximum: limit,
        },
    };
    let child = command
        .stdin(Stdio::Null)
        .own_group()
        // If we are killed, nobody else ends it.
        .death_signal(libc::SIGTERM)
        .limit(limit(Resource::Nofile, most))
        // It is to crash, and often.
        .limit(limit(Resource::Core, Some(0)))
        .spawn();
    child.map_err(|error| ServeError::system("the server did not start")(io::Error::other(error)))
}

/// Peers know nothing of announcements. Never succeeds: afterwards there is nothing to say.
async fn announce(peer: Option<&Running>, pid: u32) -> Result<(), ServeError> {
    if let Some(peer) = peer {
        let listening = peer.listening().await?;
        Announcement { listening, pid }.print()?;
    }
    pending().await
}

/// It has ended by itself. What it could not do it has said, and whether that can be mended its exit code tells.
fn died(status: ExitStatus) -> Result<u8, ServeError> {
    match status {
        ExitStatus::Code(2) => Ok(2),
        ExitStatus::Code(code) => Err(ServeError::Died(format!("it ended with code {code}"))),
        ExitStatus::Signal { signal, .. } => Err(ServeError::Died(format!("signal {signal} ended it"))),
    }
}

/// Waits until this program is to end.
fn ended(with_stdin: bool) -> Result<impl Future<Output = ()>, ServeError> {
    let hear = |kind| signal(kind).map_err(ServeError::system("signals are not heard"));
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let (say, closed) = oneshot::channel();
    // Where nobody says it, it must not look as if they never will.
    let mut kept = Some(say);
    if with_stdin && let Some(say) = kept.take() {
        std::thread::spawn(move || {
            // Whether it ends or breaks, whoever held it is gone.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            // The server may be ending already.
            let _ = say.send(());
        });
    }
    Ok(async move {
        let _kept = kept;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = closed => {}
        }
    })
}

/// Ends the server, and whatever has outlived it.
async fn end(child: &Child) -> Result<(), ServeError> {
    // One that has ended needs no signal.
    let _ = child.kill(libc::SIGTERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        child.kill_tree();
        child.wait().await;
    }
    let left = ServeError::system("processes may be left");
    async {
        loop {
            while reap::reap_one(|_| false)? != Peek::Nothing {}
            reap::kill_orphans(|_| false, |_| true)?;
            if !reap::has_children()? {
                return Ok::<_, io::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    .await
    .map_err(left)
}
