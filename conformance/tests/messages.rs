//! Messages and handles, through `thead run` and through the library's own primary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use conformance::{PATIENCE, Process, Run, Runtime, client, on, programs};
use serde_json::{Value, json};
use thead::cluster::{Config, Primary, PrimaryEvent};
use thead::core::id::WorkerId;
use thead::wire::HandleKind;
use thead::{Command, ExitStatus, Serialization};

fn what_a_worker_sends_is_reported_as_it_is(runtime: Runtime) {
    let text = "
        const values = [1, 'text', null, true, [1, [2]], { a: { b: 'ä€𝄞\\n\\u0000' } }, '', 1e300, -0.5, { cmd: 'mine' }];
        for (const value of values) process.send(value);
        process.send('x'.repeat(300000));
    ";
    let mut thead = Run::script(runtime, text).workers(1).start();
    let values =
        json!([1, "text", null, true, [1, [2]], { "a": { "b": "ä€𝄞\n\0" } }, "", 1e300, -0.5, { "cmd": "mine" }]);
    for value in values.as_array().unwrap() {
        assert_eq!(&thead.next("message").json["message"], value);
    }
    assert_eq!(thead.next("message").text("message").len(), 300_000);
    thead.stop();
}

fn trap_16_what_begins_with_node_is_the_runtimes_own(runtime: Runtime) {
    let text = "
        process.send({ cmd: 'NODE_MINE' });
        process.send({ cmd: 'NODE_' });
        process.send({ cmd: 'NODEJS' });
        process.send('last');
    ";
    let mut thead = Run::script(runtime, text).workers(1).start();
    thead.wait_for("message", |said| said.json["message"] == "last");
    let seen: Vec<_> = thead
        .all("message")
        .iter()
        .map(|said| said.json["message"].clone())
        .collect();
    assert_eq!(
        seen,
        [json!({ "cmd": "NODE_" }), json!({ "cmd": "NODEJS" }), json!("last")]
    );
    thead.stop();
}

/// A cluster primary of the library's, driven until something is seen.
struct Cluster {
    primary: Primary,
    log: Vec<String>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            primary: Primary::new(Config::default()),
            log: Vec::new(),
        }
    }

    fn fork(&mut self, runtime: Runtime, program: &str) -> WorkerId {
        self.primary.fork(&command(runtime, program)).unwrap()
    }

    /// The next event that `wanted` makes something of.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&PrimaryEvent) -> Option<T>) -> T {
        let seen = async {
            loop {
                let event = self.primary.next().await.unwrap();
                self.log.push(format!("{event:?}"));
                if let Some(seen) = wanted(&event) {
                    return seen;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, seen).await {
            Ok(seen) => seen,
            Err(_) => panic!("no {what}: {:#?}", self.log),
        }
    }

    async fn message(&mut self) -> Value {
        self.wait("message", |event| match event {
            PrimaryEvent::Message { message, .. } => Some(message.parse().unwrap()),
            _ => None,
        })
        .await
    }

    async fn listening(&mut self) -> u16 {
        self.wait("listening", |event| match event {
            PrimaryEvent::Listening { address, .. } => Some(u16::try_from(address.port.unwrap()).unwrap()),
            _ => None,
        })
        .await
    }

    async fn exit(&mut self, of: WorkerId) -> ExitStatus {
        self.wait("exit", |event| match event {
            PrimaryEvent::Exit { worker, status } if *worker == of => Some(*status),
            _ => None,
        })
        .await
    }

    fn index(&self, text: &str) -> usize {
        self.log
            .iter()
            .position(|line| line.starts_with(text))
            .unwrap_or_else(|| panic!("{:#?}", self.log))
    }

    /// Drives the primary while something else happens.
    async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                event = self.primary.next() => self.log.push(format!("{event:?}")),
            }
        }
    }

    async fn begin(&mut self, port: u16, ms: u32) -> client::Begun {
        let request = tokio::task::spawn_blocking(move || client::begin(port, ms));
        self.during(request).await.unwrap()
    }

    async fn finishes(&mut self, request: client::Begun) -> bool {
        let answer = tokio::task::spawn_blocking(move || request.finishes());
        self.during(answer).await.unwrap()
    }

    /// The processes that answer, two at most; see [`client::until_all`].
    async fn answering(&mut self, port: u16) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        for _ in 0..100 {
            pids.insert(self.get(port, "/").await.pid());
            if pids.len() == 2 {
                break;
            }
        }
        pids
    }

    /// A request, from another thread, while the primary works.
    async fn get(&mut self, port: u16, path: &'static str) -> client::Answer {
        let request = tokio::task::spawn_blocking(move || client::get(port, path));
        self.during(request).await.unwrap()
    }
}

fn command(runtime: Runtime, program: &str) -> Command {
    let kind = match runtime {
        Runtime::Bun => thead::Runtime::Bun,
        Runtime::Deno => thead::Runtime::Deno,
        _ => thead::Runtime::Node,
    };
    Command::fork_with(runtime.path(), kind, &[], programs().join(program))
        .env("PORT", "0")
        .env("HOST", "127.0.0.1")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test);
    // nextest gives each test a process, so that every child is this test's.
    if std::env::var_os("NEXTEST").is_some() {
        let ours = |process: &Process| process.parent == std::process::id();
        let left: Vec<_> = Process::all().into_iter().filter(ours).collect();
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }
}

