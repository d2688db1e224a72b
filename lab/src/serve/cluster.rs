//! An event loop for each core: M processes of [`event`](super::event)'s kind on one port, by thead. A crash takes the
//! connections of one process along, and thead replaces it.
//!
//! Who accepts is what the three kinds differ in: the primary, which hands connections over in turn; the workers, from one
//! socket; or the workers, each from its own, among which the kernel chooses.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thead::cluster::Scheduling;
use thead::service::{Backoff, Intensity, Options, Program, Ready, Restart, Service, ServiceEvent};
use thead::{Command, Serialization};

use super::event::{converse, runtime};
use super::{Announcement, ServeError};

/// How soon a worker that has died is replaced, however many have died before: a load with crashes is what it is for.
const RESTART: Restart = Restart {
    policy: thead::service::Policy::Always,
    backoff: Backoff {
        first: Duration::from_millis(10),
        max: Duration::from_millis(10),
        factor: 1,
        jitter_percent: 0,
    },
    reset_after: Duration::from_secs(10),
    // More than a period's worth of delays: never spent.
    intensity: Intensity {
        restarts: 1000,
        period: Duration::from_secs(1),
    },
};

/// The primary: starts the workers and keeps them alive.
pub(super) fn primary(
    address: SocketAddr,
    backlog: u32,
    processes: u32,
    scheduling: Scheduling,
) -> Result<Infallible, ServeError> {
    let program = std::env::current_exe().map_err(ServeError::system("this program is not found"))?;
    let command = Command::new(program)
        .args([
            "worker",
            "--listen",
            &address.to_string(),
            "--backlog",
            &backlog.to_string(),
        ])
        // It sees the end of its channel, but not while it burns.
        .death_signal(libc::SIGKILL)
        .channel(Serialization::Json);
    let mut options = Options::new(Program::new(command));
    options.cluster.scheduling = scheduling;
    options.settings.life.instances = processes as usize;
    options.settings.life.ready = Ready::Listening;
    options.settings.life.restart = RESTART;
    runtime()?.block_on(async {
        let mut service =
            Service::start(options).map_err(|error| ServeError::system("no cluster")(io::Error::other(error)))?;
        let mut listening = 0;
        while let Some(event) = service.next().await {
            match event {
                ServiceEvent::Listening { address: bound, .. } => {
                    listening += 1;
                    let port = bound.port.and_then(|port| u16::try_from(port).ok());
                    if let Some(port) = port.filter(|_| listening == processes) {
                        Announcement::new(SocketAddr::new(address.ip(), port)).print()?;
                    }
                }
                ServiceEvent::ListenFailed { errno, .. } => {
                    return Err(ServeError::listen(address, io::Error::from_raw_os_error(-errno)));
                }
                _ => {}
            }
        }
        Err(ServeError::system("the cluster has ended")(io::Error::other(
            "no worker came up",
        )))
    })
}

/// A worker: serves until its primary is gone.
pub(super) fn worker(address: SocketAddr, backlog: u32) -> Result<(), ServeError> {
    runtime()?.block_on(async {
        let listened = thead::worker::listen(address).backlog(backlog).await;
        let mut listener = listened.map_err(|error| ServeError::system("no listener")(io::Error::other(error)))?;
        while let Some((stream, _)) = listener.accept().await.map_err(ServeError::system("no listener"))? {
            if let Some(tcp) = stream.as_tcp() {
                // Only a connection that has ended already refuses it.
                let _ = tcp.set_nodelay(true);
            }
            tokio::spawn(converse(stream));
        }
        Ok(())
    })
}
