//! The data that a service pushes to its workers: from files that are watched, and from operators.
//!
//! Each piece has a keeper, a task of its own. The service itself knows only contents and numbers; here they are read, checked,
//! kept on disk and remembered.

mod ask;
mod check;
mod files;
mod history;
mod keeper;
mod source;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use thead::control::{DataOutcome, DataPiece, DataRevision, DataState, DataWorker, Problem};
use thead::core::id::WorkerId;
use thead::core::worker::Phase;
use thead::data::{Change, Content, Event, Piece, Revision, Standing};
use thead::service::{Operator, Service};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::config::{Form, Name};
use crate::role::{Ask, Spec};
use crate::told::problem;
use keeper::{Answer, Ends, FILES, Job, Keeper, PIECE, Plan, Seen, Start, to_json};
use watch::Watch;

/// Questions of operators that may wait for an answer.
const ASKED: usize = 64;

/// Where programs without a channel find all pieces of a service.
pub(crate) fn files_dir(data_dir: &Path) -> PathBuf {
    data_dir.join(FILES)
}

/// All pieces of one service.
#[derive(Debug)]
pub(super) struct Hot {
    pieces: BTreeMap<String, Held>,
    /// Keepers of pieces that are no more, which may still be at it.
    closing: BTreeMap<String, JoinHandle<()>>,
    watch: Watch,
    complaints: mpsc::UnboundedReceiver<String>,
    says: (mpsc::UnboundedSender<Say>, mpsc::UnboundedReceiver<Say>),
    asked: JoinSet<(u64, Answer)>,
    dir: PathBuf,
    cwd: PathBuf,
    /// Its workers have no channel.
    mute: bool,
    /// How often a file for them was replaced, and the last signal for it.
    written: (u64, Option<i32>),
    /// Which count workers were started with.
    since: HashMap<WorkerId, u64>,
}

/// What is held of a keeper.
#[derive(Debug)]
struct Held {
    plan: Plan,
    jobs: mpsc::UnboundedSender<Job>,
    changes: mpsc::UnboundedSender<Noted>,
    look: Arc<Notify>,
    seen: Arc<Mutex<Seen>>,
    task: Option<JoinHandle<()>>,
}

/// What the service has told, and the worker that it is about as people know it.
#[derive(Debug)]
pub(super) struct Noted {
    change: Change,
    who: Option<String>,
}

/// What a keeper tells.
#[derive(Debug)]
pub(super) enum Say {
    Event {
        kind: &'static str,
        bad: bool,
        text: String,
        details: Value,
    },
    /// The file of programs without a channel has been replaced.
    Written { signal: i32 },
    /// How it stands.
    Changed,
    /// A piece that came later is ready to be opened.
    Open {
        name: String,
        newest: Revision,
        in_force: Option<(Revision, Content)>,
        opened: oneshot::Sender<()>,
    },
}

/// What [`Hot::next`] brings.
#[derive(Debug)]
pub(super) enum Heard {
    Said(Say),
    Answered(u64, Answer),
}

/// A piece that is ready when its service is.
#[derive(Debug)]
pub(super) struct Ready {
    keeper: Keeper,
    start: Start,
}

