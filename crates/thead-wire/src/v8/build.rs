//! Making documents.

use std::{collections::BTreeMap, mem};

use bytes::Bytes;

use super::{
    kind::{ErrorKind, ViewKind},
    text::{Form, JsStr, RegExpFlags},
    value::{Document, Node, Slot, string},
};

/// A value that a [`Builder`] knows. It may be used as often as wanted: an object is then shared, as in JavaScript.
///
/// Numbers are made by `from`; whole ones beyond 2^53 are rounded, as in JavaScript.
#[derive(Debug, Clone, Copy)]
pub struct Item(pub(super) Slot);

macro_rules! item_from {
    ($($primitive:ty => $slot:expr),* $(,)?) => {
        $(impl From<$primitive> for Item {
            fn from(value: $primitive) -> Item {
                Item($slot(value))
            }
        })*
    };
}

item_from! {
    bool => Slot::Bool,
    i32 => Slot::Int,
    i64 => |value| number(value as f64),
    u32 => |value| number(f64::from(value)),
    f64 => number,
    () => |()| Slot::Undefined,
}

impl Item {
    /// `null`
    pub const NULL: Item = Item(Slot::Null);
    /// `undefined`
    pub const UNDEFINED: Item = Item(Slot::Undefined);
}

/// A number, as V8 holds it: whole numbers of 32 bits apart from all others, and -0 is one of the others.
pub(super) fn number(value: f64) -> Slot {
    let int = value as i32;
    if f64::from(int).to_bits() == value.to_bits() {
        Slot::Int(int)
    } else {
        Slot::Double(value)
    }
}

/// Makes a [`Document`], from the leaves to the root.
///
/// ```
/// use thead_wire::v8::{Builder, ErrorKind, Item};
///
/// let mut b = Builder::new();
/// let name = b.string("report.bin");
/// let data = b.buffer(&b"\x00\x01"[..]);
/// let error = b.error(ErrorKind::TypeError, Some("no"), None, None);
/// let list = b.array([data, data, error, Item::NULL, 7.into()]);
/// let root = b.object([("name", name), ("list", list)]);
/// let message = b.finish(root);
/// assert_eq!(message.get("name").unwrap().as_str().unwrap(), "report.bin");
/// ```
///
/// # Panics
///
/// Where it is given an item that another builder made and this one cannot know, a single string of 4 GiB, or 2^32
/// children for one object.
#[derive(Debug, Default)]
pub struct Builder {
    pub(super) text: Vec<u8>,
    pub(super) slots: Vec<Slot>,
    pub(super) nodes: Vec<Node>,
    pub(super) blobs: Vec<Bytes>,
    /// The reserved items, and what they turned out to be.
    reserved: BTreeMap<usize, Option<Slot>>,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// The document. What the root does not lead to is not part of it.
    pub fn finish(mut self, root: impl Into<Item>) -> Document {
        let mut root = self.known(root.into());
        if !self.reserved.is_empty() {
            let mut slots = mem::take(&mut self.slots);
            for slot in slots.iter_mut().chain([&mut root]) {
                *slot = self.target(*slot);
            }
            self.slots = slots;
        }
        Document {
            root,
            text: self.text.into(),
            slots: self.slots,
            nodes: self.nodes,
            blobs: self.blobs,
        }
    }

    /// A string.
    pub fn string(&mut self, text: &str) -> Item {
        let form = if text.is_ascii() { Form::Latin1 } else { Form::Utf8 };
        self.text(form, text.bytes())
    }

    /// A string of any code units, lone surrogates too.
    pub fn utf16(&mut self, units: impl IntoIterator<Item = u16>) -> Item {
        self.text(Form::Utf16, units.into_iter().flat_map(u16::to_le_bytes))
    }

    /// A `BigInt`.
    pub fn big_int(&mut self, value: i128) -> Item {
        self.big_int_from_le(value < 0, &value.unsigned_abs().to_le_bytes())
    }

