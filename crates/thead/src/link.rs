//! A channel between two programs of which neither forked the other.

use std::io;
use std::os::fd::OwnedFd;

use thead_wire::Serialization;
use thead_wire::endpoint;

use crate::channel::{Channel, PATIENCE, Port};
use crate::parent::{Parent, ParentEvent};

/// One end of a channel over any connected Unix stream socket; both ends are thead's library.
///
/// Whoever has it must read it or drop it. Dropping it ends the channel, once what was sent is written.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = std::os::unix::net::UnixStream::connect("/run/app/peer.sock")?;
/// let mut link = thead::Link::over(stream.into())?;
/// link.channel().post_message("hello").await?;
/// while let Some(event) = link.next().await {
///     println!("{event:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Link(Parent);

impl Link {
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be watched: it is no socket, or descriptors are out.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let config = endpoint::Config {
            serialization: Serialization::Json,
            ..endpoint::Config::default()
        };
        let (port, channel) = Port::new(socket, config, PATIENCE)?;
        channel.greet();
        Ok(Self(Parent::over(port, channel)))
    }

    /// The next thing that the other end did; `None` after [`ParentEvent::Disconnect`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<ParentEvent> {
        self.0.next().await
    }

    /// The sending half, for other tasks.
    pub fn channel(&self) -> &Channel {
        self.0.channel()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}
