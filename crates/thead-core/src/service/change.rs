//! One change at a time: the one that is under way, those that wait, and their answers.

use std::time::Instant;

use super::anew::Anew;
use super::renew::Renewal;
use super::rollout::Rollout;
use super::{
    AbortCause, Action, Answer, Config, Event, Failure, Holder, Life, MAX_INSTANCES, Order, Refusal, Service, Why,
};
use crate::id::{Generation, Ticket, WorkerId};
use crate::worker::{Slot, State, Worker};

/// A change under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) ticket: Ticket,
    pub(super) begun: Instant,
    pub(super) kind: Kind,
}

/// What replaces workers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Reload(Rollout),
    Restart(Anew),
    Renew(Renewal),
}

impl Kind {
    /// The order that it carries out.
    pub(super) fn order(&self) -> Order {
        match self {
            Self::Reload(_) => Order::Reload,
            Self::Restart(anew) => anew.slot.map_or(Order::Restart, Order::RestartWorker),
            Self::Renew(renewal) => Order::Renew(renewal.slot),
        }
    }

    /// It may still be refused, or has not put anybody in the place of those it sent away: everything else waits.
    fn holds_up(&self) -> bool {
        match self {
            Self::Reload(rollout) => rollout.may_be_refused(),
            Self::Restart(anew) => anew.waits(),
            Self::Renew(renewal) => renewal.may_be_refused(),
        }
    }
}

/// What concerns one worker and waits for its turn.
#[derive(Debug)]
pub(super) struct Errand {
    ticket: Ticket,
    slot: Slot,
    /// Who served there when it was ordered. Once it has been replaced there is nothing left to do.
    worker: Option<WorkerId>,
    gently: bool,
}

/// Slots that were added, or taken away, and are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    ticket: Ticket,
    /// The first that is new.
    from: usize,
}

/// Orders to stop that may wait for the end. Each is a caller that waits.
const STOPS: usize = 1024;

impl Service {
    pub(super) fn order(&mut self, now: Instant, ticket: Ticket, order: Order) {
        if matches!(self.life, Life::Finished) {
            return;
        }
        if let Some(reason) = self.refusal(&order) {
            self.answer(ticket, Answer::Refused(reason));
            return self.emit(Event::Refused { order, reason });
        }
        match order {
            Order::Start => {
                self.life = Life::Running;
                self.grow(ticket, 0);
                self.resize(now, self.config.instances);
            }
            Order::Reload | Order::Restart => {
                if let Some((old, _)) = self.next.replace((ticket, order.clone())) {
                    self.answer(old, Answer::Superseded);
                }
                self.queued(order, self.course.is_some());
            }
            Order::RestartWorker(slot) | Order::Renew(slot) => {
                let gently = matches!(order, Order::Renew(_));
                self.send(ticket, slot, gently);
                self.queued(order, self.course.is_some() || self.next.is_some());
            }
            Order::Scale(instances) => self.scale(ticket, instances),
            Order::Configure(config) => self.configure(ticket, *config),
            Order::Stop => self.stop(now, ticket),
            Order::StopNow => self.stop_now(now, ticket),
        }
    }

    /// Why this cannot be done.
    fn refusal(&self, order: &Order) -> Option<Refusal> {
        match (&self.life, order) {
            (_, Order::Stop | Order::StopNow) => (self.stops.len() >= STOPS).then_some(Refusal::TooMany),
            (Life::Ending(_) | Life::Finished, _) => Some(Refusal::Stopping),
            (_, Order::Configure(config)) => config.validate().err().map(Refusal::Invalid),
            (Life::New, Order::Start) => None,
            (Life::Running, Order::Start) => Some(Refusal::AlreadyStarted),
            (Life::New, _) => Some(Refusal::NotStarted),
            (Life::Running, Order::Scale(instances)) => {
                (!(1..=MAX_INSTANCES).contains(instances)).then_some(Refusal::OutOfRange)
            }
            (Life::Running, Order::RestartWorker(slot) | Order::Renew(slot)) => {
                (slot.0 as usize >= self.seats.len()).then_some(Refusal::NoSuchSlot)
            }
            (Life::Running, Order::Reload | Order::Restart) => None,
        }
    }

