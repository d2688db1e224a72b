//! What goes into a [`Service`](super::Service), what comes out, and what people are told.

use std::fmt;
use std::time::Duration;

use super::order::{AbortCause, Answer, Order, Refusal};
use crate::id::{Generation, Ticket, WorkerId};
use crate::worker::{Exit, Slot};

/// Something happened. One about a worker that is not there (any more) is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A [`Action::Spawn`] succeeded. Each spawn is answered once, by this or [`Input::SpawnFailed`].
    Started {
        /// Which.
        worker: WorkerId,
        /// Its process.
        pid: u32,
        /// It was given a channel.
        channel: bool,
    },
    /// A [`Action::Spawn`] did not become a process.
    SpawnFailed {
        /// Which.
        worker: WorkerId,
        /// What the system said.
        reason: String,
    },
    /// It is a Node cluster worker and runs (Node's `online`).
    Online {
        /// Which.
        worker: WorkerId,
    },
    /// It listens on something (Node's `listening`; may repeat).
    Listening {
        /// Which.
        worker: WorkerId,
    },
    /// It says that it is ready: the user message `ready`, `READY=1`, or the driver's probe succeeded.
    SaidReady {
        /// Which.
        worker: WorkerId,
    },
    /// It is starting and needs so much longer from now on. It gets no more than [`EXTENSION`](super::EXTENSION) times its
    /// ready timeout in all.
    ///
    /// Differs from systemd: who leaves gets no more time, for a stop always ends.
    Extend {
        /// Which.
        worker: WorkerId,
        /// So much.
        by: Duration,
    },
    /// Liveness: it is stuck, by heartbeat or probe. It is aborted, killed and replaced.
    Unhealthy {
        /// Which.
        worker: WorkerId,
        /// What was missed.
        reason: String,
    },
    /// It is draining and has nothing left to finish, or nothing that can be drained: it need not be waited for.
    Drained {
        /// Which.
        worker: WorkerId,
    },
    /// Its channel ended while the process lives. A fault, unless it was told to leave.
    Disconnected {
        /// Which.
        worker: WorkerId,
    },
    /// Its process ended.
    Exited {
        /// Which.
        worker: WorkerId,
        /// How.
        status: Exit,
        /// The kernel ended it, for it or its control group had used too much memory.
        oom: bool,
    },
    /// An operator wants something. Answered once, by [`Action::Answer`].
    Order {
        /// What the answer bears.
        ticket: Ticket,
        /// What is wanted.
        order: Order,
    },
}

/// Something for the driver to do. It obeys all of them, in order, and decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process and answer with [`Input::Started`] or [`Input::SpawnFailed`].
    Spawn {
        /// Its name from now on.
        worker: WorkerId,
        /// Its place: `service/slot`.
        slot: Slot,
        /// Which version of command and environment.
        generation: Generation,
        /// It must not get connections until [`Action::Open`]. Otherwise it may as soon as it listens.
        gated: bool,
    },
    /// A gated worker may get connections. Once per gated worker, never for others.
    Open {
        /// Which.
        worker: WorkerId,
    },
    /// It gets nothing new, finishes and leaves.
    ///
    /// How it is asked is the driver's affair: a message, the channel's `disconnect`, or the stop signal where there is no
    /// other way. Where there is nothing to finish, answer with [`Input::Drained`].
    ///
    /// Comes once per worker; a second time, with `successor: false`, only where a stop overtakes a drain.
    Drain {
        /// Which.
        worker: WorkerId,
        /// There are others to give its connections to.
        successor: bool,
    },
    /// It gets nothing new; send the stop signal, SIGTERM if not configured.
    Terminate {
        /// Which.
        worker: WorkerId,
    },
    /// It is stuck and gets nothing new; send SIGABRT, so that it leaves a stack or a core. [`Action::Kill`] follows.
    Abort {
        /// Which.
        worker: WorkerId,
    },
    /// It gets nothing new; send SIGKILL.
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// A generation comes into being. Whoever ordered it may have brought another command; if not it runs that of `base`.
    /// Before any [`Action::Spawn`] of it.
    Begin {
        /// Whose order it is.
        ticket: Ticket,
        /// The new one.
        generation: Generation,
        /// The last good one, to which the service returns if this one is refused.
        base: Generation,
    },
    /// An order is done or will not be. Once per [`Input::Order`], before [`Action::Finish`].
    Answer {
        /// Which.
        ticket: Ticket,
        /// What came of it.
        answer: Answer,
    },
    /// Tell whoever watches.
    Emit(Event),
    /// It is over; the last action. The machine is not used again.
    ///
    /// A process may be left over in two cases, both told by [`Event::Stuck`]: one that SIGKILL did not end, and one whose
    /// spawn was not answered; should that one start after all, [`Action::Kill`] follows even now.
    Finish(Outcome),
}

