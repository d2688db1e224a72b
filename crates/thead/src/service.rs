//! A service: a cluster that is kept alive, renewed without a gap, and stopped in good order.
//!
//! What is decided is decided in [`thead_core::service`]; here it is done, with real processes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use thead_core::cluster::ListenAddress;
use thead_core::id::WorkerId;
use thead_core::service::{Action, ConfigError, Event, Input, Outcome};
use thead_core::worker::{Exit, Slot};
use thead_wire::endpoint::ReceivedHandle;
use thead_wire::message::BadMessage;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::channel::{Fault, Handle, Message, SendError, until};
use crate::cluster::{Primary, PrimaryEvent};
use crate::command::Command;
use crate::output::{Line, Stream, Tail};
use crate::stdio::Stdio;
use crate::sys::pidfd::ExitStatus;

pub use thead_core::restart::{Backoff, Intensity, Policy, Restart};
pub use thead_core::service::{Config as Life, Ready, Reload, Stop};

/// How a worker is asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// By thead's preload, which gives idle connections back. The command must inject it; see [`crate::preload`].
    HandBack,
    /// By the cluster's `disconnect`.
    #[default]
    Disconnect,
    /// By the stop signal.
    Signal,
}

/// What a service is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What each worker runs.
    pub command: Command,
    /// How many, how they are restarted, reloaded and stopped.
    pub life: Life,
    /// Who gets which connection.
    pub cluster: crate::cluster::Config,
    /// How workers are asked to leave.
    pub drain: Drain,
    /// How long workers with the preload answer with `Connection: close` before they close idle connections that cannot be
    /// given to another worker. When the service stops they go on serving for so long before the listeners are closed.
    pub lame_duck: Duration,
    /// Asks a worker to stop. Default SIGTERM.
    pub stop_signal: i32,
    /// Where what workers print goes; `None` leaves them the streams of this process.
    pub lines: Option<mpsc::Sender<Line>>,
}

impl Options {
    /// A service of one worker.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            life: Life::default(),
            cluster: crate::cluster::Config::default(),
            drain: Drain::default(),
            lame_duck: Duration::from_secs(1),
            stop_signal: libc::SIGTERM,
            lines: None,
        }
    }
}

/// Something that happened in a service.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// To a worker or to the service as a whole.
    Life(Event),
    /// A Node worker's runtime is up.
    Online {
        /// Who.
        worker: WorkerId,
    },
    /// A worker listens.
    Listening {
        /// Who.
        worker: WorkerId,
        /// On what.
        address: ListenAddress,
    },
    /// A worker could not listen.
    ListenFailed {
        /// Who.
        worker: WorkerId,
        /// What it asked for.
        address: ListenAddress,
        /// The negative errno.
        errno: i32,
    },
    /// A worker's program sent a message.
    Message {
        /// Who.
        worker: WorkerId,
        /// What.
        message: Message,
        /// The handle that came with it.
        handle: Option<ReceivedHandle<Handle>>,
    },
    /// A worker sent something that is no message.
    BadMessage {
        /// Who.
        worker: WorkerId,
        /// What is wrong with it.
        error: BadMessage,
    },
    /// A worker broke the protocol and has lost its channel; it will be ended.
    Fault {
        /// Who.
        worker: WorkerId,
        /// What it did.
        fault: Fault,
    },
    /// It is over. Nothing follows.
    Finished(Outcome),
}

/// Tells a running [`Service`] what to do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Operator {
    requests: mpsc::Sender<Request>,
}

/// Requests that may wait until the service takes them.
const REQUESTS: usize = 64;

#[derive(Debug)]
enum Request {
    Reload,
    Scale(usize),
    ScaleBy(isize),
    Stop,
    StopNow,
    Signal(i32),
}

impl Operator {
    /// Replaces all workers by new ones, new before old.
    pub fn reload(&self) {
        self.request(Request::Reload);
    }

    /// Changes the number of workers.
    pub fn scale(&self, instances: usize) {
        self.request(Request::Scale(instances));
    }

    /// Adds workers, or takes some away.
    pub fn scale_by(&self, difference: isize) {
        self.request(Request::ScaleBy(difference));
    }

    /// Drains and stops.
    pub fn stop(&self) {
        self.request(Request::Stop);
    }

    /// Kills everything now.
    pub fn stop_now(&self) {
        self.request(Request::StopNow);
    }

    /// Sends a signal to every worker.
    pub fn signal(&self, signal: i32) {
        self.request(Request::Signal(signal));
    }

    fn request(&self, request: Request) {
        // One more than 64 that nobody has looked at is an operator that leans on the key.
        let _ = self.requests.try_send(request);
    }
}

