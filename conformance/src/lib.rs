//! thead against real runtimes.
