//! How a service is, put into the words of the control socket.

use std::time::{SystemTime, UNIX_EPOCH};

use thead::control::{Exit, Phase, UnixMillis, Worker};
use thead::core::id::{Generation, WorkerId};
use thead::core::service::{Condition, Event, Holder, Order, Outcome};
use thead::core::worker;
use thead::service::{Ended, Service, ServiceEvent};

use crate::role::Status;
use crate::told::millis_now;

/// What the service itself does not remember.
#[derive(Debug)]
pub(super) struct Book {
    /// What generations of this run are counted from: the first one is this.
    first_generation: u64,
    since: UnixMillis,
    /// The worker that died last without being told to.
    last_death: Option<WorkerId>,
    /// Why it is not as it should be, until all is well again.
    trouble: Option<String>,
    outcome: Option<Outcome>,
}

impl Book {
    pub(super) fn new(first_generation: u64) -> Self {
        Self {
            first_generation,
            since: millis_now(),
            last_death: None,
            trouble: None,
            outcome: None,
        }
    }

    pub(super) fn last_death(&self) -> Option<WorkerId> {
        self.last_death
    }

    /// Takes note; whether it is over.
    pub(super) fn note(&mut self, event: &ServiceEvent) -> bool {
        match event {
            ServiceEvent::Life(Event::Exited { worker, expected, .. }) if !expected => {
                self.last_death = Some(*worker);
            }
            ServiceEvent::Life(Event::RestartScheduled { slot, failure, .. }) => {
                self.trouble = Some(format!("/{slot} {failure}"));
            }
            ServiceEvent::Life(Event::ReloadAborted { cause, .. }) => {
                self.trouble = Some(format!("the last reload was aborted: {cause}"));
            }
            ServiceEvent::Life(Event::ReloadDone { .. }) => self.trouble = None,
            ServiceEvent::Finished(outcome) => {
                self.outcome = Some(outcome.clone());
                return true;
            }
            _ => {}
        }
        false
    }

    /// What a restart runs.
    pub(super) fn generation(&self, service: &Service) -> u64 {
        self.count(service.status().generation)
    }

    fn count(&self, generation: Generation) -> u64 {
        self.first_generation + u64::from(generation.0) - 1
    }

    pub(super) fn status(&self, name: &str, service: &Service) -> Status {
        let seen = service.status();
        let generation = |of| self.count(of);
        let workers = seen.workers.iter().map(|of| Worker {
            slot: of.slot.0,
            id: of.worker.0,
            pid: of.pid,
            phase: phase_name(of.phase).to_owned(),
            generation: generation(of.generation),
            since: of.started.map(millis),
            status: of.note.clone(),
            restarts: seen
                .slots
                .get(of.slot.0 as usize)
                .map_or(0, |slot| slot.restarts.into()),
            data: service
                .applied(of.worker)
                .map(|(name, revision)| (name.to_owned(), revision.0))
                .collect(),
            ..Worker::default()
        });
        let mut workers: Vec<_> = workers.collect();
        workers.sort_by_key(|worker| (worker.slot, worker.id));
        let given_up = seen.slots.iter().find_map(|slot| match &slot.holder {
            Holder::GivenUp(reason) => Some(format!("/{} is given up: {reason}", slot.slot)),
            _ => None,
        });
        let waits = seen.slots.iter().find_map(|slot| {
            let trouble = self.trouble.as_deref().unwrap_or("its worker died");
            slot.waits
                .map(|waits| format!("{trouble}; started again in {waits:.1?}"))
        });
        let (phase, reason) = match (&self.outcome, seen.condition) {
            (Some(Outcome::Failed { reason }), _) => (Phase::Failed, Some(reason.to_string())),
            (Some(_), _) | (None, Condition::Ended) => (Phase::Stopped, None),
            (None, Condition::Stopping) => (Phase::Stopping, None),
            (None, Condition::Failed) => (Phase::Failed, given_up),
            (None, _) if matches!(seen.change, Some((Order::Reload, _))) => (Phase::Reloading, None),
            (None, Condition::Starting) => (Phase::Starting, waits),
            (None, Condition::Ready) => (
                Phase::Ready,
                self.trouble.clone().filter(|text| text.starts_with("the last")),
            ),
            (None, _) => (Phase::Degraded, given_up.or(waits).or_else(|| self.trouble.clone())),
        };
        let mut status = Status::default();
        status.service.name = name.to_owned();
        status.service.phase = phase;
        status.service.reason = reason;
        status.service.instances = u32::try_from(seen.instances).unwrap_or(u32::MAX);
        status.service.ready = u32::try_from(seen.ready.min(seen.instances)).unwrap_or(u32::MAX);
        status.service.generation = generation(seen.generation);
        status.service.primary = Some(std::process::id());
        status.service.since = Some(self.since);
        status.service.restarts = seen.slots.iter().map(|slot| u64::from(slot.restarts)).sum();
        status.service.workers = workers;
        status.exits = seen.ended.iter().map(exit).collect();
        status
    }
}

fn exit(ended: &Ended) -> Exit {
    let (code, signal) = match ended.status {
        worker::Exit::Code(code) => (Some(code), None),
        worker::Exit::Signal { signal, .. } => (None, Some(signal)),
    };
    let cause = match &ended.failure {
        Some(failure) if failure.to_string() != ended.status.to_string() => {
            format!("{failure}; {}", ended.status)
        }
        _ => ended.status.to_string(),
    };
    Exit {
        time: millis(ended.at),
        slot: ended.slot.0,
        worker: ended.worker.0,
        code,
        signal,
        expected: ended.expected,
        cause,
        uptime_ms: u64::try_from(ended.uptime.as_millis()).unwrap_or(u64::MAX),
        last_lines: ended.last_lines.clone(),
        stack: ended.stack.clone(),
    }
}

fn phase_name(phase: worker::Phase) -> &'static str {
    match phase {
        worker::Phase::Starting => "starting",
        worker::Phase::Ready => "ready",
        worker::Phase::Disconnected => "disconnected",
        worker::Phase::Draining => "draining",
        worker::Phase::Terminating => "terminating",
        worker::Phase::Killed => "killed",
    }
}

fn millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
