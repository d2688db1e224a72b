//! Reading the streams of workers.
//!
//! A stream that is quiet costs a pipe and no buffer. One that floods is read 64 KiB at a time and given a rest in between,
//! so that a line does not cost a wake-up; meanwhile its pipe is larger, so that the worker can go on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tokio::io::Interest;

use super::pace::{LARGE_PIPE, Pace, REST, Then};
use super::{Block, LINE_LIMIT, Origin, Sink};
use crate::sys::reactor;

/// Lines of each worker that are kept for the report of its death; even, for there are two streams.
const KEPT_LINES: usize = 20;
/// Of each of them.
const KEPT_BYTES: usize = 512;

/// What one worker printed last, read or not.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    sources: Vec<Arc<Source>>,
    /// How many blocks were kept, for their order.
    count: Arc<AtomicU64>,
}

impl Tail {
    /// Captures one more stream: returns what reads it to its end.
    ///
    /// A sink that waits when it is full holds the worker up, as a full pipe always does; no line is lost or torn.
    pub(crate) fn capture(
        &mut self,
        from: Origin,
        pipe: OwnedFd,
        sink: Sink,
    ) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
        let source = Arc::new(Source {
            from,
            pipe: Arc::new(pipe),
            state: Mutex::default(),
            count: self.count.clone(),
        });
        self.sources.push(source.clone());
        let wakes = |source: &Source| reactor::register(source.pipe.clone(), Interest::READABLE);
        let mut awaited = Some(wakes(&source)?);
        Ok(async move {
            let mut pace = Pace::of(from.stream, &source.pipe);
            loop {
                let read = match &awaited {
                    None => source.read_ready()?,
                    Some(pipe) => {
                        let mut ready = pipe.readable().await?;
                        let read = source.read_ready()?;
                        if read.is_all {
                            // What comes after this look is told anew: epoll watches for edges.
                            ready.clear_ready();
                        }
                        read
                    }
                };
                while let Some(block) = source.next_block() {
                    sink.send(block).await;
                }
                if source.state().ended {
                    return Ok(());
                }
                match pace.after(read.bytes, read.is_all, &source.pipe) {
                    Then::Await if awaited.is_some() => {}
                    // Where it cannot be watched, it is looked at.
                    Then::Await => match wakes(&source) {
                        Ok(pipe) => awaited = Some(pipe),
                        Err(_) => tokio::time::sleep(LOOK).await,
                    },
                    Then::Again => {}
                    // Else every line of the worker would wake this thread.
                    Then::Rest => {
                        awaited = None;
                        tokio::time::sleep(REST).await;
                    }
                }
                // A worker that prints without end to nobody must not have this thread alone.
                tokio::task::consume_budget().await;
            }
        })
    }

    /// The last lines so far, oldest first, of those that were read. Each stream has half of the room, and more if the
    /// other leaves it: what a program says last on standard error may come before much that it had to print.
    pub(crate) fn lines(&self) -> Vec<String> {
        let streams: Vec<_> = self.sources.iter().map(|source| source.state().last_lines()).collect();
        let share = KEPT_LINES / self.sources.len().max(1);
        let spare: usize = streams.iter().map(|lines| share.saturating_sub(lines.len())).sum();
        let skipped = streams.iter().map(|lines| lines.len().saturating_sub(share + spare));
        let mut lines: Vec<_> = streams
            .iter()
            .zip(skipped)
            .flat_map(|(lines, skip)| &lines[skip..])
            .collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().map(|(_, text)| text.clone()).collect()
    }

    /// As [`lines`](Self::lines), of all that a worker that has ended had printed.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        for source in &self.sources {
            source.catch_up();
        }
        self.lines()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in them is whole between any two of their calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stream of a worker: the pipe, and what was read from it and not passed on.
#[derive(Debug)]
struct Source {
    from: Origin,
    /// Non-blocking.
    pipe: Arc<OwnedFd>,
    state: Mutex<Splitter>,
    count: Arc<AtomicU64>,
}

/// What one look brought.
#[derive(Clone, Copy, Debug)]
struct Read {
    bytes: usize,
    /// Nothing is left of what was there then.
    is_all: bool,
}

/// Between two looks at a pipe that cannot be watched.
const LOOK: Duration = Duration::from_millis(100);
/// More than a pipe holds. A process that a dead worker left behind may print for ever.
const CATCH_UP: usize = 2 * LARGE_PIPE;

impl Source {
    fn state(&self) -> MutexGuard<'_, Splitter> {
        lock(&self.state)
    }

    fn next_block(&self) -> Option<Block> {
        let mut state = self.state();
        let (text, cut) = state.ready.pop_front()?;
        let block = Block {
            from: self.from,
            time: SystemTime::now(),
            text,
            cut,
        };
        state.keep(self.count.fetch_add(1, Ordering::Relaxed), &block.text);
        Some(block)
    }

    /// Reads once.
    fn read_ready(&self) -> io::Result<Read> {
        let mut state = self.state();
        let there = rustix::io::ioctl_fionread(&self.pipe).map_or(0, saturated);
        let buffer = state.room_for(there);
        let is_all = buffer.capacity() - buffer.len() >= there;
        let bytes = match rustix::io::read(&self.pipe, rustix::buffer::spare_capacity(buffer)) {
            Ok(bytes) => {
                state.took(bytes);
                bytes
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Read { bytes, is_all })
    }

    /// Reads what is in the pipe now, whether or not the sink has room.
    fn catch_up(&self) {
        let mut state = self.state();
        let mut room = CATCH_UP;
        while room > 0 && !state.ended {
            let buffer = state.room_for(LINE_LIMIT);
            let Ok(read) = rustix::io::read(&self.pipe, rustix::buffer::spare_capacity(buffer)) else {
                return;
            };
            state.took(read);
            room = room.saturating_sub(read);
        }
    }
}

