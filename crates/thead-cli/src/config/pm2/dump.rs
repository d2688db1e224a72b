//! `dump.pm2`, which `pm2 save` writes: every process with all of its environment. `lib/API/Startup.js` of PM2.

use std::collections::BTreeMap;

use super::super::tree::{Entry, Number, Tree, Value};
use super::key;

/// What an operator has configured of what a process has; the rest PM2 has added.
const CONFIGURED: [&str; 29] = [
    "name",
    "namespace",
    "script",
    "cwd",
    "args",
    "exec_interpreter",
    "node_args",
    "exec_mode",
    "max_memory_restart",
    "kill_timeout",
    "listen_timeout",
    "wait_ready",
    "shutdown_with_message",
    "cron_restart",
    "max_restarts",
    "min_uptime",
    "restart_delay",
    "exp_backoff_restart_delay",
    "autorestart",
    "stop_exit_codes",
    "increment_var",
    "instance_var",
    "source_map_support",
    "filter_env",
    "watch",
    "uid",
    "gid",
    "treekill",
    "env",
];

/// Variables of a session or of PM2 itself, which nobody has configured. `*` stands for the rest of a name.
const INHERITED: [&str; 62] = [
    "_",
    "BROWSER",
    "COLORTERM",
    "COLUMNS",
    "DBUS_*",
    "DEBIAN_FRONTEND",
    "DESKTOP_*",
    "DISPLAY",
    "EDITOR",
    "FORCE_COLOR",
    "GDM*",
    "GIT_*",
    "GPG_*",
    "HISTCONTROL",
    "HISTSIZE",
    "HISTFILE",
    "HOME",
    "HOSTNAME",
    "INIT_CWD",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LESS*",
    "LINES",
    "LOGNAME",
    "LS_COLORS",
    "MAIL",
    "MANPATH",
    "MEMORY_PRESSURE_*",
    "NODE",
    "NODE_APP_INSTANCE",
    "NVM_*",
    "OLDPWD",
    "PAGER",
    "PATH",
    "PM2_*",
    "PNPM_*",
    "PS1",
    "PWD",
    "SHELL",
    "SHLVL",
    "SSH_*",
    "STY",
    "SUDO_*",
    "SYSTEMD_*",
    "TERM*",
    "TMPDIR",
    "TMUX*",
    "USER",
    "USERNAME",
    "VISUAL",
    "VSCODE_*",
    "WINDOW",
    "XAUTHORITY",
    "XDG_*",
    "YARN_*",
    "name",
    "namespace",
    "npm_*",
    "unique_id",
];

/// PM2's own variables in the environment of an app.
fn of_pm2(name: &str) -> bool {
    name.starts_with("pm_")
        || name.starts_with("axm_")
        || ["io", "exec_mode", "status", "windowsHide", "vizion"].contains(&name)
}

fn inherited(name: &str, value: &str) -> bool {
    let listed = INHERITED.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *known,
    });
    // What we have too, with the same value, came from the session and not from a configuration.
    listed || of_pm2(name) || std::env::var(name).is_ok_and(|own| own == value)
}

/// The processes of a dump as a list of apps, each once.
pub(crate) fn apps(dump: &Tree) -> Tree {
    let mut apps: BTreeMap<(usize, String), (Vec<Entry>, u64)> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let processes = match &dump.value {
        Value::Seq(items) => &items[..],
        _ => &[],
    };
    for process in processes {
        let name = process.get("name").and_then(super::given::text).unwrap_or_default();
        let namespace = process
            .get("namespace")
            .and_then(super::given::text)
            .unwrap_or_default();
        // Workers of one app.
        let id = format!("{namespace}\0{name}");
        let place = order.iter().position(|known| *known == id).unwrap_or(order.len());
        if place == order.len() {
            order.push(id.clone());
        }
        let (entries, count) = apps.entry((place, id)).or_insert_with(|| (app(process), 0));
        *count += 1;
        if *count > 1 {
            lowest(entries, process);
        }
    }
    let apps = apps.into_values().map(|(mut entries, count)| {
        entries.push(entry(
            "instances",
            Value::Number(Number::Unsigned(count), count.to_string()),
        ));
        Tree::nowhere(Value::Map(entries))
    });
    Tree::nowhere(Value::Seq(apps.collect()))
}

