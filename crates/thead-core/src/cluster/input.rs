//! What a primary is told, what it wants done, and what it says to whoever watches.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thead_wire::cluster::{AddressType, Envelope, FromWorker, Query, ToWorker};

use super::BindSpec;
use crate::id::{ConnId, LaneId, ListenerId, WorkerId};
use crate::worker::Slot;

/// How a primary behaves. The default suits a service of any size.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who accepts connections, and who gets them. UDP is always shared: datagrams in the queue of one worker could not be
    /// given to another.
    pub scheduling: Scheduling,
    /// How many offers a worker may have unanswered, 1 to [`MAX_WINDOW`](super::MAX_WINDOW). What a stuck worker holds at most.
    /// Default 8: what a Node worker takes while a busy primary rests for half a millisecond.
    pub window: usize,
    /// After how long an unanswered offer makes its worker doubtful and worth a [`Action::Reclaim`], at least 1 ms. Default
    /// 50 ms.
    pub late: Duration,
    /// How long a worker may have an offer without answering it, before it is given up ([`Action::Expel`]). It has said that it
    /// got the connection, or it cannot be taken back from it, so its client waits. Default 120 s: it may be stopped in a
    /// debugger.
    pub stuck: Duration,
    /// How long a connection that all workers rejected waits before they are asked again, at least 1 ms. Default 20 ms.
    pub retry: Duration,
    /// How long a worker that was told to leave may take to answer its last offers before it is told regardless. Default 1 s.
    pub answer: Duration,
    /// How long a listener stays that the application closed, and how long a worker that listens to nothing counts as
    /// starting. Default 30 s, as long as a drain: by then a worker that closed its servers in order to leave has left.
    pub linger: Duration,
    /// How many connections may wait in the primary, over all listeners; beyond, the newest is released. Only workers that
    /// hand back many at once get there, since the rest waits in the kernel ([`may_accept`](super::Primary::may_accept)); in
    /// sticky scheduling also those that wait for a worker which stands still, and of these the newest goes to another
    /// worker if one has room. Default 16 384.
    pub max_waiting: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduling: Scheduling::RoundRobin,
            window: 8,
            late: Duration::from_millis(50),
            stuck: Duration::from_secs(120),
            retry: Duration::from_millis(20),
            answer: Duration::from_secs(1),
            linger: Duration::from_secs(30),
            max_waiting: 16_384,
        }
    }
}

/// Who accepts the connections of a stream listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// The primary accepts and offers (Node: `SCHED_RR`).
    RoundRobin,
    /// The workers accept from the same socket (Node: `SCHED_NONE`).
    Shared,
    /// Each worker accepts from a socket of its own, a *lane*, and the kernel spreads connections over the lanes
    /// ([`Action::Steer`]). For TCP; Unix sockets and descriptors that were passed in go round-robin.
    Kernel,
    /// As round-robin, but each connection goes to the worker that its client's address names ([`sticky_slot`]), and waits for
    /// it if it is slow: nothing is asked back before [`Config::stuck`]. Clients without an IP address are served in turn.
    ///
    /// [`sticky_slot`]: super::sticky_slot
    Sticky,
}

/// As the command line has it.
impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round-robin",
            Self::Shared => "shared",
            Self::Kernel => "kernel",
            Self::Sticky => "sticky",
        })
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A worker was spawned; its channel is open. It gets listeners, and offers unless `gated`.
    Joined {
        /// A number never used before.
        worker: WorkerId,
        /// Whether it must wait for [`Input::Open`]. Its queries are answered at once all the same, or its application would never
        /// say that it listens. Shared listeners cannot be gated: there the kernel offers.
        gated: bool,
        /// Which slot of the service it serves in; the same as the one that it replaces. `None`: the lowest that no worker has.
        slot: Option<Slot>,
    },
    /// A cluster message came.
    Message {
        /// Who sent it.
        worker: WorkerId,
        /// What it says.
        message: Envelope<FromWorker>,
    },
    /// The answer to [`Action::Bind`]: where it is bound, or the negative errno why not.
    Bound {
        /// The listener of the action.
        listener: ListenerId,
        /// What `getsockname` says, or the errno.
        bound: Result<LocalAddress, i32>,
    },
    /// A connection was accepted, non-blocking, at most as many as [`may_accept`](super::Primary::may_accept) allows.
    Accepted {
        /// Where it came in.
        listener: ListenerId,
        /// A number never used before.
        conn: ConnId,
        /// The address of its client; only sticky scheduling has a use for it.
        client: Option<IpAddr>,
    },
    /// A worker that drains gave an idle connection back. It is offered to others as if it had just been accepted, before those
    /// that wait; released if no listener has its address.
    HandedBack {
        /// Who had it.
        worker: WorkerId,
        /// A number never used before.
        conn: ConnId,
        /// What `getsockname` says of the connection.
        local: LocalAddress,
        /// As in [`Input::Accepted`].
        client: Option<IpAddr>,
    },
    /// Somebody wants to ask this worker alone how it is: it gets the connection, gated or not, and nobody else ever does. It is
    /// released when the worker has answered, or will not.
    Private {
        /// Who.
        worker: WorkerId,
        /// Where it will seem to have come in; see [`private`](super::Primary::private).
        listener: ListenerId,
        /// A number never used before.
        conn: ConnId,
    },
    /// The worker is proven ready: offers may begin. Nothing happens if it was open.
    Open {
        /// Which.
        worker: WorkerId,
    },
    /// The worker shall leave. It gets no offer from now on.
    Leave {
        /// Which.
        worker: WorkerId,
        /// How it is told.
        how: LeaveBy,
    },
    /// The worker's channel or its process ended, whichever comes first; the second one changes nothing.
    ///
    /// All that can still be read of its channel must have been given as [`Input::Message`] before: an answer that is overlooked
    /// lets a connection be offered again that an application has seen.
    Gone {
        /// Which.
        worker: WorkerId,
    },
    /// The answer to [`Action::Reclaim`]: the offers that the worker has surely not read and never will.
    Reclaimed {
        /// Which worker.
        worker: WorkerId,
        /// What came back, in any order. What is not named stays the worker's.
        conns: Vec<ConnId>,
    },
    /// The service stops: unbind everything now bound. What was accepted is still offered while a worker can take it.
    CloseListeners,
}

