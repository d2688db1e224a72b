//! Real children, those that misbehave among them, through the public API.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod data;
mod hostile;
mod kit;
mod life;
mod node;
mod operator;
mod output;
mod siblings;
