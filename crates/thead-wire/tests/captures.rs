//! What real runtimes wrote, and what they made of what was written to them by hand, through an endpoint: however the
//! reads are split, the events are the same, and where they are not Node's the reason stands in [`DIFFERENCES`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use serde_json::Value;
use thead_wire::endpoint::{Config, ProtocolError, ReceivedHandle};
use thead_wire::{Endpoint, Event, HandleKind, Serialization, json, v8};

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_else(|| panic!("{field} of {entry}"))
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// One write of the peer's: its bytes, and the descriptors that go with the first of them.
type Chunk = (Vec<u8>, Vec<u32>);

#[derive(Debug, Default, PartialEq)]
struct Replay {
    events: Vec<Event<u32>>,
    written: Vec<u8>,
    fault: Option<ProtocolError>,
}

fn replay(serialization: Serialization, chunks: &[Chunk]) -> Replay {
    let mut end = Endpoint::new(Config {
        serialization,
        ..Config::default()
    });
    let mut replay = Replay::default();
    for (bytes, descriptors) in chunks {
        if let Err(fault) = end.receive(bytes, descriptors.iter().copied()) {
            replay.fault = Some(fault);
        }
        while let Some(transmit) = end.poll_transmit() {
            replay.written.extend_from_slice(transmit.bytes);
            let n = transmit.bytes.len();
            end.transmitted(n);
        }
        while let Some(event) = end.poll_event() {
            // Whoever gets a socket closes it at once, so that none is open when the giver asks.
            if let Event::Message(_, Some(ReceivedHandle { key: Some(key), .. })) = &event {
                end.socket_closed(key);
            }
            replay.events.push(event);
        }
    }
    end.end();
    replay.events.extend(std::iter::from_fn(|| end.poll_event()));
    assert_eq!(replay.events.pop(), Some(Event::Closed { unsent: 0 }));
    replay
}

/// The same writes, as reads that end after every `step` bytes, counted from `first`.
fn split(chunks: &[Chunk], first: usize, step: usize) -> Vec<Chunk> {
    let mut reads: Vec<Chunk> = Vec::new();
    for (bytes, descriptors) in chunks {
        let (head, tail) = bytes.split_at(first.min(bytes.len()));
        let mut parts = [head]
            .into_iter()
            .chain(tail.chunks(step))
            .filter(|part| !part.is_empty());
        reads.extend(parts.next().map(|part| (part.to_vec(), descriptors.clone())));
        reads.extend(parts.map(|part| (part.to_vec(), Vec::new())));
    }
    reads
}

/// What an endpoint makes of these writes, having tried every way to split each of them in two, and into small pieces.
fn however_split(id: &str, serialization: Serialization, chunks: &[Chunk]) -> Replay {
    let whole = replay(serialization, chunks);
    let longest = chunks.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(0);
    let in_two = (0..=longest).map(|at| (at, usize::MAX));
    let in_pieces = [1, 2, 3, 5, 16].map(|step| (step, step));
    for (first, step) in in_two.chain(in_pieces) {
        let other = replay(serialization, &split(chunks, first, step));
        if whole.fault.is_none() {
            assert_eq!(other, whole, "{id}, split at {first} and then each {step}");
        } else {
            assert_eq!(
                other.events, whole.events,
                "{id}, split at {first} and then each {step}"
            );
            assert!(other.fault.is_some());
        }
    }
    whole
}

const ACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
const NACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n";

