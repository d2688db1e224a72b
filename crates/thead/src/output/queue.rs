//! A queue bounded in bytes, between the tasks that read what workers print and the one that keeps it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use thead_core::worker::Slot;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Block;

/// What happens to what workers print while the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is dropped; how much stands in its place. Before that workers wait, in case that room is just being made: at most
    /// 100 ms while nothing is taken, a second in all while something is, and a tenth of the time in the long run.
    Drop,
    /// Workers wait, as at a full pipe.
    #[default]
    Wait,
}

/// Something that the owner of the workers says among what they print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub time: SystemTime,
    /// The place and the process that it is about; `None`: the service.
    pub about: Option<(Slot, u32)>,
    /// One line.
    pub text: String,
}

/// What comes out of a [`Queue`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// Lines of a worker.
    Block(Block),
    /// A word of the owner's.
    Note(Note),
    /// What stood here found no room.
    Dropped {
        /// How many lines.
        lines: u64,
        /// When the first of them came.
        since: SystemTime,
    },
}

/// Makes a queue that holds this many bytes, and one block more. Workers wait while it is full, until
/// [`Sink::set_when_full`] says otherwise.
pub fn queue(limit: usize) -> (Sink, Queue) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            bytes: 0,
            limit,
            when_full: WhenFull::default(),
            patience: Patience::new(),
            dropped: None,
            dropped_lines: 0,
            senders: true,
            receiver: true,
        }),
        filled: Notify::new(),
        room: Notify::new(),
    });
    (Sink(Arc::new(Sender(shared.clone()))), Queue(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// For the one that takes: there is something, or nobody is left to send.
    filled: Notify,
    /// For those that send: something was taken, or the rules have changed.
    room: Notify,
}

#[derive(Debug)]
struct State {
    items: VecDeque<Item>,
    /// Of all items.
    bytes: usize,
    limit: usize,
    when_full: WhenFull,
    patience: Patience,
    /// Since the last item: how many lines, and from when on.
    dropped: Option<(u64, SystemTime)>,
    /// Ever.
    dropped_lines: u64,
    senders: bool,
    receiver: bool,
}

/// For how long workers may still be held up by a queue that drops when it is full.
#[derive(Debug)]
struct Patience {
    left: Duration,
    /// When that was so.
    at: Instant,
}

const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// Without any room.
const ONE_WAIT: Duration = Duration::from_millis(100);
/// What a timer can tell.
const LEAST_PATIENCE: Duration = Duration::from_millis(1);
/// What of the time that passes is added to it.
const SHARE: u32 = 10;

impl Patience {
    fn new() -> Self {
        Self {
            left: MOST_PATIENCE,
            at: Instant::now(),
        }
    }

    fn left(&mut self) -> Duration {
        let now = Instant::now();
        self.left = (self.left + now.saturating_duration_since(self.at) / SHARE).min(MOST_PATIENCE);
        self.at = self.at.max(now);
        self.left
    }

    fn spend(&mut self, time: Duration) {
        self.left = self.left().saturating_sub(time);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is whole when its guard goes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an item takes beyond its text.
const ITEM: usize = size_of::<Item>();

fn size(item: &Item) -> usize {
    ITEM + match item {
        Item::Block(block) => block.text.capacity(),
        Item::Note(note) => note.text.capacity(),
        Item::Dropped { .. } => 0,
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    fn push(&mut self, item: Item) {
        if let Some((lines, since)) = self.dropped.take() {
            self.bytes += ITEM;
            self.items.push_back(Item::Dropped { lines, since });
        }
        self.bytes += size(&item);
        self.items.push_back(item);
    }

    fn drop_lines(&mut self, lines: u64, time: SystemTime) {
        self.dropped_lines += lines;
        self.dropped.get_or_insert((0, time)).0 += lines;
    }
}

/// The end of a [`queue`] that things are put into. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Sender>);

/// Seen to be gone with the last [`Sink`].
#[derive(Debug)]
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().senders = false;
        self.0.filled.notify_one();
    }
}

impl Sink {
    /// Puts a block in; waits for room, or counts its lines as dropped, as the queue was told. A queue that nobody takes
    /// from any more swallows it.
    ///
    /// # Cancel safety
    /// The block is lost.
    pub async fn send(&self, block: Block) {
        let shared = &self.0.0;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            let patience = {
                let mut state = shared.state();
                if !state.receiver {
                    return;
                }
                if !state.is_full() {
                    state.push(Item::Block(block));
                    break;
                }
                let patience = match state.when_full {
                    WhenFull::Wait => None,
                    WhenFull::Drop => match state.patience.left() {
                        left if left < LEAST_PATIENCE => {
                            return state.drop_lines(block.line_count() as u64, block.time);
                        }
                        left => Some(left.min(ONE_WAIT)),
                    },
                };
                // From here on no call for room is missed.
                room.as_mut().enable();
                patience
            };
            match patience {
                None => room.await,
                Some(left) => {
                    let begun = Instant::now();
                    let waited = tokio::time::timeout(left, room).await;
                    let spent = if waited.is_ok() { begun.elapsed() } else { MOST_PATIENCE };
                    shared.state().patience.spend(spent);
                }
            }
        }
        shared.filled.notify_one();
    }

    /// Says something now, among what workers print. Never waits: where there is no room it counts as a dropped line.
    pub fn note(&self, about: Option<(Slot, u32)>, text: impl Into<String>) {
        let shared = &self.0.0;
        let (time, text) = (SystemTime::now(), text.into());
        {
            let mut state = shared.state();
            if !state.receiver {
                return;
            }
            if state.is_full() {
                return state.drop_lines(1, time);
            }
            state.push(Item::Note(Note { time, about, text }));
        }
        shared.filled.notify_one();
    }

    /// What happens to blocks while there is no room.
    pub fn set_when_full(&self, when_full: WhenFull) {
        self.0.0.state().when_full = when_full;
        self.0.0.room.notify_waiters();
    }

    /// How many bytes it holds, and one block more.
    pub fn set_limit(&self, limit: usize) {
        self.0.0.state().limit = limit;
        self.0.0.room.notify_waiters();
    }

    /// Whether workers that print have to wait now, for as long as nobody takes anything.
    pub fn holds_up(&self) -> bool {
        let state = self.0.0.state();
        state.is_full() && state.when_full == WhenFull::Wait && state.receiver
    }

    /// How many lines were ever dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.0.0.state().dropped_lines
    }

    /// How many bytes wait to be taken.
    pub fn waiting(&self) -> usize {
        self.0.0.state().bytes
    }
}

