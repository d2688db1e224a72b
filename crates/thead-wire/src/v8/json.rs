//! From and to JSON.

use std::slice;

use serde_json::{Map, Number, Value as Json, map};

use super::{
    Limits,
    build::{Builder, Item, number},
    kind::ViewKind,
    parts::{Items, Key, Properties},
    value::{Document, Kind, Node, Slot, Value, whole},
};

/// What JSON may cost beyond the size of the document, in bytes: numbers of buffers, objects that are repeated because
/// they are shared, holes. A million numbers or so.
const EXTRA: usize = 64 << 20;
/// What one value costs, about.
const VALUE: usize = 64;

/// Why a value cannot be JSON. The first two are errors of `JSON.stringify` too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// An object is part of itself.
    #[error("an object that contains itself cannot be JSON")]
    Cycle,
    /// There is a `BigInt`.
    #[error("a BigInt cannot be JSON")]
    BigInt,
    /// Objects are nested deeper than [`Limits`] allow by default.
    #[error("objects nested deeper than {limit} are not made JSON")]
    TooDeep {
        /// That depth.
        limit: usize,
    },
    /// It would be much larger than the document, by shared objects, long buffers or arrays with many holes.
    #[error("much larger as JSON than it is: shared objects, long buffers, or arrays with many holes")]
    TooLarge,
}

impl Document {
    /// The same data as V8 would hold it. Nothing is lost but what JavaScript's numbers cannot hold: whole numbers beyond
    /// 2^53 are rounded.
    pub fn from_json(json: &Json) -> Document {
        enum Open<'a> {
            Array(slice::Iter<'a, Json>),
            Object(map::Iter<'a>),
        }
        let mut builder = Builder::new();
        let mut open: Vec<(usize, Open<'_>)> = Vec::new();
        let mut stack: Vec<Slot> = Vec::new();
        let mut next = Some(json);
        loop {
            match next.take() {
                None => {}
                Some(Json::Null) => stack.push(Slot::Null),
                Some(Json::Bool(bool)) => stack.push(Slot::Bool(*bool)),
                Some(Json::Number(json)) => stack.push(number(json.as_f64().unwrap_or(f64::NAN))),
                Some(Json::String(text)) => stack.push(builder.string(text).0),
                Some(Json::Array(items)) => open.push((stack.len(), Open::Array(items.iter()))),
                Some(Json::Object(properties)) => open.push((stack.len(), Open::Object(properties.iter()))),
            }
            let Some((start, innermost)) = open.last_mut() else {
                break;
            };
            let closed = match innermost {
                Open::Array(items) => match items.next() {
                    Some(item) => {
                        next = Some(item);
                        continue;
                    }
                    None => {
                        let (start, elements) = builder.children(stack.drain(*start..).map(Item));
                        Node::Array {
                            start,
                            elements,
                            properties: 0,
                        }
                    }
                },
                Open::Object(properties) => match properties.next() {
                    Some((name, value)) => {
                        let Item(name) = builder.string(name);
                        stack.push(builder.key(name));
                        next = Some(value);
                        continue;
                    }
                    None => {
                        let (from, _) = builder.children(stack.drain(*start..).map(Item));
                        let (start, properties) = builder.settle(from);
                        Node::Object { start, properties }
                    }
                },
            };
            open.pop();
            builder.nodes.push(closed);
            stack.push(Slot::Node(builder.nodes.len() - 1));
        }
        builder.finish(stack.pop().map_or(Item::UNDEFINED, Item))
    }

    /// What `JSON.stringify` makes of the root: [`Value::to_json`].
    ///
    /// # Errors
    ///
    /// If it is not JSON's.
    pub fn to_json(&self) -> Result<Json, JsonError> {
        self.root().to_json()
    }

    /// As [`to_json`](Self::to_json), but refused when it would take more than about `limit` bytes of memory.
    pub(crate) fn to_json_within(&self, limit: usize) -> Result<Json, JsonError> {
        to_json(self.root(), Budget(limit))
    }
}

impl Value<'_> {
    /// What `JSON.stringify` makes of it. JSON has less than V8's format, so this is lossy, silently:
    ///
    /// - `undefined` is left out of objects, and `null` in arrays and alone; so are holes, `NaN`, infinities and invalid
    ///   dates. `-0` is `0`.
    /// - Dates are strings, boxed primitives are primitives, a `Buffer` is `{"type":"Buffer","data":[…]}`, a typed array an
    ///   object with its indexes for names.
    /// - `Map`, `Set`, `RegExp`, `ArrayBuffer`, `DataView` and errors are `{}`.
    /// - Shared objects are repeated, extra properties of arrays left out.
    ///
    /// Differs from Node: a lone surrogate becomes U+FFFD, which Rust's strings can hold.
    ///
    /// # Errors
    ///
    /// Cycles and `BigInt`, as `JSON.stringify`; deep nesting, and much more output than input.
    pub fn to_json(self) -> Result<Json, JsonError> {
        let doc = self.doc;
        to_json(self, Budget(EXTRA + doc.text.len() + 2 * VALUE * (doc.slots.len() + 1)))
    }
}

fn to_json(value: Value<'_>, mut budget: Budget) -> Result<Json, JsonError> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut next = value;
    loop {
        let mut done = match begin(next, &mut budget)? {
            Begun::Done(json) => Some(json),
            Begun::Open(body) => {
                if open.iter().any(|open| open.id == next.id()) {
                    return Err(JsonError::Cycle);
                }
                let limit = Limits::default().depth;
                if open.len() >= limit {
                    return Err(JsonError::TooDeep { limit });
                }
                open.push(Open { id: next.id(), body });
                None
            }
        };
        next = loop {
            let Some(innermost) = open.last_mut() else {
                return Ok(done.flatten().unwrap_or(Json::Null));
            };
            if let Some(json) = done.take() {
                innermost.body.put(json, &mut budget)?;
            }
            match innermost.body.next() {
                Some(value) => break value,
                None => done = open.pop().map(|open| Some(open.body.finish())),
            }
        };
    }
}

struct Budget(usize);

impl Budget {
    fn take(&mut self, cost: usize) -> Result<(), JsonError> {
        self.0 = self.0.checked_sub(cost).ok_or(JsonError::TooLarge)?;
        Ok(())
    }
}

enum Begun<'a> {
    /// Complete; nothing for `undefined`.
    Done(Option<Json>),
    Open(Body<'a>),
}

struct Open<'a> {
    id: Option<usize>,
    body: Body<'a>,
}

