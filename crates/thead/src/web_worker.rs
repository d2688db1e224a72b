//! Workers as in a browser: a script of its own, messages, and nothing shared.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thead_wire::message::BadMessage;
use thead_wire::{HandleKind, Serialization, v8};
use tokio::sync::{Notify, mpsc};

use crate::channel::{Handle, Message, SendError};
use crate::command::{Command, SpawnError};
use crate::sys::pidfd::ExitStatus;

mod process;
mod thread;

pub use thread::WorkerScope;

/// The global scope of a worker's script.
const SCOPE: &str = include_str!("web_worker/scope.cjs");

/// A worker: a Node script in a process of its own ([`Worker::new`]), or a function in a thread of this process
/// ([`Worker::thread`]). Both get and send messages in V8's value format, so `Map`, `Date`, `BigInt` and typed arrays arrive
/// whole.
///
/// In the script `self`, `postMessage`, `onmessage`, `onerror`, `addEventListener`, `close`, `name` and `importScripts` are
/// what they are in a browser's dedicated worker, and all of Node is there besides.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::{Worker, WorkerEvent};
///
/// // double.js: onmessage = ({ data }) => postMessage(data * 2)
/// let mut worker = Worker::new("double.js")?;
/// worker.post_message(&21).await?;
/// if let Some(WorkerEvent::Message(message)) = worker.next().await {
///     assert_eq!(message.parse::<u32>()?, 42);
/// }
/// worker.terminate().await;
/// # Ok(())
/// # }
/// ```
///
/// Events are taken with [`next`](Self::next), or given to [`on_message`](Self::on_message) and
/// [`on_error`](Self::on_error). While nobody takes them the worker is not read, and its `postMessage` fills its memory and
/// not ours.
///
/// Dropping it terminates the worker.
///
/// Differs from a browser: an uncaught exception, which is told as there, makes the exit code of the process 1 in the end.
/// A script that does not listen ends when it is done. The data of a buffer that is transferred is copied once.
#[derive(Debug)]
pub struct Worker {
    peer: Peer,
    shared: Arc<Shared>,
    events: mpsc::Receiver<WorkerEvent>,
    /// Taken from there, and not wanted by the callback that was set.
    kept: VecDeque<WorkerEvent>,
}

#[derive(Debug)]
enum Peer {
    Process(process::Process),
    Thread(thread::Thread),
}

/// Something that a worker did.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// It posted a message.
    Message(WorkerMessage),
    /// It threw and did not catch.
    Error(ErrorEvent),
    /// It sent something that is no message. Browser: `messageerror`.
    MessageError(BadMessage),
    /// It has ended; nothing follows.
    Exit(ExitStatus),
}

/// A message of a worker, or for one.
#[derive(Debug)]
pub struct WorkerMessage {
    envelope: Message,
    /// The descriptor that was transferred with it.
    pub handle: Option<Handle>,
}

/// What goes over the channel with a message.
#[derive(Debug, Deserialize, Serialize)]
struct Envelope<T> {
    r#type: Cow<'static, str>,
    data: T,
}

impl<T> Envelope<T> {
    fn message(data: T) -> Self {
        Self {
            r#type: "message".into(),
            data,
        }
    }
}

impl WorkerMessage {
    /// Reads the data into a type.
    ///
    /// # Errors
    /// It is not of this shape.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, BadMessage> {
        Ok(self.envelope.parse::<Envelope<T>>()?.data)
    }

    /// The data with all its JavaScript types.
    ///
    /// # Errors
    /// The bytes are no value.
    pub fn value(&self) -> Result<v8::Document, BadMessage> {
        self.envelope
            .value()?
            .into_property("data")
            .map_err(|_| BadMessage::new("a message without data", self.envelope.raw()))
    }
}

/// An exception that a worker did not catch. Browser: `ErrorEvent`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message} ({filename}:{lineno}:{colno})")]
#[non_exhaustive]
pub struct ErrorEvent {
    /// What it says, `Uncaught TypeError: …`.
    pub message: String,
    /// Where it was thrown; empty if that is not known.
    #[serde(default)]
    pub filename: String,
    /// In which line, from 1.
    #[serde(default)]
    pub lineno: u32,
    /// In which column, from 1.
    #[serde(default)]
    pub colno: u32,
    /// The whole stack.
    #[serde(default)]
    pub stack: Option<String>,
}

type OnMessage = Box<dyn FnMut(WorkerMessage) + Send>;
type OnError = Box<dyn FnMut(ErrorEvent) + Send>;

#[derive(Default)]
struct Shared {
    callbacks: Mutex<Callbacks>,
    /// A callback was set.
    set: Notify,
}

#[derive(Default)]
struct Callbacks {
    message: Option<OnMessage>,
    error: Option<OnError>,
    /// One was set once: events are not kept for [`Worker::next`].
    pushed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn callbacks(&self) -> MutexGuard<'_, Callbacks> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an event to its callback, or else back.
    fn push(&self, event: WorkerEvent) -> Option<WorkerEvent> {
        // A callback is called without the lock, so that it may do what it likes.
        match event {
            WorkerEvent::Message(message) => {
                let callback = self.callbacks().message.take();
                let Some(mut callback) = callback else {
                    return self.unheard(WorkerEvent::Message(message));
                };
                callback(message);
                self.callbacks().message.get_or_insert(callback);
            }
            WorkerEvent::Error(error) => {
                let callback = self.callbacks().error.take();
                let Some(mut callback) = callback else {
                    return self.unheard(WorkerEvent::Error(error));
                };
                callback(error);
                self.callbacks().error.get_or_insert(callback);
            }
            other => return self.unheard(other),
        }
        None
    }

