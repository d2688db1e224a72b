//! Is a worker ready, and is it stuck: what follows from its heartbeats and from probes.
//!
//! ```text
//! Starting ──Ready──► Serving ──Leaving──► Leaving
//! probed whether      heartbeats and       not judged: it has
//! it is ready         probes are judged    a deadline of its own
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::service::MAX_SPAN;

/// How one worker is watched. By default it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How often it shows that it is alive. Stuck is who does not for two of these. Zero is never.
    ///
    /// It is judged from its first heartbeat on: one that has never sent any is not known to send them. It should send one
    /// in half the time, so that one that is delayed does not count.
    pub heartbeat: Option<Duration>,
    /// Whether it is ready is found out by probes, at this pace, until one succeeds.
    pub ready: Option<Pace>,
    /// Whether it is stuck is found out by probes.
    pub live: Option<Live>,
}

/// How often it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the end of a probe to the next.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
}

/// Probes of a worker that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The first comes an interval after the worker is ready.
    pub pace: Pace,
    /// Stuck is who fails so many in a row. 0 counts as 1.
    pub failures: u32,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is ready, by whatever was found out.
    Ready,
    /// It showed that it is alive.
    Beat,
    /// From now on it will, within this span: what systemd calls `WATCHDOG_USEC`, two heartbeats.
    BeatsWithin(Duration),
    /// A probe has ended. One that was not asked for, or is over, is ignored.
    Probed {
        /// The number of the [`Action::Probe`].
        number: u32,
        /// What was wrong, if anything.
        outcome: Result<(), String>,
    },
    /// It was told to leave, or leaves.
    Leaving,
    /// It is to be watched differently.
    Configure(Config),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Probe it, and answer with [`Input::Probed`]; whatever an earlier probe says does not matter any more.
    Probe {
        /// Goes back with the answer.
        number: u32,
        /// What is to be found out.
        purpose: Purpose,
    },
    /// The probe has succeeded for which it waited. Answer with [`Input::Ready`] if that makes it ready.
    IsReady,
    /// A probe has failed, for another reason than the one before it.
    Failed(String),
    /// It is stuck, for this reason. Not said again.
    IsStuck(String),
}

/// What a probe is to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Is it ready?
    Ready,
    /// Is it alive?
    Live,
}

/// Who calls [`advance`](Watch::advance) so much too late had no time to hear heartbeats either.
const OURSELVES_LATE: Duration = Duration::from_millis(100);

/// The decisions about one worker. As all machines: feed it, obey it, and call it no later than its deadline.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    stage: Stage,
    /// When it is taken as stuck for its silence.
    silent: Option<Instant>,
    probe: Probe,
    numbers: u32,
    failed: u32,
    /// What the last probe said that failed.
    reason: Option<String>,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    /// Told to leave, or said to be stuck.
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    None,
    Due { at: Instant },
    Runs { number: u32, until: Instant },
}

impl Watch {
    /// A worker that was just started.
    pub fn new(now: Instant, config: Config) -> Self {
        let mut watch = Self {
            config,
            stage: Stage::Starting,
            silent: None,
            probe: Probe::None,
            numbers: 0,
            failed: 0,
            reason: None,
            actions: VecDeque::new(),
        };
        watch.plan(now, Duration::ZERO);
        watch.advance(now);
        watch
    }

