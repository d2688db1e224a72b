//! Orders to a running service, and what came of them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use thead_core::id::Generation;
use thead_core::service::{AbortCause, Order, Refusal};
use thead_core::worker::Slot;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::{Program, Settings};
use crate::data::push::PushReply;
use crate::data::{Content, PushError, Pushing};

/// Tells a running [`Service`](super::Service) what to do. Cheap to clone.
///
/// Each order is on its way when the method returns, and its [`Reply`] need not be awaited. One change at a time: what
/// replaces workers waits for the change before it; of two that wait, the newer takes the place of the older. A stop waits
/// for nothing.
#[derive(Clone, Debug)]
pub struct Operator {
    requests: mpsc::Sender<Request>,
    /// A stop finds its way however many others wait.
    stops: mpsc::Sender<Request>,
}

/// Requests that may wait until the service takes them. Further ones are refused: nobody looks, or somebody leans on the key.
const REQUESTS: usize = 64;
/// As [`REQUESTS`], of those that stop it.
const STOPS: usize = 16;

/// The other end of [`Operator`]s.
#[derive(Debug)]
pub(super) struct Requests {
    requests: mpsc::Receiver<Request>,
    stops: mpsc::Receiver<Request>,
}

impl Requests {
    /// The next one; stops first.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(super) async fn next(&mut self) -> Request {
        let next = async {
            tokio::select! {
                biased;
                Some(stop) = self.stops.recv() => Some(stop),
                Some(request) = self.requests.recv() => Some(request),
                else => None,
            }
        };
        match next.await {
            Some(request) => request,
            // Nobody is left who could ask.
            None => std::future::pending().await,
        }
    }

    /// Nobody is answered any more.
    pub(super) fn close(&mut self) {
        for requests in [&mut self.requests, &mut self.stops] {
            requests.close();
            while requests.try_recv().is_ok() {}
        }
    }
}

#[derive(Debug)]
pub(super) enum Request {
    Order {
        what: What,
        reply: oneshot::Sender<Outcome>,
    },
    Push {
        name: String,
        content: Content,
        reply: PushReply,
    },
}

#[derive(Debug)]
pub(super) enum What {
    /// As the machine has it; a reload or restart may bring another program.
    Order(Order, Option<Box<Program>>),
    ScaleBy(isize),
    Configure(Box<Settings>),
    Signal(i32, Option<Slot>),
}

/// How an order ended.
pub(super) type Outcome = Result<Done, OrderError>;

/// An order was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What a restart runs now.
    pub generation: Generation,
    /// Since the order was taken.
    pub took: Duration,
}

/// An order was not carried out. Fits after "failed to reload".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// It was begun and came to nothing. Of a reload or renewal: whoever served, serves on.
    #[error("{cause}")]
    Aborted {
        /// Why.
        cause: AbortCause,
        /// What the worker that failed had printed last, oldest first.
        last_lines: Vec<String>,
    },
    /// It waited, and a newer one took its place.
    #[error("a newer order took its place")]
    Superseded,
    /// It was not begun.
    #[error("{0}")]
    Refused(Refusal),
    /// Too many orders wait to be taken.
    #[error("too many orders wait")]
    Busy,
    /// The service has ended.
    #[error("the service has ended")]
    Ended,
}

/// What will come of an order. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Reply(oneshot::Receiver<Outcome>);

impl Future for Reply {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|reply| reply.unwrap_or(Err(OrderError::Ended)))
    }
}

impl Operator {
    pub(super) fn new() -> (Self, Requests) {
        let (requests, taken) = mpsc::channel(REQUESTS);
        let (stops, heard) = mpsc::channel(STOPS);
        let other_end = Requests {
            requests: taken,
            stops: heard,
        };
        (Self { requests, stops }, other_end)
    }

    /// Replaces all workers by new ones, new before old, that run this program, or the present one. Done when the last of
    /// the old ones is gone; if it is aborted the present program stays.
    pub fn reload(&self, program: Option<Program>) -> Reply {
        self.order_with(Order::Reload, program)
    }

    /// Stops all workers and starts new ones, of this program or the present one, when the last is gone: a gap, in which
    /// connections wait. Done when all are ready.
    pub fn restart(&self, program: Option<Program>) -> Reply {
        self.order_with(Order::Restart, program)
    }

    /// As [`restart`](Self::restart), for one worker and with its program.
    pub fn restart_worker(&self, slot: Slot) -> Reply {
        self.order(Order::RestartWorker(slot))
    }

    /// Replaces one worker by another of its kind, new before old. Done when the old one is gone.
    pub fn renew(&self, slot: Slot) -> Reply {
        self.order(Order::Renew(slot))
    }

    /// Changes the number of workers, 1 to 1024. Done when the new ones are ready, or the superfluous ones are gone.
    pub fn scale(&self, instances: usize) -> Reply {
        self.order(Order::Scale(instances))
    }

    /// Adds workers, or takes some away.
    pub fn scale_by(&self, difference: isize) -> Reply {
        self.send(What::ScaleBy(difference))
    }

    /// Runs the service by other settings from now on. Done at once, or as [`scale`](Self::scale) if the number of instances
    /// is another.
    pub fn configure(&self, settings: Settings) -> Reply {
        self.send(What::Configure(Box::new(settings)))
    }

    /// Drains and stops. Done when the service is over.
    pub fn stop(&self) -> Reply {
        self.order(Order::Stop)
    }

    /// Kills everything now. Done when the service is over.
    pub fn stop_now(&self) -> Reply {
        self.order(Order::StopNow)
    }

    /// Sends a signal to every worker.
    pub fn signal(&self, signal: i32) -> Reply {
        self.send(What::Signal(signal, None))
    }

    /// Sends a signal to the workers in one slot: the one that serves, and one that leaves.
    pub fn signal_worker(&self, slot: Slot, signal: i32) -> Reply {
        self.send(What::Signal(signal, Some(slot)))
    }

    fn order(&self, order: Order) -> Reply {
        self.order_with(order, None)
    }

    fn order_with(&self, order: Order, program: Option<Program>) -> Reply {
        self.send(What::Order(order, program.map(Box::new)))
    }

    fn send(&self, what: What) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.request(Request::Order { what, reply });
        Reply(answer)
    }

    /// Pushes data to every worker, as [`Service::push`](super::Service::push).
    pub fn push(&self, name: impl Into<String>, content: Content) -> Pushing {
        let (reply, pushing) = Pushing::new();
        let name = name.into();
        self.request(Request::Push { name, content, reply });
        pushing
    }

    fn request(&self, request: Request) {
        let way = match &request {
            Request::Order {
                what: What::Order(Order::Stop | Order::StopNow, _),
                ..
            } => &self.stops,
            _ => &self.requests,
        };
        let (request, order, push) = match way.try_send(request) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (request, OrderError::Busy, PushError::Busy),
            Err(TrySendError::Closed(request)) => (request, OrderError::Ended, PushError::Ended),
        };
        // Whoever does not wait does not want to know.
        match request {
            Request::Order { reply, .. } => drop(reply.send(Err(order))),
            Request::Push { reply, .. } => drop(reply.send(Err(push))),
        }
    }
}
