//! What a worker asks for, as something that can be bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
