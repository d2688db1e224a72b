//! Reading and writing types, when the other side or the type means harm.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thead_wire::v8::{DecodeErrorKind, EncodeErrorKind, Limits, WriteError, from_slice, to_vec};

use crate::kit::payloads;
use crate::typed::read_as;

#[derive(Serialize, Deserialize, Debug, Default)]
struct Tree {
    #[serde(default)]
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(untagged)]
enum Any {
    Number(f64),
    Text(String),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "type")]
enum Node {
    Leaf,
    Inner { next: Box<Node> },
}

#[derive(Serialize, Deserialize, Debug)]
struct Linked {
    #[serde(default)]
    next: Option<Box<Linked>>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredIn>,
}

#[derive(Serialize, Deserialize, Debug)]
struct IgnoredIn;

fn nested(open: &[u8], close: &[u8], depth: usize, innermost: &[u8]) -> Vec<u8> {
    [b"\xff\x0f", &open.repeat(depth)[..], innermost, &close.repeat(depth)].concat()
}

const ARRAY: (&[u8], &[u8]) = (b"A\x01", b"$\0\x01");
const CHILDREN: (&[u8], &[u8]) = (b"o\"\x08childrenA\x01", b"$\0\x01{\x01");
const NEXT: (&[u8], &[u8]) = (b"o\"\x04next", b"{\x01");
const INNER: (&[u8], &[u8]) = (b"o\"\x04type\"\x05Inner\"\x04next", b"{\x02");

/// In a thread with the stack that threads have by default.
fn in_two_megabytes(work: impl FnOnce() + Send + 'static) {
    let builder = std::thread::Builder::new().stack_size(2 << 20);
    builder.spawn(work).unwrap().join().unwrap();
}

#[test]
fn as_deep_as_types_may_be_fits_the_stack_and_deeper_is_refused() {
    in_two_megabytes(|| {
        let deep =
            |(open, close): (&[u8], &[u8]), innermost: &[u8], levels: usize| nested(open, close, levels, innermost);
        read_as::<Json>(&deep(ARRAY, b"0", 256)).unwrap();
        read_as::<Json>(&deep(NEXT, b"0", 256)).unwrap();
        read_as::<Any>(&deep(ARRAY, b"I\x02", 256)).unwrap();
        read_as::<Tree>(&deep(CHILDREN, b"o{\0", 127)).unwrap();
        read_as::<Linked>(&deep(NEXT, b"0", 256)).unwrap();
        read_as::<Node>(&deep(INNER, b"o\"\x04type\"\x04Leaf{\x01", 255)).unwrap();
        for payload in [deep(ARRAY, b"0", 257), deep(NEXT, b"0", 100_000)] {
            let error = read_as::<Json>(&payload).unwrap_err();
            assert_eq!(*error.kind(), DecodeErrorKind::TooDeep { limit: 256 });
            assert!(error.to_string().len() < 400, "{error}");
        }
        assert!(read_as::<Linked>(&deep(NEXT, b"0", 100_000)).is_err());
    });
}

#[test]
fn the_limits_of_documents_hold_for_types_too() {
    let payload = nested(ARRAY.0, ARRAY.1, 20, b"0");
    let with = |limits: Limits| from_slice::<Json>(&payload, &limits).map_err(|error| error.to_string());
    assert!(with(Limits::with_depth(20)).is_ok());
    assert_eq!(
        with(Limits::with_depth(19)).unwrap_err(),
        format!("nested deeper than 19 at {}", "[0]".repeat(19))
    );
    assert!(with(Limits::with_values(21)).is_ok());
    assert!(
        with(Limits::with_values(20))
            .unwrap_err()
            .contains("more than 20 values")
    );
    // Skipping does not recurse, so only the limit of documents counts.
    let deep = nested(NEXT.0, NEXT.1, 1_000, b"0");
    read_as::<IgnoredAny>(&deep).unwrap();
    assert!(read_as::<IgnoredAny>(&nested(NEXT.0, NEXT.1, 1_001, b"0")).is_err());
    from_slice::<IgnoredAny>(&nested(NEXT.0, NEXT.1, 200_000, b"0"), &Limits::with_depth(200_000)).unwrap();
}

#[test]
fn a_type_that_is_nested_too_deep_is_not_written() {
    in_two_megabytes(|| {
        let tree = |depth: usize| {
            let tree = (1..depth).fold(Json::from(vec![0; 0]), |inner, _| Json::from(vec![inner]));
            let written = to_vec(&tree);
            // Dropping recurses as well, which is serde_json's.
            written.map(drop).map_err(|error| error.kind().clone())
        };
        assert_eq!(tree(256), Ok(()));
        assert_eq!(
            tree(257),
            Err(EncodeErrorKind::Write(WriteError::TooDeep { limit: 256 }))
        );
    });
}

