//! The worker's side of the cluster protocol: what it asks of its primary, and what it does with the answers.
//!
//! Node: `lib/internal/cluster/child.js`; the messages are the same in 18 to 26.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thead_wire::cluster::{AddressType, Envelope, FromWorker, Query, ToWorker};
use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Channel, Handle};
use crate::sys;

/// Connections taken from the primary that may wait to be accepted by the program; beyond them an offer is declined, and
/// goes to another worker.
const WAITING: usize = 128;

/// What the program has of its membership; the [`Member`] itself lives in the task of the channel.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) id: u32,
    pub(crate) requests: mpsc::UnboundedSender<Request>,
    /// Its sender is gone when this worker is to leave, or has no primary any more.
    pub(crate) stay: watch::Receiver<()>,
}

/// What the program asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// A listener at this address.
    Listen(SocketAddr, oneshot::Sender<io::Result<Granted>>),
    /// The listener with this key is closed.
    Close(Arc<str>),
    /// To leave the cluster. Dropped when it has been left.
    Leave(oneshot::Sender<()>),
}

/// A listener of the primary's.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) key: Arc<str>,
    pub(crate) address: SocketAddr,
    /// Connections that the primary has accepted. Ends when this worker is to leave.
    pub(crate) offers: mpsc::Receiver<OwnedFd>,
    /// A listening socket to accept from as well: shared by all workers, or this one's lane.
    pub(crate) socket: Option<OwnedFd>,
}

#[derive(Debug)]
struct Asked {
    query: Box<Query>,
    address: SocketAddr,
    granted: oneshot::Sender<io::Result<Granted>>,
}

/// An open listener.
#[derive(Debug)]
struct Open {
    /// What it was asked for, which numbers the queries.
    address: SocketAddr,
    offers: mpsc::Sender<OwnedFd>,
}

/// How often an address was asked for.
#[derive(Debug, Default)]
struct Count {
    next: u32,
    open: u32,
}

/// On the way out by its own will. A program ends when its listeners do, and Node's primary dies of an answer that it cannot
/// write (`EPIPE`): so what the program has of them is kept until the primary has answered.
#[derive(Debug)]
struct Leave {
    /// The number under which the primary was told.
    seq: u64,
    waiting: Vec<oneshot::Sender<()>>,
    _closed: Vec<Open>,
}

/// This process as a worker of a cluster.
#[derive(Debug)]
pub(crate) struct Member {
    channel: Channel,
    next_seq: u64,
    asked: HashMap<u64, Asked>,
    open: HashMap<Arc<str>, Open>,
    counts: HashMap<SocketAddr, Count>,
    /// Dropped when this worker is to leave.
    stays: Option<watch::Sender<()>>,
    /// Set when it leaves by itself.
    leaves: Option<Leave>,
}

impl Member {
    /// Says to the primary that this worker is there.
    pub(crate) fn join(id: u32, channel: Channel, requests: mpsc::UnboundedSender<Request>) -> (Self, Membership) {
        let (stays, stay) = watch::channel(());
        let mut member = Self {
            channel,
            next_seq: 0,
            asked: HashMap::new(),
            open: HashMap::new(),
            counts: HashMap::new(),
            stays: Some(stays),
            leaves: None,
        };
        member.say(FromWorker::Online);
        (member, Membership { id, requests, stay })
    }

