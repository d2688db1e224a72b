//! What a worker has in hand when it is told to leave: requests in every state are finished where they are, and the
//! connection moves when it is between two of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use conformance::{PATIENCE, Run, Runtime, Thead, client, eventually, on};
use rustix::process::Signal;
use serde_json::Value;

/// Answers early on `/early`, before the body is there; in pieces on `/events`; after `?ms=` elsewhere. OPTIONS has what is
/// changed on the server.
const SERVER: &str = "
    const http = require('node:http');
    const server = http.createServer((req, res) => {
        const { pathname, searchParams } = new URL(req.url, 'http://host');
        const ms = Number(searchParams.get('ms'));
        res.setHeader('x-pid', process.pid);
        if (pathname === '/early') return res.end('early');
        if (pathname === '/events') {
            res.writeHead(200, { 'content-type': 'text/event-stream', 'content-length': 100 * 6 });
            let left = 100;
            const timer = setInterval(() => {
                res.write('data\\n\\n');
                if (--left === 0) { clearInterval(timer); res.end(); }
            }, 5);
            return;
        }
        let bytes = 0;
        req.on('data', (data) => bytes += data.length);
        req.on('end', () => setTimeout(() => res.end(String(bytes)), ms));
    });
";

fn server(runtime: Runtime, then: &str) -> Run {
    Run::script(runtime, &format!("{SERVER}{then}"))
        .workers(1)
        .option("--soak", "0")
}

const LISTEN: &str = "server.listen(Number(process.env.PORT), '127.0.0.1');";

/// A client that keeps its connection.
struct Client<S>(S);

struct Answer {
    pid: u32,
    body: String,
    close: bool,
}

