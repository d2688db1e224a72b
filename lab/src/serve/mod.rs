//! The servers: each model in a file of its own, all with the same answers.
//!
//! | target | what happens |
//! | --- | --- |
//! | `/` | a short text, at once |
//! | `/io?ms=10` | waits so long, then answers who did it and when |
//! | `/cpu?ms=2` | uses so much processor time of one thread, then answers as `/io` |
//! | `/mix?n=N` | waits 100 ms if N is a multiple of 100, else answers at once; without `n` the process counts for itself |
//! | `/body?bytes=1024` | so many bytes, a MiB at most |
//! | `/crash?n=N` | the process that handles it aborts if N is a multiple of 10 000 |
//! | `/state` | the process, the thread, and how many requests this process has seen |
//!
//! [`serve`] is `thead-lab serve`: it starts the server as a process of its own, and ends it with all that it has started.
//! So the servers themselves are nothing but servers: no signal is handled, and nothing waits for an end.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Once;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thead::cluster::Scheduling;

use crate::model::{Kind, Model};
use crate::peer::Missing;

mod cluster;
mod event;
mod fork;
mod handler;
mod http;
mod supervise;
mod sync;
mod threads;

pub use supervise::serve;

/// `thead-lab serve`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Who serves.
    #[arg(value_name = "MODEL")]
    kind: Kind,
    #[command(flatten)]
    place: WorkerArguments,
    /// How many processes; one for each core by default.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=1024))]
    processes: Option<u32>,
    /// How many threads each process has; 8 by default.
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Ends as well when standard input does, so that it never outlives who holds the other end.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Threads of each process, unless it is said otherwise.
const THREADS: u32 = 8;

impl Arguments {
    fn extent(&self) -> Result<(u32, u32), ServeError> {
        let refused = |what| ServeError::NotTaken { kind: self.kind, what };
        if self.processes.is_some() && !self.kind.takes_processes() {
            return Err(refused("--processes"));
        }
        if self.threads.is_some() && !self.kind.takes_threads() {
            return Err(refused("--threads"));
        }
        let cores = u32::try_from(thead::sys::limit::cores()).unwrap_or(1);
        let or = |taken, asked: Option<u32>, otherwise| if taken { asked.unwrap_or(otherwise) } else { 1 };
        Ok((
            or(self.kind.takes_processes(), self.processes, cores),
            or(self.kind.takes_threads(), self.threads, THREADS),
        ))
    }
}

/// The server itself, which [`serve`] starts.
#[derive(Debug, clap::Args)]
pub struct ModelArguments {
    model: Model,
    #[command(flatten)]
    place: WorkerArguments,
    #[arg(long)]
    processes: u32,
    #[arg(long)]
    threads: u32,
}

/// Where to listen, and how.
#[derive(Debug, clap::Args)]
pub struct WorkerArguments {
    /// Where to listen; port 0 is a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many connections may wait to be accepted. The system's own limit counts too (net.core.somaxconn).
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65535))]
    backlog: u32,
}

/// What a server says when it is ready, as one line of JSON on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Where it listens.
    pub listening: SocketAddr,
    /// The process that serves, or the parent of those that do.
    pub pid: u32,
}

impl Announcement {
    fn new(listening: SocketAddr) -> Self {
        let pid = std::process::id();
        Self { listening, pid }
    }

    fn of(listener: &TcpListener) -> Result<Self, ServeError> {
        let address = listener.local_addr();
        Ok(Self::new(
            address.map_err(ServeError::system("the socket has no address"))?,
        ))
    }

    fn print(self) -> Result<(), ServeError> {
        let line = serde_json::to_string(&self).map_err(io::Error::from);
        let written = line.and_then(|line| writeln!(io::stdout().lock(), "{line}"));
        written.map_err(ServeError::system("nobody could be told that it serves"))
    }
}

/// Why it does not serve, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Nobody can listen there.
    #[error("cannot listen on {address}: {source}; choose another address with --listen (port 0 is a free one)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A number that this one has no use for.
    #[error("{kind} ({}) takes no {what}: leave it out", .kind.describe())]
    NotTaken {
        /// Who was asked.
        kind: Kind,
        /// The option.
        what: &'static str,
    },
    /// It is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What there is not.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server has ended without being asked to.
    #[error("the server has died: {0}")]
    Died(String),
}

impl ServeError {
    /// What `thead-lab` ends with: 2 for what its caller can mend, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } | Self::NotTaken { .. } | Self::Missing(_) => 2,
            Self::System { .. } | Self::Died(_) => 1,
        }
    }

    fn listen(address: SocketAddr, source: io::Error) -> Self {
        Self::Listen { address, source }
    }

    /// For `map_err`.
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }
}

/// Serves as a model does, until it is killed.
///
/// # Errors
/// [`ServeError`]: it never began to.
pub fn model(arguments: &ModelArguments) -> Result<Infallible, ServeError> {
    let ModelArguments {
        model,
        place,
        processes,
        threads,
    } = arguments;
    let cluster = |scheduling| cluster::primary(place.listen, place.backlog, *processes, scheduling);
    match model {
        Model::Sync => sync::run(&listen(place)?),
        Model::ForkEach => fork::each(&listen(place)?),
        Model::Prefork => fork::before(&listen(place)?, *processes),
        Model::ThreadEach => threads::each(&listen(place)?),
        Model::ThreadPool => threads::pool(&listen(place)?, *processes, *threads),
        Model::Event => event::run(listen(place)?),
        Model::ClusterRoundRobin => cluster(Scheduling::RoundRobin),
        Model::ClusterShared => cluster(Scheduling::Shared),
        Model::ClusterKernel => cluster(Scheduling::Kernel),
    }
}

/// Serves as a worker of a cluster, until the primary is gone.
///
/// # Errors
/// [`ServeError`].
pub fn worker(arguments: &WorkerArguments) -> Result<(), ServeError> {
    cluster::worker(arguments.listen, arguments.backlog)
}

fn listen(place: &WorkerArguments) -> Result<TcpListener, ServeError> {
    let refused = |source| ServeError::listen(place.listen, source);
    let listener = TcpListener::bind(place.listen).map_err(refused)?;
    // It listens already, with the standard library's idea of a backlog.
    let backlog = place.backlog.try_into().unwrap_or(i32::MAX);
    rustix::net::listen(&listener, backlog).map_err(|errno| refused(errno.into()))?;
    Ok(listener)
}

/// The next connection.
fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(error) if is_passing(&error) => {}
            Err(error) => rest("a connection has to wait", &error),
        }
    }
}

/// The connection that was to be accepted is gone; the next one may be there.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// How long a server rests that is short of something: of descriptors, mostly, which come back with time.
const REST: Duration = Duration::from_millis(50);

fn rest(what: &str, error: &io::Error) {
    say_once(what, error);
    std::thread::sleep(REST);
}

async fn rest_async(what: &str, error: &io::Error) {
    say_once(what, error);
    tokio::time::sleep(REST).await;
}

/// A shortage lasts, and would be said again with every connection.
fn say_once(what: &str, error: &io::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("thead-lab: {what}: {error} (said once)"));
}
