//! Orders to a service of real processes, and what comes of them.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use thead::Command;
use thead::core::service::{AbortCause, Condition, Failure, Order, Refusal};
use thead::core::worker::{Exit, Phase, Slot};
use thead::output;
use thead::service::{
    Done, Drain, Operator, Options, OrderError, Program, Ready, Reply, Service, ServiceEvent, Status,
};

use crate::kit::{in_time, test};

/// A program that lives until it is told to end, with a version to be known by.
fn version(version: &str) -> Program {
    Program {
        drain: Drain::Signal,
        ..Program::new(Command::shell("exec sleep 1000").env("VERSION", version).own_group())
    }
}

/// One that says why, and ends.
fn broken() -> Program {
    Program {
        drain: Drain::Signal,
        ..Program::new(Command::shell("echo this cannot work >&2; exit 3").own_group())
    }
}

fn options(instances: usize) -> Options {
    let mut options = Options::new(version("1"));
    options.settings.life.instances = instances;
    options.settings.life.ready = Ready::After(Duration::from_millis(30));
    options.settings.life.reload.soak = Duration::from_millis(30);
    options.settings.life.restart.backoff.first = Duration::from_millis(10);
    options
}

/// A running service.
struct Host {
    service: Service,
    operator: Operator,
}

impl Host {
    /// All its workers are ready.
    async fn start(options: Options) -> Self {
        let service = Service::start(options).unwrap();
        let operator = service.operator();
        let mut host = Self { service, operator };
        host.until(|status| status.condition == Condition::Ready).await;
        host
    }

    /// Lets it run until what came of an order is known.
    async fn answered(&mut self, reply: Reply) -> Result<Done, OrderError> {
        let answered = async {
            tokio::pin!(reply);
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut reply => return outcome,
                    event = self.service.next() => drop(event.unwrap()),
                }
            }
        };
        in_time("the answer", answered).await
    }

    async fn until(&mut self, wanted: impl Fn(&Status) -> bool) {
        let reached = async {
            while !wanted(&self.service.status()) {
                self.service.next().await.unwrap();
            }
        };
        in_time("the status", reached).await;
    }

    /// The versions of those that serve.
    fn versions(&self) -> BTreeSet<String> {
        let workers = self.service.status().workers.into_iter();
        let ready = workers.filter(|worker| worker.phase == Phase::Ready);
        ready.map(|worker| version_of(worker.pid.unwrap())).collect()
    }

    fn pids(&self) -> Vec<u32> {
        let workers = self.service.status().workers.into_iter();
        workers.filter_map(|worker| worker.pid).collect()
    }

    async fn stop(mut self) {
        let reply = self.operator.stop();
        let over = async { while self.service.next().await.is_some() {} };
        in_time("the end", over).await;
        // It was over when it was said.
        assert_eq!(in_time("the answer", reply).await.map(drop), Ok(()));
    }
}

fn version_of(pid: u32) -> String {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    let version = variables.find_map(|variable| variable.strip_prefix(b"VERSION="));
    String::from_utf8_lossy(version.unwrap()).into_owned()
}

fn set(versions: &[&str]) -> BTreeSet<String> {
    versions.iter().map(|version| (*version).to_owned()).collect()
}

#[test]
fn a_reload_brings_another_program_and_a_plain_one_keeps_it() {
    test(async || {
        let mut host = Host::start(options(2)).await;
        let reply = host.operator.reload(Some(version("2")));
        let done = host.answered(reply).await.unwrap();
        assert_eq!((done.generation.0, host.versions()), (2, set(&["2"])));
        let before = host.pids();
        let reply = host.operator.reload(None);
        assert_eq!(host.answered(reply).await.unwrap().generation.0, 3);
        assert_eq!(host.versions(), set(&["2"]));
        assert!(host.pids().iter().all(|pid| !before.contains(pid)));
        host.stop().await;
    });
}

#[test]
fn g04_a_reload_to_a_broken_program_says_why_and_whoever_dies_later_is_the_old_one() {
    test(async || {
        let mut options = options(2);
        let (sink, _queue) = output::queue(1 << 16);
        options.lines = Some(sink);
        let mut host = Host::start(options).await;
        let before = host.pids();
        let reply = host.operator.reload(Some(broken()));
        let Err(OrderError::Aborted { cause, last_lines }) = host.answered(reply).await else {
            panic!("it was broken")
        };
        assert!(matches!(
            cause,
            AbortCause::Failed {
                failure: Failure::Exit(Exit::Code(3)),
                ..
            }
        ));
        assert_eq!(last_lines, ["this cannot work"]);
        assert_eq!((host.pids(), host.versions()), (before.clone(), set(&["1"])));
        let reply = host.operator.signal_worker(Slot(0), libc::SIGKILL);
        host.answered(reply).await.unwrap();
        host.until(|status| status.ended.iter().any(|ended| ended.pid == before[0]))
            .await;
        host.until(|status| status.condition == Condition::Ready).await;
        assert_eq!(host.versions(), set(&["1"]));
        let status = host.service.status();
        let killed = status.ended.iter().find(|ended| ended.pid == before[0]).unwrap();
        assert!(!killed.expected && killed.failure.is_some());
        assert_eq!((status.slots[0].restarts, status.slots[1].restarts), (1, 0));
        host.stop().await;
    });
}

