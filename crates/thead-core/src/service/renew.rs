//! Renewal: one worker is replaced by another of the same kind, new before old.

use std::time::Instant;

use super::change::{Course, Kind};
use super::{Answer, Event, Service};
use crate::id::{Ticket, WorkerId};
use crate::worker::Slot;

/// A renewal under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    pub(super) slot: Slot,
    old: WorkerId,
    pub(super) candidate: WorkerId,
    /// The candidate serves.
    promoted: bool,
}

impl Renewal {
    /// The new one has not proven itself.
    pub(super) fn may_be_refused(&self) -> bool {
        !self.promoted
    }

    /// The new one has.
    pub(super) fn promoted(self) -> Self {
        Self { promoted: true, ..self }
    }
}

impl Service {
    pub(super) fn renew(&mut self, now: Instant, ticket: Ticket, slot: Slot, old: WorkerId) {
        self.emit(Event::RenewStarted { worker: old, slot });
        let candidate = self.spawn(slot.0 as usize, self.generation, true);
        self.seats[slot.0 as usize].candidate = Some(candidate);
        let renewal = Renewal {
            slot,
            old,
            candidate,
            promoted: false,
        };
        self.course = Some(Course {
            ticket,
            begun: now,
            kind: Kind::Renew(renewal),
        });
    }

    /// Ends a renewal when the old worker is gone; false while it is not.
    pub(super) fn finish_renewal(&mut self, now: Instant, course: Course, renewal: Renewal) -> bool {
        let is_gone = self.workers.get(&renewal.old).is_none_or(|old| old.stuck());
        if !renewal.promoted || !is_gone {
            return false;
        }
        self.course = None;
        self.answer(course.ticket, Answer::Done);
        self.emit(Event::RenewDone {
            slot: renewal.slot,
            took: now.saturating_duration_since(course.begun),
        });
        true
    }
}
