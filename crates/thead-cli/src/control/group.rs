//! Groups: services of which one's failure concerns others, as the restart strategies of OTP's supervisors have it.
//!
//! The service that failed is restarted by its own primary. Once it is ready again, those follow that are restarted with it: in
//! the order in which they start, each when the one before it is ready. Until then they serve on as well as they can. If it
//! does not come back, nobody follows.

use std::sync::{Arc, Weak};

use serde_json::json;
use thead::control::{Phase, Service};
use tokio::sync::watch;

use super::registry::Registry;
use super::service::{Task, View};
use crate::config::{Name, Strategy};
use crate::role::Work;
use crate::told::event;

/// Watches one service for as long as there is one.
pub(super) async fn watch(registry: Weak<Registry>, name: Name, mut view: watch::Receiver<View>) {
    let mut last = view.borrow_and_update().service.clone();
    while view.changed().await.is_ok() {
        let now = view.borrow_and_update().clone();
        let failed = has_failed(&last, &now.service);
        last = now.service.clone();
        if !failed {
            continue;
        }
        let Some(registry) = registry.upgrade() else { return };
        let Some(member) = &now.saved.group else { continue };
        let others = concerned(&name, &member.group.services, member.group.strategy);
        if !others.is_empty() && !restart(&registry, &name, &others).await {
            // What else befell it until then has been told.
            last = view.borrow_and_update().service.clone();
        }
    }
}

/// Its last worker died, or its primary did, and nobody had asked for it.
fn has_failed(last: &Service, now: &Service) -> bool {
    let primary_died = last.primary.is_some() && now.primary.is_none() && now.phase == Phase::Waiting;
    // What is told may be that the only worker is back already.
    let nobody_left = now.ready == 0 || now.instances == 1;
    let worker_died = last.since == now.since && now.restarts > last.restarts && nobody_left;
    primary_died || worker_died
}

/// Who is restarted with a service, first to start first.
fn concerned(failed: &Name, members: &[Name], strategy: Strategy) -> Vec<Name> {
    let others = members.iter().filter(|member| *member != failed).cloned();
    match strategy {
        Strategy::OneForOne => Vec::new(),
        Strategy::OneForAll => others.collect(),
        Strategy::RestForOne => {
            let after = members.iter().skip_while(|member| *member != failed).skip(1);
            after.cloned().collect()
        }
    }
}

/// Whether the one that failed is back.
async fn restart(registry: &Arc<Registry>, failed: &Name, others: &[Name]) -> bool {
    let names: Vec<_> = others.iter().map(Name::as_str).collect();
    let tell = |text: String| {
        let details = json!({ "services": names });
        let told = event(failed.as_str(), "group_restart", true, text, details);
        registry.shared.journal.tell(told);
    };
    if !is_back(registry, failed).await {
        tell(format!(
            "failed and did not come back: {} not restarted with it",
            names.join(", ")
        ));
        return false;
    }
    tell(format!("failed, so {} restarted with it", names.join(", ")));
    for other in others {
        let Some(handle) = registry.handle(other) else { continue };
        let runs = handle.view.borrow().service.primary.is_some();
        if runs {
            handle.order(Task::Work(Work::Restart { slot: None })).await;
            // When it is ready in the end, those behind it follow as those behind one that has failed.
            if !is_back(registry, other).await {
                break;
            }
        }
    }
    true
}

/// Waits until a service is ready; `false` when it has failed for good or was stopped.
async fn is_back(registry: &Arc<Registry>, name: &Name) -> bool {
    let Some(mut view) = registry.handle(name).map(|handle| handle.view) else {
        return false;
    };
    loop {
        let (phase, ready) = {
            let service = &view.borrow_and_update().service;
            (service.phase, service.ready)
        };
        match phase {
            Phase::Ready | Phase::Degraded if ready > 0 => return true,
            Phase::Failed | Phase::Stopped => return false,
            _ => {}
        }
        if view.changed().await.is_err() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn names(text: &str) -> Vec<Name> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn g18_each_strategy_concerns_those_that_it_should() {
        let members = names("db api web");
        let of = |failed: &str, strategy| concerned(&failed.parse().unwrap(), &members, strategy);
        assert_eq!(of("api", Strategy::OneForOne), []);
        assert_eq!(of("db", Strategy::RestForOne), names("api web"));
        assert_eq!(of("api", Strategy::RestForOne), names("web"));
        assert_eq!(of("web", Strategy::RestForOne), []);
        assert_eq!(of("api", Strategy::OneForAll), names("db web"));
    }

    #[test]
    fn what_an_operator_asked_for_is_no_failure() {
        let ready = Service {
            primary: Some(7),
            since: Some(1),
            restarts: 3,
            ready: 2,
            instances: 2,
            phase: Phase::Ready,
            ..Service::default()
        };
        let with = |change: fn(&mut Service)| {
            let mut now = ready.clone();
            change(&mut now);
            has_failed(&ready, &now)
        };
        assert!(!with(|now| now.ready = 0), "a restart that was ordered");
        assert!(!with(|now| now.restarts = 4), "its sibling serves on");
        assert!(
            with(|now| (now.restarts, now.instances) = (4, 1)),
            "the only one, back already"
        );
        assert!(with(|now| {
            now.restarts = 4;
            now.ready = 0;
        }));
        assert!(!with(|now| {
            now.primary = None;
            now.phase = Phase::Stopped;
        }));
        assert!(with(|now| {
            now.primary = None;
            now.phase = Phase::Waiting;
        }));
        assert!(!with(|now| {
            now.restarts = 4;
            now.ready = 0;
            now.since = Some(2);
        }));
    }
}