impl Hot {
    /// Reads all that there is, before a worker is started. Takes as long as the slowest check.
    ///
    /// # Errors
    /// Of the file system. What is wrong with a single piece is told later.
    pub(super) async fn open(spec: &Spec, mute: bool) -> io::Result<(Self, Vec<Ready>)> {
        let (complain, complaints) = mpsc::unbounded_channel();
        let mut hot = Self {
            pieces: BTreeMap::new(),
            closing: BTreeMap::new(),
            watch: Watch::new(complain),
            complaints,
            says: mpsc::unbounded_channel(),
            asked: JoinSet::new(),
            dir: spec.data_dir.clone(),
            cwd: cwd_of(spec),
            mute,
            written: (0, None),
            since: HashMap::new(),
        };
        let dir = spec.data_dir.clone();
        let known = tokio::task::spawn_blocking(move || {
            match std::fs::create_dir(files_dir(&dir)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            on_disk(&dir)
        });
        let mut plans = hot.plans(spec);
        for name in known.await.map_err(io::Error::other)?? {
            plans.entry(name.to_string()).or_insert_with(|| hot.plan(name));
        }
        let mut opening = JoinSet::new();
        for plan in plans.into_values() {
            let ends = hot.hold(&plan);
            opening.spawn(async move { (plan.name.clone(), Keeper::open(plan, ends).await) });
        }
        let mut ready = Vec::new();
        while let Some(opened) = opening.join_next().await {
            match opened.map_err(io::Error::other)? {
                (_, Ok((keeper, start))) => ready.push(Ready { keeper, start }),
                (name, Err(error)) => hot.lose(&name, &error),
            }
        }
        hot.follow();
        Ok((hot, ready))
    }

    /// Gives a service what there is, before its first worker.
    pub(super) fn begin(&mut self, service: &mut Service, ready: Vec<Ready>) {
        for Ready { keeper, start } in ready {
            let name = keeper.plan.name.to_string();
            if let Err(error) = service.open_data(&name, start.newest, start.in_force) {
                self.lose(&keeper.plan.name, &io::Error::other(error));
                continue;
            }
            let first = start.push.map(|content| service.push(&name, content));
            let task = tokio::spawn(keeper.run(service.operator(), first));
            if let Some(held) = self.pieces.get_mut(&name) {
                held.task = Some(task);
            }
        }
    }

    fn lose(&mut self, name: &Name, error: &io::Error) {
        self.pieces.remove(name.as_str());
        let _ = self.says.0.send(Say::Event {
            kind: "data_broken",
            bad: true,
            text: format!("data {name}: cannot be pushed: {error}"),
            details: Value::Null,
        });
    }

    fn plans(&self, spec: &Spec) -> BTreeMap<String, Plan> {
        let plans = spec.config.data.iter().map(|(name, data)| {
            let plan = Plan {
                file: Some(spec.base.join(&data.file)),
                form: data.form,
                check: data.check.clone(),
                signal: data.signal.map(|signal| signal.number()).filter(|_| self.mute),
                ..self.plan(name.clone())
            };
            (name.to_string(), plan)
        });
        plans.collect()
    }

    /// Of a piece that is only pushed by hand.
    fn plan(&self, name: Name) -> Plan {
        Plan {
            name,
            file: None,
            form: Form::Auto,
            check: None,
            signal: None,
            cwd: self.cwd.clone(),
            dir: self.dir.clone(),
        }
    }

    fn hold(&mut self, plan: &Plan) -> Ends {
        let (jobs, taken) = mpsc::unbounded_channel();
        let (changes, noted) = mpsc::unbounded_channel();
        let (look, seen) = (Arc::new(Notify::new()), Arc::default());
        let ends = Ends {
            jobs: taken,
            changes: noted,
            look: look.clone(),
            says: self.says.0.clone(),
            seen: Arc::clone(&seen),
        };
        let held = Held {
            plan: plan.clone(),
            jobs,
            changes,
            look,
            seen,
            task: None,
        };
        self.pieces.insert(plan.name.to_string(), held);
        ends
    }

    /// A piece that comes while the service runs.
    fn add(&mut self, plan: Plan, operator: Operator) {
        let ends = self.hold(&plan);
        let says = self.says.0.clone();
        let (name, before) = (plan.name.to_string(), self.closing.remove(plan.name.as_str()));
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                // Two would write one history.
                let _ = before.await;
            }
            let name = plan.name.clone();
            let (keeper, start) = match Keeper::open(plan, ends).await {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = says.send(Say::Event {
                        kind: "data_broken",
                        bad: true,
                        text: format!("data {name}: cannot be pushed: {error}"),
                        details: Value::Null,
                    });
                    return;
                }
            };
            let (opened, done) = oneshot::channel();
            let _ = says.send(Say::Open {
                name: name.to_string(),
                newest: start.newest,
                in_force: start.in_force,
                opened,
            });
            if done.await.is_ok() {
                let first = start.push.map(|content| operator.push(name.as_str(), content));
                keeper.run(operator, first).await;
            }
        });
        if let Some(held) = self.pieces.get_mut(&name) {
            held.task = Some(task);
        }
    }

    /// Goes by another configuration from now on.
    pub(super) fn configure(&mut self, spec: &Spec, mute: bool, service: &mut Service) {
        (self.cwd, self.mute) = (cwd_of(spec), mute);
        let mut plans = self.plans(spec);
        let gone = self
            .pieces
            .iter()
            .filter(|(name, held)| held.plan.file.is_some() && !plans.contains_key(*name));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.close(&name, false, service);
        }
        for (name, held) in &mut self.pieces {
            let plan = plans.remove(name).unwrap_or_else(|| Plan {
                cwd: self.cwd.clone(),
                ..held.plan.clone()
            });
            if plan != held.plan {
                held.plan = plan.clone();
                let _ = held.jobs.send(Job::Configure(Box::new(plan)));
            }
        }
        for plan in plans.into_values() {
            self.add(plan, service.operator());
        }
        self.follow();
    }

    fn close(&mut self, name: &str, forget: bool, service: &mut Service) {
        if let Some(held) = self.pieces.remove(name) {
            let _ = held.jobs.send(Job::Close { forget });
            self.closing.extend(held.task.map(|task| (name.to_owned(), task)));
        }
        service.close_data(name);
    }

    fn delete(&mut self, name: &Name, service: &mut Service) -> Answer {
        let Some(held) = self.pieces.get(name.as_str()) else {
            return Err(self.unknown(name));
        };
        if let Some(file) = &held.plan.file {
            let text = format!("data {name} is what {} has, by the configuration", file.display());
            return Err(problem("invalid", text, Some("take it out there, then: thead apply")));
        }
        self.close(name.as_str(), true, service);
        Ok(to_json(&DataOutcome {
            name: name.to_string(),
            ok: true,
            text: "deleted; workers that run keep what they have".into(),
            ..DataOutcome::default()
        }))
    }

    fn follow(&mut self) {
        let files = self.pieces.iter();
        let files = files.filter_map(|(name, held)| Some((name.clone(), held.plan.file.clone()?)));
        let files = files.collect();
        self.watch.set(files);
    }

    /// The next thing that is to be told to others.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            tokio::select! {
                Some(say) = self.says.1.recv() => return Heard::Said(say),
                Some(Ok((id, answer))) = self.asked.join_next() => return Heard::Answered(id, answer),
                Some(text) = self.complaints.recv() => {
                    return Heard::Said(Say::Event {
                        kind: "warning",
                        bad: true,
                        text,
                        details: Value::Null,
                    });
                }
                name = self.watch.next() => {
                    if let Some(held) = self.pieces.get(&name) {
                        held.look.notify_one();
                    }
                }
            }
        }
    }

    /// What has happened to a piece in the service.
    pub(super) fn note(&self, event: &Event, service: &Service, name: &Name) {
        let Some(held) = self.pieces.get(&event.name) else {
            return;
        };
        let worker = match &event.change {
            Change::Told(
                Piece::Refused { worker, .. } | Piece::Declined { worker, .. } | Piece::Unanswered { worker, .. },
            ) => Some(*worker),
            _ => None,
        };
        let who = worker.map(|worker| {
            let status = service.status();
            let living = status.workers.iter().map(|of| (of.worker, of.slot));
            let mut all = living.chain(status.ended.iter().map(|of| (of.worker, of.slot)));
            match all.find(|(id, _)| *id == worker) {
                Some((_, slot)) => format!("{name}/{slot}"),
                None => format!("worker {worker}"),
            }
        });
        let change = event.change.clone();
        let _ = held.changes.send(Noted { change, who });
    }

    /// A file for programs without a channel has been replaced: they are told, or will be when they can hear it. Before it is
    /// ready a program may die of a signal.
    pub(super) fn written(&mut self, signal: i32, service: &Service) {
        self.written = (self.written.0 + 1, Some(signal));
        for worker in service.status().workers.iter().filter(|of| of.phase == Phase::Ready) {
            drop(service.operator().signal_worker(worker.slot, signal));
        }
    }

    /// A worker has been started.
    pub(super) fn spawned(&mut self, worker: WorkerId) {
        self.since.insert(worker, self.written.0);
    }

    /// A worker is ready: what has changed since it was started, it may not have seen.
    pub(super) fn ready(&mut self, worker: WorkerId, service: &Service) {
        let (written, Some(signal)) = self.written else { return };
        let status = service.status();
        let slot = status.workers.iter().find(|of| of.worker == worker).map(|of| of.slot);
        if let Some(slot) = slot
            && self.since.get(&worker).is_some_and(|since| *since < written)
        {
            drop(service.operator().signal_worker(slot, signal));
        }
    }

    /// A worker has ended.
    pub(super) fn ended(&mut self, worker: WorkerId) {
        self.since.remove(&worker);
    }

    /// Passes a question on; the answer comes by [`next`](Self::next), or at once.
    pub(super) fn ask(&mut self, id: u64, ask: Ask, service: &mut Service) -> Option<Answer> {
        let name = match &ask {
            Ask::Status => return Some(Ok(to_json(&self.status(service)))),
            Ask::Delete { name } => return Some(self.delete(name, service)),
            Ask::Get { name, .. } | Ask::History { name } | Ask::Rollback { name, .. } | Ask::Push { name, .. } => name,
        };
        if self.asked.len() >= ASKED {
            return Some(Err(problem("busy", "too many wait for an answer already", None)));
        }
        if !self.pieces.contains_key(name.as_str()) {
            if !matches!(ask, Ask::Push { .. }) {
                return Some(Err(self.unknown(name)));
            }
            if self.pieces.len() >= thead::data::PIECES {
                let text = format!("the service has {} pieces of data already", thead::data::PIECES);
                return Some(Err(problem("invalid", text, None)));
            }
            self.add(self.plan(name.clone()), service.operator());
        }
        let held = self.pieces.get(name.as_str())?;
        let (reply, answer) = oneshot::channel();
        let _ = held.jobs.send(Job::Ask(ask, reply));
        self.asked.spawn(async move {
            let gone = |_| Err(problem("internal", "the piece was closed meanwhile", None));
            (id, answer.await.unwrap_or_else(gone))
        });
        None
    }

    fn unknown(&self, name: &Name) -> Problem {
        let known: Vec<_> = self.pieces.keys().map(String::as_str).collect();
        let hint = match (
            crate::config::nearest(name.as_str(), known.iter().copied()),
            known.is_empty(),
        ) {
            (Some(near), _) => format!("did you mean {near:?}?"),
            (None, true) => "nothing was pushed yet, and its configuration names no data".into(),
            (None, false) => format!("there are: {}", known.join(", ")),
        };
        problem(
            "not-found",
            format!("there is no data {name:?}", name = name.as_str()),
            Some(&hint),
        )
    }

    fn status(&self, service: &Service) -> Vec<DataPiece> {
        let workers = service.status().workers;
        let pieces = service.data().filter_map(|status| {
            let held = self.pieces.get(&status.name)?;
            let seen = held.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let in_state = |state| move |about: &&DataRevision| about.state == state;
            let standing = |id: WorkerId| status.workers.iter().find(|(worker, _)| *worker == id);
            let workers = workers.iter().filter_map(|of| {
                let (_, standing) = standing(of.worker)?;
                Some(DataWorker {
                    slot: of.slot.0,
                    worker: of.worker.0,
                    pid: of.pid,
                    state: standing.as_str().to_owned(),
                    revision: standing.revision().map(|revision| revision.0),
                    applied: service
                        .applied(of.worker)
                        .find(|(name, _)| *name == status.name)
                        .map(|(_, revision)| revision.0),
                    reason: match standing {
                        Standing::Refused { reason, .. } => Some(reason.clone()),
                        _ => None,
                    },
                })
            });
            let mut workers: Vec<_> = workers.collect();
            workers.sort_by_key(|worker| (worker.slot, worker.worker));
            Some(DataPiece {
                name: status.name.clone(),
                file: held.plan.file.as_ref().map(|file| file.display().to_string()),
                newest: status.newest.0,
                in_force: seen.revisions.iter().find(in_state(DataState::InForce)).cloned(),
                on_trial: seen.revisions.iter().find(in_state(DataState::OnTrial)).cloned(),
                problem: seen.problem,
                workers,
            })
        });
        pieces.collect()
    }
}

fn cwd_of(spec: &Spec) -> PathBuf {
    spec.base.join(spec.config.cwd.as_deref().unwrap_or(Path::new("")))
}

/// Pieces that were pushed by hand and are to be there again.
fn on_disk(dir: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?.file_name();
        let name = entry.to_str().and_then(|name| name.strip_suffix(PIECE)?.parse().ok());
        if let Some(name) = name
            && !history::is_closed(&dir.join(&entry))
        {
            names.push(name);
        }
    }
    Ok(names)
}
