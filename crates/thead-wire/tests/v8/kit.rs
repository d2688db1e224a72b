//! Recorded frames, and random documents, for the tests of the V8 format.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;
use thead_wire::v8::{Builder, Document, ErrorKind, Item, Limits, ReadError, ViewKind, read};

/// A recorded frame.
#[derive(Debug, Clone)]
pub(crate) struct Vector {
    pub(crate) id: String,
    /// Runtime and version of each sender of just these bytes.
    pub(crate) from: Vec<String>,
    pub(crate) frame: Bytes,
    /// The same value in json mode, if Node can send it so.
    pub(crate) json: Option<Json>,
    pub(crate) truncated: bool,
}

impl Vector {
    pub(crate) fn is_from(&self, runtime: &str) -> bool {
        self.from.iter().any(|from| from.starts_with(runtime))
    }

    /// What follows the length bytes.
    pub(crate) fn payload(&self) -> Bytes {
        payload(&self.frame)
    }
}

/// A frame that was given to real runtimes.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) payload: Bytes,
    /// Which of them took it for a message.
    pub(crate) read_by: Vec<String>,
}

pub(crate) fn vectors() -> Vec<Vector> {
    let vector = |json: &Json| Vector {
        id: json["id"].as_str().unwrap().into(),
        from: strings(&json["from"]),
        frame: unhex(json["hex"].as_str().unwrap()),
        // serde_json refuses the one with a lone surrogate.
        json: json["json"].as_str().and_then(|text| serde_json::from_str(text).ok()),
        truncated: json["truncated"] == true,
    };
    fixture()["vectors"].as_array().unwrap().iter().map(vector).collect()
}

/// The recorded frames of V8's format that are complete.
pub(crate) fn well_formed() -> Vec<Vector> {
    vectors()
        .into_iter()
        .filter(|vector| !vector.truncated && !vector.is_from("bun"))
        .collect()
}

/// The payloads of these and of all frames that were given to runtimes, without those that differ in the version alone,
/// and but for the longest.
pub(crate) fn payloads() -> Vec<Bytes> {
    let received = receive_cases().into_iter().map(|case| case.payload);
    let all = vectors().into_iter().map(|vector| vector.payload()).chain(received);
    let by_body: BTreeMap<Bytes, Bytes> = all
        .filter(|payload| payload.len() < 1_000)
        .map(|payload| (payload.slice(payload.len().min(2)..), payload))
        .collect();
    by_body.into_values().collect()
}

pub(crate) fn receive_cases() -> Vec<Received> {
    let case = |json: &Json| Received {
        id: json["id"].as_str().unwrap().into(),
        payload: payload(&unhex(json["hex"].as_str().unwrap())),
        read_by: strings(&json["read_by"]),
    };
    fixture()["receive"].as_array().unwrap().iter().map(case).collect()
}

pub(crate) fn read_default(payload: &Bytes) -> Result<Document, ReadError> {
    read(payload, &Limits::default())
}

fn fixture() -> Json {
    serde_json::from_str(include_str!("../fixtures/v8-frames.json")).unwrap()
}

fn strings(json: &Json) -> Vec<String> {
    json.as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().into())
        .collect()
}

fn payload(frame: &Bytes) -> Bytes {
    frame.slice(4..)
}

