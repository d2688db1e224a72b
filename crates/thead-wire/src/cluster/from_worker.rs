//! Worker to primary.

use serde_json::{Map, Value};

use super::field::{self, Fields, Json, Print};
use super::{AddressType, Backlog, ClusterMessageError, Envelope, FromWorker, MAX_ADDRESS, MAX_KEY, Query};

impl Envelope<FromWorker> {
    /// Parses the body of one `json` frame.
    ///
    /// # Errors
    /// If it is no cluster message, or one with a field that cannot be; says which.
    pub fn from_json(body: &[u8]) -> Result<Self, ClusterMessageError> {
        match accepted(body) {
            Some(answer) => Ok(answer),
            None => Self::from_value(&field::parse(body)?),
        }
    }

    /// Takes the message from a decoded value, as `advanced` has it.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_value(message: &Value) -> Result<Self, ClusterMessageError> {
        let fields = Fields::of(message)?;
        let seq = fields.number("seq")?;
        if let Some(ack) = fields.number("ack")? {
            // JavaScript asks whether it is true, and an absent field is not.
            let accepted = fields.flag("accepted")?.unwrap_or(false);
            return Ok(Self {
                seq,
                message: FromWorker::Accepted { ack, accepted },
            });
        }
        let message = match fields.text("act", usize::MAX)? {
            Some("online") => FromWorker::Online,
            Some("queryServer") => FromWorker::QueryServer(Box::new(query(fields)?)),
            Some("listening") => FromWorker::Listening(Box::new(query(fields)?)),
            Some("close") => match fields.text("key", MAX_KEY)? {
                Some(key) => FromWorker::Close { key: key.into() },
                None => return Err(fields.wrong("key", "a string")),
            },
            Some("exitedAfterDisconnect") => FromWorker::ExitedAfterDisconnect,
            Some(act) => FromWorker::Unknown {
                act: field::excerpt(act),
            },
            None => return Err(fields.wrong("act", "a string, where ack is absent")),
        };
        Ok(Self { seq, message })
    }

    /// Appends the message as JSON, fields in Node's order, without a line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut json = Json::open(out);
        self.print(&mut json);
        json.close();
    }

    /// The message as a value, for `advanced`.
    pub fn to_value(&self) -> Value {
        field::to_value(|map: &mut Map<String, Value>| self.print(map))
    }

    fn print(&self, to: &mut impl Print) {
        match &self.message {
            FromWorker::Online => to.text("act", "online"),
            FromWorker::QueryServer(query) => {
                to.text("act", "queryServer");
                print_query(query, to);
            }
            FromWorker::Listening(query) => {
                to.text("act", "listening");
                print_query(query, to);
            }
            FromWorker::Close { key } => {
                to.text("act", "close");
                to.text("key", key);
            }
            FromWorker::ExitedAfterDisconnect => to.text("act", "exitedAfterDisconnect"),
            FromWorker::Accepted { ack, accepted } => {
                to.number("ack", *ack);
                to.flag("accepted", *accepted);
            }
            FromWorker::Unknown { act } => to.text("act", act),
        }
        if let Some(seq) = self.seq {
            to.number("seq", seq);
        }
    }
}

/// The answer to an offer exactly as Node and Deno print it, else nothing: one pass over the bytes, since one comes for every
/// connection.
fn accepted(body: &[u8]) -> Option<Envelope<FromWorker>> {
    let rest = body.strip_prefix(br#"{"cmd":"NODE_CLUSTER","ack":"#)?;
    let (ack, rest) = field::leading_number(rest)?;
    let rest = rest.strip_prefix(br#","accepted":"#)?;
    let (accepted, rest) = match rest.strip_prefix(b"true") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix(b"false")?),
    };
    let (seq, rest) = field::leading_number(rest.strip_prefix(br#","seq":"#)?)?;
    (rest == b"}").then_some(Envelope {
        seq: Some(seq),
        message: FromWorker::Accepted { ack, accepted },
    })
}

fn query(fields: Fields<'_>) -> Result<Query, ClusterMessageError> {
    let port = fields.integer::<i32>("port")?;
    if port.is_some_and(|port| !(-1..=65_535).contains(&port)) {
        return Err(fields.wrong("port", "-1 to 65535 or null"));
    }
    let fd = fields.integer::<i32>("fd")?;
    if fd.is_some_and(|fd| fd < -1) {
        return Err(fields.wrong("fd", "a descriptor, -1 or null"));
    }
    let address_type = match fields.get("addressType") {
        None => None,
        Some(Value::String(text)) if text == "udp4" => Some(AddressType::Udp4),
        Some(Value::String(text)) if text == "udp6" => Some(AddressType::Udp6),
        Some(value) => match field::integer(value) {
            Some(4) => Some(AddressType::Ipv4),
            Some(6) => Some(AddressType::Ipv6),
            Some(-1) => Some(AddressType::Unix),
            _ => return Err(fields.wrong("addressType", "4, 6, -1, \"udp4\", \"udp6\" or null")),
        },
    };
    let backlog = match fields.get("backlog") {
        Some(Value::Bool(false)) => Some(Backlog::False),
        _ => fields.integer("backlog")?.map(Backlog::Length),
    };
    Ok(Query {
        index: fields.integer("index")?.unwrap_or(0),
        data: fields.data()?,
        address: fields.text("address", MAX_ADDRESS)?.map(Into::into),
        port,
        address_type,
        fd,
        flags: fields.integer("flags")?,
        backlog,
        readable_all: fields.flag("readableAll")?,
        writable_all: fields.flag("writableAll")?,
    })
}

fn print_query(query: &Query, to: &mut impl Print) {
    to.integer("index", query.index.into());
    to.value("data", &query.data);
    match &query.address {
        Some(address) => to.text("address", address),
        None => to.null("address"),
    }
    match query.port {
        Some(port) => to.integer("port", port.into()),
        None => to.null("port"),
    }
    match query.address_type {
        None => to.null("addressType"),
        Some(AddressType::Ipv4) => to.integer("addressType", 4),
        Some(AddressType::Ipv6) => to.integer("addressType", 6),
        Some(AddressType::Unix) => to.integer("addressType", -1),
        Some(AddressType::Udp4) => to.text("addressType", "udp4"),
        Some(AddressType::Udp6) => to.text("addressType", "udp6"),
    }
    if let Some(fd) = query.fd {
        to.integer("fd", fd.into());
    }
    if let Some(flags) = query.flags {
        to.integer("flags", flags.into());
    }
    match query.backlog {
        None => {}
        Some(Backlog::False) => to.flag("backlog", false),
        Some(Backlog::Length(length)) => to.integer("backlog", length.into()),
    }
    if let Some(all) = query.readable_all {
        to.flag("readableAll", all);
    }
    if let Some(all) = query.writable_all {
        to.flag("writableAll", all);
    }
}
