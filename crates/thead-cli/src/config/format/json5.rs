//! JSON5, and so JSON and JSON with comments.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Spot, SyntaxError, offset, token};
use crate::config::tree::{DEPTH, Entry, Number, Step, Tree, Value};

pub(super) fn parse(text: &str) -> Result<Tree, SyntaxError> {
    if text.trim().is_empty() {
        return Ok(Tree::nowhere(Value::Map(Vec::new())));
    }
    match json5::from_str(text) {
        Ok(Root(tree)) => Ok(tree),
        Err(error) => Err(SyntaxError {
            // Of an end that comes too early, the parser tells where it began to read.
            span: match place(text, &error) {
                Some(span) if !is_end(&error) => span,
                _ => text.len()..text.len(),
            },
            message: message(&error),
        }),
    }
}

/// Where a path leads to. The parser tells where it was when a visitor failed, and that is all it tells of places: so the
/// text is read once more, by a visitor that fails at the end of the path.
pub(super) fn locate(text: &str, path: &[Step], spot: Spot) -> Option<Range<usize>> {
    let found = Find { path, spot }.deserialize(&mut json5::Deserializer::from_str(text));
    found.err().and_then(|error| place(text, &error))
}

fn place(text: &str, error: &json5::Error) -> Option<Range<usize>> {
    let position = error.position()?;
    let ends = |c| matches!(c, '\r' | '\u{2028}' | '\u{2029}');
    Some(token(text, offset(text, position.line, position.column, ends)))
}

fn is_end(error: &json5::Error) -> bool {
    error.code().is_some_and(|code| code.to_string().starts_with("EOF"))
}

fn message(error: &json5::Error) -> String {
    use json5::ErrorCode as Code;
    match error.code() {
        Some(code) => match code {
            Code::ExpectedComma => "expected a comma, or the end of this list or object".into(),
            Code::TrailingCharacters => "something follows the end of the configuration".into(),
            Code::ExpectedValue => "expected a value; text needs quotes".into(),
            Code::LeadingZero => "a number may not begin with 0".into(),
            Code::LineTerminatorInString => "a line ends within a string".into(),
            code => code.to_string().replacen("EOF", "the file ends while", 1),
        },
        None => {
            let message = error.to_string();
            message[..message.rfind(" at line ").unwrap_or(message.len())].to_owned()
        }
    }
}

struct Root(Tree);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node { depth: 0 }.deserialize(deserializer).map(Self)
    }
}

/// Reads a value this deep in others.
#[derive(Clone, Copy)]
struct Node {
    depth: usize,
}

impl Node {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH {
            return Err(E::custom(format_args!("nested more than {DEPTH} deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self).map(Tree::nowhere)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(Number::Unsigned(number), number.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Ok(Value::Number(Number::Signed(number), number.to_string())),
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(Number::Float(number), number.to_string()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Value::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = access.next_key_seed(NewKey(&mut seen))? {
            entries.push(Entry {
                key,
                key_span: None,
                value: access.next_value_seed(inside)?,
            });
        }
        Ok(Value::Map(entries))
    }
}

/// A key that was not there before.
struct NewKey<'a>(&'a mut std::collections::HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if !self.0.insert(key.to_owned()) {
            return Err(E::custom(format_args!("the key {key:?} is there twice")));
        }
        Ok(key.to_owned())
    }
}

/// Fails at the end of the path.
#[derive(Clone, Copy)]
struct Find<'a> {
    path: &'a [Step],
    spot: Spot,
}

fn here<T, E: de::Error>() -> Result<T, E> {
    Err(E::custom("here"))
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        here()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        here()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        here()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        here()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        here()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        here()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        if let [Step::Index(index), path @ ..] = self.path {
            for _ in 0..*index {
                access.next_element::<IgnoredAny>()?;
            }
            access.next_element_seed(Find { path, ..self })?;
        }
        here()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        if let [Step::Key(key), path @ ..] = self.path {
            let stop = path.is_empty() && self.spot == Spot::Key;
            while let Some(found) = access.next_key_seed(IsKey { key, stop })? {
                if found {
                    access.next_value_seed(Find { path, ..self })?;
                }
                access.next_value::<IgnoredAny>()?;
            }
        }
        here()
    }
}

/// Whether a key is this one; fails there if asked to.
#[derive(Clone, Copy)]
struct IsKey<'a> {
    key: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.key {
            true if self.stop => here(),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::tree::steps;

    #[test]
    fn what_is_written_is_found_again() {
        let source = "// c\r\n{ a: [1, { 'b\\u0063': 0x1F, },], é: null,\n /* x */ f: -1.5, }";
        let tree = parse(source).unwrap();
        for (path, spot, expected) in [
            (&steps!["a", 1, "bc"][..], Spot::Value, "0x1F"),
            (&steps!["a", 1, "bc"][..], Spot::Key, "'b\\u0063'"),
            (&steps!["a", 0][..], Spot::Value, "1"),
            (&steps!["a"][..], Spot::Value, "["),
            (&steps!["é"][..], Spot::Key, "é"),
            (&steps!["é"][..], Spot::Value, "null"),
            (&steps!["f"][..], Spot::Value, "-1.5"),
            (&steps![][..], Spot::Value, "{"),
        ] {
            assert!(tree.at(path).is_some());
            assert_eq!(&source[locate(source, path, spot).unwrap()], expected);
        }
    }

    #[test]
    fn an_error_says_where() {
        for (source, message, at) in [
            ("{a: 1, a: 2}", "the key \"a\" is there twice", 7),
            ("{a: 1 b: 2}", "expected a comma, or the end of this list or object", 6),
            ("{a: 1", "the file ends while parsing object", 5),
            ("{a: b}", "expected a value; text needs quotes", 4),
            ("{} {}", "something follows the end of the configuration", 3),
        ] {
            let error = parse(source).unwrap_err();
            assert_eq!((error.message.as_str(), error.span.start), (message, at), "{source}");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        for source in ["[".repeat(1 << 20), "{a:".repeat(1 << 20)] {
            assert!(
                parse(&source)
                    .unwrap_err()
                    .message
                    .starts_with("nested more than 16 deep")
            );
        }
    }
}
