//! What a misbehaving parent can do to a Rust child: end its channel, and nothing else. The parent's end is spoken by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use conformance::{PATIENCE, Process, client, eventually};
use serde_json::{Value, json};
use thead::sys::message::{MAX_DESCRIPTORS, send};

/// A child that does WHAT, and our end of its channel, which it has in the place of its standard input.
struct Forked {
    child: Child,
    channel: UnixStream,
    said: BufReader<ChildStdout>,
}

impl Forked {
    fn new(what: &str, variables: &[(&str, &str)]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_child"))
            .arg(what)
            .env("NODE_CHANNEL_FD", "0")
            .envs(variables.iter().copied())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            channel: ours,
            said,
        }
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        (&self.channel).write_all(text.as_ref()).unwrap();
    }

    /// As much as the child takes before it ends its channel.
    fn pour(&self, text: &[u8]) {
        while (&self.channel).write_all(text).is_ok() {}
    }

    fn write_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        eventually("room in the channel", || {
            match send(&self.channel, bytes, descriptors) {
                Ok(n) => Some(n == bytes.len()),
                Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::AGAIN | rustix::io::Errno::TOOMANYREFS) => None,
                    _ => Some(false),
                },
            }
        })
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// A line that came over the channel.
    fn hear(&self) -> Value {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while byte != *b"\n" {
            assert_eq!((&self.channel).read(&mut byte).unwrap(), 1, "the channel has ended");
            line.push(byte[0]);
        }
        serde_json::from_slice(&line).unwrap()
    }

    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// The child says that its channel was ended for this, and ends.
    fn ends_for(mut self, why: &str) {
        let line = self.line();
        assert!(
            line["fault"].as_str().is_some_and(|fault| fault.contains(why)),
            "{line}"
        );
        assert!(line["peak"].as_u64().unwrap() < 64, "{line}");
        assert!(self.child.wait().unwrap().success());
    }

    /// The child says that its channel has ended, and ends.
    fn ends(mut self) {
        assert_eq!(self.line()["fault"], Value::Null);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // Most have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MIB: usize = 1 << 20;
const ADVANCED: (&str, &str) = ("NODE_CHANNEL_SERIALIZATION_MODE", "advanced");

#[test]
fn what_means_nothing_is_told_and_the_channel_lives() {
    let forked = Forked::new("echoes", &[]);
    forked.write("\n{\"cmd\":\"NODE_HANDLE\",\n\"still here\"\n");
    assert!(forked.hear()["bad"].as_str().unwrap().contains("an empty line"));
    assert!(forked.hear()["bad"].is_string());
    assert_eq!(forked.hear(), "still here");
    // A handle message without its descriptor is refused, not believed.
    forked.write("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n1\n");
    assert_eq!(forked.hear()["cmd"], "NODE_HANDLE_NACK");
    assert_eq!(forked.hear(), 1);
    // Acknowledgements of what was never sent are ignored.
    forked.write("{\"cmd\":\"NODE_HANDLE_ACK\"}\n{\"cmd\":\"NODE_HANDLE_NACK\"}\n2\n");
    assert_eq!(forked.hear(), 2);
    drop(forked.channel.shutdown(std::net::Shutdown::Both));
    forked.ends();
}

#[test]
fn a_line_without_end_ends_the_channel() {
    let forked = Forked::new("echoes", &[]);
    forked.pour(&[b'x'; 1 << 16]);
    forked.ends_for("16777216");
}

#[test]
fn a_length_of_four_gigabytes_ends_the_channel() {
    let forked = Forked::new("echoes", &[ADVANCED]);
    forked.write([0xff; 4]);
    forked.pour(&[b'x'; 1 << 16]);
    forked.ends_for("4294967295");
}

#[test]
fn descriptors_that_belong_to_nothing_end_the_channel() {
    let forked = Forked::new("echoes", &[]);
    let null = File::open("/dev/null").unwrap();
    let many = [null.as_fd(); MAX_DESCRIPTORS];
    while forked.write_with(b"1\n", &many) {}
    assert!(Process::read(forked.child.id()).is_none_or(|child| child.descriptors() < 300));
    forked.ends_for("descriptors");
}

#[test]
fn handles_whose_answers_are_never_read_end_the_channel() {
    let forked = Forked::new("echoes", &[]);
    let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":1}\n".repeat(1 << 10);
    forked.pour(&line);
    forked.ends_for("has read none");
}

#[test]
fn a_program_that_takes_nothing_keeps_little() {
    let mut forked = Forked::new("takes nothing", &[]);
    forked.line();
    forked.channel.set_nonblocking(true).unwrap();
    let flood = format!("\"{}\"\n", "x".repeat(1 << 20));
    // It has come to a stop when it sleeps, again and again, and nothing can be written.
    let mut stopped = 0;
    while stopped < 200 {
        let wrote = (&forked.channel).write(flood.as_bytes()).is_ok();
        let sleeps = Process::read(forked.child.id()).unwrap().state == 'S';
        stopped = if wrote || !sleeps { 0 } else { stopped + 1 };
        std::thread::yield_now();
    }
    assert!(forked.memory() < 32 * MIB, "{} MiB", forked.memory() / MIB);
}

#[test]
fn a_parent_that_never_reads_fills_the_queue_and_no_more() {
    let mut forked = Forked::new("sends until it is refused", &[]);
    let refused = forked.line()["refused"].clone();
    assert!(refused.as_str().unwrap().contains("does not read"), "{refused}");
    assert!(forked.memory() < 64 * MIB + 48 * MIB, "{} MiB", forked.memory() / MIB);
}

#[test]
fn a_parent_that_dies_in_the_middle_of_a_frame_is_gone() {
    for (variables, half) in [
        (&[][..], &b"{\"cmd\":\"NODE_CL"[..]),
        (&[ADVANCED][..], &[0, 0, 0, 9, 0xff]),
    ] {
        let forked = Forked::new("echoes", variables);
        forked.write(half);
        forked.channel.shutdown(std::net::Shutdown::Both).unwrap();
        forked.ends();
    }
}

#[test]
fn a_handle_that_a_dead_parent_did_not_acknowledge_comes_back() {
    let mut forked = Forked::new("sends handles between messages", &[]);
    assert_eq!(forked.hear(), 0);
    assert_eq!(forked.hear()["cmd"], "NODE_HANDLE");
    forked.channel.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..3 {
        assert_eq!(forked.line(), json!({ "lost": true }));
    }
    forked.ends();
}

#[test]
fn a_primary_that_talks_nonsense_is_served_when_it_talks_sense() {
    let forked = Forked::new("serves", &[("NODE_UNIQUE_ID", "1"), ("PORT", "7")]);
    assert_eq!(forked.hear()["act"], "online");
    let query = forked.hear();
    assert_eq!((&query["act"], &query["port"]), (&json!("queryServer"), &json!(7)));
    for fields in [
        json!({}),
        json!({ "act": "newconn", "key": "unknown", "seq": 1 }),
        json!({ "act": "newconn", "seq": 2 }),
        json!({ "act": "newconn", "key": 5, "seq": 2 }),
        json!({ "ack": 1_000_000, "key": "k", "errno": null, "seq": 3 }),
        json!({ "ack": -1, "key": "k", "errno": 5, "seq": "x" }),
        json!({ "ack": query["seq"], "key": "k", "errno": 98 }),
        json!({ "ack": query["seq"], "key": "k", "errno": null, "sockname": { "port": 1e9 } }),
        json!({ "act": "x".repeat(100_000) }),
        json!({ "ack": 0 }),
    ] {
        let mut message = json!({ "cmd": "NODE_CLUSTER" });
        message
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        forked.write(format!("{message}\n"));
    }
    let refused = forked.hear();
    assert_eq!((&refused["ack"], &refused["accepted"]), (&json!(1), &json!(false)));
    let reply = json!({ "cmd": "NODE_CLUSTER", "ack": query["seq"], "key": "k", "errno": null, "data": null, "seq": 4,
        "sockname": { "address": "127.0.0.1", "family": "IPv4", "port": 7 } });
    forked.write(format!("{reply}\n"));
    assert_eq!(forked.hear()["act"], "listening");

    let listener = TcpListener::bind(client::local(0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let theirs = listener.accept().unwrap().0;
    let offer = json!({ "cmd": "NODE_HANDLE", "type": "net.Native",
        "msg": { "cmd": "NODE_CLUSTER", "act": "newconn", "key": "k", "seq": 5 } });
    assert!(forked.write_with(format!("{offer}\n").as_bytes(), &[theirs.as_fd()]));
    drop(theirs);
    assert_eq!(forked.hear()["cmd"], "NODE_HANDLE_ACK");
    let taken = forked.hear();
    assert_eq!((&taken["ack"], &taken["accepted"]), (&json!(5), &json!(true)));
    let answer = client::request(ours, "/", std::time::Instant::now()).unwrap();
    assert_eq!(answer.json()["id"], 1);

    // Told twice to leave it leaves once.
    forked.write("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"disconnect\"}\n".repeat(2));
    let closed = forked.hear();
    assert_eq!((&closed["act"], &closed["key"]), (&json!("close"), &json!("k")));
    let mut forked = forked;
    assert!(forked.child.wait().unwrap().success());
}
