//! A service to which data is pushed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::census::eventually;
use crate::client::{free_port, get};
use crate::daemon::{Daemon, Said};
use crate::runtime::Runtime;

/// A server that says what it was told, refuses what is bad, and writes down every revision.
pub const SERVER: &str = "
    const fs = require('fs');
    const data = {};
    process.on('message', (message) => {
        if (!message || message.cmd !== 'thead:data') return;
        const { name, revision, value, path, size } = message;
        if (process.env.SEEN) fs.appendFileSync(`${process.env.SEEN}/${process.pid}`, `${revision}\\n`);
        if (value && value.die) process.exit(9);
        const error = value && value.bad ? `no ${value.bad}, please` : undefined;
        if (!error) data[name] = path ? { revision, path, size } : { revision, value };
        process.send({ cmd: 'thead:applied', name, revision, error });
    });
    require('http').createServer((request, response) => {
        response.setHeader('connection', 'close');
        response.setHeader('x-pid', process.pid);
        response.end(JSON.stringify(data));
    }).listen(process.env.PORT, '127.0.0.1');
";

/// A daemon with a service `app` of this server.
#[derive(Debug)]
pub struct App {
    /// Its daemon.
    pub daemon: Daemon,
    /// Where the service listens.
    pub port: u16,
}

impl App {
    /// Starts it on Node 22, on two workers; `more` is added to its configuration.
    pub fn start(more: Value) -> Self {
        Self::start_with(Runtime::Node22, more, &[])
    }

    /// With these files.
    pub fn start_with(runtime: Runtime, more: Value, files: &[(&str, &str)]) -> Self {
        let daemon = Daemon::start();
        for (name, text) in files {
            daemon.file(name, text);
        }
        Self::start_in(daemon, runtime, more)
    }

    /// In a daemon that is there.
    pub fn start_in(daemon: Daemon, runtime: Runtime, more: Value) -> Self {
        daemon.file("server.cjs", SERVER);
        let port = free_port();
        let mut service = json!({
            "run": "node server.cjs",
            "runtime": runtime.path(),
            "instances": 2,
            "env": { "PORT": port.to_string() },
            "reload": { "lame-duck": "0s", "soak": "0s" },
            "restart": { "intensity": { "restarts": 10_000 }, "backoff": { "first": "10ms", "max": "50ms" } },
        });
        service
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Self::of(daemon, port, service)
    }

    /// Any service, called `app`.
    pub fn of(daemon: Daemon, port: u16, service: Value) -> Self {
        daemon.file("thead.json", &json!({ "service": { "app": service } }).to_string());
        daemon.ok(&["start", "thead.json"]);
        Self { daemon, port }
    }

    /// Workers of the program `data-worker`.
    pub fn rust(program: &str, instances: u32, data: Value, prepare: impl FnOnce(&Daemon)) -> Self {
        let daemon = Daemon::start();
        prepare(&daemon);
        let port = free_port();
        let service = json!({
            "run": [program],
            "channel": true,
            "instances": instances,
            "env": { "PORT": port.to_string() },
            "restart": { "intensity": { "restarts": 10_000 }, "backoff": { "first": "10ms", "max": "50ms" } },
            "data": data,
        });
        Self::of(daemon, port, service)
    }

    /// `thead data` with these words.
    pub fn data(&self, words: &[&str]) -> Said {
        let mut all = vec!["data"];
        all.extend(words);
        self.daemon.thead(&all)
    }

    /// Pushes a value; what came of it, with the exit code.
    pub fn push(&self, value: &Value) -> (Option<i32>, Value) {
        let said = self.data(&["push", "app", "flags", "--json", "--value", &value.to_string()]);
        (said.code, said.json())
    }

    /// Pushes a value that is to come in force; its revision.
    ///
    /// # Panics
    /// When it does not.
    pub fn pushed(&self, value: &Value) -> u64 {
        let (code, outcome) = self.push(value);
        assert_eq!(code, Some(0), "{outcome}");
        outcome["revision"].as_u64().unwrap()
    }

    /// A piece, as `data status` has it.
    pub fn piece(&self, name: &str) -> Value {
        self.find(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// A piece, as `data status` has it, if there is one.
    pub fn find(&self, name: &str) -> Option<Value> {
        let all = self.data(&["status", "app", "--json"]).json();
        let found = all.as_array().unwrap().iter().find(|piece| piece["name"] == name);
        found.cloned()
    }

    /// Waits until a piece is as wanted.
    pub fn wait_for(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.find(name).filter(|piece| wanted(piece)))
    }

    /// What one of the workers has of `flags`.
    pub fn flags(&self) -> Value {
        get(self.port, "/").json()["flags"].clone()
    }

    /// The value that a revision has, and that all workers have.
    pub fn all_have(&self, value: &Value) {
        self.wait_for("flags", &format!("{value} everywhere"), |piece| {
            let revision = &piece["in_force"]["revision"];
            let workers = piece["workers"].as_array().unwrap();
            !workers.is_empty() && workers.iter().all(|worker| &worker["applied"] == revision) && {
                let said = self.data(&["get", "app", "flags", "--json"]);
                said.code == Some(0) && &said.json()["value"] == value
            }
        });
        for _ in 0..8 {
            assert_eq!(&self.flags()["value"], value);
        }
    }

    /// The texts of all events of a kind.
    pub fn events(&self, kind: &str) -> Vec<String> {
        let events = self.daemon.events().into_iter();
        let wanted = events.filter(|event| event["event"] == kind);
        wanted.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// Puts a file in the place of another, as those do who know what they do.
/// # Panics
/// When it cannot.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
