//! A worker that is a Node process.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thead_wire::HandleKind;
use thead_wire::message::BadMessage;
use tokio::sync::{mpsc, watch};

use super::{Envelope, ErrorEvent, Shared, WorkerEvent, WorkerMessage};
use crate::channel::{Channel, Handle, Message, SendError};
use crate::child::{Child, ChildEvent};
use crate::command::{Command, SpawnError};
use crate::sys::pidfd::ExitStatus;
use crate::sys::tree::Tree;
use crate::watch::told;

#[derive(Debug)]
pub(super) struct Process {
    channel: Option<Channel>,
    tree: Tree,
    exited: watch::Receiver<Option<ExitStatus>>,
    task: tokio::task::JoinHandle<()>,
}

impl Process {
    pub(super) fn start(
        command: &Command,
        shared: Arc<Shared>,
        events: mpsc::Sender<WorkerEvent>,
    ) -> Result<Self, SpawnError> {
        let child = command.spawn()?;
        Ok(Self {
            channel: child.channel().cloned(),
            tree: child.tree().clone(),
            exited: child.exit_watch(),
            task: tokio::spawn(run(child, shared, events)),
        })
    }

    pub(super) async fn post<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: Option<(HandleKind, Handle)>,
    ) -> Result<(), SendError> {
        let channel = self.channel.as_ref().ok_or(SendError::Closed)?;
        let envelope = Envelope::message(message);
        match handle {
            None => channel.post_message(&envelope).await,
            Some((kind, handle)) => match channel.post_handle(&envelope, kind, handle).await {
                Ok(_) => Ok(()),
                Err((error, _)) => Err(error),
            },
        }
    }

    pub(super) async fn terminate(&self) -> ExitStatus {
        self.tree.kill();
        self.wait().await
    }

    pub(super) async fn wait(&self) -> ExitStatus {
        told(self.exited.clone()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // With the task goes the child, which is killed when it is dropped.
        self.task.abort();
    }
}

async fn run(mut child: Child, shared: Arc<Shared>, events: mpsc::Sender<WorkerEvent>) {
    while let Some(event) = child.next().await {
        let event = match event {
            ChildEvent::Message { message, handle } => match read(&message) {
                Ok(Kind::Message) => WorkerEvent::Message(WorkerMessage {
                    envelope: message,
                    handle: handle.map(|handle| handle.handle),
                }),
                Ok(Kind::Error) => match message.parse() {
                    Ok(error) => WorkerEvent::Error(error),
                    Err(bad) => WorkerEvent::MessageError(bad),
                },
                Ok(Kind::Close) => continue,
                Err(bad) => WorkerEvent::MessageError(bad),
            },
            ChildEvent::BadMessage(bad) => WorkerEvent::MessageError(bad),
            ChildEvent::Disconnect { fault: Some(fault), .. } => WorkerEvent::Error(ErrorEvent {
                message: fault.to_string(),
                ..ErrorEvent::default()
            }),
            ChildEvent::Close(status) => WorkerEvent::Exit(status),
            _ => continue,
        };
        shared.deliver(event, &events).await;
    }
}

/// What an envelope is of; its data is passed over.
#[derive(Deserialize)]
struct Head {
    r#type: Kind,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Message,
    Error,
    Close,
}

fn read(message: &Message) -> Result<Kind, BadMessage> {
    let head = message.parse::<Head>().map_err(|error| {
        let reason = format!("not what a worker sends (process.send() beside postMessage()?): {error}");
        BadMessage::new(reason, message.raw())
    })?;
    Ok(head.r#type)
}
