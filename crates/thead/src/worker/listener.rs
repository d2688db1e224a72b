//! Connections, wherever they come from.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

use super::Stay;
use super::address::Address;
use super::member::Held;
use crate::channel::Stream;
use crate::sys::listen::SocketFile;

/// Connections, wherever they come from. Dropping it closes it; a primary sends its connections to others then, and the file
/// of a Unix socket that this process has made is removed.
#[derive(Debug)]
pub struct Listener {
    /// Before the socket goes its file does, so that nobody finds one that refuses.
    _file: Option<SocketFile>,
    address: Address,
    connections: Connections,
    _held: Option<Held>,
    /// Gone when there are no more connections.
    more: Option<watch::Sender<()>>,
}

#[derive(Debug)]
pub(super) enum Connections {
    /// A socket of this process's, for as long as it stays.
    Own(Socket, Stay),
    /// The primary accepts and offers, and where it has given a socket, this process accepts from that as well.
    Primary {
        /// Ends when this worker is to leave, or its primary is gone.
        offers: mpsc::Receiver<OwnedFd>,
        socket: Option<Socket>,
    },
}

impl Connections {
    /// `None` when there will be no more.
    async fn next(&mut self) -> Option<io::Result<Stream>> {
        match self {
            Self::Own(socket, stay) => tokio::select! {
                biased;
                () = stay.ended() => None,
                accepted = socket.accept() => Some(accepted),
            },
            Self::Primary { offers, socket } => tokio::select! {
                // What was offered is ours already.
                biased;
                offer = offers.recv() => offer.map(Stream::from_fd),
                accepted = accept(socket.as_ref()) => Some(accepted),
            },
        }
    }
}

async fn accept(socket: Option<&Socket>) -> io::Result<Stream> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}

/// A listening socket of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// `socket` is non-blocking.
    pub(super) fn of(socket: OwnedFd) -> io::Result<Self> {
        Ok(match sockopt::socket_domain(&socket)? {
            AddressFamily::UNIX => Self::Unix(UnixListener::from_std(socket.into())?),
            _ => Self::Tcp(TcpListener::from_std(socket.into())?),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => listener.accept().await?.0.into(),
            Self::Unix(listener) => listener.accept().await?.0.into(),
        })
    }
}

/// How long accepting rests when this process has no descriptor left.
const SHORTAGE: Duration = Duration::from_millis(50);

impl Listener {
    pub(super) fn new(
        address: Address,
        connections: Connections,
        held: Option<Held>,
        file: Option<SocketFile>,
    ) -> Self {
        Self {
            _file: file,
            address,
            connections,
            _held: held,
            more: Some(watch::Sender::new(())),
        }
    }

    /// The address that it is bound to, with the real port: [`Address::Ip`], [`Address::Path`] or [`Address::Abstract`].
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// The next connection and its peer, which has no address if it came by a Unix socket; `None` when this worker is to
    /// leave, or its primary is gone: finish what you have, then exit. A connection that its client has given up meanwhile
    /// is passed over, and while this process has no descriptor left, connections wait.
    ///
    /// # Errors
    /// The listener is broken: there will be no more.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn accept(&mut self) -> io::Result<Option<(Stream, Option<SocketAddr>)>> {
        loop {
            let Some(next) = self.connections.next().await else {
                self.more = None;
                return Ok(None);
            };
            match next.and_then(|stream| Ok((stream.peer_addr()?, stream))) {
                Ok((peer, stream)) => return Ok(Some((stream, peer))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        tokio::time::sleep(SHORTAGE).await;
                    }
                    // What accept(2) says of the connection, not of the listener.
                    Some(
                        libc::ECONNABORTED
                        | libc::ECONNRESET
                        | libc::ENOTCONN
                        | libc::EPERM
                        | libc::EPROTO
                        | libc::ENETDOWN
                        | libc::ENETUNREACH
                        | libc::EHOSTDOWN
                        | libc::EHOSTUNREACH
                        | libc::ENONET,
                    ) => {}
                    _ => {
                        self.more = None;
                        return Err(error);
                    }
                },
            }
        }
    }

    /// Waits until [`accept`](Self::accept) has returned `None` or an error, or this is dropped: for a server that accepts by itself and
    /// has to be told when to stop. By then it has taken all that the primary gave; one that stops earlier, when
    /// [`Worker::leaving`](super::Worker::leaving) says so, drops connections.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let more = self.more.as_ref().map(watch::Sender::subscribe);
        async move {
            if let Some(mut more) = more {
                while more.changed().await.is_ok() {}
            }
        }
    }
}
