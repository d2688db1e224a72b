//! Connections in a worker's hand: whoever dies, hangs, stands still or is full, no client is lost or waits for it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use conformance::client::{self, Answer};
use conformance::{PATIENCE, Process, Run, Runtime, eventually, on};
use rustix::process::Signal;

/// Requests at once, each on a connection of its own.
fn at_once(port: u16, count: usize) -> Vec<JoinHandle<Answer>> {
    (0..count)
        .map(|_| std::thread::spawn(move || client::get(port, "/")))
        .collect()
}

fn answers(requests: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    requests.into_iter().map(|request| request.join().unwrap()).collect()
}

/// Stands still for four seconds when asked to, and uses no processor meanwhile: tests run beside it.
const BLOCKS: &str = "
    const server = require('node:http').createServer((req, res) => {
        if (req.url === '/block') {
            require('node:fs').writeSync(1, 'blocked\\n');
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 4000);
        }
        res.setHeader('x-pid', process.pid).end('hello');
    });
    server.listen(Number(process.env.PORT), '127.0.0.1');
";

/// Under Node, one connection waits for the blocked worker.
fn nobody_waits_for_a_blocked_worker(runtime: Runtime) {
    let mut thead = Run::script(runtime, BLOCKS).start();
    let port = thead.ready(2);
    let blocked = std::thread::spawn(move || client::get(port, "/block"));
    let worker = thead
        .wait_for("line", |said| said.text("text") == "blocked")
        .number("worker");
    let pid = thead.pid_of(worker);
    for _ in 0..20 {
        assert_ne!(client::get(port, "/").pid(), pid);
    }
    for answer in answers(at_once(port, 20)) {
        assert_ne!(answer.pid(), pid);
    }
    assert!(
        !blocked.is_finished(),
        "all were answered before the blocked worker was back"
    );
    assert_eq!(blocked.join().unwrap().pid(), pid);
    // And it is one of two again.
    eventually("the other worker answers again", || {
        (client::get(port, "/").pid() == pid).then_some(())
    });
    thead.stop_cleanly();
}

fn nobody_waits_for_a_stopped_worker_and_its_death_loses_nothing(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").start();
    let port = thead.ready(2);
    conformance::kill(thead.pid_of(1), Signal::STOP);
    let other = thead.pid_of(2);
    assert!(answers(at_once(port, 20)).iter().all(|answer| answer.pid() == other));
    // These may be in its hand when it dies.
    let requests = at_once(port, 20);
    conformance::kill(thead.pid_of(1), Signal::KILL);
    assert!(answers(requests).iter().all(|answer| answer.status == 200));
    thead.wait_for("exited", |said| said.number("signal") == 9);
    thead.ready(1);
    thead.stop_cleanly();
}

/// Node's defect: "worker dies with an unanswered newconn" leaves the client's connection open and silent for ever.
fn defect_the_only_worker_dies_with_offers_in_hand_and_its_successor_answers_them(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").workers(1).start();
    let port = thead.ready(1);
    let pid = thead.pid_of(1);
    let primary = thead.process().descriptors();
    conformance::kill(pid, Signal::STOP);
    let mut requests = at_once(port, 3);
    // They are offered when thead has accepted them, and keeps its copies.
    eventually("the connections are accepted", || {
        (thead.process().descriptors() >= primary + 3).then_some(())
    });
    requests.extend(at_once(port, 20));
    conformance::kill(pid, Signal::KILL);
    let answers = answers(requests);
    assert!(answers.iter().all(|answer| answer.pid() != pid), "{answers:?}");
    thead.ready(1);
    eventually("no copy is kept", || {
        (thead.process().descriptors() <= primary + 1).then_some(())
    });
    thead.stop_cleanly();
}

/// Node's defects: "exited worker still schedulable", "pending connections and listener closed when the last worker leaves".
fn defect_connections_wait_while_no_worker_is_there(runtime: Runtime) {
    let run = Run::program(runtime, "http.js")
        .workers(1)
        .option("--restart-backoff", "700ms..700ms");
    let mut thead = run.start();
    let port = thead.ready(1);
    conformance::kill(thead.pid_of(1), Signal::KILL);
    let mut requests = at_once(port, 5);
    thead.next("exited");
    requests.extend(at_once(port, 5));
    assert!(thead.all("spawned").len() == 1, "nobody is there yet");
    assert!(answers(requests).iter().all(|answer| answer.worker() == 2));
    thead.stop_cleanly();
}

fn a_worker_that_kills_itself_over_and_over_costs_only_its_own_connection(runtime: Runtime) {
    let run = Run::program(runtime, "crash.js").option("--restart-limit", "100/60s");
    let mut thead = run.option("--restart-backoff", "10ms..10ms").start();
    let port = thead.ready(2);
    for _ in 0..5 {
        client::try_get(port, "/signal?name=SIGKILL").unwrap_err();
        // Its client knows of its death before we do: from here on nothing may go to it.
        for _ in 0..5 {
            assert_eq!(client::get(port, "/").status, 200);
        }
        assert_eq!(thead.next("exited").number("signal"), 9);
    }
    thead.stop();
}

