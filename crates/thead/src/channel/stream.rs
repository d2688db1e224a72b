//! A connection, TCP or Unix.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::handle::{Counted, Handle};

/// A connection, TCP or Unix: one that came over a channel ([`Handle::into_stream`]), or was accepted by a
/// [`Listener`](crate::worker::Listener).
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    pub(super) counted: Option<Arc<Counted>>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Takes a connected socket, which is made non-blocking.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let family = sockopt::socket_domain(&fd)?;
        let known = matches!(family, AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX);
        if !known || sockopt::socket_type(&fd)? != SocketType::STREAM || sockopt::socket_acceptconn(&fd)? {
            return Err(Errno::PROTOTYPE.into());
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(match family {
            AddressFamily::UNIX => UnixStream::from_std(fd.into())?.into(),
            _ => TcpStream::from_std(fd.into())?.into(),
        })
    }

    /// The address of a TCP peer; `None` for a Unix socket, whose clients have none.
    ///
    /// # Errors
    /// `ENOTCONN`: the peer has left.
    pub fn peer_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr().map(Some),
            Kind::Unix(_) => Ok(None),
        }
    }

    /// The TCP stream, for what only such have, as `set_nodelay`.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Tcp(stream) => Some(stream),
            Kind::Unix(_) => None,
        }
    }

    /// The Unix stream, for what only such have, as `peer_cred`.
    pub fn as_unix(&self) -> Option<&UnixStream> {
        match &self.kind {
            Kind::Unix(stream) => Some(stream),
            Kind::Tcp(_) => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self {
            kind: Kind::Tcp(stream),
            counted: None,
        }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self {
            kind: Kind::Unix(stream),
            counted: None,
        }
    }
}

/// To be sent on. A connection that another process counts is closed for that one when it is sent.
impl TryFrom<Stream> for Handle {
    type Error = io::Error;

    fn try_from(stream: Stream) -> io::Result<Self> {
        let mut handle = match stream.kind {
            Kind::Tcp(stream) => Self::from(stream.into_std()?),
            Kind::Unix(stream) => Self::from(stream.into_std()?),
        };
        handle.counted = stream.counted;
        Ok(handle)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($stream:expr, $method:ident, $($argument:expr),*) => {
        match &mut $stream.kind {
            Kind::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Kind::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown, cx)
    }
}
