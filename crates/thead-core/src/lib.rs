//! The decisions of thead: facts in, decisions out, no I/O and no clock.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod data;
pub mod id;
pub mod probe;
pub mod restart;
pub mod service;
pub mod worker;
