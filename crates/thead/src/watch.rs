//! The task of one child: owns its channel and its pidfd, and reports what happens, in Node's order.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use thead_wire::endpoint::{Event, ReceivedHandle};
use thead_wire::message::BadMessage;
use tokio::io::Interest;
use tokio::sync::mpsc;

use crate::channel::{Channel, Fault, Handle, Message, Port};
use crate::sys;
use crate::sys::pidfd::{self, ExitStatus};

/// Something that happened to a child.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its user sent this.
    Message(Message, Option<ReceivedHandle<Handle>>),
    /// Its runtime sent this: JSON text with a `cmd` that begins with `NODE_`.
    Internal(Bytes, Option<ReceivedHandle<Handle>>),
    /// It sent something that means nothing.
    Bad(BadMessage),
    /// A handle that it never got.
    Lost(Handle),
    /// The channel has ended. Nothing but the exit follows.
    Disconnected {
        /// What the child did, if this side ended it.
        fault: Option<Fault>,
        /// Bytes that were never written.
        unsent: usize,
    },
    /// The process has ended and is collected.
    Exited(ExitStatus),
}

/// Reports that may wait for the owner. When they are full the channel is not read any more, and the child's `send`
/// returns false after some more.
pub(crate) const REPORTS: usize = 1024;

/// Watches a child until its channel has ended and its process is collected. Reports are marked with `tag`.
///
/// An owner that went away ends the channel; the process is collected all the same, so no zombie is left.
pub(crate) async fn watch<T: Copy>(tag: T, port: Option<Port>, pidfd: Arc<OwnedFd>, sink: mpsc::Sender<(T, Report)>) {
    let channel = port.as_ref().map(Port::channel);
    let mut watch = Watch {
        tag,
        port,
        sink,
        channel,
    };
    let mut exit = std::pin::pin!(exit_of(pidfd));
    let mut exited = false;
    loop {
        watch.report_all().await;
        tokio::select! {
            biased;
            () = turn(&mut watch.port, true), if watch.port.is_some() => {}
            status = &mut exit, if !exited => {
                // What it wrote before it died is still there, and comes before its exit.
                if let Some(port) = &mut watch.port {
                    port.drain();
                }
                watch.report_all().await;
                watch.report(Report::Exited(status)).await;
                exited = true;
            }
        }
        if exited && (watch.port.is_none() || watch.sink.is_closed()) {
            return;
        }
    }
}

struct Watch<T> {
    tag: T,
    port: Option<Port>,
    sink: mpsc::Sender<(T, Report)>,
    channel: Option<Channel>,
}

impl<T: Copy> Watch<T> {
    /// Reports all that the channel has to tell; afterwards it is gone if it has ended.
    async fn report_all(&mut self) {
        while let Some(port) = &mut self.port {
            let report = match port.poll_event() {
                Some(Event::Message(body, handle)) => Report::Message(Message::new(body, port.serialization()), handle),
                Some(Event::Internal(body, handle)) => Report::Internal(body, handle),
                Some(Event::Bad(bad)) => Report::Bad(bad),
                Some(Event::Lost(_, handle)) => Report::Lost(handle),
                Some(Event::Closed { unsent }) => Report::Disconnected {
                    fault: port.take_fault(),
                    unsent,
                },
                // Ours may be closed now: whoever needs it longer holds a clone.
                Some(_) => continue,
                None if port.is_closed() => {
                    self.port = None;
                    return;
                }
                None => return,
            };
            self.report(report).await;
        }
    }

    /// Hands one report over. While the owner has no room the channel is written but not read.
    async fn report(&mut self, report: Report) {
        if let Ok(permit) = self.sink.try_reserve() {
            return permit.send((self.tag, report));
        }
        let permit = loop {
            tokio::select! {
                permit = self.sink.reserve() => break permit,
                () = turn(&mut self.port, false) => {}
            }
        };
        match (permit, &self.channel) {
            (Ok(permit), _) => permit.send((self.tag, report)),
            (Err(_), Some(channel)) => channel.disconnect(),
            (Err(_), None) => {}
        }
    }
}

async fn turn(port: &mut Option<Port>, may_read: bool) {
    match port {
        Some(port) => port.turn(may_read).await,
        None => std::future::pending().await,
    }
}

/// Waits for a child's end and collects it.
pub(crate) async fn exit_of(pidfd: Arc<OwnedFd>) -> ExitStatus {
    match wait_readable(pidfd).await {
        Ok(status) => status,
        // Somebody else in this process collected it, or ignores SIGCHLD: it has ended, nobody knows how.
        Err(error) => {
            tracing::warn!(%error, "a child's exit status was lost");
            ExitStatus::Code(0)
        }
    }
}

async fn wait_readable(pidfd: Arc<OwnedFd>) -> io::Result<ExitStatus> {
    let readiness = sys::reactor::register(pidfd, Interest::READABLE)?;
    loop {
        let mut guard = readiness.readable().await?;
        if let Some(status) = pidfd::try_wait(guard.get_inner())? {
            return Ok(status);
        }
        guard.clear_ready();
    }
}
