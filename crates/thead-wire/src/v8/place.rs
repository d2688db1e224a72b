//! Where in a value something is wrong.

use std::fmt;

/// The way from the root to a value, innermost step first, as it is found out while an error travels outwards.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(Vec<Step>);

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// An element of an array, a member of a `Set`, an entry of a `Map`.
    Index(usize),
    Name(String),
}

/// How many steps are printed, and how much of a name is kept.
const STEPS: usize = 32;
const NAME: usize = 64;

impl Step {
    pub(super) fn name(name: &str) -> Step {
        Step::Name(name.chars().take(NAME).collect())
    }
}

impl Place {
    pub(super) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// ` at items[3].price`, or nothing for the root.
    pub(super) fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " at {self}")
    }
}

impl fmt::Display for Place {
    /// As JavaScript would name it: `items[3].price`, `["a b"].c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().rev().enumerate() {
            match step {
                _ if at == STEPS => return f.write_str("…"),
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(name) if !is_identifier(name) => write!(f, "[{name:?}]")?,
                Step::Name(name) if at == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

fn is_identifier(name: &str) -> bool {
    let word = |char: char| char == '_' || char == '$' || char.is_alphanumeric();
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|first: char| first.is_ascii_digit())
}
