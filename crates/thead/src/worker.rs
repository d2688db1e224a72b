//! A Rust server that works alone, as a worker under thead or Node's `cluster`, and under systemd's socket activation.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listener = thead::worker::listen("127.0.0.1:3000".parse()?).await?;
//! while let Some((stream, _peer)) = listener.accept().await? {
//!     tokio::spawn(async move { drop(stream) });
//! }
//! // Told to leave: finish what is begun, then return.
//! # Ok(())
//! # }
//! ```
//!
//! hyper serves each stream as it does those of a `tokio::net::TcpListener`. axum takes a [`Listener`] by these lines:
//!
//! ```ignore
//! struct Connections(thead::worker::Listener);
//!
//! impl axum::serve::Listener for Connections {
//!     type Io = tokio::net::TcpStream;
//!     type Addr = std::net::SocketAddr;
//!
//!     async fn accept(&mut self) -> (Self::Io, Self::Addr) {
//!         match self.0.accept().await {
//!             Ok(Some(connection)) => connection,
//!             // axum is told to stop by `with_graceful_shutdown`.
//!             _ => std::future::pending().await,
//!         }
//!     }
//!
//!     fn local_addr(&self) -> std::io::Result<Self::Addr> {
//!         Ok(self.0.local_addr())
//!     }
//! }
//!
//! let worker = thead::worker::Worker::from_env()?;
//! let listener = Connections(worker.listen("127.0.0.1:3000".parse()?).await?);
//! axum::serve(listener, app).with_graceful_shutdown(async move { worker.leaving().await }).await?;
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::parent::{self, ParentError};
use member::{Membership, Request};

mod activation;
pub(crate) mod member;

/// Listens, wherever the sockets come from: [`Worker::from_env`], then [`Worker::listen`].
///
/// # Errors
/// As both.
pub async fn listen(address: SocketAddr) -> io::Result<Listener> {
    let worker = Worker::from_env().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    worker.listen(address).await
}

/// This process as a worker: what it has of its primary, if it has one.
#[derive(Clone, Debug)]
pub struct Worker {
    membership: Option<Membership>,
}

impl Worker {
    /// Opens the channel of this process unless [`parent`](crate::parent()) has, which see: call one of them first in
    /// `main`, within a Tokio runtime. A worker says `online` to its primary. May be called again, and gives the same.
    ///
    /// Messages of the primary's wait for [`parent`](crate::parent()) to be called; those for which there is no room are
    /// dropped, so that connections go on coming to a program that takes no messages.
    ///
    /// # Errors
    /// [`ParentError`].
    pub fn from_env() -> Result<Self, ParentError> {
        let opened = parent::opened()?;
        Ok(Self {
            membership: opened.and_then(|opened| opened.membership.clone()),
        })
    }

    /// The id that the primary gave it; `None` if there is no primary.
    pub fn id(&self) -> Option<u32> {
        self.membership.as_ref().map(|membership| membership.id)
    }

