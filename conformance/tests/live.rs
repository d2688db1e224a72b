//! What changes while workers run: variables of Node programs, and limits.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use conformance::client::{free_port, get};
use conformance::{Daemon, Process, Runtime, eventually, kill, on};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Tells which variables it has now.
const SERVER: &str = "
    require('http').createServer((request, response) => {
        const { LEVEL, FEATURE_X } = process.env;
        response.setHeader('x-pid', process.pid);
        response.end(JSON.stringify({ LEVEL, FEATURE_X }));
    }).listen(process.env.PORT, '127.0.0.1');
";

struct Live {
    daemon: Daemon,
    port: u16,
    runtime: Runtime,
}

impl Live {
    fn start(runtime: Runtime, env: &Value, more: &Value) -> Self {
        let live = Self {
            daemon: Daemon::start(),
            port: free_port(),
            runtime,
        };
        live.daemon.file("server.js", SERVER);
        live.configure(env, more);
        live.daemon.ok(&["apply", "thead.json"]);
        live
    }

    fn configure(&self, env: &Value, more: &Value) {
        let mut service = json!({
            "run": "node server.js",
            "runtime": self.runtime.path(),
            "instances": 2,
            "env": { "PORT": self.port.to_string() },
            "reload": { "lame-duck": "0s", "soak": "0s" },
        });
        service["env"]
            .as_object_mut()
            .unwrap()
            .extend(env.as_object().unwrap().clone());
        service
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let config = json!({ "service": { "app": service } });
        self.daemon.file("thead.json", &config.to_string());
    }

    /// Every worker has these variables.
    fn all_have(&self, wanted: &Value) {
        let workers = self.daemon.pids("app");
        for pid in workers {
            eventually("a worker with the new variables", || {
                let answer = get(self.port, "/");
                (answer.pid() == pid).then(|| assert_eq!(answer.json(), *wanted, "worker {pid}"))
            });
        }
    }
}

fn variables_of_env_that_are_hot_change_in_running_workers(runtime: Runtime) {
    let hot = json!({ "hot-env": ["LEVEL", "FEATURE_*"] });
    let live = Live::start(runtime, &json!({ "LEVEL": "info" }), &hot);
    live.all_have(&json!({ "LEVEL": "info" }));
    let pids = live.daemon.pids("app");

    live.configure(&json!({ "LEVEL": "debug", "FEATURE_X": "\"ä\" = on" }), &hot);
    let plan = live.daemon.ok(&["plan", "thead.json"]);
    assert!(
        plan.contains("change while it runs: env.FEATURE_X, env.LEVEL"),
        "{plan}"
    );
    live.daemon.ok(&["apply", "thead.json"]);
    live.all_have(&json!({ "LEVEL": "debug", "FEATURE_X": "\"ä\" = on" }));
    assert_eq!(live.daemon.pids("app"), pids, "nobody was restarted");

    // What is not configured any more, nobody has any more: who runs, and who comes.
    live.configure(&json!({ "LEVEL": "warn" }), &hot);
    live.daemon.ok(&["apply", "thead.json"]);
    live.all_have(&json!({ "LEVEL": "warn" }));
    kill(pids[0], Signal::KILL);
    live.daemon.wait_for("app", "a newcomer", |service| {
        service["restarts"] == 1 && service["phase"] == "ready"
    });
    live.all_have(&json!({ "LEVEL": "warn" }));

    // Where it is not hot, a new generation has it.
    live.configure(&json!({ "LEVEL": "error" }), &json!({}));
    let plan = live.daemon.ok(&["plan", "thead.json"]);
    assert!(plan.contains("reload: env.LEVEL, hot-env"), "{plan}");
    live.daemon.ok(&["apply", "thead.json"]);
    live.all_have(&json!({ "LEVEL": "error" }));
    live.daemon.stop();
}

on!(nodes: variables_of_env_that_are_hot_change_in_running_workers);

