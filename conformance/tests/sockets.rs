//! What a Rust worker can listen on: alone, under thead, under Node's primary, and with sockets that are passed in.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use conformance::{PATIENCE, Run, Runtime, Script, Thead, client, node_primary, on};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::Value;
use thead::worker::Address;

const CHILD: &str = env!("CARGO_BIN_EXE_child");

/// Whom a server runs under.
#[derive(Clone, Copy, Debug)]
enum Under {
    Nobody,
    Thead(&'static str),
    Node(Runtime, &'static str),
}

const HERE: [Under; 3] = [Under::Nobody, Under::Thead("round-robin"), Under::Thead("shared")];

fn both_policies(runtime: Runtime) -> [Under; 2] {
    ["rr", "none"].map(|policy| Under::Node(runtime, policy))
}

enum Server {
    Script(Script),
    Thead(Box<Thead>),
}

impl Server {
    fn start(under: Under, variables: &[(&str, &str)], workers: usize) -> Self {
        match under {
            Under::Nobody => Self::Script(Script::program(CHILD, &["serves"], variables)),
            Under::Node(runtime, policy) => Self::Script(node_primary(runtime, policy, CHILD, variables, workers)),
            Under::Thead(schedule) => {
                let run = Run::words([CHILD, "serves"]).flag("--channel").workers(workers);
                let run = run.option("--schedule", schedule);
                let run = variables.iter().fold(run, |run, (name, value)| run.env(name, value));
                Self::Thead(Box::new(run.start()))
            }
        }
    }

    /// The next that a worker says with this field.
    fn says(&mut self, field: &str) -> Value {
        match self {
            Self::Script(script) => script.wait(field, |line| line.get(field).is_some().then(|| line.clone())),
            Self::Thead(thead) => {
                let said = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
                let line = thead.wait_for("line", |line| said(line.text("text")).get(field).is_some());
                said(line.text("text"))
            }
        }
    }

    /// Where it listens, as its first worker says.
    fn address(&mut self) -> Address {
        let said = self.says("inherits");
        said["address"].as_str().unwrap().parse().unwrap()
    }

    fn port(&mut self) -> u16 {
        self.says("inherits")["port"].as_u64().unwrap().try_into().unwrap()
    }

    /// Ends it as it is ended in good order, which a server that has nobody above it has to be told by a request.
    fn stop(self, end: impl FnOnce()) {
        match self {
            Self::Thead(thead) => drop(thead.stop()),
            Self::Script(mut script) => {
                end();
                assert!(script.end().0.success());
            }
        }
    }
}

fn end(under: Under, request: impl FnOnce(&str)) -> impl FnOnce() {
    move || {
        if matches!(under, Under::Nobody) {
            request("/end");
        }
    }
}

fn get(address: SocketAddr, path: &str) -> Value {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    client::request(stream, path, Instant::now()).unwrap().json()
}

fn ip_addresses(all: &[Under]) {
    for under in all {
        for (asked, local, reached) in [
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
            ("[::1]:0", "::1", "::1"),
            (":0", "::", "127.0.0.1"),
            ("[::]:0", "::", "127.0.0.1"),
            ("localhost:0", "", ""),
        ] {
            let mut server = Server::start(*under, &[("ADDRESS", asked)], 1);
            let Address::Ip(bound) = server.address() else {
                panic!("{under:?}: {asked}")
            };
            assert!(bound.port() > 0);
            let mut reach = bound;
            if local.is_empty() {
                assert!(bound.ip().is_loopback());
            } else {
                assert_eq!(
                    bound.ip(),
                    local.parse::<std::net::IpAddr>().unwrap(),
                    "{under:?}: {asked}"
                );
                reach.set_ip(reached.parse().unwrap());
            }
            assert!(get(reach, "/")["pid"].is_number());
            server.stop(end(*under, |path| drop(get(reach, path))));
        }
    }
}

#[test]
fn ip_addresses_are_listened_on() {
    ip_addresses(&HERE);
}

fn ip_addresses_are_listened_on_under_node(runtime: Runtime) {
    ip_addresses(&both_policies(runtime));
}

fn ipv6_only(all: &[Under]) {
    for under in all {
        let mut server = Server::start(*under, &[("ADDRESS", "[::]:0"), ("OPTIONS", "ipv6Only")], 1);
        let port = server.port();
        let refused = TcpStream::connect(client::local(port)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{under:?}");
        let reach = SocketAddr::new("::1".parse().unwrap(), port);
        get(reach, "/");
        server.stop(end(*under, |path| drop(get(reach, path))));
    }
}

#[test]
fn a_listener_for_ipv6_only_refuses_ipv4() {
    ipv6_only(&HERE);
}

fn a_listener_for_ipv6_only_refuses_ipv4_under_node(runtime: Runtime) {
    ipv6_only(&both_policies(runtime));
}

fn get_unix(path: &Path, what: &str) -> Value {
    client::try_get_unix(path, what).unwrap().json()
}

fn unix_sockets(all: &[Under]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let text = path.to_str().unwrap();
    let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
    for under in all {
        let workers = if matches!(under, Under::Nobody) { 1 } else { 2 };
        for (options, granted, forbidden) in [("", 0, 0o022), ("readableAll writableAll", 0o666, 0)] {
            let mut server = Server::start(*under, &[("ADDRESS", text), ("OPTIONS", options)], workers);
            for _ in 0..workers {
                assert_eq!(server.address(), Address::Path(path.clone()));
            }
            client::until_all(workers, || {
                let ask = || get_unix(&path, "/")["pid"].as_u64().unwrap();
                let clients: Vec<_> = std::thread::scope(|scope| {
                    let clients = [(); 4].map(|()| scope.spawn(ask));
                    clients.map(|client| client.join().unwrap()).into()
                });
                clients
            });
            assert_eq!(
                mode() & forbidden,
                0,
                "{under:?}: nobody else may connect unless asked for"
            );
            assert_eq!(mode() & granted, granted, "{under:?} {options}");
            server.stop(end(*under, |what| drop(get_unix(&path, what))));
            assert!(!path.exists(), "{under:?}: its file is removed with it");
        }
    }
}

#[test]
fn a_unix_socket_is_listened_on_and_its_file_removed() {
    unix_sockets(&HERE);
}

fn a_unix_socket_is_listened_on_and_its_file_removed_under_node(runtime: Runtime) {
    unix_sockets(&both_policies(runtime));
}

fn abstract_names(all: &[Under]) {
    for (n, under) in all.iter().enumerate() {
        let name = format!("thead-sockets-{}-{n}", std::process::id());
        let mut server = Server::start(*under, &[("ADDRESS", &format!("@{name}"))], 1);
        assert_eq!(server.address(), Address::Abstract(name.clone().into()));
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let ask = |path: &str| {
            let stream = UnixStream::connect_addr(&address).unwrap();
            client::request(stream, path, Instant::now()).unwrap().json()
        };
        assert!(ask("/")["pid"].is_number(), "{under:?}");
        server.stop(end(*under, |path| drop(ask(path))));
        assert!(UnixStream::connect_addr(&address).is_err());
    }
}

#[test]
fn an_abstract_name_is_listened_on() {
    abstract_names(&HERE);
}

fn an_abstract_name_is_listened_on_under_node(runtime: Runtime) {
    abstract_names(&both_policies(runtime));
}

/// Their primary takes a text that begins with NUL for an empty one.
fn cannot_listen_on_an_abstract_name_under_node(runtime: Runtime) {
    let name = format!("thead-sockets-{}", std::process::id());
    let mut server = Server::start(Under::Node(runtime, "rr"), &[("ADDRESS", &format!("@{name}"))], 1);
    server.address();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    assert!(UnixStream::connect_addr(&address).is_err());
}

fn exclusive(all: &[Under]) {
    for under in all {
        let address = client::local(client::free_port());
        let variables = [("ADDRESS", &*address.to_string()), ("OPTIONS", "exclusive")];
        let mut server = Server::start(*under, &variables, 2);
        assert_eq!(server.says("code")["code"], "EADDRINUSE", "{under:?}");
        let first = get(address, "/")["id"].clone();
        if let Server::Script(mut primary) = server {
            primary.say(&format!("disconnect {first}"));
            // Differs from Node, whose worker would stay.
            let left = primary.wait("exit", |line| (line["exited"] == first).then(|| line["end"].clone()));
            assert_eq!(left, 0);
            assert!(primary.end().0.success());
        }
    }
}

#[test]
fn an_exclusive_listener_is_one_workers_alone() {
    // The other worker dies of it and is started anew, until thead gives up.
    exclusive(&[Under::Thead("round-robin")]);
}

fn an_exclusive_listener_is_one_workers_alone_under_node(runtime: Runtime) {
    exclusive(&both_policies(runtime));
}

fn errors(all: &[Under]) {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let long = format!("/{}", "x".repeat(200));
    for under in all {
        // Before version 24 Node's primary cuts a path that is too long.
        let long = match under {
            Under::Node(..) => None,
            _ => Some((long.clone(), "", "EINVAL")),
        };
        for (address, options, code) in long.into_iter().chain([
            (taken.local_addr().unwrap().to_string(), "", "EADDRINUSE"),
            (stale.display().to_string(), "", "EADDRINUSE"),
            (dir.path().join("missing/socket").display().to_string(), "", "EACCES"),
            ("192.0.2.1:0".into(), "", "EADDRNOTAVAIL"),
            (udp.local_addr().unwrap().to_string(), "udp", "EADDRINUSE"),
            ("192.0.2.1:0".into(), "udp", "EADDRNOTAVAIL"),
            ("./socket".into(), "udp", "EAFNOSUPPORT"),
            ("127.0.0.1".into(), "", "ERR_SOCKET_BAD_PORT"),
            ("::1:80".into(), "", "ERR_INVALID_ARG_VALUE"),
            ("no.such.name.invalid:80".into(), "", "ENOTFOUND"),
        ]) {
            let mut server = Server::start(*under, &[("ADDRESS", &address), ("OPTIONS", options)], 1);
            let said = server.says("code");
            assert_eq!(said["code"], code, "{under:?}: {said}");
            if !code.starts_with("ERR_") {
                assert!(said["error"].as_str().unwrap().contains(&address), "{said}");
            }
        }
    }
    assert!(stale.exists(), "it may be another's");
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_with_nodes_code() {
    errors(&HERE);
}

fn an_address_that_cannot_be_had_is_an_error_with_nodes_code_under_node(runtime: Runtime) {
    errors(&both_policies(runtime));
}

/// Sends one datagram and waits for the answer.
fn ask(address: SocketAddr) -> Value {
    let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hello", address).unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    let answer: Value = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(answer["message"], "hello");
    answer
}

fn udp(all: &[Under]) {
    for under in all {
        for (asked, reach) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), (":0", "127.0.0.1")] {
            let workers = if matches!(under, Under::Nobody) { 1 } else { 2 };
            let mut server = Server::start(*under, &[("ADDRESS", asked), ("OPTIONS", "udp")], workers);
            let ports: Vec<_> = (0..workers).map(|_| server.port()).collect();
            assert!(
                ports.iter().all(|port| *port == ports[0]),
                "{under:?}: one socket for all"
            );
            let address = SocketAddr::new(reach.parse().unwrap(), ports[0]);
            let pid = u32::try_from(ask(address)["pid"].as_u64().unwrap()).unwrap();
            if workers == 2 {
                // Either may read, so one that cannot is the proof for the other.
                conformance::kill(pid, rustix::process::Signal::STOP);
                let other = ask(address)["pid"].as_u64().unwrap();
                assert_ne!(other, u64::from(pid));
                conformance::kill(pid, rustix::process::Signal::CONT);
                server.stop(|| ());
            }
        }
    }
}

#[test]
fn a_udp_socket_is_bound_and_shared() {
    udp(&HERE);
}

fn a_udp_socket_is_bound_and_shared_under_node(runtime: Runtime) {
    udp(&both_policies(runtime));
}

/// Node's own workers die of the primary's answer in 22 and later, and the first socket is deaf from then on.
fn a_second_udp_socket_at_one_address_is_refused_and_does_not_harm_the_first(runtime: Runtime) {
    let address = client::local(client::free_port()).to_string();
    let variables = [("ADDRESS", &*address), ("OPTIONS", "udp reuseAddr twice")];
    let mut server = Server::start(Under::Node(runtime, "rr"), &variables, 1);
    let port = server.port();
    assert_eq!(server.says("second")["second"], "EADDRINUSE");
    ask(client::local(port));
    server.stop(|| ());
}

on! { nodes: ip_addresses_are_listened_on_under_node, a_listener_for_ipv6_only_refuses_ipv4_under_node,
a_unix_socket_is_listened_on_and_its_file_removed_under_node, an_exclusive_listener_is_one_workers_alone_under_node, a_udp_socket_is_bound_and_shared_under_node,
an_address_that_cannot_be_had_is_an_error_with_nodes_code_under_node,
a_second_udp_socket_at_one_address_is_refused_and_does_not_harm_the_first }

on! { [node22 Node22, node24 Node24, node26 Node26]: an_abstract_name_is_listened_on_under_node }
on! { [node18 Node18, node20 Node20]: cannot_listen_on_an_abstract_name_under_node }

#[test]
fn unix_listeners_and_udp_sockets_can_be_passed_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let start = |options: &str| {
        let script = "exec 3<&0 4<&2 0</dev/null 2>&1; export LISTEN_PID=$$; exec \"$0\" serves";
        Command::new("/bin/sh")
            .args(["-c", script, CHILD])
            .envs([
                ("LISTEN_FDS", "2"),
                ("LISTEN_FDNAMES", "http:dns"),
                ("OPTIONS", options),
            ])
            .stdin(Stdio::from(OwnedFd::from(unix.try_clone().unwrap())))
            .stderr(Stdio::from(OwnedFd::from(udp.try_clone().unwrap())))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    // It asks for 127.0.0.1:0, and takes what there is of its kind.
    let mut child = start("");
    assert_eq!(get_unix(&path, "/")["pid"], child.id());
    get_unix(&path, "/end");
    assert!(child.wait().unwrap().success());
    assert!(
        path.symlink_metadata().unwrap().file_type().is_socket(),
        "it is the manager's"
    );
    let mut child = start("udp");
    assert_eq!(ask(address)["pid"], child.id());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How many clients a Unix listener lets wait.
fn room(path: &Path) -> usize {
    let address = SocketAddrUnix::new(path).unwrap();
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(rustix::io::Errno::AGAIN) => return waiting.len() - 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_backlog_is_what_was_asked_and_511_if_nothing_was() {
    let dir = tempfile::tempdir().unwrap();
    let ceiling: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    for (n, (backlog, expected)) in [(None, 511), (Some(0), 511), (Some(3), 3), (Some(u32::MAX), usize::MAX)]
        .into_iter()
        .enumerate()
    {
        let path = dir.path().join(n.to_string());
        let listen = thead::worker::listen(&*path);
        let listener = match backlog {
            Some(backlog) => listen.backlog(backlog).await.unwrap(),
            None => listen.await.unwrap(),
        };
        assert_eq!(room(&path), expected.min(ceiling));
        drop(listener);
        assert!(!path.exists());
    }
}

/// A second socket must not lose its name because the first is closed.
#[tokio::test]
async fn a_socket_file_of_another_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let first = thead::worker::listen(&*path).await.unwrap();
    assert_eq!(thead::worker::listen(&*path).await.unwrap_err().code(), "EADDRINUSE");
    std::fs::remove_file(&path).unwrap();
    let _second = thead::worker::listen(&*path).await.unwrap();
    drop(first);
    assert!(path.exists());
}
