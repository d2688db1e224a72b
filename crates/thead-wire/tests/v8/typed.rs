//! Rust types to bytes and back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use thead_wire::v8::{
    Builder, DecodeError, Document, ErrorKind, Item, Kind, Limits, ViewKind, from_slice, from_slice_lossy, from_value,
    js, to_buffer, to_document, to_vec, write,
};

use crate::kit::{document, hex, read_default, well_formed};

pub(crate) fn read_as<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, DecodeError> {
    from_slice(payload, &Limits::default())
}

/// What follows the header, in hexadecimal.
pub(crate) fn written<T: Serialize + ?Sized>(value: &T) -> String {
    hex(&to_vec(value).unwrap()[2..])
}

pub(crate) fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    let payload = to_vec(&value).unwrap();
    assert_eq!(read_as::<T>(&payload).unwrap(), value, "{}", hex(&payload));
    let document = to_document(&value).unwrap();
    assert_eq!(from_value::<T>(document.root()).unwrap(), value, "{document:?}");
}

pub(crate) fn made(build: impl FnOnce(&mut Builder) -> Item) -> Bytes {
    let mut b = Builder::new();
    let root = build(&mut b);
    write(&b.finish(root)).unwrap()
}

pub(crate) fn recorded(id: &str) -> Bytes {
    let vector = well_formed()
        .into_iter()
        .find(|vector| vector.id == id && vector.is_from("node 26"));
    vector.unwrap_or_else(|| panic!("{id}")).payload()
}

/// What is wrong, and where.
fn wrong<T: DeserializeOwned + Debug>(payload: &[u8]) -> String {
    read_as::<T>(payload).unwrap_err().to_string()
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Order {
    id: u32,
    name: String,
    price: f64,
    paid: bool,
    note: Option<String>,
    tags: Vec<String>,
    place: (i32, i32),
}

fn order() -> Order {
    Order {
        id: 7,
        name: "héllo €".into(),
        price: 1.5,
        paid: true,
        note: None,
        tags: vec!["a".into(), "b".into()],
        place: (-1, 1),
    }
}

#[test]
fn every_shape_of_rust_comes_back() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Unit;
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Newtype(u8);
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Tuple(u8, String);
    there_and_back(order());
    there_and_back(());
    there_and_back(Unit);
    there_and_back(Newtype(3));
    there_and_back(Tuple(3, "x".into()));
    there_and_back('€');
    there_and_back("\u{10ffff}".to_owned());
    there_and_back((f32::MIN_POSITIVE, f64::MAX, -0.0, 1e300));
    there_and_back((i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN));
    there_and_back((u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX));
    there_and_back(vec![Some(1), None]);
    there_and_back(HashMap::from([("a".to_owned(), Some(1)), ("€".to_owned(), None)]));
    there_and_back(BTreeMap::from([(1, "a".to_owned()), (-5, "b".to_owned())]));
    there_and_back(BTreeMap::from([((1, 2), vec![0_u8])]));
    there_and_back(BTreeSet::from(["x".to_owned()]));
    there_and_back(BTreeMap::<u32, u32>::new());
    assert!(to_vec(&f64::NAN).is_ok_and(|payload| read_as::<f64>(&payload).unwrap().is_nan()));
}

