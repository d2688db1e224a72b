//! The child's end of a channel: what a Rust program has of the Node, Bun, Deno or thead process that forked it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use thead_wire::HandleKind;
use thead_wire::cluster::{Envelope, ToWorker};
use thead_wire::endpoint::{self, Event, HandleId};
use thead_wire::env::{CHANNEL_FD, ChannelEnv, EnvError, SERIALIZATION_MODE, UNIQUE_ID};
use thead_wire::message::BadMessage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::channel::{Channel, Fault, Handle, Message, PATIENCE, Port, ReceivedHandle, SendError};
use crate::data::Watchers;
use crate::sys::inherit;
use crate::sys::reclaim::SocketId;
use crate::watch::{ROOM, cost_of};
use crate::worker::member::{Member, Membership, Request};

/// Why what the environment says about a parent cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// The environment contradicts itself.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The descriptor that the environment names is no channel.
    #[error("{CHANNEL_FD}={fd} is not a channel, which is a Unix stream socket that this process was started with")]
    Descriptor {
        /// Its number.
        fd: i32,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// There is one [`Parent`] in a process, and somebody has it.
    #[error("the parent's channel was taken already")]
    Taken,
}

/// Something that the parent did.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParentEvent {
    /// A message, and the handle that came with it.
    Message {
        /// The message.
        message: Message,
        /// Its handle.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// A message with descriptors of any kind, of a parent that is a thead process.
    Descriptors {
        /// The message.
        message: Message,
        /// At least one, at most [`MAX_DESCRIPTORS`](crate::channel::MAX_DESCRIPTORS).
        descriptors: Vec<Handle>,
    },
    /// It sent something that is no message. The next one is read. (Differs from Node, which dies of it.)
    BadMessage(BadMessage),
    /// A handle that was sent and that the parent never got.
    HandleLost(Handle),
    /// The primary of the cluster tells this worker to leave: finish what is begun, then exit or
    /// [`disconnect`](Parent::disconnect).
    Leave,
    /// The channel has ended: the parent has disconnected or is gone, or this end has disconnected. Nothing follows.
    Disconnect {
        /// What the parent did, if the channel was ended for that.
        fault: Option<Fault>,
        /// Bytes of messages that were never written.
        unsent: usize,
    },
}

/// The parent, if this process was forked with a channel: by Node's, Bun's or Deno's `fork`, `spawn` with `'ipc'` and
/// `cluster.fork`, or by [`Command`](crate::Command).
///
/// Call it first in `main`, within a Tokio runtime. It takes the descriptor, so that no child of this process inherits it,
/// and removes `NODE_CHANNEL_FD`, `NODE_CHANNEL_SERIALIZATION_MODE` and `NODE_UNIQUE_ID` from the environment as Node
/// does, so that none believes itself forked. A worker of a cluster also says that it is online, and its
/// [`Listener`](crate::worker::Listener)s are served beside what [`Parent::next`] tells.
///
/// What arrives before the first [`Parent::next`] waits for it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::ParentEvent;
///
/// let Some(mut parent) = thead::parent()? else {
///     return Err("to be forked, not started".into());
/// };
/// while let Some(event) = parent.next().await {
///     if let ParentEvent::Message { message, .. } = event {
///         parent.post_message(&message.parse::<serde_json::Value>()?).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ParentError`]. Where the environment is wrong it is left as it is.
///
/// # Panics
/// Outside of a Tokio runtime, if there is a channel.
pub fn parent() -> Result<Option<Parent>, ParentError> {
    let Some(opened) = opened()? else { return Ok(None) };
    let mut inbox = opened.inbox.lock().unwrap_or_else(PoisonError::into_inner);
    let events = inbox.take().ok_or(ParentError::Taken)?;
    opened.taken.store(true, Ordering::Relaxed);
    Ok(Some(Parent {
        channel: opened.channel.clone(),
        events,
        ended: false,
    }))
}

/// The parent of this process, made by [`parent`].
///
/// Whoever has it must read it or drop it: while its events wait ([`Channel`] says how many may) the channel is not read,
/// and a worker gets no connections. Dropping it leaves the channel open; what comes then is thrown away.
#[derive(Debug)]
pub struct Parent {
    channel: Channel,
    events: mpsc::UnboundedReceiver<Waiting>,
    ended: bool,
}

impl Parent {
    /// The other end of a channel that is there already, and of no cluster.
    pub(crate) fn over(port: Port, channel: Channel) -> Self {
        let (inbox, events) = mpsc::unbounded_channel();
        let (_, asked) = mpsc::unbounded_channel();
        tokio::spawn(Task::new(port, None, inbox, Arc::new(AtomicBool::new(true)), None).run(asked));
        Self {
            channel,
            events,
            ended: false,
        }
    }

