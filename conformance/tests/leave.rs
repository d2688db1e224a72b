//! How workers end: by themselves, by order, by force, and with thead.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use conformance::{PATIENCE, Run, Runtime, Thead, client, eventually, on};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Leaves as the path says.
const LEAVES: &str = "
    const cluster = require('node:cluster');
    const ways = {
        '/disconnect': () => cluster.worker.disconnect(),
        '/kill': () => cluster.worker.kill(),
        '/destroy': () => cluster.worker.destroy(),
        '/exit': () => process.exit(7),
        '/process-disconnect': () => process.disconnect(),
        '/throw': () => { throw new Error('asked to throw') },
        '/signal': () => process.kill(process.pid, 'SIGKILL'),
    };
    const server = require('node:http').createServer((req, res) => {
        res.setHeader('x-worker', cluster.worker.id);
        const leave = ways[req.url];
        if (leave) res.on('finish', () => setImmediate(leave));
        res.end('hello');
    });
    server.listen(Number(process.env.PORT), '127.0.0.1');
";

/// One worker leaves by this path; how it ended. Another takes its place.
fn leave_by(thead: &mut Thead, port: u16, path: &str) -> Value {
    let worker = client::get(port, path).worker();
    let exited = thead.wait_for("exited", |said| said.number("worker") == worker);
    assert_eq!(exited.json["expected"], false, "nobody told it to: {}", exited.json);
    thead.wait_for("ready", |said| said.number("worker") > worker);
    assert_eq!(client::get(port, "/").status, 200);
    json!([exited.json["code"], exited.json["signal"]])
}

fn however_a_worker_leaves_the_end_is_told_and_another_takes_its_place(runtime: Runtime) {
    let run = Run::script(runtime, LEAVES).option("--restart-backoff", "10ms..10ms");
    let mut thead = run.start();
    let port = thead.ready(2);
    assert_eq!(leave_by(&mut thead, port, "/exit"), json!([7, null]));
    assert_eq!(leave_by(&mut thead, port, "/throw"), json!([1, null]));
    assert_eq!(leave_by(&mut thead, port, "/signal"), json!([null, 9]));
    thead.stop_cleanly();
}

fn trap_8_a_worker_that_leaves_by_itself_is_let_go(runtime: Runtime) {
    let run = Run::script(runtime, LEAVES).option("--restart-backoff", "10ms..10ms");
    let mut thead = run.start();
    let port = thead.ready(2);
    for path in ["/disconnect", "/kill", "/destroy", "/process-disconnect"] {
        assert_eq!(leave_by(&mut thead, port, path), json!([0, null]), "{path}");
    }
    assert!(thead.all("terminating").is_empty(), "nobody had to be pushed");
    thead.stop_cleanly();
}

