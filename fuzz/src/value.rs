//! Values of V8's format: read, written, read again; as documents, as types, as JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use thead_wire::v8::{
    Document, Limits, WriteError, from_slice, from_slice_lossy, from_value, js, read, to_document, to_vec, write,
};

use crate::any::Any;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Nothing,
    Number(f64),
    Text(String),
    Error(js::Error),
    List(Vec<Untagged>),
    Map(BTreeMap<String, Untagged>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Typed {
    cmd: Option<String>,
    #[serde(default)]
    seq: u64,
    date: Option<js::Date>,
    data: Option<js::Buffer<Vec<u8>>>,
    list: Option<js::Set<Vec<i32>>>,
    floats: Option<js::Float32Array>,
    kind: Option<Kind>,
    next: Option<Box<Typed>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Tuple(u8, String),
    Struct { map: js::Map<BTreeMap<i64, String>> },
}

/// What a value may cost here: a target is run thousands of times in a second.
const VALUES: usize = 20_000;

pub(crate) fn run(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let limits = Limits::with_values(VALUES);
    let document = read(&payload, &limits);
    let any = from_slice_lossy::<Any>(&payload, &limits);
    let json = from_slice::<Json>(&payload, &limits);
    drop(from_slice::<Untagged>(&payload, &limits));
    if let Ok(typed) = from_slice::<Typed>(&payload, &limits) {
        let written = to_vec(&typed).unwrap();
        let again: Typed = from_slice(&written, &Limits::default()).unwrap();
        assert!(
            format!("{typed:?}") == format!("{again:?}"),
            "{typed:?} came back as {again:?}"
        );
        assert_eq!(to_vec(&again).unwrap(), written);
    }
    if let Err(error) = &any {
        assert!(error.to_string().len() < 2_000, "{error}");
    }
    if let Ok(json) = &json {
        comes_back(json);
    }
    let Ok(document) = document else { return };
    from_slice::<serde::de::IgnoredAny>(&payload, &limits).unwrap();
    drop(format!("{document:?}"));
    if let Ok(json) = document.to_json() {
        assert_eq!(Document::from_json(&json).to_json(), Ok(json));
    }
    let written = match write(&document) {
        // Version 16 has sizes that 15 has not.
        Err(WriteError::TooLarge) => return,
        written => written.unwrap(),
    };
    let again = read(&written, &limits).unwrap();
    assert!(again == document, "{document:?} came back as {again:?}");
    assert_eq!(write(&again).unwrap(), written);
    // Documents and types take what no runtime writes for different things: properties that come twice, for instance.
    if written.len() != payload.len() {
        return;
    }
    let second = from_slice_lossy::<Any>(&written, &limits);
    if let (Ok(any), Ok(second)) = (any, &second) {
        assert_eq!(sorted(any), sorted_ref(second));
    }
    if let (Ok(json), Ok(other)) = (json, from_value::<Json>(document.root())) {
        assert_eq!(json, other);
    }
}

fn comes_back(json: &Json) {
    let payload = to_vec(json).unwrap();
    assert_eq!(from_slice::<Json>(&payload, &Limits::default()).unwrap(), *json);
    let document = to_document(json).unwrap();
    assert_eq!(from_value::<Json>(document.root()).unwrap(), *json);
}

/// Documents put the properties that are indexes first, in order.
fn sorted(any: Any) -> String {
    sorted_ref(&any)
}

fn sorted_ref(any: &Any) -> String {
    match any {
        Any::List(list) => {
            let items: Vec<_> = list.iter().map(sorted_ref).collect();
            format!("[{}]", items.join(","))
        }
        Any::Map(map) => {
            let mut entries: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", sorted_ref(key), sorted_ref(value)))
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(","))
        }
        other => format!("{other:?}"),
    }
}
