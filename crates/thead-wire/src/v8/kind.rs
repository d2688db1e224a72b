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
