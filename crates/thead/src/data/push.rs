//! What a service pushes: obeys [`thead_core::data`] over the channels of its workers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use thead_core::data::{Action, Event as Piece, Input, Origin, Standing, Tally};
use thead_core::id::{Revision, Ticket, WorkerId};
use thead_wire::Serialization;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::{self, Answer};
use super::{Content, Memory, PIECES, VALUE_LIMIT};
use crate::channel::{Channel, Fault, Handle, Message, SendError};

/// Something that happened to a piece of data.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which piece.
    pub name: String,
    /// What.
    pub change: Change,
}

/// What happened to a piece of data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// This is what a worker that comes now gets; where there are workers without a channel, they are to find it.
    Made(Made),
    /// A worker that comes now gets this older content, or nothing: the newest was refused.
    Offered(Option<Content>),
    /// To a push, or to a worker.
    Told(Piece),
}

/// A revision that has come into being.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its number.
    pub revision: Revision,
    /// What stands under it.
    pub content: Content,
    /// The older revision that it is the same as, if it takes the place of one that was refused.
    pub again: Option<Revision>,
}

/// A push has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its number.
    pub revision: Revision,
    /// What the workers said. All zero: nobody runs, and those who come will try it.
    pub tally: Tally,
}

/// A push has come to nothing. Fits after "failed to push".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// A worker has refused it.
    #[error("worker {worker} refused revision {revision}: {reason}")]
    Refused {
        /// Its number.
        revision: Revision,
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
        /// The number under which everybody has what was in force before; none if nothing was.
        back: Option<Revision>,
    },
    /// A newer push took its place before anybody had it.
    #[error("a newer push took its place")]
    Superseded,
    /// Too many pushes of this piece wait.
    #[error("too many pushes wait")]
    Busy,
    /// The value is too large for a message.
    #[error("the value has {size} bytes as JSON, and a message takes {VALUE_LIMIT}: push it as memory")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// The service has [`PIECES`] already.
    #[error("the service has {PIECES} pieces of data already")]
    TooMany,
    /// The service has ended, or the piece was closed.
    #[error("the service has ended")]
    Ended,
}

type Outcome = Result<Pushed, PushError>;
pub(crate) type PushReply = oneshot::Sender<Outcome>;

/// What will come of a push. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Pushing(oneshot::Receiver<Outcome>);

impl Pushing {
    pub(crate) fn new() -> (PushReply, Self) {
        let (reply, outcome) = oneshot::channel();
        (reply, Self(outcome))
    }
}

impl Future for Pushing {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let poll = Pin::new(&mut self.0).poll(cx);
        poll.map(|reply| reply.unwrap_or(Err(PushError::Ended)))
    }
}

/// A piece of data at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which.
    pub name: String,
    /// The highest number that was ever given out.
    pub newest: Revision,
    /// What nobody refused.
    pub in_force: Option<Revision>,
    /// What a worker that comes now gets: `in_force`, or what is on trial.
    pub offered: Option<Revision>,
    /// Each worker, and how it stands to the piece.
    pub workers: Vec<(WorkerId, Standing)>,
}

/// All pieces of one service.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: BTreeMap<String, Held>,
    /// Every living worker, and its channel if it has one.
    members: HashMap<WorkerId, Option<Channel>>,
    last_ticket: u64,
    events: VecDeque<Event>,
}

/// One piece, and what its numbers stand for.
#[derive(Debug)]
struct Held {
    machine: thead_core::data::Piece,
    contents: BTreeMap<Revision, Content>,
    /// Pushed, and not numbered yet.
    waiting: HashMap<Ticket, Content>,
    replies: HashMap<Ticket, PushReply>,
    /// Told when everybody is back.
    refused: HashMap<Ticket, PushError>,
    /// The message that was written last, for the next worker.
    written: HashMap<Serialization, (Revision, Bytes)>,
}