enum Body<'a> {
    Items {
        items: Items<'a>,
        out: Vec<Json>,
    },
    Sparse {
        properties: Properties<'a>,
        at: usize,
        out: Vec<Json>,
    },
    Object {
        properties: Properties<'a>,
        at: usize,
        out: Map<String, Json>,
    },
    Host {
        copy: Value<'a>,
        out: Option<Option<Json>>,
    },
}

impl<'a> Body<'a> {
    fn next(&self) -> Option<Value<'a>> {
        match self {
            Body::Items { items, out } => items.get(out.len()),
            Body::Sparse { properties, at, .. } => properties
                .nth(*at)
                .filter(|(key, _)| matches!(key, Key::Index(_)))
                .map(|(_, value)| value),
            Body::Object { properties, at, .. } => properties.nth(*at).map(|(_, value)| value),
            Body::Host { copy, out } => out.is_none().then_some(*copy),
        }
    }

    fn put(&mut self, json: Option<Json>, budget: &mut Budget) -> Result<(), JsonError> {
        match self {
            Body::Items { out, .. } => out.push(json.unwrap_or(Json::Null)),
            Body::Sparse { properties, at, out } => {
                if let Some((Key::Index(index), _)) = properties.nth(*at)
                    && let Some(place) = out.get_mut(index as usize)
                {
                    *place = json.unwrap_or(Json::Null);
                }
                *at += 1;
            }
            Body::Object { properties, at, out } => {
                if let Some(((key, _), json)) = properties.nth(*at).zip(json) {
                    let name = match key {
                        Key::Index(index) => index.to_string(),
                        Key::Name(name) => name.to_string_lossy().into_owned(),
                    };
                    budget.take(name.len())?;
                    out.insert(name, json);
                }
                *at += 1;
            }
            Body::Host { out, .. } => *out = Some(json),
        }
        Ok(())
    }

    fn finish(self) -> Json {
        match self {
            Body::Items { out, .. } | Body::Sparse { out, .. } => Json::Array(out),
            Body::Object { out, .. } => Json::Object(out),
            Body::Host { out, .. } => out.flatten().unwrap_or(Json::Null),
        }
    }
}