/// How a worker is told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveBy {
    /// By Node's `disconnect`.
    Disconnect,
    /// By the private drain command of the preload ([`Action::HandBack`]); it then leaves of itself, and gets no `disconnect`.
    HandBack,
    /// By a signal that the driver sends: there is nothing to say here, but offers end.
    Signal,
}

/// Something to do. Obey all, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make this listener, non-blocking; answer with [`Input::Bound`].
    ///
    /// Stream sockets listen from here, shared ones too: a worker may listen again on such a socket, and clients wait in its
    /// backlog while there is none.
    Bind {
        /// Its name from now on.
        listener: ListenerId,
        /// What to bind.
        spec: BindSpec,
        /// Who accepts. [`Scheduling::Kernel`]: with lanes, of which this socket is the first to be made.
        scheduling: Scheduling,
    },
    /// Lets the kernel give new connections to these lanes of a listener only. From all others, there and still to be made, the
    /// primary accepts ([`may_accept`](super::Primary::may_accept)): connections that were already on their way, and what a
    /// worker has left. Before the first such action no lane is steered to. With no lanes it does not matter to which one
    /// connections go, for the primary accepts from all.
    Steer {
        /// Of which listener.
        listener: ListenerId,
        /// The lanes of those who accept, in order.
        lanes: Vec<LaneId>,
    },
    /// Close this listener, and remove the file of a Unix socket.
    Unbind {
        /// Which.
        listener: ListenerId,
    },
    /// Send this cluster message.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        message: Envelope<ToWorker>,
        /// The descriptor that goes with it, of which a copy stays here.
        handle: Handle,
    },
    /// Send the private drain command. Once per worker, and never after `disconnect`.
    HandBack {
        /// To whom.
        worker: WorkerId,
    },
    /// Try to take unread offers back out of the worker's socket; answer with [`Input::Reclaimed`] if any came. Where that is not
    /// possible, do nothing: the offers stay the worker's until it answers or ends.
    Reclaim {
        /// From whom.
        worker: WorkerId,
    },
    /// End this worker's channel: it does not answer, and what it was offered goes to others when it is [`Input::Gone`]. Comes
    /// again until then.
    Expel {
        /// Whose.
        worker: WorkerId,
    },
    /// Close our copy of this connection: a worker took it, or nobody ever can. Its number does not come again.
    Release {
        /// Which.
        conn: ConnId,
    },
    /// Tell those who watch.
    Emit(Event),
}

/// The descriptor that goes with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// None.
    None,
    /// A shared listener: `net.Native`, or `dgram.Native` for UDP.
    Listener(ListenerId),
    /// A lane of a listener, to be made now if it was not before, listening and never closed before the listener is:
    /// `net.Native`.
    Lane(ListenerId, LaneId),
    /// An offered connection: `net.Native`.
    Conn(ConnId),
}

/// What a cluster tells.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Node's `online`: the runtime is up, the application has not begun.
    Online {
        /// Who.
        worker: WorkerId,
    },
    /// Node's `listening`. May repeat for one server.
    Listening {
        /// Who.
        worker: WorkerId,
        /// Which listener, if the worker holds one that fits.
        listener: Option<ListenerId>,
        /// The address as Node's event has it.
        address: ListenAddress,
    },
    /// A worker's `listen()` failed.
    ListenFailed {
        /// Who.
        worker: WorkerId,
        /// What it asked for.
        address: ListenAddress,
        /// The errno that it was told, negative.
        errno: i32,
    },
    /// A worker leaves of its own will; Node's `exitedAfterDisconnect` is true from here.
    Leaving {
        /// Who.
        worker: WorkerId,
    },
    /// Node's `disconnect`: a worker is gone, and what it had not answered is offered to others.
    Left {
        /// Who.
        worker: WorkerId,
        /// Node's `exitedAfterDisconnect`: whether either side had begun a voluntary leave.
        voluntary: bool,
    },
    /// A worker took the connection that was for it alone. One that it does not take is released without a word.
    Taken {
        /// Who.
        worker: WorkerId,
        /// The one of [`Input::Private`].
        conn: ConnId,
    },
    /// A worker said something that cannot be; nothing was done about it.
    Ignored {
        /// Who.
        worker: WorkerId,
        /// What, as a fragment that fits after "ignored".
        what: &'static str,
    },
}

/// The address of a `listening` event: the fields of Node's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// 4, 6, -1, `"udp4"`, `"udp6"`; `None` for descriptors.
    pub address_type: Option<AddressType>,
    /// IP or path; `None` for any address and for descriptors.
    pub address: Option<Box<str>>,
    /// The real port if known; -1 for paths.
    pub port: Option<i32>,
    /// A descriptor of the primary, or UDP's -1.
    pub fd: Option<i32>,
}

impl From<&Query> for ListenAddress {
    fn from(query: &Query) -> Self {
        Self {
            address_type: query.address_type,
            address: query.address.clone(),
            port: query.port,
            fd: query.fd,
        }
    }
}

/// The local address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// IPv4 or IPv6.
    Ip(SocketAddr),
    /// A path as it was bound, or an abstract name with its first NUL byte; no NUL at the end.
    Unix(Box<[u8]>),
}
