//! Restart: all workers, or one, are started anew when the old ones are gone.

use std::time::Instant;

use super::change::{Course, Kind};
use super::{Answer, Event, Holder, Service, Why};
use crate::id::{Ticket, WorkerId};
use crate::worker::{Slot, Worker};

/// A restart under way.
///
/// ```text
/// Leaving ──all are gone──► Starting ──all are ready──► done
///                               └──one fails before it is ready──► aborted
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) struct Anew {
    /// One slot, or all.
    pub(super) slot: Option<Slot>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// This one leaves, or all do.
    Leaving(Option<WorkerId>),
    Starting,
}

impl Anew {
    /// The old workers are not gone.
    pub(super) fn waits(&self) -> bool {
        matches!(self.stage, Stage::Leaving(_))
    }

    /// A new worker comes into this slot.
    pub(super) fn concerns(&self, slot: Slot) -> bool {
        self.slot.is_none_or(|one| one == slot)
    }
}

impl Service {
    pub(super) fn restart(&mut self, now: Instant, ticket: Ticket) {
        self.generation = self.next_generation(ticket);
        self.begin_anew(now, ticket, None, None);
        for seat in &mut self.seats {
            seat.holder = Holder::Vacant;
        }
        for id in self.ids() {
            self.leave(now, id, Why::Restarted);
        }
        // It is on trial as at its first start.
        (self.proven, self.failed_starts) = (false, 0);
        self.budget.refill();
    }

    pub(super) fn restart_worker(&mut self, now: Instant, ticket: Ticket, slot: Slot, worker: Option<WorkerId>) {
        self.begin_anew(now, ticket, Some(slot), worker);
        self.seats[slot.0 as usize].holder = Holder::Vacant;
        if let Some(worker) = worker {
            self.leave(now, worker, Why::Restarted);
        }
    }

    fn begin_anew(&mut self, now: Instant, ticket: Ticket, slot: Option<Slot>, worker: Option<WorkerId>) {
        let stage = Stage::Leaving(worker);
        self.course = Some(Course {
            ticket,
            begun: now,
            kind: Kind::Restart(Anew { slot, stage }),
        });
        self.emit(Event::RestartStarted {
            slot,
            generation: self.generation,
        });
    }

    /// Takes the next step of a restart; false if there is none.
    pub(super) fn start_anew(&mut self, now: Instant, course: Course, anew: Anew) -> bool {
        let Anew { slot, stage } = anew;
        let mut seats = (0..self.seats.len()).filter(|seat| anew.concerns(Slot(*seat as u32)));
        match stage {
            Stage::Leaving(worker) => {
                let is_waited_for = |(id, other): (&WorkerId, &Worker)| match slot {
                    Some(_) => worker == Some(*id) && !other.stuck(),
                    None => !other.stuck(),
                };
                if self.workers.iter().any(is_waited_for) {
                    return false;
                }
                for seat in seats.collect::<Vec<_>>() {
                    let worker = self.spawn(seat, self.generation, false);
                    let seat = &mut self.seats[seat];
                    (seat.holder, seat.deaths) = (Holder::Worker(worker), 0);
                    // What is new may not be a server any more.
                    seat.listened &= slot.is_some();
                }
                let stage = Stage::Starting;
                self.course = Some(Course {
                    kind: Kind::Restart(Anew { slot, stage }),
                    ..course
                });
            }
            Stage::Starting => {
                if !seats.all(|seat| self.has_settled(&self.seats[seat].holder)) {
                    return false;
                }
                self.course = None;
                self.answer(course.ticket, Answer::Done);
                let took = now.saturating_duration_since(course.begun);
                self.emit(Event::RestartDone { slot, took });
            }
        }
        true
    }
}
