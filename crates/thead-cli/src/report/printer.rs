//! The thread that prints.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use thead::core::id::WorkerId;
use thead::core::worker::Slot;
use thead::output::{Line, Stream};
use tokio::sync::{Notify, mpsc};

use super::Style;
use super::text::harmless;

/// Something to print, made by the loop that must never wait for a terminal.
pub(super) enum Item {
    /// A worker has a slot from now on.
    Slot(WorkerId, Slot),
    /// For people (on standard error) or as JSON.
    Event { tone: Tone, text: String, json: Value },
    /// As an event, when no line can come any more.
    Last { json: Value },
}

/// How a piece of news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
}

pub(super) struct Printer {
    pub(super) style: Style,
    pub(super) name: String,
    pub(super) slots: HashMap<WorkerId, Slot>,
    pub(super) printed: Arc<AtomicU64>,
    pub(super) enough: Arc<Notify>,
}

enum Next {
    Item(Item),
    Line(Line),
}

/// What is to be printed next; `None` when nothing can come any more.
async fn next(items: &mut mpsc::Receiver<Item>, lines: &mut mpsc::Receiver<Line>) -> Option<Next> {
    tokio::select! {
        biased;
        Some(item) = items.recv() => Some(Next::Item(item)),
        Some(line) = lines.recv() => Some(Next::Line(line)),
        else => None,
    }
}

impl Printer {
    pub(super) async fn print(mut self, mut items: mpsc::Receiver<Item>, mut lines: mpsc::Receiver<Line>) {
        let mut last = None;
        loop {
            let next = tokio::select! {
                biased;
                next = next(&mut items, &mut lines) => next,
                () = self.enough.notified() => None,
            };
            let Some(next) = next else { break };
            self.printed.fetch_add(1, Ordering::Relaxed);
            // A reader that went away (`thead run … | head`) is no reason to stop serving.
            let _ = match next {
                Next::Item(Item::Slot(worker, slot)) => {
                    self.slots.insert(worker, slot);
                    Ok(())
                }
                Next::Item(Item::Event { tone, text, json }) => self.event(tone, &text, &json),
                Next::Item(Item::Last { json }) => {
                    last = Some(json);
                    Ok(())
                }
                Next::Line(line) => self.line(&line),
            };
            self.printed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(json) = last {
            let _ = self.event(Tone::Plain, "", &json);
        }
    }

    fn event(&self, tone: Tone, text: &str, json: &Value) -> io::Result<()> {
        match self.style {
            Style::Json => writeln!(io::stdout().lock(), "{json}"),
            Style::Human { .. } if text.is_empty() => Ok(()),
            Style::Human { err, .. } => {
                let (on, off) = match (err, tone) {
                    (false, _) | (_, Tone::Plain) => ("", ""),
                    (true, Tone::Good) => ("\x1b[32m", "\x1b[0m"),
                    (true, Tone::Bad) => ("\x1b[31m", "\x1b[0m"),
                };
                let text = text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
                writeln!(io::stderr().lock(), "{on}thead: {text}{off}")
            }
        }
    }

    fn line(&self, line: &Line) -> io::Result<()> {
        let slot = self.slots.get(&line.worker);
        let (out, err) = match self.style {
            Style::Json => {
                let text = String::from_utf8_lossy(&line.text);
                let json = json!({ "event": "line", "service": self.name, "worker": line.worker.0,
                    "slot": slot.map(|slot| slot.0), "stream": line.stream.as_str(), "text": text, "cut": line.cut });
                return writeln!(io::stdout().lock(), "{json}");
            }
            Style::Human { out, err } => (out, err),
        };
        let slot = slot.map_or_else(|| format!("worker {}", line.worker), |slot| slot.to_string());
        let (mark, terminal) = match line.stream {
            Stream::Stdout => ("out", out),
            Stream::Stderr => ("err", err),
        };
        let mut bytes = if terminal {
            format!("\x1b[2m{}/{slot} {mark}|\x1b[0m ", self.name).into_bytes()
        } else {
            format!("{}/{slot} {mark}| ", self.name).into_bytes()
        };
        if terminal {
            bytes.extend_from_slice(harmless(&line.text).as_bytes());
        } else {
            bytes.extend_from_slice(&line.text);
        }
        bytes.extend_from_slice(if line.cut { "…\n" } else { "\n" }.as_bytes());
        // One call a line, so that lines of several processes on one terminal are not torn.
        match line.stream {
            Stream::Stdout => io::stdout()
                .lock()
                .write_all(&bytes)
                .and_then(|()| io::stdout().lock().flush()),
            Stream::Stderr => io::stderr().lock().write_all(&bytes),
        }
    }
}
