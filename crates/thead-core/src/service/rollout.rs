//! Reload: how a generation takes over.

use std::time::Instant;

use super::change::{Course, Kind};
use super::{AbortCause, Action, Answer, Event, Holder, Seat, Service, Why};
use crate::id::{Generation, Ticket, WorkerId};
use crate::worker::{Phase, State, Worker};

/// A reload under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rollout {
    pub(super) generation: Generation,
    stage: Stage,
}

/// ```text
/// Replacing ──every slot is held by the new generation──► Settling ──the old one is gone──► done
///     └──one of the new generation fails──► aborted
/// ```
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Candidates come; `proven` as soon as one of them has lived through the soak.
    Replacing { proven: bool },
    /// The old generation drains.
    Settling,
}

impl Rollout {
    /// There is a way back.
    pub(super) fn may_be_refused(&self) -> bool {
        matches!(self.stage, Stage::Replacing { .. })
    }

    /// None of its workers has lived through the soak.
    fn is_unproven(&self) -> bool {
        matches!(self.stage, Stage::Replacing { proven: false })
    }
}

impl Service {
    pub(super) fn reload(&mut self, now: Instant, ticket: Ticket) {
        let generation = self.next_generation(ticket);
        let stage = Stage::Replacing { proven: false };
        self.course = Some(Course {
            ticket,
            begun: now,
            kind: Kind::Reload(Rollout { generation, stage }),
        });
        self.emit(Event::ReloadStarted { generation });
    }

    fn rollout(&self) -> Option<Rollout> {
        match self.course?.kind {
            Kind::Reload(rollout) => Some(rollout),
            Kind::Restart(_) | Kind::Renew(_) => None,
        }
    }

    /// A generation is on its way and may still be refused: it fills the empty slots.
    pub(super) fn is_rolling_out(&self) -> bool {
        self.rollout().is_some_and(|rollout| rollout.may_be_refused())
    }

    /// Another generation is on its way, or has just taken over.
    pub(super) fn is_reloading(&self) -> bool {
        self.rollout().is_some()
    }

    /// A candidate that is ready now is watched for a while.
    pub(super) fn soaks(&self) -> bool {
        self.rollout().is_some_and(|rollout| rollout.is_unproven())
    }

    /// Takes the next step of a reload; false if there is none.
    pub(super) fn roll(&mut self, now: Instant, course: Course, rollout: Rollout) -> bool {
        let Rollout { generation, stage } = rollout;
        let took = now.saturating_duration_since(course.begun);
        match stage {
            Stage::Replacing { proven } => {
                if !self.seats.iter().all(|seat| self.holds(seat, generation)) {
                    return self.make_room(now, generation, proven) | self.fill(generation);
                }
                let stage = Stage::Settling;
                self.course = Some(Course {
                    kind: Kind::Reload(Rollout { generation, stage }),
                    ..course
                });
                self.generation = generation;
                self.budget.refill();
                self.emit(Event::ReloadServing { generation, took });
            }
            Stage::Settling => {
                let is_gone = |worker: &Worker| worker.generation == generation || worker.stuck();
                if !self.workers.values().all(is_gone) {
                    return false;
                }
                self.course = None;
                self.answer(course.ticket, Answer::Done);
                self.emit(Event::ReloadDone { generation, took });
            }
        }
        true
    }

    /// Lets as many of the old generation go as may be missed; false if none. Nobody is missed for a generation that is not
    /// proven.
    fn make_room(&mut self, now: Instant, generation: Generation, proven: bool) -> bool {
        let unavailable = self.seats.iter().filter(|seat| !self.serves(seat)).count();
        let spare = self.config.reload.max_unavailable.saturating_sub(unavailable);
        if !proven || spare == 0 {
            return false;
        }
        let old: Vec<usize> = (0..self.seats.len())
            .filter(|seat| {
                let seat = &self.seats[*seat];
                seat.candidate.is_none() && self.serves(seat) && !self.holds(seat, generation)
            })
            .take(spare)
            .collect();
        for seat in &old {
            let holder = std::mem::replace(&mut self.seats[*seat].holder, Holder::Vacant);
            if let Holder::Worker(id) = holder {
                self.leave(now, id, Why::Replaced);
            }
        }
        !old.is_empty()
    }

