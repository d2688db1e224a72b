//! A Rust program that was forked: by Node, Bun, Deno, or wrongly.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use conformance::{Runtime, Script, on};
use serde_json::{Value, json};

const CHILD: &str = env!("CARGO_BIN_EXE_child");

/// A parent of the child that does WHAT, with the child's events as lines; `body` is what else it does.
fn parent(runtime: Runtime, what: &str, serialization: &str, body: &str) -> Script {
    let text = format!(
        "const say = (what) => require('node:fs').writeSync(1, JSON.stringify(what) + '\\n');
        const child = require('node:child_process').spawn(process.env.CHILD, [process.env.WHAT],
            {{ stdio: ['pipe', 'inherit', 'inherit', 'ipc'], serialization: process.env.SERIALIZATION }});
        child.on('message', (message) => say({{ message }}));
        child.on('disconnect', () => say({{ disconnect: true }}));
        child.on('exit', (code, signal) => say({{ exit: code ?? signal }}));
        {body}"
    );
    let variables = [("CHILD", CHILD), ("WHAT", what), ("SERIALIZATION", serialization)];
    Script::start(runtime, &text, &variables)
}

const BOTH: [&str; 2] = ["json", "advanced"];

fn its_messages_come_back_in_order(runtime: Runtime) {
    let serializations = if runtime.node() > 0 { &BOTH[..] } else { &BOTH[..1] };
    for serialization in serializations {
        let body = "
            const values = [1, 'text', null, true, [1, [2]], { a: { b: 'ä€𝄞' } }, '', -0.5, 'x'.repeat(300000), 'last'];
            let n = 0;
            child.on('message', (message) => {
                if (JSON.stringify(message) !== JSON.stringify(values[n++])) say({ wrong: message });
                if (n === values.length) child.disconnect();
            });
            for (const value of values) child.send(value);";
        let mut script = parent(runtime, "echoes", serialization, body);
        let (status, lines) = script.end();
        assert!(status.success(), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.get("wrong").is_some()), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.get("fault") == Some(&Value::Null)),
            "{lines:#?}"
        );
        for line in [json!({ "message": "last" }), json!({ "exit": 0 })] {
            assert!(lines.contains(&line), "no {line}: {lines:#?}");
        }
    }
}

fn what_it_was_sent_before_it_first_asks_is_heard(runtime: Runtime) {
    let body = "for (let n = 0; n < 500; n++) child.send(n);
        setTimeout(() => child.stdin.end('now'), 200);
        child.on('message', (n) => { if (n === 499) child.disconnect(); });";
    let (status, lines) = parent(runtime, "listens late", "json", body).end();
    assert!(status.success(), "{lines:#?}");
    let heard: Vec<_> = lines.iter().filter_map(|line| line.get("message")?.as_u64()).collect();
    assert_eq!(heard, (0..500).collect::<Vec<_>>());
}

fn what_it_starts_inherits_neither_channel_nor_variables(runtime: Runtime) {
    let mut script = parent(runtime, "leaves descriptors to nobody", "json", "");
    let found = script.field("message");
    assert_eq!(found, json!({ "inherits": [], "twice": true }));
    assert!(script.end().0.success());
}

fn what_it_sent_before_it_disconnected_arrives(runtime: Runtime) {
    let mut script = parent(runtime, "says much and ends", "json", "");
    let (status, lines) = script.end();
    assert!(status.success());
    let lengths: Vec<_> = lines
        .iter()
        .filter_map(|line| Some(line.get("message")?.as_str()?.len()))
        .collect();
    assert_eq!(lengths, [100_000; 20]);
    assert!(lines.contains(&json!({ "disconnect": true })) && lines.contains(&json!({ "exit": 0 })));
}

on! { all: its_messages_come_back_in_order, what_it_was_sent_before_it_first_asks_is_heard,
what_it_starts_inherits_neither_channel_nor_variables, what_it_sent_before_it_disconnected_arrives }

