//! What a frame means: the user's message, a message that Node keeps for itself, or one of the handle protocol.

use std::borrow::Cow;
use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::{Serialization, excerpt, write_frame};
use crate::v8;

/// What a descriptor that travels with a message is, as the `type` of its `NODE_HANDLE` says.
///
/// Node: `lib/internal/child_process.js`, `handleConversion`; checked with 18 to 26.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandleKind {
    /// A connected TCP or Unix stream socket; the receiver gets a `net.Socket` that reads at once.
    Socket,
    /// A listening TCP or Unix socket; the receiver gets a `net.Server` after it listens.
    Server,
    /// Any TCP or pipe descriptor without a JavaScript object around it. Cluster uses this one.
    Native,
    /// A bound UDP socket; the receiver gets a `dgram.Socket`.
    DgramSocket,
    /// A bound UDP descriptor without a JavaScript object around it.
    DgramNative,
    /// A bound TCP socket that does not listen yet. Node 26 only.
    BoundSocket,
}

impl HandleKind {
    const ALL: [Self; 6] = [
        Self::Socket,
        Self::Server,
        Self::Native,
        Self::DgramSocket,
        Self::DgramNative,
        Self::BoundSocket,
    ];

    /// The name on the wire, such as `net.Socket`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "net.Socket",
            Self::Server => "net.Server",
            Self::Native => "net.Native",
            Self::DgramSocket => "dgram.Socket",
            Self::DgramNative => "dgram.Native",
            Self::BoundSocket => "net.BoundSocket",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for HandleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A frame that means nothing. The channel lives on: the next frame begins where this one ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message ({reason}): {excerpt}")]
pub struct BadMessage {
    /// What is wrong with it, with the place.
    pub reason: String,
    /// Its first bytes, printable.
    pub excerpt: String,
}

impl BadMessage {
    /// An error about `body`, of which it keeps the beginning.
    pub fn new(reason: impl fmt::Display, body: &[u8]) -> Self {
        Self {
            reason: reason.to_string(),
            excerpt: excerpt(body),
        }
    }
}

/// A whole frame, sorted.
#[derive(Debug)]
pub(crate) enum Class {
    /// The user's: nobody has looked inside.
    User(Bytes),
    /// `cmd` begins with `NODE_`: JSON text, whatever the channel's serialization is.
    Internal(Bytes),
    /// Wants one descriptor.
    Handle(HandleMessage),
    Ack,
    Nack,
}

/// The inside of a `NODE_HANDLE`.
#[derive(Debug)]
pub(crate) struct HandleMessage {
    /// `Err` holds a name that is none of ours.
    pub(crate) kind: Result<HandleKind, String>,
    /// The message that the descriptor came with; itself internal or not.
    pub(crate) inner: Box<Class>,
    /// The socket list of the giver, if it keeps one.
    pub(crate) key: Option<String>,
    /// How many descriptors it wants, if it is one of thead's own with several.
    pub(crate) count: Option<usize>,
}

const ACK: &[u8] = br#"{"cmd":"NODE_HANDLE_ACK"}"#;
const NACK: &[u8] = br#"{"cmd":"NODE_HANDLE_NACK"}"#;
/// Node wraps a handle message once more at each of its three retransmissions.
const NESTED: usize = 4;
/// Bun puts this before messages of its cluster.
const BUN_MARK: u8 = 0x02;

/// Sorts a frame; the flag says whether it bore Bun's mark.
pub(crate) fn classify(serialization: Serialization, mut body: Bytes) -> Result<(Class, bool), BadMessage> {
    match serialization {
        Serialization::Json => {
            if body.first() == Some(&BUN_MARK) {
                return Ok((Class::Internal(body.split_off(1)), true));
            }
            if body.is_empty() {
                return Err(BadMessage::new("an empty line", &body));
            }
            Ok((classify_json(body, 0)?, false))
        }
        Serialization::Advanced => {
            // Node decides by the decoded `cmd`; nothing that lacks these bytes can decode to it.
            if !mentions(&body, b"NODE_") && !mentions(&body, b"N\0O\0D\0E\0_\0") {
                return Ok((Class::User(body), false));
            }
            Ok((classify_value(body)?, false))
        }
    }
}

fn mentions(body: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(body, what).is_some()
}

/// Node: internal is an object whose `cmd` is a string longer than `NODE_` that begins with it.
fn is_internal(cmd: &str) -> bool {
    cmd.len() > 5 && cmd.starts_with("NODE_")
}

fn classify_json(body: Bytes, depth: usize) -> Result<Class, BadMessage> {
    if body == ACK {
        return Ok(Class::Ack);
    }
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !is_object || !mentions(&body, b"NODE_") && !mentions(&body, b"\\u") {
        return Ok(Class::User(body));
    }
    if depth > NESTED {
        return Err(BadMessage::new("too many NODE_HANDLE in each other", &body));
    }
    let fields: Fields<'_> = match serde_json::from_slice(&body) {
        Ok(fields) => fields,
        // Lone surrogates and the like: only a message that may be internal has to be understood here.
        Err(_) if !mentions(&body, b"\"NODE_") => return Ok(Class::User(body)),
        Err(error) => return Err(BadMessage::new(error, &body)),
    };
    let cmd = fields.cmd.and_then(text);
    match cmd.as_deref() {
        Some("NODE_HANDLE") => {
            let inner = match fields.msg {
                Some(msg) => classify_json(body.slice_ref(msg.get().as_bytes()), depth + 1)?,
                None => Class::User(Bytes::from_static(b"null")),
            };
            let key = fields.key.and_then(text).map(Cow::into_owned);
            let count = fields.count.and_then(|count| count.get().parse().ok());
            Ok(Class::Handle(HandleMessage::new(
                fields.kind.and_then(text),
                inner,
                key,
                count,
            )))
        }
        Some("NODE_HANDLE_ACK") => Ok(Class::Ack),
        Some("NODE_HANDLE_NACK") => Ok(Class::Nack),
        Some(cmd) if is_internal(cmd) => Ok(Class::Internal(body)),
        _ => Ok(Class::User(body)),
    }
}

