//! A child that does what no child should, for tests: `misbehave WHAT`, or `misbehave worker` for one that serves.
//!
//! A worker serves HTTP in all honesty, through [`thead::worker`], unless the variable `MISBEHAVE` is `ID=WHAT` and its
//! own id is that one. Then it says that it listens, waits for its first connection, and does WHAT. All else is written
//! to the channel by hand here, so that nothing of thead's stands between the misdeed and the parent.
#![expect(clippy::expect_used, reason = "a parent that is not the tests' is told by a panic")]

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::{Command, exit};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use thead::sys::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let what = args.get(1).map_or("", String::as_str);
    if what == "worker" {
        let id = std::env::var("NODE_UNIQUE_ID").unwrap_or_default();
        let wanted = std::env::var("MISBEHAVE").unwrap_or_default();
        return match wanted.split_once('=') {
            // Even whether it begins is up to it.
            Some((who, "exits")) if who == id => exit(7),
            Some((who, what)) if who == id => {
                let mut channel = Channel::inherited();
                let (listener, offer, connection) = channel.listen()?;
                if !what.starts_with("dies") && what != "reads and answers nothing" {
                    drop(connection);
                    channel.cluster(json!({ "ack": offer, "accepted": false }))?;
                }
                misbehave(channel, what, Some(&listener))
            }
            _ => serve(),
        };
    }
    misbehave(Channel::inherited(), what, None)
}

/// What the worker has when it begins to misbehave.
struct Listener {
    key: String,
    port: u16,
}

