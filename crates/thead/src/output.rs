//! What workers print, line by line.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use thead_core::id::WorkerId;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// The longest line that is given whole, in bytes. A longer one comes in pieces, all but the last marked `cut`.
pub const LINE_LIMIT: usize = 64 << 10;

/// Lines of each worker that are kept for the report of its death; even, for there are two streams.
const KEPT_LINES: usize = 20;
/// Of each of them.
const KEPT_BYTES: usize = 512;

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who.
    pub worker: WorkerId,
    /// Where.
    pub stream: Stream,
    /// The bytes, without the newline; whatever the worker wrote, UTF-8 or not.
    pub text: Vec<u8>,
    /// The line goes on with the next one of this worker and stream.
    pub cut: bool,
}

/// What one worker printed last, read or not.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    sources: Vec<Arc<Source>>,
    /// How many lines were kept, for their order.
    count: Arc<AtomicU64>,
}

impl Tail {
    /// Captures one more stream: returns what reads it to its end.
    ///
    /// A sink that is full holds the worker up, as a full pipe always does; no line is lost or torn. One that is gone wants
    /// nothing; the worker is read on.
    pub(crate) fn capture(
        &mut self,
        worker: WorkerId,
        stream: Stream,
        pipe: OwnedFd,
        sink: mpsc::Sender<Line>,
    ) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
        let source = Arc::new(Source {
            pipe: pipe::Receiver::from_owned_fd(pipe)?,
            splitter: Mutex::default(),
        });
        self.sources.push(source.clone());
        let count = self.count.clone();
        Ok(async move {
            loop {
                while let Some((text, cut)) = source.next_line(&count) {
                    let line = Line {
                        worker,
                        stream,
                        text,
                        cut,
                    };
                    let _ = sink.send(line).await;
                }
                if source.splitter().ended {
                    return Ok(());
                }
                source.pipe.readable().await?;
                source.read_ready()?;
                // A worker that prints without end to nobody must not have this thread alone.
                tokio::task::consume_budget().await;
            }
        })
    }

    /// The last lines so far, oldest first, of those that were read. Each stream has half of the room, and more if the
    /// other leaves it: what a program says last on standard error may come before much that it had to print.
    pub(crate) fn lines(&self) -> Vec<String> {
        let streams: Vec<_> = self
            .sources
            .iter()
            .map(|source| source.splitter().last_lines())
            .collect();
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
    pipe: pipe::Receiver,
    splitter: Mutex<Splitter>,
}

/// What is read at a time.
const READ: usize = 16 << 10;
/// More than a pipe holds. A process that a dead worker left behind may print for ever.
const CATCH_UP: usize = 1 << 20;

impl Source {
    fn splitter(&self) -> MutexGuard<'_, Splitter> {
        lock(&self.splitter)
    }

    fn next_line(&self, count: &AtomicU64) -> Option<(Vec<u8>, bool)> {
        let mut splitter = self.splitter();
        let (text, cut) = splitter.next_line()?;
        if splitter.kept.len() == KEPT_LINES {
            splitter.kept.pop_front();
        }
        splitter
            .kept
            .push_back((count.fetch_add(1, Ordering::Relaxed), excerpt(&text)));
        Some((text, cut))
    }

    fn read_ready(&self) -> io::Result<()> {
        let mut splitter = self.splitter();
        splitter.buffer.reserve(READ);
        match self.pipe.try_read_buf(&mut splitter.buffer) {
            Ok(0) => splitter.ended = true,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// Reads what is in the pipe now, whether or not the sink has room.
    fn catch_up(&self) {
        let mut splitter = self.splitter();
        let mut piece = [0; READ];
        let mut room = CATCH_UP;
        while room > 0
            && !splitter.ended
            && let Ok(read) = rustix::io::read(&self.pipe, &mut piece)
        {
            splitter.buffer.extend_from_slice(&piece[..read]);
            splitter.ended = read == 0;
            room = room.saturating_sub(read);
        }
    }
}

fn excerpt(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(KEPT_BYTES)]).into_owned()
}

#[derive(Debug, Default)]
struct Splitter {
    buffer: BytesMut,
    /// No newline stands before this position.
    searched: usize,
    /// Nothing comes after what is in the buffer.
    ended: bool,
    /// The last lines that were passed on, with their numbers.
    kept: VecDeque<(u64, String)>,
}

impl Splitter {
    /// The last lines, passed on or not, the unfinished one too.
    fn last_lines(&self) -> Vec<(u64, String)> {
        let waiting = self.buffer.rsplit(|byte| *byte == b'\n');
        let skip = usize::from(self.buffer.is_empty() || self.buffer.ends_with(b"\n"));
        let waiting = waiting.skip(skip).map(|text| (u64::MAX, excerpt(text)));
        let mut lines: Vec<_> = waiting
            .chain(self.kept.iter().rev().cloned())
            .take(KEPT_LINES)
            .collect();
        lines.reverse();
        lines
    }

    /// The next line, and whether it is only a piece of one.
    fn next_line(&mut self) -> Option<(Vec<u8>, bool)> {
        let window = self.buffer.len().min(LINE_LIMIT);
        let (length, skip, cut) = match memchr::memchr(b'\n', &self.buffer[self.searched.min(window)..window]) {
            Some(found) => (self.searched + found, 1, false),
            None if window == LINE_LIMIT => (LINE_LIMIT, 0, true),
            None if self.ended && window > 0 => (window, 0, false),
            None => {
                self.searched = window;
                return None;
            }
        };
        self.searched = 0;
        let line = self.buffer.split_to(length + skip);
        Some((line[..length].to_vec(), cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            splitter.buffer.extend_from_slice(part);
            splitter.ended = n + 1 == parts.len();
            lines.extend(std::iter::from_fn(|| splitter.next_line()));
        }
        lines
    }

    #[test]
    fn lines_are_whole_however_they_are_written() {
        let whole = |text: &str| (text.as_bytes().to_vec(), false);
        assert_eq!(
            split(&[b"a\nb", b"b\n\nc"]),
            [whole("a"), whole("bb"), whole(""), whole("c")]
        );
        assert_eq!(split(&[b""]), []);
    }

    #[test]
    fn what_waits_in_the_buffer_counts_among_the_last_lines() {
        let mut splitter = Splitter::default();
        splitter.kept.push_back((0, "passed on".into()));
        let mut last = |text: &[u8]| -> Vec<String> {
            splitter.buffer.clear();
            splitter.buffer.extend_from_slice(text);
            splitter.last_lines().into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(last(b""), ["passed on"]);
        assert_eq!(last(b"a\n\nb\n"), ["passed on", "a", "", "b"]);
        assert_eq!(last(b"a\nb"), ["passed on", "a", "b"]);
        assert_eq!(last(&b"x\n".repeat(100)), vec!["x"; KEPT_LINES]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let long = vec![b'x'; 2 * LINE_LIMIT + 5];
        let got = split(&[&long, b"y\nz\n"]);
        let lengths: Vec<_> = got.iter().map(|(text, cut)| (text.len(), *cut)).collect();
        assert_eq!(
            lengths,
            [(LINE_LIMIT, true), (LINE_LIMIT, true), (6, false), (1, false)]
        );
    }
}
