//! A primary under observation, with a clock to turn and words for what workers say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thead_core::cluster::{Action, Config, Event, Handle, Input, LeaveBy, LocalAddress, Primary, Scheduling};
use thead_core::id::{ConnId, ListenerId, WorkerId};
use thead_core::worker::Slot;
use thead_wire::cluster::{AddressType, Envelope, FromWorker, Query, ToWorker};

use crate::laws::Laws;

pub(crate) const W1: WorkerId = WorkerId(1);
pub(crate) const W2: WorkerId = WorkerId(2);
pub(crate) const W3: WorkerId = WorkerId(3);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn shared() -> Config {
    scheduled(Scheduling::Shared)
}

pub(crate) fn scheduled(scheduling: Scheduling) -> Config {
    Config {
        scheduling,
        ..Config::default()
    }
}

pub(crate) fn ip(address: &str) -> LocalAddress {
    LocalAddress::Ip(address.parse::<SocketAddr>().unwrap())
}

/// A query for TCP on 127.0.0.1.
pub(crate) fn tcp(port: i32) -> Query {
    Query {
        address: Some("127.0.0.1".into()),
        port: Some(port),
        address_type: Some(AddressType::Ipv4),
        ..Query::default()
    }
}

pub(crate) fn udp(port: i32) -> Query {
    Query {
        address_type: Some(AddressType::Udp4),
        fd: Some(-1),
        flags: Some(Query::REUSE_ADDRESS),
        ..tcp(port)
    }
}

pub(crate) fn unix(path: &str) -> Query {
    Query {
        address: Some(path.into()),
        port: Some(-1),
        address_type: Some(AddressType::Unix),
        ..Query::default()
    }
}

/// A primary, its laws, and the time.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) primary: Primary,
    pub(crate) laws: Laws,
    pub(crate) now: Instant,
    /// What each worker's next message is numbered.
    seqs: BTreeMap<WorkerId, u64>,
    next_conn: u64,
}

impl Host {
    pub(crate) fn new(config: Config) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where virtual time begins does not matter")]
        let now = Instant::now();
        Self {
            primary: Primary::new(config.clone()),
            laws: Laws::new(config),
            now,
            seqs: BTreeMap::new(),
            next_conn: 0,
        }
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Action> {
        self.laws.saw_input(self.now, &input);
        self.primary.input(self.now, input.clone());
        self.obey(Some(&input))
    }

    fn obey(&mut self, cause: Option<&Input>) -> Vec<Action> {
        let actions: Vec<_> = std::iter::from_fn(|| self.primary.poll()).collect();
        for action in &actions {
            self.laws.saw_action(self.now, cause, action);
        }
        self.laws.check(&self.primary);
        actions
    }

