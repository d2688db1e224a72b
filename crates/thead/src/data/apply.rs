//! The worker's side: what comes is given to whoever watches the piece, and what he says is the answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch::{self, Receiver, Sender};

use super::message::{APPLIED, Applied, DATA};
use super::{Memory, PIECES};
use crate::channel::{Channel, Handle, Message};
use crate::parent::{ParentError, opened};

/// Why a revision is refused: any error, or a text.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Apply = Box<dyn FnMut(Data) -> Result<(), BoxError> + Send>;

/// One revision of a piece of data, as it came.
#[derive(Debug)]
pub struct Data {
    name: String,
    revision: u64,
    message: Message,
    /// A memory file's.
    path: Option<String>,
    descriptor: Option<Handle>,
}

impl Data {
    /// Which piece.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number: higher than that of any before.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value, as a type. What cannot be read into it is an error, and so refused.
    ///
    /// # Errors
    /// It is not of this shape, or it is memory.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        #[derive(Deserialize)]
        struct Value<T> {
            value: T,
        }
        if self.path.is_some() {
            return Err("it is memory, not a value".into());
        }
        Ok(self.message.parse::<Value<T>>()?.value)
    }

    /// The memory file, of which all workers share one copy.
    ///
    /// # Errors
    /// It is a value; its path cannot be opened; it is no sealed memory file.
    pub fn memory(&mut self) -> io::Result<Memory> {
        if let Some(descriptor) = self.descriptor.take() {
            return Memory::from_fd(descriptor.into_owned()?);
        }
        match &self.path {
            Some(path) => Memory::from_fd(File::open(path)?.into()),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a value, not memory")),
        }
    }
}

/// Takes a piece of data of the service that this process is a worker of: now, and whenever it changes. Nothing ever comes to
/// a process that was not forked with a channel.
///
/// `apply` is called for each revision, in order, between two messages of the channel: what it has applied holds for every
/// connection that comes later. Until it returns nothing else is read, so it should be done in milliseconds. `Ok` says to the
/// service that the revision is in use; an error refuses it, with its text as the reason, and leaves the service with the one
/// before; so does a panic. What came before this was called is applied before it returns.
///
/// A second watch of the same piece replaces the first.
///
/// # Errors
/// As [`parent`](crate::parent()); it may be called before or after, and within a Tokio runtime.
pub fn watch<F>(name: &str, apply: F) -> Result<Watch, ParentError>
where
    F: FnMut(Data) -> Result<(), BoxError> + Send + 'static,
{
    let (told, applied) = watch::channel(None);
    let Some(opened) = opened()? else {
        return Ok(Watch { applied: None });
    };
    opened.watchers.watch(name, Box::new(apply), told);
    Ok(Watch { applied: Some(applied) })
}

/// A watched piece. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Watch {
    applied: Option<Receiver<Option<u64>>>,
}

impl Watch {
    /// Whether this process has a channel by which something can come.
    pub fn has_parent(&self) -> bool {
        self.applied.is_some()
    }

    /// The revision that was applied last.
    pub fn revision(&self) -> Option<u64> {
        *self.applied.as_ref()?.borrow()
    }

    /// Waits until something was applied. `None`: nothing will come, for there is no parent, or it is gone, or another watch
    /// took this one's place. A service that has no such piece never sends one: then this waits for as long as the parent is
    /// there.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn first(&mut self) -> Option<u64> {
        let applied = self.applied.as_mut()?;
        *applied.wait_for(Option::is_some).await.ok()?
    }
}

/// Who watches which piece in this process.
pub(crate) struct Watchers {
    channel: Channel,
    pieces: Mutex<HashMap<String, Watched>>,
}

#[derive(Default)]
struct Watched {
    /// `None` while it runs, and before there is one.
    apply: Option<Apply>,
    told: Option<Sender<Option<u64>>>,
    /// Came and was not applied yet: the newest.
    waiting: Option<Data>,
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").finish_non_exhaustive()
    }
}

impl Watchers {
    pub(crate) fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Self {
            channel,
            pieces: Mutex::default(),
        })
    }

    fn pieces(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, name: &str, apply: Apply, told: Sender<Option<u64>>) {
        let mut pieces = self.pieces();
        let watched = pieces.entry(name.to_owned()).or_default();
        (watched.apply, watched.told) = (Some(apply), Some(told));
        drop(pieces);
        self.run(name);
    }

    /// Nothing will come any more.
    pub(crate) fn end(&self) {
        for watched in self.pieces().values_mut() {
            watched.told = None;
        }
    }

    /// Takes a message that is one of ours; any other is given back.
    pub(crate) fn take(&self, message: Message, descriptors: Vec<Handle>) -> Result<(), (Message, Vec<Handle>)> {
        #[derive(Deserialize)]
        struct Head {
            cmd: String,
            name: String,
            revision: u64,
            #[serde(default)]
            path: Option<String>,
        }
        let body = message.raw();
        // `cmd` comes first, so others are not looked through.
        let start = &body[..body.len().min(64)];
        if memchr::memmem::find(start, DATA.as_bytes()).is_none() {
            return Err((message, descriptors));
        }
        let head = match message.parse::<Head>() {
            Ok(head) if head.cmd == DATA => head,
            _ => return Err((message, descriptors)),
        };
        let data = Data {
            revision: head.revision,
            path: head.path,
            descriptor: descriptors.into_iter().next(),
            message,
            name: head.name,
        };
        let name = data.name.clone();
        let mut pieces = self.pieces();
        let known = pieces.len();
        match pieces.entry(name.clone()) {
            Entry::Occupied(watched) => watched.into_mut().waiting = Some(data),
            // A service has no more.
            Entry::Vacant(_) if known >= PIECES => return Ok(()),
            Entry::Vacant(place) => place.insert(Watched::default()).waiting = Some(data),
        }
        drop(pieces);
        self.run(&name);
        Ok(())
    }

    /// Applies what waits, if somebody watches and is not at it already.
    fn run(&self, name: &str) {
        loop {
            let mut pieces = self.pieces();
            let Some(watched) = pieces.get_mut(name) else { return };
            let Some(mut apply) = watched.apply.take() else { return };
            let Some(data) = watched.waiting.take() else {
                watched.apply = Some(apply);
                return;
            };
            drop(pieces);
            let revision = data.revision;
            // A function that panics is not let down by the channel, and can be tried with the next revision.
            let result = catch_unwind(AssertUnwindSafe(|| apply(data)))
                .unwrap_or_else(|_| Err("what applies it has panicked".into()));
            let mut pieces = self.pieces();
            if let Some(watched) = pieces.get_mut(name) {
                if let (Ok(()), Some(told)) = (&result, &watched.told) {
                    told.send_replace(Some(revision));
                }
                // Unless another took its place meanwhile.
                watched.apply.get_or_insert(apply);
            }
            drop(pieces);
            let error = result.err().map(|error| error.to_string());
            let answer = Applied {
                cmd: APPLIED,
                name,
                revision,
                error: error.as_deref(),
            };
            // A service that is gone need not know.
            let _ = self.channel.send(&answer);
        }
    }
}
