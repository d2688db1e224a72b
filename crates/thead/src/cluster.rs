//! A cluster: several processes that serve the same ports, as under Node's `cluster`, without its defects.
//!
//! [`Primary`] forks workers, unmodified Node programs among them, owns their listening sockets and hands them
//! connections. What it decides is decided in [`thead_core::cluster`]; here are the sockets and processes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thead_core::cluster::{Action, Event, Handle as Carried, Input, LeaveBy};
use thead_core::id::{ConnId, WorkerId};
use thead_core::worker::Slot;
use thead_wire::HandleKind;
use thead_wire::cluster::{AddressType, CLUSTER, ClusterMessageError, Envelope, FromWorker, Query, ToWorker};
use thead_wire::endpoint::ReceivedHandle;
use thead_wire::message::BadMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{Channel, Fault, Handle, Message, SendError, until};
use crate::command::{Command, Launched, SpawnError};
use crate::sys;
use crate::sys::pidfd::{self, ExitStatus};
use crate::sys::reclaim::SocketId;
use crate::watch::{Report, Reported, watch};

mod lane;
mod listener;
mod preload;
mod private;
mod reclaim;

pub use private::{PrivateConnection, PrivateError};
pub use thead_core::cluster::{Config, ListenAddress, Scheduling};

use listener::Listeners;

/// Something that happened in a cluster. For each worker in the order in which Node would emit it.
#[derive(Debug)]
#[non_exhaustive]
pub enum PrimaryEvent {
    /// A Node worker's runtime is up; its program has not begun.
    Online {
        /// Who.
        worker: WorkerId,
    },
    /// A worker listens on something.
    Listening {
        /// Who.
        worker: WorkerId,
        /// On what, as Node's event has it.
        address: ListenAddress,
    },
    /// A worker's `listen()` failed.
    ListenFailed {
        /// Who.
        worker: WorkerId,
        /// What it asked for.
        address: ListenAddress,
        /// Why: the negative errno that it was told.
        errno: i32,
    },
    /// A worker's preload says that its event loop turns; see [`Primary::beat`].
    Beat {
        /// Who.
        worker: WorkerId,
    },
    /// A worker's program sent a message.
    Message {
        /// Who.
        worker: WorkerId,
        /// What.
        message: Message,
        /// The handle that came with it.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// A worker's program sent a message with descriptors of any kind: it is a thead process.
    Descriptors {
        /// Who.
        worker: WorkerId,
        /// What.
        message: Message,
        /// At least one, at most [`MAX_DESCRIPTORS`](crate::channel::MAX_DESCRIPTORS).
        descriptors: Vec<Handle>,
    },
    /// A worker sent something that is no message, or means nothing. Nothing else happened.
    BadMessage {
        /// Who.
        worker: WorkerId,
        /// What is wrong with it.
        error: BadMessage,
    },
    /// A worker's channel has ended.
    Disconnect {
        /// Who.
        worker: WorkerId,
        /// What the worker did, if the channel was ended for that.
        fault: Option<Fault>,
    },
    /// A worker's process has ended and is collected.
    Exit {
        /// Who.
        worker: WorkerId,
        /// How.
        status: ExitStatus,
    },
}

/// A worker that was just forked.
#[derive(Debug)]
pub struct Forked {
    /// Its process.
    pub pid: u32,
    /// The reading end of its standard output, if that is a pipe. Non-blocking.
    pub stdout: Option<OwnedFd>,
    /// As `stdout`, for standard error.
    pub stderr: Option<OwnedFd>,
}

#[derive(Debug)]
struct Worker {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    /// `None` for a program that was given no channel, and once it has ended.
    channel: Option<Channel>,
    /// The worker's end of it.
    end: Option<(i32, SocketId)>,
    /// It can be handed connections.
    takes_connections: bool,
    exited: bool,
    /// For when it is told to hand back.
    lame_duck: Duration,
    /// How many connections it was given and may give back; none before it is asked to.
    given: u64,
    gives_back: bool,
}

/// The primary of a cluster. It works only while [`next`](Self::next) is awaited.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::cluster::{Config, Primary, PrimaryEvent};
///
/// let mut primary = Primary::new(Config::default());
/// for _ in 0..4 {
///     primary.fork(&thead::Command::fork("server.js"))?;
/// }
/// while let Some(event) = primary.next().await {
///     if let PrimaryEvent::Exit { worker, status } = event {
///         println!("worker {worker} ended: {status:?}");
///         primary.fork(&thead::Command::fork("server.js"))?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Primary {
    machine: thead_core::cluster::Primary,
    scheduling: Scheduling,
    stuck: Duration,
    workers: HashMap<WorkerId, Worker>,
    listeners: Listeners,
    /// Accepted and not surely taken: whoever dies meanwhile, the connection lives.
    conns: HashMap<ConnId, Handle>,
    /// Those among them that are for one worker alone, and who waits for it to take them.
    private: HashMap<ConnId, oneshot::Sender<()>>,
    accepted: Vec<(thead_core::id::ListenerId, OwnedFd)>,
    next_worker: u32,
    next_conn: u64,
    sink: mpsc::UnboundedSender<Reported<WorkerId>>,
    reports: mpsc::UnboundedReceiver<Reported<WorkerId>>,
    events: VecDeque<PrimaryEvent>,
    scratch: Vec<u8>,
    handed_back: u64,
}

