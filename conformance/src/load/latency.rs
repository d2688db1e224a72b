//! A histogram of durations.

use std::time::Duration;

/// Buckets in each doubling: a quantile is at most 1/8 too high.
const FINE: u32 = 3;

/// How long things took: counts in buckets that grow with the duration, from 1 µs up.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    buckets: Vec<u64>,
    longest: Duration,
}

impl Latency {
    pub(super) fn record(&mut self, duration: Duration) {
        let bucket = bucket(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.longest = self.longest.max(duration);
    }

    pub(super) fn add(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
        self.longest = self.longest.max(other.longest);
    }

    /// The duration that the part `q` (0 to 1) of all does not exceed. Zero if there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        let count: u64 = self.buckets.iter().sum();
        let mut left = (count as f64 * q).ceil() as u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 && *count > 0 {
                return Duration::from_micros(highest(bucket)).min(self.longest);
            }
        }
        self.longest
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

/// Below 8 µs one bucket each; then the highest bit and the [`FINE`] bits behind it.
fn bucket(micros: u64) -> usize {
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(FINE + 1);
    ((u64::from(shift) << FINE) + (micros >> shift)) as usize
}

/// The highest number of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> FINE).saturating_sub(1);
    let first = bucket - (shift << FINE);
    ((first + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_in_a_bucket_that_ends_at_most_an_eighth_above_it() {
        for micros in (0..5000).chain((0..40).map(|bit| (1 << bit) + 17)) {
            let end = highest(bucket(micros));
            assert!(
                end >= micros && end - micros <= micros / 8,
                "{micros} is in the bucket to {end}"
            );
        }
    }

    #[test]
    fn quantiles_of_a_thousand_durations_are_near_the_true_ones() {
        let mut low = Latency::default();
        let mut high = Latency::default();
        (1..=500).for_each(|ms| low.record(Duration::from_millis(ms)));
        (501..=1000).for_each(|ms| high.record(Duration::from_millis(ms)));
        low.add(&high);
        let median = low.quantile(0.5).as_millis();
        assert!((500..=563).contains(&median), "{median}");
        assert_eq!(low.quantile(1.0), Duration::from_secs(1));
        assert_eq!(Latency::default().quantile(0.99), Duration::ZERO);
    }
}
