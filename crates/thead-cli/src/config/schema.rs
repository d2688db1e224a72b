//! The configuration as a JSON Schema, for editors, and as a reference, for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::model::Config;
use super::plan::{EFFECTS, Effect, effect};

/// The schema; `docs/thead.schema.json` is a copy.
pub(crate) fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    simplify(&mut schema);
    schema["title"] = "thead".into();
    schema["description"] = "A configuration of thead: thead.toml, thead.yaml or thead.json5.".into();
    schema["properties"]["$schema"] = json!({
        "description": "This schema, for editors.",
        "type": "string",
    });
    schema
}

/// What may be left out may be null too, which nobody writes; and lines of comments are one text.
fn simplify(schema: &mut Value) {
    if let Value::Object(object) = schema {
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [one] = &types[..] {
                let one = one.clone();
                object.insert("type".into(), one);
            }
        }
        if let Some(Value::Array(any)) = object.get_mut("anyOf") {
            any.retain(|schema| schema["type"] != "null");
            if let [Value::Object(one)] = &any[..] {
                let one = one.clone();
                object.remove("anyOf");
                object.extend(one.into_iter().filter(|(key, _)| key != "description"));
            }
        }
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    }
    match schema {
        Value::Object(object) => object.values_mut().for_each(simplify),
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// What stands before the tables of the reference.
const PREFACE: &str = include_str!("schema/preface.md");

/// The reference in Markdown; `docs/configuration.md` is a copy.
pub(crate) fn reference() -> String {
    let schema = schema();
    let mut out = PREFACE.to_owned();
    let mut reference = Reference {
        schema: &schema,
        out: &mut out,
        names: BTreeSet::new(),
    };
    reference.table("The file", "", &schema, None);
    reference.definition("Service", "`[service.NAME]`", Some(""));
    for (key, definition) in [
        ("live", "Live"),
        ("restart", "Restart"),
        ("restart.backoff", "Backoff"),
        ("restart.intensity", "Intensity"),
        ("reload", "Reload"),
        ("stop", "Stop"),
        ("limit", "Limit"),
        ("data.X", "DataTable"),
        ("log", "Log"),
    ] {
        reference.definition(definition, &format!("`[service.NAME.{key}]`"), Some(key));
    }
    reference.definition("Group", "`[group.NAME]`", None);
    reference.choices();
    changes(&mut out);
    out
}

struct Reference<'a> {
    schema: &'a Value,
    out: &'a mut String,
    /// The definitions of choices that were referred to.
    names: BTreeSet<String>,
}

impl Reference<'_> {
    fn definition(&mut self, name: &str, title: &str, prefix: Option<&str>) {
        let schema = self.schema;
        let definition = &schema["$defs"][name];
        let about = definition["description"].as_str().unwrap_or_default();
        self.table(title, about, definition, prefix);
    }

    /// `prefix`: of the keys within a service, for what a change takes.
    fn table(&mut self, title: &str, about: &str, schema: &Value, prefix: Option<&str>) {
        let _ = write!(self.out, "\n## {title}\n\n");
        if !about.is_empty() {
            let _ = write!(self.out, "{about}\n\n");
        }
        let required = |key: &str| {
            let names = schema["required"].as_array();
            names.is_some_and(|names| names.iter().any(|name| name == key))
        };
        self.out.push_str(match prefix {
            Some(_) => "| key | value | meaning | a change |\n| --- | --- | --- | --- |\n",
            None => "| key | value | meaning |\n| --- | --- | --- |\n",
        });
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let kind = self.kind(property);
            let must = if required(key) { " Required." } else { "" };
            let about = property["description"].as_str().unwrap_or_default();
            let _ = write!(self.out, "| `{key}` | {kind} | {about}{must} |");
            if let Some(prefix) = prefix {
                let full = [prefix, key]
                    .iter()
                    .filter(|part| !part.is_empty())
                    .copied()
                    .collect::<Vec<_>>()
                    .join(".");
                let _ = write!(self.out, " {} |", name_of(effect(&full)));
            }
            self.out.push('\n');
        }
    }

    /// What kind of value this is.
    fn kind(&mut self, schema: &Value) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return match name {
                "Span" => "time".into(),
                "ByteSize" => "size".into(),
                "Argv" => "command".into(),
                "Instances" => "number or `\"max\"`".into(),
                "Plain" => "text".into(),
                "Name" | "Signal" => name.to_lowercase(),
                "Data" => "path or table".into(),
                _ if self.schema["$defs"][name]["oneOf"].is_array() => {
                    self.names.insert(name.to_owned());
                    format!("[{}](#{})", name.to_lowercase(), name.to_lowercase())
                }
                _ => "table".into(),
            };
        }
        match schema["type"].as_str() {
            Some("string") => "text".into(),
            Some("boolean") => "true or false".into(),
            Some("integer" | "number") => "number".into(),
            Some("array") => format!("list of {}s", self.kind(&schema["items"])),
            _ => {
                let by_pattern = schema["patternProperties"]
                    .as_object()
                    .and_then(|patterns| patterns.values().next());
                let of = by_pattern.or_else(|| schema.get("additionalProperties"));
                match of.map(|of| self.kind(of)) {
                    Some(of) if of != "table" => format!("table of {of}"),
                    _ => "table".into(),
                }
            }
        }
    }

    /// The names that a value can have.
    fn choices(&mut self) {
        for name in std::mem::take(&mut self.names) {
            let schema = self.schema;
            let definition = &schema["$defs"][&name];
            let about = definition["description"].as_str().unwrap_or_default();
            let _ = write!(self.out, "\n## {name}\n\n{about}\n\n");
            for choice in definition["oneOf"].as_array().into_iter().flatten() {
                let about = choice["description"].as_str().unwrap_or_default();
                let written = match choice["const"].as_str() {
                    Some(name) => format!("`\"{name}\"`"),
                    None => {
                        let (key, value) = choice["properties"]
                            .as_object()
                            .and_then(|all| all.iter().next())
                            .unzip();
                        let kind = value.map(|value| self.kind(value)).unwrap_or_default();
                        format!("`{{ {} = ... }}` ({kind})", key.map_or("", String::as_str))
                    }
                };
                let _ = writeln!(self.out, "- {written}: {about}");
            }
        }
    }
}

