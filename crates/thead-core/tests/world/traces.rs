//! Conversations recorded between unmodified workers and Node's own primary, with our primary in its place: the workers say what
//! they said, clients come when they came, and each worker must hear the same from us.

use std::collections::BTreeMap;

use thead_core::cluster::{Action, Config, Handle, Input, LeaveBy, LocalAddress, Scheduling};
use thead_core::id::{ListenerId, WorkerId};
use thead_wire::cluster::{Envelope, FromWorker, ToWorker};

use crate::kit::{Host, bind, ip};

/// What the recorded primary does badly, and we do not: the name of the conversation, and why we say something else.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "node-22-dgram-twice",
        "the second socket gets the key of the first, and the worker dies",
    ),
    ("node-18-dgram-twice", "the key has an index there, a number here"),
    (
        "node-18-err-retry",
        "the index of the attempt that succeeded keeps the second worker from sharing",
    ),
    ("node-18-server-handle", "the primary crashes, we refuse"),
    (
        "node-22-dies-mid-handoff",
        "the connection of the dead worker is stranded, we offer it to the other",
    ),
    (
        "node-22-maxconn",
        "the rejected connection is offered in a loop, we wait a while",
    ),
];

/// One line: a worker, and what it said or heard, or nothing more.
#[derive(Debug)]
struct Step {
    worker: WorkerId,
    event: Recorded,
}

#[derive(Debug)]
enum Recorded {
    Said(Envelope<FromWorker>),
    Heard {
        message: Envelope<ToWorker>,
        descriptor: bool,
    },
    Ended,
}

fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    let mut all = Vec::<(&str, Vec<Step>)>::new();
    for line in include_str!("../fixtures/cluster-traces.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix("= ") {
            all.push((name, Vec::new()));
            continue;
        }
        let (worker, rest) = line.split_once(' ').unwrap();
        let (direction, rest) = rest.split_once(' ').unwrap();
        let body = rest.strip_prefix("fd ").unwrap_or(rest);
        let json = || {
            body.replacen('{', r#"{"cmd":"NODE_CLUSTER","#, 1)
                .replace("<CWD>", "/srv")
                .into_bytes()
        };
        let event = match (direction, body) {
            (">", "end") => Recorded::Ended,
            (">", _) => Recorded::Said(Envelope::<FromWorker>::from_json(&json()).unwrap()),
            _ => Recorded::Heard {
                message: Envelope::<ToWorker>::from_json(&json()).unwrap(),
                descriptor: body.len() < rest.len(),
            },
        };
        all.last_mut().unwrap().1.push(Step {
            worker: WorkerId(worker.parse().unwrap()),
            event,
        });
    }
    all
}

/// A key without what Node 18 appends and with the abstract names that we have.
fn plain(key: &str) -> &str {
    let key = &key[key.find('\0').unwrap_or(0)..];
    let parts: Vec<_> = key.rsplitn(5, ':').collect();
    match parts[..] {
        // index, fd, address type, port, address
        [index, fd, kind, port, _] if port != "0" && matches!(kind, "4" | "6" | "-1" | "null" | "udp4" | "udp6") => {
            let _ = fd;
            &key[..key.len() - index.len() - 1]
        }
        _ => key,
    }
}

/// What a worker heard, as far as it must be the same: no numbers of ours.
fn essence(message: &ToWorker, descriptor: bool) -> String {
    let fd = if descriptor { " with a descriptor" } else { "" };
    match message {
        ToWorker::RoundRobin {
            ack,
            key,
            data,
            sockname,
        } => {
            format!("{ack} round robin {} {data} {sockname:?}{fd}", plain(key))
        }
        ToWorker::Shared { ack, key, data } => format!("{ack} shared {} {data}{fd}", plain(key)),
        // The key means nothing here; ours may have a number.
        ToWorker::Refused { ack, key, errno } => {
            let name = plain(key).split('#').next();
            format!("{ack} refused {name:?} {errno}{fd}")
        }
        ToWorker::NewConn { key, .. } => format!("newconn {}{fd}", plain(key)),
        other => format!("{other:?}{fd}"),
    }
}

/// What the kernel must have answered to the bind for this query, by the reply that the worker got.
fn bound(steps: &[Step], worker: WorkerId, seq: u64, query: &thead_wire::cluster::Query) -> Result<LocalAddress, i32> {
    let reply = steps.iter().find_map(|step| match &step.event {
        Recorded::Heard { message, .. } if step.worker == worker => match &message.message {
            ToWorker::RoundRobin { ack, sockname, .. } if *ack == seq => Some(Ok(sockname.clone())),
            ToWorker::Shared { ack, .. } if *ack == seq => Some(Ok(None)),
            ToWorker::Refused { ack, errno, .. } if *ack == seq => Some(Err(*errno)),
            _ => None,
        },
        _ => None,
    });
    let local = |sockname: Option<Box<thead_wire::cluster::Sockname>>| match (sockname, query.port) {
        (Some(name), _) => LocalAddress::Ip((name.address.parse::<std::net::IpAddr>().unwrap(), name.port).into()),
        (None, Some(-1)) => LocalAddress::Unix(query.address.as_deref().unwrap().as_bytes().into()),
        (None, _) => ip("127.0.0.1:40000"),
    };
    reply.expect("each query was answered").map(local)
}