/// What a recorded line is, as the fixture says; the second value is what is answered.
fn meaning(line: &Value) -> (Option<Event<u32>>, Vec<u8>) {
    let body = line["body"].as_str().unwrap_or_else(|| text(line, "text"));
    let body = Bytes::copy_from_slice(body.as_bytes());
    let handle = line["type"].as_str().map(|kind| ReceivedHandle {
        kind: Ok(kind_of(kind)),
        handle: 7,
        key: line["key"].as_str().map(str::to_owned),
    });
    let key = || serde_json::from_slice::<Value>(&body).unwrap()["key"].clone();
    let answer = match &handle {
        Some(_) => ACK.to_vec(),
        None if text(line, "id") == "socketlist/get-count" => {
            format!("{{\"cmd\":\"NODE_SOCKET_COUNT\",\"key\":{},\"count\":0}}\n", key()).into_bytes()
        }
        None if text(line, "id") == "socketlist/notify-close" => {
            format!("{{\"cmd\":\"NODE_SOCKET_ALL_CLOSED\",\"key\":{}}}\n", key()).into_bytes()
        }
        None => Vec::new(),
    };
    let key_text = || key().as_str().unwrap().to_owned();
    let event = match text(line, "as") {
        "ack" | "nack" => None,
        "internal" if text(line, "id") == "socketlist/count" => {
            let count = serde_json::from_slice::<Value>(&body).unwrap()["count"]
                .as_u64()
                .unwrap();
            Some(Event::SocketCount(key_text(), count.try_into().unwrap()))
        }
        "internal" if text(line, "id").starts_with("socketlist/") && answer.is_empty() => {
            Some(Event::SocketsClosed(key_text()))
        }
        "internal" if handle.is_none() && !answer.is_empty() => None,
        "internal" => Some(Event::Internal(body, handle)),
        "message" => Some(Event::Message(body, handle)),
        "bad" => Some(Event::Bad(thead_wire::message::BadMessage::new("an empty line", b""))),
        other => panic!("{other}"),
    };
    (event, answer)
}

fn kind_of(name: &str) -> HandleKind {
    let all = [
        HandleKind::Socket,
        HandleKind::Server,
        HandleKind::Native,
        HandleKind::DgramSocket,
        HandleKind::DgramNative,
        HandleKind::BoundSocket,
    ];
    all.into_iter().find(|kind| kind.as_str() == name).unwrap()
}

fn chunk_of(line: &Value) -> Chunk {
    let descriptors = if line["fd"] == true { vec![7] } else { Vec::new() };
    (format!("{}\n", text(line, "text")).into_bytes(), descriptors)
}

#[test]
fn every_line_of_every_runtime_means_what_the_protocol_says() {
    let fixture = fixture("channel");
    for line in fixture["lines"].as_array().unwrap() {
        let got = however_split(text(line, "id"), Serialization::Json, &[chunk_of(line)]);
        let (event, answer) = meaning(line);
        // A mark of Bun's is understood, and then put before what is internal.
        assert_eq!(got.events, Vec::from_iter(event), "{line}");
        assert_eq!(got.written, answer, "{line}");
        assert_eq!(got.fault, None);
    }
}

#[test]
fn all_lines_in_one_stream_mean_the_same_as_each_alone() {
    let fixture = fixture("channel");
    let lines = fixture["lines"].as_array().unwrap();
    let chunks: Vec<_> = lines.iter().map(chunk_of).collect();
    let (events, answers): (Vec<_>, Vec<_>) = lines.iter().map(meaning).unzip();
    let expected = Replay {
        events: events.into_iter().flatten().collect(),
        written: answers.concat(),
        fault: None,
    };
    for step in [1, 2, 7, 64, 4096] {
        assert_eq!(replay(Serialization::Json, &split(&chunks, step, step)), expected);
    }
    // As the kernel delivers them: earlier plain lines come in one read with a line that has a descriptor.
    let mut joined: Vec<Chunk> = Vec::new();
    let mut plain = Vec::new();
    for (bytes, descriptors) in chunks {
        plain.extend_from_slice(&bytes);
        if !descriptors.is_empty() {
            joined.push((std::mem::take(&mut plain), descriptors));
        }
    }
    joined.push((plain, Vec::new()));
    assert_eq!(replay(Serialization::Json, &joined), expected);
}

