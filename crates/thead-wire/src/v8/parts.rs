//! What larger values are made of: properties, entries, elements.

use super::{
    kind::ErrorKind,
    text::{JsStr, Repr},
    value::{Document, Slot, Value},
};

/// The name of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// An array index, as JavaScript calls it: from 0 to 2^32 - 2.
    Index(u32),
    /// Any other name.
    Name(JsStr<'a>),
}

/// Properties, in JavaScript's order: indexes ascending, then names in the order in which they were added.
#[derive(Clone, Copy)]
pub struct Properties<'a>(Pairs<'a>);

impl<'a> Properties<'a> {
    pub(super) fn new(doc: &'a Document, start: usize, len: u32) -> Properties<'a> {
        Properties(Pairs::new(doc, start, len))
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (Key<'a>, Value<'a>)> {
        let doc = self.0.doc;
        self.0
            .slots
            .iter()
            .map(|[key, value]| (key_of(doc, *key), doc.value(*value)))
    }

    /// The one at that place.
    pub(super) fn nth(self, at: usize) -> Option<(Key<'a>, Value<'a>)> {
        let doc = self.0.doc;
        self.0
            .slots
            .get(at)
            .map(|[key, value]| (key_of(doc, *key), doc.value(*value)))
    }

    /// The one of that name. The search is linear.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        let doc = self.0.doc;
        let index = JsStr(Repr::Utf8(name)).array_index();
        let found = self.0.slots.iter().find(|[key, _]| match *key {
            Slot::Index(key) => Some(key) == index,
            key => doc.string(key).is_some_and(|key| key == name),
        });
        found.map(|[_, value]| doc.value(*value))
    }
}

fn key_of(doc: &Document, slot: Slot) -> Key<'_> {
    match slot {
        Slot::Index(index) => Key::Index(index),
        name => Key::Name(doc.string(name).unwrap_or(JsStr(Repr::Latin1(b"")))),
    }
}

/// Pairs of values: the entries of a `Map`, in order.
#[derive(Clone, Copy)]
pub struct Pairs<'a> {
    doc: &'a Document,
    slots: &'a [[Slot; 2]],
}

impl<'a> Pairs<'a> {
    pub(super) fn new(doc: &'a Document, start: usize, len: u32) -> Pairs<'a> {
        Pairs {
            doc,
            slots: doc.slots[start..start + 2 * len as usize].as_chunks().0,
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.slots.is_empty()
    }

    /// All of them.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)> {
        self.slots
            .iter()
            .map(move |[key, value]| (self.doc.value(*key), self.doc.value(*value)))
    }
}

/// Values in a row: the elements of an array, the members of a `Set`.
#[derive(Clone, Copy)]
pub struct Items<'a> {
    doc: &'a Document,
    slots: &'a [Slot],
}

impl<'a> Items<'a> {
    pub(super) fn new(doc: &'a Document, start: usize, len: u32) -> Items<'a> {
        Items {
            doc,
            slots: &doc.slots[start..start + len as usize],
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.slots.is_empty()
    }

    /// The one at that position.
    pub fn get(self, index: usize) -> Option<Value<'a>> {
        self.slots.get(index).map(|slot| self.doc.value(*slot))
    }

    /// All of them.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Value<'a>> {
        self.slots.iter().map(move |slot| self.doc.value(*slot))
    }
}

/// An array without holes.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    pub(super) items: Items<'a>,
    pub(super) properties: Properties<'a>,
}

impl<'a> Array<'a> {
    /// Its elements.
    pub fn items(self) -> Items<'a> {
        self.items
    }

    /// What else was put on it, `array.foo = 1`. Almost always nothing.
    pub fn properties(self) -> Properties<'a> {
        self.properties
    }
}

/// An array with holes. Its length is a number in the message, up to 2^32 - 1 whatever the message's size: do not
/// allocate by it.
#[derive(Debug, Clone, Copy)]
pub struct SparseArray<'a> {
    pub(super) length: u32,
    pub(super) properties: Properties<'a>,
}

impl<'a> SparseArray<'a> {
    /// `array.length`
    pub fn length(self) -> u32 {
        self.length
    }

    /// The elements that exist, by [`Key::Index`], then what else was put on it.
    pub fn properties(self) -> Properties<'a> {
        self.properties
    }
}

/// An error object: what of it V8 sends. Other properties, as `code`, and the name of a class of one's own are lost.
#[derive(Debug, Clone, Copy)]
pub struct ErrorValue<'a> {
    /// Its class.
    pub kind: ErrorKind,
    /// `error.message`
    pub message: Option<JsStr<'a>>,
    /// `error.stack`
    pub stack: Option<JsStr<'a>>,
    /// `error.cause`
    pub cause: Option<Value<'a>>,
}
