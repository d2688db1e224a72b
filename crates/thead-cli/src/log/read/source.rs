//! The records of one service, forwards: from file to file, and on as the last one grows.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::super::name::{Aside, Log};
use super::super::record::{Kind, Record, Time};
use super::input::{Input, Lines, open_plain};
use super::{Entry, Filter, Position};

/// Where a service is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the oldest file that may have something of this time.
    Oldest(Option<Time>),
    /// At this place; at the oldest file if that is gone.
    At(Position),
    /// Behind all that there is.
    Newest,
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// A record that is wanted.
    Entry(Entry),
    /// Nothing yet; there is more to read.
    More,
    /// Nothing now.
    Wait,
    /// Nothing any more.
    End,
}

/// How much is read in one step where nothing is wanted.
const STEP: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Source {
    log: Log,
    service: Arc<str>,
    follow: bool,
    state: State,
    position: Option<Position>,
    /// Of files that were put aside, those that come next. Later ones are put aside later.
    known: VecDeque<Aside>,
}

#[derive(Debug)]
enum State {
    /// Between two files; the next one was put aside after this, or is the live one.
    After(Option<Time>),
    Reading(Box<Current>),
    Ended,
}

/// The file that is being read.
#[derive(Debug)]
struct Current {
    lines: Lines,
    id: Option<u64>,
    /// The name says when it was put aside.
    aside: Option<Time>,
    /// It is the live file, or was when it was opened; then `before` is the time of the last one put aside.
    live: Option<Live>,
    /// Where to stop.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    before: Option<Time>,
    identity: (u64, u64),
}

impl Source {
    /// # Errors
    /// The directory or the file to begin with cannot be read.
    pub(super) fn new(log: Log, start: Start, follow: bool) -> io::Result<Self> {
        let mut source = Self {
            service: log.name.as_str().into(),
            log,
            follow,
            state: State::Ended,
            position: None,
            known: VecDeque::new(),
        };
        source.begin(start)?;
        Ok(source)
    }

    pub(super) fn name(&self) -> &str {
        &self.log.name
    }

    /// Behind the record that was given last.
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    pub(super) fn step(&mut self, filter: &Filter) -> io::Result<Step> {
        let mut begun = None;
        loop {
            match &mut self.state {
                State::After(after) => {
                    let after = *after;
                    match self.find_after(after)? {
                        Found::File(current) => self.state = State::Reading(current),
                        Found::Broken(aside, error) => {
                            self.state = State::After(Some(aside));
                            return Ok(Step::Entry(broken(&self.service, aside, &error)));
                        }
                        Found::Nothing if self.follow => return Ok(Step::Wait),
                        Found::Nothing => self.state = State::Ended,
                    }
                }
                State::Reading(current) => {
                    let from = *begun.get_or_insert(current.lines.offset());
                    match current.next_admitted(filter, from, &self.service) {
                        Ok(Looked::Entry(entry)) => {
                            self.position = current.position()?;
                            return Ok(Step::Entry(entry));
                        }
                        Ok(Looked::Much) => return Ok(Step::More),
                        Ok(Looked::Nothing) => {}
                        // The others can still be read.
                        Err(error) if current.live.is_none() => {
                            let aside = current.aside;
                            self.state = State::After(aside);
                            return Ok(Step::Entry(broken(&self.service, aside.unwrap_or_default(), &error)));
                        }
                        Err(error) => return Err(error),
                    }
                    begun = None;
                    if let Some(step) = self.pass_on()? {
                        return Ok(step);
                    }
                }
                State::Ended => return Ok(Step::End),
            }
        }
    }

    /// The file that is being read has nothing more now: says so, or goes on to the next one.
    fn pass_on(&mut self) -> io::Result<Option<Step>> {
        let State::Reading(current) = &mut self.state else {
            return Ok(None);
        };
        let Some(live) = current.live else {
            self.state = State::After(current.aside);
            return Ok(None);
        };
        if !self.follow {
            self.state = State::Ended;
            return Ok(None);
        }
        let Some((file, stat)) = open_plain(&self.log.live())? else {
            // Between two names, or deleted: the next one will come.
            return Ok(Some(Step::Wait));
        };
        if (stat.st_dev, stat.st_ino) != live.identity {
            // It was put aside, or moved away. What was written until then is read before the next one.
            current.aside = current.put_aside_at(&self.log).or(live.before);
            current.live = None;
            return Ok(None);
        }
        if u64::try_from(stat.st_size).unwrap_or(0) < current.lines.read_to() {
            // Truncated: it begins anew.
            current.lines = Lines::new(Input::plain(file), 0)?;
            current.id = None;
            return Ok(None);
        }
        Ok(Some(Step::Wait))
    }

