//! One end of a channel: order, handles in flight, their acknowledgement, and the end.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{FrameReader, Serialization};
use crate::message::{
    BadMessage, Class, HELLO, HandleKind, HandleMessage, SocketList, classify, is_hello, socket_list, socket_list_text,
    write_answer, write_internal,
};

mod config;
mod event;
mod send;

pub use config::{Config, Dialect};
pub use event::{Event, HandleId, MAX_DESCRIPTORS, ProtocolError, ReceivedHandle, SendError, Transmit};

#[derive(Debug)]
enum Chunk {
    /// Plain frames, one after the other.
    Plain(BytesMut),
    /// The frame of a handle.
    Handle(HandleId, Bytes),
}

#[derive(Debug)]
struct InFlight<H> {
    handles: Handles<H>,
    frame: Bytes,
    sent: u8,
}

impl<H> InFlight<H> {
    fn first(handles: Handles<H>, frame: Bytes) -> Self {
        Self {
            handles,
            frame,
            sent: 1,
        }
    }
}

#[derive(Debug)]
enum Held<H> {
    Plain(BytesMut),
    Handle(HandleId, Bytes, Handles<H>),
}

/// The descriptors of one message.
#[derive(Debug)]
enum Handles<H> {
    One(H),
    Many(Vec<H>),
}

impl<H> Handles<H> {
    fn as_slice(&self) -> &[H] {
        match self {
            Self::One(handle) => std::slice::from_ref(handle),
            Self::Many(handles) => handles,
        }
    }

    fn acked(self, id: HandleId) -> Event<H> {
        match self {
            Self::One(handle) => Event::Acked(id, handle),
            Self::Many(handles) => Event::DescriptorsAcked(id, handles),
        }
    }

    fn lost(self, id: HandleId) -> Event<H> {
        match self {
            Self::One(handle) => Event::Lost(id, handle),
            Self::Many(handles) => Event::DescriptorsLost(id, handles),
        }
    }
}

