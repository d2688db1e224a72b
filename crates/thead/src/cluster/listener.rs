//! The sockets of a cluster: made as the primary decides, accepted from as much as it allows.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType};
use thead_core::cluster::{BindSpec, Host, LocalAddress, Scheduling};
use thead_core::id::{LaneId, ListenerId};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::lane::Lanes;
use crate::channel::Handle;
use crate::sys::listen::{self, SocketFile, TcpOptions, UdpOptions, UnixOptions};
use crate::sys::reactor;

/// A listening or UDP socket of the primary's.
#[derive(Debug)]
struct Listener {
    /// What workers get of it.
    handle: Handle,
    /// Set where the primary accepts, and where it may have to.
    accept: Accept,
    datagram: bool,
    /// Removed with the listener.
    _file: Option<SocketFile>,
}

/// From what the primary accepts.
#[derive(Debug)]
enum Accept {
    /// Nothing: the workers accept.
    Nothing,
    /// The socket.
    All(AsyncFd<Arc<OwnedFd>>),
    /// Those of several sockets from which no worker accepts.
    Rest(Lanes),
}

impl Accept {
    fn watched(&self) -> impl Iterator<Item = &AsyncFd<Arc<OwnedFd>>> {
        let (all, rest) = match self {
            Self::Nothing => (None, None),
            Self::All(socket) => (Some(socket), None),
            Self::Rest(lanes) => (None, Some(lanes.watched())),
        };
        all.into_iter().chain(rest.into_iter().flatten())
    }
}

/// All sockets of a primary.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: HashMap<ListenerId, Listener>,
    /// Descriptors that workers may name in `listen({ fd })`.
    inherited: HashMap<i32, Handle>,
    /// Where accepting goes on, so that no listener starves another.
    turn: usize,
    /// Accepting rests until then: no descriptor was left.
    rest: Option<Instant>,
}

/// How long accepting rests when the process has no descriptor left. The connections wait in the kernel meanwhile.
const REST: Duration = Duration::from_millis(50);

impl Listeners {
    /// Lets workers listen on `fd` under the number by which they know it.
    pub(crate) fn inherit(&mut self, number: i32, fd: Handle) {
        self.inherited.insert(number, fd);
    }

    /// Makes a socket and says where it is bound, or the negative errno.
    ///
    /// `scheduling` says who accepts.
    pub(crate) fn bind(
        &mut self,
        id: ListenerId,
        spec: &BindSpec,
        scheduling: Scheduling,
    ) -> Result<LocalAddress, i32> {
        self.try_bind(id, spec, scheduling)
            .map_err(|error| crate::sys::errno::negative(&error))
    }

    fn try_bind(&mut self, id: ListenerId, spec: &BindSpec, scheduling: Scheduling) -> io::Result<LocalAddress> {
        let (handle, file, datagram, backlog): (Handle, _, _, _) = match spec {
            BindSpec::Tcp {
                host,
                port,
                v6_only,
                backlog,
            } => {
                let options = TcpOptions {
                    v6_only: *v6_only,
                    ..TcpOptions::default()
                };
                let socket = match address(host, *port)? {
                    Some(address) => listen::bind_tcp(address, options)?,
                    None => listen::bind_tcp_any(*port, options)?,
                };
                (socket.into(), None, false, *backlog)
            }
            BindSpec::Udp {
                host,
                port,
                v6_only,
                reuse_address,
            } => {
                let options = UdpOptions {
                    v6_only: *v6_only,
                    reuse_address: *reuse_address,
                };
                let any = || SocketAddr::from(([0, 0, 0, 0], *port));
                let socket = listen::bind_udp(address(host, *port)?.unwrap_or_else(any), options)?;
                (socket.into(), None, true, 0)
            }
            BindSpec::Unix {
                path,
                backlog,
                readable_all,
                writable_all,
            } => {
                let options = UnixOptions {
                    readable_all: *readable_all,
                    writable_all: *writable_all,
                };
                let bound = listen::bind_unix(Path::new(&**path), options)?;
                (bound.socket.into(), bound.file, false, *backlog)
            }
            BindSpec::Fd { fd, udp, backlog } => {
                let handle = self.inherited.get(fd).ok_or(Errno::BADF)?.clone();
                rustix::io::ioctl_fionbio(&handle, true)?;
                (handle, None, *udp, *backlog)
            }
        };
        let local = local_address(&handle)?;
        // A shared one too: a second listener of the address is noticed here and not by a worker, and connections wait
        // while there is no worker.
        if !datagram {
            listen::listen(&handle, backlog)?;
        }
        let accept = match scheduling {
            Scheduling::Shared => Accept::Nothing,
            Scheduling::RoundRobin | Scheduling::Sticky => {
                Accept::All(reactor::register(handle.fd.clone(), Interest::READABLE)?)
            }
            Scheduling::Kernel => Accept::Rest(Lanes::new(handle.clone(), backlog)?),
        };
        self.open.insert(
            id,
            Listener {
                handle,
                accept,
                datagram,
                _file: file,
            },
        );
        Ok(local)
    }

