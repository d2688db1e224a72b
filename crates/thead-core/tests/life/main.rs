//! The life of one service in a simulated machine: virtual time, programs that misbehave on request, and laws that are
//! checked after each step.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ending;
mod laws;
mod orders;
mod readiness;
mod reloading;
mod restarting;
mod seeds;
mod world;
