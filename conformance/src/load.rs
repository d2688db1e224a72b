//! Load: HTTP/1.1 clients that count what goes wrong, each kind apart.
//!
//! A supervisor is judged by what its clients see while it works, so the client is our own: a library would retry, pool or
//! sum up just what has to be told apart. One [`Load`] is a number of clients that each keep one connection, or open one
//! for each request, until they are told to stop or a bound is reached.

mod connection;
mod latency;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use connection::{Connection, Ending};
pub use latency::Latency;

/// Where the load goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// How a client uses connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One request each, which says `Connection: close`.
    NewConnections,
    /// One after the other on the same connection, as long as the server keeps it.
    KeepAlive,
    /// That many at once on the same connection, written together. What stands behind an answer with
    /// `Connection: close` was not served, as the server said, and is asked again elsewhere.
    Pipelined(usize),
}

/// One kind of request.
#[derive(Debug, Clone)]
pub struct Request {
    path: String,
    body: Option<Vec<u8>>,
}

impl Request {
    /// `GET path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            body: None,
        }
    }

    /// `POST path`. An answer with another body than this one counts as [`Failures::partial`].
    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            body: Some(body.into()),
        }
    }

    fn write(&self, out: &mut Vec<u8>, close: bool) {
        let method = if self.body.is_some() { "POST" } else { "GET" };
        out.extend_from_slice(format!("{method} {} HTTP/1.1\r\nHost: load\r\n", self.path).as_bytes());
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        if let Some(body) = &self.body {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
    }
}

/// What to do: `Load { connections: 40, ..Load::on(target) }.start()`.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// How many clients, each with one connection at a time.
    pub connections: usize,
    /// How they use it.
    pub mode: Mode,
    /// What they ask, each kind as often as its weight says.
    pub mix: Vec<(u32, Request)>,
    /// The longest pause of a client after an answer. Pauses are spread evenly from none to this.
    pub think: Duration,
    /// How long one request may take, with its connection, before it counts as [`Failures::timeout`].
    pub timeout: Duration,
    /// The load ends by itself after this many requests…
    pub max_requests: u64,
    /// …or after this time.
    pub max_time: Duration,
}

impl Load {
    /// 16 clients with keep-alive that get `/` without a pause; 5 s for a request; one minute, a million requests at most.
    pub fn on(target: Target) -> Self {
        Self {
            target,
            connections: 16,
            mode: Mode::KeepAlive,
            mix: vec![(1, Request::get("/"))],
            think: Duration::ZERO,
            timeout: Duration::from_secs(5),
            max_requests: 1_000_000,
            max_time: Duration::from_secs(60),
        }
    }

    /// Starts the clients.
    pub fn start(self) -> Running {
        let shared = Arc::new(Shared {
            budget: AtomicU64::new(self.max_requests),
            answers: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        });
        let load = Arc::new(self);
        let mut clients = JoinSet::new();
        for number in 0..load.connections {
            clients.spawn(Client::new(load.clone(), shared.clone(), number as u64).run());
        }
        Running { shared, clients }
    }

    /// Runs until a bound is reached.
    ///
    /// # Cancel safety
    /// Dropped, it ends the clients and forgets what they counted.
    pub async fn run(self) -> Report {
        self.start().report().await
    }
}

/// A load that is on. Dropping it ends the clients.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    clients: JoinSet<Report>,
}

impl Running {
    /// How many answers there were so far.
    pub fn answers(&self) -> u64 {
        *self.shared.answers.borrow()
    }

