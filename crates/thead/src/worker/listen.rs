//! Listening, wherever the sockets come from.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;

use rustix::io::Errno;
use rustix::net::SocketType;
use thead_wire::cluster::{AddressType, Backlog, Query};
use tokio::sync::oneshot;

use super::address::{Address, AddressError, Place};
use super::listener::{Connections, Listener, Socket};
use super::member::{Granted, Request};
use super::udp::UdpSocket;
use super::{Worker, activation};
use crate::parent::ParentError;
use crate::sys;
use crate::sys::listen::{SocketFile, TcpOptions, UdpOptions, UnixOptions};

/// Why there is no socket at an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The text is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// What the environment says about a primary cannot be used.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The name has no address.
    #[error("{address} has no IP address")]
    Lookup {
        /// The address.
        address: Address,
        /// What the system's resolver says.
        #[source]
        error: io::Error,
    },
    /// The kernel refused, here or in the primary.
    #[error("{address} cannot be bound ({})", sys::errno::name(-sys::errno::negative(.error)))]
    Bind {
        /// The address.
        address: Address,
        /// With its number.
        #[source]
        error: io::Error,
    },
    /// This worker is to leave, or its primary is gone.
    #[error("this worker is to leave its cluster, or has no primary any more")]
    Leaving,
}

