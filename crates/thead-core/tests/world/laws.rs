//! The laws of a primary, checked from outside: an observer that sees inputs and actions only, and keeps its own books.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use thead_core::cluster::{
    Action, Config, Event, Handle, Input, LeaveBy, MAX_LISTENERS, Primary, Scheduling, sticky_slot,
};
use thead_core::id::{ConnId, LaneId, ListenerId, WorkerId};
use thead_core::worker::Slot;
use thead_wire::cluster::{AddressType, FromWorker, Query, ToWorker};

#[derive(Debug)]
pub(crate) struct Laws {
    config: Config,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// What is bound or being bound.
    pub(crate) listeners: BTreeMap<ListenerId, Listener>,
    /// Those that are ours.
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    /// Those that were released: whether a worker had taken them.
    pub(crate) released: BTreeMap<ConnId, bool>,
    /// What was unbound; workers may still hold it, and connections of it wait.
    closed: BTreeSet<ListenerId>,
    closing_all: bool,
    /// Which slot each client had, of which.
    homes: BTreeMap<IpAddr, BTreeMap<BTreeSet<Slot>, Slot>>,
}

#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) open: bool,
    /// If it was told.
    slot: Option<Slot>,
    /// The lanes that it was given, and where it has said that it listens.
    lanes: BTreeMap<ListenerId, LaneId>,
    listening: BTreeSet<ListenerId>,
    asked_to_leave: Option<(LeaveBy, Instant)>,
    exits: bool,
    told: bool,
    online: bool,
    has_held: bool,
    last_request: Option<u64>,
    /// Unanswered queries: the key that the answer will have, and the listener, if it was made for them.
    queries: BTreeMap<u64, (Arc<str>, Option<ListenerId>)>,
    pub(crate) keys: BTreeMap<Arc<str>, ListenerId>,
    pub(crate) offers: BTreeMap<u64, (ConnId, Instant)>,
    next_seq: u64,
    reclaimed: Option<Instant>,
}

impl Worker {
    pub(crate) fn leaves(&self) -> bool {
        self.exits || self.asked_to_leave.is_some()
    }

    /// What Node 22 would call it, and a number where the worker has that already.
    fn key_for(&self, query: &Query) -> Arc<str> {
        let text = |number: Option<i32>, none: &str| number.map_or(none.to_owned(), |number| number.to_string());
        let address = query.address.as_deref().unwrap_or("null");
        let address = &address[address.find('\0').unwrap_or(0)..];
        let address_type = match query.address_type {
            None => "null",
            Some(AddressType::Ipv4) => "4",
            Some(AddressType::Ipv6) => "6",
            Some(AddressType::Unix) => "-1",
            Some(AddressType::Udp4) => "udp4",
            Some(AddressType::Udp6) => "udp6",
        };
        let (port, fd) = (text(query.port, "null"), text(query.fd, "undefined"));
        let index = if query.port == Some(0) {
            format!(":{}", query.index)
        } else {
            String::new()
        };
        let name = format!("{address}:{port}:{address_type}:{fd}{index}");
        let numbered = (2..).map(|nth| format!("{name}#{nth}").into());
        let has = |key: &Arc<str>| self.keys.contains_key(key) || self.queries.values().any(|(due, _)| due == key);
        std::iter::once(name.as_str().into())
            .chain(numbered)
            .find(|key| !has(key))
            .unwrap()
    }

    fn is_candidate(&self, listener: ListenerId) -> bool {
        self.open && !self.leaves() && self.keys.values().any(|held| *held == listener)
    }
}

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) key: Arc<str>,
    pub(crate) bound: bool,
    pub(crate) scheduling: Scheduling,
    /// Where the kernel gives connections.
    pub(crate) steered: BTreeSet<LaneId>,
    unheld: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) place: Place,
    pub(crate) listener: Option<ListenerId>,
    client: Option<IpAddr>,
    tried: BTreeMap<WorkerId, Instant>,
    /// Who alone may have it.
    private: Option<WorkerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Waiting,
    Offered(WorkerId),
    Taken,
}

