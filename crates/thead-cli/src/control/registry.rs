//! All services of the daemon: who is meant, in which order, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thead::control::{Description, Order, Outcome, Outcomes, Phase, Problem, Service, Verb};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::sample::Sampler;
use super::service::{Handle, Task, View, done, failed};
use super::state::{Saved, Store};
use crate::config::{Name, Signal};
use crate::role::{Ask, Work};
pub(super) use crate::told::problem;

pub(crate) struct Registry {
    pub(super) shared: Arc<Shared>,
    services: Mutex<BTreeMap<Name, Handle>>,
    store: Store,
    sampler: Mutex<Sampler>,
    /// Saving is one after the other.
    saving: tokio::sync::Mutex<Vec<Saved>>,
    /// Everything stops, and what ran is to run again.
    ending: AtomicBool,
}

/// A part of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    All,
    Slot(u32),
}

type Targets = BTreeMap<Name, BTreeSet<Part>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a primary may take to say how it is, until what it said last is shown.
const PATIENCE: Duration = Duration::from_millis(500);

impl Registry {
    /// Takes care of all these, and starts what should run.
    pub(crate) fn new(shared: Arc<Shared>, store: Store, on_disk: Vec<Saved>, services: Vec<Saved>) -> Arc<Self> {
        let registry = Arc::new(Self {
            services: Mutex::default(),
            shared,
            store,
            sampler: Mutex::default(),
            saving: tokio::sync::Mutex::new(on_disk),
            ending: AtomicBool::new(false),
        });
        for saved in services {
            registry.insert(saved);
        }
        registry
    }

    pub(super) fn handle(&self, name: &Name) -> Option<Handle> {
        lock(&self.services).get(name).cloned()
    }

    fn handles(&self) -> Vec<Handle> {
        lock(&self.services).values().cloned().collect()
    }

    pub(super) fn insert(self: &Arc<Self>, saved: Saved) -> Handle {
        let handle = Handle::new(Arc::clone(&self.shared), saved);
        lock(&self.services).insert(handle.name.clone(), handle.clone());
        let (name, view) = (handle.name.clone(), handle.view.clone());
        tokio::spawn(super::group::watch(Arc::downgrade(self), name, view));
        self.shared.changed();
        handle
    }

    /// What is configured now.
    pub(super) fn saved(&self) -> Vec<Arc<Saved>> {
        let saved = |handle: &Handle| Arc::clone(&handle.view.borrow().saved);
        self.handles().iter().map(saved).collect()
    }