    fn queued(&mut self, order: Order, waits: bool) {
        if waits {
            self.emit(Event::Queued { order });
        }
    }

    /// At most one errand waits for each slot.
    fn send(&mut self, ticket: Ticket, slot: Slot, gently: bool) {
        let errand = Errand {
            ticket,
            slot,
            worker: self.holder(slot),
            gently,
        };
        match self.errands.iter_mut().find(|waiting| waiting.slot == slot) {
            Some(waiting) => {
                let old = std::mem::replace(waiting, errand);
                self.answer(old.ticket, Answer::Superseded);
            }
            None => self.errands.push_back(errand),
        }
    }

    fn holder(&self, slot: Slot) -> Option<WorkerId> {
        match self.seats.get(slot.0 as usize)?.holder {
            Holder::Worker(id) => Some(id),
            _ => None,
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.actions.push_back(Action::Answer { ticket, answer });
    }

    /// Takes the next step of what is under way, or begins what waits; false if there is none.
    pub(super) fn proceed(&mut self, now: Instant) -> bool {
        if let Some(course) = self.course
            && self.step(now, course)
        {
            return true;
        }
        if self.course.is_none_or(|course| !course.kind.holds_up())
            && let Some((ticket, instances)) = self.scale_queued.take()
        {
            self.rescale(now, ticket, instances);
            return true;
        }
        if self.course.is_none() {
            if let Some((ticket, order)) = self.next.take() {
                match order {
                    Order::Restart => self.restart(now, ticket),
                    _ => self.reload(now, ticket),
                }
                return true;
            }
            if let Some(errand) = self.errands.pop_front() {
                self.run(now, &errand);
                return true;
            }
        }
        self.has_grown()
    }

    fn step(&mut self, now: Instant, course: Course) -> bool {
        match course.kind {
            Kind::Reload(rollout) => self.roll(now, course, rollout),
            Kind::Restart(anew) => self.start_anew(now, course, anew),
            Kind::Renew(renewal) => self.finish_renewal(now, course, renewal),
        }
    }

    /// A generation that was never before, for an order to replace all.
    pub(super) fn next_generation(&mut self, ticket: Ticket) -> Generation {
        self.newest = Generation(self.newest.0 + 1);
        self.actions.push_back(Action::Begin {
            ticket,
            generation: self.newest,
            base: self.generation,
        });
        self.newest
    }

    fn run(&mut self, now: Instant, errand: &Errand) {
        let Errand {
            ticket,
            slot,
            worker,
            gently,
        } = *errand;
        if self.seats.len() <= slot.0 as usize {
            return self.answer(ticket, Answer::Refused(Refusal::NoSuchSlot));
        }
        if self.holder(slot) != worker {
            return self.answer(ticket, Answer::Done);
        }
        let stays = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| !worker.leaving());
        match worker.filter(stays) {
            Some(old) if gently => self.renew(now, ticket, slot, old),
            _ => self.restart_worker(now, ticket, slot, worker),
        }
    }

    /// Whether the failure of this worker is the end of the change under way.
    pub(super) fn is_on_trial(&self, id: WorkerId, worker: &Worker) -> bool {
        match self.course.map(|course| course.kind) {
            Some(Kind::Reload(rollout)) => rollout.may_be_refused() && worker.generation == rollout.generation,
            Some(Kind::Renew(renewal)) => renewal.may_be_refused() && id == renewal.candidate,
            Some(Kind::Restart(_)) | None => false,
        }
    }

