//! Printing, for logs: a bounded part of a value, whatever its size and shape.

use std::{
    cell::Cell,
    fmt::{self, Debug, Formatter},
};

use super::{
    parts::{Items, Key, Pairs, Properties},
    text::JsStr,
    value::{Document, Kind, Value},
};

/// How many objects may be shown in one another, how many values in all, and how much of one string.
const DEPTH: usize = 8;
const VALUES: usize = 200;
const UNITS: usize = 200;

/// Something of a document, and what may still be printed.
struct Shown<'b, T> {
    what: T,
    depth: usize,
    left: &'b Cell<usize>,
}

impl<T> Shown<'_, T> {
    fn child<U>(&self, what: U) -> Shown<'_, U> {
        Shown {
            what,
            depth: self.depth + 1,
            left: self.left,
        }
    }

    fn same<U>(&self, what: U) -> Shown<'_, U> {
        Shown {
            what,
            depth: self.depth,
            left: self.left,
        }
    }
}

fn show<T>(what: T, f: &mut Formatter<'_>) -> fmt::Result
where
    for<'b> Shown<'b, T>: Debug,
{
    Shown {
        what,
        depth: 0,
        left: &Cell::new(VALUES),
    }
    .fmt(f)
}

impl Debug for Shown<'_, Value<'_>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 || self.depth > DEPTH {
            return f.write_str("…");
        }
        match self.what.kind() {
            Kind::Undefined => f.write_str("undefined"),
            Kind::Null => f.write_str("null"),
            Kind::Bool(bool) => bool.fmt(f),
            Kind::Int(int) => int.fmt(f),
            Kind::Double(double) => double.fmt(f),
            Kind::BigInt(int) => int.fmt(f),
            Kind::String(text) => self.same(text).fmt(f),
            Kind::Date(ms) => write!(f, "Date({ms})"),
            Kind::BoxedBool(bool) => write!(f, "Boolean({bool})"),
            Kind::BoxedNumber(number) => write!(f, "Number({number})"),
            Kind::BoxedBigInt(int) => write!(f, "BigInt({int:?})"),
            Kind::BoxedString(text) => write!(f, "String({:?})", self.same(text)),
            Kind::RegExp { pattern, flags } => write!(f, "RegExp({:?}, {flags:?})", self.same(pattern)),
            Kind::Array(array) if array.properties().is_empty() => self.same(array.items()).fmt(f),
            Kind::Array(array) => {
                write!(
                    f,
                    "{:?} and {:?}",
                    self.same(array.items()),
                    self.same(array.properties())
                )
            }
            Kind::SparseArray(array) => write!(f, "Array({}) {:?}", array.length(), self.same(array.properties())),
            Kind::Object(properties) => self.same(properties).fmt(f),
            Kind::Map(entries) => write!(f, "Map {:?}", self.same(entries)),
            Kind::Set(values) => write!(f, "Set {:?}", self.same(values)),
            Kind::ArrayBuffer { bytes, max: None } => write!(f, "ArrayBuffer({} bytes)", bytes.len()),
            Kind::ArrayBuffer { bytes, max: Some(max) } => write!(f, "ArrayBuffer({} of {max} bytes)", bytes.len()),
            Kind::View { kind, bytes } => write!(f, "{kind:?}({} bytes)", bytes.len()),
            Kind::Error(error) => {
                write!(f, "{:?}(", error.kind)?;
                error.message.map_or(Ok(()), |message| self.same(message).fmt(f))?;
                match error.cause {
                    Some(cause) => write!(f, " because of {:?})", self.child(cause)),
                    None => f.write_str(")"),
                }
            }
            Kind::Host(copy) => write!(f, "Host({:?})", self.child(copy)),
        }
    }
}

impl Debug for Shown<'_, JsStr<'_>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.what.excerpt(f, UNITS)
    }
}

impl Debug for Shown<'_, Items<'_>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for item in self.what.iter() {
            if self.left.get() == 0 {
                return list.finish_non_exhaustive();
            }
            list.entry(&self.child(item));
        }
        list.finish()
    }
}

impl Debug for Shown<'_, Pairs<'_>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in self.what.iter() {
            if self.left.get() == 0 {
                return map.finish_non_exhaustive();
            }
            map.entry(&self.child(key), &self.child(value));
        }
        map.finish()
    }
}

impl Debug for Shown<'_, Properties<'_>> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in self.what.iter() {
            if self.left.get() == 0 {
                return map.finish_non_exhaustive();
            }
            match key {
                Key::Index(index) => map.entry(&index, &self.child(value)),
                Key::Name(name) => map.entry(&self.same(name), &self.child(value)),
            };
        }
        map.finish()
    }
}

impl Debug for Document {
    /// As [`Value`] is.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(self.root(), f)
    }
}

impl Debug for Value<'_> {
    /// Like JavaScript source; at most 200 values of it, 8 deep, and 200 code units of each string.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(*self, f)
    }
}

impl Debug for Items<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(*self, f)
    }
}

impl Debug for Pairs<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(*self, f)
    }
}

impl Debug for Properties<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(*self, f)
    }
}