    pub(crate) fn ask(&mut self, request: Request) {
        match request {
            Request::Listen(_, granted) if self.is_leaving() => {
                // Whoever asked may have given up.
                let _ = granted.send(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Request::Listen(address, granted) => {
                let count = self.counts.entry(address).or_default();
                let query = Box::new(query(address, count.next));
                (count.next, count.open) = (count.next + 1, count.open + 1);
                let seq = self.say(FromWorker::QueryServer(query.clone()));
                self.asked.insert(
                    seq,
                    Asked {
                        query,
                        address,
                        granted,
                    },
                );
            }
            Request::Close(key) => drop(self.close(&key)),
            Request::Leave(left) => match &mut self.leaves {
                Some(leave) => leave.waiting.push(left),
                None => {
                    self.leaves = Some(Leave {
                        _closed: self.close_all(),
                        seq: self.say(FromWorker::ExitedAfterDisconnect),
                        waiting: vec![left],
                    });
                }
            },
        }
    }

    pub(crate) fn hear(&mut self, message: Envelope<ToWorker>, handle: Option<Handle>) {
        let handle = handle.and_then(|handle| handle.into_owned().ok());
        match (message.message, handle) {
            (ToWorker::Shared { ack, key, .. }, Some(socket)) => {
                self.answer(ack, &key, |asked| Ok((listen(asked.address, &socket)?, Some(socket))));
            }
            // Success without a descriptor is the primary's own listener, whatever number says success.
            (ToWorker::Shared { ack, key, .. }, None) => self.offered(ack, key, None),
            (ToWorker::RoundRobin { ack, key, sockname, .. }, _) => {
                self.offered(ack, key, sockname.map(|name| (name.address, name.port)));
            }
            (ToWorker::Refused { ack, key, errno }, _) => {
                self.answer(ack, &key, |_| Err(io::Error::from_raw_os_error(-errno)));
            }
            (ToWorker::NewConn { key, .. }, connection) => {
                let accepted = connection
                    .zip(self.open.get(&key))
                    .is_some_and(|(connection, open)| open.offers.try_send(connection).is_ok());
                if let Some(ack) = message.seq {
                    self.say(FromWorker::Accepted { ack, accepted });
                }
            }
            // Whoever accepts hears of it by the end of its queue; connections that are open go on.
            (ToWorker::Disconnect, _) => {
                self.stays = None;
                drop(self.close_all());
            }
            // Who waits hears of it by the end of the channel.
            (ToWorker::Ack { ack }, _) if self.leaves.as_ref().is_some_and(|leave| leave.seq == ack) => {
                self.channel.disconnect();
            }
            (ToWorker::Ack { .. }, _) => {}
            (ToWorker::Unknown { .. }, _) => {}
        }
    }

    /// The primary listens. Its address is told for TCP; a port other than the one asked for means that it has none.
    fn offered(&mut self, ack: u64, key: Arc<str>, name: Option<(Box<str>, u16)>) {
        self.answer(ack, &key, |asked| {
            let bound = name.and_then(|(text, port)| sys::listen::numeric_address(&text, port).ok());
            Ok((same_port(asked.address, bound.unwrap_or(asked.address))?, None))
        });
    }

    fn answer(
        &mut self,
        ack: u64,
        key: &Arc<str>,
        bind: impl FnOnce(&Asked) -> io::Result<(SocketAddr, Option<OwnedFd>)>,
    ) {
        let Some(mut asked) = self.asked.remove(&ack) else {
            return;
        };
        let address = asked.address;
        let granted = bind(&asked).map(|(bound, socket)| {
            let (sender, offers) = mpsc::channel(WAITING);
            let open = Open {
                address,
                offers: sender,
            };
            self.open.insert(key.clone(), open);
            Granted {
                key: key.clone(),
                address: bound,
                offers,
                socket,
            }
        });
        let bound = granted.as_ref().ok().map(|granted| granted.address);
        if bound.is_none() {
            self.forget(address);
        }
        let taken = asked.granted.send(granted).is_ok();
        match bound {
            Some(bound) if taken && !self.is_leaving() => {
                asked.query.port = Some(bound.port().into());
                self.say(FromWorker::Listening(asked.query));
            }
            // Whoever asked has given up meanwhile, or is to leave.
            Some(_) => drop(self.close(key)),
            None => {}
        }
    }

    fn is_leaving(&self) -> bool {
        self.stays.is_none() || self.leaves.is_some()
    }

    fn close(&mut self, key: &Arc<str>) -> Option<Open> {
        let open = self.open.remove(key)?;
        self.forget(open.address);
        self.say(FromWorker::Close { key: (&**key).into() });
        Some(open)
    }

    fn close_all(&mut self) -> Vec<Open> {
        let keys: Vec<_> = self.open.keys().cloned().collect();
        keys.iter().filter_map(|key| self.close(key)).collect()
    }

    /// One listener at the address less; with the last the count begins anew, as in Node.
    fn forget(&mut self, address: SocketAddr) {
        if let Some(count) = self.counts.get_mut(&address) {
            count.open -= 1;
            if count.open == 0 {
                self.counts.remove(&address);
            }
        }
    }

    fn say(&mut self, message: FromWorker) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut text = Vec::new();
        Envelope {
            seq: Some(seq),
            message,
        }
        .write_json(&mut text);
        // A closed channel is told by its end.
        let _ = self.channel.send_internal(&text);
        seq
    }
}

fn query(address: SocketAddr, index: u32) -> Query {
    Query {
        index,
        address: Some(address.ip().to_string().into()),
        port: Some(address.port().into()),
        address_type: Some(if address.is_ipv6() {
            AddressType::Ipv6
        } else {
            AddressType::Ipv4
        }),
        flags: Some(0),
        ..Query::default()
    }
}

/// Listens on what the primary has bound. Node's primary may not have been able to, and says nothing of it.
fn listen(asked: SocketAddr, socket: &OwnedFd) -> io::Result<SocketAddr> {
    let bound = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    let address = same_port(asked, bound)?;
    sys::listen::listen(socket, 0)?;
    rustix::io::ioctl_fionbio(socket, true)?;
    Ok(address)
}

/// Node: `lib/net.js`, checkBindError.
fn same_port(asked: SocketAddr, bound: SocketAddr) -> io::Result<SocketAddr> {
    if asked.port() == 0 || asked.port() == bound.port() {
        Ok(bound)
    } else {
        Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
    }
}