    fn begin(&mut self, start: Start) -> io::Result<()> {
        let place = match start {
            Start::Oldest(since) => {
                self.state = State::After(since.map(|since| Time(since.0.saturating_sub(1))));
                return Ok(());
            }
            Start::Newest => None,
            Start::At(position) => Some(position),
        };
        // In this order: see `find_after`.
        let live = open_plain(&self.log.live())?;
        let asides = self.log.asides()?;
        let last = asides.last().map(|aside| aside.time);
        self.state = State::After(if place.is_none() { last } else { None });
        if let Some((file, stat)) = live {
            let offset = place.map_or(u64::MAX, |place| place.offset);
            let mut current = self.live(file, &stat, last, offset)?;
            if place.is_none_or(|place| current.identify().is_ok_and(|id| id == Some(place.file))) {
                self.position = current.position()?;
                self.state = State::Reading(current);
                return Ok(());
            }
        }
        let Some(place) = place else { return Ok(()) };
        for aside in asides.iter().rev() {
            // One that cannot be read is not the one.
            let Ok(Some(input)) = Input::open(aside) else { continue };
            if input.identify().unwrap_or(None) == Some(place.file) {
                self.position = Some(place);
                self.state = State::Reading(Current::aside(input, aside.time, place.offset)?);
                break;
            }
        }
        Ok(())
    }

    /// The file that follows the one put aside at this time.
    fn find_after(&mut self, after: Option<Time>) -> io::Result<Found> {
        let follows = |aside: &Aside| after.is_none_or(|after| aside.time > after);
        loop {
            while self.known.front().is_some_and(|aside| !follows(aside)) {
                self.known.pop_front();
            }
            if self.known.is_empty() {
                // In this order: what is put aside in between is seen below, and it is the file that was opened.
                let live = open_plain(&self.log.live())?;
                let asides = self.log.asides()?;
                let last = asides.last().map(|aside| aside.time);
                self.known = asides.into_iter().filter(follows).collect();
                if self.known.is_empty() {
                    return Ok(match live {
                        Some((file, stat)) => Found::File(self.live(file, &stat, last, 0)?),
                        None => Found::Nothing,
                    });
                }
            }
            let Some(next) = self.known.front() else { continue };
            match Input::open(next).and_then(|input| input.map(|input| Current::aside(input, next.time, 0)).transpose())
            {
                Ok(Some(current)) => return Ok(Found::File(current)),
                // Deleted or compressed meanwhile, as others may be.
                Ok(None) => self.known.clear(),
                Err(error) => return Ok(Found::Broken(next.time, error)),
            }
        }
    }

    /// The live file, from this place on or from its end.
    fn live(
        &self,
        file: fs::File,
        stat: &rustix::fs::Stat,
        before: Option<Time>,
        offset: u64,
    ) -> io::Result<Box<Current>> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Box::new(Current {
            lines: Lines::new(Input::plain(file), offset.min(size))?,
            id: None,
            aside: None,
            live: Some(Live {
                before,
                identity: (stat.st_dev, stat.st_ino),
            }),
            end: if self.follow { u64::MAX } else { size },
        }))
    }
}

/// What came of looking for the next file.
enum Found {
    File(Box<Current>),
    /// It was put aside at this time, and cannot be read.
    Broken(Time, io::Error),
    Nothing,
}

/// What a look into a file came to.
enum Looked {
    Entry(Entry),
    /// Nothing wanted in much.
    Much,
    /// Nothing more now.
    Nothing,
}

impl Current {
    /// A file that was put aside.
    fn aside(input: Input, time: Time, offset: u64) -> io::Result<Box<Self>> {
        Ok(Box::new(Self {
            lines: Lines::new(input, offset)?,
            id: None,
            aside: Some(time),
            live: None,
            end: u64::MAX,
        }))
    }

    fn next_admitted(&mut self, filter: &Filter, from: u64, service: &Arc<str>) -> io::Result<Looked> {
        // A file that grows may have the rest of its last line later.
        let grows = self.live.is_some() && self.end == u64::MAX;
        loop {
            if self.lines.offset() > from + STEP {
                return Ok(Looked::Much);
            }
            let end = self.end;
            let record = match self.lines.next(end)? {
                Some(record) => record,
                None => break,
            };
            if filter.admits(&record) {
                return Ok(Looked::Entry(entry(service, &record)));
            }
        }
        if !grows
            && let Some(record) = self.lines.rest()
            && filter.admits(&record)
        {
            return Ok(Looked::Entry(entry(service, &record)));
        }
        Ok(Looked::Nothing)
    }

    fn identify(&mut self) -> io::Result<Option<u64>> {
        if self.id.is_none() {
            self.id = self.lines.input.identify()?;
        }
        Ok(self.id)
    }

    fn position(&mut self) -> io::Result<Option<Position>> {
        let offset = self.lines.offset();
        Ok(self.identify()?.map(|file| Position { file, offset }))
    }

    /// When a live file was put aside, by the name that it has now or had when it was deleted.
    fn put_aside_at(&self, log: &Log) -> Option<Time> {
        let file = self.lines.input.as_plain()?;
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let name = path.file_name()?.to_str()?;
        let (time, _) = log.time_of(name.strip_suffix(" (deleted)").unwrap_or(name))?;
        Some(time)
    }
}

fn broken(service: &Arc<str>, aside: Time, error: &io::Error) -> Entry {
    Entry {
        service: service.clone(),
        time: aside,
        about: None,
        kind: Kind::Unknown,
        cut: false,
        text: format!("the rest of the file of {aside} cannot be read: {error}").into_bytes(),
    }
}

fn entry(service: &Arc<str>, record: &Record<'_>) -> Entry {
    Entry {
        service: service.clone(),
        time: record.time,
        about: record.about,
        kind: record.kind,
        cut: record.cut,
        text: record.text.to_vec(),
    }
}
