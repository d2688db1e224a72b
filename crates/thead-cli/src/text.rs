//! Text of workers for people and programs, which it must not steer.

use std::borrow::Cow;

/// A worker's last lines below a message, without their colours.
pub(crate) fn quote(lines: &[String]) -> String {
    let mut quoted = String::new();
    for line in lines {
        quoted.push_str("\n    ");
        let mut rest = &**line;
        while let Some(at) = rest.find('\x1b') {
            let (before, from) = rest.split_at(at);
            quoted.push_str(before);
            // Another control character is made harmless where it is printed.
            let length = colour(from).unwrap_or_else(|| {
                quoted.push('\x1b');
                1
            });
            rest = &from[length..];
        }
        quoted.push_str(rest);
    }
    quoted
}

/// Whether a character does something to those that stand around it: controls, and what turns the direction of reading or
/// begins a line (Unicode: `Bidi_Control`, U+2028, U+2029).
fn steers(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\t') || bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// How long the colour is with which a text begins, if it does: `ESC [ … m`.
fn colour(text: &str) -> Option<usize> {
    let code = text.strip_prefix("\x1b[")?;
    let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    code[end..].starts_with('m').then_some(2 + end + 1)
}

/// What is to become of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    /// They stay, and end with the text.
    Kept,
    /// They are left out.
    Dropped,
}

/// Text without colours that cannot steer who shows it.
pub(crate) fn plain(text: &[u8]) -> Cow<'_, str> {
    harmless(text, Colours::Dropped)
}

/// Text that cannot steer who shows it: what could is spelled out, invalid UTF-8 is replaced.
pub(crate) fn harmless(text: &[u8], colours: Colours) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if !text.contains(steers) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut coloured = false;
    let mut rest = &*text;
    while let Some(at) = rest.find(steers) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let colour = colour(from);
        let length = colour.unwrap_or_else(|| from.chars().next().map_or(1, char::len_utf8));
        match (colour, colours) {
            (Some(_), Colours::Kept) => {
                out.push_str(&from[..length]);
                coloured = true;
            }
            (Some(_), Colours::Dropped) => {}
            (None, _) => out.extend(from[..length].chars().flat_map(char::escape_default)),
        }
        rest = &from[length..];
    }
    out.push_str(rest);
    if coloured {
        out.push_str("\x1b[0m");
    }
    out.into()
}

/// JSON that says the same and cannot steer a terminal either: JSON itself spells out no more than U+0000 to U+001F.
pub(crate) fn harmless_json(json: &str) -> Cow<'_, str> {
    if !json.contains(steers) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if steers(c) {
            // All of them are below U+10000.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_line_has_no_colours_left() {
        let lines = ["\x1b[0m\x1b[1;31merror\x1b[0m: it".into(), "a\x1b[2Jb".into()];
        assert_eq!(quote(&lines), "\n    error: it\n    a\x1b[2Jb");
    }

    #[test]
    fn g39_what_a_worker_prints_cannot_steer_who_shows_it() {
        let kept = |text: &[u8]| harmless(text, Colours::Kept).into_owned();
        assert_eq!(kept(b"plain\ttext"), "plain\ttext");
        assert_eq!(kept(b"\x1b[31mred\x1b[0m"), "\x1b[31mred\x1b[0m\x1b[0m");
        assert_eq!(kept(b"a\x1b[2Jb\x07\r"), "a\\u{1b}[2Jb\\u{7}\\r");
        assert_eq!(kept(b"\xff\x1b"), "\u{fffd}\\u{1b}");
        assert_eq!(kept("\u{9b}2J".as_bytes()), "\\u{9b}2J");
        assert_eq!(kept("\u{202e}txt.exe\u{2028}".as_bytes()), "\\u{202e}txt.exe\\u{2028}");
        assert_eq!(harmless(b"\x1b[31mred\x1b[0m\x1b[K", Colours::Dropped), "red\\u{1b}[K");
    }

    #[test]
    fn g39_json_of_what_a_worker_prints_cannot_steer_a_terminal() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\x1b\"\u{2028}";
        let json = serde_json::to_string(text).unwrap();
        let harmless = harmless_json(&json);
        assert!(harmless.is_ascii(), "{harmless}");
        assert_eq!(serde_json::from_str::<String>(&harmless).unwrap(), text);
        assert_eq!(harmless_json("\"plain é\""), "\"plain é\"");
    }
}
