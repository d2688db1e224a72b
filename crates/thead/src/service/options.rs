//! What a service is made of, and how it is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thead_core::probe;
use thead_core::worker::Slot;

use super::{Life, Limits, Prober};
use crate::channel::Handle;
use crate::command::Command;
use crate::output::Sink;

/// How a worker is asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// By thead's preload, which gives idle connections back. The command must inject it; see [`crate::preload`].
    HandBack,
    /// By the cluster's `disconnect`.
    #[default]
    Disconnect,
    /// By the stop signal.
    Signal,
}

/// What the workers of one generation are.
#[derive(Clone, Debug)]
pub struct Program {
    /// What each of them runs.
    pub command: Command,
    /// How they are asked to leave.
    pub drain: Drain,
    /// Sockets for workers that take `LISTEN_FDS`, and for Node workers that listen on `{ fd: 3 }` and so on.
    pub listen: Vec<Listen>,
    /// Variables that tell a worker its place: each has this number with that of the slot added.
    pub slot_env: Vec<(String, i64)>,
    /// They get a `NOTIFY_SOCKET`, as from systemd. `READY=1` is as good as the message `ready`, `WATCHDOG=1` is a heartbeat.
    pub notify: bool,
}

impl Program {
    /// One that leaves by the cluster's `disconnect`.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            drain: Drain::default(),
            listen: Vec::new(),
            slot_env: Vec::new(),
            notify: false,
        }
    }

    /// What the worker in a slot is started by.
    pub(super) fn command_for(&self, slot: Slot) -> Command {
        let command = self
            .slot_env
            .iter()
            .fold(self.command.clone(), |command, (name, first)| {
                command.env(name, first.saturating_add(slot.0.into()).to_string())
            });
        self.listen
            .iter()
            .fold(command, |command, listen| match listen.sockets.of(slot) {
                Some(socket) => command.listener(listen.name.clone(), socket.clone()),
                None => command,
            })
    }
}

/// A bound socket that workers are started with. The service keeps it open, so that connections wait while no worker is there.
#[derive(Clone, Debug)]
pub struct Listen {
    /// By which they know it; see [`Command::listener`].
    pub name: String,
    /// Who gets which.
    pub sockets: Sockets,
}

/// A socket for all workers, or one for each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sockets {
    /// The same for all: they accept as they come to it.
    Shared(Handle),
    /// One for each slot, on one address with `SO_REUSEPORT`; the kernel chooses among them. Where there are fewer than
    /// slots, each is for several.
    PerSlot(Vec<Handle>),
}

impl Sockets {
    fn of(&self, slot: Slot) -> Option<&Handle> {
        match self {
            Self::Shared(socket) => Some(socket),
            Self::PerSlot(sockets) => sockets.get(slot.0 as usize % sockets.len().max(1)),
        }
    }
}

/// Variables by name; one without a value is taken away. Those that are not named are left as they are.
pub type Variables = BTreeMap<String, Option<String>>;

/// How a service is run. All of it can be changed while it runs, by [`Operator::configure`](super::Operator::configure).
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many workers, how they are restarted, reloaded and stopped.
    pub life: Life,
    /// How long workers with the preload answer with `Connection: close` before they close idle connections that cannot be
    /// given to another worker. When the service stops they go on serving for so long before the listeners are closed.
    pub lame_duck: Duration,
    /// Asks a worker to stop. Default SIGTERM.
    pub stop_signal: i32,
    /// Workers with a channel are told to leave by the message `shutdown` as well, as PM2 does (`shutdown_with_message`).
    pub stop_message: bool,
    /// Whether workers are ready and alive. Heartbeats are sent by Node workers with thead's preload, and by programs that
    /// were given a `NOTIFY_SOCKET` while this had a heartbeat: they learn of it when they are started.
    ///
    /// Where probes say when a worker is ready, set [`Ready::Message`](super::Ready::Message).
    pub watch: probe::Config,
    /// Carries the probes of [`watch`](Self::watch) out. Without it there are none.
    pub prober: Option<Arc<dyn Prober>>,
    /// What one worker may use.
    pub limits: Limits,
    /// Variables of workers, over those of their program. A change reaches Node workers with thead's preload while they run, in
    /// `process.env`; others have it when they are started.
    pub env: Variables,
    /// Before a Node worker that is stuck is ended it is asked what it is doing. For that its inspector opens for up to a
    /// second, on a port of 127.0.0.1 that any user of this machine may connect to. Default true.
    pub stacks: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            life: Life::default(),
            lame_duck: Duration::from_secs(1),
            stop_signal: libc::SIGTERM,
            stop_message: false,
            watch: probe::Config::default(),
            prober: None,
            limits: Limits::default(),
            env: Variables::new(),
            stacks: true,
        }
    }
}

/// What a service is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What its workers are, until a reload or restart brings another.
    pub program: Program,
    /// How it is run, until [`Operator::configure`](super::Operator::configure) says otherwise.
    pub settings: Settings,
    /// Who gets which connection.
    pub cluster: crate::cluster::Config,
    /// Where what workers print goes; `None` leaves them the streams of this process.
    pub lines: Option<Sink>,
}

impl Options {
    /// A service of one worker.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            settings: Settings::default(),
            cluster: crate::cluster::Config::default(),
            lines: None,
        }
    }
}
