//! UDP, which is always shared.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::UdpSocket;

use conformance::{PATIENCE, Run, Runtime, client, on};
use serde_json::Value;

/// Sends one datagram and waits for the answer.
fn ask(port: u16, text: &str) -> Value {
    let socket = UdpSocket::bind(client::local(0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(text.as_bytes(), client::local(port)).unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    serde_json::from_slice(&buffer[..length]).unwrap()
}

fn all_workers_read_one_socket(runtime: Runtime) {
    for schedule in ["round-robin", "shared", "kernel", "sticky"] {
        let mut thead = Run::program(runtime, "dgram.js").option("--schedule", schedule).start();
        let ports: BTreeSet<_> = (0..2).map(|_| thead.next("listening").number("port")).collect();
        assert_eq!(ports.len(), 1, "port 0 is one port for all");
        let port = u16::try_from(*ports.first().unwrap()).unwrap();
        for n in 0..20 {
            assert_eq!(ask(port, &n.to_string())["message"], n.to_string());
        }
        // Either may read, so one that cannot is the proof for the other.
        let (one, two) = (thead.pid_of(1), thead.pid_of(2));
        for (stopped, other) in [(one, two), (two, one)] {
            conformance::kill(stopped, rustix::process::Signal::STOP);
            for _ in 0..5 {
                assert_eq!(ask(port, "hello")["pid"], other);
            }
            conformance::kill(stopped, rustix::process::Signal::CONT);
        }
        thead.stop_cleanly();
    }
}

fn the_socket_outlives_its_workers(runtime: Runtime) {
    let mut thead = Run::program(runtime, "dgram.js").workers(1).start();
    let port = thead.ready(1);
    conformance::kill(thead.pid_of(1), rustix::process::Signal::KILL);
    thead.next("exited");
    // Nobody is there to read it now; the next worker does.
    assert_eq!(ask(port, "hello")["message"], "hello");
    thead.stop_cleanly();
}

/// Node 22 to 26 die of it under their own primary.
fn trap_4_one_worker_may_bind_a_port_twice_with_reuse_addr(runtime: Runtime) {
    let text = "
        const dgram = require('node:dgram');
        const port = Number(process.env.PORT);
        const sockets = [1, 2].map(() => dgram.createSocket({ type: 'udp4', reuseAddr: true }));
        sockets[0].bind(port, '127.0.0.1', () => sockets[1].bind(port, '127.0.0.1', () => process.send('both')));
    ";
    let mut thead = Run::script(runtime, text).env("PORT", client::free_port()).start();
    for _ in 0..2 {
        assert_eq!(thead.next("message").json["message"], "both");
    }
    assert!(thead.all("exited").is_empty());
    thead.stop_cleanly();
}

fn a_port_in_use_is_eaddrinuse(runtime: Runtime) {
    let taken = UdpSocket::bind(client::local(0)).unwrap();
    let end = Run::program(runtime, "dgram.js")
        .env("PORT", taken.local_addr().unwrap().port())
        .end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.all("listen_failed")
            .iter()
            .all(|said| said.text("code") == "EADDRINUSE")
    );
    assert!(end.only("failed").json["last_lines"].to_string().contains("EADDRINUSE"));
}

on!(nodes:
    all_workers_read_one_socket,
    the_socket_outlives_its_workers,
    trap_4_one_worker_may_bind_a_port_twice_with_reuse_addr,
    a_port_in_use_is_eaddrinuse,
);
