//! `--schedule kernel`: the kernel spreads connections over the workers' own sockets, and none is lost with one of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use conformance::load::{Load, Mode, Report, Target};
use conformance::{PATIENCE, Process, Run, Runtime, Thead, client, eventually, on};
use rustix::process::Signal;

fn kernel(runtime: Runtime) -> Run {
    Run::program(runtime, "http.js").option("--schedule", "kernel")
}

fn tokio() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn load(port: u16) -> Load {
    Load {
        max_time: Duration::from_secs(300),
        timeout: PATIENCE,
        ..Load::on(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))))
    }
}

/// How often the process was woken, so far.
fn wakeups(thead: &Thead) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", thead.process().pid)).unwrap();
    let field = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    field.unwrap().trim().parse().unwrap()
}

fn new_connections_are_spread_evenly_and_cost_the_primary_nothing(runtime: Runtime) {
    let mut thead = kernel(runtime).workers(4).start();
    let port = thead.ready(4);
    assert_eq!(thead.next("started").text("schedule"), "kernel");
    let load = Load {
        connections: 32,
        mode: Mode::NewConnections,
        max_requests: 20_000,
        ..load(port)
    };
    let before = wakeups(&thead);
    let report = tokio().block_on(load.run());
    let woken = wakeups(&thead) - before;
    assert_eq!((report.answers, report.failures.total()), (20_000, 0), "{report}");
    let shares = &report.workers;
    let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
    assert_eq!(shares.len(), 4, "{report}");
    assert!(*most as f64 / *least as f64 <= 1.15, "{report}");
    assert!(
        woken < 1_000,
        "the primary was woken {woken} times for {} connections",
        report.opened
    );
    thead.stop_cleanly();
}

/// What is known of each socket of a port: its client's port, and its inode, 0 while nobody has accepted it.
fn sockets(port: u16) -> Vec<(u16, u64)> {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let mine = port_of(fields[1]) == port && [ESTABLISHED, CLOSE_WAIT].contains(&fields[3]);
        mine.then(|| (port_of(fields[2]), fields[9].parse().unwrap()))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Clients that ask without pause, each time on a new connection, and what became of each of these, by the client's port.
struct Clients {
    port: u16,
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<(u16, bool)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(port: u16) -> Self {
        let (stop, outcomes) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let client = |_| {
            let (stop, outcomes) = (stop.clone(), Arc::<Mutex<Vec<_>>>::clone(&outcomes));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = ask(port);
                    outcomes.lock().unwrap().push(outcome);
                }
            })
        };
        let threads = (0..40).map(client).collect();
        Self {
            port,
            stop,
            outcomes,
            threads,
        }
    }

    fn outcome(&self, more: usize) {
        let goal = self.outcomes.lock().unwrap().len() + more;
        eventually("answers", || {
            (self.outcomes.lock().unwrap().len() >= goal).then_some(())
        });
    }

    /// The worker stands still from now on: clients that wait in its queue, and those that it has accepted.
    fn stand_still(&self, pid: u32) -> [BTreeSet<u16>; 2] {
        conformance::kill(pid, Signal::STOP);
        eventually("it stands still", || (Process::read(pid)?.state == 'T').then_some(()));
        let ports = |wanted: &dyn Fn(u64) -> bool| -> BTreeSet<u16> {
            let sockets = sockets(self.port).into_iter();
            sockets
                .filter(|(_, inode)| wanted(*inode))
                .map(|(client, _)| client)
                .collect()
        };
        let queued = eventually("clients wait in its queue", || {
            let queued = ports(&|inode| inode == 0);
            (queued.len() >= 5).then_some(queued)
        });
        let its = Process::read(pid).unwrap().sockets();
        let accepted = ports(&|inode| its.contains(&format!("socket:[{inode}]")));
        assert!(queued.is_disjoint(&accepted));
        [queued, accepted]
    }

    /// Waits until all of these were answered.
    fn answered(&self, clients: &BTreeSet<u16>) {
        eventually("others answer those that waited", || {
            let outcomes = self.outcomes.lock().unwrap();
            let answered = |client| outcomes.iter().any(|(port, answered)| port == client && *answered);
            clients.iter().all(answered).then_some(())
        });
    }

    /// Ends them; those that got no answer.
    fn failed(self) -> BTreeSet<u16> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let outcomes = self.outcomes.lock().unwrap();
        let failed = outcomes.iter().filter(|(_, answered)| !answered);
        failed.map(|(client, _)| *client).collect()
    }
}

