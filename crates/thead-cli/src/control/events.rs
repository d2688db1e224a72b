//! What happened, for whoever watches: the last of it is kept, nobody is waited for.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thead::control::Event;
use tokio::sync::broadcast;

use crate::told::millis_now;

/// Events that are remembered for those who ask what was before.
const REMEMBERED: usize = 1024;
/// Events that a watcher may be behind; then it misses some, and is told so.
const BEHIND: usize = 1024;

#[derive(Debug)]
pub(crate) struct Journal {
    past: Mutex<Past>,
    live: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Past {
    last: u64,
    events: VecDeque<Event>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            // Above those of any daemon before, so that who was told of those misses nothing of this one.
            past: Mutex::new(Past {
                last: millis_now(),
                events: VecDeque::new(),
            }),
            live: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Journal {
    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an event and tells it to all who watch.
    pub(crate) fn tell(&self, mut event: Event) {
        let mut past = self.past();
        past.last += 1;
        event.id = past.last;
        if past.events.len() == REMEMBERED {
            past.events.pop_front();
        }
        past.events.push_back(event.clone());
        // Under the lock, so that nobody who watches misses one or sees it twice.
        let _ = self.live.send(event);
    }

    /// All events from now on, and those after `since` that are remembered.
    pub(crate) fn watch(&self, since: Option<u64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past();
        let known = past.events.iter().filter(|event| since.is_some_and(|id| event.id > id));
        (known.cloned().collect(), self.live.subscribe())
    }

    /// The last events of a service, newest first.
    pub(crate) fn of(&self, service: &str, most: usize) -> Vec<Event> {
        let past = self.past();
        let events = past.events.iter().rev().filter(|event| event.service == service);
        events.take(most).cloned().collect()
    }
}
