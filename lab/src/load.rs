//! The load: a process of its own, so that what it costs is not what the servers cost.
//!
//! A *closed* loop has so many clients, each asking again when it has its answer: a server that stalls is asked less, and the
//! time that others would have waited is never counted. An *open* loop asks at a fixed rate, whoever answers, and counts from
//! the moment a request was due: what waits behind a stall is counted too. That is the difference between them, and why the
//! lab has both.
//!
//! The other end ([`crate::measure`]) starts it with a [`Spec`] as its one argument and reads a line of JSON for each
//! [`Phase`]. It ends when its standard input does; till then it keeps its connections, so that they can be counted.

mod client;
mod http;
mod pace;
mod tally;

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use client::Client;
use tally::Tally;
pub use tally::{Failures, Latency};

/// How the load is shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// So many clients, each asking again when it has its answer.
    Closed {
        /// Clients.
        connections: usize,
    },
    /// So many requests a second, over at most so many connections. What finds none free waits, and that is counted.
    Open {
        /// Requests a second.
        rate: u32,
        /// Connections.
        connections: usize,
    },
    /// As `Closed`, until so many requests have been made.
    Count {
        /// Clients.
        connections: usize,
        /// Requests in all.
        requests: u64,
    },
    /// Opens so many connections, asks once on each and keeps them.
    Hold {
        /// Connections.
        connections: usize,
    },
}

impl Shape {
    /// How many connections there are at most.
    pub fn connections(self) -> usize {
        match self {
            Self::Closed { connections }
            | Self::Open { connections, .. }
            | Self::Count { connections, .. }
            | Self::Hold { connections } => connections,
        }
    }
}

/// What to ask whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Who serves.
    pub to: SocketAddrV4,
    /// What is asked for. `{n}` in it becomes the number of the request, from 1.
    pub path: String,
    /// How the load is shaped.
    pub shape: Shape,
    /// Whether a connection is used again; if not, each request says `Connection: close`.
    pub keep_alive: bool,
    /// How long nothing is counted at first.
    pub warm_ms: u64,
    /// How long it is counted; for [`Shape::Hold`] and [`Shape::Count`], how long it may take at most.
    pub run_ms: u64,
    /// How long an answer is waited for.
    pub patience_ms: u64,
    /// The cores to stay on; none for any.
    pub cores: Vec<usize>,
    /// Requests whose number is a multiple of this are slow on purpose: how long they take is not counted, only what they do
    /// to the others. 0 for none.
    pub slow_every: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers that were right, in the time that counts.
    pub answered: u64,
    /// How long that time was, in seconds.
    pub seconds: f64,
    /// How long the answers took.
    pub latency: Latency,
    /// Requests that had none.
    pub failures: Failures,
    /// All answers, those of the warm-up too.
    pub answered_in_all: u64,
    /// Connections that were opened, the warm-up's too.
    pub opened: u64,
    /// Clients that had an answer at all.
    pub clients_served: usize,
    /// Of [`Shape::Hold`]: connections that had an answer and that the server has kept.
    pub held: usize,
}

impl Outcome {
    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 {
            self.answered as f64 / self.seconds
        } else {
            0.0
        }
    }
}

/// What the load tells while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The warm-up is over.
    Measuring,
    /// It is over; connections are kept until standard input ends.
    Measured {
        /// What came of it.
        outcome: Outcome,
    },
}

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Too few descriptors.
    #[error(
        "{wanted} connections need {needed} descriptors, and this process may have {limit}: raise the hard limit (as root: \
         `ulimit -Hn {needed}`, or LimitNOFILE={needed} in a unit, or --ulimit nofile={needed} for a container), or ask for \
         fewer connections (--idle)"
    )]
    Descriptors {
        /// Connections.
        wanted: usize,
        /// Descriptors for them.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// Something that always works did not.
    #[error("the load could not run: {0}")]
    Io(#[from] std::io::Error),
}

/// Raises the limit of open files as far as it goes, for this process and those it starts.
///
/// # Errors
/// The limit is still too low for so many connections.
pub fn raise_descriptors(connections: usize) -> Result<(), LoadError> {
    // Beside the connections: the runtime, the terminal, logs.
    let needed = connections as u64 + 100;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if hard < needed {
        return Err(LoadError::Descriptors {
            wanted: connections,
            needed,
            limit: hard,
        });
    }
    // A limit of millions makes some programs close millions of descriptors when they start a child.
    let soft = limit.current.unwrap_or(u64::MAX).max(needed.max(65_536).min(hard));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(soft),
            maximum: limit.maximum,
        },
    )
    .map_err(|error| LoadError::Io(error.into()))
}

/// Loads a server and tells of it on standard output; returns once standard input ends.
///
/// # Errors
/// Too few descriptors, or a runtime that cannot be made. A server that does not answer is none: that is counted.
pub fn run(spec: &Spec) -> Result<(), LoadError> {
    raise_descriptors(spec.shape.connections())?;
    crate::measure::pin(&spec.cores)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = LocalSet::new();
    clients.block_on(&runtime, async {
        let outcome = load(spec, || tell(&Phase::Measuring)).await?;
        tell(&Phase::Measured { outcome })?;
        // What is sent is nothing; that it ends is the message.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        Ok(())
    })
}

