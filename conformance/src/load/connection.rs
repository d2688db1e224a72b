//! One connection of a client: HTTP/1.1 as far as a load needs it.

use std::convert::Infallible;
use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::Target;

/// An answer's head may have this many bytes; more is no HTTP.
const MAX_HEAD: usize = 64 * 1024;

/// How a request ended that got no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Refused,
    /// Reset before the first byte of the answer.
    Reset,
    /// End of file there.
    Eof,
    /// Any end after the first byte, and what is not HTTP.
    Partial,
    Timeout,
    Local,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) close: bool,
    pub(super) worker: Option<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// What has to be sent.
    out: Vec<u8>,
    sent: usize,
    /// The server does not take what we send; its answer, if one comes, counts all the same.
    broken: bool,
    /// Received and not yet part of an answer.
    buffer: Vec<u8>,
    answers: u64,
}

impl Connection {
    pub(super) async fn open(target: &Target, deadline: Instant) -> Result<Self, Ending> {
        let connect = async {
            Ok(match target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                Target::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            })
        };
        let stream = match timeout_at(deadline, connect).await {
            Ok(stream) => stream.map_err(|error: io::Error| match error.kind() {
                // A Unix socket: nobody listens; no such file; too many wait already.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::WouldBlock => {
                    Ending::Refused
                }
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Ending::Reset,
                io::ErrorKind::TimedOut => Ending::Timeout,
                _ => Ending::Local,
            })?,
            Err(_) => return Err(Ending::Timeout),
        };
        Ok(Self {
            stream,
            out: Vec::new(),
            sent: 0,
            broken: false,
            buffer: Vec::new(),
            answers: 0,
        })
    }

    /// Whether an answer came on it before.
    pub(super) fn reused(&self) -> bool {
        self.answers > 0
    }

    /// What came from the server since the last answer, if anything: its end, or bytes that nobody asked for (`Partial`).
    pub(super) fn unasked(&mut self) -> Option<Ending> {
        if !self.buffer.is_empty() {
            return Some(Ending::Partial);
        }
        match self.stream.try_read(&mut [0]) {
            Ok(0) => Some(Ending::Eof),
            Ok(_) => Some(Ending::Partial),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(Ending::Reset),
        }
    }

    /// Has these bytes sent while answers are waited for.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        self.out = bytes;
        self.sent = 0;
    }

    /// The next answer. Sends meanwhile: a server that echoes may not take the rest of a body before its answer is read.
    pub(super) async fn receive(&mut self, deadline: Instant) -> Result<Answer, Ending> {
        let Self {
            stream,
            out,
            sent,
            broken,
            buffer,
            ..
        } = self;
        let stream = &*stream;
        let sending = async {
            while *sent < out.len() && !*broken {
                match stream.write(&out[*sent..]).await {
                    Ok(written) => *sent += written,
                    Err(_) => *broken = true,
                }
            }
            std::future::pending::<Infallible>().await
        };
        let mut incoming = Incoming { stream, buffer };
        let result = tokio::select! {
            result = timeout_at(deadline, incoming.answer()) => result,
            never = sending => match never {},
        };
        let answer = match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if !self.buffer.is_empty() => return Err(Ending::Partial),
            Ok(Err(Ending::Eof)) if self.broken => return Err(Ending::Reset),
            Ok(Err(ending)) => return Err(ending),
            Err(_) => return Err(Ending::Timeout),
        };
        self.answers += 1;
        Ok(answer)
    }
}

/// Takes an answer out of what arrives. Only a complete one is taken from the buffer.
struct Incoming<'a> {
    stream: &'a Stream,
    buffer: &'a mut Vec<u8>,
}

impl Incoming<'_> {
    async fn answer(&mut self) -> Result<Answer, Ending> {
        let head_end = self.find(0, b"\r\n\r\n", MAX_HEAD).await?;
        let mut head = Head::parse(&self.buffer[..head_end]).ok_or(Ending::Partial)?;
        let mut end = head_end + 4;
        let mut body = Vec::new();
        if head.chunked {
            loop {
                let line_end = self.find(end, b"\r\n", MAX_HEAD).await?;
                let line = std::str::from_utf8(&self.buffer[end..line_end]).map_err(|_| Ending::Partial)?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|_| Ending::Partial)?;
                let chunk = line_end + 2;
                self.fill(
                    chunk
                        .checked_add(size)
                        .and_then(|end| end.checked_add(2))
                        .ok_or(Ending::Partial)?,
                )
                .await?;
                body.extend_from_slice(&self.buffer[chunk..chunk + size]);
                end = chunk + size + 2;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.length {
            self.fill(end.checked_add(length).ok_or(Ending::Partial)?).await?;
            body.extend_from_slice(&self.buffer[end..end + length]);
            end += length;
        } else if head.has_body() {
            // To the end of the connection.
            while match self.more().await {
                Err(Ending::Eof) => false,
                result => result.map(|()| true)?,
            } {}
            head.close = true;
            body.extend_from_slice(&self.buffer[end..]);
            end = self.buffer.len();
        }
        self.buffer.drain(..end);
        Ok(Answer {
            status: head.status,
            close: head.close,
            worker: head.worker,
            body,
        })
    }

    /// Where `what` begins, at or after `from` and within `limit` bytes of it.
    async fn find(&mut self, from: usize, what: &[u8], limit: usize) -> Result<usize, Ending> {
        let mut searched = from;
        loop {
            if let Some(at) = self.buffer[searched..]
                .windows(what.len())
                .position(|window| window == what)
            {
                return Ok(searched + at);
            }
            if self.buffer.len() - from > limit {
                return Err(Ending::Partial);
            }
            searched = self.buffer.len().saturating_sub(what.len() - 1).max(from);
            self.more().await?;
        }
    }

    /// Reads until there are `length` bytes.
    async fn fill(&mut self, length: usize) -> Result<(), Ending> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Ending> {
        match self.stream.read(self.buffer).await {
            Ok(0) => Err(Ending::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Ending::Timeout),
            Err(_) => Err(Ending::Reset),
        }
    }
}

struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    close: bool,
    worker: Option<String>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let (version, rest) = lines.next()?.split_once(' ')?;
        if version != "HTTP/1.1" && version != "HTTP/1.0" {
            return None;
        }
        let status = rest.get(..3)?.parse().ok()?;
        let mut head = Self {
            status,
            length: None,
            chunked: false,
            close: version == "HTTP/1.0",
            worker: None,
        };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(value.parse().ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("x-worker") {
                head.worker = Some(value.to_owned());
            }
        }
        Some(head)
    }

    fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Appends what there is.
    async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self {
                Self::Tcp(stream) => stream.readable().await?,
                Self::Unix(stream) => stream.readable().await?,
            }
            let length = buffer.len();
            buffer.resize(length + 16 * 1024, 0);
            let result = self.try_read(&mut buffer[length..]);
            buffer.truncate(length + *result.as_ref().unwrap_or(&0));
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Tcp(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                Self::Unix(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}