    /// Something happened.
    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ready if self.stage == Stage::Starting => {
                self.stage = Stage::Serving;
                // What it did while it started is not held against it.
                if self.silent.is_some() {
                    self.beat(now);
                }
                self.failed = 0;
                self.plan_next(now);
            }
            Input::Ready => {}
            Input::Beat => self.beat(now),
            Input::BeatsWithin(span) => {
                self.config.heartbeat = Some(span / 2);
                self.beat(now);
            }
            Input::Probed { number, outcome } => {
                if matches!(self.probe, Probe::Runs { number: runs, .. } if runs == number) {
                    self.probed(now, outcome);
                }
            }
            Input::Leaving => self.end(),
            Input::Configure(config) => {
                let was = std::mem::replace(&mut self.config, config);
                if was.heartbeat != self.config.heartbeat && self.silent.is_some() {
                    self.beat(now);
                }
                if (was.ready, was.live) != (self.config.ready, self.config.live) {
                    self.failed = 0;
                    self.plan_next(now);
                }
            }
        }
        self.advance(now);
    }

    /// Time passed.
    pub fn advance(&mut self, now: Instant) {
        match self.probe {
            Probe::Due { at } if at <= now => self.start_probe(now),
            Probe::Runs { until, .. } if until <= now => {
                let timeout = self.pace().map_or(Duration::ZERO, |pace| pace.timeout);
                self.probed(now, Err(format!("no answer within {timeout:?}")));
            }
            _ => {}
        }
        let Some(silent) = self.judged().filter(|silent| *silent <= now) else {
            return;
        };
        let period = self.config.heartbeat.unwrap_or_default();
        if now.saturating_duration_since(silent) > OURSELVES_LATE {
            self.silent = Some(now + period / 2 + OURSELVES_LATE);
        } else {
            self.stuck(format!("no heartbeat for {:?}", period * 2));
        }
    }

    /// Call [`advance`](Self::advance) no later than this.
    pub fn deadline(&self) -> Option<Instant> {
        let probe = match self.probe {
            Probe::None => None,
            Probe::Due { at } => Some(at),
            Probe::Runs { until, .. } => Some(until),
        };
        probe.into_iter().chain(self.judged()).min()
    }

    /// Something to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How it is watched.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it has ever shown that it is alive.
    pub fn has_beaten(&self) -> bool {
        self.silent.is_some()
    }

    /// When it is stuck, if it is watched for heartbeats now.
    fn judged(&self) -> Option<Instant> {
        self.silent
            .filter(|_| self.stage == Stage::Serving && self.config.heartbeat.is_some_and(|period| !period.is_zero()))
    }

    fn beat(&mut self, now: Instant) {
        let period = self.config.heartbeat.unwrap_or_default().min(MAX_SPAN);
        self.silent = Some(now + period * 2);
    }

    fn pace(&self) -> Option<Pace> {
        match self.stage {
            Stage::Starting => self.config.ready,
            Stage::Serving => self.config.live.map(|live| live.pace),
            Stage::Over => None,
        }
    }

    /// The next probe comes after this delay, if there is any.
    fn plan(&mut self, now: Instant, delay: Duration) {
        self.probe = match self.pace() {
            Some(_) => Probe::Due {
                at: now + delay.min(MAX_SPAN),
            },
            None => Probe::None,
        };
    }

    fn plan_next(&mut self, now: Instant) {
        let interval = self.pace().map_or(Duration::ZERO, |pace| pace.interval);
        self.plan(now, interval.max(SHORTEST));
    }

    fn start_probe(&mut self, now: Instant) {
        let Some(pace) = self.pace() else { return };
        self.numbers = self.numbers.wrapping_add(1);
        let (number, until) = (self.numbers, now + pace.timeout.clamp(SHORTEST, MAX_SPAN));
        self.probe = Probe::Runs { number, until };
        let purpose = match self.stage {
            Stage::Starting => Purpose::Ready,
            Stage::Serving | Stage::Over => Purpose::Live,
        };
        self.actions.push_back(Action::Probe { number, purpose });
    }

    fn probed(&mut self, now: Instant, outcome: Result<(), String>) {
        self.plan_next(now);
        let Err(reason) = outcome else {
            (self.failed, self.reason) = (0, None);
            if self.stage == Stage::Starting {
                self.probe = Probe::None;
                self.actions.push_back(Action::IsReady);
            }
            return;
        };
        self.failed = self.failed.saturating_add(1);
        if self.reason.as_ref() != Some(&reason) {
            self.reason = Some(reason.clone());
            self.actions.push_back(Action::Failed(reason.clone()));
        }
        let allowed = self.config.live.map_or(1, |live| live.failures.max(1));
        if self.stage == Stage::Serving && self.failed >= allowed {
            self.stuck(match allowed {
                1 => format!("its probe failed: {reason}"),
                _ => format!("its probe failed {allowed} times in a row, last: {reason}"),
            });
        }
    }

    fn stuck(&mut self, reason: String) {
        self.end();
        self.actions.push_back(Action::IsStuck(reason));
    }

    fn end(&mut self) {
        (self.stage, self.probe) = (Stage::Over, Probe::None);
    }
}

/// Nobody is probed more often, or given less time.
const SHORTEST: Duration = Duration::from_millis(10);
