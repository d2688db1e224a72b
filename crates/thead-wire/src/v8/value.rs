//! Documents, and cursors into them.

use std::{borrow::Cow, ops::Range, str};

use bytes::Bytes;

use super::{
    kind::{ErrorKind, ViewKind},
    parts::{Array, ErrorValue, Items, Pairs, Properties, SparseArray},
    text::{BigInt, Form, JsStr, RegExpFlags, Repr},
};

/// A JavaScript value with everything that can be reached from it.
///
/// It is a flat store: objects refer to one another by position, so shared objects and cycles are ordinary, cost nothing
/// extra and cannot leak. It is immutable; [`Document::into_builder`] makes more of it.
///
/// A document that was read keeps its payload alive, for its strings and buffers are parts of it.
///
/// Two documents are equal if a JavaScript program could not tell them apart, except that it can compare `Map` and `Set`
/// entries only in order, and that it cannot tell an `Int` from an equal `Double`. `NaN` equals itself, `-0` is not `0`.
#[derive(Clone)]
pub struct Document {
    pub(super) root: Slot,
    /// What strings and big integers are parts of.
    pub(super) text: Bytes,
    /// The children of all nodes, those of one node side by side.
    pub(super) slots: Vec<Slot>,
    pub(super) nodes: Vec<Node>,
    /// The contents of buffers and views.
    pub(super) blobs: Vec<Bytes>,
}

/// A primitive, or which object. Positions of text are those in [`Document::text`].
///
/// 16 bytes, because there can be one for each byte of a payload; strings of 4 GiB do not occur, V8 ends at 512 MiB.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    Undefined,
    Null,
    /// Nothing: a hole of an array that is being read, a field that an error lacks.
    Hole,
    Bool(bool),
    Int(i32),
    Double(f64),
    BigInt {
        negative: bool,
        len: u32,
        start: usize,
    },
    Text {
        form: Form,
        len: u32,
        start: usize,
    },
    /// A property name that is an array index, below 2^32 - 1.
    Index(u32),
    Node(usize),
}

/// An object. `start` is where its children begin in [`Document::slots`].
///
/// Properties are pairs of slots, in JavaScript's order: indexes ascending, then names as they were added.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Object {
        start: usize,
        properties: u32,
    },
    Array {
        start: usize,
        elements: u32,
        properties: u32,
    },
    SparseArray {
        start: usize,
        length: u32,
        properties: u32,
    },
    Map {
        start: usize,
        entries: u32,
    },
    Set {
        start: usize,
        values: u32,
    },
    /// The children are message, stack and cause.
    Error {
        start: usize,
        kind: ErrorKind,
    },
    Host {
        start: usize,
    },
    Date(f64),
    Boxed(Slot),
    RegExp {
        pattern: Slot,
        flags: RegExpFlags,
    },
    ArrayBuffer {
        blob: usize,
    },
    ResizableBuffer {
        blob: usize,
        max: u64,
    },
    View {
        kind: ViewKind,
        blob: usize,
    },
}

impl Node {
    /// The children that are values or keys of their own; of an error that is its cause alone.
    pub(super) fn children(self, slots: &[Slot]) -> Range<usize> {
        let (start, len) = match self {
            Node::Object { start, properties } | Node::SparseArray { start, properties, .. } => {
                (start, 2 * properties as usize)
            }
            Node::Array {
                start,
                elements,
                properties,
            } => (start, elements as usize + 2 * properties as usize),
            Node::Map { start, entries } => (start, 2 * entries as usize),
            Node::Set { start, values } => (start, values as usize),
            Node::Error { start, .. } => (
                start + 2,
                usize::from(!matches!(slots.get(start + 2), Some(Slot::Hole))),
            ),
            Node::Host { start } => (start, 1),
            _ => (0, 0),
        };
        start..start + len
    }
}

impl Document {
    /// The value itself.
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// A property of the root: [`Value::get`].
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        self.root().get(name)
    }

    /// The document whose root is a property of this one's root. This one is given back where there is no such property.
    pub fn into_property(self, name: &str) -> Result<Document, Document> {
        match self.get(name).map(|value| value.slot) {
            Some(root) => Ok(Document { root, ..self }),
            None => Err(self),
        }
    }

    pub(super) fn value(&self, slot: Slot) -> Value<'_> {
        Value { doc: self, slot }
    }

    pub(super) fn string(&self, slot: Slot) -> Option<JsStr<'_>> {
        string(&self.text, slot)
    }

    pub(super) fn big_int(&self, slot: Slot) -> Option<BigInt<'_>> {
        match slot {
            Slot::BigInt { negative, len, start } => {
                Some(BigInt::new(negative, &self.text[start..start + len as usize]))
            }
            _ => None,
        }
    }
}

