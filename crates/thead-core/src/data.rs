//! One piece of hot data: which revision is in force, which worker has which, and what follows when one refuses.
//!
//! ```text
//!              ┌───────────nobody refused──────────┐
//!              ▼                                   │
//! Rest ──────Push──────► Trial ────────────────────┤
//!   ▲                      └──somebody refused──► Return
//!   └──all have answered──────────────────────────────┘
//! ```
//!
//! - Revisions only grow. What is rolled back comes again under a new number, so no worker ever sees one go down.
//! - One revision at a time: the next push waits until every worker has answered the last one, or its time is over. So a
//!   worker that answers has the newest or the one before, and no third is about.
//! - On trial a revision is in nobody's favour yet: one refusal, and the revision before it goes to everybody. A worker that
//!   took part and dies before it answers has refused: data that kills whoever applies it would else kill all.
//! - A worker that comes gets what is offered: the revision on trial as long as nobody has refused it, else the one in force.
//!   What is in force is not rolled back because a newcomer refuses it: the others live with it.
//! - Who never answers, because its program does not know of revisions, is waited for once and can refuse nothing. Where
//!   nobody runs, a revision stays on trial until somebody does.

mod event;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub use event::{Action, Event, Input, Origin, Standing, Tally};

use crate::id::{Revision, Ticket, WorkerId};

/// How long a worker may take to answer. After that it is not waited for any more, for this revision.
pub const ANSWER: Duration = Duration::from_secs(5);
/// How long one that has just been started may take: it has to boot first.
pub const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// Pushes that may wait for the one that is under way. A further one is refused.
pub const QUEUE: usize = 16;

/// The decisions about one piece of data.
///
/// Feed it with [`input`](Self::input), obey [`poll`](Self::poll) until it is empty, and call [`advance`](Self::advance)
/// no later than [`deadline`](Self::deadline). `now` must not go back. What one input leads to is bounded by the numbers of
/// workers and of waiting pushes. Two contents are kept, and one more for each worker that uses neither of them.
#[derive(Debug)]
pub struct Piece {
    /// The highest number that was ever given out.
    newest: Revision,
    good: Option<Revision>,
    phase: Phase,
    members: BTreeMap<WorkerId, Member>,
    queue: VecDeque<Ticket>,
    /// Revisions whose content the driver keeps for us.
    kept: BTreeSet<Revision>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum Phase {
    Rest,
    /// The newest revision has been sent, and whoever says no ends it.
    Trial {
        ticket: Ticket,
        /// Answers are waited for until then; without an end while nobody is there.
        until: Option<Instant>,
        refusal: Option<(WorkerId, String)>,
    },
    /// The good revision has been sent again, under a new number.
    Return {
        ticket: Ticket,
        until: Instant,
    },
}

#[derive(Debug)]
struct Member {
    /// It has a channel.
    answers: bool,
    /// It has answered once.
    takes_part: bool,
    /// What it was told last.
    sent: Option<Revision>,
    applied: Option<Revision>,
    answer: Answer,
}

/// What a member said to what it was sent last.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It was sent nothing, or cannot answer.
    None,
    Pending {
        until: Instant,
    },
    Applied,
    Refused(String),
    Silent,
}

impl Member {
    fn is_pending(&self) -> bool {
        matches!(self.answer, Answer::Pending { .. })
    }
}

impl Piece {
    /// A piece whose numbers go on after `newest`. `in_force` is what the driver has of it, if anything; it is at most
    /// `newest`.
    pub fn new(newest: Revision, in_force: Option<Revision>) -> Self {
        Self {
            newest,
            good: in_force,
            phase: Phase::Rest,
            members: BTreeMap::new(),
            queue: VecDeque::new(),
            kept: in_force.into_iter().collect(),
            actions: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Push { ticket } => self.push(now, ticket),
            Input::Joined { worker, answers } => self.join(now, worker, answers),
            Input::Applied { worker, revision } => _ = self.answered(worker, revision, Answer::Applied),
            Input::Refused {
                worker,
                revision,
                reason,
            } => self.refused(worker, revision, reason),
            Input::Gone { worker, died } => self.gone(worker, died),
        }
        self.advance(now);
    }

    /// Time passed.
    pub fn advance(&mut self, now: Instant) {
        self.expire(now);
        while self.settle(now) {}
        self.forget();
    }