/// How a service ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was told to.
    Stopped,
    /// It could not be kept running.
    Failed {
        /// Why nobody tries any more.
        reason: GiveUp,
    },
    /// All workers exited by themselves and the policy does not want them back.
    Done,
}

/// What an operator may want to see.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A process runs.
    Spawned {
        /// Which.
        worker: WorkerId,
        /// Where.
        slot: Slot,
        /// Of which version.
        generation: Generation,
        /// Its process.
        pid: u32,
    },
    /// A process could not be started.
    SpawnFailed {
        /// Which.
        worker: WorkerId,
        /// Where.
        slot: Slot,
        /// What the system said.
        reason: String,
    },
    /// It is ready. A gated one soaks now, or is opened.
    Ready {
        /// Which.
        worker: WorkerId,
        /// From start to readiness.
        took: Duration,
    },
    /// It has a channel, never listened, and is taken as ready all the same ([`Ready::Auto`](super::Ready::Auto)).
    NotListening {
        /// Which.
        worker: WorkerId,
        /// How long it was given.
        waited: Duration,
    },
    /// A worker of a new generation gets traffic.
    Opened {
        /// Which.
        worker: WorkerId,
        /// Where.
        slot: Slot,
        /// Whose place it takes.
        replaces: Option<WorkerId>,
    },
    /// A process ended.
    Exited {
        /// Which.
        worker: WorkerId,
        /// Where.
        slot: Slot,
        /// Of which version.
        generation: Generation,
        /// How.
        status: Exit,
        /// It had been told to leave, and not for a fault.
        expected: bool,
        /// What it did wrong, or what was done to it.
        failure: Option<Failure>,
        /// How long it lived.
        uptime: Duration,
    },
    /// Its channel ended and it lives on; it is given a moment to exit.
    Disconnected {
        /// Which.
        worker: WorkerId,
    },
    /// Somebody died and will be replaced.
    RestartScheduled {
        /// Who died.
        worker: WorkerId,
        /// Where.
        slot: Slot,
        /// What happened.
        failure: Failure,
        /// When the replacement is spawned.
        delay: Duration,
        /// Restarts in the current period, with this one.
        restarts: usize,
    },
    /// Somebody exited and the policy does not want it back.
    NotRestarted {
        /// Who exited.
        worker: WorkerId,
        /// Where.
        slot: Slot,
    },
    /// A slot stays empty until an operator reloads, scales or restarts. The other workers serve on.
    GaveUp {
        /// Where.
        slot: Slot,
        /// Why.
        reason: GiveUp,
    },
    /// A new generation is on its way. Answered by exactly one [`Event::ReloadDone`] or [`Event::ReloadAborted`].
    ReloadStarted {
        /// The new one.
        generation: Generation,
    },
    /// The new generation serves in every slot: no way back. The old one may still be draining.
    ReloadServing {
        /// The new one.
        generation: Generation,
        /// Since it was asked for.
        took: Duration,
    },
    /// Nobody of an older generation is left.
    ReloadDone {
        /// The new one.
        generation: Generation,
        /// Since it was asked for.
        took: Duration,
    },
    /// The new generation was refused, or the service stops.
    ReloadAborted {
        /// The refused one.
        generation: Generation,
        /// What was wrong with it.
        cause: AbortCause,
        /// How many ready workers run which generation now.
        running: Vec<(Generation, usize)>,
    },
    /// Another number of instances is wanted now.
    Scaled {
        /// Until now.
        from: usize,
        /// From now on.
        to: usize,
    },
    /// All workers, or the one in this slot, are told to leave, to be started anew when they are gone. Answered by exactly
    /// one [`Event::RestartDone`] or [`Event::RestartAborted`].
    RestartStarted {
        /// Which one, if it is one.
        slot: Option<Slot>,
        /// What will run.
        generation: Generation,
    },
    /// All that were started anew are ready.
    RestartDone {
        /// Which one, if it was one.
        slot: Option<Slot>,
        /// Since it began.
        took: Duration,
    },
    /// One of those that were started anew failed before it was ready, or the service stops. What follows is up to the
    /// restart policy.
    RestartAborted {
        /// Which one, if it was one.
        slot: Option<Slot>,
        /// What was wrong.
        cause: AbortCause,
    },
    /// Another worker of the same generation comes, to take over from this one. Answered by exactly one
    /// [`Event::RenewDone`] or [`Event::RenewAborted`].
    RenewStarted {
        /// Which.
        worker: WorkerId,
        /// Where.
        slot: Slot,
    },
    /// The old one is gone, the other serves.
    RenewDone {
        /// Where.
        slot: Slot,
        /// Since it began.
        took: Duration,
    },
    /// The other failed, or the service stops. The old one serves on.
    RenewAborted {
        /// Where.
        slot: Slot,
        /// What was wrong.
        cause: AbortCause,
    },
    /// An order waits until the change under way has got past its dangerous part.
    Queued {
        /// Which.
        order: Order,
    },
    /// The service is run differently from now on.
    Configured,
    /// An order that cannot be obeyed.
    Refused {
        /// Which.
        order: Order,
        /// Why not.
        reason: Refusal,
    },
    /// It finishes what it has and leaves.
    Draining {
        /// Which.
        worker: WorkerId,
        /// What for.
        why: Why,
    },
    /// It is sent the stop signal (SIGABRT if it was stuck).
    Terminating {
        /// Which.
        worker: WorkerId,
        /// What for.
        why: Why,
    },
    /// It is sent SIGKILL.
    Killing {
        /// Which.
        worker: WorkerId,
        /// What for.
        why: Why,
    },
    /// SIGKILL did not end it in time, or its spawn was not answered: nobody waits for it any more.
    Stuck {
        /// Which.
        worker: WorkerId,
    },
    /// The service is told to stop.
    Stopping,
    /// The service is over for this reason.
    Failed {
        /// Why nobody tries any more.
        reason: GiveUp,
    },
}

