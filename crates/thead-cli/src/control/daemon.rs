//! The daemon's start and end.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{Args, Subcommand};
use thead::control::{Version, log_dir, run_dir, state_dir};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::dirs::{bind_private, passable, private};
use super::events::Journal;
use super::registry::Registry;
use super::server::Server;
use super::state::Store;
use super::{DATA, Shared};
use crate::told::{event, millis_now};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DaemonArgs {
    /// Go into the background; return when it answers.
    #[arg(long)]
    detach: bool,
    #[command(subcommand)]
    verb: Option<DaemonVerb>,
}

#[derive(Debug, Subcommand)]
enum DaemonVerb {
    /// Stop all services, and end the daemon. The next one starts them again.
    Stop {
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say whether a daemon answers, and which.
    Status,
}

/// Exit codes: it could not start; another one runs already.
const FAILED: u8 = 1;
const RUNS_ALREADY: u8 = 3;
/// How long answers may take to be read when the daemon ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `thead daemon`, in the foreground or not, and what else is said to it as a whole.
pub(crate) fn daemon(args: &DaemonArgs) -> ExitCode {
    match &args.verb {
        Some(DaemonVerb::Stop { json }) => crate::verbs::shut_down(*json),
        Some(DaemonVerb::Status) => crate::verbs::daemon_status(),
        None if args.detach => crate::verbs::detached(),
        None => foreground(),
    }
}

/// Runs until it is told to end.
fn foreground() -> ExitCode {
    // Whatever we make is ours alone, from its first moment on.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077)).as_raw_mode();
    if let Err(error) = thead::sys::limit::raise_open_files() {
        eprintln!("thead: the limit of open files stays as it is: {error}");
    }
    thead::sys::spawn::reserve(SPAWN_SLOTS);
    crate::orphans::adopt();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run(umask))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thead: {error}");
            let runs = error.kind() == io::ErrorKind::WouldBlock;
            ExitCode::from(if runs { RUNS_ALREADY } else { FAILED })
        }
    }
}

/// After so long without a request or an event, memory is given back.
const CALM: Duration = Duration::from_secs(1);
/// Low descriptors kept free for what a primary inherits.
const SPAWN_SLOTS: usize = 8;
/// The longest path of a socket is 107 bytes; a service's name has up to 64, and `.primary` follows it.
const RUN_DIR_LIMIT: usize = 107 - 64 - "/.primary".len();

async fn run(umask: u32) -> io::Result<()> {
    let with = |dir: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let (run_dir, state_dir, log_dir) = (run_dir(), state_dir(), log_dir());
    private(&run_dir, None).map_err(|error| with(&run_dir, error))?;
    // Each service's own is closed; users of services must be able to come to theirs.
    for dir in [&state_dir, &state_dir.join(DATA)] {
        passable(dir).map_err(|error| with(dir, error))?;
    }
    std::fs::create_dir_all(&log_dir).map_err(|error| with(&log_dir, error))?;
    std::fs::set_permissions(&log_dir, std::fs::Permissions::from_mode(0o711))
        .map_err(|error| with(&log_dir, error))?;
    if run_dir.as_os_str().len() > RUN_DIR_LIMIT {
        let text = format!(
            "{}: too long for sockets in it ({RUN_DIR_LIMIT} bytes at most); set THEAD_HOME to a shorter path",
            run_dir.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let store = Store::open(&state_dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            error.kind(),
            format!("a daemon runs already with {}; ask it: thead ls", state_dir.display()),
        ),
        _ => with(&state_dir, error),
    })?;
    let found = store.load().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            let text = "move it and the one before it (.old) away and start again: what runs is found by its primaries, the rest \
                        by `thead apply`";
            io::Error::new(error.kind(), format!("{error}, and so is the one before it; {text}"))
        }
        _ => error,
    })?;
    let shared = Arc::new(Shared {
        journal: Journal::default(),
        run_dir: run_dir.clone(),
        state_dir: state_dir.clone(),
        log_dir: log_dir.clone(),
        exe: std::env::current_exe()?,
        umask,
        dirty: tokio::sync::Notify::new(),
        busy: tokio::sync::Notify::new(),
        own: Mutex::default(),
    });
    if let Some(damage) = &found.damage {
        let text = format!("{damage}; the state before it is in force");
        eprintln!("thead: {text}");
        shared
            .journal
            .tell(event("", "warning", true, text, serde_json::json!({})));
    }
    let (on_disk, mut services) = (found.services.clone(), found.services);
    for saved in super::recover::unknown(&run_dir, &services).await {
        let text = "runs and is not in the state: it is taken up as its primary has it";
        eprintln!("thead: {}: {text}", saved.name);
        let event = event(saved.name.as_str(), "recovered", true, text, serde_json::json!({}));
        shared.journal.tell(event);
        services.push(saved);
    }
    let registry = Registry::new(Arc::clone(&shared), store, on_disk, services);
    shared.changed();

    let socket = run_dir.join("control.sock");
    // The lock says that nobody listens there.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(with(&socket, error)),
        _ => {}
    }
    let listener = bind_private(&socket).and_then(|listener| {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    });
    let listener = listener.map_err(|error| with(&socket, error))?;
    let version = Version {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        since: millis_now(),
        state_dir: state_dir.display().to_string(),
        log_dir: log_dir.display().to_string(),
    };
    let end = Arc::new(tokio::sync::Notify::new());
    tokio::spawn(Server::new(Arc::clone(&registry), version, Arc::clone(&end)).serve(listener));
    let saver = Arc::clone(&registry);
    tokio::spawn(async move {
        loop {
            saver.shared.dirty.notified().await;
            saver.save().await;
        }
    });
    registry.boot();
    tokio::spawn(rest(Arc::clone(&shared)));
    let _ = crate::notify::ready();
    tokio::select! {
        done = until_told(&registry, &end) => done?,
        () = crate::notify::keep_alive() => {}
    }
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

/// Whenever it has been calm for a while, what the work before that took is given back.
async fn rest(shared: Arc<Shared>) {
    let (_, mut events) = shared.journal.watch(None);
    let mut work = async || {
        tokio::select! {
            () = shared.busy.notified() => {}
            _ = events.recv() => {}
        }
    };
    loop {
        while tokio::time::timeout(CALM, work()).await.is_ok() {}
        thead::sys::rest::give_back();
        work().await;
    }
}

/// SIGTERM ends the daemon alone, so that it can be replaced; a key press, and any signal to PID 1, ends everything.
async fn until_told(registry: &Arc<Registry>, end: &tokio::sync::Notify) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = signal(SignalKind::child())?;
    // It would end us.
    let mut hangup = signal(SignalKind::hangup())?;
    let own = |pid: u32| registry.shared.is_own(pid);
    let mut orphans = crate::orphans::Collector::default();
    let everything = loop {
        tokio::select! {
            _ = terminate.recv() => break std::process::id() == 1,
            _ = interrupt.recv() => break true,
            () = end.notified() => break false,
            _ = hangup.recv() => {}
            _ = child.recv() => drop(orphans.collect(own)),
            () = crate::wait::until(orphans.due()) => drop(orphans.collect(own)),
        }
    };
    let _ = crate::notify::stopping();
    if everything {
        eprintln!("thead: stops all services; once more ends it at once");
        tokio::select! {
            _ = registry.shut_down() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    } else {
        registry.save().await;
    }
    tokio::time::sleep(LAST_WORDS).await;
    Ok(())
}
