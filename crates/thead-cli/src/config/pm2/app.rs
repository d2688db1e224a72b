//! One app as one service.

use std::collections::BTreeMap;

use super::super::format::Spot;
use super::super::model::{Backoff, Policy, Ready, Service};
use super::super::tree::{Entry, Step, Tree, steps};
use super::super::value::{Argv, Instances, Name, Signal, Span};
use super::{Ecosystem, given, key};

/// What was given for a key, and where.
type Given<'a> = (&'a Tree, Vec<Step>);

/// An app's keys by their first names; what is left in the end was not looked at.
struct App<'a> {
    path: Vec<Step>,
    keys: BTreeMap<String, &'a Entry>,
    /// From what was set in the service to where it was said.
    origins: Vec<(&'static [&'static str], Vec<Step>)>,
}

impl<'a> App<'a> {
    fn new(app: &'a Tree, path: Vec<Step>) -> Self {
        let mut keys: BTreeMap<String, &'a Entry> = BTreeMap::new();
        for entry in app.entries() {
            // Of two names for one thing the first counts, but its own name before others.
            let name = key::canonical(&entry.key);
            if name == entry.key || !keys.contains_key(&name) {
                keys.insert(name, entry);
            }
        }
        Self {
            path,
            keys,
            origins: Vec::new(),
        }
    }

    fn at(&self, entry: &Entry) -> Vec<Step> {
        let mut path = self.path.clone();
        path.push(entry.key.as_str().into());
        path
    }

    /// Where the script was named, whatever the key is called there.
    fn script(&self) -> Vec<Step> {
        let said = self.origins.iter().find(|(ours, _)| *ours == ["run"]);
        said.map_or_else(|| self.path.clone(), |(_, path)| path.clone())
    }

