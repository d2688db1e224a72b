//! One piece of data pushed to simulated workers: virtual time, programs that refuse, die, say nothing or lie, and laws that
//! are checked after each step.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pushing;
mod seeds;
mod world;