impl ListenError {
    /// The error as Node names it, such as `EADDRINUSE`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address(AddressError::Port(_)) => "ERR_SOCKET_BAD_PORT",
            Self::Address(AddressError::Host(_)) => "ERR_INVALID_ARG_VALUE",
            Self::Parent(_) => "EINVAL",
            Self::Lookup { .. } => "ENOTFOUND",
            Self::Bind { error, .. } => sys::errno::name(-sys::errno::negative(error)),
            Self::Leaving => "EPIPE",
        }
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        let kind = match &error {
            ListenError::Address(_) | ListenError::Parent(_) => io::ErrorKind::InvalidInput,
            ListenError::Lookup { .. } => io::ErrorKind::NotFound,
            ListenError::Bind { error, .. } => error.kind(),
            ListenError::Leaving => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

/// What both kinds of sockets are asked for with.
#[derive(Debug)]
struct Wanted {
    worker: Result<Worker, ParentError>,
    address: Result<Address, AddressError>,
    name: Option<String>,
    exclusive: bool,
    ipv6_only: bool,
}

/// Where a socket comes from.
enum Found {
    /// It was passed in, and is bound to this address.
    Passed(OwnedFd, Address),
    /// The primary has it.
    Granted(Place, Granted),
    /// It is for this process to bind it.
    Nowhere(Place),
}

impl Wanted {
    fn new<A>(worker: Result<Worker, ParentError>, address: A) -> Self
    where
        A: TryInto<Address, Error: Into<AddressError>>,
    {
        Self {
            worker,
            address: address.try_into().map_err(Into::into),
            name: None,
            exclusive: false,
            ipv6_only: false,
        }
    }

    /// Looks in the order that `Worker::listen` tells. The worker and the address come back for what is still to be done.
    async fn find(
        self,
        kind: SocketType,
        query: impl FnOnce(&Place) -> io::Result<Query>,
    ) -> Result<(Worker, Address, Found), ListenError> {
        let (worker, address) = (self.worker?, self.address?);
        let passed = activation::passed();
        let place = address.place().await;
        if let Some((socket, bound)) = passed.take(kind, self.name.as_deref(), place.as_ref().ok()) {
            return Ok((worker, address, Found::Passed(socket, bound)));
        }
        let place = match place {
            Ok(place) => place,
            Err(error) => return Err(ListenError::Lookup { address, error }),
        };
        let Some(membership) = worker.membership.as_ref().filter(|_| !self.exclusive) else {
            return Ok((worker, address, Found::Nowhere(place)));
        };
        let query = match query(&place) {
            Ok(query) => Box::new(query),
            Err(error) => return Err(ListenError::Bind { address, error }),
        };
        let (answer, granted) = oneshot::channel();
        let asked = membership.requests.send(Request::Listen(query, answer));
        asked.map_err(|_| ListenError::Leaving)?;
        match granted.await {
            Ok(Ok(granted)) => Ok((worker, address, Found::Granted(place, granted))),
            Ok(Err(error)) => Err(ListenError::Bind { address, error }),
            Err(_) => Err(ListenError::Leaving),
        }
    }
}

/// A listener that is to be, made by [`listen`](super::listen()) and [`Worker::listen`]: `await` it.
///
/// Its options are those of Node's `server.listen({ … })`. What does not concern an address is ignored for it.
#[derive(Debug)]
#[must_use = "it does nothing until it is awaited"]
pub struct Listen {
    wanted: Wanted,
    backlog: u32,
    unix: UnixOptions,
}

impl Listen {
    pub(super) fn new<A>(worker: Result<Worker, ParentError>, address: A) -> Self
    where
        A: TryInto<Address, Error: Into<AddressError>>,
    {
        Self {
            wanted: Wanted::new(worker, address),
            backlog: 0,
            unix: UnixOptions::default(),
        }
    }

    /// Of the sockets that were passed in, only one with this name (`LISTEN_FDNAMES`) will do.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.wanted.name = Some(name.into());
        self
    }

    /// How many connections may wait to be accepted; default 511, and the system has a ceiling (`net.core.somaxconn`).
    /// Where workers share a listener, the first decides.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// `[::]` takes IPv6 only. Default: IPv4 too.
    pub fn ipv6_only(mut self, only: bool) -> Self {
        self.wanted.ipv6_only = only;
        self
    }

    /// Does not ask the primary: the listener is this worker's alone, and the next that wants the address gets `EADDRINUSE`.
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.wanted.exclusive = exclusive;
        self
    }

    /// Everybody on this machine may read from a Unix socket. Default: whom the umask lets.
    pub fn readable_all(mut self, all: bool) -> Self {
        self.unix.readable_all = all;
        self
    }

    /// Everybody on this machine may write to a Unix socket, and with it connect.
    pub fn writable_all(mut self, all: bool) -> Self {
        self.unix.writable_all = all;
        self
    }

    async fn listen(self) -> Result<Listener, ListenError> {
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        let (unix, ipv6_only) = (self.unix, self.wanted.ipv6_only);
        let query = move |place: &Place| {
            let mut query = place.query()?;
            let is_ip = query.address_type != Some(AddressType::Unix);
            query.flags = is_ip.then_some(if ipv6_only { Query::IPV6_ONLY } else { 0 });
            query.backlog = Some(Backlog::Length(backlog));
            query.readable_all = unix.readable_all.then_some(true);
            query.writable_all = unix.writable_all.then_some(true);
            Ok(query)
        };
        let (worker, address, found) = self.wanted.find(SocketType::STREAM, query).await?;
        let listener = match found {
            Found::Passed(socket, bound) => Socket::of(socket)
                .map(|socket| Listener::new(bound, Connections::Own(socket, worker.stay()), None, None)),
            Found::Granted(place, granted) => take(place, granted, unix),
            Found::Nowhere(place) => bind(place, backlog, ipv6_only, unix).and_then(|(bound, socket, file)| {
                let connections = Connections::Own(Socket::of(socket)?, worker.stay());
                Ok(Listener::new(bound, connections, None, file))
            }),
        };
        listener.map_err(|error| ListenError::Bind { address, error })
    }
}

/// Takes what the primary gives.
fn take(place: Place, granted: Granted, unix: UnixOptions) -> io::Result<Listener> {
    if let (Some(_), Place::Path(path)) = (&granted.socket, &place) {
        // Node's primary does not, where it does not listen.
        sys::listen::open_to(path, unix)?;
    }
    let connections = Connections::Primary {
        offers: granted.offers,
        socket: granted.socket.map(Socket::of).transpose()?,
    };
    let bound = granted.address.map_or_else(|| place.address(), Address::Ip);
    Ok(Listener::new(bound, connections, Some(granted.held), None))
}