fn classify_value(body: Bytes) -> Result<Class, BadMessage> {
    match v8::read(&body, &v8::Limits::with_values(INTERNAL_VALUES)) {
        Ok(document) => classify_document(document, Some(body), 0),
        // Every runtime writes `cmd` first, so this one is a user's that mentions `NODE_` somewhere.
        Err(error) if matches!(error.kind(), v8::ReadErrorKind::TooMany { .. }) && !begins_as_internal(&body) => {
            Ok(Class::User(body))
        }
        Err(error) => Err(BadMessage::new(error, &body)),
    }
}

/// Values that a message may have whose `cmd` has to be known: about 15 MB of memory while that is found out, however
/// large the frame. What goes beyond is a user's message, unless `cmd` stands at its beginning.
const INTERNAL_VALUES: usize = 100_000;

/// Memory that an internal message may take as JSON, in bytes: several times what the longest cluster message takes.
const INTERNAL_JSON: usize = 1 << 20;

/// Whether a payload is an object that has for its first property a `cmd` of the runtime's own.
fn begins_as_internal(body: &[u8]) -> bool {
    let cmd = body.get(2..).and_then(|value| value.strip_prefix(b"o\"\x03cmd\""));
    cmd.and_then(|text| text.get(1..))
        .is_some_and(|text| text.starts_with(b"NODE_"))
}

/// `body` is what the document was read from, if it is a whole payload.
fn classify_document(document: v8::Document, body: Option<Bytes>, depth: usize) -> Result<Class, BadMessage> {
    let text = |name| document.get(name).and_then(v8::Value::as_str).map(Cow::into_owned);
    let bad = |error: &dyn fmt::Display| BadMessage::new(error, body.as_deref().unwrap_or_default());
    match text("cmd").as_deref() {
        Some("NODE_HANDLE") if depth > NESTED => Err(bad(&"too many NODE_HANDLE in each other")),
        Some("NODE_HANDLE") => {
            let (kind, key) = (text("type").map(Cow::Owned), text("key"));
            let count = document
                .get("count")
                .and_then(v8::Value::as_f64)
                .map(|count| count as usize);
            let inner = match document.into_property("msg") {
                Ok(msg) => classify_document(msg, None, depth + 1)?,
                Err(_) => Class::User(Bytes::from_static(b"\xff\x0f_")),
            };
            Ok(Class::Handle(HandleMessage::new(kind, inner, key, count)))
        }
        Some("NODE_HANDLE_ACK") => Ok(Class::Ack),
        Some("NODE_HANDLE_NACK") => Ok(Class::Nack),
        Some(cmd) if is_internal(cmd) => {
            let json = document.to_json_within(INTERNAL_JSON).map_err(|error| bad(&error))?;
            Ok(Class::Internal(json.to_string().into()))
        }
        _ => match body {
            Some(body) => Ok(Class::User(body)),
            None => v8::write(&document)
                .map(Class::User)
                .map_err(|error| BadMessage::new(error, b"")),
        },
    }
}

