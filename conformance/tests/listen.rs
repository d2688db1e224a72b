//! What `listen()` means in a worker: shared and private ports, errors, and odd calls.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{TcpListener, TcpStream};

use conformance::{Run, Runtime, Thead, client, on};
use serde_json::{Value, json};

/// The next message of a worker.
fn message(thead: &mut Thead) -> Value {
    thead.next("message").json["message"].clone()
}

fn the_nth_port_0_of_each_worker_is_one_port(runtime: Runtime) {
    let mut thead = Run::program(runtime, "port0.js").start();
    let (one, two) = (message(&mut thead), message(&mut thead));
    assert_eq!(one, two);
    let ports: Vec<u16> = serde_json::from_value(one["ports"].clone()).unwrap();
    assert_eq!(
        ports.iter().collect::<BTreeSet<_>>().len(),
        2,
        "two servers in one worker have two ports"
    );
    for port in ports {
        client::until_all(2, || [client::get(port, "/").json()["pid"].as_u64()]);
    }
    thead.stop_cleanly();
}

/// Says what `listen` came to; on an error it tries the port in RETRY.
const TELLS: &str = "
    const { createServer } = require('node:net');
    const server = createServer((socket) => socket.end());
    server.on('error', ({ code, syscall, address, port }) => {
        process.send({ code, syscall, address, port });
        if (process.env.RETRY) server.listen(Number(process.env.RETRY), '127.0.0.1', () => process.send(server.address()));
    });
    server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send(server.address()));
";

