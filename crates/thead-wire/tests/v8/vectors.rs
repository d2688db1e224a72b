//! Frames that real runtimes sent, and frames that were given to them.

use std::collections::BTreeSet;

use crate::kit::{hex, read_default, receive_cases, vectors, well_formed};
use serde_json::Value as Json;
use thead_wire::v8::{Document, Limits, ReadErrorKind, is_javascript_core, read, write};

#[test]
fn every_complete_frame_of_node_and_deno_is_read() {
    let all = well_formed();
    assert!(all.len() > 200);
    for vector in all {
        if let Err(error) = read_default(&vector.payload()) {
            panic!("{} of {:?}: {error}", vector.id, vector.from);
        }
    }
}

/// Frames that we write otherwise than their sender, who is always another than Node 22 and later.
const WRITTEN_OTHERWISE: [(&str, &str, &str); 3] = [
    (
        "msg/obj-typeerror-cause",
        "node 18",
        "the cause before the stack; Node 18 reads any order",
    ),
    (
        "msg/obj-typeerror-cause",
        "node 20",
        "the cause before the stack; Node 20 reads any order",
    ),
    (
        "msg/obj-undefined",
        "deno",
        "a sparse array without holes; Node writes a dense one",
    ),
];

#[test]
fn what_was_read_is_written_back_byte_for_byte() {
    let mut otherwise = BTreeSet::new();
    for vector in well_formed() {
        let written = write(&read_default(&vector.payload()).unwrap()).unwrap();
        let mut expected = vector.payload().to_vec();
        // Deno's version 16 is no different in what it sends.
        expected[1] = 15;
        if written == expected {
            continue;
        }
        for from in &vector.from {
            let exception = WRITTEN_OTHERWISE
                .iter()
                .find(|(id, who, _)| *id == vector.id && from.starts_with(who));
            let Some(exception) = exception else {
                panic!(
                    "{} of {from}:\n   got {}\nwanted {}",
                    vector.id,
                    hex(&written),
                    hex(&expected)
                );
            };
            otherwise.insert(exception);
        }
    }
    assert_eq!(
        otherwise,
        WRITTEN_OTHERWISE.iter().collect(),
        "an exception is no longer needed"
    );
}

/// Values of which not every runtime sends the same.
const SENT_OTHERWISE: [(&str, &str); 2] = [
    ("msg/obj-arraybuffer-resizable", "Node 18 does not know of resizing"),
    ("msg/obj-blob", "native, and so a host object, in Node 18 and 20"),
];

#[test]
fn one_value_sent_by_all_runtimes_is_read_as_one() {
    let mut otherwise = BTreeSet::new();
    let all = well_formed();
    // What runtimes say to one another about handles and workers differs on purpose.
    for vector in all
        .iter()
        .filter(|vector| vector.id.starts_with("msg/") || vector.id.starts_with("adv/"))
    {
        let Some(newest) = all
            .iter()
            .find(|other| other.id == vector.id && other.is_from("node 26"))
        else {
            continue;
        };
        if read_default(&vector.payload()).unwrap() != read_default(&newest.payload()).unwrap() {
            otherwise.insert(vector.id.as_str());
        }
    }
    assert_eq!(otherwise, SENT_OTHERWISE.iter().map(|(id, _)| *id).collect());
}

/// Values of which json mode and advanced mode send different parts.
const OTHER_JSON: [(&str, &str); 3] = [
    (
        "msg/obj-customerror",
        "JSON has the properties of an error, V8's format its message",
    ),
    ("msg/obj-typeerror-cause", "as before"),
    ("msg/obj-url", "JSON has what toJSON returns"),
];

#[test]
fn as_json_it_is_what_node_sends_in_json_mode() {
    let mut otherwise = BTreeSet::new();
    let mut same = 0;
    for vector in well_formed() {
        let Some(expected) = &vector.json else { continue };
        match read_default(&vector.payload()).unwrap().to_json() {
            Ok(json) if json == *expected => same += 1,
            _ => drop(otherwise.insert(vector.id)),
        }
    }
    assert!(same > 80, "{same}");
    assert_eq!(otherwise, OTHER_JSON.iter().map(|(id, _)| (*id).to_owned()).collect());
}

#[test]
fn plain_data_from_json_is_written_as_node_writes_it() {
    let mut same = 0;
    for vector in well_formed() {
        let Some(json) = &vector.json else { continue };
        // JSON can tell -0 from 0, `JSON.stringify` does not; so it is with all that it changes.
        let lossless = read_default(&vector.payload()).unwrap() == Document::from_json(json);
        if lossless && !vector.is_from("deno") {
            assert_eq!(
                write(&Document::from_json(json)).unwrap(),
                vector.payload(),
                "{}",
                vector.id
            );
            same += 1;
        }
    }
    assert!(same > 60, "{same}");
}

#[test]
fn every_frame_of_bun_is_refused_with_advice() {
    let bun: Vec<_> = vectors().into_iter().filter(|vector| vector.is_from("bun")).collect();
    assert!(bun.len() > 50);
    for vector in bun {
        // The packet, what a reader of Node's frames takes for the payload, and the value alone.
        for (from, recognised) in [(0, true), (4, false), (5, true)] {
            let bytes = vector.frame.slice(from..);
            let error = read_default(&bytes).unwrap_err();
            if recognised && !bytes.is_empty() {
                assert!(is_javascript_core(&bytes), "{} from byte {from}", vector.id);
                assert_eq!(error.kind(), &ReadErrorKind::JavaScriptCore);
                assert!(error.to_string().contains("with Bun use json"), "{error}");
            }
        }
    }
}