/// The end of a [`queue`] that things are taken from.
#[derive(Debug)]
pub struct Queue(Arc<Shared>);

impl Queue {
    /// Takes what comes next; `None` when it is empty and every [`Sink`] is gone.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            // Asked for before looking, so that what comes in between is not slept through.
            let filled = self.0.filled.notified();
            {
                let mut state = self.0.state();
                if let Some(item) = state.items.pop_front() {
                    state.bytes -= size(&item);
                    self.0.room.notify_waiters();
                    return Some(item);
                }
                if let Some((lines, since)) = state.dropped.take() {
                    return Some(Item::Dropped { lines, since });
                }
                if !state.senders {
                    return None;
                }
            }
            filled.await;
        }
    }

    /// Takes all that is there now.
    pub fn take_all(&mut self) -> VecDeque<Item> {
        let mut state = self.0.state();
        let mut items = std::mem::take(&mut state.items);
        let dropped = state.dropped.take();
        items.extend(dropped.map(|(lines, since)| Item::Dropped { lines, since }));
        state.bytes = 0;
        self.0.room.notify_waiters();
        items
    }

    /// Whether nothing is there now.
    pub fn is_empty(&self) -> bool {
        let state = self.0.state();
        state.items.is_empty() && state.dropped.is_none()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.receiver = false;
        state.items.clear();
        state.bytes = 0;
        drop(state);
        self.0.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use thead_core::id::WorkerId;

    use super::*;
    use crate::output::{Origin, Stream};

    fn block(text: &str) -> Block {
        Block {
            from: Origin {
                worker: WorkerId(1),
                slot: Slot(0),
                pid: 1,
                stream: Stream::Stdout,
            },
            time: SystemTime::UNIX_EPOCH,
            text: text.into(),
            cut: false,
        }
    }

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Has no patience, for an hour.
    fn drops(sink: &Sink) {
        sink.set_when_full(WhenFull::Drop);
        let patience = &mut sink.0.0.state().patience;
        patience.spend(MOST_PATIENCE);
        patience.at += Duration::from_secs(3600);
    }

    #[test]
    fn things_come_out_in_the_order_in_which_they_went_in() {
        let (sink, mut queue) = queue(1 << 10);
        assert!(poll(sink.send(block("a\n"))).is_ready());
        sink.note(None, "between");
        assert!(poll(sink.send(block("b\n"))).is_ready());
        assert_eq!(poll(queue.next()), Poll::Ready(Some(Item::Block(block("a\n")))));
        assert!(matches!(poll(queue.next()), Poll::Ready(Some(Item::Note(note))) if note.text == "between"));
        assert_eq!(poll(queue.next()), Poll::Ready(Some(Item::Block(block("b\n")))));
        assert_eq!(poll(queue.next()), Poll::Pending);
        assert_eq!(sink.waiting(), 0);
        drop(sink);
        assert_eq!(poll(queue.next()), Poll::Ready(None));
    }

    #[test]
    fn a_full_queue_holds_up_who_sends_until_something_is_taken() {
        let (sink, mut queue) = queue(1);
        assert!(poll(sink.send(block("a\n"))).is_ready());
        let mut waiting = std::pin::pin!(sink.send(block("b\n")));
        let mut poll_it = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll_it().is_pending());
        assert!(poll(queue.next()).is_ready());
        assert!(poll_it().is_ready());
        assert_eq!(poll(queue.next()), Poll::Ready(Some(Item::Block(block("b\n")))));
    }

    #[test]
    fn what_is_dropped_is_counted_where_it_would_have_stood() {
        let (sink, mut queue) = queue(1);
        let dropped = |lines| {
            let since = SystemTime::UNIX_EPOCH;
            Poll::Ready(Some(Item::Dropped { lines, since }))
        };
        drops(&sink);
        for text in ["a\n", "b\nc\n", "d\n"] {
            assert!(poll(sink.send(block(text))).is_ready());
        }
        assert_eq!(poll(queue.next()), Poll::Ready(Some(Item::Block(block("a\n")))));
        assert!(poll(sink.send(block("e\n"))).is_ready());
        assert!(poll(sink.send(block("f\n"))).is_ready());
        assert_eq!(poll(queue.next()), dropped(3));
        assert_eq!(poll(queue.next()), Poll::Ready(Some(Item::Block(block("e\n")))));
        // Also where nothing follows.
        assert_eq!(poll(queue.next()), dropped(1));
        assert_eq!(poll(queue.next()), Poll::Pending);
        assert_eq!(sink.dropped_lines(), 4);
    }

    #[test]
    fn who_waits_goes_on_when_the_queue_is_to_drop_and_when_it_is_gone() {
        let (sink, queue) = queue(1);
        assert!(poll(sink.send(block("a\n"))).is_ready());
        let mut waiting = std::pin::pin!(sink.send(block("b\n")));
        let mut poll_it = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll_it().is_pending());
        drops(&sink);
        assert!(poll_it().is_ready());
        drop(queue);
        sink.set_when_full(WhenFull::Wait);
        assert!(poll(sink.send(block("c\n"))).is_ready());
    }

    #[test]
    fn a_queue_that_drops_holds_workers_up_for_a_tenth_of_the_time_at_most() {
        let mut patience = Patience::new();
        assert_eq!(patience.left(), MOST_PATIENCE);
        patience.spend(MOST_PATIENCE);
        assert!(patience.left() < MOST_PATIENCE / 2);
        patience.at -= Duration::from_secs(5);
        let left = patience.left();
        assert!((MOST_PATIENCE / 2..MOST_PATIENCE).contains(&left), "{left:?}");
        patience.at -= Duration::from_secs(3600);
        assert_eq!(patience.left(), MOST_PATIENCE);
    }
}
