//! `thead::sys` against the real kernel, with real children.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod kit;
mod lane;
mod limit;
mod listen;
mod message;
mod reap;
mod reclaim;
mod spawn;
mod spawn_place;