/// The string that a slot is, if it is one.
pub(super) fn string(text: &[u8], slot: Slot) -> Option<JsStr<'_>> {
    let Slot::Text { form, len, start } = slot else {
        return None;
    };
    let bytes = &text[start..start + len as usize];
    Some(JsStr(match form {
        Form::Latin1 => Repr::Latin1(bytes),
        Form::Utf16 => Repr::Utf16(bytes),
        // It was checked when it was taken in; there is no cheaper way to say so without `unsafe`.
        Form::Utf8 => Repr::Utf8(str::from_utf8(bytes).unwrap_or_default()),
    }))
}

/// One value of a document.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub(super) doc: &'a Document,
    pub(super) slot: Slot,
}

/// What a value is, for matching.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// `undefined`
    Undefined,
    /// `null`
    Null,
    /// `true` and `false`
    Bool(bool),
    /// A whole number that came as one. Another may come as a `Double`: [`Value::as_i64`] takes both.
    Int(i32),
    /// Any other number.
    Double(f64),
    /// `1n`
    BigInt(BigInt<'a>),
    /// A string.
    String(JsStr<'a>),
    /// A `Date`: milliseconds since 1970, `NaN` if invalid.
    Date(f64),
    /// `new Boolean(true)`
    BoxedBool(bool),
    /// `new Number(1)`
    BoxedNumber(f64),
    /// `Object(1n)`
    BoxedBigInt(BigInt<'a>),
    /// `new String("")`
    BoxedString(JsStr<'a>),
    /// A regular expression. Whether the pattern is one was not checked.
    RegExp {
        /// What stands between the slashes.
        pattern: JsStr<'a>,
        /// What stands behind them.
        flags: RegExpFlags,
    },
    /// An array without holes. It may have come as one that could have some: so Node sends on an array that it received.
    Array(Array<'a>),
    /// An array with holes.
    SparseArray(SparseArray<'a>),
    /// A plain object.
    Object(Properties<'a>),
    /// A `Map`. Node never sends a key twice, a hostile peer can; then the last one counts.
    Map(Pairs<'a>),
    /// A `Set`. Node never sends a value twice.
    Set(Items<'a>),
    /// An `ArrayBuffer`.
    ArrayBuffer {
        /// Its contents.
        bytes: &'a Bytes,
        /// How long it may become, if it is resizable.
        max: Option<u64>,
    },
    /// A `Buffer`, a typed array or a `DataView`. Node sends each view by itself, whatever memory it shared.
    View {
        /// Which of them.
        kind: ViewKind,
        /// Its contents, whole elements, little-endian.
        bytes: &'a Bytes,
    },
    /// An error object.
    Error(ErrorValue<'a>),
    /// The plain copy of an object that is native in Node 18 and 20, as a `Blob`.
    Host(Value<'a>),
}

impl<'a> Value<'a> {
    /// What it is.
    pub fn kind(self) -> Kind<'a> {
        let doc = self.doc;
        let node = match self.slot {
            Slot::Null => return Kind::Null,
            Slot::Bool(bool) => return Kind::Bool(bool),
            Slot::Int(int) => return Kind::Int(int),
            Slot::Index(index) => return Kind::Double(index.into()),
            Slot::Double(double) => return Kind::Double(double),
            Slot::BigInt { .. } => return doc.big_int(self.slot).map_or(Kind::Undefined, Kind::BigInt),
            Slot::Text { .. } => return doc.string(self.slot).map_or(Kind::Undefined, Kind::String),
            Slot::Undefined | Slot::Hole => return Kind::Undefined,
            Slot::Node(id) => doc.nodes[id],
        };
        match node {
            Node::Object { start, properties } => Kind::Object(Properties::new(doc, start, properties)),
            Node::Array {
                start,
                elements,
                properties,
            } => Kind::Array(Array {
                items: Items::new(doc, start, elements),
                properties: Properties::new(doc, start + elements as usize, properties),
            }),
            Node::SparseArray {
                start,
                length,
                properties,
            } => Kind::SparseArray(SparseArray {
                length,
                properties: Properties::new(doc, start, properties),
            }),
            Node::Map { start, entries } => Kind::Map(Pairs::new(doc, start, entries)),
            Node::Set { start, values } => Kind::Set(Items::new(doc, start, values)),
            Node::Error { start, kind } => {
                let field = |at| doc.slots[start + at];
                let cause = Some(field(2)).filter(|slot| !matches!(slot, Slot::Hole));
                Kind::Error(ErrorValue {
                    kind,
                    message: doc.string(field(0)),
                    stack: doc.string(field(1)),
                    cause: cause.map(|slot| doc.value(slot)),
                })
            }
            Node::Host { start } => Kind::Host(doc.value(doc.slots[start])),
            Node::Date(ms) => Kind::Date(ms),
            Node::Boxed(slot) => match doc.value(slot).kind() {
                Kind::Bool(bool) => Kind::BoxedBool(bool),
                Kind::Int(int) => Kind::BoxedNumber(int.into()),
                Kind::Double(double) => Kind::BoxedNumber(double),
                Kind::BigInt(int) => Kind::BoxedBigInt(int),
                Kind::String(text) => Kind::BoxedString(text),
                other => other,
            },
            Node::RegExp { pattern, flags } => Kind::RegExp {
                pattern: doc.string(pattern).unwrap_or(JsStr(Repr::Latin1(b""))),
                flags,
            },
            Node::ArrayBuffer { blob } => Kind::ArrayBuffer {
                bytes: &doc.blobs[blob],
                max: None,
            },
            Node::ResizableBuffer { blob, max } => Kind::ArrayBuffer {
                bytes: &doc.blobs[blob],
                max: Some(max),
            },
            Node::View { kind, blob } => Kind::View {
                kind,
                bytes: &doc.blobs[blob],
            },
        }
    }

    /// Which object of the document it is; two values are the same object (`===`) if this is the same. A primitive is
    /// none.
    pub fn id(self) -> Option<usize> {
        match self.slot {
            Slot::Node(id) => Some(id),
            _ => None,
        }
    }

    /// The property of an object, or the extra property or element of an array. `None` if it is absent, which senders
    /// do not distinguish from `undefined`.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        match self.resolve().kind() {
            Kind::Object(properties) => properties.get(name),
            Kind::SparseArray(array) => array.properties().get(name),
            Kind::Array(array) => match JsStr(Repr::Utf8(name)).array_index() {
                Some(index) => array.items().get(index as usize),
                None => array.properties().get(name),
            },
            _ => None,
        }
    }

    /// The elements of an array without holes, its extra properties left out.
    pub fn as_array(self) -> Option<Items<'a>> {
        match self.kind() {
            Kind::Array(array) => Some(array.items()),
            _ => None,
        }
    }

    /// The properties of a plain object.
    pub fn as_object(self) -> Option<Properties<'a>> {
        match self.resolve().kind() {
            Kind::Object(properties) => Some(properties),
            _ => None,
        }
    }

    /// A string; none if it holds a lone surrogate, for which see [`Kind::String`].
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        self.doc.string(self.slot)?.as_str()
    }

    /// A boolean.
    pub fn as_bool(self) -> Option<bool> {
        match self.slot {
            Slot::Bool(bool) => Some(bool),
            _ => None,
        }
    }

    /// A number that is whole and exact, at most 2^53 from zero.
    pub fn as_i64(self) -> Option<i64> {
        match self.slot {
            Slot::Int(int) => Some(int.into()),
            Slot::Double(double) => whole(double),
            _ => None,
        }
    }

    /// A number.
    pub fn as_f64(self) -> Option<f64> {
        match self.slot {
            Slot::Int(int) => Some(int.into()),
            Slot::Double(double) => Some(double),
            _ => None,
        }
    }

    /// The contents of a `Buffer`, typed array, `DataView` or `ArrayBuffer`. Cloning the result copies nothing.
    pub fn as_bytes(self) -> Option<&'a Bytes> {
        match self.kind() {
            Kind::View { bytes, .. } | Kind::ArrayBuffer { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        matches!(self.slot, Slot::Null)
    }

    /// Whether it is `undefined`.
    pub fn is_undefined(self) -> bool {
        matches!(self.slot, Slot::Undefined)
    }

    /// Looks through host objects at what they copy. A host object that holds only itself stays one.
    fn resolve(self) -> Value<'a> {
        let mut value = self;
        for _ in 0..self.doc.nodes.len() {
            match value.kind() {
                Kind::Host(inner) => value = inner,
                _ => break,
            }
        }
        value
    }
}

/// The whole number that a double is, if it is one and exact.
pub(super) fn whole(double: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (double.trunc() == double && double.abs() <= EXACT).then_some(double as i64)
}
