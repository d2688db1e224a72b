//! Connections that a Rust program gives away, counted where they are: Node's `server.getConnections()` and `close()`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use conformance::{PATIENCE, Runtime, Script, on};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use thead::channel::{Channel, Handle, SocketList, SocketListError};
use thead::{Child, ChildEvent, Command, HandleKind, Serialization};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const CHILD: &str = env!("CARGO_BIN_EXE_child");

/// Keeps what it is given, and destroys the oldest when told so.
const TAKER: &str = "
    const held = [];
    process.on('message', (what, socket) => {
        if (socket) held.push(socket.on('error', () => {}));
        if (what === 'destroy') held.shift().destroy();
        if (what === 'write') held[0].write('theirs');
        process.send(what);
    });
";

fn test(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(2 * PATIENCE, body).await.unwrap() });
}

/// A taker, and its end of the test.
struct Taker {
    child: Child,
    _dir: TempDir,
}

impl Taker {
    fn start(runtime: Runtime, serialization: Serialization) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("taker.cjs");
        std::fs::write(&script, TAKER).unwrap();
        let kind = match runtime {
            Runtime::Bun => thead::Runtime::Bun,
            Runtime::Deno => thead::Runtime::Deno,
            _ => thead::Runtime::Node,
        };
        let command = Command::fork_with(runtime.path(), kind, &[], &script);
        let child = command.channel(serialization).kill_on_drop().spawn().unwrap();
        Self { child, _dir: dir }
    }

    fn channel(&self) -> &Channel {
        self.child.channel().unwrap()
    }

    async fn next(&mut self) -> ChildEvent {
        timeout(PATIENCE, self.child.next()).await.unwrap().unwrap()
    }

    /// Has it do something; it has been done when this returns.
    async fn does(&mut self, what: &str) {
        self.channel().post_message(what).await.unwrap();
        self.has_done(what).await;
    }

    async fn has_done(&mut self, what: &str) {
        loop {
            // The program hears no questions, so it says nothing else.
            if let ChildEvent::Message { message, .. } = self.next().await {
                return assert_eq!(message.parse::<Value>().unwrap(), what);
            }
        }
    }

    async fn takes(&mut self, handle: Handle) {
        let sent = self.channel().post_handle("takes", HandleKind::Socket, handle).await;
        sent.map_err(|(error, _)| error).unwrap();
        self.has_done("takes").await;
    }
}

/// A connection: what the server has of it, and its client.
async fn connection(server: &TcpListener) -> (Handle, TcpStream) {
    let client = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = server.accept().await.unwrap();
    (accepted.into_std().unwrap().into(), client)
}

async fn server() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Polls a future once, which cannot be done yet.
async fn begins<T>(future: &mut (impl Future<Output = T> + Unpin)) {
    tokio::select! {
        biased;
        _ = future => panic!("it is done already"),
        () = std::future::ready(()) => {}
    }
}

/// Whatever the taker had to say before is heard meanwhile, and is not what the future waits for.
async fn still_waits<T>(future: &mut (impl Future<Output = T> + Unpin), taker: &mut Taker) {
    tokio::select! {
        biased;
        _ = future => panic!("it is done"),
        () = taker.does("nothing") => {}
    }
}

const SERIALIZATIONS: [Serialization; 2] = [Serialization::Json, Serialization::Advanced];

fn a_giver_knows_how_many_are_open_and_when_none_is(runtime: Runtime) {
    test(async {
        for serialization in SERIALIZATIONS {
            let (server, list, other) = (server().await, SocketList::new(), SocketList::new());
            let mut takers = [(); 2].map(|()| Taker::start(runtime, serialization));
            assert_eq!(list.count().await.unwrap(), 0, "of nobody");
            list.closed().await.unwrap();
            let mut clients = Vec::new();
            for taker in [0, 1, 0] {
                let (accepted, client) = connection(&server).await;
                takers[taker].takes(accepted.counted_by(&list)).await;
                clients.push(client);
            }
            // One that is counted by another, and one that nobody counts.
            let (accepted, _client) = connection(&server).await;
            takers[1].takes(accepted.counted_by(&other)).await;
            let (accepted, _client) = connection(&server).await;
            takers[1].takes(accepted).await;
            assert_eq!(list.count().await.unwrap(), 3);
            assert_eq!(other.count().await.unwrap(), 1);
            // Several ask at once, and some give up.
            begins(&mut Box::pin(list.count())).await;
            let (one, two) = tokio::join!(list.count(), list.count());
            assert_eq!((one.unwrap(), two.unwrap()), (3, 3));

            takers[0].does("destroy").await;
            assert_eq!(list.count().await.unwrap(), 2);
            let mut closed = Box::pin(list.closed());
            still_waits(&mut closed, &mut takers[0]).await;
            takers[1].does("destroy").await;
            // One of the first taker's is open.
            still_waits(&mut closed, &mut takers[1]).await;
            takers[0].does("destroy").await;
            closed.await.unwrap();
            assert_eq!(list.count().await.unwrap(), 0);
            list.closed().await.unwrap();
            assert_eq!(other.count().await.unwrap(), 1);
            for mut client in clients {
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it was closed");
            }
        }
    });
}