    /// Listens: on a socket that was passed in, else through the primary, else by itself.
    ///
    /// Passed in (`LISTEN_FDS` for this `LISTEN_PID`) is first the socket that is bound to this address; without such, the
    /// first that no other call has taken, for the manager's configuration is later than the program's.
    ///
    /// # Errors
    /// As `bind` and `listen`, also if the primary did them; `EPIPE` if this worker is to leave.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match activation::take(None, address) {
            Some((socket, address)) => Listener::own(TcpListener::from_std(socket.into())?, address),
            None => self.listen_by_itself(address).await,
        }
    }

    /// As [`listen`](Self::listen), but of the sockets passed in only one of this name (`LISTEN_FDNAMES`) will do.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub async fn listen_named(&self, name: &str, address: SocketAddr) -> io::Result<Listener> {
        match activation::take(Some(name), address) {
            Some((socket, address)) => Listener::own(TcpListener::from_std(socket.into())?, address),
            None => self.listen_by_itself(address).await,
        }
    }

    async fn listen_by_itself(&self, address: SocketAddr) -> io::Result<Listener> {
        let Some(membership) = &self.membership else {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            return Listener::own(listener, address);
        };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (granted, answer) = oneshot::channel();
        let asked = membership.requests.send(Request::Listen(address, granted));
        asked.map_err(|_| gone())?;
        let granted = answer.await.map_err(|_| gone())??;
        let held = Held {
            key: granted.key,
            requests: membership.requests.clone(),
        };
        Ok(Listener {
            address: granted.address,
            connections: Connections::Primary {
                offers: granted.offers,
                socket: granted
                    .socket
                    .map(|socket| TcpListener::from_std(socket.into()))
                    .transpose()?,
            },
            _held: Some(held),
        })
    }

    /// Waits until this worker is to leave, by its own will or the primary's, or the primary is gone; for ever without
    /// one. [`Listener::accept`] tells the same.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn leaving(&self) {
        match &self.membership {
            Some(membership) => while membership.stay.clone().changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }

    /// Leaves the cluster of its own will: its listeners are closed, the primary is told, and when it has agreed the channel
    /// ends. Then the primary replaces it, or does not, as `exitedAfterDisconnect` has it decide. Connections that are open
    /// go on. Node: `cluster.worker.disconnect()`, and if the process is ended then, `cluster.worker.kill()`.
    ///
    /// Does nothing without a primary.
    ///
    /// # Cancel safety
    /// What is begun goes on.
    pub async fn disconnect(&self) {
        let Some(membership) = &self.membership else { return };
        let (leave, left) = oneshot::channel();
        if membership.requests.send(Request::Leave(leave)).is_ok() {
            // Nothing is ever sent: it ends when the channel has.
            let _ = left.await;
        }
    }
}

/// Connections, wherever they come from. Dropping it closes it; a primary sends its connections to others then.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    connections: Connections,
    _held: Option<Held>,
}

#[derive(Debug)]
enum Connections {
    /// A socket of this process's.
    Own(TcpListener),
    /// The primary accepts and offers, and where it has given a socket, this process accepts from that as well.
    Primary {
        /// Ends when this worker is to leave, or its primary is gone.
        offers: mpsc::Receiver<OwnedFd>,
        socket: Option<TcpListener>,
    },
}

/// The primary believes that this listener is open, until it is dropped.
#[derive(Debug)]
struct Held {
    key: Arc<str>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A primary that is gone need not know.
        let _ = self.requests.send(Request::Close(self.key.clone()));
    }
}

/// How long accepting rests when this process has no descriptor left.
const SHORTAGE: Duration = Duration::from_millis(50);

impl Listener {
    fn own(listener: TcpListener, address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            address,
            connections: Connections::Own(listener),
            _held: None,
        })
    }

    /// The address that it is bound to, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection and its peer; `None` when this worker is to leave, or its primary is gone: finish what you have,
    /// then exit. A connection that its client has given up meanwhile is passed over, and while this process has no
    /// descriptor left, connections wait.
    ///
    /// # Errors
    /// The listener is broken: there will be no more.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn accept(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            let accepted = match &mut self.connections {
                Connections::Own(listener) => listener.accept().await,
                Connections::Primary { offers, socket } => tokio::select! {
                    // What was offered is ours already.
                    biased;
                    offer = offers.recv() => match offer {
                        Some(connection) => stream(connection),
                        None => return Ok(None),
                    },
                    accepted = accept(socket.as_ref()) => accepted,
                },
            };
            match accepted {
                Ok(connection) => return Ok(Some(connection)),
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
                    _ => return Err(error),
                },
            }
        }
    }
}

async fn accept(socket: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}

/// A connection that was accepted elsewhere.
fn stream(connection: OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
    rustix::io::ioctl_fionbio(&connection, true)?;
    let stream = TcpStream::from_std(connection.into())?;
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}