impl Client<TcpStream> {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(client::local(port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Whether the connection ends with nothing more to read.
    fn ends_quietly(mut self) -> bool {
        let mut rest = Vec::new();
        matches!(self.0.read_to_end(&mut rest), Ok(0))
    }
}

impl<S: Read + Write> Client<S> {
    fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let read = self.0.read(&mut byte).unwrap();
            assert_eq!(read, 1, "the connection ended in {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = vec![0; field("content-length:").unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Answer {
            pid: field("x-pid:").unwrap().parse().unwrap(),
            body: String::from_utf8(body).unwrap(),
            close: field("connection:") == Some("close"),
        }
    }

    fn ask(&mut self, path: &str) -> Answer {
        self.write(&get(path));
        self.answer()
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Reloads until the first worker has been told to leave; the processes of both.
fn begin(thead: &mut Thead) -> (u32, u32) {
    thead.signal(Signal::HUP);
    thead.wait_for("draining", |said| said.number("worker") == 1);
    (thead.pid_of(1), thead.pid_of(2))
}

/// The old worker has left of its own accord, and this connection is served by the new one.
fn ends<S: Read + Write>(mut thead: Thead, mut client: Client<S>, new: u32) {
    let done = thead.next("reload_done");
    assert_eq!(client.ask("/").pid, new, "the connection has moved");
    assert!(done.number("handed_back") >= 1);
    let old = thead.wait_for("exited", |said| said.number("worker") == 1);
    assert_eq!(old.json["code"], 0);
    assert!(thead.all("terminating").is_empty(), "nobody had to be pushed");
    thead.stop_cleanly();
}

fn half_a_head_is_finished_where_it_began(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write("GET / HT");
    let (old, new) = begin(&mut thead);
    client.write("TP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().pid, old);
    ends(thead, client, new);
}

fn a_connection_without_a_byte_moves(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let client = Client::connect(thead.ready(1));
    let (_, new) = begin(&mut thead);
    ends(thead, client, new);
}

fn g2_half_a_body_is_finished_where_it_began(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    let (old, new) = begin(&mut thead);
    client.write("67890");
    let answer = client.answer();
    assert_eq!((answer.pid, answer.body.as_str()), (old, "10"));
    ends(thead, client, new);
}

fn what_follows_an_early_answer_is_not_taken_for_a_request(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write("PUT /early HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.answer().body, "early");
    let (_, new) = begin(&mut thead);
    client.write("67890");
    ends(thead, client, new);
}

fn a_client_that_is_answered_before_it_has_asked_is_told_to_leave(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    let head = "PUT /early HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n";
    client.write(head);
    assert!(!client.answer().close);
    begin(&mut thead);
    // The rest of each request comes together with the next one, so that the connection is never idle.
    let mut answers = 0;
    loop {
        client.write(&format!("1234567890{head}"));
        answers += 1;
        if client.answer().close {
            break;
        }
        assert!(answers < 10, "it may go on for ever");
    }
    thead.next("reload_done");
    assert!(thead.all("killing").is_empty(), "nobody was cut off");
    thead.stop_cleanly();
}

fn half_of_a_pipelined_request_stays(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write(&format!("{}GET /2 HTTP/1.1\r\nHo", get("/?ms=300")));
    let (old, new) = begin(&mut thead);
    assert_eq!(client.answer().pid, old);
    client.write("st: test\r\n\r\n");
    assert_eq!(client.answer().pid, old);
    ends(thead, client, new);
}

fn a_stream_of_events_runs_to_its_end(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write(&get("/events"));
    let (old, new) = begin(&mut thead);
    let answer = client.answer();
    assert_eq!((answer.pid, answer.body.len()), (old, 600));
    ends(thead, client, new);
}

fn requests_that_meet_a_connection_on_its_way_are_answered(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let port = thead.ready(1);
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(port)).collect();
    for client in &mut clients {
        client.ask("/");
    }
    let (_, new) = begin(&mut thead);
    for client in &mut clients {
        client.write(&get("/"));
    }
    for client in &mut clients {
        client.answer();
    }
    let client = clients.pop().unwrap();
    ends(thead, client, new);
}

fn a_client_that_pipelines_without_end_lets_the_worker_leave(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    let mut writer = Client(client.0.try_clone().unwrap());
    let (stop, stopped) = channel::<()>();
    let asks = std::thread::spawn(move || {
        let mut asked = 0;
        // More than is answered meanwhile: there is always a request behind the one that is answered.
        while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            writer.write(&get("/?ms=100"));
            asked += 1;
        }
        asked
    });
    client.answer();
    let (_, new) = begin(&mut thead);
    thead.wait_for("exited", |said| said.number("worker") == 1);
    assert!(thead.all("terminating").is_empty());
    drop(stop);
    let mut last = 0;
    for _ in 1..asks.join().unwrap() {
        last = client.answer().pid;
    }
    assert_eq!(last, new);
    thead.stop_cleanly();
}

fn a_stop_that_overtakes_a_drain_loses_no_request(runtime: Runtime) {
    let mut thead = server(runtime, LISTEN).start();
    let mut client = Client::connect(thead.ready(1));
    client.write(&get("/?ms=1000"));
    let (old, _) = begin(&mut thead);
    thead.signal(Signal::TERM);
    assert_eq!(client.answer().pid, old);
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
    assert!(end.all("terminating").is_empty());
}

fn what_reads_first_itself_is_not_handed_back_but_asked_to_leave(runtime: Runtime) {
    // As packages do that take a PROXY header off a connection before HTTP sees it.
    const BEHIND_PROXY: &str = "
        const listeners = server.listeners('connection');
        server.removeAllListeners('connection');
        server.on('connection', (socket) => socket.once('readable', () => {
            socket.read(3);
            for (const listener of listeners) listener.call(server, socket);
        }));
    ";
    let mut thead = server(runtime, &format!("{BEHIND_PROXY}{LISTEN}"))
        .option("--lame-duck", "500ms")
        .start();
    let port = thead.ready(1);
    let (mut client, mut idle) = (Client::connect(port), Client::connect(port));
    for client in [&mut client, &mut idle] {
        client.write("PRX");
        client.ask("/");
    }
    let (old, _) = begin(&mut thead);
    // The order may reach the worker after the next request.
    eventually("the worker asks its client to leave", || {
        let answer = client.ask("/");
        assert_eq!(answer.pid, old);
        answer.close.then_some(())
    });
    assert!(client.ends_quietly());
    assert!(idle.ends_quietly(), "after the lame-duck time");
    assert_eq!(thead.next("reload_done").number("handed_back"), 0);
    thead.stop_cleanly();
}

fn a_listener_of_its_own_is_closed_politely(runtime: Runtime) {
    const EXCLUSIVE: &str = "
        server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => process.send(server.address().port));
    ";
    let mut thead = server(runtime, EXCLUSIVE)
        .option("--ready", "100ms")
        .option("--lame-duck", "500ms")
        .start();
    let port = u16::try_from(thead.next("message").number("message")).unwrap();
    thead.ready(1);
    let (mut client, mut idle) = (Client::connect(port), Client::connect(port));
    client.ask("/");
    idle.ask("/");
    begin(&mut thead);
    eventually("the worker asks its client to leave", || {
        client.ask("/").close.then_some(())
    });
    assert!(client.ends_quietly());
    assert!(idle.ends_quietly());
    assert_eq!(thead.next("reload_done").number("handed_back"), 0);
    thead.stop_cleanly();
}

fn a_unix_socket_by_a_relative_path_finds_its_way_back(runtime: Runtime) {
    let mut thead = server(runtime, "server.listen('./at.sock');").start();
    thead.ready(1);
    let stream = UnixStream::connect(thead.dir().join("at.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client(stream);
    client.ask("/");
    let (_, new) = begin(&mut thead);
    ends(thead, client, new);
}

fn a_plain_server_is_waited_for(runtime: Runtime) {
    let mut thead = Run::program(runtime, "net.js").workers(1).option("--soak", "0").start();
    let port = thead.ready(1);
    let mut stream = TcpStream::connect(client::local(port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(stream.read(&mut [0; 256]).unwrap() > 0);
    let (_, new) = begin(&mut thead);
    for _ in 0..10 {
        let mut echo = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut echo).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // Who comes now is served by the other.
    let mut line = [0; 256];
    let mut other = TcpStream::connect(client::local(port)).unwrap();
    let read = other.read(&mut line).unwrap();
    let said: Value = serde_json::from_slice(line[..read].trim_ascii()).unwrap();
    assert_eq!(said["pid"], new);
    drop(stream);
    thead.next("reload_done");
    assert!(thead.all("terminating").is_empty());
    drop(other);
    thead.stop_cleanly();
}

fn threads_and_grandchildren_do_not_get_the_preload(runtime: Runtime) {
    let text = "
        const { Worker } = require('node:worker_threads');
        const { fork } = require('node:child_process');
        const listens = `require('node:net').Server.prototype.listen.toString().includes('WeakRef')`;
        const tell = (who) => (patched) => process.send({ who, patched, exec: process.execArgv });
        if (process.argv[2]) return process.send(eval(listens));
        tell('worker')(eval(listens));
        new Worker(`require('node:worker_threads').parentPort.postMessage(${listens})`, { eval: true })
            .on('message', tell('thread'));
        fork(__filename, ['grandchild']).on('message', tell('grandchild'));
        setInterval(() => {}, 1000);
    ";
    let mut thead = Run::script(runtime, text).workers(1).option("--ready", "0").start();
    for _ in 0..3 {
        let said = thead.next("message").json["message"].clone();
        assert_eq!(said["patched"], said["who"] == "worker", "{said}");
        assert_eq!(said["exec"], serde_json::json!([]), "{said}");
    }
    thead.stop();
}

on!(nodes: half_a_head_is_finished_where_it_began,
    g2_half_a_body_is_finished_where_it_began,
    half_of_a_pipelined_request_stays,
    requests_that_meet_a_connection_on_its_way_are_answered);
on!([node18 Node18, node22 Node22, node26 Node26]: a_connection_without_a_byte_moves,
    what_follows_an_early_answer_is_not_taken_for_a_request,
    a_client_that_is_answered_before_it_has_asked_is_told_to_leave,
    a_stream_of_events_runs_to_its_end,
    a_client_that_pipelines_without_end_lets_the_worker_leave,
    a_stop_that_overtakes_a_drain_loses_no_request,
    what_reads_first_itself_is_not_handed_back_but_asked_to_leave,
    a_listener_of_its_own_is_closed_politely,
    a_unix_socket_by_a_relative_path_finds_its_way_back,
    a_plain_server_is_waited_for,
    threads_and_grandchildren_do_not_get_the_preload);
