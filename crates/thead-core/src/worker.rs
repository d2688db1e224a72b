//! The life of one worker process.

use std::fmt;
use std::time::Instant;

use crate::id::{Generation, WorkerId};
use crate::service::{Failure, Why};

/// A place in a service, from 0: `api/2` is whoever serves in slot 2 of `api`. A replacement takes the slot of the one it
/// replaces, so that for a while two workers can bear the same name: one that serves and one that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a process ended: a code or a signal, never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which.
        signal: i32,
        /// It left a core.
        core: bool,
    },
}

impl Exit {
    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { signal, core } => {
                write!(
                    f,
                    "was ended by signal {signal}{}",
                    if *core { " (core dumped)" } else { "" }
                )
            }
        }
    }
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Spawned or about to be, and not ready yet; or ready and soaking, without traffic.
    Starting,
    /// May get work.
    Ready,
    /// Its channel ended, its process lives, and nobody has told it to leave yet.
    Disconnected,
    /// Gets nothing new and finishes what it has.
    Draining,
    /// Was sent the stop signal, or will be as soon as it runs.
    Terminating,
    /// Was sent SIGKILL, or will be as soon as it runs.
    Killed,
}

/// A worker as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub worker: WorkerId,
    /// Where it serves, or served until it was told to leave.
    pub slot: Slot,
    /// Of which version it is.
    pub generation: Generation,
    /// Its process, once it runs.
    pub pid: Option<u32>,
    /// When that was started.
    pub started: Option<Instant>,
    /// When it became ready, if it ever did.
    pub ready: Option<Instant>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// One worker as its service knows it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) process: Option<Process>,
    /// A Node cluster worker.
    pub(crate) online: bool,
    pub(crate) listened: bool,
    /// When it became ready, if it ever did.
    pub(crate) ready: Option<Instant>,
    /// What it is sent away for, if it did wrong.
    pub(crate) fault: Option<Failure>,
    pub(crate) state: State,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) channel: bool,
    pub(crate) since: Instant,
}

/// The life of a worker. Its end may come in any state; whoever has left `Ready` never comes back.
///
/// ```text
/// Spawning ─► Starting ─► Soaking ─► Ready ─► Draining ─► Terminating ─► Killed ─► (stuck)
///     │           │  └──────────────►  │                     ▲  ▲            ▲
///     │           └──► Disconnected ◄──┘                     │  │            │
///     │           └─────────│────────────────────────────────┘  │            │
///     │                     └───────────────────────────────────┘            │
///     └ doomed: waits for its process, then ─► Terminating or ───────────────┘
/// ```
///
/// Only the first workers of a new generation soak. A fault, and an order to leave that comes before `Ready`, go straight
/// to `Terminating`; a refused generation and an impatient operator straight to `Killed`.
#[derive(Debug)]
pub(crate) enum State {
    /// The driver was told to spawn it and has not answered.
    Spawning { doom: Option<Doom> },
    /// It runs. At the deadline it is late, or ready by having lived so long.
    Starting { deadline: Instant },
    /// Ready and gated, to be watched for a while.
    Soaking { until: Instant },
    /// Serves.
    Ready,
    /// Lives without its channel, until the deadline.
    Disconnected { deadline: Instant },
    /// Finishes its work. `drained` if it has nothing left and was only given a moment to exit.
    Draining {
        deadline: Instant,
        successor: bool,
        drained: bool,
    },
    /// Was sent a signal.
    Terminating { deadline: Instant },
    /// Was sent SIGKILL. Without a deadline it is stuck, and nobody waits for it.
    Killed { deadline: Option<Instant> },
}

/// What awaits a worker that became unwanted before it ran.
#[derive(Debug)]
pub(crate) struct Doom {
    pub(crate) kill: bool,
    pub(crate) why: Why,
    /// Without one it is stuck, and nobody waits for it.
    pub(crate) deadline: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(slot: Slot, generation: Generation) -> Self {
        Self {
            slot,
            generation,
            process: None,
            online: false,
            listened: false,
            ready: None,
            fault: None,
            state: State::Spawning { doom: None },
        }
    }

    /// When something has to be done about it if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Spawning { doom } => doom.as_ref().and_then(|doom| doom.deadline),
            State::Starting { deadline }
            | State::Soaking { until: deadline }
            | State::Disconnected { deadline }
            | State::Draining { deadline, .. }
            | State::Terminating { deadline } => Some(*deadline),
            State::Ready => None,
            State::Killed { deadline } => *deadline,
        }
    }

    /// It has been told to leave.
    pub(crate) fn leaving(&self) -> bool {
        matches!(
            self.state,
            State::Spawning { doom: Some(_) }
                | State::Draining { .. }
                | State::Terminating { .. }
                | State::Killed { .. }
        )
    }

    /// It will not go, and nobody waits for it.
    pub(crate) fn stuck(&self) -> bool {
        matches!(
            self.state,
            State::Spawning {
                doom: Some(Doom { deadline: None, .. })
            } | State::Killed { deadline: None }
        )
    }

    /// Where it is in its life, for others.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Spawning { doom: None } | State::Starting { .. } | State::Soaking { .. } => Phase::Starting,
            State::Ready => Phase::Ready,
            State::Disconnected { .. } => Phase::Disconnected,
            State::Draining { .. } => Phase::Draining,
            State::Spawning {
                doom: Some(Doom { kill: false, .. }),
            }
            | State::Terminating { .. } => Phase::Terminating,
            State::Spawning {
                doom: Some(Doom { kill: true, .. }),
            }
            | State::Killed { .. } => Phase::Killed,
        }
    }
}
