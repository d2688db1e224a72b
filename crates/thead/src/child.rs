//! A child process and its events.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use thead_wire::message::BadMessage;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::channel::{Channel, Fault, Handle, Message, ReceivedHandle, SendError};
use crate::sys::pidfd::{self, ExitStatus};
use crate::watch::{Report, Reported};

/// Something that happened to a child, in the order in which Node would emit it:
/// messages, then `Disconnect`, then `Exit`, then `Close`.
///
/// `Disconnect` before `Exit` is the usual order, not a promise: a grandchild that holds the channel delays it.
/// Differs from Node: `Close` always comes last, also when the parent disconnected (Node then never emits it).
#[derive(Debug)]
#[non_exhaustive]
pub enum ChildEvent {
    /// A message, and the handle that came with it.
    Message {
        /// The message.
        message: Message,
        /// Its handle.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// It sent something that is no message. The next one is read. (Differs from Node, which dies of it.)
    BadMessage(BadMessage),
    /// A handle that was sent and that the child never got.
    HandleLost(Handle),
    /// The channel has ended.
    Disconnect {
        /// What the child did, if it was ended for that.
        fault: Option<Fault>,
        /// Bytes of messages that were never written.
        unsent: usize,
    },
    /// The process has ended. Its output may still be read.
    Exit(ExitStatus),
    /// The process has ended, and its channel and output streams too. Nothing follows.
    Close(ExitStatus),
}

/// A running child process, made by [`Command::spawn`](crate::Command::spawn).
///
/// Dropping it ends its channel and leaves the process running; its exit is still collected, so no zombie is left.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    channel: Option<Channel>,
    reports: mpsc::UnboundedReceiver<Reported<()>>,
    /// Ends when every output stream has ended or was dropped.
    streams: Option<mpsc::Receiver<()>>,
    exit: Option<ExitStatus>,
    /// What the child reads as its standard input, if it is a pipe.
    pub stdin: Option<ChildStdin>,
    /// What the child writes to its standard output, if it is a pipe. One that is still here when the child has exited
    /// is dropped, unread.
    pub stdout: Option<ChildOutput>,
    /// As `stdout`, for standard error.
    pub stderr: Option<ChildOutput>,
}

/// The pieces of a child that was just spawned.
pub(crate) struct Born {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) channel: Option<Channel>,
    pub(crate) reports: mpsc::UnboundedReceiver<Reported<()>>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Child {
    pub(crate) fn new(born: Born) -> io::Result<Self> {
        let Born {
            pid,
            pidfd,
            channel,
            reports,
            stdin,
            stdout,
            stderr,
        } = born;
        let (open, streams) = mpsc::channel(1);
        let output = |fd: Option<OwnedFd>| fd.map(|fd| ChildOutput::new(fd, open.clone())).transpose();
        let (stdout, stderr) = (output(stdout)?, output(stderr)?);
        let stdin = stdin
            .map(|fd| pipe::Sender::from_owned_fd(fd).map(ChildStdin))
            .transpose()?;
        Ok(Self {
            pid,
            pidfd,
            channel,
            reports,
            streams: Some(streams),
            exit: None,
            stdin,
            stdout,
            stderr,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// The channel, if the child was given one.
    pub fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    /// The next event; `None` after [`ChildEvent::Close`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<ChildEvent> {
        loop {
            // The exit is reported once; the reports end when the channel has ended too.
            let Some(Reported { report, .. }) = self.reports.recv().await else {
                if let Some(streams) = &mut self.streams {
                    streams.recv().await;
                    self.streams = None;
                    return self.exit.map(ChildEvent::Close);
                }
                return None;
            };
            return Some(match report {
                Report::Message(message, handle) => ChildEvent::Message { message, handle },
                // The runtime's own business; a plain parent knows none of it, and Node ignores what it does not know.
                Report::Internal(..) => continue,
                Report::Bad(bad) => ChildEvent::BadMessage(bad),
                Report::Lost(handle) => ChildEvent::HandleLost(handle),
                Report::Disconnected { fault, unsent } => ChildEvent::Disconnect { fault, unsent },
                Report::Exited(status) => {
                    self.exit = Some(status);
                    (self.stdin, self.stdout, self.stderr) = (None, None, None);
                    ChildEvent::Exit(status)
                }
            });
        }
    }

    /// Reads events until the process has ended, dropping all others. Can be asked again.
    ///
    /// # Cancel safety
    /// Loses the events it has read.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.exit {
                return status;
            }
            if self.next().await.is_none() {
                return self.exit.unwrap_or(ExitStatus::Code(0));
            }
        }
    }

    /// Sends a message; waits while too much waits before it.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Closed`] also if the child has no channel.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing.
    pub async fn post_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        match &self.channel {
            Some(channel) => channel.post_message(message).await,
            None => Err(SendError::Closed),
        }
    }

    /// Ends the channel once all that was sent is written. The child sees `'disconnect'`.
    pub fn disconnect(&self) {
        if let Some(channel) = &self.channel {
            channel.disconnect();
        }
    }

    /// Sends a signal by its number. A process that has been collected is never hit by mistake.
    ///
    /// # Errors
    /// `ESRCH` if it has ended, `EINVAL` if there is no such signal, `EPERM`.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        pidfd::send_signal(&*self.pidfd, signal)
    }
}

/// The pipe to a child's standard input. Dropping it is the end of the file for the child.
#[derive(Debug)]
pub struct ChildStdin(pipe::Sender);

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
    /// Dropped at the end of the file, so that `Close` need not wait for the reader to drop the stream.
    open: Option<mpsc::Sender<()>>,
}

impl ChildOutput {
    fn new(fd: OwnedFd, open: mpsc::Sender<()>) -> io::Result<Self> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(fd)?,
            open: Some(open),
        })
    }
}

impl AsyncRead for ChildOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = std::task::ready!(Pin::new(&mut self.pipe).poll_read(cx, buf));
        if buf.filled().len() == before && buf.remaining() > 0 {
            self.open = None;
        }
        Poll::Ready(read)
    }
}