    /// Closes a socket and removes its file.
    pub(crate) fn unbind(&mut self, id: ListenerId) {
        self.open.remove(&id);
    }

    /// A socket for a worker, and whether it is UDP.
    pub(crate) fn get(&self, id: ListenerId) -> Option<(Handle, bool)> {
        self.open
            .get(&id)
            .map(|listener| (listener.handle.clone(), listener.datagram))
    }

    /// The socket of a lane for a worker.
    pub(crate) fn lane(&mut self, id: ListenerId, lane: LaneId) -> Option<Handle> {
        match &mut self.open.get_mut(&id)?.accept {
            Accept::Rest(lanes) => Some(lanes.get(lane)),
            Accept::Nothing | Accept::All(_) => None,
        }
    }

    /// Lets the kernel give connections to these lanes only.
    pub(crate) fn steer(&mut self, id: ListenerId, lanes: &[LaneId]) {
        if let Some(Listener {
            accept: Accept::Rest(all),
            ..
        }) = self.open.get_mut(&id)
        {
            all.steer(lanes);
        }
    }

    /// Accepts what is in the kernel's queues at this moment, `most` of each, also where workers accept.
    pub(crate) fn accept_now(&self, most: impl Fn(ListenerId) -> usize, accepted: &mut Vec<(ListenerId, OwnedFd)>) {
        for (id, listener) in &self.open {
            let take = |socket: BorrowedFd<'_>| {
                let waiting = std::iter::from_fn(|| listen::accept(socket).ok()).take(most(*id));
                waiting.map(|connection| (*id, connection)).collect::<Vec<_>>()
            };
            match &listener.accept {
                Accept::Nothing => {}
                Accept::All(socket) => accepted.extend(take(socket.as_fd())),
                Accept::Rest(lanes) => lanes.sockets().for_each(|socket| accepted.extend(take(socket.as_fd()))),
            }
        }
    }

    /// Accepts what `allowed` allows; ready when there is at least one connection.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        allowed: impl Fn(ListenerId) -> usize,
        accepted: &mut Vec<(ListenerId, OwnedFd)>,
    ) -> Poll<()> {
        if self.rest.is_some_and(|until| Instant::now() < until) {
            return Poll::Pending;
        }
        self.rest = None;
        self.turn = self.turn.wrapping_add(1);
        let count = self.open.len().max(1);
        let listeners = self.open.iter().cycle().skip(self.turn % count).take(self.open.len());
        for (id, listener) in listeners {
            let mut room = allowed(*id);
            for socket in listener.accept.watched() {
                while room > 0 {
                    let Poll::Ready(Ok(mut guard)) = socket.poll_read_ready(cx) else {
                        break;
                    };
                    match listen::accept(guard.get_inner().as_fd()) {
                        Ok(connection) => {
                            accepted.push((*id, connection));
                            room -= 1;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                        Err(error) => {
                            tracing::warn!(%error, "connections wait in the kernel: none can be accepted");
                            self.rest = Some(Instant::now() + REST);
                            room = 0;
                        }
                    }
                }
            }
        }
        if accepted.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// When accepting goes on after a rest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rest
    }
}

fn address(host: &Host, port: u16) -> io::Result<Option<SocketAddr>> {
    Ok(match host {
        Host::Any => None,
        Host::V4(ip) => Some((*ip, port).into()),
        Host::V6(ip, None) => Some((*ip, port).into()),
        Host::V6(ip, Some(zone)) => Some(listen::numeric_address(&format!("{ip}%{zone}"), port)?),
    })
}

/// The local address of a connection, made non-blocking; a blocking one would stall a whole Node worker.
///
/// # Errors
/// `ENOTCONN` if its peer has left; others if it is something else than a connection: a file, UDP, a listener.
pub(crate) fn address_of_connection(socket: impl AsFd) -> io::Result<LocalAddress> {
    if rustix::net::sockopt::socket_type(&socket)? != SocketType::STREAM
        || rustix::net::sockopt::socket_acceptconn(&socket)?
    {
        return Err(Errno::PROTOTYPE.into());
    }
    rustix::net::getpeername(&socket)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    local_address(socket)
}

/// The address of a connection's client, if it has one.
pub(crate) fn client_of(connection: impl AsFd) -> Option<IpAddr> {
    let client = SocketAddr::try_from(rustix::net::getpeername(connection).ok()??);
    client.ok().map(|client| client.ip())
}

/// What `getsockname` says of a socket.
fn local_address(socket: impl AsFd) -> io::Result<LocalAddress> {
    let name = rustix::net::getsockname(socket)?;
    if let Ok(unix) = SocketAddrUnix::try_from(name.clone()) {
        let path = match (unix.path(), unix.abstract_name()) {
            (Some(path), _) => path.to_bytes().into(),
            (None, Some(name)) => [&[0], name].concat().into(),
            (None, None) => Box::default(),
        };
        return Ok(LocalAddress::Unix(path));
    }
    Ok(LocalAddress::Ip(SocketAddr::try_from(name)?))
}