/// A connection that is served and stays.
fn occupy(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(client::local(port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 200");
    stream
}

/// Node's defect "reject loop": the connection is offered again at once, endlessly.
fn defect_full_workers_are_asked_now_and_then_and_the_client_waits(runtime: Runtime) {
    let mut thead = Run::program(runtime, "maxconn.js").env("MAX", 1).start();
    let port = thead.ready(2);
    let held = [occupy(port), occupy(port)];
    let cpu = |thead: &conformance::Thead| thead.process().cpu;
    let (before, begun) = (cpu(&thead), Instant::now());
    let waiting = at_once(port, 1);
    // The one thing here that has to be watched for a while: that nothing happens, and costs nothing.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!waiting[0].is_finished());
    let share = (cpu(&thead) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.35, "thead spins: {share}");
    drop(held);
    assert_eq!(answers(waiting)[0].status, 200);
    thead.stop_cleanly();
}

const DROPS: &str = "
    const server = require('node:http').createServer((req, res) => res.end('hello'));
    server.maxConnections = 1;
    server.dropMaxConnection = true;
    server.listen(Number(process.env.PORT), '127.0.0.1');
";

fn full_workers_may_drop_connections_since_node_22(runtime: Runtime) {
    let mut thead = Run::script(runtime, DROPS).workers(1).start();
    let port = thead.ready(1);
    let held = occupy(port);
    client::try_get(port, "/").unwrap_err();
    drop(held);
    eventually("there is room again", || client::try_get(port, "/").ok());
    thead.stop_cleanly();
}

fn a_listener_without_a_server_keeps_its_connections_for_the_next(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => res.end('hello'));
        const listen = () => server.listen(Number(process.env.PORT), '127.0.0.1');
        process.on('SIGUSR2', () => server.listening ? server.close(() => process.send('closed')) : listen());
        listen();
    ";
    let port = client::free_port();
    let mut thead = Run::script(runtime, text).workers(1).env("PORT", port).start();
    thead.ready(1);
    thead.signal(Signal::USR2);
    assert_eq!(thead.next("message").json["message"], "closed");
    let mut stream = TcpStream::connect(client::local(port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    thead.signal(Signal::USR2);
    write!(stream, "GET / HTTP/1.1\r\nConnection: close\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    thead.stop_cleanly();
}

fn trap_1_a_slow_client_does_not_stall_its_worker(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").workers(1).start();
    let port = thead.ready(1);
    let mut slow = TcpStream::connect(client::local(port)).unwrap();
    write!(slow, "GET /big?bytes=50000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut first = [0; 1024];
    slow.read_exact(&mut first).unwrap();
    for _ in 0..5 {
        assert_eq!(client::get(port, "/").status, 200);
    }
    drop(slow);
    thead.stop_cleanly();
}

fn trap_13_a_destroyed_connection_ends_for_its_client(runtime: Runtime) {
    let text = "
        const server = require('node:net').createServer((socket) => {
            socket.on('error', () => {});
            socket.on('data', () => socket.destroy());
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let mut thead = Run::script(runtime, text).start();
    let port = thead.ready(2);
    for _ in 0..4 {
        let mut stream = TcpStream::connect(client::local(port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "the end of the stream");
    }
    thead.stop_cleanly();
}

fn no_descriptor_is_kept_of_what_was_served(runtime: Runtime) {
    let run = Run::program(runtime, "http.js").option("--restart-backoff", "10ms..10ms");
    let mut thead = run.start();
    let port = thead.ready(2);
    assert_eq!(client::get(port, "/").status, 200);
    let before = eventually("all connections are passed on", || {
        let (one, two) = (thead.process().descriptors(), thead.process().descriptors());
        (one == two).then_some(one)
    });
    for _ in 0..3 {
        let worker = thead.all("ready").last().unwrap().number("worker");
        answers(at_once(port, 30));
        conformance::kill(thead.pid_of(worker), Signal::KILL);
        thead.wait_for("exited", |said| said.number("worker") == worker);
        thead.wait_for("ready", |said| said.number("worker") > worker);
    }
    eventually("as many descriptors as before", || {
        (thead.process().descriptors() <= before).then_some(())
    });
    let zombies = thead
        .census()
        .processes()
        .into_iter()
        .filter(Process::is_zombie)
        .count();
    assert_eq!(zombies, 0);
    thead.stop_cleanly();
}

on!(nodes_and_deno:
    nobody_waits_for_a_blocked_worker,
    nobody_waits_for_a_stopped_worker_and_its_death_loses_nothing,
    defect_the_only_worker_dies_with_offers_in_hand_and_its_successor_answers_them,
    defect_connections_wait_while_no_worker_is_there,
    a_worker_that_kills_itself_over_and_over_costs_only_its_own_connection,
    defect_full_workers_are_asked_now_and_then_and_the_client_waits,
    a_listener_without_a_server_keeps_its_connections_for_the_next,
    trap_1_a_slow_client_does_not_stall_its_worker,
    trap_13_a_destroyed_connection_ends_for_its_client,
);
on!([node22 Node22, node24 Node24, node26 Node26]: full_workers_may_drop_connections_since_node_22);
on!([node18 Node18, node26 Node26]: no_descriptor_is_kept_of_what_was_served);
