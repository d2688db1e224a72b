//! `--schedule sticky`: a client has one worker, and keeps it while it lives.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use conformance::{PATIENCE, Run, Runtime, client, eventually, on};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;
use serde_json::{Value, json};

fn sticky(runtime: Runtime, program: &str) -> Run {
    Run::program(runtime, program).option("--schedule", "sticky").workers(4)
}

/// A connection from this address.
fn connect(address: Ipv4Addr, port: u16) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((address, 0))).unwrap();
    rustix::net::connect(&socket, &client::local(port)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Who answers a client with this address.
fn worker_of(address: Ipv4Addr, port: u16) -> u64 {
    let answer = client::request(connect(address, port), "/", Instant::now());
    answer.unwrap().worker()
}

/// Who answers whom.
fn workers(port: u16) -> BTreeMap<Ipv4Addr, u64> {
    let clients = (1..=60).map(|n| Ipv4Addr::new(127, 0, 1, n));
    clients.map(|client| (client, worker_of(client, port))).collect()
}

fn a_client_keeps_its_worker_and_moves_only_with_its_end(runtime: Runtime) {
    let run = sticky(runtime, "http.js").option("--restart-backoff", "3s..3s");
    let mut thead = run.start();
    let port = thead.ready(4);
    assert_eq!(thead.next("started").text("schedule"), "sticky");
    let before = workers(port);
    let shares: BTreeSet<_> = before.values().collect();
    assert_eq!(shares.len(), 4, "{before:?}");
    assert_eq!(workers(port), before);
    conformance::kill(thead.pid_of(2), Signal::KILL);
    thead.next("exited");
    let meanwhile = workers(port);
    assert_eq!(thead.all("spawned").len(), 4, "nobody has come yet");
    let moved = |now: &BTreeMap<Ipv4Addr, u64>| -> BTreeSet<_> {
        let moved = now.iter().filter(|(client, worker)| before[*client] != **worker);
        moved.map(|(client, _)| *client).collect()
    };
    let its: BTreeSet<_> = before
        .iter()
        .filter(|(_, worker)| **worker == 2)
        .map(|(client, _)| *client)
        .collect();
    assert_eq!(moved(&meanwhile), its);
    assert!(meanwhile.values().all(|worker| *worker != 2));
    // Its successor has its clients.
    thead.ready(1);
    let after = workers(port);
    assert_eq!(moved(&after), its);
    assert!(its.iter().all(|client| after[client] == 5));
    thead.stop_cleanly();
}

fn at_a_reload_each_client_goes_to_the_successor_of_its_worker(runtime: Runtime) {
    let mut thead = sticky(runtime, "http.js").option("--soak", "0").start();
    let port = thead.ready(4);
    let before = workers(port);
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    let successors: BTreeMap<_, _> = thead
        .all("opened")
        .iter()
        .map(|said| (said.number("replaces"), said.number("worker")))
        .collect();
    for (client, worker) in workers(port) {
        assert_eq!(worker, successors[&before[&client]], "{client}");
    }
    thead.stop_cleanly();
}

/// A worker that stands still keeps its clients, and nobody else waits for it.
fn a_client_waits_for_its_worker_and_others_do_not(runtime: Runtime) {
    let mut thead = sticky(runtime, "http.js").start();
    let port = thead.ready(4);
    let before = workers(port);
    conformance::kill(thead.pid_of(1), Signal::STOP);
    let ask = |client: Ipv4Addr| std::thread::spawn(move || worker_of(client, port));
    let (its, others): (Vec<_>, Vec<_>) = before.iter().partition(|(_, worker)| **worker == 1);
    let waiting: Vec<_> = its.iter().map(|(client, _)| ask(**client)).collect();
    for (client, worker) in others {
        assert_eq!(worker_of(*client, port), *worker);
    }
    // More than an offer in turn would wait.
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiting.iter().all(|client| !client.is_finished()));
    conformance::kill(thead.pid_of(1), Signal::CONT);
    assert!(waiting.into_iter().all(|client| client.join().unwrap() == 1));
    thead.stop_cleanly();
}

