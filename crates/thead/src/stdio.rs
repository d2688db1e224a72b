//! The streams between a parent and its child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::channel::Handle;
use crate::sys::spawn::FdSource;

/// What a descriptor of a child is.
#[derive(Clone, Debug, Default)]
pub enum Stdio {
    /// The parent's own of the same number. Node: `'inherit'`.
    #[default]
    Inherit,
    /// A pipe to the parent; from number 3 on a socket pair, which both ends read and write. Node: `'pipe'`, which is a
    /// socket pair for any number.
    Pipe,
    /// `/dev/null`. Node: `'ignore'`.
    Null,
    /// This file, which may be given to any number of children.
    Fd(Handle),
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(fd: T) -> Self {
        Self::Fd(fd.into().into())
    }
}

/// A stream that is made for one child: its end and ours.
#[derive(Debug)]
pub(crate) struct Ends {
    number: i32,
    stdio: Stdio,
    /// Close-on-exec and blocking, as programs expect.
    theirs: Option<OwnedFd>,
    /// Close-on-exec and non-blocking.
    ours: Option<OwnedFd>,
}

impl Ends {
    pub(crate) fn make(number: i32, stdio: &Stdio) -> io::Result<Self> {
        let pair = match stdio {
            Stdio::Pipe => Some(pair(number)?),
            _ => None,
        };
        let (ours, theirs) = pair.unzip();
        Ok(Self {
            number,
            stdio: stdio.clone(),
            theirs,
            ours,
        })
    }

    /// What is left to us, with the child's number.
    pub(crate) fn into_ours(self) -> Option<(i32, OwnedFd)> {
        Some((self.number, self.ours?))
    }

    /// What the child gets.
    pub(crate) fn source(&self) -> (i32, FdSource<'_>) {
        let source = match (&self.stdio, &self.theirs) {
            (Stdio::Inherit, _) => FdSource::Inherit,
            (Stdio::Fd(fd), _) => FdSource::Fd(fd.as_fd()),
            (_, Some(theirs)) => FdSource::Fd(theirs.as_fd()),
            (_, None) => FdSource::Null,
        };
        (self.number, source)
    }
}

/// Ours and theirs.
fn pair(number: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = if number > 2 {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?
    } else {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match number {
            0 => (writer, reader),
            _ => (reader, writer),
        }
    };
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Held by every stream that a child writes to, until its end: when all are gone, `Close` comes.
pub(crate) type Open = mpsc::Sender<()>;

/// The pipe to a child's standard input. Dropping it is the end of the file for the child.
#[derive(Debug)]
pub struct ChildStdin(pipe::Sender);

impl ChildStdin {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        pipe::Sender::from_owned_fd(fd).map(Self)
    }
}

impl AsyncWrite for ChildStdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The pipe from a child's standard output or standard error.
#[derive(Debug)]
pub struct ChildOutput {
    pipe: pipe::Receiver,
    open: Option<Open>,
}

impl ChildOutput {
    pub(crate) fn new(fd: OwnedFd, open: Open) -> io::Result<Self> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(fd)?,
            open: Some(open),
        })
    }
}

impl AsyncRead for ChildOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        read(Pin::new(&mut this.pipe), &mut this.open, cx, buf)
    }
}

/// A stream of a child with number 3 or more. Both ends read and write.
#[derive(Debug)]
pub struct ChildStream {
    socket: UnixStream,
    open: Option<Open>,
}

impl ChildStream {
    pub(crate) fn new(fd: OwnedFd, open: Open) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(fd.into())?,
            open: Some(open),
        })
    }
}

impl AsyncRead for ChildStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        read(Pin::new(&mut this.socket), &mut this.open, cx, buf)
    }
}

impl AsyncWrite for ChildStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Reads, and lets go of `open` at the end, so that `Close` need not wait for the reader to drop the stream.
fn read<S: AsyncRead>(
    stream: Pin<&mut S>,
    open: &mut Option<Open>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buf.filled().len();
    let result = std::task::ready!(stream.poll_read(cx, buf));
    let ended = buf.filled().len() == before && buf.remaining() > 0;
    if ended || result.is_err() {
        *open = None;
    }
    Poll::Ready(result)
}
