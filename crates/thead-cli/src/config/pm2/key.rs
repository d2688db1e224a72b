//! The keys of an app.

use super::super::tree::{Tree, Value};

/// Other names of keys.
const ALIASES: [(&str, &str); 21] = [
    ("exec", "script"),
    ("cmd", "script"),
    ("command", "script"),
    ("interpreter", "exec_interpreter"),
    ("interpreter_args", "node_args"),
    ("out", "out_file"),
    ("output", "out_file"),
    ("out_log", "out_file"),
    ("error", "error_file"),
    ("err", "error_file"),
    ("err_file", "error_file"),
    ("err_log", "error_file"),
    ("log", "log_file"),
    ("pid", "pid_file"),
    ("cron", "cron_restart"),
    ("combine_logs", "merge_logs"),
    ("user", "uid"),
    // What the environment of a running app calls them.
    ("pm_exec_path", "script"),
    ("pm_cwd", "cwd"),
    ("pm_out_log_path", "out_file"),
    ("pm_err_log_path", "error_file"),
];

/// The name that PM2's documentation has first: aliases and camelCase are resolved.
pub(super) fn canonical(key: &str) -> String {
    // The name of an environment is as it is written.
    if key.starts_with("env_") {
        return key.to_owned();
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    let alias = ALIASES.iter().find(|(alias, _)| *alias == snake);
    alias.map_or(snake, |(_, name)| (*name).to_owned())
}

/// What becomes of a key that has no counterpart.
pub(super) struct Remark {
    /// It says what thead does anyway.
    pub(super) same: fn(&Tree) -> bool,
    pub(super) what: &'static str,
    pub(super) mend: &'static str,
}

fn never(_: &Tree) -> bool {
    false
}

fn always(_: &Tree) -> bool {
    true
}

/// What turns something off.
fn off(tree: &Tree) -> bool {
    match &tree.value {
        Value::Bool(value) => !value,
        Value::Text(text) => matches!(text.as_str(), "" | "false" | "0"),
        Value::Number(_, text) => text == "0",
        Value::Null => true,
        Value::Seq(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
    }
}

fn on(tree: &Tree) -> bool {
    !off(tree)
}

const LOGS: &str = "thead keeps what workers print in files of its own: thead logs";
const INSIGHT: &str = "thead does not look into the code of an app";

/// The keys that are no setting of a service.
const REMARKS: [(&str, Remark); 32] = {
    const fn remark(same: fn(&Tree) -> bool, what: &'static str, mend: &'static str) -> Remark {
        Remark { same, what, mend }
    }
    let watch = "let what builds the app say `thead reload`, or have single files pushed by `data`";
    [
        ("out_file", remark(off, LOGS, "leave it out; `log` has sizes and ages")),
        (
            "error_file",
            remark(off, LOGS, "leave it out; `log` has sizes and ages"),
        ),
        ("log_file", remark(off, LOGS, "leave it out; `log` has sizes and ages")),
        (
            "disable_logs",
            remark(off, LOGS, "leave it out; `log.total` bounds them"),
        ),
        (
            "log_type",
            remark(
                never,
                "thead writes lines as they are printed",
                "for JSON say `thead logs --json`",
            ),
        ),
        (
            "log_date_format",
            remark(never, "each line is kept with its time", "leave it out"),
        ),
        ("time", remark(always, "", "")),
        (
            "merge_logs",
            remark(
                on,
                "the lines of all workers of a service are kept together",
                "each says which worker printed it",
            ),
        ),
        (
            "pid_file",
            remark(off, "thead writes no pid files", "ask `thead ls --json`"),
        ),
        ("watch", remark(off, "thead does not watch the files of an app", watch)),
        ("ignore_watch", remark(always, "", "")),
        ("watch_delay", remark(always, "", "")),
        ("watch_options", remark(always, "", "")),
        (
            "treekill",
            remark(on, "what a worker has started ends with it", "leave it out"),
        ),
        ("kill_retry_time", remark(always, "", "")),
        (
            "autostart",
            remark(
                on,
                "`thead apply` and `thead start FILE` start every service",
                "start some only: --only NAME",
            ),
        ),
        (
            "force",
            remark(off, "a service runs once", "give the second a name of its own"),
        ),
        ("vizion", remark(always, "", "")),
        ("automation", remark(always, "", "")),
        ("pmx", remark(always, "", "")),
        ("trace", remark(off, INSIGHT, "leave it out")),
        ("disable_trace", remark(always, "", "")),
        ("v8", remark(off, INSIGHT, "leave it out")),
        ("event_loop_inspector", remark(off, INSIGHT, "leave it out")),
        ("deep_monitoring", remark(off, INSIGHT, "leave it out")),
        ("io", remark(off, INSIGHT, "leave it out")),
        (
            "post_update",
            remark(off, "thead fetches nothing", "run it before `thead reload`"),
        ),
        ("install_url", remark(off, "thead installs nothing", "leave it out")),
        ("write", remark(always, "", "")),
        ("windows_hide", remark(always, "", "")),
        ("username", remark(always, "", "")),
        (
            "name_prefix",
            remark(off, "PM2 takes it on the command line only", "put it into the name"),
        ),
    ]
};

pub(super) fn remark(key: &str) -> Option<&'static Remark> {
    REMARKS.iter().find(|(name, _)| *name == key).map(|(_, remark)| remark)
}
