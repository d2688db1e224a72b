//! How the life of a service is told.

use std::time::Duration;

use serde_json::json;
use thead::core::id::WorkerId;
use thead::core::service::{Event, Failure};
use thead::core::worker::{Exit, Slot};
use thead::service::Service;

use super::Teller;
use super::printer::Tone;
use crate::text::quote;

impl Teller<'_> {
    pub(super) fn life(&self, service: &Service, event: &Event, last: Option<WorkerId>) {
        use Tone::{Bad, Good, Plain};
        let ms = |time: &Duration| time.as_millis() as u64;
        let say = self.say;
        match event {
            Event::Spawned {
                worker,
                slot,
                generation,
                pid,
            } => {
                let details = json!({ "worker": worker.0, "slot": slot.0, "generation": generation.0, "pid": pid });
                say(
                    Plain,
                    format!("worker {worker} is {}/{slot}, pid {pid}", self.name),
                    "spawned",
                    details,
                );
            }
            Event::SpawnFailed { worker, slot, reason } => {
                let details = json!({ "worker": worker.0, "slot": slot.0, "message": reason });
                say(
                    Bad,
                    format!("worker {worker} could not be started: {reason}"),
                    "spawn_failed",
                    details,
                );
            }
            Event::Ready { worker, took } => {
                let details = json!({ "worker": worker.0, "took_ms": ms(took) });
                say(
                    Good,
                    format!("worker {worker} is ready after {} ms", ms(took)),
                    "ready",
                    details,
                );
            }
            Event::NotListening { worker, waited } => {
                let text = format!(
                    "worker {worker} did not listen within {waited:?} and counts as ready all the same (--ready says otherwise)"
                );
                say(
                    Plain,
                    text,
                    "not_listening",
                    json!({ "worker": worker.0, "waited_ms": ms(waited) }),
                );
            }
            Event::Opened { worker, replaces, .. } => {
                let details = json!({ "worker": worker.0, "replaces": replaces.map(|old| old.0) });
                let text = match replaces {
                    Some(old) => format!("worker {worker} takes over from worker {old}"),
                    None => format!("worker {worker} takes part"),
                };
                say(Plain, text, "opened", details);
            }
            Event::Exited {
                worker,
                slot,
                generation,
                status,
                expected,
                failure,
                uptime,
            } => {
                let (code, signal) = match status {
                    Exit::Code(code) => (Some(*code), None),
                    Exit::Signal { signal, .. } => (None, Some(*signal)),
                };
                let lines = if *expected {
                    Vec::new()
                } else {
                    service.last_lines(*worker)
                };
                let details = json!({ "worker": worker.0, "slot": slot.0, "generation": generation.0, "code": code,
                    "signal": signal, "expected": expected, "cause": failure.as_ref().map(ToString::to_string),
                    "uptime_ms": ms(uptime), "last_lines": lines });
                let tone = if *expected { Plain } else { Bad };
                let text = if *expected {
                    format!("worker {worker} is gone")
                } else if *failure == Some(Failure::OutOfMemory) {
                    format!("worker {worker} {}", Failure::OutOfMemory)
                } else {
                    format!("worker {worker} {status}")
                };
                say(tone, text, "exited", details);
            }
            // For people, what follows says more: its exit, at once as a rule, or that it is told to end.
            Event::Disconnected { worker } => {
                say(Plain, String::new(), "disconnected", json!({ "worker": worker.0 }));
            }
            Event::RestartScheduled {
                worker,
                slot,
                failure,
                delay,
                restarts,
            } => {
                let details = json!({ "worker": worker.0, "slot": slot.0, "delay_ms": ms(delay), "restarts": restarts,
                    "message": failure.to_string() });
                let text = format!(
                    "{}/{slot} is started again in {} ms (restart {restarts})",
                    self.name,
                    ms(delay)
                );
                say(Plain, text, "restart", details);
            }
            Event::NotRestarted { worker, slot } => {
                let details = json!({ "worker": worker.0, "slot": slot.0 });
                say(
                    Plain,
                    format!("{}/{slot} stays empty: --restart does not want it back", self.name),
                    "not_restarted",
                    details,
                );
            }
            Event::GaveUp { slot, reason } => {
                let lines = last.map(|worker| service.last_lines(worker)).unwrap_or_default();
                let details = json!({ "slot": slot.0, "reason": reason.to_string(), "last_lines": lines });
                let text = format!("{}/{slot} is given up: {reason}{}", self.name, quote(&lines));
                say(Bad, text, "gave_up", details);
            }
            Event::ReloadStarted { generation } => {
                say(
                    Plain,
                    format!("reload: generation {generation}"),
                    "reload_started",
                    json!({ "generation": generation.0 }),
                );
            }
            Event::Queued { order } => say(
                Plain,
                format!("waits for the change under way: {order}"),
                "queued",
                json!({ "order": order.to_string() }),
            ),
            Event::Configured => say(Plain, "other settings".into(), "configured", json!({})),
            Event::ReloadServing { generation, took } => {
                let details = json!({ "generation": generation.0, "took_ms": ms(took) });
                say(
                    Good,
                    format!("generation {generation} serves after {} ms", ms(took)),
                    "reload_serving",
                    details,
                );
            }
            Event::ReloadDone { generation, took } => {
                let moved = service.handed_back();
                let details = json!({ "generation": generation.0, "took_ms": ms(took), "handed_back": moved });
                let text = format!(
                    "reload done: generation {generation}, {} ms; {moved} connections moved so far",
                    ms(took)
                );
                say(Good, text, "reload_done", details);
            }
            Event::ReloadAborted {
                generation,
                cause,
                running,
            } => {
                let lines = service.lines_of(cause);
                let running: Vec<_> = running
                    .iter()
                    .map(|(generation, n)| json!({ "generation": generation.0, "workers": n }))
                    .collect();
                let details = json!({ "generation": generation.0, "reason": cause.to_string(), "last_lines": lines,
                    "running": running });
                let quoted = quote(&lines);
                say(
                    Bad,
                    format!("reload aborted, the old workers serve on: {cause}{quoted}"),
                    "reload_aborted",
                    details,
                );
            }
            Event::RestartStarted { slot, .. } => {
                let details = json!({ "slot": slot.map(|slot| slot.0) });
                say(
                    Plain,
                    format!("restart of {}", self.place(*slot)),
                    "restart_started",
                    details,
                );
            }
            Event::RestartDone { slot, took } => {
                let details = json!({ "slot": slot.map(|slot| slot.0), "took_ms": ms(took) });
                let text = format!("restart of {} done: {} ms", self.place(*slot), ms(took));
                say(Good, text, "restart_done", details);
            }
            Event::RestartAborted { slot, cause } => {
                let lines = service.lines_of(cause);
                let details =
                    json!({ "slot": slot.map(|slot| slot.0), "reason": cause.to_string(), "last_lines": lines });
                let text = format!("restart of {} failed: {cause}{}", self.place(*slot), quote(&lines));
                say(Bad, text, "restart_aborted", details);
            }
            Event::RenewStarted { worker, slot } => {
                let details = json!({ "worker": worker.0, "slot": slot.0 });
                let text = format!("worker {worker} is to be replaced by another");
                say(Plain, text, "renew_started", details);
            }
            Event::RenewDone { slot, took } => {
                let details = json!({ "slot": slot.0, "took_ms": ms(took) });
                let text = format!("{} was replaced: {} ms", self.place(Some(*slot)), ms(took));
                say(Good, text, "renew_done", details);
            }
            Event::RenewAborted { slot, cause } => {
                let lines = service.lines_of(cause);
                let details = json!({ "slot": slot.0, "reason": cause.to_string(), "last_lines": lines });
                let place = self.place(Some(*slot));
                let text = format!("{place} is not replaced: {cause}{}", quote(&lines));
                say(Bad, text, "renew_aborted", details);
            }
            Event::Scaled { from, to } => {
                say(
                    Plain,
                    format!("{to} workers instead of {from}"),
                    "scaled",
                    json!({ "from": from, "to": to }),
                );
            }
            Event::Refused { order, reason } => {
                let details = json!({ "order": order.to_string(), "reason": reason.to_string() });
                say(Bad, format!("refused ({order}): {reason}"), "refused", details);
            }
            Event::Draining { worker, why } => {
                let details = json!({ "worker": worker.0, "why": why.to_string() });
                say(Plain, format!("worker {worker} drains: {why}"), "draining", details);
            }
            Event::Terminating { worker, why } => {
                let details = json!({ "worker": worker.0, "why": why.to_string() });
                say(
                    Plain,
                    format!("worker {worker} is told to end: {why}"),
                    "terminating",
                    details,
                );
            }
            Event::Killing { worker, why } => {
                let details = json!({ "worker": worker.0, "why": why.to_string() });
                say(Bad, format!("worker {worker} is killed: {why}"), "killing", details);
            }
            Event::Stuck { worker } => {
                say(
                    Bad,
                    format!("worker {worker} does not end"),
                    "stuck",
                    json!({ "worker": worker.0 }),
                );
            }
            Event::Stopping => say(Plain, format!("{}: stopping", self.name), "stopping", json!({})),
            Event::Failed { reason } => {
                let lines = last.map(|worker| service.last_lines(worker)).unwrap_or_default();
                let details = json!({ "reason": reason.to_string(), "last_lines": lines });
                say(
                    Bad,
                    format!("{} has failed: {reason}{}", self.name, quote(&lines)),
                    "failed",
                    details,
                );
            }
            _ => {}
        }
    }

    fn place(&self, slot: Option<Slot>) -> String {
        match slot {
            Some(slot) => format!("{}/{slot}", self.name),
            None => self.name.to_owned(),
        }
    }
}
