//! Data pushed to workers that are made with this library.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use thead::core::id::WorkerId;
use thead::core::service::Event as Life;
use thead::data::{Change, Content, Piece, PushError, Revision, Standing};
use thead::service::{Options, Program, Service, ServiceEvent};
use thead::{Command, Serialization};

use crate::kit::{example, in_time, test};

fn options(instances: usize, serialization: Serialization) -> Options {
    let command = Command::new(example("hot")).channel(serialization);
    let mut options = Options::new(Program::new(command));
    let life = &mut options.settings.life;
    life.instances = instances;
    life.ready = thead::service::Ready::After(Duration::ZERO);
    life.restart.backoff.first = Duration::from_millis(5);
    life.restart.backoff.max = Duration::from_millis(20);
    life.restart.intensity.restarts = 10_000;
    life.stop.timeout = Duration::from_millis(500);
    life.stop.drain = Duration::from_millis(500);
    options
}

/// A service, and what its workers said.
struct Host {
    service: Service,
    said: BTreeMap<WorkerId, Vec<Value>>,
    changes: Vec<(String, Change)>,
    pids: BTreeMap<WorkerId, u32>,
}

impl Host {
    fn start(options: Options) -> Self {
        Self {
            service: Service::start(options).unwrap(),
            said: BTreeMap::new(),
            changes: Vec::new(),
            pids: BTreeMap::new(),
        }
    }

    /// Goes on until something is so.
    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self) {
                return found;
            }
            let event = in_time(what, self.service.next()).await;
            let Some(event) = event else {
                panic!("the service ended: {what}")
            };
            self.note(event);
        }
    }

    fn note(&mut self, event: ServiceEvent) {
        match event {
            ServiceEvent::Message { worker, message, .. } => {
                self.said.entry(worker).or_default().push(message.parse().unwrap());
            }
            ServiceEvent::Data(event) => self.changes.push((event.name, event.change)),
            ServiceEvent::Life(Life::Spawned { worker, pid, .. }) => drop(self.pids.insert(worker, pid)),
            ServiceEvent::Life(Life::Exited { worker, .. }) => drop(self.pids.remove(&worker)),
            _ => {}
        }
    }

    async fn push(&mut self, name: &str, content: Content) -> Result<thead::data::Pushed, PushError> {
        let mut pushing = self.service.push(name, content);
        loop {
            let event = tokio::select! {
                biased;
                outcome = &mut pushing => return outcome,
                event = in_time("the end of a push", self.service.next()) => event,
            };
            let Some(event) = event else {
                panic!("the service ended")
            };
            self.note(event);
        }
    }

    fn standings(&self, name: &str) -> Vec<Standing> {
        let mut all = self.service.data();
        let status = all.find(|status| status.name == name).unwrap();
        status.workers.into_iter().map(|(_, standing)| standing).collect()
    }

    /// Until so many workers use what is offered.
    async fn all_applied(&mut self, name: &str, workers: usize) -> Revision {
        self.until("everybody's answer", |host| {
            let mut all = host.service.data();
            let status = all.find(|status| status.name == name)?;
            let revision = status.offered?;
            let standing = Standing::Applied { revision };
            let count = status.workers.iter().filter(|(_, its)| *its == standing).count();
            (count == workers && host.pids.len() == workers).then_some(revision)
        })
        .await
    }

    async fn end(mut self) -> BTreeMap<WorkerId, Vec<Value>> {
        drop(self.service.operator().stop_now());
        while let Some(event) = in_time("the end", self.service.next()).await {
            self.note(event);
        }
        self.said
    }
}

fn value(value: Value) -> Content {
    Content::value(&value).unwrap()
}

fn greeting(text: &str) -> Content {
    value(json!({ "text": text }))
}

#[test]
fn g41_a_worker_has_the_data_before_it_says_anything() {
    for serialization in [Serialization::Json, Serialization::Advanced] {
        test(async || {
            let mut host = Host::start(options(2, serialization));
            let last = (Revision(6), greeting("again"));
            host.service.open_data("greeting", Revision(9), Some(last)).unwrap();
            host.all_applied("greeting", 2).await;
            let pushed = host.push("greeting", greeting("new")).await.unwrap();
            assert_eq!((pushed.revision, pushed.tally.applied), (Revision(10), 2));
            for said in host.end().await.into_values() {
                assert_eq!(
                    said.iter().filter(|said| **said != "watching").collect::<Vec<_>>(),
                    [
                        &json!({ "greeting": "again", "revision": 6 }),
                        &json!({ "greeting": "new", "revision": 10 }),
                    ]
                );
            }
        });
    }
}

#[test]
fn g43_what_one_worker_refuses_nobody_has() {
    test(async || {
        let mut host = Host::start(options(3, Serialization::Json));
        host.push("greeting", greeting("good")).await.unwrap();
        host.all_applied("greeting", 3).await;
        for (bad, reason) in [
            (json!({ "text": "bad", "not_for": 2 }), "not for Some(2)"),
            (json!({ "text": "" }), "an empty greeting"),
            (json!({ "text": 1 }), "expected a string"),
            (json!({ "text": "panic" }), "what applies it has panicked"),
            (json!({ "text": "die" }), "it died before it answered"),
        ] {
            let error = host.push("greeting", value(bad)).await.unwrap_err();
            let PushError::Refused {
                revision,
                reason: said,
                back,
                ..
            } = &error
            else {
                panic!("{error}")
            };
            assert!(said.contains(reason), "{said} is not {reason}");
            assert_eq!(*back, Some(Revision(revision.0 + 1)));
            let newest = host.all_applied("greeting", 3).await;
            assert_eq!(Some(newest), *back);
        }
        let living: Vec<_> = host.pids.keys().copied().collect();
        let said = host.end().await;
        for worker in living {
            let last = said[&worker].iter().rfind(|said| said["greeting"].is_string()).unwrap();
            assert_eq!(last["greeting"], "good");
        }
    });
}

