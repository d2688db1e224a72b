//! JavaScript's own types, and what is borrowed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value as Json;
use thead_wire::v8::{ErrorKind, ViewKind, js};

use crate::kit::hex;
use crate::typed::{made, read_as, recorded, there_and_back, written};

#[test]
fn javascripts_own_types_are_written_as_nodes() {
    assert_eq!(
        written(&js::Date(1_234_567_890_123.0)),
        hex(&recorded("adv/date-top")[2..])
    );
    assert_eq!(written(&js::BigInt(-5)), "5a110500000000000000");
    assert_eq!(written(&js::Undefined), "5f");
    assert_eq!(written(&js::Buffer(b"abc")), "5c000a03616263");
    assert_eq!(written(&js::ArrayBuffer([9, 8, 7])), "4203090807");
    assert_eq!(written(&js::Uint8Array(vec![1])), "5c00010101");
    assert_eq!(written(&js::Float64Array(vec![1.5])), "5c000808000000000000f83f");
    assert_eq!(written(&js::Int16Array(vec![-2, 3])), "5c000304feff0300");
    assert_eq!(written(&js::Float32Array(vec![1.5])), "5c0007040000c03f");
    assert_eq!(written(&js::BigUint64Array(vec![u64::MAX])), "5c000c08ffffffffffffffff");
    assert_eq!(written(&js::Map(BTreeMap::from([("a", 1)]))), "3b22016149023a02");
    assert_eq!(written(&js::Map(BTreeMap::<u8, u8>::new())), "3b3a00");
    assert_eq!(written(&js::Set([1, 2])), "27490249042c02");
    let regexp = js::RegExp {
        source: "a/b".into(),
        flags: "gi".parse().unwrap(),
    };
    assert_eq!(written(&regexp), "522203612f6203");
    let error = js::Error {
        kind: ErrorKind::RangeError,
        message: Some("q".into()),
        stack: Some("S".into()),
        cause: None,
    };
    assert_eq!(written(&error), hex(&recorded("adv/err-range")[2..]));
    there_and_back(js::Error {
        cause: Some(js::Cause(Box::new(js::Error::new(ErrorKind::TypeError, "inner")))),
        ..error
    });
    there_and_back((regexp, js::Date(-1.5), js::BigInt(i128::MAX), js::Undefined));
    there_and_back((
        js::Int8Array(vec![-1]),
        js::Uint16Array(vec![65535]),
        js::Int32Array(vec![i32::MIN]),
        js::Uint32Array(vec![u32::MAX]),
        js::BigInt64Array(vec![i64::MIN, 1]),
        js::Float32Array(vec![0.1]),
    ));
    there_and_back((js::Map(BTreeMap::from([("a".to_owned(), 1)])), js::Set(vec![1, 2])));
}

#[test]
fn what_node_wrote_is_read_into_types() {
    #[derive(Deserialize)]
    struct In<T> {
        #[serde(alias = "e", alias = "r", alias = "m", alias = "s", alias = "d", alias = "u")]
        b: T,
    }
    let error = recorded("msg/obj-typeerror-cause");
    let In { b } = read_as::<In<js::Error<BTreeMap<String, u8>>>>(&error).unwrap();
    assert_eq!((b.kind, b.message.as_deref()), (ErrorKind::TypeError, Some("tt")));
    assert_eq!(b.cause, Some(BTreeMap::from([("c".to_owned(), 1)])));
    let In { b } = read_as::<In<BTreeMap<String, Json>>>(&error).unwrap();
    assert_eq!(b["name"], "TypeError");
    let In { b } = read_as::<In<js::RegExp>>(&recorded("msg/obj-regexp")).unwrap();
    assert_eq!(b.to_string(), "/a.b/gi");
    let In { b } = read_as::<In<BTreeSet<Json2>>>(&recorded("msg/obj-set")).unwrap();
    assert_eq!(b, BTreeSet::from([Json2::Number(1), Json2::Text("a".into())]));
    let buffer = recorded("msg/obj-buffer");
    let In { b } = read_as::<In<&[u8]>>(&buffer).unwrap();
    assert_eq!(b.len(), 4);
    let In { b: copied } = read_as::<In<Vec<u8>>>(&buffer).unwrap();
    assert_eq!(copied, b);
    let date = recorded("adv/date-top");
    assert_eq!(read_as::<f64>(&date).unwrap(), 1_234_567_890_123.0);
    assert_eq!(read_as::<js::Date>(&date).unwrap(), js::Date(1_234_567_890_123.0));
    assert_eq!(read_as::<String>(&date).unwrap(), "2009-02-13T23:31:30.123Z");
    // Written by V8's own serializer, and by one that has two-byte strings where they need not be.
    assert_eq!(
        read_as::<&[u8]>(b"\xff\x0fB\x04\x01\x02\x03\x04VB\x01\x02\0").unwrap(),
        [2, 3]
    );
    assert_eq!(
        read_as::<Vec<u16>>(b"\xff\x0fB\x04\x01\0\x02\0VW\0\x04\0").unwrap(),
        [1, 2]
    );
    assert_eq!(read_as::<String>(b"\xff\x0fc\x02a\0").unwrap(), "a");
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(untagged)]
enum Json2 {
    Number(i64),
    Text(String),
}

#[test]
fn text_and_bytes_are_borrowed() {
    #[derive(Deserialize)]
    struct Borrowed<'a> {
        text: &'a str,
        bytes: &'a [u8],
        #[serde(borrow)]
        view: js::Uint8Array<&'a [u8]>,
    }
    let payload = made(|b| {
        let (text, bytes, view) = (
            b.string("text"),
            b.buffer(&b"\x01"[..]),
            b.view(ViewKind::DataView, &b"\x02"[..]),
        );
        b.object([("text", text), ("bytes", bytes), ("view", view)])
    });
    let Borrowed { text, bytes, view } = read_as(&payload).unwrap();
    assert_eq!((text, bytes, view.0), ("text", &[1][..], &[2][..]));
    assert!(payload.as_ptr_range().contains(&text.as_ptr()));
    assert!(payload.as_ptr_range().contains(&bytes.as_ptr()));
    let odd = made(|b| b.view(ViewKind::Float64Array, vec![0; 16]));
    assert_eq!(read_as::<&[u8]>(&odd).unwrap().len(), 16, "whatever its alignment");
}

#[test]
fn the_class_of_an_error_is_found_wherever_it_stands() {
    for payload in [
        &b"\xff\x0frRm\"\x01q."[..],
        b"\xff\x0frm\"\x01qR.",
        b"\xff\x0frc\"\x012m\"\x01qR.",
    ] {
        let error: js::Error<String> = read_as(payload).unwrap();
        assert_eq!(
            (error.kind, error.message.as_deref()),
            (ErrorKind::RangeError, Some("q"))
        );
    }
}
