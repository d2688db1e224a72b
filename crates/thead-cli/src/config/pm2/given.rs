//! Values as PM2 takes them: numbers may be text, text may be numbers, lists may be lines.

use super::super::tree::{Number, Tree, Value};

/// True or false.
pub(super) fn boolean(tree: &Tree) -> Option<bool> {
    match &tree.value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) if text == "true" => Some(true),
        Value::Text(text) if text == "false" => Some(false),
        _ => None,
    }
}

/// A number, which may have a fraction and a sign.
pub(super) fn number(tree: &Tree) -> Option<f64> {
    let number = match &tree.value {
        // What is exact in a double, or too large for any use here.
        Value::Number(Number::Unsigned(number), _) => *number as f64,
        Value::Number(Number::Signed(number), _) => *number as f64,
        Value::Number(Number::Float(number), _) => *number,
        Value::Text(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Milliseconds, at most a year.
pub(super) fn millis(tree: &Tree) -> Option<u64> {
    let number = number(tree)?;
    (0.0..=365.0 * 86_400_000.0).contains(&number).then_some(number as u64)
}

/// Milliseconds, or a number with `h`, `m` or `s` behind.
pub(super) fn uptime(tree: &Tree) -> Option<u64> {
    let Value::Text(text) = &tree.value else {
        return millis(tree);
    };
    let factor = match text.chars().last()? {
        'h' => 3_600_000.0,
        'm' => 60_000.0,
        's' => 1000.0,
        _ => return millis(tree),
    };
    let number: f64 = text[..text.len() - 1].trim().parse().ok()?;
    let span = number * factor;
    (0.0..=365.0 * 86_400_000.0).contains(&span).then_some(span as u64)
}

/// Text, or what stands for it.
pub(super) fn text(tree: &Tree) -> Option<String> {
    match &tree.value {
        Value::Text(text) | Value::Number(_, text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Words: a list, or a line that is split at its spaces. What is in quotes is one word, without them; `a="b c"` keeps them.
pub(super) fn words(tree: &Tree) -> Option<Vec<String>> {
    match &tree.value {
        Value::Seq(items) => items.iter().map(text).collect(),
        Value::Text(line) => Some(split(line)),
        _ => text(tree).map(|word| vec![word]),
    }
}

fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let quoted = |from: usize, quote: char| rest[from..].find(quote).map(|end| from + end);
        // `name="` or a quote alone.
        let name = rest
            .find(|c: char| c.is_whitespace() || "\"'=".contains(c))
            .unwrap_or(rest.len());
        let quote = rest[name..]
            .strip_prefix('=')
            .and_then(|value| value.chars().next())
            .filter(|c| "\"'".contains(*c));
        let end = match (first, quote) {
            ('"' | '\'', _) => quoted(1, first).map(|end| (end + 1, &rest[1..end])),
            (_, Some(quote)) if name > 0 => quoted(name + 2, quote).map(|end| (end + 1, &rest[..=end])),
            _ => None,
        };
        let (end, word) = end.unwrap_or_else(|| {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (end, &rest[..end])
        });
        if !word.trim().is_empty() {
            words.push(word.to_owned());
        }
        rest = rest[end..].trim_start();
    }
    words
}

/// Variables: what is no text becomes JSON, as PM2 does it; what is nothing is left out.
pub(super) fn variables(tree: &Tree) -> Vec<(String, String)> {
    let entries = tree.entries().iter().filter(|entry| entry.value.value != Value::Null);
    entries
        .map(|entry| {
            (
                entry.key.clone(),
                text(&entry.value).unwrap_or_else(|| json(&entry.value).to_string()),
            )
        })
        .collect()
}

/// The value as JSON.
pub(super) fn json(tree: &Tree) -> serde_json::Value {
    match &tree.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(Number::Unsigned(number), _) => (*number).into(),
        Value::Number(Number::Signed(number), _) => (*number).into(),
        Value::Number(Number::Float(number), _) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Seq(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), json(&entry.value)))
            .collect(),
    }
}

/// A value on a short line.
pub(super) fn show(tree: &Tree) -> String {
    let text = json(tree).to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_pm2_splits_it() {
        for (line, expected) in [
            ("", &[][..]),
            ("start --port 80", &["start", "--port", "80"]),
            ("  -c 'a b' \"c d\" ", &["-c", "a b", "c d"]),
            ("--name=\"a b\" c='d e'", &["--name=\"a b\"", "c='d e'"]),
            ("it's $HOME | x", &["it's", "$HOME", "|", "x"]),
            ("'open", &["'open"]),
            ("a=", &["a="]),
        ] {
            assert_eq!(split(line), expected, "{line}");
        }
    }

    #[test]
    fn numbers_may_be_text() {
        let tree = |value| Tree::nowhere(value);
        let text = |text: &str| tree(Value::Text(text.into()));
        assert_eq!(millis(&text("1600")), Some(1600));
        assert_eq!(millis(&text("5s")), None);
        assert_eq!(millis(&text("-1")), None);
        assert_eq!(millis(&tree(Value::Number(Number::Float(1e300), "1e300".into()))), None);
        assert_eq!(uptime(&text("5s")), Some(5000));
        assert_eq!(uptime(&text("1.5m")), Some(90_000));
        assert_eq!(uptime(&text("2000")), Some(2000));
        assert_eq!(uptime(&text("é")), None);
        assert_eq!(boolean(&text("true")), Some(true));
    }
}