#[test]
fn shared_objects_are_read_as_often_as_they_are_used() {
    // [{a: 1}, the same, the same]
    let payload = b"\xff\x0fA\x03o\"\x01aI\x02{\x01^\x01^\x01$\0\x03";
    let read: Vec<BTreeMap<String, u8>> = read_as(payload).unwrap();
    assert_eq!(read, vec![BTreeMap::from([("a".to_owned(), 1)]); 3]);
    // [[1], [the same, 2], the last]: what is read again may refer to others, and what follows has the right numbers.
    let payload = b"\xff\x0fA\x03A\x01I\x02$\0\x01A\x02^\x01I\x04$\0\x02^\x02$\0\x03";
    assert_eq!(
        read_as::<Json>(payload).unwrap(),
        serde_json::json!([[1], [[1], 2], [[1], 2]])
    );
    // What was skipped at first is read when it is used later.
    #[derive(Deserialize)]
    struct Later {
        b: Vec<u8>,
        c: Vec<u8>,
    }
    let payload = b"\xff\x0fo\"\x01aA\x01A\x01I\x02$\0\x01$\0\x01\"\x01b^\x02\"\x01cA\x01I\x04$\0\x01{\x03";
    let Later { b, c } = read_as(payload).unwrap();
    assert_eq!((b, c), (vec![1], vec![2]));
    // A buffer, a view on it, and the buffer again.
    let payload = b"\xff\x0fA\x03B\x02\x07\x08VB\x01\x01\0^\x01^\x02$\0\x03";
    assert_eq!(read_as::<Vec<&[u8]>>(payload).unwrap(), [&[8][..], &[7, 8], &[8]]);
}

#[test]
fn an_object_that_contains_itself_is_an_error_for_a_type_and_nothing_for_who_skips() {
    let cycle = b"\xff\x0fo\"\x04self^\0{\x01";
    let error = read_as::<Json>(cycle).unwrap_err();
    assert_eq!(error.to_string(), "an object that contains itself at self");
    read_as::<IgnoredAny>(cycle).unwrap();
    #[derive(Deserialize)]
    struct Other {}
    let Other {} = read_as(cycle).unwrap();
    let host = b"\xff\x0f\\\x01^\0";
    assert!(matches!(
        read_as::<Json>(host).unwrap_err().kind(),
        DecodeErrorKind::Cycle
    ));
    assert!(read_as::<Json>(b"\xff\x0f^\0").is_err());
}

#[test]
fn a_billion_laughs_are_not_laughed() {
    // Ten lists of ten times the list before.
    let mut payload = b"\xff\x0fA\x0aA\0$\0\0".to_vec();
    for list in 1..10 {
        payload.extend_from_slice(b"A\x0a");
        payload.extend([b'^', list].repeat(10));
        payload.extend_from_slice(b"$\0\x0a");
    }
    payload.extend_from_slice(b"$\0\x0a");
    assert!(matches!(
        read_as::<Json>(&payload).unwrap_err().kind(),
        DecodeErrorKind::TooLarge
    ));
    assert!(matches!(
        read_as::<Any>(&payload).unwrap_err().kind(),
        DecodeErrorKind::TooLarge
    ));
    read_as::<IgnoredAny>(&payload).unwrap();
    let holes = b"\xff\x0fa\xff\xff\xff\xff\x0f@\0\xff\xff\xff\xff\x0f";
    assert!(matches!(
        read_as::<Json>(holes).unwrap_err().kind(),
        DecodeErrorKind::TooLarge
    ));
    read_as::<IgnoredAny>(holes).unwrap();
}

#[test]
fn any_change_of_a_recorded_frame_is_a_value_or_an_error() {
    for payload in payloads().iter().filter(|payload| payload.starts_with(b"\xff")) {
        let mut bytes = payload.to_vec();
        for at in 2..bytes.len() {
            let was = bytes[at];
            for other in [0, 1, 2, b'^', b'o', b'A', b'a', b'V', was ^ 1, was ^ 0x80, 0xff] {
                bytes[at] = other;
                drop(read_as::<Any>(&bytes));
                drop(read_as::<Tree>(&bytes));
                drop(read_as::<IgnoredAny>(&bytes));
            }
            bytes[at] = was;
        }
    }
}

#[test]
fn a_type_that_stops_in_the_middle_does_no_harm() {
    /// Takes the first element as a number, or what comes instead.
    #[derive(Debug)]
    struct Lenient(#[expect(dead_code, reason = "only printed")] Option<u8>);
    impl<'de> Deserialize<'de> for Lenient {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lenient, D::Error> {
            Ok(Lenient(u8::deserialize(deserializer).ok()))
        }
    }
    for payload in payloads() {
        drop(read_as::<Vec<Lenient>>(&payload));
        drop(read_as::<BTreeMap<String, Lenient>>(&payload));
    }
}
