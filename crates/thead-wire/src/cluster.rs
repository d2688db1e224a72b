//! The messages between a cluster primary and its workers: typed, both directions, parsed and printed.
//!
//! Every message is an object with `cmd: "NODE_CLUSTER"` and a number `seq`, and either an `act` or an `ack` (the `seq` of
//! the request that it answers). Node: lib/internal/cluster/{child,primary,utils}.js, versions 18 to 26, which agree in
//! everything here but the text of keys.
//!
//! Bytes are the body of one `json` frame; for `advanced` the same message goes through a [`Value`], where `undefined`,
//! `null` and a missing field are alike. Two messages come and go for each connection and have a short way without a
//! [`Value`]: the answer to an offer ([`FromWorker::Accepted`]) and the offer ([`ToWorker::NewConn`]).

use std::sync::Arc;

use serde_json::Value;

mod field;
mod from_worker;
mod to_worker;

pub use field::ClusterMessageError;

/// What all cluster messages carry in `cmd`.
pub const CLUSTER: &str = "NODE_CLUSTER";

/// The longest message that is looked at, in bytes. Real ones have a path and a pair of ticket keys at most; the limit is what
/// keeps a hostile frame of 16 MiB from being parsed into a tree of a hundred.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The longest `address` of a query, in bytes: a path, or a working directory before an abstract name.
pub const MAX_ADDRESS: usize = 8 * 1024;

/// The longest `key`, in bytes: an address and what Node's primary appends to it, even when each byte of it was escaped.
pub const MAX_KEY: usize = MAX_ADDRESS + 128;

/// The longest `data` of a query, in bytes of JSON; TLS servers send 115.
pub const MAX_DATA: usize = 4 * 1024;

/// A message with its number.
///
/// Each end counts what it sends from 0. A reply names the number of its request, so 0 is as real as any other. `None` is
/// Bun, whose `listening` has no number; such a message cannot be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<M> {
    /// The sender's number of this message, at most 2^53 - 1.
    pub seq: Option<u64>,
    /// What it says.
    pub message: M,
}

/// What a worker says to its primary.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// The runtime is up; sent before any code of the application ran, so it says nothing of readiness.
    Online,
    /// The worker wants a listener. The reply is [`ToWorker::RoundRobin`], [`ToWorker::Shared`] or [`ToWorker::Refused`].
    QueryServer(Box<Query>),
    /// A server emitted `listening`. The fields of its query again, `port` being the real one when known.
    Listening(Box<Query>),
    /// The worker closed the server that holds this key.
    Close {
        /// The key from the primary's reply.
        key: Box<str>,
    },
    /// The worker leaves of its own will, and waits for [`ToWorker::Ack`] before it closes the channel.
    ExitedAfterDisconnect,
    /// The answer to [`ToWorker::NewConn`], written before the application hears of the connection.
    Accepted {
        /// The number of the offer.
        ack: u64,
        /// Whether the worker took the connection; if not, it closed its copy.
        accepted: bool,
    },
    /// An `act` that is none of these. Node's primary ignores it.
    Unknown {
        /// The beginning of its name.
        act: Box<str>,
    },
}

