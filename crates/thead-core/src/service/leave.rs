//! How workers are made to leave: by order, for a fault, or because the service stops.

use std::time::{Duration, Instant};

use super::{Action, Event, Failure, GiveUp, Life, Outcome, Service, Why};
use crate::id::{Ticket, WorkerId};
use crate::worker::{Doom, State};

/// How long a worker may live without its channel before it is terminated: 2 s. The end of the channel and the end of the
/// process arrive in either order; usually there is nothing between them.
pub const DISCONNECT_GRACE: Duration = Duration::from_secs(2);

/// How long a stuck worker is given to write its stack or core before it is killed: 2 s.
pub const ABORT_GRACE: Duration = Duration::from_secs(2);

/// How long a killed worker is waited for: 5 s. One in an uninterruptible sleep may never go.
pub const UNKILLABLE: Duration = Duration::from_secs(5);

impl Service {
    pub(super) fn stop(&mut self, now: Instant, ticket: Ticket) {
        self.stops.push(ticket);
        match self.life {
            Life::New => self.finish(Outcome::Stopped),
            Life::Running => {
                self.call_off();
                self.emit(Event::Stopping);
                self.end(now, Outcome::Stopped);
            }
            Life::Ending(_) | Life::Finished => {}
        }
    }

    pub(super) fn stop_now(&mut self, now: Instant, ticket: Ticket) {
        self.stops.push(ticket);
        match self.life {
            Life::New => return self.finish(Outcome::Stopped),
            Life::Finished => return,
            Life::Running => {
                self.call_off();
                self.emit(Event::Stopping);
                self.life = Life::Ending(Outcome::Stopped);
            }
            Life::Ending(_) => {}
        }
        for id in self.ids() {
            self.kill(now, id, Why::StopNow);
        }
    }

    /// Gives the whole service up.
    pub(super) fn fail(&mut self, now: Instant, reason: GiveUp) {
        self.emit(Event::Failed { reason: reason.clone() });
        self.end(now, Outcome::Failed { reason });
    }

    fn end(&mut self, now: Instant, outcome: Outcome) {
        self.call_off();
        self.life = Life::Ending(outcome);
        for id in self.ids() {
            self.leave(now, id, Why::Stopping);
        }
    }

    /// Tells a worker to leave as gently as its state allows.
    pub(super) fn leave(&mut self, now: Instant, id: WorkerId, why: Why) {
        let successor = why != Why::Stopping;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match &mut worker.state {
            State::Spawning { doom: doom @ None } => {
                *doom = Some(Doom {
                    kill: false,
                    why,
                    deadline: Some(now + UNKILLABLE),
                });
            }
            State::Starting { .. } | State::Soaking { .. } | State::Disconnected { .. } => self.terminate(now, id, why),
            State::Ready => {
                worker.state = State::Draining {
                    deadline: now + self.config.stop.drain,
                    successor,
                    drained: false,
                };
                self.actions.push_back(Action::Drain { worker: id, successor });
                self.emit(Event::Draining { worker: id, why });
            }
            State::Draining { successor: had, .. } if *had && !successor => {
                *had = false;
                self.actions.push_back(Action::Drain { worker: id, successor });
            }
            State::Spawning { .. } | State::Draining { .. } | State::Terminating { .. } | State::Killed { .. } => {}
        }
    }

    pub(super) fn terminate(&mut self, now: Instant, id: WorkerId, why: Why) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.state = State::Terminating {
            deadline: now + self.config.stop.timeout,
        };
        self.actions.push_back(Action::Terminate { worker: id });
        self.emit(Event::Terminating { worker: id, why });
    }

    pub(super) fn kill(&mut self, now: Instant, id: WorkerId, why: Why) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match &mut worker.state {
            State::Killed { .. } => {}
            State::Spawning { doom: Some(doom) } => (doom.kill, doom.why) = (true, why),
            State::Spawning { doom } => {
                *doom = Some(Doom {
                    kill: true,
                    why,
                    deadline: Some(now + UNKILLABLE),
                })
            }
            state => {
                *state = State::Killed {
                    deadline: Some(now + UNKILLABLE),
                };
                self.actions.push_back(Action::Kill { worker: id });
                self.emit(Event::Killing { worker: id, why });
            }
        }
    }

    /// A worker that is wanted did wrong. Its slot is free when it is gone: a service whose processes cannot be killed shall
    /// not fill the box with them.
    pub(super) fn fault(&mut self, now: Instant, id: WorkerId, failure: Failure) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.fault = Some(failure.clone());
        if self.workers.get(&id).is_some_and(|worker| self.is_on_trial(id, worker)) {
            self.abort(now, id, failure);
        } else {
            self.expel(now, id, failure);
        }
    }

    /// Sends a worker away that did wrong and may have traffic.
    pub(super) fn expel(&mut self, now: Instant, id: WorkerId, failure: Failure) {
        if !matches!(failure, Failure::Unhealthy(_)) {
            return self.terminate(now, id, Why::Failed(failure));
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.state = State::Terminating {
            deadline: now + ABORT_GRACE,
        };
        self.actions.push_back(Action::Abort { worker: id });
        self.emit(Event::Terminating {
            worker: id,
            why: Why::Failed(failure),
        });
    }

    pub(super) fn unhealthy(&mut self, now: Instant, id: WorkerId, reason: String) {
        let Some(worker) = self.workers.get(&id) else { return };
        match worker.state {
            // What hangs will not finish anything.
            State::Draining { .. } => self.expel(now, id, Failure::Unhealthy(reason)),
            State::Starting { .. } | State::Soaking { .. } | State::Ready | State::Disconnected { .. } => {
                self.fault(now, id, Failure::Unhealthy(reason));
            }
            State::Spawning { .. } | State::Terminating { .. } | State::Killed { .. } => {}
        }
    }

    pub(super) fn drained(&mut self, now: Instant, id: WorkerId) {
        if self
            .workers
            .get(&id)
            .is_some_and(|worker| matches!(worker.state, State::Draining { .. }))
        {
            self.terminate(now, id, Why::Drained);
        }
    }

    pub(super) fn disconnected(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let grace = now + DISCONNECT_GRACE;
        match &mut worker.state {
            State::Starting { .. } | State::Soaking { .. } | State::Ready => {
                worker.state = State::Disconnected { deadline: grace };
                self.emit(Event::Disconnected { worker: id });
            }
            // Node: a cluster worker closes its channel when its servers have closed, and lives on if anything else keeps
            // its event loop busy.
            State::Draining { deadline, drained, .. } if grace < *deadline => (*deadline, *drained) = (grace, true),
            _ => {}
        }
    }

    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }
}
