//! Reading and building single values: what they mean, what is refused and how it is said.

use bytes::Bytes;
use serde_json::json;
use thead_wire::v8::{
    Builder, Document, ErrorKind, Item, JsonError, Key, Kind, ReadErrorKind as Fault, RegExpFlags, Value, ViewKind,
    WriteError, write,
};

use crate::kit::{hex, read_default, unhex};

fn read_hex(hex: &str) -> Document {
    read_default(&unhex(&hex.replace(' ', ""))).unwrap()
}

#[test]
fn each_fault_is_named_with_its_place() {
    let cases: [(&str, Fault, usize); 40] = [
        ("", Fault::NoHeader, 0),
        ("22 05", Fault::NoHeader, 0),
        ("ff", Fault::Truncated { missing: 1 }, 0),
        ("ff 0c 30", Fault::Version(12), 0),
        ("ff 11 30", Fault::Version(17), 0),
        ("ff 0f", Fault::Truncated { missing: 1 }, 2),
        ("ff 0f 00 00", Fault::Truncated { missing: 1 }, 4),
        ("ff 0f 22 05 61", Fault::Truncated { missing: 4 }, 2),
        ("ff 0f 4e 00 00", Fault::Truncated { missing: 6 }, 2),
        ("ff 0f 41 05 30", Fault::Truncated { missing: 4 }, 2),
        ("ff 0f 49 ff ff ff ff 1f", Fault::TooLong { bits: 32 }, 2),
        (
            "ff 0f 49 ff ff ff ff ff ff ff ff ff ff ff",
            Fault::TooLong { bits: 32 },
            2,
        ),
        ("ff 0f 01", Fault::Tag(1), 2),
        ("ff 0f 2d", Fault::Tag(b'-'), 2),
        ("ff 0f 75 00", Fault::NotInPayload(b'u'), 2),
        ("ff 0f 63 03 61 00 62", Fault::OddString, 2),
        ("ff 0f 53 02 c3 28", Fault::Utf8, 2),
        ("ff 0f 52 30 00", Fault::NotAString { found: b'0' }, 3),
        ("ff 0f 73 49 02", Fault::NotAString { found: b'I' }, 3),
        ("ff 0f 6f 6f 7b 00 30 7b 01", Fault::Key, 3),
        ("ff 0f 6f 49 01 30 7b 01", Fault::Key, 3),
        ("ff 0f 6f 4e 00 00 00 00 00 00 f8 3f 30 7b 01", Fault::Key, 3),
        (
            "ff 0f 6f 22 01 61 30 22 01 61 30 7b 02",
            Fault::KeyTwice("a".into()),
            11,
        ),
        (
            "ff 0f 6f 22 01 61 30 63 02 61 00 30 7b 02",
            Fault::KeyTwice("a".into()),
            12,
        ),
        ("ff 0f 6f 49 02 30 22 01 31 30 7b 02", Fault::KeyTwice("1".into()), 10),
        (
            "ff 0f 61 01 22 06 6c 65 6e 67 74 68 30 40 01 01",
            Fault::KeyTwice("length".into()),
            13,
        ),
        ("ff 0f 41 01 30 49 00 30 24 01 01", Fault::KeyTwice("0".into()), 8),
        (
            "ff 0f 41 01 30 49 02 30 24 01 01",
            Fault::Index { length: 1, index: 1 },
            8,
        ),
        ("ff 0f 61 01 49 02 30 40 01 01", Fault::Index { length: 1, index: 1 }, 7),
        ("ff 0f 6f 22 01 61 30 7b 02", Fault::Count { said: 2, found: 1 }, 7),
        ("ff 0f 41 00 24 00 01", Fault::Count { said: 1, found: 0 }, 4),
        ("ff 0f 3b 30 30 3a 01", Fault::Count { said: 1, found: 2 }, 5),
        ("ff 0f 27 30 2c 00", Fault::Count { said: 0, found: 1 }, 4),
        ("ff 0f 5e 00", Fault::Reference(0), 2),
        // A host object is a copy; what it copies cannot hold it.
        ("ff 0f 5c 01 5e 00", Fault::Reference(0), 4),
        ("ff 0f 52 22 01 61 40", Fault::RegExpFlags(64), 3),
        ("ff 0f 7e 02 01 61 61", Fault::BufferMax { len: 2, max: 1 }, 2),
        ("ff 0f 42 02 61 61 56 42 01 02 00", Fault::ViewRange, 6),
        ("ff 0f 72 7a", Fault::ErrorField(b'z'), 3),
        ("ff 0f 5c 02", Fault::HostKind(2), 2),
    ];
    for (bytes, fault, offset) in cases {
        let error = read_default(&unhex(&bytes.replace(' ', ""))).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (&fault, offset), "{bytes}");
    }
}

