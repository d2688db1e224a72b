//! What is said between the primary and a worker's preload (`preload.cjs`).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use thead_core::cluster::{Input, Scheduling};
use thead_core::id::WorkerId;
use thead_wire::cluster::MAX_MESSAGE;

use super::{Primary, Worker, listener, now};
use crate::channel::Handle;

/// Tells the preload to give its connections back, or to close them, and to leave.
const DRAIN: &str = "NODE_THEAD_DRAIN";
/// Comes from it with a connection.
const HAND_BACK: &str = "NODE_THEAD_HANDBACK";
/// Tells it how often to say that the event loop turns, and says so.
const BEAT: &str = "NODE_THEAD_BEAT";
/// Tells it what has changed in `process.env`.
const ENV: &str = "NODE_THEAD_ENV";

/// What the preload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// This connection is idle.
    HandBack,
    /// The event loop turns.
    Beat,
}

impl Said {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Private<'a> {
            cmd: &'a str,
        }
        if body.len() > MAX_MESSAGE {
            return None;
        }
        match serde_json::from_slice(body) {
            Ok(Private { cmd: HAND_BACK }) => Some(Self::HandBack),
            Ok(Private { cmd: BEAT }) => Some(Self::Beat),
            _ => None,
        }
    }
}

impl Primary {
    /// Tells a worker with thead's preload to answer with `Connection: close` from now on, and to leave after
    /// `lame_duck`. It still gets connections until then.
    pub fn lame_duck(&mut self, worker: WorkerId, lame_duck: Duration) {
        self.send_drain(worker, false, lame_duck);
    }

    /// Has a worker with thead's preload say every so often that its event loop turns ([`PrimaryEvent::Beat`]), from now on;
    /// never again for zero. It costs the worker some microseconds each time, and keeps no program alive.
    ///
    /// [`PrimaryEvent::Beat`]: super::PrimaryEvent::Beat
    pub fn beat(&mut self, worker: WorkerId, every: Duration) {
        // Less than a millisecond is no time for a timer of Node's.
        let every = if every.is_zero() { 0 } else { every.as_millis().max(1) };
        self.tell_preload(worker, &format!(r#"{{"cmd":"{BEAT}","every":{every}}}"#));
    }

    /// Has a worker with thead's preload change variables in `process.env`, or take away those without a value. A program that
    /// has read them before does not notice.
    pub fn change_env(&mut self, worker: WorkerId, env: &BTreeMap<&String, &Option<String>>) {
        self.tell_preload(worker, &serde_json::json!({ "cmd": ENV, "env": env }).to_string());
    }

    pub(super) fn send_drain(&mut self, worker: WorkerId, hand_back: bool, lame_duck: Duration) {
        let lame_duck = lame_duck.as_millis();
        let command = format!(r#"{{"cmd":"{DRAIN}","handBack":{hand_back},"lameDuck":{lame_duck}}}"#);
        self.tell_preload(worker, &command);
    }

    fn tell_preload(&self, worker: WorkerId, command: &str) {
        if let Some(channel) = self.channel(worker) {
            // A channel that ended meanwhile is reported by its task.
            let _ = channel.send_internal(command.as_bytes());
        }
    }

    /// Takes a connection that a worker gives back, if it can be one: whatever it is, another worker would get it.
    pub(super) fn take_back(&mut self, id: WorkerId, connection: Handle) {
        let accepts = matches!(self.scheduling, Scheduling::Shared | Scheduling::Kernel);
        let may = |worker: &&mut Worker| worker.gives_back && (accepts || worker.given > 0);
        let Some(worker) = self.workers.get_mut(&id).filter(may) else {
            return self.bad(id, "a connection that was not asked for", b"");
        };
        worker.given = worker.given.saturating_sub(1);
        let local = match listener::address_of_connection(&connection) {
            Ok(local) => local,
            // The client has left meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => {
                return self.bad(
                    id,
                    format_args!("no connection was given back, but something else: {error}"),
                    b"",
                );
            }
        };
        self.handed_back += 1;
        let client = self.client_of(&connection);
        let conn = self.keep(connection);
        self.machine.input(
            now(),
            Input::HandedBack {
                worker: id,
                conn,
                local,
                client,
            },
        );
    }
}
