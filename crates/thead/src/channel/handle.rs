//! Descriptors on their way between processes, and what becomes of those that have arrived.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::net::{AddressFamily, SocketType, sockopt};
use thead_wire::HandleKind;

use super::{Shared, SocketList, Stream};

/// A descriptor on its way between processes. Clones are the same descriptor; it closes with the last of them. So whoever
/// sends a clone keeps it open. Node: `keepOpen`.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) fd: Arc<OwnedFd>,
    /// A socket that the giver counts among the connections of its server.
    pub(super) counted: Option<Arc<Counted>>,
    /// Who counts it when it is given away.
    pub(super) list: Option<SocketList>,
}

/// Keeps one socket in the count that the giver asks for. Node: `lib/internal/socket_list.js`.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) channel: Weak<Shared>,
    pub(super) key: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.upgrade() {
            channel.endpoint().socket_closed(&self.key);
            channel.wake.notify_one();
        }
    }
}

impl Handle {
    /// The descriptor itself, duplicated only if somebody else still holds it (it may be in flight).
    ///
    /// A Node process that gave it counts it as closed from now on; [`into_stream`](Self::into_stream) knows better.
    ///
    /// # Errors
    /// No descriptor is left in this process.
    pub fn into_owned(self) -> io::Result<OwnedFd> {
        Arc::try_unwrap(self.fd).or_else(|shared| shared.try_clone())
    }

    /// A connected socket as a stream. Must be called within a Tokio runtime.
    ///
    /// If a `net.Server` of Node's accepted it, its `getConnections()` counts it, and its `close()` waits for it, until the
    /// stream is dropped.
    ///
    /// # Errors
    /// `ENOTSOCK`, `EPROTOTYPE`: it is none. No descriptor is left in this process.
    pub fn into_stream(self) -> io::Result<Stream> {
        let counted = self.counted.clone();
        let mut stream = Stream::from_fd(self.into_owned()?)?;
        stream.counted = counted;
        Ok(stream)
    }

    /// Sent as a [`HandleKind::Socket`], it is counted by the list as long as its receiver has it open.
    #[must_use]
    pub fn counted_by(mut self, list: &SocketList) -> Self {
        self.list = Some(list.clone());
        self
    }

    /// The descriptor alone, which nobody counts.
    pub(super) fn bare(&self) -> Self {
        Self::shared(self.fd.clone())
    }

    /// A descriptor that others use too.
    pub(crate) fn shared(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            counted: None,
            list: None,
        }
    }

    /// Whether it is a clone of the other.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fd, &other.fd)
    }

    /// Makes it fit to be sent as this, or says what it is: Node takes for granted that a socket is non-blocking, and is
    /// aborted by a descriptor that is none.
    pub(super) fn prepare(&self, kind: HandleKind) -> Result<(), &'static str> {
        let none = "a descriptor that is no socket";
        let family = sockopt::socket_domain(&self.fd).map_err(|_| none)?;
        let socket = sockopt::socket_type(&self.fd).map_err(|_| none)?;
        let listens = || sockopt::socket_acceptconn(&self.fd).unwrap_or_default();
        let datagram = matches!(kind, HandleKind::DgramSocket | HandleKind::DgramNative);
        match (family, socket) {
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) if datagram => {}
            (AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX, SocketType::STREAM) if !datagram => {}
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => return Err("a UDP socket"),
            (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => return Err("a TCP socket"),
            (AddressFamily::UNIX, SocketType::STREAM) => return Err("a Unix stream socket"),
            _ => return Err("a socket of a family or type that Node does not know"),
        }
        match kind {
            HandleKind::Socket if listens() => return Err("a listening socket"),
            HandleKind::Server if rustix::net::getpeername(&self.fd).is_ok() => return Err("a connected socket"),
            _ => {}
        }
        rustix::io::ioctl_fionbio(&self.fd, true).map_err(|_| none)
    }

    /// What Node has to be told to build a `dgram.Socket`.
    pub(super) fn dgram_type(&self) -> &'static str {
        match sockopt::socket_domain(&self.fd) {
            Ok(AddressFamily::INET6) => "udp6",
            _ => "udp4",
        }
    }
}

impl<T: Into<OwnedFd>> From<T> for Handle {
    fn from(fd: T) -> Self {
        Self::shared(Arc::new(fd.into()))
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
