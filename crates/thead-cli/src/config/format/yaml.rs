//! YAML.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::{SyntaxError, offset, token};
use crate::config::tree::{DEPTH, Entry, Number, Tree, Value};

pub(super) fn parse(text: &str) -> Result<Tree, SyntaxError> {
    // Anchors and merge keys are expanded, within the default budget of nodes. A word such as `on` stays text.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(root) => Ok(match tree(text, root) {
            Tree {
                span,
                value: Value::Null,
            } => Tree {
                span,
                value: Value::Map(Vec::new()),
            },
            tree => tree,
        }),
        Err(error) => Err(SyntaxError {
            span: error
                .location()
                .map(|location| place(text, location))
                .unwrap_or_default(),
            message: message(&error),
        }),
    }
}

/// What is wrong, without where: that is told apart.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    // Advice for programmers follows some.
    let end = text[..end].find(", set DuplicateKeyPolicy").unwrap_or(end);
    let end = text[..end].find("; use ").unwrap_or(end);
    text[..end].to_owned()
}

fn place(text: &str, location: Location) -> Range<usize> {
    let span = location.span();
    let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(start, length)| {
        let start = usize::try_from(start).ok()?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
    });
    match bytes {
        Some(bytes) if !bytes.is_empty() && text.get(bytes.clone()).is_some() => bytes,
        _ => {
            let from_zero = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(0);
            token(
                text,
                offset(text, from_zero(location.line()), from_zero(location.column()), |c| {
                    c == '\r'
                }),
            )
        }
    }
}

/// A value, with the places of what is in it.
enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Seq(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn tree(text: &str, node: Spanned<Node>) -> Tree {
    let span = place(text, node.defined);
    let value = match node.value {
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(value),
        // As it is written, for `08` is no 8 where text is wanted.
        Node::Number(number) => Value::Number(number, text.get(span.clone()).unwrap_or_default().to_owned()),
        Node::Text(text) => Value::Text(text),
        Node::Seq(items) => Value::Seq(items.into_iter().map(|item| tree(text, item)).collect()),
        Node::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Entry {
                key_span: Some(place(text, key.defined)),
                key: key.value,
                value: tree(text, value),
            });
            Value::Map(entries.collect())
        }
    };
    Tree {
        span: Some(span),
        value,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Number(Number::Unsigned(number)))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Node, E> {
                Ok(Node::Number(match u64::try_from(number) {
                    Ok(number) => Number::Unsigned(number),
                    Err(_) => Number::Signed(number),
                }))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Node, E> {
                Ok(Node::Number(Number::Float(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Node::Seq(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn text_of<'a>(source: &'a str, tree: &Tree) -> &'a str {
        &source[tree.span.clone().unwrap()]
    }

    #[test]
    fn what_is_written_is_found_again() {
        let source = "a: &x\n  é: 08\n  on: yes\nb:\n  <<: *x\n  c: 'q'\n";
        let tree = parse(source).unwrap();
        let number = tree.get("a").unwrap().get("é").unwrap();
        assert!(matches!(&number.value, Value::Number(_, text) if text == "08"));
        assert_eq!(text_of(source, number), "08");
        let merged = tree.get("b").unwrap().get("on").unwrap();
        assert_eq!(merged.value, Value::Text("yes".into()));
        assert_eq!(text_of(source, tree.get("b").unwrap().get("c").unwrap()), "'q'");
    }

    #[test]
    fn an_error_is_told_without_its_place_and_without_advice_for_programmers() {
        for (source, message, at) in [
            ("a: 1\na: 2\n", "duplicate mapping key: a", 5),
            ("a: [1\n", "unclosed bracket '['", 3),
            ("a: 1\n---\nb: 2\n", "multiple YAML documents detected", 9),
        ] {
            let error = parse(source).unwrap_err();
            assert_eq!((error.message.as_str(), error.span.start), (message, at));
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let flow = "[".repeat(100_000);
        let block = format!("{}1", "- ".repeat(100_000));
        let bomb: String = (0..60).map(|i| format!("a{i}: &a{i} [*a{}, *a{0}]\n", i - 1)).collect();
        let bomb = format!("a-1: &a-1 x\n{bomb}");
        for source in [flow, block, bomb] {
            // Half of what a thread has.
            let small = std::thread::Builder::new().stack_size(1 << 20);
            let parsed = small.spawn(move || parse(&source)).unwrap().join().unwrap();
            assert!(parsed.is_err());
        }
    }
}