impl HandleMessage {
    /// What Node sends after a NACK is a `net.Native` around the first `NODE_HANDLE`; one descriptor, one answer.
    fn new(kind: Option<Cow<'_, str>>, inner: Class, key: Option<String>, count: Option<usize>) -> Self {
        if let Class::Handle(first) = inner {
            return first;
        }
        let name = kind.unwrap_or_default();
        Self {
            count: (name == DESCRIPTORS).then(|| count.unwrap_or_default()),
            kind: HandleKind::from_name(&name).ok_or_else(|| name.into_owned()),
            inner: Box::new(inner),
            key,
        }
    }
}

/// Appends the frame of an internal message, given as JSON text.
pub(crate) fn write_internal(serialization: Serialization, marked: bool, json: &[u8], out: &mut BytesMut) {
    match serialization {
        Serialization::Json => {
            if marked {
                out.extend_from_slice(&[BUN_MARK]);
            }
            write_frame(serialization, json, out);
        }
        Serialization::Advanced => {
            let payload = v8::write(&document_of(json)).unwrap_or_default();
            write_frame(serialization, &payload, out);
        }
    }
}

/// Appends an ACK or a NACK.
pub(crate) fn write_answer(serialization: Serialization, taken: bool, out: &mut BytesMut) {
    write_internal(serialization, false, if taken { ACK } else { NACK }, out);
}

/// The `type` of a handle message with several descriptors, of any kind. Only thead sends it, and only to thead.
const DESCRIPTORS: &str = "thead.Descriptors";

/// What a thead child says first to a thead parent. To others it is never said.
pub(crate) const HELLO: &[u8] = br#"{"cmd":"NODE_THEAD_HELLO"}"#;

/// Whether this is the first word of a thead process.
pub(crate) fn is_hello(json: &[u8]) -> bool {
    if json.len() > SHORT || !mentions(json, b"NODE_THEAD_HELLO") {
        return false;
    }
    let fields: Result<Fields<'_>, _> = serde_json::from_slice(json);
    fields.is_ok_and(|fields| fields.cmd.and_then(text).as_deref() == Some("NODE_THEAD_HELLO"))
}

/// The longest of the short internal messages, in bytes. The longest key of a socket list is an address and a path.
const SHORT: usize = 4 << 10;

/// What is said about sockets that one end has given to the other, and counts.
///
/// Node: `lib/internal/socket_list.js`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketList {
    /// The giver: how many of this key are open?
    GetCount,
    /// The giver: tell when none of this key is open.
    NotifyClose,
    /// The taker: so many are.
    Count(usize),
    /// The taker: none is.
    AllClosed,
}

/// Deno's name of the `key` of a handle message. In what is said of a socket list it is `key` there too.
const DENOS_KEY: &str = "socketListKey";

/// What is said of a socket list, and its key; nothing for other messages.
pub(crate) fn socket_list(json: &[u8]) -> Option<(SocketList, String)> {
    if json.len() > SHORT || !mentions(json, b"NODE_SOCKET_") {
        return None;
    }
    let fields: Fields<'_> = serde_json::from_slice(json).ok()?;
    let said = match fields.cmd.and_then(text).as_deref() {
        Some("NODE_SOCKET_GET_COUNT") => SocketList::GetCount,
        Some("NODE_SOCKET_NOTIFY_CLOSE") => SocketList::NotifyClose,
        Some("NODE_SOCKET_COUNT") => SocketList::Count(fields.count?.get().parse().ok()?),
        // Deno's word for it is another.
        Some("NODE_SOCKET_ALL_CLOSED" | "NODE_SOCKET_CLOSE_ACK") => SocketList::AllClosed,
        _ => return None,
    };
    Some((said, fields.key.and_then(text)?.into_owned()))
}

/// What is to be said of a socket list, as JSON text.
pub(crate) fn socket_list_text(say: SocketList, key: &str) -> Vec<u8> {
    let key = serde_json::Value::from(key);
    match say {
        SocketList::GetCount => format!("{{\"cmd\":\"NODE_SOCKET_GET_COUNT\",\"key\":{key}}}"),
        SocketList::NotifyClose => format!("{{\"cmd\":\"NODE_SOCKET_NOTIFY_CLOSE\",\"key\":{key}}}"),
        SocketList::Count(count) => format!("{{\"cmd\":\"NODE_SOCKET_COUNT\",\"key\":{key},\"count\":{count}}}"),
        SocketList::AllClosed => format!("{{\"cmd\":\"NODE_SOCKET_ALL_CLOSED\",\"key\":{key}}}"),
    }
    .into_bytes()
}

