//! What `thead run` prints: the lines of workers and what happens to them, for people or as JSON.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use thead::core::id::WorkerId;
use thead::output::{Queue, Sink};
use thead::service::{Options, Service, ServiceEvent};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::program::Program;

mod life;
mod printer;
mod tell;

pub(crate) use printer::Tone;
use printer::{Item, Printer};
pub(crate) use tell::Teller;

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

    pub(crate) fn note(&self, text: &str) {
        self.say(Tone::Plain, text.to_owned(), "note", json!({ "message": text }));
    }

    pub(crate) fn started(&self, program: &Program, options: &Options) {
        program.notes.iter().for_each(|note| self.note(note));
        let instances = options.settings.life.instances;
        let schedule = options.cluster.scheduling.to_string();
        let preload = options.program.drain == thead::service::Drain::HandBack;
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
        let say = |tone, text, name: &str, details| self.say(tone, text, name, details);
        let teller = Teller {
            name: &self.name,
            messages: self.style == Style::Json,
            say: &say,
        };
        teller.event(service, event, last);
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
