//! What must hold at each step, kept by someone who sees only what goes in and out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use thead_core::id::{Generation, WorkerId};
use thead_core::service::{Action, Config, Event, Input, Outcome, Service, UNKILLABLE, Why};
use thead_core::worker::{Phase, Slot};

#[derive(Debug)]
struct Seen {
    slot: Slot,
    generation: Generation,
    gated: bool,
    healthy: bool,
    answered: bool,
    ready: Option<Instant>,
    opened: bool,
    /// Lost its channel or was called stuck.
    faulty: bool,
    drains: Vec<bool>,
    signalled: Option<Instant>,
    killed: bool,
    left: Option<Instant>,
    stuck: bool,
}

impl Seen {
    fn serves(&self) -> bool {
        self.ready.is_some() && (!self.gated || self.opened) && self.left.is_none() && !self.faulty
    }
}

#[derive(Debug)]
struct Trial {
    generation: Generation,
    /// As many served when it began, less those that were lost by themselves.
    floor: usize,
    soaked: bool,
}

#[derive(Debug)]
pub(crate) struct Laws {
    config: Config,
    pub(crate) lag: Duration,
    instances: usize,
    workers: BTreeMap<WorkerId, Seen>,
    newest: WorkerId,
    good: Generation,
    /// A reload that may still be refused.
    trial: Option<Trial>,
    /// A reload that was begun and not answered.
    reloading: Option<Generation>,
    restarts: VecDeque<Instant>,
    stopping: Option<(Instant, bool)>,
    finished: bool,
    opened_now: Vec<WorkerId>,
}

