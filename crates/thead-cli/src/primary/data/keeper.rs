//! Who looks after one piece: reads its file, has it checked, keeps it on disk, pushes it, and notes what became of it. One thing
//! after the other.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use thead::control::{DataOutcome, DataRevision, DataState, Problem};
use thead::data::{Change, Content, Made, Piece, PushError, Pushing, Revision, Tally};
use thead::service::Operator;
use tokio::sync::{Notify, mpsc, oneshot};

use super::check::{Check, PATIENCE, check};
use super::files;
use super::history::History;
use super::source::{self, Shown};
use super::{Noted, Say};
use crate::config::{Argv, Form, Name};
use crate::role::Ask;

/// What a piece is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) name: Name,
    /// Absolute; none of a piece that is only pushed by hand.
    pub(super) file: Option<PathBuf>,
    pub(super) form: Form,
    pub(super) check: Option<Argv>,
    /// For programs without a channel.
    pub(super) signal: Option<i32>,
    /// Where checks run.
    pub(super) cwd: PathBuf,
    /// That of all of the service's data.
    pub(super) dir: PathBuf,
}

/// The ending of the directory of a piece's history.
pub(super) const PIECE: &str = ".piece";
/// Where programs without a channel find all pieces.
pub(super) const FILES: &str = "files";

impl Plan {
    fn history(&self) -> PathBuf {
        self.dir.join(format!("{}{PIECE}", self.name))
    }

    /// No piece is called so: their names begin with a letter or a digit.
    fn scratch(&self) -> PathBuf {
        self.dir.join(format!(".{}", self.name))
    }

    fn files(&self) -> PathBuf {
        self.dir.join(FILES)
    }
}

/// What a keeper is told.
#[derive(Debug)]
pub(super) enum Job {
    /// It is configured otherwise.
    Configure(Box<Plan>),
    Ask(Ask, oneshot::Sender<Answer>),
    /// The piece is no more. Its history is kept, unless somebody wants it gone.
    Close {
        forget: bool,
    },
}

pub(super) type Answer = Result<Value, Problem>;

/// What others see of a piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) revisions: Vec<DataRevision>,
    pub(super) problem: Option<String>,
}

/// What a service begins with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) newest: Revision,
    pub(super) in_force: Option<(Revision, Content)>,
    /// To be pushed at once; it is kept already.
    pub(super) push: Option<Content>,
}

/// What a keeper is connected with.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    pub(super) changes: mpsc::UnboundedReceiver<Noted>,
    /// The file may be another.
    pub(super) look: Arc<Notify>,
    pub(super) says: mpsc::UnboundedSender<Say>,
    pub(super) seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) plan: Plan,
    ends: Ends,
    history: Arc<Mutex<History>>,
    /// Came while a push was under way.
    waiting: VecDeque<Job>,
    /// The worker that refused last, as people know it.
    refuser: Option<String>,
    begun: bool,
}

/// New data.
#[derive(Debug)]
pub(super) struct New {
    pub(super) content: Content,
    pub(super) from: String,
    /// If it is what the configured file has.
    pub(super) digest: Option<u64>,
    /// The revision that it is the content of.
    pub(super) of: Option<Revision>,
}

