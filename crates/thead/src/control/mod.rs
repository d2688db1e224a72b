//! The control socket of a running `thead` daemon: what is said over it, and a client.
//!
//! HTTP/1.1 and JSON over a Unix socket that only its owner can open; `docs/openapi.json` describes it. With the feature
//! `control`.

mod client;
mod types;

pub use client::{Client, ClientError, Events};
pub use types::*;

use std::path::PathBuf;

/// Where the daemon of this user has its socket: `THEAD_HOME/run/control.sock`; without that variable
/// `/run/thead/control.sock` for root, and `$XDG_RUNTIME_DIR/thead/control.sock` or `~/.thead/run/control.sock` for others.
pub fn socket_path() -> PathBuf {
    run_dir().join("control.sock")
}

/// The directory of the sockets.
pub fn run_dir() -> PathBuf {
    if let Some(home) = set("THEAD_HOME") {
        return home.join("run");
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/thead");
    }
    match set("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("thead"),
        None => home().join(".thead/run"),
    }
}

/// The directory of what is to survive a reboot: `THEAD_HOME/state`, `/var/lib/thead`, `$XDG_STATE_HOME/thead` or
/// `~/.local/state/thead`.
pub fn state_dir() -> PathBuf {
    if let Some(home) = set("THEAD_HOME") {
        return home.join("state");
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/thead");
    }
    match set("XDG_STATE_HOME") {
        Some(dir) => dir.join("thead"),
        None => home().join(".local/state/thead"),
    }
}

/// The directory of what workers print: `THEAD_HOME/log`, `/var/log/thead`, or `log` in [`state_dir`].
pub fn log_dir() -> PathBuf {
    match set("THEAD_HOME") {
        Some(home) => home.join("log"),
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/log/thead"),
        None => state_dir().join("log"),
    }
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn home() -> PathBuf {
    set("HOME").unwrap_or_else(|| PathBuf::from("/"))
}
