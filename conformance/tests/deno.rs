//! Deno 2.9.6: a cluster worker like Node's (the other files test it beside Node), with these exceptions.
//! See `docs/compatibility.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpStream;

use conformance::{Run, Runtime, client};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn cannot_udp_belongs_to_one_worker() {
    let run = Run::program(Runtime::Deno, "dgram.js").env("PORT", client::free_port());
    let end = run
        .option("--ready-timeout", "2s")
        .option("--restart-backoff", "1ms..1ms")
        .end();
    assert!(end.all("listening").is_empty(), "it never asks");
    let mut died = end
        .all("exited")
        .into_iter()
        .filter(|said| said.json["expected"] == false);
    assert!(
        died.any(|said| said.json["last_lines"].to_string().contains("EADDRINUSE")),
        "{end:#?}"
    );
    assert_eq!(end.code, Some(1));
}

#[test]
fn what_cannot_be_shared_goes_round_robin() {
    for (socket, schedule) in [(false, "shared"), (true, "shared"), (false, "kernel")] {
        let mut run = Run::program(Runtime::Deno, "http.js").option("--schedule", schedule);
        if socket {
            run = run.env("SOCKET", "./socket");
        }
        let mut thead = run.start();
        let port = thead.ready(2);
        assert!(thead.next("note").text("message").contains("round-robin"));
        let path = thead.dir().join("socket");
        client::until_all(2, || {
            [match socket {
                true => client::try_get_unix(&path, "/").unwrap().pid(),
                false => client::get(port, "/").pid(),
            }]
        });
        thead.stop_cleanly();
    }
}

#[test]
fn unix_sockets_are_served_in_turn() {
    let mut thead = Run::program(Runtime::Deno, "http.js").env("SOCKET", "./socket").start();
    thead.ready(2);
    let socket = thead.dir().join("socket");
    client::until_all(2, || [client::try_get_unix(&socket, "/").unwrap().pid()]);
    thead.stop_cleanly();
}

#[test]
fn cannot_resume_tls_sessions_of_another_worker() {
    let mut thead = Run::program(Runtime::Deno, "https.js").start();
    let port = thead.ready(2);
    let said = client::script("https.js", &[port.to_string(), "5".into()]);
    let answers: Vec<Value> = said["answers"].as_array().unwrap().clone();
    for answer in &answers[1..] {
        assert_eq!(
            answer["resumed"],
            answer["worker"] == answers[0]["worker"],
            "{answers:?}"
        );
    }
    thead.stop_cleanly();
}

#[test]
fn cannot_say_ipv6_only() {
    let text = "
        const server = require('node:net').createServer((socket) => socket.end());
        const options = { port: Number(process.env.PORT), host: '::', ipv6Only: true };
        server.listen(options, () => process.send(server.address()));
    ";
    let mut thead = Run::script(Runtime::Deno, text).start();
    let port = thead.ready(2);
    TcpStream::connect(client::local(port)).unwrap();
    thead.stop_cleanly();
}

#[test]
fn a_reload_lets_requests_finish() {
    let mut thead = Run::program(Runtime::Deno, "http.js").option("--soak", "0").start();
    let port = thead.ready(2);
    let begun = [client::begin(port, 1500), client::begin(port, 1500)];
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    assert!(begun.into_iter().all(client::Begun::finishes));
    assert!((0..4).all(|_| client::get(port, "/").worker() > 2));
    let end = thead.stop_cleanly();
    assert_eq!(end.all("exited").len(), 4);
}
