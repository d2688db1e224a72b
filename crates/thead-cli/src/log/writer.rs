//! Keeps what workers print.
//!
//! A thread of its own takes from the queue, puts times and names before lines and appends whole lines to the live file.
//! It alone waits for the disk. Nothing is lost while a disk is slow, full or away, until the queue is full.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thead::core::worker::Slot;
use thead::output::{self, Item, Queue, Sink, WhenFull};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::file::{FileError, LiveFile};
use super::name::Log;
use super::record::{About, Head, Kind, Time};
use super::retain::{Housekeeper, Rules};

/// What is kept, and what happens when it is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// A file is put aside before it is larger than this, in bytes.
    pub(crate) max_size: u64,
    /// A file is put aside before a record comes that is so much younger than its first one.
    pub(crate) max_age: Option<Duration>,
    /// How many files that were put aside are kept.
    pub(crate) keep: usize,
    /// What all files of the service together may take, in bytes. What is being written is never deleted.
    pub(crate) total: u64,
    /// Compress what was put aside.
    pub(crate) compress: bool,
    /// What happens to lines when the disk does not keep up.
    pub(crate) when_full: WhenFull,
    /// How many bytes wait in memory for a slow disk before that.
    pub(crate) queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_size: 50 << 20,
            max_age: None,
            keep: 10,
            total: 1 << 30,
            compress: true,
            when_full: WhenFull::Drop,
            queue: 4 << 20,
        }
    }
}

/// Something that the operator should know.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Event {
    /// Records cannot be written. They are kept in memory as long as there is room, and tried again.
    Failing(FileError),
    /// They are written again.
    Recovered {
        /// How long they were not.
        after: Duration,
    },
    /// The file grows beyond its size, for it cannot be put aside. Tried again.
    NotPutAside(FileError),
    /// The thread that writes has ended, by a fault of ours. Nothing is kept any more.
    Ended,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failing(error) | Self::NotPutAside(error) => write!(f, "failed to {error}"),
            Self::Recovered { after } => write!(f, "the log is written again, after {after:.1?}"),
            Self::Ended => f.write_str("the log is not written any more, by a fault of thead's"),
        }
    }
}

/// What a writer has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Records written.
    pub(crate) lines: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Files put aside.
    pub(crate) put_aside: u64,
    /// Lines that found no room in the queue.
    pub(crate) dropped_lines: u64,
    /// Bytes that wait in the queue.
    pub(crate) waiting: u64,
    /// Why nothing is written now.
    pub(crate) failing: Option<String>,
}

/// The log of a service, being written. What comes after it was dropped is lost; [`close`](Self::close) tells of the rest.
#[derive(Debug)]
pub(crate) struct Writer {
    sink: Sink,
    orders: Orders,
    /// `None` once its end was told.
    events: Option<mpsc::Receiver<Event>>,
    /// Told at the end: whether all was written.
    ended: oneshot::Receiver<bool>,
}

/// Who gives orders. When it goes, the writing ends.
#[derive(Debug)]
struct Orders(Arc<Shared>);

impl Drop for Orders {
    fn drop(&mut self) {
        self.give(|orders| orders.close = true);
    }
}

impl Orders {
    fn give(&self, order: impl FnOnce(&mut Ordered)) {
        order(&mut lock(&self.0.ordered));
        self.0.told.notify_one();
    }
}

/// What was ordered and not done yet. The last of several of one kind counts.
#[derive(Debug, Default)]
struct Ordered {
    settings: Option<Settings>,
    reopen: bool,
    close: bool,
}

