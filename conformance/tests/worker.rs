//! A Rust server as a worker: under Node's primary, under thead, with sockets that are passed in, and alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use conformance::load::{Load, Mode, Target};
use conformance::{PATIENCE, Run, Runtime, Script, client, eventually, node_primary, on};
use rustix::process::Signal;
use serde_json::{Value, json};

const CHILD: &str = env!("CARGO_BIN_EXE_child");

fn primary(runtime: Runtime, policy: &str, port: u16, workers: usize) -> Script {
    node_primary(runtime, policy, CHILD, &[("PORT", &port.to_string())], workers)
}

/// The port on which that many workers have said that they listen.
fn listening(primary: &mut Script, workers: usize) -> u16 {
    let mut ports = BTreeSet::new();
    for _ in 0..workers {
        ports.insert(primary.wait("listening", |line| {
            line.get("listening")?;
            line["at"]["port"].as_u64()
        }));
    }
    assert_eq!(ports.len(), 1, "all have the same port");
    ports.pop_first().unwrap().try_into().unwrap()
}

fn pid(port: u16, path: &str) -> u64 {
    client::get(port, path).json()["pid"].as_u64().unwrap()
}

const POLICIES: [&str; 2] = ["rr", "none"];

fn two_workers_share_a_port_of_nodes_choosing(runtime: Runtime) {
    for policy in POLICIES {
        let mut primary = primary(runtime, policy, 0, 2);
        let port = listening(&mut primary, 2);
        client::until_all(2, || {
            // Where all accept, who is first is chance: several at once reach both.
            let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || pid(port, "/"))).collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect::<Vec<_>>()
        });
        primary.say("send 2");
        let answer = primary.wait("message", |line| {
            line.get("message")
                .map(|message| (line["from"].clone(), message.clone()))
        });
        assert_eq!(answer, (json!(2), json!({ "to": "2" })));
        let (status, lines) = primary.end();
        assert!(status.success());
        for worker in [1, 2] {
            let left = json!({ "exited": worker, "end": 0, "asked": true });
            assert!(lines.contains(&left), "{policy}: {lines:#?}");
        }
        assert_eq!(lines.iter().filter(|line| line.get("leave").is_some()).count(), 2);
    }
}

fn its_own_children_inherit_nothing(runtime: Runtime) {
    let mut primary = primary(runtime, "rr", 0, 1);
    assert_eq!(primary.field("inherits"), json!([]));
    assert!(primary.end().0.success());
}

fn a_worker_that_is_told_to_leave_finishes_what_it_has_begun(runtime: Runtime) {
    for policy in POLICIES {
        let mut primary = primary(runtime, policy, 0, 1);
        let port = listening(&mut primary, 1);
        let mut slow = TcpStream::connect(client::local(port)).unwrap();
        slow.write_all(b"GET /slow HTTP/1.1\r\n\r\n").unwrap();
        // The second connection is served after the first was taken.
        client::get(port, "/");
        primary.say("disconnect 1");
        let mut answer = String::new();
        slow.set_read_timeout(Some(PATIENCE)).unwrap();
        slow.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{policy}: {answer}");
        let end = primary.wait("exit", |line| line.get("exited").map(|_| line.clone()));
        assert_eq!(end, json!({ "exited": 1, "end": 0, "asked": true }));
    }
}

fn a_worker_may_leave_by_itself(runtime: Runtime) {
    for policy in POLICIES {
        let mut primary = primary(runtime, policy, 0, 2);
        let port = listening(&mut primary, 2);
        let id = client::get(port, "/leave").json()["id"].clone();
        let line = primary.wait("disconnect", |line| line.get("disconnected").map(|_| line.clone()));
        assert_eq!(line, json!({ "disconnected": id, "asked": true }));
        let line = primary.wait("exit", |line| line.get("exited").map(|_| line.clone()));
        assert_eq!(line, json!({ "exited": id, "end": 0, "asked": true }));
        assert_ne!(client::get(port, "/").json()["id"], id, "the other serves");
    }
}

fn how_a_worker_ends_is_seen(runtime: Runtime) {
    let mut primary = primary(runtime, "rr", 0, 2);
    let port = listening(&mut primary, 2);
    primary.say("kill 2");
    let line = primary.wait("exit", |line| line.get("exited").map(|_| line.clone()));
    assert_eq!(line, json!({ "exited": 2, "end": "SIGTERM", "asked": false }));
    assert!(client::try_get(port, "/die").is_err());
    let line = primary.wait("exit", |line| line.get("exited").map(|_| line.clone()));
    assert_eq!(line, json!({ "exited": 1, "end": 7, "asked": false }));
    primary.say("fork");
    // With its last worker Node's primary has closed the port.
    listening(&mut primary, 1);
    assert!(primary.end().0.success());
}