    /// Waits until `more` answers have come, counted from now. Ends also when the load does.
    ///
    /// # Cancel safety
    /// It is.
    pub async fn answered(&self, more: u64) {
        let goal = self.answers() + more;
        let mut answers = self.shared.answers.subscribe();
        let mut stop = self.shared.stop.subscribe();
        tokio::select! {
            _ = answers.wait_for(|count| *count >= goal) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Lets each client finish its request, and tells what they saw.
    ///
    /// # Cancel safety
    /// Dropped, it ends the clients and forgets what they counted.
    pub async fn stop(self) -> Report {
        self.shared.stop.send_replace(true);
        self.report().await
    }

    async fn report(mut self) -> Report {
        let mut sum = Report::default();
        while let Some(report) = self.clients.join_next().await {
            match report {
                Ok(report) => sum.add(report),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        sum
    }
}

#[derive(Debug)]
struct Shared {
    budget: AtomicU64,
    answers: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Shared {
    /// Takes up to `wanted` requests from what is left.
    fn take(&self, wanted: usize) -> usize {
        let left = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted as u64))
            })
            .unwrap_or_default();
        left.min(wanted as u64) as usize
    }
}

/// What the clients of a [`Load`] saw.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Complete answers with status 200.
    pub answers: u64,
    /// Connections made.
    pub opened: u64,
    /// Connections that the server announced to end, by `Connection: close`, to a client that wanted to keep them.
    pub closed_politely: u64,
    /// Connections that had ended before the next request was sent. No request was lost by it, and with bad luck one would
    /// have been.
    pub closed_idle: u64,
    /// What went wrong.
    pub failures: Failures,
    /// Answers by worker, as named in the header `x-worker`.
    pub workers: BTreeMap<String, u64>,
    /// How long answers took, from the first byte sent (for a new connection: from its beginning) to the last received.
    pub latency: Latency,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.answers += other.answers;
        self.opened += other.opened;
        self.closed_politely += other.closed_politely;
        self.closed_idle += other.closed_idle;
        self.failures.add(other.failures);
        for (worker, answers) in other.workers {
            *self.workers.entry(worker).or_default() += answers;
        }
        self.latency.add(&other.latency);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} answers, {} opened, {} closed politely, {} closed idle; failures: {}; p50 {:?}, p99 {:?}; by worker {:?}",
            self.requests,
            self.answers,
            self.opened,
            self.closed_politely,
            self.closed_idle,
            self.failures,
            self.latency.quantile(0.5),
            self.latency.quantile(0.99),
            self.workers,
        )
    }
}

/// Requests that got no proper answer, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Nobody listened.
    pub refused: u64,
    /// Reset before the first byte of the first answer on a connection.
    pub reset_fresh: u64,
    /// End of file there.
    pub eof_fresh: u64,
    /// Reset before the first byte of a later answer.
    pub reset_reused: u64,
    /// End of file there.
    pub eof_reused: u64,
    /// The answer began and did not end, was not HTTP, or its body was wrong.
    pub partial: u64,
    /// A complete answer with another status than 200, or one that nobody had asked for.
    pub status: u64,
    /// Nothing within [`Load::timeout`].
    pub timeout: u64,
    /// Our own fault: no descriptors or no ports left. The server was not tested.
    pub local: u64,
}

