//! Whether handles of each kind pass between thead and a runtime, whichever of them is the parent: `programs/handles.js`
//! is at the other end.

use std::fmt;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thead::channel::{Channel, Handle, Message, ReceivedHandle};
use thead::{Child, ChildEvent, HandleKind, Parent, ParentEvent};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A kind of handle and what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Thing {
    TcpSocket,
    UnixSocket,
    TcpServer,
    UnixServer,
    Native,
    Udp4,
    Udp6,
    DgramNative,
}

impl Thing {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TcpSocket,
        Self::UnixSocket,
        Self::TcpServer,
        Self::UnixServer,
        Self::Native,
        Self::Udp4,
        Self::Udp6,
        Self::DgramNative,
    ];

    /// As what it is sent.
    pub const fn kind(self) -> HandleKind {
        match self {
            Self::TcpSocket | Self::UnixSocket => HandleKind::Socket,
            Self::TcpServer | Self::UnixServer => HandleKind::Server,
            Self::Native => HandleKind::Native,
            Self::Udp4 | Self::Udp6 => HandleKind::DgramSocket,
            Self::DgramNative => HandleKind::DgramNative,
        }
    }

    /// Its head in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::TcpSocket => "`net.Socket` TCP",
            Self::UnixSocket => "`net.Socket` Unix",
            Self::TcpServer => "`net.Server` TCP",
            Self::UnixServer => "`net.Server` Unix",
            Self::Native => "`net.Native`",
            Self::Udp4 => "`dgram.Socket` udp4",
            Self::Udp6 => "`dgram.Socket` udp6",
            Self::DgramNative => "`dgram.Native`",
        }
    }
}

/// One thing in one direction, seen from the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What.
    pub thing: Thing,
    /// Whether the runtime is given it; else it gives it.
    pub takes: bool,
}

impl Cell {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let both = |thing| [true, false].map(|takes| Self { thing, takes });
        Thing::ALL.into_iter().flat_map(both).collect()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", if self.takes { "takes" } else { "gives" }, self.thing)
    }
}

/// A thead end of a channel, at whichever side.
#[derive(Debug)]
pub enum Link {
    /// The runtime is the child.
    Child(Box<Child>),
    /// The runtime is the parent.
    Parent(Parent),
}

type Came = (Message, Option<ReceivedHandle<Handle>>);

impl Link {
    fn channel(&self) -> Result<&Channel, String> {
        match self {
            Self::Child(child) => child.channel().ok_or_else(|| "no channel".to_owned()),
            Self::Parent(parent) => Ok(parent.channel()),
        }
    }

    async fn next(&mut self) -> Result<Came, String> {
        let gone = || "the channel has ended".to_owned();
        loop {
            match self {
                Self::Child(child) => match child.next().await.ok_or_else(gone)? {
                    ChildEvent::Message { message, handle } => return Ok((message, handle)),
                    ChildEvent::BadMessage(bad) => return Err(bad.to_string()),
                    ChildEvent::Disconnect { .. } => return Err(gone()),
                    _ => {}
                },
                Self::Parent(parent) => match parent.next().await.ok_or_else(gone)? {
                    ParentEvent::Message { message, handle } => return Ok((message, handle)),
                    ParentEvent::BadMessage(bad) => return Err(bad.to_string()),
                    ParentEvent::Disconnect { .. } => return Err(gone()),
                    _ => {}
                },
            }
        }
    }

    /// The next message, which must have this field.
    async fn expect(&mut self, field: &str) -> Result<Option<ReceivedHandle<Handle>>, String> {
        let (message, handle) = self.next().await?;
        let value: Value = message.parse().map_err(|error| error.to_string())?;
        match value.get(field) {
            Some(_) => Ok(handle),
            None => Err(format!("not {field} but {value}")),
        }
    }

    async fn say(&self, message: &Value) -> Result<(), String> {
        self.channel()?
            .post_message(message)
            .await
            .map_err(|error| error.to_string())
    }
}

/// How long a handle may take to be of use. Most that fail say so, or end the channel.
const PATIENCE: Duration = Duration::from_secs(6);

/// Tries one after the other until one fails, or all have been; what is left is for another process to try.
pub async fn judge(link: &mut Link, cells: &[Cell], mut report: impl FnMut(Cell, Result<(), String>)) {
    let hello = async {
        link.say(&json!({ "hello": true })).await?;
        link.expect("hello").await
    };
    let speaks = in_time(hello).await;
    for cell in cells {
        let result = match &speaks {
            Err(error) => Err(format!("no message passes: {error}")),
            Ok(_) => in_time(try_cell(link, *cell)).await,
        };
        let failed = result.is_err() && speaks.is_ok();
        report(*cell, result);
        if failed {
            return;
        }
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err("nothing comes of it".to_owned());
    tokio::time::timeout(PATIENCE, what).await.unwrap_or_else(late)
}

async fn try_cell(link: &mut Link, Cell { thing, takes }: Cell) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    if takes {
        let (handle, use_it) = make(thing, &dir).await.map_err(|error| error.to_string())?;
        let message = json!({ "take": thing.kind().as_str() });
        let sent = link.channel()?.post_handle(&message, thing.kind(), handle).await;
        sent.map_err(|(error, _)| error.to_string())?;
        tokio::select! {
            used = use_it.ping() => used.map_err(|error| error.to_string()),
            // It says nothing unless it fails.
            failed = link.expect("nothing") => failed.map(drop),
        }
    } else {
        let mut wanted = Wanted::new(thing, &dir).map_err(|error| error.to_string())?;
        let message = json!({ "give": thing.kind().as_str(), "at": wanted.at() });
        link.say(&message).await?;
        let received = link.expect("given").await?.ok_or("no handle came with it")?;
        if received.kind != Ok(thing.kind()) {
            return Err(format!("it came as {:?}", received.kind));
        }
        wanted.come();
        link.say(&json!({ "close": true })).await?;
        link.expect("closed").await?;
        wanted.works(received.handle).await.map_err(|error| error.to_string())
    }
}

