//! The channel between a parent and a child: messages and handles, both ways.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thead_wire::endpoint::{Endpoint, HandleId, ProtocolError};
use thead_wire::message::BadMessage;
use thead_wire::{HandleKind, Serialization, json, v8};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use thead_wire::endpoint::{MAX_DESCRIPTORS, ReceivedHandle, SendError};

mod handle;
mod port;
mod socket_list;
mod stream;

pub use handle::Handle;
pub(crate) use port::Port;
use socket_list::Takers;
pub use socket_list::{SocketList, SocketListError};
pub use stream::Stream;

/// A message of the peer's, as it came. Nothing is parsed before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    body: Bytes,
    serialization: Serialization,
}

impl Message {
    pub(crate) fn new(body: Bytes, serialization: Serialization) -> Self {
        Self { body, serialization }
    }

    /// The bytes: JSON text, or a V8 value (without its length).
    pub fn raw(&self) -> &Bytes {
        &self.body
    }

    /// How [`raw`](Self::raw) is written.
    pub fn serialization(&self) -> Serialization {
        self.serialization
    }

    /// Reads it into a type.
    ///
    /// How `advanced` is read stands at [`v8::from_slice`]; [`v8::js`] has types for what JSON cannot say. A JSON tree
    /// of it, as `JSON.stringify` would make, is `message.value()?.to_json()`.
    ///
    /// # Errors
    /// The text is not JSON, the bytes are no value, or it is not of this shape. The channel is as before.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, BadMessage> {
        match self.serialization {
            Serialization::Json => json::parse(&self.body),
            Serialization::Advanced => {
                v8::from_slice(&self.body, &v8::Limits::default()).map_err(|error| BadMessage::new(error, &self.body))
            }
        }
    }

    /// As [`parse`](Self::parse), but what no Rust string can hold (lone surrogates, bytes that are not UTF-8) becomes
    /// U+FFFD.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn lossy<T: DeserializeOwned>(&self) -> Result<T, BadMessage> {
        match self.serialization {
            Serialization::Json => json::parse_lossy(&self.body),
            Serialization::Advanced => v8::from_slice_lossy(&self.body, &v8::Limits::default())
                .map_err(|error| BadMessage::new(error, &self.body)),
        }
    }

    /// The value with all its JavaScript types.
    ///
    /// # Errors
    /// The bytes are no value.
    pub fn value(&self) -> Result<v8::Document, BadMessage> {
        match self.serialization {
            Serialization::Json => self.lossy().map(|value| v8::Document::from_json(&value)),
            Serialization::Advanced => {
                v8::read(&self.body, &v8::Limits::default()).map_err(|error| BadMessage::new(error, &self.body))
            }
        }
    }
}

/// A message as its bytes.
pub(crate) fn encode<T: Serialize + ?Sized>(serialization: Serialization, message: &T) -> Result<Bytes, BadMessage> {
    match serialization {
        Serialization::Json => serde_json::to_vec(message)
            .map(Bytes::from)
            .map_err(|error| BadMessage::new(error, b"")),
        Serialization::Advanced => v8::to_vec(message)
            .map(Bytes::from)
            .map_err(|error| BadMessage::new(error, b"")),
    }
}

/// The sending half of a channel. Cheap to clone; every clone sends on the same channel, in the order of the calls.
///
/// Dropping it does nothing: the channel ends by [`disconnect`](Self::disconnect) or with the peer.
#[derive(Clone, Debug)]
pub struct Channel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Mutex<Endpoint<Handle>>,
    /// Why this side ended the channel, if it did.
    fault: Mutex<Option<Fault>>,
    /// Something waits to be written, or the channel is to be closed.
    wake: Notify,
    /// Something was written.
    room: Notify,
    /// The socket lists of which the peer has got something.
    takers: Takers,
    /// How long the peer may owe something.
    patience: Duration,
}

impl Shared {
    fn endpoint(&self) -> MutexGuard<'_, Endpoint<Handle>> {
        // An endpoint is whole between any two of its calls, so a panic elsewhere has not harmed it.
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the channel, unless it has ended.
    fn end(&self, fault: Option<Fault>) {
        let mut endpoint = self.endpoint();
        if !endpoint.is_closed() {
            *self.fault() = fault;
            endpoint.end();
        }
    }
}