#[test]
fn nothing_of_node_or_deno_looks_like_bun() {
    for vector in well_formed() {
        assert!(!is_javascript_core(&vector.frame), "{}", vector.id);
        assert!(!is_javascript_core(&vector.payload()), "{}", vector.id);
    }
}

#[test]
fn a_frame_that_deno_cut_off_is_refused() {
    let truncated: Vec<_> = vectors().into_iter().filter(|vector| vector.truncated).collect();
    assert!(!truncated.is_empty());
    for vector in truncated {
        let error = read_default(&vector.payload()).unwrap_err();
        assert!(
            matches!(error.kind(), ReadErrorKind::Truncated { .. } | ReadErrorKind::Tag(_)),
            "{}: {error}",
            vector.id
        );
    }
}

#[test]
fn what_some_runtime_reads_we_read_and_nothing_else() {
    for case in receive_cases() {
        let got = read_default(&case.payload);
        if case.id == "advanced/deep-nesting-3000" {
            assert_eq!(got.unwrap_err().kind(), &ReadErrorKind::TooDeep { limit: 1_000 });
            read(&case.payload, &Limits::with_depth(3_000)).unwrap();
            continue;
        }
        assert_eq!(got.is_ok(), !case.read_by.is_empty(), "{}: {got:?}", case.id);
    }
}

/// What is written must be readable by all versions of Node: so with each case they read, we write what they read.
#[test]
fn what_is_lax_in_a_frame_is_written_strictly() {
    let rewritten = |id: &str| {
        let case = receive_cases().into_iter().find(|case| case.id == id).unwrap();
        hex(&write(&read_default(&case.payload).unwrap()).unwrap())
    };
    assert_eq!(rewritten("advanced/trailing-garbage"), "ff0f220568656c6c6f");
    assert_eq!(rewritten("advanced/v13"), "ff0f220568656c6c6f");
    assert_eq!(rewritten("advanced/padding"), "ff0f22026869");
    assert_eq!(rewritten("advanced/uint32-U"), "ff0f490a");
    assert_eq!(rewritten("advanced/utf8-string-S"), "ff0f6302604f");
    assert_eq!(rewritten("advanced/unpadded-twobyte"), "ff0f6f22026162006302604f7b01");
    assert_eq!(rewritten("advanced/typedarray-v8native"), "ff0f5c000103090807");
    assert_eq!(rewritten("advanced/view-badlen"), "ff0f5c000600");
    assert_eq!(
        rewritten("advanced/theHole-dense"),
        "ff0f6102490249024001 02".replace(' ', "")
    );
    assert_eq!(rewritten("advanced/noncanonical-varint"), "ff0f220568656c6c6f");
}

#[test]
fn a_printed_value_looks_like_javascript() {
    let shown = |id: &str| {
        let vector = well_formed()
            .into_iter()
            .find(|vector| vector.id == id && vector.is_from("node 26"))
            .unwrap();
        format!("{:?}", read_default(&vector.payload()).unwrap())
    };
    assert_eq!(shown("msg/obj-simple"), r#"{"a": 1, "b": "x", "c": [true, null]}"#);
    assert_eq!(shown("msg/obj-intkeys"), r#"{1: "x", "b": 2}"#);
    assert_eq!(shown("msg/str-lone-surrogate"), r#""a\ud800b""#);
    assert_eq!(shown("msg/arr-sparse"), "Array(4) {0: 1, 3: 4}");
    assert_eq!(shown("msg/obj-buffer"), r#"{"b": Buffer(4 bytes)}"#);
    assert_eq!(
        shown("msg/obj-bigint"),
        r#"{"n": 0x18ee90ff6c373e0ee4e3f0ad2n, "m": -0x5n, "z": 0x0n}"#
    );
    assert_eq!(shown("msg/obj-regexp"), r#"{"r": RegExp("a.b", "gi")}"#);
    assert_eq!(shown("msg/obj-map"), r#"{"m": Map {1: "a", "k": {"v": 2}}}"#);
    assert_eq!(shown("msg/obj-set"), r#"{"s": Set [1, "a"]}"#);
    assert_eq!(
        shown("msg/obj-typeerror-cause"),
        r#"{"e": TypeError("tt" because of {"c": 1})}"#
    );
    assert_eq!(
        shown("msg/obj-boxed"),
        r#"{"n": Number(5), "s": String("b"), "b": Boolean(true)}"#
    );
}

#[test]
fn the_fields_of_an_internal_message_are_at_hand() {
    let vector = well_formed()
        .into_iter()
        .find(|vector| vector.id == "cluster/newconn")
        .unwrap();
    let message = read_default(&vector.payload()).unwrap();
    assert_eq!(message.get("cmd").unwrap().as_str().unwrap(), "NODE_HANDLE");
    let inner = message.into_property("msg").unwrap();
    assert_eq!(inner.get("act").unwrap().as_str().unwrap(), "newconn");
    assert!(inner.get("seq").unwrap().as_i64().is_some());
    assert!(inner.get("no such").is_none());
    assert_eq!(inner.to_json().unwrap()["cmd"], Json::from("NODE_CLUSTER"));
    assert!(inner.into_property("no such").is_err());
}
