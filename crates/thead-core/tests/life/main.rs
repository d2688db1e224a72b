#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
//! The life of one service in a simulated machine: virtual time, programs that misbehave on request, and laws that are
//! checked after each step.

mod guarantees;
mod laws;
mod seeds;
mod world;
