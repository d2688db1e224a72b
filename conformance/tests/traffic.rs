//! Services under load, reloaded by the daemon: in every shape of traffic, whatever the program, no request fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use conformance::Daemon;
use conformance::client::free_port;
use conformance::load::{Load, Mode, Report, Request, Target};
use serde_json::{Value, json};

/// Of each shape of traffic.
const RELOADS: usize = 5;
/// A bound for a load that nobody ends.
const LONGEST: Duration = Duration::from_secs(300);

/// A server that knows nothing of being replaced; `/slow` takes its time.
const PLAIN: &str = "
    require('http').createServer((request, response) => {
        response.setHeader('x-worker', process.pid);
        const answer = () => response.end('ok');
        if (request.url === '/slow') setTimeout(answer, 50); else answer();
    }).listen(process.env.PORT, '127.0.0.1');
";
/// What Node's documentation has for an end in good order.
const GRACEFUL: &str = "
    const server = require('http').createServer((request, response) => {
        response.setHeader('x-worker', process.pid);
        const answer = () => response.end('ok');
        if (request.url === '/slow') setTimeout(answer, 50); else answer();
    }).listen(process.env.PORT, '127.0.0.1');
    for (const signal of ['SIGTERM', 'SIGINT'])
        process.on(signal, () => server.close(() => process.exit(0)));
    process.on('message', (message) => message === 'shutdown' && server.close(() => process.exit(0)));
";

/// How clients come, and what they ask for.
const SHAPES: [(Mode, &str); 4] = [
    (Mode::NewConnections, "/"),
    (Mode::NewConnections, "/slow"),
    (Mode::KeepAlive, "/"),
    (Mode::KeepAlive, "/slow"),
];

/// Reloads under each shape of load; what the clients saw, and how many processes served them.
fn reload_under_load(daemon: &Daemon, name: &str, port: u16) -> Vec<(String, Report)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut reports = Vec::new();
    for (mode, path) in SHAPES {
        let load = Load {
            connections: 16,
            mode,
            mix: vec![(1, Request::get(path))],
            think: Duration::from_millis(2),
            max_time: LONGEST,
            timeout: Duration::from_secs(30),
            ..Load::on(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))))
        }
        .start();
        for _ in 0..RELOADS {
            runtime.block_on(load.answered(50));
            daemon.ok(&["reload", name]);
        }
        runtime.block_on(load.answered(50));
        let report = runtime.block_on(load.stop());
        reports.push((format!("{mode:?} {path}"), report));
    }
    reports
}

fn proves(reports: &[(String, Report)]) {
    for (shape, report) in reports {
        assert_eq!(report.failures.total(), 0, "{shape}: {report}");
        // Had the workers not really been replaced, nothing would be proven.
        assert!(report.workers.len() > RELOADS, "{shape}: {report}");
    }
}

fn node(program: &str, more: Value) -> Vec<(String, Report)> {
    service("server.js", program, "node server.js", more, |_| ())
}

/// Two workers of a program, reloaded under each shape of load; `prepare` puts what it needs beside it.
fn service(file: &str, program: &str, run: &str, more: Value, prepare: impl FnOnce(&Daemon)) -> Vec<(String, Report)> {
    let daemon = Daemon::start();
    let port = free_port();
    daemon.file(file, program);
    prepare(&daemon);
    let mut service = json!({
        "run": run,
        "instances": 2,
        "env": { "PORT": port.to_string() },
        "ready-timeout": "60s",
        "reload": { "soak": "0s", "lame-duck": "100ms" },
    });
    service
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let text = json!({ "service": { "web": service } }).to_string();
    daemon.file("thead.json", &text.replace("$PORT", &port.to_string()));
    daemon.ok(&["apply", "thead.json"]);
    let reports = reload_under_load(&daemon, "web", port);
    daemon.stop();
    reports
}

