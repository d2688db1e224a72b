//! What is told of a service.

use thead_core::cluster::ListenAddress;
use thead_core::id::WorkerId;
use thead_core::service::{Event, Outcome};
use thead_wire::endpoint::ReceivedHandle;
use thead_wire::message::BadMessage;
use thead_wire::notify::Notice;

use crate::channel::{Fault, Handle, Message};

/// Something that happened in a service.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// To a worker or to the service as a whole.
    Life(Event),
    /// A Node worker's runtime is up.
    Online {
        /// Who.
        worker: WorkerId,
    },
    /// A worker listens.
    Listening {
        /// Who.
        worker: WorkerId,
        /// On what.
        address: ListenAddress,
    },
    /// A worker could not listen.
    ListenFailed {
        /// Who.
        worker: WorkerId,
        /// What it asked for.
        address: ListenAddress,
        /// The negative errno.
        errno: i32,
    },
    /// A worker's program sent a message.
    Message {
        /// Who.
        worker: WorkerId,
        /// What.
        message: Message,
        /// The handle that came with it.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// A worker sent something that is no message.
    BadMessage {
        /// Who.
        worker: WorkerId,
        /// What is wrong with it.
        error: BadMessage,
    },
    /// A worker broke the protocol and has lost its channel; it will be ended.
    Fault {
        /// Who.
        worker: WorkerId,
        /// What it did.
        fault: Fault,
    },
    /// A worker's program says something of itself over `NOTIFY_SOCKET`: that it reloads or stops, how it is, which process of
    /// it matters. [`Notice::StoreDescriptors`] is refused: nothing is kept.
    Notice {
        /// Who.
        worker: WorkerId,
        /// What.
        notice: Notice,
    },
    /// A probe of a worker has failed, for another reason than the one before it. What follows is up to
    /// [`Settings::watch`](super::Settings::watch).
    ProbeFailed {
        /// Who.
        worker: WorkerId,
        /// What was wrong.
        reason: String,
    },
    /// A worker uses more memory than it may, and is replaced as at a reload. Only where the kernel does not hold it.
    OverMemory {
        /// Who.
        worker: WorkerId,
        /// Resident memory of the worker and of what it has started, in bytes.
        resident: u64,
        /// What it may use.
        limit: u64,
    },
    /// A limit has changed that cannot be changed for a worker that runs. It holds for those that are started from now on.
    LimitKept {
        /// Who keeps what it had.
        worker: WorkerId,
        /// Of what: `open files`, `processes`, `core files`, `priority` or `memory`.
        limit: &'static str,
        /// Why.
        reason: String,
    },
    /// What a stuck Node worker was doing, before it is ended.
    Stack {
        /// Who.
        worker: WorkerId,
        /// `function (file:line:column)`, innermost first.
        frames: Vec<String>,
    },
    /// To pushed data.
    Data(crate::data::Event),
    /// It is over. Nothing follows.
    Finished(Outcome),
}
