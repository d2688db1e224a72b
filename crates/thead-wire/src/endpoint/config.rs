//! What an end is told about itself and its peer.

use crate::frame::{DEFAULT_FRAME_LIMIT, Serialization};

/// What is known of the peer's way with handles. Guessing wrong in the careful direction costs speed, never a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Unknown: one handle in flight, and nothing after it until it is acknowledged, as Node itself does; and as with Deno
    /// it must not share a read with an earlier message.
    #[default]
    Careful,
    /// Node 18 to 26: these take many handles, and messages between them, without waiting.
    Pipelined,
    /// A thead process: as Node, and several descriptors of any kind with one message.
    Thead,
    /// Deno: careful.
    Deno,
    /// Bun: as Node itself does, and the messages of its cluster begin with a mark.
    Bun,
}

impl Dialect {
    /// Whether a handle waits until the peer has read all that was written before it.
    pub(super) const fn is_alone(self) -> bool {
        matches!(self, Self::Careful | Self::Deno)
    }

    /// How many handles may be unacknowledged.
    pub(super) const fn window(self) -> usize {
        match self {
            Self::Pipelined | Self::Thead => 64,
            Self::Careful | Self::Deno | Self::Bun => 1,
        }
    }
}

/// What an end of a channel is told about itself.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How messages are written, both ways.
    pub serialization: Serialization,
    /// Who is at the other end. A mark of Bun's switches to [`Dialect::Bun`] by itself, the first word of a thead child
    /// to [`Dialect::Thead`].
    pub dialect: Dialect,
    /// The largest frame accepted, in bytes. Default 16 MiB. A larger one ends the channel.
    pub frame_limit: usize,
    /// The most that may wait to be written, in bytes. Default 64 MiB. A message that does not fit is refused, unless
    /// nothing waits.
    pub queue_limit: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serialization: Serialization::default(),
            dialect: Dialect::default(),
            frame_limit: DEFAULT_FRAME_LIMIT,
            queue_limit: 64 << 20,
        }
    }
}