/// What a primary says to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// The listener is the primary's: wait for [`ToWorker::NewConn`] with this key. Never with a descriptor.
    RoundRobin {
        /// The number of the query.
        ack: u64,
        /// What names this listener in `newconn` and `close`. Differs from all that the worker still holds.
        key: Arc<str>,
        /// The `data` that the first worker sent for this listener.
        data: Arc<Value>,
        /// The address bound; `None` for Unix sockets. A port that was asked for must come back, or the worker reports
        /// `EADDRINUSE`.
        sockname: Option<Box<Sockname>>,
    },
    /// The socket itself comes with this message: listen on it.
    ///
    /// A worker should trust the descriptor and not the word: success without a descriptor is round robin whatever `errno`
    /// says, and only `errno: null` is parsed as [`ToWorker::RoundRobin`].
    Shared {
        /// The number of the query.
        ack: u64,
        /// What names this listener in `close`.
        key: Arc<str>,
        /// The `data` that the first worker sent for this listener.
        data: Arc<Value>,
    },
    /// The listener could not be had.
    Refused {
        /// The number of the query.
        ack: u64,
        /// The key it would have had; ignored by workers.
        key: Arc<str>,
        /// The reason, always negative: anything else makes Node throw inside the runtime.
        errno: i32,
    },
    /// A connection, whose descriptor comes with this message. Answered by [`FromWorker::Accepted`].
    NewConn {
        /// The key of the listener that it came from.
        key: Arc<str>,
        /// Another worker has served it before, and waits for the next request. Only thead says so, and its preload looks
        /// at it; Node ignores the field.
        idle: bool,
    },
    /// Close all servers, finish the connections, close the channel. To be sent once: a second one makes Node drop the channel
    /// under its last connections.
    Disconnect,
    /// The answer to [`FromWorker::ExitedAfterDisconnect`].
    Ack {
        /// The number of the request.
        ack: u64,
    },
    /// An `act` that is none of these. Workers ignore it.
    Unknown {
        /// The beginning of its name.
        act: Box<str>,
    },
}

/// The listener that a worker asks for, as it says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Counts the queries of this worker for the same (address, port, address type, fd); not given back after a failure.
    pub index: u32,
    /// Opaque; `Null`, or the ticket keys of a TLS server. At most [`MAX_DATA`].
    pub data: Arc<Value>,
    /// A numeric IP, an absolute path, or `None` for any address and for descriptors. At most [`MAX_ADDRESS`] bytes.
    pub address: Option<Box<str>>,
    /// 0 to 65535; -1 for Unix sockets, `None` for descriptors.
    pub port: Option<i32>,
    /// `None` for descriptors of TCP.
    pub address_type: Option<AddressType>,
    /// A descriptor *of the primary*. `None` for other TCP, -1 for other UDP.
    pub fd: Option<i32>,
    /// TCP: 1 is IPv6 only. UDP: 1 is IPv6 only, 4 is reuse address. See [`Query::IPV6_ONLY`].
    pub flags: Option<u32>,
    /// As sent; see [`Query::backlog`].
    pub backlog: Option<Backlog>,
    /// Unix sockets: everybody may read.
    pub readable_all: Option<bool>,
    /// Unix sockets: everybody may write.
    pub writable_all: Option<bool>,
}

impl Query {
    /// The flag for sockets that take no IPv4, in TCP and UDP.
    pub const IPV6_ONLY: u32 = 1;
    /// The flag for `SO_REUSEADDR`, in UDP only.
    pub const REUSE_ADDRESS: u32 = 4;
    /// What Node listens with when nothing, 0 or `false` was said.
    pub const DEFAULT_BACKLOG: i32 = 511;

    /// The backlog that is meant: negative means the kernel's maximum.
    pub fn backlog(&self) -> i32 {
        match self.backlog {
            None | Some(Backlog::False | Backlog::Length(0)) => Self::DEFAULT_BACKLOG,
            Some(Backlog::Length(length)) => length,
        }
    }

    /// Whether this flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags.unwrap_or(0) & flag != 0
    }
}

/// The kind of address that a query has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// `4`, also when any address will do.
    Ipv4,
    /// `6`.
    Ipv6,
    /// `-1`: a path.
    Unix,
    /// `"udp4"`.
    Udp4,
    /// `"udp6"`.
    Udp6,
}

/// The backlog of a query as Node sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// `false`: the second argument of `listen` was its callback.
    False,
    /// A number; 0 is the default.
    Length(i32),
}

/// A bound address as Node prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockname {
    /// The numeric IP.
    pub address: Box<str>,
    /// Whether `family` is `IPv6` (else `IPv4`).
    pub ipv6: bool,
    /// The port.
    pub port: u16,
}
