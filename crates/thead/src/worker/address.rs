//! Where a program listens.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use thead_wire::cluster::{AddressType, MAX_ADDRESS, Query};

use crate::sys::listen;

/// An address of a TCP, UDP or Unix socket.
///
/// As text (`"127.0.0.1:3000".parse()`, and wherever an address is asked for) it is, whichever fits first:
///
/// | text | is |
/// | --- | --- |
/// | `@name`, or the name after a NUL as in Node | an abstract Unix socket, which has no file |
/// | with a slash: `/run/app.sock`, `./app.sock` | a Unix socket |
/// | `3000`, `:3000` | the port, on every address of the machine |
/// | `127.0.0.1:3000`, `[::1]:3000`, `[fe80::1%eth0]:3000` | an IP address and a port |
/// | `localhost:3000` | a name, which is looked up, and a port |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port; 0 is one of the system's choosing.
    Ip(SocketAddr),
    /// Every address of the machine: `::` with IPv4 too, or `0.0.0.0` where there is no IPv6. For UDP `0.0.0.0`.
    Any(u16),
    /// A name, whose first address is meant, or an IPv6 address with its interface; and a port.
    Host(String, u16),
    /// A Unix socket with a file.
    Path(PathBuf),
    /// A Unix socket with this name, and no file. Without the NUL that the kernel has before it.
    Abstract(Vec<u8>),
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It has no port, or one that is no number up to 65535. Node: `ERR_SOCKET_BAD_PORT`.
    #[error("{0:?} has no port from 0 to 65535")]
    Port(String),
    /// An IPv6 address stands in brackets. Node: `ERR_INVALID_ARG_VALUE`.
    #[error("{0:?} is neither host:port nor [IPv6]:port; a path has a slash")]
    Host(String),
}

impl From<Infallible> for AddressError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(name) = text.strip_prefix(['@', '\0']) {
            return Ok(Self::Abstract(name.into()));
        }
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = match port.bytes().all(|byte| byte.is_ascii_digit()) {
            true => port.parse().ok(),
            false => None,
        };
        let port = port.ok_or_else(|| AddressError::Port(text.into()))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if bare.is_some() != host.contains(':') || host.contains(['[', ']']) {
            return Err(AddressError::Host(text.into()));
        }
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Self::Ip((ip, port).into()),
            Err(_) if host.is_empty() => Self::Any(port),
            Err(_) => Self::Host(host.into(), port),
        })
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<u16> for Address {
    fn from(port: u16) -> Self {
        Self::Any(port)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Path(path.into())
    }
}

/// As it is read; a NUL cannot be in it, so abstract names begin with `@`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Any(port) => write!(f, ":{port}"),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl Address {
    /// What a socket is bound to.
    pub(super) fn of(socket: impl AsFd) -> io::Result<Self> {
        let name = rustix::net::getsockname(socket)?;
        let Ok(unix) = SocketAddrUnix::try_from(name.clone()) else {
            return Ok(Self::Ip(SocketAddr::try_from(name)?));
        };
        Ok(match unix.abstract_name() {
            Some(name) => Self::Abstract(name.into()),
            None => Self::Path(OsStr::from_bytes(unix.path_bytes().unwrap_or_default()).into()),
        })
    }

    /// Looks its name up.
    pub(super) async fn place(&self) -> io::Result<Place> {
        Ok(match self {
            Self::Ip(address) => Place::Ip(*address),
            Self::Any(port) => Place::Any(*port),
            Self::Path(path) => Place::Path(path.clone()),
            Self::Abstract(name) => Place::Abstract(name.clone()),
            Self::Host(host, port) => match listen::numeric_address(host, *port) {
                Ok(address) => Place::Ip(address),
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                Err(_) => {
                    let mut found = tokio::net::lookup_host((&**host, *port)).await?;
                    Place::Ip(found.next().ok_or(io::ErrorKind::NotFound)?)
                }
            },
        })
    }
}

