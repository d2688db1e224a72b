//! The process model of Node.js for Rust: child processes with Node's channel, handle passing, and a cluster primary.
//!
//! - [`spawn()`], [`exec()`], [`exec_file()`] and [`fork()`] are Node's verbs; [`Command`] has all that they can be told, and
//!   [`Child`] tells what happens.
//! - [`Worker`] is a browser's dedicated worker: a script in a process, or a function in a thread.
//! - [`parent()`] is the other end, in a program that was forked; [`worker::listen`] serves as a worker of a cluster.
//! - [`cluster::Primary`] serves one port from several workers, unmodified Node programs among them.
//! - [`data`] is configuration that a service pushes to living workers, with revisions.
//! - [`service::Service`] keeps such a cluster alive: restart, reload, scale, stop.
//!
//! # Platform
//! Linux 5.10 or newer.
#![deny(unsafe_code)]

mod abort;
pub mod channel;
mod child;
pub mod cluster;
mod command;
#[cfg(feature = "control")]
pub mod control;
pub mod data;
mod dir;
mod exec;
mod inspect;
mod link;
pub mod notify;
pub mod output;
mod parent;
pub mod preload;
mod runtime;
pub mod service;
mod stdio;
#[expect(unsafe_code, reason = "what thead asks of the kernel has no safe interface")]
pub mod sys;
mod verbs;
mod watch;
mod web_worker;
pub mod worker;

pub use abort::{AbortController, AbortSignal};
pub use child::{Child, ChildError, ChildEvent};
pub use command::{Command, MAX_BUFFER, SpawnError};
pub use exec::{ExecError, Failure, Output};
pub use link::Link;
pub use parent::{Parent, ParentError, ParentEvent, parent};
pub use runtime::Runtime;
pub use stdio::{ChildOutput, ChildStdin, ChildStream, Stdio};
pub use sys::pidfd::ExitStatus;
pub use thead_core as core;
pub use thead_wire as wire;
pub use thead_wire::{HandleKind, Serialization};
pub use verbs::{exec, exec_file, exec_file_sync, exec_sync, fork, spawn, spawn_sync};
pub use web_worker::{ErrorEvent, Worker, WorkerEvent, WorkerMessage, WorkerScope};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/hot-data.md")]
struct HotData;
