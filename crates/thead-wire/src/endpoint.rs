//! One end of a channel: order, handles in flight, their acknowledgement, and the end.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{DEFAULT_FRAME_LIMIT, FrameError, FrameReader, Serialization, write_frame};
use crate::message::{
    BadMessage, Class, HandleBody, HandleEnvelope, HandleKind, HandleMessage, answer_of_socket_list, classify,
    handle_frame, write_answer, write_internal,
};

/// What is known of the peer's way with handles. Guessing wrong in the careful direction costs speed, never a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Unknown: one handle in flight, and nothing after it until it is acknowledged. What Node itself does.
    #[default]
    Careful,
    /// A thead process, or Node 18 to 26: these take many handles, and messages between them, without waiting.
    Pipelined,
    /// Deno: careful, and a handle must not share a read with an earlier message.
    Deno,
    /// Bun: careful, and the messages of its cluster begin with a mark.
    Bun,
}

impl Dialect {
    /// How many handles may be unacknowledged.
    const fn window(self) -> usize {
        match self {
            Self::Pipelined => 64,
            Self::Careful | Self::Deno | Self::Bun => 1,
        }
    }
}

/// What an end of a channel is told about itself.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How messages are written, both ways.
    pub serialization: Serialization,
    /// Who is at the other end. A mark of Bun's switches to [`Dialect::Bun`] by itself.
    pub dialect: Dialect,
    /// The largest frame accepted, in bytes. Default 16 MiB. A larger one ends the channel.
    pub frame_limit: usize,
    /// The most that may wait to be written, in bytes. Default 64 MiB. A message that does not fit is refused, unless
    /// nothing waits.
    pub queue_limit: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serialization: Serialization::default(),
            dialect: Dialect::default(),
            frame_limit: DEFAULT_FRAME_LIMIT,
            queue_limit: 64 << 20,
        }
    }
}

/// Names a handle that was sent, until its fate is known. Counts from 0 in each endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(u64);

/// A descriptor that came with a message.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivedHandle<H> {
    /// What it is, or a name that no Node has.
    pub kind: Result<HandleKind, String>,
    /// The descriptor.
    pub handle: H,
    /// The giver's socket list, if it counts what it gave away. Its questions are answered here, and always with none: a
    /// socket is the taker's from when it has it.
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
    /// A frame that means nothing; the next one is read.
    Bad(BadMessage),
    /// The peer has this handle. It is given back so that the owner may keep or close it.
    Acked(HandleId, H),
    /// The peer did not get this handle: it said so four times, or the channel ended first.
    Lost(HandleId, H),
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
}

impl SendError {
    /// The error as Node names it; `ENOBUFS`, which Node has no limit for, if too much waits.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "ERR_IPC_CHANNEL_CLOSED",
            Self::Full { .. } => "ENOBUFS",
            Self::Bad(_) => "ERR_INVALID_ARG_VALUE",
        }
    }
}

/// The next thing to write.
#[derive(Debug)]
pub struct Transmit<'a, H> {
    /// As much of it as the kernel takes.
    pub bytes: &'a [u8],
    /// Goes with the first of `bytes`, and never again.
    pub handle: Option<&'a H>,
    /// Write only when the peer has read all that was written before (Deno).
    pub alone: bool,
}

#[derive(Debug)]
enum Chunk {
    /// Plain frames, one after the other.
    Plain(BytesMut),
    /// The frame of a handle.
    Handle(HandleId, Bytes),
}

#[derive(Debug)]
struct InFlight<H> {
    handle: H,
    frame: Bytes,
    sent: u8,
}

#[derive(Debug)]
enum Held<H> {
    Plain(BytesMut),
    Handle(HandleId, Bytes, H),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// `disconnect` was called: closes when nothing is left to write or to be acknowledged.
    Closing,
    Closed,
}

