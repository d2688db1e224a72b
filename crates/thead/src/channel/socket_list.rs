//! Sockets that were given away, counted at their takers.
//!
//! Node: `lib/internal/socket_list.js`; the messages are the same in 18 to 26.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{SendError, Shared};

/// Connections that were accepted here and given to other processes: how many are open there, and when none is any more.
///
/// A Node process that is given a `net.Socket` counts it for the server that it came from; a server's `getConnections()` and
/// `close()` ask for that count. This asks the same of Node and of thead processes. Connections that are kept are
/// one's own to count, also where a clone of their handle is given away (Node: `keepOpen`).
///
/// ```no_run
/// # async fn example(children: &[thead::Child]) -> Result<(), Box<dyn std::error::Error>> {
/// use thead::HandleKind;
/// use thead::channel::{Handle, SocketList};
///
/// let given = SocketList::new();
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// for channel in children.iter().filter_map(|child| child.channel()) {
///     let (connection, _) = listener.accept().await?;
///     let handle = Handle::from(connection.into_std()?).counted_by(&given);
///     channel.post_handle("yours", HandleKind::Socket, handle).await.map_err(|(error, _)| error)?;
/// }
/// println!("{} of them are open", given.count().await?);
/// given.closed().await?;
/// # Ok(())
/// # }
/// ```
///
/// Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct SocketList {
    list: Arc<List>,
}

#[derive(Debug)]
struct List {
    /// By which both ends of a channel know it.
    key: Arc<str>,
    /// Those whose channel has not ended, and some others.
    takers: Mutex<Vec<Weak<Taker>>>,
}

/// Why nobody knows how many are open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketListError {
    /// A taker's channel ended before it had answered. Node: `ERR_CHILD_CLOSED_BEFORE_REPLY`.
    #[error("a process ended its channel before it had said how many of its sockets are open")]
    Closed,
    /// A taker does not run, or keeps no count: Bun, and Deno before it has been given such a socket.
    #[error("a process did not say within {0:?} how many of its sockets are open")]
    NoAnswer(Duration),
    /// A taker does not read.
    #[error(transparent)]
    Send(SendError),
}

impl SocketListError {
    /// The error as Node names it; where Node has none, one of the system's.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "ERR_CHILD_CLOSED_BEFORE_REPLY",
            Self::NoAnswer(_) => "ETIMEDOUT",
            Self::Send(error) => error.code(),
        }
    }
}

impl From<SendError> for SocketListError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Closed => Self::Closed,
            error => Self::Send(error),
        }
    }
}

impl Default for List {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            key: format!("thead:{}", NEXT.fetch_add(1, Ordering::Relaxed)).into(),
            takers: Mutex::default(),
        }
    }
}

impl SocketList {
    /// An empty list. Sockets come onto it by [`Handle::counted_by`](super::Handle::counted_by).
    pub fn new() -> Self {
        Self::default()
    }

    /// How many of the sockets that were given away are open, as their takers say now. One whose channel has ended is not
    /// asked: its process is taken to have ended too.
    ///
    /// # Errors
    /// [`SocketListError`]: a taker's channel ends meanwhile, or it does not answer within 120 s.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn count(&self) -> Result<usize, SocketListError> {
        let mut asked = Vec::new();
        for taker in self.list.takers() {
            asked.extend(taker.ask(false)?);
        }
        let mut sum = 0_usize;
        for mut asked in asked {
            sum = sum.saturating_add(asked.count().await?);
        }
        Ok(sum)
    }

    /// Waits until none of the sockets that were given away before is open. As for Node's `server.close()`, those whose
    /// taker has ended its channel are closed.
    ///
    /// # Errors
    /// [`SocketListError::NoAnswer`]: a taker does not say within 120 s how many it has open, so it would never say that none
    /// is. [`SocketListError::Send`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn closed(&self) -> Result<(), SocketListError> {
        let or_gone = |error| match error {
            SocketListError::Closed => Ok(()),
            error => Err(error),
        };
        let mut all = Vec::new();
        for taker in self.list.takers() {
            match taker.ask(true) {
                Ok(asked) => all.extend(asked),
                Err(error) => or_gone(error.into())?,
            }
        }
        for asked in &mut all {
            asked.count().await.map(drop).or_else(or_gone)?;
        }
        for asked in &mut all {
            asked.closed().await.or_else(or_gone)?;
        }
        Ok(())
    }

    pub(super) fn key(&self) -> &str {
        &self.list.key
    }

    /// From now on the peer of this channel is asked too.
    pub(super) fn given_to(&self, channel: &Arc<Shared>) {
        let mut takers = channel.takers.by_key();
        if !takers.contains_key(&self.list.key) {
            let taker = Arc::new(Taker {
                channel: Arc::downgrade(channel),
                key: self.list.key.clone(),
                said: watch::Sender::default(),
            });
            let mut known = lock(&self.list.takers);
            known.retain(|taker| taker.strong_count() > 0);
            known.push(Arc::downgrade(&taker));
            takers.insert(self.list.key.clone(), taker);
        }
    }
}