/// What gunicorn serves; `/slow` takes its time.
const WSGI: &str = "
import os, time
def app(environ, start_response):
    if environ['PATH_INFO'] == '/slow': time.sleep(0.05)
    start_response('200 OK', [('Content-Length', '2'), ('x-worker', str(os.getpid()))])
    return [b'ok']
";

fn gunicorn(options: &str) -> Vec<(String, Report)> {
    let venv = conformance::root().join("runtimes/venv");
    assert!(venv.exists(), "run conformance/setup");
    let run = format!(".venv/bin/gunicorn --preload --no-control-socket {options} app:app");
    let more =
        json!({ "listen": { "http": "tcp://127.0.0.1:$PORT" }, "ready": "notify", "stop": { "timeout": "60s" } });
    service("app.py", WSGI, &run, more, |daemon| {
        std::os::unix::fs::symlink(venv, daemon.app().join(".venv")).unwrap();
    })
}

fn axum(graceful: bool) -> Vec<(String, Report)> {
    let more = json!({
        "channel": true,
        "env": { "ADDRESS": "127.0.0.1:$PORT", "GRACEFUL": graceful.to_string() },
        "reload": { "soak": "0s", "drain": "2s" },
    });
    service("empty", "", env!("CARGO_BIN_EXE_axum-worker"), more, |_| ())
}

#[test]
fn g1_a_plain_node_server_is_reloaded_without_a_failure() {
    let reports = node(PLAIN, json!({}));
    proves(&reports);
    // Its clients do not even lose their connections.
    for (shape, report) in reports.iter().filter(|(shape, _)| shape.starts_with("KeepAlive")) {
        assert_eq!(report.opened, 16, "{shape}: {report}");
    }
}

#[test]
fn g1_a_graceful_node_server_is_reloaded_without_a_failure() {
    proves(&node(GRACEFUL, json!({})));
}

/// Without a word of configuration: it has one request at a time, and closes each connection.
#[test]
fn g1_a_plain_gunicorn_is_reloaded_without_a_failure() {
    proves(&gunicorn(""));
}

/// With threads it keeps connections, and lets those that are idle linger when it is told to leave.
#[test]
fn g1_a_graceful_gunicorn_is_reloaded_without_a_failure() {
    proves(&gunicorn("--worker-class gthread --threads 16"));
}

/// One that never ends by itself: `reload.drain` ends it.
#[test]
fn g1_a_plain_axum_server_is_reloaded_without_a_failure() {
    proves(&axum(false));
}

#[test]
fn g1_a_graceful_axum_server_is_reloaded_without_a_failure() {
    proves(&axum(true));
}

#[test]
fn g1_workers_that_accept_for_themselves_are_reloaded_without_a_failure() {
    for schedule in ["shared", "kernel"] {
        proves(&node(PLAIN, json!({ "schedule": schedule })));
    }
}

#[test]
fn g4_a_reload_to_code_that_throws_fails_no_request() {
    let daemon = Daemon::start();
    let port = free_port();
    daemon.file("server.js", PLAIN);
    let service = json!({ "run": "node server.js", "instances": 2, "env": { "PORT": port.to_string() } });
    daemon.file("thead.json", &json!({ "service": { "web": service } }).to_string());
    daemon.ok(&["apply", "thead.json"]);
    let pids = daemon.pids("web");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let load = Load {
        max_time: LONGEST,
        think: Duration::from_millis(2),
        ..Load::on(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))))
    }
    .start();
    runtime.block_on(load.answered(50));
    daemon.file("server.js", "throw new Error('a bad release')");
    let said = daemon.thead(&["reload", "web"]).failed(1);
    assert!(said.contains("a bad release"), "{said}");
    runtime.block_on(load.answered(200));
    let report = runtime.block_on(load.stop());
    assert_eq!(report.failures.total(), 0, "{report}");
    assert_eq!(report.workers.len(), 2, "{report}");
    daemon.wait_for("web", "only the old ones", |service| {
        service["workers"].as_array().unwrap().len() == 2
    });
    assert_eq!(daemon.pids("web"), pids);
    daemon.stop();
}