#[test]
fn every_way_to_write_an_enum_comes_back() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum External {
        Unit,
        Newtype(Order),
        Tuple(u64, String),
        Struct { at: f64, of: Option<u8> },
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(tag = "type")]
    enum Internal {
        Unit,
        Newtype(Order),
        Struct { at: f64, big: u64, when: js::Date },
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        Unit,
        Newtype(Order),
        Tuple(u64, String),
        Struct { at: f64 },
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(untagged)]
    enum Untagged {
        Number(i64),
        Double(f64),
        Text(String),
        Map(BTreeMap<u8, u8>),
        Struct { name: String, error: js::Error },
        Tuple(u64, Vec<Untagged>),
    }
    for value in [
        External::Unit,
        External::Newtype(order()),
        External::Tuple(u64::MAX, "x".into()),
        External::Struct { at: 0.5, of: None },
    ] {
        there_and_back(value);
    }
    for value in [
        Internal::Unit,
        Internal::Newtype(order()),
        Internal::Struct {
            at: 1.0,
            big: u64::MAX,
            when: js::Date(5.0),
        },
    ] {
        there_and_back(value);
    }
    for value in [
        Adjacent::Unit,
        Adjacent::Newtype(order()),
        Adjacent::Tuple(1 << 60, "x".into()),
        Adjacent::Struct { at: 2.0 },
    ] {
        there_and_back(value);
    }
    for value in [
        Untagged::Number(-3),
        Untagged::Double(0.5),
        Untagged::Text("€".into()),
        Untagged::Map(BTreeMap::from([(1, 2)])),
        Untagged::Struct {
            name: "x".into(),
            error: js::Error::new(ErrorKind::RangeError, "far"),
        },
        Untagged::Tuple(9, vec![Untagged::Number(1), Untagged::Text("y".into())]),
    ] {
        there_and_back(value);
    }
    assert_eq!(written(&External::Unit), hex(b"\"\x04Unit"));
    assert_eq!(
        written(&External::Tuple(1, "x".into())),
        hex(b"o\"\x05TupleA\x02I\x02\"\x01x$\0\x02{\x01")
    );
    assert_eq!(
        read_as::<External>(&made(|b| b.object([("Unit", Item::NULL)]))).unwrap(),
        External::Unit
    );
}

#[test]
fn flattened_fields_come_back_and_a_name_twice_is_refused() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Outer {
        id: u32,
        #[serde(flatten)]
        order: BTreeMap<String, Json>,
    }
    there_and_back(Outer {
        id: 1,
        order: BTreeMap::from([("a".into(), json!([1, null])), ("7".into(), json!({ "b": 0.5 }))]),
    });
    let twice = Outer {
        id: 1,
        order: BTreeMap::from([("id".into(), json!(2))]),
    };
    assert_eq!(to_vec(&twice).unwrap_err().to_string(), "the property id twice");
}

#[test]
fn what_is_written_is_what_node_writes() {
    #[derive(Serialize)]
    struct Simple {
        a: i32,
        b: &'static str,
        c: (bool, ()),
    }
    let simple = Simple {
        a: 1,
        b: "x",
        c: (true, ()),
    };
    assert_eq!(hex(&to_vec(&simple).unwrap()), hex(&recorded("msg/obj-simple")));
    // Every recorded value that JSON can say, through the types of JSON.
    let mut compared = 0;
    for vector in well_formed().iter().filter(|vector| vector.is_from("node 26")) {
        let payload = vector.payload();
        let Ok(value) = read_as::<Json>(&payload) else { continue };
        let Some(said) = &vector.json else { continue };
        // `undefined`, -0, dates and arrays with holes are not JSON's, and come back as something else.
        if value != *said || read_default(&payload).unwrap() != Document::from_json(said) {
            continue;
        }
        assert_eq!(hex(&to_vec(&value).unwrap()), hex(&payload), "{}", vector.id);
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
    assert_eq!(written(&None::<u8>), "5f");
    assert_eq!(written(&()), "30");
    assert_eq!(written(&(1_u64 << 31)), "4e000000000000e041");
    assert_eq!(written(&((1_u64 << 53) - 1)), "4effffffffffff3f43");
    assert_eq!(written(&(1_u64 << 53)), "5a100000000000002000");
    assert_eq!(written(&-0.0), "4e0000000000000080");
    assert_eq!(written(&5.0_f32), "490a");
    assert_eq!(written("é"), "2201e9");
    assert_eq!(written("€"), "6302ac20");
    assert_eq!(written(&BTreeMap::from([("€", 1)])), "6f006302ac2049027b01");
    assert_eq!(written(&BTreeMap::from([("7", 1)])), "6f490e49027b01");
    assert_eq!(written(&BTreeMap::from([("07", 1)])), "6f2202303749027b01");
    assert_eq!(written(&BTreeMap::from([(7, 1)])), "3b490e49023a02");
    assert_eq!(written(&BTreeMap::<u8, u8>::new()), "6f7b00");
    assert_eq!(written(&[1, 2]), "410249024904240002");
}

#[test]
fn all_that_is_recorded_is_skipped_and_read_as_the_document_of_it() {
    for vector in well_formed() {
        let payload = vector.payload();
        read_as::<serde::de::IgnoredAny>(&payload).unwrap_or_else(|error| panic!("{}: {error}", vector.id));
        let document = read_default(&payload).unwrap();
        let (one, two) = (read_as::<Json>(&payload), from_value::<Json>(document.root()));
        assert_eq!(one.ok(), two.ok(), "{}", vector.id);
    }
}

#[test]
fn nothing_null_and_missing_are_all_none_and_defaults_apply_to_undefined() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Optional {
        a: Option<u8>,
        #[serde(default)]
        b: u8,
        u: js::Undefined,
    }
    let none = Optional {
        a: None,
        b: 0,
        u: js::Undefined,
    };
    let empty = made(|b| b.object::<&str>([]));
    let undefined = made(|b| b.object([("a", Item::UNDEFINED), ("b", Item::UNDEFINED), ("u", Item::UNDEFINED)]));
    let null = made(|b| b.object([("a", Item::NULL)]));
    for payload in [empty, undefined, null] {
        assert_eq!(read_as::<Optional>(&payload).unwrap(), none);
    }
    let map = made(|b| b.object([("a", Item::UNDEFINED)]));
    let read: BTreeMap<String, Option<u8>> = read_as(&map).unwrap();
    assert_eq!(read, BTreeMap::from([("a".into(), None)]), "a map keeps its keys");
}

