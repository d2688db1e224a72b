//! The task of one child: owns its channel and its pidfd, and reports what happens, in Node's order.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thead_wire::endpoint::{Event, ReceivedHandle};
use thead_wire::message::BadMessage;
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::abort::AbortSignal;
use crate::channel::{Fault, Handle, Message, Port, until};
use crate::sys;
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::reap::Spawned;

/// Something that happened to a child.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its user sent this.
    Message(Message, Option<ReceivedHandle<Handle>>),
    /// Its user sent this, with descriptors of any kind: it is a thead process.
    Descriptors(Message, Vec<Handle>),
    /// Its runtime sent this: JSON text with a `cmd` that begins with `NODE_`.
    Internal(Bytes, Option<ReceivedHandle<Handle>>),
    /// It sent something that means nothing.
    Bad(BadMessage),
    /// A handle that it never got.
    Lost(Handle),
    /// It was sent its kill signal, for it was aborted.
    Aborted,
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

impl Report {
    /// What it takes of [`ROOM`]; nothing if the child cannot cause more of its kind than it was given cause for.
    fn cost(&self) -> u32 {
        let bytes = match self {
            Self::Message(message, _) | Self::Descriptors(message, _) => message.raw().len(),
            Self::Internal(body, _) => body.len(),
            Self::Bad(_) => 0,
            Self::Lost(_) | Self::Aborted | Self::Disconnected { .. } | Self::Exited(_) => return 0,
        };
        cost_of(bytes)
    }
}

/// A report on its way to its owner. Its room is given back when it is dropped or taken apart.
#[derive(Debug)]
pub(crate) struct Reported<T> {
    /// Whom it is about.
    pub(crate) tag: T,
    pub(crate) report: Report,
    _room: Option<OwnedSemaphorePermit>,
}

/// What the messages of one child may take up, in bytes, while its owner has not taken them; one larger message may be
/// there alone. When that is full its channel is not read any more, and its `send` returns false after some more. Each
/// child has its own, so one that floods its owner does not get in the way of others.
pub(crate) const ROOM: u32 = 256 << 10;
/// What each report takes up besides its message, in bytes. So 64 small ones may wait, and others' wait behind so many.
const REPORT: usize = 4 << 10;

/// What a message of so many bytes takes of [`ROOM`].
pub(crate) fn cost_of(bytes: usize) -> u32 {
    u32::try_from(REPORT + bytes).map_or(ROOM, |cost| cost.min(ROOM))
}

/// What is done for a child besides watching it.
pub(crate) struct Care {
    pub(crate) pid: u32,
    /// When it gets the signal.
    pub(crate) deadline: Option<Instant>,
    /// What gives it the signal too.
    pub(crate) abort: Option<AbortSignal>,
    pub(crate) signal: i32,
    /// It may not outlive its owner.
    pub(crate) kill_on_drop: bool,
    /// Told how it ended, whoever hears the reports.
    pub(crate) exit: Option<watch::Sender<Option<ExitStatus>>>,
}

/// Watches a child until its channel has ended and its process is collected. Reports are marked with `tag`.
///
/// An owner that went away ends the channel. The process is collected the moment it ends, whatever the owner does, so no
/// zombie is left.
pub(crate) fn watch<T: Copy>(
    tag: T,
    port: Option<Port>,
    pidfd: Arc<OwnedFd>,
    sink: mpsc::UnboundedSender<Reported<T>>,
    care: Care,
) -> impl Future<Output = ()> {
    // Here and not in the future: one that is dropped unpolled leaves a process too.
    let spawned = Spawned::new(care.pid);
    let exit = exit_of(pidfd.clone());
    let exit = async move {
        let _spawned = spawned;
        exit.await
    };
    let watch = Watch {
        tag,
        port,
        process: Process::Runs(Box::pin(exit)),
        pidfd,
        sink,
        room: Arc::new(Semaphore::new(ROOM as usize)),
        care,
    };
    watch.run()
}

struct Watch<T> {
    tag: T,
    port: Option<Port>,
    process: Process,
    pidfd: Arc<OwnedFd>,
    sink: mpsc::UnboundedSender<Reported<T>>,
    room: Arc<Semaphore>,
    care: Care,
}

/// The process of a child.
enum Process {
    Runs(Pin<Box<dyn Future<Output = ExitStatus> + Send>>),
    Ended(ExitStatus),
    /// Ended, and its owner was told so.
    Told,
}

impl Process {
    /// Waits until it has ended and is collected; for ever if that has been.
    ///
    /// # Cancel safety
    /// Loses nothing.
    async fn end(&mut self) {
        match self {
            Self::Runs(exit) => *self = Self::Ended(exit.await),
            Self::Ended(_) | Self::Told => std::future::pending().await,
        }
    }
}