    /// Call [`advance`](Self::advance) no later than this. After any call with `now` it is later than `now`.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Rest => None,
            Phase::Trial { until, .. } => *until,
            Phase::Return { until, .. } => Some(*until),
        };
        let members = self.members.values().filter_map(|member| match member.answer {
            Answer::Pending { until } => Some(until),
            _ => None,
        });
        members.chain(phase).min()
    }

    /// Something to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The highest number that was ever given out.
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// The last revision that nobody had refused when its trial was over, or that took the place of one that was.
    pub fn in_force(&self) -> Option<Revision> {
        self.good
    }

    /// What a worker that comes now gets.
    pub fn offered(&self) -> Option<Revision> {
        match self.phase {
            Phase::Trial { refusal: None, .. } => Some(self.newest),
            _ => self.good,
        }
    }

    /// Whether a push is under way and will be over without another: somebody is waited for.
    pub fn is_busy(&self) -> bool {
        match self.phase {
            Phase::Rest => false,
            Phase::Trial { until, .. } => until.is_some(),
            Phase::Return { .. } => true,
        }
    }

    /// How each worker stands to it.
    pub fn standings(&self) -> impl Iterator<Item = (WorkerId, Standing)> {
        self.members.iter().map(|(worker, member)| {
            let standing = match (member.sent, &member.answer) {
                (None, _) => Standing::Nothing,
                (Some(revision), Answer::None) => Standing::Told { revision },
                (Some(revision), Answer::Pending { .. }) => Standing::Pending { revision },
                (Some(revision), Answer::Applied) => Standing::Applied { revision },
                (Some(revision), Answer::Refused(reason)) => Standing::Refused {
                    revision,
                    reason: reason.clone(),
                },
                (Some(revision), Answer::Silent) => Standing::Unacknowledged { revision },
            };
            (*worker, standing)
        })
    }

    /// What a worker has applied last.
    pub fn applied(&self, worker: WorkerId) -> Option<Revision> {
        self.members.get(&worker)?.applied
    }

    fn push(&mut self, now: Instant, ticket: Ticket) {
        match &mut self.phase {
            Phase::Rest => self.announce(now, ticket),
            // Nobody has it, nobody ever needs to.
            Phase::Trial { ticket: old, .. } if self.members.is_empty() => {
                let event = Event::Superseded {
                    ticket: *old,
                    revision: self.newest,
                };
                self.emit(event);
                self.announce(now, ticket);
            }
            _ if self.queue.len() >= QUEUE => self.emit(Event::Busy { ticket }),
            phase => {
                // Whoever waits does not wait for others to boot.
                if let Phase::Trial { until: Some(until), .. } = phase {
                    *until = (*until).min(now + ANSWER);
                }
                self.queue.push_back(ticket);
            }
        }
    }

    fn announce(&mut self, now: Instant, ticket: Ticket) {
        self.make(Origin::Push(ticket));
        self.emit(Event::Pushed {
            ticket,
            revision: self.newest,
        });
        self.phase = Phase::Trial {
            ticket,
            until: (!self.members.is_empty()).then_some(now + ANSWER),
            refusal: None,
        };
        self.send_all(now);
    }

    /// A new number, and what stands under it.
    fn make(&mut self, origin: Origin) {
        self.newest = Revision(self.newest.0 + 1);
        self.kept.insert(self.newest);
        self.actions.push_back(Action::Make {
            revision: self.newest,
            origin,
        });
    }

    fn send_all(&mut self, now: Instant) {
        let revision = self.newest;
        for (worker, member) in &mut self.members {
            member.sent = Some(revision);
            if member.answers {
                let until = match member.answer {
                    // Still booting, or slow: it has the time that it had.
                    Answer::Pending { until } => Some(until.max(now + ANSWER)),
                    Answer::Silent if !member.takes_part => None,
                    _ => Some(now + ANSWER),
                };
                member.answer = until.map_or(Answer::Silent, |until| Answer::Pending { until });
            }
            self.actions.push_back(Action::Send {
                worker: *worker,
                revision,
            });
        }
    }

    fn join(&mut self, now: Instant, worker: WorkerId, answers: bool) {
        if self.members.contains_key(&worker) {
            return;
        }
        let offered = self.offered();
        let until = now + FIRST_ANSWER;
        if let Phase::Trial { until: over, .. } = &mut self.phase {
            over.get_or_insert(until);
        }
        let asked = answers && offered.is_some();
        if let (true, Some(revision)) = (asked, offered) {
            self.actions.push_back(Action::Send { worker, revision });
        }
        let member = Member {
            answers,
            takes_part: false,
            sent: offered,
            applied: None,
            answer: if asked { Answer::Pending { until } } else { Answer::None },
        };
        self.members.insert(worker, member);
    }

    /// Whether it was an answer to what the worker was sent last.
    fn answered(&mut self, worker: WorkerId, revision: Revision, answer: Answer) -> bool {
        let Some(member) = self.members.get_mut(&worker).filter(|member| member.answers) else {
            return false;
        };
        member.takes_part = true;
        let open = matches!(member.answer, Answer::Pending { .. } | Answer::Silent);
        if !open || member.sent != Some(revision) {
            return false;
        }
        let applied = answer == Answer::Applied;
        if applied {
            member.applied = Some(revision);
        }
        member.answer = answer;
        if applied {
            self.emit(Event::Applied { worker, revision });
        }
        true
    }

    fn refused(&mut self, worker: WorkerId, revision: Revision, reason: String) {
        if !self.answered(worker, revision, Answer::Refused(reason.clone())) {
            return;
        }
        match &self.phase {
            Phase::Trial { .. } if revision == self.newest => self.object(worker, reason),
            _ => self.emit(Event::Declined {
                worker,
                revision,
                reason,
            }),
        }
    }

    /// The revision on trial is refused.
    fn object(&mut self, worker: WorkerId, reason: String) {
        if let Phase::Trial { refusal, .. } = &mut self.phase
            && refusal.is_none()
        {
            *refusal = Some((worker, reason));
            self.actions.push_back(Action::Offer { revision: self.good });
        }
    }

    fn gone(&mut self, worker: WorkerId, died: bool) {
        let Some(member) = self.members.remove(&worker) else {
            return;
        };
        if died && member.takes_part && member.is_pending() && member.sent == Some(self.newest) {
            self.object(worker, "it died before it answered".into());
        }
        if let Phase::Trial { until, .. } = &mut self.phase
            && self.members.is_empty()
        {
            *until = None;
        }
    }

    /// Who has not answered in time is not waited for any more.
    fn expire(&mut self, now: Instant) {
        let over = match &self.phase {
            Phase::Return { until, .. } | Phase::Trial { until: Some(until), .. } => now >= *until,
            _ => false,
        };
        for (worker, member) in &mut self.members {
            let Answer::Pending { until } = member.answer else {
                continue;
            };
            // One that has only just been started is given its time, but nobody waits for it.
            if until <= now || (over && member.takes_part) {
                member.answer = Answer::Silent;
                if let Some(revision) = member.sent {
                    self.actions.push_back(Action::Emit(Event::Unanswered {
                        worker: *worker,
                        revision,
                    }));
                }
            }
        }
    }

    /// Goes on to the next phase, if this one is over.
    fn settle(&mut self, now: Instant) -> bool {
        let waits = |until: Instant| now < until && self.members.values().any(Member::is_pending);
        match &mut self.phase {
            Phase::Rest => match self.queue.pop_front() {
                Some(ticket) => self.announce(now, ticket),
                None => return false,
            },
            Phase::Trial { ticket, until, refusal } => {
                let ticket = *ticket;
                let refusal = match (*until, refusal.take()) {
                    (None, None) if self.queue.is_empty() => return false,
                    (None, None) => {
                        // Whoever was waited for is gone, and nobody else has it.
                        let event = Event::Superseded {
                            ticket,
                            revision: self.newest,
                        };
                        self.emit(event);
                        self.phase = Phase::Rest;
                        return true;
                    }
                    (Some(at), known) if waits(at) => {
                        *refusal = known;
                        return false;
                    }
                    (_, known) => known,
                };
                match refusal {
                    None => self.succeed(ticket),
                    Some((worker, reason)) => self.roll_back(now, ticket, worker, reason),
                }
            }
            Phase::Return { until, .. } if waits(*until) => return false,
            Phase::Return { ticket, .. } => {
                let ticket = *ticket;
                self.phase = Phase::Rest;
                let revision = self.newest;
                self.emit(Event::Returned { ticket, revision });
            }
        }
        true
    }

    fn succeed(&mut self, ticket: Ticket) {
        self.good = Some(self.newest);
        self.phase = Phase::Rest;
        let mut tally = Tally::default();
        for member in self.members.values() {
            match member.answer {
                Answer::Applied => tally.applied += 1,
                Answer::None => tally.told += 1,
                _ => tally.unacknowledged += 1,
            }
        }
        let revision = self.newest;
        self.emit(Event::InForce {
            ticket,
            revision,
            tally,
        });
    }

    fn roll_back(&mut self, now: Instant, ticket: Ticket, worker: WorkerId, reason: String) {
        let revision = self.newest;
        let refused = |back| Event::Refused {
            ticket,
            revision,
            worker,
            reason,
            back,
        };
        let Some(good) = self.good else {
            self.emit(refused(None));
            self.phase = Phase::Rest;
            return;
        };
        self.make(Origin::Revision(good));
        self.emit(refused(Some(self.newest)));
        self.good = Some(self.newest);
        self.phase = Phase::Return {
            ticket,
            until: now + ANSWER,
        };
        self.send_all(now);
    }

    /// Lets go of contents that nobody needs any more.
    fn forget(&mut self) {
        let mut needed: BTreeSet<_> = self.good.into_iter().chain(self.offered()).collect();
        for member in self.members.values() {
            match member.answer {
                Answer::Pending { .. } => needed.extend(member.sent.into_iter().chain(member.applied)),
                Answer::Applied | Answer::Refused(_) => needed.extend(member.applied),
                Answer::None | Answer::Silent => {}
            }
        }
        for revision in self.kept.difference(&needed) {
            self.actions.push_back(Action::Forget { revision: *revision });
        }
        self.kept.retain(|revision| needed.contains(revision));
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Emit(event));
    }
}