    /// The next event; `None` after [`ParentEvent::Disconnect`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<ParentEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await?.event;
        self.ended = matches!(event, ParentEvent::Disconnect { .. });
        Some(event)
    }

    /// The sending half, for other tasks.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a message now, or not at all. A program that ends soon should [`flush`](Channel::flush) first.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        self.channel.send(message)
    }

    /// Sends a message; waits while too much waits before it.
    ///
    /// # Errors
    /// As [`Channel::post_message`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing.
    pub async fn post_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        self.channel.post_message(message).await
    }

    /// Sends a message with a handle now, or not at all.
    ///
    /// # Errors
    /// As [`Channel::send_handle`], with the handle back.
    pub fn send_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        kind: HandleKind,
        handle: Handle,
    ) -> Result<HandleId, (SendError, Handle)> {
        self.channel.send_handle(message, kind, handle)
    }

    /// Sends a message with a handle; waits while too much waits before it.
    ///
    /// # Errors
    /// As [`Channel::post_handle`], with the handle back.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing; the handle is dropped with it.
    pub async fn post_handle<T: Serialize + ?Sized>(
        &self,
        message: &T,
        kind: HandleKind,
        handle: Handle,
    ) -> Result<HandleId, (SendError, Handle)> {
        self.channel.post_handle(message, kind, handle).await
    }

    /// Ends the channel once all that was sent is written; [`ParentEvent::Disconnect`] tells when.
    pub fn disconnect(&self) {
        self.channel.disconnect();
    }
}

/// The channel of this process, whoever asked for it first.
pub(crate) struct Opened {
    pub(crate) channel: Channel,
    /// In a worker of a cluster.
    pub(crate) membership: Option<Membership>,
    /// What [`parent`] takes.
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Waiting>>>,
    /// Whether it has been taken.
    taken: Arc<AtomicBool>,
    pub(crate) watchers: Arc<Watchers>,
}

/// Names the child's end of a channel of which a thead process has the other. A variable that was inherited from further
/// up names another socket, so nobody else is taken for one.
pub(crate) const THEAD_CHANNEL: &str = "THEAD_CHANNEL";

/// Takes the channel that the environment names, the first time that it is asked.
pub(crate) fn opened() -> Result<Option<Arc<Opened>>, ParentError> {
    static OPENED: Mutex<Option<Option<Arc<Opened>>>> = Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*opened {
        Some(known) => Ok(known.clone()),
        None => Ok(opened.insert(open()?.map(Arc::new)).clone()),
    }
}

fn open() -> Result<Option<Opened>, ParentError> {
    let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let Some(env) = ChannelEnv::read(variable)? else {
        return Ok(None);
    };
    let config = endpoint::Config {
        serialization: env.serialization,
        ..endpoint::Config::default()
    };
    let open = || {
        let socket = inherit::inherited_channel(env.fd)?;
        let end = SocketId::of(&socket)?;
        Ok((Port::new(socket, config, PATIENCE)?, end))
    };
    let ((port, channel), end) = open().map_err(|error| ParentError::Descriptor { fd: env.fd, error })?;
    if variable(THEAD_CHANNEL).is_some_and(|named| named == end.to_string()) {
        channel.greet();
    }
    inherit::forget_variables(&[CHANNEL_FD, SERIALIZATION_MODE, UNIQUE_ID, THEAD_CHANNEL]);

    let (inbox, events) = mpsc::unbounded_channel();
    let taken = Arc::new(AtomicBool::new(false));
    let (requests, asked) = mpsc::unbounded_channel();
    let (member, membership) = env
        .unique_id
        .map(|id| Member::join(id, channel.clone(), requests))
        .unzip();
    let watchers = Watchers::new(channel.clone());
    tokio::spawn(Task::new(port, member, inbox, taken.clone(), Some(watchers.clone())).run(asked));
    Ok(Some(Opened {
        channel,
        watchers,
        membership,
        inbox: Mutex::new(Some(events)),
        taken,
    }))
}

/// An event on its way to its owner; its room is given back when it is taken.
#[derive(Debug)]
struct Waiting {
    event: ParentEvent,
    _room: Option<OwnedSemaphorePermit>,
}

/// Owns the socket until the channel has ended.
struct Task {
    port: Port,
    member: Option<Member>,
    inbox: mpsc::UnboundedSender<Waiting>,
    taken: Arc<AtomicBool>,
    room: Arc<Semaphore>,
    /// Read, and without room in the inbox.
    waiting: VecDeque<ParentEvent>,
    /// Take what a service pushes.
    watchers: Option<Arc<Watchers>>,
}

