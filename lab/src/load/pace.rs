//! When requests of an open loop are due.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, Semaphore};

/// Requests that are due, oldest first. It holds as many as the rate makes in the time of a run, each 16 bytes.
#[derive(Debug)]
pub(super) struct Queue {
    due: RefCell<VecDeque<Instant>>,
    /// How many may be taken.
    ready: Semaphore,
    /// Taken and not answered, how many of each moment.
    under_way: RefCell<BTreeMap<Instant, usize>>,
    /// No more become due.
    complete: Cell<bool>,
    idle: Notify,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            due: RefCell::default(),
            ready: Semaphore::new(0),
            under_way: RefCell::default(),
            complete: Cell::new(false),
            idle: Notify::new(),
        }
    }

    /// Waits for one that is due, and says since when.
    pub(super) async fn take(&self) -> Instant {
        loop {
            if let Ok(permit) = self.ready.acquire().await {
                permit.forget();
            }
            let Some(due) = self.due.borrow_mut().pop_front() else {
                continue;
            };
            *self.under_way.borrow_mut().entry(due).or_default() += 1;
            return due;
        }
    }

    /// One that was taken has had its answer, or will have none.
    pub(super) fn done(&self, due: Instant) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(count) = under_way.get_mut(&due) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&due);
            }
        }
        drop(under_way);
        if self.is_idle() {
            self.idle.notify_waiters();
        }
    }

    fn is_idle(&self) -> bool {
        self.complete.get() && self.due.borrow().is_empty() && self.under_way.borrow().is_empty()
    }

    /// Waits until all have had their answer.
    pub(super) async fn answered(&self) {
        while !self.is_idle() {
            self.idle.notified().await;
        }
    }

    /// Since when those wait that have no answer yet.
    pub(super) fn unanswered(&self) -> Vec<Instant> {
        let under_way = self.under_way.borrow();
        let taken = under_way
            .iter()
            .flat_map(|(due, count)| std::iter::repeat_n(*due, *count));
        taken.chain(self.due.borrow().iter().copied()).collect()
    }
}

/// Makes so many requests a second due, evenly, until a moment.
///
/// Its clock is a thread of its own that sleeps: the runtime's timers count in milliseconds, and would make several requests
/// due at once that should come one by one.
pub(super) async fn pace(queue: Rc<Queue>, rate: u32, start: Instant, until: Instant) -> io::Result<()> {
    let (say, mut hear) = unbounded_channel();
    thread::Builder::new().name("pace".to_owned()).spawn(move || {
        let moments = (0_u32..).map(|count| start + Duration::from_secs_f64(f64::from(count) / f64::from(rate)));
        for due in moments.take_while(|due| *due < until) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if say.send(due).is_err() {
                break;
            }
        }
    })?;
    while let Some(due) = hear.recv().await {
        queue.due.borrow_mut().push_back(due);
        queue.ready.add_permits(1);
    }
    queue.complete.set(true);
    queue.idle.notify_waiters();
    Ok(())
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_become_due_at_the_rate_whoever_takes_them() {
        let queue = Rc::new(Queue::new());
        let start = Instant::now();
        pace(Rc::clone(&queue), 1000, start, start + Duration::from_millis(50))
            .await
            .expect("a timer");
        let due = queue.unanswered();
        assert_eq!(due.len(), 50);
        let apart = due.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(apart.into_iter().all(|gap| gap.as_micros().abs_diff(1000) <= 1));
    }

    #[tokio::test]
    async fn who_was_taken_is_waited_for() {
        let queue = Queue::new();
        let due = Instant::now();
        queue.due.borrow_mut().extend([due, due]);
        queue.ready.add_permits(2);
        queue.complete.set(true);
        assert_eq!(queue.take().await, due);
        assert_eq!(queue.unanswered(), [due, due]);
        queue.done(due);
        assert_eq!(queue.unanswered(), [due]);
        assert!(!queue.is_idle());
        queue.take().await;
        queue.done(due);
        queue.answered().await;
    }
}
