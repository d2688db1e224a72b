//! Is a worker ready, and is it stuck: heartbeats, probes, and what programs say of themselves.
//!
//! What is decided is decided in [`thead_core::probe`].

use std::fmt;
use std::io;
use std::pin::Pin;

use thead_core::id::WorkerId;
use thead_core::probe::{self, Action, Purpose};
use thead_core::service::{Event, Input};
use thead_core::worker::Slot;
use thead_wire::notify::{self, Notice};
use tokio::time::Instant;

use super::worker::Worker;
use super::{Drain, Program, Service, ServiceEvent, now};
use crate::cluster::{PrivateConnection, PrivateError};
use crate::inspect;
use crate::notify::{Datagram, NotifySocket};
use crate::output::Sink;
use crate::sys::stat::ProcessStat;
use crate::sys::{pidfd, tree};

/// Carries probes out: asks a worker over HTTP, runs a command, whatever tells whether it is well.
pub trait Prober: fmt::Debug + Send + Sync {
    /// The TCP port that is asked for this purpose, if it is one that a worker is asked at.
    ///
    /// A worker that listens there by the primary is then given a connection of its own; see [`Target::connection`]. All other
    /// probes find their way themselves, and where workers share a socket they ask whoever answers.
    fn port(&self, purpose: Purpose) -> Option<u16>;

    /// Says whether the worker is well, or what is wrong with it. Dropped when it takes too long.
    fn probe(&self, target: Target) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
}

/// Who is to be probed.
#[derive(Debug)]
pub struct Target {
    /// What is to be found out.
    pub purpose: Purpose,
    /// Who.
    pub worker: WorkerId,
    /// Where.
    pub slot: Slot,
    /// Its process.
    pub pid: u32,
    /// A connection that leads to exactly this worker.
    pub connection: Option<PrivateConnection>,
}

/// How workers show that they are alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beats {
    /// They do not.
    Never,
    /// By the preload.
    Preload,
    /// By `WATCHDOG=1`, at a pace that they were told when they were started.
    Notices,
}

impl Beats {
    pub(super) fn of(program: &Program) -> Self {
        match program {
            Program {
                drain: Drain::HandBack, ..
            } => Self::Preload,
            Program { notify: true, .. } => Self::Notices,
            _ => Self::Never,
        }
    }
}

/// What comes from tasks of the service's own.
#[derive(Debug)]
pub(super) enum News {
    /// A probe has ended.
    Probed(WorkerId, u32, Result<(), String>),
    /// A stuck worker was asked what it is doing.
    Stack(WorkerId, io::Result<Vec<String>>),
}

impl Service {
    /// How workers are watched that show in this way that they are alive.
    pub(super) fn watching(&self, beats: Beats) -> probe::Config {
        let mut config = self.settings.watch.clone();
        match beats {
            Beats::Never => config.heartbeat = None,
            // Taken as stuck after one and a half, it has said where it was and is gone after two.
            Beats::Preload => config.heartbeat = config.heartbeat.map(|period| period * 3 / 4),
            Beats::Notices => {}
        }
        if self.settings.prober.is_none() {
            (config.ready, config.live) = (None, None);
        }
        config
    }

