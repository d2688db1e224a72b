//! The wire formats of Node's child-process channel: bytes in, events out, no I/O and no clock.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod v8;
