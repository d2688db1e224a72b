//! What it takes to bring a change of configuration into force.

use serde::Serialize;
use serde_json::Value;

use super::model::Service;

/// The least that makes a change of a key take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Effect {
    /// Only control needs to know.
    Nothing,
    /// While its workers run.
    Live,
    /// By a new generation.
    Reload,
    /// By another primary: a gap.
    Restart,
}

/// Each key of a service, and what its change takes. The longest name that fits counts.
pub(crate) const EFFECTS: [(&str, Effect); 28] = [
    ("after", Effect::Nothing),
    ("channel", Effect::Reload),
    ("cwd", Effect::Reload),
    ("data", Effect::Live),
    ("env", Effect::Reload),
    ("group", Effect::Restart),
    ("hot-env", Effect::Reload),
    ("instances", Effect::Live),
    ("limit", Effect::Live),
    ("listen", Effect::Reload),
    ("live", Effect::Live),
    // The worker is told when it starts.
    ("live.heartbeat", Effect::Reload),
    ("log", Effect::Live),
    ("namespace", Effect::Nothing),
    // The primary's own environment.
    ("pass-env", Effect::Restart),
    ("preload", Effect::Reload),
    ("ready", Effect::Reload),
    ("ready-timeout", Effect::Live),
    ("reload", Effect::Live),
    ("restart", Effect::Live),
    ("run", Effect::Reload),
    ("runtime", Effect::Reload),
    // Sockets of one kind cannot become those of another while somebody accepts from them.
    ("schedule", Effect::Restart),
    ("secret-files", Effect::Reload),
    ("stop", Effect::Live),
    ("user", Effect::Restart),
    ("increment-env", Effect::Reload),
    ("instance-env", Effect::Reload),
];

/// The effect of a key such as `stop.timeout`.
pub(crate) fn effect(key: &str) -> Effect {
    let fits = |name: &str| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let found = EFFECTS
        .iter()
        .filter(|(name, _)| fits(name))
        .max_by_key(|(name, _)| name.len());
    // A key that nobody has thought of is safe with another primary.
    found.map_or(Effect::Restart, |(_, effect)| *effect)
}

/// The effect of a change of a key to what is said in `new`.
pub(crate) fn effect_in(new: &Service, key: &str) -> Effect {
    match key.strip_prefix("env.") {
        Some(variable) if new.is_hot(variable) => Effect::Live,
        _ => effect(key),
    }
}

/// The keys in which two versions of a service differ, such as `env.PORT`. Never their values, which may be secrets.
pub(crate) fn changed(old: &Service, new: &Service) -> Vec<String> {
    let mut keys = Vec::new();
    let tree = |service: &Service| serde_json::to_value(service).unwrap_or_default();
    differ("", &tree(old), &tree(new), &mut keys);
    keys
}

fn differ(at: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    if old == new {
        return;
    }
    let key = |name: &str| {
        if at.is_empty() {
            name.to_owned()
        } else {
            format!("{at}.{name}")
        }
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let gone = old.keys().filter(|name| !new.contains_key(*name));
            let mut names: Vec<_> = new.keys().chain(gone).collect();
            names.sort();
            for name in names {
                differ(
                    &key(name),
                    old.get(name).unwrap_or(&Value::Null),
                    new.get(name).unwrap_or(&Value::Null),
                    keys,
                );
            }
        }
        // A table that came or went: each of its keys did.
        (Value::Object(table), Value::Null) | (Value::Null, Value::Object(table)) if !table.is_empty() => {
            keys.extend(table.keys().map(|name| key(name)));
        }
        _ => keys.push(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn service(text: &str) -> Service {
        toml::from_str(&format!("run = \"node server.js\"\n{text}")).unwrap()
    }

    #[test]
    fn a_change_is_told_by_its_keys_and_never_by_its_values() {
        let old = service("env = { PORT = \"1\", OLD = \"x\" }\nstop.timeout = \"5s\"\nready = \"message\"");
        let new = service("env = { PORT = \"2\", NEW = \"y\" }\nlimit.memory = \"1G\"\nready = { tcp = \"a:1\" }");
        let keys = changed(&old, &new);
        assert_eq!(
            keys,
            [
                "env.NEW",
                "env.OLD",
                "env.PORT",
                "limit.memory",
                "ready",
                "stop.timeout"
            ]
        );
        assert_eq!(changed(&old, &old), Vec::<String>::new());
        assert_eq!(changed(&service(""), &service("data.x = 'y'")), ["data.x"]);
    }

    #[test]
    fn what_is_said_as_its_default_is_no_change() {
        assert_eq!(
            changed(
                &service(""),
                &service("ready-timeout = '10s'\nstop.signal = 15\nlog.keep = 10")
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_longest_name_counts() {
        assert_eq!(effect("live.heartbeat"), Effect::Reload);
        assert_eq!(effect("live.interval"), Effect::Live);
        assert_eq!(effect("env.PATH"), Effect::Reload);
        assert_eq!(effect("ready-timeout"), Effect::Live);
        assert_eq!(effect("envelope"), Effect::Restart);
    }

    #[test]
    fn a_variable_changes_while_workers_run_if_the_new_configuration_says_that_it_can() {
        let hot = service("hot-env = ['LOG_LEVEL', 'FEATURE_*']");
        for (key, effect) in [
            ("env.LOG_LEVEL", Effect::Live),
            ("env.FEATURE_X", Effect::Live),
            ("env.LOG_LEVELS", Effect::Reload),
            ("env.PORT", Effect::Reload),
            ("limit.nice", Effect::Live),
        ] {
            assert_eq!(effect_in(&hot, key), effect, "{key}");
        }
        assert_eq!(effect_in(&service(""), "env.LOG_LEVEL"), Effect::Reload);
    }

    #[test]
    fn every_key_of_a_service_has_an_effect() {
        let schema = schemars::schema_for!(Service).to_value();
        let keys: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
        assert!(keys.len() > 25);
        for key in &keys {
            assert!(EFFECTS.iter().any(|(name, _)| name == key), "{key} has none");
        }
        for (name, _) in EFFECTS {
            let key = name.split('.').next().unwrap();
            assert!(keys.iter().any(|known| *known == key), "{key} is no key");
        }
    }
}