    /// Spawns as many candidates as the surge allows, first where nobody serves; false if none.
    fn fill(&mut self, generation: Generation) -> bool {
        let staying = self.workers.values().filter(|worker| !worker.leaving()).count();
        let room = (self.seats.len() + self.config.reload.surge).saturating_sub(staying);
        let mut open: Vec<usize> = (0..self.seats.len())
            .filter(|seat| self.seats[*seat].candidate.is_none() && !self.holds(&self.seats[*seat], generation))
            .collect();
        open.sort_by_key(|seat| self.staying(&self.seats[*seat]).is_some());
        open.truncate(room);
        for seat in &open {
            self.seats[*seat].candidate = Some(self.spawn(*seat, generation, true));
        }
        !open.is_empty()
    }

    /// The holder of a seat, if it has not been told to leave.
    fn staying(&self, seat: &Seat) -> Option<&Worker> {
        let Holder::Worker(id) = &seat.holder else { return None };
        self.workers.get(id).filter(|worker| !worker.leaving())
    }

    fn serves(&self, seat: &Seat) -> bool {
        self.staying(seat)
            .is_some_and(|worker| matches!(worker.state, State::Ready))
    }

    fn holds(&self, seat: &Seat, generation: Generation) -> bool {
        self.staying(seat).is_some_and(|worker| worker.generation == generation)
    }

    /// A candidate has proven itself: it takes the seat, and only now the old one may go.
    pub(super) fn promote(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let slot = worker.slot;
        worker.state = State::Ready;
        let seat = &mut self.seats[slot.0 as usize];
        seat.candidate = None;
        seat.deaths = 0;
        seat.listened |= worker.listened;
        let old = std::mem::replace(&mut seat.holder, Holder::Worker(id));
        match self.course.as_mut().map(|course| &mut course.kind) {
            Some(Kind::Reload(Rollout {
                stage: Stage::Replacing { proven },
                ..
            })) => *proven = true,
            Some(Kind::Renew(renewal)) => *renewal = renewal.promoted(),
            _ => {}
        }
        let replaces = if let Holder::Worker(old) = old { Some(old) } else { None };
        self.actions.push_back(Action::Open { worker: id });
        self.emit(Event::Opened {
            worker: id,
            slot,
            replaces,
        });
        if let Some(old) = replaces {
            self.leave(now, old, Why::Replaced);
        }
    }

    /// Says that a generation was refused, and what runs.
    pub(super) fn report_refused(&mut self, generation: Generation, cause: AbortCause) {
        let mut running: Vec<(Generation, usize)> = Vec::new();
        for worker in self
            .workers
            .values()
            .filter(|worker| worker.phase() == Phase::Ready && worker.fault.is_none())
        {
            match running
                .iter_mut()
                .find(|(generation, _)| *generation == worker.generation)
            {
                Some((_, count)) => *count += 1,
                None => running.push((worker.generation, 1)),
            }
        }
        running.sort_unstable();
        self.emit(Event::ReloadAborted {
            generation,
            cause,
            running,
        });
    }

    /// Adds workers, or lets those in the highest slots go.
    pub(super) fn resize(&mut self, now: Instant, instances: usize) {
        let from = self.seats.len();
        for seat in from..instances {
            let worker = self.spawn(seat, self.generation, false);
            self.seats.push(Seat {
                holder: Holder::Worker(worker),
                candidate: None,
                deaths: 0,
                restarts: 0,
                listened: false,
            });
        }
        for seat in self.seats.split_off(instances).iter().rev() {
            if let Holder::Worker(worker) = seat.holder {
                self.leave(now, worker, Why::ScaledDown);
            }
        }
    }
}
