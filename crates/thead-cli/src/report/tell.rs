//! What happens to a service, in words and in numbers.

use serde_json::{Value, json};
use thead::core::id::WorkerId;
use thead::core::service::Outcome;
use thead::service::{Service, ServiceEvent};
use thead::wire::notify::Notice;

use super::printer::Tone;
use crate::text::{plain, quote};

/// Puts events into words: tone, text, kind and numbers. A text may be empty where the numbers say all.
pub(crate) struct Teller<'a> {
    /// Of the service.
    pub(crate) name: &'a str,
    /// Messages of workers are told too.
    pub(crate) messages: bool,
    pub(crate) say: &'a dyn Fn(Tone, String, &str, Value),
}

impl Teller<'_> {
    /// `last`: the worker that died last without being told to.
    pub(crate) fn event(&self, service: &Service, event: &ServiceEvent, last: Option<WorkerId>) {
        match event {
            ServiceEvent::Life(event) => self.life(service, event, last),
            // For people, `ready` says more.
            ServiceEvent::Online { worker } => {
                (self.say)(Tone::Plain, String::new(), "online", json!({ "worker": worker.0 }));
            }
            ServiceEvent::Listening { worker, address } => {
                let text = place(address);
                (self.say)(
                    Tone::Plain,
                    format!("worker {worker} listens on {text}"),
                    "listening",
                    json!({ "worker": worker.0, "address": address.address, "port": address.port }),
                );
            }
            ServiceEvent::ListenFailed { worker, address, errno } => {
                let code = thead::sys::errno::name(-errno);
                let (place, reason) = (place(address), mend(*errno));
                (self.say)(
                    Tone::Bad,
                    format!("worker {worker} cannot listen on {place}: {code}{reason}"),
                    "listen_failed",
                    json!({ "worker": worker.0, "address": address.address, "port": address.port, "code": code }),
                );
            }
            ServiceEvent::Message { worker, message, .. } if self.messages => {
                let value: Value = message.lossy().unwrap_or(Value::Null);
                (self.say)(
                    Tone::Plain,
                    String::new(),
                    "message",
                    json!({ "worker": worker.0, "message": value }),
                );
            }
            ServiceEvent::BadMessage { worker, error } => (self.say)(
                Tone::Bad,
                format!("worker {worker} sent something that means nothing: {error}"),
                "bad_message",
                json!({ "worker": worker.0, "message": error.to_string() }),
            ),
            ServiceEvent::Fault { worker, fault } => (self.say)(
                Tone::Bad,
                format!("worker {worker} lost its channel: {fault}"),
                "fault",
                json!({ "worker": worker.0, "message": fault.to_string() }),
            ),
            ServiceEvent::ProbeFailed { worker, reason } => {
                let details = json!({ "worker": worker.0, "reason": reason });
                let text = format!("worker {worker} was asked how it is: {}", plain(reason.as_bytes()));
                (self.say)(Tone::Plain, text, "probe_failed", details);
            }
            ServiceEvent::OverMemory {
                worker,
                resident,
                limit,
            } => {
                let mib = |bytes: &u64| bytes >> 20;
                let text = format!(
                    "worker {worker} uses {} MiB of memory, more than {} MiB: it is to be replaced",
                    mib(resident),
                    mib(limit)
                );
                let details = json!({ "worker": worker.0, "resident": resident, "limit": limit });
                (self.say)(Tone::Bad, text, "over_memory", details);
            }
            ServiceEvent::LimitKept { worker, limit, reason } => (self.say)(
                Tone::Bad,
                format!("worker {worker} keeps its limit of {limit} until a reload: {reason}"),
                "limit_kept",
                json!({ "worker": worker.0, "limit": limit, "reason": reason }),
            ),
            ServiceEvent::Stack { worker, frames } => {
                let text = format!("worker {worker} was at{}", quote(frames));
                (self.say)(
                    Tone::Bad,
                    text,
                    "stack",
                    json!({ "worker": worker.0, "frames": frames }),
                );
            }
            ServiceEvent::Notice { worker, notice } => self.notice(*worker, notice),
            ServiceEvent::Finished(outcome) => {
                let (text, outcome) = match outcome {
                    Outcome::Stopped => ("stopped", "stopped"),
                    Outcome::Done => ("every worker has ended", "done"),
                    Outcome::Failed { .. } => return,
                };
                (self.say)(
                    Tone::Plain,
                    format!("{}: {text}", self.name),
                    "finished",
                    json!({ "outcome": outcome }),
                );
            }
            _ => {}
        }
    }

    fn notice(&self, worker: WorkerId, notice: &Notice) {
        let (tone, text, what) = match notice {
            Notice::Reloading => (Tone::Plain, "reloads by itself".to_owned(), json!("reloading")),
            Notice::Stopping => (Tone::Plain, "is about to end".into(), json!("stopping")),
            Notice::Status(status) => (
                Tone::Plain,
                format!("says: {}", plain(status.as_bytes())),
                json!({ "status": status }),
            ),
            Notice::MainPid(pid) => (
                Tone::Plain,
                format!("names process {pid} as its main one"),
                json!({ "main_pid": pid }),
            ),
            Notice::StoreDescriptors => (
                Tone::Bad,
                "wants descriptors to be kept (FDSTORE): thead keeps none".into(),
                json!("fdstore"),
            ),
            _ => return,
        };
        let details = json!({ "worker": worker.0, "notice": what });
        (self.say)(tone, format!("worker {worker} {text}"), "notice", details);
    }
}

fn place(address: &thead::cluster::ListenAddress) -> String {
    match (&address.address, address.port) {
        (Some(path), Some(-1)) => path.to_string(),
        (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        (None, Some(port)) => format!("port {port}"),
        _ => format!("descriptor {}", address.fd.unwrap_or(-1)),
    }
}

/// What can be done about a failed `listen()`.
fn mend(errno: i32) -> &'static str {
    match thead::sys::errno::name(-errno) {
        "EADDRINUSE" => ", another process has it; end that one (`ss -ltnp` names it) or choose another port",
        "EACCES" => ", this user may not; choose a port from 1024 up, or give the right (CAP_NET_BIND_SERVICE)",
        "ENOTSUP" => ", its runtime cannot take connections from thead (docs/compatibility.md has what works)",
        "EADDRNOTAVAIL" => ", this machine has no such address",
        _ => "",
    }
}
