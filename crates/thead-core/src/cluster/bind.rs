//! What a worker asks for, as something that can be bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thead_wire::cluster::{AddressType, Query};

use super::{LocalAddress, Scheduling};

/// A socket to make.
///
/// Node: lib/internal/cluster/round_robin_handle.js and shared_handle.js, lib/net.js `createServerHandle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindSpec {
    /// A TCP listener, with `SO_REUSEADDR`.
    Tcp {
        /// Where.
        host: Host,
        /// 0 for any.
        port: u16,
        /// `IPV6_V6ONLY`, to be set or cleared explicitly on IPv6.
        v6_only: bool,
        /// Of `listen`; negative is the kernel's maximum.
        backlog: i32,
    },
    /// A UDP socket. Always shared: bound here, read by the workers.
    Udp {
        /// Where.
        host: Host,
        /// 0 for any.
        port: u16,
        /// `IPV6_V6ONLY`, to be set or cleared explicitly on IPv6.
        v6_only: bool,
        /// `SO_REUSEADDR`.
        reuse_address: bool,
    },
    /// A Unix stream listener.
    Unix {
        /// An absolute path, to be made relative where that is shorter; or an abstract name, which begins with NUL.
        path: Box<str>,
        /// Of `listen`; negative is the kernel's maximum.
        backlog: i32,
        /// Everybody may read: `chmod` after `bind`.
        readable_all: bool,
        /// Everybody may write.
        writable_all: bool,
    },
    /// A descriptor that workers know by a number.
    ///
    /// To be looked up in a private table of what the operator passed in, and refused with `EBADF` if it is not there: the
    /// number is a worker's word and must never reach a descriptor of the primary itself. [`Action::Unbind`] then drops the
    /// listener's copy, not the entry of the table.
    ///
    /// [`Action::Unbind`]: super::Action::Unbind
    Fd {
        /// The number.
        fd: i32,
        /// Whether it has to be UDP; else a stream listener, TCP or Unix.
        udp: bool,
        /// Of `listen`; negative is the kernel's maximum.
        backlog: i32,
    },
}

/// Where to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// No host was given: `::` with IPv4 too, or `0.0.0.0` where there is no IPv6.
    Any,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, perhaps with the zone after its `%`.
    V6(Ipv6Addr, Option<Box<str>>),
}

impl Host {
    /// The address without its zone; `None` if any will do.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Any => None,
            Self::V4(ip) => Some((*ip).into()),
            Self::V6(ip, _) => Some((*ip).into()),
        }
    }
}

/// Not permitted: the service is stopping.
pub(super) const EPERM: i32 = -1;
const ENOENT: i32 = -2;
const EACCES: i32 = -13;
const EINVAL: i32 = -22;
/// Too many listeners.
pub(super) const EMFILE: i32 = -24;

impl BindSpec {
    /// What this query asks for, or the errno where it asks for nothing that can be.
    pub(super) fn of(query: &Query) -> Result<Self, i32> {
        let backlog = query.backlog();
        let v6_only = query.has(Query::IPV6_ONLY);
        let udp = matches!(query.address_type, Some(AddressType::Udp4 | AddressType::Udp6));
        if let Some(fd) = query.fd.filter(|fd| *fd >= 0) {
            return Ok(Self::Fd { fd, udp, backlog });
        }
        let Some(address_type) = query.address_type else {
            return Err(EINVAL);
        };
        if address_type == AddressType::Unix {
            let path = identity_address(query)
                .filter(|path| path.starts_with(['/', '\0']))
                .ok_or(EINVAL)?;
            return Ok(Self::Unix {
                path: path.into(),
                backlog,
                readable_all: query.readable_all.unwrap_or(false),
                writable_all: query.writable_all.unwrap_or(false),
            });
        }
        let port = query.port.and_then(|port| u16::try_from(port).ok()).ok_or(EINVAL)?;
        let host = Host::of(query.address.as_deref(), address_type).ok_or(EINVAL)?;
        Ok(if udp {
            Self::Udp {
                host,
                port,
                v6_only,
                reuse_address: query.has(Query::REUSE_ADDRESS),
            }
        } else {
            Self::Tcp {
                host,
                port,
                v6_only,
                backlog,
            }
        })
    }