fn a_connection_that_is_kept_open_is_both_ends(runtime: Runtime) {
    test(async {
        let (server, list) = (server().await, SocketList::new());
        let mut taker = Taker::start(runtime, Serialization::Json);
        let (kept, mut client) = connection(&server).await;
        taker.takes(kept.clone().counted_by(&list)).await;
        let mut ours = kept.into_stream().unwrap();
        taker.does("write").await;
        ours.write_all(b"ours").await.unwrap();
        let mut text = [0; 10];
        client.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"theirsours");
        assert_eq!(list.count().await.unwrap(), 1, "the taker's, not ours");
        taker.does("destroy").await;
        list.closed().await.unwrap();
        assert_eq!(list.count().await.unwrap(), 0);
        ours.write_all(b"still open").await.unwrap();
        client.read_exact(&mut text).await.unwrap();
        drop(ours);
        assert_eq!(client.read(&mut text).await.unwrap(), 0);
    });
}

fn a_taker_that_goes_has_none_open(runtime: Runtime) {
    test(async {
        for kill in [true, false] {
            let (server, list) = (server().await, SocketList::new());
            let mut taker = Taker::start(runtime, Serialization::Json);
            let (accepted, _client) = connection(&server).await;
            taker.takes(accepted.counted_by(&list)).await;
            // It is asked, and cannot answer.
            let pid = taker.child.id();
            conformance::kill(pid, Signal::STOP);
            let (mut count, mut closed) = (Box::pin(list.count()), Box::pin(list.closed()));
            begins(&mut count).await;
            begins(&mut closed).await;
            if kill {
                conformance::kill(pid, Signal::KILL);
            } else {
                taker.channel().flush().await;
                taker.channel().disconnect();
            }
            let error = count.await.unwrap_err();
            assert!(matches!(error, SocketListError::Closed), "{error}");
            assert_eq!(error.code(), "ERR_CHILD_CLOSED_BEFORE_REPLY");
            closed.await.unwrap();
            while !matches!(taker.next().await, ChildEvent::Disconnect { .. }) {}
            assert_eq!(list.count().await.unwrap(), 0, "it is not asked any more");
            list.closed().await.unwrap();
        }
    });
}

/// The parent is a Node program, which takes from the Rust child that it has forked.
fn a_child_gives_to_its_parent(runtime: Runtime) {
    let script = "
        const child = require('node:child_process').spawn(process.env.CHILD, ['gives'], {
            stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
            serialization: process.env.SERIALIZATION,
        });
        const held = [];
        const say = (what) => console.log(JSON.stringify(what));
        child.on('message', (message, socket) => {
            if (socket && held.push(socket) === 2) child.send('count');
            if (message.count === 2) { held.shift().destroy(); child.send('count'); }
            if (message.count === 1) { child.send('closed'); child.send('ping'); }
            if (message.pong) { say({ pong: true }); held.shift().destroy(); }
            if (message.closed) { say({ closed: message.closed }); child.disconnect(); }
        });
    ";
    for serialization in SERIALIZATIONS {
        let variables = [("CHILD", CHILD), ("SERIALIZATION", serialization.as_str())];
        let (status, lines) = Script::start(runtime, script, &variables).end();
        assert!(status.success());
        assert_eq!(
            lines,
            [json!({ "pong": true }), json!({ "closed": true })],
            "{serialization:?}"
        );
    }
}

on! { nodes_and_deno: a_giver_knows_how_many_are_open_and_when_none_is,
a_connection_that_is_kept_open_is_both_ends, a_taker_that_goes_has_none_open, a_child_gives_to_its_parent }

/// It takes the connection, and no notice of the questions.
#[test]
fn bun_cannot_be_asked() {
    test(async {
        let (server, list) = (server().await, SocketList::new());
        let mut taker = Taker::start(Runtime::Bun, Serialization::Json);
        let (accepted, mut client) = connection(&server).await;
        taker.takes(accepted.counted_by(&list)).await;
        let (mut count, mut closed) = (Box::pin(list.count()), Box::pin(list.closed()));
        still_waits(&mut count, &mut taker).await;
        still_waits(&mut closed, &mut taker).await;
        taker.does("write").await;
        client.read_exact(&mut [0; 6]).await.unwrap();
        taker.does("destroy").await;
        still_waits(&mut count, &mut taker).await;
        still_waits(&mut closed, &mut taker).await;
    });
}
