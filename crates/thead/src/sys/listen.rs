//! Making listeners as a Node primary makes them, and accepting from them.
//!
//! Every socket is close-on-exec and *non-blocking*: a blocking listener hangs Node 18 in `accept`, a blocking connection
//! stalls a whole worker. Binding and listening are apart, because a shared listener is bound by the primary and listened
//! on by the workers. Errors are `io::Error`s with a number; [`super::errno::negative`] makes them fit for a reply.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{SocketFlags, netdevice};
use socket2::{Domain, SockAddr, Socket, Type};

/// The backlog that Node asks for when none was named, or 0, or `false`.
pub const DEFAULT_BACKLOG: i32 = 511;

/// Options of a TCP listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// An IPv6 listener takes IPv6 only (bit 0 of the protocol's `flags`). Always set explicitly, whatever the system's
    /// default is.
    pub v6_only: bool,
    /// SO_REUSEPORT; see [`super::lane`].
    pub reuse_port: bool,
}

/// Options of a UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// As [`TcpOptions::v6_only`]; 1 in the protocol's `flags`.
    pub v6_only: bool,
    /// SO_REUSEADDR; 4 in the protocol's `flags`.
    pub reuse_address: bool,
}

/// Binds a TCP socket to this address. SO_REUSEADDR is on.
///
/// # Errors
/// `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `EAFNOSUPPORT`, `EMFILE`.
pub fn bind_tcp(address: SocketAddr, options: TcpOptions) -> io::Result<OwnedFd> {
    let socket = new_socket(Domain::for_address(address), Type::STREAM)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Binds a TCP socket to every address: `::` for both families, or `0.0.0.0` where there is no IPv6.
///
/// Node: `lib/net.js`, a `listen()` without a host. A port in use is an error at once, no reason to fall back.
///
/// # Errors
/// As [`bind_tcp`].
pub fn bind_tcp_any(port: u16, options: TcpOptions) -> io::Result<OwnedFd> {
    match bind_tcp((Ipv6Addr::UNSPECIFIED, port).into(), options) {
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::EADDRINUSE | libc::EMFILE | libc::ENFILE)
            ) =>
        {
            bind_tcp((Ipv4Addr::UNSPECIFIED, port).into(), options)
        }
        other => other,
    }
}

/// Binds a UDP socket.
///
/// # Errors
/// As [`bind_tcp`].
pub fn bind_udp(address: SocketAddr, options: UdpOptions) -> io::Result<OwnedFd> {
    let socket = new_socket(Domain::for_address(address), Type::DGRAM)?;
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Starts listening. May be repeated to change the backlog; 0 means [`DEFAULT_BACKLOG`], and the system has a ceiling
/// (`net.core.somaxconn`).
///
/// # Errors
/// `EADDRINUSE` when another socket listens there; the kernel tells two SO_REUSEADDR sockets apart only here.
pub fn listen(socket: impl AsFd, backlog: i32) -> io::Result<()> {
    let backlog = if backlog == 0 { DEFAULT_BACKLOG } else { backlog };
    Ok(rustix::net::listen(socket, backlog)?)
}

/// Reads a numeric address as it comes in a message: IPv4, IPv6, IPv6 with `%interface`.
///
/// # Errors
/// `EINVAL` for anything else, names too; `ENODEV` for an unknown interface.
pub fn numeric_address(text: &str, port: u16) -> io::Result<SocketAddr> {
    let (ip, interface) = match text.split_once('%') {
        Some((ip, interface)) => (ip, Some(interface)),
        None => (text, None),
    };
    match (ip.parse(), interface) {
        (Ok(IpAddr::V6(ip)), Some(interface)) => {
            let scope = match interface.parse() {
                Ok(index) => index,
                Err(_) => netdevice::name_to_index(new_socket(Domain::IPV6, Type::DGRAM)?, interface)?,
            };
            Ok(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        (Ok(ip), None) => Ok((ip, port).into()),
        _ => Err(Errno::INVAL.into()),
    }
}

/// Writes an address without its port as [`numeric_address`] reads it: with `%interface` if it is link-local.
///
/// # Errors
/// `ENODEV` for an unknown interface.
pub fn address_text(address: SocketAddr) -> io::Result<String> {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() != 0 => {
            let name = netdevice::index_to_name(new_socket(Domain::IPV6, Type::DGRAM)?, v6.scope_id())?;
            Ok(format!("{}%{name}", v6.ip()))
        }
        _ => Ok(address.ip().to_string()),
    }
}

/// What a socket is bound to, in the words of the cluster protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The numeric address, with `%interface` if it is link-local.
    pub address: String,
    /// `"IPv4"` or `"IPv6"`.
    pub family: &'static str,
    /// The port.
    pub port: u16,
}

/// Reads the address an Internet socket is bound to; `None` for a Unix socket.
///
/// # Errors
/// `ENOTSOCK`.
pub fn local_address(socket: impl AsFd) -> io::Result<Option<LocalAddress>> {
    let socket = socket.as_fd();
    let name = rustix::net::getsockname(socket)?;
    let Ok(address) = SocketAddr::try_from(name) else {
        return Ok(None);
    };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    Ok(Some(LocalAddress {
        address: address_text(address)?,
        family,
        port: address.port(),
    }))
}

/// Who may connect to a Unix socket besides its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixOptions {
    /// Everybody may read (`readableAll`).
    pub readable_all: bool,
    /// Everybody may write (`writableAll`), and with it connect.
    pub writable_all: bool,
}