#[test]
fn every_advanced_frame_of_node_and_deno_means_what_its_line_means() {
    let fixture = fixture("v8-frames");
    for vector in fixture["vectors"].as_array().unwrap() {
        let id = text(vector, "id");
        if vector["from"]
            .as_array()
            .unwrap()
            .iter()
            .any(|from| from.as_str().unwrap().starts_with("bun"))
        {
            continue;
        }
        let frame = hex(text(vector, "hex"));
        let payload = frame[4..].to_vec();
        let (group, name) = id.split_once('/').unwrap_or((id, ""));
        let handle = match (group, name) {
            // Node sends what has no handle any more as a plain message.
            ("handle", "closedsocket") => false,
            ("handle", _) | ("cluster", "newconn" | "reply-shared") => true,
            _ => false,
        };
        let descriptors = if handle { vec![7] } else { Vec::new() };
        let got = however_split(id, Serialization::Advanced, &[(frame, descriptors)]);
        let answered = matches!((group, name), ("socketlist", "get-count" | "notify-close"));
        match (&got.events[..], group) {
            ([], "ack" | "nack") => {}
            ([], "socketlist") if answered => {}
            ([Event::Message(_, Some(received))], "handle") => {
                assert_eq!(received.handle, 7);
                assert!(received.kind.is_ok(), "{received:?}");
            }
            ([Event::SocketCount(key, 0 | 1)], "socketlist") if name == "count" => assert_eq!(key, "4:127.0.0.1:18655"),
            ([Event::SocketsClosed(key)], "socketlist") => assert_eq!(key, "4:127.0.0.1:18655"),
            ([Event::Internal(body, received)], "cluster") => {
                assert_eq!(received.is_some(), handle, "{id}");
                let message: Value = serde_json::from_slice(body).unwrap();
                assert!(message["cmd"].as_str().unwrap().starts_with("NODE_"));
            }
            ([Event::Internal(..)], "msg") => assert_eq!(id, "msg/internal-user"),
            ([Event::Message(body, None)], _) => assert_eq!(&body[..], payload, "{id}"),
            (other, _) => panic!("{id}: {other:?}"),
        }
        assert_eq!(!got.written.is_empty(), handle || answered, "{id}");
    }
}

