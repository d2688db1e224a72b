//! Any bytes for the parsers of `thead-wire`.
//!
//! A [`Target`] is a function that takes bytes and panics where a promise is broken. Two drivers run them:
//! - `tests/bounded.rs`, with every `./dev test`: a few seconds each, over the seeds and changes of them. `FUZZ_SECONDS`
//!   says how many, `FUZZ_SEED` repeats a run, `FUZZ_INPUT` (hexadecimal) runs one input alone.
//! - `libfuzzer/`, for long runs that are led by coverage, with `cargo-fuzz` and a nightly compiler:
//!
//! ```sh
//! cargo run -p fuzz --bin corpus -- fuzz/libfuzzer/corpus
//! cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer values -- -max_total_time=600
//! ```
//!
//! The seeds are what real runtimes wrote, from the fixtures of `thead-wire`; none are kept here.

#![expect(clippy::unwrap_used, reason = "a broken promise is told by a panic")]

mod any;
mod chance;
mod cluster;
mod frame;
mod handle;
mod notify;
mod seed;
mod value;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use chance::Chance;

/// Something that is to withstand any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As the libFuzzer binary is called.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
    /// What to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "json_frames",
        run: frame::json,
        seeds: seed::json_streams,
    },
    Target {
        name: "advanced_frames",
        run: frame::advanced,
        seeds: seed::advanced_streams,
    },
    Target {
        name: "values",
        run: value::run,
        seeds: seed::values,
    },
    Target {
        name: "handles",
        run: handle::run,
        seeds: seed::scripts,
    },
    Target {
        name: "cluster",
        run: cluster::run,
        seeds: seed::cluster_messages,
    },
    Target {
        name: "notify",
        run: notify::run,
        seeds: notify::seeds,
    },
];

/// The target of that name.
pub fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).unwrap()
}

impl Target {
    /// Runs the seeds, and then changes of them for so long. Returns how many inputs were run.
    ///
    /// # Panics
    /// With the input, if a promise is broken.
    pub fn run_for(self, time: Duration, seed: u64) -> u64 {
        let until = Instant::now() + time;
        let mut chance = Chance::new(seed);
        let seeds = (self.seeds)();
        seeds.iter().for_each(|input| self.run_one(input, seed));
        let mut count = seeds.len() as u64;
        while Instant::now() < until {
            let mut input = chance.pick(&seeds).clone();
            for _ in 0..=chance.below(6) {
                chance.change(&mut input, &seeds);
            }
            self.run_one(&input, seed);
            count += 1;
        }
        count
    }

    fn run_one(self, input: &[u8], seed: u64) {
        if catch_unwind(AssertUnwindSafe(|| (self.run)(input))).is_err() {
            let hex = input.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            panic!("{} with seed {seed} broke on FUZZ_INPUT={hex}", self.name);
        }
    }
}
