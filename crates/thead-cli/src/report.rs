//! What `thead run` prints: the lines of workers and what happens to them, for people or as JSON.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use thead::core::id::WorkerId;
use thead::core::service::{Event, Outcome};
use thead::core::worker::Exit;
use thead::output::{Queue, Sink};
use thead::service::{Options, Service, ServiceEvent};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::program::Program;
use crate::text::quote;

mod printer;

use printer::{Item, Printer, Tone};

/// How things are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines of workers where they belong, all else on standard error.
    Human {
        /// Standard output is a terminal: colours, and nothing that a worker prints may steer it.
        out: bool,
        /// As `out`, for standard error.
        err: bool,
    },
    /// Everything on standard output, an object a line.
    Json,
}

impl Style {
    pub(crate) fn human() -> Self {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self::Human {
            out: colour && io::stdout().is_terminal(),
            err: colour && io::stderr().is_terminal(),
        }
    }

    /// Something is wrong before anything runs.
    pub(crate) fn complain(self, message: &str) {
        match self {
            Self::Human { .. } => eprintln!("thead: {message}"),
            Self::Json => println!("{}", json!({ "event": "error", "message": message })),
        }
    }
}

/// Prints from a thread of its own. A reader that does not read holds up the workers that print, never the primary.
pub(crate) struct Reporter {
    style: Style,
    name: String,
    items: mpsc::Sender<Item>,
    /// Where what happens is kept too.
    log: Option<Sink>,
    dropped: AtomicU64,
    /// How often printing was begun and done: odd while it goes on. So the end knows a slow reader from one that does not
    /// read, and from a worker that does not close its streams.
    printed: Arc<AtomicU64>,
    /// Nothing more is waited for.
    enough: Arc<Notify>,
    thread: JoinHandle<()>,
}

/// Events that may wait for a slow reader. Further ones are counted and dropped.
const ITEMS: usize = 4096;
/// How many of them are kept for what happens to workers: what workers send may be a flood.
const RESERVED: usize = 1024;
/// How long the end waits for a reader that does not read, and how long for a worker that does not close its streams.
const PATIENCE: Duration = Duration::from_secs(2);

impl Reporter {
    /// Must be called within the runtime.
    pub(crate) fn start(style: Style, name: String, lines: Queue, log: Option<Sink>) -> Self {
        let (items, taken) = mpsc::channel(ITEMS);
        let (printed, enough) = (Arc::default(), Arc::default());
        let printer = Printer {
            style,
            name: name.clone(),
            printed: Arc::clone(&printed),
            enough: Arc::clone(&enough),
        };
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::spawn(move || runtime.block_on(printer.print(taken, lines)));
        Self {
            style,
            name,
            items,
            log,
            dropped: AtomicU64::new(0),
            printed,
            enough,
            thread,
        }
    }

    /// Nothing more is kept: the log is closed when nobody writes to it any more.
    pub(crate) fn leave_log(&mut self) {
        self.log = None;
    }

