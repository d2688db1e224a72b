//! Bun 1.4.5: what works, and what its cluster workers cannot do. See `docs/compatibility.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{TcpStream, UdpSocket};

use conformance::{PATIENCE, Run, Runtime, Thead, client};
use rustix::process::Signal;

/// Two workers of an HTTP program on one port, which each of them binds by itself.
fn start(program: &str) -> (Thead, u16) {
    let port = client::free_port();
    let mut thead = Run::program(Runtime::Bun, program).env("PORT", port).start();
    assert_eq!(thead.ready(2), port);
    (thead, port)
}

/// The kernel spreads connections over both workers.
fn both_answer(thead: &mut Thead, port: u16) {
    let pids = client::until_all(2, || [client::get(port, "/").pid()]);
    assert_eq!(pids, (1..=2).map(|worker| thead.pid_of(worker)).collect());
}

#[test]
fn http_express_and_fastify_are_shared_by_the_kernel() {
    for program in ["http.js", "http-esm.mjs", "express.js", "fastify.js"] {
        let (mut thead, port) = start(program);
        both_answer(&mut thead, port);
        thead.stop();
    }
}

#[test]
fn https_and_websocket_work() {
    let (thead, port) = start("https.js");
    let said = client::script("https.js", &[port.to_string(), "8".into()]);
    assert!(
        said["answers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|answer| answer["worker"].is_u64()),
        "{said}"
    );
    thead.stop();

    let (thead, port) = start("ws.js");
    let said = client::script("ws.js", &[port.to_string(), "8".into()]);
    assert!(
        said.as_array().unwrap().iter().all(|answer| answer["echo"] == "hello"),
        "{said}"
    );
    thead.stop();
}

#[test]
fn cannot_be_sticky_which_is_said() {
    let port = client::free_port();
    let run = Run::program(Runtime::Bun, "http.js").env("PORT", port);
    let mut thead = run.option("--schedule", "sticky").start();
    assert!(thead.next("note").text("message").contains("do not keep their worker"));
    thead.ready(2);
    both_answer(&mut thead, port);
    thead.stop();
}

#[test]
fn udp_is_shared_as_with_node() {
    let mut thead = Run::program(Runtime::Bun, "dgram.js").start();
    let port = thead.ready(2);
    let mut pids = BTreeSet::new();
    let workers = [thead.pid_of(1), thead.pid_of(2)];
    for stopped in workers {
        conformance::kill(stopped, Signal::STOP);
        for _ in 0..5 {
            let socket = UdpSocket::bind(client::local(0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"hello", client::local(port)).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            let said: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
            pids.insert(u32::try_from(said["pid"].as_u64().unwrap()).unwrap());
        }
        conformance::kill(stopped, Signal::CONT);
    }
    assert_eq!(pids, workers.into());
    thead.stop();
}

#[test]
fn a_dead_worker_is_replaced() {
    let (mut thead, port) = start("crash.js");
    conformance::kill(thead.pid_of(1), Signal::KILL);
    assert_eq!(thead.next("exited").number("signal"), 9);
    assert_eq!(thead.next("ready").number("worker"), 3);
    for _ in 0..10 {
        assert_eq!(client::get(port, "/").status, 200);
    }
    thead.stop();
}

/// Node's defect: "unparsable worker output (Bun)" is an uncaught exception in Node's primary.
#[test]
fn defect_its_marked_messages_upset_nobody() {
    let (mut thead, _) = start("http.js");
    assert_eq!(thead.all("online").len(), 2);
    assert!(thead.all("bad_message").is_empty() && thead.all("fault").is_empty());
    thead.stop();
}

#[test]
fn cannot_net_and_http2_servers_are_refused_and_do_not_die_of_a_connection() {
    for program in ["net.js", "http2.js"] {
        let port = client::free_port();
        let end = Run::program(Runtime::Bun, program).env("PORT", port).end();
        assert_eq!(end.code, Some(1));
        assert!(
            end.all("listen_failed")
                .iter()
                .all(|said| said.text("code") == "ENOTSUP")
        );
        assert!(end.only("failed").json["last_lines"].to_string().contains("ENOTSUP"));
        TcpStream::connect(client::local(port)).unwrap_err();
    }
}

#[test]
fn cannot_port_0_is_another_port_in_each_worker() {
    let mut thead = Run::program(Runtime::Bun, "http.js").start();
    let ports: BTreeSet<_> = (0..2).map(|_| thead.next("listening").number("port")).collect();
    assert_eq!(ports.len(), 2);
    thead.ready(2);
    thead.stop();
}

#[test]
fn cannot_a_unix_socket_belongs_to_one_worker() {
    let mut thead = Run::program(Runtime::Bun, "unix.js")
        .env("SOCKET", "./socket")
        .workers(1)
        .start();
    thead.ready(1);
    let socket = thead.dir().join("socket");
    assert_eq!(client::try_get_unix(&socket, "/").unwrap().status, 200);
    thead.signal(Signal::TTIN);
    let died = thead.next("exited");
    assert!(
        died.json["last_lines"].to_string().contains("EADDRINUSE"),
        "{}",
        died.json
    );
    // A file that a worker made is the worker's to remove, and SIGTERM leaves it no time.
    std::fs::remove_file(socket).unwrap();
    thead.stop();
}

#[test]
fn cannot_drain_by_message_so_sigterm_cuts_what_is_in_flight() {
    let (thead, port) = start("http.js");
    let begun = client::begin(port, 2000);
    let end = thead.stop();
    assert!(!begun.finishes());
    assert!(
        end.all("exited").iter().all(|gone| gone.json["signal"] == 15),
        "{end:#?}"
    );
}

#[test]
fn a_program_that_handles_sigterm_finishes_its_requests() {
    let text = "
        const server = require('node:http').createServer((req, res) => {
            res.write('line\\n');
            setTimeout(() => res.end('end\\n'), 1000);
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
        process.on('SIGTERM', () => server.close(() => process.exit(0)));
    ";
    let port = client::free_port();
    let mut thead = Run::script(Runtime::Bun, text).env("PORT", port).start();
    thead.ready(2);
    let begun = client::begin(port, 1000);
    thead.signal(Signal::TERM);
    assert!(begun.finishes());
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
}

#[test]
fn a_reload_brings_new_workers_first() {
    let port = client::free_port();
    let run = Run::program(Runtime::Bun, "http.js")
        .env("PORT", port)
        .option("--soak", "0");
    let mut thead = run.start();
    thead.ready(2);
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    assert!((0..10).all(|_| client::get(port, "/").worker() > 2));
    thead.stop();
}

#[test]
fn however_a_worker_leaves_another_takes_its_place() {
    let text = "
        const cluster = require('node:cluster');
        const ways = {
            '/disconnect': () => cluster.worker.disconnect(),
            '/kill': () => cluster.worker.kill(),
            '/process-disconnect': () => process.disconnect(),
            '/exit': () => process.exit(7),
            '/throw': () => { throw new Error('asked to throw') },
        };
        const server = require('node:http').createServer((req, res) => {
            res.setHeader('x-worker', cluster.worker.id);
            const leave = ways[req.url];
            if (leave) setTimeout(leave, 50);
            res.end('hello');
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let port = client::free_port();
    let run = Run::script(Runtime::Bun, text)
        .env("PORT", port)
        .option("--restart-backoff", "10ms..10ms");
    let mut thead = run.start();
    thead.ready(2);
    // After its disconnect the server goes on without a channel, and is ended for that.
    for (path, code) in [
        ("/disconnect", None),
        ("/process-disconnect", Some(0)),
        ("/kill", Some(0)),
        ("/exit", Some(7)),
        ("/throw", Some(1)),
    ] {
        let worker = client::get(port, path).worker();
        let exited = thead.wait_for("exited", |said| said.number("worker") == worker);
        assert_eq!(exited.json["code"].as_u64(), code, "{path}: {}", exited.json);
        thead.wait_for("ready", |said| said.number("worker") > worker);
    }
    thead.stop();
}
