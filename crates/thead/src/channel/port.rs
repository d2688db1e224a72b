//! The socket of a channel, and the task's side of it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use thead_wire::endpoint::{Config, Endpoint, Event, HandleId};
use thead_wire::{HandleKind, Serialization};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handle::{Counted, Handle};
use super::{Channel, Fault, Shared, Takers, until};
use crate::sys;

/// The socket of a channel and its endpoint: reads, writes, and says what happened. Belongs to one task.
#[derive(Debug)]
pub(crate) struct Port {
    shared: Arc<Shared>,
    serialization: Serialization,
    /// `None` once the channel has ended.
    socket: Option<AsyncFd<Arc<OwnedFd>>>,
    handles: Vec<OwnedFd>,
    /// The socket is full: a second descriptor of it, which is watched for room.
    full: Option<AsyncFd<Arc<OwnedFd>>>,
    /// The last turn ended before all was read.
    more: bool,
    /// Writing is tried again then, though the socket may be writable.
    retry: Option<Instant>,
    /// What the peer owes, and when it is given up.
    owed: Option<(Owed, Instant)>,
}

/// What a peer can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// That it acknowledges this handle.
    Ack(HandleId),
    /// That it reads, so that a channel that is to end can end, or a handle can be written.
    Reading { queued: usize },
}

/// Reads of one turn, before others get theirs. One read brings one descriptor at most of a peer that keeps the protocol.
const READS_PER_TURN: usize = 16;
/// Bytes of one turn: what one read may bring. Thousands of small messages fit in; they take milliseconds.
const BYTES_PER_TURN: usize = 64 << 10;
/// When a peer is looked at again, whether it has read what was written.
const ALONE: Duration = Duration::from_millis(1);
/// When a write is repeated that the kernel had no resources for.
const SHORTAGE: Duration = Duration::from_millis(10);

thread_local! {
    /// What was just read. Nothing stays in it, so all channels of a thread have one: a daemon has hundreds that rarely speak.
    static READ: RefCell<BytesMut> = RefCell::default();
}

impl Port {
    /// Takes the parent's (or the child's) end of a channel. Must be called within a Tokio runtime.
    ///
    /// `patience`: how long a handle may stay unacknowledged, and how long the peer may read nothing when the channel is
    /// to end.
    pub(crate) fn new(socket: OwnedFd, config: Config, patience: Duration) -> io::Result<(Self, Channel)> {
        let shared = Arc::new(Shared {
            endpoint: Mutex::new(Endpoint::new(config)),
            fault: Mutex::new(None),
            wake: Notify::new(),
            room: Notify::new(),
            takers: Takers::default(),
            patience,
        });
        let port = Self {
            shared: shared.clone(),
            serialization: config.serialization,
            // Not for writing: that would wake us each time that the peer has read something.
            socket: Some(sys::reactor::register(Arc::new(socket), Interest::READABLE)?),
            handles: Vec::new(),
            full: None,
            more: false,
            retry: None,
            owed: None,
        };
        Ok((port, Channel { shared }))
    }

    /// The next thing that happened.
    pub(crate) fn poll_event(&self) -> Option<Event<Handle>> {
        let mut event = loop {
            let event = self.shared.endpoint().poll_event();
            match event {
                Some(Event::SocketCount(key, count)) => self.shared.takers.counted(&key, count),
                Some(Event::SocketsClosed(key)) => self.shared.takers.closed(&key),
                other => break other,
            }
        };
        if let Some(Event::Message(_, Some(received))) = &mut event
            && let (Ok(HandleKind::Socket), Some(key)) = (&received.kind, &received.key)
        {
            received.handle.counted = Some(Arc::new(Counted {
                channel: Arc::downgrade(&self.shared),
                key: key.clone(),
            }));
        }
        event
    }

    /// Why this side ended the channel, if it did.
    pub(crate) fn take_fault(&self) -> Option<Fault> {
        self.shared.fault().take()
    }

