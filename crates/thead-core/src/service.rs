//! The life of one service: how many workers, which are ready, who replaces whom, and when it is over.

mod config;
mod event;

pub use config::{Config, ConfigError, MAX_INSTANCES, MAX_SPAN, Ready, Reload, SETTLED, Stop};
pub use event::{AbortCause, Action, Event, Failure, GiveUp, Input, Outcome, Refusal, Request, Why};