/// A service that runs while [`next`](Self::next) is awaited.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::service::{Options, Service, ServiceEvent};
///
/// let mut options = Options::new(thead::Command::fork("server.js"));
/// options.life.instances = 4;
/// let mut service = Service::start(options)?;
/// let operator = service.operator();
/// while let Some(event) = service.next().await {
///     println!("{event:?}");
///     if let ServiceEvent::Listening { .. } = event {
///         operator.reload();
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Service {
    options: Options,
    machine: thead_core::service::Service,
    primary: Primary,
    /// What each living worker printed last.
    workers: HashMap<WorkerId, Tail>,
    /// Of workers that have ended, for as long as their death may be asked about.
    last: VecDeque<(WorkerId, Vec<String>)>,
    operator: Operator,
    requests: mpsc::Receiver<Request>,
    events: VecDeque<ServiceEvent>,
    /// The service stops; until then workers serve on.
    lame_duck: Option<Instant>,
    finished: bool,
}

/// What is given to workers on top of the lame-duck time, so that they take what was accepted at its end.
const LAST_OFFERS: Duration = Duration::from_millis(100);
/// The longest message that can be `ready`, in bytes, in either serialization.
const READY: usize = 32;
/// Dead workers whose last lines are kept.
const KEPT_TAILS: usize = 16;

impl Service {
    /// Starts the workers.
    ///
    /// # Errors
    /// A setting out of its range. A program that cannot be started is an event.
    pub fn start(mut options: Options) -> Result<Self, ConfigError> {
        let mut machine = thead_core::service::Service::new(options.life.clone())?;
        machine.input(now(), Input::Start);
        if options.lines.is_some() {
            options.command = options
                .command
                .stdin(Stdio::Null)
                .stdout(Stdio::Pipe)
                .stderr(Stdio::Pipe);
        }
        let (requests, taken) = mpsc::channel(REQUESTS);
        Ok(Self {
            machine,
            primary: Primary::new(options.cluster.clone()),
            options,
            workers: HashMap::new(),
            last: VecDeque::new(),
            operator: Operator { requests },
            requests: taken,
            events: VecDeque::new(),
            lame_duck: None,
            finished: false,
        })
    }

    /// Gives orders to this service.
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// How many workers are wanted.
    pub fn instances(&self) -> usize {
        self.machine.instances()
    }

    /// Whether a process that is not collected yet is one of its workers.
    pub fn owns(&self, pid: u32) -> bool {
        self.primary.owns(pid)
    }

    /// The last lines that a worker printed, oldest first, also of one that died lately. Empty without
    /// [`Options::lines`].
    pub fn last_lines(&self, worker: WorkerId) -> Vec<String> {
        let dead = || {
            self.last
                .iter()
                .find(|(id, _)| *id == worker)
                .map(|(_, lines)| lines.clone())
        };
        let alive = self.workers.get(&worker).map(Tail::lines);
        alive.or_else(dead).unwrap_or_default()
    }

    /// How many connections were moved from leaving workers to others.
    pub fn handed_back(&self) -> u64 {
        self.primary.handed_back()
    }

    /// Sends a message to a worker's program.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Closed`] also if there is no such worker.
    pub fn send<T: serde::Serialize + ?Sized>(&self, worker: WorkerId, message: &T) -> Result<(), SendError> {
        self.primary.channel(worker).ok_or(SendError::Closed)?.send(message)
    }

