//! The two messages, as they are written.

use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thead_core::id::Revision;
use thead_wire::Serialization;

use super::Content;
use crate::channel::{Message, encode};

pub(super) const DATA: &str = "thead:data";
pub(super) const APPLIED: &str = "thead:applied";
/// Longer ones are no answers. One that is, is looked for in every message that is not longer.
const ANSWER_LIMIT: usize = 16 << 10;
/// What is kept of a worker's reason, in characters.
const REASON_LIMIT: usize = 1000;

#[derive(Serialize)]
struct Push<'a> {
    cmd: &'static str,
    name: &'a str,
    revision: u64,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text { value: &'a RawValue },
    Value { value: Value },
    Memory { path: PathBuf, size: u64 },
}

/// What a worker is sent; nothing if the value cannot be written in this serialization.
pub(super) fn push(serialization: Serialization, name: &str, revision: Revision, content: &Content) -> Option<Bytes> {
    let body = match (content, serialization) {
        (Content::Value(value), Serialization::Json) => Body::Text { value },
        // The text itself is nothing that V8 knows.
        (Content::Value(value), Serialization::Advanced) => Body::Value {
            value: serde_json::from_str(value.get()).ok()?,
        },
        (Content::Memory(memory), _) => Body::Memory {
            path: memory.path(),
            size: memory.len(),
        },
    };
    let message = Push {
        cmd: DATA,
        name,
        revision: revision.0,
        body,
    };
    encode(serialization, &message).ok()
}

/// What a worker has said of a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) name: String,
    pub(super) revision: Revision,
    pub(super) refusal: Option<String>,
}

impl Answer {
    /// Reads a message, if it is one.
    pub(super) fn read(message: &Message) -> Option<Self> {
        #[derive(Deserialize)]
        struct Said {
            cmd: String,
            name: String,
            revision: u64,
            #[serde(default)]
            error: Value,
        }
        let body = message.raw();
        if body.len() > ANSWER_LIMIT || memchr::memmem::find(body, APPLIED.as_bytes()).is_none() {
            return None;
        }
        let said: Said = message.lossy().ok()?;
        if said.cmd != APPLIED {
            return None;
        }
        let refusal = match said.error {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        Some(Self {
            name: said.name,
            revision: Revision(said.revision),
            refusal: refusal.map(|text| text.chars().take(REASON_LIMIT).collect()),
        })
    }
}

/// What a worker answers.
#[derive(Serialize)]
pub(super) struct Applied<'a> {
    pub(super) cmd: &'static str,
    pub(super) name: &'a str,
    pub(super) revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a str>,
}