fn misbehave(mut channel: Channel, what: &str, listener: Option<&Listener>) -> io::Result<()> {
    // Under thead the number is free for the asking: the file is open anyway.
    let file = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    match what {
        "idles" => {}
        "echoes" => loop {
            let (line, fds) = channel.hear()?;
            channel.say_with(&line, &fds)?;
        },
        "sends bad lines" => {
            for line in [
                "{bad",
                "",
                "\u{feff}1",
                "{\"cmd\":\"NODE_HANDLE\",",
                "[1,2",
                "\"\\ud800\"",
                "\0",
            ] {
                channel.say(line)?;
            }
            channel.write(b"\xff\xfe\n", &[])?;
            channel.say("\"still here\"")?;
        }
        "sends an endless line" => loop {
            channel.write(&[b'x'; 1 << 16], &[])?;
        },
        "announces 4 GiB" => {
            channel.write(&[0xff, 0xff, 0xff, 0xff], &[])?;
            loop {
                channel.write(&[b'x'; 1 << 16], &[])?;
            }
        }
        "never reads" => loop {
            std::thread::park();
        },
        "reads and answers nothing" => loop {
            channel.hear()?;
        },
        "acknowledges twice" => loop {
            let (line, fds) = channel.hear()?;
            if is_handle(&line) {
                channel.say(ACK)?;
                channel.say(ACK)?;
                channel.say(ACK)?;
            }
            if let Some((seq, _)) = newconn(&line) {
                channel.cluster(json!({ "ack": seq, "accepted": true }))?;
                for fd in fds {
                    answer(TcpStream::from(fd))?;
                }
            }
        },
        "refuses every handle" => loop {
            let (line, _) = channel.hear()?;
            if is_handle(&line) {
                channel.say(NACK)?;
            }
        },
        "sends handles and reads no answer" => loop {
            channel.say(r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":1}"#)?;
        },
        "sends 253 descriptors" => {
            let file = file()?;
            let many = vec![file.as_fd(); message::MAX_DESCRIPTORS];
            loop {
                channel.write(b"1\n", &many)?;
            }
        }
        "sends descriptors with nothing" => {
            let file = file()?;
            for _ in 0..64 {
                channel.write(b"1\n", &[file.as_fd()])?;
            }
        }
        "floods with messages" => flood(&mut channel, "1\n"),
        "floods with acknowledgements" => flood(&mut channel, &format!("{ACK}\n")),
        "floods with cluster messages" => flood(
            &mut channel,
            "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n",
        ),
        "floods with large messages" => {
            let line = format!("\"{}\"\n", "x".repeat(8 << 20));
            flood(&mut channel, &line)
        }
        "closes its channel" => {
            drop(channel);
            loop {
                std::thread::park();
            }
        }
        "stops reading its end" => {
            rustix::net::shutdown(&channel.socket, rustix::net::Shutdown::Read)?;
            channel.say("\"shut\"")?;
            loop {
                std::thread::park();
            }
        }
        "dies in the middle of a frame" => {
            channel.write(b"{\"cmd\":\"NODE_CLU", &[])?;
            exit(0);
        }
        "dies with a connection in hand" => exit(9),
        "stops" => {
            channel.say("\"stopping\"")?;
            let us = rustix::process::getpid();
            rustix::process::kill_process(us, rustix::process::Signal::STOP)?;
        }
        "prints without end" => return print(Duration::from_secs(3)),
        "prints a line of 100 MB" => {
            let mut out = io::stdout().lock();
            let mut left = 100 << 20;
            while left > 0 {
                out.write_all(&[0xff; 1 << 16])?;
                left -= 1 << 16;
            }
            out.write_all(b"\nend\n")?;
            out.flush()?;
            exit(0);
        }
        "leaves its channel to a grandchild" | "leaves its channel to a grandchild that floods" => {
            let what = if what.ends_with("floods") {
                "floods with messages"
            } else {
                "echoes"
            };
            // The channel is not close-on-exec, so it goes along.
            let grandchild = Command::new(std::env::current_exe()?).arg(what).spawn()?;
            channel.say(&json!({ "grandchild": grandchild.id() }).to_string())?;
            exit(0);
        }
        "forges cluster messages" => forge(&mut channel, listener)?,
        "gives back what it never had" => give_back(&mut channel, listener)?,
        "asks for 10000 listeners" => {
            for seq in 10..10_010 {
                let path = format!("\0thead-{}-{seq}", std::process::id());
                channel.say(&query(seq, json!({ "address": path, "port": -1, "addressType": -1 })))?;
            }
        }
        _ => panic!("nobody knows how to misbehave like this: {what}"),
    }
    // Whatever comes of it is due to the misdeed alone: the channel is read, and offers go back as they should.
    while let Ok((line, _)) = channel.hear() {
        channel.decline(&line)?;
    }
    exit(0)
}

fn flood(channel: &mut Channel, line: &str) -> ! {
    let lines = line.repeat(((1 << 16) / line.len()).max(1));
    loop {
        if channel.write(lines.as_bytes(), &[]).is_err() {
            exit(0);
        }
    }
}

fn print(time: Duration) -> io::Result<()> {
    let begun = Instant::now();
    let noise: Vec<u8> = (0..1 << 16)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    while begun.elapsed() < time {
        io::stdout().write_all(&noise)?;
        io::stderr().write_all(&noise)?;
    }
    exit(0)
}

/// Everything that a cluster message can say wrongly.
fn forge(channel: &mut Channel, listener: Option<&Listener>) -> io::Result<()> {
    let key = listener.map_or("127.0.0.1:1:4:undefined", |listener| &listener.key);
    let odd = [
        json!(null),
        json!(-1),
        json!(1e9),
        json!(1e300),
        json!(2.5),
        json!("x"),
        json!("0"),
        json!({}),
        json!([1]),
        json!(true),
        json!(u64::MAX),
        json!("\0"),
        json!("x".repeat(70_000)),
    ];
    let mut seq = 10;
    for field in [
        "address",
        "port",
        "addressType",
        "fd",
        "flags",
        "backlog",
        "index",
        "data",
        "seq",
    ] {
        for value in &odd {
            seq += 1;
            let mut fields = json!({ "address": "127.0.0.1", "port": 1, "addressType": 4 });
            fields[field] = value.clone();
            channel.say(&query(seq, fields))?;
        }
    }
    // The primary's own descriptors.
    for fd in -2..64 {
        seq += 1;
        channel.say(&query(
            seq,
            json!({ "fd": fd, "addressType": 4, "port": null, "address": null }),
        ))?;
    }
    for other in ["", "x", "0.0.0.0:80:4:undefined", key, key] {
        channel.cluster(json!({ "act": "close", "key": other }))?;
        channel.cluster(json!({ "act": "newconn", "key": other }))?;
    }
    // Of its own it could say falsely that it took them; those are nobody else's.
    for ack in 1_000_000..1_001_000 {
        channel.cluster(json!({ "ack": ack, "accepted": true }))?;
    }
    for act in ["online", "disconnect", "kill", "x", "exitedAfterDisconnect", "suicide"] {
        channel.say(&json!({ "cmd": "NODE_CLUSTER", "act": act }).to_string())?;
    }
    for line in [
        r#"{"cmd":"NODE_CLUSTER"}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":-1,"seq":-1}"#,
        r#"{"cmd":"NODE_THEAD_DRAIN","handBack":true,"lameDuck":0}"#,
        r#"{"cmd":"NODE_DEBUG_ENABLED"}"#,
        r#"{"cmd":"NODE_SOCKET_GET_COUNT","key":"x"}"#,
    ] {
        channel.say(line)?;
    }
    Ok(())
}

/// Connections, and things that are none, that the primary would pass on to other workers.
fn give_back(channel: &mut Channel, listener: Option<&Listener>) -> io::Result<()> {
    let port = listener.map_or(1, |listener| listener.port);
    let line = json!({ "cmd": "NODE_HANDLE", "type": "net.Native",
        "msg": { "cmd": "NODE_THEAD_HANDBACK", "address": "127.0.0.1", "port": port, "family": "IPv4" } });
    let line = line.to_string();
    let connection = TcpStream::connect(("127.0.0.1", port))?;
    let own = TcpListener::bind("127.0.0.1:0")?;
    let udp = UdpSocket::bind(("127.0.0.1", port))?;
    let file = std::fs::File::open("/dev/null")?;
    for fd in [connection.as_fd(), own.as_fd(), udp.as_fd(), file.as_fd()] {
        for _ in 0..16 {
            channel.say_with(&line, &[fd])?;
            // One at a time, as Node does.
            loop {
                let (line, _) = channel.hear()?;
                if line == ACK {
                    break;
                }
                channel.decline(&line)?;
            }
        }
    }
    Ok(())
}

const ACK: &str = r#"{"cmd":"NODE_HANDLE_ACK"}"#;
const NACK: &str = r#"{"cmd":"NODE_HANDLE_NACK"}"#;

fn is_handle(line: &str) -> bool {
    line.contains("\"NODE_HANDLE\"")
}

/// The number of an offer, and the key that it came under.
fn newconn(line: &str) -> Option<(u64, String)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let inner = &message["msg"];
    (inner["act"] == "newconn").then(|| Some((inner["seq"].as_u64()?, inner["key"].as_str()?.to_owned())))?
}

