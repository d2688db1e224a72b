//! What can be wrong with a payload.

use std::fmt;

/// Why a payload was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    kind: ReadErrorKind,
    offset: usize,
    payload_len: usize,
    excerpt: Vec<u8>,
    excerpt_at: usize,
}

impl ReadError {
    pub(super) fn new(kind: ReadErrorKind, offset: usize, payload: &[u8]) -> ReadError {
        let excerpt_at = offset.saturating_sub(8);
        let end = payload.len().min(offset.saturating_add(16));
        let excerpt = payload.get(excerpt_at..end).unwrap_or_default().to_vec();
        ReadError {
            kind,
            offset,
            payload_len: payload.len(),
            excerpt,
            excerpt_at,
        }
    }

    /// What is wrong.
    pub fn kind(&self) -> &ReadErrorKind {
        &self.kind
    }

    /// Where in the payload the value begins, or the part of one, that is wrong.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl fmt::Display for ReadError {
    /// With up to 8 bytes before and 16 from the offset on, the latter after `|`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at byte {} of {}:", self.kind, self.offset, self.payload_len)?;
        for (at, byte) in (self.excerpt_at..).zip(&self.excerpt) {
            let mark = if at == self.offset { " |" } else { "" };
            write!(f, "{mark} {byte:02x}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ReadError {}

/// What can be wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ReadErrorKind {
    #[error("this is JavaScriptCore's format, not V8's; with Bun use json serialization")]
    JavaScriptCore,
    #[error("no V8 header (ff, then a version)")]
    NoHeader,
    #[error("version {0} of V8's format is not known, only 13 to 16")]
    Version(u32),
    #[error("the payload ends inside a value, {missing} or more bytes are missing")]
    Truncated { missing: usize },
    #[error("a number of more than {bits} bits")]
    TooLong { bits: u32 },
    #[error("no value begins with the tag {0:#04x}")]
    Tag(u8),
    #[error("the tag {0:#04x} stands for memory or objects that cannot be sent to another process")]
    NotInPayload(u8),
    #[error("{found:#04x} where a string should be")]
    NotAString { found: u8 },
    #[error("a two-byte string of an odd number of bytes")]
    OddString,
    #[error("a UTF-8 string that is not UTF-8")]
    Utf8,
    #[error("a property name that is neither a string nor an array index")]
    Key,
    #[error("the property {0} is there twice")]
    KeyTwice(String),
    #[error("{said} counted by the sender, but there are {found}")]
    Count { said: u32, found: usize },
    #[error("an array of {length} elements has one at {index}")]
    Index { length: u32, index: u32 },
    #[error("a reference to object {0}, which there is not yet")]
    Reference(u32),
    #[error("the flags {0:#x} are not those of a regular expression")]
    RegExpFlags(u32),
    #[error("an array buffer of {len} bytes that may grow to {max} only")]
    BufferMax { len: u64, max: u64 },
    #[error("a view that does not fit its array buffer")]
    ViewRange,
    #[error("a view of the unknown type {0}")]
    ViewType(u32),
    #[error("{0:#04x} is no part of an error object")]
    ErrorField(u8),
    #[error("a host object of the unknown kind {0}")]
    HostKind(u32),
    #[error("objects nested deeper than {limit}")]
    TooDeep { limit: usize },
    #[error("more than {limit} values")]
    TooMany { limit: usize },
}
