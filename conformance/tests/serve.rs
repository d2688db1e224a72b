//! Unmodified servers of every kind, several processes on one port. (Bun: `bun.rs`.)
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use conformance::client::{self, Answer};
use conformance::{Run, Runtime, on};
use serde_json::Value;

fn both_workers_answer(runtime: Runtime, program: &str) {
    let mut thead = Run::program(runtime, program).start();
    let port = thead.ready(2);
    let pids = client::until_all(2, || {
        let answer = client::get(port, "/");
        assert_eq!(answer.status, 200);
        [answer.pid()]
    });
    assert_eq!(pids, (1..=2).map(|worker| thead.pid_of(worker)).collect());
    thead.stop_cleanly();
}

fn http(runtime: Runtime) {
    both_workers_answer(runtime, "http.js");
}

fn http_from_an_ecmascript_module(runtime: Runtime) {
    both_workers_answer(runtime, "http-esm.mjs");
}

fn express(runtime: Runtime) {
    both_workers_answer(runtime, "express.js");
}

fn fastify(runtime: Runtime) {
    both_workers_answer(runtime, "fastify.js");
}

fn workers_of(answers: &Value) -> BTreeSet<u64> {
    answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer["worker"].as_u64().unwrap())
        .collect()
}

fn https(runtime: Runtime) {
    let mut thead = Run::program(runtime, "https.js").start();
    let port = thead.ready(2);
    client::until_all(2, || {
        workers_of(&client::script("https.js", &[port.to_string(), "4".into()])["answers"])
    });
    thead.stop_cleanly();
}

/// Both requests of a session have the same worker, and both workers have sessions.
fn sessions(url: &str) {
    client::until_all(2, || {
        let answers = client::script("http2.js", &[url.to_owned(), "4".into()]);
        assert!(
            answers.as_array().unwrap().iter().all(|answer| answer["same"] == true),
            "{answers}"
        );
        workers_of(&answers)
    });
}

fn http2(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http2.js").start();
    let port = thead.ready(2);
    sessions(&format!("http://127.0.0.1:{port}"));
    thead.stop_cleanly();
}

fn http2_over_tls(runtime: Runtime) {
    let port = client::free_port();
    let mut thead = Run::program(runtime, "http2.js").env("TLS_PORT", port).start();
    for _ in 0..2 {
        thead.wait_for("listening", |said| said.number("port") == u64::from(port));
    }
    sessions(&format!("https://127.0.0.1:{port}"));
    thead.stop_cleanly();
}

fn websocket(runtime: Runtime) {
    let mut thead = Run::program(runtime, "ws.js").start();
    let port = thead.ready(2);
    client::until_all(2, || {
        let answers = client::script("ws.js", &[port.to_string(), "4".into()]);
        assert!(
            answers
                .as_array()
                .unwrap()
                .iter()
                .all(|answer| answer["echo"] == "hello"),
            "{answers}"
        );
        workers_of(&answers)
    });
    thead.stop_cleanly();
}

fn tcp(runtime: Runtime) {
    let mut thead = Run::program(runtime, "net.js").start();
    let port = thead.ready(2);
    client::until_all(2, || {
        let mut lines = BufReader::new(TcpStream::connect(client::local(port)).unwrap());
        let (mut who, mut echo) = (String::new(), String::new());
        lines.read_line(&mut who).unwrap();
        lines.get_mut().write_all(b"hello\n").unwrap();
        lines.read_line(&mut echo).unwrap();
        assert_eq!(echo, "hello\n");
        let who: Value = serde_json::from_str(&who).unwrap();
        [who["worker"].as_u64().unwrap()]
    });
    thead.stop_cleanly();
}

const TYPESCRIPT: &str = "
    import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
    const answer = (req: IncomingMessage, res: ServerResponse): void => { res.end('typed'); };
    createServer(answer).listen(Number(process.env.PORT), '127.0.0.1');
";

fn typed(runtime: Runtime) -> (u16, Run) {
    let port = client::free_port();
    let run = Run::words(["./server.ts"])
        .file("server.ts", TYPESCRIPT)
        .file("package.json", r#"{ "type": "module" }"#);
    (
        port,
        run.option("--runtime", runtime.path().display())
            .workers(2)
            .env("PORT", port),
    )
}

fn typescript(runtime: Runtime) {
    let (port, run) = typed(runtime);
    let mut thead = run.start();
    thead.ready(2);
    assert_eq!(client::get(port, "/").body, "typed");
    thead.stop();
}

fn cannot_run_typescript_before_node_22(runtime: Runtime) {
    let (_, run) = typed(runtime);
    let end = run.end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.only("failed").json["last_lines"]
            .to_string()
            .contains("ERR_UNKNOWN_FILE_EXTENSION")
    );
}

/// Sequential requests until `count` of them in a row were answered so fast that no worker can have become doubtful.
fn quick_run(port: u16, count: usize) -> Vec<u64> {
    // An offer unanswered for 50 ms costs a worker its turn: on a busy machine that is no fault.
    for _ in 0..50 {
        let answers: Vec<_> = (0..count).map(|_| client::get(port, "/")).collect();
        if answers.iter().all(|answer| answer.took < Duration::from_millis(40)) {
            return answers.iter().map(Answer::worker).collect();
        }
    }
    panic!("this machine is too busy: no {count} requests in a row were answered within 40 ms each");
}

fn round_robin_is_strictly_in_turn(runtime: Runtime) {
    for workers in [2, 4] {
        let mut thead = Run::program(runtime, "http.js").workers(workers).start();
        let port = thead.ready(workers);
        let order = quick_run(port, 10 * workers);
        let mut shares = BTreeMap::new();
        for worker in &order {
            *shares.entry(*worker).or_insert(0) += 1;
        }
        assert_eq!(
            shares,
            (1..=workers as u64).map(|worker| (worker, 10)).collect(),
            "{order:?}"
        );
        for (n, worker) in order.iter().enumerate() {
            assert_eq!(*worker, order[n % workers], "the order does not repeat: {order:?}");
        }
        thead.stop_cleanly();
    }
}

fn shared_workers_accept_from_one_socket(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").option("--schedule", "shared").start();
    let port = thead.ready(2);
    let sockets = |thead: &mut conformance::Thead, worker| {
        let pid = thead.pid_of(worker);
        conformance::Process::read(pid).unwrap().sockets()
    };
    let (one, two) = (sockets(&mut thead, 1), sockets(&mut thead, 2));
    assert!(one.iter().any(|socket| two.contains(socket)), "{one:?} {two:?}");
    for _ in 0..20 {
        assert_eq!(client::get(port, "/").status, 200);
    }
    thead.stop_cleanly();
}

fn the_policy_can_come_from_nodes_own_variable(runtime: Runtime) {
    let run = Run::program(runtime, "http.js").under(["env", "NODE_CLUSTER_SCHED_POLICY=none"]);
    let mut thead = run.start();
    thead.ready(2);
    assert_eq!(thead.next("started").text("schedule"), "shared");
    thead.stop_cleanly();
}

on!(nodes_and_deno: http, http_from_an_ecmascript_module, express, fastify, https, http2, http2_over_tls, websocket, tcp);
on!(nodes_and_deno: round_robin_is_strictly_in_turn);
on!(nodes: shared_workers_accept_from_one_socket);
on!([node22 Node22]: the_policy_can_come_from_nodes_own_variable);
on!([node22 Node22, node24 Node24, node26 Node26, bun Bun, deno Deno]: typescript);
on!([node18 Node18, node20 Node20]: cannot_run_typescript_before_node_22);