/// What a worker did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// It did not become a process.
    Spawn(String),
    /// It exited and nobody had asked for it.
    Exit(Exit),
    /// It was not ready in this time.
    NotReady(Duration),
    /// It did not listen in this time, and its predecessor had.
    NotListening(Duration),
    /// Its channel ended and it did not exit.
    Disconnected,
    /// It was stuck.
    Unhealthy(String),
    /// The kernel ended it for the memory it used.
    OutOfMemory,
}

/// Why nobody tries to start a worker any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The service was never ready, and this many starts in a row failed.
    NeverReady {
        /// How many.
        starts: usize,
        /// What happened last.
        last: Failure,
    },
    /// The restarts of the period are spent.
    TooManyRestarts {
        /// How many there were.
        restarts: usize,
        /// In how long.
        period: Duration,
        /// What happened last.
        last: Failure,
    },
}

/// Why a worker has to go, or to go faster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Another serves in its place, or is about to.
    Replaced,
    /// It is to be started anew.
    Restarted,
    /// Fewer instances are wanted.
    ScaledDown,
    /// The service stops.
    Stopping,
    /// The service stops at once.
    StopNow,
    /// It belongs to a generation that was refused.
    ReloadAborted,
    /// It did wrong.
    Failed(Failure),
    /// It has drained and its process lives on.
    Drained,
    /// It took longer to drain than it may.
    DrainTimeout,
    /// It took longer to stop than it may.
    StopTimeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(reason) => write!(f, "could not be started: {reason}"),
            Self::Exit(status) => status.fmt(f),
            Self::NotReady(after) => write!(f, "was not ready within {after:?}"),
            Self::NotListening(after) => write!(f, "did not listen within {after:?}, its predecessor did"),
            Self::Disconnected => f.write_str("closed its channel and did not exit"),
            Self::Unhealthy(reason) => write!(f, "was stuck: {reason}"),
            Self::OutOfMemory => f.write_str("used more memory than it may and was ended by the kernel"),
        }
    }
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverReady { starts, last } => {
                write!(
                    f,
                    "never ready, {starts} starts failed in a row; the last worker {last}"
                )
            }
            Self::TooManyRestarts { restarts, period, last } => {
                write!(
                    f,
                    "{restarts} restarts within {period:?} are spent; the last worker {last}"
                )
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced => f.write_str("another takes its place"),
            Self::Restarted => f.write_str("it is started anew"),
            Self::ScaledDown => f.write_str("fewer instances are wanted"),
            Self::Stopping => f.write_str("the service stops"),
            Self::StopNow => f.write_str("the service stops at once"),
            Self::ReloadAborted => f.write_str("its generation was refused"),
            Self::Failed(failure) => write!(f, "it {failure}"),
            Self::Drained => f.write_str("it has drained, or a signal is all that it hears"),
            Self::DrainTimeout => f.write_str("it took too long to drain"),
            Self::StopTimeout => f.write_str("it took too long to stop"),
        }
    }
}
