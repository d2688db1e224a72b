//! Where the last so many records begin: found from the end, without reading what is before them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::name::Log;
use super::super::record::{Kind, Parser, Record, Time};
use super::input::{Input, LONGEST, Lines, open_plain};
use super::source::Start;
use super::{Filter, Position};

/// Where to begin in each log, so that all together have this many wanted records from there on.
pub(super) fn starts(logs: &[Log], count: usize, filter: &Filter) -> io::Result<Vec<Start>> {
    let found: Vec<Vec<(Time, Position)>> = logs
        .iter()
        .map(|log| last(log, count, filter))
        .collect::<io::Result<_>>()?;
    let all = found
        .iter()
        .enumerate()
        .flat_map(|(lane, records)| records.iter().map(move |(time, _)| (*time, lane)));
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let mut taken = vec![0; logs.len()];
    for (_, lane) in all.into_iter().take(count) {
        taken[lane] += 1;
    }
    let start = |(records, taken): (&Vec<(Time, Position)>, usize)| match taken.checked_sub(1) {
        Some(first) => Start::At(records[first].1),
        None => Start::Newest,
    };
    Ok(found.iter().zip(taken).map(start).collect())
}

/// The last wanted records of a log, the newest first, with where they begin. Their times never grow, so that the newest so
/// many of several logs are the first of each.
fn last(log: &Log, count: usize, filter: &Filter) -> io::Result<Vec<(Time, Position)>> {
    let mut found = Found {
        count,
        filter,
        records: Vec::new(),
        over: count == 0,
    };
    // In this order, so that no file is missed that is put aside in between; it may be seen twice.
    let live = open_plain(&log.live())?;
    let asides = log.asides()?;
    let mut seen = None;
    if let Some((file, _)) = live {
        seen = found.in_file(file)?;
    }
    for aside in asides.iter().rev() {
        let old = filter.since.is_some_and(|since| aside.time < since);
        if found.over || old {
            break;
        }
        let Ok(Some(input)) = Input::open(aside) else { continue };
        let Ok(id) = input.identify() else { continue };
        if id.is_none() || id == seen {
            continue;
        }
        match input.as_plain() {
            Some(file) => seen = found.in_file(file.try_clone()?)?,
            None => {
                seen = id;
                found.in_input(input, id)?;
            }
        }
    }
    Ok(found.records)
}

struct Found<'a> {
    count: usize,
    filter: &'a Filter,
    records: Vec<(Time, Position)>,
    /// There are enough, or what is before is too old.
    over: bool,
}

impl Found<'_> {
    fn add(&mut self, time: Time, position: Position) {
        let time = self.records.last().map_or(time, |(last, _)| time.min(*last));
        self.records.push((time, position));
        self.over = self.records.len() == self.count;
    }

    /// From the end of a file; says what it is known by.
    fn in_file(&mut self, file: File) -> io::Result<Option<u64>> {
        let input = Input::plain(file.try_clone()?);
        let Some(id) = input.identify()? else {
            return Ok(None);
        };
        let mut backward = Backward::new(file)?;
        // Of one that has no time of its own, nothing is known but that it is older than the next.
        let mut time = self.records.last().map_or(Time(i64::MAX), |(time, _)| *time);
        while !self.over
            && let Some((offset, mut record)) = backward.next()?
        {
            match record.kind {
                Kind::Unknown => record.time = time,
                _ => time = record.time,
            }
            if self.filter.since.is_some_and(|since| record.time < since) {
                self.over = true;
            } else if self.filter.admits(&record) {
                self.add(record.time, Position { file: id, offset });
            }
        }
        Ok(Some(id))
    }

    /// What is compressed has no end to begin from: all of it is read.
    fn in_input(&mut self, input: Input, id: Option<u64>) -> io::Result<()> {
        let Some(id) = id else { return Ok(()) };
        let wanted = self.count - self.records.len();
        let mut lines = Lines::new(input, 0)?;
        let mut last = VecDeque::new();
        loop {
            let offset = lines.offset();
            // One that breaks off has what could be read.
            let Ok(Some(record)) = lines.next(u64::MAX) else { break };
            if self.filter.admits(&record) {
                if last.len() == wanted {
                    last.pop_front();
                }
                last.push_back((record.time, Position { file: id, offset }));
            }
        }
        for (time, position) in last.into_iter().rev() {
            self.add(time, position);
        }
        Ok(())
    }
}

/// The records of a file from its end.
struct Backward {
    file: File,
    parser: Parser,
    /// A part of the file, from `offset` on.
    buffer: Vec<u8>,
    offset: u64,
    /// The one that is given out.
    line: Vec<u8>,
}

const READ: usize = 64 << 10;

impl Backward {
    fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            offset: file.metadata()?.len(),
            file,
            parser: Parser::default(),
            buffer: Vec::new(),
            line: Vec::new(),
        })
    }

    /// The record before the one that was given last, and where it begins.
    fn next(&mut self) -> io::Result<Option<(u64, Record<'_>)>> {
        let start = loop {
            let end = self.buffer.len() - usize::from(self.buffer.ends_with(b"\n"));
            match memchr::memrchr(b'\n', &self.buffer[..end]) {
                Some(newline) => break newline + 1,
                None if self.offset == 0 && self.buffer.is_empty() => return Ok(None),
                None if self.offset == 0 || end >= LONGEST => break 0,
                None => self.read()?,
            }
        };
        self.line.clear();
        self.line.extend(self.buffer.drain(start..));
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some((self.offset + start as u64, self.parser.parse(line))))
    }

    /// Puts what stands before the buffer in front of it.
    fn read(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.offset).map_or(READ, |offset| offset.min(READ));
        let mut front = vec![0; length];
        self.offset -= length as u64;
        self.file.read_exact_at(&mut front, self.offset)?;
        front.append(&mut self.buffer);
        self.buffer = front;
        Ok(())
    }
}