/// Sockets of one key that the peer gave us.
#[derive(Debug, Default)]
struct Given {
    open: usize,
    /// The peer wants to know when none is.
    notify: bool,
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
/// - A peer that asks how many of its sockets are still open is told. (Differs from Node, which does not answer for a key
///   that it has never seen.)
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
    /// By key, those of which at least one is open.
    given: HashMap<String, Given>,
    /// Whether the peer has said anything.
    heard: bool,
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
/// Descriptors under way to a thead peer, of all messages. The kernel has a limit for each user, and each is open here too.
const DESCRIPTORS_UNDER_WAY: usize = 256;
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
            given: HashMap::new(),
            heard: false,
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
        self.read_frames().inspect_err(|_| self.close())?;
        // Behind the acknowledgement that a disconnect waits for there may be messages: they come before the end.
        self.close_if_done();
        Ok(())
    }

    fn read_frames(&mut self) -> Result<(), ProtocolError> {
        while let Some(body) = self.reader.next_frame()? {
            let first = !std::mem::replace(&mut self.heard, true);
            match classify(self.config.serialization, body) {
                Ok((class, marked)) => {
                    if marked {
                        self.config.dialect = Dialect::Bun;
                    }
                    match class {
                        Class::Internal(body) if first && is_hello(&body) => self.config.dialect = Dialect::Thead,
                        class => self.take(class)?,
                    }
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
            Class::Internal(body) => match socket_list(&body) {
                Some((SocketList::Count(count), key)) => self.events.push_back(Event::SocketCount(key, count)),
                Some((SocketList::AllClosed, key)) => self.events.push_back(Event::SocketsClosed(key)),
                Some((question, key)) => return self.tell_given(question, &key),
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
        let count = message.count.filter(|_| self.config.dialect == Dialect::Thead);
        if self.unclaimed.len() < count.unwrap_or(1).clamp(1, MAX_DESCRIPTORS) {
            return self.answer(|out| write_answer(serialization, false, out));
        }
        self.answer(|out| write_answer(serialization, true, out))?;
        let nested = || Event::Bad(BadMessage::new("a handle message inside a handle message", b""));
        if let Some(count) = count {
            let handles = self.unclaimed.drain(..count.clamp(1, MAX_DESCRIPTORS)).collect();
            self.events.push_back(match *message.inner {
                Class::User(body) => Event::Descriptors(owned(body), handles),
                _ => nested(),
            });
            return Ok(());
        }
        let Some(handle) = self.unclaimed.pop_front() else {
            return Ok(());
        };
        let received = ReceivedHandle {
            kind: message.kind,
            handle,
            key: message.key,
        };
        self.events.push_back(match *message.inner {
            Class::User(body) => {
                if let (Ok(HandleKind::Socket), Some(key)) = (&received.kind, &received.key) {
                    self.given.entry(key.clone()).or_default().open += 1;
                }
                Event::Message(owned(body), Some(received))
            }
            Class::Internal(body) => Event::Internal(owned(body), Some(received)),
            // An acknowledgement or a handle message inside a handle message: nothing that Node sends.
            Class::Ack | Class::Nack | Class::Handle(_) => nested(),
        });
        Ok(())
    }

    fn tell_given(&mut self, question: SocketList, key: &str) -> Result<(), ProtocolError> {
        let answer = match (question, self.given.get_mut(key)) {
            (SocketList::NotifyClose, Some(given)) => {
                given.notify = true;
                return Ok(());
            }
            (SocketList::NotifyClose, None) => SocketList::AllClosed,
            (_, given) => SocketList::Count(given.map_or(0, |given| given.open)),
        };
        let serialization = self.config.serialization;
        let answer = socket_list_text(answer, key);
        self.answer(|out| write_internal(serialization, false, &answer, out))
    }

    /// A `net.Socket` that came with this key is closed. A peer that waits for the last of them is told.
    pub fn socket_closed(&mut self, key: &str) {
        let Some(given) = self.given.get_mut(key) else { return };
        given.open -= 1;
        if given.open > 0 {
            return;
        }
        let notify = given.notify;
        self.given.remove(key);
        if notify && self.state != State::Closed {
            let answer = socket_list_text(SocketList::AllClosed, key);
            let serialization = self.config.serialization;
            self.append(|out| write_internal(serialization, false, &answer, out));
        }
    }

    /// Says to a parent that is a thead process that this end is one too. To be sent before all else.
    pub fn greet(&mut self) {
        self.config.dialect = Dialect::Thead;
        let serialization = self.config.serialization;
        self.append(|out| write_internal(serialization, false, HELLO, out));
    }

    /// Whether the peer is a thead process, which takes several descriptors with a message; `None` as long as that may
    /// still turn out.
    pub fn is_thead(&self) -> Option<bool> {
        match self.config.dialect {
            Dialect::Thead => Some(true),
            Dialect::Careful if !self.heard && self.state == State::Open => None,
            _ => Some(false),
        }
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
            self.events.push_back(sent.handles.acked(id));
            self.release_held();
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
            self.events.push_back(sent.handles.lost(id));
        } else {
            sent.sent += 1;
            self.queued += sent.frame.len();
            self.append_handle(id, sent);
        }
        self.release_held();
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
        while let Some(held) = self.held.front() {
            let descriptors = match held {
                Held::Plain(_) => 0,
                Held::Handle(_, _, handles) => handles.as_slice().len(),
            };
            if !self.may_send(descriptors) {
                return;
            }
            match self.held.pop_front() {
                None => return,
                Some(Held::Plain(frame)) => {
                    self.queued -= frame.len();
                    self.append(|out| out.extend_from_slice(&frame));
                }
                Some(Held::Handle(id, frame, handles)) => {
                    self.append_handle(id, InFlight::first(handles, frame));
                }
            }
        }
    }

    /// Whether the window has room for a message with so many descriptors.
    fn may_send(&self, descriptors: usize) -> bool {
        let dialect = self.config.dialect;
        match dialect {
            Dialect::Pipelined | Dialect::Thead if descriptors == 0 => true,
            Dialect::Thead if descriptors > 1 && !self.in_flight.is_empty() => {
                let under_way = self.in_flight.iter().map(|(_, sent)| sent.handles.as_slice().len());
                under_way.sum::<usize>() + descriptors <= DESCRIPTORS_UNDER_WAY
            }
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
            self.events.push_back(sent.handles.lost(id));
        }
        for held in self.held.drain(..) {
            if let Held::Handle(id, _, handles) = held {
                self.events.push_back(handles.lost(id));
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
                handles: &[],
                alone: false,
            },
            Chunk::Handle(id, frame) => Transmit {
                bytes: &frame[self.written..],
                handles: self
                    .in_flight
                    .iter()
                    .find(|(sent, _)| sent == id && !begun)
                    .map_or(&[], |(_, sent)| sent.handles.as_slice()),
                alone: !begun && self.config.dialect.is_alone(),
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
