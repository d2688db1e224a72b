//! Fields out of a message and into one: the one place that knows how JavaScript's looseness becomes a type.

use std::io;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{CLUSTER, MAX_DATA, MAX_MESSAGE};

/// Why something is not a cluster message. The peer broke the protocol; nothing of the message was used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterMessageError {
    /// Longer than any real one.
    #[error("cluster message of {length} bytes, more than {MAX_MESSAGE}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Not JSON; the column in `source` is the offset.
    #[error("cluster message is not JSON: {excerpt:?}")]
    NotJson {
        /// What and where.
        #[source]
        source: serde_json::Error,
        /// Its beginning.
        excerpt: Box<str>,
    },
    /// Not an object with `cmd: "NODE_CLUSTER"`.
    #[error("not a cluster message: {excerpt:?}")]
    NotCluster {
        /// Its beginning.
        excerpt: Box<str>,
    },
    /// A field that cannot be what it says, or a needed one that is not there (found: null).
    #[error("cluster message with {field} {found:?}, expected {expected}")]
    Field {
        /// The field as on the wire.
        field: &'static str,
        /// The beginning of its value as JSON.
        found: Box<str>,
        /// What could stand there.
        expected: &'static str,
    },
}

const EXCERPT: usize = 64;
/// The largest integer that a JavaScript number counts without gaps.
const MAX_SAFE: u64 = (1 << 53) - 1;

pub(super) fn parse(body: &[u8]) -> Result<Value, ClusterMessageError> {
    if body.len() > MAX_MESSAGE {
        return Err(ClusterMessageError::TooLong { length: body.len() });
    }
    serde_json::from_slice(body).map_err(|source| ClusterMessageError::NotJson {
        source,
        excerpt: excerpt(&String::from_utf8_lossy(&body[..body.len().min(EXCERPT)])),
    })
}

pub(super) fn excerpt(text: &str) -> Box<str> {
    text.chars().take(EXCERPT).collect::<String>().into()
}

/// The beginning of a value as JSON, without printing all of a large one.
fn excerpt_of(value: &Value) -> Box<str> {
    let mut head = Head(Vec::with_capacity(EXCERPT));
    // The only failure is the head being full, which is what it is for.
    let _full = serde_json::to_writer(&mut head, value);
    excerpt(&String::from_utf8_lossy(&head.0))
}

struct Head(Vec<u8>);

impl io::Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(EXCERPT - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what is written, and fails beyond the limit.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fields of a cluster message. `null` and absence are alike: `advanced` turns one into the other.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a Value) -> Result<Self, ClusterMessageError> {
        match message {
            Value::Object(map) if map.get("cmd").and_then(Value::as_str) == Some(CLUSTER) => Ok(Self(map)),
            _ => Err(ClusterMessageError::NotCluster {
                excerpt: excerpt_of(message),
            }),
        }
    }

    pub(super) fn get(self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(self, field: &'static str, expected: &'static str) -> ClusterMessageError {
        let found = self.0.get(field).map_or_else(|| "null".into(), excerpt_of);
        ClusterMessageError::Field { field, found, expected }
    }

    pub(super) fn text(self, field: &'static str, limit: usize) -> Result<Option<&'a str>, ClusterMessageError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= limit => Ok(Some(text)),
            Some(Value::String(_)) => Err(self.wrong(field, "a shorter string")),
            Some(_) => Err(self.wrong(field, "a string")),
        }
    }

    pub(super) fn flag(self, field: &'static str) -> Result<Option<bool>, ClusterMessageError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(field, "a boolean")),
        }
    }

    /// An integer, also one that JavaScript wrote as `3.0` or that came as a double.
    pub(super) fn integer<T: TryFrom<i64>>(self, field: &'static str) -> Result<Option<T>, ClusterMessageError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        integer(value)
            .and_then(|number| T::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| self.wrong(field, "an integer in its range"))
    }

    /// The number of a message: not negative, and exact in JavaScript.
    pub(super) fn number(self, field: &'static str) -> Result<Option<u64>, ClusterMessageError> {
        match self.integer::<u64>(field)? {
            Some(number) if number > MAX_SAFE => Err(self.wrong(field, "an integer below 2^53")),
            number => Ok(number),
        }
    }

    pub(super) fn data(self) -> Result<Arc<Value>, ClusterMessageError> {
        let data = self.get("data").unwrap_or(&Value::Null);
        match serde_json::to_writer(Room(MAX_DATA), data) {
            Ok(()) => Ok(Arc::new(data.clone())),
            Err(_) => Err(self.wrong("data", "at most 4096 bytes")),
        }
    }
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        let double = number.as_f64()?;
        (double.fract() == 0.0 && double.abs() <= MAX_SAFE as f64).then_some(double as i64)
    })
}

/// Where a message is printed to. One description of a message serves both serializations, so they cannot drift apart.
pub(super) trait Print {
    fn text(&mut self, field: &'static str, text: &str);
    fn integer(&mut self, field: &'static str, number: i64);
    fn value(&mut self, field: &'static str, value: &Value);

    fn flag(&mut self, field: &'static str, flag: bool) {
        self.value(field, &Value::Bool(flag));
    }

    fn null(&mut self, field: &'static str) {
        self.value(field, &Value::Null);
    }

    fn number(&mut self, field: &'static str, number: u64) {
        self.integer(field, number.min(MAX_SAFE).cast_signed());
    }
}

/// Prints JSON as `JSON.stringify` does.
pub(super) struct Json<'a>(pub(super) &'a mut Vec<u8>);

impl<'a> Json<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(br#"{"cmd":"NODE_CLUSTER""#);
        Self(out)
    }

    pub(super) fn close(self) {
        self.0.push(b'}');
    }

    fn name(&mut self, field: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(field.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

impl Print for Json<'_> {
    fn text(&mut self, field: &'static str, text: &str) {
        self.name(field);
        if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        } else {
            self.0.extend_from_slice(Value::from(text).to_string().as_bytes());
        }
    }

    fn integer(&mut self, field: &'static str, number: i64) {
        self.name(field);
        if number < 0 {
            self.0.push(b'-');
        }
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10).to_le_bytes()[0];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }

    fn value(&mut self, field: &'static str, value: &Value) {
        self.name(field);
        match value {
            Value::Null => self.0.extend_from_slice(b"null"),
            Value::Bool(true) => self.0.extend_from_slice(b"true"),
            Value::Bool(false) => self.0.extend_from_slice(b"false"),
            value => self.0.extend_from_slice(value.to_string().as_bytes()),
        }
    }
}

impl Print for Map<String, Value> {
    fn text(&mut self, field: &'static str, text: &str) {
        self.insert(field.into(), text.into());
    }

    fn integer(&mut self, field: &'static str, number: i64) {
        self.insert(field.into(), number.into());
    }

    fn value(&mut self, field: &'static str, value: &Value) {
        self.insert(field.into(), value.clone());
    }
}

/// A message as a value, for `advanced`.
pub(super) fn to_value(print: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut map = Map::new();
    map.text("cmd", CLUSTER);
    print(&mut map);
    Value::Object(map)
}

/// Leading decimal digits as a number and what follows, if they are a number that `JSON.stringify` prints for a `seq`.
pub(super) fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // 15 digits are below 2^53; rarer ones go the long way.
    if digits == 0 || digits > 15 || (digits > 1 && text[0] == b'0') {
        return None;
    }
    let number = text[..digits]
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, &text[digits..]))
}