fn query(seq: u64, fields: Value) -> String {
    let mut message = json!({ "cmd": "NODE_CLUSTER", "act": "queryServer", "index": 0, "data": null, "address": null,
        "port": 0, "addressType": 4, "flags": 0, "backlog": 0, "seq": seq });
    if let (Some(message), Value::Object(fields)) = (message.as_object_mut(), fields) {
        message.extend(fields);
    }
    message.to_string()
}

/// The child's end of the channel, spoken by hand.
struct Channel {
    socket: OwnedFd,
    read: BytesMut,
    descriptors: Vec<OwnedFd>,
    seq: u64,
}

impl Channel {
    fn inherited() -> Self {
        let fd = std::env::var("NODE_CHANNEL_FD").map_or(3, |fd| fd.parse().expect("a number"));
        Self {
            // SAFETY: the parent opened it for us, and nobody else here knows of it.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
            read: BytesMut::new(),
            descriptors: Vec::new(),
            seq: 0,
        }
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        poll(&mut [PollFd::new(&self.socket, flags)], None)?;
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        while !bytes.is_empty() {
            match message::send(&self.socket, bytes, fds) {
                Ok(n) => (bytes, fds) = (&bytes[n..], &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                // Too many of ours are unread. That is the kernel's way to say "later", not a reason to stop.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes(), &[])
    }

    fn say_with(&mut self, line: &str, fds: &[impl AsFd]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.write(format!("{line}\n").as_bytes(), &fds)
    }

    fn cluster(&mut self, fields: Value) -> io::Result<()> {
        let mut message = json!({ "cmd": "NODE_CLUSTER" });
        if let (Some(message), Value::Object(fields)) = (message.as_object_mut(), fields) {
            message.extend(fields);
            message.insert("seq".into(), self.seq.into());
        }
        self.seq += 1;
        self.say(&message.to_string())
    }

    /// Acknowledges a handle, and says no to an offer, as is right.
    fn decline(&mut self, line: &str) -> io::Result<()> {
        if is_handle(line) {
            self.say(ACK)?;
        }
        match newconn(line) {
            Some((seq, _)) => self.cluster(json!({ "ack": seq, "accepted": false })),
            None => Ok(()),
        }
    }

    /// The next line, and what came with it if it is a handle.
    fn hear(&mut self) -> io::Result<(String, Vec<OwnedFd>)> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                // A read may bring earlier lines with the one that they belong to.
                let mine = if is_handle(&line) { self.descriptors.len() } else { 0 };
                return Ok((line, self.descriptors.drain(..mine).collect()));
            }
            self.wait(PollFlags::IN)?;
            match message::recv(&self.socket, &mut self.read, &mut self.descriptors) {
                Ok(read) if read.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Listens as a worker does, and waits for the first connection. It is acknowledged, but not answered: the number of
    /// its offer comes with it.
    fn listen(&mut self) -> io::Result<(Listener, u64, OwnedFd)> {
        self.cluster(json!({ "act": "online" }))?;
        let asked = query(self.seq, json!({ "address": "127.0.0.1", "port": 0 }));
        self.seq += 1;
        self.say(&asked)?;
        let reply: Value = serde_json::from_str(&self.hear()?.0)?;
        let port = &reply["sockname"]["port"];
        self.cluster(
            json!({ "act": "listening", "index": 0, "data": null, "address": "127.0.0.1", "port": port,
            "addressType": 4, "flags": 0 }),
        )?;
        let key = reply["key"].as_str().expect("a key").to_owned();
        let port = port.as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        loop {
            let (line, fds) = self.hear()?;
            if let (Some((seq, _)), Some(fd)) = (newconn(&line), fds.into_iter().next()) {
                self.say(ACK)?;
                return Ok((Listener { key, port }, seq, fd));
            }
        }
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    let mut request = [0; 1024];
    let _ = io::Read::read(&mut connection, &mut request)?;
    connection.write_all(ANSWER)
}

/// An honest worker.
#[tokio::main(flavor = "current_thread")]
async fn serve() -> io::Result<()> {
    let worker = thead::worker::Worker::from_env().map_err(io::Error::other)?;
    let mut listener = worker.listen("127.0.0.1:0").await?;
    let mut open = tokio::task::JoinSet::new();
    while let Some((mut connection, _)) = listener.accept().await? {
        open.spawn(async move {
            let mut request = [0; 1024];
            let _ = connection.read(&mut request).await?;
            connection.write_all(ANSWER).await
        });
        while open.try_join_next().is_some() {}
    }
    open.join_all().await;
    Ok(())
}