impl List {
    fn takers(&self) -> Vec<Arc<Taker>> {
        lock(&self.takers).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        for channel in self.takers().iter().filter_map(|taker| taker.channel.upgrade()) {
            channel.takers.by_key().remove(&self.key);
        }
    }
}

/// What the peer of a channel has got of whichever lists.
#[derive(Debug, Default)]
pub(super) struct Takers(Mutex<HashMap<Arc<str>, Arc<Taker>>>);

impl Takers {
    fn by_key(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Taker>>> {
        lock(&self.0)
    }

    /// The peer says how many it has open.
    pub(super) fn counted(&self, key: &str, count: usize) {
        if let Some(taker) = self.by_key().get(key) {
            taker.said.send_modify(|said| {
                said.count = count;
                said.counts.answer();
            });
        }
    }

    /// The peer says that it has none open.
    pub(super) fn closed(&self, key: &str) {
        if let Some(taker) = self.by_key().get(key) {
            taker.said.send_modify(|said| said.closed.answer());
        }
    }

    /// The channel has ended: whoever waits hears of it.
    pub(super) fn end(&self) {
        self.by_key().clear();
    }
}

/// The peer of a channel, which has got sockets of a list. Lives as long as both.
#[derive(Debug)]
struct Taker {
    channel: Weak<Shared>,
    key: Arc<str>,
    said: watch::Sender<Said>,
}

/// What a taker was asked and has said. Each question has one answer, and answers of a kind come in order.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The last that it said.
    count: usize,
    counts: Turns,
    closed: Turns,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    asked: u64,
    answered: u64,
}

impl Turns {
    /// A peer may say what it was not asked.
    fn answer(&mut self) {
        self.answered = self.asked.min(self.answered + 1);
    }
}

impl Taker {
    /// Asks how many are open; and, if so wished, to be told when none is. Nothing if the channel has ended.
    fn ask(&self, closed: bool) -> Result<Option<Asked>, SendError> {
        let Some(channel) = self.channel.upgrade() else {
            return Ok(None);
        };
        let mut endpoint = channel.endpoint();
        if endpoint.is_closed() {
            return Ok(None);
        }
        endpoint.ask_count(&self.key)?;
        self.said.send_modify(|said| said.counts.asked += 1);
        if closed {
            endpoint.ask_closed(&self.key)?;
            self.said.send_modify(|said| said.closed.asked += 1);
        }
        let Said { counts, closed, .. } = *self.said.borrow();
        channel.wake.notify_one();
        Ok(Some(Asked {
            said: self.said.subscribe(),
            count: counts.asked,
            closed: closed.asked,
            patience: channel.patience,
            deadline: Instant::now() + channel.patience,
        }))
    }
}

/// Questions to a taker, by their numbers.
struct Asked {
    said: watch::Receiver<Said>,
    count: u64,
    closed: u64,
    patience: Duration,
    deadline: Instant,
}

impl Asked {
    async fn count(&mut self) -> Result<usize, SocketListError> {
        let number = self.count;
        let said = self.said.wait_for(|said| said.counts.answered >= number);
        match tokio::time::timeout_at(self.deadline, said).await {
            Ok(Ok(said)) => Ok(said.count),
            Ok(Err(_)) => Err(SocketListError::Closed),
            Err(_) => Err(SocketListError::NoAnswer(self.patience)),
        }
    }

