//! Reload and scale: how a generation takes over, and how the number of slots changes.

use std::time::Instant;

use super::{AbortCause, Action, Event, Failure, Holder, Life, MAX_INSTANCES, Refusal, Request, Seat, Service, Why};
use crate::id::{Generation, WorkerId};
use crate::worker::{Phase, State, Worker};

/// A reload under way.
#[derive(Debug)]
pub(super) struct Rollout {
    generation: Generation,
    asked: Instant,
    pub(super) stage: Stage,
}

/// ```text
/// Replacing ──every slot is held by the new generation──► Settling ──the old one is gone──► done
///     └──one of the new generation fails──► aborted
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// Candidates come; `soaked` as soon as one of them has lived through the soak.
    Replacing { soaked: bool },
    /// The old generation drains.
    Settling,
}

impl Rollout {
    /// None of its workers has lived through the soak.
    pub(super) fn unproven(&self) -> bool {
        matches!(self.stage, Stage::Replacing { soaked: false })
    }
}

impl Service {
    pub(super) fn reload(&mut self, now: Instant) {
        match self.life {
            Life::New => self.refuse(Request::Reload, Refusal::NotStarted),
            Life::Ending(_) => self.refuse(Request::Reload, Refusal::Stopping),
            Life::Finished => {}
            Life::Running if self.rollout.is_some() => {
                self.reload_queued = true;
                self.emit(Event::ReloadQueued);
            }
            Life::Running => self.begin(now),
        }
    }

    fn begin(&mut self, now: Instant) {
        self.newest = Generation(self.newest.0 + 1);
        self.rollout = Some(Rollout {
            generation: self.newest,
            asked: now,
            stage: Stage::Replacing { soaked: false },
        });
        self.emit(Event::ReloadStarted {
            generation: self.newest,
        });
    }

    /// The generation that is on its way and may still be refused.
    pub(super) fn rolling_out(&self) -> Option<Generation> {
        self.rollout
            .as_ref()
            .filter(|rollout| matches!(rollout.stage, Stage::Replacing { .. }))
            .map(|r| r.generation)
    }

    /// Takes the next step of a reload, or of what waits for its end; false if there is none.
    pub(super) fn proceed(&mut self, now: Instant) -> bool {
        if let Some(Rollout {
            generation,
            asked,
            stage,
        }) = &self.rollout
        {
            let (generation, asked) = (*generation, *asked);
            let took = now.saturating_duration_since(asked);
            if matches!(stage, Stage::Replacing { .. }) {
                if !self.seats.iter().all(|seat| self.holds(seat, generation)) {
                    return self.fill(generation);
                }
                self.rollout = Some(Rollout {
                    generation,
                    asked,
                    stage: Stage::Settling,
                });
                self.generation = generation;
                self.budget.refill();
                self.emit(Event::ReloadServing { generation, took });
                return true;
            }
            if self
                .workers
                .values()
                .all(|worker| worker.generation == generation || worker.stuck())
            {
                self.rollout = None;
                self.emit(Event::ReloadDone { generation, took });
                return true;
            }
        }
        if let Some(instances) = self.scale_queued.take() {
            self.rescale(now, instances);
            return true;
        }
        if self.reload_queued && self.rollout.is_none() {
            self.reload_queued = false;
            self.begin(now);
            return true;
        }
        false
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
        if let Some(Rollout {
            stage: Stage::Replacing { soaked },
            ..
        }) = &mut self.rollout
        {
            *soaked = true;
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

    /// A worker of the new generation failed: the generation is refused. Whoever serves, serves on.
    pub(super) fn abort(&mut self, now: Instant, id: WorkerId, failure: Failure) {
        self.report_abort(AbortCause::Failed {
            worker: id,
            failure: failure.clone(),
        });
        let first = self.config.restart.backoff.first;
        for seat in 0..self.seats.len() {
            let seat = &mut self.seats[seat];
            let candidate = seat.candidate.take();
            if seat.holder == Holder::Worker(id) {
                // Back to the last good generation, and not at the expense of the restart budget.
                seat.holder = Holder::Waiting { until: now + first };
                self.expel(now, id, failure.clone());
            }
            if let Some(candidate) = candidate {
                let why = if candidate == id {
                    Why::Failed(failure.clone())
                } else {
                    Why::ReloadAborted
                };
                self.kill(now, candidate, why);
            }
        }
    }

    /// Ends the reload and says what runs.
    pub(super) fn report_abort(&mut self, cause: AbortCause) {
        let Some(Rollout { generation, .. }) = self.rollout.take() else {
            return;
        };
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

    pub(super) fn scale(&mut self, now: Instant, instances: usize) {
        let refusal = match self.life {
            Life::Finished => return,
            Life::New => Some(Refusal::NotStarted),
            Life::Ending(_) => Some(Refusal::Stopping),
            Life::Running => (!(1..=MAX_INSTANCES).contains(&instances)).then_some(Refusal::OutOfRange),
        };
        if let Some(reason) = refusal {
            self.refuse(Request::Scale(instances), reason);
        } else if self.rolling_out().is_some() {
            self.scale_queued = Some(instances);
            self.emit(Event::ScaleQueued { to: instances });
        } else {
            self.rescale(now, instances);
        }
    }

    fn rescale(&mut self, now: Instant, instances: usize) {
        self.emit(Event::Scaled {
            from: self.seats.len(),
            to: instances,
        });
        self.resize(now, instances);
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