/// One end of a channel, without the socket.
///
/// Bytes and descriptors that were read go into [`receive`](Self::receive), what they mean comes out of
/// [`poll_event`](Self::poll_event); messages go into the `send` family, what to write comes out of
/// [`poll_transmit`](Self::poll_transmit). `H` is a descriptor.
///
/// - Messages arrive in the order in which they were sent.
/// - A handle stays here until the peer has acknowledged it. After a NACK the same bytes are sent again, at most three
///   times. (Differs from Node: its repetition wraps the message once more, and two acknowledgements of that kill it.)
/// - An acknowledgement that nothing waits for is ignored. (Differs from Node, which dies of it.)
/// - Descriptors that arrive wait in order; each handle message takes the oldest.
/// - A peer that asks how many of its sockets are still open is told at once that none is, so that its `server.close()`
///   ends. (Differs from Node, which counts them.)
#[derive(Debug)]
pub struct Endpoint<H> {
    config: Config,
    state: State,
    reader: FrameReader,
    unclaimed: VecDeque<H>,
    events: VecDeque<Event<H>>,
    out: VecDeque<Chunk>,
    /// How much of the first chunk is written.
    written: usize,
    /// Bytes in `out` and `held`.
    queued: usize,
    /// Bytes that ever were in `out`, and that ever left it.
    appended: u64,
    sent: u64,
    /// Where in `out`, counted like `appended`, the answers end that are not yet written; oldest first.
    answers: VecDeque<u64>,
    /// Wait for room in the window, in order.
    held: VecDeque<Held<H>>,
    /// Written or about to be, oldest first: acknowledgements come in this order.
    in_flight: VecDeque<(HandleId, InFlight<H>)>,
    next_handle: u64,
}

/// A frame without what marks its ends.
fn body_of(serialization: Serialization, frame: &[u8]) -> &[u8] {
    match serialization {
        Serialization::Json => frame.strip_suffix(b"\n").unwrap_or(frame),
        Serialization::Advanced => frame.get(4..).unwrap_or_default(),
    }
}

fn owned(body: Bytes) -> Bytes {
    if body.len() <= OWNED {
        Bytes::copy_from_slice(&body)
    } else {
        body
    }
}

/// Descriptors that may wait for their message. Node, Bun and Deno never have more than a few.
const UNCLAIMED: usize = 64;
/// Answers that may wait to be written. A peer has at most 64 handles under way.
const UNREAD_ANSWERS: usize = 256;
/// Plain frames are joined up to this size, in bytes.
const JOINED: usize = 64 << 10;
/// Messages up to this size, in bytes, get memory of their own. As parts of what was read, each would keep all of that.
const OWNED: usize = 256 << 10;
/// An idle endpoint keeps room for this many events.
const RETAINED_EVENTS: usize = 256;
/// One transmission and three repetitions, as in Node.
const TRANSMISSIONS: u8 = 4;

