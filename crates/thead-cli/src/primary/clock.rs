//! What is due by time: workers that are too old, and replacements by the calendar.

use std::time::Duration;

use croner::Cron;
use jiff::Zoned;
use thead::core::worker::{Phase, Slot};
use thead::service::Status;
use tokio::time::Instant;

use crate::config::{self, Span};

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Replace all workers.
    Reload,
    /// Replace the one that is too old.
    Renew(Slot),
}

/// How long the calendar is not looked at, at most: somebody may have set it.
const LOOK: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Clock {
    max_age: Option<Duration>,
    cron: Option<Cron>,
    /// When it is due by the calendar.
    next: Option<Zoned>,
}

impl Clock {
    pub(super) fn new(config: &config::Restart) -> Self {
        let cron = config.cron.as_deref().and_then(|text| config::cron::parse(text).ok());
        let mut clock = Self {
            max_age: config.max_age.map(Span::duration).filter(|age| !age.is_zero()),
            cron,
            next: None,
        };
        clock.turn(&Zoned::now());
        clock
    }

    fn turn(&mut self, now: &Zoned) {
        let next = self.cron.as_ref().map(|cron| cron.find_next_occurrence(now, false));
        self.next = next.and_then(Result::ok);
    }

    /// Whether anything will ever be due.
    pub(super) fn is_set(&self) -> bool {
        self.next.is_some() || self.max_age.is_some()
    }

    /// When to look again.
    pub(super) fn deadline(&self, status: &Status) -> Option<Instant> {
        let now = Instant::now();
        let calendar = self.next.as_ref().map(|next| {
            let left = next.timestamp().duration_since(jiff::Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            now + left.min(LOOK)
        });
        let age = self.max_age.and_then(|age| {
            let oldest = ready(status).map(|worker| worker.uptime).max()?;
            Some(now + age.saturating_sub(oldest))
        });
        [calendar, age].into_iter().flatten().min()
    }

    /// What is due now.
    pub(super) fn due(&mut self, status: &Status) -> Option<Due> {
        let now = Zoned::now();
        if self.next.as_ref().is_some_and(|next| *next <= now) {
            self.turn(&now);
            return Some(Due::Reload);
        }
        // One at a time: while something else is changed, nobody is too old.
        let age = self.max_age.filter(|_| status.change.is_none())?;
        let oldest = ready(status).max_by_key(|worker| worker.uptime)?;
        (oldest.uptime >= age).then_some(Due::Renew(oldest.slot))
    }
}

fn ready(status: &Status) -> impl Iterator<Item = &thead::service::WorkerStatus> {
    status.workers.iter().filter(|worker| worker.phase == Phase::Ready)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The next time after another, both as the clocks of central Europe show them.
    fn next(cron: &str, after: &str) -> String {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let after: jiff::civil::DateTime = after.parse().unwrap();
        let mut clock = Clock {
            cron: Some(config::cron::parse(cron).unwrap()),
            ..Clock::default()
        };
        clock.turn(&after.to_zoned(zone).unwrap());
        clock.next.unwrap().strftime("%Y-%m-%d %H:%M:%S %z").to_string()
    }

    #[test]
    fn the_next_time_is_told_by_the_calendar_of_the_zone() {
        assert_eq!(next("0 4 * * *", "2026-11-23 12:00"), "2026-11-24 04:00:00 +0100");
        assert_eq!(
            next("*/10 * * * * *", "2026-11-23 12:00:07"),
            "2026-11-23 12:00:10 +0100"
        );
        // The day on which the clocks are set back has 25 hours.
        assert_eq!(next("@daily", "2026-10-24 12:00"), "2026-10-25 00:00:00 +0200");
        assert_eq!(next("@daily", "2026-10-25 12:00"), "2026-10-26 00:00:00 +0100");
    }
}