    /// A `BigInt` of any size, by the bytes of its absolute value, lowest first.
    pub fn big_int_from_le(&mut self, negative: bool, magnitude: &[u8]) -> Item {
        let start = self.text.len();
        self.text.extend_from_slice(magnitude);
        Item(Slot::BigInt {
            negative,
            len: count(magnitude.len()),
            start,
        })
    }

    /// A plain object. A name given twice has the last value, as in JavaScript.
    pub fn object<K: AsRef<str>>(&mut self, properties: impl IntoIterator<Item = (K, Item)>) -> Item {
        let (start, properties) = self.properties(properties);
        self.node(Node::Object { start, properties })
    }

    /// An array.
    pub fn array(&mut self, items: impl IntoIterator<Item = Item>) -> Item {
        let (start, elements) = self.children(items);
        self.node(Node::Array {
            start,
            elements,
            properties: 0,
        })
    }

    /// An array by its properties: `("0", x)` is an element, any other name something put on the array. It is as long as
    /// given, or as its last element needs.
    pub fn sparse_array<K: AsRef<str>>(
        &mut self,
        length: u32,
        properties: impl IntoIterator<Item = (K, Item)>,
    ) -> Item {
        let (start, properties) = self.properties(properties);
        let keys = self.slots[start..].iter().step_by(2);
        let needed = keys
            .filter_map(|key| {
                if let Slot::Index(index) = key {
                    Some(index + 1)
                } else {
                    None
                }
            })
            .max();
        let length = length.max(needed.unwrap_or(0));
        let array = array(&mut self.slots, start, length, properties);
        self.node(array)
    }

    /// A `Map`. Keys are taken as given: equal ones are not looked for.
    pub fn map(&mut self, entries: impl IntoIterator<Item = (Item, Item)>) -> Item {
        let (start, slots) = self.children(entries.into_iter().flat_map(|(key, value)| [key, value]));
        self.node(Node::Map {
            start,
            entries: slots / 2,
        })
    }

    /// A `Set`. Values are taken as given: equal ones are not looked for.
    pub fn set(&mut self, values: impl IntoIterator<Item = Item>) -> Item {
        let (start, values) = self.children(values);
        self.node(Node::Set { start, values })
    }

    /// A `Date`, in milliseconds since 1970.
    pub fn date(&mut self, ms: f64) -> Item {
        self.node(Node::Date(ms))
    }

    /// The object around a primitive, as `new Number(1)`. An object, `null` and `undefined` are given back as they are.
    pub fn boxed(&mut self, primitive: impl Into<Item>) -> Item {
        let item = primitive.into();
        match self.known(item) {
            Slot::Int(int) => self.node(Node::Boxed(Slot::Double(int.into()))),
            slot @ (Slot::Bool(_) | Slot::Double(_) | Slot::BigInt { .. } | Slot::Text { .. }) => {
                self.node(Node::Boxed(slot))
            }
            _ => item,
        }
    }

    /// A regular expression. The pattern is not checked; Node refuses the whole message if it is none.
    pub fn regexp(&mut self, pattern: &str, flags: RegExpFlags) -> Item {
        let Item(pattern) = self.string(pattern);
        self.node(Node::RegExp { pattern, flags })
    }

    /// An `ArrayBuffer`.
    pub fn array_buffer(&mut self, bytes: impl Into<Bytes>) -> Item {
        let blob = self.blob(bytes.into());
        self.node(Node::ArrayBuffer { blob })
    }

    /// An `ArrayBuffer` that may become `max` bytes long, at least as long as it is. Node 18 cannot read it.
    pub fn resizable_array_buffer(&mut self, bytes: impl Into<Bytes>, max: u32) -> Item {
        let bytes = bytes.into();
        let max = u64::from(max).max(bytes.len() as u64);
        let blob = self.blob(bytes);
        self.node(Node::ResizableBuffer { blob, max })
    }

