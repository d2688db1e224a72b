//! Frames: where one message ends and the next begins.
//!
//! `json` is one text per line; `advanced` is a 4-byte big-endian length and that many bytes.

use bytes::{Buf, Bytes, BytesMut};

/// How messages are written on a channel. Both ends must use the same; the parent chooses and says so in
/// `NODE_CHANNEL_SERIALIZATION_MODE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Serialization {
    /// `JSON.stringify` text, one line a message. Node's default, and the only mode that Node, Bun and Deno share.
    #[default]
    Json,
    /// V8's structured-clone format: keeps `Map`, `Date`, `Buffer`, typed arrays, cycles.
    Advanced,
}

impl Serialization {
    /// The word that stands for it in `NODE_CHANNEL_SERIALIZATION_MODE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Advanced => "advanced",
        }
    }
}

/// The largest frame accepted unless said otherwise: 16 MiB.
pub const DEFAULT_FRAME_LIMIT: usize = 16 << 20;

/// A frame that cannot be accepted. The position in the stream is lost with it, so the channel is too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A line longer than the limit, or a length that announces more than the limit.
    #[error(
        "frame of {size} bytes or more exceeds the limit of {limit} bytes (begins with {excerpt}); send less in one message or raise the frame limit"
    )]
    TooLong {
        /// What is known of its size, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
        /// Its first bytes, printable.
        excerpt: String,
    },
    /// Bytes that do not end with a frame.
    #[error("a frame is cut off")]
    Cut,
}

/// Cuts a stream of bytes into frames, however the reads were split.
///
/// It remembers how far it has looked, so a frame that arrives in many reads costs time linear in its size.
#[derive(Debug)]
pub struct FrameReader {
    serialization: Serialization,
    limit: usize,
    buffer: BytesMut,
    /// No newline stands before this position in `buffer` (`json` only).
    searched: usize,
}

impl FrameReader {
    /// A reader that refuses frames longer than `limit` bytes.
    pub fn new(serialization: Serialization, limit: usize) -> Self {
        Self {
            serialization,
            limit,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// Takes what one read returned.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its newline or length.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], as soon as it is known; the reader gives nothing more after it.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let frame = match self.serialization {
            Serialization::Json => self.next_line()?,
            Serialization::Advanced => self.next_block()?,
        };
        if frame.is_none() && self.buffer.is_empty() && self.buffer.capacity() > RETAINED {
            self.buffer = BytesMut::new();
        }
        Ok(frame)
    }

    /// Whether a frame has begun and is not yet whole.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(found) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            self.check(self.searched)?;
            return Ok(None);
        };
        let end = self.searched + found;
        self.check(end)?;
        self.searched = 0;
        let mut line = self.buffer.split_to(end);
        self.buffer.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Ok(Some(line.freeze()))
    }

    fn next_block(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        self.check(length)?;
        if self.buffer.len() < LENGTH + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn check(&self, size: usize) -> Result<(), FrameError> {
        if size <= self.limit {
            return Ok(());
        }
        Err(FrameError::TooLong {
            size,
            limit: self.limit,
            excerpt: excerpt(&self.buffer),
        })
    }
}

/// Bytes of the length that precedes an `advanced` frame.
const LENGTH: usize = 4;
/// An idle reader keeps no more than this.
const RETAINED: usize = 64 << 10;

/// Appends one frame around `body`.
///
/// In `json` the body must be JSON text; a newline cannot stand raw in it, so none is looked for.
pub(crate) fn write_frame(serialization: Serialization, body: &[u8], out: &mut BytesMut) {
    match serialization {
        Serialization::Json => {
            out.reserve(body.len() + 1);
            out.extend_from_slice(body);
            out.extend_from_slice(b"\n");
        }
        Serialization::Advanced => {
            out.reserve(body.len() + LENGTH);
            let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(body);
        }
    }
}

/// The first bytes of something, fit for an error message: at most 64 bytes, escaped.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(64)];
    let more = if bytes.len() > shown.len() { "…" } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read_all(reader: &mut FrameReader) -> Vec<Bytes> {
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    #[test]
    fn every_split_of_a_stream_gives_the_same_frames() {
        type Case = (Serialization, &'static [u8], &'static [&'static [u8]]);
        let cases: [Case; 2] = [
            (
                Serialization::Json,
                b"{\"a\":1}\n\n\"x\"\r\n1\n",
                &[b"{\"a\":1}", b"", b"\"x\"", b"1"],
            ),
            (
                Serialization::Advanced,
                b"\0\0\0\x03\xff\x0fT\0\0\0\0\0\0\0\x01a",
                &[b"\xff\x0fT", b"", b"a"],
            ),
        ];
        for (serialization, stream, frames) in cases {
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let mut reader = FrameReader::new(serialization, 100);
                    let mut got = Vec::new();
                    for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                        reader.push(part);
                        got.extend(read_all(&mut reader));
                    }
                    assert_eq!(got, frames, "{serialization:?} split at {first} and {second}");
                    assert!(!reader.is_mid_frame());
                }
            }
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_whole() {
        let mut reader = FrameReader::new(Serialization::Json, 10);
        reader.push(b"0123456789");
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(b"A");
        assert!(matches!(
            reader.next_frame(),
            Err(FrameError::TooLong {
                size: 11,
                limit: 10,
                ..
            })
        ));

        let mut reader = FrameReader::new(Serialization::Advanced, 10);
        reader.push(&[0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            reader.next_frame(),
            Err(FrameError::TooLong { size: 0xffff_ffff, .. })
        ));
    }

    #[test]
    fn a_byte_is_looked_at_once_however_many_reads_bring_the_line() {
        let mut reader = FrameReader::new(Serialization::Json, DEFAULT_FRAME_LIMIT);
        let chunk = vec![b'x'; 64 << 10];
        for n in 1..=128 {
            reader.push(&chunk);
            assert_eq!(reader.next_frame(), Ok(None));
            assert_eq!(reader.searched, n * chunk.len(), "the search goes on where it stopped");
        }
        reader.push(b"\n");
        assert_eq!(reader.next_frame().unwrap().unwrap().len(), 8 << 20);
        assert_eq!(reader.next_frame(), Ok(None));
        assert_eq!(reader.buffer.capacity(), 0, "an idle reader gives a large buffer back");
    }
}
