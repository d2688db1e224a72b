//! A type that takes whatever there is, by asking for nothing in particular.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value, as serde tells it.
#[derive(Debug, PartialEq)]
pub(crate) enum Any {
    Unit,
    Bool(bool),
    Signed(i128),
    Unsigned(u128),
    /// Its bits, because `NaN` is to equal itself.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Any>),
    Map(Vec<(Any, Any)>),
}

struct AnyVisitor;

macro_rules! visits {
    ($($method:ident($value:ty) => $make:expr),* $(,)?) => {
        $(fn $method<E>(self, value: $value) -> Result<Any, E> {
            Ok($make(value))
        })*
    };
}

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    visits! {
        visit_bool(bool) => Any::Bool,
        visit_i64(i64) => |value: i64| Any::Signed(value.into()),
        visit_u64(u64) => |value: u64| Any::Signed(value.into()),
        visit_i128(i128) => Any::Signed,
        visit_u128(u128) => Any::Unsigned,
        visit_f64(f64) => |value: f64| Any::Float(value.to_bits()),
        visit_str(&str) => |value: &str| Any::Text(value.to_owned()),
        visit_bytes(&[u8]) => |value: &[u8]| Any::Bytes(value.to_owned()),
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::Unit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Any::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Any, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Any::Map(map))
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}