/// Binds and listens.
fn bind(
    place: Place,
    backlog: i32,
    v6_only: bool,
    unix: UnixOptions,
) -> io::Result<(Address, OwnedFd, Option<SocketFile>)> {
    let tcp = TcpOptions {
        v6_only,
        ..TcpOptions::default()
    };
    let (socket, file) = match &place {
        Place::Ip(address) => (sys::listen::bind_tcp(*address, tcp)?, None),
        Place::Any(port) => (sys::listen::bind_tcp_any(*port, tcp)?, None),
        Place::Path(path) => {
            let bound = sys::listen::bind_unix(path, unix)?;
            (bound.socket, bound.file)
        }
        Place::Abstract(name) => {
            let name = [b"\0", &**name].concat();
            (
                sys::listen::bind_unix(Path::new(OsStr::from_bytes(&name)), unix)?.socket,
                None,
            )
        }
    };
    sys::listen::listen(&socket, backlog)?;
    let address = match place {
        Place::Ip(_) | Place::Any(_) => Address::of(&socket)?,
        place => place.address(),
    };
    Ok((address, socket, file))
}

impl IntoFuture for Listen {
    type Output = Result<Listener, ListenError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.listen())
    }
}

/// A UDP socket that is to be, made by [`bind_udp`](super::bind_udp()) and [`Worker::bind_udp`]: `await` it.
///
/// Its options are those of Node's `dgram.createSocket` and `bind`.
#[derive(Debug)]
#[must_use = "it does nothing until it is awaited"]
pub struct BindUdp {
    wanted: Wanted,
    reuse_address: bool,
}

impl BindUdp {
    pub(super) fn new<A>(worker: Result<Worker, ParentError>, address: A) -> Self
    where
        A: TryInto<Address, Error: Into<AddressError>>,
    {
        Self {
            wanted: Wanted::new(worker, address),
            reuse_address: false,
        }
    }

    /// As [`Listen::named`].
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.wanted.name = Some(name.into());
        self
    }

    /// As [`Listen::ipv6_only`].
    pub fn ipv6_only(mut self, only: bool) -> Self {
        self.wanted.ipv6_only = only;
        self
    }

    /// As [`Listen::exclusive`].
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.wanted.exclusive = exclusive;
        self
    }

    /// Other sockets may have the same address, of which only the last gets what is sent to it (`SO_REUSEADDR`). Workers
    /// that share a socket need it not.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.reuse_address = reuse;
        self
    }

    async fn bind(self) -> Result<UdpSocket, ListenError> {
        let options = UdpOptions {
            v6_only: self.wanted.ipv6_only,
            reuse_address: self.reuse_address,
        };
        let query = move |place: &Place| {
            let mut query = Place::Ip(place.udp()?).query()?;
            query.address_type = match query.address_type {
                Some(AddressType::Ipv6) => Some(AddressType::Udp6),
                _ => Some(AddressType::Udp4),
            };
            let v6_only = if options.v6_only { Query::IPV6_ONLY } else { 0 };
            let reuse_address = if options.reuse_address { Query::REUSE_ADDRESS } else { 0 };
            query.flags = Some(v6_only | reuse_address);
            query.fd = Some(-1);
            Ok(query)
        };
        let (worker, address, found) = self.wanted.find(SocketType::DGRAM, query).await?;
        let socket = match found {
            Found::Passed(socket, _) => Ok((socket, None)),
            Found::Granted(_, Granted { socket, held, .. }) => match socket {
                Some(socket) => Ok((socket, Some(held))),
                // A primary has no other way with UDP.
                None => Err(Errno::PROTO.into()),
            },
            Found::Nowhere(place) => place
                .udp()
                .and_then(|address| Ok((sys::listen::bind_udp(address, options)?, None))),
        };
        let socket = socket.and_then(|(socket, held)| {
            Ok(UdpSocket {
                socket: tokio::net::UdpSocket::from_std(socket.into())?,
                stay: worker.stay(),
                _held: held,
            })
        });
        socket.map_err(|error| ListenError::Bind { address, error })
    }
}

impl IntoFuture for BindUdp {
    type Output = Result<UdpSocket, ListenError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.bind())
    }
}
