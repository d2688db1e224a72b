//! Workers served by axum and by hyper: under load, and while all of them are replaced.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use conformance::load::{Load, Mode, Report, Request, Running, Target};
use conformance::{Run, Runtime, Script, client, node_primary, on};
use rustix::process::Signal;
use tokio::runtime;

const AXUM: &str = env!("CARGO_BIN_EXE_axum-worker");
const HYPER: &str = env!("CARGO_BIN_EXE_hyper-worker");
const RELOADS: u64 = 3;

/// Clients that keep their connections, and clients that open one for each request.
struct Clients {
    runtime: runtime::Runtime,
    kept: Running,
    fresh: Running,
}

impl Clients {
    fn start(target: Target) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let load = Load {
            mix: vec![(8, Request::get("/")), (2, Request::get("/slow"))],
            think: Duration::from_millis(5),
            connections: 8,
            max_time: Duration::from_secs(300),
            ..Load::on(target)
        };
        let _guard = runtime.enter();
        let kept = load.clone().start();
        let fresh = Load {
            connections: 4,
            mode: Mode::NewConnections,
            ..load
        }
        .start();
        Self { kept, fresh, runtime }
    }

    /// Waits until so many requests more are answered to each kind.
    fn served(&self, requests: u64) {
        self.runtime
            .block_on(async { tokio::join!(self.kept.answered(requests), self.fresh.answered(requests)) });
    }

    /// Ends them; no request has failed, and at least so many workers have answered.
    fn end(self, workers: usize) {
        let Self { runtime, kept, fresh } = self;
        let (kept, fresh) = runtime.block_on(async { tokio::join!(kept.stop(), fresh.stop()) });
        let failed = |report: &Report| report.failures.total();
        assert_eq!(failed(&kept) + failed(&fresh), 0, "\n{kept}\n{fresh}");
        assert!(kept.workers.len() >= workers, "{kept}");
    }
}

fn tcp(port: u16) -> Target {
    Target::Tcp(client::local(port))
}

fn alone(program: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut server = Script::program(program, &[], &[("ADDRESS", path.to_str().unwrap())]);
    assert_eq!(server.field("serves"), path.to_str().unwrap());
    let clients = Clients::start(Target::Unix(path));
    clients.served(200);
    clients.end(1);
    let mut server = Script::program(program, &[], &[]);
    let address = server.field("serves");
    let clients = Clients::start(Target::Tcp(address.as_str().unwrap().parse().unwrap()));
    clients.served(200);
    clients.end(1);
}

#[test]
fn axum_serves_alone() {
    alone(AXUM);
}

#[test]
fn hyper_serves_alone() {
    alone(HYPER);
}

fn reloads(program: &str) {
    for schedule in ["round-robin", "shared"] {
        let run = Run::words([program]).flag("--channel").workers(2);
        let mut thead = run.option("--schedule", schedule).option("--soak", "0").start();
        let clients = Clients::start(tcp(thead.ready(2)));
        for reload in 1..=RELOADS {
            clients.served(50);
            thead.signal(Signal::HUP);
            thead.wait_for("reload_done", |said| said.number("generation") == reload + 1);
        }
        clients.served(50);
        clients.end(RELOADS as usize + 1);
        assert!(thead.all("reload_aborted").is_empty());
        assert!(thead.all("killing").is_empty(), "all left by themselves");
        thead.stop_cleanly();
    }
}

#[test]
fn axum_is_reloaded_under_load_without_a_failure() {
    reloads(AXUM);
}

#[test]
fn hyper_is_reloaded_under_load_without_a_failure() {
    reloads(HYPER);
}

/// What Node's primary has for a reload: new workers, and when they listen the old ones are disconnected.
fn replaces(program: &str, runtime: Runtime) {
    for policy in ["rr", "none"] {
        let address = client::local(client::free_port()).to_string();
        let mut primary = node_primary(runtime, policy, program, &[("ADDRESS", &address)], 2);
        let listening = |primary: &mut Script| {
            let line = |line: &serde_json::Value| line.get("listening").is_some().then_some(());
            for _ in 0..2 {
                primary.wait("listening", line);
            }
        };
        listening(&mut primary);
        let clients = Clients::start(Target::Tcp(address.parse().unwrap()));
        for reload in 1..=RELOADS {
            clients.served(50);
            for _ in 0..2 {
                primary.say("fork");
            }
            listening(&mut primary);
            for worker in [2 * reload - 1, 2 * reload] {
                primary.say(&format!("disconnect {worker}"));
            }
            for _ in 0..2 {
                let end = primary.wait("exit", |line| line.get("exited").map(|_| line["end"].clone()));
                assert_eq!(end, 0, "{policy}");
            }
        }
        clients.served(50);
        clients.end(RELOADS as usize + 1);
        assert!(primary.end().0.success());
    }
}

fn axum_is_replaced_under_load_by_nodes_primary_without_a_failure(runtime: Runtime) {
    replaces(AXUM, runtime);
}

fn hyper_is_replaced_under_load_by_nodes_primary_without_a_failure(runtime: Runtime) {
    replaces(HYPER, runtime);
}

on! { nodes: axum_is_replaced_under_load_by_nodes_primary_without_a_failure,
hyper_is_replaced_under_load_by_nodes_primary_without_a_failure }
