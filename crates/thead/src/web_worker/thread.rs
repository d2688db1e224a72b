//! A worker that is a thread of this process.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use thead_wire::Serialization;
use tokio::sync::{mpsc, watch};

use super::{Envelope, ErrorEvent, Shared, WorkerEvent, WorkerMessage};
use crate::channel::{Handle, Message, SendError, encode};
use crate::sys::pidfd::ExitStatus;
use crate::watch::told;

/// Messages that may wait, each way.
const ROOM: usize = 256;
/// How a thread that panics would end a process.
const PANICKED: ExitStatus = ExitStatus::Code(101);

#[derive(Debug)]
pub(super) struct Thread {
    messages: mpsc::Sender<WorkerMessage>,
    terminate: watch::Sender<bool>,
    exited: watch::Receiver<Option<ExitStatus>>,
}

/// The worker's side of a [`Worker::thread`](super::Worker::thread). Its calls block; they belong on that thread.
#[derive(Debug)]
pub struct WorkerScope {
    messages: mpsc::Receiver<WorkerMessage>,
    events: mpsc::Sender<WorkerEvent>,
    terminate: watch::Receiver<bool>,
    runtime: tokio::runtime::Handle,
}

impl WorkerScope {
    /// Waits for the next message; `None` when the worker is to end.
    pub fn recv(&mut self) -> Option<WorkerMessage> {
        let Self {
            messages,
            terminate,
            runtime,
            ..
        } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.wait_for(|told| *told) => None,
                message = messages.recv() => message,
            }
        })
    }

    /// Posts a message; waits while nobody takes those before it.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the worker is to end.
    pub fn post_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        self.post(message, None)
    }

    /// Posts a message with a descriptor.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub fn transfer<T: Serialize + ?Sized>(&self, message: &T, handle: impl Into<Handle>) -> Result<(), SendError> {
        self.post(message, Some(handle.into()))
    }

    /// Whether the worker is to end.
    pub fn is_closing(&self) -> bool {
        *self.terminate.borrow()
    }

    fn post<T: Serialize + ?Sized>(&self, message: &T, handle: Option<Handle>) -> Result<(), SendError> {
        let event = WorkerEvent::Message(posted(message, handle)?);
        let mut terminate = self.terminate.clone();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.wait_for(|told| *told) => Err(SendError::Closed),
                sent = self.events.send(event) => sent.map_err(|_| SendError::Closed),
            }
        })
    }
}

/// A message in the form in which one from a process comes.
fn posted<T: Serialize + ?Sized>(message: &T, handle: Option<Handle>) -> Result<WorkerMessage, SendError> {
    let body = encode(Serialization::Advanced, &Envelope::message(message))?;
    Ok(WorkerMessage {
        envelope: Message::new(body, Serialization::Advanced),
        handle,
    })
}

impl Thread {
    pub(super) fn start(
        function: impl FnOnce(WorkerScope) + Send + 'static,
        shared: Arc<Shared>,
        events: mpsc::Sender<WorkerEvent>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (messages, inbox) = mpsc::channel(ROOM);
        let (terminate, told) = watch::channel(false);
        let (exit, exited) = watch::channel(None);
        let (posts, mut posted) = mpsc::channel(ROOM);
        let scope = WorkerScope {
            messages: inbox,
            events: posts.clone(),
            terminate: told.clone(),
            runtime: runtime.clone(),
        };
        std::thread::Builder::new().name("thead worker".into()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| function(scope)));
            let status = ended.as_ref().map_or(PANICKED, |()| ExitStatus::Code(0));
            exit.send_replace(Some(status));
            if let Err(panic) = ended {
                let error = ErrorEvent {
                    message: format!("Uncaught {}", said(&*panic)),
                    ..ErrorEvent::default()
                };
                let _ = posts.blocking_send(WorkerEvent::Error(error));
            }
            let _ = posts.blocking_send(WorkerEvent::Exit(status));
        })?;
        runtime.spawn(async move {
            let mut told = told;
            loop {
                let event = tokio::select! {
                    event = posted.recv() => event,
                    // Its owner is gone, and nobody may be there to take what it still posts.
                    Err(_) = told.wait_for(|_| false) => return,
                };
                match event {
                    Some(event) => shared.deliver(event, &events).await,
                    None => return,
                }
            }
        });
        Ok(Self {
            messages,
            terminate,
            exited,
        })
    }

    pub(super) async fn post<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: Option<Handle>,
    ) -> Result<(), SendError> {
        let message = posted(message, handle)?;
        self.messages.send(message).await.map_err(|_| SendError::Closed)
    }

    pub(super) async fn terminate(&self) -> ExitStatus {
        self.terminate.send_replace(true);
        self.wait().await
    }

    pub(super) async fn wait(&self) -> ExitStatus {
        told(self.exited.clone()).await
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.terminate.send_replace(true);
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}
