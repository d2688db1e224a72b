//! Descriptors on their way between processes, and what becomes of those that have arrived.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketType, sockopt};
use thead_wire::HandleKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Shared;

/// A descriptor on its way between processes. Clones are the same descriptor; it closes with the last of them. So whoever
/// sends a clone keeps it open. Node: `keepOpen`.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) fd: Arc<OwnedFd>,
    /// A socket that the giver counts among the connections of its server.
    pub(super) counted: Option<Arc<Counted>>,
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
        let family = stream_family(&self.fd)?;
        rustix::io::ioctl_fionbio(&self.fd, true)?;
        let fd = self.into_owned()?;
        let kind = match family {
            AddressFamily::UNIX => StreamKind::Unix(UnixStream::from_std(fd.into())?),
            _ => StreamKind::Tcp(TcpStream::from_std(fd.into())?),
        };
        Ok(Stream {
            kind,
            _counted: counted,
        })
    }

    /// A descriptor that others use too.
    pub(crate) fn shared(fd: Arc<OwnedFd>) -> Self {
        Self { fd, counted: None }
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

fn stream_family(fd: &OwnedFd) -> io::Result<AddressFamily> {
    let family = sockopt::socket_domain(fd)?;
    let known = matches!(family, AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX);
    if known && sockopt::socket_type(fd)? == SocketType::STREAM && !sockopt::socket_acceptconn(fd)? {
        Ok(family)
    } else {
        Err(rustix::io::Errno::PROTOTYPE.into())
    }
}

impl<T: Into<OwnedFd>> From<T> for Handle {
    fn from(fd: T) -> Self {
        Self {
            fd: Arc::new(fd.into()),
            counted: None,
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A connection that came over a channel, made by [`Handle::into_stream`].
#[derive(Debug)]
pub struct Stream {
    kind: StreamKind,
    _counted: Option<Arc<Counted>>,
}

#[derive(Debug)]
enum StreamKind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            StreamKind::Tcp(stream) => stream.as_fd(),
            StreamKind::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            StreamKind::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            StreamKind::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            StreamKind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