    /// A `Buffer`. Nothing is copied until it is written.
    pub fn buffer(&mut self, bytes: impl Into<Bytes>) -> Item {
        self.view(ViewKind::Buffer, bytes)
    }

    /// A view; elements little-endian. Bytes that make no whole element are cut off.
    pub fn view(&mut self, kind: ViewKind, bytes: impl Into<Bytes>) -> Item {
        let mut bytes = bytes.into();
        bytes.truncate(bytes.len() / kind.element_size() * kind.element_size());
        let blob = self.blob(bytes);
        self.node(Node::View { kind, blob })
    }

    /// An error object.
    pub fn error(&mut self, kind: ErrorKind, message: Option<&str>, stack: Option<&str>, cause: Option<Item>) -> Item {
        let mut text = |text: Option<&str>| text.map_or(Item(Slot::Hole), |text| self.string(text));
        let fields = [text(message), text(stack), cause.unwrap_or(Item(Slot::Hole))];
        let (start, _) = self.children(fields);
        self.node(Node::Error { start, kind })
    }

    /// What Node 18 and 20 make of a native object such as a `Blob`, around a plain copy. No sender needs it.
    pub fn host(&mut self, copy: Item) -> Item {
        let (start, _) = self.children([copy]);
        self.node(Node::Host { start })
    }

    /// An object that will be known later, by [`Builder::bind`]: so a cycle is made. Never bound, it is `{}`.
    pub fn reserve(&mut self) -> Item {
        self.reserved.insert(self.nodes.len(), None);
        self.node(Node::Object {
            start: 0,
            properties: 0,
        })
    }

    /// Says what a reserved item is. The first word counts; to bind what was not reserved has no effect.
    pub fn bind(&mut self, reserved: Item, item: Item) {
        let item = self.known(item);
        if let Item(Slot::Node(id)) = reserved
            && let Some(bound @ None) = self.reserved.get_mut(&id)
        {
            *bound = Some(item);
        }
    }

    /// Follows bindings to the end; those that lead in a circle mean nothing.
    fn target(&self, slot: Slot) -> Slot {
        let mut target = slot;
        for _ in 0..=self.reserved.len() {
            let Slot::Node(id) = target else { return target };
            match self.reserved.get(&id) {
                Some(Some(next)) => target = *next,
                _ => return target,
            }
        }
        slot
    }

    fn node(&mut self, node: Node) -> Item {
        self.nodes.push(node);
        Item(Slot::Node(self.nodes.len() - 1))
    }

    fn blob(&mut self, bytes: Bytes) -> usize {
        self.blobs.push(bytes);
        self.blobs.len() - 1
    }

    fn text(&mut self, form: Form, bytes: impl Iterator<Item = u8>) -> Item {
        let start = self.text.len();
        self.text.extend(bytes);
        Item(Slot::Text {
            form,
            len: count(self.text.len() - start),
            start,
        })
    }

    pub(super) fn children(&mut self, items: impl IntoIterator<Item = Item>) -> (usize, u32) {
        let start = self.slots.len();
        for item in items {
            let slot = self.known(item);
            self.slots.push(slot);
        }
        (start, count(self.slots.len() - start))
    }

    fn properties<K: AsRef<str>>(&mut self, properties: impl IntoIterator<Item = (K, Item)>) -> (usize, u32) {
        let start = self.slots.len();
        for (name, item) in properties {
            let Item(key) = self.string(name.as_ref());
            let key = self.key(key);
            let value = self.known(item);
            self.slots.extend([key, value]);
        }
        self.settle(start)
    }