fn name_of(effect: Effect) -> &'static str {
    match effect {
        Effect::Nothing => "at once",
        Effect::Live => "live",
        Effect::Reload => "reload",
        Effect::Restart => "restart",
    }
}

/// What a change takes, by effect.
fn changes(out: &mut String) {
    out.push_str(
        "\n## What a change takes\n\n`thead plan` says what `thead apply` would do. The strongest of what has changed in a \
         service counts.\n\n",
    );
    for (effect, about) in [
        (
            Effect::Nothing,
            "at once: the daemon notes it; workers do not hear of it",
        ),
        (Effect::Live, "live: in force for the workers that run"),
        (Effect::Reload, "reload: by a new generation, new workers before old"),
        (Effect::Restart, "restart: stop, then start; there is a gap"),
    ] {
        let mut keys: Vec<_> = EFFECTS
            .iter()
            .filter(|(_, of)| *of == effect)
            .map(|(key, _)| format!("`{key}`"))
            .collect();
        keys.sort();
        let _ = writeln!(out, "- {about}: {}", keys.join(", "));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::value::{ByteSize, Span};

    fn is_current(file: &str, current: &str) {
        let path = format!("{}/../../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("THEAD_WRITE_DOCS").is_some() {
            std::fs::write(&path, current).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == current,
            "docs/{file} is old; write it anew: THEAD_WRITE_DOCS=1 cargo nextest run -p thead-cli"
        );
    }

    #[test]
    fn the_schema_in_the_documentation_is_current() {
        is_current("thead.schema.json", &format!("{:#}\n", schema()));
    }

    #[test]
    fn the_reference_in_the_documentation_is_current() {
        is_current("configuration.md", &reference());
    }

    /// `Default VALUE`, as it is written.
    fn stated(description: &str) -> Option<&str> {
        let (_, rest) = description.split_once("Default ")?;
        let end = rest.find([':', ';']).or_else(|| rest.find(". ")).unwrap_or(rest.len());
        Some(rest[..end].trim_end_matches('.').trim_matches('`'))
    }

    #[test]
    fn each_default_that_is_told_is_the_one_that_is_used() {
        let schema = schema();
        let mut told = 0;
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            for (key, property) in definition["properties"].as_object().into_iter().flatten() {
                let description = property["description"].as_str().unwrap_or_default();
                let default = match &property["default"] {
                    // Left out where it is the default.
                    Value::Null if description.contains("Default true") => {
                        assert_eq!(key, "preload");
                        continue;
                    }
                    Value::Null | Value::Object(_) => continue,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let stated =
                    stated(description).unwrap_or_else(|| panic!("{name}.{key} does not tell its default, {default}"));
                let same = stated == default
                    || stated.parse::<Span>().is_ok_and(|span| Ok(span) == default.parse())
                    || stated.parse::<ByteSize>().is_ok_and(|size| Ok(size) == default.parse());
                assert!(same, "{name}.{key}: {stated} is told, {default} is used");
                told += 1;
            }
        }
        assert!(told > 20, "{told}");
    }

    #[test]
    fn every_table_and_every_choice_is_in_the_reference() {
        let (schema, reference) = (schema(), reference());
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            for key in definition["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
            {
                assert!(reference.contains(&format!("| `{key}` |")), "{name}.{key}");
            }
            for choice in definition["oneOf"].as_array().into_iter().flatten() {
                let name = choice["const"]
                    .as_str()
                    .unwrap_or_else(|| choice["required"][0].as_str().unwrap());
                assert!(
                    reference.contains(&format!("`\"{name}\"`")) || reference.contains(&format!("`{{ {name} = ")),
                    "{name}"
                );
            }
        }
    }
}
