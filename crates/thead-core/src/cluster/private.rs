//! A connection for one worker alone, by which it is asked how it is.

use std::time::Instant;

use super::member::Waiting;
use super::{LocalAddress, Primary, Scheduling};
use crate::id::{ConnId, ListenerId, WorkerId};

/// Whether a worker can be handed a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Yes, as if it had come in here.
    At(ListenerId),
    /// Not yet: it does not listen on such a port.
    NotListening,
    /// No: it accepts from the socket itself, as the others do.
    Shared,
}

impl Primary {
    /// Whether a worker can be handed a connection of its own to this TCP port, or to any that it listens on for port 0.
    pub fn private(&self, worker: WorkerId, port: u16) -> Private {
        let Some(member) = self.members.get(worker).filter(|member| !member.is_leaving()) else {
            return Private::NotListening;
        };
        let held = member
            .keys
            .values()
            .filter_map(|id| Some((*id, self.listeners.get(id)?)));
        let mut fitting = held.filter(|(_, listener)| match listener.local() {
            Some(LocalAddress::Ip(local)) => !listener.spec.is_udp() && (port == 0 || local.port() == port),
            Some(LocalAddress::Unix(_)) | None => false,
        });
        match fitting.next() {
            None => Private::NotListening,
            Some((id, listener)) => match listener.scheduling {
                Scheduling::RoundRobin | Scheduling::Sticky => Private::At(id),
                Scheduling::Shared | Scheduling::Kernel => Private::Shared,
            },
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
