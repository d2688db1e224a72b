//! Workers, what they were sent and what they use; and the laws.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Not;
use std::time::{Duration, Instant};

use thead_core::data::{Action, Event, Input, Origin, Piece, Standing};
use thead_core::id::{Revision, Ticket, WorkerId};

/// What a push brings: worse ones are refused by more workers.
pub(crate) type Badness = u8;

/// What a worker makes of what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Answers; refuses what is at least this bad.
    Refuses(Badness),
    /// Has a channel, and does not know of revisions.
    Unmodified,
    /// Has no channel.
    Files,
}

pub(crate) const CONTENT: Program = Program::Refuses(Badness::MAX);

#[derive(Debug)]
pub(crate) struct Worker {
    program: Program,
    /// Sent and not read yet.
    inbox: VecDeque<Revision>,
    seen: Option<Revision>,
    pub(crate) uses: Option<Revision>,
    answered: bool,
    /// It has just come, or has not answered in time, and has not caught up since.
    late: bool,
    refused: BTreeSet<Revision>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) piece: Piece,
    pub(crate) now: Instant,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    last_worker: u32,
    last_ticket: u64,
    pushes: BTreeMap<Ticket, Badness>,
    pub(crate) contents: BTreeMap<Revision, Badness>,
    /// All that ever were, for the history.
    history: BTreeMap<Revision, Badness>,
    /// The number under which a content came first.
    firsts: BTreeMap<Revision, Revision>,
    newest: Revision,
    /// What a program without a channel would find.
    found: Option<Revision>,
    answered: BTreeSet<Ticket>,
    pub(crate) events: Vec<Event>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::after(Revision(0), None)
    }

    pub(crate) fn after(newest: Revision, in_force: Option<Revision>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to count from")]
        let now = Instant::now();
        let contents: BTreeMap<_, _> = in_force.map(|revision| (revision, 0)).into_iter().collect();
        Self {
            piece: Piece::new(newest, in_force),
            now,
            workers: BTreeMap::new(),
            last_worker: 0,
            last_ticket: 0,
            pushes: BTreeMap::new(),
            history: contents.clone(),
            contents,
            firsts: in_force.map(|revision| (revision, revision)).into_iter().collect(),
            newest,
            found: in_force,
            answered: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.piece.input(self.now, input);
        self.obey();
    }

    pub(crate) fn push(&mut self, badness: Badness) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.pushes.insert(ticket, badness);
        self.input(Input::Push { ticket });
        ticket
    }

    pub(crate) fn join(&mut self, program: Program) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let worker = Worker {
            program,
            inbox: VecDeque::new(),
            seen: None,
            uses: None,
            answered: false,
            late: true,
            refused: BTreeSet::new(),
        };
        self.workers.insert(id, worker);
        let answers = program != Program::Files;
        self.input(Input::Joined { worker: id, answers });
        let sent = self.workers[&id].inbox.back().copied();
        if answers {
            assert_eq!(
                sent,
                self.piece.offered(),
                "a newcomer gets what is offered, before anything else"
            );
        } else {
            assert_eq!(sent, None, "it finds it by itself");
        }
        id
    }

    /// A worker reads the next thing that it was sent, and does what it does.
    pub(crate) fn read(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(revision) = worker.inbox.pop_front() else {
            return;
        };
        assert!(worker.seen < Some(revision), "what a worker sees only grows");
        worker.seen = Some(revision);
        // A driver that lets go of what was sent is a driver whose worker reads nothing. Only silent ones may find it gone.
        let Some(badness) = self.contents.get(&revision).copied() else {
            let standing = self.standing(id);
            assert!(
                matches!(standing, Standing::Unacknowledged { .. }) || standing.revision() > Some(revision),
                "what a worker is to read is kept"
            );
            return;
        };
        match worker.program {
            Program::Refuses(limit) if badness >= limit => {
                worker.answered = true;
                worker.refused.insert(revision);
                let reason = "too bad".to_owned();
                self.input(Input::Refused {
                    worker: id,
                    revision,
                    reason,
                });
            }
            Program::Refuses(_) => {
                (worker.uses, worker.answered) = (Some(revision), true);
                worker.late &= worker.inbox.is_empty().not();
                self.input(Input::Applied { worker: id, revision });
            }
            Program::Unmodified | Program::Files => worker.uses = Some(revision),
        }
    }

    /// Everybody reads all that there is, until nothing more comes.
    pub(crate) fn read_all(&mut self) {
        loop {
            let waiting = self.workers.iter().find(|(_, worker)| !worker.inbox.is_empty());
            let Some(id) = waiting.map(|(id, _)| *id) else { return };
            self.read(id);
        }
    }

    pub(crate) fn gone(&mut self, worker: WorkerId, died: bool) {
        self.workers.remove(&worker);
        self.input(Input::Gone { worker, died });
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.piece.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.piece.advance(at);
            self.obey();
        }
        self.now = end;
        self.piece.advance(end);
        self.obey();
    }

    /// Nothing more happens. Fails if it does for ever.
    pub(crate) fn rest(&mut self) {
        let mut rounds = 0;
        while let Some(at) = self.piece.deadline() {
            rounds += 1;
            assert!(rounds < 200, "comes to rest");
            self.read_all();
            if let Some(still) = self.piece.deadline() {
                self.now = self.now.max(at.min(still));
                self.piece.advance(self.now);
                self.obey();
            }
        }
        self.read_all();
    }

    pub(crate) fn standing(&self, worker: WorkerId) -> Standing {
        let mut standings = self.piece.standings();
        standings.find(|(id, _)| *id == worker).unwrap().1
    }

    /// What a worker uses, as it was pushed.
    pub(crate) fn content(&self, worker: WorkerId) -> Option<Badness> {
        self.workers[&worker].uses.map(|revision| self.history[&revision])
    }

    pub(crate) fn content_in_force(&self) -> Option<Badness> {
        self.piece.in_force().map(|revision| self.history[&revision])
    }

    fn obey(&mut self) {
        while let Some(action) = self.piece.poll() {
            match action {
                Action::Make { revision, origin } => {
                    assert_eq!(revision.0, self.newest.0 + 1, "numbers grow by one");
                    self.newest = revision;
                    self.found = Some(revision);
                    let badness = match origin {
                        Origin::Push(ticket) => self.pushes[&ticket],
                        Origin::Revision(old) => self.contents[&old],
                    };
                    let first = match origin {
                        Origin::Push(_) => revision,
                        Origin::Revision(old) => self.firsts[&old],
                    };
                    self.firsts.insert(revision, first);
                    self.contents.insert(revision, badness);
                    self.history.insert(revision, badness);
                }
                Action::Send { worker, revision } => {
                    assert!(self.contents.contains_key(&revision), "what is sent is kept");
                    let worker = self.workers.get_mut(&worker).unwrap();
                    assert!(worker.inbox.back() < Some(&revision) && worker.seen < Some(revision));
                    if worker.program == Program::Files {
                        worker.uses = Some(revision);
                    } else {
                        worker.inbox.push_back(revision);
                    }
                }
                Action::Offer { revision } => self.found = revision,
                Action::Forget { revision } => {
                    assert!(self.contents.remove(&revision).is_some(), "forgotten once");
                }
                Action::Emit(event) => self.event(event),
            }
        }
        self.check();
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::InForce { ticket, revision, .. } => {
                self.answer(*ticket);
                for (id, worker) in &self.workers {
                    let refused = worker.refused.contains(revision);
                    assert!(!refused, "{id} has refused what is in force, {event:?}");
                }
            }
            Event::Refused { ticket, revision, .. } => {
                self.answer(*ticket);
                assert!(self.piece.in_force() != Some(*revision));
            }
            Event::Superseded { ticket, .. } | Event::Busy { ticket } => self.answer(*ticket),
            Event::Returned { revision, .. } => {
                for (id, worker) in &self.workers {
                    let waited_for = worker.answered && !worker.late && worker.program != Program::Files;
                    assert!(!waited_for || worker.seen >= Some(*revision), "{id}: {worker:?}");
                }
            }
            Event::Unanswered { worker, .. } => self.workers.get_mut(worker).unwrap().late = true,
            _ => {}
        }
        self.events.push(event);
    }

    fn answer(&mut self, ticket: Ticket) {
        assert!(self.answered.insert(ticket), "a push is answered once");
    }

    fn check(&self) {
        let newest = self.piece.newest();
        assert_eq!(newest, self.newest);
        assert_eq!(self.found, self.piece.offered());
        assert!(
            self.piece.deadline().is_none_or(|at| at > self.now),
            "no deadline is in the past"
        );
        for (id, standing) in self.piece.standings() {
            let worker = &self.workers[&id];
            // Who takes part, has answered in time, and never refused what was good for the others, is never two behind.
            let one_before = Revision(newest.0.saturating_sub(1));
            // Who came after a refusal has had all the while what all have now.
            let near =
                |revision: Revision| revision >= one_before || self.firsts.get(&revision) == self.firsts.get(&newest);
            match standing {
                Standing::Applied { revision } => {
                    assert_eq!(worker.uses, Some(revision));
                    assert!(
                        near(revision) || self.piece.offered().is_none(),
                        "{id} is at {revision} of {newest}"
                    );
                }
                Standing::Pending { revision } if worker.answered => {
                    assert!(revision >= one_before);
                    let fine = worker.refused.is_empty() && worker.uses.is_some() && !worker.late;
                    assert!(
                        !fine || worker.uses.is_some_and(near),
                        "{id} uses {:?} of {newest}",
                        worker.uses
                    );
                }
                Standing::Unacknowledged { .. } => {}
                _ => {}
            }
        }
        assert!(
            self.contents.len() <= 2 + self.workers.len(),
            "what is kept is bounded: {:?}",
            self.contents
        );
        let unanswered = self
            .pushes
            .keys()
            .filter(|ticket| !self.answered.contains(ticket))
            .count();
        assert!(unanswered <= thead_core::data::QUEUE + 1);
    }
}
