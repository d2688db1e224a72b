//! What workers print: read from their pipes in blocks of whole lines, and queued for whoever keeps or shows them.
//!
//! [`queue()`] makes the two ends: the [`Sink`] goes into [`Options::lines`](crate::service::Options::lines), the [`Queue`] to
//! a task or a thread that takes what comes.

use std::time::SystemTime;

use thead_core::id::WorkerId;
use thead_core::worker::Slot;

mod capture;
mod pace;
mod queue;

pub(crate) use capture::Tail;
pub use queue::{Item, Note, Queue, Sink, WhenFull, queue};

/// The longest line that is given whole, in bytes. A longer one comes in pieces, all but the last marked `cut`.
pub const LINE_LIMIT: usize = 64 << 10;

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

/// A stream of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Who.
    pub worker: WorkerId,
    /// In which place of the service.
    pub slot: Slot,
    /// The process.
    pub pid: u32,
    /// Where it printed.
    pub stream: Stream,
}

/// Whole lines that were read from one stream at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Who printed them, and where.
    pub from: Origin,
    /// When they were read.
    pub time: SystemTime,
    /// The bytes, whatever the worker wrote, UTF-8 or not: at least one, at most [`LINE_LIMIT`]. Every line ends in a
    /// newline but for the last one, which has none if it is `cut` or if the stream has ended in it.
    pub text: Vec<u8>,
    /// The last line goes on in the next block of this stream.
    pub cut: bool,
}

/// A line that a worker printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The bytes, without the newline.
    pub text: &'a [u8],
    /// The line goes on with the next one of this stream.
    pub cut: bool,
}

impl Block {
    /// The lines, in order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest = &*self.text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (text, cut);
            (text, rest, cut) = match memchr::memchr(b'\n', rest) {
                Some(end) => (&rest[..end], &rest[end + 1..], false),
                None => (rest, &rest[..0], self.cut),
            };
            Some(Line { text, cut })
        })
    }

    /// How many lines there are.
    pub fn line_count(&self) -> usize {
        memchr::memchr_iter(b'\n', &self.text).count() + usize::from(!self.text.ends_with(b"\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_gives_its_lines_without_their_newlines() {
        let lines = |text: &[u8], cut| -> Vec<(String, bool)> {
            let block = Block {
                from: Origin {
                    worker: WorkerId(1),
                    slot: Slot(0),
                    pid: 1,
                    stream: Stream::Stdout,
                },
                time: SystemTime::UNIX_EPOCH,
                text: text.to_vec(),
                cut,
            };
            let lines: Vec<_> = block.lines().collect();
            assert_eq!(lines.len(), block.line_count());
            let text = |line: Line<'_>| (String::from_utf8_lossy(line.text).into_owned(), line.cut);
            lines.into_iter().map(text).collect()
        };
        let whole = |text: &str| (text.to_owned(), false);
        assert_eq!(lines(b"a\n\nb\n", false), [whole("a"), whole(""), whole("b")]);
        assert_eq!(lines(b"a\nb", false), [whole("a"), whole("b")]);
        assert_eq!(lines(b"a\nb", true), [whole("a"), ("b".to_owned(), true)]);
    }
}
