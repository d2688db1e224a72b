//! What others can see of a service.

use std::time::Instant;

use super::{Holder, Life, Order, Outcome, Seat, Service};
use crate::id::Generation;
use crate::worker::{Slot, View};

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Not all of its workers are ready yet; none of those that are not has failed.
    Starting,
    /// Every slot has a ready worker, or one that has done what it was for.
    Ready,
    /// Somebody is missing who should serve.
    Degraded,
    /// It was told to stop.
    Stopping,
    /// Nobody tries any more; what is left of it leaves.
    Failed,
    /// It is over.
    Ended,
}

impl Service {
    /// How many instances are wanted; none before the start.
    pub fn instances(&self) -> usize {
        self.seats.len()
    }

    /// What a restart runs: the newest generation that has served in every slot.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// All living workers, and those about to live, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = View> {
        self.workers.iter().map(|(id, worker)| View {
            worker: *id,
            slot: worker.slot,
            generation: worker.generation,
            pid: worker.process.map(|process| process.pid),
            started: worker.process.map(|process| process.since),
            ready: worker.ready,
            phase: worker.phase(),
        })
    }

    /// Who serves in slot 0, 1, …, or what is being waited for.
    pub fn slots(&self) -> impl Iterator<Item = &Holder> {
        self.seats.iter().map(|seat| &seat.holder)
    }

    /// How often the worker in a slot was restarted since the slot came to be.
    pub fn restarts(&self, slot: Slot) -> u32 {
        self.seats.get(slot.0 as usize).map_or(0, |seat| seat.restarts)
    }

    /// What is under way: the order, and since when.
    pub fn change(&self) -> Option<(Order, Instant)> {
        self.course.map(|course| (course.kind.order(), course.begun))
    }

    /// How it stands.
    pub fn condition(&self) -> Condition {
        match &self.life {
            Life::New => return Condition::Starting,
            Life::Ending(Outcome::Failed { .. }) => return Condition::Failed,
            Life::Ending(_) => return Condition::Stopping,
            Life::Finished => return Condition::Ended,
            Life::Running => {}
        }
        let settled = self.seats.iter().filter(|seat| self.has_settled(&seat.holder)).count();
        let is_coming = |seat: &Seat| {
            let fresh = match seat.holder {
                Holder::Worker(id) => self.workers.get(&id).is_some_and(|worker| worker.ready.is_none()),
                Holder::Vacant | Holder::Done => true,
                Holder::Waiting { .. } | Holder::GivenUp(_) => false,
            };
            seat.deaths == 0 && fresh || self.has_settled(&seat.holder)
        };
        match () {
            () if settled == self.seats.len() => Condition::Ready,
            () if self.seats.iter().all(is_coming) => Condition::Starting,
            () => Condition::Degraded,
        }
    }
}
