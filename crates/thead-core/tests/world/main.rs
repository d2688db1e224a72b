//! The cluster primary in a simulated machine: virtual time, workers that misbehave, and laws that are checked after each step.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod divided;
mod hostility;
mod kit;
mod laws;
mod leaving;
mod listeners;
mod machine;
mod offers;
mod private;
mod seeds;
mod traces;