/// Where an endpoint, or what reads its messages, makes something else of a recorded write than Node 24 did: what, and
/// why. `error` is a message that cannot be read, or is no message; in Node that is an exception, which ends the process
/// unless it is caught.
const DIFFERENCES: &[(&str, &[&str], &str)] = &[
    (
        "json/badjson-ue",
        &[
            r#"message "ok""#,
            "error",
            r#"message "after-same-chunk""#,
            r#"message "later""#,
        ],
        "the lines behind a bad one are read; Node loses those of its chunk",
    ),
    (
        "json/badjson-ue-stale",
        &[
            r#"message "partial""#,
            "error",
            r#"message "x""#,
            r#"message "later""#,
            r#"message "later2""#,
        ],
        "what was left over before a bad line is not put before the next ones",
    ),
    (
        "json/surrogate-esc",
        &["message \"😀 \u{fffd}\""],
        "no Rust string holds half a pair; the bytes are at hand as they came",
    ),
    ("advanced/bad-noue", &["error", "message"], "Node dies of the exception"),
    ("advanced/v16", &["message", "message"], "Deno writes version 16"),
    (
        "advanced/huge-len",
        &["fault"],
        "a frame over the limit ends the channel; Node waits for four gigabytes",
    ),
    (
        "advanced/neg-len-80",
        &["fault"],
        "a frame over the limit ends the channel; Node waits for two gigabytes",
    ),
    (
        "handle-rx/dgram.Socket-notype",
        &[r#"handle "m""#],
        "a descriptor is given as it is: nothing is made of it that could fail",
    ),
    ("handle-rx/net.BoundSocket", &[r#"handle "m""#], "Node 26 knows it too"),
    (
        "handle-rx/three-fds",
        &["handle 1", r#"message "x""#, r#"message "y""#, "handle 2", "handle 3"],
        "all descriptors of a read wait in order; Node's one slot has lost the second by then",
    ),
    (
        "handle-rx/unknown-type",
        &[r#"handle "m""#, r#"message "after""#],
        "given with its unknown name",
    ),
    (
        "handle-rx/null-type",
        &["handle 1", r#"message "after""#],
        "given with an empty name",
    ),
    (
        "handle-rx/file-fd",
        &[r#"handle "m""#, "handle 2", "handle 3"],
        "it is the owner who looks what it is; Node dies of a regular file in C++",
    ),
    (
        "handle-rx/udp-as-server",
        &[r#"handle "m""#, r#"message "after""#],
        "it is the owner who listens",
    ),
    (
        "handle-rx/tcp-as-dgram",
        &[r#"handle "m""#, r#"message "after""#],
        "it is the owner who looks what it is",
    ),
    (
        "handle-rx/conn-as-server",
        &[r#"handle "m""#, r#"message "after""#],
        "it is the owner who listens",
    ),
    (
        "handle-rx/undefined-msg",
        &["handle null"],
        "JSON has no undefined; null is what JSON.stringify makes of it in an array",
    ),
    (
        "handle-rx/spurious-ack",
        &[r#"message "after""#],
        "an answer to nothing is ignored, as by Bun and Deno",
    ),
    (
        "handle-rx/spurious-nack",
        &[r#"message "after""#],
        "an answer to nothing is ignored, as by Bun and Deno",
    ),
];

/// In the words of the fixture.
fn told(serialization: Serialization, event: &Event<u32>) -> String {
    match event {
        Event::Message(body, handle) => {
            let word = if handle.is_some() { "handle" } else { "message" };
            match serialization {
                Serialization::Json => match json::parse_lossy::<Value>(body) {
                    Ok(value) => format!("{word} {value}"),
                    Err(_) => "error".into(),
                },
                Serialization::Advanced => match v8::read(body, &v8::Limits::default()) {
                    Ok(_) => word.into(),
                    Err(_) => "error".into(),
                },
            }
        }
        Event::Internal(_, None) => "internal".into(),
        Event::Internal(_, Some(_)) => "internal handle".into(),
        Event::Bad(_) => "error".into(),
        other => panic!("{other:?}"),
    }
}

/// Node tells of a server when it listens and of an exception when the chunk is done, so both are out of order.
fn sorted(told: &[String]) -> [Vec<&String>; 3] {
    ["handle", "error", ""].map(|word| {
        let late = |told: &&String| told.starts_with("handle") || *told == "error";
        let belongs = |told: &&String| {
            if word.is_empty() {
                !late(told)
            } else {
                told.starts_with(word)
            }
        };
        told.iter().filter(belongs).collect()
    })
}

#[test]
fn what_node_was_seen_to_make_of_writes_is_what_we_make_of_them_but_for_known_differences() {
    let fixture = fixture("channel");
    let mut differ = 0;
    for case in fixture["received"].as_array().unwrap() {
        let id = text(case, "id");
        let serialization = match text(case, "mode") {
            "json" => Serialization::Json,
            _ => Serialization::Advanced,
        };
        let mut next = 0;
        let chunks: Vec<Chunk> = case["chunks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|chunk| {
                let count = u32::try_from(chunk[1].as_u64().unwrap()).unwrap();
                next += count;
                (hex(chunk[0].as_str().unwrap()), (next - count..next).collect())
            })
            .collect();
        let got = however_split(id, serialization, &chunks);
        let mut ours: Vec<String> = got.events.iter().map(|event| told(serialization, event)).collect();
        ours.extend(got.fault.map(|_| "fault".into()));
        let node: Vec<String> = serde_json::from_value(case["node"].clone()).unwrap();
        match DIFFERENCES.iter().find(|(known, ..)| *known == id) {
            Some((_, expected, why)) => {
                assert_eq!(ours, *expected, "{id}");
                assert_ne!(sorted(&ours), sorted(&node), "{id} is no difference any more: {why}");
                differ += 1;
            }
            None => assert_eq!(sorted(&ours), sorted(&node), "{id}"),
        }

        let mut answers = String::new();
        for line in got.written.split_inclusive(|byte| *byte == b'\n') {
            answers.push(if line == ACK { 'A' } else { 'N' });
            assert!(line == ACK || line == NACK, "{id}");
        }
        let expected = match id {
            // Node was dead by then, or had lost the third descriptor.
            "handle-rx/file-fd" | "handle-rx/three-fds" => "AAA",
            _ => text(case, "answers"),
        };
        assert_eq!(answers, expected, "{id}");
    }
    assert_eq!(differ, DIFFERENCES.len(), "each difference has its case");
}