    /// Does the work of the service until something happened; `None` after [`ServiceEvent::Finished`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        loop {
            self.obey();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.finished {
                return None;
            }
            let deadline = [self.machine.deadline().map(Instant::from_std), self.lame_duck]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                Some(request) = self.requests.recv() => self.take(request),
                Some(event) = self.primary.next() => self.hear(event),
                () = until(deadline) => {}
            }
            if self.lame_duck.is_some_and(|until| Instant::now() >= until) {
                self.lame_duck = None;
                self.close();
            }
            self.machine.advance(now());
        }
    }

    fn take(&mut self, request: Request) {
        let input = match request {
            Request::Reload => Input::Reload,
            Request::Scale(instances) => Input::Scale(instances),
            Request::ScaleBy(difference) => Input::Scale(self.instances().saturating_add_signed(difference)),
            Request::Stop => Input::Stop,
            Request::StopNow => Input::StopNow,
            Request::Signal(signal) => {
                for worker in self.workers.keys() {
                    self.kill(*worker, signal);
                }
                return;
            }
        };
        self.machine.input(now(), input);
    }

    fn hear(&mut self, event: PrimaryEvent) {
        let input = match event {
            PrimaryEvent::Online { worker } => {
                self.events.push_back(ServiceEvent::Online { worker });
                Input::Online { worker }
            }
            PrimaryEvent::Listening { worker, address } => {
                self.events.push_back(ServiceEvent::Listening { worker, address });
                Input::Listening { worker }
            }
            PrimaryEvent::ListenFailed { worker, address, errno } => {
                return self
                    .events
                    .push_back(ServiceEvent::ListenFailed { worker, address, errno });
            }
            PrimaryEvent::Message {
                worker,
                message,
                handle,
            } => {
                // No other message is looked into, so none costs more for being large.
                let ready = message.raw().len() <= READY && message.parse::<String>().is_ok_and(|text| text == "ready");
                self.events.push_back(ServiceEvent::Message {
                    worker,
                    message,
                    handle,
                });
                if !ready {
                    return;
                }
                Input::SaidReady { worker }
            }
            // A service has no use for them.
            PrimaryEvent::Descriptors { .. } => return,
            PrimaryEvent::BadMessage { worker, error } => {
                return self.events.push_back(ServiceEvent::BadMessage { worker, error });
            }
            PrimaryEvent::Disconnect { worker, fault } => {
                self.events
                    .extend(fault.map(|fault| ServiceEvent::Fault { worker, fault }));
                Input::Disconnected { worker }
            }
            PrimaryEvent::Exit { worker, status } => {
                if let Some(tail) = self.workers.remove(&worker) {
                    self.last.push_front((worker, tail.last_lines()));
                    self.last.truncate(KEPT_TAILS);
                }
                Input::Exited {
                    worker,
                    status: exit(status),
                }
            }
        };
        self.machine.input(now(), input);
    }

    fn obey(&mut self) {
        while let Some(action) = self.machine.poll() {
            match action {
                Action::Spawn {
                    worker, slot, gated, ..
                } => self.spawn(worker, slot, gated),
                Action::Open { worker } => self.primary.open(worker),
                Action::Drain { worker, successor } => self.drain(worker, successor),
                Action::Terminate { worker } => self.end(worker, self.options.stop_signal),
                Action::Abort { worker } => self.end(worker, libc::SIGABRT),
                Action::Kill { worker } => self.end(worker, libc::SIGKILL),
                Action::Emit(event) => self.events.push_back(ServiceEvent::Life(event)),
                Action::Finish(outcome) => {
                    self.finished = true;
                    // Nobody will serve who connects from here on.
                    self.primary.close_listeners();
                    self.events.push_back(ServiceEvent::Finished(outcome));
                }
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, gated: bool) {
        let input = match self.primary.fork_as(worker, Some(slot), &self.options.command, gated) {
            Ok(forked) => {
                let mut tail = Tail::default();
                if let Some(lines) = &self.options.lines {
                    for (stream, pipe) in [(Stream::Stdout, forked.stdout), (Stream::Stderr, forked.stderr)] {
                        let Some(pipe) = pipe else { continue };
                        match tail.capture(worker, stream, pipe, lines.clone()) {
                            Ok(capture) => drop(tokio::spawn(capture)),
                            // Closed at once, so that the worker is not held up.
                            Err(error) => tracing::warn!(%worker, %error, "what a worker prints is not read"),
                        }
                    }
                }
                self.workers.insert(worker, tail);
                Input::Started {
                    worker,
                    pid: forked.pid,
                    channel: self.options.command.has_channel(),
                }
            }
            Err(error) => Input::SpawnFailed {
                worker,
                reason: reason_of(&error),
            },
        };
        self.machine.input(now(), input);
    }

    fn drain(&mut self, worker: WorkerId, successor: bool) {
        match (self.options.drain, successor) {
            (Drain::Signal, _) => self.end(worker, self.options.stop_signal),
            (Drain::HandBack, true) => self.primary.hand_back(worker, self.options.lame_duck),
            (Drain::Disconnect, true) => self.primary.disconnect(worker),
            (Drain::HandBack, false) => {
                self.primary.lame_duck(worker, self.options.lame_duck + LAST_OFFERS);
                self.lame_duck
                    .get_or_insert_with(|| Instant::now() + self.options.lame_duck);
            }
            // Nothing tells such a worker's clients to leave, so there is nothing to wait for.
            (Drain::Disconnect, false) => self.lame_duck = Some(Instant::now()),
        }
    }

    /// The end of the lame-duck time.
    fn close(&mut self) {
        self.primary.close_listeners();
        if self.options.drain == Drain::Disconnect {
            for worker in self.workers.keys() {
                self.primary.disconnect(*worker);
            }
        }
    }

    /// It gets nothing new, and a signal.
    fn end(&mut self, worker: WorkerId, signal: i32) {
        self.primary.retire(worker);
        self.kill(worker, signal);
    }

    fn kill(&self, worker: WorkerId, signal: i32) {
        // One that has just ended cannot be told anything; its exit is on its way.
        let _ = self.primary.kill(worker, signal);
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal { signal, core } => Exit::Signal { signal, core },
    }
}

fn reason_of(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
