//! A cluster primary: who serves which listener, who gets the next connection, offers not answered.

use std::collections::VecDeque;
use std::time::Instant;

mod bind;
mod input;

pub use bind::{BindSpec, Host};
pub use input::{Action, Config, Event, Handle, Input, LeaveBy, ListenAddress, LocalAddress, Scheduling};

use crate::id::ListenerId;

/// The primary of one service, as a machine: inputs in, actions out, no socket and no clock.
#[derive(Debug)]
pub struct Primary {
    config: Config,
    actions: VecDeque<Action>,
}

impl Primary {
    /// A primary without workers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            actions: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn input(&mut self, now: Instant, input: Input) {
        let _ = (now, input);
    }

    /// Time passed.
    pub fn advance(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Primary::advance`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How many connections the driver may accept here now; the rest waits in the kernel's backlog. 0 for shared listeners,
    /// and when nobody can take one.
    pub fn may_accept(&self, listener: ListenerId) -> usize {
        let _ = (listener, self.config.window);
        0
    }
}
