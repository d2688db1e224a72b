//! What thead asks of the kernel: spawning, passing descriptors, waiting, binding.
//!
//! The only module with `unsafe`. It never waits for another process: every descriptor it makes is
//! close-on-exec from birth, and every read, write and wait answers at once. Linux 5.10 or newer.
//!
//! It is public so that tests, benchmarks and the program `thead` can reach it; its names may change in any release.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod cgroup;
pub mod enclosure;
pub mod errno;
pub mod helper;
pub mod inherit;
pub mod lane;
pub mod limit;
pub mod listen;
pub mod memory;
pub mod message;
pub mod path;
pub mod pidfd;
pub mod reactor;
pub mod reap;
pub mod reclaim;
pub mod rest;
pub mod spawn;
pub mod stat;
pub mod tree;
pub mod user;
