//! Text of workers for a terminal, which it must not steer.

/// A worker's last lines below a message, without their colours.
pub(super) fn quote(lines: &[String]) -> String {
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

/// How long the colour is with which a text begins, if it does: `ESC [ … m`.
fn colour(text: &str) -> Option<usize> {
    let code = text.strip_prefix("\x1b[")?;
    let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    code[end..].starts_with('m').then_some(2 + end + 1)
}

/// Text that cannot steer a terminal: control characters are spelled out, colours are kept.
pub(crate) fn harmless(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let colour = colour(from);
        let length = colour.unwrap_or_else(|| from.chars().next().map_or(1, char::len_utf8));
        match colour {
            Some(_) => out.push_str(&from[..length]),
            None => out.extend(from[..length].escape_default()),
        }
        rest = &from[length..];
    }
    out.push_str(rest);
    if out.contains('\x1b') {
        out.push_str("\x1b[0m");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_line_has_no_colours_left() {
        let lines = ["\x1b[0m\x1b[1;31merror\x1b[0m: it".into(), "a\x1b[2Jb".into()];
        assert_eq!(quote(&lines), "\n    error: it\n    a\x1b[2Jb");
    }

    #[test]
    fn what_a_worker_prints_cannot_steer_the_terminal() {
        assert_eq!(harmless(b"plain\ttext"), "plain\ttext");
        assert_eq!(harmless(b"\x1b[31mred\x1b[0m"), "\x1b[31mred\x1b[0m\x1b[0m");
        assert_eq!(harmless(b"a\x1b[2Jb\x07\r"), "a\\u{1b}[2Jb\\u{7}\\r");
        assert_eq!(harmless(b"\xff\x1b"), "\u{fffd}\\u{1b}");
        assert_eq!(harmless("\u{9b}2J".as_bytes()), "\\u{9b}2J");
    }
}
