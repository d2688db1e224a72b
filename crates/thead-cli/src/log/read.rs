//! Reading logs: across the files of a service and those of many, by time, from the end, from a cursor, and as they grow.
//!
//! A reader holds files open and a buffer; it takes no lock and nobody waits for it. One that stops reading costs its
//! descriptors. What is deleted while it is being read is read to its end.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use serde::{Serialize, Serializer};
use tokio::task::JoinHandle;

use super::name::Log;
pub(crate) use super::name::services;
use super::record::{About, Kind, Record, Time};

mod back;
mod input;
mod source;

use source::{Source, Step};

/// How often those who follow look for more.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// And for services that have had no log before.
const LOOK_FOR_NEWCOMERS: Duration = Duration::from_secs(1);

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// No older ones.
    pub(crate) since: Option<Time>,
    /// No newer ones.
    pub(crate) until: Option<Time>,
    /// Only with a text that has this in it.
    pub(crate) grep: Option<Regex>,
    /// Only of these kinds; of all if there is none.
    pub(crate) kinds: Vec<Kind>,
    /// Only about the worker in this slot.
    pub(crate) slot: Option<u32>,
    /// Only about this process.
    pub(crate) pid: Option<u32>,
}

impl Filter {
    fn admits(&self, record: &Record<'_>) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && self
                .slot
                .is_none_or(|slot| record.about.is_some_and(|about| about.0 == slot))
            && self
                .pid
                .is_none_or(|pid| record.about.is_some_and(|about| about.1 == pid))
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(record.text))
    }
}

/// A record of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) service: Arc<str>,
    pub(crate) time: Time,
    pub(crate) about: About,
    pub(crate) kind: Kind,
    /// The text goes on in the next record of this worker and kind.
    pub(crate) cut: bool,
    /// Any bytes but a newline.
    pub(crate) text: Vec<u8>,
}

/// As the API and `thead logs --json` have it. What is no UTF-8 is replaced.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shape<'a> {
            time: String,
            service: &'a str,
            slot: Option<u32>,
            pid: Option<u32>,
            stream: &'static str,
            text: std::borrow::Cow<'a, str>,
            cut: bool,
        }
        let (slot, pid) = self.about.unzip();
        Shape {
            time: self.time.to_string(),
            service: &self.service,
            slot,
            pid,
            stream: self.kind.as_str(),
            text: String::from_utf8_lossy(&self.text),
            cut: self.cut,
        }
        .serialize(serializer)
    }
}

/// A place between two records of one service. It stays true when the file is put aside and compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    /// By its first line.
    file: u64,
    /// In what the file is uncompressed.
    offset: u64,
}

/// A place in the logs of one or several services: `api:1f2e-5a0,web:77-0`, to be given back as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(BTreeMap<String, Position>);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (service, Position { file, offset })) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{service}:{file:x}-{offset:x}")?;
        }
        Ok(())
    }
}

/// The text is no cursor.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no place in a log")]
pub(crate) struct NoCursor(String);

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let part = |part: &str| {
            let (service, place) = part.rsplit_once(':')?;
            let (file, offset) = place.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let position = Position {
                file: number(file)?,
                offset: number(offset)?,
            };
            Some((service.to_owned(), position))
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        let map: Option<BTreeMap<_, _>> = parts.map(part).collect();
        map.map(Self).ok_or_else(|| NoCursor(text.to_owned()))
    }
}

/// Where to begin.
#[derive(Clone, Debug)]
pub(crate) enum Begin {
    /// With the oldest record that is wanted.
    Oldest,
    /// So many records before the end, of all services together.
    Last(usize),
    /// Where another reader was. A service that is not in the cursor begins with its oldest record; so does one whose file
    /// is gone, for everything that is left came later.
    At(Cursor),
}

/// What is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Which records.
    pub(crate) filter: Filter,
    /// From where on.
    pub(crate) begin: Begin,
    /// Go on as the files grow; else the end is where they end now.
    pub(crate) follow: bool,
}

/// Some records.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// By time, those of one service in their order.
    pub(crate) entries: Vec<Entry>,
    /// Whether there are more.
    pub(crate) then: Then,
}

/// What comes after a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// More, at once.
    More,
    /// Nothing now; look again after [`LOOK`].
    Wait,
    /// Nothing.
    End,
}

/// How many records come at once at most,
const BATCH: usize = 1000;
/// and how many bytes of texts, and one text more.
const BATCH_BYTES: usize = 256 << 10;

/// Reads the logs of some services as one.
#[derive(Debug)]
pub(crate) struct Reader {
    filter: Filter,
    lanes: Vec<Lane>,
    newcomers: Option<Newcomers>,
}

/// Where services that have no log yet will have one.
#[derive(Debug)]
struct Newcomers {
    dir: PathBuf,
    looked: Instant,
}

/// One service.
#[derive(Debug)]
struct Lane {
    source: Source,
    /// Read, and not yet its turn.
    next: Option<Entry>,
    /// Behind what was given out.
    position: Option<Position>,
    ended: bool,
}

impl Lane {
    fn new(log: Log, start: source::Start, follow: bool) -> io::Result<Self> {
        let source = Source::new(log, start, follow)?;
        Ok(Self {
            position: source.position(),
            source,
            next: None,
            ended: false,
        })
    }
}

