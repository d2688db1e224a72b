//! Restarts: how long to wait, how many to allow, and when to give up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most restarts that an [`Intensity`] may allow: the window remembers each of them.
pub const MAX_RESTARTS: usize = 10_000;

/// What happens after a death that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Which deaths are followed by a restart. Default [`Policy::Always`].
    pub policy: Policy,
    /// How long to wait before it.
    pub backoff: Backoff,
    /// A worker that was ready for this long before it died starts the backoff anew. Default 10 s.
    pub reset_after: Duration,
    /// How many, in a service, until its dead stay dead.
    pub intensity: Intensity,
}

/// Which deaths are followed by a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each.
    #[default]
    Always,
    /// Each but exit code 0.
    OnFailure,
    /// None.
    Never,
}

/// A delay that grows from one death of a slot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first death. Default 100 ms.
    pub first: Duration,
    /// Longest, before jitter. Default 5 s.
    pub max: Duration,
    /// From one delay to the next. Default 2.
    pub factor: u32,
    /// Each delay is this much longer or shorter, at random, so that what died together does not come back together.
    /// Default 20.
    pub jitter_percent: u8,
}

/// How many restarts a service gets in a sliding window of time.
///
/// With the defaults a worker that dies at once spends them in about half a minute. A `period` shorter than the first
/// `restarts` delays of the backoff is never spent: such a service is restarted for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// So many, 0 to [`MAX_RESTARTS`]. Default 10.
    pub restarts: usize,
    /// In so long. Default 60 s.
    pub period: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            backoff: Backoff::default(),
            reset_after: Duration::from_secs(10),
            intensity: Intensity::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            factor: 2,
            jitter_percent: 20,
        }
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts: 10,
            period: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The delay after the `deaths`th death in a row, from 1.
    pub(crate) fn delay(&self, deaths: u32, random: &mut Random) -> Duration {
        let growth = self.factor.checked_pow(deaths.saturating_sub(1));
        let delay = growth
            .and_then(|growth| self.first.checked_mul(growth))
            .map_or(self.max, |delay| delay.min(self.max));
        let width = u32::from(self.jitter_percent);
        // In thousandths of a percent, from 100 % - width to 100 % + width.
        let share = 100_000 - width * 1000 + random.up_to(2 * width * 1000);
        delay * share / 100_000
    }
}

/// The restarts that a service has used in the current period.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    used: VecDeque<Instant>,
}

impl Budget {
    /// Takes one restart out and says how many are used now; `None` if there is none left.
    pub(crate) fn take(&mut self, now: Instant, intensity: &Intensity) -> Option<usize> {
        while self
            .used
            .front()
            .is_some_and(|used| now.saturating_duration_since(*used) >= intensity.period)
        {
            self.used.pop_front();
        }
        if self.used.len() >= intensity.restarts {
            return None;
        }
        self.used.push_back(now);
        Some(self.used.len())
    }

    /// Begins anew: an operator has put something else in place.
    pub(crate) fn refill(&mut self) {
        self.used.clear();
    }
}

/// Random numbers good enough to spread restarts: SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number from 0 to `max`.
    fn up_to(&mut self, max: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (z ^ (z >> 31)) >> 32;
        ((high * (u64::from(max) + 1)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_stay_there() {
        let backoff = Backoff {
            jitter_percent: 0,
            ..Backoff::default()
        };
        let delays: Vec<_> = (1..=9).map(|n| backoff.delay(n, &mut Random(1)).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.delay(u32::MAX, &mut Random(1)), backoff.max);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_all_of_them() {
        let backoff = Backoff {
            factor: 1,
            ..Backoff::default()
        };
        let mut random = Random(7);
        let delays: Vec<_> = (0..10_000).map(|_| backoff.delay(1, &mut random)).collect();
        let within = |from, to| {
            delays
                .iter()
                .any(|d| (Duration::from_micros(from)..=Duration::from_micros(to)).contains(d))
        };
        assert!(
            delays
                .iter()
                .all(|d| (80..=120).contains(&d.as_millis()) && *d <= Duration::from_millis(120))
        );
        assert!(
            within(80_000, 80_500) && within(119_500, 120_000),
            "both ends are reached"
        );
        let mean = delays.iter().sum::<Duration>() / 10_000;
        assert!(
            mean > Duration::from_millis(99) && mean < Duration::from_millis(101),
            "{mean:?}"
        );
    }

    #[test]
    fn the_budget_is_a_sliding_window() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to count from")]
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let intensity = Intensity {
            restarts: 2,
            period: Duration::from_secs(60),
        };
        let mut budget = Budget::default();
        assert_eq!(budget.take(at(0), &intensity), Some(1));
        assert_eq!(budget.take(at(50), &intensity), Some(2));
        assert_eq!(budget.take(at(59), &intensity), None);
        assert_eq!(
            budget.take(at(60), &intensity),
            Some(2),
            "the one at 0 has left the window"
        );
        assert_eq!(budget.take(at(61), &intensity), None);
        budget.refill();
        assert_eq!(budget.take(at(61), &intensity), Some(1));
    }
}
