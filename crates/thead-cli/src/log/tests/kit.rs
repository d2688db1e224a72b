//! A directory with the log of a service, a worker that prints into it, and what can be read.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use thead::core::id::WorkerId;
use thead::core::worker::Slot;
use thead::output::{Block, Origin, Sink, Stream};

use crate::log::name::Log;
use crate::log::read::{Begin, Entry, Filter, Query, Reader, Then};
use crate::log::{Kind, Settings, Writer};

/// Long enough for a slow machine, short enough to see that a test hangs.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Nothing is dropped and nothing deleted.
pub(super) fn patient() -> Settings {
    Settings {
        keep: usize::MAX,
        total: u64::MAX,
        when_full: thead::output::WhenFull::Wait,
        ..Settings::default()
    }
}

#[derive(Debug)]
pub(super) struct Scene {
    dir: PathBuf,
    /// It goes with this.
    _own: Option<TempDir>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir: dir.path().to_owned(),
            _own: Some(dir),
        }
    }

    /// What somebody else has made.
    pub(super) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            _own: None,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> Log {
        Log::new(self.dir(), "api").unwrap()
    }

    pub(super) fn live(&self) -> PathBuf {
        self.log().live()
    }

    pub(super) fn open(&self, settings: Settings) -> Writer {
        Writer::open(self.dir(), "api", settings).unwrap()
    }

    pub(super) fn reader(&self, query: Query) -> Reader {
        Reader::open(self.dir(), &["api".into()], query).unwrap()
    }

    /// All that is there.
    pub(super) fn entries(&self, begin: Begin, filter: Filter) -> Vec<Entry> {
        let query = Query {
            filter,
            begin,
            follow: false,
        };
        let mut reader = self.reader(query);
        let mut entries = Vec::new();
        loop {
            let batch = reader.read().unwrap();
            entries.extend(batch.entries);
            match batch.then {
                Then::More => {}
                Then::Wait => panic!("nobody follows"),
                Then::End => return entries,
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Entry> {
        self.entries(Begin::Oldest, Filter::default())
    }

    /// What workers said.
    pub(super) fn texts(&self) -> Vec<String> {
        texts(&self.all())
    }

    /// What thead said.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut entries = self.all();
        entries.retain(|entry| entry.kind == Kind::Thead);
        entries.iter().map(text).collect()
    }
}

pub(super) fn text(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.text).into_owned()
}

/// Of workers.
pub(super) fn texts(entries: &[Entry]) -> Vec<String> {
    let of_workers = entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::Stdout | Kind::Stderr));
    of_workers.map(text).collect()
}

/// Lines with their numbers, some short and some long.
pub(super) fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    let line = |n: usize| format!("{n} {}", "x".repeat(if n % 100 == 7 { 3000 } else { n % 60 }));
    numbers.map(line).collect()
}

pub(super) const PID: u32 = 4711;

pub(super) fn origin(slot: u32, stream: Stream) -> Origin {
    Origin {
        worker: WorkerId(1),
        slot: Slot(slot),
        pid: PID,
        stream,
    }
}

pub(super) async fn print_at(sink: &Sink, time: SystemTime, from: Origin, text: impl Into<Vec<u8>>) {
    let block = Block {
        from,
        time,
        text: text.into(),
        cut: false,
    };
    sink.send(block).await;
}

/// A block on standard output of slot 0.
pub(super) async fn print(sink: &Sink, text: impl Into<Vec<u8>>) {
    print_at(sink, SystemTime::now(), origin(0, Stream::Stdout), text).await;
}

/// So many lines a block.
pub(super) async fn print_lines(sink: &Sink, lines: &[String], at_once: usize) {
    for some in lines.chunks(at_once) {
        print(sink, some.join("\n") + "\n").await;
    }
}

/// Writes what waits, and ends, though the test may have a sink in its hand.
pub(super) async fn close(writer: Writer) {
    eventually("all is taken", || (writer.stats().waiting == 0).then_some(())).await;
    assert!(writer.close(Duration::ZERO).await, "not all was written in time");
}

/// Asks again and again until there is an answer.
pub(super) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
