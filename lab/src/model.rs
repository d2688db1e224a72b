//! What is measured: the service models, and what they are compared with.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::peer::{Missing, Peer};

/// How a server shares its work among processes and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Model {
    /// One request at a time.
    Sync,
    /// A process for each connection.
    ForkEach,
    /// M processes that were forked before, each with one request at a time.
    Prefork,
    /// A thread for each connection.
    ThreadEach,
    /// M processes of L threads, each with one request at a time.
    ThreadPool,
    /// One event loop.
    Event,
    /// An event loop for each of M processes; the primary accepts and hands over.
    ClusterRoundRobin,
    /// As [`ClusterRoundRobin`](Self::ClusterRoundRobin), but the processes accept from one socket.
    ClusterShared,
    /// As [`ClusterRoundRobin`](Self::ClusterRoundRobin), but each process has a socket and the kernel chooses.
    ClusterKernel,
}

impl Model {
    /// All of them, in the order in which they came up.
    pub const ALL: [Self; 9] = [
        Self::Sync,
        Self::ForkEach,
        Self::Prefork,
        Self::ThreadEach,
        Self::ThreadPool,
        Self::Event,
        Self::ClusterRoundRobin,
        Self::ClusterShared,
        Self::ClusterKernel,
    ];

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::ForkEach => "fork",
            Self::Prefork => "prefork",
            Self::ThreadEach => "threads",
            Self::ThreadPool => "pool",
            Self::Event => "event",
            Self::ClusterRoundRobin => "cluster",
            Self::ClusterShared => "cluster-shared",
            Self::ClusterKernel => "cluster-kernel",
        }
    }

    /// What it is, in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Sync => "one process, one request at a time",
            Self::ForkEach => "a process for each connection",
            Self::Prefork => "M processes forked before, each one request at a time",
            Self::ThreadEach => "a thread for each connection",
            Self::ThreadPool => "M processes of L threads, each thread one request at a time",
            Self::Event => "one process with one event loop",
            Self::ClusterRoundRobin => {
                "M processes with an event loop each; thead's primary accepts and hands over in turn"
            }
            Self::ClusterShared => "M processes with an event loop each, which accept from one socket",
            Self::ClusterKernel => "M processes with an event loop each; the kernel chooses among their sockets",
        }
    }

    const fn takes(self) -> Takes {
        match self {
            Self::Sync | Self::ForkEach | Self::ThreadEach | Self::Event => Takes::Nothing,
            Self::Prefork | Self::ClusterRoundRobin | Self::ClusterShared | Self::ClusterKernel => Takes::Processes,
            Self::ThreadPool => Takes::ProcessesAndThreads,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ValueEnum for Model {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.describe()))
    }
}

impl FromStr for Model {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let mut all = Self::ALL.into_iter();
        all.find(|model| model.name() == name)
            .ok_or_else(|| Unknown::new("model", name, Self::ALL.map(Self::name)))
    }
}

/// What can be chosen: the numbers of processes and of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Processes,
    ProcessesAndThreads,
}

/// Who serves: one of ours, or a program that others have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One of ours.
    Model(Model),
    /// Another's.
    Peer(Peer),
}

impl Kind {
    /// All of them, ours first.
    pub const ALL: [Self; 15] = {
        let mut all = [Self::Model(Model::Sync); 15];
        let mut at = 0;
        while at < all.len() {
            all[at] = if at < Model::ALL.len() {
                Self::Model(Model::ALL[at])
            } else {
                Self::Peer(Peer::ALL[at - Model::ALL.len()])
            };
            at += 1;
        }
        all
    };

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model(model) => model.name(),
            Self::Peer(peer) => peer.name(),
        }
    }

    /// What it is, in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Model(model) => model.describe(),
            Self::Peer(peer) => peer.describe(),
        }
    }

    /// Whether it can be told how many processes there are to be. Otherwise there is one, or as many as connections.
    pub const fn takes_processes(self) -> bool {
        !matches!(self.takes(), Takes::Nothing)
    }

    /// Whether it can be told how many threads each process is to have.
    pub const fn takes_threads(self) -> bool {
        matches!(self.takes(), Takes::ProcessesAndThreads)
    }

    const fn takes(self) -> Takes {
        match self {
            Self::Model(model) => model.takes(),
            Self::Peer(peer) => peer.takes(),
        }
    }
}

impl From<Model> for Kind {
    fn from(model: Model) -> Self {
        Self::Model(model)
    }
}

impl From<Peer> for Kind {
    fn from(peer: Peer) -> Self {
        Self::Peer(peer)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.describe()))
    }
}

impl FromStr for Kind {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name)
            .ok_or_else(|| Unknown::new("model or peer", name, Self::ALL.map(Self::name)))
    }
}

/// A name that nobody has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} {name:?}: known are {known}")]
pub struct Unknown {
    what: &'static str,
    name: String,
    known: String,
}

impl Unknown {
    fn new<const N: usize>(what: &'static str, name: &str, known: [&str; N]) -> Self {
        Self {
            what,
            name: name.to_owned(),
            known: known.join(", "),
        }
    }
}

/// A server to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it is called in reports: the name of its kind.
    pub name: String,
    /// Who serves.
    pub kind: Kind,
    /// How many processes are asked for; 1 where none can be.
    pub processes: u32,
    /// How many threads each of them is asked to have; 1 where none can be.
    pub threads: u32,
}

impl Candidate {
    /// One with so many processes and threads, as far as it takes such numbers.
    pub fn new(kind: impl Into<Kind>, processes: u32, threads: u32) -> Self {
        let kind = kind.into();
        Self {
            name: kind.name().to_owned(),
            kind,
            processes: if kind.takes_processes() { processes } else { 1 },
            threads: if kind.takes_threads() { threads } else { 1 },
        }
    }

    /// What starts it: `thead-lab serve`, to which words may be added. Prints
    /// [one line of JSON](crate::serve::Announcement) when it is ready, and ends with all that it has started at SIGTERM.
    ///
    /// # Errors
    /// It is not installed.
    pub fn command(&self) -> Result<Command, Missing> {
        if let Kind::Peer(peer) = self.kind {
            peer.look()?;
        }
        let mut command = Command::new(program());
        command.args(["serve", self.kind.name()]);
        if self.kind.takes_processes() {
            command.args(["--processes", &self.processes.to_string()]);
        }
        if self.kind.takes_threads() {
            command.args(["--threads", &self.threads.to_string()]);
        }
        Ok(command)
    }
}

/// `thead-lab` itself: this program, or the one that was built with this test.
pub(crate) fn program() -> PathBuf {
    const NAME: &str = "thead-lab";
    let Ok(own) = std::env::current_exe() else {
        return NAME.into();
    };
    let beside = own.with_file_name(NAME);
    match own.parent().filter(|dir| dir.ends_with("deps")) {
        Some(deps) if !beside.exists() => deps.with_file_name(NAME),
        _ => beside,
    }
}