fn offers_in_a_dead_workers_hand_go_where_its_clients_then_belong(runtime: Runtime) {
    let run = sticky(runtime, "http.js").option("--restart-backoff", "3s..3s");
    let mut thead = run.start();
    let port = thead.ready(4);
    let descriptors = thead.process().descriptors();
    let before = workers(port);
    eventually("no copy of those is kept", || {
        (thead.process().descriptors() <= descriptors).then_some(())
    });
    let its: Vec<_> = before
        .iter()
        .filter(|(_, worker)| **worker == 3)
        .map(|(client, _)| *client)
        .collect();
    conformance::kill(thead.pid_of(3), Signal::STOP);
    let ask = |client: Ipv4Addr| (client, std::thread::spawn(move || worker_of(client, port)));
    let waiting: Vec<_> = its.iter().copied().map(ask).collect();
    eventually("the connections are accepted", || {
        (thead.process().descriptors() >= descriptors + its.len()).then_some(())
    });
    conformance::kill(thead.pid_of(3), Signal::KILL);
    for (client, answered) in waiting {
        assert_eq!(answered.join().unwrap(), worker_of(client, port));
    }
    thead.stop();
}

/// Those that wait for a worker need descriptors of the primary's: there are some left for others.
fn a_crowd_that_waits_for_one_worker_leaves_room_for_the_others(runtime: Runtime) {
    let mut thead = sticky(runtime, "http.js")
        .under(["prlimit", "--nofile=128:128"])
        .start();
    let port = thead.ready(4);
    let before = workers(port);
    let (its, others): (Vec<_>, Vec<_>) = before.iter().partition(|(_, worker)| **worker == 1);
    conformance::kill(thead.pid_of(1), Signal::STOP);
    let crowd: Vec<_> = (0..200).map(|_| connect(*its[0].0, port)).collect();
    for (client, worker) in others {
        assert_eq!(worker_of(*client, port), *worker);
    }
    drop(crowd);
    conformance::kill(thead.pid_of(1), Signal::CONT);
    eventually("its clients have it again", || {
        (worker_of(*its[0].0, port) == 1).then_some(())
    });
    thead.stop();
}

/// What eight clients of socket.io saw, each from an address of its own.
fn socket_io(runtime: Runtime, schedule: &str, transports: &[&str]) -> Value {
    let mut thead = sticky(runtime, "socketio.js").option("--schedule", schedule).start();
    let port = thead.ready(4);
    let numbers = [port.to_string(), "8".into(), "20".into()];
    let arguments: Vec<_> = numbers
        .into_iter()
        .chain(transports.iter().map(ToString::to_string))
        .collect();
    let seen = client::script("socketio.js", &arguments);
    thead.stop();
    seen
}

fn socket_io_works_by_long_polling_and_after_an_upgrade(runtime: Runtime) {
    for (transports, last) in [(&["polling"][..], "polling"), (&["polling", "websocket"], "websocket")] {
        let seen = socket_io(runtime, "sticky", transports);
        assert_eq!(seen["errors"], json!({}), "{seen}");
        let mut workers = BTreeSet::new();
        for client in seen["clients"].as_array().unwrap() {
            assert_eq!(
                (&client["echoes"], &client["transport"]),
                (&json!(20), &json!(last)),
                "{seen}"
            );
            let its = client["workers"].as_array().unwrap();
            assert_eq!(its.len(), 1, "one session each: {seen}");
            workers.insert(its[0].as_u64().unwrap());
        }
        assert!(workers.len() > 1, "{seen}");
    }
}

/// The proof that the test above can fail.
fn socket_io_does_not_work_round_robin(runtime: Runtime) {
    let seen = socket_io(runtime, "round-robin", &["polling"]);
    assert_ne!(seen["errors"], json!({}), "{seen}");
}

on!([node18 Node18, node22 Node22, node26 Node26, deno Deno]:
    a_client_keeps_its_worker_and_moves_only_with_its_end,
    a_client_waits_for_its_worker_and_others_do_not,
    offers_in_a_dead_workers_hand_go_where_its_clients_then_belong);
on!([node18 Node18, node22 Node22, node26 Node26]:
    at_a_reload_each_client_goes_to_the_successor_of_its_worker,
    a_crowd_that_waits_for_one_worker_leaves_room_for_the_others,
    socket_io_works_by_long_polling_and_after_an_upgrade);
on!([node22 Node22]: socket_io_does_not_work_round_robin);
