//! Cluster messages: the captures of real primaries and workers, and what a hostile peer sends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use thead_wire::cluster::{
    AddressType, Backlog, ClusterMessageError, Envelope, FromWorker, MAX_ADDRESS, MAX_DATA, MAX_MESSAGE, Query,
    Sockname, ToWorker,
};

/// The captured messages of this sender.
fn captures(sender: &str) -> impl Iterator<Item = &'static str> {
    let prefix = format!("{sender} ");
    let lines = include_str!("fixtures/cluster-messages.txt").lines();
    let messages: Vec<_> = lines.filter_map(|line| line.strip_prefix(&prefix)).collect();
    assert!(!messages.is_empty());
    messages.into_iter()
}

fn from_worker(json: &str) -> Result<Envelope<FromWorker>, ClusterMessageError> {
    Envelope::<FromWorker>::from_json(json.as_bytes())
}

fn to_worker(json: &str) -> Result<Envelope<ToWorker>, ClusterMessageError> {
    Envelope::<ToWorker>::from_json(json.as_bytes())
}

fn print_from(message: &Envelope<FromWorker>) -> String {
    let mut out = Vec::new();
    message.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

fn print_to(message: &Envelope<ToWorker>) -> String {
    let mut out = Vec::new();
    message.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

fn query(json: Value) -> Result<Query, ClusterMessageError> {
    match Envelope::<FromWorker>::from_value(&json)?.message {
        FromWorker::QueryServer(query) => Ok(*query),
        message => panic!("{message:?} is no query"),
    }
}

/// The field that a query with this one changed is refused for.
fn refused(field: &str, value: Value) -> &'static str {
    let mut message = json!({
        "cmd": "NODE_CLUSTER", "act": "queryServer", "index": 0, "data": null, "address": "127.0.0.1", "port": 80,
        "addressType": 4, "flags": 0, "backlog": 0, "seq": 1,
    });
    message[field] = value;
    match query(message).unwrap_err() {
        ClusterMessageError::Field { field, found, .. } => {
            assert!(found.chars().count() <= 64, "the excerpt is bounded");
            field
        }
        error => panic!("{error} names no field"),
    }
}

#[test]
fn what_workers_sent_is_parsed_and_printed_byte_for_byte() {
    for capture in captures("worker") {
        let message = from_worker(capture).unwrap();
        assert!(!matches!(message.message, FromWorker::Unknown { .. }), "{capture}");
        assert_eq!(print_from(&message), capture);
        let value = message.to_value();
        assert_eq!(value.to_string(), capture, "both serializations say the same");
        assert_eq!(Envelope::<FromWorker>::from_value(&value).unwrap(), message);
    }
}

#[test]
fn what_primaries_sent_is_parsed_and_printed_byte_for_byte() {
    for capture in captures("primary") {
        let message = to_worker(capture).unwrap();
        assert!(!matches!(message.message, ToWorker::Unknown { .. }), "{capture}");
        assert_eq!(print_to(&message), capture);
        let value = message.to_value();
        assert_eq!(value.to_string(), capture, "both serializations say the same");
        assert_eq!(Envelope::<ToWorker>::from_value(&value).unwrap(), message);
    }
}

#[test]
fn what_bun_says_in_its_own_order_is_understood() {
    for capture in captures("bun") {
        let message = from_worker(capture).unwrap();
        assert_eq!(from_worker(&print_from(&message)).unwrap(), message);
    }
    let announced =
        r#"{"cmd":"NODE_CLUSTER","act":"listening","port":18656,"data":null,"address":null,"addressType":4}"#;
    assert_eq!(
        from_worker(announced).unwrap().seq,
        None,
        "its http servers number nothing"
    );
}

#[test]
fn an_answer_in_another_order_is_the_same_answer() {
    let short = from_worker(r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":false,"seq":0}"#).unwrap();
    let long = from_worker(r#"{"seq":0, "accepted":false, "ack":0, "cmd":"NODE_CLUSTER"}"#).unwrap();
    assert_eq!(short, long);
    assert_eq!(
        short.message,
        FromWorker::Accepted {
            ack: 0,
            accepted: false
        },
        "0 is a number like any other"
    );
}

#[test]
fn an_answer_without_a_word_is_no_acceptance() {
    for accepted in [json!({}), json!({ "accepted": null })] {
        let mut message = json!({ "cmd": "NODE_CLUSTER", "ack": 3, "seq": 1 });
        message
            .as_object_mut()
            .unwrap()
            .extend(accepted.as_object().unwrap().clone());
        let message = Envelope::<FromWorker>::from_value(&message).unwrap().message;
        assert_eq!(
            message,
            FromWorker::Accepted {
                ack: 3,
                accepted: false
            }
        );
    }
}

#[test]
fn an_offer_in_another_order_is_the_same_offer() {
    let short = to_worker(r#"{"cmd":"NODE_CLUSTER","act":"newconn","key":"null:80:4:undefined","seq":12}"#).unwrap();
    let long = to_worker(r#"{"cmd":"NODE_CLUSTER","seq":12,"key":"null:80:4:undefined","act":"newconn"}"#).unwrap();
    assert_eq!(short, long);
}

#[test]
fn a_key_with_escapes_survives() {
    for key in [
        "\0name:-1:-1:undefined",
        "/a \"b\"\\c/\u{1}:-1:-1:undefined",
        "/ünï/\u{1f980}",
    ] {
        let offer = Envelope {
            seq: Some(1),
            message: ToWorker::NewConn {
                key: key.into(),
                idle: false,
            },
        };
        assert_eq!(to_worker(&print_to(&offer)).unwrap(), offer);
        let close = Envelope {
            seq: Some(1),
            message: FromWorker::Close { key: key.into() },
        };
        assert_eq!(from_worker(&print_from(&close)).unwrap(), close);
    }
}

#[test]
fn null_absent_and_a_double_are_what_javascript_means_by_them() {
    let all_null = json!({
        "cmd": "NODE_CLUSTER", "act": "queryServer", "index": null, "data": null, "address": null, "port": null,
        "addressType": null, "fd": null, "flags": null, "backlog": null, "readableAll": null, "writableAll": null,
    });
    assert_eq!(query(all_null).unwrap(), Query::default());
    assert_eq!(
        query(json!({ "cmd": "NODE_CLUSTER", "act": "queryServer" })).unwrap(),
        Query::default()
    );
    let doubles = json!({ "cmd": "NODE_CLUSTER", "act": "queryServer", "port": 80.0, "addressType": -1.0 });
    let parsed = query(doubles).unwrap();
    assert_eq!((parsed.port, parsed.address_type), (Some(80), Some(AddressType::Unix)));
}

#[test]
fn a_backlog_of_false_zero_or_nothing_is_the_default() {
    for (backlog, meant) in [
        (None, 511),
        (Some(Backlog::False), 511),
        (Some(Backlog::Length(0)), 511),
        (Some(Backlog::Length(5)), 5),
        (Some(Backlog::Length(-1)), -1),
    ] {
        assert_eq!(
            Query {
                backlog,
                ..Query::default()
            }
            .backlog(),
            meant
        );
    }
}

#[test]
fn a_field_that_cannot_be_is_refused_by_name() {
    for (field, value) in [
        ("index", json!(-1)),
        ("index", json!(4_294_967_296_u64)),
        ("index", json!("0")),
        ("address", json!(80)),
        ("address", json!("/".repeat(MAX_ADDRESS + 1))),
        ("port", json!(65_536)),
        ("port", json!(-2)),
        ("port", json!(80.5)),
        ("port", json!(1e300)),
        ("port", json!("80")),
        ("addressType", json!(5)),
        ("addressType", json!("udp")),
        ("addressType", json!(true)),
        ("fd", json!(-2)),
        ("fd", json!(2_147_483_648_i64)),
        ("flags", json!(-1)),
        ("flags", json!({})),
        ("backlog", json!(true)),
        ("backlog", json!(2_147_483_648_i64)),
        ("readableAll", json!(1)),
        ("writableAll", json!("yes")),
        ("data", json!("x".repeat(MAX_DATA))),
        ("seq", json!(-1)),
        ("seq", json!(9_007_199_254_740_992_u64)),
        ("seq", json!("1")),
        ("ack", json!([])),
        ("act", json!(7)),
        ("act", Value::Null),
    ] {
        assert_eq!(refused(field, value), field);
    }
}

#[test]
fn a_reply_with_an_errno_that_is_none_is_refused() {
    for errno in [json!(98), json!("EADDRINUSE")] {
        let reply = json!({ "cmd": "NODE_CLUSTER", "errno": errno, "key": "k", "ack": 1 });
        let error = Envelope::<ToWorker>::from_value(&reply).unwrap_err();
        assert!(
            matches!(error, ClusterMessageError::Field { field: "errno", .. }),
            "{error}"
        );
    }
}

#[test]
fn a_sockname_that_is_none_is_refused() {
    for sockname in [
        json!("::"),
        json!({}),
        json!({ "address": "::", "family": "IPv5", "port": 1 }),
    ] {
        let reply = json!({ "cmd": "NODE_CLUSTER", "errno": null, "key": "k", "ack": 1, "sockname": sockname });
        let error = Envelope::<ToWorker>::from_value(&reply).unwrap_err();
        assert!(
            matches!(error, ClusterMessageError::Field { field: "sockname", .. }),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_cluster_message_is_said_to_be_none() {
    for other in [
        "{}",
        "[]",
        "null",
        "\"NODE_CLUSTER\"",
        r#"{"cmd":"NODE_HANDLE"}"#,
        r#"{"cmd":7}"#,
    ] {
        let error = from_worker(other).unwrap_err();
        assert!(matches!(error, ClusterMessageError::NotCluster { .. }), "{error}");
    }
    for broken in [
        "",
        "{",
        r#"{"cmd":"NODE_CLUSTER","ack":01,"accepted":true,"seq":1}"#,
        "\u{2}{}",
    ] {
        assert!(
            matches!(from_worker(broken).unwrap_err(), ClusterMessageError::NotJson { .. }),
            "{broken}"
        );
    }
    let error = from_worker(&" ".repeat(MAX_MESSAGE + 1)).unwrap_err();
    assert!(matches!(error, ClusterMessageError::TooLong { length } if length == MAX_MESSAGE + 1));
}

#[test]
fn an_unknown_act_is_kept_by_its_beginning() {
    let act = "a".repeat(1_000);
    let message = from_worker(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"{act}"}}"#))
        .unwrap()
        .message;
    assert_eq!(message, FromWorker::Unknown { act: act[..64].into() });
}

fn text() -> impl Strategy<Value = Box<str>> {
    "\\PC{0,40}|[a-z:/\\x00\"\\\\]{0,40}".prop_map(Into::into)
}

fn any_query() -> impl Strategy<Value = Box<Query>> {
    let backlog = prop_oneof![Just(Backlog::False), any::<i32>().prop_map(Backlog::Length)];
    let address_type = prop::sample::select(vec![
        AddressType::Ipv4,
        AddressType::Ipv6,
        AddressType::Unix,
        AddressType::Udp4,
        AddressType::Udp6,
    ]);
    let data = prop_oneof![Just(Value::Null), text().prop_map(|keys| json!({ "ticketKeys": keys }))];
    let first = (
        any::<u32>(),
        data,
        prop::option::of(text()),
        prop::option::of(-1..=65_535_i32),
    );
    let second = (
        prop::option::of(address_type),
        prop::option::of(-1..i32::MAX),
        any::<Option<u32>>(),
    );
    let third = (prop::option::of(backlog), any::<Option<bool>>(), any::<Option<bool>>());
    (first, second, third).prop_map(
        |((index, data, address, port), (address_type, fd, flags), (backlog, readable_all, writable_all))| {
            let data = Arc::new(data);
            Box::new(Query {
                index,
                data,
                address,
                port,
                address_type,
                fd,
                flags,
                backlog,
                readable_all,
                writable_all,
            })
        },
    )
}

fn any_from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        Just(FromWorker::Online),
        any_query().prop_map(FromWorker::QueryServer),
        any_query().prop_map(FromWorker::Listening),
        text().prop_map(|key| FromWorker::Close { key }),
        Just(FromWorker::ExitedAfterDisconnect),
        (0..1_u64 << 53, any::<bool>()).prop_map(|(ack, accepted)| FromWorker::Accepted { ack, accepted }),
    ]
}

fn any_to_worker() -> impl Strategy<Value = ToWorker> {
    let ack = 0..1_u64 << 53;
    let key = || text().prop_map(Arc::<str>::from);
    let sockname = (text(), any::<bool>(), any::<u16>());
    let sockname = sockname.prop_map(|(address, ipv6, port)| Box::new(Sockname { address, ipv6, port }));
    prop_oneof![
        (ack.clone(), key(), text(), prop::option::of(sockname)).prop_map(|(ack, key, data, sockname)| {
            ToWorker::RoundRobin {
                ack,
                key,
                data: Arc::new(json!(&*data)),
                sockname,
            }
        }),
        (ack.clone(), key()).prop_map(|(ack, key)| ToWorker::Shared {
            ack,
            key,
            data: Arc::default()
        }),
        (ack.clone(), key(), i32::MIN..0).prop_map(|(ack, key, errno)| ToWorker::Refused { ack, key, errno }),
        (key(), any::<bool>()).prop_map(|(key, idle)| ToWorker::NewConn { key, idle }),
        Just(ToWorker::Disconnect),
        ack.prop_map(|ack| ToWorker::Ack { ack }),
    ]
}

proptest! {
    #[test]
    fn a_worker_says_what_a_primary_reads(seq in prop::option::of(0..1_u64 << 53), message in any_from_worker()) {
        let message = Envelope { seq, message };
        prop_assert_eq!(from_worker(&print_from(&message)).unwrap(), message.clone());
        prop_assert_eq!(Envelope::<FromWorker>::from_value(&message.to_value()).unwrap(), message);
    }

    #[test]
    fn a_primary_says_what_a_worker_reads(seq in prop::option::of(0..1_u64 << 53), message in any_to_worker()) {
        let message = Envelope { seq, message };
        prop_assert_eq!(to_worker(&print_to(&message)).unwrap(), message.clone());
        prop_assert_eq!(Envelope::<ToWorker>::from_value(&message.to_value()).unwrap(), message);
    }

    #[test]
    fn a_capture_with_a_wrong_byte_is_an_error_or_another_message_but_no_panic(at in any::<prop::sample::Index>(), byte: u8) {
        for capture in captures("worker").chain(captures("primary")) {
            let mut bytes = capture.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _either = Envelope::<FromWorker>::from_json(&bytes);
            let _either = Envelope::<ToWorker>::from_json(&bytes);
        }
    }
}