/// The replay of one conversation, and what each worker hears from us.
struct Replay {
    host: Host,
    heard: BTreeMap<WorkerId, Vec<String>>,
    /// The numbers of a worker's offers, from the recorded primary and from us. The nth there is the nth here, but may be told
    /// earlier or later, since the order of different workers is not recorded.
    offers: BTreeMap<WorkerId, [Vec<u64>; 2]>,
    /// Our keys, by what they are without decoration.
    keys: BTreeMap<String, Box<str>>,
    listeners: BTreeMap<String, ListenerId>,
}

impl Replay {
    fn input(&mut self, input: Input) -> Vec<Action> {
        let actions = self.host.input(input);
        for action in &actions {
            let Action::Send {
                worker,
                message,
                handle,
            } = action
            else {
                continue;
            };
            self.heard
                .entry(*worker)
                .or_default()
                .push(essence(&message.message, *handle != Handle::None));
            match &message.message {
                ToWorker::NewConn { .. } => self.offers.entry(*worker).or_default()[1].push(message.seq.unwrap()),
                ToWorker::RoundRobin { key, .. } | ToWorker::Shared { key, .. } => {
                    self.keys.insert(plain(key).into(), (&**key).into());
                    let listener = self.host.laws.workers[worker].keys[key];
                    self.listeners.insert(plain(key).into(), listener);
                }
                _ => {}
            }
        }
        actions
    }

    fn step(&mut self, step: &Step, rest: &[Step]) {
        let worker = step.worker;
        if !self.host.laws.workers.contains_key(&worker) && !self.heard.contains_key(&worker) {
            self.input(Input::Joined {
                worker,
                gated: false,
                slot: None,
            });
            self.heard.insert(worker, Vec::new());
        }
        match &step.event {
            Recorded::Said(said) => {
                let mut said = said.clone();
                match &mut said.message {
                    FromWorker::Accepted { ack, .. } => {
                        let [theirs, ours] = &self.offers[&worker];
                        let nth = theirs.iter().position(|seq| seq == ack).unwrap();
                        match ours.get(nth) {
                            Some(ours) => *ack = *ours,
                            // Node offers what was just rejected again and again.
                            None => return,
                        }
                    }
                    FromWorker::Close { key } => *key = self.keys[plain(key)].clone(),
                    _ => {}
                }
                let actions = self.input(Input::Message {
                    worker,
                    message: said.clone(),
                });
                if let (Some(listener), FromWorker::QueryServer(query)) = (bind(&actions), &said.message) {
                    let bound = bound(rest, worker, said.seq.unwrap(), query);
                    self.input(Input::Bound { listener, bound });
                }
            }
            Recorded::Heard { message, .. } => match &message.message {
                ToWorker::NewConn { key, .. } => {
                    self.offers.entry(worker).or_default()[0].push(message.seq.unwrap());
                    let count = |of: usize| self.offers.values().map(|offers| offers[of].len()).sum::<usize>();
                    // If not, it is one that comes again.
                    if count(0) > count(1) + self.host.primary.waiting() {
                        let conn = self.host.conn();
                        let listener = self.listeners[plain(key)];
                        self.input(Input::Accepted {
                            listener,
                            conn,
                            client: None,
                        });
                    }
                }
                ToWorker::Disconnect => {
                    self.input(Input::Leave {
                        worker,
                        how: LeaveBy::Disconnect,
                    });
                }
                _ => {}
            },
            Recorded::Ended => {
                self.input(Input::Gone { worker });
            }
        }
    }
}

/// What each worker heard from the recorded primary, and what it hears from us.
fn replay(name: &str, steps: &[Step]) -> [BTreeMap<WorkerId, Vec<String>>; 2] {
    let scheduling = if name.contains("-none-") {
        Scheduling::Shared
    } else {
        Scheduling::RoundRobin
    };
    // Node's window is one.
    let host = Host::new(Config {
        scheduling,
        window: 1,
        ..Config::default()
    });
    let mut replay = Replay {
        host,
        heard: BTreeMap::new(),
        offers: BTreeMap::new(),
        keys: BTreeMap::new(),
        listeners: BTreeMap::new(),
    };
    let mut recorded = BTreeMap::<_, Vec<_>>::new();
    for (at, step) in steps.iter().enumerate() {
        let heard = recorded.entry(step.worker).or_default();
        if let Recorded::Heard { message, descriptor } = &step.event {
            heard.push(essence(&message.message, *descriptor));
        }
        replay.step(step, &steps[at + 1..]);
    }
    [recorded, replay.heard]
}

#[test]
fn workers_hear_from_us_what_they_heard_from_nodes_primary() {
    let mut count = 0;
    for (name, steps) in conversations() {
        if DIFFERENT.iter().all(|(different, _)| *different != name) {
            let [recorded, ours] = replay(name, &steps);
            assert_eq!(ours, recorded, "{name}");
            count += 1;
        }
    }
    assert!(count > 50);
}

#[test]
fn where_we_differ_from_nodes_primary_is_known() {
    let all: BTreeMap<_, _> = conversations().into_iter().collect();
    for (name, why) in DIFFERENT {
        let [recorded, ours] = replay(name, &all[name]);
        assert_ne!(ours, recorded, "{name}: {why}");
    }
}
