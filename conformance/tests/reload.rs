//! Twenty reloads under load: no request fails, and no client of plain HTTP/1.1 even loses its connection.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use conformance::client::Steady;
use conformance::load::{Load, Mode, Report, Request, Target};
use conformance::{PATIENCE, Run, Runtime, on};
use rustix::process::Signal;
use serde_json::{Value, json};

const RELOADS: u64 = 20;
/// Clients that keep their connection.
const KEPT: usize = 12;
/// A bound for a load that nobody ends.
const LONGEST: Duration = Duration::from_secs(300);

/// What clients ask: most are answered at once, some after 50 ms, and some bring something.
fn mix() -> Vec<(u32, Request)> {
    vec![
        (6, Request::get("/")),
        (2, Request::get("/slow?ms=50")),
        (2, Request::post("/", "x".repeat(3000))),
    ]
}

struct Seen {
    kept: Report,
    fresh: Report,
    /// Connections that moved from one worker to another.
    moved: u64,
}

/// Reloads twenty times under both kinds of load.
fn reload(run: Run) -> Seen {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // The new generation need not live long to be believed here: that would only make the test longer.
    // Nor does a busy machine that takes long to start a worker prove anything.
    let mut thead = run.option("--soak", "0").option("--ready-timeout", "60s").start();
    let target = Target::Tcp(SocketAddr::from(([127, 0, 0, 1], thead.ready(2))));
    let load = Load {
        mix: mix(),
        think: Duration::from_millis(5),
        max_time: LONGEST,
        ..Load::on(target)
    };
    let _guard = runtime.enter();
    let kept = Load {
        connections: KEPT,
        ..load.clone()
    }
    .start();
    let fresh = Load {
        connections: 4,
        mode: Mode::NewConnections,
        ..load
    }
    .start();
    let mut moved = 0;
    for reload in 1..=RELOADS {
        runtime.block_on(async { tokio::join!(kept.answered(20), fresh.answered(5)) });
        thead.signal(Signal::HUP);
        let done = thead.wait_for("reload_done", |said| said.number("generation") == reload + 1);
        moved = done.number("handed_back");
    }
    runtime.block_on(async { tokio::join!(kept.answered(20), fresh.answered(5)) });
    let (kept, fresh) = runtime.block_on(async { tokio::join!(kept.stop(), fresh.stop()) });
    assert_eq!(thead.all("reload_aborted").len(), 0);
    thead.stop();
    // Had the workers not really been replaced, nothing would be proven.
    assert!(kept.workers.len() as u64 > RELOADS, "{kept}");
    Seen { kept, fresh, moved }
}

fn nothing_is_lost(run: Run) {
    let Seen { kept, fresh, moved } = reload(run);
    assert_eq!(kept.failures.total() + fresh.failures.total(), 0, "\n{kept}\n{fresh}");
    assert_eq!(kept.opened, KEPT as u64, "a client's connection was closed: {kept}");
    assert_eq!((kept.closed_politely, kept.closed_idle), (0, 0), "{kept}");
    assert!(moved >= RELOADS * KEPT as u64 / 4, "only {moved} connections moved");
}

fn twenty_reloads_lose_nothing_and_close_no_connection_of_plain_http(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "http.js"));
}

fn twenty_reloads_lose_nothing_and_close_no_connection_of_a_module(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "http-esm.mjs"));
}

fn twenty_reloads_lose_nothing_and_close_no_connection_of_express(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "express.js"));
}

fn twenty_reloads_lose_nothing_and_close_no_connection_of_fastify(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "fastify.js"));
}

fn twenty_reloads_under_shared_scheduling_lose_nothing(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "http.js").option("--schedule", "shared"));
}

fn twenty_reloads_under_kernel_scheduling_lose_nothing(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "http.js").option("--schedule", "kernel"));
}

fn twenty_reloads_under_sticky_scheduling_lose_nothing(runtime: Runtime) {
    nothing_is_lost(Run::program(runtime, "http.js").option("--schedule", "sticky"));
}