    /// Others settings hold.
    pub(super) fn watch_anew(&mut self) {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let Some(worker) = self.workers.get(&id) else { continue };
            let beats = worker.beats;
            let mut config = self.watching(beats);
            // It beats as it was told at its start.
            if beats == Beats::Notices {
                config.heartbeat = worker.watch.config().heartbeat;
            }
            self.watch(id, probe::Input::Configure(config));
            self.ask_for_beats(id);
        }
    }

    /// Tells a worker's preload how often to say that it is alive: twice in each period, so that one may be late.
    pub(super) fn ask_for_beats(&mut self, id: WorkerId) {
        let preload = self
            .workers
            .get(&id)
            .is_some_and(|worker| worker.beats == Beats::Preload);
        if preload {
            let every = self.settings.watch.heartbeat.unwrap_or_default() / 2;
            self.primary.beat(id, every);
        }
    }

    /// What happens to a worker tells whether it is to be watched.
    pub(super) fn watch_event(&mut self, event: &Event) {
        match event {
            Event::Ready { worker, .. } => self.watch(*worker, probe::Input::Ready),
            Event::Draining { worker, .. } | Event::Terminating { worker, .. } | Event::Killing { worker, .. } => {
                self.watch(*worker, probe::Input::Leaving);
            }
            _ => {}
        }
    }

    pub(super) fn watch(&mut self, id: WorkerId, input: probe::Input) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.watch.input(now(), input);
            self.obey_watch(id);
        }
    }

    /// When somebody has to be looked at.
    pub(super) fn watch_deadline(&self) -> Option<Instant> {
        let deadlines = self.workers.values().filter_map(|worker| worker.watch.deadline());
        deadlines.min().map(Instant::from_std)
    }

    /// Time passed.
    pub(super) fn advance_watches(&mut self) {
        let now = now();
        let due = |worker: &Worker| worker.watch.deadline().is_some_and(|deadline| deadline <= now);
        // Whoever prints waits for us, and cannot do anything else meanwhile.
        let waits = self.lines.as_ref().is_some_and(Sink::holds_up);
        let late: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, worker)| due(worker))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(worker) = self.workers.get_mut(&id) {
                if waits && worker.watch.has_beaten() {
                    worker.watch.input(now, probe::Input::Beat);
                }
                worker.watch.advance(now);
                self.obey_watch(id);
            }
        }
    }

    pub(super) fn obey_watch(&mut self, id: WorkerId) {
        while let Some(action) = self.workers.get_mut(&id).and_then(|worker| worker.watch.poll()) {
            match action {
                Action::Probe { number, purpose } => self.probe(id, number, purpose),
                Action::IsReady => {
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.trouble = None;
                    }
                    self.machine.input(now(), Input::SaidReady { worker: id });
                }
                Action::Failed(reason) => {
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.trouble = Some(reason.clone());
                    }
                    self.events.push_back(ServiceEvent::ProbeFailed { worker: id, reason });
                }
                Action::IsStuck(reason) => self.machine.input(now(), Input::Unhealthy { worker: id, reason }),
            }
        }
    }

    fn probe(&mut self, id: WorkerId, number: u32, purpose: Purpose) {
        let (Some(prober), Some(worker)) = (self.settings.prober.clone(), self.workers.get_mut(&id)) else {
            return;
        };
        if let Some(before) = worker.probe.take() {
            before.abort();
        }
        let mut target = Target {
            purpose,
            worker: id,
            slot: worker.slot,
            pid: worker.pid,
            connection: None,
        };
        let news = self.news.clone();
        let channel = worker.program.command.takes_connections();
        if let Some(port) = prober.port(purpose).filter(|_| channel) {
            match self.primary.connect_to(id, port) {
                Ok(connection) => target.connection = Some(connection),
                // It may be a process of its own that listens there.
                Err(PrivateError::Nowhere(_)) => {}
                Err(error) => return drop(news.send(News::Probed(id, number, Err(error.to_string())))),
            }
        }
        let probe = tokio::spawn(async move {
            let outcome = prober.probe(target).await;
            // A service that is gone does not want to know.
            let _ = news.send(News::Probed(id, number, outcome));
        });
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.probe = Some(probe.abort_handle());
        }
    }

    pub(super) fn take_news(&mut self, news: News) {
        match news {
            News::Probed(worker, number, outcome) => {
                if outcome.is_ok()
                    && let Some(worker) = self.workers.get_mut(&worker)
                {
                    worker.trouble = None;
                }
                self.watch(worker, probe::Input::Probed { number, outcome });
            }
            News::Stack(worker, frames) => {
                match frames {
                    Ok(frames) => {
                        if let Some(stuck) = self.workers.get_mut(&worker) {
                            stuck.stack.clone_from(&frames);
                        }
                        self.events.push_back(ServiceEvent::Stack { worker, frames });
                    }
                    Err(error) => tracing::debug!(%worker, %error, "a stuck worker does not say what it is doing"),
                }
                self.kill(worker, libc::SIGABRT);
            }
        }
    }

    /// A worker is stuck: it is asked what it is doing if it can say so, and sent SIGABRT.
    pub(super) fn abort(&mut self, id: WorkerId) {
        self.primary.retire(id);
        let stacks = self.settings.stacks;
        let speaks = |worker: &&mut Worker| stacks && worker.beats == Beats::Preload && worker.watch.has_beaten();
        let asked = self.workers.get_mut(&id).filter(speaks);
        let (Some(worker), Some(process)) = (asked, self.primary.process(id)) else {
            return self.kill(id, libc::SIGABRT);
        };
        let pid = worker.pid;
        if ProcessStat::open(pid.cast_signed())
            .and_then(|stat| stat.sample())
            .is_ok_and(|sample| sample.state == 'T')
        {
            // One that is stopped hears nothing else.
            return self.kill(id, libc::SIGKILL);
        }
        worker.asked = true;
        let news = self.news.clone();
        let patience = (self.settings.watch.heartbeat.unwrap_or_default() / 2).clamp(inspect::LEAST, inspect::MOST);
        tokio::spawn(async move {
            let frames = inspect::stack(&*process, pid, patience).await;
            let _ = news.send(News::Stack(id, frames));
        });
    }

    /// What somebody wrote to the socket for notices.
    pub(super) fn heed(&mut self, datagram: &Datagram) {
        let Some(id) = self.worker_of(datagram.pid) else {
            return tracing::warn!(pid = datagram.pid, "a notice of no worker");
        };
        for notice in notify::notices(&datagram.text) {
            match notice {
                Ok(notice) => self.heed_one(id, notice),
                Err(error) => self.events.push_back(ServiceEvent::BadMessage { worker: id, error }),
            }
        }
    }

    /// The worker that a process belongs to.
    fn worker_of(&self, pid: u32) -> Option<WorkerId> {
        let mut workers = self.workers.iter();
        if let Some((id, _)) = workers.find(|(_, worker)| worker.pid == pid) {
            return Some(*id);
        }
        let mut workers = self.workers.iter();
        workers.find(|(_, worker)| belongs(pid, worker.pid)).map(|(id, _)| *id)
    }

    fn heed_one(&mut self, id: WorkerId, notice: Notice) {
        match &notice {
            Notice::Ready => return self.machine.input(now(), Input::SaidReady { worker: id }),
            Notice::Alive => return self.watch(id, probe::Input::Beat),
            Notice::Trouble => {
                let reason = "it said so itself".to_owned();
                return self.machine.input(now(), Input::Unhealthy { worker: id, reason });
            }
            Notice::WatchdogSpan(span) => return self.watch(id, probe::Input::BeatsWithin(*span)),
            Notice::Extend(by) => return self.machine.input(now(), Input::Extend { worker: id, by: *by }),
            // Its descriptor is closed when all of the datagram was heeded.
            Notice::Barrier => return,
            Notice::MainPid(pid) if !self.has_main(id, *pid) => {
                return tracing::warn!(worker = %id, pid, "MAINPID names a process that is none of the worker's");
            }
            Notice::Status(text) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.note = Some(text.clone());
                }
            }
            _ => {}
        }
        self.events.push_back(ServiceEvent::Notice { worker: id, notice });
    }

    /// Takes a process as the one of the worker's that matters, if it is one of the worker's.
    fn has_main(&mut self, id: WorkerId, pid: u32) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        worker.main = None;
        if pid == worker.pid {
            return true;
        }
        let Ok(process) = pidfd::open(pid.cast_signed()) else {
            return false;
        };
        // Now that it cannot be taken for another.
        let is_ours = belongs(pid, worker.pid);
        if is_ours {
            worker.main = Some((pid, process));
        }
        is_ours
    }
}

fn belongs(pid: u32, worker: u32) -> bool {
    tree::belongs(pid.cast_signed(), worker.cast_signed())
}

/// The next notice; for ever if there is no socket for them.
pub(super) async fn next_notice(socket: &mut Option<NotifySocket>) -> io::Result<Datagram> {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}