#[test]
fn an_error_shows_where_it_is() {
    let error = read_default(&unhex("ff0f6f22016101")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no value begins with the tag 0x01, at byte 6 of 7: ff 0f 6f 22 01 61 | 01"
    );

    let long = [b"\xff\x0f\"\x64", &[b'x'; 100][..], b"?", &[b'y'; 100]].concat();
    let object = [b"\xff\x0fA\x02", &long[2..]].concat();
    let error = read_default(&object.into()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no value begins with the tag 0x3f, at byte 106 of 207: 78 78 78 78 78 78 78 78 | 3f 79 79 79 79 79 79 79 79 79 \
         79 79 79 79 79 79"
    );
}

#[test]
fn numbers_are_what_they_are_however_they_came() {
    for (bytes, number) in [
        ("4954", 42),
        ("552a", 42),
        ("4e0000000000004540", 42),
        ("490d", -7),
        ("49ffffffff0f", i64::from(i32::MIN)),
    ] {
        let document = read_hex(&format!("ff0f{bytes}"));
        assert_eq!(document.root().as_i64(), Some(number));
        assert_eq!(document.root().as_f64(), Some(number as f64));
    }
    assert_eq!(read_hex("ff0f4e000000000000f83f").root().as_i64(), None);
    assert!(read_hex("ff0f4e0000000000004540") == read_hex("ff0f4954"));
    assert!(
        read_hex("ff0f4e0000000000000080") != read_hex("ff0f4900"),
        "-0 is not 0"
    );
    assert!(
        read_hex("ff0f4e000000000000f87f") == read_hex("ff0f4e010000000000f87f"),
        "NaN is NaN"
    );
}

#[test]
fn a_number_is_built_as_v8_holds_it() {
    let written = |item: Item| hex(&write(&Builder::new().finish(item)).unwrap());
    assert_eq!(written(1.0.into()), "ff0f4902");
    assert_eq!(written(2_147_483_647_i64.into()), "ff0f49feffffff0f");
    assert_eq!(written(2_147_483_648_i64.into()), "ff0f4e000000000000e041");
    assert_eq!(written((-0.0).into()), "ff0f4e0000000000000080");
    assert_eq!(written(().into()), "ff0f5f");
}

#[test]
fn a_string_is_the_same_in_all_encodings() {
    let latin1 = read_hex("ff0f2204636166e9");
    let utf16 = read_hex("ff0f6308 6300 6100 6600 e900");
    let utf8 = read_hex("ff0f53056361 66c3a9");
    for document in [&latin1, &utf16, &utf8] {
        assert!(*document == latin1);
        assert_eq!(document.root().as_str().unwrap(), "café");
        let Kind::String(text) = document.root().kind() else {
            panic!()
        };
        assert!(text == "café" && !text.is_empty());
        assert_eq!(text.units().collect::<Vec<_>>(), [99, 97, 102, 233]);
    }
    let lone = read_hex("ff0f6306 6100 00d8 6200");
    assert_eq!(lone.root().as_str(), None);
    let Kind::String(text) = lone.root().kind() else {
        panic!()
    };
    assert_eq!(text.to_string_lossy(), "a\u{fffd}b");
}

#[test]
fn big_integers_are_exact() {
    let mut b = Builder::new();
    let items = [0, 1, -1, i128::MAX, i128::MIN].map(|value| b.big_int(value));
    let wide = b.big_int_from_le(true, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    let root = b.array(items.into_iter().chain([wide]));
    let read = read_default(&write(&b.finish(root)).unwrap()).unwrap();
    let int = |item: Value<'_>| {
        if let Kind::BigInt(int) = item.kind() {
            int.to_i128()
        } else {
            panic!()
        }
    };
    let ints: Vec<Option<i128>> = read.root().as_array().unwrap().iter().map(int).collect();
    assert_eq!(
        ints,
        [Some(0), Some(1), Some(-1), Some(i128::MAX), Some(i128::MIN), None]
    );
    // -0n does not exist.
    assert!(read_hex("ff0f5a01") == read_hex("ff0f5a00"));
    let zero = read_hex("ff0f5a110000000000000000");
    let Kind::BigInt(zero) = zero.root().kind() else {
        panic!()
    };
    assert!(!zero.is_negative() && zero.magnitude_le().is_empty());
}