impl Failures {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.classes().iter().map(|(_, count)| count).sum()
    }

    fn classes(&self) -> [(&'static str, u64); 9] {
        [
            ("refused", self.refused),
            ("reset on fresh", self.reset_fresh),
            ("end of file on fresh", self.eof_fresh),
            ("reset on reused", self.reset_reused),
            ("end of file on reused", self.eof_reused),
            ("partial", self.partial),
            ("status", self.status),
            ("timeout", self.timeout),
            ("local", self.local),
        ]
    }

    fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.reset_fresh += other.reset_fresh;
        self.eof_fresh += other.eof_fresh;
        self.reset_reused += other.reset_reused;
        self.eof_reused += other.eof_reused;
        self.partial += other.partial;
        self.status += other.status;
        self.timeout += other.timeout;
        self.local += other.local;
    }

    fn count(&mut self, ending: Ending, reused: bool) {
        *match ending {
            Ending::Refused => &mut self.refused,
            Ending::Reset if reused => &mut self.reset_reused,
            Ending::Reset => &mut self.reset_fresh,
            Ending::Eof if reused => &mut self.eof_reused,
            Ending::Eof => &mut self.eof_fresh,
            Ending::Partial => &mut self.partial,
            Ending::Timeout => &mut self.timeout,
            Ending::Local => &mut self.local,
        } += 1;
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (class, count) in self.classes().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {class}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

/// One client: its connection, and what it saw.
struct Client {
    load: Arc<Load>,
    shared: Arc<Shared>,
    random: Random,
    connection: Option<Connection>,
    report: Report,
}

impl Client {
    fn new(load: Arc<Load>, shared: Arc<Shared>, number: u64) -> Self {
        Self {
            load,
            shared,
            random: Random(number),
            connection: None,
            report: Report::default(),
        }
    }

    async fn run(mut self) -> Report {
        let end = Instant::now() + self.load.max_time;
        let mut stop = self.shared.stop.subscribe();
        let depth = if let Mode::Pipelined(depth) = self.load.mode {
            depth.max(1)
        } else {
            1
        };
        while !*stop.borrow() && Instant::now() < end {
            let requests: Vec<_> = (0..self.shared.take(depth))
                .map(|_| self.random.pick(&self.load.mix))
                .collect();
            if requests.is_empty() {
                break;
            }
            let failures = self.report.failures.total();
            self.ask(requests).await;
            // A server that refuses everything must not be asked as fast as we can.
            let failed = self.report.failures.total() > failures;
            let pause = self
                .random
                .pause(self.load.think)
                .max(Duration::from_millis(if failed { 10 } else { 0 }));
            if pause > Duration::ZERO {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
        }
        // Whoever waits for more answers should not wait for ever.
        self.shared.stop.send_replace(true);
        self.report
    }

    /// Sends requests and gets their answers, on a new connection if there is none.
    async fn ask(&mut self, requests: Vec<Request>) {
        let started = Instant::now();
        let deadline = started + self.load.timeout;
        if let Some(connection) = &mut self.connection {
            match connection.unasked() {
                Some(Ending::Partial) => {
                    self.report.failures.status += 1;
                    self.connection = None;
                }
                Some(_) => {
                    self.report.closed_idle += 1;
                    self.connection = None;
                }
                None => {}
            }
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => match Connection::open(&self.load.target, deadline).await {
                Ok(connection) => {
                    self.report.opened += 1;
                    self.connection.insert(connection)
                }
                Err(ending) => {
                    self.report.requests += requests.len() as u64;
                    requests.iter().for_each(|_| self.report.failures.count(ending, false));
                    return;
                }
            },
        };

        let close = self.load.mode == Mode::NewConnections;
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.write(&mut bytes, close));
        connection.send(bytes);
        let mut keep = !close;
        for (n, request) in requests.iter().enumerate() {
            match connection.receive(deadline).await {
                Ok(answer) => {
                    self.report.requests += 1;
                    let wrong = request.body.as_ref().is_some_and(|body| *body != answer.body);
                    if answer.status != 200 {
                        self.report.failures.status += 1;
                    } else if wrong {
                        self.report.failures.partial += 1;
                    } else {
                        self.report.answers += 1;
                        self.report.latency.record(started.elapsed());
                        if let Some(worker) = answer.worker {
                            *self.report.workers.entry(worker).or_default() += 1;
                        }
                        self.shared.answers.send_modify(|answers| *answers += 1);
                    }
                    if answer.close && !close {
                        self.report.closed_politely += 1;
                        keep = false;
                        break;
                    }
                }
                Err(ending) => {
                    // What stands behind it is lost as well, and had not even begun.
                    let rest = if ending == Ending::Partial { Ending::Eof } else { ending };
                    self.report.requests += (requests.len() - n) as u64;
                    self.report.failures.count(ending, connection.reused());
                    requests[n + 1..]
                        .iter()
                        .for_each(|_| self.report.failures.count(rest, true));
                    keep = false;
                    break;
                }
            }
        }
        if !keep {
            self.connection = None;
        }
    }
}

/// Numbers that spread load; the same in each run.
struct Random(u64);

impl Random {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick(&mut self, mix: &[(u32, Request)]) -> Request {
        let total: u64 = mix.iter().map(|(weight, _)| u64::from(*weight)).sum();
        assert!(total > 0, "a load needs a request to send");
        let mut at = self.next() % total;
        for (weight, request) in mix {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return request.clone(),
            }
        }
        unreachable!("at is less than the sum of the weights")
    }

    fn pause(&mut self, longest: Duration) -> Duration {
        longest.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}
