//! Clients: HTTP/1.1 with one request a connection, and Node scripts for what needs more than a socket.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::census::{PATIENCE, eventually};
use crate::runtime::{Runtime, root};

/// An answer to one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, lines and all.
    pub head: String,
    /// The body as it came.
    pub body: String,
    /// From the beginning of the connection to its end.
    pub took: Duration,
}

impl Answer {
    /// A field of the head; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut wanted = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        wanted.next().map_or("", |(_, value)| value.trim())
    }

    /// The cluster's number of the worker that answered.
    pub fn worker(&self) -> u64 {
        self.header("x-worker")
            .parse()
            .unwrap_or_else(|_| panic!("no x-worker: {self:?}"))
    }

    /// The process that answered.
    pub fn pid(&self) -> u32 {
        self.header("x-pid")
            .parse()
            .unwrap_or_else(|_| panic!("no x-pid: {self:?}"))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Where a program of the tests listens.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `GET path` on a connection of its own.
///
/// # Errors
/// The connection failed, or no whole answer came within [`PATIENCE`].
pub fn try_get(port: u16, path: &str) -> io::Result<Answer> {
    let begun = Instant::now();
    let stream = TcpStream::connect_timeout(&local(port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    request(stream, path, begun)
}

/// As [`try_get`], where it must work.
///
/// # Panics
/// When it does not.
pub fn get(port: u16, path: &str) -> Answer {
    try_get(port, path).unwrap_or_else(|error| panic!("GET {path} on port {port}: {error}"))
}

/// Asks again and again until that many have answered; who.
///
/// Workers take turns, but one that was late loses its turn for a while: on a busy machine two requests in a row may well
/// have the same worker.
///
/// # Panics
/// When not so many have answered after [`PATIENCE`].
pub fn until_all<T: Ord, A: IntoIterator<Item = T>>(count: usize, mut ask: impl FnMut() -> A) -> BTreeSet<T> {
    let mut who = BTreeSet::new();
    eventually("all have answered", || {
        who.extend(ask());
        (who.len() >= count).then(|| std::mem::take(&mut who))
    })
}

/// As [`try_get`], on a Unix socket.
///
/// # Errors
/// As [`try_get`].
pub fn try_get_unix(socket: &Path, path: &str) -> io::Result<Answer> {
    let begun = Instant::now();
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    request(stream, path, begun)
}

/// Sends the request on an open connection and reads to its end.
///
/// # Errors
/// As [`try_get`].
pub fn request(mut stream: impl Read + Write, path: &str, begun: Instant) -> io::Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("no whole answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let answer = Answer {
        status: status.ok_or_else(broken)?,
        head: head.to_owned(),
        body: body.to_owned(),
        took: begun.elapsed(),
    };
    let length = answer.header("content-length");
    if !length.is_empty() && length.parse() != Ok(answer.body.len()) {
        return Err(broken());
    }
    Ok(answer)
}

/// A request whose answer has begun: its worker is at work on it.
#[derive(Debug)]
pub struct Begun(TcpStream);

/// `GET /stream?ms=…`, which takes that long; returns when the first byte of the answer is there.
///
/// # Panics
/// When none comes.
pub fn begin(port: u16, ms: u32) -> Begun {
    let mut stream = TcpStream::connect_timeout(&local(port), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET /stream?ms={ms} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.read_exact(&mut [0]).unwrap();
    Begun(stream)
}

impl Begun {
    /// Whether the whole answer comes.
    pub fn finishes(mut self) -> bool {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).is_ok() && rest.contains("end\n")
    }
}

/// A port on which nobody listened a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(local(0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Runs a script of `conformance/clients` under Node 22 and returns the JSON that it printed.
///
/// # Panics
/// When it fails.
pub fn script(name: &str, args: &[String]) -> Value {
    let mut command = Command::new(Runtime::Node22.path());
    command
        .arg(root().join("clients").join(name))
        .args(args)
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{name} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Clients of `clients/steady.js` that ask without pause. Dropping it kills them.
#[derive(Debug)]
pub struct Steady(std::process::Child);

impl Steady {
    /// `kind` is `https`, `http2` or `ws`.
    pub fn start(kind: &str, url: &str, clients: usize) -> Self {
        let mut command = Command::new(Runtime::Node22.path());
        command.arg(root().join("clients/steady.js"));
        command.args([kind, url, &clients.to_string()]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends them and returns what they saw.
    pub fn stop(mut self) -> Value {
        drop(self.0.stdin.take());
        let mut printed = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        self.0.wait().unwrap();
        serde_json::from_str(&printed).unwrap()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // It has ended if it was asked what it saw.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