    /// Lets time pass, with a stop at each deadline.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        for _ in 0..100_000 {
            let Some(deadline) = self.primary.deadline().filter(|deadline| *deadline <= end) else {
                self.now = end;
                return actions;
            };
            assert!(deadline > self.now, "a deadline that has passed makes the driver spin");
            self.now = deadline;
            self.primary.advance(self.now);
            actions.extend(self.obey(None));
            assert!(
                self.primary.deadline().is_none_or(|next| next > self.now),
                "what was due was not done"
            );
        }
        panic!("it does not come to rest");
    }

    pub(crate) fn join(&mut self, worker: WorkerId) {
        self.join_gated(worker, false);
    }

    pub(crate) fn join_gated(&mut self, worker: WorkerId, gated: bool) {
        self.join_in(None, worker, gated);
    }

    /// A worker in a slot, or in the lowest that is free.
    pub(crate) fn join_in(&mut self, slot: Option<u32>, worker: WorkerId, gated: bool) {
        let slot = slot.map(Slot);
        self.input(Input::Joined { worker, gated, slot });
        self.say(worker, FromWorker::Online);
    }

    /// The worker says this, under its next number.
    pub(crate) fn say(&mut self, worker: WorkerId, message: FromWorker) -> Vec<Action> {
        let seq = self.seqs.entry(worker).or_insert(0);
        let message = Envelope {
            seq: Some(*seq),
            message,
        };
        *seq += 1;
        self.input(Input::Message { worker, message })
    }

    pub(crate) fn ask(&mut self, worker: WorkerId, query: &Query) -> Vec<Action> {
        self.say(worker, FromWorker::QueryServer(Box::new(query.clone())))
    }

    /// The worker asks for a listener and gets it, bound if need be to this address.
    pub(crate) fn listen_at(&mut self, worker: WorkerId, query: &Query, local: LocalAddress) -> ListenerId {
        let before = self.laws.workers[&worker].keys.clone();
        if let Some(listener) = bind(&self.ask(worker, query)) {
            self.input(Input::Bound {
                listener,
                bound: Ok(local),
            });
        }
        let keys = &self.laws.workers[&worker].keys;
        *keys
            .iter()
            .find(|(key, _)| !before.contains_key(*key))
            .expect("the worker has its listener")
            .1
    }

    /// The worker listens on this port of 127.0.0.1.
    pub(crate) fn listen(&mut self, worker: WorkerId, port: i32) -> ListenerId {
        self.listen_at(worker, &tcp(port), ip(&format!("127.0.0.1:{port}")))
    }

    /// Workers 1 to `count`, all listening on port 80.
    pub(crate) fn workers(&mut self, count: u32) -> ListenerId {
        let mut listener = ListenerId(0);
        for worker in 1..=count {
            self.join(WorkerId(worker));
            listener = self.listen(WorkerId(worker), 80);
        }
        listener
    }

    pub(crate) fn key(&self, worker: WorkerId, listener: ListenerId) -> Box<str> {
        let keys = &self.laws.workers[&worker].keys;
        keys.iter()
            .find(|(_, id)| **id == listener)
            .map(|(key, _)| (&**key).into())
            .expect("it holds the listener")
    }

    pub(crate) fn close(&mut self, worker: WorkerId, listener: ListenerId) -> Vec<Action> {
        let key = self.key(worker, listener);
        self.say(worker, FromWorker::Close { key })
    }

    /// The worker listens there and says so.
    pub(crate) fn serve(&mut self, worker: WorkerId, port: i32) -> (ListenerId, Vec<Action>) {
        let listener = self.listen(worker, port);
        (listener, self.say(worker, FromWorker::Listening(Box::new(tcp(port)))))
    }

    /// A client connects and is accepted.
    pub(crate) fn accept(&mut self, listener: ListenerId) -> (ConnId, Vec<Action>) {
        let conn = self.conn();
        let client = None;
        (conn, self.input(Input::Accepted { listener, conn, client }))
    }

    /// As [`Self::accept`], a client with an address.
    pub(crate) fn accept_from(&mut self, listener: ListenerId, client: &str) -> (ConnId, Vec<Action>) {
        let conn = self.conn();
        let client = Some(client.parse().unwrap());
        (conn, self.input(Input::Accepted { listener, conn, client }))
    }

    pub(crate) fn conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// The worker answers the offer of this connection.
    pub(crate) fn answer(&mut self, worker: WorkerId, conn: ConnId, accepted: bool) -> Vec<Action> {
        let offers = &self.laws.workers[&worker].offers;
        let (ack, _) = offers
            .iter()
            .find(|(_, (offered, _))| *offered == conn)
            .expect("it was offered that");
        let ack = *ack;
        self.say(worker, FromWorker::Accepted { ack, accepted })
    }

    pub(crate) fn leave(&mut self, worker: WorkerId, how: LeaveBy) -> Vec<Action> {
        self.input(Input::Leave { worker, how })
    }

    pub(crate) fn gone(&mut self, worker: WorkerId) -> Vec<Action> {
        self.input(Input::Gone { worker })
    }
}

/// Whom a connection is offered to.
pub(crate) fn offers(actions: &[Action]) -> Vec<(WorkerId, ConnId)> {
    let offer = |action: &Action| match action {
        Action::Send {
            worker,
            handle: Handle::Conn(conn),
            ..
        } => Some((*worker, *conn)),
        _ => None,
    };
    actions.iter().filter_map(offer).collect()
}

pub(crate) fn sent(actions: &[Action]) -> Vec<(WorkerId, ToWorker)> {
    let send = |action: &Action| match action {
        Action::Send { worker, message, .. } => Some((*worker, message.message.clone())),
        _ => None,
    };
    actions.iter().filter_map(send).collect()
}

pub(crate) fn events(actions: &[Action]) -> Vec<Event> {
    let event = |action: &Action| match action {
        Action::Emit(event) => Some(event.clone()),
        _ => None,
    };
    actions.iter().filter_map(event).collect()
}

pub(crate) fn bind(actions: &[Action]) -> Option<ListenerId> {
    actions.iter().find_map(|action| match action {
        Action::Bind { listener, .. } => Some(*listener),
        _ => None,
    })
}

/// Which lanes the kernel gives connections to, if that is said.
pub(crate) fn steered(actions: &[Action]) -> Option<Vec<u32>> {
    actions.iter().find_map(|action| match action {
        Action::Steer { lanes, .. } => Some(lanes.iter().map(|lane| lane.0).collect()),
        _ => None,
    })
}

pub(crate) fn refusals(actions: &[Action]) -> Vec<i32> {
    let refusal = |message: (WorkerId, ToWorker)| match message.1 {
        ToWorker::Refused { errno, .. } => Some(errno),
        _ => None,
    };
    sent(actions).into_iter().filter_map(refusal).collect()
}

pub(crate) fn ignored(actions: &[Action]) -> bool {
    events(actions)
        .iter()
        .any(|event| matches!(event, Event::Ignored { .. }))
}