/// Reports that are taken in one go before actions are obeyed.
const BATCH: usize = 64;

impl Primary {
    /// A primary without workers. Connections that wait in it take half of the files that this process may have open, at the
    /// most, whatever [`Config::max_waiting`] says.
    pub fn new(config: Config) -> Self {
        let config = Config {
            max_waiting: config.max_waiting.min(sys::limit::open_files() / 2),
            ..config
        };
        let (sink, reports) = mpsc::unbounded_channel();
        Self {
            scheduling: config.scheduling,
            stuck: config.stuck,
            machine: thead_core::cluster::Primary::new(config),
            workers: HashMap::new(),
            listeners: Listeners::default(),
            conns: HashMap::new(),
            private: HashMap::new(),
            accepted: Vec::new(),
            next_worker: 1,
            next_conn: 0,
            sink,
            reports,
            events: VecDeque::new(),
            scratch: Vec::new(),
            handed_back: 0,
        }
    }

    /// Lets workers listen on a descriptor, under the number that they say in `listen({ fd })`. Under Node that is the
    /// primary's own number; here only what was passed in this way can be had.
    pub fn inherit(&mut self, number: i32, fd: impl Into<Handle>) {
        self.listeners.inherit(number, fd.into());
    }

    /// Starts a worker. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn fork(&mut self, command: &Command) -> Result<WorkerId, SpawnError> {
        let worker = WorkerId(self.next_worker);
        self.fork_as(worker, None, command, false)?;
        Ok(worker)
    }

    /// As [`fork`](Self::fork), with an id that was never used and the ends of its output pipes. A `gated` worker gets no
    /// connections before [`open`](Self::open). Under [`Scheduling::Sticky`] it gets the clients of its `slot`; without one,
    /// of the lowest that no worker has.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn fork_as(
        &mut self,
        worker: WorkerId,
        slot: Option<Slot>,
        command: &Command,
        gated: bool,
    ) -> Result<Forked, SpawnError> {
        self.next_worker = self.next_worker.max(worker.0 + 1);
        let Launched {
            pid,
            pidfd,
            channel,
            streams,
        } = command.launch(Some(worker.0))?;
        let mut streams: HashMap<i32, OwnedFd> = streams.into_iter().collect();
        let (port, channel, end) = match channel {
            Some(made) => (Some(made.port), Some(made.channel), Some(made.end)),
            None => (None, None, None),
        };
        if channel.is_some() {
            self.machine.input(now(), Input::Joined { worker, gated, slot });
        }
        tokio::spawn(watch(worker, port, pidfd.clone(), self.sink.clone(), command.care(pid)));
        self.workers.insert(
            worker,
            Worker {
                pid,
                pidfd,
                channel,
                end,
                takes_connections: command.takes_connections(),
                exited: false,
                lame_duck: Duration::ZERO,
                given: 0,
                gives_back: false,
            },
        );
        self.obey();
        Ok(Forked {
            pid,
            stdout: streams.remove(&1),
            stderr: streams.remove(&2),
        })
    }

    /// The workers whose process or channel has not ended.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.keys().copied()
    }

    /// Whether a process that is not collected yet is a worker of this cluster.
    pub fn owns(&self, pid: u32) -> bool {
        self.workers.values().any(|worker| worker.pid == pid && !worker.exited)
    }

    /// The channel to a worker.
    pub fn channel(&self, worker: WorkerId) -> Option<&Channel> {
        self.workers.get(&worker)?.channel.as_ref()
    }

    /// Lets a gated worker have connections.
    pub fn open(&mut self, worker: WorkerId) {
        self.input(Input::Open { worker });
    }

    /// Tells a worker to close its servers, finish its connections and leave. Node: `worker.disconnect()`.
    pub fn disconnect(&mut self, worker: WorkerId) {
        self.input(Input::Leave {
            worker,
            how: LeaveBy::Disconnect,
        });
    }

    /// As [`disconnect`](Self::disconnect), for a worker with thead's preload: it gives back every connection that is
    /// idle, and these go on with another worker. Where that cannot be (TLS, HTTP/2) it answers with `Connection: close`,
    /// and closes what is still idle after `lame_duck`.
    pub fn hand_back(&mut self, worker: WorkerId, lame_duck: Duration) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.lame_duck = lame_duck;
        }
        self.input(Input::Leave {
            worker,
            how: LeaveBy::HandBack,
        });
    }

    /// Offers a worker nothing more: it is about to get a signal, or has got one.
    pub fn retire(&mut self, worker: WorkerId) {
        self.input(Input::Leave {
            worker,
            how: LeaveBy::Signal,
        });
    }

    /// Closes all listening sockets. What was accepted is still handed to workers.
    pub fn close_listeners(&mut self) {
        // What waits in the kernel would be reset with its socket.
        self.accept_all();
        self.input(Input::CloseListeners);
    }

    /// Sends a signal to a worker, by its number.
    ///
    /// # Errors
    /// `ESRCH` if it has ended or there is no such worker, `EPERM`.
    pub fn kill(&self, worker: WorkerId, signal: i32) -> io::Result<()> {
        let worker = self.workers.get(&worker).ok_or(rustix::io::Errno::SRCH)?;
        pidfd::send_signal(&*worker.pidfd, signal)
    }

    /// The process of a worker, by a descriptor.
    pub(crate) fn process(&self, worker: WorkerId) -> Option<Arc<OwnedFd>> {
        Some(self.workers.get(&worker)?.pidfd.clone())
    }

    /// How many connections drained workers have given back so far.
    pub fn handed_back(&self) -> u64 {
        self.handed_back
    }

    /// Does the work of the primary until something happened that a user may want to know. Never `None`.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<PrimaryEvent> {
        loop {
            self.obey();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let deadline = [
                self.machine.deadline().map(Instant::from_std),
                self.listeners.deadline(),
            ];
            let deadline = deadline.into_iter().flatten().min();
            let (machine, listeners, accepted) = (&self.machine, &mut self.listeners, &mut self.accepted);
            // Unbiased: workers that talk without end must not keep us from accepting for the others.
            tokio::select! {
                Some(report) = self.reports.recv() => {
                    self.report(report);
                    for _ in 1..BATCH {
                        // What is reported here has left the care of its channel, so only one may wait for the user.
                        if !self.events.is_empty() {
                            break;
                        }
                        let Ok(report) = self.reports.try_recv() else { break };
                        self.report(report);
                    }
                }
                () = std::future::poll_fn(|cx| {
                    listeners.poll_accept(cx, |listener| machine.may_accept(listener), accepted)
                }) => self.take_accepted(),
                () = until(deadline) => {}
            }
            self.machine.advance(now());
        }
    }

    fn take_accepted(&mut self) {
        let now = now();
        for (listener, connection) in std::mem::take(&mut self.accepted) {
            let client = self.client_of(&connection);
            let conn = self.keep(connection.into());
            self.machine.input(now, Input::Accepted { listener, conn, client });
        }
    }

    /// Who a connection comes from, where that decides who gets it.
    fn client_of(&self, connection: impl AsFd) -> Option<IpAddr> {
        (self.scheduling == Scheduling::Sticky).then(|| listener::client_of(connection))?
    }

    /// Accepts all that is in the kernel's queues, however many: only before they are closed.
    fn accept_all(&mut self) {
        let most = |listener| {
            if self.machine.may_accept(listener) > 0 {
                LAST_ACCEPTS
            } else {
                0
            }
        };
        self.listeners.accept_now(most, &mut self.accepted);
        self.take_accepted();
    }

    fn keep(&mut self, connection: Handle) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(conn, connection);
        conn
    }

    fn input(&mut self, input: Input) {
        self.machine.input(now(), input);
        self.obey();
    }

    fn report(&mut self, reported: Reported<WorkerId>) {
        let Reported {
            tag: worker, report, ..
        } = reported;
        // What the cluster has to say of earlier messages comes first: a worker listens before it exits.
        if !matches!(report, Report::Internal(..)) {
            self.obey();
        }
        match report {
            Report::Internal(body, handle) => self.internal(worker, &body, handle),
            Report::Message(message, handle) => {
                self.events.push_back(PrimaryEvent::Message {
                    worker,
                    message,
                    handle,
                });
            }
            Report::Descriptors(message, descriptors) => {
                self.events.push_back(PrimaryEvent::Descriptors {
                    worker,
                    message,
                    descriptors,
                });
            }
            Report::Bad(error) => self.events.push_back(PrimaryEvent::BadMessage { worker, error }),
            // The worker never got it: others may have it.
            // Its exit follows.
            Report::Aborted => {}
            Report::Lost(handle) => {
                if let Some(conn) = self.conn_of(&handle) {
                    let conns = vec![conn];
                    self.machine.input(now(), Input::Reclaimed { worker, conns });
                }
            }
            Report::Disconnected { fault, .. } => {
                self.machine.input(now(), Input::Gone { worker });
                self.events.push_back(PrimaryEvent::Disconnect { worker, fault });
                self.forget(worker, |worker| worker.channel = None);
            }
            Report::Exited(status) => {
                self.machine.input(now(), Input::Gone { worker });
                self.events.push_back(PrimaryEvent::Exit { worker, status });
                self.forget(worker, |worker| {
                    worker.exited = true;
                    // Whoever else holds its end is no worker.
                    if let Some(channel) = &worker.channel {
                        channel.abort(None);
                    }
                });
            }
        }
    }

    fn forget(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&id) {
            change(worker);
            if worker.exited && worker.channel.is_none() {
                self.workers.remove(&id);
            }
        }
    }

    fn internal(&mut self, worker: WorkerId, body: &Bytes, handle: Option<ReceivedHandle<Handle>>) {
        match (Envelope::<FromWorker>::from_json(body), handle) {
            (
                Ok(Envelope {
                    seq: Some(seq),
                    message: FromWorker::QueryServer(query),
                }),
                _,
            ) if self.cannot_serve(worker, &query) => self.refuse(worker, seq, &query),
            (Ok(message), _) => self.machine.input(now(), Input::Message { worker, message }),
            (Err(error), handle) => self.no_cluster_message(worker, body, handle, &error),
        }
    }

    /// Bun's `net` servers ask for a listener, and their process dies of the first connection that it is handed (checked:
    /// 1.4.5): every worker in turn, and the client waits for ever. So they are told that it cannot be.
    fn cannot_serve(&self, worker: WorkerId, query: &Query) -> bool {
        let udp = matches!(query.address_type, Some(AddressType::Udp4 | AddressType::Udp6));
        !udp && self
            .workers
            .get(&worker)
            .is_some_and(|worker| !worker.takes_connections)
    }

    fn refuse(&mut self, worker: WorkerId, ack: u64, query: &Query) {
        let errno = -libc::ENOTSUP;
        let message = ToWorker::Refused {
            ack,
            key: "refused".into(),
            errno,
        };
        // Its `online` comes before this.
        self.obey();
        self.send(worker, &Envelope { seq: Some(0), message }, Carried::None);
        let address = ListenAddress::from(query);
        self.events
            .push_back(PrimaryEvent::ListenFailed { worker, address, errno });
    }

    fn no_cluster_message(
        &mut self,
        worker: WorkerId,
        body: &Bytes,
        handle: Option<ReceivedHandle<Handle>>,
        error: &ClusterMessageError,
    ) {
        match (preload::Said::parse(body), handle) {
            (Some(preload::Said::HandBack), Some(handle)) => self.take_back(worker, handle.handle),
            (Some(preload::Said::Beat), _) => self.events.push_back(PrimaryEvent::Beat { worker }),
            _ if memchr::memmem::find(body, CLUSTER.as_bytes()).is_some() => self.bad(worker, error, body),
            // Of the runtime's own, and no concern of a cluster.
            _ => {}
        }
    }

    fn bad(&mut self, worker: WorkerId, reason: impl std::fmt::Display, body: &[u8]) {
        let error = BadMessage::new(reason, body);
        self.events.push_back(PrimaryEvent::BadMessage { worker, error });
    }

    /// Which connection a handle is.
    fn conn_of(&self, handle: &Handle) -> Option<ConnId> {
        let mut conns = self.conns.iter();
        conns.find(|(_, kept)| kept.is(handle)).map(|(conn, _)| *conn)
    }

    fn obey(&mut self) {
        while let Some(action) = self.machine.poll() {
            match action {
                Action::Bind {
                    listener,
                    spec,
                    scheduling,
                } => {
                    let bound = self.listeners.bind(listener, &spec, scheduling);
                    self.machine.input(now(), Input::Bound { listener, bound });
                }
                Action::Steer { listener, lanes } => self.listeners.steer(listener, &lanes),
                Action::Unbind { listener } => self.listeners.unbind(listener),
                Action::Send {
                    worker,
                    message,
                    handle,
                } => self.send(worker, &message, handle),
                Action::HandBack { worker } => {
                    let Some(leaving) = self.workers.get_mut(&worker) else {
                        continue;
                    };
                    leaving.gives_back = true;
                    let lame_duck = leaving.lame_duck;
                    self.send_drain(worker, true, lame_duck);
                }
                Action::Reclaim { worker } => self.reclaim(worker),
                Action::Expel { worker } => {
                    if let Some(channel) = self.channel(worker) {
                        channel.abort(Some(Fault::NoAnswer(self.stuck)));
                    }
                }
                Action::Release { conn } => {
                    self.conns.remove(&conn);
                    self.private.remove(&conn);
                }
                Action::Emit(event) => self.emit(event),
            }
        }
    }

    fn send(&mut self, id: WorkerId, message: &Envelope<ToWorker>, carried: Carried) {
        let Some(Worker {
            channel: Some(channel),
            given,
            ..
        }) = self.workers.get_mut(&id)
        else {
            return;
        };
        self.scratch.clear();
        message.write_json(&mut self.scratch);
        let handle = match carried {
            Carried::None => None,
            Carried::Conn(conn) => {
                *given += 1;
                self.conns.get(&conn).map(|conn| (conn.clone(), HandleKind::Native))
            }
            Carried::Lane(listener, lane) => self
                .listeners
                .lane(listener, lane)
                .map(|lane| (lane, HandleKind::Native)),
            Carried::Listener(listener) => self.listeners.get(listener).map(|(handle, datagram)| {
                (
                    handle,
                    if datagram {
                        HandleKind::DgramNative
                    } else {
                        HandleKind::Native
                    },
                )
            }),
        };
        let sent = match handle {
            None => channel.send_internal(&self.scratch),
            Some((handle, kind)) => channel
                .send_internal_handle(&self.scratch, kind, handle)
                .map(drop)
                .map_err(|(error, _)| error),
        };
        match sent {
            Ok(()) => {}
            Err(SendError::Full { queued, .. }) => channel.abort(Some(Fault::Unread { queued })),
            // A closed channel is on its way as a report.
            Err(error) => tracing::debug!(worker = %id, %error, "a cluster message was not sent"),
        }
    }

    fn emit(&mut self, event: Event) {
        if let Event::Taken { conn, .. } = event
            && let Some(taken) = self.private.remove(&conn)
        {
            // Whoever asked may have lost patience.
            let _ = taken.send(());
        }
        self.events.push_back(match event {
            Event::Online { worker } => PrimaryEvent::Online { worker },
            Event::Listening { worker, address, .. } => PrimaryEvent::Listening { worker, address },
            Event::ListenFailed { worker, address, errno } => PrimaryEvent::ListenFailed { worker, address, errno },
            Event::Ignored { worker, what } => {
                let error = BadMessage::new(format_args!("ignored {what}"), b"");
                PrimaryEvent::BadMessage { worker, error }
            }
            // `Disconnect` and `Exit` come from the channel and the process themselves.
            _ => return,
        });
    }
}

/// Connections taken out of one queue before it is closed.
const LAST_ACCEPTS: usize = 4096;

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