    /// Who accepts here when the service is scheduled like this.
    pub(super) fn scheduling(&self, wanted: Scheduling) -> Scheduling {
        match (wanted, self) {
            _ if self.is_udp() => Scheduling::Shared,
            // There is no SO_REUSEPORT for Unix sockets that would spread connections, and none that can be added to a socket
            // which others have bound.
            (Scheduling::Kernel, Self::Unix { .. } | Self::Fd { .. }) => Scheduling::RoundRobin,
            _ => wanted,
        }
    }

    pub(super) fn is_udp(&self) -> bool {
        matches!(self, Self::Udp { .. } | Self::Fd { udp: true, .. })
    }

    /// The errno that a worker is told when binding failed with this one.
    ///
    /// Node: a missing directory is `EACCES` for pipes (libuv's `uv_pipe_bind`, on purpose as on Windows). Anything but a
    /// negative number would make the worker throw inside its runtime.
    pub(super) fn errno(&self, errno: i32) -> i32 {
        match (errno, self) {
            (ENOENT, Self::Unix { .. }) => EACCES,
            (..0, _) => errno,
            (0.., _) => EINVAL,
        }
    }
}

impl Host {
    fn of(address: Option<&str>, address_type: AddressType) -> Option<Self> {
        let v4 = matches!(address_type, AddressType::Ipv4 | AddressType::Udp4);
        let Some(address) = address else {
            return Some(match address_type {
                AddressType::Udp4 => Self::V4(Ipv4Addr::UNSPECIFIED),
                AddressType::Udp6 => Self::V6(Ipv6Addr::UNSPECIFIED, None),
                _ => Self::Any,
            });
        };
        if v4 {
            return address.parse().ok().map(Self::V4);
        }
        match address.split_once('%') {
            None => Some(Self::V6(address.parse().ok()?, None)),
            Some((_, "")) => None,
            Some((ip, zone)) => Some(Self::V6(ip.parse().ok()?, Some(zone.into()))),
        }
    }
}

/// The address of a query as far as it names a listener.
///
/// Workers resolve an abstract name like a path, `<working directory>/<NUL><name>`; the part from the NUL on is what is meant.
fn identity_address(query: &Query) -> Option<&str> {
    let address = query.address.as_deref()?;
    match address.find('\0') {
        Some(nul) if query.address_type == Some(AddressType::Unix) => Some(&address[nul..]),
        _ => Some(address),
    }
}

/// What a listener is known by: address, port, address type and descriptor, and the index for port 0.
///
/// Node: lib/internal/cluster/primary.js `queryServer`, as since version 22. `Differs from Node` 18 and 20, which append the
/// index always: there, a worker that succeeded at its third attempt does not share with one that succeeds at its first.
pub(super) fn key(query: &Query) -> String {
    let mut key = String::with_capacity(48);
    key.push_str(identity_address(query).unwrap_or("null"));
    let address_type = match query.address_type {
        None => "null",
        Some(AddressType::Ipv4) => "4",
        Some(AddressType::Ipv6) => "6",
        Some(AddressType::Unix) => "-1",
        Some(AddressType::Udp4) => "udp4",
        Some(AddressType::Udp6) => "udp6",
    };
    let number = |number: Option<i32>, none: &str| number.map_or_else(|| none.to_owned(), |number| number.to_string());
    for part in [
        &number(query.port, "null"),
        address_type,
        &number(query.fd, "undefined"),
    ] {
        key.push(':');
        key.push_str(part);
    }
    if query.port == Some(0) {
        key.push(':');
        key.push_str(&query.index.to_string());
    }
    key
}

/// See [`Listener::fits`](super::listener::Listener::fits).
pub(super) fn fits(local: &LocalAddress, spec: &BindSpec, conn: &LocalAddress) -> u8 {
    match (local, conn) {
        (LocalAddress::Unix(local), LocalAddress::Unix(conn)) => 2 * u8::from(local == conn),
        (LocalAddress::Ip(local), LocalAddress::Ip(conn)) if local.port() == conn.port() => {
            // A connection over IPv4 to an IPv6 socket has a mapped address.
            let ip = conn.ip().to_canonical();
            match local.ip().to_canonical() {
                same if same == ip => 2,
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => u8::from(ip.is_ipv4()),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                    let v6_only = matches!(spec, BindSpec::Tcp { v6_only: true, .. });
                    u8::from(ip.is_ipv6() || !v6_only)
                }
                _ => 0,
            }
        }
        _ => 0,
    }
}