#[derive(Debug, Default)]
struct Shared {
    ordered: Mutex<Ordered>,
    told: Notify,
    lines: AtomicU64,
    bytes: AtomicU64,
    put_aside: AtomicU64,
    failing: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in them is whole after each of their changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events that wait for somebody who wants to know. Of further ones the last is in [`Stats::failing`].
const EVENTS: usize = 16;

impl Writer {
    /// Starts writing the log of a service. Files are opened by its thread, which tries again if it cannot; so this never
    /// waits for a disk.
    ///
    /// # Errors
    /// No service can have this name, or no thread can be had.
    pub(crate) fn open(dir: &Path, name: &str, settings: Settings) -> io::Result<Self> {
        let (sink, queue) = output::queue(settings.queue);
        sink.set_when_full(settings.when_full);
        let (told, events) = mpsc::channel(EVENTS);
        let (end, ended) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let mut scribe = Scribe {
            log: Log::new(dir, name)?,
            settings,
            file: None,
            last_aside: None,
            aside_after: None,
            buffer: Vec::new(),
            done: 0,
            records: 0,
            trouble: None,
            housekeeper: None,
            closing: false,
            events: told,
            shared: shared.clone(),
        };
        // Its own, so that it depends on no other: the queue and the clock are all that it waits for.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("log-writer".into()).spawn(move || {
            let all = runtime.block_on(scribe.write(queue));
            // Nobody may wait for it.
            let _ = end.send(all);
        })?;
        Ok(Self {
            sink,
            orders: Orders(shared),
            events: Some(events),
            ended,
        })
    }

    /// Where workers' lines go: for [`Options::lines`](thead::service::Options::lines).
    pub(crate) fn sink(&self) -> Sink {
        self.sink.clone()
    }

    /// Writes a record of ours: about a worker, or about the service. Control characters become spaces.
    pub(crate) fn note(&self, about: Option<(Slot, u32)>, text: impl Into<String>) {
        self.sink.note(about, text);
    }

    /// Has other settings from now on.
    pub(crate) fn configure(&self, settings: Settings) {
        self.sink.set_limit(settings.queue);
        self.sink.set_when_full(settings.when_full);
        self.orders.give(|orders| orders.settings = Some(settings));
    }

    /// Closes the file; what comes next goes into the file that then has the name.
    pub(crate) fn reopen(&self) {
        self.orders.give(|orders| orders.reopen = true);
    }

    /// What was done so far.
    pub(crate) fn stats(&self) -> Stats {
        let shared = &self.orders.0;
        Stats {
            lines: shared.lines.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            put_aside: shared.put_aside.load(Ordering::Relaxed),
            dropped_lines: self.sink.dropped_lines(),
            waiting: self.sink.waiting() as u64,
            failing: lock(&shared.failing).clone(),
        }
    }

    /// What goes wrong, and what is well again. Pending for ever while nothing happens.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        match events.recv().await {
            Some(event) => event,
            None => {
                self.events = None;
                Event::Ended
            }
        }
    }

    /// Writes until the last [`sink`](Self::sink) is gone, or until this time is over: then what waits, if it can be
    /// written. Says whether all of it was. A disk that is stalled is left to the thread.
    pub(crate) async fn close(self, patience: Duration) -> bool {
        let Self {
            sink,
            orders,
            mut ended,
            ..
        } = self;
        drop(sink);
        let is_all = |ended: Result<bool, _>| ended.is_ok_and(|all| all);
        if let Ok(ended) = tokio::time::timeout(patience, &mut ended).await {
            return is_all(ended);
        }
        // Workers still print, or the disk does not take it.
        drop(orders);
        tokio::time::timeout(LAST_PATIENCE, ended).await.is_ok_and(is_all)
    }
}

/// For what waits at the end, where a disk takes it at all.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The one that writes.
struct Scribe {
    log: Log,
    settings: Settings,
    file: Option<LiveFile>,
    /// The time in the name of the file that was put aside last.
    last_aside: Option<Time>,
    /// When it may be tried again, after it failed.
    aside_after: Option<Instant>,
    /// Whole records. The first `done` bytes are written.
    buffer: Vec<u8>,
    done: usize,
    /// In the buffer.
    records: u64,
    trouble: Option<Trouble>,
    housekeeper: Option<Housekeeper>,
    /// It is to end now.
    closing: bool,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
}

