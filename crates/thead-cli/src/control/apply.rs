//! A configuration comes into force: what is new is added, what has changed is changed in the mildest way that makes it so,
//! and what is wrong touches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use thead::control::{Apply, Outcome, Outcomes, Problem};

use super::registry::{Registry, problem};
use super::service::Task;
use super::state::{Member, Saved};
use crate::config::plan::{Effect, changed, effect_in};
use crate::config::{self, Config, Name};

/// What is to be done to one service.
enum Step {
    Add(Box<Saved>),
    Change(Box<Saved>, Effect, Vec<String>),
    Keep(Name),
    Remove(Name),
}

impl Registry {
    /// Puts a configuration in force, or says what that would change.
    pub(crate) async fn apply(self: &Arc<Self>, apply: &Apply) -> Result<Outcomes, Problem> {
        let steps = self.steps(apply)?;
        if apply.plan {
            let outcomes = steps.iter().map(|step| self.foretell(step, apply.start)).collect();
            return Ok(Outcomes { outcomes });
        }
        let mut outcomes = Vec::new();
        let removed: BTreeSet<Name> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Remove(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        outcomes.extend(self.end_all(removed, false, true).await);
        let mut waiting = tokio::task::JoinSet::new();
        // All are known before the first is started: one may start after another.
        let mut begin = Vec::new();
        for step in steps {
            match step {
                Step::Remove(_) => {}
                Step::Add(saved) => begin.push((self.insert(*saved), None)),
                Step::Keep(name) => begin.extend(self.handle(&name).map(|handle| (handle, None))),
                Step::Change(saved, effect, keys) => {
                    let handle = self.handle(&saved.name);
                    begin.extend(handle.map(|handle| (handle, Some((saved, effect, keys)))));
                }
            }
        }
        self.save().await;
        for (handle, change) in begin {
            let (registry, start) = (Arc::clone(self), apply.start);
            waiting.spawn(async move {
                if let Some((saved, effect, keys)) = change {
                    // One that has failed should run, and does not.
                    let runs = handle.view.borrow().service.primary.is_some();
                    let mut outcome = handle.order(Task::Configure { saved, effect }).await;
                    if !outcome.ok || runs || !start {
                        let keys = keys.join(", ");
                        outcome.text = if outcome.ok {
                            format!("{}: {keys}", outcome.text)
                        } else {
                            format!("{} (the change of {keys} is not in force)", outcome.text)
                        };
                        return outcome;
                    }
                }
                if start {
                    registry.start(&handle).await
                } else {
                    super::service::done(&handle.name, "unchanged")
                }
            });
        }
        outcomes.extend(waiting.join_all().await);
        outcomes.sort_by(|a, b| a.service.cmp(&b.service));
        self.save().await;
        Ok(Outcomes { outcomes })
    }

    fn steps(&self, apply: &Apply) -> Result<Vec<Step>, Problem> {
        let invalid = |message: String| problem("invalid", message, Some("thead check says where"));
        let config: Config =
            serde_json::from_value(apply.config.clone()).map_err(|error| invalid(error.to_string()))?;
        // Whoever wrote it was told already, with line and column; what comes by other ways is looked at here.
        if let Some(first) = config::problems(&config, std::path::Path::new(&apply.base), &apply.only).first() {
            return Err(invalid(first.clone()));
        }
        if config.service.is_empty() {
            return Err(invalid("no service is configured".into()));
        }
        for name in &apply.only {
            if !config.service.keys().any(|known| known.as_str() == name) {
                return Err(invalid(format!("{} has no service {name:?}", apply.source)));
            }
        }
        let wanted = |name: &Name| apply.only.is_empty() || apply.only.iter().any(|only| only == name.as_str());
        let mut steps = Vec::new();
        for (name, service) in &config.service {
            if !wanted(name) {
                continue;
            }
            for first in &service.after {
                if !config.service.contains_key(first) && self.handle(first).is_none() {
                    return Err(invalid(format!("{name} starts after {first}, which is not configured")));
                }
            }
            let group = config.group.iter().find(|(_, group)| group.services.contains(name));
            let mut service = service.clone();
            if service.namespace.is_none() {
                service.namespace.clone_from(&config.namespace);
            }
            self.shared
                .owner_of(&service)
                .map_err(|error| invalid(format!("{name}: {error}")))?;
            let saved = Saved {
                name: name.clone(),
                config: service,
                base: apply.base.clone().into(),
                source: Some(apply.source.clone()).filter(|source| !source.is_empty()),
                group: group.map(|(name, group)| Member {
                    name: name.clone(),
                    group: group.clone(),
                }),
                running: false,
                generation: 1,
            };
            steps.push(match self.handle(name) {
                None => Step::Add(Box::new(saved)),
                Some(handle) => {
                    let old = Arc::clone(&handle.view.borrow().saved);
                    match compare(&old, &saved) {
                        (Effect::Nothing, keys) if keys.is_empty() => Step::Keep(name.clone()),
                        (effect, keys) => Step::Change(Box::new(saved), effect, keys),
                    }
                }
            });
        }
        if apply.prune && !apply.source.is_empty() {
            let gone = |saved: &Arc<Saved>| {
                let same = saved.source.as_ref() == Some(&apply.source);
                (same && !config.service.contains_key(&saved.name)).then(|| Step::Remove(saved.name.clone()))
            };
            steps.extend(self.saved().iter().filter_map(gone));
        }
        Ok(steps)
    }

    fn foretell(&self, step: &Step, start: bool) -> Outcome {
        let said = |name: &Name, text: String| super::service::done(name, text);
        let running = |name: &Name| {
            self.handle(name)
                .is_some_and(|handle| handle.view.borrow().saved.running)
        };
        match step {
            Step::Add(saved) if start => said(&saved.name, "add and start".into()),
            Step::Add(saved) => said(&saved.name, "add".into()),
            Step::Keep(name) if start && !running(name) => said(name, "start".into()),
            Step::Keep(name) => said(name, "nothing".into()),
            Step::Remove(name) => said(name, "stop and delete".into()),
            Step::Change(saved, effect, keys) => {
                let how = match effect {
                    _ if !running(&saved.name) => "change",
                    Effect::Nothing | Effect::Live => "change while it runs",
                    Effect::Reload => "reload",
                    Effect::Restart => "restart",
                };
                said(&saved.name, format!("{how}: {}", keys.join(", ")))
            }
        }
    }
}

/// What has changed, and the mildest way to bring it into force.
fn compare(old: &Saved, new: &Saved) -> (Effect, Vec<String>) {
    let mut keys = changed(&old.config, &new.config);
    let mut strongest = keys
        .iter()
        .map(|key| effect_in(&new.config, key))
        .max()
        .unwrap_or(Effect::Nothing);
    if old.base != new.base && !keys.iter().any(|key| key == "cwd") {
        keys.push("cwd".into());
        strongest = strongest.max(Effect::Reload);
    }
    if old.group != new.group {
        keys.push("group".into());
    }
    if old.source != new.source {
        keys.push("the file".into());
    }
    (strongest, keys)
}