#[test]
fn what_cannot_have_other_variables_while_it_runs_is_told_before() {
    let daemon = Daemon::start();
    for (service, wanted) in [
        (
            json!({ "run": "sleep 1000", "hot-env": ["A"] }),
            "only Node with thead's preload",
        ),
        (
            json!({ "run": "node server.js", "preload": false, "hot-env": ["A"] }),
            "only Node with thead's preload",
        ),
        (
            json!({ "run": "node server.js", "hot-env": ["A*B"] }),
            "no name of a variable",
        ),
        (
            json!({ "run": "node server.js", "env": { "PORT": "1" }, "increment-env": "PORT", "hot-env": ["*"] }),
            "cannot be one for all",
        ),
    ] {
        daemon.file("server.js", "");
        daemon.file("thead.json", &json!({ "service": { "app": service } }).to_string());
        let said = daemon.thead(&["check", "thead.json"]).failed(2);
        assert!(said.contains(wanted) && said.contains("hot-env"), "{said}");
    }
    daemon.stop();
}

/// A line of `/proc/PID/limits`: what it is now, and what it may be raised to.
fn limit(pid: u32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn nice(pid: u32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nice = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace().nth(16).unwrap().parse().unwrap()
    };
    threads.map(|thread| nice(thread.unwrap())).collect()
}

#[test]
fn limits_change_for_workers_that_run_and_for_what_they_have_started() {
    let daemon = Daemon::start();
    daemon.file("run.sh", "sleep 1000 & wait");
    let configure = |limit: Value| {
        let service = json!({ "run": "sh run.sh", "limit": limit, "ready": { "delay": "100ms" } });
        daemon.file("thead.json", &json!({ "service": { "app": service } }).to_string());
    };
    configure(json!({ "open-files": 1000 }));
    daemon.ok(&["apply", "thead.json"]);
    let pids = daemon.pids("app");
    let worker = pids[0];
    let child = eventually("what it starts", || {
        Process::all().into_iter().find(|process| process.parent == worker)
    })
    .pid;
    assert_eq!(limit(worker, "Max open files"), ("1000".into(), "1000".into()));

    configure(json!({ "open-files": 500, "core": "1M", "processes": 5000, "nice": 5 }));
    let plan = daemon.ok(&["plan", "thead.json"]);
    assert!(
        plan.contains("change while it runs: limit.core, limit.nice, limit.open-files, limit.processes"),
        "{plan}"
    );
    let said = daemon.ok(&["apply", "thead.json"]);
    assert!(!said.contains("keep"), "{said}");
    for pid in [worker, child] {
        assert_eq!(limit(pid, "Max open files"), ("500".into(), "500".into()), "{pid}");
        assert_eq!(limit(pid, "Max core file size").0, "1048576", "{pid}");
        assert_eq!(limit(pid, "Max processes").0, "5000", "{pid}");
        assert_eq!(nice(pid), [5], "{pid}");
    }
    // Who comes has them too.
    kill(worker, Signal::KILL);
    let newcomer = eventually("another worker", || {
        daemon.pids("app").first().copied().filter(|pid| *pid != worker)
    });
    assert_eq!(limit(newcomer, "Max open files").0, "500");
    assert_eq!(nice(newcomer), [5]);
    daemon.stop();
}

#[test]
fn a_limit_that_the_kernel_does_not_raise_is_said_to_need_a_reload() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it takes root to run a service as another user");
        return;
    }
    let daemon = Daemon::start();
    let configure = |files: u32| {
        let service = json!({
            "run": "sleep 1000",
            "cwd": "/",
            "user": "nobody",
            "limit": { "open-files": files },
            "ready": { "delay": "100ms" },
            "reload": { "soak": "0s" },
        });
        daemon.file("thead.json", &json!({ "service": { "app": service } }).to_string());
    };
    configure(100);
    daemon.ok(&["apply", "thead.json"]);
    let worker = daemon.pids("app")[0];
    configure(200);
    let said = daemon.ok(&["apply", "thead.json"]);
    assert!(
        said.contains("running workers keep their limit of open files until a reload"),
        "{said}"
    );
    assert_eq!(daemon.pids("app"), [worker]);
    assert_eq!(limit(worker, "Max open files").0, "100");
    daemon.ok(&["reload", "app"]);
    assert_eq!(limit(daemon.pids("app")[0], "Max open files").0, "200");
    daemon.stop();
}