impl<H> Endpoint<H> {
    /// An end of an open channel.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Open,
            reader: FrameReader::new(config.serialization, config.frame_limit),
            unclaimed: VecDeque::new(),
            events: VecDeque::new(),
            out: VecDeque::new(),
            written: 0,
            queued: 0,
            appended: 0,
            sent: 0,
            answers: VecDeque::new(),
            held: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_handle: 0,
        }
    }

    /// How messages are written on this channel.
    pub fn serialization(&self) -> Serialization {
        self.config.serialization
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.queued - self.written
    }

    /// The handle that has waited longest for its acknowledgement, of those that are written.
    pub fn oldest_in_flight(&self) -> Option<HandleId> {
        let (id, _) = self.in_flight.front()?;
        (!self.front_is_unwritten()).then_some(*id)
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the channel has ended. What happened before may still wait in [`poll_event`](Self::poll_event).
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Takes what one read returned: its bytes and the descriptors that came with them.
    ///
    /// # Errors
    /// [`ProtocolError`]: the peer broke a rule that leaves no way to go on. The channel has ended; the rest is told by
    /// [`poll_event`](Self::poll_event).
    pub fn receive(&mut self, bytes: &[u8], handles: impl IntoIterator<Item = H>) -> Result<(), ProtocolError> {
        if self.state == State::Closed {
            return Ok(());
        }
        self.unclaimed.extend(handles);
        self.reader.push(bytes);
        self.read_frames().inspect_err(|_| self.close())
    }

    fn read_frames(&mut self) -> Result<(), ProtocolError> {
        while let Some(body) = self.reader.next_frame()? {
            match classify(self.config.serialization, body) {
                Ok((class, marked)) => {
                    if marked {
                        self.config.dialect = Dialect::Bun;
                    }
                    self.take(class)?;
                }
                Err(bad) => self.events.push_back(Event::Bad(bad)),
            }
        }
        match self.unclaimed.len() {
            0..=UNCLAIMED => Ok(()),
            many => Err(ProtocolError::Unclaimed(many)),
        }
    }

    fn take(&mut self, class: Class) -> Result<(), ProtocolError> {
        match class {
            Class::User(body) => self.events.push_back(Event::Message(owned(body), None)),
            Class::Internal(body) => match answer_of_socket_list(&body) {
                Some(answer) => {
                    let serialization = self.config.serialization;
                    return self.answer(|out| write_internal(serialization, false, &answer, out));
                }
                None => self.events.push_back(Event::Internal(owned(body), None)),
            },
            Class::Ack => self.acknowledged(),
            Class::Nack => self.refused(),
            Class::Handle(message) => return self.take_handle(message),
        }
        Ok(())
    }

    fn take_handle(&mut self, message: HandleMessage) -> Result<(), ProtocolError> {
        let serialization = self.config.serialization;
        let Some(handle) = self.unclaimed.pop_front() else {
            return self.answer(|out| write_answer(serialization, false, out));
        };
        self.answer(|out| write_answer(serialization, true, out))?;
        let received = ReceivedHandle {
            kind: message.kind,
            handle,
            key: message.key,
        };
        self.events.push_back(match *message.inner {
            Class::User(body) => Event::Message(owned(body), Some(received)),
            Class::Internal(body) => Event::Internal(owned(body), Some(received)),
            // An acknowledgement or a handle message inside a handle message: nothing that Node sends.
            Class::Ack | Class::Nack | Class::Handle(_) => {
                Event::Bad(BadMessage::new("a handle message inside a handle message", b""))
            }
        });
        Ok(())
    }

    /// ACK and NACK pass by whatever waits, so that two ends that send each other handles do not stop each other.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), ProtocolError> {
        if self.answers.len() >= UNREAD_ANSWERS {
            return Err(ProtocolError::UnreadAnswers);
        }
        self.append(write);
        self.answers.push_back(self.appended);
        Ok(())
    }

    fn acknowledged(&mut self) {
        // Only what has begun to be written can be acknowledged.
        if self.front_is_unwritten() {
            return;
        }
        if let Some((id, sent)) = self.in_flight.pop_front() {
            self.events.push_back(Event::Acked(id, sent.handle));
            self.release_held();
            self.close_if_done();
        }
    }

    fn refused(&mut self) {
        if self.front_is_unwritten() {
            return;
        }
        let Some((id, mut sent)) = self.in_flight.pop_front() else {
            return;
        };
        if sent.sent >= TRANSMISSIONS {
            self.events.push_back(Event::Lost(id, sent.handle));
        } else {
            sent.sent += 1;
            self.queued += sent.frame.len();
            self.append_handle(id, sent);
        }
        self.release_held();
        self.close_if_done();
    }

    fn front_is_unwritten(&self) -> bool {
        let Some((id, _)) = self.in_flight.front() else {
            return true;
        };
        self.out
            .iter()
            .any(|chunk| matches!(chunk, Chunk::Handle(waiting, _) if waiting == id))
    }

    fn release_held(&mut self) {
        while self.may_send(matches!(self.held.front(), Some(Held::Handle(..)))) {
            match self.held.pop_front() {
                None => return,
                Some(Held::Plain(frame)) => {
                    self.queued -= frame.len();
                    self.append(|out| out.extend_from_slice(&frame));
                }
                Some(Held::Handle(id, frame, handle)) => {
                    self.append_handle(id, InFlight { handle, frame, sent: 1 });
                }
            }
        }
    }

    /// Whether the window has room for a handle, or for a plain message.
    fn may_send(&self, handle: bool) -> bool {
        let dialect = self.config.dialect;
        match dialect {
            Dialect::Pipelined if !handle => true,
            _ => self.in_flight.len() < dialect.window(),
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if !matches!(self.out.back(), Some(Chunk::Plain(joined)) if joined.len() < JOINED) {
            self.out.push_back(Chunk::Plain(BytesMut::new()));
        }
        if let Some(Chunk::Plain(joined)) = self.out.back_mut() {
            let before = joined.len();
            write(joined);
            self.queued += joined.len() - before;
            self.appended += (joined.len() - before) as u64;
        }
    }

    /// Its bytes are counted in `queued` already.
    fn append_handle(&mut self, id: HandleId, sent: InFlight<H>) {
        self.appended += sent.frame.len() as u64;
        self.out.push_back(Chunk::Handle(id, sent.frame.clone()));
        self.in_flight.push_back((id, sent));
    }

    /// Undoes the sending of what the peer has not read: `bytes` are what was taken back out of its socket, whole frames.
    ///
    /// Handles among them come back, oldest first, and are forgotten here. Plain messages are sent again.
    ///
    /// # Errors
    /// The bytes do not begin and end with a frame: the peer has read part of one, and its channel has a hole now. End
    /// the channel.
    pub fn take_back(&mut self, bytes: &[u8]) -> Result<Vec<(HandleId, H)>, FrameError> {
        let mut taken = Vec::new();
        let serialization = self.config.serialization;
        let mut reader = FrameReader::new(serialization, usize::MAX);
        reader.push(bytes);
        while let Some(body) = reader.next_frame()? {
            let same = |(_, sent): &(HandleId, InFlight<H>)| body_of(serialization, &sent.frame) == body;
            match self.in_flight.iter().position(same) {
                Some(at) => taken.extend(self.in_flight.remove(at).map(|(id, sent)| (id, sent.handle))),
                None => self.append(|out| write_frame(serialization, &body, out)),
            }
        }
        self.release_held();
        if reader.is_mid_frame() {
            Err(FrameError::Cut)
        } else {
            Ok(taken)
        }
    }

    /// The end of the file, or a read or write that failed: nothing more can come or go.
    pub fn end(&mut self) {
        self.close();
    }

    fn close(&mut self) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        let unsent = self.queued();
        self.unclaimed.clear();
        self.out.clear();
        self.answers.clear();
        for (id, sent) in self.in_flight.drain(..) {
            self.events.push_back(Event::Lost(id, sent.handle));
        }
        for held in self.held.drain(..) {
            if let Held::Handle(id, _, handle) = held {
                self.events.push_back(Event::Lost(id, handle));
            }
        }
        (self.queued, self.written) = (0, 0);
        self.events.push_back(Event::Closed { unsent });
    }

    /// Closes the channel once all that was sent is written and acknowledged. Messages still come in until then.
    ///
    /// Differs from Node, which throws away what the socket has not taken.
    pub fn disconnect(&mut self) {
        if self.state == State::Open {
            self.state = State::Closing;
            self.close_if_done();
        }
    }

    fn close_if_done(&mut self) {
        if self.state == State::Closing && self.queued() == 0 && self.in_flight.is_empty() {
            self.close();
        }
    }

    /// Sends a message of the user's, in the channel's serialization and without frame.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send(&mut self, body: &[u8]) -> Result<(), SendError> {
        let serialization = self.config.serialization;
        self.send_plain(body.len(), |out| write_frame(serialization, body, out))
    }

    /// Sends an internal message, given as JSON text.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send_internal(&mut self, json: &[u8]) -> Result<(), SendError> {
        let serialization = self.config.serialization;
        let marked = self.config.dialect == Dialect::Bun;
        self.send_plain(json.len(), |out| write_internal(serialization, marked, json, out))
    }

    fn send_plain(&mut self, length: usize, write: impl FnOnce(&mut BytesMut)) -> Result<(), SendError> {
        self.admit(length)?;
        if self.held.is_empty() && self.may_send(false) {
            self.append(write);
        } else {
            let mut frame = BytesMut::new();
            write(&mut frame);
            self.queued += frame.len();
            self.held.push_back(Held::Plain(frame));
        }
        Ok(())
    }

    /// Sends a message of the user's with a handle.
    ///
    /// `dgram_type` is `udp4` or `udp6` for [`HandleKind::DgramSocket`].
    ///
    /// # Errors
    /// [`SendError`] and the handle; nothing was sent.
    pub fn send_handle(
        &mut self,
        body: &[u8],
        kind: HandleKind,
        dgram_type: Option<&'static str>,
        handle: H,
    ) -> Result<HandleId, (SendError, H)> {
        self.send_envelope(
            HandleEnvelope {
                kind,
                dgram_type,
                body: HandleBody::User(body),
            },
            handle,
        )
    }

    /// Sends an internal message, given as JSON text, with a handle.
    ///
    /// # Errors
    /// [`SendError`] and the handle; nothing was sent.
    pub fn send_internal_handle(
        &mut self,
        json: &[u8],
        kind: HandleKind,
        handle: H,
    ) -> Result<HandleId, (SendError, H)> {
        self.send_envelope(
            HandleEnvelope {
                kind,
                dgram_type: None,
                body: HandleBody::Internal(json),
            },
            handle,
        )
    }

    fn send_envelope(&mut self, envelope: HandleEnvelope<'_>, handle: H) -> Result<HandleId, (SendError, H)> {
        let (HandleBody::User(body) | HandleBody::Internal(body)) = envelope.body;
        if let Err(error) = self.admit(body.len()) {
            return Err((error, handle));
        }
        let frame = match handle_frame(self.config.serialization, envelope) {
            Ok(frame) => frame,
            Err(bad) => return Err((bad.into(), handle)),
        };
        let id = HandleId(self.next_handle);
        self.next_handle += 1;
        self.queued += frame.len();
        if self.held.is_empty() && self.may_send(true) {
            self.append_handle(id, InFlight { handle, frame, sent: 1 });
        } else {
            self.held.push_back(Held::Handle(id, frame, handle));
        }
        Ok(id)
    }

    fn admit(&self, length: usize) -> Result<(), SendError> {
        let (queued, limit) = (self.queued(), self.config.queue_limit);
        match self.state {
            State::Open if queued == 0 || queued + length <= limit => Ok(()),
            State::Open => Err(SendError::Full { queued, limit }),
            State::Closing | State::Closed => Err(SendError::Closed),
        }
    }

    /// What happened since it was last asked, oldest first.
    pub fn poll_event(&mut self) -> Option<Event<H>> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > RETAINED_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// What to write next, if anything.
    pub fn poll_transmit(&self) -> Option<Transmit<'_, H>> {
        let begun = self.written > 0;
        Some(match self.out.front()? {
            Chunk::Plain(joined) => Transmit {
                bytes: &joined[self.written..],
                handle: None,
                alone: false,
            },
            Chunk::Handle(id, frame) => Transmit {
                bytes: &frame[self.written..],
                handle: self
                    .in_flight
                    .iter()
                    .find(|(sent, _)| sent == id && !begun)
                    .map(|(_, sent)| &sent.handle),
                alone: !begun && self.config.dialect == Dialect::Deno,
            },
        })
    }

    /// The kernel took `n` bytes of what [`poll_transmit`](Self::poll_transmit) gave last.
    pub fn transmitted(&mut self, n: usize) {
        let Some(front) = self.out.front_mut() else { return };
        self.written += n;
        self.sent += n as u64;
        while self.answers.front().is_some_and(|end| *end <= self.sent) {
            self.answers.pop_front();
        }
        match front {
            Chunk::Plain(joined) => {
                // What is written of a chunk that goes on growing must not stay.
                joined.advance(self.written);
                self.queued -= self.written;
                self.written = 0;
                if joined.is_empty() {
                    self.out.pop_front();
                }
            }
            Chunk::Handle(_, frame) if self.written == frame.len() => {
                self.queued -= frame.len();
                self.written = 0;
                self.out.pop_front();
            }
            Chunk::Handle(..) => {}
        }
        self.close_if_done();
    }
}
