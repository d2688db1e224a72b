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
    /// The socket of this query, which is not numbered yet.
    Listen(Box<Query>, oneshot::Sender<io::Result<Granted>>),
    /// The listener with this key is closed.
    Close(Arc<str>),
    /// To leave the cluster. Dropped when it has been left.
    Leave(oneshot::Sender<()>),
}

/// A socket of the primary's.
#[derive(Debug)]
pub(crate) struct Granted {
    /// Of TCP and UDP, if the primary tells.
    pub(crate) address: Option<SocketAddr>,
    /// Connections that the primary has accepted. Ends when this worker is to leave.
    pub(crate) offers: mpsc::Receiver<OwnedFd>,
    /// A socket to use as well, which listens if it is one for connections: shared by all workers, or this one's lane.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) held: Held,
}

/// The primary believes that this socket is open, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    key: Arc<str>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A primary that is gone need not know.
        let _ = self.requests.send(Request::Close(self.key.clone()));
    }
}

#[derive(Debug)]
struct Asked {
    query: Box<Query>,
    granted: oneshot::Sender<io::Result<Granted>>,
}

/// What numbers the queries of a worker: each address has its own count.
type Place = (Option<Box<str>>, Option<i32>, Option<AddressType>);

fn place(query: &Query) -> Place {
    (query.address.clone(), query.port, query.address_type)
}

/// An open socket.
#[derive(Debug)]
struct Open {
    place: Place,
    offers: mpsc::Sender<OwnedFd>,
}

/// How often a place was asked for.
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
    counts: HashMap<Place, Count>,
    /// By which the program asks.
    requests: mpsc::UnboundedSender<Request>,
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
            requests: requests.clone(),
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
            Request::Listen(mut query, granted) => {
                let count = self.counts.entry(place(&query)).or_default();
                if count.open > 0 && query.port != Some(0) {
                    // Primaries of Node 22 and later bind a second UDP socket there, under the key of the first, and never
                    // close it: what is sent to the first would go there.
                    let _ = granted.send(Err(io::Error::from_raw_os_error(libc::EADDRINUSE)));
                    return;
                }
                query.index = count.next;
                (count.next, count.open) = (count.next + 1, count.open + 1);
                let seq = self.say(FromWorker::QueryServer(query.clone()));
                self.asked.insert(seq, Asked { query, granted });
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
                self.answer(ack, &key, |query| Ok((share(query, &socket)?, Some(socket))));
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
        self.answer(ack, &key, |query| {
            let bound = name.and_then(|(text, port)| sys::listen::numeric_address(&text, port).ok());
            same_port(query, bound)?;
            Ok((bound, None))
        });
    }

    fn answer(
        &mut self,
        ack: u64,
        key: &Arc<str>,
        bind: impl FnOnce(&Query) -> io::Result<(Option<SocketAddr>, Option<OwnedFd>)>,
    ) {
        let Some(Asked { mut query, granted }) = self.asked.remove(&ack) else {
            return;
        };
        let place = place(&query);
        let bound = match self.open.contains_key(key) {
            // It must differ from all that are open.
            true => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            false => bind(&query),
        };
        let (address, socket) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                self.forget(&place);
                // Whoever asked may have given up.
                let _ = granted.send(Err(error));
                return;
            }
        };
        let (sender, offers) = mpsc::channel(WAITING);
        let open = Open { place, offers: sender };
        self.open.insert(key.clone(), open);
        // Dropped, it closes what is open: whoever asked may have given up, now or before it looks.
        let held = Held {
            key: key.clone(),
            requests: self.requests.clone(),
        };
        if self.is_leaving() {
            drop(self.close(key));
            return;
        }
        let grant = Granted {
            address,
            offers,
            socket,
            held,
        };
        if granted.send(Ok(grant)).is_ok() {
            query.port = address.map_or(query.port, |address| Some(address.port().into()));
            self.say(FromWorker::Listening(query));
        }
    }

    fn is_leaving(&self) -> bool {
        self.stays.is_none() || self.leaves.is_some()
    }

    fn close(&mut self, key: &Arc<str>) -> Option<Open> {
        let open = self.open.remove(key)?;
        self.forget(&open.place);
        self.say(FromWorker::Close { key: (&**key).into() });
        Some(open)
    }

    fn close_all(&mut self) -> Vec<Open> {
        let keys: Vec<_> = self.open.keys().cloned().collect();
        keys.iter().filter_map(|key| self.close(key)).collect()
    }

    /// One socket at the place less; with the last the count begins anew, as in Node.
    fn forget(&mut self, place: &Place) {
        if let Some(count) = self.counts.get_mut(place) {
            count.open -= 1;
            if count.open == 0 {
                self.counts.remove(place);
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

/// Takes what the primary has bound, and listens. Node's primary may not have been able to bind, and says nothing of it.
fn share(query: &Query, socket: &OwnedFd) -> io::Result<Option<SocketAddr>> {
    let bound = SocketAddr::try_from(rustix::net::getsockname(socket)?).ok();
    same_port(query, bound)?;
    if !matches!(query.address_type, Some(AddressType::Udp4 | AddressType::Udp6)) {
        sys::listen::listen(socket, query.backlog())?;
    }
    rustix::io::ioctl_fionbio(socket, true)?;
    Ok(bound)
}

/// Node: `lib/net.js`, checkBindError.
fn same_port(query: &Query, bound: Option<SocketAddr>) -> io::Result<()> {
    match (query.port, bound) {
        (Some(1..), Some(bound)) if query.port != Some(bound.port().into()) => {
            Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
        }
        _ => Ok(()),
    }
}
