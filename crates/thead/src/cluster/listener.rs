//! The sockets of a cluster: made as the primary decides, accepted from as much as it allows.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType};
use thead_core::cluster::{BindSpec, Host, LocalAddress};
use thead_core::id::ListenerId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::channel::Handle;
use crate::sys::listen::{self, SocketFile, TcpOptions, UdpOptions, UnixOptions};
use crate::sys::reactor;

/// A listening or UDP socket of the primary's.
#[derive(Debug)]
struct Listener {
    /// What workers get of it.
    handle: Handle,
    /// Set where the primary itself accepts.
    accept: Option<AsyncFd<Arc<OwnedFd>>>,
    datagram: bool,
    /// Removed with the listener.
    _file: Option<SocketFile>,
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
    pub(crate) fn inherit(&mut self, number: i32, fd: OwnedFd) {
        self.inherited.insert(number, fd.into());
    }

    /// Makes a socket and says where it is bound, or the negative errno.
    ///
    /// `accept`: the primary accepts; otherwise the workers listen on it themselves.
    pub(crate) fn bind(&mut self, id: ListenerId, spec: &BindSpec, accept: bool) -> Result<LocalAddress, i32> {
        self.try_bind(id, spec, accept)
            .map_err(|error| crate::sys::errno::negative(&error))
    }

    fn try_bind(&mut self, id: ListenerId, spec: &BindSpec, accept: bool) -> io::Result<LocalAddress> {
        let (handle, file, datagram, backlog) = match spec {
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
        let accept = match accept && !datagram {
            true => Some(reactor::register(handle.fd.clone(), Interest::READABLE)?),
            false => None,
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
            let (Some(socket), room) = (&listener.accept, allowed(*id)) else {
                continue;
            };
            let mut room = room;
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
                        break;
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