fn begin<'a>(value: Value<'a>, budget: &mut Budget) -> Result<Begun<'a>, JsonError> {
    budget.take(VALUE)?;
    Ok(Begun::Done(Some(match value.kind() {
        Kind::Undefined => return Ok(Begun::Done(None)),
        Kind::Null => Json::Null,
        Kind::Bool(bool) | Kind::BoxedBool(bool) => bool.into(),
        Kind::Int(int) => int.into(),
        Kind::Double(double) | Kind::BoxedNumber(double) => json_number(double),
        Kind::BigInt(_) | Kind::BoxedBigInt(_) => return Err(JsonError::BigInt),
        Kind::String(text) | Kind::BoxedString(text) => {
            let text = text.to_string_lossy();
            budget.take(text.len())?;
            text.into()
        }
        Kind::Date(ms) => iso(ms).map_or(Json::Null, Json::String),
        Kind::Array(array) => {
            let out = Vec::with_capacity(array.items().len());
            return Ok(Begun::Open(Body::Items {
                items: array.items(),
                out,
            }));
        }
        Kind::SparseArray(array) => {
            budget.take((array.length() as usize).saturating_mul(VALUE))?;
            let out = vec![Json::Null; array.length() as usize];
            return Ok(Begun::Open(Body::Sparse {
                properties: array.properties(),
                at: 0,
                out,
            }));
        }
        Kind::Object(properties) => {
            return Ok(Begun::Open(Body::Object {
                properties,
                at: 0,
                out: Map::new(),
            }));
        }
        Kind::Host(copy) => return Ok(Begun::Open(Body::Host { copy, out: None })),
        Kind::View {
            kind: ViewKind::Buffer,
            bytes,
        } => {
            budget.take(bytes.len().saturating_mul(VALUE))?;
            serde_json::json!({ "type": "Buffer", "data": bytes.as_ref() })
        }
        Kind::View { kind, bytes } => {
            budget.take(bytes.len().saturating_mul(2 * VALUE))?;
            let elements = bytes
                .chunks_exact(kind.element_size())
                .map(|bytes| element(kind, bytes));
            let elements = elements.take_while(|_| kind != ViewKind::DataView);
            Json::Object(
                (0..)
                    .zip(elements)
                    .map(|(at, json): (usize, _)| Ok((at.to_string(), json?)))
                    .collect::<Result<_, _>>()?,
            )
        }
        Kind::RegExp { .. } | Kind::Map(_) | Kind::Set(_) | Kind::ArrayBuffer { .. } | Kind::Error(_) => {
            Json::Object(Map::new())
        }
    })))
}

fn json_number(double: f64) -> Json {
    match whole(double) {
        Some(int) => int.into(),
        None => Number::from_f64(double).map_or(Json::Null, Json::Number),
    }
}

/// One element of a typed array; `bytes` are as many as it has.
fn element(kind: ViewKind, bytes: &[u8]) -> Result<Json, JsonError> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    Ok(match kind {
        ViewKind::Int8Array => (bits as i8).into(),
        ViewKind::Int16Array => (bits as i16).into(),
        ViewKind::Int32Array => (bits as i32).into(),
        ViewKind::Float16Array => json_number(half(bits as u16)),
        ViewKind::Float32Array => json_number(f32::from_bits(bits as u32).into()),
        ViewKind::Float64Array => json_number(f64::from_bits(bits)),
        ViewKind::BigInt64Array | ViewKind::BigUint64Array => return Err(JsonError::BigInt),
        _ => bits.into(),
    })
}

/// A number of half precision.
pub(super) fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    }
}

/// `toISOString`, for a valid date: at most 100 million days from 1970.
pub(super) fn iso(ms: f64) -> Option<String> {
    const DAY: i64 = 86_400_000;
    if ms.is_nan() || ms.abs() > 100e6 * DAY as f64 {
        return None;
    }
    let ms = ms as i64;
    let (days, time) = (ms.div_euclid(DAY), ms.rem_euclid(DAY));
    // Years that begin with March have their odd day at the end; 400 of them are 146 097 days, 1970 began 719 468 days
    // after the first of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 30.6 days, rounded.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * era + year + i64::from(month >= 10), (month + 2) % 12 + 1);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{}{:06}", if year < 0 { '-' } else { '+' }, year.abs()),
    };
    let (hour, minute, second, ms) = (time / 3_600_000, time / 60_000 % 60, time / 1_000 % 60, time % 1_000);
    Some(format!(
        "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
    ))
}