#[test]
fn properties_are_in_the_order_of_javascript() {
    let mut b = Builder::new();
    let root = b.object([
        ("b", 1.into()),
        ("10", 2.into()),
        ("a", 3.into()),
        ("9", 4.into()),
        ("010", 5.into()),
    ]);
    let document = b.finish(root);
    let names: Vec<String> = document
        .root()
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, _)| format!("{key:?}"))
        .collect();
    assert_eq!(
        names,
        [
            "Index(9)",
            "Index(10)",
            r#"Name("b")"#,
            r#"Name("a")"#,
            r#"Name("010")"#
        ]
    );
    assert_eq!(document.get("10").unwrap().as_i64(), Some(2));
    assert_eq!(
        hex(&write(&document).unwrap()),
        "ff0f6f4912490849144904220162490222016149062203303130490a7b05"
    );
}

#[test]
fn the_last_of_equal_names_wins_where_we_build() {
    let mut b = Builder::new();
    let names = (0..40).map(|at| (format!("n{}", at % 30), Item::from(at)));
    let many = b.object(names);
    let few = b.object([("é", 1.into()), ("3", 2.into()), ("é", 3.into()), ("3", 4.into())]);
    let root = b.array([many, few]);
    let document = b.finish(root);
    let [many, few] = [0, 1].map(|at| document.root().as_array().unwrap().get(at).unwrap());
    assert_eq!(many.as_object().unwrap().len(), 30);
    assert_eq!(many.get("n3").unwrap().as_i64(), Some(33));
    assert_eq!(many.get("n13").unwrap().as_i64(), Some(13));
    assert_eq!(few.to_json().unwrap(), json!({ "3": 4, "é": 3 }));
}

#[test]
fn one_of_many_names_that_is_there_twice_is_found() {
    let name = |at: usize| format!("2203{}30", hex(format!("{at:02}a").as_bytes()));
    let names: String = (0..50).map(name).collect();
    read_hex(&format!("ff0f6f{names}7b32"));
    let twice = unhex(&format!("ff0f6f{names}{}7b33", name(17)));
    assert_eq!(read_default(&twice).unwrap_err().kind(), &Fault::KeyTwice("17a".into()));
}

#[test]
fn an_array_with_holes_is_sparse_and_one_without_is_not() {
    let [dense, sparse] = ["ff0f6102490030490230400202", "ff0f410330 2d30240003"].map(read_hex);
    assert_eq!(dense.root().as_array().unwrap().len(), 2);
    let Kind::SparseArray(array) = sparse.root().kind() else {
        panic!()
    };
    assert_eq!(array.length(), 3);
    assert!(
        array
            .properties()
            .iter()
            .map(|(key, _)| key)
            .eq([Key::Index(0), Key::Index(2)])
    );
    assert!(sparse.get("2").unwrap().is_null());
    assert!(sparse.get("1").is_none());

    let mut b = Builder::new();
    let sparse = b.sparse_array(0, [("4", true.into()), ("foo", false.into())]);
    let dense = b.sparse_array(1, [("foo", true.into()), ("0", false.into())]);
    let root = b.array([sparse, dense]);
    let read = read_default(&write(&b.finish(root)).unwrap()).unwrap();
    assert_eq!(
        format!("{read:?}"),
        r#"[Array(5) {4: true, "foo": false}, [false] and {"foo": true}]"#
    );
    let dense = read.root().as_array().unwrap().get(1).unwrap();
    assert_eq!(dense.get("0").unwrap().as_bool(), Some(false));
    assert_eq!(dense.get("foo").unwrap().as_bool(), Some(true));
}

/// Node decides by how it holds an array, and what it received it holds as if there were holes. Bytes of Node 20.
#[test]
fn an_array_that_node_sends_on_is_an_array() {
    let sent_on = read_hex("ff0f61034900490249022201784904610249003049025f400202400303");
    assert_eq!(sent_on.root().as_array().unwrap().len(), 3);
    assert!(sent_on == read_hex("ff0f410349022201784102305f240002240003"));
    assert!(read_hex("ff0f6100400000").root().as_array().unwrap().is_empty());
}

