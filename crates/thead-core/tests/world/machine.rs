//! A simulated machine: a kernel with backlogs and addresses, Node-like workers behind channels, and a driver that obeys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use thead_core::cluster::{Action, BindSpec, Config, Handle, Input, LeaveBy, LocalAddress, Private, Scheduling};
use thead_core::id::{ConnId, LaneId, ListenerId, WorkerId};
use thead_core::worker::Slot;
use thead_wire::cluster::{Envelope, FromWorker, Query, ToWorker};

use crate::kit::{Host, ip, ms};

/// Random numbers that a seed brings back (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn one_of<T: Clone>(&mut self, things: &[T]) -> Option<T> {
        let at = self.roll(u64::try_from(things.len()).unwrap().max(1));
        things.get(usize::try_from(at).unwrap()).cloned()
    }
}

/// A worker process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// What it has not read.
    inbox: VecDeque<(Envelope<ToWorker>, Handle)>,
    /// What the primary has not read.
    outbox: VecDeque<Envelope<FromWorker>>,
    next_seq: u64,
    asked: BTreeMap<u64, Query>,
    keys: BTreeMap<Arc<str>, Query>,
    /// What it accepts from by itself.
    lanes: BTreeMap<Arc<str>, (ListenerId, LaneId)>,
    serving: BTreeSet<ConnId>,
    pub(crate) hangs: bool,
    /// As with maxConnections reached.
    pub(crate) rejects: bool,
    drains: bool,
    exits: bool,
}

impl Process {
    fn say(&mut self, message: FromWorker) {
        self.outbox.push_back(Envelope {
            seq: Some(self.next_seq),
            message,
        });
        self.next_seq += 1;
    }

    /// As in Node: all servers are closed, and `exitedAfterDisconnect` follows when their connections ended.
    fn close_all(&mut self) {
        self.lanes.clear();
        for key in std::mem::take(&mut self.keys).into_keys() {
            self.say(FromWorker::Close { key: (&*key).into() });
        }
    }
}

#[derive(Debug)]
struct Bound {
    local: LocalAddress,
    streams: bool,
    /// The sockets, each with the clients in its backlog; several where the kernel spreads them.
    sockets: Vec<VecDeque<Client>>,
    /// Which socket each lane is.
    lanes: BTreeMap<LaneId, usize>,
    /// Where the kernel gives connections, and the primary does not accept.
    steered: BTreeSet<usize>,
}

type Client = IpAddr;

impl Bound {
    /// The socket of a lane, made if it was not before. What was bound first is the first lane that is asked for.
    fn lane(&mut self, lane: LaneId) -> usize {
        let next = self.lanes.len();
        let socket = *self.lanes.entry(lane).or_insert(next);
        if socket == self.sockets.len() {
            self.sockets.push(VecDeque::new());
        }
        socket
    }

    /// From a socket that is the primary's to accept from.
    fn accept(&mut self) -> Option<Client> {
        let ours = self
            .sockets
            .iter_mut()
            .enumerate()
            .filter(|(socket, _)| !self.steered.contains(socket));
        ours.map(|(_, backlog)| backlog).find_map(VecDeque::pop_front)
    }
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) dice: Dice,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    kernel: BTreeMap<ListenerId, Bound>,
    binding: Vec<(ListenerId, BindSpec)>,
    reclaiming: Vec<(WorkerId, Vec<ConnId>)>,
    expelled: Vec<WorkerId>,
    /// Where each connection came in, and who took it.
    origin: BTreeMap<ConnId, (LocalAddress, Client)>,
    takers: BTreeMap<ConnId, WorkerId>,
    next_worker: u32,
    next_port: u16,
}

impl Machine {
    pub(crate) fn new(config: Config, dice: Dice) -> Self {
        Self {
            host: Host::new(config),
            dice,
            processes: BTreeMap::new(),
            kernel: BTreeMap::new(),
            binding: Vec::new(),
            reclaiming: Vec::new(),
            expelled: Vec::new(),
            origin: BTreeMap::new(),
            takers: BTreeMap::new(),
            next_worker: 0,
            next_port: 40_000,
        }
    }