    /// Orders properties and lets the last of equal names win.
    pub(super) fn settle(&mut self, start: usize) -> (usize, u32) {
        let pairs = self.slots[start..].as_chunks_mut().0;
        if order(&self.text, pairs).is_err() {
            let mut last: BTreeMap<String, usize> = BTreeMap::new();
            let mut kept: Vec<[Slot; 2]> = Vec::new();
            for &mut [key, value] in pairs {
                let name = match key {
                    Slot::Index(index) => index.to_string(),
                    key => string(&self.text, key)
                        .map(|name| format!("{name:?}"))
                        .unwrap_or_default(),
                };
                let at = *last.entry(name).or_insert(kept.len());
                match kept.get_mut(at) {
                    Some([_, earlier]) => *earlier = value,
                    None => kept.push([key, value]),
                }
            }
            self.slots.truncate(start);
            self.slots.extend(kept.as_flattened());
        }
        (start, count((self.slots.len() - start) / 2))
    }

    /// A string as the name of a property.
    pub(super) fn key(&self, name: Slot) -> Slot {
        string(&self.text, name)
            .and_then(JsStr::array_index)
            .map_or(name, Slot::Index)
    }

    fn known(&self, Item(slot): Item) -> Slot {
        let known = match slot {
            Slot::Node(id) => id < self.nodes.len(),
            Slot::Text { len, start, .. } | Slot::BigInt { len, start, .. } => start + len as usize <= self.text.len(),
            _ => true,
        };
        assert!(known, "an item of another builder");
        slot
    }
}

impl Document {
    /// Goes on building where this document ends. The item is its root.
    pub fn into_builder(self) -> (Builder, Item) {
        let builder = Builder {
            text: self.text.into(),
            slots: self.slots,
            nodes: self.nodes,
            blobs: self.blobs,
            reserved: BTreeMap::new(),
        };
        (builder, Item(self.root))
    }
}

/// Brings properties into JavaScript's order, indexes ascending before names.
///
/// # Errors
///
/// The name that is there twice.
pub(super) fn order(text: &[u8], pairs: &mut [[Slot; 2]]) -> Result<(), Slot> {
    let rank = |key: &Slot| if let Slot::Index(index) = key { *index } else { u32::MAX };
    if !pairs.is_sorted_by_key(|[key, _]| rank(key)) {
        pairs.sort_by_key(|[key, _]| rank(key));
    }
    let names_from = pairs.partition_point(|[key, _]| matches!(key, Slot::Index(_)));
    let (indexes, names) = pairs.split_at(names_from);
    if let Some(twice) = indexes.windows(2).find(|pair| rank(&pair[0][0]) == rank(&pair[1][0])) {
        return Err(twice[0][0]);
    }
    let name = |pair: &[Slot; 2]| string(text, pair[0]);
    if names.len() <= 16 {
        for (at, pair) in names.iter().enumerate() {
            if names[..at].iter().any(|earlier| name(earlier) == name(pair)) {
                return Err(pair[0]);
            }
        }
        return Ok(());
    }
    let mut sorted: Vec<_> = names.iter().filter_map(|pair| Some((name(pair)?, pair[0]))).collect();
    sorted.sort_unstable_by(|(one, _), (two, _)| one.compare(*two));
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(twice) => Err(twice[0].1),
        None => Ok(()),
    }
}

/// An array of ordered properties, which are the last slots: dense if each element is there.
pub(super) fn array(slots: &mut Vec<Slot>, start: usize, length: u32, properties: u32) -> Node {
    let pairs: &[[Slot; 2]] = slots[start..].as_chunks().0;
    let elements = pairs.partition_point(|[key, _]| matches!(key, Slot::Index(_)));
    if elements != length as usize {
        return Node::SparseArray {
            start,
            length,
            properties,
        };
    }
    // Drop the keys of the elements: each value moves to its place.
    for element in 0..elements {
        slots[start + element] = slots[start + 2 * element + 1];
    }
    slots.drain(start + elements..start + 2 * elements);
    Node::Array {
        start,
        elements: length,
        properties: properties - length,
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or_else(|_| panic!("a string of 4 GiB, or an object of 2^32 children"))
}