impl Keeper {
    /// Finds what is there of a piece, and reads its file: what a service begins with.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) async fn open(plan: Plan, ends: Ends) -> io::Result<(Self, Start)> {
        let (name, dir) = (plan.name.to_string(), plan.history());
        let found = tokio::task::spawn_blocking(move || History::open(&name, &dir));
        let found = found.await.map_err(io::Error::other)??;
        let keeper = Self {
            plan,
            ends,
            history: Arc::new(Mutex::new(found.history)),
            waiting: VecDeque::new(),
            refuser: None,
            begun: false,
        };
        if let Some(damage) = found.damage {
            keeper.tell("data_damaged", true, damage);
        }
        let again = found.again.map(|(content, from, digest)| New {
            content,
            from,
            digest,
            of: None,
        });
        let trial = again.as_ref().and_then(|new| new.digest);
        // The file is newer than what was on trial when everything ended.
        let new = match keeper.read(trial).await {
            Some(new) => Some(new),
            None => again,
        };
        let mut push = None;
        if let Some(new) = new {
            push = keeper.keep(&new).await.is_ok().then_some(new.content);
        }
        let offered = push
            .as_ref()
            .or(found.in_force.as_ref().map(|(_, content)| content))
            .cloned();
        keeper.show_file(offered).await;
        keeper.publish();
        let start = Start {
            newest: found.newest,
            in_force: found.in_force,
            push,
        };
        Ok((keeper, start))
    }

    /// Looks after the piece until it is closed, or the service has ended. `first`: what was pushed already.
    pub(super) async fn run(mut self, operator: Operator, first: Option<Pushing>) {
        if let Some(first) = first {
            self.settle(first).await;
        }
        self.begun = true;
        loop {
            let job = match self.waiting.pop_front() {
                Some(job) => Some(job),
                None => tokio::select! {
                    biased;
                    Some(noted) = self.ends.changes.recv() => {
                        self.note(noted).await;
                        continue;
                    }
                    job = self.ends.jobs.recv() => job,
                    () = self.ends.look.notified() => {
                        self.look(&operator).await;
                        continue;
                    }
                },
            };
            match job {
                Some(Job::Configure(plan)) => {
                    self.plan = *plan;
                    self.look(&operator).await;
                }
                Some(Job::Ask(ask, reply)) => {
                    let answer = self.ask(&operator, ask).await;
                    // Whoever does not wait does not want to know.
                    let _ = reply.send(answer);
                }
                Some(Job::Close { forget }) => {
                    let close = if forget { History::delete } else { History::close };
                    let done = self.disk(close).await;
                    self.complain("could not be closed", done);
                    let (dir, name) = (self.plan.files(), self.plan.name.to_string());
                    let removed = self.blocking(move || files::remove(&dir, &name)).await;
                    self.complain("could not be taken away from the programs' files", removed);
                    return;
                }
                None => return,
            }
        }
    }

    pub(super) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    pub(super) async fn disk<T: Send + 'static>(&self, work: impl FnOnce(&mut History) -> T + Send + 'static) -> T {
        let history = self.history.clone();
        self.blocking(move || work(&mut history.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
    }

    /// For what takes no time.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, say: Say) {
        // The primary is there for as long as this is.
        let _ = self.ends.says.send(say);
    }

    fn tell(&self, kind: &'static str, bad: bool, text: impl std::fmt::Display) {
        self.tell_with(kind, bad, text, json!({}));
    }

    fn tell_with(&self, kind: &'static str, bad: bool, text: impl std::fmt::Display, mut details: Value) {
        details["data"] = self.plan.name.to_string().into();
        let text = format!("data {}: {text}", self.plan.name);
        self.say(Say::Event {
            kind,
            bad,
            text,
            details,
        });
    }

    fn complain(&self, what: &str, done: io::Result<()>) {
        if let Err(error) = done {
            self.tell("warning", true, format!("{what}: {error}"));
        }
    }

    fn publish(&self) {
        let revisions = self.with(|history| history.revisions());
        self.ends.seen.lock().unwrap_or_else(PoisonError::into_inner).revisions = revisions;
        self.say(Say::Changed);
    }

    /// Why the file is not what is pushed; told once.
    fn trouble(&self, text: Option<String>) {
        let mut seen = self.ends.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::replace(&mut seen.problem, text.clone()) == text;
        let stays = seen.revisions.iter().find(|about| about.state == DataState::InForce);
        let stays = stays.map_or_else(
            || "nothing is pushed".into(),
            |about| format!("revision {} stays", about.revision),
        );
        drop(seen);
        if let (Some(text), false) = (text, known) {
            self.tell("data_broken", true, format!("{text}; {stays}"));
        }
        if !known {
            self.say(Say::Changed);
        }
    }

    /// What the file has, if it is new, and may be pushed. `trial`: the digest of what is to be pushed anyway.
    async fn read(&self, trial: Option<u64>) -> Option<New> {
        let file = self.plan.file.clone()?;
        let (name, form) = (self.plan.name.to_string(), self.plan.form);
        let path = file.clone();
        let found = match self.blocking(move || source::read(&name, &path, form)).await {
            Ok(found) => found,
            Err(text) => {
                self.trouble(Some(text));
                return None;
            }
        };
        let digest = Some(found.digest);
        if digest == trial || self.with(|history| history.has_file(found.digest)) {
            self.trouble(None);
            return None;
        }
        if let Err(text) = self.check(found.shown, &found.content).await {
            self.trouble(Some(text));
            return None;
        }
        Some(New {
            content: found.content,
            from: file.display().to_string(),
            digest,
            of: None,
        })
    }

    async fn look(&mut self, operator: &Operator) {
        if let Some(new) = self.read(None).await {
            let outcome = self.push(operator, new).await;
            self.trouble((!outcome.ok).then_some(outcome.text));
        }
    }

    async fn check(&self, shown: Shown, content: &Content) -> Result<(), String> {
        let Some(words) = &self.plan.check else {
            return Ok(());
        };
        let one = Check {
            words: words.words(),
            cwd: &self.plan.cwd,
            scratch: &self.plan.scratch(),
            patience: PATIENCE,
        };
        check(one, shown, content).await
    }

    async fn keep(&self, new: &New) -> Result<(), String> {
        let (content, from) = (new.content.clone(), new.from.clone());
        let (digest, of) = (new.digest, new.of);
        let kept = self
            .disk(move |history| history.keep(&content, &from, digest, of))
            .await;
        kept.map_err(|error| {
            let text = format!("it cannot be kept on disk: {error}");
            self.trouble(Some(text.clone()));
            text
        })
    }

    async fn push(&mut self, operator: &Operator, new: New) -> DataOutcome {
        if let Err(text) = self.keep(&new).await {
            return self.not_pushed(text);
        }
        let pushing = operator.push(self.plan.name.as_str(), new.content);
        self.settle(pushing).await
    }

    /// Waits for the end of a push; questions are answered meanwhile.
    async fn settle(&mut self, mut pushing: Pushing) -> DataOutcome {
        let outcome = loop {
            tokio::select! {
                biased;
                Some(noted) = self.ends.changes.recv() => self.note(noted).await,
                outcome = &mut pushing => break outcome,
                Some(job) = self.ends.jobs.recv() => match job {
                    Job::Ask(ask @ (Ask::Get { .. } | Ask::History { .. }), reply) => {
                        let answer = self.answer(ask).await;
                        let _ = reply.send(answer);
                    }
                    job => self.waiting.push_back(job),
                },
            }
        };
        let revision = match &outcome {
            Ok(pushed) => Some(pushed.revision),
            Err(PushError::Refused { revision, .. }) => Some(*revision),
            Err(_) => None,
        };
        let tried = !matches!(&outcome, Ok(pushed) if pushed.tally == Tally::default());
        match revision {
            // What the service has told of it is on its way.
            Some(revision) => {
                while !self.with(|history| history.knows(revision, tried))
                    && let Some(noted) = self.ends.changes.recv().await
                {
                    self.note(noted).await;
                }
            }
            None => {
                let dropped = self.disk(History::drop_candidate).await;
                self.complain("its history could not be kept on disk", dropped);
            }
        }
        self.words(outcome)
    }

    fn words(&mut self, outcome: Result<thead::data::Pushed, PushError>) -> DataOutcome {
        let mut told = DataOutcome {
            name: self.plan.name.to_string(),
            ..DataOutcome::default()
        };
        match outcome {
            Ok(pushed) => {
                (told.ok, told.revision) = (true, Some(pushed.revision.0));
                let Tally {
                    applied,
                    unacknowledged,
                    told: without,
                } = pushed.tally;
                (told.applied, told.unacknowledged, told.told) = (applied, unacknowledged, without);
                told.text = in_force(pushed.revision, pushed.tally);
            }
            Err(PushError::Refused {
                revision,
                worker,
                reason,
                back,
            }) => {
                (told.revision, told.back) = (Some(revision.0), back.map(|back| back.0));
                let who = self.refuser.take().unwrap_or_else(|| format!("worker {worker}"));
                told.text = refused(revision, &who, &reason, back);
            }
            Err(error) => told.text = format!("not pushed: {error}"),
        }
        told
    }

    async fn note(&mut self, Noted { change, who }: Noted) {
        let worker = |id: thead::core::id::WorkerId| who.clone().unwrap_or_else(|| format!("worker {id}"));
        match change {
            Change::Made(Made {
                revision,
                content,
                again,
            }) => {
                self.with(|history| match again {
                    None => history.begin(revision),
                    Some(old) => history.again(revision, old),
                });
                self.show_file(Some(content)).await;
                // What was there before the first worker needs no signal.
                if let Some(signal) = self.plan.signal
                    && self.begun
                {
                    self.say(Say::Written { signal });
                }
            }
            Change::Offered(content) => self.show_file(content).await,
            Change::Told(Piece::InForce { revision, tally, .. }) => {
                self.end(revision, DataState::InForce, None).await;
                let details = json!({ "revision": revision.0, "applied": tally.applied });
                self.tell_with("data_in_force", false, in_force(revision, tally), details);
            }
            Change::Told(Piece::Refused {
                revision,
                worker: id,
                reason,
                back,
                ..
            }) => {
                self.end(revision, DataState::Refused, Some(format!("{}: {reason}", worker(id))))
                    .await;
                let details = json!({ "revision": revision.0, "worker": id.0, "reason": reason, "back": back.map(|back| back.0) });
                let text = refused(revision, &worker(id), &reason, back);
                self.tell_with("data_refused", true, text, details);
                self.refuser = Some(worker(id));
            }
            Change::Told(Piece::Superseded { revision, .. }) => self.end(revision, DataState::Superseded, None).await,
            Change::Told(Piece::Declined {
                worker: id,
                revision,
                reason,
            }) => {
                let text = format!(
                    "{} refused revision {revision}, which the others have: {reason}",
                    worker(id)
                );
                let details = json!({ "revision": revision.0, "worker": id.0, "reason": reason });
                self.tell_with("data_declined", true, text, details);
            }
            Change::Told(Piece::Unanswered { worker: id, revision }) => {
                let text = format!("{} has not said whether it has applied revision {revision}", worker(id));
                let details = json!({ "revision": revision.0, "worker": id.0 });
                self.tell_with("data_unanswered", false, text, details);
            }
            _ => {}
        }
        self.publish();
    }

    async fn end(&self, revision: Revision, state: DataState, reason: Option<String>) {
        let saved = self.disk(move |history| history.end(revision, state, reason)).await;
        self.complain("its history could not be kept on disk", saved);
    }

    /// What programs without a channel find.
    async fn show_file(&self, content: Option<Content>) {
        let (dir, name) = (self.plan.files(), self.plan.name.to_string());
        let done = self.blocking(move || match content {
            Some(content) => files::put(&dir, &name, &content),
            None => files::remove(&dir, &name),
        });
        let done = done.await;
        self.complain("the file for programs without a channel could not be replaced", done);
    }

    async fn ask(&mut self, operator: &Operator, ask: Ask) -> Answer {
        let (new, shown) = match ask {
            Ask::Push { push, .. } => self.pushed(*push).await?,
            Ask::Rollback { to, .. } => (self.older(to.map(Revision)).await?, None),
            Ask::Status | Ask::Get { .. } | Ask::History { .. } | Ask::Delete { .. } => return self.answer(ask).await,
        };
        let of_file = new.digest.is_some();
        let checked = match shown {
            Some(shown) => self.check(shown, &new.content).await,
            // It was in force, or was checked then.
            None => Ok(()),
        };
        let outcome = match checked {
            Ok(()) => self.push(operator, new).await,
            Err(text) => self.not_pushed(text),
        };
        if outcome.ok && of_file {
            self.trouble(None);
        }
        Ok(to_json(&outcome))
    }

    fn not_pushed(&self, text: String) -> DataOutcome {
        DataOutcome {
            name: self.plan.name.to_string(),
            text,
            ..DataOutcome::default()
        }
    }
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn in_force(revision: Revision, tally: Tally) -> String {
    let workers = |count: usize| {
        if count == 1 {
            "1 worker".to_owned()
        } else {
            format!("{count} workers")
        }
    };
    let mut said = Vec::new();
    if tally.applied > 0 {
        said.push(format!("{} applied it", workers(tally.applied)));
    }
    if tally.told > 0 {
        said.push(format!("{} can read it", workers(tally.told)));
    }
    if tally.unacknowledged > 0 {
        said.push(format!("{} said nothing", workers(tally.unacknowledged)));
    }
    match said.is_empty() {
        true => format!("revision {revision} waits for a worker that tries it"),
        false => format!("revision {revision} is in force: {}", said.join(", ")),
    }
}

fn refused(revision: Revision, who: &str, reason: &str, back: Option<Revision>) -> String {
    let end = match back {
        Some(back) => format!("what was in force is so again, as revision {back}"),
        None => "nothing was in force before".into(),
    };
    format!("{who} refused revision {revision}: {reason}; {end}")
}