/// A bound Unix socket, and the file to remove when it is closed.
#[derive(Debug)]
pub struct UnixListener {
    /// The socket.
    pub socket: OwnedFd,
    /// Its file; `None` for an abstract name.
    pub file: Option<SocketFile>,
}

/// Binds a Unix stream socket.
///
/// A path is used relative to the working directory if that is shorter, for a socket's path has 107 bytes at most. An
/// address with a NUL in it is an abstract name, from the NUL on: Node workers put their working directory in front of it.
///
/// # Errors
/// `EADDRINUSE` when the file exists, in use or not; `EACCES` for a missing directory too, as Node reports it
/// (`uv_pipe_bind`); `EINVAL` for a path that is too long.
pub fn bind_unix(address: &Path, options: UnixOptions) -> io::Result<UnixListener> {
    let bytes = address.as_os_str().as_bytes();
    let socket = new_socket(Domain::UNIX, Type::STREAM)?;
    if let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        socket.bind(&unix_address(Path::new(OsStr::from_bytes(&bytes[nul..])))?)?;
        return Ok(UnixListener {
            socket: socket.into(),
            file: None,
        });
    }
    let absolute = std::path::absolute(address).map_err(|_| Errno::INVAL)?;
    let shortest = shortest(&absolute);
    socket
        .bind(&unix_address(&shortest)?)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => Errno::ACCESS.into(),
            _ => error,
        })?;
    let file = SocketFile::new(absolute)?;
    open_to(&file.path, options)?;
    Ok(UnixListener {
        socket: socket.into(),
        file: Some(file),
    })
}

/// Lets everybody in whom the options name.
///
/// # Errors
/// As `chmod(2)`.
pub fn open_to(path: &Path, options: UnixOptions) -> io::Result<()> {
    let wanted = if options.readable_all { 0o444 } else { 0 } | if options.writable_all { 0o222 } else { 0 };
    if wanted != 0 {
        let mode = std::fs::metadata(path)?.permissions().mode();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | wanted))?;
    }
    Ok(())
}

fn unix_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| Errno::INVAL.into())
}

/// The path, or the way to it from the working directory, whichever is shorter.
///
/// Node: `lib/internal/cluster/primary.js`, queryServer.
fn shortest(absolute: &Path) -> Cow<'_, Path> {
    let Ok(here) = std::env::current_dir() else {
        return Cow::Borrowed(absolute);
    };
    let shared = here
        .components()
        .zip(absolute.components())
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    let ups = here.components().skip(shared).map(|_| Component::ParentDir);
    let relative: PathBuf = ups.chain(absolute.components().skip(shared)).collect();
    let empty = relative.as_os_str().is_empty();
    if !empty && relative.as_os_str().len() < absolute.as_os_str().len() {
        Cow::Owned(relative)
    } else {
        Cow::Borrowed(absolute)
    }
}

/// The file of a bound Unix socket. Dropping it removes the file, unless another socket has taken its place.
#[derive(Debug)]
#[must_use = "dropping it removes the socket's file"]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<SocketFile> {
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(SocketFile {
            path,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file where it is: somebody else serves the socket now.
    pub fn keep(mut self) -> PathBuf {
        self.identity = (0, 0);
        std::mem::take(&mut self.path)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if still_ours {
            // Nobody to tell: a file that cannot be removed is the next bind's EADDRINUSE.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes one waiting connection, non-blocking and close-on-exec. One that was given up meanwhile is skipped.
///
/// # Errors
/// `EAGAIN` when nobody waits; `EMFILE` and `ENFILE` without a descriptor to take it with, see [`SpareDescriptor`].
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let listener = listener.as_fd();
    loop {
        match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            other => return Ok(other?),
        }
    }
}

/// One descriptor in reserve, for the moment when there is no other.
///
/// A connection that cannot be accepted keeps its listener readable for ever, and its client waiting. Giving up the spare
/// lets us accept it and close it, so that the client knows.
#[derive(Debug)]
pub struct SpareDescriptor {
    spare: Option<OwnedFd>,
}

impl SpareDescriptor {
    /// Sets one aside.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> io::Result<SpareDescriptor> {
        Ok(SpareDescriptor {
            spare: Some(open_null()?),
        })
    }

    /// Accepts one connection and closes it at once; `false` when nobody waits or there was no spare.
    ///
    /// # Errors
    /// As [`accept`].
    pub fn refuse_one(&mut self, listener: impl AsFd) -> io::Result<bool> {
        self.spare = None;
        let refused = match accept(listener) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE)) => Ok(false),
            Err(error) => Err(error),
        };
        // Another thread may have taken the number; the next call then has no spare, and says so.
        self.spare = open_null().ok();
        refused
    }
}

fn open_null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

fn new_socket(domain: Domain, kind: Type) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking().cloexec(), None)
}
