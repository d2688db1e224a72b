//! The little HTTP/1.1 that the blocking servers share: requests without bodies, one after the other on a connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::handler::{Plan, Reply, perform, plan};

/// Longest head of a request.
const HEAD: usize = 16 << 10;
/// Most headers in one.
const HEADERS: usize = 64;
/// A body up to this length is written together with its head.
const TOGETHER: usize = 16 << 10;

/// Answers all requests of one connection. It ends when the client says so or has gone, has asked nothing for `idle`, or
/// when after an answer `leave` says that it is time for others; then the answer says `Connection: close`.
///
/// # Errors
/// The connection's. Nobody is left to be told.
pub(super) fn converse(mut stream: TcpStream, idle: Option<Duration>, leave: impl Fn() -> bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(idle)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let (request, length) = loop {
            match Request::parse(&buffer) {
                Parsed::Whole(request, length) => break (request, length),
                Parsed::Partial if buffer.len() < HEAD => {}
                Parsed::Partial => return refuse(&mut stream, "the head of the request is too long\n"),
                Parsed::Bad => return refuse(&mut stream, "this is no HTTP/1\n"),
            }
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            buffer.extend_from_slice(&piece[..read]);
        };
        buffer.drain(..length);
        let reply = perform(request.plan);
        let stays = request.stays && !leave();
        write(&mut stream, &reply, stays, request.head_only)?;
        if !stays {
            return Ok(());
        }
    }
}

struct Request {
    plan: Plan,
    /// The connection may go on after it.
    stays: bool,
    /// The body is not wanted.
    head_only: bool,
}

enum Parsed {
    /// With its length in bytes.
    Whole(Request, usize),
    Partial,
    Bad,
}

impl Request {
    fn parse(bytes: &[u8]) -> Parsed {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(_) => return Parsed::Bad,
        };
        let head_only = request.method == Some("HEAD");
        if !head_only && request.method != Some("GET") {
            let plan = Plan::Answer(Reply::text(405, "only GET and HEAD are known here\n"));
            // It may have a body, which nobody reads.
            let refused = Self {
                plan,
                stays: false,
                head_only,
            };
            return Parsed::Whole(refused, length);
        }
        let mut stays = request.version == Some(1);
        for header in &*request.headers {
            let has = |word: &[u8]| {
                header
                    .value
                    .split(|byte| *byte == b',')
                    .any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
            };
            if header.name.eq_ignore_ascii_case("connection") {
                stays = !has(b"close") && (stays || has(b"keep-alive"));
            }
            // A body, which nobody reads: what follows is no request.
            if header.name.eq_ignore_ascii_case("transfer-encoding")
                || (header.name.eq_ignore_ascii_case("content-length") && !has(b"0"))
            {
                let plan = Plan::Answer(Reply::text(400, "a request has no body here\n"));
                let refused = Self {
                    plan,
                    stays: false,
                    head_only,
                };
                return Parsed::Whole(refused, length);
            }
        }
        let plan = plan(request.path.unwrap_or_default());
        Parsed::Whole(Self { plan, stays, head_only }, length)
    }
}

fn refuse(stream: &mut TcpStream, why: &'static str) -> io::Result<()> {
    write(stream, &Reply::text(400, why), false, false)
}

fn write(stream: &mut TcpStream, reply: &Reply, stays: bool, head_only: bool) -> io::Result<()> {
    let reason = match reply.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Bad Request",
    };
    let connection = if stays { "keep-alive" } else { "close" };
    let mut bytes = Vec::with_capacity(256 + reply.body.len().min(TOGETHER));
    write!(
        bytes,
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        reply.status,
        reply.content_type,
        reply.body.len(),
    )?;
    let body = if head_only { &[] } else { &*reply.body };
    if body.len() > TOGETHER {
        stream.write_all(&bytes)?;
        return stream.write_all(body);
    }
    bytes.extend_from_slice(body);
    stream.write_all(&bytes)
}
