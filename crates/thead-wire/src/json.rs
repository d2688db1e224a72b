//! JSON as JavaScript means it: what a Node peer may send and `serde_json` alone would refuse.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::message::BadMessage;

/// How deep a message may be nested: what reading it into a tree takes surely fits a thread's 2 MiB of stack.
pub const DEPTH_LIMIT: usize = 512;

/// Reads a message into a type. Strict but for depth: up to 512 levels, where `serde_json` alone stops at 128.
///
/// # Errors
/// [`BadMessage`], with line and column.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, BadMessage> {
    let bad = |error: serde_json::Error| BadMessage::new(error, text);
    if depth(text) > DEPTH_LIMIT {
        return Err(BadMessage::new(
            format_args!("nested deeper than {DEPTH_LIMIT} levels"),
            text,
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.disable_recursion_limit();
    let value = T::deserialize(&mut deserializer).map_err(bad)?;
    deserializer.end().map_err(bad)?;
    Ok(value)
}

/// Reads a message that no Rust string can hold whole: bytes that are not UTF-8 and lone surrogates (`"\ud800"`, which
/// any JavaScript string may have) become U+FFFD.
///
/// # Errors
/// [`BadMessage`], if it is not JSON all the same.
pub fn parse_lossy<T: DeserializeOwned>(text: &[u8]) -> Result<T, BadMessage> {
    let utf8 = String::from_utf8_lossy(text);
    parse(replace_lone_surrogates(&utf8).as_bytes())
}

/// The deepest nesting of arrays and objects in a text. Linear, and does not recurse.
fn depth(text: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Puts `\ufffd` for every escaped surrogate that has no partner. Only escapes can spell one: raw UTF-8 cannot.
fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let digits = text.get(at + 2..at + 6).filter(|_| text[at..].starts_with("\\u"))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::new();
    let (mut at, mut kept) = (0, 0);
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(&text[kept..at]);
                out.push_str("\\ufffd");
                at += 6;
                kept = at;
            }
            // Any other escape is a backslash and one ASCII character, or not JSON.
            _ => at += 1 + usize::from(bytes.get(at + 1).is_some_and(u8::is_ascii)),
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_json_parse_takes_is_taken() {
        let parse = |text: &str| parse::<Value>(text.as_bytes()).map_err(|bad| bad.reason);
        assert_eq!(parse("  {\"a\":[1,-0,2.5]}\r"), Ok(json!({"a": [1, -0.0, 2.5]})));
        assert_eq!(parse("{\"a\":1,\"a\":2}"), Ok(json!({"a": 2})));
        assert_eq!(parse("18446744073709551616"), Ok(json!(18446744073709551616.0)));
        let deep = "[".repeat(512) + &"]".repeat(512);
        assert!(parse(&deep).is_ok());
        assert!(parse(&format!("[{deep}]")).is_err_and(|reason| reason.contains("512 levels")));
        assert!(parse("\"[[\\\"[\"").is_ok_and(|value| value == "[[\"["));
        assert!(parse("1 2").is_err());
        assert!(
            parse("1e400").is_err(),
            "no number of Rust's is that large; the channel lives"
        );
    }

    /// Found by fuzzing: without its feature `float_roundtrip`, serde_json takes a neighbour of some numbers.
    #[test]
    fn numbers_are_the_ones_that_javascript_means() {
        let parse = |text: &str| super::parse::<f64>(text.as_bytes()).unwrap();
        assert_eq!(parse("240E22").to_bits(), 2.4e24_f64.to_bits());
        // Every few of them, over all sizes, as JavaScript prints them: in the fewest digits that mean just this one.
        let mut bits = 1_u64;
        for _ in 0..20_000 {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let double = f64::from_bits(bits);
            if double.is_finite() {
                assert_eq!(parse(&format!("{double:e}")).to_bits(), bits, "{double:e}");
            }
        }
    }

    #[test]
    fn a_lone_surrogate_is_an_error_or_a_replacement_but_never_the_end() {
        let text = br#"["\ud800","a\udc00b","\ud83d\ude00","\\ud800","\ud800\ud83d\ude00"]"#;
        assert!(parse::<Value>(text).is_err());
        let got: Value = parse_lossy(text).unwrap();
        assert_eq!(got, json!(["\u{fffd}", "a\u{fffd}b", "😀", "\\ud800", "\u{fffd}😀"]));
        assert_eq!(parse_lossy::<Value>(b"\"\xff\"").unwrap(), json!("\u{fffd}"));
        assert!(parse_lossy::<Value>(b"\"\\ud8").is_err());
    }
}
