//! The sockets of one listener over which the kernel spreads connections: one for each worker.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use thead_core::id::LaneId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::channel::Handle;
use crate::sys::{lane, reactor};

/// All lanes of a listener. None is closed before all are: connections may be on their way to it, and the kernel counts them.
#[derive(Debug)]
pub(super) struct Lanes {
    /// In the kernel's order.
    sockets: Vec<Socket>,
    /// Which socket each lane is.
    of: HashMap<LaneId, usize>,
    /// Sockets that are lanes; those behind them are to be.
    used: usize,
    backlog: i32,
}

#[derive(Debug)]
struct Socket {
    handle: Handle,
    /// Set while the primary accepts from it. Not watched otherwise: being woken for each connection is what lanes spare us.
    accept: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Socket {
    fn new(handle: Handle) -> io::Result<Self> {
        let mut socket = Self { handle, accept: None };
        socket.watch()?;
        Ok(socket)
    }

    fn watch(&mut self) -> io::Result<()> {
        if self.accept.is_none() {
            self.accept = Some(reactor::register(self.handle.fd.clone(), Interest::READABLE)?);
        }
        Ok(())
    }
}

impl Lanes {
    /// `first` listens.
    pub(super) fn new(first: Handle, backlog: i32) -> io::Result<Self> {
        let mut lanes = Self {
            sockets: vec![Socket::new(first)?],
            of: HashMap::new(),
            used: 0,
            backlog,
        };
        // The kernel takes no program for a socket that is alone, and once it has one, a new socket gets no connection before
        // its worker is proven.
        lanes.add()?;
        lanes.choose(&[0]);
        Ok(lanes)
    }

    fn add(&mut self) -> io::Result<()> {
        let socket = lane::beside(&self.sockets[0].handle, self.backlog)?;
        self.sockets.push(Socket::new(socket.into())?);
        Ok(())
    }

    /// The socket of a lane, made if there is none yet. Where none can be made (no descriptor is left), it is the first one,
    /// of which two workers accept then.
    pub(super) fn get(&mut self, id: LaneId) -> Handle {
        let at = match self.of.get(&id) {
            Some(at) => *at,
            None => {
                let at = self.unused().unwrap_or_else(|error| {
                    tracing::warn!(%error, "two workers accept from one socket");
                    0
                });
                self.of.insert(id, at);
                at
            }
        };
        self.sockets[at].handle.clone()
    }

    /// A socket that is no lane yet.
    fn unused(&mut self) -> io::Result<usize> {
        if self.used == self.sockets.len() {
            self.add()?;
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    /// Lets the kernel give new connections to these lanes only; from all others we accept from now on.
    pub(super) fn steer(&mut self, lanes: &[LaneId]) {
        let mut chosen: Vec<usize> = lanes.iter().filter_map(|lane| self.of.get(lane).copied()).collect();
        chosen.sort_unstable();
        chosen.dedup();
        if !chosen.is_empty() {
            self.choose(&chosen);
        }
        for (at, socket) in self.sockets.iter_mut().enumerate() {
            if chosen.binary_search(&at).is_ok() {
                socket.accept = None;
            } else if let Err(error) = socket.watch() {
                tracing::warn!(%error, "connections wait until their socket has a worker again");
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are not so many descriptors")]
    fn choose(&self, sockets: &[usize]) {
        let numbers: Vec<u32> = sockets.iter().map(|at| *at as u32).collect();
        if let Err(error) = lane::steer(&self.sockets[0].handle, &numbers) {
            tracing::warn!(%error, "the kernel gives connections to all sockets, and we pass on those that no worker accepts");
        }
    }

    /// Those that the primary accepts from.
    pub(super) fn watched(&self) -> impl Iterator<Item = &AsyncFd<Arc<OwnedFd>>> {
        self.sockets.iter().filter_map(|socket| socket.accept.as_ref())
    }

    /// All of them.
    pub(super) fn sockets(&self) -> impl Iterator<Item = impl AsFd> {
        self.sockets.iter().map(|socket| &socket.handle)
    }
}