fn messages_go_both_ways(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "messages.js");
        assert_eq!(cluster.message().await["online"]["worker"], 1);
        let channel = cluster.primary.channel(worker).unwrap().clone();
        for value in [
            json!("text"),
            json!([1, null]),
            json!({ "a": "ä€𝄞" }),
            json!("y".repeat(500_000)),
        ] {
            channel.send(&value).unwrap();
            assert_eq!(cluster.message().await["echo"], value);
        }
        for n in 0..1000 {
            channel.send(&n).unwrap();
        }
        for n in 0..1000 {
            assert_eq!(cluster.message().await["echo"], n);
        }
        cluster.primary.disconnect(worker);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

fn messages_go_both_ways_in_advanced(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let command = command(runtime, "messages.js").channel(Serialization::Advanced);
        let worker = cluster.primary.fork(&command).unwrap();
        assert_eq!(cluster.message().await["online"]["worker"], 1);
        let channel = cluster.primary.channel(worker).unwrap().clone();
        for value in [
            json!("text"),
            json!([1, null, 0.5]),
            json!({ "a": "ä€𝄞" }),
            json!("y".repeat(500_000)),
        ] {
            channel.send(&value).unwrap();
            assert_eq!(cluster.message().await["echo"], value);
        }
        cluster.primary.disconnect(worker);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

fn an_advanced_worker_serves_like_any_other(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let command = command(runtime, "http.js").channel(Serialization::Advanced);
        let workers = [1, 2].map(|_| cluster.primary.fork(&command).unwrap());
        let port = cluster.listening().await;
        cluster.listening().await;
        assert_eq!(cluster.answering(port).await.len(), 2);
        for worker in workers {
            cluster.primary.disconnect(worker);
            assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
        }
    });
}

/// A connected pair: ours, and one to give away.
fn pair() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind(client::local(0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs.into())
}

fn a_connection_can_be_sent_with_a_message(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "messages.js");
        cluster.message().await;
        let channel = cluster.primary.channel(worker).unwrap().clone();
        for n in 0..20 {
            let (mut ours, theirs) = pair();
            channel.send(&"before").unwrap();
            channel.send_handle(&n, HandleKind::Socket, theirs.into()).unwrap();
            channel.send(&"after").unwrap();
            assert_eq!(cluster.message().await["echo"], "before");
            assert_eq!(cluster.message().await, json!({ "echo": n, "handle": "Socket" }));
            assert_eq!(cluster.message().await["echo"], "after");
            let mut line = String::new();
            ours.read_to_string(&mut line).unwrap();
            assert!(line.ends_with('\n'), "{line:?}");
        }
        cluster.primary.disconnect(worker);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

/// Node's defect: a Node 18 primary dies of the query that a Node 18 worker sends for a server it was given.
fn defect_a_server_given_to_a_worker_does_not_upset_the_primary(runtime: Runtime) {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("takes.cjs");
        let text = "
            process.on('message', (message, server) => {
                server.on('connection', (socket) => socket.end('from the server'));
                process.send('taken');
            });
            process.send('up');
        ";
        std::fs::write(&script, text).unwrap();
        let mut cluster = Cluster::new();
        let worker = cluster
            .primary
            .fork(&Command::fork_with(runtime.path(), thead::Runtime::Node, &[], &script))
            .unwrap();
        assert_eq!(cluster.message().await, "up");
        let listener = TcpListener::bind(client::local(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let channel = cluster.primary.channel(worker).unwrap().clone();
        channel
            .send_handle(&"server", HandleKind::Server, OwnedFd::from(listener).into())
            .unwrap();
        if runtime.node() == 18 {
            // It asks for the address that the server already has, in words that mean none; the answer is an 'error' event
            // before the program has seen the server.
            assert_eq!(cluster.exit(worker).await, ExitStatus::Code(1));
            cluster.index("ListenFailed");
            return;
        }
        assert_eq!(cluster.message().await, "taken");
        let talk = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            TcpStream::connect(client::local(port))
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        });
        assert_eq!(cluster.during(talk).await.unwrap(), "from the server");
        cluster.primary.kill(worker, 9).unwrap();
        cluster.exit(worker).await;
    });
}

fn events_come_in_nodes_order(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "http.js");
        cluster.listening().await;
        cluster.primary.disconnect(worker);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
        let order = ["Online", "Listening", "Disconnect", "Exit"].map(|event| cluster.index(event));
        assert!(order.is_sorted(), "{:#?}", cluster.log);
    });
}

fn trap_7_disconnect_twice_drops_no_connection(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "http.js");
        let port = cluster.listening().await;
        let slow = cluster.begin(port, 700).await;
        for _ in 0..3 {
            cluster.primary.disconnect(worker);
            cluster.during(tokio::task::yield_now()).await;
        }
        assert!(cluster.finishes(slow).await);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

