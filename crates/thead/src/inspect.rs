//! What a Node process is doing that does not answer: its JavaScript stack, by its own debugger.
//!
//! Node opens its inspector on SIGUSR1 also while its event loop is blocked, in a thread of its own, and V8 answers it in the
//! midst of running JavaScript and of `Atomics.wait`. Not in the midst of anything else: a process that waits in a system call
//! (`execSync`, a read of a pipe) says nothing.
//!
//! Node: `src/inspector_agent.cc`. Checked with 18 to 26.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sys::pidfd;

/// How long it is tried, at least and at most: who does not speak by then is ended without.
pub(crate) const LEAST: Duration = Duration::from_millis(500);
pub(crate) const MOST: Duration = Duration::from_millis(1500);
/// How often it is looked whether the inspector has opened.
const LOOK: Duration = Duration::from_millis(10);
/// Frames that are told.
const FRAMES: usize = 32;
/// The longest text that is read, in bytes. A stack names all variables, though not their values.
const LIMIT: usize = 1 << 20;

/// Whether a line on standard error is Node's, about its inspector.
pub(crate) fn is_chatter(line: &str) -> bool {
    let said = [
        "Debugger listening on ws://",
        "Debugger attached.",
        "Debugger ending on ws://",
        "Waiting for the debugger to disconnect",
        "For help, see: https://nodejs.org/en/docs/inspector",
    ];
    said.iter().any(|said| line.starts_with(said))
}

/// The stack of a Node process, innermost first: `function (file:line:column)`. Leaves the process standing there.
///
/// # Errors
/// It says nothing in time, or something else than an inspector does.
pub(crate) async fn stack(process: impl AsFd, pid: u32, patience: Duration) -> io::Result<Vec<String>> {
    let asked = async {
        let before = listening(pid)?;
        pidfd::send_signal(process, libc::SIGUSR1)?;
        let address = loop {
            let now = listening(pid)?;
            if let Some((_, address)) = now.into_iter().find(|found| !before.contains(found)) {
                break address;
            }
            tokio::time::sleep(LOOK).await;
        };
        let path = target(address).await?;
        let mut session = Session::open(address, &path).await?;
        session.send(r#"{"id":1,"method":"Debugger.enable"}"#).await?;
        session.send(r#"{"id":2,"method":"Debugger.pause"}"#).await?;
        let mut scripts = HashMap::new();
        loop {
            match Event::parse(&session.receive().await?) {
                Some(Event::ScriptParsed { id, url }) => drop(scripts.insert(id, url)),
                Some(Event::Paused { frames }) => {
                    return Ok(frames
                        .iter()
                        .take(FRAMES)
                        .map(|frame| frame.to_text(&scripts))
                        .collect());
                }
                None => {}
            }
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "its inspector did not answer");
    tokio::time::timeout(patience, asked).await.map_err(late)?
}

/// The TCP sockets on 127.0.0.1 that a process listens on: inode and address.
fn listening(pid: u32) -> io::Result<HashSet<(u64, SocketAddr)>> {
    let mut own = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // It may be closed by now.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let inode = target
            .to_str()
            .and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        own.extend(inode as Option<u64>);
    }
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    Ok(table
        .lines()
        .filter_map(listener)
        .filter(|(inode, _)| own.contains(inode))
        .collect())
}

/// A line of `/proc/net/tcp`, if it is about a socket that listens on 127.0.0.1.
fn listener(line: &str) -> Option<(u64, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    let port = u16::from_str_radix(port, 16).ok()?;
    let listens = fields.nth(1)? == "0A";
    let inode = fields.nth(5)?.parse().ok()?;
    (listens && ip.is_loopback()).then(|| (inode, (ip, port).into()))
}

/// Where the debugger is found behind the address.
async fn target(address: SocketAddr) -> io::Result<String> {
    #[derive(Deserialize)]
    struct Target {
        #[serde(rename = "webSocketDebuggerUrl")]
        url: String,
    }
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /json/list HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if let Some(at) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            let body = &answer[at + 4..];
            if let Ok(targets) = serde_json::from_slice::<Vec<Target>>(body) {
                let url = targets.into_iter().next().map(|target| target.url);
                let path = url
                    .as_deref()
                    .and_then(|url| url.strip_prefix("ws://")?.split_once('/'));
                return path.map(|(_, path)| format!("/{path}")).ok_or_else(odd);
            }
        }
        if answer.len() > LIMIT || stream.read_buf(&mut answer).await? == 0 {
            return Err(odd());
        }
    }
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its inspector says something else")
}

