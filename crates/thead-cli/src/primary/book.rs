//! What is known of a service, for whoever asks how it is.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use thead::control::{Exit, Phase, UnixMillis, Worker};
use thead::core::id::WorkerId;
use thead::core::service::{Event, Outcome};
use thead::core::worker;
use thead::output::Line;
use thead::service::{Service, ServiceEvent};
use tokio::sync::mpsc;

use crate::role::Status;
use crate::told::millis_now;

/// Exits that are remembered.
const EXITS: usize = 16;

#[derive(Debug)]
pub(super) struct Book {
    name: String,
    /// What the generations of this run are counted from.
    first_generation: u64,
    since: UnixMillis,
    /// When each living worker became a process.
    born: BTreeMap<WorkerId, UnixMillis>,
    pids: BTreeMap<WorkerId, u32>,
    restarts: BTreeMap<u32, u64>,
    exits: VecDeque<Exit>,
    last_death: Option<WorkerId>,
    reloading: bool,
    stopping: bool,
    ready_once: bool,
    outcome: Option<Outcome>,
    reason: Option<String>,
}

impl Book {
    pub(super) fn new(name: &str, first_generation: u64) -> Self {
        Self {
            name: name.to_owned(),
            first_generation,
            since: millis_now(),
            born: BTreeMap::new(),
            pids: BTreeMap::new(),
            restarts: BTreeMap::new(),
            exits: VecDeque::new(),
            last_death: None,
            reloading: false,
            stopping: false,
            ready_once: false,
            outcome: None,
            reason: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The worker that died last without being told to.
    pub(super) fn last_death(&self) -> Option<WorkerId> {
        self.last_death
    }

    /// Also of one that has just ended.
    pub(super) fn pid_of(&self, worker: WorkerId) -> Option<u32> {
        self.pids.get(&worker).copied()
    }

    /// Takes note; whether it is over.
    pub(super) fn note(&mut self, service: &Service, event: &ServiceEvent) -> bool {
        match event {
            ServiceEvent::Life(event) => self.life(service, event),
            ServiceEvent::Finished(outcome) => {
                if let Outcome::Failed { reason } = outcome {
                    self.reason = Some(reason.to_string());
                }
                self.outcome = Some(outcome.clone());
                return true;
            }
            _ => {}
        }
        false
    }

    fn life(&mut self, service: &Service, event: &Event) {
        match event {
            Event::Spawned { worker, pid, .. } => {
                self.pids.insert(*worker, *pid);
                self.born.insert(*worker, millis_now());
            }
            Event::Ready { .. } => {
                self.ready_once = true;
                self.reason = None;
            }
            Event::Exited {
                worker,
                slot,
                status,
                expected,
                uptime,
                ..
            } => {
                self.born.remove(worker);
                if !expected {
                    self.last_death = Some(*worker);
                }
                let (code, signal) = match status {
                    worker::Exit::Code(code) => (Some(*code), None),
                    worker::Exit::Signal { signal, .. } => (None, Some(*signal)),
                };
                self.exits.push_front(Exit {
                    time: millis_now(),
                    slot: slot.0,
                    worker: worker.0,
                    code,
                    signal,
                    expected: *expected,
                    cause: status.to_string(),
                    uptime_ms: uptime.as_millis() as u64,
                    last_lines: if *expected {
                        Vec::new()
                    } else {
                        service.last_lines(*worker)
                    },
                });
                self.exits.truncate(EXITS);
            }
            Event::RestartScheduled {
                slot, failure, delay, ..
            } => {
                *self.restarts.entry(slot.0).or_default() += 1;
                self.reason = Some(format!("/{slot} {failure}; started again after {delay:?}"));
            }
            Event::GaveUp { slot, reason } => self.reason = Some(format!("/{slot} is given up: {reason}")),
            Event::ReloadStarted { .. } => self.reloading = true,
            Event::ReloadDone { .. } | Event::ReloadServing { .. } => self.reloading = false,
            Event::ReloadAborted { cause, .. } => {
                self.reloading = false;
                self.reason = Some(format!("the last reload was aborted: {cause}"));
            }
            Event::Stopping => self.stopping = true,
            _ => {}
        }
    }

    pub(super) fn status(&self, service: &Service) -> Status {
        let mut status = Status::default();
        let of = &mut status.service;
        of.name.clone_from(&self.name);
        of.primary = Some(std::process::id());
        of.since = Some(self.since);
        of.instances = service.instances() as u32;
        of.reason.clone_from(&self.reason);
        of.restarts = self.restarts.values().sum();
        let generation = |of: thead::core::id::Generation| self.first_generation + u64::from(of.0) - 1;
        of.generation = self.first_generation;
        for view in service.workers() {
            let ready = matches!(view.phase, worker::Phase::Ready);
            of.ready += u32::from(ready);
            if ready {
                of.generation = of.generation.max(generation(view.generation));
            }
            of.workers.push(Worker {
                slot: view.slot.0,
                id: view.worker.0,
                pid: view.pid,
                phase: format!("{:?}", view.phase).to_lowercase(),
                generation: generation(view.generation),
                since: self.born.get(&view.worker).copied(),
                restarts: self.restarts.get(&view.slot.0).copied().unwrap_or(0),
                ..Worker::default()
            });
        }
        of.workers.sort_by_key(|worker| (worker.slot, worker.id));
        of.ready = of.ready.min(of.instances);
        of.phase = match &self.outcome {
            Some(Outcome::Failed { .. }) => Phase::Failed,
            Some(_) => Phase::Stopped,
            None if self.stopping => Phase::Stopping,
            None if self.reloading => Phase::Reloading,
            None if of.ready >= of.instances => Phase::Ready,
            None if self.ready_once => Phase::Degraded,
            None => Phase::Starting,
        };
        status.exits = self.exits.iter().cloned().collect();
        status
    }
}

/// Writes what workers print into a file.
pub(super) async fn drain(mut lines: mpsc::Receiver<Line>, dir: PathBuf) {
    use std::io::Write;
    let Ok(mut file) = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("out.log"))
    else {
        return;
    };
    while let Some(mut line) = lines.recv().await {
        line.text.push(b'\n');
        let _ = file.write_all(&line.text);
    }
}
