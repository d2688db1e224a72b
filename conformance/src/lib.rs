//! thead against real runtimes.

pub mod load;
