//! From a [`Tree`] to a type, or to what is wrong and where.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Entry, Number, Step, Tree, Value};

/// Reads all of a tree.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn read<T: DeserializeOwned>(tree: &Tree) -> Result<T, Fault> {
    T::deserialize(tree).map_err(|mut fault| {
        fault.path.reverse();
        fault
    })
}

/// What is wrong with a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where. While it is on its way out, the innermost step stands first.
    pub(crate) path: Vec<Step>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key that the path ends with is none of these.
    UnknownKey(&'static [&'static str]),
    /// The map that the path leads to lacks this key.
    MissingKey(&'static str),
    /// The key that the path ends with is wrong.
    Key(String),
    /// The value that the path leads to is wrong.
    Value(String),
}

impl Fault {
    fn value(message: impl fmt::Display) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::Value(message.to_string()),
        }
    }

    fn under(mut self, step: impl Into<Step>) -> Self {
        self.path.push(step.into());
        self
    }

    /// What was said of a key's text is about the key.
    fn of_key(mut self, key: &str) -> Self {
        if let Kind::Value(message) = self.kind {
            self.kind = Kind::Key(message);
        }
        self.path.push(key.into());
        self
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::UnknownKey(_) => f.write_str("unknown key"),
            Kind::MissingKey(key) => write!(f, "the key `{key}` is missing"),
            Kind::Key(message) | Kind::Value(message) => f.write_str(message),
        }
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::value(format_args!("expected {}, found {}", words(expected), noun(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let near = crate::config::hint::nearest(variant, expected.iter().copied());
        let mend = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        Self::value(format_args!("expected {}, found {variant:?}{mend}", one_of(expected)))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::UnknownKey(expected),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::MissingKey(field),
        }
    }
}

/// `"a", "b" or "c"`
fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing".into(),
        [one] => format!("{one:?}"),
        [some @ .., last] => {
            let some: Vec<_> = some.iter().map(|name| format!("{name:?}")).collect();
            format!("{} or {last:?}", some.join(", "))
        }
    }
}

/// What serde expects, in words that people use.
fn words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a boolean" => "true or false".into(),
        "a string" => "text".into(),
        "path string" => "a path".into(),
        "a map" => "a table".into(),
        "a sequence" => "a list".into(),
        "i8" => "a number from -128 to 127".into(),
        "u32" | "u64" => "a whole number that is not negative".into(),
        _ if text.starts_with("struct ") => "a table".into(),
        _ if text.starts_with("enum ") => "one of its names".into(),
        _ => text,
    }
}

fn noun(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => format!("{number:?}"),
        Unexpected::Str(text) => {
            let short: String = text.chars().take(40).collect();
            let more = if short.len() < text.len() { "..." } else { "" };
            format!("{short:?}{more}")
        }
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a table".into(),
        other => other.to_string(),
    }
}

impl<'de> Deserializer<'de> for &Tree {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(Number::Unsigned(number), _) => visitor.visit_u64(*number),
            Value::Number(Number::Signed(number), _) => visitor.visit_i64(*number),
            Value::Number(Number::Float(number), _) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::Seq(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Map(entries) => visitor.visit_map(Entries {
                rest: entries.iter(),
                value: None,
            }),
        }
    }

    /// Where text is wanted, such as for a variable, a number or a boolean is what is written.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Number(_, text) => visitor.visit_str(text),
            Value::Bool(value) => visitor.visit_str(if *value { "true" } else { "false" }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(name) => visitor.visit_enum(Variant { name, entry: None }),
            Value::Map(entries) => match &entries[..] {
                [entry] => visitor.visit_enum(Variant {
                    name: &entry.key,
                    entry: Some(entry),
                }),
                _ => Err(Fault::value(format_args!(
                    "expected {}, found a table with {} keys",
                    one_of(variants),
                    entries.len()
                ))),
            },
            _ => Err(Fault::value(format_args!(
                "expected {}, found {}",
                one_of(variants),
                self.noun()
            ))),
        }
    }

    /// A table only: what serde derives would take a list of its values as well.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(Fault::value(format_args!("expected a table, found {}", self.noun()))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl Tree {
    /// As [`noun`] has it.
    fn noun(&self) -> String {
        noun(match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(Number::Unsigned(number), _) => Unexpected::Unsigned(*number),
            Value::Number(Number::Signed(number), _) => Unexpected::Signed(*number),
            Value::Number(Number::Float(number), _) => Unexpected::Float(*number),
            Value::Text(text) => Unexpected::Str(text),
            Value::Seq(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        })
    }
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Tree>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, tree)) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(tree).map(Some).map_err(|fault| fault.under(index))
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    /// Whose key was read last.
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key = seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(entry.key.as_str()));
        key.map(Some).map_err(|fault| fault.of_key(&entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.value.take() else {
            return Err(Fault::value("a value was asked for before its key"));
        };
        seed.deserialize(&entry.value)
            .map_err(|fault| fault.under(entry.key.as_str()))
    }
}

/// `"name"`, or `{ name = value }`.
struct Variant<'a> {
    name: &'a str,
    entry: Option<&'a Entry>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name = seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(self.name));
        match (name, self.entry) {
            (Ok(name), _) => Ok((name, self)),
            (Err(fault), None) => Err(fault),
            (Err(fault), Some(entry)) => Err(fault.of_key(&entry.key)),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.entry {
            None => Ok(()),
            Some(entry) => {
                let message = format!("{:?} has no value: write it alone", self.name);
                Err(Fault::value(message).of_key(&entry.key))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.entry {
            Some(entry) => seed
                .deserialize(&entry.value)
                .map_err(|fault| fault.under(entry.key.as_str())),
            None => Err(Fault::value(format_args!(
                "{0:?} needs a value: a table with the key {0:?}",
                self.name
            ))),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        Err(de::Error::invalid_type(Unexpected::TupleVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        Err(de::Error::invalid_type(Unexpected::StructVariant, &visitor))
    }
}