#[test]
fn integers_come_from_whole_numbers_and_big_ones() {
    let double = |double: f64| [b"\xff\x0fN", &double.to_le_bytes()[..]].concat();
    assert_eq!(read_as::<u8>(&double(5.0)).unwrap(), 5);
    assert_eq!(read_as::<i64>(&double(-9e15)).unwrap(), -9_000_000_000_000_000);
    assert_eq!(
        wrong::<u8>(&double(5.5)),
        "invalid type: floating point `5.5`, expected u8"
    );
    assert_eq!(wrong::<u8>(&double(300.0)), "invalid value: integer `300`, expected u8");
    assert!(read_as::<u64>(&double(1e19)).is_err(), "it may have been rounded");
    let big = |int: i128| made(|b| b.big_int(int));
    assert_eq!(read_as::<u8>(&big(5)).unwrap(), 5);
    assert_eq!(read_as::<i8>(&big(-5)).unwrap(), -5);
    assert_eq!(read_as::<f64>(&big(5)).unwrap(), 5.0);
    assert_eq!(read_as::<i128>(&big(i128::MIN)).unwrap(), i128::MIN);
    let huge = made(|b| b.big_int_from_le(false, &[1; 17]));
    assert!(wrong::<u128>(&huge).contains("a BigInt of more than 128 bits"));
    let boxed = made(|b| {
        let text = b.string("x");
        let text = b.boxed(text);
        let number = b.boxed(3);
        b.array([text, number])
    });
    assert_eq!(read_as::<(String, u8)>(&boxed).unwrap(), ("x".into(), 3));
}