fn a_port_in_use_is_an_error_of_listen(runtime: Runtime) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for policy in POLICIES {
        let mut primary = primary(runtime, policy, port, 1);
        assert_eq!(primary.field("code"), "EADDRINUSE", "{policy}");
    }
}

fn it_ends_when_its_primary_is_killed(runtime: Runtime) {
    let mut primary = primary(runtime, "rr", 0, 1);
    let port = listening(&mut primary, 1);
    let pid = u32::try_from(pid(port, "/")).unwrap();
    conformance::kill(primary.pid(), rustix::process::Signal::KILL);
    eventually("the worker ends", || {
        conformance::Process::read(pid)
            .is_none_or(|process| process.is_zombie())
            .then_some(())
    });
}

on! { nodes: two_workers_share_a_port_of_nodes_choosing, its_own_children_inherit_nothing,
a_worker_that_is_told_to_leave_finishes_what_it_has_begun, a_worker_may_leave_by_itself, how_a_worker_ends_is_seen,
a_port_in_use_is_an_error_of_listen, it_ends_when_its_primary_is_killed }

#[test]
fn alone_it_binds_by_itself() {
    let mut child = Script::program(CHILD, &["serves"], &[]);
    let about = child.line();
    assert_eq!((&about["id"], &about["inherits"]), (&Value::Null, &json!([])));
    let port = about["port"].as_u64().unwrap().try_into().unwrap();
    assert_eq!(pid(port, "/"), u64::from(child.pid()));
}

/// Passes two listeners as a service manager does; with the port of each.
fn activated(variables: &[(&str, &str)]) -> (std::process::Child, [u16; 2]) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    let [first, second] = listeners.map(OwnedFd::from);
    let script = "exec 3<&0 4<&2 0</dev/null 2>&1; export LISTEN_PID=$$; exec \"$0\" serves";
    let child = Command::new("/bin/sh")
        .args(["-c", script, CHILD])
        .envs([("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:admin")])
        .envs(variables.iter().copied())
        .stdin(Stdio::from(first))
        .stderr(Stdio::from(second))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, ports)
}

#[test]
fn sockets_that_are_passed_in_are_listened_on() {
    let check = |(mut child, ports): (std::process::Child, [u16; 2]), at: usize| {
        assert_eq!(pid(ports[at], "/"), u64::from(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    };
    check(activated(&[]), 0);
    check(activated(&[("LISTEN_NAME", "admin")]), 1);
}

#[test]
fn under_thead_it_serves_is_reloaded_and_stops() {
    let mut thead = Run::words([CHILD, "serves"])
        .flag("--channel")
        .workers(2)
        .env("PORT", 0)
        .start();
    let port = thead.ready(2);
    let old = client::until_all(2, || [pid(port, "/")]);
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    let new = client::until_all(2, || [pid(port, "/")]);
    assert!(old.is_disjoint(&new));
    thead.stop();
}

#[test]
fn under_thead_it_loses_no_connection_whoever_accepts() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for schedule in ["round-robin", "shared", "kernel", "sticky"] {
        let run = Run::words([CHILD, "serves"])
            .flag("--channel")
            .workers(3)
            .env("PORT", 0);
        let mut thead = run.option("--schedule", schedule).option("--soak", "0").start();
        let target = Target::Tcp(client::local(thead.ready(3)));
        let _guard = tokio.enter();
        let load = Load {
            connections: 8,
            mode: Mode::NewConnections,
            ..Load::on(target)
        }
        .start();
        for generation in 2..=6 {
            tokio.block_on(load.answered(50));
            thead.signal(Signal::HUP);
            thead.wait_for("reload_done", |said| said.number("generation") == generation);
        }
        for signal in [Signal::TTOU, Signal::TTOU, Signal::TTIN, Signal::TTIN] {
            thead.signal(signal);
            thead.next("scaled");
            tokio.block_on(load.answered(50));
        }
        let report = tokio.block_on(load.stop());
        assert_eq!(report.failures.total(), 0, "{schedule}: {report}");
        thead.stop();
    }
}
