//! What an operator can ask for, and how it is answered.

use std::fmt;

use super::{Config, ConfigError, Failure, GiveUp};
use crate::id::WorkerId;
use crate::worker::Slot;

/// What an operator can ask for.
///
/// One change at a time: what replaces workers waits until the change before it is over, and a number of instances until
/// the change under way can no longer be refused. Of two that wait for the same, the newer takes the place of the older. A
/// stop waits for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Spawn all instances. Done when all are ready.
    Start,
    /// Replace all workers by a new generation, new before old. Done when nobody of an older one is left.
    Reload,
    /// Let all workers leave, and start a new generation when the last of them is gone: a gap. Done when all are ready.
    Restart,
    /// As [`Order::Restart`], for the worker in one slot; the next is of the last good generation.
    RestartWorker(Slot),
    /// Replace the worker in one slot by another of the last good generation, new before old. Done when the old one is gone;
    /// at once if it has been replaced meanwhile.
    Renew(Slot),
    /// Have this many instances, 1 to [`MAX_INSTANCES`](super::MAX_INSTANCES). Done when those that are new are ready and
    /// those that are not wanted are gone.
    Scale(usize),
    /// Be run differently from now on; the number of instances as by [`Order::Scale`], all else at once. Spans that have
    /// begun keep their ends, and `seed` its first value.
    Configure(Box<Config>),
    /// Drain and leave.
    Stop,
    /// Kill everything now: the second signal of an impatient operator.
    StopNow,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It was begun, and came to nothing.
    Aborted(AbortCause),
    /// It waited, and a newer one took its place.
    Superseded,
    /// It was not begun.
    Refused(Refusal),
}

/// Why a change came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// A worker that the change had brought failed.
    Failed {
        /// Which.
        worker: WorkerId,
        /// What it did.
        failure: Failure,
    },
    /// Nobody tries to start the worker in a slot any more.
    GivenUp {
        /// Where.
        slot: Slot,
        /// Why.
        reason: GiveUp,
    },
    /// The service stops.
    Stopping,
}

/// Why an order was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The service runs already.
    AlreadyStarted,
    /// The service was not started.
    NotStarted,
    /// The service is stopping or has ended.
    Stopping,
    /// Not from 1 to [`MAX_INSTANCES`](super::MAX_INSTANCES).
    OutOfRange,
    /// There are fewer slots.
    NoSuchSlot,
    /// A setting is out of its range.
    Invalid(ConfigError),
    /// Too many orders wait for the end of the service.
    TooMany,
}

impl fmt::Display for AbortCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { worker, failure } => write!(f, "the new worker {worker} {failure}"),
            Self::GivenUp { slot, reason } => write!(f, "slot {slot} is given up: {reason}"),
            Self::Stopping => f.write_str("the service stops"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str("it runs already"),
            Self::NotStarted => f.write_str("it was not started"),
            Self::Stopping => f.write_str("it is stopping"),
            Self::OutOfRange => f.write_str("instances must be from 1 to 1024"),
            Self::NoSuchSlot => f.write_str("it has no such worker"),
            Self::Invalid(error) => error.fmt(f),
            Self::TooMany => f.write_str("too many wait for its end already"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Reload => f.write_str("reload"),
            Self::Restart => f.write_str("restart"),
            Self::RestartWorker(slot) => write!(f, "restart of slot {slot}"),
            Self::Renew(slot) => write!(f, "renewal of slot {slot}"),
            Self::Scale(instances) => write!(f, "scale to {instances}"),
            Self::Configure(_) => f.write_str("change of settings"),
            Self::Stop => f.write_str("stop"),
            Self::StopNow => f.write_str("stop at once"),
        }
    }
}
