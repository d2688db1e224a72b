//! Variables of workers.

use super::Check;
use crate::config::format::Spot;
use crate::config::tree::Step;
use crate::config::typed::Finding;

/// What thead itself tells workers by variables, or what would undo it.
const OURS: [&str; 11] = [
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NODE_CLUSTER_SCHED_POLICY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Whether a variable is for thead or from it alone: it is never set by an operator, nor handed on from the daemon.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with("THEAD_")
}

impl Check<'_> {
    pub(super) fn variables(&mut self) {
        let service = self.service;
        for (name, value) in &service.env {
            self.variable("env", name);
            if value.contains('\0') {
                self.error(["env", name], "the value has a NUL character in it", "leave it out");
            }
            if service.secret_files.contains_key(name) {
                let message = format!("the variable {name} is in `secret-files` too");
                self.error(["env", name], message, "leave it out of one of them");
            }
        }
        for name in service.secret_files.keys() {
            self.variable("secret-files", name);
        }
        if let Some(name) = &service.increment_env {
            let number = service.env.get(name).map(|value| value.parse::<u32>());
            if !matches!(number, Some(Ok(_))) {
                let message = format!("`env` has no number {name}, so there is nothing to count from");
                self.error(["increment-env"], message, format!("set it: env = {{ {name} = 3000 }}"));
            }
        }
        if let Some(name) = &service.instance_env {
            let path = self.at(["instance-env"]);
            self.named(path, Spot::Value, name);
        }
        self.patterns("pass-env", service.pass_env.as_deref().unwrap_or_default());
        self.patterns("hot-env", &service.hot_env);
        if let Some(name) = service.increment_env.as_ref().filter(|name| service.is_hot(name)) {
            let message = format!("each worker has a {name} of its own, by `increment-env`: it cannot be one for all");
            self.error(["hot-env"], message, "leave it out");
        }
    }

    fn patterns(&mut self, key: &str, patterns: &[String]) {
        for (index, name) in patterns.iter().enumerate() {
            let bare = name.strip_suffix('*').unwrap_or(name);
            if bare.contains(['*', '=', '\0']) || name.is_empty() {
                let mut path = self.at([key]);
                path.push(index.into());
                let mend = "write its name; a * may stand at the end, for anything";
                self.checked
                    .error(path, format!("{name:?} is no name of a variable"), mend);
            }
        }
    }

    fn variable(&mut self, table: &str, name: &str) {
        let path = self.at([table, name]);
        self.named(path, Spot::Key, name);
    }

    fn named(&mut self, path: Vec<Step>, spot: Spot, name: &str) {
        let message = if name.is_empty() {
            "a variable needs a name".into()
        } else if name.contains(['=', '\0']) {
            format!("{name:?} is no name of a variable: it may have no `=` and no NUL character")
        } else if is_ours(name) {
            format!("the variable {name} is set by thead itself")
        } else {
            return;
        };
        let mend = match name {
            "NODE_CLUSTER_SCHED_POLICY" => "say `schedule` instead",
            _ => "leave it out, or call it something else",
        };
        self.checked.errors.push(Finding {
            path,
            spot,
            message,
            mend: Some(mend.into()),
        });
    }
}