    /// One whom a change had brought failed, and the change with it. Whoever serves, serves on.
    pub(super) fn abort(&mut self, now: Instant, id: WorkerId, failure: Failure) {
        self.report_abort(&AbortCause::Failed {
            worker: id,
            failure: failure.clone(),
        });
        let first = self.config.restart.backoff.first;
        for seat in 0..self.seats.len() {
            let seat = &mut self.seats[seat];
            let candidate = seat.candidate.take();
            if seat.holder == Holder::Vacant {
                seat.holder = Holder::Waiting { until: now };
            }
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

    /// Ends the change under way and says so.
    fn report_abort(&mut self, cause: &AbortCause) {
        let Some(Course { ticket, kind, .. }) = self.course.take() else {
            return;
        };
        let cause = cause.clone();
        self.answer(ticket, Answer::Aborted(cause.clone()));
        match kind {
            Kind::Reload(rollout) => self.report_refused(rollout.generation, cause),
            Kind::Restart(anew) => self.emit(Event::RestartAborted { slot: anew.slot, cause }),
            Kind::Renew(renewal) => self.emit(Event::RenewAborted {
                slot: renewal.slot,
                cause,
            }),
        }
    }

    /// A worker failed before it was ever ready, or a slot is given up. What had put it there has come to nothing; the
    /// restart policy goes on.
    pub(super) fn disappoint(&mut self, slot: Slot, cause: &AbortCause) {
        if let Some(Kind::Restart(anew)) = self.course.map(|course| course.kind)
            && anew.concerns(slot)
        {
            self.report_abort(cause);
        }
        if let Some(growth) = self.growth.filter(|growth| growth.from <= slot.0 as usize) {
            self.growth = None;
            self.answer(growth.ticket, Answer::Aborted(cause.clone()));
        }
    }

    /// Nothing that was begun will be finished.
    pub(super) fn call_off(&mut self) {
        let stopping = AbortCause::Stopping;
        self.report_abort(&stopping);
        let next = self.next.take().map(|(ticket, _)| ticket);
        let scale = self.scale_queued.take().map(|(ticket, _)| ticket);
        let growth = self.growth.take().map(|growth| growth.ticket);
        let errands = std::mem::take(&mut self.errands);
        let waiting = errands.into_iter().map(|errand| errand.ticket);
        for ticket in waiting.chain(next).chain(scale).chain(growth) {
            self.answer(ticket, Answer::Aborted(stopping.clone()));
        }
    }

    fn scale(&mut self, ticket: Ticket, instances: usize) {
        if let Some((old, _)) = self.scale_queued.replace((ticket, instances)) {
            self.answer(old, Answer::Superseded);
        }
        self.queued(
            Order::Scale(instances),
            self.course.is_some_and(|course| course.kind.holds_up()),
        );
    }

    fn rescale(&mut self, now: Instant, ticket: Ticket, instances: usize) {
        let from = self.seats.len();
        self.emit(Event::Scaled { from, to: instances });
        self.grow(ticket, from);
        self.resize(now, instances);
    }

    fn grow(&mut self, ticket: Ticket, from: usize) {
        if let Some(old) = self.growth.replace(Growth { ticket, from }) {
            self.answer(old.ticket, Answer::Superseded);
        }
    }

    /// Answers an order for another number of slots once that is reached; false while it is not.
    fn has_grown(&mut self) -> bool {
        let Some(Growth { ticket, from }) = self.growth else {
            return false;
        };
        let is_gone = |worker: &Worker| (worker.slot.0 as usize) < self.seats.len() || worker.stuck();
        let reached = self.seats.iter().skip(from).all(|seat| self.has_settled(&seat.holder))
            && self.workers.values().all(is_gone);
        if reached {
            self.growth = None;
            self.answer(ticket, Answer::Done);
        }
        reached
    }

    /// Somebody is ready there, or has done what it was for.
    pub(super) fn has_settled(&self, holder: &Holder) -> bool {
        match holder {
            Holder::Worker(id) => self
                .workers
                .get(id)
                .is_some_and(|worker| matches!(worker.state, State::Ready)),
            Holder::Done => true,
            Holder::Waiting { .. } | Holder::Vacant | Holder::GivenUp(_) => false,
        }
    }

    fn configure(&mut self, ticket: Ticket, config: Config) {
        let instances = config.instances;
        self.config = config;
        self.emit(Event::Configured);
        let wanted = self.scale_queued.map_or(self.seats.len(), |(_, wanted)| wanted);
        if matches!(self.life, Life::New) || wanted == instances {
            self.answer(ticket, Answer::Done);
        } else {
            self.scale(ticket, instances);
        }
    }
}