/// The file cannot be written.
struct Trouble {
    since: Instant,
    why: String,
    /// Until the next try.
    delay: Duration,
}

/// What is written at once, if so much waits.
const BATCH: usize = 128 << 10;
/// Between tries while a file cannot be written: the first time, and at most; twice as long each time.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(2);
/// Between tries to put a file aside.
const ASIDE_DELAY: Duration = Duration::from_secs(10);

impl Scribe {
    /// Until the end; says whether all was written.
    async fn write(&mut self, mut queue: Queue) -> bool {
        while !self.closing {
            tokio::select! {
                biased;
                () = self.shared.told.notified() => self.obey(),
                item = queue.next() => match item {
                    Some(item) => self.take(item).await,
                    None => break,
                },
            }
            if queue.is_empty() {
                self.flush().await;
            }
        }
        // No more than is there now: workers may still print.
        let mut rest = queue.take_all();
        while let Some(item) = rest.pop_front() {
            self.take(item).await;
        }
        self.flush().await;
        self.buffer.is_empty()
    }

    fn obey(&mut self) {
        let Ordered {
            settings,
            reopen,
            close,
        } = std::mem::take(&mut *lock(&self.shared.ordered));
        if let Some(settings) = settings {
            self.settings = settings;
            self.tidy();
        }
        if reopen {
            self.file = None;
        }
        self.closing |= close;
    }

    async fn take(&mut self, item: Item) {
        match item {
            Item::Block(block) => {
                let about = (block.from.slot.0, block.from.pid);
                let head = Head::new(block.time.into(), Some(about), block.from.stream.into());
                for line in block.lines() {
                    self.record(&head, line.text, line.cut).await;
                }
            }
            Item::Note(note) => {
                let about = note.about.map(|(slot, pid)| (slot.0, pid));
                self.say(note.time.into(), about, &note.text).await;
            }
            Item::Dropped { lines, since } => {
                let lines = if lines == 1 {
                    "1 line was".into()
                } else {
                    format!("{lines} lines were")
                };
                let text = format!("{lines} dropped here: the disk did not keep up");
                self.say(since.into(), None, &text).await;
            }
            // A kind of item that is made one day has its arm here.
            _ => {}
        }
    }

    async fn say(&mut self, time: Time, about: About, text: &str) {
        let text = text.replace(char::is_control, " ");
        self.record(&Head::new(time, about, Kind::Thead), text.as_bytes(), false)
            .await;
    }

    async fn record(&mut self, head: &Head, text: &[u8], cut: bool) {
        if !self.buffer.is_empty() && self.buffer.len() + head.length() + text.len() > self.room() {
            self.flush().await;
        }
        head.write(text, cut, &mut self.buffer);
        self.records += 1;
    }

    /// How much may wait in the buffer, so that what is written at once goes into one file.
    fn room(&self) -> usize {
        let size = self.file.as_ref().map_or(0, LiveFile::size);
        usize::try_from(self.settings.max_size.saturating_sub(size)).map_or(BATCH, |room| room.min(BATCH))
    }

