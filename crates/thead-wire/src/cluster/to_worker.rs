//! Primary to worker.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::field::{self, Fields, Json, Print};
use super::{ClusterMessageError, Envelope, MAX_ADDRESS, MAX_KEY, Sockname, ToWorker};

impl Envelope<ToWorker> {
    /// Parses the body of one `json` frame.
    ///
    /// # Errors
    /// If it is no cluster message, or one with a field that cannot be; says which.
    pub fn from_json(body: &[u8]) -> Result<Self, ClusterMessageError> {
        match new_conn(body) {
            Some(offer) => Ok(offer),
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
            return Ok(Self {
                seq,
                message: reply(fields, ack)?,
            });
        }
        let message = match fields.text("act", usize::MAX)? {
            Some("newconn") => match fields.text("key", MAX_KEY)? {
                Some(key) => ToWorker::NewConn {
                    key: key.into(),
                    idle: fields.flag("idle")?.unwrap_or(false),
                },
                None => return Err(fields.wrong("key", "a string")),
            },
            Some("disconnect") => ToWorker::Disconnect,
            Some(act) => ToWorker::Unknown {
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
            ToWorker::RoundRobin {
                ack,
                key,
                data,
                sockname,
            } => {
                to.null("errno");
                to.text("key", key);
                to.number("ack", *ack);
                to.value("data", data);
                if let Some(sockname) = sockname {
                    to.value("sockname", &print_sockname(sockname));
                }
            }
            ToWorker::Shared { ack, key, data } => {
                to.integer("errno", 0);
                to.text("key", key);
                to.number("ack", *ack);
                to.value("data", data);
            }
            ToWorker::Refused { ack, key, errno } => {
                to.integer("errno", (*errno).into());
                to.text("key", key);
                to.number("ack", *ack);
                to.null("data");
            }
            ToWorker::NewConn { key, idle } => {
                to.text("act", "newconn");
                to.text("key", key);
                if *idle {
                    to.flag("idle", true);
                }
            }
            ToWorker::Disconnect => to.text("act", "disconnect"),
            ToWorker::Ack { ack } => to.number("ack", *ack),
            ToWorker::Unknown { act } => to.text("act", act),
        }
        if let Some(seq) = self.seq {
            to.number("seq", seq);
        }
    }
}

/// The offer of a connection exactly as Node prints it, else nothing.
fn new_conn(body: &[u8]) -> Option<Envelope<ToWorker>> {
    let rest = body.strip_prefix(br#"{"cmd":"NODE_CLUSTER","act":"newconn","key":""#)?;
    let end = rest
        .iter()
        .take(MAX_KEY)
        .position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
    let key = str::from_utf8(&rest[..end]).ok()?;
    let (seq, rest) = field::leading_number(rest[end..].strip_prefix(br#"","seq":"#)?)?;
    (rest == b"}").then(|| Envelope {
        seq: Some(seq),
        message: ToWorker::NewConn {
            key: key.into(),
            idle: false,
        },
    })
}

/// A reply with a key is to a query, one without to `exitedAfterDisconnect`.
fn reply(fields: Fields<'_>, ack: u64) -> Result<ToWorker, ClusterMessageError> {
    let Some(key) = fields.text("key", MAX_KEY)? else {
        return Ok(ToWorker::Ack { ack });
    };
    let key: Arc<str> = key.into();
    Ok(match fields.integer::<i32>("errno")? {
        Some(errno) if errno < 0 => ToWorker::Refused { ack, key, errno },
        Some(0) => ToWorker::Shared {
            ack,
            key,
            data: fields.data()?,
        },
        Some(_) => return Err(fields.wrong("errno", "a negative integer, 0 or null")),
        None => ToWorker::RoundRobin {
            ack,
            key,
            data: fields.data()?,
            sockname: sockname(fields)?.map(Box::new),
        },
    })
}

fn sockname(fields: Fields<'_>) -> Result<Option<Sockname>, ClusterMessageError> {
    let wrong = || fields.wrong("sockname", "{ address, family, port }");
    let Some(name) = fields.get("sockname") else {
        return Ok(None);
    };
    let address = name
        .get("address")
        .and_then(Value::as_str)
        .filter(|address| address.len() <= MAX_ADDRESS);
    let ipv6 = match name.get("family").and_then(Value::as_str) {
        Some("IPv4") => false,
        Some("IPv6") => true,
        _ => return Err(wrong()),
    };
    let port = name
        .get("port")
        .and_then(field::integer)
        .and_then(|port| u16::try_from(port).ok());
    match (address, port) {
        (Some(address), Some(port)) => Ok(Some(Sockname {
            address: address.into(),
            ipv6,
            port,
        })),
        _ => Err(wrong()),
    }
}

fn print_sockname(sockname: &Sockname) -> Value {
    serde_json::json!({
        "address": &*sockname.address,
        "family": if sockname.ipv6 { "IPv6" } else { "IPv4" },
        "port": sockname.port,
    })
}