impl Laws {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            workers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            released: BTreeMap::new(),
            closed: BTreeSet::new(),
            closing_all: false,
            homes: BTreeMap::new(),
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.conns.values().filter(|conn| conn.place == Place::Waiting).count()
    }

    fn candidates(&self, listener: ListenerId) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers
            .iter()
            .filter(move |(_, worker)| worker.is_candidate(listener))
    }

    /// What the books say after this input and before what is done about it.
    pub(crate) fn saw_input(&mut self, now: Instant, input: &Input) {
        self.closing_all = false;
        match input {
            Input::Joined { worker, gated, slot } => {
                self.workers.entry(*worker).or_insert_with(|| Worker {
                    open: !gated,
                    slot: *slot,
                    ..Worker::default()
                });
            }
            Input::Message { worker, message } => {
                let Some(sender) = self.workers.get_mut(worker) else {
                    return;
                };
                let fresh = |sender: &mut Worker| {
                    let seq = message
                        .seq
                        .filter(|seq| sender.last_request.is_none_or(|last| *seq > last));
                    sender.last_request = seq.or(sender.last_request);
                    seq
                };
                match &message.message {
                    FromWorker::QueryServer(query) => {
                        if let Some(seq) = fresh(sender)
                            && !sender.leaves()
                        {
                            let key = sender.key_for(query);
                            sender.queries.insert(seq, (key, None));
                        }
                    }
                    FromWorker::Close { key } => {
                        if let Some(id) = sender.keys.remove(&**key) {
                            sender.lanes.remove(&id);
                            sender.listening.remove(&id);
                            self.maybe_unheld(now, id);
                        }
                    }
                    FromWorker::ExitedAfterDisconnect => {
                        if fresh(sender).is_some() {
                            sender.exits = true;
                        }
                    }
                    FromWorker::Accepted { ack, accepted } => {
                        if let Some((conn, _)) = sender.offers.remove(ack) {
                            let conn = self.conns.get_mut(&conn).unwrap();
                            assert_eq!(conn.place, Place::Offered(*worker));
                            if *accepted {
                                conn.place = Place::Taken;
                            } else {
                                conn.place = Place::Waiting;
                                conn.tried.insert(*worker, now);
                            }
                        }
                    }
                    FromWorker::Online => sender.online = true,
                    FromWorker::Listening(_) | FromWorker::Unknown { .. } => {}
                }
            }
            Input::Bound { listener, bound } => {
                if bound.is_err() {
                    if self.listeners.get(listener).is_some_and(|listener| !listener.bound) {
                        self.listeners.remove(listener);
                    }
                } else if let Some(listener) = self.listeners.get_mut(listener)
                    && !listener.bound
                {
                    listener.bound = true;
                    listener.unheld = Some(now);
                }
            }
            Input::Accepted { listener, conn, client } => {
                let known = self.listeners.contains_key(listener) || self.closed.contains(listener);
                self.arrived(*conn, known.then_some(*listener), *client);
            }
            Input::Private { worker, listener, conn } => {
                self.arrived(*conn, Some(*listener), None);
                self.conns.get_mut(conn).unwrap().private = Some(*worker);
            }
            // Which listener it goes to is seen when it is offered.
            Input::HandedBack { conn, client, .. } => self.arrived(*conn, None, *client),
            Input::Open { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.open = true;
                }
            }
            Input::Leave { worker, how } => {
                if let Some(worker) = self.workers.get_mut(worker)
                    && !worker.told
                    && !worker.exits
                {
                    let since = worker.asked_to_leave.map_or(now, |(_, since)| since);
                    worker.asked_to_leave = Some((*how, since));
                }
            }
            Input::Gone { worker: id } => {
                if let Some(worker) = self.workers.remove(id) {
                    for (conn, _) in worker.offers.values() {
                        self.conns.get_mut(conn).unwrap().place = Place::Waiting;
                    }
                    for listener in worker.keys.values() {
                        self.maybe_unheld(now, *listener);
                    }
                }
            }
            Input::Reclaimed { worker: id, conns } => {
                if let Some(worker) = self.workers.get_mut(id) {
                    worker.offers.retain(|_, (conn, _)| {
                        let back = conns.contains(conn);
                        if back {
                            let conn = self.conns.get_mut(conn).unwrap();
                            conn.place = Place::Waiting;
                            conn.tried.insert(*id, now);
                        }
                        !back
                    });
                }
            }
            Input::CloseListeners => {
                self.closing_all = true;
                self.listeners.retain(|_, listener| listener.bound);
            }
        }
    }

    fn arrived(&mut self, conn: ConnId, listener: Option<ListenerId>, client: Option<IpAddr>) {
        assert!(!self.released.contains_key(&conn));
        let conn = self.conns.insert(
            conn,
            Conn {
                place: Place::Waiting,
                listener,
                client: client.filter(|_| self.config.scheduling == Scheduling::Sticky),
                tried: BTreeMap::new(),
                private: None,
            },
        );
        assert!(conn.is_none(), "a connection has a new number");
    }

    fn maybe_unheld(&mut self, now: Instant, id: ListenerId) {
        let held = self
            .workers
            .values()
            .any(|worker| worker.keys.values().any(|held| *held == id));
        if let Some(listener) = self.listeners.get_mut(&id)
            && !held
        {
            listener.unheld = Some(now);
        }
    }

    pub(crate) fn saw_action(&mut self, now: Instant, cause: Option<&Input>, action: &Action) {
        match action {
            Action::Bind {
                listener, scheduling, ..
            } => {
                let Some(Input::Message { worker, message }) = cause else {
                    panic!("{action:?} without a query")
                };
                let worker = self.workers.get_mut(worker).unwrap();
                let (key, id) = worker.queries.get_mut(&message.seq.unwrap()).unwrap();
                assert_eq!(id.replace(*listener), None);
                let new = Listener {
                    key: key.clone(),
                    bound: false,
                    scheduling: *scheduling,
                    steered: BTreeSet::new(),
                    unheld: None,
                };
                let listener = self.listeners.insert(*listener, new);
                assert!(listener.is_none(), "a listener has a new number");
            }
            Action::Unbind { listener } => self.saw_unbind(now, cause, *listener),
            Action::Send {
                worker,
                message,
                handle,
            } => {
                let receiver = self
                    .workers
                    .get_mut(worker)
                    .unwrap_or_else(|| panic!("{worker} is gone: {action:?}"));
                let seq = message.seq.unwrap();
                assert_eq!(seq, receiver.next_seq, "numbers count up per worker");
                receiver.next_seq += 1;
                match &message.message {
                    ToWorker::NewConn { key, .. } => self.saw_offer(now, *worker, seq, key, *handle),
                    ToWorker::RoundRobin { ack, key, .. } => {
                        assert_eq!(*handle, Handle::None);
                        self.saw_listener(*worker, *ack, key, None);
                    }
                    ToWorker::Shared { ack, key, .. } => {
                        let listener = match handle {
                            Handle::Listener(listener) => listener,
                            Handle::Lane(listener, lane) => {
                                self.saw_lane(*worker, *listener, *lane);
                                listener
                            }
                            Handle::None | Handle::Conn(_) => panic!("{action:?} without its listener"),
                        };
                        self.saw_listener(*worker, *ack, key, Some(*listener));
                    }
                    ToWorker::Refused { ack, errno, .. } => {
                        assert!(*errno < 0, "a worker throws at errno {errno}");
                        assert!(receiver.queries.remove(ack).is_some(), "{action:?} answers no query");
                    }
                    ToWorker::Disconnect => {
                        let how = receiver.asked_to_leave;
                        let (_, since) = how.filter(|(how, _)| *how == LeaveBy::Disconnect).unwrap();
                        self.saw_told(now, *worker, since);
                    }
                    ToWorker::Ack { ack } => {
                        assert!(receiver.exits);
                        assert_eq!(Some(*ack), receiver.last_request);
                    }
                    ToWorker::Unknown { .. } => panic!("{action:?}"),
                }
            }
            Action::Steer { listener, lanes } => {
                let told = self.listeners.get_mut(listener).unwrap();
                assert!(told.bound && told.scheduling == Scheduling::Kernel, "{action:?}");
                assert!(lanes.is_sorted(), "{action:?}");
                let before = std::mem::replace(&mut told.steered, lanes.iter().copied().collect());
                assert_ne!(before, told.steered, "{listener} was there before");
            }
            Action::HandBack { worker } => {
                let how = self.workers[worker].asked_to_leave;
                let (_, since) = how.filter(|(how, _)| *how == LeaveBy::HandBack).unwrap();
                self.saw_told(now, *worker, since);
            }
            Action::Reclaim { worker: id } => {
                assert_ne!(self.config.scheduling, Scheduling::Sticky, "{id} gets its clients");
                let worker = self.workers.get_mut(id).unwrap();
                let oldest = worker.offers.values().map(|(_, since)| *since).min().unwrap();
                assert!(oldest + self.config.late <= now, "{id} is not late");
                let again = worker.reclaimed.is_none_or(|before| before + self.config.late <= now);
                assert!(again, "{id} was just asked");
                worker.reclaimed = Some(now);
            }
            Action::Expel { worker: id } => {
                let oldest = self.workers[id].offers.values().map(|(_, since)| *since).min().unwrap();
                assert!(oldest + self.config.stuck <= now, "{id} is not stuck");
            }
            Action::Release { conn: id } => {
                let closing = |listener: ListenerId| self.closed.contains(&listener);
                let full = self.waiting() > self.config.max_waiting;
                let conn = self.conns.remove(id).unwrap_or_else(|| panic!("{id} is not ours"));
                let may_be_lost = full || conn.listener.is_none_or(closing) || conn.private.is_some();
                match conn.place {
                    Place::Taken => {}
                    Place::Waiting => assert!(may_be_lost, "{id} could still be taken: {conn:?}"),
                    Place::Offered(_) => panic!("{id} is not ours to release: {conn:?}"),
                }
                self.released.insert(*id, conn.place == Place::Taken);
            }
            Action::Emit(Event::Left { worker, .. }) => assert!(!self.workers.contains_key(worker)),
            Action::Emit(Event::Listening { worker, listener, .. }) => {
                if let (Some(worker), Some(listener)) = (self.workers.get_mut(worker), listener)
                    && worker.keys.values().any(|held| held == listener)
                {
                    worker.listening.insert(*listener);
                }
            }
            Action::Emit(_) => {}
        }
    }

    fn saw_unbind(&mut self, now: Instant, cause: Option<&Input>, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else {
            // Given up while it was being bound.
            assert!(matches!(cause, Some(Input::Bound { listener, bound: Ok(_) }) if *listener == id));
            return;
        };
        self.closed.insert(id);
        let unheld = listener.unheld;
        if self.listeners.len() + 1 >= MAX_LISTENERS && cause.is_some() {
            assert!(unheld.is_some(), "it is held");
        } else if !self.closing_all {
            assert!(cause.is_none(), "only time and CloseListeners unbind");
            let unheld = unheld.expect("it is held");
            assert!(unheld + self.config.linger <= now, "{id} was held until just now");
            for (worker, state) in &self.workers {
                assert!(!state.leaves(), "{worker} may be replaced");
                assert!(state.has_held, "{worker} is starting");
                assert!(state.keys.values().all(|held| *held != id), "{worker} holds {id}");
            }
            assert!(!self.workers.is_empty(), "all may be replaced");
        }
        // What was being bound is given up without a word of Unbind until it is bound.
        assert!(listener.bound);
    }

    fn saw_listener(&mut self, worker: WorkerId, ack: u64, key: &Arc<str>, shared: Option<ListenerId>) {
        let receiver = self.workers.get_mut(&worker).unwrap();
        let (due, _) = receiver
            .queries
            .remove(&ack)
            .unwrap_or_else(|| panic!("{ack} is no query of {worker}"));
        assert_eq!(due, *key);
        let named = self.listeners.iter().find(|(_, listener)| listener.key == *key);
        let id = *named.unwrap_or_else(|| panic!("{key} is no listener")).0;
        let listener = self.listeners.get_mut(&id).unwrap();
        assert!(listener.bound, "{id} is not bound");
        assert!(
            shared.is_none_or(|shared| shared == id),
            "the listener is that of the key"
        );
        let theirs = matches!(listener.scheduling, Scheduling::Shared | Scheduling::Kernel);
        assert_eq!(theirs, shared.is_some(), "{id} is {:?}", listener.scheduling);
        listener.unheld = None;
        receiver.has_held = true;
        let twice = receiver.keys.insert(key.clone(), id);
        assert_eq!(twice, None, "{worker} dies of a key that it holds");
    }

    fn saw_lane(&mut self, worker: WorkerId, listener: ListenerId, lane: LaneId) {
        assert_eq!(self.listeners[&listener].scheduling, Scheduling::Kernel);
        for (other, state) in &self.workers {
            assert_ne!(state.lanes.get(&listener), Some(&lane), "{other} has it");
        }
        self.workers.get_mut(&worker).unwrap().lanes.insert(listener, lane);
    }

    /// A client has always the same slot, and moves only when its slot goes or when it moves to one that came.
    fn saw_home(&mut self, listener: ListenerId, id: WorkerId, client: IpAddr, tried: &BTreeMap<WorkerId, Instant>) {
        let able: Vec<_> = self
            .candidates(listener)
            .filter(|(other, _)| !tried.contains_key(*other))
            .filter_map(|(other, worker)| Some((*other, worker.slot?)))
            .collect();
        let Some(slot) = self.workers[&id].slot else { return };
        let newest = able.iter().filter(|(_, other)| *other == slot).max();
        assert_eq!(newest, Some(&(id, slot)), "a newer worker has the slot");
        let slots: BTreeSet<_> = able.into_iter().map(|(_, slot)| slot).collect();
        let homes = self.homes.entry(client).or_default();
        for (others, home) in &*homes {
            let same = match (slots.is_subset(others), others.is_subset(&slots)) {
                (true, _) => slots.contains(home),
                (false, true) => others.contains(&slot),
                (false, false) => false,
            };
            assert!(
                !same || *home == slot,
                "{client} moved from {home} of {others:?} to {slot} of {slots:?}"
            );
        }
        homes.insert(slots, slot);
    }

    fn saw_offer(&mut self, now: Instant, id: WorkerId, seq: u64, key: &Arc<str>, handle: Handle) {
        let Handle::Conn(conn_id) = handle else {
            panic!("an offer of nothing to {id}")
        };
        let worker = &self.workers[&id];
        let private = self.conns[&conn_id].private;
        assert!(private.is_none_or(|only| only == id), "{conn_id} is not for {id}");
        assert!(worker.open || private.is_some(), "{id} is gated");
        assert!(!worker.leaves(), "{id} leaves");
        let has_room = worker.offers.len() < self.config.window;
        assert!(has_room || private.is_some(), "{id} has enough to answer");
        let listener = *worker
            .keys
            .get(key)
            .unwrap_or_else(|| panic!("{id} does not hold {key}"));
        let conn = &self.conns[&conn_id];
        assert_eq!(conn.place, Place::Waiting, "{conn_id} is given away once");
        assert!(
            conn.listener.is_none_or(|own| own == listener),
            "{conn_id} came in elsewhere"
        );
        let again = conn.tried.contains_key(&id);
        assert!(!again || private.is_none(), "{conn_id} is offered once");
        if again {
            for (other, _) in self.candidates(listener) {
                let tried = conn
                    .tried
                    .get(other)
                    .unwrap_or_else(|| panic!("{other} was not asked about {conn_id}"));
                assert!(
                    *tried + self.config.retry <= now,
                    "{other} was just asked about {conn_id}"
                );
            }
        }
        // Where too many wait, whoever has room is better than nobody.
        let full = self.waiting() > self.config.max_waiting;
        if let Some(client) = conn.client.filter(|_| !full) {
            let tried = if again { BTreeMap::new() } else { conn.tried.clone() };
            self.saw_home(listener, id, client, &tried);
        }
        let conn = self.conns.get_mut(&conn_id).unwrap();
        if again {
            conn.tried.clear();
        }
        conn.place = Place::Offered(id);
        conn.listener = Some(listener);
        self.workers.get_mut(&id).unwrap().offers.insert(seq, (conn_id, now));
    }

    fn saw_told(&mut self, now: Instant, id: WorkerId, since: Instant) {
        let worker = self.workers.get_mut(&id).unwrap();
        assert!(!worker.told, "{id} was told");
        assert!(!worker.exits, "{id} leaves of itself");
        worker.told = true;
        let patient = worker.offers.is_empty() || since + self.config.answer <= now;
        assert!(patient, "{id} may still answer {:?}", worker.offers);
    }

    /// What holds between steps.
    pub(crate) fn check(&self, primary: &Primary) {
        // Who could take a connection of each listener, with the number of its offers.
        let mut candidates = BTreeMap::<ListenerId, Vec<(WorkerId, usize)>>::new();
        for (id, worker) in self
            .workers
            .iter()
            .filter(|(_, worker)| worker.open && !worker.leaves())
        {
            for listener in worker.keys.values() {
                candidates
                    .entry(*listener)
                    .or_default()
                    .push((*id, worker.offers.len()));
            }
        }
        let candidates = |listener| candidates.get(&listener).map_or(&[][..], |candidates| candidates);
        let mut waiting = BTreeMap::<Option<ListenerId>, usize>::new();
        for (id, conn) in &self.conns {
            assert_ne!(conn.place, Place::Taken, "{id} was taken and is kept");
            if conn.place == Place::Waiting {
                *waiting.entry(conn.listener).or_default() += 1;
                let able = conn.listener.map_or(&[][..], candidates).iter();
                let able: Vec<_> = able.filter(|(worker, _)| !conn.tried.contains_key(worker)).collect();
                let slots = able.iter().filter_map(|(worker, _)| self.workers[worker].slot);
                let home = conn.client.and_then(|client| sticky_slot(client, slots));
                let may = |worker: &WorkerId| match self.workers[worker].slot {
                    // Of several in its slot only the newest.
                    Some(slot) if conn.client.is_some() => {
                        let newer = |(other, _): &&&(WorkerId, usize)| self.workers[other].slot == Some(slot);
                        home == Some(slot) && able.iter().filter(newer).all(|(other, _)| other <= worker)
                    }
                    _ => true,
                };
                let idle = able.iter().find(|(worker, offers)| *offers == 0 && may(worker));
                assert!(idle.is_none(), "{id} waits while {idle:?} is idle");
            }
        }
        assert_eq!(
            primary.waiting(),
            waiting.values().sum::<usize>(),
            "every connection is at one place"
        );
        // A thousand listeners are as good as the newest of them.
        for (id, listener) in self.listeners.iter().rev().take(50) {
            let may_accept = primary.may_accept(*id);
            if listener.scheduling == Scheduling::Shared {
                assert_eq!(may_accept, 0, "{id} is the workers' to accept");
                continue;
            }
            let accepting = self.candidates(*id).filter(|(_, worker)| worker.listening.contains(id));
            let lanes: BTreeSet<_> = accepting
                .filter_map(|(_, worker)| worker.lanes.get(id).copied())
                .collect();
            assert_eq!(
                listener.steered, lanes,
                "{id}: a lane is its worker's while that accepts, else ours"
            );
            let room = candidates(*id)
                .iter()
                .map(|(_, offers)| self.config.window.saturating_sub(*offers))
                .sum();
            assert!(may_accept <= room, "{id} may accept {may_accept} for {room}");
            let idle = candidates(*id).iter().filter(|(_, offers)| *offers == 0).count();
            // Those whose listener we do not know may be waiting here.
            let waiting: usize = [None, Some(*id)]
                .iter()
                .filter_map(|listener| waiting.get(listener))
                .sum();
            assert!(may_accept + waiting >= idle, "{id} may accept less than is idle");
        }
    }

    /// The queries that were not answered, of workers that are here.
    pub(crate) fn unanswered_queries(&self) -> usize {
        self.workers.values().map(|worker| worker.queries.len()).sum()
    }
}