/// An [`Address`] whose name has been looked up.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Ip(SocketAddr),
    Any(u16),
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl Place {
    /// Whether a socket that is bound to this address is there.
    pub(super) fn is(&self, bound: &Address) -> bool {
        match (self, bound) {
            (Self::Ip(ours), Address::Ip(bound)) => ours == bound,
            (Self::Any(port), Address::Ip(bound)) => bound.ip().is_unspecified() && bound.port() == *port,
            (Self::Path(ours), Address::Path(bound)) => std::path::absolute(ours).is_ok_and(|ours| ours == *bound),
            (Self::Abstract(ours), Address::Abstract(bound)) => ours == bound,
            _ => false,
        }
    }

    /// The address of a socket that somebody else has bound here, as far as this says it.
    pub(super) fn address(self) -> Address {
        match self {
            Self::Ip(address) => Address::Ip(address),
            Self::Any(port) => Address::Ip((Ipv4Addr::UNSPECIFIED, port).into()),
            Self::Path(path) => Address::Path(path),
            Self::Abstract(name) => Address::Abstract(name),
        }
    }

    /// Where a UDP socket is to be bound.
    pub(super) fn udp(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Ip(address) => Ok(*address),
            Self::Any(port) => Ok((Ipv4Addr::UNSPECIFIED, *port).into()),
            Self::Path(_) | Self::Abstract(_) => Err(Errno::AFNOSUPPORT.into()),
        }
    }

    /// What a primary is asked for, without its options.
    ///
    /// Node: `lib/net.js`, listenInCluster. An abstract name goes as it is, whichever directory is whose.
    pub(super) fn query(&self) -> io::Result<Query> {
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) if text.len() <= MAX_ADDRESS => Ok(Some(text.into())),
            // A message cannot say it.
            _ => Err(io::Error::from(Errno::INVAL)),
        };
        let (address, port, address_type) = match self {
            Self::Ip(address) => {
                let kind = match address.is_ipv6() {
                    true => AddressType::Ipv6,
                    false => AddressType::Ipv4,
                };
                let text = listen::address_text(*address)?;
                (Some(text.into()), address.port().into(), kind)
            }
            Self::Any(port) => (None, i32::from(*port), AddressType::Ipv4),
            Self::Path(path) => {
                let absolute = std::path::absolute(path).map_err(|_| Errno::INVAL)?;
                (text(absolute.into_os_string().into_vec())?, -1, AddressType::Unix)
            }
            Self::Abstract(name) => (text([b"\0", &**name].concat())?, -1, AddressType::Unix),
        };
        Ok(Query {
            address,
            port: Some(port),
            address_type: Some(address_type),
            ..Query::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_address_is_what_its_text_says() {
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        for (text, address, again) in [
            ("127.0.0.1:3000", ip("127.0.0.1:3000"), "127.0.0.1:3000"),
            ("[::1]:0", ip("[::1]:0"), "[::1]:0"),
            (
                "[fe80::1%lo]:80",
                Address::Host("fe80::1%lo".into(), 80),
                "[fe80::1%lo]:80",
            ),
            (
                "localhost:65535",
                Address::Host("localhost".into(), 65535),
                "localhost:65535",
            ),
            ("3000", Address::Any(3000), ":3000"),
            (":3000", Address::Any(3000), ":3000"),
            ("/run/a:1", Address::Path("/run/a:1".into()), "/run/a:1"),
            ("./a", Address::Path("./a".into()), "./a"),
            ("@a/b:1", Address::Abstract(b"a/b:1".into()), "@a/b:1"),
            ("\0a", Address::Abstract(b"a".into()), "@a"),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text:?}");
            assert_eq!(address.to_string(), again);
            assert_eq!(again.parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_said_to_be_none() {
        for text in [
            "",
            "localhost",
            "localhost:",
            "localhost:65536",
            "a:+1",
            "1 ",
            "[::1]",
            "-1",
        ] {
            assert_eq!(
                text.parse::<Address>(),
                Err(AddressError::Port(text.into())),
                "{text:?}"
            );
        }
        for text in ["::1:80", "[::1:80", "::1]:80", "[a]:80", "[]:80", "[[::1]]:80"] {
            assert_eq!(
                text.parse::<Address>(),
                Err(AddressError::Host(text.into())),
                "{text:?}"
            );
        }
    }
}