/// Where a fresh connection would be answered 408 after a minute, this one ends as any idle one does.
fn a_connection_that_moved_still_has_the_servers_keep_alive_timeout(runtime: Runtime) {
    const SERVER: &str = "const server = require('http').createServer((req, res) => res.end('x'));
        server.keepAliveTimeout = 3000; server.listen(0, '127.0.0.1');";
    let mut thead = Run::script(runtime, SERVER).option("--soak", "0").start();
    let mut client = TcpStream::connect(("127.0.0.1", thead.ready(2))).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nx") {
        let mut byte = [0];
        assert_eq!(client.read(&mut byte).unwrap(), 1);
        answer.push(byte[0]);
    }
    thead.signal(Signal::HUP);
    let moved = thead.next("reload_done").number("handed_back");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    // Perhaps twice: from one old worker to the other, and on.
    assert!(moved >= 1);
    assert_eq!(String::from_utf8_lossy(&rest), "");
    thead.stop();
}

/// What steady clients of one kind saw of three reloads.
fn reload_under(run: Run, kind: &str, url: impl Fn(u16) -> String) -> Value {
    let mut thead = run.option("--soak", "0").option("--lame-duck", "500ms").start();
    let port = thead.ready(2);
    let clients = Steady::start(kind, &url(port), 8);
    for generation in 2..=4 {
        thead.signal(Signal::HUP);
        thead.wait_for("reload_done", |said| said.number("generation") == generation);
    }
    let seen = clients.stop();
    thead.stop();
    seen
}

fn reloads_lose_no_request_of_https_clients(runtime: Runtime) {
    let seen = reload_under(Run::program(runtime, "https.js"), "https", |port| {
        format!("https://127.0.0.1:{port}/")
    });
    assert_eq!(seen["failures"], json!({}), "{seen}");
    // More than the two that were there at first; a client that comes late sees fewer of all.
    assert!(seen["workers"].as_object().unwrap().len() > 2, "{seen}");
}

fn reloads_tell_http2_clients_to_go_and_lose_no_request(runtime: Runtime) {
    let seen = reload_under(Run::program(runtime, "http2.js"), "http2", |port| {
        format!("http://127.0.0.1:{port}/")
    });
    assert_eq!(seen["failures"], json!({}), "{seen}");
    assert!(seen["goaways"].as_u64().unwrap() >= 8, "{seen}");
}

fn a_websocket_is_left_until_the_drain_is_over(runtime: Runtime) {
    let run = Run::program(runtime, "ws.js").option("--drain", "2s");
    let seen = reload_under(run, "ws", |port| format!("ws://127.0.0.1:{port}/"));
    let closes = seen["closes"].as_array().unwrap();
    assert_eq!(closes.len(), 8, "{seen}");
    assert!(closes.iter().all(|ms| ms.as_u64().unwrap() >= 1900), "{seen}");
}

/// The proof that the tests above can fail: the same without the preload.
fn without_the_preload_clients_lose_their_connections(runtime: Runtime) {
    let Seen { kept, moved, .. } = reload(
        Run::program(runtime, "http.js")
            .flag("--no-preload")
            .option("--drain", "1s"),
    );
    assert_eq!(moved, 0);
    assert!(
        kept.opened > KEPT as u64 && kept.failures.total() + kept.closed_idle > 0,
        "{kept}"
    );
}

on!(nodes: twenty_reloads_lose_nothing_and_close_no_connection_of_plain_http,
    twenty_reloads_lose_nothing_and_close_no_connection_of_express,
    twenty_reloads_lose_nothing_and_close_no_connection_of_fastify);
on!([node18 Node18, node26 Node26]: twenty_reloads_lose_nothing_and_close_no_connection_of_a_module,
    twenty_reloads_under_shared_scheduling_lose_nothing, twenty_reloads_under_sticky_scheduling_lose_nothing);
on!([node18 Node18, node22 Node22, node26 Node26]: twenty_reloads_under_kernel_scheduling_lose_nothing);
on!(nodes: reloads_lose_no_request_of_https_clients, reloads_tell_http2_clients_to_go_and_lose_no_request);
on!([node18 Node18, node22 Node22, node26 Node26]: a_connection_that_moved_still_has_the_servers_keep_alive_timeout);
on!([node22 Node22]: a_websocket_is_left_until_the_drain_is_over,
    without_the_preload_clients_lose_their_connections);