fn trap_3_a_port_in_use_is_eaddrinuse_for_the_application_and_it_can_retry(runtime: Runtime) {
    let taken = TcpListener::bind(client::local(0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let retry = client::free_port();
    let run = Run::script(runtime, TELLS).env("PORT", port).env("RETRY", retry);
    let mut thead = run.start();
    for _ in 0..2 {
        let failed = thead.next("listen_failed");
        assert_eq!(
            (failed.text("code"), failed.number("port")),
            ("EADDRINUSE", u64::from(port))
        );
    }
    let mut said = [0; 2];
    for _ in 0..4 {
        let told = message(&mut thead);
        if told["code"].is_null() {
            assert_eq!(told["port"], retry, "trap 2: the address is the one asked for: {told}");
            said[1] += 1;
        } else {
            assert_eq!(
                (&told["code"], &told["port"]),
                (&json!("EADDRINUSE"), &json!(port)),
                "{told}"
            );
            said[0] += 1;
        }
    }
    assert_eq!(said, [2, 2]);
    TcpStream::connect(client::local(retry)).unwrap();
    thead.stop_cleanly();
}

fn a_port_in_use_fails_the_service_at_once_with_the_reason(runtime: Runtime) {
    let taken = TcpListener::bind(client::local(0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let end = Run::program(runtime, "http.js").env("PORT", port).end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.all("listen_failed")
            .iter()
            .all(|said| said.text("code") == "EADDRINUSE")
    );
    let failed = end.only("failed");
    assert!(
        failed.json["last_lines"].to_string().contains("EADDRINUSE"),
        "{}",
        failed.json
    );
    assert!(end.all("spawned").len() <= 6, "{end:#?}");
}

fn people_are_told_who_may_have_the_port(runtime: Runtime) {
    let taken = TcpListener::bind(client::local(0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let end = Run::program(runtime, "http.js").env("PORT", port).human().end();
    assert_eq!(end.code, Some(1));
    let told = format!("cannot listen on 127.0.0.1:{port}: EADDRINUSE, another process has it");
    assert!(end.stderr.contains(&told), "{}", end.stderr);
    assert!(end.stderr.contains("has failed"), "{}", end.stderr);
}

fn a_privileged_or_foreign_address_has_its_own_errno(runtime: Runtime) {
    let run = Run::script(runtime, TELLS.replace("'127.0.0.1'", "'192.0.2.1'").as_str()).workers(1);
    let mut thead = run.start();
    assert_eq!(message(&mut thead)["code"], "EADDRNOTAVAIL");
    assert_eq!(thead.next("listen_failed").text("code"), "EADDRNOTAVAIL");
    thead.stop();
}

fn trap_4_a_second_listen_of_one_worker_on_one_port_is_eaddrinuse(runtime: Runtime) {
    let text = "
        const { createServer } = require('node:net');
        const first = createServer((socket) => socket.end());
        first.listen(Number(process.env.PORT), '127.0.0.1', () => {
            const second = createServer();
            second.on('error', ({ code }) => process.send({ code }));
            second.on('listening', () => process.send({ code: 'none' }));
            second.listen(first.address().port, '127.0.0.1');
        });
    ";
    let mut thead = Run::script(runtime, text).env("PORT", client::free_port()).start();
    for _ in 0..2 {
        assert_eq!(message(&mut thead), json!({ "code": "EADDRINUSE" }));
    }
    assert!(thead.all("exited").is_empty(), "no worker died of it");
    thead.stop_cleanly();
}

fn trap_6_a_backlog_of_false_is_the_default(runtime: Runtime) {
    let text = "
        const server = require('node:net').createServer((socket) => socket.end('hello'));
        server.listen(Number(process.env.PORT), () => process.send(server.address()));
    ";
    let mut thead = Run::script(runtime, text).start();
    let port = u16::try_from(message(&mut thead)["port"].as_u64().unwrap()).unwrap();
    let mut greeting = String::new();
    TcpStream::connect(client::local(port))
        .unwrap()
        .read_to_string(&mut greeting)
        .unwrap();
    assert_eq!(greeting, "hello");
    thead.stop_cleanly();
}

fn without_a_host_both_families_are_served(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => res.end('hello'));
        server.listen(Number(process.env.PORT), () => process.send(server.address()));
    ";
    let mut thead = Run::script(runtime, text).start();
    let address = message(&mut thead);
    assert_eq!(
        (&address["address"], &address["family"]),
        (&json!("::"), &json!("IPv6"))
    );
    let port = u16::try_from(address["port"].as_u64().unwrap()).unwrap();
    assert_eq!(client::get(port, "/").body, "hello");
    let six = TcpStream::connect(("::1", port)).unwrap();
    assert_eq!(
        client::request(six, "/", std::time::Instant::now()).unwrap().body,
        "hello"
    );
    thead.stop_cleanly();
}

fn ipv6_only_leaves_ipv4_to_others(runtime: Runtime) {
    let text = "
        const server = require('node:net').createServer((socket) => socket.end());
        const options = { port: Number(process.env.PORT), host: '::', ipv6Only: true };
        server.listen(options, () => process.send(server.address()));
    ";
    let mut thead = Run::script(runtime, text).start();
    let port = u16::try_from(message(&mut thead)["port"].as_u64().unwrap()).unwrap();
    TcpStream::connect(("::1", port)).unwrap();
    TcpListener::bind(client::local(port)).unwrap();
    thead.stop_cleanly();
}

fn exclusive_workers_have_a_port_of_their_own(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => res.end(String(process.pid)));
        server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
            process.send({ port: server.address().port, pid: process.pid });
        });
    ";
    let mut thead = Run::script(runtime, text).start();
    let (one, two) = (message(&mut thead), message(&mut thead));
    assert_ne!(one["port"], two["port"]);
    for own in [one, two] {
        let port = u16::try_from(own["port"].as_u64().unwrap()).unwrap();
        assert_eq!(client::get(port, "/").body, own["pid"].to_string());
    }
    thead.stop();
}

fn the_second_exclusive_worker_on_a_port_fails_by_itself(runtime: Runtime) {
    let run = Run::program(runtime, "exclusive.js").env("PORT", client::free_port());
    let mut thead = run.option("--restart", "never").start();
    let died = thead.next("exited");
    assert!(
        died.json["last_lines"].to_string().contains("EADDRINUSE"),
        "{}",
        died.json
    );
    thead.stop();
}

const REUSE_PORT: &str = "
    const server = require('node:http').createServer((req, res) => res.end(String(process.pid)));
    server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', reusePort: true }, () => process.send('up'));
";

fn reuse_port_workers_bind_by_themselves(runtime: Runtime) {
    let port = client::free_port();
    let mut thead = Run::script(runtime, REUSE_PORT).env("PORT", port).start();
    for _ in 0..2 {
        assert_eq!(message(&mut thead), "up");
    }
    assert!(thead.all("listening").is_empty(), "the primary is not asked");
    client::until_all(2, || [client::get(port, "/").body]);
    thead.stop();
}

fn reuse_port_is_an_ordinary_listen_before_node_22(runtime: Runtime) {
    let port = client::free_port();
    let mut thead = Run::script(runtime, REUSE_PORT).env("PORT", port).start();
    thead.ready(2);
    client::until_all(2, || [client::get(port, "/").body]);
    thead.stop_cleanly();
}

fn trap_10_a_server_closed_while_it_asks_to_listen_disturbs_nobody(runtime: Runtime) {
    let text = "
        const { createServer } = require('node:http');
        for (const host of [undefined, '127.0.0.1', 'localhost']) createServer().listen(0, host).close();
        const server = createServer((req, res) => res.end('hello'));
        server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send(server.address()));
    ";
    let port = client::free_port();
    let mut thead = Run::script(runtime, text).env("PORT", port).start();
    for _ in 0..2 {
        assert_eq!(message(&mut thead)["port"], port);
    }
    assert_eq!(client::get(port, "/").body, "hello");
    assert!(thead.all("exited").is_empty());
    thead.stop_cleanly();
}

