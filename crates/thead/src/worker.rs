//! A Rust server that works alone, as a worker under thead or Node's `cluster`, and under systemd's socket activation.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listener = thead::worker::listen("127.0.0.1:3000").await?;
//! while let Some((stream, _peer)) = listener.accept().await? {
//!     tokio::spawn(async move { drop(stream) });
//! }
//! // Told to leave: finish what is begun, then return.
//! # Ok(())
//! # }
//! ```
//!
//! axum and hyper take it as they take Tokio's own: the guide has both (`docs/guide.md`, "Serve as a worker").

use tokio::sync::{oneshot, watch};

use crate::parent::{self, ParentError};
use member::{Membership, Request};

mod activation;
mod address;
mod listen;
mod listener;
pub(crate) mod member;
mod udp;

pub use crate::channel::Stream;
pub use address::{Address, AddressError};
pub use listen::{BindUdp, Listen, ListenError};
pub use listener::Listener;
pub use udp::UdpSocket;

/// Listens, wherever the socket comes from: [`Worker::from_env`], then [`Worker::listen`].
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn listen<A>(address: A) -> Listen
where
    A: TryInto<Address, Error: Into<AddressError>>,
{
    Listen::new(Worker::from_env(), address)
}

/// A UDP socket, wherever it comes from: [`Worker::from_env`], then [`Worker::bind_udp`].
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn bind_udp<A>(address: A) -> BindUdp
where
    A: TryInto<Address, Error: Into<AddressError>>,
{
    BindUdp::new(Worker::from_env(), address)
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

    /// Listens: on a socket that was passed in, else through the primary, else by itself. The address is an [`Address`], or
    /// text that is one; what is returned has options, and listens when it is awaited.
    ///
    /// ```no_run
    /// # async fn example(worker: thead::worker::Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let ipv6 = worker.listen("[::]:3000").ipv6_only(true).backlog(1024).await?;
    /// let unix = worker.listen("/run/app/socket").writable_all(true).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Passed in (`LISTEN_FDS` for this `LISTEN_PID`) is first the socket that is bound to this address; without such, the
    /// first that no other call has taken, for the manager's configuration is later than the program's.
    ///
    /// Awaiting it fails with [`ListenError`], also if it was the primary that could not bind. Cancel safety: dropped before it
    /// is done, nothing listens.
    pub fn listen<A>(&self, address: A) -> Listen
    where
        A: TryInto<Address, Error: Into<AddressError>>,
    {
        Listen::new(Ok(self.clone()), address)
    }

    /// A UDP socket, with options, as [`listen`](Self::listen) has a listener. All workers of a primary share one.
    ///
    /// ```no_run
    /// # async fn example(worker: thead::worker::Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let socket = worker.bind_udp("127.0.0.1:5353").await?;
    /// let mut buffer = [0; 1500];
    /// while let Some((length, peer)) = socket.recv_from(&mut buffer).await? {
    ///     socket.send_to(&buffer[..length], peer).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind_udp<A>(&self, address: A) -> BindUdp
    where
        A: TryInto<Address, Error: Into<AddressError>>,
    {
        BindUdp::new(Ok(self.clone()), address)
    }

    /// Waits until this worker is to leave, by its own will or the primary's, or the primary is gone; for ever without
    /// one. [`Listener::accept`] tells the same.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn leaving(&self) {
        self.stay().ended().await;
    }

    /// Whether this worker is to leave. A server that keeps connections answers with `Connection: close` from then on.
    pub fn is_leaving(&self) -> bool {
        let stay = self.membership.as_ref().map(|membership| &membership.stay);
        stay.is_some_and(|stay| stay.has_changed().is_err())
    }

    fn stay(&self) -> Stay {
        Stay(self.membership.as_ref().map(|membership| membership.stay.clone()))
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

/// How long this worker stays: its sender is gone when it is to leave, or has no primary any more. `None` without a primary.
#[derive(Clone, Debug)]
struct Stay(Option<watch::Receiver<()>>);

impl Stay {
    /// Waits until this worker is to leave.
    ///
    /// # Cancel safety
    /// Loses nothing.
    async fn ended(&self) {
        match self.0.clone() {
            Some(mut stay) => while stay.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}