/// Node's defect: the callback of `cluster.disconnect` is called at the first worker's end.
fn defect_each_worker_has_its_own_end(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let workers = [1, 2].map(|_| cluster.fork(runtime, "http.js"));
        let port = cluster.listening().await;
        cluster.listening().await;
        let slow = cluster.begin(port, 1000).await;
        let quick = cluster.get(port, "/").await.worker();
        for worker in workers {
            cluster.primary.disconnect(worker);
        }
        let first = cluster.wait("exit", |event| match event {
            PrimaryEvent::Exit { worker, .. } => Some(*worker),
            _ => None,
        });
        assert_eq!(u64::from(first.await.0), quick);
        assert_eq!(cluster.primary.workers().count(), 1, "the other is still at work");
        assert!(cluster.finishes(slow).await, "its client gets all");
        let other = workers.into_iter().find(|worker| u64::from(worker.0) != quick).unwrap();
        assert_eq!(cluster.exit(other).await, ExitStatus::Code(0));
    });
}

fn the_end_of_the_channel_ends_the_worker_at_once(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "http.js");
        cluster.listening().await;
        cluster.primary.channel(worker).unwrap().disconnect();
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

fn a_signal_is_told_as_the_signal(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = cluster.fork(runtime, "http.js");
        cluster.listening().await;
        cluster.primary.kill(worker, 15).unwrap();
        assert!(matches!(
            cluster.exit(worker).await,
            ExitStatus::Signal { signal: 15, .. }
        ));
    });
}

fn trap_12_a_descriptor_of_the_primarys_is_known_by_its_number(runtime: Runtime) {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("fd.cjs");
        let text = "
            const server = require('node:http').createServer((req, res) => {
                res.setHeader('x-pid', process.pid).end('hello');
            });
            server.listen({ fd: 33 });
        ";
        std::fs::write(&script, text).unwrap();
        let listener = TcpListener::bind(client::local(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut cluster = Cluster::new();
        cluster.primary.inherit(33, OwnedFd::from(listener));
        let kind = if runtime == Runtime::Deno {
            thead::Runtime::Deno
        } else {
            thead::Runtime::Node
        };
        let command = Command::fork_with(runtime.path(), kind, &[], &script);
        let workers = [1, 2].map(|_| cluster.primary.fork(&command).unwrap());
        for _ in 0..2 {
            cluster
                .wait("listening", |event| {
                    matches!(event, PrimaryEvent::Listening { .. }).then_some(())
                })
                .await;
        }
        assert_eq!(cluster.answering(port).await.len(), 2);
        for worker in workers {
            cluster.primary.disconnect(worker);
            assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
        }
    });
}

fn trap_11_a_gated_worker_listens_and_gets_nothing_until_it_is_opened(runtime: Runtime) {
    run(async {
        let mut cluster = Cluster::new();
        let worker = WorkerId(7);
        cluster
            .primary
            .fork_as(worker, None, &command(runtime, "http.js"), true)
            .unwrap();
        let port = cluster.listening().await;
        let mut stream = TcpStream::connect(client::local(port)).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        cluster.during(tokio::time::sleep(Duration::from_millis(300))).await;
        assert_eq!(
            stream.read(&mut [0; 1]).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        cluster.primary.open(worker);
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = cluster.during(read).await.unwrap().unwrap();
        assert!(answer.contains("\"worker\":7"), "{answer}");
        cluster.primary.disconnect(worker);
        assert_eq!(cluster.exit(worker).await, ExitStatus::Code(0));
    });
}

fn thousands_of_messages_arrive_in_order(runtime: Runtime) {
    let text = "
        const lines = 1500;
        for (let n = 0; n < lines; n++) process.send({ n, pid: process.pid });
    ";
    let mut thead = Run::script(runtime, text).start();
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for _ in 0..3000 {
        let message = thead.next("message").json["message"].clone();
        let expected = next.entry(message["pid"].as_u64().unwrap()).or_default();
        assert_eq!(message["n"], *expected);
        *expected += 1;
    }
    thead.stop();
}

on!(all: messages_go_both_ways, what_a_worker_sends_is_reported_as_it_is);
on!(nodes_and_deno:
    a_connection_can_be_sent_with_a_message,
    events_come_in_nodes_order,
    defect_each_worker_has_its_own_end,
    the_end_of_the_channel_ends_the_worker_at_once,
    a_signal_is_told_as_the_signal,
    trap_7_disconnect_twice_drops_no_connection,
    trap_11_a_gated_worker_listens_and_gets_nothing_until_it_is_opened,
    trap_12_a_descriptor_of_the_primarys_is_known_by_its_number,
);
on!(nodes:
    trap_16_what_begins_with_node_is_the_runtimes_own,
    messages_go_both_ways_in_advanced,
    an_advanced_worker_serves_like_any_other,
    defect_a_server_given_to_a_worker_does_not_upset_the_primary,
);
on!([node22 Node22]: thousands_of_messages_arrive_in_order);