impl Pieces {
    /// Goes on with a piece whose numbers have come as far as `newest`. One that is open already stays as it is.
    pub(crate) fn open(
        &mut self,
        name: &str,
        newest: Revision,
        in_force: Option<(Revision, Content)>,
    ) -> Result<(), PushError> {
        if self.pieces.contains_key(name) {
            return Ok(());
        }
        if self.pieces.len() >= PIECES {
            return Err(PushError::TooMany);
        }
        let good = in_force.as_ref().map(|(revision, _)| *revision);
        let held = Held {
            machine: thead_core::data::Piece::new(newest, good),
            contents: in_force.into_iter().collect(),
            waiting: HashMap::new(),
            replies: HashMap::new(),
            refused: HashMap::new(),
            written: HashMap::new(),
        };
        self.pieces.insert(name.to_owned(), held);
        let members: Vec<_> = self
            .members
            .iter()
            .map(|(worker, channel)| (*worker, channel.is_some()))
            .collect();
        for (worker, answers) in members {
            self.input(name, Input::Joined { worker, answers });
        }
        Ok(())
    }

    /// Forgets a piece; workers keep what they have.
    pub(crate) fn close(&mut self, name: &str) {
        self.pieces.remove(name);
    }

    pub(crate) fn push(&mut self, name: &str, content: Content, reply: PushReply) {
        let size = content.len();
        let too_large = matches!(content, Content::Value(_)) && size > VALUE_LIMIT as u64;
        let opened = if too_large {
            Err(PushError::TooLarge { size })
        } else {
            self.open(name, Revision(0), None)
        };
        if let Err(error) = opened {
            let _ = reply.send(Err(error));
            return;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        if let Some(held) = self.pieces.get_mut(name) {
            held.waiting.insert(ticket, content);
            held.replies.insert(ticket, reply);
        }
        self.input(name, Input::Push { ticket });
    }

    /// A worker has been started. What there is for it is the first that it is sent.
    pub(crate) fn join(&mut self, worker: WorkerId, channel: Option<Channel>) {
        let answers = channel.is_some();
        self.members.insert(worker, channel);
        self.all(|| Input::Joined { worker, answers });
    }

    /// It has ended, or has closed its channel; `died`: nobody had told it to leave.
    pub(crate) fn gone(&mut self, worker: WorkerId, died: bool) {
        if self.members.remove(&worker).is_some() {
            self.all(|| Input::Gone { worker, died });
        }
    }

    /// Whether the message was an answer, and so is not the user's.
    pub(crate) fn hear(&mut self, worker: WorkerId, message: &Message) -> bool {
        if self.pieces.is_empty() {
            return false;
        }
        let Some(answer) = Answer::read(message) else {
            return false;
        };
        let revision = answer.revision;
        let input = match answer.refusal {
            None => Input::Applied { worker, revision },
            Some(reason) => Input::Refused {
                worker,
                revision,
                reason,
            },
        };
        self.input(&answer.name, input);
        true
    }

    pub(crate) fn advance(&mut self) {
        let Self {
            pieces,
            members,
            events,
            ..
        } = self;
        for (name, held) in pieces {
            held.machine.advance(now());
            held.obey(name, members, events);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.pieces.values().filter_map(|held| held.machine.deadline());
        deadlines.min().map(Instant::from_std)
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = Status> {
        self.pieces.iter().map(|(name, held)| Status {
            name: name.clone(),
            newest: held.machine.newest(),
            in_force: held.machine.in_force(),
            offered: held.machine.offered(),
            workers: held.machine.standings().collect(),
        })
    }

    /// What a worker uses of each piece.
    pub(crate) fn applied(&self, worker: WorkerId) -> impl Iterator<Item = (&str, Revision)> {
        self.pieces
            .iter()
            .filter_map(move |(name, held)| Some((name.as_str(), held.machine.applied(worker)?)))
    }

    /// The memory files that a program without a channel starts with.
    pub(crate) fn memories(&self) -> impl Iterator<Item = (&str, Arc<Memory>)> {
        self.pieces
            .iter()
            .filter_map(|(name, held)| match held.contents.get(&held.machine.offered()?)? {
                Content::Memory(memory) => Some((name.as_str(), memory.clone())),
                Content::Value(_) => None,
            })
    }

    fn input(&mut self, name: &str, input: Input) {
        if let Some(held) = self.pieces.get_mut(name) {
            held.machine.input(now(), input);
            held.obey(name, &self.members, &mut self.events);
        }
    }

    fn all(&mut self, input: impl Fn() -> Input) {
        let Self {
            pieces,
            members,
            events,
            ..
        } = self;
        for (name, held) in pieces {
            held.machine.input(now(), input());
            held.obey(name, members, events);
        }
    }
}

impl Held {
    fn obey(&mut self, name: &str, members: &HashMap<WorkerId, Option<Channel>>, events: &mut VecDeque<Event>) {
        let mut tell = |change| {
            events.push_back(Event {
                name: name.to_owned(),
                change,
            });
        };
        while let Some(action) = self.machine.poll() {
            match action {
                Action::Make { revision, origin } => {
                    let (content, again) = match origin {
                        Origin::Push(ticket) => (self.waiting.remove(&ticket), None),
                        Origin::Revision(old) => (self.contents.get(&old).cloned(), Some(old)),
                    };
                    let Some(content) = content else { continue };
                    self.contents.insert(revision, content.clone());
                    tell(Change::Made(Made {
                        revision,
                        content,
                        again,
                    }));
                }
                Action::Send { worker, revision } => {
                    if let Some(Some(channel)) = members.get(&worker) {
                        self.send(name, channel, revision);
                    }
                }
                Action::Offer { revision } => {
                    let content = revision.and_then(|revision| self.contents.get(&revision).cloned());
                    tell(Change::Offered(content));
                }
                Action::Forget { revision } => {
                    self.contents.remove(&revision);
                    self.written.retain(|_, (written, _)| *written != revision);
                }
                Action::Emit(event) => {
                    self.answer(&event);
                    tell(Change::Told(event));
                }
            }
        }
    }

    fn send(&mut self, name: &str, channel: &Channel, revision: Revision) {
        let Some(content) = self.contents.get(&revision) else {
            return;
        };
        let serialization = channel.serialization();
        let body = match self.written.get(&serialization) {
            Some((written, body)) if *written == revision => body.clone(),
            _ => {
                let Some(body) = message::push(serialization, name, revision, content) else {
                    return;
                };
                self.written.insert(serialization, (revision, body.clone()));
                body
            }
        };
        let sent = match content {
            Content::Memory(memory) if channel.is_thead() == Some(true) => {
                channel.send_raw_descriptors(&body, vec![Handle::shared(memory.shared())])
            }
            _ => channel.send_raw(&body),
        };
        if let Err(SendError::Full { queued, .. }) = sent {
            channel.abort(Some(Fault::Unread { queued }));
        }
    }

    /// Tells whoever has pushed what came of it.
    fn answer(&mut self, event: &Piece) {
        let (ticket, outcome) = match event {
            // Nobody is there to say anything.
            Piece::Pushed { ticket, revision } if !self.machine.is_busy() && self.is_on_trial(*revision) => {
                let tally = Tally::default();
                let revision = *revision;
                (ticket, Ok(Pushed { revision, tally }))
            }
            Piece::InForce {
                ticket,
                revision,
                tally,
            } => {
                let (revision, tally) = (*revision, *tally);
                (ticket, Ok(Pushed { revision, tally }))
            }
            Piece::Refused {
                ticket,
                revision,
                worker,
                reason,
                back,
            } => {
                let error = PushError::Refused {
                    revision: *revision,
                    worker: *worker,
                    reason: reason.clone(),
                    back: *back,
                };
                if back.is_some() {
                    self.refused.insert(*ticket, error);
                    return;
                }
                (ticket, Err(error))
            }
            Piece::Returned { ticket, .. } => match self.refused.remove(ticket) {
                Some(error) => (ticket, Err(error)),
                None => return,
            },
            Piece::Superseded { ticket, .. } => (ticket, Err(PushError::Superseded)),
            Piece::Busy { ticket } => {
                self.waiting.remove(ticket);
                (ticket, Err(PushError::Busy))
            }
            _ => return,
        };
        if let Some(reply) = self.replies.remove(ticket) {
            // Whoever does not wait does not want to know.
            let _ = reply.send(outcome);
        }
    }

    /// The machine may have gone on since it said so.
    fn is_on_trial(&self, revision: Revision) -> bool {
        self.machine.newest() == revision && self.machine.in_force() != Some(revision)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