    /// Whether nothing can come any more. Events may still wait.
    pub(crate) fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel {
            shared: self.shared.clone(),
        }
    }

    pub(crate) fn serialization(&self) -> Serialization {
        self.serialization
    }

    /// Waits until something can be done, and does it: writes what waits, and reads if `may_read`. Afterwards
    /// [`poll_event`](Self::poll_event) has what happened. Never returns once the channel has ended.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(crate) async fn turn(&mut self, may_read: bool) {
        if self.is_closed() {
            return std::future::pending().await;
        }
        if std::mem::take(&mut self.more) {
            // Nothing else here gives way to other tasks while the peer writes without end.
            tokio::task::yield_now().await;
        }
        self.flush();
        let Some(socket) = &self.socket else {
            // It has ended just now, and that is to be told.
            return;
        };
        // Unbiased: a peer that writes without end must neither stop our writing nor the clock.
        tokio::select! {
            ready = socket.readable(), if may_read => match ready {
                Ok(mut guard) => {
                    let (shared, socket) = (&self.shared, guard.get_inner());
                    match read(shared, socket, &mut self.handles, BYTES_PER_TURN) {
                        Ok(Got { empty: true, .. }) => guard.clear_ready(),
                        Ok(_) => self.more = true,
                        Err(Ended) => {}
                    }
                    // Some wait for the peer's first word.
                    self.shared.room.notify_waiters();
                }
                Err(_) => self.shared.end(None),
            },
            () = has_room(self.full.as_ref()) => self.full = None,
            () = self.shared.wake.notified() => {}
            () = until(self.retry) => {}
            () = until(self.owed.map(|(_, deadline)| deadline)) => {
                self.shared.end(self.owed.map(|(owed, _)| match owed {
                    Owed::Ack(_) => Fault::NoAck(self.shared.patience),
                    Owed::Reading { queued } => Fault::Unread { queued },
                }));
            }
        }
        self.flush();
    }

    /// Reads what is there now, and the end of the file if it has come. For a peer that will write no more: what others
    /// that hold its end write meanwhile is not waited for.
    pub(crate) fn drain(&mut self) {
        let Some(socket) = &self.socket else { return };
        // One more than there is, to meet the end.
        let mut left = sys::message::waiting(socket.get_ref()) + 1;
        while left > 0 {
            match read(&self.shared, socket.get_ref(), &mut self.handles, left) {
                Ok(Got { empty: true, .. }) | Err(Ended) => break,
                Ok(Got { bytes, .. }) => left = left.saturating_sub(bytes),
            }
        }
        self.close_if_ended();
    }

    /// Writes until nothing waits or the socket is full.
    fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut endpoint = self.shared.endpoint();
        let (mut wrote, mut gone, mut alone) = (false, false, false);
        self.retry = None;
        while self.full.is_none() {
            let Some(transmit) = endpoint.poll_transmit() else {
                break;
            };
            if transmit.alone && sys::message::unread(socket.as_fd()) > 0 {
                // Deno loses a handle that shares a read with an earlier message.
                alone = true;
                self.retry = Some(Instant::now() + ALONE);
                break;
            }
            match send(socket.as_fd(), transmit.bytes, transmit.handles) {
                Ok(n) => {
                    endpoint.transmitted(n);
                    wrote = true;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.full = watch_for_room(socket.get_ref()).ok();
                        if self.full.is_none() {
                            self.retry = Some(Instant::now() + SHORTAGE);
                            break;
                        }
                    }
                    Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => {
                        gone = true;
                        break;
                    }
                    // Too many descriptors under way (ETOOMANYREFS), no memory.
                    _ => {
                        self.retry = Some(Instant::now() + SHORTAGE);
                        break;
                    }
                },
            }
        }
        let closing = !endpoint.is_open() && !endpoint.is_closed();
        let owed = endpoint.oldest_in_flight().map(Owed::Ack);
        let owed = owed.or_else(|| {
            (closing || alone).then(|| Owed::Reading {
                queued: endpoint.queued(),
            })
        });
        self.owed = owed.map(|owed| match self.owed {
            Some((same, deadline)) if same == owed => (owed, deadline),
            _ => (owed, Instant::now() + self.shared.patience),
        });
        drop(endpoint);
        if wrote {
            self.shared.room.notify_waiters();
        }
        if gone {
            // The peer has closed its end. What it wrote before is still to be read.
            self.drain();
            self.shared.end(None);
        }
        self.close_if_ended();
    }

    fn close_if_ended(&mut self) {
        if self.shared.endpoint().is_closed() {
            self.socket = None;
            self.full = None;
            self.owed = None;
            self.shared.room.notify_waiters();
            self.shared.takers.end();
        }
    }
}

/// The reactor takes one interest for each descriptor, so this makes another one.
fn watch_for_room(socket: &OwnedFd) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    sys::reactor::register(Arc::new(socket.try_clone()?), Interest::WRITABLE)
}

/// Waits until a full socket has room; for ever if it is not full.
async fn has_room(full: Option<&AsyncFd<Arc<OwnedFd>>>) {
    match full.map(AsyncFd::writable) {
        Some(writable) => drop(writable.await),
        None => std::future::pending().await,
    }
}

/// Nearly always there is no handle or one, and then nothing is allocated.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], handles: &[Handle]) -> io::Result<usize> {
    match handles {
        [] => sys::message::send(socket, bytes, &[]),
        [one] => sys::message::send(socket, bytes, &[one.as_fd()]),
        many => {
            let descriptors: Vec<_> = many.iter().map(AsFd::as_fd).collect();
            sys::message::send(socket, bytes, &descriptors)
        }
    }
}