#[test]
fn arrays_of_every_kind_are_sequences() {
    let sparse = made(|b| b.sparse_array(4, [("1", Item::from(5)), ("3", 6.into()), ("x", 7.into())]));
    assert_eq!(
        read_as::<Vec<Option<u8>>>(&sparse).unwrap(),
        [None, Some(5), None, Some(6)]
    );
    let trailing = made(|b| b.sparse_array(3, [("0", Item::from(5))]));
    assert_eq!(read_as::<Vec<Option<u8>>>(&trailing).unwrap(), [Some(5), None, None]);
    let holes = b"\xff\x0fA\x03I\x02-I\x04$\0\x03";
    assert_eq!(read_as::<Vec<Option<u8>>>(holes).unwrap(), [Some(1), None, Some(2)]);
    assert_eq!(read_as::<(u8, Option<u8>, u8)>(holes).unwrap(), (1, None, 2));
    assert_eq!(
        read_as::<Vec<u8>>(b"\xff\x0fA\x01I\x02\"\x01xI\x04$\x01\x01").unwrap(),
        [1],
        "array.x = 2"
    );
    assert_eq!(wrong::<(u8, u8)>(&to_vec(&[1, 2, 3]).unwrap()), "more than 2 elements");
    assert_eq!(
        wrong::<(u8, u8)>(&to_vec(&[1]).unwrap()),
        "invalid length 1, expected a tuple of size 2"
    );
    let floats = made(|b| b.view(ViewKind::Float16Array, vec![0, 0x3c]));
    assert_eq!(read_as::<Vec<f32>>(&floats).unwrap(), [1.0]);
    assert_eq!(
        read_as::<js::Float64Array>(&made(|b| b.array([1.into()]))).unwrap().0,
        [1.0]
    );
}

#[test]
fn keys_of_maps_are_what_a_type_wants() {
    let object = made(|b| b.object([("7", Item::from(1)), ("8", 2.into())]));
    assert_eq!(
        read_as::<BTreeMap<u8, u8>>(&object).unwrap(),
        BTreeMap::from([(7, 1), (8, 2)])
    );
    assert_eq!(
        read_as::<BTreeMap<String, u8>>(&object).unwrap(),
        BTreeMap::from([("7".into(), 1), ("8".into(), 2)])
    );
    let map = made(|b| {
        let (a, one) = (b.string("a"), b.string("b"));
        b.map([(a, 1.into()), (one, 2.into())])
    });
    assert_eq!(
        read_as::<BTreeMap<String, u8>>(&map).unwrap(),
        BTreeMap::from([("a".into(), 1), ("b".into(), 2)])
    );
    let mixed: Vec<(Json, u8)> = vec![(json!("a"), 1), (json!(1), 2)];
    struct Pairs(Vec<(Json, u8)>);
    impl Serialize for Pairs {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
        }
    }
    let error = to_vec(&Pairs(mixed.clone())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a map of which some keys are strings and some are not"
    );
    assert_eq!(
        written(&js::Map(Pairs(mixed))),
        "3b220161490249024904 3a04".replace(' ', "")
    );
}

#[test]
fn a_sequence_that_does_not_know_its_length_is_written_all_the_same() {
    struct Odd(u32);
    impl Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..self.0).filter(|n| n % 2 == 1))
        }
    }
    for len in [0, 5, 1_000] {
        let payload = to_vec(&Odd(len)).unwrap();
        let expected: Vec<u32> = (0..len).filter(|n| n % 2 == 1).collect();
        assert_eq!(read_as::<Vec<u32>>(&payload).unwrap(), expected);
        assert_eq!(read_default(&payload.into()).unwrap(), to_document(&expected).unwrap());
    }
}