    /// Writes what is in the buffer, however long it takes; unless it is to end.
    async fn flush(&mut self) {
        while !self.buffer.is_empty() {
            match self.try_flush() {
                Ok(()) => self.is_well(),
                Err(_) if self.closing => return,
                Err(error) => {
                    let delay = self.is_ill(error);
                    tokio::select! {
                        () = self.shared.told.notified() => self.obey(),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    fn try_flush(&mut self) -> Result<(), FileError> {
        if self.file.as_mut().is_some_and(|file| !file.is_in_place()) {
            self.file = None;
        }
        if self.file.is_none() {
            self.open()?;
        }
        self.put_aside_if_due();
        let Some(file) = &mut self.file else { return Ok(()) };
        file.append(&self.buffer, &mut self.done)?;
        self.shared.lines.fetch_add(self.records, Ordering::Relaxed);
        self.shared.bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        self.buffer.clear();
        (self.done, self.records) = (0, 0);
        Ok(())
    }

    fn open(&mut self) -> Result<(), FileError> {
        let file = LiveFile::open(&self.log)?;
        // A record of which the old file has a part is written whole into this one.
        let done = self.buffer[..self.done].iter().rposition(|byte| *byte == b'\n');
        self.buffer.drain(..done.map_or(0, |newline| newline + 1));
        self.done = 0;
        if file.is_torn() {
            let mut end = b"\n".to_vec();
            let text = b"the record before this one is not whole";
            Head::new(Time::now(), None, Kind::Thead).write(text, false, &mut end);
            self.buffer.splice(..0, end);
            self.records += 1;
        }
        if self.file.replace(file).is_none() && self.last_aside.is_none() {
            let asides = self.log.asides().unwrap_or_default();
            self.last_aside = asides.last().map(|aside| aside.time);
            // What a predecessor left to do.
            if !asides.is_empty() {
                self.tidy();
            }
        }
        Ok(())
    }

    /// Goes on in a new file if this one is full or old. Where that cannot be, the old one takes more.
    fn put_aside_if_due(&mut self) {
        let Some(file) = &self.file else { return };
        let full = file.size() + self.buffer.len() as u64 > self.settings.max_size;
        let old = self.settings.max_age.is_some_and(|most| file.age() > most);
        // Not within a record.
        if file.size() == 0 || self.done > 0 || !(full || old) || self.aside_after.is_some_and(|at| Instant::now() < at)
        {
            return;
        }
        let put = file.put_aside(self.last_aside).and_then(|time| {
            self.last_aside = time.or(self.last_aside);
            self.shared
                .put_aside
                .fetch_add(u64::from(time.is_some()), Ordering::Relaxed);
            self.open()
        });
        self.aside_after = None;
        if let Err(error) = put {
            self.aside_after = Some(Instant::now() + ASIDE_DELAY);
            let _ = self.events.try_send(Event::NotPutAside(error));
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        let rules = Rules {
            keep: self.settings.keep,
            total: self.settings.total,
            compress: self.settings.compress,
        };
        if !self.housekeeper.as_ref().is_some_and(|keeper| keeper.wake(rules)) {
            // Where no thread can be had, the next file will try again.
            self.housekeeper = Housekeeper::start(self.log.clone()).ok();
            if let Some(keeper) = &self.housekeeper {
                keeper.wake(rules);
            }
        }
    }

    /// Says how long to wait.
    fn is_ill(&mut self, error: FileError) -> Duration {
        // Where there is no room, the next try goes on within the record. Other errors may be of this file only.
        if !error.is_full() {
            self.file = None;
        }
        let why = error.to_string();
        let is_news = self.trouble.as_ref().is_none_or(|trouble| trouble.why != why);
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: Instant::now(),
            why: String::new(),
            delay: FIRST_DELAY,
        });
        let delay = trouble.delay;
        trouble.delay = (delay * 2).min(LAST_DELAY);
        if is_news {
            trouble.why.clone_from(&why);
            *lock(&self.shared.failing) = Some(why);
            let _ = self.events.try_send(Event::Failing(error));
        }
        delay
    }

    fn is_well(&mut self) {
        let Some(trouble) = self.trouble.take() else { return };
        let after = trouble.since.elapsed();
        *lock(&self.shared.failing) = None;
        let _ = self.events.try_send(Event::Recovered { after });
        let text = format!("written late, up to {after:.1?}: could not {}", trouble.why);
        let text = text.replace(char::is_control, " ");
        Head::new(Time::now(), None, Kind::Thead).write(text.as_bytes(), false, &mut self.buffer);
        self.records += 1;
    }
}