/// The other end of what a runtime is given.
enum Use {
    Stream(Box<dyn Both>),
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
    Udp(std::net::SocketAddr),
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

async fn make(thing: Thing, dir: &TempDir) -> io::Result<(Handle, Use)> {
    Ok(match thing {
        Thing::TcpSocket => {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let ours = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
            let theirs = listener.accept().await?.0.into_std()?;
            (theirs.into(), Use::Stream(Box::new(ours)))
        }
        Thing::UnixSocket => {
            let (ours, theirs) = tokio::net::UnixStream::pair()?;
            (theirs.into_std()?.into(), Use::Stream(Box::new(ours)))
        }
        Thing::TcpServer | Thing::Native => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            (listener.into(), Use::Tcp(address))
        }
        Thing::UnixServer => {
            let path = dir.path().join("socket");
            (UnixListener::bind(&path)?.into(), Use::Unix(path))
        }
        Thing::Udp4 | Thing::Udp6 | Thing::DgramNative => {
            let socket = UdpSocket::bind(if thing == Thing::Udp6 { "[::1]:0" } else { "127.0.0.1:0" })?;
            let address = socket.local_addr()?;
            (socket.into(), Use::Udp(address))
        }
    })
}

impl Use {
    async fn ping(self) -> io::Result<()> {
        let mut stream: Box<dyn Both> = match self {
            Self::Stream(stream) => stream,
            Self::Tcp(address) => Box::new(tokio::net::TcpStream::connect(address).await?),
            Self::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
            Self::Udp(address) => {
                let any = if address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
                let client = tokio::net::UdpSocket::bind(any).await?;
                client.send_to(b"ping", address).await?;
                let mut answer = [0; 16];
                let (n, _) = client.recv_from(&mut answer).await?;
                return is(&answer[..n], b"pong");
            }
        };
        stream.write_all(b"ping").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        is(&answer, b"pong")
    }
}

fn is(got: &[u8], wanted: &[u8]) -> io::Result<()> {
    if got == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("not {wanted:?} but {got:?}")))
    }
}

/// Where what a runtime is to give comes from.
enum Wanted {
    /// Connects here.
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    /// Listens there.
    TcpServer,
    UnixServer {
        path: PathBuf,
        again: PathBuf,
    },
    Udp {
        v6: bool,
    },
}

impl Wanted {
    fn new(thing: Thing, dir: &TempDir) -> io::Result<Self> {
        let path = dir.path().join("socket");
        Ok(match thing {
            Thing::TcpSocket => Self::Tcp(TcpListener::bind("127.0.0.1:0")?),
            Thing::UnixSocket => Self::Unix(UnixListener::bind(&path)?, path),
            Thing::TcpServer | Thing::Native => Self::TcpServer,
            Thing::UnixServer => Self::UnixServer {
                path,
                again: dir.path().join("again"),
            },
            Thing::Udp4 | Thing::DgramNative => Self::Udp { v6: false },
            Thing::Udp6 => Self::Udp { v6: true },
        })
    }

    fn at(&self) -> Value {
        match self {
            Self::Tcp(listener) => {
                json!({ "host": "127.0.0.1", "port": listener.local_addr().map_or(0, |address| address.port()) })
            }
            Self::Unix(_, path) | Self::UnixServer { path, .. } => json!({ "path": path }),
            Self::TcpServer => json!({ "host": "127.0.0.1", "port": 0 }),
            Self::Udp { v6 } => json!(if *v6 { "udp6" } else { "udp4" }),
        }
    }

    /// It is here, and its giver has not closed it yet, which removes the file of a Unix socket.
    fn come(&mut self) {
        if let Self::UnixServer { path, again } = self {
            // Whether it was in time is seen when it is connected to.
            let _ = std::fs::hard_link(path, again);
        }
    }

    async fn works(self, handle: Handle) -> io::Result<()> {
        let (mut ours, mut theirs): (Box<dyn Both>, Box<dyn Both>) = match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                (Box::new(handle.into_stream()?), Box::new(listener.accept().await?.0))
            }
            Self::Unix(listener, _) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                (Box::new(handle.into_stream()?), Box::new(listener.accept().await?.0))
            }
            Self::TcpServer => {
                let listener = TcpListener::from(handle.into_owned()?);
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
                (Box::new(listener.accept().await?.0), Box::new(client))
            }
            Self::UnixServer { again, .. } => {
                let listener = UnixListener::from(handle.into_owned()?);
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                let client = tokio::net::UnixStream::connect(again).await?;
                (Box::new(listener.accept().await?.0), Box::new(client))
            }
            Self::Udp { v6 } => {
                let socket = UdpSocket::from(handle.into_owned()?);
                socket.set_nonblocking(true)?;
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                let client = tokio::net::UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).await?;
                client.send_to(b"ping", socket.local_addr()?).await?;
                let mut got = [0; 16];
                let (n, from) = socket.recv_from(&mut got).await?;
                is(&got[..n], b"ping")?;
                socket.send_to(b"pong", from).await?;
                let n = client.recv(&mut got).await?;
                return is(&got[..n], b"pong");
            }
        };
        let mut got = [0; 4];
        ours.write_all(b"ping").await?;
        theirs.read_exact(&mut got).await?;
        is(&got, b"ping")?;
        theirs.write_all(b"pong").await?;
        ours.read_exact(&mut got).await?;
        is(&got, b"pong")
    }
}