/// `Differs`: Node 20 to 26 die of an error reply to a server that was closed meanwhile; 18 and Deno do not.
fn trap_20_an_error_for_a_server_closed_meanwhile_costs_no_more_than_its_worker(runtime: Runtime) {
    let text = "
        const { createServer } = require('node:http');
        const once = require('node:fs').existsSync('died');
        require('node:fs').writeFileSync('died', '');
        const server = createServer((req, res) => res.end('hello'));
        server.listen(Number(process.env.PORT), '127.0.0.1', () => {
            if (once) return;
            const closed = createServer();
            closed.on('error', () => {});
            closed.listen(Number(process.env.TAKEN)).close();
        });
    ";
    let taken = TcpListener::bind(("::", 0)).unwrap();
    let port = client::free_port();
    let run = Run::script(runtime, text).workers(1).env("PORT", port);
    let mut thead = run.env("TAKEN", taken.local_addr().unwrap().port()).start();
    thead.next("ready");
    thead.next("listen_failed");
    if runtime.node() >= 20 {
        assert_eq!(thead.next("exited").json["code"], 1);
        thead.next("ready");
    }
    assert_eq!(client::get(port, "/").body, "hello");
    thead.stop_cleanly();
}

fn a_port_can_be_listened_on_again_after_a_close(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => res.end('hello'));
        server.once('listening', () => server.close(() => {
            server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send('again'));
        }));
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let port = client::free_port();
    let mut thead = Run::script(runtime, text).env("PORT", port).start();
    for _ in 0..2 {
        assert_eq!(message(&mut thead), "again");
    }
    for _ in 0..4 {
        assert_eq!(client::get(port, "/").body, "hello");
    }
    thead.stop_cleanly();
}

fn trap_12_a_descriptor_that_nobody_passed_in_is_ebadf(runtime: Runtime) {
    let text = "
        const server = require('node:net').createServer();
        server.on('error', ({ code }) => process.send({ code }));
        server.listen({ fd: 0 }, () => process.send('listens'));
    ";
    let mut thead = Run::script(runtime, text).workers(1).start();
    assert_eq!(message(&mut thead), json!({ "code": "EBADF" }));
    thead.stop();
}

fn trap_18_threads_bind_past_the_cluster(runtime: Runtime) {
    let text = "
        const { Worker, isMainThread, parentPort } = require('node:worker_threads');
        const server = require('node:http').createServer((req, res) => res.end(isMainThread ? 'main' : 'thread'));
        if (isMainThread) {
            server.listen(Number(process.env.PORT), '127.0.0.1', () => {
                new Worker(__filename).on('message', (port) => process.send({ port }));
            });
        } else {
            server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
        }
    ";
    let port = client::free_port();
    let mut thead = Run::script(runtime, text).env("PORT", port).start();
    let (one, two) = (message(&mut thead), message(&mut thead));
    assert_ne!(one["port"], two["port"]);
    for own in [one, two] {
        let port = u16::try_from(own["port"].as_u64().unwrap()).unwrap();
        assert_eq!(client::get(port, "/").body, "thread");
    }
    assert_eq!(client::get(port, "/").body, "main");
    thead.stop();
}

fn both_ports_of_one_program_are_served_by_both_workers(runtime: Runtime) {
    let text = "
        const http = require('node:http');
        const ports = process.env.PORTS.split(' ').map(Number);
        for (const port of ports) {
            const answer = (req, res) => res.setHeader('x-pid', process.pid).end(String(port));
            http.createServer(answer).listen(port, '127.0.0.1');
        }
    ";
    let ports = [client::free_port(), client::free_port()];
    let mut thead = Run::script(runtime, text)
        .env("PORTS", format!("{} {}", ports[0], ports[1]))
        .start();
    for _ in 0..4 {
        thead.next("listening");
    }
    for port in ports {
        client::until_all(2, || {
            let answer = client::get(port, "/");
            assert_eq!(answer.body, port.to_string());
            [answer.pid()]
        });
    }
    thead.stop_cleanly();
}

on!(nodes_and_deno:
    the_nth_port_0_of_each_worker_is_one_port,
    trap_3_a_port_in_use_is_eaddrinuse_for_the_application_and_it_can_retry,
    a_port_in_use_fails_the_service_at_once_with_the_reason,
    a_privileged_or_foreign_address_has_its_own_errno,
    trap_4_a_second_listen_of_one_worker_on_one_port_is_eaddrinuse,
    trap_6_a_backlog_of_false_is_the_default,
    without_a_host_both_families_are_served,
    exclusive_workers_have_a_port_of_their_own,
    trap_10_a_server_closed_while_it_asks_to_listen_disturbs_nobody,
    trap_20_an_error_for_a_server_closed_meanwhile_costs_no_more_than_its_worker,
    a_port_can_be_listened_on_again_after_a_close,
    trap_12_a_descriptor_that_nobody_passed_in_is_ebadf,
    both_ports_of_one_program_are_served_by_both_workers,
);
on!(nodes: ipv6_only_leaves_ipv4_to_others, the_second_exclusive_worker_on_a_port_fails_by_itself, trap_18_threads_bind_past_the_cluster);
on!([node18 Node18, node20 Node20]: reuse_port_is_an_ordinary_listen_before_node_22);
on!([node22 Node22, node24 Node24, node26 Node26]: reuse_port_workers_bind_by_themselves);
on!([node22 Node22]: people_are_told_who_may_have_the_port);
