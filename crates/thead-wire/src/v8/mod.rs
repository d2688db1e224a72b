//! V8's value format, as Node's `advanced` channels carry it.
//!
//! [`read()`] turns the payload of one frame (what follows its four length bytes) into a [`Document`], [`write()`] does the
//! opposite. [`from_slice()`] and [`to_vec()`] do the same with types of your own, by serde and without a document in
//! between; [`js`] has fields for what only JavaScript has. Framing is not done here.
//!
//! JavaScript values are a graph: two properties may hold the same object, and an object may hold itself. So a
//! [`Document`] is a flat store of objects, a [`Value`] is a cursor into it, and a [`Builder`] makes new ones. Nothing
//! here recurses over a peer's data, so no nesting can exhaust the stack, in reading, writing, comparing or dropping.
//!
//! What is read: versions 13 to 16, whatever Node 18 to 26 and Deno write. What is written: version 15, the bytes that
//! Node 22 and later would write, which all of Node 18 to 26 and Deno read, with two exceptions of the readers: a
//! resizable `ArrayBuffer` is unknown to Node 18, a `Float16Array` to Node before 24.
//!
//! Bun's `advanced` channel is something else: JavaScriptCore's format in packets of its own. It is refused with an
//! error that says so; use `json` with Bun.
//!
//! ```
//! use thead_wire::v8::{self, Document, Limits};
//!
//! let message = Document::from_json(&serde_json::json!({ "cmd": "greet", "times": 3 }));
//! let payload = v8::write(&message)?;
//! assert!(payload.starts_with(b"\xff\x0f"));
//!
//! let received = v8::read(&payload, &Limits::default())?;
//! assert_eq!(received, message);
//! assert_eq!(received.get("times").and_then(|times| times.as_i64()), Some(3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod de;
mod debug;
mod error;
mod input;
pub mod js;
mod json;
mod kind;
mod output;
mod parts;
mod place;
mod read;
mod ser;
mod text;
mod value;
mod walk;
mod write;

pub use build::{Builder, Item};
pub use de::{DecodeError, DecodeErrorKind, from_slice, from_slice_lossy, from_value};
pub use error::{ReadError, ReadErrorKind};
pub use json::JsonError;
pub use kind::{ErrorKind, ViewKind};
pub use parts::{Array, ErrorValue, Items, Key, Pairs, Properties, SparseArray};
pub use read::{is_javascript_core, read};
pub use ser::{EncodeError, EncodeErrorKind, to_buffer, to_document, to_vec};
pub use text::{BigInt, JsStr, RegExpFlags, RegExpFlagsError};
pub use value::{Document, Kind, Value};
pub use write::{WriteError, write, write_into};

/// How deep types may be nested that are written and read without a [`Document`]: they recurse, and without optimisation
/// a level of JSON's own `Value` was measured to take 4.6 kB of a thread's 2 MiB of stack. So more than half is left.
const TYPED_DEPTH: usize = 256;

/// What a document may cost.
///
/// Reading takes at most 100 bytes of memory for each byte of payload (an array of nothing but boxed booleans), for
/// ordinary messages some 10. Where that is too much, limit the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many objects may be nested in one another; by default 1 000. Node itself has no limit but its stack.
    pub depth: usize,
    /// How many values there may be, those inside of others and the keys of properties counted too; by default any
    /// number.
    pub values: usize,
}

impl Limits {
    /// The default limits, with another depth.
    pub fn with_depth(depth: usize) -> Limits {
        Limits {
            depth,
            ..Limits::default()
        }
    }

    /// The default limits, with another number of values.
    pub fn with_values(values: usize) -> Limits {
        Limits {
            values,
            ..Limits::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            depth: 1_000,
            values: usize::MAX,
        }
    }
}