    fn say(&self, tone: Tone, text: String, event: &str, details: Value) {
        // A worker's last lines, which follow the first, are there already.
        if let (Some(log), Some(first)) = (&self.log, text.lines().next()) {
            log.note(None, first);
        }
        let mut json = self.json(event, details);
        let missed = self.dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            json.insert("missed".into(), missed.into());
        }
        let json = json.into();
        let flood = matches!(event, "message" | "bad_message") && self.items.capacity() <= RESERVED;
        if flood || self.items.try_send(Item::Event { tone, text, json }).is_err() {
            self.dropped.fetch_add(missed + 1, Ordering::Relaxed);
        }
    }

    fn json(&self, event: &str, details: Value) -> Map<String, Value> {
        let mut json = Map::new();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        json.insert("time".into(), json!(since.as_millis() as u64));
        json.insert("event".into(), event.into());
        json.insert("service".into(), self.name.clone().into());
        if let Value::Object(details) = details {
            json.extend(details);
        }
        json
    }

    pub(crate) fn warning(&self, text: &str) {
        self.say(Tone::Bad, text.to_owned(), "warning", json!({ "message": text }));
    }

    pub(crate) fn started(&self, program: &Program, options: &Options) {
        for note in &program.notes {
            self.say(Tone::Plain, note.clone(), "note", json!({ "message": note }));
        }
        let instances = options.life.instances;
        let schedule = format!("{:?}", options.cluster.scheduling);
        let schedule = if schedule == "Shared" { "shared" } else { "round-robin" };
        let preload = options.drain == thead::service::Drain::HandBack;
        let what = program
            .script
            .as_ref()
            .map_or(&program.command, |script| &script.path)
            .to_string_lossy();
        let plural = if instances == 1 { "worker" } else { "workers" };
        let how = if program.script.is_some() {
            format!(", {schedule}")
        } else {
            String::new()
        };
        self.say(
            Tone::Plain,
            format!(
                "{}: {instances} {plural} of {what}{how} (pid {})",
                self.name,
                std::process::id()
            ),
            "started",
            json!({ "pid": std::process::id(), "program": what, "instances": instances, "schedule": schedule,
                "preload": preload }),
        );
    }

    /// `last`: the worker that died last without being told to.
    pub(crate) fn event(&self, service: &Service, event: &ServiceEvent, last: Option<WorkerId>) {
        match event {
            ServiceEvent::Life(event) => self.life(service, event, last),
            // For people, `ready` says more.
            ServiceEvent::Online { worker } => {
                self.say(Tone::Plain, String::new(), "online", json!({ "worker": worker.0 }));
            }
            ServiceEvent::Listening { worker, address } => {
                let text = place(address);
                self.say(
                    Tone::Plain,
                    format!("worker {worker} listens on {text}"),
                    "listening",
                    json!({ "worker": worker.0, "address": address.address, "port": address.port }),
                );
            }
            ServiceEvent::ListenFailed { worker, address, errno } => {
                let code = thead::sys::errno::name(-errno);
                let (place, reason) = (place(address), mend(*errno));
                self.say(
                    Tone::Bad,
                    format!("worker {worker} cannot listen on {place}: {code}{reason}"),
                    "listen_failed",
                    json!({ "worker": worker.0, "address": address.address, "port": address.port, "code": code }),
                );
            }
            ServiceEvent::Message { worker, message, .. } if self.style == Style::Json => {
                let value: Value = message.lossy().unwrap_or(Value::Null);
                self.say(
                    Tone::Plain,
                    String::new(),
                    "message",
                    json!({ "worker": worker.0, "message": value }),
                );
            }
            ServiceEvent::BadMessage { worker, error } => self.say(
                Tone::Bad,
                format!("worker {worker} sent something that means nothing: {error}"),
                "bad_message",
                json!({ "worker": worker.0, "message": error.to_string() }),
            ),
            ServiceEvent::Fault { worker, fault } => self.say(
                Tone::Bad,
                format!("worker {worker} lost its channel: {fault}"),
                "fault",
                json!({ "worker": worker.0, "message": fault.to_string() }),
            ),
            ServiceEvent::Finished(outcome) => {
                let (text, outcome) = match outcome {
                    Outcome::Stopped => ("stopped", "stopped"),
                    Outcome::Done => ("every worker has ended", "done"),
                    Outcome::Failed { .. } => return,
                };
                self.say(
                    Tone::Plain,
                    format!("{}: {text}", self.name),
                    "finished",
                    json!({ "outcome": outcome }),
                );
            }
            _ => {}
        }
    }

    fn life(&self, service: &Service, event: &Event, last: Option<WorkerId>) {
        use Tone::{Bad, Good, Plain};
        let ms = |time: &Duration| time.as_millis() as u64;
        let say = |tone, text: String, name: &str, details: Value| self.say(tone, text, name, details);
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
                    "signal": signal, "expected": expected, "uptime_ms": ms(uptime), "last_lines": lines });
                let tone = if *expected { Plain } else { Bad };
                let text = if *expected {
                    format!("worker {worker} is gone")
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
            Event::ReloadQueued => say(
                Plain,
                "another reload follows this one".into(),
                "reload_queued",
                json!({}),
            ),
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
                let failed = match cause {
                    thead::core::service::AbortCause::Failed { worker, .. } => Some(*worker),
                    thead::core::service::AbortCause::Stopping => None,
                };
                let lines = failed.map(|worker| service.last_lines(worker)).unwrap_or_default();
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
            Event::Scaled { from, to } => {
                say(
                    Plain,
                    format!("{to} workers instead of {from}"),
                    "scaled",
                    json!({ "from": from, "to": to }),
                );
            }
            Event::ScaleQueued { to } => {
                say(
                    Plain,
                    format!("{to} workers after the reload"),
                    "scale_queued",
                    json!({ "to": to }),
                );
            }
            Event::Refused { request, reason } => {
                say(
                    Bad,
                    format!("refused ({request:?}): {reason}"),
                    "refused",
                    json!({ "reason": reason.to_string() }),
                );
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

    /// Prints what waits, the last lines of workers among it, and the end.
    pub(crate) async fn finish(self, code: u8) {
        let last = Item::Last {
            json: self.json("exit", json!({ "code": code })).into(),
        };
        let Self {
            items,
            printed,
            enough,
            thread,
            ..
        } = self;
        let _ = tokio::time::timeout(PATIENCE, items.send(last)).await;
        drop(items);
        let (mut seen, mut until) = (0, Instant::now() + PATIENCE);
        while !thread.is_finished() {
            let now = printed.load(Ordering::Relaxed);
            if now != seen {
                (seen, until) = (now, Instant::now() + PATIENCE);
            } else if Instant::now() >= until {
                if now % 2 == 1 {
                    return;
                }
                until = Instant::now() + PATIENCE;
                enough.notify_one();
            }
            // The runtime goes on reading what workers have printed.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
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