    async fn closed(&mut self) -> Result<(), SocketListError> {
        let number = self.closed;
        let said = self.said.wait_for(|said| said.closed.answered >= number).await;
        said.map(drop).map_err(|_| SocketListError::Closed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::pin::pin;

    use thead_wire::HandleKind;
    use thead_wire::endpoint::{Config, Event};

    use super::*;
    use crate::channel::{Channel, Handle, Port};

    const PATIENCE: Duration = Duration::from_millis(50);

    /// A channel by which a socket of the list was given to a peer, which does as it likes.
    fn given(list: &SocketList, patience: Duration) -> (Port, Channel, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (port, channel) = Port::new(ours.into(), Config::default(), patience).unwrap();
        let socket = Handle::from(UnixStream::pair().unwrap().0).counted_by(list);
        channel.send_handle(&1, HandleKind::Socket, socket).unwrap();
        (&peer).write_all(b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n").unwrap();
        (port, channel, peer)
    }

    /// Serves the channel until the future is done.
    async fn serve<T>(port: &mut Port, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = port.turn(true) => while port.poll_event().is_some() {},
            }
        }
    }

    fn says(peer: &UnixStream, list: &SocketList, what: &str) {
        let key = list.key();
        writeln!(&*peer, "{{\"cmd\":\"NODE_SOCKET_{what},\"key\":\"{key}\"}}").unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_given_up() {
        let list = SocketList::new();
        let (mut port, _channel, _peer) = given(&list, PATIENCE);
        for _ in 0..2 {
            let both = async { (list.count().await, list.closed().await) };
            let (count, closed) = serve(&mut port, both).await;
            assert!(matches!(count, Err(SocketListError::NoAnswer(PATIENCE))), "{count:?}");
            assert!(matches!(closed, Err(SocketListError::NoAnswer(PATIENCE))), "{closed:?}");
        }
    }

    #[tokio::test]
    async fn what_a_peer_says_unasked_answers_no_later_question() {
        let list = SocketList::new();
        let (mut port, _channel, peer) = given(&list, PATIENCE);
        for _ in 0..3 {
            says(&peer, &list, "COUNT\",\"count\":7");
            says(&peer, &list, "ALL_CLOSED\"");
        }
        says(&peer, &SocketList::new(), "COUNT\",\"count\":7");
        // All that has been heard when this has.
        (&peer).write_all(b"1\n").unwrap();
        loop {
            match port.poll_event() {
                Some(Event::Message(..)) => break,
                Some(_) => {}
                None => port.turn(true).await,
            }
        }
        let (count, closed) = serve(&mut port, async { tokio::join!(list.count(), list.closed()) }).await;
        assert!(matches!(count, Err(SocketListError::NoAnswer(_))), "{count:?}");
        assert!(matches!(closed, Err(SocketListError::NoAnswer(_))), "{closed:?}");
    }

    #[tokio::test]
    async fn counts_of_all_takers_are_added_and_do_not_overflow() {
        let list = SocketList::new();
        let (mut first, _, one) = given(&list, Duration::from_secs(40));
        let (mut second, _, two) = given(&list, Duration::from_secs(40));
        for (counts, sum) in [([1, 2], 3), ([usize::MAX, usize::MAX], usize::MAX)] {
            let asked = async {
                let mut count = pin!(list.count());
                tokio::select! {
                    biased;
                    _ = &mut count => panic!("nobody has answered"),
                    () = std::future::ready(()) => {}
                }
                says(&one, &list, &format!("COUNT\",\"count\":{}", counts[0]));
                says(&two, &list, &format!("COUNT\",\"count\":{}", counts[1]));
                count.await
            };
            let count = serve(&mut first, serve(&mut second, asked)).await;
            assert_eq!(count.unwrap(), sum);
        }
    }

    #[tokio::test]
    async fn a_list_that_is_dropped_leaves_nothing_in_the_channel_nor_a_channel_in_the_list() {
        let list = SocketList::new();
        let (port, channel, peer) = given(&list, PATIENCE);
        assert_eq!(channel.shared.takers.by_key().len(), 1);
        let other = Handle::from(UnixStream::pair().unwrap().0).counted_by(&SocketList::new());
        channel.send_handle(&1, HandleKind::Socket, other).unwrap();
        assert_eq!(channel.shared.takers.by_key().len(), 1, "the other is gone already");
        drop((port, channel, peer));
        let (_port, channel, _peer) = given(&list, PATIENCE);
        assert_eq!(lock(&list.list.takers).len(), 1);
        drop(list);
        assert!(channel.shared.takers.by_key().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_counted() {
        let list = SocketList::new();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let (mut port, channel) = Port::new(ours.into(), Config::default(), PATIENCE).unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Handle::from(server).counted_by(&list);
        channel.send_handle(&1, HandleKind::Server, server).unwrap();
        channel.disconnect();
        assert_eq!(serve(&mut port, list.count()).await.unwrap(), 0);
        serve(&mut port, channel.flush()).await;
        let mut bytes = [0; 512];
        let n = peer.read(&mut bytes).unwrap();
        assert!(!String::from_utf8_lossy(&bytes[..n]).contains("key"));
    }
}