fn entry(key: &str, value: Value) -> Entry {
    Entry {
        key: key.to_owned(),
        key_span: None,
        value: Tree::nowhere(value),
    }
}

fn app(process: &Tree) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for found in process.entries() {
        let name = key::canonical(&found.key);
        let wanted = CONFIGURED.contains(&name.as_str()) && !entries.iter().any(|entry| entry.key == name);
        if !wanted || is_default(&name, &found.value) {
            continue;
        }
        let value = match &found.value.value {
            Value::Map(variables) if name == "env" => {
                let own =
                    |entry: &&Entry| !inherited(&entry.key, &super::given::text(&entry.value).unwrap_or_default());
                Value::Map(variables.iter().filter(own).cloned().collect())
            }
            value => value.clone(),
        };
        entries.push(entry(&name, value));
    }
    let text = |key: &str| {
        entries
            .iter()
            .find(|entry| entry.key == key)
            .and_then(|entry| super::given::text(&entry.value))
    };
    // PM2 has made it absolute.
    if let (Some(script), Some(cwd)) = (text("script"), text("cwd"))
        && let Some(rest) = script.strip_prefix(&format!("{}/", cwd.trim_end_matches('/')))
    {
        let rest = format!("./{rest}");
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == "script") {
            entry.value.value = Value::Text(rest);
        }
    }
    entries
}

/// What PM2 writes although nobody has said it.
fn is_default(name: &str, value: &Tree) -> bool {
    let text = super::given::text(value).unwrap_or_default();
    match name {
        "namespace" => text == "default",
        "autorestart" | "treekill" | "source_map_support" => text == "true",
        "restart_delay" => text == "0",
        "instance_var" => text == "NODE_APP_INSTANCE",
        "node_args" | "args" => matches!(&value.value, Value::Seq(items) if items.is_empty()),
        "exec_mode" => true,
        // The program that PM2 itself ran under.
        "exec_interpreter" => text == "node",
        _ => value.value == Value::Null || text == "false",
    }
}

/// Of a variable that counts the workers, the first has the least.
fn lowest(entries: &mut [Entry], process: &Tree) {
    let of = |entries: &[Entry], key: &str| {
        entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.clone())
    };
    let Some(name) = of(entries, "increment_var").and_then(|tree| super::given::text(&tree)) else {
        return;
    };
    let theirs = process.get("env").and_then(|env| env.get(&name)).cloned();
    let env = entries
        .iter_mut()
        .find(|entry| entry.key == "env")
        .map(|entry| &mut entry.value.value);
    if let (Some(Value::Map(env)), Some(theirs)) = (env, theirs)
        && let Some(ours) = env.iter_mut().find(|entry| entry.key == name)
        && super::given::number(&theirs) < super::given::number(&ours.value)
    {
        ours.value = theirs;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::*;
    use crate::config::format::Format;
    use crate::config::value::Instances;

    const DUMP: &str = include_str!("tests/dump.json");

    #[test]
    fn a_dump_becomes_what_was_configured() {
        let reading = super::super::read(apps(&Format::Json5.parse(DUMP).unwrap()), Path::new("/srv"), None);
        assert_eq!(reading.errors, []);
        let services = reading.config.unwrap().service;
        let names: Vec<_> = services.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["api", "mailer"]);
        let api = &services["api"];
        assert_eq!(
            api.run.words(),
            ["node", "--max-old-space-size=512", "./dist/server.js", "--verbose"]
        );
        assert_eq!(api.cwd.as_deref(), Some(Path::new("/srv/api")));
        assert_eq!(api.instances, Instances::new(2));
        assert_eq!(api.increment_env.as_deref(), Some("PORT"));
        let env: Vec<_> = api
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            env,
            [("DB_PASSWORD", "hunter2"), ("NODE_ENV", "production"), ("PORT", "3000")]
        );
        let mailer = &services["mailer"];
        assert_eq!(mailer.run.words(), ["python3", "./mailer.py"]);
        assert_eq!(mailer.restart.cron.as_deref(), Some("0 3 * * *"));
        assert_eq!(mailer.instances, Instances::new(1));
    }

    #[test]
    fn what_is_no_dump_has_no_apps() {
        for text in ["{}", "[]", "5"] {
            assert_eq!(apps(&Format::Json5.parse(text).unwrap()).value, Value::Seq(Vec::new()));
        }
    }
}