    fn unheard(&self, event: WorkerEvent) -> Option<WorkerEvent> {
        if !self.callbacks().pushed {
            return Some(event);
        }
        tracing::warn!(?event, "a worker's event that nobody listens to");
        None
    }

    /// Gives an event to its callback, or keeps it for [`Worker::next`].
    async fn deliver(&self, mut event: WorkerEvent, events: &mpsc::Sender<WorkerEvent>) {
        loop {
            let set = self.set.notified();
            match self.push(event) {
                Some(unheard) => event = unheard,
                None => return,
            }
            tokio::select! {
                permit = events.reserve() => match permit {
                    Ok(permit) => {
                        // What is put there after a callback was set would never be looked at.
                        let callbacks = self.callbacks();
                        if !callbacks.pushed {
                            return permit.send(event);
                        }
                    }
                    Err(_) => return,
                },
                () = set => {}
            }
        }
    }
}

impl Worker {
    /// Starts a script under `node`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn new(script: impl AsRef<OsStr>) -> Result<Self, SpawnError> {
        Self::named(script, "")
    }

    /// As [`new`](Self::new), with a name, which the script finds as `self.name`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn named(script: impl AsRef<OsStr>, name: &str) -> Result<Self, SpawnError> {
        Self::with_runtime("node", &[], script, name)
    }

    /// As [`named`](Self::named), with a `node` of your choice and options for it. Bun and Deno do not speak the format.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_runtime(
        node: impl AsRef<OsStr>,
        options: &[&str],
        script: impl AsRef<OsStr>,
        name: &str,
    ) -> Result<Self, SpawnError> {
        let scope = crate::preload::install_script("worker", SCOPE)?;
        let mut all = vec!["--require".into(), scope.into_os_string()];
        all.extend(options.iter().map(Into::into));
        let command = Command::fork_with(node, crate::Runtime::Node, &all, script)
            .channel(Serialization::Advanced)
            .env("THEAD_WORKER_NAME", name)
            .kill_on_drop();
        let shared: Arc<Shared> = Arc::default();
        let (sink, events) = mpsc::channel(1);
        let peer = Peer::Process(process::Process::start(&command, shared.clone(), sink)?);
        Ok(Self {
            peer,
            shared,
            events,
            kept: VecDeque::new(),
        })
    }

    /// Runs a function in a thread of its own, which talks through its [`WorkerScope`]. Must be called within a Tokio
    /// runtime. A panic is told as an error event.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn thread(function: impl FnOnce(WorkerScope) + Send + 'static) -> std::io::Result<Self> {
        let shared: Arc<Shared> = Arc::default();
        let (sink, events) = mpsc::channel(1);
        let peer = Peer::Thread(thread::Thread::start(function, shared.clone(), sink)?);
        Ok(Self {
            peer,
            shared,
            events,
            kept: VecDeque::new(),
        })
    }

    /// Sends a message; waits while too much waits before it.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the worker has ended.
    pub async fn post_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        match &self.peer {
            Peer::Process(process) => process.post(message, None).await,
            Peer::Thread(thread) => thread.post(message, None).await,
        }
    }

    /// Sends a message with a socket. The script finds it in the event, as `handle`: a `net.Socket`, a `net.Server` or a
    /// `dgram.Socket`, by the kind.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub async fn transfer<T: Serialize + ?Sized>(
        &self,
        message: &T,
        kind: HandleKind,
        handle: impl Into<Handle>,
    ) -> Result<(), SendError> {
        let handle = handle.into();
        match &self.peer {
            Peer::Process(process) => process.post(message, Some((kind, handle))).await,
            Peer::Thread(thread) => thread.post(message, Some(handle)).await,
        }
    }

    /// The next event; `None` after [`WorkerEvent::Exit`]. What has a callback does not come here.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        match self.kept.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    /// Calls this with every message, from a task of the runtime; messages that have come already are the first. Browser:
    /// `worker.onmessage`.
    ///
    /// From here on errors without [`on_error`](Self::on_error) are only warned of ([`tracing`]).
    pub fn on_message(&mut self, mut callback: impl FnMut(WorkerMessage) + Send + 'static) {
        loop {
            for event in std::mem::take(&mut self.kept) {
                match event {
                    WorkerEvent::Message(message) => callback(message),
                    other => self.kept.push_back(other),
                }
            }
            let mut callbacks = self.shared.callbacks();
            match self.events.try_recv() {
                Ok(event) => self.kept.push_back(event),
                Err(_) => {
                    callbacks.message = Some(Box::new(callback));
                    callbacks.pushed = true;
                    break;
                }
            }
        }
        self.shared.set.notify_waiters();
    }

    /// Calls this with every exception that the worker does not catch. Browser: `worker.onerror`.
    pub fn on_error(&mut self, mut callback: impl FnMut(ErrorEvent) + Send + 'static) {
        for event in std::mem::take(&mut self.kept) {
            match event {
                WorkerEvent::Error(error) => callback(error),
                other => self.kept.push_back(other),
            }
        }
        self.shared.callbacks().error = Some(Box::new(callback));
        self.shared.set.notify_waiters();
    }

    /// Ends the worker now, whatever it is doing, with all that it has started; returns how it ended.
    ///
    /// A thread cannot be ended from outside: it hears of it when it next uses its [`WorkerScope`], and is waited for.
    pub async fn terminate(mut self) -> ExitStatus {
        // Nobody waits for room for an event any more.
        self.events.close();
        match &self.peer {
            Peer::Process(process) => process.terminate().await,
            Peer::Thread(thread) => thread.terminate().await,
        }
    }

    /// Waits until the worker has ended. Can be asked again.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn wait(&self) -> ExitStatus {
        match &self.peer {
            Peer::Process(process) => process.wait().await,
            Peer::Thread(thread) => thread.wait().await,
        }
    }
}