#[test]
fn g42_all_workers_map_one_memory_file_and_it_is_freed() {
    test(async || {
        const SIZE: usize = 3 << 20;
        let mut host = Host::start(options(2, Serialization::Json));
        let memory = |byte: u8| Content::memory("table", &mut &vec![byte; SIZE][..], 1 << 30).unwrap();
        let first = host.push("table", memory(1)).await.unwrap();
        assert_eq!(first.tally.applied, 0, "nobody has been started yet");
        host.all_applied("table", 2).await;
        let second = host.push("table", memory(2)).await.unwrap();
        assert_eq!(second.tally.applied, 2);
        host.push("table", memory(4)).await.unwrap();
        // The one in force, and none of those before, unless somebody else keeps them.
        host.changes.clear();
        let open = crate::kit::descriptors()
            .into_values()
            .filter(|to| to.contains("memfd:table"));
        assert_eq!(open.count(), 1);
        for said in host.end().await.into_values() {
            let tables: Vec<_> = said.iter().filter(|said| said["table"] == SIZE).collect();
            let sums: Vec<_> = tables
                .iter()
                .map(|said| said["sum"].as_u64().unwrap() / SIZE as u64)
                .collect();
            assert_eq!(sums, [1, 2, 4]);
        }
    });
}

#[test]
fn g41_workers_killed_at_random_see_revisions_grow_and_end_with_the_newest() {
    test(async || {
        let mut host = Host::start(options(4, Serialization::Json));
        host.push("greeting", greeting("first")).await.unwrap();
        host.all_applied("greeting", 4).await;
        let mut seed = 0x9e37_79b9_u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        let (mut good, mut refused) = (0, 0);
        for push in 0..300 {
            if random(4) == 0 && !host.pids.is_empty() {
                let victim = random(u32::try_from(host.pids.len()).unwrap()) as usize;
                let pid = *host.pids.values().nth(victim).unwrap();
                let pidfd = thead::sys::pidfd::open(pid.cast_signed());
                // It may have ended by itself meanwhile.
                let _ = pidfd.and_then(|pidfd| thead::sys::pidfd::send_signal(pidfd, 9));
            }
            match host.push("greeting", greeting(&push.to_string())).await {
                Ok(_) | Err(PushError::Superseded) => good += 1,
                Err(PushError::Refused { reason, .. }) if reason == "it died before it answered" => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(good > 100, "{good} of 300, {refused} rolled back");
        host.push("greeting", greeting("last")).await.unwrap();
        let newest = host.all_applied("greeting", 4).await;
        let unanswered = host
            .changes
            .iter()
            .filter(|(_, change)| matches!(change, Change::Told(Piece::Unanswered { .. })));
        assert_eq!(unanswered.count(), 0);
        assert!(
            host.standings("greeting")
                .iter()
                .all(|standing| standing.revision() == Some(newest))
        );
        let living: Vec<_> = host.pids.keys().copied().collect();
        let refused = host.changes.iter().filter_map(|(_, change)| match change {
            Change::Told(Piece::Refused { revision, .. }) => Some(revision.0),
            _ => None,
        });
        let refused: BTreeSet<_> = refused.collect();
        let said = host.end().await;
        for (worker, said) in &said {
            let seen: Vec<_> = said.iter().filter_map(|said| said["revision"].as_u64()).collect();
            for pair in seen.windows(2) {
                assert!(pair[0] < pair[1], "{worker} went back: {seen:?}");
                let skipped = (pair[0] + 1)..pair[1];
                // Who comes after a refusal is not given what was refused.
                assert!(
                    skipped.clone().all(|one| refused.contains(&one)),
                    "{worker} has skipped {skipped:?}: {seen:?}"
                );
            }
        }
        for worker in living {
            let last = said[&worker].iter().rfind(|said| said["greeting"].is_string()).unwrap();
            assert_eq!(
                (last["greeting"].as_str(), last["revision"].as_u64()),
                (Some("last"), Some(newest.0))
            );
        }
    });
}

#[test]
fn what_does_not_fit_into_a_message_is_refused_at_once() {
    test(async || {
        let mut host = Host::start(options(1, Serialization::Json));
        let large = greeting(&"x".repeat(thead::data::VALUE_LIMIT));
        let error = host.push("greeting", large).await.unwrap_err();
        assert!(matches!(error, PushError::TooLarge { .. }), "{error}");
        let fits = greeting(&"x".repeat(thead::data::VALUE_LIMIT - 20));
        host.push("greeting", fits).await.unwrap();
        host.all_applied("greeting", 1).await;
        for piece in 1..thead::data::PIECES {
            host.service.open_data(&piece.to_string(), Revision(0), None).unwrap();
        }
        assert_eq!(host.push("one more", greeting("x")).await, Err(PushError::TooMany));
        host.end().await;
    });
}