fn saturated(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn excerpt(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(KEPT_BYTES)]).into_owned()
}

#[derive(Debug, Default)]
struct Splitter {
    /// Whole lines, with whether the last one goes on.
    ready: VecDeque<(Vec<u8>, bool)>,
    /// The beginning of a line, shorter than [`LINE_LIMIT`].
    partial: Vec<u8>,
    /// Nothing comes any more.
    ended: bool,
    /// The last lines that were passed on, with the numbers of their blocks.
    kept: VecDeque<(u64, String)>,
}

/// What is asked for where there is nothing, to see the end.
const LITTLE: usize = 32;

impl Splitter {
    /// Where the next bytes belong; at least one fits.
    fn room_for(&mut self, count: usize) -> &mut Vec<u8> {
        let room = LINE_LIMIT - self.partial.len();
        self.partial.reserve_exact(count.max(LITTLE).min(room));
        &mut self.partial
    }

    /// So many bytes were read, 0 at the end.
    fn took(&mut self, read: usize) {
        self.ended = read == 0;
        let new = self.partial.len() - read;
        let (whole, cut) = match memchr::memrchr(b'\n', &self.partial[new..]) {
            Some(newline) => (new + newline + 1, false),
            None if self.partial.len() >= LINE_LIMIT => (self.partial.len(), true),
            None if self.ended && !self.partial.is_empty() => (self.partial.len(), false),
            None => return,
        };
        let rest = self.partial[whole..].to_vec();
        self.partial.truncate(whole);
        self.ready.push_back((std::mem::replace(&mut self.partial, rest), cut));
    }

    /// Remembers the last lines of what is passed on.
    fn keep(&mut self, number: u64, text: &[u8]) {
        let lines = last_of(text);
        let spare = (self.kept.len() + lines.len()).saturating_sub(KEPT_LINES);
        self.kept.drain(..spare.min(self.kept.len()));
        self.kept
            .extend(lines.into_iter().rev().map(|line| (number, excerpt(line))));
    }

    /// The last lines, passed on or not, the unfinished one too.
    fn last_lines(&self) -> Vec<(u64, String)> {
        let waiting = std::iter::once(&self.partial).chain(self.ready.iter().rev().map(|(text, _)| text));
        let waiting = waiting
            .flat_map(|text| last_of(text))
            .map(|line| (u64::MAX, excerpt(line)));
        let mut lines: Vec<_> = waiting
            .chain(self.kept.iter().rev().cloned())
            .take(KEPT_LINES)
            .collect();
        lines.reverse();
        lines
    }
}

/// The last lines of a text, last first.
fn last_of(text: &[u8]) -> Vec<&[u8]> {
    let whole = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    whole.rsplit(|byte| *byte == b'\n').take(KEPT_LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::default();
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let buffer = splitter.room_for(part.len());
                let read = part.len().min(buffer.capacity() - buffer.len());
                buffer.extend_from_slice(&part[..read]);
                splitter.took(read);
                part = &part[read..];
            }
        }
        splitter.took(0);
        splitter.ready.into()
    }

    fn block(text: &[u8]) -> (Vec<u8>, bool) {
        (text.to_vec(), false)
    }

    #[test]
    fn lines_are_whole_however_they_are_written() {
        assert_eq!(
            split(&[b"a\nb", b"b\n\nc"]),
            [block(b"a\n"), block(b"bb\n\n"), block(b"c")]
        );
        assert_eq!(split(&[]), []);
    }

    #[test]
    fn what_waits_counts_among_the_last_lines() {
        let mut splitter = Splitter::default();
        splitter.keep(0, b"passed\non\n");
        let last =
            |splitter: &Splitter| -> Vec<String> { splitter.last_lines().into_iter().map(|(_, text)| text).collect() };
        assert_eq!(last(&splitter), ["passed", "on"]);
        splitter.ready.push_back(block(b"a\n\nb\n"));
        assert_eq!(last(&splitter), ["passed", "on", "a", "", "b"]);
        splitter.partial = b"c".to_vec();
        assert_eq!(last(&splitter), ["passed", "on", "a", "", "b", "c"]);
        splitter.ready.push_back(block(&b"x\n".repeat(100)));
        splitter.partial.clear();
        assert_eq!(last(&splitter), vec!["x"; KEPT_LINES]);
    }

    #[test]
    fn as_many_lines_are_kept_as_are_asked_for_however_they_come() {
        let mut splitter = Splitter::default();
        for n in 0..50 {
            splitter.keep(n, format!("{n}\n").as_bytes());
        }
        splitter.keep(50, b"a\nb\n");
        let kept: Vec<_> = splitter.kept.iter().map(|(_, text)| &**text).collect();
        assert_eq!(kept.len(), KEPT_LINES);
        assert_eq!(kept[KEPT_LINES - 3..], ["49", "a", "b"]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let long = vec![b'x'; 2 * LINE_LIMIT + 5];
        let got = split(&[&long, b"y\nz\n"]);
        let lengths: Vec<_> = got.iter().map(|(text, cut)| (text.len(), *cut)).collect();
        assert_eq!(lengths, [(LINE_LIMIT, true), (LINE_LIMIT, true), (9, false)]);
    }
}
