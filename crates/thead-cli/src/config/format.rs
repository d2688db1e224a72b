//! The formats that a configuration may be written in.

use std::ops::Range;
use std::path::Path;

use super::tree::{Step, Tree};

mod json5;
mod toml;
mod yaml;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Toml,
    Yaml,
    /// JSON too, and JSON with comments.
    Json5,
}

/// Why text is not of its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// In bytes.
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

/// What a place in a tree is pointed at by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Key,
    Value,
}

impl Format {
    pub(crate) fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json5" | "json" | "jsonc" => Some(Self::Json5),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Toml => "TOML",
            Self::Yaml => "YAML",
            Self::Json5 => "JSON5",
        }
    }

    /// Reads text. An empty one is an empty map.
    ///
    /// # Errors
    /// At least one; all that the format's parser finds.
    pub(crate) fn parse(self, text: &str) -> Result<Tree, Vec<SyntaxError>> {
        match self {
            Self::Toml => toml::parse(text),
            Self::Yaml => yaml::parse(text).map_err(|error| vec![error]),
            Self::Json5 => json5::parse(text).map_err(|error| vec![error]),
        }
    }

    /// Where a path leads to, in a format whose trees do not say it.
    pub(crate) fn locate(self, text: &str, path: &[Step], spot: Spot) -> Option<Range<usize>> {
        match self {
            Self::Json5 => json5::locate(text, path, spot),
            Self::Toml | Self::Yaml => None,
        }
    }
}

/// The byte that a line and a column, both from 0 and in characters, stand for. `ends` says what ends a line besides a line
/// feed; a carriage return and its line feed are one end.
fn offset(text: &str, line: usize, column: usize, ends: impl Fn(char) -> bool) -> usize {
    let mut chars = text.char_indices().peekable();
    let mut left = line;
    while left > 0 {
        match chars.next() {
            Some((_, '\r')) if ends('\r') => {
                chars.next_if(|(_, c)| *c == '\n');
                left -= 1;
            }
            Some((_, c)) if c == '\n' || ends(c) => left -= 1,
            Some(_) => {}
            None => return text.len(),
        }
    }
    chars.nth(column).map_or(text.len(), |(at, _)| at)
}

/// The token that stands at a byte: for underlining where a parser names only its start.
fn token(text: &str, start: usize) -> Range<usize> {
    let rest = text.get(start..).unwrap_or_default();
    let mut chars = rest.char_indices();
    let length = match chars.next() {
        None => 0,
        Some((_, quote @ ('"' | '\''))) => {
            let mut escaped = false;
            let end = chars.find(|(_, c)| {
                let end = (*c == quote && !escaped) || *c == '\n';
                escaped = *c == '\\' && !escaped;
                end
            });
            end.map_or(rest.len(), |(at, c)| if c == '\n' { at } else { at + 1 })
        }
        Some((_, first)) if first.is_alphanumeric() || "_+-.$".contains(first) => {
            let end = chars.find(|(_, c)| !(c.is_alphanumeric() || "_+-.$".contains(*c)));
            end.map_or(rest.len(), |(at, _)| at)
        }
        Some((_, first)) => first.len_utf8(),
    };
    start..start + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_a_column_are_a_byte() {
        let text = "é\r\nab\u{2028}c\n";
        let lines = |c| c == '\r' || c == '\u{2028}';
        assert_eq!(offset(text, 0, 0, lines), 0);
        assert_eq!(offset(text, 1, 1, lines), 5);
        assert_eq!(offset(text, 2, 0, lines), 9);
        assert_eq!(offset(text, 9, 9, lines), text.len());
    }

    #[test]
    fn a_token_ends_where_it_ends() {
        for (text, expected) in [
            ("\"a\\\"b\" c", "\"a\\\"b\""),
            ("12.5, 3", "12.5"),
            ("{a", "{"),
            ("'x\ny'", "'x"),
            ("", ""),
            ("é b", "é"),
        ] {
            assert_eq!(&text[token(text, 0)], expected, "{text}");
        }
    }
}