/// What some reads brought.
struct Got {
    bytes: usize,
    /// The socket has no more.
    empty: bool,
}

/// The channel has ended.
struct Ended;

/// Reads a few times, at most about `most` bytes.
fn read(shared: &Shared, socket: &OwnedFd, handles: &mut Vec<OwnedFd>, most: usize) -> Result<Got, Ended> {
    READ.with_borrow_mut(|buffer| read_into(buffer, shared, socket, handles, most))
}

fn read_into(
    buffer: &mut BytesMut,
    shared: &Shared,
    socket: &OwnedFd,
    handles: &mut Vec<OwnedFd>,
    most: usize,
) -> Result<Got, Ended> {
    let mut bytes = 0;
    for _ in 0..READS_PER_TURN {
        buffer.clear();
        let received = match sys::message::recv(socket, buffer, handles) {
            Ok(received) if received.bytes > 0 => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got { bytes, empty: true }),
            // Nothing is the end; ECONNRESET is how the kernel says that the peer left something unread.
            _ => {
                shared.end(None);
                return Err(Ended);
            }
        };
        if received.truncated {
            handles.clear();
            shared.end(Some(Fault::Truncated));
            return Err(Ended);
        }
        let with_handles = !handles.is_empty();
        let whole = received.bytes == buffer.capacity();
        let mut endpoint = shared.endpoint();
        if let Err(error) = endpoint.receive(buffer, handles.drain(..).map(Handle::from)) {
            *shared.fault() = Some(error.into());
            return Err(Ended);
        }
        drop(endpoint);
        bytes += received.bytes;
        // A read stops behind a descriptor; any other that is short has emptied the socket.
        if !with_handles && !whole {
            return Ok(Got { bytes, empty: true });
        }
        if bytes >= most {
            break;
        }
    }
    Ok(Got { bytes, empty: false })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use thead_wire::Dialect;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);
    const DEADLINE: Duration = Duration::from_secs(20);

    /// An end of ours, and the peer's, which does as it likes.
    fn port(dialect: Dialect) -> (Port, Channel, UnixStream) {
        patient(dialect, PATIENCE)
    }

    fn patient(dialect: Dialect, patience: Duration) -> (Port, Channel, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let config = Config {
            dialect,
            ..Config::default()
        };
        let (port, channel) = Port::new(ours.into(), config, patience).unwrap();
        (port, channel, peer)
    }

    /// Turns until the next event.
    async fn event(port: &mut Port) -> Event<Handle> {
        let next = async {
            loop {
                match port.poll_event() {
                    Some(event) => return event,
                    None => port.turn(true).await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("an event in time")
    }

    fn some_handle() -> Handle {
        Handle::from(UnixStream::pair().unwrap().0)
    }

    fn read_some(peer: &mut UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let n = peer.read(&mut bytes).unwrap();
        assert!(n > 0, "the channel has ended");
        bytes.truncate(n);
        bytes
    }

    #[tokio::test]
    async fn a_handle_that_is_not_acknowledged_in_time_ends_the_channel() {
        let (mut port, channel, _peer) = port(Dialect::Careful);
        channel.send_handle(&1, HandleKind::Socket, some_handle()).unwrap();
        assert!(matches!(event(&mut port).await, Event::Lost(..)));
        assert!(matches!(event(&mut port).await, Event::Closed { .. }));
        assert!(matches!(port.take_fault(), Some(Fault::NoAck(PATIENCE))));
    }

    #[tokio::test]
    async fn a_channel_that_ends_between_two_turns_is_told() {
        let (mut port, channel, _peer) = port(Dialect::Careful);
        channel.disconnect();
        assert!(matches!(event(&mut port).await, Event::Closed { unsent: 0 }));
        let (mut port, channel, _peer) = self::port(Dialect::Careful);
        channel.abort(Some(Fault::Unread { queued: 7 }));
        assert!(matches!(event(&mut port).await, Event::Closed { .. }));
        assert!(matches!(port.take_fault(), Some(Fault::Unread { queued: 7 })));
    }

    #[tokio::test]
    async fn a_channel_that_is_to_end_does_not_wait_for_ever_for_a_peer_that_reads_nothing() {
        let (mut port, channel, _peer) = port(Dialect::Careful);
        channel.send(&"x".repeat(4 << 20)).unwrap();
        channel.disconnect();
        let Event::Closed { unsent } = event(&mut port).await else {
            panic!("closed");
        };
        assert!(unsent > 3 << 20);
        assert!(matches!(port.take_fault(), Some(Fault::Unread { queued }) if queued == unsent));
    }

    #[tokio::test]
    async fn a_channel_that_is_to_end_waits_for_a_peer_that_reads_slowly() {
        let (mut port, channel, mut peer) = patient(Dialect::Careful, 20 * PATIENCE);
        channel.send(&"x".repeat(4 << 20)).unwrap();
        channel.disconnect();
        let mut read = 0;
        while read < (4 << 20) + 3 {
            // Each pause is shorter than the patience, all together are longer.
            tokio::select! {
                () = port.turn(true) => {}
                () = tokio::time::sleep(PATIENCE / 2) => read += read_some(&mut peer).len(),
            }
        }
        assert!(matches!(event(&mut port).await, Event::Closed { unsent: 0 }));
        assert!(port.take_fault().is_none());
    }

    #[tokio::test]
    async fn a_peer_that_writes_without_end_neither_stops_our_writing_nor_the_clock() {
        let (mut port, channel, mut peer) = patient(Dialect::Pipelined, 20 * PATIENCE);
        channel.send_handle(&1, HandleKind::Socket, some_handle()).unwrap();
        channel.send(&"x".repeat(1 << 20)).unwrap();
        let flood = format!("{}\n", "1".repeat(1 << 10)).repeat(1 << 5);
        let (mut heard, mut read) = (0, 0);
        let closed = async {
            loop {
                // The peer's buffer is never empty, and it reads all that it is sent, but it acknowledges nothing.
                while peer.write(flood.as_bytes()).is_ok() {}
                while let Ok(n) = peer.read(&mut [0; 4096]) {
                    read += n;
                    if n == 0 {
                        break;
                    }
                }
                port.turn(true).await;
                while let Some(event) = port.poll_event() {
                    match event {
                        Event::Message(..) => heard += 1,
                        Event::Closed { .. } => return,
                        _ => {}
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, closed)
            .await
            .expect("the channel ends in time");
        assert!(matches!(port.take_fault(), Some(Fault::NoAck(_))));
        assert!(heard > 1_000, "{heard}");
        assert!(read > 1 << 20, "all was written: {read}");
    }

    #[tokio::test]
    async fn others_run_while_a_peer_writes_without_end() {
        let (mut port, _channel, mut peer) = port(Dialect::Careful);
        let flood = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n".repeat(1 << 12);
        let busy = async {
            loop {
                while peer.write(flood.as_bytes()).is_ok() {}
                port.turn(true).await;
            }
        };
        tokio::select! {
            biased;
            () = busy => {}
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn what_a_peer_wrote_before_it_closed_is_heard_though_writing_fails_first() {
        let (mut port, channel, mut peer) = port(Dialect::Careful);
        peer.write_all(b"1\n").unwrap();
        drop(peer);
        channel.send(&2).unwrap();
        assert!(matches!(event(&mut port).await, Event::Message(..)));
        assert!(matches!(event(&mut port).await, Event::Closed { .. }));
    }

    #[tokio::test]
    async fn draining_a_socket_that_others_fill_comes_to_an_end() {
        let (mut port, _channel, mut peer) = port(Dialect::Careful);
        while peer.write(b"1\n").is_ok() {}
        let flood = std::thread::spawn(move || {
            while !matches!(peer.write(b"1\n"), Err(error) if error.kind() != io::ErrorKind::WouldBlock) {}
        });
        port.drain();
        assert!(!port.is_closed());
        drop(port);
        flood.join().unwrap();
    }

    #[tokio::test]
    async fn a_handle_that_must_wait_does_not_wait_for_ever_for_a_peer_that_reads_nothing() {
        let (mut port, channel, _peer) = port(Dialect::Careful);
        channel.send(&1).unwrap();
        channel.send_handle(&2, HandleKind::Socket, some_handle()).unwrap();
        assert!(matches!(event(&mut port).await, Event::Lost(..)));
        assert!(matches!(event(&mut port).await, Event::Closed { .. }));
        assert!(matches!(port.take_fault(), Some(Fault::Unread { .. })));
    }

    #[tokio::test]
    async fn to_deno_a_handle_waits_until_all_before_it_was_read() {
        let (mut port, channel, mut peer) = patient(Dialect::Deno, 20 * PATIENCE);
        channel.send(&1).unwrap();
        channel.send_handle(&2, HandleKind::Socket, some_handle()).unwrap();
        // Time enough to write both, if it would.
        for _ in 0..5 {
            port.turn(true).await;
        }
        let mut reads = vec![read_some(&mut peer)];
        while reads.len() < 2 {
            // It has nothing more to wait for when it has written the handle.
            let _ = tokio::time::timeout(PATIENCE / 10, port.turn(true)).await;
            let mut bytes = vec![0; 1 << 16];
            if let Ok(n) = peer.read(&mut bytes) {
                bytes.truncate(n);
                reads.push(bytes);
            }
        }
        assert_eq!(reads[0], b"1\n");
        assert!(reads[1].starts_with(b"{\"cmd\":\"NODE_HANDLE\""));
    }
}