    /// Writes what should run to disk, if that is not what is there.
    pub(crate) async fn save(self: &Arc<Self>) {
        let mut last = self.saving.lock().await;
        if self.ending.load(Ordering::Relaxed) {
            return;
        }
        let services: Vec<Saved> = self.saved().iter().map(|saved| (**saved).clone()).collect();
        if *last == services {
            return;
        }
        let registry = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || (registry.store.save(&services), services)).await;
        match written {
            Ok((Ok(()), services)) => *last = services,
            Ok((Err(error), _)) => {
                let text = format!(
                    "what should run could not be saved in {}: {error}; the file there is older",
                    self.shared.state_dir.display()
                );
                self.shared
                    .journal
                    .tell(crate::told::event("", "warning", true, text, serde_json::json!({})));
            }
            Err(_) => {}
        }
    }

    /// Starts what ran when the daemon ended, each as soon as those are ready that it starts after.
    pub(crate) fn boot(self: &Arc<Self>) {
        for handle in self.handles() {
            let running = handle.view.borrow().saved.running;
            if running {
                let registry = Arc::clone(self);
                tokio::spawn(async move { registry.start(&handle).await });
            }
        }
    }

    /// How all services are.
    pub(crate) fn list(&self) -> Vec<Service> {
        let mut services: Vec<_> = self
            .handles()
            .iter()
            .map(|handle| handle.view.borrow().service.clone())
            .collect();
        lock(&self.sampler).fill(&mut services);
        services
    }

    /// Everything about one service.
    pub(crate) async fn describe(&self, name: &str, env: bool) -> Result<Description, Problem> {
        let unknown = || self.unknown(name);
        let handle = name
            .parse()
            .ok()
            .and_then(|name| self.handle(&name))
            .ok_or_else(unknown)?;
        // Its primary does not tell of each line that it has written.
        let _ = tokio::time::timeout(PATIENCE, handle.order(Task::Work(Work::Tell))).await;
        let view = handle.view.borrow().clone();
        let mut config = view.saved.config.clone();
        if !env {
            for value in config.env.values_mut() {
                "(hidden)".clone_into(value);
            }
        }
        let services = self.list();
        let service = services.into_iter().find(|service| service.name == name);
        Ok(Description {
            service: service.unwrap_or(view.service),
            config: serde_json::to_value(config).unwrap_or_default(),
            base: view.saved.base.display().to_string(),
            exits: view.exits,
            events: self.shared.journal.of(name, 16),
        })
    }

    /// What a service's primary answers about its data.
    pub(crate) async fn ask(&self, service: &str, ask: Ask) -> Result<serde_json::Value, Problem> {
        let handle = service.parse().ok().and_then(|name| self.handle(&name));
        match handle {
            Some(handle) => handle.ask(ask).await,
            None => Err(self.unknown(service)),
        }
    }

    fn unknown(&self, name: &str) -> Problem {
        let known: Vec<_> = self.handles().iter().map(|handle| handle.name.to_string()).collect();
        let near = crate::config::nearest(name, known.iter().map(String::as_str));
        let hint = match (near, known.is_empty()) {
            (Some(near), _) => format!("did you mean {near:?}?"),
            (None, true) => "nothing is configured yet: thead start PROGRAM, or thead apply FILE".into(),
            (None, false) => format!("there are: {}", known.join(", ")),
        };
        problem("not-found", format!("there is no service {name:?}"), Some(&hint))
    }

    fn select(&self, targets: &[String]) -> Result<Targets, Problem> {
        if targets.is_empty() {
            return Err(problem(
                "invalid",
                "no service is named",
                Some("name services, workers (api/2), namespaces, or: all"),
            ));
        }
        let mut selected = Targets::new();
        for target in targets {
            let (name, slot) = match target.split_once('/') {
                Some((name, slot)) => {
                    let slot = slot.parse().map_err(|_| {
                        let text = format!("{target:?}: {slot:?} is no number of a worker");
                        problem("invalid", text, Some("workers are numbered from 0: api/0"))
                    })?;
                    (name, Part::Slot(slot))
                }
                None => (target.as_str(), Part::All),
            };
            let mut found = false;
            for handle in self.handles() {
                let view = handle.view.borrow();
                let exact = handle.name.as_str() == name;
                let wider = part_of(&view, name) && slot == Part::All;
                if exact || wider {
                    if let Part::Slot(number) = slot
                        && number >= view.service.instances
                    {
                        let text = format!("{name} has no worker {number}; it has {}", view.service.instances);
                        return Err(problem("not-found", text, None));
                    }
                    selected.entry(handle.name.clone()).or_default().insert(slot);
                    found = true;
                }
            }
            // Nothing to do for `all` of nothing.
            if !found && name != "all" {
                return Err(self.unknown(name));
            }
        }
        Ok(selected)
    }

    /// Does what was ordered.
    pub(crate) async fn order(self: &Arc<Self>, verb: Verb, order: &Order) -> Result<Outcomes, Problem> {
        let targets = self.select(&order.targets)?;
        let whole = targets.values().all(|parts| parts.contains(&Part::All));
        if !whole && !matches!(verb, Verb::Restart | Verb::Signal) {
            let text = format!("{} is for whole services", verb.as_str());
            return Err(problem(
                "invalid",
                text,
                Some("only restart and signal take one worker (api/2)"),
            ));
        }
        let outcomes = match verb {
            Verb::Start => self.each(targets, Self::start_one).await,
            Verb::Stop | Verb::Delete => {
                let names = targets.into_keys().collect();
                self.end_all(names, order.now, verb == Verb::Delete).await
            }
            Verb::Reload => self.each_work(targets, |_| Work::Reload { spec: None }).await,
            Verb::Reopen => self.each_work(targets, |_| Work::Reopen).await,
            Verb::Restart => {
                self.each_work(targets, |part| Work::Restart {
                    slot: match part {
                        Part::All => None,
                        Part::Slot(slot) => Some(slot),
                    },
                })
                .await
            }
            Verb::Signal => {
                let signal = order.signal.as_deref().unwrap_or_default();
                let signal: Signal = signal
                    .parse()
                    .map_err(|error: String| problem("invalid", error, Some("such as HUP, SIGUSR2 or 12")))?;
                self.each_work(targets, |part| Work::Signal {
                    signal: signal.number(),
                    slot: match part {
                        Part::All => None,
                        Part::Slot(slot) => Some(slot),
                    },
                })
                .await
            }
            Verb::Scale => {
                let wish = order.instances.as_deref().unwrap_or_default();
                let mut wanted = Vec::new();
                for name in targets.into_keys() {
                    let now = self
                        .handle(&name)
                        .map_or(1, |handle| handle.view.borrow().service.instances);
                    wanted.push((name, instances(wish, now)?));
                }
                let mut set = JoinSet::new();
                for (name, instances) in wanted {
                    self.work(&mut set, name, Work::Scale { instances });
                }
                collect(set).await
            }
        };
        self.save().await;
        Ok(Outcomes { outcomes })
    }

    async fn each<F: Future<Output = Outcome> + Send + 'static>(
        self: &Arc<Self>,
        targets: Targets,
        act: impl Fn(Arc<Self>, Handle) -> F,
    ) -> Vec<Outcome> {
        let mut set = JoinSet::new();
        for name in targets.into_keys() {
            if let Some(handle) = self.handle(&name) {
                set.spawn(act(Arc::clone(self), handle));
            }
        }
        collect(set).await
    }

    async fn each_work(&self, targets: Targets, work: impl Fn(Part) -> Work) -> Vec<Outcome> {
        let mut set = JoinSet::new();
        for (name, parts) in targets {
            let parts = if parts.contains(&Part::All) {
                BTreeSet::from([Part::All])
            } else {
                parts
            };
            for part in parts {
                self.work(&mut set, name.clone(), work(part));
            }
        }
        collect(set).await
    }

    fn work(&self, set: &mut JoinSet<Outcome>, name: Name, work: Work) {
        if let Some(handle) = self.handle(&name) {
            set.spawn(async move { handle.order(Task::Work(work)).await });
        }
    }

    async fn start_one(self: Arc<Self>, handle: Handle) -> Outcome {
        self.start(&handle).await
    }

    /// Starts a service once those are ready that it starts after; those are started too.
    pub(super) fn start<'a>(
        self: &'a Arc<Self>,
        handle: &'a Handle,
    ) -> std::pin::Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let wanted = handle.view.borrow().saved.config.after.clone();
            let mut after: Vec<(Name, watch::Receiver<View>)> = Vec::new();
            for name in wanted {
                let Some(first) = self.handle(&name) else {
                    return failed(&handle.name, format!("it starts after {name}, which is not configured"));
                };
                if !first.view.borrow().saved.running {
                    let registry = Arc::clone(self);
                    let first = first.clone();
                    tokio::spawn(async move { registry.start(&first).await });
                }
                after.push((name, first.view.clone()));
            }
            handle.order(Task::Start { after }).await
        })
    }

    /// Stops services, those that start after others before these; and forgets them, if that is wanted.
    pub(super) async fn end_all(self: &Arc<Self>, names: BTreeSet<Name>, now: bool, forget: bool) -> Vec<Outcome> {
        let mut left = names;
        let mut outcomes = Vec::new();
        while !left.is_empty() {
            let held: BTreeSet<Name> = left
                .iter()
                .filter_map(|name| self.handle(name))
                .flat_map(|handle| handle.view.borrow().saved.config.after.clone())
                .collect();
            let mut turn: BTreeSet<Name> = left.difference(&held).cloned().collect();
            if turn.is_empty() {
                // A circle, which a checked configuration does not have.
                turn = left.clone();
            }
            left.retain(|name| !turn.contains(name));
            let mut set = JoinSet::new();
            for name in turn {
                self.work(&mut set, name, Work::Stop { now });
            }
            outcomes.extend(collect(set).await);
        }
        if forget {
            let mut services = lock(&self.services);
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.ok) {
                if let Ok(name) = outcome.service.parse::<Name>() {
                    services.remove(&name);
                    // Its primary has ended. A link in it is removed, not followed.
                    let _ = std::fs::remove_dir_all(self.shared.data_dir(&name));
                    *outcome = done(&name, "deleted");
                }
            }
            drop(services);
            self.shared.changed();
        }
        outcomes
    }

    /// Stops everything; what ran will be started by the next daemon.
    pub(crate) async fn shut_down(self: &Arc<Self>) -> Outcomes {
        self.save().await;
        // What is saved now stays as it is.
        self.ending.store(true, Ordering::Relaxed);
        let running = |handle: &Handle| {
            let phase = handle.view.borrow().service.phase;
            !matches!(phase, Phase::Stopped | Phase::Failed)
        };
        let names = self
            .handles()
            .iter()
            .filter(|handle| running(handle))
            .map(|handle| handle.name.clone())
            .collect();
        let outcomes = self.end_all(names, false, false).await;
        Outcomes { outcomes }
    }
}

fn part_of(view: &View, name: &str) -> bool {
    name == "all" || view.service.namespace == name
}

async fn collect(set: JoinSet<Outcome>) -> Vec<Outcome> {
    let mut outcomes = set.join_all().await;
    outcomes.sort_by(|a, b| a.service.cmp(&b.service));
    outcomes
}

/// `4`, `+1`, `-2`.
fn instances(wish: &str, now: u32) -> Result<usize, Problem> {
    let wrong = || {
        let text = format!("{wish:?} is no number of workers");
        problem(
            "invalid",
            text,
            Some("a number from 1 to 1024, max, or a difference: +1, -2"),
        )
    };
    let wanted = if wish == "max" {
        thead::sys::limit::cores() as u64
    } else if wish.starts_with(['+', '-']) {
        let difference: i64 = wish.parse().map_err(|_| wrong())?;
        u64::try_from(i64::from(now) + difference).map_err(|_| wrong())?
    } else {
        wish.parse().map_err(|_| wrong())?
    };
    match wanted {
        1..=1024 => Ok(wanted as usize),
        _ => Err(wrong()),
    }
}