impl Reader {
    /// # Errors
    /// A name that no service can have; a directory or a file that cannot be read. Those that do not exist are empty.
    pub(crate) fn open(dir: &Path, services: &[String], query: Query) -> io::Result<Self> {
        let logs: Vec<Log> = services
            .iter()
            .map(|name| Log::find(dir, name))
            .collect::<io::Result<_>>()?;
        let Query { filter, begin, follow } = query;
        let starts = match &begin {
            Begin::Oldest => vec![source::Start::Oldest(filter.since); logs.len()],
            Begin::Last(count) => back::starts(&logs, *count, &filter)?,
            Begin::At(cursor) => {
                let start = |log: &Log| match cursor.0.get(&log.name) {
                    Some(position) => source::Start::At(*position),
                    None => source::Start::Oldest(filter.since),
                };
                logs.iter().map(start).collect()
            }
        };
        let lanes = logs.into_iter().zip(starts);
        let lanes = lanes.map(|(log, start)| Lane::new(log, start, follow));
        let lanes = lanes.collect::<io::Result<_>>()?;
        Ok(Self {
            filter,
            lanes,
            newcomers: None,
        })
    }

    /// Goes on for ever, and reads what comes of all other services too.
    ///
    /// # Errors
    /// A directory or a file that cannot be read.
    pub(crate) fn with_newcomers(mut self, dir: &Path) -> io::Result<Self> {
        self.take_up_others(dir, source::Start::Newest)?;
        self.newcomers = Some(Newcomers {
            dir: dir.to_owned(),
            looked: Instant::now(),
        });
        Ok(self)
    }

    fn look_for_newcomers(&mut self) -> io::Result<()> {
        let Some(Newcomers { dir, looked }) = &mut self.newcomers else {
            return Ok(());
        };
        if looked.elapsed() < LOOK_FOR_NEWCOMERS {
            return Ok(());
        }
        *looked = Instant::now();
        let dir = dir.clone();
        // All that they have came after this reader.
        self.take_up_others(&dir, source::Start::Oldest(self.filter.since))
    }

    fn take_up_others(&mut self, dir: &Path, start: source::Start) -> io::Result<()> {
        for name in services(dir)? {
            if self.lanes.iter().all(|lane| lane.source.name() != name) {
                self.lanes.push(Lane::new(Log::find(dir, &name)?, start, true)?);
            }
        }
        Ok(())
    }

    /// Reads what there is, up to a bound. Waits for the disk, never for a writer.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read(&mut self) -> io::Result<Batch> {
        self.look_for_newcomers()?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        while entries.len() < BATCH && bytes < BATCH_BYTES {
            let mut unsure = false;
            for lane in &mut self.lanes {
                if lane.next.is_some() || lane.ended {
                    continue;
                }
                match lane.source.step(&self.filter)? {
                    Step::Entry(entry) => lane.next = Some(entry),
                    Step::More => unsure = true,
                    Step::Wait => {}
                    Step::End => lane.ended = true,
                }
            }
            if unsure {
                // Much was read, and nothing of it was wanted.
                let then = Then::More;
                return Ok(Batch { entries, then });
            }
            let first = self
                .lanes
                .iter_mut()
                .filter(|lane| lane.next.is_some())
                .min_by_key(|lane| lane.next.as_ref().map(|entry| entry.time));
            let Some((entry, lane)) = first.and_then(|lane| Some((lane.next.take()?, lane))) else {
                let ended = self.newcomers.is_none() && self.lanes.iter().all(|lane| lane.ended);
                let then = if ended { Then::End } else { Then::Wait };
                return Ok(Batch { entries, then });
            };
            lane.position = lane.source.position();
            bytes += entry.text.len();
            entries.push(entry);
        }
        let then = Then::More;
        Ok(Batch { entries, then })
    }

    /// Behind the last record that was given out: who begins there misses nothing and gets nothing twice.
    pub(crate) fn cursor(&self) -> Cursor {
        let place = |lane: &Lane| Some((lane.source.name().to_owned(), lane.position?));
        Cursor(self.lanes.iter().filter_map(place).collect())
    }
}

/// A [`Reader`] for a runtime whose threads must not wait for a disk. One that is not asked costs nothing.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: Option<Reader>,
    /// Under way on another thread.
    reading: Option<JoinHandle<(Reader, io::Result<Batch>)>>,
    then: Then,
}

impl Stream {
    pub(crate) fn new(reader: Reader) -> Self {
        Self {
            reader: Some(reader),
            reading: None,
            then: Then::More,
        }
    }

    /// The next records, which are never none, with the place behind them; `None` at the end.
    ///
    /// # Errors
    /// A file that cannot be read; nothing comes after that.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(Vec<Entry>, Cursor)>> {
        loop {
            if self.reading.is_none() {
                match self.then {
                    Then::More => {}
                    Then::Wait => tokio::time::sleep(LOOK).await,
                    Then::End => return Ok(None),
                }
                let Some(mut reader) = self.reader.take() else {
                    return Ok(None);
                };
                self.reading = Some(tokio::task::spawn_blocking(move || {
                    let batch = reader.read();
                    (reader, batch)
                }));
            }
            let Some(reading) = &mut self.reading else { continue };
            let read = reading.await;
            self.reading = None;
            let (reader, batch) = read.map_err(io::Error::other)?;
            let Batch { entries, then } = batch?;
            let cursor = reader.cursor();
            (self.reader, self.then) = (Some(reader), then);
            if !entries.is_empty() {
                return Ok(Some((entries, cursor)));
            }
        }
    }
}
