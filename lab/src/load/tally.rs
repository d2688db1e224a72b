//! What is counted of a load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::client::Failure;
use crate::plot::count;

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 90 of 100.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Requests without a right answer, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Nobody listened.
    pub refused: u64,
    /// A new connection was reset or ended before a byte of the answer.
    pub lost_fresh: u64,
    /// So was one that had served before: what every client of kept connections must be ready for.
    pub lost_reused: u64,
    /// The connection ended within the answer.
    pub partial: u64,
    /// The answer was not 200.
    pub status: u64,
    /// There was no answer in time.
    pub timeout: u64,
    /// The client could not ask, or the answer was no HTTP.
    pub other: u64,
}

impl Failures {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.refused + self.lost_fresh + self.lost_reused + self.partial + self.status + self.timeout + self.other
    }

    /// Those that there were, in words.
    pub fn words(&self) -> String {
        let kinds = [
            (self.refused, "refused"),
            (self.lost_fresh, "lost on a new connection"),
            (self.lost_reused, "lost on a kept connection"),
            (self.partial, "cut short"),
            (self.status, "not 200"),
            (self.timeout, "too late"),
            (self.other, "other"),
        ];
        let there = kinds.iter().filter(|(count, _)| *count > 0);
        there
            .map(|(number, kind)| format!("{} {kind}", count(*number as f64)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The count of a load, while it runs.
#[derive(Debug)]
pub(super) struct Tally {
    /// Microseconds, to three digits.
    times: Histogram<u64>,
    failures: Failures,
    answered: u64,
    answered_in_all: u64,
    opened: u64,
    served: Vec<bool>,
    pub(super) held: usize,
    /// Each so many requests one is slow on purpose; 0 for none.
    slow_every: u64,
    begun: Option<Instant>,
    /// Only what was due after it counts.
    due_from: Option<Instant>,
    ended: Option<Instant>,
}

impl Tally {
    pub(super) fn new(clients: usize, slow_every: u64) -> Self {
        // What takes longer than ten minutes is counted as ten minutes.
        #[expect(
            clippy::expect_used,
            reason = "only a precision above 5 or a limit below 2 is refused"
        )]
        let times = Histogram::new_with_max(600_000_000, 3).expect("a valid precision");
        Self {
            times,
            failures: Failures::default(),
            answered: 0,
            answered_in_all: 0,
            opened: 0,
            served: vec![false; clients],
            held: 0,
            slow_every,
            begun: None,
            due_from: None,
            ended: None,
        }
    }

    /// From now on it counts, until [`Tally::end`]: what is answered in between.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// What is due from a moment on counts, whenever it is answered.
    pub(super) fn begin_from(&mut self, due: Instant) {
        self.begun = Some(due);
        self.due_from = Some(due);
    }

    pub(super) fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// Requests that have had an answer or a failure.
    pub(super) fn seen(&self) -> u64 {
        self.answered_in_all + self.failures.sum()
    }

    /// The end of a request that began, or was due, at a moment.
    pub(super) fn add(&mut self, client: usize, number: u64, due: Instant, result: Result<(), Failure>, opened: u64) {
        self.opened += opened;
        if result.is_ok() {
            self.answered_in_all += 1;
            if let Some(served) = self.served.get_mut(client) {
                *served = true;
            }
        }
        let counts = match self.due_from {
            Some(from) => due >= from,
            None => self.begun.is_some() && self.ended.is_none(),
        };
        if !counts {
            return;
        }
        match result {
            Ok(()) => {
                self.answered += 1;
                if self.slow_every == 0 || !number.is_multiple_of(self.slow_every) {
                    self.time(due.elapsed());
                }
            }
            Err(Failure::Timeout) => self.late(due),
            Err(Failure::Refused) => self.failures.refused += 1,
            Err(Failure::LostFresh) => self.failures.lost_fresh += 1,
            Err(Failure::LostReused) => self.failures.lost_reused += 1,
            Err(Failure::Partial) => self.failures.partial += 1,
            Err(Failure::Status) => self.failures.status += 1,
            Err(Failure::Other) => self.failures.other += 1,
        }
    }

    /// One that was due at a moment will not be waited for any longer.
    pub(super) fn gave_up(&mut self, due: Instant) {
        if self.due_from.is_some_and(|from| due >= from) {
            self.late(due);
        }
    }

    /// What had no answer in time took at least as long as it was waited for: left out, it would make percentiles better.
    fn late(&mut self, due: Instant) {
        self.failures.timeout += 1;
        self.time(due.elapsed());
    }

    fn time(&mut self, time: Duration) {
        self.times
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn outcome(&self) -> Outcome {
        let at = |quantile: f64| {
            if self.times.is_empty() {
                0.0
            } else {
                self.times.value_at_quantile(quantile) as f64 / 1e3
            }
        };
        let (begun, ended) = (self.begun, self.ended);
        Outcome {
            answered: self.answered,
            seconds: begun
                .zip(ended)
                .map_or(0.0, |(begun, ended)| (ended - begun).as_secs_f64()),
            latency: Latency {
                p50_ms: at(0.5),
                p90_ms: at(0.9),
                p99_ms: at(0.99),
                p999_ms: at(0.999),
                max_ms: self.times.max() as f64 / 1e3,
            },
            failures: self.failures,
            answered_in_all: self.answered_in_all,
            opened: self.opened,
            clients_served: self.served.iter().filter(|served| **served).count(),
            held: self.held,
        }
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_cut_off_but_its_clients_are_known() {
        let mut tally = Tally::new(2, 0);
        tally.add(0, 1, Instant::now(), Ok(()), 1);
        tally.add(1, 1, Instant::now(), Err(Failure::Refused), 0);
        tally.begin();
        tally.add(1, 1, Instant::now(), Ok(()), 1);
        tally.add(1, 1, Instant::now(), Err(Failure::Partial), 0);
        tally.end();
        tally.add(0, 1, Instant::now(), Ok(()), 0);
        let outcome = tally.outcome();
        assert_eq!((outcome.answered, outcome.answered_in_all, outcome.opened), (1, 3, 2));
        assert_eq!((outcome.failures.refused, outcome.failures.partial), (0, 1));
        assert_eq!(outcome.clients_served, 2);
    }

    #[test]
    fn what_was_due_in_time_counts_whenever_it_is_answered() {
        let begin = Instant::now();
        let mut tally = Tally::new(1, 0);
        tally.begin_from(begin);
        tally.end();
        tally.add(0, 1, begin, Ok(()), 1);
        if let Some(before) = begin.checked_sub(Duration::from_millis(1)) {
            tally.add(0, 1, before, Ok(()), 0);
            tally.gave_up(before);
        }
        tally.gave_up(begin);
        let outcome = tally.outcome();
        assert_eq!((outcome.answered, outcome.failures.timeout), (1, 1));
    }

    #[test]
    fn what_never_came_is_in_the_percentiles() {
        let mut tally = Tally::new(1, 0);
        let long_ago = Instant::now()
            .checked_sub(Duration::from_millis(500))
            .expect("the machine runs for a second");
        tally.begin_from(long_ago);
        for _ in 0..90 {
            tally.add(0, 1, Instant::now(), Ok(()), 0);
        }
        for _ in 0..10 {
            tally.gave_up(long_ago);
        }
        let latency = tally.outcome().latency;
        assert!(latency.p50_ms < 100.0 && latency.p99_ms >= 499.0, "{latency:?}");
    }

    #[test]
    fn what_is_slow_on_purpose_is_answered_but_not_timed() {
        let mut tally = Tally::new(1, 100);
        tally.begin();
        let long_ago = Instant::now()
            .checked_sub(Duration::from_millis(500))
            .expect("the machine runs for a second");
        tally.add(0, 99, Instant::now(), Ok(()), 0);
        tally.add(0, 100, long_ago, Ok(()), 0);
        let outcome = tally.outcome();
        assert_eq!(outcome.answered, 2);
        assert!(outcome.latency.max_ms < 400.0, "{outcome:?}");
    }

    #[test]
    fn failures_are_told_apart_in_words() {
        let failures = Failures {
            refused: 3,
            lost_reused: 1,
            ..Failures::default()
        };
        assert_eq!(failures.words(), "3 refused, 1 lost on a kept connection");
        assert_eq!(failures.sum(), 4);
    }
}
