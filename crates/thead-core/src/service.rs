//! The life of one service: how many workers, which are ready, who replaces whom, and when it is over.
//!
//! ```text
//! New ──Start──► Running ──Stop, or never ready──► Ending ──nobody left──► Finished
//!                   └──every slot done or given up, nobody left──────────────▲
//! ```
//!
//! - Each slot has a holder: the worker that serves there, or is to serve there. A holder that dies unasked is replaced
//!   after a delay, as the restart policy and the budget of the service allow; its siblings are not touched. A slot that
//!   got no restart stays empty, the others serve on; the service has failed when nobody is left.
//! - A reload brings a candidate into a slot beside its holder. Once proven it becomes the holder, and only then the old one
//!   is told to drain. A candidate that fails ends the reload, and all candidates with it; whoever serves then, serves on.
//! - A renewal does the same to one worker, without another generation. A restart lets the old ones go first: a gap.
//! - One change at a time: what is ordered during a change waits. Only a stop does not. Each order is answered once.
//! - Whoever runs and is told to leave is gone, or reported as stuck, within `drain` + `timeout` + [`UNKILLABLE`]. One that
//!   is told before it runs is waited for [`UNKILLABLE`] at first.

mod anew;
mod change;
mod config;
mod event;
mod leave;
mod order;
mod readiness;
mod renew;
mod rollout;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub use config::{Config, ConfigError, MAX_INSTANCES, MAX_SPAN, Ready, Reload, SETTLED, Stop};
pub use event::{Action, Event, Failure, GiveUp, Input, Outcome, Why};
pub use leave::{ABORT_GRACE, DISCONNECT_GRACE, UNKILLABLE};
pub use order::{AbortCause, Answer, Order, Refusal};
pub use readiness::EXTENSION;
pub use view::Condition;

use change::{Course, Errand, Growth};

use crate::id::{Generation, Ticket, WorkerId};
use crate::restart::{Budget, Policy, Random};
use crate::worker::{Exit, Slot, State, Worker};

/// A service that was never ready is given up when this many starts failed, counted over all of its workers: a broken program
/// shall be told at once, not after the budget.
pub const FAILED_STARTS: usize = 3;

/// The decisions about one service.
///
/// Feed it with [`input`](Self::input), obey [`poll`](Self::poll) until it is empty, and call [`advance`](Self::advance)
/// no later than [`deadline`](Self::deadline). `now` must not go back. What one input leads to is bounded by the number of
/// workers, so the queue of actions is too, if it is polled empty each time.
#[derive(Debug)]
pub struct Service {
    config: Config,
    life: Life,
    /// What a restart runs: the newest generation that has served in every slot.
    generation: Generation,
    /// The highest that was ever given to a worker.
    newest: Generation,
    course: Option<Course>,
    /// The reload or restart that comes after it.
    next: Option<(Ticket, Order)>,
    errands: VecDeque<Errand>,
    scale_queued: Option<(Ticket, usize)>,
    growth: Option<Growth>,
    stops: Vec<Ticket>,
    seats: Vec<Seat>,
    workers: BTreeMap<WorkerId, Worker>,
    last_worker: u32,
    /// Some worker was ready once, since the start or the last restart of all.
    proven: bool,
    failed_starts: usize,
    budget: Budget,
    random: Random,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum Life {
    New,
    Running,
    Ending(Outcome),
    Finished,
}

/// What belongs to a slot, whoever serves there.
#[derive(Debug)]
struct Seat {
    holder: Holder,
    /// The worker of a new generation that is to become the holder.
    candidate: Option<WorkerId>,
    /// Deaths since somebody lived well here.
    deaths: u32,
    /// Restarts, ever.
    restarts: u32,
    /// A holder has listened.
    listened: bool,
}

/// Who serves in a slot, or why nobody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This one, in whatever phase it is.
    Worker(WorkerId),
    /// Its worker died; the next is spawned then, or by the reload that is under way.
    Waiting {
        /// When.
        until: Instant,
    },
    /// Nobody, until the change under way brings somebody.
    Vacant,
    /// Its worker exited and the policy does not want it back.
    Done,
    /// Its worker died and there is no restart left.
    GivenUp(GiveUp),
}

/// What a deadline is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Worker(WorkerId),
    Seat(usize),
}

