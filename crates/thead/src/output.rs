//! What workers print, line by line.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use thead_core::id::WorkerId;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// The longest line that is given whole, in bytes. A longer one comes in pieces, all but the last marked `cut`.
pub const LINE_LIMIT: usize = 64 << 10;

/// Room for one read, in bytes: all that a pipe holds.
const READ: usize = 64 << 10;

/// Lines of each worker that are kept for the report of its death.
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

/// The last lines of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(&line[..line.len().min(KEPT_BYTES)]).into_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// Reads one stream of a worker to its end. A sink that is full holds the worker up, as a full pipe always does; no line
/// is lost or torn.
pub(crate) async fn capture(
    worker: WorkerId,
    stream: Stream,
    pipe: OwnedFd,
    tail: Tail,
    sink: mpsc::Sender<Line>,
) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut splitter = Splitter::default();
    loop {
        // Nothing that is read stays in the buffer for long, so it need not grow beyond twice this.
        splitter.buffer.reserve(READ);
        let ended = pipe.read_buf(&mut splitter.buffer).await? == 0;
        while let Some((text, cut)) = splitter.next_line(ended) {
            tail.push(&text);
            // A sink that is gone wants nothing; the worker is read on, so that it is not held up.
            let _ = sink
                .send(Line {
                    worker,
                    stream,
                    text,
                    cut,
                })
                .await;
        }
        if ended {
            return Ok(());
        }
    }
}

#[derive(Default)]
struct Splitter {
    buffer: BytesMut,
    /// No newline stands before this position.
    searched: usize,
}

impl Splitter {
    /// The next line, and whether it is only a piece of one.
    fn next_line(&mut self, ended: bool) -> Option<(Vec<u8>, bool)> {
        let window = self.buffer.len().min(LINE_LIMIT);
        let (length, skip, cut) = match memchr::memchr(b'\n', &self.buffer[self.searched.min(window)..window]) {
            Some(found) => (self.searched + found, 1, false),
            None if window == LINE_LIMIT => (LINE_LIMIT, 0, true),
            None if ended && window > 0 => (window, 0, false),
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
            lines.extend(std::iter::from_fn(|| splitter.next_line(n + 1 == parts.len())));
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
