//! A configuration as TOML, without what is said by saying nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::model::{Config, Service};
use super::value::Name;

/// Tables that hold what the operator names, and so stand on lines of their own.
const TABLES: [&str; 4] = ["env", "secret-files", "listen", "data"];

/// `thead.toml` of a directory. What is left out is told in a comment, so that nobody misses it later.
pub(crate) fn toml(config: &Config, base: &Path, left_out: &BTreeMap<Name, Vec<String>>) -> String {
    let mut out = String::new();
    if let Some(namespace) = &config.namespace {
        let _ = writeln!(out, "namespace = {}", text(&Value::from(namespace.as_str())));
    }
    for (name, service) in &config.service {
        let mut service = service.clone();
        relative(&mut service, base);
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(out, "[service.{}]", key(name.as_str()));
        let plain = |service: &Service| match serde_json::to_value(service) {
            Ok(Value::Object(keys)) => keys,
            _ => Map::new(),
        };
        let default = plain(&Service::new(service.run.clone()));
        let mut keys = plain(&service);
        // The command is in both.
        let run = keys.shift_remove("run").unwrap_or_default();
        let _ = writeln!(out, "run = {}", text(&run));
        without(&mut keys, &default);
        for (key, value) in &keys {
            if !TABLES.contains(&key.as_str()) {
                line(&mut out, key, value);
            }
        }
        let left_out = left_out.get(name).map(Vec::as_slice).unwrap_or_default();
        for table in TABLES {
            let empty = Map::new();
            let entries = keys.get(table).and_then(Value::as_object).unwrap_or(&empty);
            let hidden = if table == "env" { left_out } else { &[] };
            if entries.is_empty() && hidden.is_empty() {
                continue;
            }
            let _ = write!(out, "\n[service.{}.{table}]\n", key(name.as_str()));
            for (name, value) in entries {
                let _ = writeln!(out, "{} = {}", key(name), text(value));
            }
            if !hidden.is_empty() {
                out.push_str(
                    "# Left out, for they look like secrets; put each into a file, and its path into `secret-files`:\n",
                );
                for variable in hidden {
                    let _ = writeln!(out, "# {}", key(variable));
                }
            }
        }
    }
    for (name, group) in &config.group {
        let _ = write!(out, "\n[group.{}]\n", key(name.as_str()));
        if let Ok(Value::Object(keys)) = serde_json::to_value(group) {
            for (key, value) in &keys {
                line(&mut out, key, value);
            }
        }
    }
    out
}

/// `a.b = value`, for each value in it.
fn line(out: &mut String, name: &str, value: &Value) {
    match value {
        // A choice with a value is one: `ready = { http = "..." }`.
        Value::Object(table) if name != "ready" => {
            for (inner, value) in table {
                line(out, &format!("{name}.{}", key(inner)), value);
            }
        }
        _ => {
            let _ = writeln!(out, "{name} = {}", text(value));
        }
    }
}

/// Takes out what is the same.
fn without(keys: &mut Map<String, Value>, default: &Map<String, Value>) {
    keys.retain(|key, value| {
        let Some(default) = default.get(key) else {
            return true;
        };
        if let (Value::Object(keys), Value::Object(default)) = (&mut *value, default) {
            without(keys, default);
            return !keys.is_empty();
        }
        value != default
    });
}

fn relative(service: &mut Service, base: &Path) {
    let short = |path: &mut PathBuf| {
        if let Ok(rest) = path.strip_prefix(base) {
            *path = rest.to_owned();
        }
    };
    if service.cwd.as_deref() == Some(base) {
        service.cwd = None;
    }
    service.cwd.iter_mut().for_each(short);
    service.secret_files.values_mut().for_each(short);
    service.data.values_mut().map(|data| &mut data.file).for_each(short);
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { text(&name.into()) }
}

/// A value on one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        // What JSON escapes TOML escapes alike, but for DEL.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007F"),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<_> = table
                .iter()
                .map(|(name, value)| format!("{} = {}", key(name), text(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// Names of variables that look like secrets, and values that do: a URL with a password.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 10] = [
        "PASS",
        "SECRET",
        "TOKEN",
        "KEY",
        "CREDENTIAL",
        "PRIVATE",
        "AUTH",
        "DSN",
        "SALT",
        "SIGNATURE",
    ];
    let name = name.to_uppercase();
    let url = value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?']).next()?.rsplit_once('@'));
    WORDS.iter().any(|word| name.contains(word)) || url.is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::tests::{FULL, directory, load_text};

    #[test]
    fn what_is_written_reads_back_the_same() {
        let dir = directory();
        let mut config = load_text(dir.path(), FULL[0].0, FULL[0].1).unwrap().config;
        let text = toml(&config, dir.path(), &BTreeMap::new());
        assert_eq!(
            load_text(dir.path(), "again.toml", &text).unwrap().config,
            config,
            "{text}"
        );
        assert!(!text.contains(&*dir.path().to_string_lossy()), "{text}");
        // Any text in any place of it.
        let odd = "é \"x\" \\ \u{7f}\u{1}\n#";
        for service in config.service.values_mut() {
            service.env.insert(odd.into(), odd.into());
            service.env.insert("a.b".into(), String::new());
        }
        let text = toml(&config, dir.path(), &BTreeMap::new());
        assert_eq!(
            load_text(dir.path(), "again.toml", &text).unwrap().config,
            config,
            "{text}"
        );
    }

    #[test]
    fn what_is_said_by_saying_nothing_is_not_said() {
        let mut config = Config::default();
        let service = Service::new("node server.js".parse().unwrap());
        config.service.insert("api".parse().unwrap(), service);
        let left_out = BTreeMap::from([("api".parse().unwrap(), vec!["API_KEY".into()])]);
        assert_eq!(
            toml(&config, Path::new("/"), &BTreeMap::new()),
            "[service.api]\nrun = [\"node\", \"server.js\"]\n"
        );
        let text = toml(&config, Path::new("/"), &left_out);
        assert!(text.ends_with("`secret-files`:\n# API_KEY\n"), "{text}");
    }

    #[test]
    fn a_secret_is_known_by_its_name_or_its_value() {
        for (name, value) in [
            ("DB_PASSWORD", ""),
            ("apiKey", ""),
            ("DATABASE_URL", "postgres://u:p@host/db"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [("PORT", "80"), ("URL", "http://host/a@b:c"), ("NODE_ENV", "production")] {
            assert!(!is_secret(name, value), "{name}");
        }
    }
}