impl Task {
    fn new(
        port: Port,
        member: Option<Member>,
        inbox: mpsc::UnboundedSender<Waiting>,
        taken: Arc<AtomicBool>,
        watchers: Option<Arc<Watchers>>,
    ) -> Self {
        Self {
            port,
            member,
            inbox,
            taken,
            room: Arc::new(Semaphore::new(ROOM as usize)),
            waiting: VecDeque::new(),
            watchers,
        }
    }

    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        loop {
            self.take_events();
            self.hand_over();
            if self.port.is_closed() && self.waiting.is_empty() {
                return;
            }
            let may_read = self.waiting.is_empty();
            tokio::select! {
                () = self.port.turn(may_read) => {}
                () = has_room(&self.room, &self.inbox, self.waiting.front()) => {}
                Some(request) = requests.recv() => {
                    if let Some(member) = &mut self.member {
                        member.ask(request);
                    }
                }
            }
        }
    }

    /// Sorts what the channel brought: a cluster's messages are served here, all else is the program's.
    fn take_events(&mut self) {
        while let Some(event) = self.port.poll_event() {
            let event = match event {
                Event::Message(body, handle) => {
                    let message = Message::new(body, self.port.serialization());
                    match self.pushed(message, Vec::new()) {
                        Some((message, _)) => ParentEvent::Message { message, handle },
                        None => continue,
                    }
                }
                Event::Descriptors(body, descriptors) => {
                    let message = Message::new(body, self.port.serialization());
                    match self.pushed(message, descriptors) {
                        Some((message, descriptors)) => ParentEvent::Descriptors { message, descriptors },
                        None => continue,
                    }
                }
                Event::DescriptorsLost(_, descriptors) => {
                    self.waiting
                        .extend(descriptors.into_iter().map(ParentEvent::HandleLost));
                    continue;
                }
                Event::Internal(body, handle) => {
                    let Some(member) = &mut self.member else { continue };
                    // What a runtime says that is not of the cluster is none of ours; Node ignores it too.
                    let Ok(message) = Envelope::<ToWorker>::from_json(&body) else {
                        continue;
                    };
                    let leave = matches!(message.message, ToWorker::Disconnect);
                    member.hear(message, handle.map(|received| received.handle));
                    if !leave {
                        continue;
                    }
                    ParentEvent::Leave
                }
                Event::Bad(bad) => ParentEvent::BadMessage(bad),
                Event::Lost(_, handle) => ParentEvent::HandleLost(handle),
                Event::Closed { unsent } => {
                    // Whoever accepts or waits to leave hears of it by the end of its queue.
                    self.member = None;
                    if let Some(watchers) = self.watchers.take() {
                        watchers.end();
                    }
                    ParentEvent::Disconnect {
                        fault: self.port.take_fault(),
                        unsent,
                    }
                }
                _ => continue,
            };
            self.waiting.push_back(event);
        }
    }

    /// Gives what a service has pushed to those who watch it; what it has not pushed is given back.
    fn pushed(&self, message: Message, descriptors: Vec<Handle>) -> Option<(Message, Vec<Handle>)> {
        match &self.watchers {
            Some(watchers) => watchers.take(message, descriptors).err(),
            None => Some((message, descriptors)),
        }
    }

    /// Gives what waits to the program, as far as there is room.
    fn hand_over(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            let room = match cost(&event) {
                0 => None,
                cost => match self.room.clone().try_acquire_many_owned(cost) {
                    Ok(room) => Some(room),
                    Err(_) if self.inbox.is_closed() => continue,
                    Err(_) if self.taken.load(Ordering::Relaxed) || self.member.is_none() => {
                        self.waiting.push_front(event);
                        return;
                    }
                    Err(_) => {
                        // A worker that wants connections and no messages.
                        tracing::warn!(
                            "a message of the primary's is dropped: too many wait, and nobody has asked for any"
                        );
                        continue;
                    }
                },
            };
            // One whose owner is gone is wanted by nobody.
            let _ = self.inbox.send(Waiting { event, _room: room });
        }
    }
}

/// What an event takes of [`ROOM`]; nothing if the parent cannot cause more of its kind than it was given cause for.
fn cost(event: &ParentEvent) -> u32 {
    let bytes = match event {
        ParentEvent::Message { message, .. } | ParentEvent::Descriptors { message, .. } => message.raw().len(),
        ParentEvent::BadMessage(_) | ParentEvent::Leave => 0,
        ParentEvent::HandleLost(_) | ParentEvent::Disconnect { .. } => return 0,
    };
    cost_of(bytes)
}

/// Waits until there is room for the event, or nobody left who would take it; for ever if there is none.
async fn has_room(room: &Semaphore, inbox: &mpsc::UnboundedSender<Waiting>, event: Option<&ParentEvent>) {
    match event {
        Some(event) => tokio::select! {
            _ = room.acquire_many(cost(event)) => {}
            () = inbox.closed() => {}
        },
        None => std::future::pending().await,
    }
}
