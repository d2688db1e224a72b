//! What holds for all bytes and all documents.

use std::thread;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use thead_wire::v8::{Document, JsonError, Limits, ReadError, ReadErrorKind, WriteError, read, write, write_into};

use crate::kit::{document, hex, payloads, read_default};

/// Reads, and if that succeeds, everything else that can be done with a document.
fn exercise(payload: &Bytes) {
    if let Err(error) = exercise_quietly(payload) {
        assert!(error.to_string().len() < 400, "{error}");
    }
}

/// The same without a text for each error, which takes longer than all else.
fn exercise_quietly(payload: &Bytes) -> Result<(), ReadError> {
    let document = read_default(payload).inspect_err(|error| assert!(error.offset() <= payload.len()))?;
    let written = match write(&document) {
        // Version 16 has sizes that 15 has not.
        Err(WriteError::TooLarge) => return Ok(()),
        written => written.unwrap(),
    };
    let again = read_default(&written).unwrap();
    assert!(again == document, "{} was written as {}", hex(payload), hex(&written));
    assert_eq!(write(&again).unwrap(), written, "{}", hex(payload));
    Ok(())
}

#[test]
fn every_truncation_of_every_frame_is_answered() {
    for payload in payloads() {
        (0..payload.len()).for_each(|len| exercise(&payload.slice(..len)));
    }
}

#[test]
fn every_change_of_one_byte_of_every_frame_is_answered() {
    // Of Bun's, no byte but the first is looked at.
    for payload in payloads().iter().filter(|payload| payload.starts_with(b"\xff")) {
        let mut bytes = payload.to_vec();
        for at in 2..bytes.len() {
            for _ in 0..256 {
                bytes[at] = bytes[at].wrapping_add(1);
                drop(exercise_quietly(&Bytes::copy_from_slice(&bytes)));
            }
        }
    }
}

/// Bytes that a reader gets far with.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let tags = b"\"cS_0TF-IUNZo{A$a@Dyxnzs R;:',B~V^\\rms.c\x00\x01\x02\x08\x80\xff";
    prop::collection::vec(
        prop_oneof![3 => prop::sample::select(tags.to_vec()), 1 => any::<u8>()],
        0..60,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_answered(version in 12_u8..18, bytes in likely_bytes()) {
        exercise(&[&[0xff, version], &bytes[..]].concat().into());
        exercise(&bytes.into());
    }

    #[test]
    fn a_frame_with_strange_bytes_within_is_answered(
        payload in prop::sample::select(payloads()),
        at in any::<prop::sample::Index>(),
        remove in 0_usize..4,
        insert in likely_bytes(),
    ) {
        let at = at.index(payload.len() + 1);
        let rest = payload.slice((at + remove).min(payload.len())..);
        exercise(&[&payload[..at], &insert, &rest].concat().into());
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(document in document()) {
        let written = write(&document).unwrap();
        let read = read_default(&written).unwrap();
        prop_assert!(read == document, "{document:?}\n{}\n{read:?}", hex(&written));
        prop_assert_eq!(write(&read).unwrap(), written);
    }

    #[test]
    fn where_a_frame_is_put_changes_nothing(document in document(), before in 0_usize..8) {
        let mut out = BytesMut::from(&b"previous"[..before]);
        write_into(&document, &Limits::default(), &mut out).unwrap();
        prop_assert_eq!(&out[before..], &write(&document).unwrap()[..]);
    }

    #[test]
    fn a_document_equals_itself_however_it_is_made(document in document()) {
        let (builder, root) = document.clone().into_builder();
        prop_assert!(builder.finish(root) == document);
    }

    #[test]
    fn json_or_a_reason_comes_of_any_document(document in document()) {
        if let Ok(json) = document.to_json() {
            // What is JSON once stays so.
            prop_assert_eq!(Document::from_json(&json).to_json(), Ok(json));
        }
    }

    #[test]
    fn a_printed_document_is_short(document in document()) {
        let (line, lines) = (format!("{document:?}"), format!("{document:#?}"));
        prop_assert!(!line.is_empty() && line.len() < 20_000 && lines.len() < 40_000);
    }

    #[test]
    fn json_that_comes_and_goes_is_the_same(json in json()) {
        let document = Document::from_json(&json);
        let read = read_default(&write(&document).unwrap()).unwrap();
        prop_assert!(read == document);
        prop_assert_eq!(read.to_json(), Ok(json));
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        (-9_007_199_254_740_992_i64..=9_007_199_254_740_992).prop_map(Into::into),
        (-1e9..1e9)
            .prop_filter("whole ones lose their point", |double: &f64| double.fract() != 0.0)
            .prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            // Names that are indexes change places.
            prop::collection::vec(("[a-zé\u{1f600}]{0,5}", inner), 0..6)
                .prop_map(|properties| serde_json::Value::Object(properties.into_iter().collect())),
        ]
    })
}

/// `[[[…]]]`
fn nested(depth: usize) -> Bytes {
    [
        &b"\xff\x0f"[..],
        &b"A\x01".repeat(depth),
        b"0",
        &b"$\x00\x01".repeat(depth),
    ]
    .concat()
    .into()
}

#[test]
fn a_thousand_levels_are_read_and_written_and_no_more() {
    let document = read_default(&nested(1_000)).unwrap();
    assert_eq!(write(&document).unwrap(), nested(1_000));
    assert_eq!(
        read_default(&nested(1_001)).unwrap_err().kind(),
        &ReadErrorKind::TooDeep { limit: 1_000 }
    );

    let deeper = read(&nested(1_001), &Limits::with_depth(1_001)).unwrap();
    assert_eq!(write(&deeper), Err(WriteError::TooDeep { limit: 1_000 }));
    let mut out = BytesMut::from("before");
    write_into(&deeper, &Limits::default(), &mut out).unwrap_err();
    assert_eq!(out, "before");
}

#[test]
fn depth_costs_no_stack() {
    let small = thread::Builder::new().stack_size(64 << 10).spawn(|| {
        let limits = Limits::with_depth(usize::MAX);
        let document = read(&nested(200_000), &limits).unwrap();
        assert!(document == document.clone());
        assert!(format!("{document:?}").len() < 1_000);
        assert_eq!(document.to_json(), Err(JsonError::TooDeep { limit: 1_000 }));
        let mut out = BytesMut::new();
        write_into(&document, &limits, &mut out).unwrap();
        assert_eq!(out, nested(200_000));
        drop(document);

        // Host objects are looked through, wherever they lead.
        let hosts = [&b"\xff\x0f"[..], &b"\\\x01".repeat(100_000), b"o{\x00"].concat();
        assert!(read(&hosts.into(), &limits).unwrap().get("x").is_none());
    });
    small.unwrap().join().unwrap();
}

#[test]
fn json_of_any_depth_becomes_a_document() {
    let deep = (0..10_000).fold(serde_json::Value::Null, |inner, _| vec![inner].into());
    assert_eq!(
        write(&Document::from_json(&deep)),
        Err(WriteError::TooDeep { limit: 1_000 })
    );
    // serde_json takes its values apart by recursion.
    let mut deep = deep;
    while let serde_json::Value::Array(mut items) = deep {
        deep = items.pop().unwrap();
    }
}