/// What rides on a `NODE_HANDLE` besides its descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandleEnvelope<'a> {
    pub(crate) cargo: Cargo<'a>,
    pub(crate) body: HandleBody<'a>,
}

/// What the descriptors of a `NODE_HANDLE` are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cargo<'a> {
    /// One handle; with `udp4` or `udp6` if Node needs it to build a `dgram.Socket`.
    Handle(HandleKind, Option<&'static str>),
    /// A socket that is counted under this key.
    Counted(&'a str),
    /// So many of any kind, between two thead processes.
    Descriptors(usize),
}

impl Cargo<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Handle(kind, _) => kind.as_str(),
            Self::Counted(_) => HandleKind::Socket.as_str(),
            Self::Descriptors(_) => DESCRIPTORS,
        }
    }
}

/// The message inside a `NODE_HANDLE`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandleBody<'a> {
    /// In the channel's serialization.
    User(&'a [u8]),
    /// JSON text.
    Internal(&'a [u8]),
}

/// The frame of a `NODE_HANDLE`, with its fields in Node's order.
pub(crate) fn handle_frame(serialization: Serialization, envelope: HandleEnvelope<'_>) -> Result<Bytes, BadMessage> {
    let mut out = BytesMut::new();
    let HandleEnvelope { cargo, body } = envelope;
    match (serialization, body) {
        (Serialization::Json, HandleBody::User(msg) | HandleBody::Internal(msg)) => {
            out.reserve(msg.len() + 96);
            out.extend_from_slice(br#"{"cmd":"NODE_HANDLE","type":""#);
            out.extend_from_slice(cargo.name().as_bytes());
            out.extend_from_slice(br#"","msg":"#);
            out.extend_from_slice(msg);
            match cargo {
                Cargo::Handle(_, None) => {}
                Cargo::Handle(_, Some(dgram_type)) => {
                    out.extend_from_slice(format!(",\"dgramType\":\"{dgram_type}\"").as_bytes());
                }
                Cargo::Counted(key) => {
                    let key = serde_json::Value::from(key);
                    out.extend_from_slice(format!(",\"key\":{key},\"{DENOS_KEY}\":{key}").as_bytes());
                }
                Cargo::Descriptors(count) => out.extend_from_slice(format!(",\"count\":{count}").as_bytes()),
            }
            out.extend_from_slice(b"}\n");
        }
        (Serialization::Advanced, body) => {
            let msg = match body {
                HandleBody::User(payload) => {
                    let payload = Bytes::copy_from_slice(payload);
                    v8::read(&payload, &v8::Limits::default()).map_err(|error| BadMessage::new(error, &payload))?
                }
                HandleBody::Internal(json) => document_of(json),
            };
            let (mut builder, msg) = msg.into_builder();
            let mut fields = vec![
                ("cmd", builder.string("NODE_HANDLE")),
                ("type", builder.string(cargo.name())),
                ("msg", msg),
            ];
            match cargo {
                Cargo::Handle(_, None) => {}
                Cargo::Handle(_, Some(dgram_type)) => fields.push(("dgramType", builder.string(dgram_type))),
                Cargo::Counted(key) => {
                    fields.extend([("key", builder.string(key)), (DENOS_KEY, builder.string(key))]);
                }
                Cargo::Descriptors(count) => fields.push(("count", i32::try_from(count).unwrap_or_default().into())),
            }
            let root = builder.object(fields);
            let payload = v8::write(&builder.finish(root)).map_err(|error| BadMessage::new(error, b"NODE_HANDLE"))?;
            write_frame(serialization, &payload, &mut out);
        }
    }
    Ok(out.freeze())
}

/// Internal messages are ours: plain JSON that always has a value.
fn document_of(json: &[u8]) -> v8::Document {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    v8::Document::from_json(&value)
}

/// The fields of an internal message, unparsed. Of a key that stands twice the last counts, as in JavaScript.
#[derive(Default)]
struct Fields<'a> {
    cmd: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    msg: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    count: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let field = match &*key.0 {
                        "cmd" => &mut fields.cmd,
                        "type" => &mut fields.kind,
                        "msg" => &mut fields.msg,
                        "key" => &mut fields.key,
                        "count" => &mut fields.count,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = Some(map.next_value()?);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}