    /// Obeys what a step of the primary asks for, then accepts what may be accepted.
    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Bind { listener, spec, .. } => self.binding.push((listener, spec)),
                Action::Unbind { listener } => {
                    self.kernel.remove(&listener).expect("it is bound");
                }
                Action::Steer { listener, lanes } => {
                    let bound = self.kernel.get_mut(&listener).expect("it is bound");
                    bound.steered = lanes.iter().map(|lane| bound.lanes[lane]).collect();
                }
                Action::Send {
                    worker,
                    message,
                    handle,
                } => {
                    if let Handle::Lane(listener, lane) = handle {
                        self.kernel.get_mut(&listener).expect("it is bound").lane(lane);
                    }
                    if let Some(process) = self.processes.get_mut(&worker) {
                        process.inbox.push_back((message, handle));
                    }
                }
                Action::HandBack { worker } => {
                    if let Some(process) = self.processes.get_mut(&worker) {
                        process.drains = true;
                    }
                }
                Action::Reclaim { worker } => {
                    // Sometimes the kernel does not let us, or only in part.
                    let keep = self.dice.roll(3);
                    let Some(process) = self.processes.get_mut(&worker).filter(|_| keep < 2) else {
                        continue;
                    };
                    let mut back = Vec::new();
                    process.inbox.retain(|(_, handle)| match handle {
                        Handle::Conn(conn) if keep == 0 || back.is_empty() => {
                            back.push(*conn);
                            false
                        }
                        _ => true,
                    });
                    self.reclaiming.push((worker, back));
                }
                Action::Expel { worker } => self.expelled.push(worker),
                Action::Release { .. } | Action::Emit(_) => {}
            }
        }
        while let Some((worker, conns)) = self.reclaiming.pop() {
            self.input(Input::Reclaimed { worker, conns });
            // One that was for this worker alone is gone, and leaves room.
            self.accept();
        }
        while let Some(worker) = self.expelled.pop() {
            self.kill(worker);
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        let actions = self.host.input(input);
        self.obey(actions);
    }

    /// The driver's loop over its listeners.
    fn accept(&mut self) {
        for listener in self.kernel.keys().copied().collect::<Vec<_>>() {
            while self.host.primary.may_accept(listener) > 0
                && let Some(bound) = self.kernel.get_mut(&listener)
                && let Some(client) = bound.accept()
            {
                let conn = self.host.conn();
                self.origin.insert(conn, (bound.local.clone(), client));
                let client = Some(client);
                self.input(Input::Accepted { listener, conn, client });
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.host.now + time;
        while let Some(deadline) = self.host.primary.deadline().filter(|deadline| *deadline <= end) {
            let actions = self.host.pass(deadline - self.host.now);
            self.obey(actions);
            self.accept();
        }
        self.host.now = end;
    }

    /// Clients come, to all addresses or to one of them.
    pub(crate) fn connect(&mut self) {
        let listeners: Vec<_> = self.kernel.keys().copied().collect();
        if let Some(listener) = self.dice.one_of(&listeners) {
            let bound = self.kernel.get_mut(&listener).unwrap();
            let clients = if bound.streams { self.dice.roll(6) } else { 0 };
            for _ in 0..clients {
                // A handshake may end long after its lane was steered away from.
                let late = bound.steered.is_empty() || self.dice.chance(10);
                let sockets: Vec<_> = (0..bound.sockets.len())
                    .filter(|socket| late || bound.steered.contains(socket))
                    .collect();
                let socket = self.dice.one_of(&sockets).unwrap();
                let client = [192, 0, 2, u8::try_from(self.dice.roll(20)).unwrap()];
                bound.sockets[socket].push_back(client.into());
            }
        }
        self.accept();
    }

    /// Whoever watches it wants to know how it is.
    pub(crate) fn ask_privately(&mut self, worker: WorkerId) {
        if let Private::At(listener) = self.host.primary.private(worker, 0) {
            let conn = self.host.conn();
            let nowhere = LocalAddress::Ip(([192, 0, 2, 1], 1).into());
            self.origin.insert(conn, (nowhere, [192, 0, 2, 2].into()));
            self.input(Input::Private { worker, listener, conn });
        }
    }

    pub(crate) fn spawn(&mut self, gated: bool) -> WorkerId {
        self.next_worker += 1;
        let worker = WorkerId(self.next_worker);
        let mut process = Process::default();
        process.say(FromWorker::Online);
        self.processes.insert(worker, process);
        let slot = Some(Slot(u32::try_from(self.dice.roll(5)).unwrap()));
        self.input(Input::Joined { worker, gated, slot });
        worker
    }

    pub(crate) fn kill(&mut self, worker: WorkerId) {
        // The channel is read to its end before it is over.
        self.read(worker);
        self.processes.remove(&worker);
        self.input(Input::Gone { worker });
        self.accept();
    }

    pub(crate) fn ask(&mut self, worker: WorkerId, query: Query) {
        if let Some(process) = self.processes.get_mut(&worker).filter(|process| !process.exits) {
            process.asked.insert(process.next_seq, query.clone());
            process.say(FromWorker::QueryServer(Box::new(query)));
        }
    }

    pub(crate) fn close_one(&mut self, worker: WorkerId) {
        if let Some(process) = self.processes.get_mut(&worker)
            && let Some((key, _)) = process.keys.pop_first()
        {
            process.lanes.remove(&key);
            process.say(FromWorker::Close { key: (&*key).into() });
        }
    }

    pub(crate) fn exit_voluntarily(&mut self, worker: WorkerId, with_closes: bool) {
        if let Some(process) = self.processes.get_mut(&worker).filter(|process| !process.exits) {
            process.exits = true;
            if with_closes {
                process.close_all();
            }
            process.say(FromWorker::ExitedAfterDisconnect);
        }
    }

    pub(crate) fn leave(&mut self, worker: WorkerId) {
        let how = if self.dice.chance(50) {
            LeaveBy::Disconnect
        } else {
            LeaveBy::HandBack
        };
        self.input(Input::Leave { worker, how });
        self.accept();
    }

    /// Says something that a worker in its right mind would not.
    pub(crate) fn forge(&mut self, worker: WorkerId) {
        let number = self.dice.roll(40);
        let message = match self.dice.roll(6) {
            // Answering for real what it was never shown is its own affair, but then it cannot serve it too.
            0 => FromWorker::Accepted {
                ack: number + 1_000,
                accepted: true,
            },
            1 => FromWorker::Close {
                key: "127.0.0.1:80:4:undefined#7".into(),
            },
            2 => FromWorker::Online,
            3 => FromWorker::Unknown { act: "newconn".into() },
            4 => FromWorker::QueryServer(Box::default()),
            _ => FromWorker::Listening(Box::default()),
        };
        let seq = self.dice.chance(50).then_some(number);
        self.input(Input::Message {
            worker,
            message: Envelope { seq, message },
        });
    }

    /// Inputs about what is not, or not any more.
    pub(crate) fn confuse(&mut self) {
        let id = self.dice.roll(12);
        let worker = WorkerId(u32::try_from(id).unwrap() + 1_000);
        let input = match id {
            0 => Input::Gone { worker },
            1 => Input::Bound {
                listener: ListenerId(u32::MAX),
                bound: Err(-98),
            },
            2 => Input::Reclaimed {
                worker,
                conns: vec![ConnId(id)],
            },
            3 => Input::Open { worker },
            4 => Input::Leave {
                worker,
                how: LeaveBy::Disconnect,
            },
            5 => Input::HandedBack {
                worker,
                conn: self.host.conn(),
                local: ip("192.0.2.1:1"),
                client: None,
            },
            6 => Input::Accepted {
                listener: ListenerId(u32::MAX),
                conn: self.host.conn(),
                client: None,
            },
            _ => Input::Message {
                worker,
                message: Envelope {
                    seq: Some(1),
                    message: FromWorker::Online,
                },
            },
        };
        self.input(input);
    }

    /// The kernel answers a bind: mostly well.
    pub(crate) fn finish_bind(&mut self, may_fail: bool) {
        if self.binding.is_empty() {
            return;
        }
        let (listener, spec) = self.binding.remove(0);
        self.next_port += 1;
        let any_port = self.next_port;
        let local = match &spec {
            BindSpec::Tcp { host, port, .. } | BindSpec::Udp { host, port, .. } => {
                let port = if *port == 0 { any_port } else { *port };
                let ip = host.ip().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into());
                LocalAddress::Ip((ip, port).into())
            }
            BindSpec::Unix { path, .. } => LocalAddress::Unix(path.as_bytes().into()),
            BindSpec::Fd { fd, .. } => ip(&format!("127.0.0.1:{}", 8_000 + fd)),
        };
        let streams = !matches!(spec, BindSpec::Udp { .. } | BindSpec::Fd { udp: true, .. });
        let in_use = self
            .kernel
            .values()
            .any(|bound| bound.local == local && bound.streams && streams);
        let bound = if in_use || (may_fail && self.dice.chance(10)) {
            Err(-98)
        } else {
            self.kernel.insert(
                listener,
                Bound {
                    local: local.clone(),
                    streams,
                    sockets: vec![VecDeque::new()],
                    lanes: BTreeMap::new(),
                    steered: BTreeSet::new(),
                },
            );
            Ok(local)
        };
        self.input(Input::Bound { listener, bound });
        self.accept();
    }

    /// The driver reads what the worker wrote.
    pub(crate) fn read(&mut self, worker: WorkerId) {
        while let Some(message) = self
            .processes
            .get_mut(&worker)
            .and_then(|process| process.outbox.pop_front())
        {
            self.input(Input::Message { worker, message });
        }
        self.accept();
    }

    /// The worker's event loop turns: it reads up to `messages`, and perhaps ends.
    pub(crate) fn run(&mut self, worker: WorkerId, messages: usize) {
        for _ in 0..messages {
            let Some(process) = self.processes.get_mut(&worker).filter(|process| !process.hangs) else {
                return;
            };
            let Some((message, handle)) = process.inbox.pop_front() else {
                break;
            };
            let seq = message.seq.unwrap();
            match message.message {
                ToWorker::RoundRobin { ack, key, .. } | ToWorker::Shared { ack, key, .. } => {
                    let query = process.asked.remove(&ack).expect("it asked");
                    process.say(FromWorker::Listening(Box::new(query.clone())));
                    if let Handle::Lane(listener, lane) = handle {
                        process.lanes.insert(key.clone(), (listener, lane));
                    }
                    let twice = process.keys.insert(key, query);
                    assert!(twice.is_none(), "Node dies of an assertion");
                }
                ToWorker::Refused { ack, errno, .. } => {
                    // Of a forged query, too.
                    process.asked.remove(&ack);
                    assert!(errno < 0, "Node throws");
                }
                ToWorker::NewConn { key, .. } => {
                    let Handle::Conn(conn) = handle else {
                        panic!("Node throws")
                    };
                    let accepted = process.keys.contains_key(&key) && !process.rejects;
                    process.say(FromWorker::Accepted { ack: seq, accepted });
                    if accepted {
                        process.serving.insert(conn);
                        let before = self.takers.insert(conn, worker);
                        assert_eq!(before, None, "{conn} is served twice");
                    }
                }
                ToWorker::Disconnect => process.close_all(),
                // It ends when its loop turns again.
                ToWorker::Ack { .. } => process.drains = true,
                ToWorker::Unknown { .. } => panic!("{message:?}"),
            }
        }
        self.accept_by_itself(worker, messages);
        self.hand_back(worker);
    }

    /// A worker takes what the kernel gave to its lanes.
    fn accept_by_itself(&mut self, worker: WorkerId, most: usize) {
        let Some(process) = self.processes.get_mut(&worker) else {
            return;
        };
        for (listener, lane) in process.lanes.values() {
            let Some(bound) = self.kernel.get_mut(listener) else {
                continue;
            };
            let socket = bound.lanes[lane];
            for _ in 0..most {
                let Some(client) = bound.sockets[socket].pop_front() else {
                    break;
                };
                let conn = self.host.conn();
                self.origin.insert(conn, (bound.local.clone(), client));
                process.serving.insert(conn);
                self.takers.insert(conn, worker);
            }
        }
    }

    /// A worker that drains gives back what is idle.
    fn hand_back(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.drains) else {
            return;
        };
        let Some(conn) = process.serving.pop_first() else {
            return;
        };
        let (local, client) = self.origin[&conn].clone();
        self.read(worker);
        let back = self.host.conn();
        self.origin.insert(back, (local.clone(), client));
        self.input(Input::HandedBack {
            worker,
            conn: back,
            local,
            client: Some(client),
        });
        self.accept();
    }

    /// Everything that can happen by itself happens, until nothing does.
    pub(crate) fn calm(&mut self) {
        for process in self.processes.values_mut() {
            (process.hangs, process.rejects) = (false, false);
        }
        for _ in 0..2_000 {
            while !self.binding.is_empty() {
                self.finish_bind(false);
            }
            for worker in self.processes.keys().copied().collect::<Vec<_>>() {
                // More than all clients that ever came.
                self.run(worker, 1_000);
                self.read(worker);
            }
            self.pass(ms(50));
            let quiet = |process: &Process| {
                process.inbox.is_empty() && process.outbox.is_empty() && (!process.drains || process.serving.is_empty())
            };
            let rests = self.binding.is_empty() && self.host.primary.deadline().is_none();
            if rests && self.processes.values().all(quiet) {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.host.primary);
    }

    /// Connections in the backlog of stream listeners that somebody could serve by offers.
    pub(crate) fn stranded(&self) -> usize {
        let held = |id: &ListenerId| {
            let mut workers = self.host.laws.workers.values();
            let listener = &self.host.laws.listeners[id];
            listener.scheduling != Scheduling::Shared
                && workers.any(|worker| worker.open && !worker.leaves() && worker.keys.values().any(|held| held == id))
        };
        self.kernel
            .iter()
            .filter(|(id, _)| held(id))
            .flat_map(|(_, bound)| bound.sockets.iter().map(VecDeque::len))
            .sum()
    }

    pub(crate) fn listeners(&self) -> usize {
        self.kernel.len()
    }

    pub(crate) fn was_served(&self, conn: ConnId) -> bool {
        self.takers.contains_key(&conn)
    }

    pub(crate) fn some_worker(&mut self) -> Option<WorkerId> {
        let workers: Vec<_> = self.processes.keys().copied().collect();
        self.dice.one_of(&workers)
    }
}