impl Service {
    /// A service that has not started.
    ///
    /// # Errors
    ///
    /// What [`Config::validate`] says.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            life: Life::New,
            generation: Generation(1),
            newest: Generation(1),
            course: None,
            next: None,
            errands: VecDeque::new(),
            scale_queued: None,
            growth: None,
            stops: Vec::new(),
            seats: Vec::new(),
            workers: BTreeMap::new(),
            last_worker: 0,
            proven: false,
            failed_starts: 0,
            budget: Budget::default(),
            random: Random(config.seed),
            actions: VecDeque::new(),
            config,
        })
    }

    /// Something happened.
    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Started { worker, pid, channel } => self.started(now, worker, pid, channel),
            Input::SpawnFailed { worker, reason } => self.spawn_failed(now, worker, reason),
            Input::Online { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.online = true;
                }
            }
            Input::Listening { worker } => self.listening(now, worker),
            Input::SaidReady { worker } => self.said_ready(now, worker),
            Input::Extend { worker, by } => self.extend(now, worker, by),
            Input::Unhealthy { worker, reason } => self.unhealthy(now, worker, reason),
            Input::Drained { worker } => self.drained(now, worker),
            Input::Disconnected { worker } => self.disconnected(now, worker),
            Input::Exited { worker, status, oom } => self.exited(now, worker, status, oom),
            Input::Order { ticket, order } => self.order(now, ticket, order),
        }
        self.advance(now);
    }

    /// Time passed.
    pub fn advance(&mut self, now: Instant) {
        loop {
            while let Some((_, alarm)) = self.alarms().min().filter(|(at, _)| *at <= now) {
                match alarm {
                    Alarm::Worker(worker) => self.expire(now, worker),
                    Alarm::Seat(seat) => {
                        let worker = self.spawn(seat, self.generation, false);
                        let seat = &mut self.seats[seat];
                        (seat.holder, seat.restarts) = (Holder::Worker(worker), seat.restarts.saturating_add(1));
                    }
                }
            }
            if !self.settle(now) {
                return;
            }
        }
    }

    /// Call [`advance`](Self::advance) no later than this. After any call with `now` it is later than `now`.
    pub fn deadline(&self) -> Option<Instant> {
        self.alarms().map(|(at, _)| at).min()
    }

    /// Something to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The deadline of a worker has passed.
    fn expire(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match &mut worker.state {
            State::Ready => {}
            State::Starting { .. } => self.late(now, id),
            State::Soaking { .. } => self.promote(now, id),
            State::Disconnected { .. } => self.fault(now, id, Failure::Disconnected),
            State::Draining { drained: true, .. } => self.terminate(now, id, Why::Drained),
            State::Draining { .. } => self.terminate(now, id, Why::DrainTimeout),
            State::Terminating { .. } => self.kill(now, id, Why::StopTimeout),
            State::Spawning { doom } => {
                if let Some(doom) = doom {
                    doom.deadline = None;
                }
                self.emit(Event::Stuck { worker: id });
            }
            State::Killed { deadline } => {
                *deadline = None;
                let (slot, fault) = (worker.slot, worker.fault.clone());
                self.emit(Event::Stuck { worker: id });
                // Its slot stays taken, so nobody will come.
                if let Some(failure) = fault
                    && self
                        .seats
                        .get(slot.0 as usize)
                        .is_some_and(|seat| seat.holder == Holder::Worker(id))
                {
                    self.disappoint(slot, &AbortCause::Failed { worker: id, failure });
                }
            }
        }
    }

    fn exited(&mut self, now: Instant, id: WorkerId, status: Exit, oom: bool) {
        let Some(mut worker) = self.workers.remove(&id) else {
            return;
        };
        if matches!(self.life, Life::Finished) {
            return;
        }
        let uptime = worker
            .process
            .map_or(Duration::ZERO, |process| now.saturating_duration_since(process.since));
        let expected = worker.leaving() && worker.fault.is_none();
        let ended = if oom {
            Failure::OutOfMemory
        } else {
            Failure::Exit(status)
        };
        let failure = worker.fault.take().unwrap_or(ended);
        self.emit(Event::Exited {
            worker: id,
            slot: worker.slot,
            generation: worker.generation,
            status,
            expected,
            failure: (!expected || oom).then(|| failure.clone()),
            uptime,
        });
        self.gone(now, id, &worker, failure);
    }

    /// A worker is no more: does that concern anybody?
    fn gone(&mut self, now: Instant, id: WorkerId, worker: &Worker, failure: Failure) {
        if !matches!(self.life, Life::Running) {
            return;
        }
        if self.is_on_trial(id, worker) {
            self.abort(now, id, failure);
        } else if self
            .seats
            .get(worker.slot.0 as usize)
            .is_some_and(|seat| seat.holder == Holder::Worker(id))
        {
            self.bereave(now, id, worker, failure);
        }
    }

    /// A slot has lost its holder: does it get another?
    fn bereave(&mut self, now: Instant, id: WorkerId, worker: &Worker, failure: Failure) {
        let slot = worker.slot;
        let reloading = self.is_reloading();
        if worker.ready.is_none() {
            let failure = failure.clone();
            self.disappoint(slot, &AbortCause::Failed { worker: id, failure });
        }
        let restart = &self.config.restart;
        let wanted = match restart.policy {
            Policy::Always => true,
            Policy::OnFailure => !matches!(&failure, Failure::Exit(status) if status.success()),
            Policy::Never => false,
        };
        let seat = &mut self.seats[slot.0 as usize];
        if !wanted {
            seat.holder = Holder::Done;
            return self.emit(Event::NotRestarted { worker: id, slot });
        }
        if !self.proven && !reloading {
            self.failed_starts += 1;
            if self.failed_starts >= FAILED_STARTS {
                return self.fail(
                    now,
                    GiveUp::NeverReady {
                        starts: FAILED_STARTS,
                        last: failure,
                    },
                );
            }
        }
        if worker
            .ready
            .is_some_and(|ready| now.saturating_duration_since(ready) >= restart.reset_after)
        {
            seat.deaths = 0;
        }
        seat.deaths = seat.deaths.saturating_add(1);
        match self.budget.take(now, &restart.intensity) {
            Some(restarts) => {
                let delay = restart.backoff.delay(seat.deaths, &mut self.random);
                seat.holder = Holder::Waiting { until: now + delay };
                self.emit(Event::RestartScheduled {
                    worker: id,
                    slot,
                    failure,
                    delay,
                    restarts,
                });
            }
            None => {
                let intensity = restart.intensity;
                let reason = GiveUp::TooManyRestarts {
                    restarts: intensity.restarts,
                    period: intensity.period,
                    last: failure,
                };
                seat.holder = Holder::GivenUp(reason.clone());
                let cause = AbortCause::GivenUp {
                    slot,
                    reason: reason.clone(),
                };
                self.disappoint(slot, &cause);
                self.emit(Event::GaveUp { slot, reason });
            }
        }
    }

    /// Takes the next step that waits for no event of its own; false if there is none.
    fn settle(&mut self, now: Instant) -> bool {
        match &self.life {
            Life::New | Life::Finished => false,
            Life::Ending(outcome) => {
                let over = self.workers.values().all(Worker::stuck);
                if over {
                    let outcome = outcome.clone();
                    self.finish(outcome);
                }
                over
            }
            Life::Running => self.proceed(now) || self.close(),
        }
    }

    /// Ends the service if nobody is left and nobody will come.
    fn close(&mut self) -> bool {
        let ended = |seat: &Seat| matches!(seat.holder, Holder::Done | Holder::GivenUp(_));
        if !self.seats.iter().all(ended) || !self.workers.values().all(Worker::stuck) {
            return false;
        }
        let reason = self.seats.iter().find_map(|seat| match &seat.holder {
            Holder::GivenUp(reason) => Some(reason.clone()),
            _ => None,
        });
        match reason {
            Some(reason) => {
                self.emit(Event::Failed { reason: reason.clone() });
                self.finish(Outcome::Failed { reason });
            }
            None => self.finish(Outcome::Done),
        }
        true
    }

    fn finish(&mut self, outcome: Outcome) {
        self.call_off();
        for ticket in std::mem::take(&mut self.stops) {
            self.answer(ticket, Answer::Done);
        }
        self.life = Life::Finished;
        self.actions.push_back(Action::Finish(outcome));
    }

    fn spawn(&mut self, seat: usize, generation: Generation, gated: bool) -> WorkerId {
        self.last_worker += 1;
        let (worker, slot) = (WorkerId(self.last_worker), Slot(seat as u32));
        self.workers.insert(worker, Worker::new(slot, generation));
        self.actions.push_back(Action::Spawn {
            worker,
            slot,
            generation,
            gated,
        });
        worker
    }

    fn alarms(&self) -> impl Iterator<Item = (Instant, Alarm)> {
        let finished = matches!(self.life, Life::Finished);
        // While a generation is on its way, it fills the empty slots.
        let restarting = matches!(self.life, Life::Running) && !self.is_rolling_out();
        let workers = self
            .workers
            .iter()
            .filter_map(|(id, worker)| Some((worker.deadline()?, Alarm::Worker(*id))));
        let seats = self
            .seats
            .iter()
            .enumerate()
            .filter_map(|(number, seat)| match seat.holder {
                Holder::Waiting { until } if seat.candidate.is_none() => Some((until, Alarm::Seat(number))),
                _ => None,
            });
        workers
            .filter(move |_| !finished)
            .chain(seats.filter(move |_| restarting))
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Emit(event));
    }
}
