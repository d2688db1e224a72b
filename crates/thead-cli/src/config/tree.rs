//! What a file says, whatever its format, and where it says it.

use std::ops::Range;

mod read;

pub(crate) use read::{Fault, Kind, read};

/// How deep values may be nested. A configuration needs six levels; what is read level by level must fit on any stack.
pub(crate) const DEPTH: usize = 16;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    /// Where it stands, in bytes. `None` if its format does not say; see [`super::source::Source::locate`].
    pub(crate) span: Option<Range<usize>>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// With its text, for where text is wanted.
    Number(Number, String),
    Text(String),
    Seq(Vec<Tree>),
    Map(Vec<Entry>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// A key and its value. Keys are unique in their map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Option<Range<usize>>,
    pub(crate) value: Tree,
}

/// From a map or a list to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// `service.api.after[0]`
pub(crate) fn show_path(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

/// A path, of names and indices.
macro_rules! steps {
    ($($step:expr),* $(,)?) => { [$($crate::config::tree::Step::from($step)),*] };
}
pub(crate) use steps;

impl Tree {
    /// A value that stands nowhere.
    pub(crate) fn nowhere(value: Value) -> Self {
        Self { span: None, value }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    pub(crate) fn entry(&self, path: &[Step]) -> Option<&Entry> {
        let (Step::Key(key), parent) = path.split_last()? else {
            return None;
        };
        self.at(parent)?.entries().iter().find(|entry| entry.key == *key)
    }

    pub(crate) fn at(&self, path: &[Step]) -> Option<&Tree> {
        path.iter().try_fold(self, |tree, step| match (step, &tree.value) {
            (Step::Key(key), _) => tree.get(key),
            (Step::Index(index), Value::Seq(items)) => items.get(*index),
            _ => None,
        })
    }

    fn at_mut(&mut self, path: &[Step]) -> Option<&mut Tree> {
        path.iter().try_fold(self, |tree, step| match (step, &mut tree.value) {
            (Step::Key(key), Value::Map(entries)) => entries
                .iter_mut()
                .find(|entry| entry.key == *key)
                .map(|entry| &mut entry.value),
            (Step::Index(index), Value::Seq(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Takes out the innermost map entry on the path. Returns where it was.
    pub(crate) fn remove<'a>(&mut self, path: &'a [Step]) -> Option<&'a [Step]> {
        let keys = path.iter().rposition(|step| matches!(step, Step::Key(_)))?;
        let (Step::Key(key), parent) = (&path[keys], &path[..keys]) else {
            return None;
        };
        let Value::Map(entries) = &mut self.at_mut(parent)?.value else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == *key)?;
        entries.remove(index);
        Some(&path[..=keys])
    }

    /// Adds an entry to the map at the path. Returns whether there is one.
    pub(crate) fn insert(&mut self, path: &[Step], key: &str, value: Value) -> bool {
        let Some(Value::Map(entries)) = self.at_mut(path).map(|tree| &mut tree.value) else {
            return false;
        };
        entries.push(Entry {
            key: key.to_owned(),
            key_span: None,
            value: Tree::nowhere(value),
        });
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::format::Format;

    #[test]
    fn a_path_leads_to_a_value_and_is_shown_as_it_is_spoken() {
        let mut tree = Format::Toml.parse("a.b = [1, { c = 2 }]").unwrap();
        let path = steps!["a", "b", 1, "c"];
        assert_eq!(show_path(&path), "a.b[1].c");
        assert!(matches!(
            tree.at(&path).unwrap().value,
            Value::Number(Number::Unsigned(2), _)
        ));
        assert_eq!(tree.remove(&steps!["a", "b", 0]), Some(&steps!["a", "b"][..]));
        assert_eq!(tree.at(&path), None);
        assert_eq!(tree.remove(&path), None);
        assert!(tree.insert(&steps!["a"], "d", Value::Null));
        assert!(!tree.insert(&steps!["a", "d"], "e", Value::Null));
    }
}
