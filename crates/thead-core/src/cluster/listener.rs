//! A listener as the primary sees it: bound or being bound, held by workers, with connections that wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use thead_wire::cluster::{Query, Sockname};

use super::divide::Parked;
use super::member::Waiting;
use super::schedule::{Place, Places};
use super::{BindSpec, ListenAddress, LocalAddress, Scheduling, bind};
use crate::id::{ConnId, WorkerId};

/// A socket that the primary owns, from the first query to its end.
///
/// ```text
/// Binding ──Bound(Ok)──► Bound ──closed by the application, or CloseListeners──► (closing) ──nobody holds it──► forgotten
///    └──────Bound(Err)────────────────────────────────────────────────────────────────────────────────────────────┘
/// ```
#[derive(Debug)]
pub(super) struct Listener {
    /// What workers know it by; also its identity.
    pub(super) key: Arc<str>,
    pub(super) asked: ListenAddress,
    index: u32,
    pub(super) spec: BindSpec,
    /// Who accepts, and who gets what was accepted.
    pub(super) scheduling: Scheduling,
    pub(super) state: State,
    /// Unbound, but held or waited for.
    pub(super) closing: bool,
    pub(super) holders: Places,
    /// Holders that have said that they listen.
    pub(super) listening: Places,
    /// Those between whom connections are divided, where that is done by more than having room: see [`Primary::divide`].
    ///
    /// [`Primary::divide`]: super::Primary::divide
    pub(super) divided: Places,
    /// Whose turn it is.
    pub(super) turn: usize,
    /// Connections that came back: rejected, reclaimed, left by a worker that went, or handed back. First in order.
    pub(super) returned: VecDeque<Waiting>,
    /// Connections that nobody has seen.
    pub(super) fresh: VecDeque<ConnId>,
    /// Connections that wait for one worker, in sticky scheduling.
    pub(super) parked: Parked,
    /// Since when nobody holds it.
    pub(super) unheld: Option<Instant>,
    /// Who closed it and is still here.
    pub(super) closers: Vec<WorkerId>,
}

/// Whether there is a socket.
#[derive(Debug)]
pub(super) enum State {
    /// Not yet; these want it, with the number of their query.
    Binding { queries: Vec<(WorkerId, u64)> },
    /// Yes, there.
    Bound { local: LocalAddress },
}

impl Listener {
    pub(super) fn new(key: Arc<str>, asked: ListenAddress, index: u32, spec: BindSpec, scheduling: Scheduling) -> Self {
        Self {
            key,
            asked,
            index,
            spec,
            scheduling,
            state: State::Binding { queries: Vec::new() },
            closing: false,
            holders: Places::default(),
            listening: Places::default(),
            divided: Places::default(),
            turn: 0,
            returned: VecDeque::new(),
            fresh: VecDeque::new(),
            parked: Parked::default(),
            unheld: None,
            closers: Vec::new(),
        }
    }

    pub(super) fn local(&self) -> Option<&LocalAddress> {
        match &self.state {
            State::Bound { local } => Some(local),
            State::Binding { .. } => None,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.returned.len() + self.fresh.len() + self.parked.len()
    }

    pub(super) fn forget_holder(&mut self, place: Place, now: Instant) {
        self.listening.remove(place);
        if self.holders.remove(place) && self.holders.is_empty() {
            self.unheld = Some(now);
        }
    }

    /// What a round-robin worker is told of the address; nothing for Unix sockets.
    ///
    /// The port is the one asked for even if the socket has another (a primary may map ports), else the worker reports
    /// `EADDRINUSE`.
    pub(super) fn sockname(&self) -> Option<Box<Sockname>> {
        let LocalAddress::Ip(local) = self.local()? else {
            return None;
        };
        let port = match self.asked.port.and_then(|port| u16::try_from(port).ok()) {
            None | Some(0) => local.port(),
            Some(port) => port,
        };
        let address = match &self.asked.address {
            // The zone of a link-local address is part of its name, and a socket address has it as a number only.
            Some(address) if address.contains('%') => address.clone(),
            _ => local.ip().to_string().into(),
        };
        Some(Box::new(Sockname {
            address,
            ipv6: local.is_ipv6(),
            port,
        }))
    }

    /// Whether a `listening` with these fields means this listener, whose port was 0 or none.
    pub(super) fn is_meant_by(&self, query: &Query) -> bool {
        let port = match self.local() {
            Some(LocalAddress::Ip(local)) => Some(i32::from(local.port())),
            Some(LocalAddress::Unix(_)) | None => None,
        };
        matches!(self.asked.port, None | Some(0))
            && query.port == port
            && query.index == self.index
            && query.address_type == self.asked.address_type
            && query.address == self.asked.address
            && query.fd == self.asked.fd
    }

    /// How well a connection with this local address fits: 2 exactly, 1 by a wildcard, 0 not at all.
    pub(super) fn fits(&self, conn: &LocalAddress) -> u8 {
        match self.local() {
            Some(local) if !self.spec.is_udp() => bind::fits(local, &self.spec, conn),
            _ => 0,
        }
    }
}
