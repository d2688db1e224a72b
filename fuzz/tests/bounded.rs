//! A few seconds of each target, with every run of the tests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn bounded(name: &str) {
    let target = fuzz::target(name);
    if let Some(hex) = variable("FUZZ_INPUT") {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let input: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        return (target.run)(&input);
    }
    let seconds = variable("FUZZ_SECONDS").map_or(3, |text| text.parse().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = variable("FUZZ_SEED").map_or(now.as_nanos() as u64, |text| text.parse().unwrap());
    println!("{name}: FUZZ_SEED={seed}");
    let count = target.run_for(Duration::from_secs(seconds), seed);
    println!("{name}: {count} inputs");
    assert!(count > 30, "{count}");
}

#[test]
fn json_streams_mean_the_same_however_they_are_cut() {
    bounded("json_frames");
}

#[test]
fn advanced_streams_mean_the_same_however_they_are_cut() {
    bounded("advanced_frames");
}

#[test]
fn values_come_back_as_they_were() {
    bounded("values");
}

#[test]
fn no_descriptor_is_lost_or_doubled() {
    bounded("handles");
}

#[test]
fn cluster_messages_are_understood_as_they_are_printed() {
    bounded("cluster");
}

#[test]
fn notices_are_understood_line_by_line() {
    bounded("notify");
}