fn tell(phase: &Phase) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, phase)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// What all clients share.
#[derive(Debug)]
struct Common {
    tally: RefCell<Tally>,
    /// The number of the last request.
    number: Cell<u64>,
    /// Whether no further request is to be made.
    over: Cell<bool>,
    patience: Duration,
}

impl Common {
    /// The number of the next request, if there is to be one.
    fn next(&self, last: u64) -> Option<u64> {
        let number = self.number.get() + 1;
        (!self.over.get() && number <= last).then(|| {
            self.number.set(number);
            number
        })
    }
}

/// How long a client that was refused waits before it asks again.
const PAUSE: Duration = Duration::from_millis(10);

/// Loads a server within a [`LocalSet`]; calls `measuring` when the warm-up is over.
async fn load(spec: &Spec, measuring: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<Outcome> {
    let (warm, run) = (Duration::from_millis(spec.warm_ms), Duration::from_millis(spec.run_ms));
    let common = Rc::new(Common {
        tally: RefCell::new(Tally::new(spec.shape.connections(), spec.slow_every)),
        number: Cell::new(0),
        over: Cell::new(false),
        patience: Duration::from_millis(spec.patience_ms),
    });
    // Clients that have ended keep their connection here: a task that has ended would close it.
    let mut clients = Vec::new();
    let started = Instant::now();
    match spec.shape {
        Shape::Closed { connections } | Shape::Count { connections, .. } => {
            let last = if let Shape::Count { requests, .. } = spec.shape {
                requests
            } else {
                u64::MAX
            };
            for index in 0..connections {
                let client = Client::new(spec, index);
                clients.push(tokio::task::spawn_local(closed(Rc::clone(&common), client, last)));
            }
            // Without a warm-up the first request counts, so no client may have begun.
            if !warm.is_zero() {
                tokio::time::sleep(warm).await;
            }
            common.tally.borrow_mut().begin();
            measuring()?;
            if last == u64::MAX {
                tokio::time::sleep(run).await;
            } else {
                let all = async {
                    for client in &mut clients {
                        let _ = client.await;
                    }
                };
                let _ = tokio::time::timeout(run, all).await;
            }
            common.over.set(true);
            common.tally.borrow_mut().end();
        }
        Shape::Open { rate, connections } => {
            let queue = Rc::new(pace::Queue::new());
            for index in 0..connections {
                let client = Client::new(spec, index);
                clients.push(tokio::task::spawn_local(open(
                    Rc::clone(&common),
                    Rc::clone(&queue),
                    client,
                )));
            }
            let counted_from = started + warm;
            // Known from the start: a timer that is late would miss what was due and answered before it.
            common.tally.borrow_mut().begin_from(counted_from);
            let until = counted_from + run;
            let pacer = tokio::task::spawn_local(pace::pace(Rc::clone(&queue), rate, started, until));
            tokio::time::sleep(warm).await;
            measuring()?;
            tokio::time::sleep_until(until.into()).await;
            common.tally.borrow_mut().end();
            pacer.await??;
            // Those that were due in time are waited for, each as long as any other.
            let _ = tokio::time::timeout(common.patience, queue.answered()).await;
            for due in queue.unanswered() {
                common.tally.borrow_mut().gave_up(due);
            }
        }
        Shape::Hold { connections } => {
            // Not all at once: a full queue of the kernel makes clients wait a second for nothing.
            let gate = Rc::new(Semaphore::new(128));
            measuring()?;
            common.tally.borrow_mut().begin();
            for index in 0..connections {
                let client = Client::new(spec, index);
                clients.push(tokio::task::spawn_local(hold(
                    Rc::clone(&common),
                    Rc::clone(&gate),
                    client,
                )));
            }
            let all = async {
                while common.tally.borrow().seen() < connections as u64 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout(run, all).await;
            common.tally.borrow_mut().end();
        }
    }
    let outcome = common.tally.borrow().outcome();
    // What is still under way stays so, and what is held stays open, until this process ends.
    std::mem::forget(clients);
    Ok(outcome)
}

async fn closed(common: Rc<Common>, mut client: Client, last: u64) -> Client {
    while let Some(number) = common.next(last) {
        let begun = Instant::now();
        let result = client.ask(number, begun + common.patience).await;
        let refused = matches!(result, Err(client::Failure::Refused));
        common
            .tally
            .borrow_mut()
            .add(client.index, number, begun, result, client.take_opened());
        if refused {
            tokio::time::sleep(PAUSE).await;
        }
    }
    client
}

async fn open(common: Rc<Common>, queue: Rc<pace::Queue>, mut client: Client) -> Client {
    loop {
        let due = queue.take().await;
        let Some(number) = common.next(u64::MAX) else {
            return client;
        };
        let result = client.ask(number, due + common.patience).await;
        common
            .tally
            .borrow_mut()
            .add(client.index, number, due, result, client.take_opened());
        queue.done(due);
    }
}

async fn hold(common: Rc<Common>, gate: Rc<Semaphore>, mut client: Client) -> Client {
    // Nobody closes it.
    let Ok(permit) = gate.acquire().await else {
        return client;
    };
    let begun = Instant::now();
    let result = client.ask(1, begun + common.patience).await;
    common
        .tally
        .borrow_mut()
        .add(client.index, 1, begun, result, client.take_opened());
    common.tally.borrow_mut().held += usize::from(client.is_connected());
    drop(permit);
    // Ended tasks give back what they own.
    std::future::pending::<()>().await;
    client
}
