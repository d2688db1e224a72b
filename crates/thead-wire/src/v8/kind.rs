//! The kinds of errors and views.

/// The classes of errors that V8 keeps apart; all others are sent as `Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are JavaScript's")]
pub enum ErrorKind {
    Error,
    EvalError,
    RangeError,
    ReferenceError,
    SyntaxError,
    TypeError,
    UriError,
}

impl ErrorKind {
    /// All of them, with the name of the class and the byte that stands for it.
    const ALL: [(ErrorKind, &str, Option<u8>); 7] = [
        (ErrorKind::Error, "Error", None),
        (ErrorKind::EvalError, "EvalError", Some(b'E')),
        (ErrorKind::RangeError, "RangeError", Some(b'R')),
        (ErrorKind::ReferenceError, "ReferenceError", Some(b'F')),
        (ErrorKind::SyntaxError, "SyntaxError", Some(b'S')),
        (ErrorKind::TypeError, "TypeError", Some(b'T')),
        (ErrorKind::UriError, "URIError", Some(b'U')),
    ];

    /// The name of the class, as JavaScript's `error.name`.
    pub fn name(self) -> &'static str {
        ErrorKind::ALL[self as usize].1
    }

    /// The class of that name; a name of one's own is an `Error`, as V8 sends it.
    pub fn from_name(name: &str) -> ErrorKind {
        let found = ErrorKind::ALL.into_iter().find(|(_, known, _)| *known == name);
        found.map_or(ErrorKind::Error, |(kind, ..)| kind)
    }

    pub(super) fn tag(self) -> Option<u8> {
        ErrorKind::ALL[self as usize].2
    }

    pub(super) fn from_tag(tag: u8) -> Option<ErrorKind> {
        let found = ErrorKind::ALL.into_iter().find(|(.., known)| *known == Some(tag));
        found.map(|(kind, ..)| kind)
    }
}

/// The views on bytes, with their type index on the wire.
///
/// Node: `lib/internal/child_process/serialization.js`; the index of `Float16Array` is known to Node 24 and later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are JavaScript's")]
#[repr(u8)]
pub enum ViewKind {
    Int8Array = 0,
    Uint8Array = 1,
    Uint8ClampedArray = 2,
    Int16Array = 3,
    Uint16Array = 4,
    Int32Array = 5,
    Uint32Array = 6,
    Float32Array = 7,
    Float64Array = 8,
    DataView = 9,
    Buffer = 10,
    BigInt64Array = 11,
    BigUint64Array = 12,
    Float16Array = 13,
}

impl ViewKind {
    /// All of them, in the order of their type index.
    pub const ALL: [ViewKind; 14] = [
        ViewKind::Int8Array,
        ViewKind::Uint8Array,
        ViewKind::Uint8ClampedArray,
        ViewKind::Int16Array,
        ViewKind::Uint16Array,
        ViewKind::Int32Array,
        ViewKind::Uint32Array,
        ViewKind::Float32Array,
        ViewKind::Float64Array,
        ViewKind::DataView,
        ViewKind::Buffer,
        ViewKind::BigInt64Array,
        ViewKind::BigUint64Array,
        ViewKind::Float16Array,
    ];

    /// The name of the class, as in JavaScript.
    pub fn name(self) -> &'static str {
        match self {
            ViewKind::Int8Array => "Int8Array",
            ViewKind::Uint8Array => "Uint8Array",
            ViewKind::Uint8ClampedArray => "Uint8ClampedArray",
            ViewKind::Int16Array => "Int16Array",
            ViewKind::Uint16Array => "Uint16Array",
            ViewKind::Int32Array => "Int32Array",
            ViewKind::Uint32Array => "Uint32Array",
            ViewKind::Float32Array => "Float32Array",
            ViewKind::Float64Array => "Float64Array",
            ViewKind::DataView => "DataView",
            ViewKind::Buffer => "Buffer",
            ViewKind::BigInt64Array => "BigInt64Array",
            ViewKind::BigUint64Array => "BigUint64Array",
            ViewKind::Float16Array => "Float16Array",
        }
    }

    /// Bytes per element.
    pub fn element_size(self) -> usize {
        match self {
            ViewKind::Int16Array | ViewKind::Uint16Array | ViewKind::Float16Array => 2,
            ViewKind::Int32Array | ViewKind::Uint32Array | ViewKind::Float32Array => 4,
            ViewKind::Float64Array | ViewKind::BigInt64Array | ViewKind::BigUint64Array => 8,
            _ => 1,
        }
    }
}
