//! From the order to spawn a worker to its readiness.

use std::time::{Duration, Instant};

use super::{Action, Event, Failure, Holder, Life, MAX_SPAN, Ready, SETTLED, Service};
use crate::id::WorkerId;
use crate::worker::{Process, State};

/// How many times its ready timeout a starting worker gets at most, if it asks for more time.
pub const EXTENSION: u32 = 10;

impl Service {
    pub(super) fn started(&mut self, now: Instant, id: WorkerId, pid: u32, channel: bool) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let State::Spawning { doom } = &mut worker.state else {
            return;
        };
        if matches!(self.life, Life::Finished) {
            worker.state = State::Killed { deadline: None };
            self.actions.push_back(Action::Kill { worker: id });
            return;
        }
        let doom = doom.take();
        let patience = match self.config.ready {
            Ready::After(span) => span,
            Ready::Auto if !channel => SETTLED,
            _ => self.config.ready_timeout,
        };
        worker.process = Some(Process {
            pid,
            channel,
            since: now,
        });
        worker.state = State::Starting {
            deadline: now + patience,
        };
        let (slot, generation) = (worker.slot, worker.generation);
        self.emit(Event::Spawned {
            worker: id,
            slot,
            generation,
            pid,
        });
        match doom {
            None => {}
            Some(doom) if doom.kill => self.kill(now, id, doom.why),
            Some(doom) => self.terminate(now, id, doom.why),
        }
    }

    pub(super) fn spawn_failed(&mut self, now: Instant, id: WorkerId, reason: String) {
        if !self
            .workers
            .get(&id)
            .is_some_and(|worker| matches!(worker.state, State::Spawning { .. }))
        {
            return;
        }
        let Some(worker) = self.workers.remove(&id) else { return };
        if matches!(self.life, Life::Finished) {
            return;
        }
        self.emit(Event::SpawnFailed {
            worker: id,
            slot: worker.slot,
            reason: reason.clone(),
        });
        self.gone(now, id, &worker, Failure::Spawn(reason));
    }

    pub(super) fn listening(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.listened = true;
        let starting = matches!(worker.state, State::Starting { .. });
        let slot = worker.slot;
        if let Some(seat) = self.seats.get_mut(slot.0 as usize)
            && seat.holder == Holder::Worker(id)
        {
            seat.listened = true;
        }
        if starting && matches!(self.config.ready, Ready::Auto | Ready::Listening) {
            self.ready(now, id);
        }
    }

    pub(super) fn said_ready(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let asked = match self.config.ready {
            Ready::Message => true,
            Ready::Auto => !worker.online,
            Ready::Listening | Ready::After(_) => false,
        };
        if asked && matches!(worker.state, State::Starting { .. }) {
            self.ready(now, id);
        }
    }

    pub(super) fn extend(&mut self, now: Instant, id: WorkerId, by: Duration) {
        let most = self.config.ready_timeout.saturating_mul(EXTENSION).min(MAX_SPAN);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (State::Starting { deadline }, Some(process)) = (&mut worker.state, worker.process) else {
            return;
        };
        let end = (now + by.min(MAX_SPAN)).min(process.since + most);
        *deadline = (*deadline).max(end);
    }

    /// A worker has proven what it has to prove by itself.
    pub(super) fn ready(&mut self, now: Instant, id: WorkerId) {
        let soaks = self.soaks();
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.ready = Some(now);
        let took = worker
            .process
            .map_or(Duration::ZERO, |process| now.saturating_duration_since(process.since));
        let candidate = self
            .seats
            .get(worker.slot.0 as usize)
            .is_some_and(|seat| seat.candidate == Some(id));
        let soak = candidate && soaks;
        worker.state = if soak {
            State::Soaking {
                until: now + self.config.reload.soak,
            }
        } else {
            State::Ready
        };
        self.proven = true;
        self.emit(Event::Ready { worker: id, took });
        if candidate && !soak {
            self.promote(now, id);
        }
    }

    /// A starting worker has used up its time: enough for some, too long for others.
    pub(super) fn late(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let waited = self.config.ready_timeout;
        let channel = worker.process.is_some_and(|process| process.channel);
        match self.config.ready {
            Ready::After(_) => self.ready(now, id),
            Ready::Auto if !channel => self.ready(now, id),
            Ready::Auto if self.seats.get(worker.slot.0 as usize).is_some_and(|seat| seat.listened) => {
                self.fault(now, id, Failure::NotListening(waited));
            }
            Ready::Auto => {
                self.emit(Event::NotListening { worker: id, waited });
                self.ready(now, id);
            }
            Ready::Listening | Ready::Message => self.fault(now, id, Failure::NotReady(waited)),
        }
    }
}
