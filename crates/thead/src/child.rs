//! A child process and its events.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use thead_wire::message::BadMessage;
use tokio::sync::{mpsc, watch};

use crate::channel::{Channel, Fault, Handle, Message, ReceivedHandle, SendError};
use crate::stdio::{ChildOutput, ChildStdin, ChildStream};
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::tree::Tree;
use crate::watch::{Report, Reported, told};

/// Something that happened to a child, in the order in which Node would emit it:
/// `Spawn`, then messages, then `Disconnect`, then `Exit`, then `Close`.
///
/// Node's `'error'` is an error of the call that failed: of [`spawn`](crate::Command::spawn) (Node then emits `'error'` and
/// `'close'`), of [`kill`](Child::kill), of [`send`](Channel::send). What has no call is [`Error`](Self::Error).
///
/// `Disconnect` before `Exit` is the usual order, not a promise: a grandchild that holds the channel delays it.
/// Differs from Node: `Close` always comes last, also when the parent disconnected (Node then never emits it).
#[derive(Debug)]
#[non_exhaustive]
pub enum ChildEvent {
    /// It runs.
    Spawn,
    /// Something went wrong that no call can tell of.
    Error(ChildError),
    /// A message, and the handle that came with it.
    Message {
        /// The message.
        message: Message,
        /// Its handle.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// A message with descriptors of any kind, of a child that is a thead process.
    Descriptors {
        /// The message.
        message: Message,
        /// At least one, at most [`MAX_DESCRIPTORS`](crate::channel::MAX_DESCRIPTORS).
        descriptors: Vec<Handle>,
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

/// What a child suffered outside of any call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// It was sent its kill signal, because its [`AbortSignal`](crate::AbortSignal) was aborted. Node: `AbortError`.
    #[error("the operation was aborted")]
    Aborted,
}

impl ChildError {
    /// The error as Node names it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Aborted => "ABORT_ERR",
        }
    }
}

/// A running child process, made by [`Command::spawn`](crate::Command::spawn).
///
/// Dropping it ends its channel and leaves the process running, unless it was started with
/// [`kill_on_drop`](crate::Command::kill_on_drop); its exit is still collected, so no zombie is left.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    tree: Tree,
    channel: Option<Channel>,
    reports: mpsc::UnboundedReceiver<Reported<()>>,
    exited: watch::Receiver<Option<ExitStatus>>,
    /// Ends when every output stream has ended or was dropped.
    open: Option<mpsc::Receiver<()>>,
    spawned: bool,
    killed: AtomicBool,
    kill_on_drop: bool,
    /// What the child reads as its standard input, if it is a pipe.
    pub stdin: Option<ChildStdin>,
    /// What the child writes to its standard output, if it is a pipe. One that is still here when the child has exited
    /// is dropped, unread.
    pub stdout: Option<ChildOutput>,
    /// As `stdout`, for standard error.
    pub stderr: Option<ChildOutput>,
    /// Our ends of its pipes from number 3 on. As `stdout`, dropped with the exit.
    pub streams: BTreeMap<i32, ChildStream>,
}

/// The pieces of a child that was just spawned.
pub(crate) struct Born {
    pub(crate) pid: u32,
    pub(crate) tree: Tree,
    pub(crate) channel: Option<Channel>,
    pub(crate) reports: mpsc::UnboundedReceiver<Reported<()>>,
    pub(crate) exited: watch::Receiver<Option<ExitStatus>>,
    pub(crate) streams: Vec<(i32, OwnedFd)>,
    pub(crate) kill_on_drop: bool,
}

impl Child {
    pub(crate) fn new(born: Born) -> io::Result<Self> {
        let (token, open) = mpsc::channel(1);
        let mut child = Self {
            pid: born.pid,
            tree: born.tree,
            channel: born.channel,
            reports: born.reports,
            exited: born.exited,
            open: Some(open),
            spawned: false,
            killed: AtomicBool::new(false),
            kill_on_drop: born.kill_on_drop,
            stdin: None,
            stdout: None,
            stderr: None,
            streams: BTreeMap::new(),
        };
        for (number, fd) in born.streams {
            match number {
                0 => child.stdin = Some(ChildStdin::new(fd)?),
                1 => child.stdout = Some(ChildOutput::new(fd, token.clone())?),
                2 => child.stderr = Some(ChildOutput::new(fd, token.clone())?),
                _ => drop(child.streams.insert(number, ChildStream::new(fd, token.clone())?)),
            }
        }
        Ok(child)
    }

    pub(crate) fn exit_watch(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exited.clone()
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
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
        if !self.spawned {
            self.spawned = true;
            return Some(ChildEvent::Spawn);
        }
        loop {
            // The exit is reported once; the reports end when the channel has ended too.
            let Some(Reported { report, .. }) = self.reports.recv().await else {
                if let Some(open) = &mut self.open {
                    open.recv().await;
                    self.open = None;
                    return self.exit_status().map(ChildEvent::Close);
                }
                return None;
            };
            return Some(match report {
                Report::Message(message, handle) => ChildEvent::Message { message, handle },
                Report::Descriptors(message, descriptors) => ChildEvent::Descriptors { message, descriptors },
                // The runtime's own business; a plain parent knows none of it, and Node ignores what it does not know.
                Report::Internal(..) => continue,
                Report::Bad(bad) => ChildEvent::BadMessage(bad),
                Report::Lost(handle) => ChildEvent::HandleLost(handle),
                Report::Aborted => {
                    self.killed.store(true, Ordering::Relaxed);
                    ChildEvent::Error(ChildError::Aborted)
                }
                Report::Disconnected { fault, unsent } => ChildEvent::Disconnect { fault, unsent },
                Report::Exited(status) => {
                    (self.stdin, self.stdout, self.stderr) = (None, None, None);
                    self.streams.clear();
                    ChildEvent::Exit(status)
                }
            });
        }
    }

    /// Waits until the process has ended and is collected. Can be asked any number of times, and from elsewhere: what this
    /// returns does not borrow the child. Events stay to be read; but a child with a channel may wait for you to read them.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub fn wait(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        told(self.exited.clone())
    }

    /// How it ended, if it has. Node: `exitCode` and `signalCode`.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exited.borrow()
    }

    /// Whether it was sent a signal from here, by [`kill`](Self::kill) or on abort; no matter what it made of it. Node:
    /// `killed`.
    pub fn killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
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
        pidfd::send_signal(self.tree.pidfd(), signal)?;
        self.killed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Kills the child and all that it has started, with SIGKILL: its descendants, and its own process group, session and
    /// control group if it was given some. A descendant that has left them, and whose parent has ended, has escaped.
    ///
    /// Once the child has ended only its control group can be killed; nothing else says who belonged to it.
    pub fn kill_tree(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.tree.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop && self.exit_status().is_none() {
            self.tree.kill();
        }
    }
}