#[test]
fn errors_say_where_what_and_what_was_wanted() {
    let payload = to_vec(&json!({ "items": [{ "price": 1 }, { "price": "much" }], "a b": { "0": true } })).unwrap();
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "never read")]
    struct Item {
        price: f64,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "never read")]
    struct Basket {
        items: Vec<Item>,
    }
    let error = read_as::<Basket>(&payload).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid type: string \"much\", expected f64 at items[1].price"
    );
    assert_eq!(error.place(), "items[1].price");
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "never read")]
    struct Odd {
        #[serde(rename = "a b")]
        odd: BTreeMap<String, String>,
    }
    assert_eq!(
        wrong::<Odd>(&payload),
        "invalid type: boolean `true`, expected a string at [\"a b\"][\"0\"]".replace("[\"0\"]", "[0]")
    );
    let regexp = made(|b| {
        let regexp = b.regexp("a", "g".parse().unwrap());
        b.object([("r", regexp)])
    });
    assert_eq!(
        wrong::<Json>(&regexp),
        "invalid type: a RegExp, expected any valid JSON value at r"
    );
    assert_eq!(
        wrong::<BTreeMap<String, js::Date>>(&regexp),
        "invalid type: a RegExp, expected a Date at r"
    );
    assert_eq!(
        wrong::<js::Error>(&regexp),
        "invalid type: an object, expected an error object"
    );
    assert!(wrong::<u8>(b"\xff\x0fI").contains("the payload ends inside a value"));
    assert!(wrong::<u8>(b"\x0e\0\0\0\x05").contains("JavaScriptCore"));

    #[derive(Serialize)]
    struct Broken {
        list: Vec<js::Map<u8>>,
    }
    let broken = Broken { list: vec![js::Map(1)] };
    assert_eq!(
        to_vec(&broken).unwrap_err().to_string(),
        "not what a Map can hold at list[0]"
    );
}

#[test]
fn a_lone_surrogate_is_an_error_or_a_replacement() {
    let payload = made(|b| {
        let text = b.utf16([0x61, 0xd800, 0x62]);
        b.object([("text", text)])
    });
    let error = read_as::<BTreeMap<String, String>>(&payload).unwrap_err();
    assert_eq!(error.to_string(), "a string with a lone surrogate at text");
    let read: BTreeMap<String, String> = from_slice_lossy(&payload, &Limits::default()).unwrap();
    assert_eq!(read["text"], "a\u{fffd}b");
    #[derive(Deserialize)]
    struct Other {}
    let Other {} = read_as(&payload).unwrap();
}

#[test]
fn what_is_appended_is_what_stands_alone() {
    for before in 0..4 {
        let mut out = BytesMut::from(&b"abcd"[..before]);
        to_buffer(&json!({ "text": "€", "more": "x" }), &Limits::default(), &mut out).unwrap();
        let alone = to_vec(&json!({ "text": "€", "more": "x" })).unwrap();
        assert_eq!(out[before..], alone);
        assert!(to_buffer(&js::Set(1), &Limits::default(), &mut out).is_err());
        assert_eq!(out[before..], alone, "a failure leaves nothing behind");
    }
}

#[test]
fn json_that_was_never_parsed_is_written_as_what_it_says() {
    let raw = serde_json::value::RawValue::from_string(r#"{"a": [1, null]}"#.into()).unwrap();
    assert_eq!(to_vec(&raw).unwrap(), to_vec(&json!({ "a": [1, null] })).unwrap());
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<i32>().prop_map(|int| Json::from(f64::from(int) + 0.5)),
        "\\PC{0,6}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::btree_map("[a-z0-9€]{0,3}", inner, 0..6)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_comes_back(json in json_value()) {
        let payload = to_vec(&json).unwrap();
        prop_assert_eq!(&read_as::<Json>(&payload).unwrap(), &json);
        // Read by the other reader too, and written again.
        let document = read_default(&payload.into()).unwrap();
        prop_assert_eq!(from_value::<Json>(document.root()).unwrap(), json);
    }

    #[test]
    fn a_document_is_read_alike_from_its_bytes_and_from_itself(document in document()) {
        let payload = write(&document).unwrap();
        let (one, two) = (read_as::<Json>(&payload), from_value::<Json>(document.root()));
        prop_assert_eq!(one.map_err(|error| error.to_string()), two.map_err(|error| error.to_string()));
        let (document, Kind::Object(properties)) = (&document, document.root().kind()) else {
            return Err(TestCaseError::fail("the root is an object"));
        };
        read_as::<serde::de::IgnoredAny>(&payload).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let read: BTreeMap<String, serde::de::IgnoredAny> = from_slice_lossy(&payload, &Limits::default()).unwrap();
        prop_assert_eq!(read.len(), properties.len(), "{:?}", document);
    }
}
