//! What must hold at each step, kept by someone who sees only what goes in and out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use thead_core::id::{Generation, Ticket, WorkerId};
use thead_core::service::{Action, Answer, Config, Event, Input, Order, Outcome, Service, UNKILLABLE, Why};
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
    /// How long it may drain, as it was when it was told to.
    drain: Duration,
    /// It was told to leave for a restart.
    restarted: bool,
    /// It did not run yet when the restart began.
    doomed: bool,
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
    /// The only one, or all.
    slot: Option<Slot>,
    /// As many served when it began, less those that were lost by themselves.
    floor: usize,
    soaked: bool,
    /// The most that were allowed since it began, and those that may be missed.
    surge: usize,
    missed: usize,
}

fn longest(config: &Config) -> Duration {
    config.stop.drain + config.stop.timeout
}

#[derive(Debug)]
pub(crate) struct Laws {
    config: Config,
    pub(crate) lag: Duration,
    instances: usize,
    workers: BTreeMap<WorkerId, Seen>,
    newest: WorkerId,
    good: Generation,
    /// A reload or renewal that may still be refused.
    trial: Option<Trial>,
    /// What was begun and not answered.
    change: Option<Change>,
    /// The newest there was.
    generation: Generation,
    restarts: VecDeque<Instant>,
    stopping: Option<(Instant, bool)>,
    finished: bool,
    opened_now: Vec<WorkerId>,
    /// Orders that were not answered.
    open: BTreeMap<Ticket, Order>,
    /// The longest that somebody who leaves may take, under any of the settings so far.
    longest: Duration,
}

/// One change at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Reload(Generation),
    Restart(Option<Slot>),
    Renew(Slot),
}

impl Laws {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            instances: config.instances,
            lag: Duration::ZERO,
            workers: BTreeMap::new(),
            newest: WorkerId(0),
            good: Generation(1),
            trial: None,
            change: None,
            generation: Generation(1),
            restarts: VecDeque::new(),
            stopping: None,
            finished: false,
            opened_now: Vec::new(),
            open: BTreeMap::new(),
            longest: longest(&config),
            config,
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
            Input::Order { ticket, order } if !self.finished => {
                assert_eq!(self.open.insert(*ticket, order.clone()), None);
                match order {
                    Order::Stop if self.stopping.is_none() => self.stopping = Some((now, false)),
                    Order::StopNow => self.stopping = Some((now, true)),
                    _ => {}
                }
            }
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
            Action::Begin {
                ticket,
                generation,
                base,
            } => self.begun(*ticket, *generation, *base),
            Action::Answer { ticket, answer } => self.answered(*ticket, answer),
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
        if let Some(Change::Restart(of)) = self.change
            && of.is_none_or(|of| of == slot)
        {
            let leaves = |seen: &Seen| seen.restarted && !seen.stuck;
            assert!(
                !self.workers.values().any(leaves),
                "a restart lets the old ones go first"
            );
        }
        let expected = if gated {
            let trial = self.trial.as_ref();
            assert!(trial.is_some_and(|trial| trial.slot.is_none_or(|of| of == slot)));
            trial.map(|trial| trial.generation)
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
            drain: Duration::ZERO,
            restarted: false,
            doomed: false,
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
        if trial.slot.is_some() {
            // A renewal has no way back from here.
            self.trial = None;
        }
        self.opened_now.push(worker);
    }

    fn begun(&mut self, ticket: Ticket, generation: Generation, base: Generation) {
        assert!(matches!(self.open[&ticket], Order::Reload | Order::Restart));
        assert!(generation > self.generation, "generations are not used again");
        assert_eq!(base, self.good);
        self.generation = generation;
    }

    fn answered(&mut self, ticket: Ticket, answer: &Answer) {
        let order = self.open.remove(&ticket);
        let order = order.unwrap_or_else(|| panic!("{answer:?} to what was answered or never asked"));
        if let (Answer::Done, Order::Scale(instances)) = (answer, &order) {
            assert_eq!(self.instances, *instances);
        }
    }

    /// Nothing more will happen.
    pub(crate) fn at_rest(&self) {
        assert!(self.open.is_empty(), "each order is answered: {:?}", self.open);
    }