impl Laws {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            instances: config.instances,
            config,
            lag: Duration::ZERO,
            workers: BTreeMap::new(),
            newest: WorkerId(0),
            good: Generation(1),
            trial: None,
            reloading: None,
            restarts: VecDeque::new(),
            stopping: None,
            finished: false,
            opened_now: Vec::new(),
        }
    }

    pub(crate) fn healthy(&mut self, worker: WorkerId, healthy: bool) {
        self.workers.get_mut(&worker).unwrap().healthy = healthy;
    }

    fn serving(&self) -> usize {
        self.workers.values().filter(|seen| seen.serves()).count()
    }

    /// Something goes in.
    pub(crate) fn before(&mut self, now: Instant, input: &Input) {
        let serving = self.serving();
        match input {
            Input::Started { worker, .. } => {
                if let Some(seen) = self.workers.get_mut(worker) {
                    assert!(!seen.answered, "each spawn is answered once");
                    seen.answered = true;
                    seen.stuck = false;
                }
            }
            Input::SpawnFailed { worker, .. } | Input::Exited { worker, .. } => {
                self.workers.remove(worker);
            }
            Input::Disconnected { worker } | Input::Unhealthy { worker, .. } => {
                if let Some(seen) = self.workers.get_mut(worker) {
                    seen.faulty |= seen.answered;
                }
            }
            Input::Stop if self.stopping.is_none() => self.stopping = Some((now, false)),
            Input::StopNow => self.stopping = Some((now, true)),
            _ => {}
        }
        let lost = serving - self.serving();
        if let Some(trial) = &mut self.trial {
            trial.floor = trial.floor.saturating_sub(lost);
        }
    }

    /// Something comes out.
    pub(crate) fn action(&mut self, now: Instant, action: &Action) {
        if self.finished {
            assert!(
                matches!(action, Action::Kill { .. }),
                "after the end only a late process is killed: {action:?}"
            );
        }
        match action {
            Action::Spawn {
                worker,
                slot,
                generation,
                gated,
            } => self.spawned(*worker, *slot, *generation, *gated),
            Action::Open { worker } => self.opened(now, *worker),
            Action::Drain { worker, successor } => {
                let seen = self.reachable(*worker, action);
                seen.drains.push(*successor);
                assert!(
                    matches!(seen.drains[..], [_] | [true, false]),
                    "drained once, or once more by a stop"
                );
                assert!(seen.signalled.is_none(), "nobody is asked after a signal");
                seen.left.get_or_insert(now);
            }
            Action::Terminate { worker } | Action::Abort { worker } => {
                let seen = self.reachable(*worker, action);
                assert!(seen.signalled.is_none() && !seen.killed, "one signal, then SIGKILL");
                seen.signalled = Some(now);
                seen.left.get_or_insert(now);
            }
            Action::Kill { worker } => {
                let seen = self.reachable(*worker, action);
                assert!(!seen.killed, "killed once");
                seen.killed = true;
                seen.left.get_or_insert(now);
            }
            Action::Emit(event) => self.event(now, event),
            Action::Finish(outcome) => self.finish(now, outcome),
        }
    }

    /// Only a living process is told anything.
    fn reachable(&mut self, worker: WorkerId, action: &Action) -> &mut Seen {
        let seen = self.workers.get_mut(&worker);
        let seen = seen.unwrap_or_else(|| panic!("{action:?} for one that is not there"));
        assert!(seen.answered, "{action:?} for one that does not run yet");
        seen
    }

    fn spawned(&mut self, worker: WorkerId, slot: Slot, generation: Generation, gated: bool) {
        assert!(worker > self.newest, "names are not used again");
        assert!(self.stopping.is_none(), "nobody comes when all have to go");
        assert!(
            (slot.0 as usize) < self.instances,
            "slots are numbered from 0 without a gap"
        );
        let expected = if gated {
            self.trial.as_ref().map(|trial| trial.generation)
        } else {
            Some(self.good)
        };
        assert_eq!(
            Some(generation),
            expected,
            "candidates are new, all others of the last good generation"
        );
        self.newest = worker;
        let seen = Seen {
            slot,
            generation,
            gated,
            healthy: false,
            answered: false,
            ready: None,
            opened: false,
            faulty: false,
            drains: Vec::new(),
            signalled: None,
            killed: false,
            left: None,
            stuck: false,
        };
        self.workers.insert(worker, seen);
    }

    fn opened(&mut self, now: Instant, worker: WorkerId) {
        let soak = self.config.reload.soak;
        let seen = self.workers.get_mut(&worker).unwrap();
        assert!(
            seen.gated && !seen.opened && seen.left.is_none() && !seen.faulty,
            "opened once, while it is wanted"
        );
        let ready = seen.ready.unwrap();
        seen.opened = true;
        let trial = self.trial.as_mut().unwrap();
        assert_eq!(seen.generation, trial.generation);
        assert!(
            trial.soaked || now >= ready + soak,
            "the first one has lived through the soak"
        );
        trial.soaked = true;
        self.opened_now.push(worker);
    }

    fn event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Ready { worker, .. } => {
                let seen = self.workers.get_mut(worker).unwrap();
                assert!(seen.ready.is_none() && seen.left.is_none() && !seen.faulty);
                seen.ready = Some(now);
            }
            Event::Draining { worker, why } | Event::Terminating { worker, why } | Event::Killing { worker, why } => {
                self.accused(now, *worker, why);
            }
            Event::Stuck { worker } => {
                let seen = self.workers.get_mut(worker).unwrap();
                assert!(!seen.stuck, "reported once");
                seen.stuck = true;
            }
            Event::RestartScheduled { delay, restarts, .. } => {
                let backoff = &self.config.restart.backoff;
                assert!(
                    *delay >= backoff.first * 80 / 100 && *delay <= backoff.max * 120 / 100,
                    "jitter is bounded"
                );
                let intensity = self.config.restart.intensity;
                self.restarts.push_back(now);
                self.restarts.retain(|at| now < *at + intensity.period);
                assert_eq!(*restarts, self.restarts.len());
                assert!(
                    *restarts <= intensity.restarts,
                    "no more restarts than the period allows"
                );
            }
            Event::ReloadStarted { generation } => {
                assert!(self.reloading.is_none(), "one change at a time");
                self.reloading = Some(*generation);
                self.trial = Some(Trial {
                    generation: *generation,
                    floor: self.serving(),
                    soaked: false,
                });
            }
            Event::ReloadServing { generation, .. } => {
                self.good = *generation;
                self.trial = None;
                self.restarts.clear();
            }
            Event::ReloadDone { generation, .. } => {
                assert_eq!(self.reloading.take(), Some(*generation), "a reload is answered once");
                assert!(
                    self.workers
                        .values()
                        .all(|seen| seen.generation == *generation || seen.stuck)
                );
            }
            Event::ReloadAborted {
                generation, running, ..
            } => {
                assert_eq!(self.reloading.take(), Some(*generation), "a reload is answered once");
                self.keep_floor();
                self.trial = None;
                assert_eq!(running.iter().map(|(_, count)| count).sum::<usize>(), self.serving());
            }
            Event::Scaled { from, to } => {
                assert_eq!(*from, self.instances);
                assert!(self.trial.is_none(), "the number does not change during a reload");
                self.instances = *to;
            }
            Event::Failed { .. } if self.stopping.is_none() => self.stopping = Some((now, false)),
            _ => {}
        }
    }

    /// Nobody has to go without a reason.
    fn accused(&self, now: Instant, worker: WorkerId, why: &Why) {
        let seen = &self.workers[&worker];
        let (slot, generation) = (seen.slot, seen.generation);
        let reason = match why {
            Why::Replaced if seen.ready.is_some() => self
                .workers
                .values()
                .any(|new| new.slot == slot && new.generation > generation && new.opened),
            Why::ScaledDown => slot.0 as usize >= self.instances || seen.left.is_some() || !seen.opened,
            Why::Stopping | Why::StopNow => self.stopping.is_some(),
            Why::ReloadAborted => seen.gated && !seen.opened,
            Why::Failed(_) => !seen.healthy || seen.faulty,
            Why::Drained => !seen.drains.is_empty(),
            Why::DrainTimeout => seen.left.is_some_and(|left| now >= left + self.config.stop.drain),
            Why::StopTimeout => seen.signalled.is_some(),
            _ => true,
        };
        assert!(reason, "{worker} has to go because {why:?}: {seen:?}");
    }

    fn keep_floor(&self) {
        if let Some(trial) = &self.trial
            && self.stopping.is_none()
        {
            assert!(
                self.serving() >= trial.floor,
                "a reload never has fewer ready workers than before it"
            );
        }
    }

    fn finish(&mut self, now: Instant, outcome: &Outcome) {
        self.finished = true;
        assert!(
            self.workers.values().all(|seen| seen.stuck),
            "nobody is left behind unreported"
        );
        assert!(self.reloading.is_none(), "a reload is answered before the end");
        if let Some((since, at_once)) = self.stopping {
            assert!(now - since <= self.patience(at_once), "a stop always ends");
        } else {
            assert!(!matches!(outcome, Outcome::Stopped));
        }
    }

    fn patience(&self, at_once: bool) -> Duration {
        let stop = &self.config.stop;
        // What was ordered and does not run yet is waited for, too.
        let gently = if at_once {
            Duration::ZERO
        } else {
            stop.drain + stop.timeout
        };
        gently + UNKILLABLE * 2 + self.lag * 4
    }

    /// A step is complete.
    pub(crate) fn after(&mut self, now: Instant, service: &Service) {
        assert!(
            service.deadline().is_none_or(|deadline| deadline > now),
            "no deadline is in the past"
        );
        if self.finished {
            assert!(service.deadline().is_none(), "nothing happens after the end");
            return;
        }
        self.keep_floor();
        for new in std::mem::take(&mut self.opened_now) {
            let slot = self.workers[&new].slot;
            let both = self
                .workers
                .iter()
                .filter(|(id, seen)| **id != new && seen.slot == slot && seen.serves())
                .count();
            assert_eq!(both, 0, "who was replaced is told so at once");
        }
        let patience = self.patience(false) + thead_core::service::ABORT_GRACE;
        let mut staying = 0;
        let mut seats = BTreeMap::<Slot, (usize, usize)>::new();
        for view in service.workers() {
            let seen = &self.workers[&view.worker];
            let leaving = matches!(view.phase, Phase::Draining | Phase::Terminating | Phase::Killed);
            assert!(seen.left.is_none() || leaving, "who is told to leave never comes back");
            assert_eq!(view.phase == Phase::Ready, seen.serves(), "{view:?}: {seen:?}");
            if let Some(left) = seen.left {
                assert!(
                    seen.stuck || now - left <= patience,
                    "who is told to leave is gone in time"
                );
            }
            if !leaving {
                staying += 1;
                let (holders, candidates) = seats.entry(view.slot).or_default();
                *(if seen.gated && !seen.opened {
                    candidates
                } else {
                    holders
                }) += 1;
            }
        }
        let surge = if self.trial.is_some() {
            self.config.reload.surge
        } else {
            0
        };
        if self.stopping.is_none() {
            assert!(
                staying <= self.instances + surge,
                "{staying} processes for {} instances",
                self.instances
            );
        }
        assert!(
            seats
                .values()
                .all(|(holders, candidates)| *holders <= 1 && *candidates <= 1),
            "one holder per slot"
        );
        assert_eq!(self.workers.len(), service.workers().count(), "nobody is forgotten");
    }
}