/// How long a handle may stay unacknowledged, and a channel that is to end unread, before it is given up. Long, for a peer
/// may be stopped in a debugger or swapped out; one that dies is noticed at once by other means.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// From this many waiting bytes on, [`Channel::post_message`] waits; as in Node, whose `send()` then returns false.
pub const HIGH_WATER: usize = 128 << 10;

impl Channel {
    /// Sends a message, in `advanced` as [`v8::to_vec`] writes it. Waits while more than [`HIGH_WATER`] bytes wait before it.
    ///
    /// Done means handed over to the kernel's care or queued for it, not received.
    ///
    /// Not in the loop that takes the peer's messages, if the peer answers each: when both ends wait for room, neither reads.
    /// There [`send`](Self::send) belongs, or a task of its own.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the channel has ended or ends while this waits; [`SendError::Bad`] if the message
    /// cannot be written.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing.
    pub async fn post_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        let body = encode(self.serialization(), message)?;
        self.room(has_room).await;
        self.send_raw(&body)
    }

    /// Sends a message now, or not at all.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), and [`SendError::Full`] if the queue limit is reached.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        let body = encode(self.serialization(), message)?;
        self.send_raw(&body)
    }

    /// Sends a message that is already in the channel's serialization, without its frame.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_raw(&self, body: &[u8]) -> Result<(), SendError> {
        self.woken(|endpoint| endpoint.send(body))
    }

    /// Sends a message with a handle, which is made non-blocking: Node takes it for granted, and whoever shares it (a clone
    /// of the handle, the receiver) has the same mode.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`SendError::Unfit`] for a descriptor of another kind; with the handle back.
    pub fn send_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        kind: HandleKind,
        handle: Handle,
    ) -> Result<HandleId, (SendError, Handle)> {
        let body = match encode(self.serialization(), message) {
            Ok(body) => body,
            Err(bad) => return Err((bad.into(), handle)),
        };
        if let Err(what) = handle.prepare(kind) {
            return Err((SendError::Unfit { what, kind }, handle));
        }
        let dgram_type = (kind == HandleKind::DgramSocket).then(|| handle.dgram_type());
        let list = handle.list.as_ref().filter(|_| kind == HandleKind::Socket);
        let sent = self.woken(|endpoint| match list {
            Some(list) => endpoint.send_counted(&body, list.key(), handle.bare()),
            None => endpoint.send_handle(&body, kind, dgram_type, handle.bare()),
        });
        match sent {
            Ok(id) => {
                if let Some(list) = list {
                    list.given_to(&self.shared);
                }
                // What is given away is not counted as ours any more, which takes the endpoint's lock to say.
                drop(handle);
                Ok(id)
            }
            Err((error, _)) => Err((error, handle)),
        }
    }

    /// As [`send_handle`](Self::send_handle), but waits while more than [`HIGH_WATER`] bytes wait before it.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), with the handle back.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing; the handle is dropped with it.
    pub async fn post_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        kind: HandleKind,
        handle: Handle,
    ) -> Result<HandleId, (SendError, Handle)> {
        self.room(has_room).await;
        self.send_handle(message, kind, handle)
    }

    /// Sends a message with up to [`MAX_DESCRIPTORS`] descriptors of any kind, files, pipes and memory too, to a peer that
    /// is a thead process. They come as one event.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`SendError::NotThead`], [`SendError::Descriptors`]; with the descriptors back.
    pub fn send_descriptors<T: Serialize + ?Sized>(
        &self,
        message: &T,
        descriptors: Vec<Handle>,
    ) -> Result<HandleId, (SendError, Vec<Handle>)> {
        let body = match encode(self.serialization(), message) {
            Ok(body) => body,
            Err(bad) => return Err((bad.into(), descriptors)),
        };
        let bare = descriptors.iter().map(Handle::bare).collect();
        match self.woken(|endpoint| endpoint.send_descriptors(&body, bare)) {
            Ok(id) => Ok(id),
            Err((error, _)) => Err((error, descriptors)),
        }
    }

    /// As [`send_descriptors`](Self::send_descriptors), of a message that is already in the channel's serialization.
    pub(crate) fn send_raw_descriptors(&self, body: &[u8], descriptors: Vec<Handle>) -> Result<(), SendError> {
        let sent = self.woken(|endpoint| endpoint.send_descriptors(body, descriptors));
        sent.map(drop).map_err(|(error, _)| error)
    }

    /// Whether the peer is a thead process, once it is known.
    pub(crate) fn is_thead(&self) -> Option<bool> {
        self.shared.endpoint().is_thead()
    }

    /// As [`send_descriptors`](Self::send_descriptors), but waits while more than [`HIGH_WATER`] bytes wait before it, and
    /// until it is known whether a child is a thead process: that is the first that it says, if it is.
    ///
    /// # Errors
    /// As [`send_descriptors`](Self::send_descriptors).
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing; the descriptors are dropped with it.
    pub async fn post_descriptors<T: Serialize + ?Sized>(
        &self,
        message: &T,
        descriptors: Vec<Handle>,
    ) -> Result<HandleId, (SendError, Vec<Handle>)> {
        self.room(|endpoint| endpoint.is_thead().is_some() && has_room(endpoint))
            .await;
        self.send_descriptors(message, descriptors)
    }

    /// Says to a parent that this is a thead process as it is itself.
    pub(crate) fn greet(&self) {
        self.woken(Endpoint::greet);
    }

    /// Sends a message of the runtime's own, given as JSON text whose `cmd` begins with `NODE_`.
    pub(crate) fn send_internal(&self, json: &[u8]) -> Result<(), SendError> {
        self.woken(|endpoint| endpoint.send_internal(json))
    }

    /// As [`send_internal`](Self::send_internal), with a handle.
    pub(crate) fn send_internal_handle(
        &self,
        json: &[u8],
        kind: HandleKind,
        handle: Handle,
    ) -> Result<HandleId, (SendError, Handle)> {
        self.woken(|endpoint| endpoint.send_internal_handle(json, kind, handle))
    }

    /// Ends the channel, after all that was sent has been written and every handle is acknowledged. The peer sees the
    /// end of the file; a Node child gets `'disconnect'`. A peer that reads nothing for 120 s loses the rest.
    pub fn disconnect(&self) {
        self.woken(Endpoint::disconnect);
    }

    /// Ends the channel now, for what the peer did if there is a fault; what waits is lost.
    pub(crate) fn abort(&self, fault: Option<Fault>) {
        self.shared.end(fault);
        self.shared.wake.notify_one();
    }

    /// Takes back those handles that are `wanted` and that the peer has not read, given the bytes that were taken out of
    /// its socket; `None` if the bytes are not whole frames.
    pub(crate) fn take_back(&self, bytes: &[u8], wanted: impl Fn(&Handle) -> bool) -> Option<Vec<Handle>> {
        let taken = self.woken(|endpoint| endpoint.take_back(bytes, wanted)).ok()?;
        Some(taken.into_iter().map(|(_, handle)| handle).collect())
    }

    /// Whether messages can be sent. Node: `connected`.
    pub fn is_connected(&self) -> bool {
        self.shared.endpoint().is_open()
    }

    /// How messages are written on this channel.
    pub fn serialization(&self) -> Serialization {
        self.shared.endpoint().serialization()
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.shared.endpoint().queued()
    }

    fn woken<R>(&self, change: impl FnOnce(&mut Endpoint<Handle>) -> R) -> R {
        let result = change(&mut self.shared.endpoint());
        self.shared.wake.notify_one();
        result
    }

    /// Waits until all that was sent is written, or the channel has ended. A program that ends without loses the rest.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn flush(&self) {
        self.room(|endpoint| endpoint.queued() == 0 || endpoint.is_closed())
            .await;
    }

    async fn room(&self, is_room: impl Fn(&Endpoint<Handle>) -> bool) {
        loop {
            let room = self.shared.room.notified();
            if is_room(&self.shared.endpoint()) {
                return;
            }
            room.await;
        }
    }
}

fn has_room(endpoint: &Endpoint<Handle>) -> bool {
    endpoint.queued() < HIGH_WATER || !endpoint.is_open()
}

/// Why a channel was ended by this side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The peer broke a rule of the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer did not acknowledge a handle in time.
    #[error("a handle was not acknowledged within {0:?}: the peer does not run, or does not speak the handle protocol")]
    NoAck(Duration),
    /// A worker did not say in time whether it takes a connection that was offered to it.
    #[error("an offered connection was neither taken nor refused within {0:?}")]
    NoAnswer(Duration),
    /// The peer does not read what it is sent.
    #[error("the peer does not read: {queued} bytes wait for it")]
    Unread {
        /// How many bytes wait.
        queued: usize,
    },
    /// Descriptors were dropped by the kernel: this process is at its limit.
    #[error("descriptors were lost on arrival: this process has none left (raise the open-files limit)")]
    Truncated,
}

pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