    fn begins(&mut self, change: Change) {
        assert_eq!(self.change.replace(change), None, "one change at a time");
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
                let drain = self.config.stop.drain;
                let seen = self.workers.get_mut(worker).unwrap();
                seen.restarted |= *why == Why::Restarted;
                if matches!(event, Event::Draining { .. }) {
                    seen.drain = drain;
                }
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
                self.begins(Change::Reload(*generation));
                self.trial = Some(Trial {
                    generation: *generation,
                    slot: None,
                    floor: self.serving(),
                    soaked: false,
                    surge: self.config.reload.surge,
                    missed: self.config.reload.max_unavailable,
                });
            }
            Event::RenewStarted { slot, .. } => {
                self.begins(Change::Renew(*slot));
                self.trial = Some(Trial {
                    generation: self.good,
                    slot: Some(*slot),
                    floor: self.serving(),
                    soaked: true,
                    surge: 1,
                    missed: 0,
                });
            }
            Event::RestartStarted { slot, generation } => {
                self.begins(Change::Restart(*slot));
                if slot.is_none() {
                    self.good = *generation;
                    self.restarts.clear();
                }
                assert_eq!(self.good, *generation);
                let is_meant = |seen: &Seen| !seen.answered && slot.is_none_or(|of| of == seen.slot);
                for seen in self.workers.values_mut().filter(|seen| is_meant(seen)) {
                    seen.doomed = true;
                }
            }
            Event::RestartDone { slot, .. } | Event::RestartAborted { slot, .. } => {
                assert_eq!(self.change.take(), Some(Change::Restart(*slot)), "answered once");
            }
            Event::RenewDone { slot, .. } => {
                assert_eq!(self.change.take(), Some(Change::Renew(*slot)), "answered once");
            }
            Event::RenewAborted { slot, .. } => {
                assert_eq!(self.change.take(), Some(Change::Renew(*slot)), "answered once");
                self.keep_floor();
                self.trial = None;
            }
            Event::ReloadServing { generation, .. } => {
                self.good = *generation;
                self.trial = None;
                self.restarts.clear();
            }
            Event::ReloadDone { generation, .. } => {
                assert_eq!(self.change.take(), Some(Change::Reload(*generation)), "answered once");
                assert!(
                    self.workers
                        .values()
                        .all(|seen| seen.generation == *generation || seen.stuck)
                );
            }
            Event::ReloadAborted {
                generation, running, ..
            } => {
                assert_eq!(self.change.take(), Some(Change::Reload(*generation)), "answered once");
                self.keep_floor();
                self.trial = None;
                assert_eq!(running.iter().map(|(_, count)| count).sum::<usize>(), self.serving());
            }
            Event::Scaled { from, to } => {
                assert_eq!(*from, self.instances);
                assert!(self.trial.is_none(), "the number does not change during a reload");
                self.instances = *to;
            }
            Event::Configured => {
                let mut configured = self.open.values().filter_map(|order| match order {
                    Order::Configure(config) => Some(config),
                    _ => None,
                });
                self.config = *configured.next_back().unwrap().clone();
                self.longest = self.longest.max(longest(&self.config));
                let reload = &self.config.reload;
                if let Some(trial) = self.trial.as_mut().filter(|trial| trial.slot.is_none()) {
                    trial.surge = trial.surge.max(reload.surge);
                    trial.missed = trial.missed.max(reload.max_unavailable);
                }
                if self.newest == WorkerId(0) {
                    self.instances = self.config.instances;
                }
            }
            Event::Failed { .. } if self.stopping.is_none() => self.stopping = Some((now, false)),
            _ => {}
        }
    }

    /// Nobody has to go without a reason.
    fn accused(&self, now: Instant, worker: WorkerId, why: &Why) {
        let seen = &self.workers[&worker];
        let slot = seen.slot;
        let reason = match why {
            Why::Replaced if seen.ready.is_some() => {
                let may_be_missed = |trial: &Trial| trial.soaked && trial.missed > 0;
                let is_newer = |(id, new): (&WorkerId, &Seen)| new.slot == slot && *id > worker && new.opened;
                self.trial.as_ref().is_some_and(may_be_missed) || self.workers.iter().any(is_newer)
            }
            Why::Restarted => {
                let now = matches!(self.change, Some(Change::Restart(of)) if of.is_none_or(|of| of == slot));
                now || seen.doomed
            }
            Why::ScaledDown => slot.0 as usize >= self.instances || seen.left.is_some() || !seen.opened,
            Why::Stopping | Why::StopNow => self.stopping.is_some(),
            Why::ReloadAborted => seen.gated && !seen.opened,
            Why::Failed(_) => !seen.healthy || seen.faulty,
            Why::Drained => !seen.drains.is_empty(),
            Why::DrainTimeout => seen.left.is_some_and(|left| now >= left + seen.drain),
            Why::StopTimeout => seen.signalled.is_some(),
            _ => true,
        };
        assert!(reason, "{worker} has to go because {why:?}: {seen:?}");
    }

    fn keep_floor(&self) {
        if let Some(trial) = &self.trial
            && self.stopping.is_none()
        {
            let missed = if trial.soaked { trial.missed } else { 0 };
            assert!(
                self.serving() + missed >= trial.floor,
                "a reload never has fewer ready workers than before it, but those that may be missed"
            );
        }
    }

    fn finish(&mut self, now: Instant, outcome: &Outcome) {
        self.finished = true;
        assert!(
            self.workers.values().all(|seen| seen.stuck),
            "nobody is left behind unreported"
        );
        assert!(
            self.change.is_none() && self.open.is_empty(),
            "everything is answered before the end"
        );
        if let Some((since, at_once)) = self.stopping {
            assert!(now - since <= self.patience(at_once), "a stop always ends");
        } else {
            assert!(!matches!(outcome, Outcome::Stopped));
        }
    }

    fn patience(&self, at_once: bool) -> Duration {
        // What was ordered and does not run yet is waited for, too.
        let gently = if at_once { Duration::ZERO } else { self.longest };
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
        let surge = match &self.trial {
            Some(trial) => trial.surge,
            None => 0,
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
