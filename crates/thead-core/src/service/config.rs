//! How one service is to be run, and what is wrong with such a wish.

use std::time::Duration;

use crate::restart::Restart;

/// Most instances one service may have, and most that a reload may add at once.
pub const MAX_INSTANCES: usize = 1024;

/// Longest time span a setting may have: a year. It keeps every deadline computable.
pub const MAX_SPAN: Duration = Duration::from_secs(365 * 24 * 3600);

/// How one service is to be run. [`Service::new`](super::Service::new) refuses what [`validate`](Self::validate) refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many workers, 1 to [`MAX_INSTANCES`]. Default 1.
    pub instances: usize,
    /// When a worker counts as ready. Default [`Ready::Auto`].
    pub ready: Ready,
    /// How long a started worker may take to be ready. Default 10 s.
    pub ready_timeout: Duration,
    /// What happens after a death that nobody asked for.
    pub restart: Restart,
    /// How a new generation takes over.
    pub reload: Reload,
    /// How a worker is made to leave.
    pub stop: Stop,
    /// Start of the random numbers that spread restarts. Give each service its own, or boxes that were started together
    /// restart together.
    pub seed: u64,
}

/// When a started worker counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// By what the worker is.
    ///
    /// A Node cluster worker (it said `online`) is ready at its first `listening`. Its `ready` message is not asked for,
    /// as PM2 does not ask for it by default. A program without a channel is ready after [`SETTLED`] of life. A program
    /// that is no cluster worker may be ready earlier by saying so.
    ///
    /// One with a channel that is not ready within the timeout may be a queue worker: it is taken as ready, with
    /// [`Event::NotListening`](super::Event::NotListening), unless a predecessor in its slot has listened. Then it is a
    /// server that fails, and is refused.
    #[default]
    Auto,
    /// At the first `listening` of the Node cluster.
    Listening,
    /// When it says so: the user message `ready`, `READY=1`, or a probe of the driver that succeeded.
    Message,
    /// When it has lived this long.
    After(Duration),
}

/// How long a program without a channel lives until [`Ready::Auto`] believes in it: 1 s.
pub const SETTLED: Duration = Duration::from_secs(1);

/// How a new generation takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// How many processes more than `instances` a reload may use, besides those that are leaving. At least 1. Default 1.
    pub surge: usize,
    /// How long the first new workers must live, ready but without traffic, before the generation is believed. Default 1 s.
    pub soak: Duration,
    /// How many fewer workers than `instances` may be ready meanwhile, so that fewer processes run at once: old ones leave
    /// before their successors are ready. Not before the first new worker is proven. Default 0: new before old.
    pub max_unavailable: usize,
}

/// How a worker is made to leave: asked to drain, then terminated (SIGTERM or the configured signal), then killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// From being asked to drain to the signal. Default 30 s.
    pub drain: Duration,
    /// From the signal to SIGKILL. Default 10 s.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instances: 1,
            ready: Ready::default(),
            ready_timeout: Duration::from_secs(10),
            restart: Restart::default(),
            reload: Reload::default(),
            stop: Stop::default(),
            seed: 0,
        }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            surge: 1,
            soak: Duration::from_secs(1),
            max_unavailable: 0,
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why a [`Config`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Outside of its range.
    #[error("{setting} is {value}, it must be from {min} to {max}")]
    OutOfRange {
        /// Its path in the configuration.
        setting: &'static str,
        /// What was asked for.
        value: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A time span of nothing where that would mean never.
    #[error("{setting} is zero, it must be longer")]
    Zero {
        /// Its path in the configuration.
        setting: &'static str,
    },
    /// Longer than [`MAX_SPAN`].
    #[error("{setting} is longer than a year")]
    TooLong {
        /// Its path in the configuration.
        setting: &'static str,
    },
    /// The first delay is longer than the longest.
    #[error("restart.backoff.first is longer than restart.backoff.max")]
    FirstOverMax,
}

impl ConfigError {
    /// Which setting is wrong: its path in the configuration.
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::OutOfRange { setting, .. } | Self::Zero { setting } | Self::TooLong { setting } => setting,
            Self::FirstOverMax => "restart.backoff",
        }
    }
}

impl Config {
    /// Says what is wrong with it.
    ///
    /// # Errors
    ///
    /// The first setting that is outside of its documented range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |setting, value: usize, min: u64, max: usize| {
            let (value, max) = (value as u64, max as u64);
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                })
            }
        };
        let restart = &self.restart;
        range("instances", self.instances, 1, MAX_INSTANCES)?;
        range("reload.surge", self.reload.surge, 1, MAX_INSTANCES)?;
        range("reload.max-unavailable", self.reload.max_unavailable, 0, MAX_INSTANCES)?;
        range("restart.backoff.factor", restart.backoff.factor as usize, 1, 1000)?;
        range(
            "restart.backoff.jitter",
            restart.backoff.jitter_percent as usize,
            0,
            100,
        )?;
        range(
            "restart.intensity.restarts",
            restart.intensity.restarts,
            0,
            crate::restart::MAX_RESTARTS,
        )?;
        for (setting, span) in [
            ("ready-timeout", self.ready_timeout),
            ("restart.intensity.period", restart.intensity.period),
        ] {
            if span.is_zero() {
                return Err(ConfigError::Zero { setting });
            }
        }
        let after = if let Ready::After(span) = self.ready {
            span
        } else {
            Duration::ZERO
        };
        for (setting, span) in [
            ("ready", after),
            ("ready-timeout", self.ready_timeout),
            ("restart.backoff.max", restart.backoff.max),
            ("restart.reset-after", restart.reset_after),
            ("restart.intensity.period", restart.intensity.period),
            ("reload.soak", self.reload.soak),
            ("stop.drain", self.stop.drain),
            ("stop.timeout", self.stop.timeout),
        ] {
            if span > MAX_SPAN {
                return Err(ConfigError::TooLong { setting });
            }
        }
        if restart.backoff.first > restart.backoff.max {
            return Err(ConfigError::FirstOverMax);
        }
        Ok(())
    }
}
