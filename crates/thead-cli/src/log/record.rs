//! A record on disk: one line, with what thead knows in front of what the worker wrote.
//!
//! ```text
//! 2026-11-23T20:52:01.123Z 2 4711 out listening on port 3000
//! 2026-11-23T20:52:07.001Z 2 4711 err+ the first 64 KiB of a very long line, which goes on in the next record
//! 2026-11-23T20:52:09.870Z 2 4711 thead exited with code 1 after 8.7 s
//! 2026-11-23T20:52:09.871Z - - thead reload: generation 3
//! ```
//!
//! Time of arrival (UTC, milliseconds), slot, pid, stream (`out`, `err`, `thead`), each followed by one space, and the text:
//! raw bytes up to the newline. A worker cannot write what stands in front, for what it writes has no newline in it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) i64);

/// The length of a time in a record.
const TIME: usize = "2026-11-23T20:52:01.123Z".len();

impl Time {
    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }

    /// The bound of what there was before: this much earlier.
    pub(crate) fn before(self, ago: Duration) -> Self {
        Self(
            self.0
                .saturating_sub_unsigned(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    pub(crate) fn timestamp(self) -> Timestamp {
        let beyond = if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_millisecond(self.0).unwrap_or(beyond)
    }

    /// Of a record, or of a file's name without its dashes and colons.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let timestamp: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
        Some(Self(timestamp.as_millisecond()))
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(error) => -millis(error.duration()),
        })
    }
}

/// As in a record: RFC 3339 in UTC with milliseconds.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").fmt(f)
    }
}

/// Whose words a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A worker's, on standard output.
    Stdout,
    /// A worker's, on standard error.
    Stderr,
    /// Ours.
    Thead,
    /// Nobody knows: the line is no record, whoever wrote it.
    Unknown,
}

impl Kind {
    /// In files and before lines on a terminal.
    pub(crate) const fn mark(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Thead => "thead",
            Self::Unknown => "?",
        }
    }

    /// In JSON and on the command line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Thead => "thead",
            Self::Unknown => "unknown",
        }
    }

    const WRITTEN: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Thead];
}

impl From<thead::output::Stream> for Kind {
    fn from(stream: thead::output::Stream) -> Self {
        match stream {
            thead::output::Stream::Stdout => Self::Stdout,
            thead::output::Stream::Stderr => Self::Stderr,
        }
    }
}

/// Slot and pid.
pub(crate) type About = Option<(u32, u32)>;

/// What stands before the texts of records that have all but the text in common.
#[derive(Debug)]
pub(super) struct Head {
    /// With the space at the end.
    whole: String,
}

impl Head {
    pub(super) fn new(time: Time, about: About, kind: Kind) -> Self {
        let mark = kind.mark();
        Self {
            whole: match about {
                Some((slot, pid)) => format!("{time} {slot} {pid} {mark} "),
                None => format!("{time} - - {mark} "),
            },
        }
    }

    /// What a record takes besides its text.
    pub(super) fn length(&self) -> usize {
        self.whole.len() + "+\n".len()
    }

    /// Adds a record. The text has no newline.
    pub(super) fn write(&self, text: &[u8], cut: bool, to: &mut Vec<u8>) {
        if cut {
            to.extend_from_slice(self.whole.trim_end().as_bytes());
            to.extend_from_slice(b"+ ");
        } else {
            to.extend_from_slice(self.whole.as_bytes());
        }
        to.extend_from_slice(text);
        to.push(b'\n');
    }
}

/// A record, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// When it arrived.
    pub(crate) time: Time,
    /// Which worker it is about.
    pub(crate) about: About,
    /// Whose words it has.
    pub(crate) kind: Kind,
    /// The text goes on in the next record of this worker and kind.
    pub(crate) cut: bool,
    /// Any bytes but a newline.
    pub(crate) text: &'a [u8],
}

/// Reads lines of one file. It remembers the time of the line before, for most have the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Parser {
    text: [u8; TIME],
    time: Time,
}