    /// The value of a key, unless it is nothing.
    fn take(&mut self, key: &str) -> Option<Given<'a>> {
        let entry = self.keys.remove(key)?;
        let path = self.at(entry);
        (entry.value.value != super::Value::Null).then_some((&entry.value, path))
    }

    /// As [`take`](Self::take), for a value of a kind; `ours` is what it decides.
    fn get<T>(
        &mut self,
        ecosystem: &mut Ecosystem<'_>,
        key: &str,
        ours: &'static [&'static str],
        expected: &str,
        read: impl Fn(&Tree) -> Option<T>,
    ) -> Option<T> {
        let (tree, path) = self.take(key)?;
        let value = read(tree);
        match value {
            Some(_) => self.origins.push((ours, path)),
            None => {
                let message = format!("`{key}`: expected {expected}, found {}", given::show(tree));
                ecosystem.error(&path, Spot::Value, message, "correct it, or leave it out");
            }
        }
        value
    }

    fn boolean(&mut self, ecosystem: &mut Ecosystem<'_>, key: &str, ours: &'static [&'static str]) -> Option<bool> {
        self.get(ecosystem, key, ours, "true or false", given::boolean)
    }

    fn millis(&mut self, ecosystem: &mut Ecosystem<'_>, key: &str, ours: &'static [&'static str]) -> Option<Span> {
        self.get(ecosystem, key, ours, "milliseconds", given::millis)
            .map(Span::millis)
    }

    fn text(&mut self, ecosystem: &mut Ecosystem<'_>, key: &str, ours: &'static [&'static str]) -> Option<String> {
        self.get(ecosystem, key, ours, "text", given::text)
    }
}

impl Ecosystem<'_> {
    pub(super) fn app(&mut self, tree: &Tree, path: Vec<Step>) {
        if !matches!(tree.value, super::Value::Map(_)) {
            let message = format!("expected an app, found {}", given::show(tree));
            return self.error(&path, Spot::Value, message, "an app is an object with `script`");
        }
        let mut app = App::new(tree, path);
        let cwd = app.text(self, "cwd", &["cwd"]).map(|cwd| self.base.join(cwd));
        let mut program = super::program::Wish {
            script: app.text(self, "script", &["run"]).unwrap_or_default(),
            args: app.get(self, "args", &[], "words", given::words).unwrap_or_default(),
            interpreter: app.text(self, "exec_interpreter", &[]),
            node_args: app
                .get(self, "node_args", &[], "words", given::words)
                .unwrap_or_default(),
            cwd: cwd.as_deref().unwrap_or(self.base),
        };
        app.take("execute_command");
        if program.script.is_empty() {
            let message = "an app needs a `script`";
            return self.error(
                &app.path.clone(),
                Spot::Value,
                message,
                "say what is run: script: 'server.js'",
            );
        }
        self.source_maps(&mut app, &mut program);
        let stem = program.script.rsplit('/').next().unwrap_or_default();
        let stem = stem
            .rsplit_once('.')
            .filter(|(stem, _)| !stem.is_empty())
            .map_or(stem, |(stem, _)| stem);
        let mut wanted = app.text(self, "name", &[]).unwrap_or_else(|| stem.to_owned());
        if let (Some((tree, _)), Some(environment)) = (app.take("append_env_to_name"), self.environment)
            && given::boolean(tree) == Some(true)
        {
            wanted = format!("{wanted}-{environment}");
        }
        let name_path = [&app.path[..], &steps!["name"]].concat();
        let name = self.name(&wanted, &name_path);
        let made = program.make();
        let script_path = app.script();
        for (message, mend) in made.notes {
            self.note(&script_path, Spot::Value, message, mend);
        }
        let run = match Argv::new(made.words) {
            Ok(run) => run,
            Err(reason) => return self.error(&app.path.clone(), Spot::Value, reason, "correct `script` and `args`"),
        };
        let mut service = Service::new(run);
        service.cwd = cwd;
        service.env.extend(made.env);
        self.count(&mut app, &mut service);
        self.life(&mut app, &mut service);
        self.surroundings(&mut app, &mut service);
        self.rest(&app);
        let ours = steps!["service", name.as_str()];
        for (keys, path) in app.origins {
            let keys: Vec<_> = keys.iter().map(|key| Step::from(*key)).collect();
            if !keys.is_empty() {
                self.origins.push(([&ours[..], &keys[..]].concat(), path));
            }
        }
        self.origins.push((ours.to_vec(), app.path));
        self.config.service.insert(name, service);
    }

    fn source_maps(&mut self, app: &mut App<'_>, program: &mut super::program::Wish<'_>) {
        let wanted = app.boolean(self, "source_map_support", &[]) == Some(true);
        let refused = app.boolean(self, "disable_source_map_support", &[]) == Some(true);
        const OPTION: &str = "--enable-source-maps";
        if wanted && !refused && program.is_node() && !program.node_args.iter().any(|arg| arg == OPTION) {
            program.node_args.insert(0, OPTION.into());
        }
    }

    /// How many, and how they tell each other apart.
    fn count(&mut self, app: &mut App<'_>, service: &mut Service) {
        let read = |tree: &Tree| match (given::number(tree), given::text(tree)) {
            (Some(count), _) if count.fract() == 0.0 => Some(count as i64),
            (None, Some(text)) if text == "max" => Some(0),
            _ => None,
        };
        let count = app.get(self, "instances", &["instances"], "a number, or \"max\"", read);
        let cores = thead::sys::limit::cores() as i64;
        service.instances = match count {
            None => Instances::new(1),
            Some(0) => Some(Instances::Max),
            Some(count) if count < 0 => Instances::new((cores + count).max(1).unsigned_abs()),
            Some(count) => Instances::new(count.unsigned_abs()),
        };
        if service.instances.is_none()
            && let Some((_, path)) = app.origins.last()
        {
            self.error(
                &path.clone(),
                Spot::Value,
                "`instances`: more than 1024",
                "write 1 to 1024, or \"max\"",
            );
        }
        if let Some((tree, path)) = app.take("exec_mode") {
            let mode = given::text(tree).unwrap_or_default();
            match mode.trim_end_matches("_mode") {
                "cluster" => {}
                "fork" if count.is_none_or(|count| count == 1) => {}
                "fork" => {
                    let message =
                        "`exec_mode` = \"fork\" with several instances: workers of thead share a port all the same";
                    self.note(
                        &path,
                        Spot::Value,
                        message,
                        "if each has a port of its own, `increment_var` gives it",
                    );
                }
                _ => self.error(
                    &path,
                    Spot::Value,
                    format!("`exec_mode`: {mode:?} is no mode"),
                    "\"fork\" or \"cluster\"",
                ),
            }
        }
        service.increment_env = app.text(self, "increment_var", &["increment-env"]);
        service.instance_env = app
            .text(self, "instance_var", &["instance-env"])
            .filter(|name| name != "NODE_APP_INSTANCE");
        if let Some((tree, path)) = app.take("namespace") {
            let namespace = given::text(tree).unwrap_or_default();
            match namespace.parse::<Name>() {
                Ok(_) if namespace == "default" => {}
                Ok(namespace) => {
                    service.namespace = Some(namespace);
                    app.origins.push((&["namespace"], path));
                }
                Err(reason) => self.note(&path, Spot::Value, format!("`namespace` is left out: {reason}"), ""),
            }
        }
    }

    /// Beginning, end, and what follows a death.
    fn life(&mut self, app: &mut App<'_>, service: &mut Service) {
        if app.boolean(self, "wait_ready", &["ready"]) == Some(true) {
            service.ready = Ready::Message;
        }
        if let Some(timeout) = app.millis(self, "listen_timeout", &["ready-timeout"]) {
            service.ready_timeout = timeout;
        }
        // PM2's, for which an app that cleans up is written.
        service.stop.signal = Signal::INT;
        if let Some(timeout) = app.millis(self, "kill_timeout", &["stop", "timeout"]) {
            service.stop.timeout = timeout;
        }
        service.stop.message = app.boolean(self, "shutdown_with_message", &["stop", "message"]) == Some(true);
        let memory = |tree: &Tree| given::text(tree)?.parse().ok();
        service.limit.memory = app.get(
            self,
            "max_memory_restart",
            &["limit", "memory"],
            "bytes, or a number with K, M or G",
            memory,
        );
        self.restart(app, service);
    }

    fn restart(&mut self, app: &mut App<'_>, service: &mut Service) {
        let restart = &mut service.restart;
        if app.boolean(self, "autorestart", &["restart", "policy"]) == Some(false) {
            restart.policy = Policy::Never;
        }
        if let Some((tree, path)) = app.take("stop_exit_codes") {
            let codes = given::words(tree).unwrap_or_default();
            if restart.policy == Policy::Always && codes.iter().any(|code| code == "0") {
                restart.policy = Policy::OnFailure;
            }
            if codes.iter().any(|code| code != "0") {
                let message = format!(
                    "`stop_exit_codes` = {}: only 0 can end a service for good",
                    given::show(tree)
                );
                self.note(
                    &path,
                    Spot::Value,
                    message,
                    "exit with 0, or let `restart.policy` be \"never\"",
                );
            }
        }
        if let Some((tree, path)) = app.take("cron_restart")
            && let Some(pattern) = given::text(tree).filter(|pattern| !["0", "false", ""].contains(&pattern.as_str()))
        {
            restart.cron = Some(pattern);
            app.origins.push((&["restart", "cron"], path));
        }
        let delay = app.millis(self, "restart_delay", &["restart", "backoff"]);
        if let Some(delay) = delay.filter(|delay| *delay > Span::secs(0)) {
            restart.backoff = Backoff {
                first: delay,
                max: delay,
            };
        }
        let growing = app.millis(self, "exp_backoff_restart_delay", &["restart", "backoff"]);
        if let Some(first) = growing.filter(|delay| *delay > Span::secs(0)) {
            // PM2: up to 15 s, and forgotten after 30 s.
            restart.backoff = Backoff {
                first,
                max: first.max(Span::secs(15)),
            };
            restart.reset_after = Span::secs(30);
        }
        let uptime = app.get(
            self,
            "min_uptime",
            &["restart", "intensity"],
            "milliseconds",
            given::uptime,
        );
        let most = |tree: &Tree| {
            given::number(tree)
                .filter(|most| (0.0..=1e9).contains(most))
                .map(|most| most as u32)
        };
        let most = app.get(self, "max_restarts", &["restart", "intensity"], "a number", most);
        if uptime.is_some() || most.is_some() {
            // PM2: so many deaths before `min_uptime` within so many times that, until it gives up.
            let (uptime, most) = (uptime.unwrap_or(1000).max(1), most.unwrap_or(16));
            restart.intensity.restarts = most;
            restart.intensity.period = Span::millis(uptime.saturating_mul(most.max(1).into()).min(YEAR));
            restart.reset_after = Span::millis(uptime);
        }
    }

    /// Variables and rights.
    fn surroundings(&mut self, app: &mut App<'_>, service: &mut Service) {
        let mut variables = self.deployed.clone();
        if let Some((tree, path)) = app.take("env") {
            match tree.value {
                super::Value::Map(_) => variables.extend(given::variables(tree)),
                _ => self.note(
                    &path,
                    Spot::Value,
                    format!("`env` = {}: it is no object", given::show(tree)),
                    "list the variables",
                ),
            }
            app.origins.push((&["env"], path));
        }
        if let Some((tree, _)) = app.take("port")
            && let Some(port) = given::text(tree)
        {
            variables.push(("PORT".into(), port));
        }
        let chosen = self.environment.map(|name| format!("env_{name}"));
        let environments: Vec<_> = app.keys.keys().filter(|key| key.starts_with("env_")).cloned().collect();
        for key in environments {
            let Some((tree, path)) = app.take(&key) else {
                continue;
            };
            if chosen.as_ref() == Some(&key) {
                self.environment_found = true;
                variables.extend(given::variables(tree));
                app.origins.push((&["env"], path));
            }
        }
        service.env.extend(variables);
        // PM2 passes on all that it has itself.
        service.pass_env = Some(vec!["*".into()]);
        if let Some((tree, path)) = app.take("filter_env") {
            match given::boolean(tree) {
                Some(true) => service.pass_env = None,
                Some(false) => {}
                None => {
                    service.pass_env = None;
                    let message = "`filter_env`: thead passes on what is named, and not all but what is named";
                    self.note(
                        &path,
                        Spot::Value,
                        message,
                        "name what is needed in `pass-env`; PATH, HOME and the like are passed on",
                    );
                }
            }
        }
        service.user = app.text(self, "uid", &["user"]);
        service.group = app.text(self, "gid", &["group"]);
    }

    /// What has no counterpart.
    fn rest(&mut self, app: &App<'_>) {
        for (name, entry) in &app.keys {
            let path = app.at(entry);
            let value = given::show(&entry.value);
            match key::remark(name) {
                Some(remark) if (remark.same)(&entry.value) => {}
                Some(remark) => self.note(
                    &path,
                    Spot::Key,
                    format!("`{name}` = {value}: {}", remark.what),
                    remark.mend,
                ),
                None => {
                    let message = format!("`{}` = {value} is none of PM2's keys, nor thead's", entry.key);
                    self.note(&path, Spot::Key, message, "leave it out, or correct it");
                }
            }
        }
    }
}

/// In milliseconds.
const YEAR: u64 = 365 * 86_400_000;