pub(crate) fn unhex(text: &str) -> Bytes {
    let digit = |char: u8| char::from(char).to_digit(16).unwrap() as u8;
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One node of a random graph; children are numbers of other nodes, modulo their count. So anything may be shared by
/// anything, and part of itself.
#[derive(Debug, Clone)]
pub(crate) enum Recipe {
    Undefined,
    Null,
    Bool(bool),
    Int(i32),
    Double(f64),
    BigInt(i128),
    Text(Vec<u16>),
    Utf8(String),
    Date(Option<i64>),
    Boxed(usize),
    RegExp(String, String),
    ArrayBuffer(Vec<u8>),
    Resizable(Vec<u8>, u32),
    View(ViewKind, Vec<u8>),
    Array(Vec<usize>),
    Sparse(u32, Vec<(String, usize)>),
    Object(Vec<(String, usize)>),
    Map(Vec<(usize, usize)>),
    Set(Vec<usize>),
    Error(ErrorKind, Option<String>, Option<String>, Option<usize>),
    Host,
}

/// The document of some recipes; the first is the root.
pub(crate) fn build(recipes: &[Recipe]) -> Document {
    let mut b = Builder::new();
    // What is made of nothing else comes first; the others are reserved, so that they can be children of anything.
    let mut items: Vec<Option<Item>> = recipes.iter().map(|recipe| leaf(&mut b, recipe)).collect();
    let open: Vec<usize> = (0..items.len()).filter(|at| items[*at].is_none()).collect();
    for at in &open {
        items[*at] = Some(b.reserve());
    }
    let item = |at: usize| items[at % items.len()].unwrap();
    let named =
        |list: &[(String, usize)]| -> Vec<_> { list.iter().map(|(name, at)| (name.clone(), item(*at))).collect() };
    let many = |list: &[usize]| -> Vec<_> { list.iter().map(|at| item(*at)).collect() };
    for at in open {
        let made = match &recipes[at] {
            Recipe::Array(list) => b.array(many(list)),
            Recipe::Sparse(length, list) => b.sparse_array(*length, named(list)),
            Recipe::Object(list) => b.object(named(list)),
            Recipe::Map(list) => b.map(list.iter().map(|(key, value)| (item(*key), item(*value)))),
            Recipe::Set(list) => b.set(many(list)),
            Recipe::Error(kind, message, stack, cause) => {
                b.error(*kind, message.as_deref(), stack.as_deref(), cause.map(item))
            }
            // A host object is a copy: it cannot be part of what it copies.
            Recipe::Host => {
                let copy = b.object([("host", true.into())]);
                b.host(copy)
            }
            Recipe::Boxed(child) => match &recipes[child % recipes.len()] {
                Recipe::Boxed(_) => b.boxed(true),
                other => match leaf(&mut b, other) {
                    Some(item) => b.boxed(item),
                    None => b.boxed(1.5),
                },
            },
            _ => unreachable!(),
        };
        b.bind(item(at), made);
    }
    b.finish(item(0))
}

fn leaf(b: &mut Builder, recipe: &Recipe) -> Option<Item> {
    Some(match recipe {
        Recipe::Undefined => Item::UNDEFINED,
        Recipe::Null => Item::NULL,
        Recipe::Bool(value) => (*value).into(),
        Recipe::Int(value) => (*value).into(),
        Recipe::Double(value) => (*value).into(),
        Recipe::BigInt(value) => b.big_int(*value),
        Recipe::Text(units) => b.utf16(units.iter().copied()),
        Recipe::Utf8(text) => b.string(text),
        Recipe::Date(ms) => b.date(ms.map_or(f64::NAN, |ms| ms as f64)),
        Recipe::RegExp(pattern, flags) => b.regexp(pattern, flags.parse().unwrap()),
        Recipe::ArrayBuffer(bytes) => b.array_buffer(bytes.clone()),
        Recipe::Resizable(bytes, max) => b.resizable_array_buffer(bytes.clone(), *max),
        Recipe::View(kind, bytes) => b.view(*kind, bytes.clone()),
        _ => return None,
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z_]{0,4}", 2 => "[0-9]{1,4}", 1 => "\\PC{0,3}", 1 => Just("4294967294".to_owned())]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

/// What both V8 and its re-implementations know: all but host objects.
pub(crate) fn common_recipe() -> impl Strategy<Value = Recipe> {
    let at = || 0_usize..64;
    let text = || prop_oneof!["[ -~]{0,8}", "\\PC{0,8}"];
    let named = move || prop::collection::vec((name(), at()), 0..6);
    let list = move || prop::collection::vec(at(), 0..6);
    let kind = prop::sample::select(vec![
        ErrorKind::Error,
        ErrorKind::EvalError,
        ErrorKind::RangeError,
        ErrorKind::ReferenceError,
        ErrorKind::SyntaxError,
        ErrorKind::TypeError,
        ErrorKind::UriError,
    ]);
    let flags = prop::sample::select(vec!["", "g", "dgimsuy", "v", "iu"]);
    let scalar = prop_oneof![
        Just(Recipe::Undefined),
        Just(Recipe::Null),
        any::<bool>().prop_map(Recipe::Bool),
        any::<i32>().prop_map(Recipe::Int),
        any::<f64>().prop_map(Recipe::Double),
        any::<i128>().prop_map(Recipe::BigInt),
        prop::collection::vec(prop_oneof![any::<u16>(), 0_u16..256, 0xd7f0_u16..0xe010], 0..8).prop_map(Recipe::Text),
        text().prop_map(Recipe::Utf8),
    ];
    let leaf = prop_oneof![
        prop::option::of(-8_640_000_000_000_000_i64..=8_640_000_000_000_000).prop_map(Recipe::Date),
        at().prop_map(Recipe::Boxed),
        ("[a-z.]{1,5}", flags).prop_map(|(pattern, flags)| Recipe::RegExp(pattern, flags.to_owned())),
        bytes().prop_map(Recipe::ArrayBuffer),
        (bytes(), 0_u32..100).prop_map(|(bytes, max)| Recipe::Resizable(bytes, max)),
    ];
    let container = prop_oneof![
        list().prop_map(Recipe::Array),
        (0_u32..10_000, named()).prop_map(|(length, named)| Recipe::Sparse(length, named)),
        named().prop_map(Recipe::Object),
        prop::collection::vec((at(), at()), 0..5).prop_map(Recipe::Map),
        list().prop_map(Recipe::Set),
        (
            kind,
            prop::option::of(text()),
            prop::option::of(text()),
            prop::option::of(at())
        )
            .prop_map(|(kind, message, stack, cause)| Recipe::Error(kind, message, stack, cause)),
    ];
    prop_oneof![2 => scalar, 1 => leaf, 3 => container]
}

/// All there is.
pub(crate) fn recipe() -> impl Strategy<Value = Recipe> {
    prop_oneof![
        8 => common_recipe(),
        1 => (prop::sample::select(ViewKind::ALL.to_vec()), bytes()).prop_map(|(kind, bytes)| Recipe::View(kind, bytes)),
        1 => Just(Recipe::Host),
    ]
}

/// Random documents, a few dozen values each, with an object for the root.
pub(crate) fn document() -> impl Strategy<Value = Document> {
    graph(recipe()).prop_map(|recipes| build(&recipes))
}

pub(crate) fn graph(recipe: impl Strategy<Value = Recipe>) -> impl Strategy<Value = Vec<Recipe>> {
    let root = prop::collection::vec((name(), 0_usize..64), 1..8).prop_map(Recipe::Object);
    (root, prop::collection::vec(recipe, 0..40)).prop_map(|(root, others)| [vec![root], others].concat())
}