#[test]
fn a_shared_object_is_one_and_a_cycle_ends() {
    let mut b = Builder::new();
    let own = b.reserve();
    let leaf = b.date(0.0);
    let map = b.map([(leaf, own)]);
    let root = b.object([("self", own), ("map", map), ("leaf", leaf)]);
    b.bind(own, root);
    let document = b.finish(own);
    let read = read_default(&write(&document).unwrap()).unwrap();
    assert!(read == document);
    assert_eq!(read.get("self").unwrap().id(), read.root().id());
    let Kind::Map(entries) = read.get("map").unwrap().kind() else {
        panic!()
    };
    let (key, value) = entries.iter().next().unwrap();
    assert_eq!(key.id(), read.get("leaf").unwrap().id());
    assert_eq!(value.id(), read.root().id());
    assert_eq!(read.to_json(), Err(JsonError::Cycle));

    // Shared is not the same as equal.
    let [shared, equal] = [true, false].map(|shared| {
        let mut b = Builder::new();
        let one = b.array([]);
        let two = if shared { one } else { b.array([]) };
        let root = b.array([one, two]);
        b.finish(root)
    });
    assert!(shared != equal);
    assert_eq!(shared.to_json(), equal.to_json());
}

#[test]
fn what_is_reserved_and_never_or_badly_bound_is_an_empty_object() {
    let mut b = Builder::new();
    let [one, two, three] = [(); 3].map(|()| b.reserve());
    b.bind(one, two);
    b.bind(two, one);
    b.bind(one, Item::NULL);
    let empty = b.object::<&str>([]);
    b.bind(empty, Item::NULL);
    let root = b.array([one, two, three, empty]);
    assert_eq!(b.finish(root).to_json().unwrap(), json!([{}, {}, {}, {}]));
}

#[test]
#[should_panic(expected = "an item of another builder")]
fn an_item_of_another_builder_is_a_mistake() {
    let item = Builder::new().string("x");
    Builder::new().array([item]);
}

#[test]
fn views_share_memory_with_the_payload() {
    // What V8 itself writes: two views on one buffer, the second behind a reference to it.
    let payload = unhex(
        "ff0f410242040102030456420102005e0156770402002400022020"
            .replace("5e01567704", "5e01567702")
            .as_str(),
    );
    let document = read_default(&payload).unwrap();
    let items = document.root().as_array().unwrap();
    let Kind::View { kind, bytes } = items.get(0).unwrap().kind() else {
        panic!()
    };
    assert_eq!((kind, &bytes[..]), (ViewKind::Uint8Array, &[2, 3][..]));
    assert_eq!(bytes.as_ptr(), payload[7..].as_ptr());
    let Kind::View { kind, bytes } = items.get(1).unwrap().kind() else {
        panic!()
    };
    assert_eq!((kind, &bytes[..]), (ViewKind::Int16Array, &[3, 4][..]));
    // Written as Node does, each by itself.
    assert_eq!(
        hex(&write(&document).unwrap()),
        "ff0f41025c000102 02035c0003020304240002".replace(' ', "")
    );

    let buffer = Bytes::from(vec![7; 100]);
    let mut b = Builder::new();
    let root = b.buffer(buffer.clone());
    assert_eq!(b.finish(root).root().as_bytes().unwrap().as_ptr(), buffer.as_ptr());
}

#[test]
fn a_view_is_cut_to_whole_elements() {
    let mut b = Builder::new();
    let root = b.view(ViewKind::Float64Array, vec![0; 15]);
    assert_eq!(b.finish(root).root().as_bytes().unwrap().len(), 8);
    for kind in ViewKind::ALL {
        let mut b = Builder::new();
        let root = b.view(kind, vec![1; 9]);
        let document = b.finish(root);
        let payload = write(&document).unwrap();
        assert_eq!(payload[4], kind as u8);
        assert!(read_default(&payload).unwrap() == document);
    }
}

