//! Writer and reader together, on real files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disk;
mod kit;
mod reading;
mod rotation;
mod writing;
