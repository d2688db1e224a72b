//! The life of one worker process.

use std::fmt;

use crate::id::{Generation, WorkerId};

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
    /// Where it is in its life.
    pub phase: Phase,
}