#[test]
fn errors_come_with_fields_in_any_order() {
    let orders = [
        "6d22016d 73220173 6330 2e",
        "73220173 6330 6d22016d 2e",
        "6330 6d22016d 73220173 2e",
    ];
    for order in orders {
        let document = read_hex(&format!("ff0f7254{order}"));
        let Kind::Error(error) = document.root().kind() else {
            panic!()
        };
        assert_eq!(error.kind, ErrorKind::TypeError);
        assert!(error.message.unwrap() == "m" && error.stack.unwrap() == "s" && error.cause.unwrap().is_null());
        assert_eq!(hex(&write(&document).unwrap()), "ff0f72546d22016d7322017363302e");
    }
    // An error may be its own cause.
    let own = read_hex("ff0f7263 5e00 2e");
    let Kind::Error(error) = own.root().kind() else {
        panic!()
    };
    assert_eq!(error.cause.unwrap().id(), own.root().id());
}

#[test]
fn flags_of_regular_expressions_are_checked() {
    let all: RegExpFlags = "yusmigd".parse().unwrap();
    assert_eq!(all.to_string(), "dgimsuy");
    assert_eq!("v".parse::<RegExpFlags>().unwrap().to_string(), "v");
    for wrong in ["gg", "x", "uv", "l"] {
        assert!(wrong.parse::<RegExpFlags>().is_err(), "{wrong}");
    }
    let mut b = Builder::new();
    let root = b.regexp("a.b", all);
    assert_eq!(hex(&write(&b.finish(root)).unwrap()), "ff0f522203612e62bf01");
}

#[test]
fn a_host_object_is_looked_through() {
    let blob = read_hex("ff0f5c016f22017849027b01");
    assert_eq!(blob.get("x").unwrap().as_i64(), Some(1));
    assert_eq!(blob.root().as_object().unwrap().len(), 1);
    assert_eq!(blob.to_json().unwrap(), json!({ "x": 1 }));
}

#[test]
fn dates_are_what_toisostring_gives() {
    let iso = |ms: f64| {
        let mut b = Builder::new();
        let root = b.date(ms);
        b.finish(root).to_json().unwrap()
    };
    assert_eq!(iso(0.0), "1970-01-01T00:00:00.000Z");
    assert_eq!(iso(-1.0), "1969-12-31T23:59:59.999Z");
    assert_eq!(iso(951_782_400_000.0), "2000-02-29T00:00:00.000Z");
    assert_eq!(iso(951_868_800_000.0), "2000-03-01T00:00:00.000Z");
    assert_eq!(iso(4_107_542_399_999.0), "2100-02-28T23:59:59.999Z");
    assert_eq!(iso(4_107_542_400_000.0), "2100-03-01T00:00:00.000Z");
    assert_eq!(iso(-62_167_219_200_000.0), "0000-01-01T00:00:00.000Z");
    assert_eq!(iso(-62_167_219_200_001.0), "-000001-12-31T23:59:59.999Z");
    assert_eq!(iso(253_402_300_800_000.0), "+010000-01-01T00:00:00.000Z");
    assert_eq!(iso(8.64e15), "+275760-09-13T00:00:00.000Z");
    assert_eq!(iso(-8.64e15), "-271821-04-20T00:00:00.000Z");
    assert!(iso(8.64e15 + 1.0).is_null() && iso(f64::NAN).is_null() && iso(f64::INFINITY).is_null());
}

#[test]
fn elements_of_typed_arrays_are_numbers_in_json() {
    let json = |kind: ViewKind, bytes: &[u8]| {
        let mut b = Builder::new();
        let root = b.view(kind, bytes.to_vec());
        b.finish(root).to_json()
    };
    assert_eq!(json(ViewKind::Int8Array, &[255, 1]), Ok(json!({ "0": -1, "1": 1 })));
    assert_eq!(json(ViewKind::Uint16Array, &[255, 255]), Ok(json!({ "0": 65535 })));
    assert_eq!(json(ViewKind::Int32Array, &[255; 4]), Ok(json!({ "0": -1 })));
    assert_eq!(
        json(ViewKind::Uint32Array, &[255; 4]),
        Ok(json!({ "0": 4_294_967_295_u32 }))
    );
    assert_eq!(
        json(ViewKind::Float32Array, &1.5_f32.to_le_bytes()),
        Ok(json!({ "0": 1.5 }))
    );
    assert_eq!(
        json(ViewKind::Float64Array, &f64::NAN.to_le_bytes()),
        Ok(json!({ "0": null }))
    );
    for (half, number) in [
        (0x3e00, 1.5),
        (0xc000, -2.0),
        (0x0001, 2_f64.powi(-24)),
        (0x7bff, 65504.0),
        (0x03ff, 1023.0 / 16_777_216.0),
    ] {
        let got = json(ViewKind::Float16Array, &u16::to_le_bytes(half)).unwrap();
        assert_eq!(got["0"].as_f64(), Some(number), "{half:x}");
    }
    assert_eq!(json(ViewKind::Float16Array, &[0, 0x7c]), Ok(json!({ "0": null })));
    assert_eq!(json(ViewKind::DataView, &[1]), Ok(json!({})));
    assert_eq!(
        json(ViewKind::Buffer, &[1, 255]),
        Ok(json!({ "type": "Buffer", "data": [1, 255] }))
    );
    assert_eq!(json(ViewKind::BigInt64Array, &[0; 8]), Err(JsonError::BigInt));
    assert_eq!(json(ViewKind::BigInt64Array, &[]), Ok(json!({})));
}