/// One request on a connection of its own: the client's port, and whether it was answered.
fn ask(port: u16) -> (u16, bool) {
    let stream = TcpStream::connect_timeout(&client::local(port), PATIENCE).unwrap();
    let mine = stream.local_addr().unwrap().port();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let exchange = |mut stream: TcpStream| {
        stream.write_all(b"GET /slow?ms=20 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    (
        mine,
        exchange(stream).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")),
    )
}

fn a_killed_worker_loses_only_what_it_had_accepted(runtime: Runtime) {
    let run = kernel(runtime).workers(4).option("--restart-backoff", "60s..60s");
    let mut thead = run.start();
    let port = thead.ready(4);
    let clients = Clients::start(port);
    let mut lost = BTreeSet::new();
    for worker in 1..=3 {
        clients.outcome(100);
        let pid = thead.pid_of(worker);
        let [queued, accepted] = clients.stand_still(pid);
        lost.extend(accepted);
        conformance::kill(pid, Signal::KILL);
        // By others: no worker comes for a minute.
        clients.answered(&queued);
    }
    assert_eq!(thead.all("spawned").len(), 4);
    clients.outcome(100);
    let failed = clients.failed();
    assert!(
        failed.is_subset(&lost),
        "{failed:?} failed, and had been accepted: {lost:?}"
    );
    thead.stop();
}

fn what_waits_for_a_worker_that_is_told_to_leave_goes_to_others(runtime: Runtime) {
    let mut thead = kernel(runtime).workers(3).start();
    let clients = Clients::start(thead.ready(3));
    for worker in [3, 2] {
        clients.outcome(100);
        let pid = thead.pid_of(worker);
        let [queued, _] = clients.stand_still(pid);
        thead.signal(Signal::TTOU);
        // It stands still all the while, and its own connections wait for it.
        clients.answered(&queued);
        conformance::kill(pid, Signal::CONT);
        thead.wait_for("exited", |said| {
            said.number("worker") == worker && said.json["expected"] == true
        });
    }
    assert_eq!(clients.failed(), BTreeSet::new());
    thead.stop_cleanly();
}

fn connections_wait_while_no_worker_is_there(runtime: Runtime) {
    let run = kernel(runtime).workers(2).option("--restart-backoff", "700ms..700ms");
    let mut thead = run.start();
    let port = thead.ready(2);
    for worker in [1, 2] {
        conformance::kill(thead.pid_of(worker), Signal::KILL);
    }
    let ask = || std::thread::spawn(move || client::get(port, "/").worker());
    let mut requests: Vec<_> = (0..20).map(|_| ask()).collect();
    thead.next("exited");
    thead.next("exited");
    requests.extend((0..20).map(|_| ask()));
    for request in requests {
        assert!(request.join().unwrap() > 2);
    }
    thead.ready(2);
    thead.stop_cleanly();
}

/// What clients saw while the number of workers changed, of both kinds.
fn change_scale(run: Run, most: u64, changes: u64) -> [Report; 2] {
    let tokio = tokio();
    let _guard = tokio.enter();
    let mut thead = run.workers(1).start();
    let port = thead.ready(1);
    let kept = Load {
        connections: 8,
        think: Duration::from_millis(5),
        ..load(port)
    }
    .start();
    let fresh = Load {
        connections: 8,
        mode: Mode::NewConnections,
        ..load(port)
    }
    .start();
    let (mut workers, mut newest, mut up) = (1, 1, true);
    for change in 1..=changes {
        up = if workers == most { false } else { workers == 1 || up };
        thead.signal(if up { Signal::TTIN } else { Signal::TTOU });
        let scaled = thead.next("scaled");
        workers = scaled.number("to");
        let spawned = up.then(|| {
            thead
                .wait_for("spawned", |said| said.number("worker") > newest)
                .number("worker")
        });
        newest = spawned.unwrap_or(newest);
        // At times the next change comes before this one is done.
        if change % 3 != 0 {
            match spawned {
                Some(worker) => thead.wait_for("ready", |said| said.number("worker") == worker),
                None => thead.next("exited"),
            };
        }
        tokio.block_on(async { tokio::join!(kept.answered(5), fresh.answered(20)) });
    }
    let reports = tokio.block_on(async { tokio::join!(kept.stop(), fresh.stop()) });
    thead.stop();
    reports.into()
}

fn changes_of_scale_lose_nothing(run: Run, most: u64, changes: u64) {
    let [kept, fresh] = change_scale(run, most, changes);
    assert_eq!(kept.failures.total() + fresh.failures.total(), 0, "\n{kept}\n{fresh}");
    assert_eq!((kept.opened, kept.closed_idle), (8, 0), "{kept}");
    assert!(fresh.workers.len() as u64 > changes / 3, "{fresh}");
}

fn twenty_changes_of_scale_lose_nothing(runtime: Runtime) {
    changes_of_scale_lose_nothing(kernel(runtime), 4, 20);
}

fn several_ports_and_port_0_are_spread_each_by_itself(runtime: Runtime) {
    let mut thead = Run::program(runtime, "port0.js").option("--schedule", "kernel").start();
    let mut message = || thead.next("message").json["message"].clone();
    let (one, two) = (message(), message());
    assert_eq!(one, two);
    let ports: Vec<u16> = serde_json::from_value(one["ports"].clone()).unwrap();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 2);
    for port in ports {
        let mut shares = BTreeMap::new();
        for _ in 0..60 {
            *shares
                .entry(client::get(port, "/").json()["pid"].as_u64().unwrap())
                .or_insert(0) += 1;
        }
        // By chance alone once in 10^8 runs less.
        assert!(
            shares.len() == 2 && shares.values().all(|share| *share > 8),
            "{shares:?}"
        );
    }
    thead.stop_cleanly();
}

