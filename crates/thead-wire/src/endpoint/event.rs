//! What goes in and out of an endpoint.

use bytes::Bytes;

use super::{UNCLAIMED, UNREAD_ANSWERS};
use crate::frame::FrameError;
use crate::message::{BadMessage, HandleKind};

/// Names a handle that was sent, until its fate is known. Counts from 0 in each endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub(super) u64);

/// A descriptor that came with a message.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivedHandle<H> {
    /// What it is, or a name that no Node has.
    pub kind: Result<HandleKind, String>,
    /// The descriptor.
    pub handle: H,
    /// The giver's socket list, if it counts what it gave away. Its questions are answered by the endpoint: a
    /// `net.Socket` counts from now on until [`Endpoint::socket_closed`](super::Endpoint::socket_closed).
    pub key: Option<String>,
}

/// What an endpoint has to tell its owner.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<H> {
    /// The peer's user sent this, in the channel's serialization. Nobody has checked that it parses.
    Message(Bytes, Option<ReceivedHandle<H>>),
    /// An internal message that is not of the handle protocol, such as `NODE_CLUSTER`; JSON text in either mode.
    Internal(Bytes, Option<ReceivedHandle<H>>),
    /// A thead peer's user sent this, with descriptors of any kind.
    Descriptors(Bytes, Vec<H>),
    /// Of the sockets that this end has given away under this key, the peer says that so many are open. It may say so unasked,
    /// and of any key.
    SocketCount(String, usize),
    /// As [`SocketCount`](Self::SocketCount): none is.
    SocketsClosed(String),
    /// A frame that means nothing; the next one is read.
    Bad(BadMessage),
    /// The peer has this handle. It is given back so that the owner may keep or close it.
    Acked(HandleId, H),
    /// The peer did not get this handle: it said so four times, or the channel ended first.
    Lost(HandleId, H),
    /// As [`Acked`](Self::Acked), for several descriptors.
    DescriptorsAcked(HandleId, Vec<H>),
    /// As [`Lost`](Self::Lost), for several descriptors.
    DescriptorsLost(HandleId, Vec<H>),
    /// The channel has ended; nothing follows. `unsent` bytes were never written.
    Closed {
        /// Bytes that were queued and are lost.
        unsent: usize,
    },
}

/// A mistake of the peer that costs it the channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A frame over the limit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors that no message claims.
    #[error("{0} descriptors came that no message claims; at most {UNCLAIMED} may wait")]
    Unclaimed(usize),
    /// It sends what has to be answered, and does not read the answers.
    #[error("the peer has read none of the last {UNREAD_ANSWERS} answers to what it sent")]
    UnreadAnswers,
}

/// Why a message was not taken for sending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The channel has ended, or is about to. Node: `ERR_IPC_CHANNEL_CLOSED`.
    #[error("channel closed")]
    Closed,
    /// More waits to be written than the queue limit allows: the peer does not read.
    #[error("{queued} bytes wait to be written and the limit is {limit}: the peer does not read")]
    Full {
        /// Bytes that wait.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The message cannot be written in the channel's serialization.
    #[error(transparent)]
    Bad(#[from] BadMessage),
    /// The descriptor is not what it is sent as; some receivers would die of it.
    #[error("{what} cannot be sent as {kind}")]
    Unfit {
        /// What it is.
        what: &'static str,
        /// What it was to be sent as.
        kind: HandleKind,
    },
    /// Several descriptors at once, or other than sockets, are for a peer that is a thead process too, and has said so.
    #[error("the peer is not known to be a thead process: it can be sent one socket at a time")]
    NotThead,
    /// One message has at least one descriptor and at most 64.
    #[error("{0} descriptors: a message can have from 1 to {MAX_DESCRIPTORS}")]
    Descriptors(usize),
}

impl SendError {
    /// The error as Node names it; where Node has no such limit or no such thing, one of the system's.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "ERR_IPC_CHANNEL_CLOSED",
            Self::Full { .. } => "ENOBUFS",
            Self::Bad(_) => "ERR_INVALID_ARG_VALUE",
            Self::Unfit { .. } => "ERR_INVALID_HANDLE_TYPE",
            Self::NotThead => "ENOTSUP",
            Self::Descriptors(_) => "ERR_OUT_OF_RANGE",
        }
    }
}

/// The most descriptors of one message between two thead processes.
pub const MAX_DESCRIPTORS: usize = 64;

/// The next thing to write.
#[derive(Debug)]
pub struct Transmit<'a, H> {
    /// As much of it as the kernel takes.
    pub bytes: &'a [u8],
    /// Go with the first of `bytes`, and never again.
    pub handles: &'a [H],
    /// Write only when the peer has read all that was written before: Deno loses a handle that shares a read.
    pub alone: bool,
}
