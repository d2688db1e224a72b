//! A reload to a version that does not work: the old one serves on, and everybody is told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use conformance::load::{Load, Mode, Target};
use conformance::{Run, Runtime, Thead, client, on};
use rustix::process::Signal;

/// A server that says which version it is; what a version does besides is put in front.
fn version(number: u32, does: &str) -> String {
    format!(
        "{does}
        const cluster = require('node:cluster');
        require('node:http').createServer((req, res) => {{
            res.setHeader('x-worker', cluster.worker.id);
            res.setHeader('x-pid', process.pid);
            res.end('version {number}');
        }}).listen(Number(process.env.PORT), '127.0.0.1');"
    )
}

fn replace(thead: &Thead, text: &str) {
    std::fs::write(thead.dir().join("script.cjs"), text).unwrap();
}

/// Reloads to a version that is aborted while clients ask without pause: nobody is harmed. What was said of it.
fn reload_to(run: Run, runtime: Runtime, text: &str) -> (String, Vec<String>) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut thead = run.workers(2).start();
    let port = thead.ready(2);
    let before: Vec<u32> = (1..=2).map(|worker| thead.pid_of(worker)).collect();
    let _guard = tokio.enter();
    let load = Load {
        connections: 2,
        mode: Mode::NewConnections,
        max_time: Duration::from_secs(100),
        ..Load::on(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))))
    }
    .start();
    tokio.block_on(load.answered(10));

    replace(&thead, text);
    thead.signal(Signal::HUP);
    let aborted = thead.next("reload_aborted");
    assert_eq!(aborted.number("generation"), 2, "{runtime}");
    tokio.block_on(load.answered(10));
    let seen = tokio.block_on(load.stop());
    assert_eq!(seen.failures.total(), 0, "{seen}");
    for pid in client::until_all(2, || [client::get(port, "/").pid()]) {
        assert!(
            before.contains(&pid),
            "the old workers serve: {pid} is none of {before:?}"
        );
    }
    assert!(thead.all("draining").is_empty(), "no old worker was asked to leave");

    // The next version is none the worse for it.
    replace(&thead, &version(3, ""));
    thead.signal(Signal::HUP);
    assert_eq!(thead.next("reload_done").number("generation"), 3);
    assert_eq!(client::get(port, "/").body, "version 3");
    thead.stop_cleanly();
    (
        aborted.text("reason").to_owned(),
        serde_json::from_value(aborted.json["last_lines"].clone()).unwrap(),
    )
}

fn one_that_throws_at_its_start_changes_nothing(runtime: Runtime) {
    let run = Run::script(runtime, &version(1, ""));
    let broken = version(2, "throw new Error('forgot the database');");
    let (reason, lines) = reload_to(run, runtime, &broken);
    assert!(reason.contains("exit code 1") || reason.contains("code 1"), "{reason}");
    assert!(
        lines.iter().any(|line| line.contains("forgot the database")),
        "{lines:?}"
    );
}

fn one_that_does_not_parse_changes_nothing(runtime: Runtime) {
    let run = Run::script(runtime, &version(1, ""));
    let (_, lines) = reload_to(run, runtime, "this is not JavaScript");
    assert!(lines.iter().any(|line| line.contains("SyntaxError")), "{lines:?}");
}

fn one_that_never_listens_changes_nothing(runtime: Runtime) {
    let run = Run::script(runtime, &version(1, "")).option("--ready-timeout", "2s");
    let broken = "console.log('up, it says'); setInterval(() => {}, 1000);";
    let (reason, lines) = reload_to(run, runtime, broken);
    assert!(reason.contains("did not listen within 2s"), "{reason}");
    assert!(lines.contains(&"up, it says".into()), "{lines:?}");
}

fn one_that_is_ready_and_dies_changes_nothing(runtime: Runtime) {
    // The default --soak is a second.
    let run = Run::script(runtime, &version(1, ""));
    let broken = version(2, "setTimeout(() => process.exit(3), 300);");
    let (reason, _) = reload_to(run, runtime, &broken);
    assert!(reason.contains('3'), "{reason}");
}

fn one_that_is_gone_changes_nothing(runtime: Runtime) {
    let run = Run::script(runtime, &version(1, ""));
    let mut thead = run.start();
    let port = thead.ready(2);
    std::fs::remove_file(thead.dir().join("script.cjs")).unwrap();
    thead.signal(Signal::HUP);
    thead.next("reload_aborted");
    assert_eq!(client::get(port, "/").body, "version 1");
    thead.stop_cleanly();
}

on!([node18 Node18, node22 Node22, node26 Node26, deno Deno]:
    one_that_throws_at_its_start_changes_nothing,
    one_that_is_ready_and_dies_changes_nothing);
on!([node22 Node22]: one_that_does_not_parse_changes_nothing,
    one_that_never_listens_changes_nothing,
    one_that_is_gone_changes_nothing);