impl<T: Copy> Watch<T> {
    async fn run(mut self) {
        let mut owned = true;
        let owner = self.sink.clone();
        loop {
            self.report_all().await;
            if let Process::Ended(status) = self.process {
                // What it wrote before it died is still there, and comes before its exit.
                if let Some(port) = &mut self.port {
                    port.drain();
                }
                self.report_all().await;
                if let Some(exit) = self.care.exit.take() {
                    exit.send_replace(Some(status));
                }
                self.report(Report::Exited(status)).await;
                self.process = Process::Told;
            }
            if matches!(self.process, Process::Told) && (self.port.is_none() || !owned) {
                return;
            }
            tokio::select! {
                biased;
                () = owner.closed(), if owned => {
                    owned = false;
                    if let Some(port) = &self.port {
                        port.channel().disconnect();
                    }
                }
                () = self.step(true) => {}
            }
        }
    }

    /// Reports all that the channel has to tell; afterwards it is gone if it has ended.
    async fn report_all(&mut self) {
        while let Some(port) = &self.port {
            let report = match port.poll_event() {
                Some(Event::Message(body, handle)) => Report::Message(Message::new(body, port.serialization()), handle),
                Some(Event::Descriptors(body, descriptors)) => {
                    Report::Descriptors(Message::new(body, port.serialization()), descriptors)
                }
                Some(Event::DescriptorsLost(_, descriptors)) => {
                    for descriptor in descriptors {
                        self.report(Report::Lost(descriptor)).await;
                    }
                    continue;
                }
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
        let room = match report.cost() {
            0 => None,
            cost => {
                let mut room = pin!(self.room.clone().acquire_many_owned(cost));
                loop {
                    tokio::select! {
                        room = &mut room => break room.ok(),
                        () = self.step(false) => {}
                    }
                }
            }
        };
        self.hand_over(report, room);
    }

    fn hand_over(&self, report: Report, room: Option<OwnedSemaphorePermit>) {
        // An owner that is gone wants to know nothing.
        let _ = self.sink.send(Reported {
            tag: self.tag,
            report,
            _room: room,
        });
    }

    /// Waits until there is something to do for the child, and does it.
    ///
    /// # Cancel safety
    /// Loses nothing.
    async fn step(&mut self, may_read: bool) {
        let runs = matches!(self.process, Process::Runs(_));
        // The clock first: a child that writes without end must not stop it. Its exit last: what it wrote comes before.
        tokio::select! {
            biased;
            () = until(self.care.deadline), if runs => {
                self.care.deadline = None;
                // It may just have ended.
                let _ = pidfd::send_signal(&*self.pidfd, self.care.signal);
            }
            () = aborted(&mut self.care.abort), if runs => {
                self.care.abort = None;
                if pidfd::send_signal(&*self.pidfd, self.care.signal).is_ok() {
                    self.hand_over(Report::Aborted, None);
                }
            }
            () = turn(&mut self.port, may_read) => {}
            () = self.process.end() => {}
        }
    }
}

/// The runtime ends while the process runs.
impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        if !matches!(self.process, Process::Runs(_)) {
            return;
        }
        if self.care.kill_on_drop {
            let _ = pidfd::send_signal(&*self.pidfd, libc::SIGKILL);
            let late = std::time::Instant::now() + DEATH;
            while matches!(pidfd::try_wait(&*self.pidfd), Ok(None)) {
                if std::time::Instant::now() > late {
                    return leave(self.pidfd.clone());
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        } else {
            leave(self.pidfd.clone());
        }
    }
}

/// How long a process may take to die of SIGKILL before it is left to itself.
const DEATH: Duration = Duration::from_secs(1);

/// Processes whose watchers went with their runtime.
static LEFT: Mutex<Vec<Arc<OwnedFd>>> = Mutex::new(Vec::new());

fn leave(pidfd: Arc<OwnedFd>) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(pidfd);
}

/// Collects processes that nobody watches any more. Called now and then, so that no more than a few zombies gather.
pub(crate) fn collect_left() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|pidfd| matches!(pidfd::try_wait(&**pidfd), Ok(None)));
}

/// Waits until it is told how a process ended; for ever if that cannot be any more, for its runtime has ended.
pub(crate) async fn told(mut exited: watch::Receiver<Option<ExitStatus>>) -> ExitStatus {
    match exited.wait_for(Option::is_some).await.ok().and_then(|status| *status) {
        Some(status) => status,
        None => std::future::pending().await,
    }
}

async fn aborted(signal: &mut Option<AbortSignal>) {
    match signal {
        Some(signal) => signal.aborted().await,
        None => std::future::pending().await,
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

/// When a child is looked at again that the reactor has no room to watch.
const LOOK: Duration = Duration::from_millis(50);

async fn wait_readable(pidfd: Arc<OwnedFd>) -> io::Result<ExitStatus> {
    let readiness = loop {
        match sys::reactor::register(pidfd.clone(), Interest::READABLE) {
            Ok(readiness) => break readiness,
            Err(error) => {
                tracing::warn!(%error, "a child is not watched, but looked at now and then");
                if let Some(status) = pidfd::try_wait(&*pidfd)? {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    loop {
        let mut guard = readiness.readable().await?;
        if let Some(status) = pidfd::try_wait(guard.get_inner())? {
            return Ok(status);
        }
        guard.clear_ready();
    }
}