#[test]
fn g06_one_change_at_a_time_and_the_newest_of_those_that_wait_is_the_next() {
    test(async || {
        let mut host = Host::start(options(2)).await;
        let replies = ["2", "3", "4"].map(|wanted| host.operator.reload(Some(version(wanted))));
        let [first, second, third] = replies;
        assert_eq!(host.answered(first).await.unwrap().generation.0, 2);
        assert!(matches!(host.service.status().change, Some((Order::Reload, _)) | None));
        assert_eq!(host.answered(second).await, Err(OrderError::Superseded));
        assert_eq!(host.answered(third).await.unwrap().generation.0, 3);
        assert_eq!(host.versions(), set(&["4"]));
        host.stop().await;
    });
}

#[test]
fn a_restart_has_a_gap_and_of_one_worker_only_there() {
    test(async || {
        let mut host = Host::start(options(2)).await;
        let before = host.pids();
        let reply = host.operator.restart(Some(version("2")));
        host.answered(reply).await.unwrap();
        assert_eq!(host.versions(), set(&["2"]));
        assert!(host.pids().iter().all(|pid| !before.contains(pid)));
        let before = host.pids();
        let reply = host.operator.restart_worker(Slot(1));
        host.answered(reply).await.unwrap();
        let after = host.pids();
        assert_eq!((after[0], after.len()), (before[0], 2));
        assert_ne!(after[1], before[1]);
        let reply = host.operator.renew(Slot(0));
        host.answered(reply).await.unwrap();
        assert!(!host.pids().contains(&before[0]) && host.pids().contains(&after[1]));
        let reply = host.operator.renew(Slot(2));
        assert_eq!(
            host.answered(reply).await,
            Err(OrderError::Refused(Refusal::NoSuchSlot))
        );
        host.stop().await;
    });
}

#[test]
fn settings_change_while_it_runs() {
    test(async || {
        let mut host = Host::start(options(1)).await;
        let mut settings = options(3).settings;
        settings.life.restart.policy = thead::service::Policy::Never;
        settings.stop_signal = libc::SIGINT;
        let reply = host.operator.configure(settings.clone());
        host.answered(reply).await.unwrap();
        assert_eq!(host.service.status().ready, 3);
        settings.life.instances = 0;
        let reply = host.operator.configure(settings);
        assert!(matches!(
            host.answered(reply).await,
            Err(OrderError::Refused(Refusal::Invalid(_)))
        ));
        let reply = host.operator.scale_by(-1);
        host.answered(reply).await.unwrap();
        let status = host.service.status();
        assert_eq!((status.instances, status.ready), (2, 2));
        let stopped = status.ended[0].status;
        assert!(
            matches!(
                stopped,
                Exit::Signal {
                    signal: libc::SIGINT,
                    ..
                }
            ),
            "{stopped:?}"
        );
        host.stop().await;
    });
}

#[test]
fn a_stop_overrides_and_who_asks_afterwards_is_told() {
    test(async || {
        let mut host = Host::start(options(2)).await;
        let reload = host.operator.reload(None);
        host.until(|status| status.change.is_some()).await;
        let stop = host.operator.stop();
        let begun = Instant::now();
        assert!(matches!(
            host.answered(reload).await,
            Err(OrderError::Aborted {
                cause: AbortCause::Stopping,
                ..
            })
        ));
        let refused = host.operator.scale(3);
        assert_eq!(
            host.answered(refused).await,
            Err(OrderError::Refused(Refusal::Stopping))
        );
        let over = async { while host.service.next().await.is_some() {} };
        in_time("the end", over).await;
        assert!(in_time("the answer", stop).await.unwrap().took <= begun.elapsed() + Duration::from_secs(1));
        assert_eq!(
            in_time("the answer", host.operator.reload(None)).await,
            Err(OrderError::Ended)
        );
        assert!(host.service.next().await.is_none());
    });
}

#[test]
fn more_orders_than_anybody_takes_are_refused_at_once() {
    test(async || {
        let host = Host::start(options(1)).await;
        let replies: Vec<_> = (0..100).map(|_| host.operator.signal(libc::SIGCONT)).collect();
        let last = replies.into_iter().next_back().unwrap();
        assert_eq!(in_time("the answer", last).await, Err(OrderError::Busy));
        host.stop().await;
    });
}

#[test]
fn a_service_that_goes_away_tells_whoever_waits() {
    test(async || {
        let host = Host::start(options(1)).await;
        let pids = host.pids();
        let reply = host.operator.reload(None);
        drop(host);
        assert_eq!(in_time("the answer", reply).await, Err(OrderError::Ended));
        for pid in pids {
            let process = thead::sys::pidfd::open(pid.cast_signed()).unwrap();
            thead::sys::pidfd::send_signal(&process, libc::SIGKILL).unwrap();
            while fs::metadata(format!("/proc/{pid}")).is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
}

#[test]
fn what_is_told_of_a_service_is_told_in_order() {
    test(async || {
        let mut service = Service::start(options(1)).unwrap();
        service.operator().stop();
        let mut told = Vec::new();
        let over = async {
            while let Some(event) = service.next().await {
                told.push(event);
            }
        };
        in_time("the end", over).await;
        assert!(matches!(told.last(), Some(ServiceEvent::Finished(_))), "{told:?}");
    });
}
