//! One client: a connection, and the answer to one request after the other.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::Spec;
use super::http::{self, Head};

/// Why a request has no right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens.
    Refused,
    /// A new connection ended before a byte of the answer came.
    LostFresh,
    /// So did one that had served before.
    LostReused,
    /// The connection ended within the answer.
    Partial,
    /// An answer that does not say 200.
    Status,
    /// No answer in time.
    Timeout,
    /// This side could not ask, or the answer is no HTTP.
    Other,
}

/// One of the clients of a load.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    to: SocketAddrV4,
    from: Option<Ipv4Addr>,
    /// The request before and after its number; without a number it is all in the first.
    request: (Vec<u8>, Option<Vec<u8>>),
    keep_alive: bool,
    connection: Option<TcpStream>,
    opened: u64,
    buffer: Vec<u8>,
}

/// How many addresses of the loopback interface the clients have. Each has 28 000 ports, and a port rests for a minute.
const SOURCES: usize = 32;

impl Client {
    pub(super) fn new(spec: &Spec, index: usize) -> Self {
        let request = http::request(&spec.path, spec.keep_alive);
        let text = String::from_utf8_lossy(&request);
        let request = match text.split_once("{n}") {
            Some((before, after)) => (before.as_bytes().to_vec(), Some(after.as_bytes().to_vec())),
            None => (request, None),
        };
        // 127.0.0.2 and on.
        let source = Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCES) as u8);
        Self {
            index,
            to: spec.to,
            from: spec.to.ip().is_loopback().then_some(source),
            request,
            keep_alive: spec.keep_alive,
            connection: None,
            opened: 0,
            buffer: vec![0; 16 << 10],
        }
    }

    /// How many connections were opened since it was last asked.
    pub(super) fn take_opened(&mut self) -> u64 {
        std::mem::take(&mut self.opened)
    }

    /// Whether it has a connection that it can use again.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Asks, on the connection of the last answer or a new one.
    pub(super) async fn ask(&mut self, number: u64, deadline: Instant) -> Result<(), Failure> {
        let reused = self.connection.is_some();
        let answer = tokio::time::timeout_at(deadline.into(), self.exchange(number)).await;
        let result = match answer {
            Ok(Ok(Head { status: 200, .. })) => return Ok(()),
            Ok(Ok(_)) => Err(Failure::Status),
            Ok(Err(Failure::LostFresh)) if reused => Err(Failure::LostReused),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Timeout),
        };
        if result != Err(Failure::Status) {
            self.connection = None;
        }
        result
    }

    async fn exchange(&mut self, number: u64) -> Result<Head, Failure> {
        if self.connection.is_none() {
            self.connection = Some(connect(self.to, self.from).await?);
            self.opened += 1;
        }
        // Just set.
        let Some(connection) = &mut self.connection else {
            return Err(Failure::Other);
        };
        let (before, after) = &self.request;
        let sent = match after {
            None => connection.write_all(before).await,
            Some(after) => {
                let numbered = [before.as_slice(), number.to_string().as_bytes(), after].concat();
                connection.write_all(&numbered).await
            }
        };
        sent.map_err(|_| Failure::LostFresh)?;

        let mut filled = 0;
        let head = loop {
            let count = match connection.read(&mut self.buffer[filled..]).await {
                Ok(0) | Err(_) => {
                    return Err(if filled == 0 {
                        Failure::LostFresh
                    } else {
                        Failure::Partial
                    });
                }
                Ok(count) => count,
            };
            filled += count;
            match http::head(&self.buffer[..filled]) {
                Ok(Some(head)) => break head,
                Ok(None) if filled < self.buffer.len() => {}
                Ok(None) | Err(_) => return Err(Failure::Other),
            }
        };
        let mut got = (filled - head.bytes) as u64;
        if head.body.is_some_and(|length| length > got) && self.buffer.len() < 256 << 10 {
            // Large answers in large pieces.
            self.buffer.resize(256 << 10, 0);
        }
        while head.body.is_none_or(|length| got < length) {
            match connection.read(&mut self.buffer).await {
                Ok(0) if head.body.is_none() => break,
                Ok(0) | Err(_) => return Err(Failure::Partial),
                Ok(count) => got += count as u64,
            }
        }
        if head.close || !self.keep_alive {
            // The server closes first, so that the port rests on its side and not on ours.
            if head.body.is_some() {
                let _ = connection.read(&mut self.buffer).await;
            }
            self.connection = None;
        }
        Ok(head)
    }
}

async fn connect(to: SocketAddrV4, from: Option<Ipv4Addr>) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4().map_err(|_| Failure::Other)?;
    if let Some(from) = from {
        socket
            .bind(SocketAddrV4::new(from, 0).into())
            .map_err(|_| Failure::Other)?;
    }
    let stream = socket.connect(to.into()).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::ConnectionReset => Failure::LostFresh,
        _ => Failure::Other,
    })?;
    stream.set_nodelay(true).map_err(|_| Failure::Other)?;
    Ok(stream)
}
