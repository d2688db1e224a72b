//! What somebody may have meant.

/// The name that is nearest to what was written, if it is near.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace(['_', ' '], "-");
    let reach = (written.chars().count() / 3).min(3);
    let names = names
        .into_iter()
        .map(|name| (distance(&written, &name.to_lowercase()), name));
    names
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters must be put in, taken out, changed or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Keys of other programs' configurations, and where the same is said in ours.
const ELSEWHERE: [(&[&str], &str); 24] = [
    (&["script", "command", "cmd", "exec", "program", "start"], "`run`"),
    (&["args", "arguments"], "`run`: the arguments follow the program"),
    (&["interpreter", "exec-interpreter"], "`run` or `runtime`"),
    (
        &["workers", "processes", "replicas", "scale", "count", "numprocs"],
        "`instances`",
    ),
    (&["environment", "env-vars", "variables"], "`env`"),
    (&["env-file", "environment-file", "dotenv"], "`env` or `secret-files`"),
    (
        &[
            "directory",
            "dir",
            "workdir",
            "working-dir",
            "working-directory",
            "chdir",
            "root",
        ],
        "`cwd`",
    ),
    (
        &["port", "ports", "bind", "address", "host", "socket"],
        "`listen`, or nothing: a server that listens itself needs none",
    ),
    (&["depends-on", "requires", "needs", "wants", "depends"], "`after`"),
    (&["uid", "run-as", "username"], "`user`"),
    (&["gid"], "`group`"),
    (
        &["memory", "max-memory", "max-memory-restart", "mem", "memory-limit"],
        "`limit.memory`",
    ),
    (&["autorestart", "auto-restart", "restart-policy"], "`restart.policy`"),
    (&["cron", "cron-restart", "schedule-restart"], "`restart.cron`"),
    (
        &["max-restarts", "start-retries", "startretries"],
        "`restart.intensity`",
    ),
    (
        &["restart-delay", "backoff", "exp-backoff-restart-delay"],
        "`restart.backoff`",
    ),
    (
        &["kill-timeout", "stop-timeout", "stopwaitsecs", "graceful-timeout"],
        "`stop.timeout`",
    ),
    (&["kill-signal", "stop-signal", "stopsignal"], "`stop.signal`"),
    (
        &["listen-timeout", "start-timeout", "startup-timeout"],
        "`ready-timeout`",
    ),
    (&["wait-ready"], "`ready = \"message\"`"),
    (&["drain", "drain-timeout", "surge", "soak", "lame-duck"], "`reload`"),
    (
        &[
            "healthcheck",
            "health-check",
            "health",
            "liveness",
            "probe",
            "heartbeat",
            "watchdog",
        ],
        "`live`",
    ),
    (&["readiness", "startup"], "`ready`"),
    (&["logs", "log-file", "out-file", "error-file", "logging"], "`log`"),
];

/// Where this key of another program, or of another table, has its place in a service.
pub(crate) fn elsewhere(written: &str) -> Option<&'static str> {
    let written = written.to_lowercase().replace('_', "-");
    let found = ELSEWHERE.iter().find(|(names, _)| names.contains(&written.as_str()));
    found.map(|(_, place)| *place)
}

/// Where a key is written in the text of a JavaScript object: the word, perhaps in quotes, and a colon.
pub(crate) fn keys(text: &str, key: &str) -> Vec<std::ops::Range<usize>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(at) = text
        .get(start..)
        .and_then(|rest| rest.find(key))
        .filter(|_| !key.is_empty())
    {
        let span = start + at..start + at + key.len();
        let before = text[..span.start].chars().next_back();
        let after = text[span.end..].trim_start_matches(['\'', '"', '`']).trim_start();
        if !before.is_some_and(|c| is_word(c) || c == '.') && after.starts_with(':') {
            found.push(span.clone());
        }
        start = span.end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_seen_through() {
        let names = ["instances", "ready", "ready-timeout", "restart", "env"];
        for (written, meant) in [
            ("instnaces", Some("instances")),
            ("instance", Some("instances")),
            ("ready_timeout", Some("ready-timeout")),
            ("READY", Some("ready")),
            ("rstart", Some("restart")),
            ("enf", Some("env")),
            ("colour", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, names), meant, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_key_is_a_word_before_a_colon() {
        let text = "{ name: 'a', 'name' : 'b', filename: 1, names: 2, x: o.name, \"name\":3, é: name }";
        let found: Vec<_> = keys(text, "name").into_iter().map(|span| span.start).collect();
        assert_eq!(found, [2, 14, 62]);
        assert!(keys(text, "").is_empty());
    }
}