/// A WebSocket to the inspector (RFC 6455). No message of ours is longer than 125 bytes, none of its is in pieces.
struct Session {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Session {
    async fn open(address: SocketAddr, path: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut session = Self {
            stream,
            read: Vec::new(),
        };
        loop {
            if let Some(at) = memchr::memmem::find(&session.read, b"\r\n\r\n") {
                if !session.read.starts_with(b"HTTP/1.1 101 ") {
                    return Err(odd());
                }
                session.read.drain(..at + 4);
                return Ok(session);
            }
            session.fill().await?;
        }
    }

    /// Sends a text, masked with zeroes: who listens is on this machine.
    async fn send(&mut self, text: &str) -> io::Result<()> {
        let length = u8::try_from(text.len()).map_err(|_| odd())?;
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame).await
    }

    /// The payload of the next frame.
    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some((start, end)) = frame(&self.read) {
                let payload = self.read[start..end].to_vec();
                self.read.drain(..end);
                return Ok(payload);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.read.len() > LIMIT || self.stream.read_buf(&mut self.read).await? == 0 {
            return Err(odd());
        }
        Ok(())
    }
}

/// Where the payload of the first frame of a server is, if it is all there.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match bytes.get(1)? & 0x7f {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        length => (2, length.into()),
    };
    let end = usize::try_from(length).ok()?.checked_add(start)?;
    (bytes.len() >= end).then_some((start, end))
}

/// What the inspector tells of itself, as far as it matters here.
#[derive(Deserialize)]
#[serde(tag = "method", content = "params")]
enum Event {
    #[serde(rename = "Debugger.scriptParsed")]
    ScriptParsed {
        #[serde(rename = "scriptId")]
        id: String,
        url: String,
    },
    #[serde(rename = "Debugger.paused")]
    Paused {
        #[serde(rename = "callFrames")]
        frames: Vec<Frame>,
    },
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "functionName")]
    function: String,
    location: Location,
}

#[derive(Deserialize)]
struct Location {
    #[serde(rename = "scriptId")]
    script: String,
    #[serde(rename = "lineNumber")]
    line: u32,
    #[serde(rename = "columnNumber", default)]
    column: u32,
}

impl Event {
    /// `None` for an answer, and for other events.
    fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl Frame {
    fn to_text(&self, scripts: &HashMap<String, String>) -> String {
        let function = match self.function.as_str() {
            "" => "(anonymous)",
            function => function,
        };
        let Location { script, line, column } = &self.location;
        let url = scripts.get(script).map_or("", String::as_str);
        let file = url.strip_prefix("file://").unwrap_or(url);
        format!("{function} ({file}:{}:{})", line + 1, column + 1)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_listener_of_ours_is_found_by_its_inode() {
        let before = listening(std::process::id()).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let now = listening(std::process::id()).unwrap();
        let new: Vec<_> = now.difference(&before).map(|(_, address)| *address).collect();
        assert_eq!(new, [socket.local_addr().unwrap()]);
        drop(elsewhere);
    }

    #[test]
    fn frames_are_as_long_as_they_say() {
        assert_eq!(frame(b"\x81\x02hi"), Some((2, 4)));
        assert_eq!(frame(b"\x81\x02h"), None);
        assert_eq!(frame(b"\x81"), None);
        let long = [&b"\x81\x7e\x01\x00"[..], &[b'x'; 300]].concat();
        assert_eq!(frame(&long), Some((4, 260)));
        let longer = [&b"\x81\x7f\0\0\0\0\0\0\x01\0"[..], &[b'x'; 256]].concat();
        assert_eq!(frame(&longer), Some((10, 266)));
        assert_eq!(frame(b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }

    #[test]
    fn a_pause_is_told_as_a_stack() {
        let parsed =
            br#"{"method":"Debugger.scriptParsed","params":{"scriptId":"7","url":"file:///app/a b.js","hash":"x"}}"#;
        let Some(Event::ScriptParsed { id, url }) = Event::parse(parsed) else {
            panic!("a script")
        };
        let scripts = HashMap::from([(id, url), ("8".into(), "node:internal/timers".into())]);
        let paused = br#"{"method":"Debugger.paused","params":{"callFrames":[
            {"functionName":"spin","url":"","location":{"scriptId":"7","lineNumber":4,"columnNumber":2}},
            {"functionName":"","location":{"scriptId":"8","lineNumber":0}}],"reason":"other"}}"#;
        let Some(Event::Paused { frames }) = Event::parse(paused) else {
            panic!("a pause")
        };
        let frames: Vec<_> = frames.iter().map(|frame| frame.to_text(&scripts)).collect();
        assert_eq!(
            frames,
            ["spin (/app/a b.js:5:3)", "(anonymous) (node:internal/timers:1:1)"]
        );
        for other in [
            &br#"{"id":1,"result":{}}"#[..],
            br#"{"method":"Debugger.resumed","params":{}}"#,
            b"{",
        ] {
            assert!(Event::parse(other).is_none());
        }
    }
}