/// The socket of the first worker is bound for itself alone.
fn another_primary_on_the_port_is_told_that_it_is_in_use(runtime: Runtime) {
    let mut thead = kernel(runtime).start();
    let port = thead.ready(2);
    let end = kernel(runtime).env("PORT", port).end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.all("listen_failed")
            .iter()
            .all(|said| said.text("code") == "EADDRINUSE")
    );
    thead.stop_cleanly();
}

/// `cargo nextest run -p conformance --test kernel --run-ignored only`
#[test]
#[ignore = "takes some minutes"]
fn a_hundred_changes_of_scale_between_1_and_8_lose_nothing() {
    for runtime in [Runtime::Node18, Runtime::Node22, Runtime::Node26] {
        changes_of_scale_lose_nothing(kernel(runtime), 8, 100);
    }
}

on!([node18 Node18, node22 Node22, node26 Node26]:
    new_connections_are_spread_evenly_and_cost_the_primary_nothing,
    a_killed_worker_loses_only_what_it_had_accepted,
    twenty_changes_of_scale_lose_nothing);
on!(nodes:
    what_waits_for_a_worker_that_is_told_to_leave_goes_to_others,
    connections_wait_while_no_worker_is_there,
    several_ports_and_port_0_are_spread_each_by_itself);
on!([node22 Node22]: another_primary_on_the_port_is_told_that_it_is_in_use);
