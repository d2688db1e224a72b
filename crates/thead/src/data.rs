//! Hot data: configuration and static data that a service pushes to its living workers, with a revision.
//!
//! A worker made with this library takes it by [`watch`]. What the function returns is the answer: `Ok` says that the
//! revision is in use, an error refuses it, and then everybody goes back to the revision before.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::{Arc, RwLock};
//!
//! #[derive(Default, serde::Deserialize)]
//! struct Flags {
//!     dark_mode: bool,
//! }
//!
//! let flags = Arc::new(RwLock::new(Flags::default()));
//! let mine = flags.clone();
//! thead::data::watch("flags", move |data| {
//!     *mine.write().map_err(|_| "poisoned")? = data.parse()?;
//!     Ok(())
//! })?;
//! let mut listener = thead::worker::listen("127.0.0.1:3000").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The other side is [`Service::push`](crate::service::Service::push).
//!
//! # Protocol
//! Messages like any others on the channel, in both serializations, so that a Node program needs nothing for it:
//!
//! - `{"cmd":"thead:data","name":"flags","revision":7,"value":…}`; large data has `"path"` and `"size"` in place of `value`:
//!   a sealed memory file that can be opened for reading. To a thead process its descriptor comes along, except with the
//!   first, which is sent before it is known what the worker is.
//! - `{"cmd":"thead:applied","name":"flags","revision":7}` answers it, or with `"error":"…"` refuses.

mod apply;
mod message;
pub(crate) mod push;

use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

pub use crate::sys::memory::{Map, Memory};
pub(crate) use apply::Watchers;
pub use apply::{BoxError, Data, Watch, watch};
pub use push::{Change, Event, Made, PushError, Pushed, Pushing, Status};
pub use thead_core::data::{Event as Piece, Standing, Tally};
pub use thead_core::id::Revision;

/// The longest value, in bytes of JSON: a message has up to 16 MiB, and a value shares it with its name.
pub const VALUE_LIMIT: usize = 15 << 20;
/// Pieces that one service may have.
pub const PIECES: usize = 64;

/// What is pushed. Clones share it.
#[derive(Clone, Debug)]
pub enum Content {
    /// Comes with the message.
    Value(Arc<RawValue>),
    /// Comes as a descriptor, or by a path, and is shared by all who use it.
    Memory(Arc<Memory>),
}

impl Content {
    /// Anything that JSON can say.
    ///
    /// # Errors
    /// JSON cannot say it.
    pub fn value(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        Ok(Self::Value(serde_json::value::to_raw_value(value)?.into()))
    }

    /// JSON text.
    ///
    /// # Errors
    /// It is not.
    pub fn json(text: String) -> serde_json::Result<Self> {
        Ok(Self::Value(RawValue::from_string(text)?.into()))
    }

    /// Large data: see [`Memory::copy`].
    ///
    /// # Errors
    /// As there.
    pub fn memory(name: &str, from: &mut impl io::Read, limit: u64) -> io::Result<Self> {
        Ok(Self::Memory(Memory::copy(name, from, limit)?.into()))
    }

    /// Its size: of the JSON text, or of the memory.
    pub fn len(&self) -> u64 {
        match self {
            Self::Value(value) => value.get().len() as u64,
            Self::Memory(memory) => memory.len(),
        }
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
