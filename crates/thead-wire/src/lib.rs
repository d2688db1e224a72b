//! The wire formats of Node's child-process channel: bytes in, events out, no I/O and no clock.
//!
//! - [`frame`]: where one message ends and the next begins, in `json` and in `advanced`.
//! - [`v8`]: the value format of `advanced`.
//! - [`message`]: what a frame means.
//! - [`endpoint`]: one end of a channel: order, handles in flight, their acknowledgement, the end.
//! - [`cluster`]: the messages between a cluster's primary and its workers.
//! - [`mod@env`]: what the environment of a child says.
//! - [`json`]: JSON as JavaScript means it.
//! - [`notify`]: what a program tells its supervisor over `NOTIFY_SOCKET`.
//!
//! Written from experiments on Node 18 to 26, Bun 1.4 and Deno 2.9; `docs/protocol.md` has what was learned.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod endpoint;
pub mod env;
pub mod frame;
pub mod json;
pub mod message;
pub mod notify;
pub mod v8;

pub use endpoint::{Dialect, Endpoint, Event};
pub use frame::Serialization;
pub use message::HandleKind;
