//! The thread that prints.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use thead::output::{self, Block, Queue, Stream};
use tokio::sync::{Notify, mpsc};

use super::Style;
use crate::text::{Colours, harmless};

/// Something to print, made by the loop that must never wait for a terminal.
pub(super) enum Item {
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
    pub(super) printed: Arc<AtomicU64>,
    pub(super) enough: Arc<Notify>,
}

enum Next {
    Item(Item),
    Output(output::Item),
}

/// What is to be printed next; `None` when nothing can come any more.
async fn next(items: &mut mpsc::Receiver<Item>, lines: &mut Queue) -> Option<Next> {
    tokio::select! {
        biased;
        Some(item) = items.recv() => Some(Next::Item(item)),
        Some(item) = lines.next() => Some(Next::Output(item)),
        else => None,
    }
}

impl Printer {
    pub(super) async fn print(self, mut items: mpsc::Receiver<Item>, mut lines: Queue) {
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
                Next::Item(Item::Event { tone, text, json }) => self.event(tone, &text, &json),
                Next::Item(Item::Last { json }) => {
                    last = Some(json);
                    Ok(())
                }
                Next::Output(item) => self.item(&item),
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

    fn item(&self, item: &output::Item) -> io::Result<()> {
        match item {
            output::Item::Block(block) => self.block(block),
            // A queue where workers wait drops nothing, and nobody makes notes in it.
            _ => Ok(()),
        }
    }

    fn block(&self, block: &Block) -> io::Result<()> {
        let (mark, terminal) = match (self.style, block.from.stream) {
            (Style::Json, _) => return self.json(block),
            (Style::Human { out, .. }, Stream::Stdout) => ("out", out),
            (Style::Human { err, .. }, Stream::Stderr) => ("err", err),
        };
        let (on, off) = if terminal { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let mark = format!("{on}{}/{} {mark}|{off} ", self.name, block.from.slot);
        let mut pieces = Pieces::to(block.from.stream, &self.printed);
        for line in block.lines() {
            let text = terminal.then(|| harmless(line.text, Colours::Kept));
            let text = text.as_ref().map_or(line.text, |text| text.as_bytes());
            let end = if line.cut { "…\n" } else { "\n" };
            pieces.add(&[mark.as_bytes(), text, end.as_bytes()])?;
        }
        pieces.flush()
    }

    fn json(&self, block: &Block) -> io::Result<()> {
        let from = block.from;
        let mut pieces = Pieces::to(Stream::Stdout, &self.printed);
        for line in block.lines() {
            let text = String::from_utf8_lossy(line.text);
            let json = json!({ "event": "line", "service": self.name, "worker": from.worker.0, "slot": from.slot.0,
                "stream": from.stream.as_str(), "text": text, "cut": line.cut });
            pieces.add(&[json.to_string().as_bytes(), b"\n"])?;
        }
        pieces.flush()
    }
}

/// Whole lines, written so many at once that another process on the same pipe cannot come in between.
struct Pieces<'a> {
    to: Stream,
    bytes: Vec<u8>,
    printed: &'a AtomicU64,
}

/// What a pipe takes in one piece. POSIX: `PIPE_BUF`, here that of Linux.
const PIECE: usize = 4096;

impl<'a> Pieces<'a> {
    fn to(to: Stream, printed: &'a AtomicU64) -> Self {
        Self {
            to,
            bytes: Vec::new(),
            printed,
        }
    }

    fn add(&mut self, line: &[&[u8]]) -> io::Result<()> {
        let length: usize = line.iter().map(|part| part.len()).sum();
        if self.bytes.len() + length > PIECE {
            self.flush()?;
        }
        line.iter().for_each(|part| self.bytes.extend_from_slice(part));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = match self.to {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.bytes).and_then(|()| out.flush())
            }
            Stream::Stderr => io::stderr().lock().write_all(&self.bytes),
        };
        self.bytes.clear();
        // The reader reads; it goes on.
        self.printed.fetch_add(2, Ordering::Relaxed);
        written
    }
}
