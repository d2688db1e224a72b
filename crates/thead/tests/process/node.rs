//! A real Node child, of whatever version is in the PATH.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use thead::channel::{Fault, Message, SendError};
use thead::wire::Dialect;
use thead::wire::endpoint::ProtocolError;
use thead::wire::v8::{Kind, ViewKind};
use thead::{Child, ChildEvent, Command, HandleKind, Serialization, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{history, in_time, next, test, until};

const BOTH: [Serialization; 2] = [Serialization::Json, Serialization::Advanced];

/// A child that runs this code.
fn node(code: &str) -> Command {
    Command::new("node")
        .args(["-e", code])
        .channel(Serialization::Json)
        .dialect(Dialect::Pipelined)
}

async fn message(child: &mut Child) -> Message {
    match next(child).await {
        Some(ChildEvent::Message { message, handle: None }) => message,
        other => panic!("{other:?}"),
    }
}

async fn ends(child: &mut Child) {
    child.disconnect();
    assert_eq!(history(child).await, ["disconnect", "exit 0", "close"]);
}

#[test]
fn twenty_thousand_messages_come_back_in_order() {
    const COUNT: usize = 20_000;
    for serialization in BOTH {
        test(async || {
            let mut child = node("process.on('message', (m) => process.send(m))")
                .channel(serialization)
                .spawn()
                .unwrap();
            let channel = child.channel().unwrap().clone();
            let sending = tokio::spawn(async move {
                for n in 0..COUNT {
                    channel.post_message(&json!({ "n": n, "text": "héllo" })).await.unwrap();
                }
            });
            for n in 0..COUNT {
                let echo: Value = message(&mut child).await.parse().unwrap();
                assert_eq!(echo, json!({ "n": n, "text": "héllo" }));
            }
            sending.await.unwrap();
            ends(&mut child).await;
        });
    }
}

#[test]
fn what_was_sent_before_a_disconnect_arrives() {
    for serialization in BOTH {
        test(async || {
            let code = "let sum = 0; process.on('message', (m) => { sum += m.length });
                process.on('disconnect', () => process.stdout.write(String(sum)))";
            let mut child = node(code).channel(serialization).stdout(Stdio::Pipe).spawn().unwrap();
            let mut out = child.stdout.take().unwrap();
            let channel = child.channel().unwrap();
            for _ in 0..20 {
                channel.send(&"x".repeat(100_000)).unwrap();
            }
            assert!(channel.queued() > 1_000_000, "most of it is not written yet");
            child.disconnect();
            assert!(matches!(channel_send(&child), Err(SendError::Closed)));
            let mut text = String::new();
            in_time("the sum", out.read_to_string(&mut text)).await.unwrap();
            assert_eq!(text, "2000000");
            assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
        });
    }
}

fn channel_send(child: &Child) -> Result<(), SendError> {
    child.channel().unwrap().send(&1)
}

#[test]
fn two_thousand_handles_arrive_in_order_and_nothing_stays_open() {
    const COUNT: usize = 2_000;
    let code = "process.on('message', (m, socket) => socket.end(String(m), () => process.send(m)))";
    for serialization in BOTH {
        test(async || {
            let mut child = node(code).channel(serialization).spawn().unwrap();
            let channel = child.channel().unwrap().clone();
            let mut ends_of_ours = Vec::new();
            for n in 0..COUNT {
                let (ours, theirs) = UnixStream::pair().unwrap();
                theirs.set_nonblocking(true).unwrap();
                channel
                    .post_handle(&n, HandleKind::Socket, theirs.into())
                    .await
                    .unwrap();
                ends_of_ours.push(ours);
            }
            for n in 0..COUNT {
                assert_eq!(message(&mut child).await.parse::<usize>().unwrap(), n);
            }
            for (n, mut ours) in ends_of_ours.into_iter().enumerate() {
                ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut text = String::new();
                ours.read_to_string(&mut text).unwrap();
                assert_eq!(text, n.to_string());
            }
            ends(&mut child).await;
        });
    }
}

#[test]
fn a_handle_between_messages_belongs_to_its_own() {
    let code = "process.on('message', (m, handle) => { process.send([m, !!handle]); handle?.destroy() })";
    for serialization in BOTH {
        test(async || {
            let mut child = node(code).channel(serialization).spawn().unwrap();
            let channel = child.channel().unwrap();
            for n in [0, 3, 6] {
                channel.send(&n).unwrap();
                let (_, theirs) = UnixStream::pair().unwrap();
                theirs.set_nonblocking(true).unwrap();
                channel
                    .send_handle(&(n + 1), HandleKind::Socket, theirs.into())
                    .unwrap();
                channel.send(&(n + 2)).unwrap();
            }
            for n in 0..9 {
                let got: (i32, bool) = message(&mut child).await.parse().unwrap();
                assert_eq!(got, (n, n % 3 == 1));
            }
            ends(&mut child).await;
        });
    }
}

#[test]
fn handles_of_the_childs_come_with_their_messages_too() {
    let code = "
        const net = require('net');
        const server = net.createServer().listen(0, '127.0.0.1', () => {
            process.send('before');
            process.send('server', server);
            process.send('after', () => server.close());
        });
        process.on('disconnect', () => process.exit(0));";
    test(async || {
        let mut child = node(code).spawn().unwrap();
        for (text, kind) in [("before", None), ("server", Some(HandleKind::Server)), ("after", None)] {
            match next(&mut child).await {
                Some(ChildEvent::Message { message, handle }) => {
                    assert_eq!(message.parse::<String>().unwrap(), text);
                    assert_eq!(handle.map(|handle| handle.kind.unwrap()), kind);
                }
                other => panic!("{other:?}"),
            }
        }
        ends(&mut child).await;
    });
}

#[test]
fn what_json_cannot_say_comes_as_it_is_in_advanced() {
    let code = "
        const value = { map: new Map([['a', 1]]), set: new Set([2]), date: new Date(0), big: -5n, nothing: undefined,
            buffer: Buffer.from('abc'), floats: new Float64Array([1.5]), error: new TypeError('boom'), nan: NaN };
        value.self = value;
        process.send(value);";
    test(async || {
        let mut child = node(code).channel(Serialization::Advanced).spawn().unwrap();
        let message = message(&mut child).await;
        let refused = message.parse::<Value>().unwrap_err();
        assert!(
            refused.reason.contains("expected any valid JSON value at buffer"),
            "{refused}"
        );
        let value = message.value().unwrap();
        let kind = |name| value.get(name).unwrap().kind();
        assert!(matches!(kind("map"), Kind::Map(entries) if entries.len() == 1));
        assert!(matches!(kind("set"), Kind::Set(values) if values.len() == 1));
        assert!(matches!(kind("date"), Kind::Date(0.0)));
        assert!(matches!(kind("big"), Kind::BigInt(_)));
        assert!(matches!(kind("nothing"), Kind::Undefined));
        assert!(matches!(kind("buffer"), Kind::View { kind: ViewKind::Buffer, bytes } if &bytes[..] == b"abc"));
        assert!(matches!(
            kind("floats"),
            Kind::View {
                kind: ViewKind::Float64Array,
                ..
            }
        ));
        assert!(matches!(kind("error"), Kind::Error(_)));
        assert!(matches!(kind("nan"), Kind::Double(nan) if nan.is_nan()));
        assert!(matches!(kind("self"), Kind::Object(_)));
        until(&mut child, "close").await;
    });
}

#[test]
fn half_a_surrogate_pair_is_an_error_or_a_replacement_and_the_channel_lives() {
    for serialization in BOTH {
        test(async || half_a_surrogate_pair(serialization).await);
    }
}

async fn half_a_surrogate_pair(serialization: Serialization) {
    let code = "process.send('a\\ud800b'); process.send('next')";
    let mut child = node(code).channel(serialization).spawn().unwrap();
    let odd = message(&mut child).await;
    assert!(odd.parse::<String>().is_err());
    assert_eq!(odd.lossy::<String>().unwrap(), "a\u{fffd}b");
    assert_eq!(message(&mut child).await.parse::<String>().unwrap(), "next");
    until(&mut child, "close").await;
}

#[test]
fn a_message_of_sixteen_megabytes_passes_and_a_longer_one_ends_the_channel() {
    const LIMIT: usize = 16 << 20;
    test(async || {
        // Quotes count.
        let code = "process.send('x'.repeat(2 ** 24 - 2), () => process.send('x'.repeat(2 ** 24 - 1)))";
        let mut child = node(code).spawn().unwrap();
        assert_eq!(message(&mut child).await.raw().len(), LIMIT);
        let ended = until(&mut child, "disconnect").await;
        assert!(
            matches!(
                ended,
                ChildEvent::Disconnect {
                    fault: Some(Fault::Protocol(ProtocolError::Frame(_))),
                    ..
                }
            ),
            "{ended:?}"
        );
        until(&mut child, "close").await;

        let mut child = node("process.send('x'.repeat(2 ** 24 - 1))")
            .message_limit(LIMIT + 1)
            .spawn()
            .unwrap();
        assert_eq!(message(&mut child).await.raw().len(), LIMIT + 1);
        until(&mut child, "close").await;
    });
}

#[test]
fn a_node_child_that_disconnects_ends_its_channel_and_lives_on() {
    test(async || {
        let code = "process.send(1, () => process.disconnect()); setTimeout(() => process.exit(4), 100)";
        let mut child = node(code).spawn().unwrap();
        assert_eq!(
            history(&mut child).await,
            ["message 1", "disconnect", "exit 4", "close"]
        );
    });
}

#[test]
fn a_server_of_the_childs_counts_the_sockets_that_the_parent_has_and_closes_with_the_last() {
    let code = "
        const net = require('net');
        const server = net.createServer((socket) => process.send('socket', socket));
        server.listen(0, '127.0.0.1', () => process.send(server.address().port));
        process.on('message', (what) => what === 'close' ? server.getConnections((error, count) => {
            process.send([error, count]);
            server.close(() => process.send('closed'));
        }) : process.send(what));";
    test(async || {
        let mut child = node(code).spawn().unwrap();
        let port: u16 = message(&mut child).await.parse().unwrap();
        let mut client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let Some(ChildEvent::Message {
            handle: Some(socket), ..
        }) = next(&mut child).await
        else {
            panic!("a socket");
        };
        assert!(socket.key.is_some(), "the child counts it");
        let mut stream = socket.handle.into_stream().unwrap();
        child.post_message("close").await.unwrap();
        let counted: (Option<String>, u32) = message(&mut child).await.parse().unwrap();
        assert_eq!(counted, (None, 1));
        // The server waits for the stream, not for the channel.
        child.post_message("still open").await.unwrap();
        assert_eq!(message(&mut child).await.parse::<String>().unwrap(), "still open");
        stream.write_all(b"served by the parent").await.unwrap();
        drop(stream);
        assert_eq!(message(&mut child).await.parse::<String>().unwrap(), "closed");
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "served by the parent");
        ends(&mut child).await;
    });
}
