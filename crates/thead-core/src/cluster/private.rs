//! A connection for one worker alone, by which it is asked how it is.

use std::time::Instant;

use super::listener::Listener;
use super::member::Waiting;
use super::{LocalAddress, Primary};
use crate::id::{ConnId, ListenerId, WorkerId};

/// Whether a worker can be handed a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Yes, as if it had come in here.
    At(ListenerId),
    /// Not now: others listen on such a port, and it does not.
    NotListening,
    /// No: nobody listens on such a port by the primary.
    Nowhere,
}

impl Primary {
    /// Whether a worker can be handed a connection of its own to this TCP port, or to any that it listens on for port 0.
    /// However connections are scheduled: who accepts by itself takes what it is handed as well.
    pub fn private(&self, worker: WorkerId, port: u16) -> Private {
        let fits = |listener: &Listener| match listener.local() {
            Some(LocalAddress::Ip(local)) => !listener.spec.is_udp() && (port == 0 || local.port() == port),
            Some(LocalAddress::Unix(_)) | None => false,
        };
        let member = self.members.get(worker).filter(|member| !member.is_leaving());
        let mut held = member.into_iter().flat_map(|member| member.keys.values());
        let fitting = held.find(|id| self.listeners.get(id).is_some_and(fits));
        match fitting {
            Some(id) => Private::At(*id),
            None if self.listeners.values().any(fits) => Private::NotListening,
            None => Private::Nowhere,
        }
    }

    pub(super) fn hand_private(&mut self, now: Instant, worker: WorkerId, listener: ListenerId, conn: ConnId) {
        let waiting = Waiting {
            private: true,
            ..Waiting::new(conn)
        };
        let place = self.members.place(worker);
        let handed = place.is_some_and(|place| self.hand(now, listener, place, waiting));
        if !handed {
            self.release(conn);
        }
    }
}