#[test]
fn json_does_not_grow_out_of_proportion() {
    // Each level holds the one below twice.
    let mut b = Builder::new();
    let bottom = b.array([]);
    let bomb = (0..100).fold(bottom, |below, _| b.array([below, below]));
    assert_eq!(b.finish(bomb).to_json(), Err(JsonError::TooLarge));
    // A long string many times.
    let mut b = Builder::new();
    let text = b.string(&"x".repeat(1 << 20));
    let root = b.array([text; 1_000]);
    assert_eq!(b.finish(root).to_json(), Err(JsonError::TooLarge));
    // Holes.
    let holes = read_hex("ff0f61ffffffff0f4000ffffffff0f");
    assert_eq!(holes.to_json(), Err(JsonError::TooLarge));
    assert_eq!(
        read_hex("ff0f61034902304001 03").to_json().unwrap(),
        json!([null, null, null])
    );
    // Bytes become numbers, of which a million are much, but as many values as the document has are not.
    let mut b = Builder::new();
    let root = b.buffer(vec![0; 1_100_000]);
    assert_eq!(b.finish(root).to_json(), Err(JsonError::TooLarge));
    let plain = Document::from_json(&json!(vec![0; 1_100_000]));
    assert_eq!(plain.to_json().unwrap().as_array().unwrap().len(), 1_100_000);
}

#[test]
fn json_leaves_out_what_json_cannot_say() {
    let mut b = Builder::new();
    let nan = b.array([
        f64::NAN.into(),
        f64::INFINITY.into(),
        Item::UNDEFINED,
        (-0.0).into(),
        1e21.into(),
        3.0.into(),
    ]);
    let boxed = [b.boxed(true), b.boxed(2), b.boxed(Item::NULL)];
    let text = b.string("s");
    let text = b.boxed(text);
    let boxed = b.array(boxed.into_iter().chain([text]));
    let root = b.object([("gone", Item::UNDEFINED), ("numbers", nan), ("boxed", boxed)]);
    let json = b.finish(root).to_json().unwrap();
    assert_eq!(
        json,
        json!({ "numbers": [null, null, null, 0, 1e21, 3], "boxed": [true, 2, null, "s"] })
    );
    assert!(Builder::new().finish(Item::UNDEFINED).to_json().unwrap().is_null());
    let mut b = Builder::new();
    let big = b.big_int(1);
    let root = b.array([big]);
    assert_eq!(b.finish(root).to_json(), Err(JsonError::BigInt));
}

#[test]
fn a_received_value_can_be_wrapped_and_sent_on() {
    let inner = read_hex("ff0f6f2201616306604f7d59604f22016249027b02");
    let (mut b, msg) = inner.clone().into_builder();
    let (cmd, kind) = (b.string("NODE_HANDLE"), b.string("net.Server"));
    let root = b.object([("cmd", cmd), ("type", kind), ("msg", msg)]);
    let read = read_default(&write(&b.finish(root)).unwrap()).unwrap();
    assert_eq!(read.get("type").unwrap().as_str().unwrap(), "net.Server");
    assert!(read.into_property("msg").unwrap() == inner);
}

#[test]
fn what_does_not_fit_is_not_written() {
    // Version 16 knows sizes of 64 bits.
    let huge = read_hex("ff107e00 80808080 10");
    assert_eq!(write(&huge), Err(WriteError::TooLarge));
    assert_eq!(
        read_default(&unhex("ff0f7e008080808010")).unwrap_err().kind(),
        &Fault::TooLong { bits: 32 }
    );
}