fn a_handle_that_it_sends_between_messages_belongs_to_its_own(runtime: Runtime) {
    let body = "
        const heard = [];
        child.removeAllListeners('message');
        child.on('message', (message, handle) => {
            heard.push([message, !!handle]);
            if (heard.length === 9) {
                say({ heard });
                child.disconnect();
            }
        });";
    let mut script = parent(runtime, "sends handles between messages", "json", body);
    let expected: Vec<_> = (0..9).map(|n| (n, n % 3 == 1)).collect();
    assert_eq!(script.field("heard"), json!(expected));
    // Deno does not end by itself as long as it has the sockets.
}

on! { all: a_handle_that_it_sends_between_messages_belongs_to_its_own }

fn a_handle_comes_back_usable(runtime: Runtime) {
    for serialization in BOTH {
        let body = "
            const net = require('node:net');
            child.removeAllListeners('message');
            const server = net.createServer((socket) => child.send({ n: 1 }, socket));
            child.on('message', (message, socket) => socket.end(JSON.stringify(message)));
            server.listen(0, '127.0.0.1', () => {
                let text = '';
                const client = net.connect(server.address().port, '127.0.0.1');
                client.on('data', (data) => { text += data; });
                client.on('close', () => { say({ text }); server.close(); child.disconnect(); });
            });";
        let mut script = parent(runtime, "echoes", serialization, body);
        assert_eq!(script.field("text"), r#"{"n":1}"#);
        assert!(script.end().0.success());
    }
}

on! { nodes: a_handle_comes_back_usable }

fn child(what: &str, variables: &[(&str, &str)]) -> (bool, Value) {
    let (status, lines) = Script::program(CHILD, &[what], variables).end();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    (status.success(), lines[0].clone())
}

#[test]
fn a_program_that_was_not_forked_has_no_parent() {
    let found = json!({ "parent": false, "inherits": [] });
    assert_eq!(child("alone", &[]), (true, found));
    let found = json!({ "parent": false, "inherits": ["NODE_CHANNEL_FD="] });
    assert_eq!(child("alone", &[("NODE_CHANNEL_FD", "")]), (true, found));
}

#[test]
fn a_wrong_environment_is_an_error_that_says_what_is_wrong() {
    let not_open = "Bad file descriptor (os error 9)";
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static str,
        Option<&'static str>,
    );
    let cases: [Case; 6] = [
        (
            &[("NODE_CHANNEL_FD", "x")],
            "NODE_CHANNEL_FD=\"x\" is not a descriptor number",
            None,
        ),
        (
            &[("NODE_CHANNEL_FD", "-1")],
            "NODE_CHANNEL_FD=\"-1\" is not a descriptor number",
            None,
        ),
        (
            &[("NODE_CHANNEL_FD", "99")],
            "NODE_CHANNEL_FD=99 is not a channel",
            Some(not_open),
        ),
        // The runtime's own, which nobody passed.
        (&[("NODE_CHANNEL_FD", "4")], "NODE_CHANNEL_FD=4 is not a channel", None),
        (
            &[("NODE_CHANNEL_FD", "0")],
            "NODE_CHANNEL_FD=0 is not a channel",
            Some("Socket operation on non-socket (os error 88)"),
        ),
        (
            &[("NODE_CHANNEL_FD", "3"), ("NODE_CHANNEL_SERIALIZATION_MODE", "xml")],
            "NODE_CHANNEL_SERIALIZATION_MODE=\"xml\" is neither \"json\" nor \"advanced\"",
            None,
        ),
    ];
    for (variables, error, source) in cases {
        let (success, said) = child("alone", variables);
        assert!(!success);
        assert!(said["error"].as_str().unwrap().starts_with(error), "{said}");
        if let Some(source) = source {
            assert_eq!(said["source"], source);
        }
    }
}

#[test]
fn a_channel_in_the_place_of_standard_input_works() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new(CHILD)
        .arg("echoes")
        .env("NODE_CHANNEL_FD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut &ours, b"{bad\n\"good\"\n").unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&ours));
    assert_eq!(lines.next().unwrap().unwrap(), "{bad");
    assert_eq!(lines.next().unwrap().unwrap(), "\"good\"");
    drop(lines);
    drop(ours);
    assert!(child.wait().unwrap().success());
}