fn a_worker_that_disconnects_finishes_its_requests(runtime: Runtime) {
    let text = "
        const cluster = require('node:cluster');
        const server = require('node:http').createServer((req, res) => {
            if (req.url === '/leave') cluster.worker.disconnect();
            setTimeout(() => res.setHeader('x-worker', cluster.worker.id).end('hello'), 500);
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let mut thead = Run::script(runtime, text).start();
    let port = thead.ready(2);
    let answer = client::get(port, "/leave");
    assert_eq!(answer.body, "hello");
    let exited = thead.wait_for("exited", |said| said.number("worker") == answer.worker());
    assert_eq!(exited.json["code"], 0);
    thead.stop_cleanly();
}

fn trap_14_timers_and_private_listeners_keep_no_worker_alive_after_a_stop(runtime: Runtime) {
    let text = "
        setInterval(() => {}, 1000);
        const { createServer } = require('node:http');
        createServer((req, res) => res.end('hello')).listen({ port: 0, exclusive: true });
        createServer((req, res) => res.end('hello')).listen(Number(process.env.PORT), '127.0.0.1');
    ";
    for preload in [true, false] {
        let mut run = Run::script(runtime, text);
        if !preload {
            run = run.flag("--no-preload");
        }
        let mut thead = run.start();
        thead.ready(2);
        let begun = Instant::now();
        let end = thead.stop();
        assert!(
            begun.elapsed().as_secs() < 9,
            "before the drain time is over: {:?}",
            begun.elapsed()
        );
        assert!(end.all("killing").is_empty());
    }
}

fn trap_15_a_worker_that_swallows_its_exceptions_is_stopped_like_any_other(runtime: Runtime) {
    let text = "
        process.on('uncaughtException', () => {});
        const server = require('node:http').createServer((req, res) => {
            if (req.url === '/throw') throw new Error('swallowed');
            res.end('hello');
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let mut thead = Run::script(runtime, text).workers(1).start();
    let port = thead.ready(1);
    let mut throws = TcpStream::connect(client::local(port)).unwrap();
    write!(throws, "GET /throw HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!(client::get(port, "/").body, "hello");
    drop(throws);
    thead.stop_cleanly();
}

fn trap_19_a_stopped_worker_is_ended_in_time(runtime: Runtime) {
    let run = Run::program(runtime, "http.js")
        .option("--drain", "300ms")
        .option("--stop-timeout", "300ms");
    let mut thead = run.start();
    thead.ready(2);
    conformance::kill(thead.pid_of(1), Signal::STOP);
    let end = thead.stop();
    let killed = end.only("killing");
    assert_eq!(killed.number("worker"), 1);
    let gone = end
        .all("exited")
        .into_iter()
        .find(|gone| gone.number("worker") == 1)
        .unwrap();
    assert_eq!(gone.number("signal"), 9);
}

fn trap_21_each_channel_has_one_end_in_one_worker(runtime: Runtime) {
    let mut thead = Run::program(runtime, "net.js").option("--schedule", "shared").start();
    let port = thead.ready(2);
    drop(TcpStream::connect(client::local(port)).unwrap());
    // Of all sockets of a worker only the listener is another's too.
    let sockets = [1, 2].map(|worker| conformance::Process::read(thead.pid_of(worker)).unwrap().sockets());
    let of_both: Vec<_> = sockets[0].iter().filter(|socket| sockets[1].contains(socket)).collect();
    assert_eq!(of_both.len(), 1, "{sockets:?}");
    for own in &sockets {
        let mut once = own.clone();
        once.dedup();
        assert_eq!(&once, own, "no socket is there twice");
    }
    thead.stop_cleanly();
}

fn workers_leave_when_thead_is_killed(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").start();
    thead.ready(2);
    thead.signal(Signal::KILL);
    let own = thead.process().pid;
    eventually("the workers have gone by themselves", || {
        thead
            .census()
            .processes()
            .iter()
            .all(|left| left.pid == own)
            .then_some(())
    });
    let end = thead.wait();
    assert_eq!(end.signal, Some(9));
}

fn the_last_lines_of_a_dying_worker_are_all_told(runtime: Runtime) {
    let text = "
        for (let n = 0; n < 15; n++) console.log('line ' + n);
        for (let n = 15; n < 20; n++) console.error('line ' + n);
        process.exit(3);
    ";
    let run = Run::script(runtime, text).option("--restart-backoff", "1ms..1ms");
    let end = run.end();
    assert_eq!(end.code, Some(1));
    let wanted: Vec<_> = (0..20).map(|n| format!("line {n}")).collect();
    for event in ["exited", "failed"] {
        for said in end.all(event).iter().filter(|said| said.json["expected"] != true) {
            let mut lines: Vec<String> = serde_json::from_value(said.json["last_lines"].clone()).unwrap();
            // Which of the two streams is read first is nobody's promise.
            lines.sort_by_key(|line| line[5..].parse::<u32>().unwrap());
            assert_eq!(lines, wanted, "{}", said.json);
        }
    }
}

fn the_last_lines_are_the_last_however_many_came_before(runtime: Runtime) {
    let text = "
        for (let n = 0; n < 10000; n++) console.log('line ' + n);
        // Node itself drops what its pipe has not taken when it is told to exit.
        process.stdout.write('', () => {
            console.error('the last words');
            process.exit(3);
        });
    ";
    let run = Run::script(runtime, text)
        .workers(1)
        .option("--restart-backoff", "1ms..1ms");
    let end = run.end();
    for said in end.all("exited").into_iter().chain(end.all("failed")) {
        let lines: Vec<String> = serde_json::from_value(said.json["last_lines"].clone()).unwrap();
        assert!(lines.contains(&"the last words".into()), "{}", said.json);
        assert!(lines.contains(&"line 9999".into()), "{}", said.json);
    }
    let printed = end
        .all("line")
        .iter()
        .filter(|said| said.text("stream") == "stdout")
        .count();
    assert_eq!(printed, 10_000 * end.all("exited").len(), "no line is lost");
}

fn a_connection_that_stays_open_is_cut_only_after_the_drain_time(runtime: Runtime) {
    let run = Run::program(runtime, "net.js").option("--drain", "700ms").workers(1);
    let mut thead = run.start();
    let port = thead.ready(1);
    let mut stream = TcpStream::connect(client::local(port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.read(&mut [0; 256]).unwrap();
    thead.signal(Signal::TERM);
    thead.next("draining");
    stream.write_all(b"still there?").unwrap();
    let mut echo = [0; 12];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still there?");
    thead.next("terminating");
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
}

on!(nodes_and_deno:
    however_a_worker_leaves_the_end_is_told_and_another_takes_its_place,
    trap_8_a_worker_that_leaves_by_itself_is_let_go,
    a_worker_that_disconnects_finishes_its_requests,
    trap_14_timers_and_private_listeners_keep_no_worker_alive_after_a_stop,
    trap_15_a_worker_that_swallows_its_exceptions_is_stopped_like_any_other,
    trap_19_a_stopped_worker_is_ended_in_time,
    the_last_lines_of_a_dying_worker_are_all_told,
    a_connection_that_stays_open_is_cut_only_after_the_drain_time,
);
on!([node22 Node22, deno Deno]: the_last_lines_are_the_last_however_many_came_before);
on!(all: workers_leave_when_thead_is_killed);
on!(nodes: trap_21_each_channel_has_one_end_in_one_worker);