impl Parser {
    /// What a line without its newline says. One that is no record is taken whole, at the time of the record before.
    pub(super) fn parse<'a>(&mut self, line: &'a [u8]) -> Record<'a> {
        self.record(line).unwrap_or(Record {
            time: self.time,
            about: None,
            kind: Kind::Unknown,
            cut: false,
            text: line,
        })
    }

    fn record<'a>(&mut self, line: &'a [u8]) -> Option<Record<'a>> {
        let (time, rest) = line.split_first_chunk::<TIME>()?;
        if *time != self.text {
            if time[TIME - 1] != b'Z' {
                return None;
            }
            (self.time, self.text) = (Time::parse(time)?, *time);
        }
        let mut fields = rest.strip_prefix(b" ")?.splitn(4, |byte| *byte == b' ');
        let [slot, pid, mark, text] = std::array::from_fn(|_| fields.next());
        let (slot, pid, mark) = (slot?, pid?, mark?);
        let about = match (slot, pid) {
            (b"-", b"-") => None,
            _ => Some((number(slot)?, number(pid)?)),
        };
        let (mark, cut) = match mark.strip_suffix(b"+") {
            Some(mark) => (mark, true),
            None => (mark, false),
        };
        let kind = Kind::WRITTEN.into_iter().find(|kind| kind.mark().as_bytes() == mark)?;
        Some(Record {
            time: self.time,
            about,
            kind,
            cut,
            text: text?,
        })
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const NOON: Time = Time(1_795_435_200_123);

    fn written(about: About, kind: Kind, text: &[u8], cut: bool) -> Vec<u8> {
        let mut line = Vec::new();
        Head::new(NOON, about, kind).write(text, cut, &mut line);
        line
    }

    #[test]
    fn a_record_is_a_line_of_fixed_shape() {
        let line = written(Some((2, 4711)), Kind::Stdout, b"hello  world", false);
        assert_eq!(line, b"2026-11-23T12:00:00.123Z 2 4711 out hello  world\n");
        let line = written(Some((2, 4711)), Kind::Stderr, b"x", true);
        assert_eq!(line, b"2026-11-23T12:00:00.123Z 2 4711 err+ x\n");
        assert_eq!(
            written(None, Kind::Thead, b"", false),
            b"2026-11-23T12:00:00.123Z - - thead \n"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let texts: [&[u8]; 5] = [
            b"",
            b" ",
            b"a b",
            b"\xff\0\r\x1b[2J",
            b"2026-11-23T12:00:00.123Z - - thead no",
        ];
        for text in texts {
            for (about, kind) in [
                (Some((0, 1)), Kind::Stdout),
                (Some((7, u32::MAX)), Kind::Stderr),
                (None, Kind::Thead),
                (Some((1, 2)), Kind::Thead),
            ] {
                for cut in [false, true] {
                    let line = written(about, kind, text, cut);
                    let expected = Record {
                        time: NOON,
                        about,
                        kind,
                        cut,
                        text,
                    };
                    assert_eq!(Parser::default().parse(line.strip_suffix(b"\n").unwrap()), expected);
                }
            }
        }
    }

    #[test]
    fn a_line_that_is_no_record_is_shown_at_the_time_of_the_one_before() {
        let mut parser = Parser::default();
        parser.parse(b"2026-11-23T12:00:00.123Z 2 4711 out hello");
        let lines: [&[u8]; 9] = [
            b"",
            b"hello",
            b"2026-11-23T12:00:00.123Z",
            b"2026-11-23T12:00:00.123Z 2 4711 out",
            b"2026-11-23T12:00:00.123Z 2 4711 other x",
            b"2026-11-23T12:00:00.123Z 2 - out x",
            b"2026-11-23T12:00:00.123Z two 4711 out x",
            b"2026-99-23T12:00:00.123Z 2 4711 out x",
            b"2026-11-23T12:00:00.1234 2 4711 out x",
        ];
        for line in lines {
            let record = parser.parse(line);
            assert_eq!((record.time, record.kind, record.text), (NOON, Kind::Unknown, line));
        }
    }

    #[test]
    fn times_are_those_of_utc_and_sort_as_they_are_written() {
        let written = NOON.to_string();
        assert_eq!(written, "2026-11-23T12:00:00.123Z");
        assert_eq!(Time::parse(written.as_bytes()), Some(NOON));
        assert_eq!(
            NOON.before(Duration::from_secs(3600)).to_string(),
            "2026-11-23T11:00:00.123Z"
        );
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time::from(UNIX_EPOCH - Duration::from_millis(1)), Time(-1));
        assert!(Time(i64::MAX).to_string().starts_with("9999-"));
    }
}
