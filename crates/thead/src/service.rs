//! A service: a cluster that is kept alive, renewed without a gap, and stopped in good order.
//!
//! What is decided is decided in [`thead_core::service`]; here it is done, with real processes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thead_core::cluster::ListenAddress;
use thead_core::id::{Generation, Ticket, WorkerId};
use thead_core::service::{AbortCause, Action, Answer, ConfigError, Event, Input, Order, Outcome};
use thead_core::worker::{Exit, Slot};
use thead_wire::endpoint::ReceivedHandle;
use thead_wire::message::BadMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{Fault, Handle, Message, SendError, until};
use crate::cluster::{Primary, PrimaryEvent};
use crate::command::FIRST_FD;
use crate::data;
use crate::data::push::Pieces;
use crate::output::{Origin, Sink, Stream, Tail};
use crate::stdio::Stdio;
use crate::sys::pidfd::ExitStatus;

mod hot;
mod operator;
mod options;
mod status;

pub use operator::{Done, Operator, OrderError, Reply};
pub use options::{Drain, Listen, Options, Program, Settings, Sockets};
pub use status::{ADDRESSES, Ended, SlotStatus, Status, WorkerStatus};
pub use thead_core::restart::{Backoff, Intensity, Policy, Restart};
pub use thead_core::service::{Config as Life, Ready, Reload, Stop};

use operator::{Request, What};
use status::REMEMBERED;

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
    /// To pushed data.
    Data(data::Event),
    /// It is over. Nothing follows.
    Finished(Outcome),
}

/// A service that runs while [`next`](Self::next) is awaited.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::service::{Options, Program, Service, ServiceEvent};
///
/// let mut options = Options::new(Program::new(thead::Command::fork("server.js")));
/// options.settings.life.instances = 4;
/// let mut service = Service::start(options)?;
/// let operator = service.operator();
/// while let Some(event) = service.next().await {
///     println!("{event:?}");
///     if let ServiceEvent::Listening { .. } = event {
///         operator.reload(None);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    lines: Option<Sink>,
    machine: thead_core::service::Service,
    primary: Primary,
    /// What the generations are that may still be started.
    programs: BTreeMap<Generation, Arc<Program>>,
    workers: HashMap<WorkerId, Worker>,
    /// Newest first.
    ended: VecDeque<Ended>,
    orders: HashMap<Ticket, Ordered>,
    last_ticket: u64,
    operator: Operator,
    requests: mpsc::Receiver<Request>,
    events: VecDeque<ServiceEvent>,
    data: Pieces,
    /// The service stops; until then workers serve on.
    lame_duck: Option<Instant>,
    finished: bool,
}

/// What is given to workers on top of the lame-duck time, so that they take what was accepted at its end.
const LAST_OFFERS: Duration = Duration::from_millis(100);
/// The longest message that can be `ready`, in bytes, in either serialization.
const READY: usize = 32;

/// What a supervisor tells one process by its environment: systemd's variables.
const OUR_OWN: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// A worker whose process has not ended.
#[derive(Debug)]
struct Worker {
    slot: Slot,
    pid: u32,
    program: Arc<Program>,
    /// What it printed last.
    tail: Tail,
    listening: Vec<ListenAddress>,
}

/// An order that was not answered.
#[derive(Debug)]
struct Ordered {
    since: Instant,
    /// What a reload or restart brought.
    program: Option<Box<Program>>,
    reply: oneshot::Sender<operator::Outcome>,
}

impl Service {
    /// Starts the workers.
    ///
    /// # Errors
    /// A setting out of its range. A program that cannot be started is an event.
    pub fn start(options: Options) -> Result<Self, ConfigError> {
        let Options {
            program,
            settings,
            cluster,
            lines,
        } = options;
        let machine = thead_core::service::Service::new(settings.life.clone())?;
        let (operator, requests) = Operator::new();
        let first = machine.generation();
        let mut service = Self {
            settings,
            machine,
            primary: Primary::new(cluster),
            programs: BTreeMap::new(),
            workers: HashMap::new(),
            ended: VecDeque::new(),
            orders: HashMap::new(),
            last_ticket: 0,
            operator,
            requests,
            lines,
            events: VecDeque::new(),
            data: Pieces::default(),
            lame_duck: None,
            finished: false,
        };
        service.adopt(first, program);
        let start = Input::Order {
            ticket: Ticket(service.last_ticket),
            order: Order::Start,
        };
        service.machine.input(now(), start);
        Ok(service)
    }

    /// From now on a generation runs this.
    fn adopt(&mut self, generation: Generation, mut program: Program) {
        // What this process was told by its own supervisor is not for its workers.
        program.command = program.command.env_keep_back(&OUR_OWN);
        if self.lines.is_some() {
            let command = program.command.stdin(Stdio::Null);
            program.command = command.stdout(Stdio::Pipe).stderr(Stdio::Pipe);
        }
        if program.command.has_channel() {
            for (listen, number) in program.listen.iter().zip(FIRST_FD..) {
                if let Sockets::Shared(socket) = &listen.sockets {
                    self.primary.inherit(number, socket.clone());
                }
            }
        }
        self.programs.insert(generation, Arc::new(program));
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
            self.ended
                .iter()
                .find(|ended| ended.worker == worker)
                .map(|ended| ended.last_lines.clone())
        };
        let alive = self.workers.get(&worker).map(|worker| worker.tail.lines());
        alive.or_else(dead).unwrap_or_default()
    }

    /// What the worker had printed last for which a change came to nothing.
    pub fn lines_of(&self, cause: &AbortCause) -> Vec<String> {
        match cause {
            AbortCause::Failed { worker, .. } => self.last_lines(*worker),
            AbortCause::GivenUp { slot, .. } => {
                let failed = self.ended.iter().find(|ended| ended.slot == *slot && !ended.expected);
                failed.map(|ended| ended.last_lines.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
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
            while let Some(event) = self.data.poll_event() {
                self.events.push_back(ServiceEvent::Data(event));
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.finished {
                return None;
            }
            let machine = self.machine.deadline().map(Instant::from_std);
            let deadline = [machine, self.data.deadline(), self.lame_duck]
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
            self.data.advance();
        }
    }

    fn take(&mut self, request: Request) {
        let (what, reply) = match request {
            Request::Order { what, reply } => (what, reply),
            Request::Push { name, content, reply } => return self.data.push(&name, content, reply),
        };
        let (order, program) = match what {
            What::Order(order, program) => (order, program),
            What::ScaleBy(difference) => (Order::Scale(self.instances().saturating_add_signed(difference)), None),
            What::Configure(settings) => {
                let life = settings.life.clone();
                // The machine refuses such a life, and then nothing changes.
                if life.validate().is_ok() {
                    self.settings = *settings;
                }
                (Order::Configure(Box::new(life)), None)
            }
            What::Signal(signal, slot) => {
                for (id, worker) in &self.workers {
                    if slot.is_none_or(|slot| slot == worker.slot) {
                        self.kill(*id, signal);
                    }
                }
                let _ = reply.send(Ok(self.done(Instant::now())));
                return;
            }
        };
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let ordered = Ordered {
            since: Instant::now(),
            program,
            reply,
        };
        self.orders.insert(ticket, ordered);
        self.machine.input(now(), Input::Order { ticket, order });
    }

    fn done(&self, since: Instant) -> Done {
        Done {
            generation: self.machine.generation(),
            took: since.elapsed(),
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(Ordered { since, reply, .. }) = self.orders.remove(&ticket) else {
            return;
        };
        let outcome = match answer {
            Answer::Done => Ok(self.done(since)),
            Answer::Superseded => Err(OrderError::Superseded),
            Answer::Refused(reason) => Err(OrderError::Refused(reason)),
            Answer::Aborted(cause) => Err(OrderError::Aborted {
                last_lines: self.lines_of(&cause),
                cause,
            }),
        };
        // Whoever does not wait does not want to know.
        let _ = reply.send(outcome);
    }

    /// A generation comes into being. Of those before only the last good one may still be started.
    fn begin(&mut self, ticket: Ticket, generation: Generation, base: Generation) {
        self.programs.retain(|known, _| *known == base);
        let brought = self.orders.get_mut(&ticket).and_then(|ordered| ordered.program.take());
        if let Some(program) = brought {
            self.adopt(generation, *program);
        } else if let Some(program) = self.programs.get(&base) {
            self.programs.insert(generation, program.clone());
        }
    }

    fn hear(&mut self, event: PrimaryEvent) {
        let input = match event {
            PrimaryEvent::Online { worker } => {
                self.events.push_back(ServiceEvent::Online { worker });
                Input::Online { worker }
            }
            PrimaryEvent::Listening { worker, address } => {
                if let Some(worker) = self.workers.get_mut(&worker)
                    && worker.listening.len() < ADDRESSES
                    && !worker.listening.contains(&address)
                {
                    worker.listening.push(address.clone());
                }
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
                if handle.is_none() && self.data.hear(worker, &message) {
                    return;
                }
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
                self.data.gone(worker, self.stays(worker));
                self.events
                    .extend(fault.map(|fault| ServiceEvent::Fault { worker, fault }));
                Input::Disconnected { worker }
            }
            PrimaryEvent::Exit { worker, status } => {
                self.data.gone(worker, self.stays(worker));
                Input::Exited {
                    worker,
                    status: exit(status),
                    oom: false,
                }
            }
        };
        self.machine.input(now(), input);
    }

    fn obey(&mut self) {
        while let Some(action) = self.machine.poll() {
            match action {
                Action::Begin {
                    ticket,
                    generation,
                    base,
                } => self.begin(ticket, generation, base),
                Action::Spawn {
                    worker,
                    slot,
                    generation,
                    gated,
                } => self.spawn(worker, slot, generation, gated),
                Action::Open { worker } => self.primary.open(worker),
                Action::Drain { worker, successor } => self.drain(worker, successor),
                Action::Terminate { worker } => self.end(worker, self.settings.stop_signal),
                Action::Abort { worker } => self.end(worker, libc::SIGABRT),
                Action::Kill { worker } => self.end(worker, libc::SIGKILL),
                Action::Answer { ticket, answer } => self.answer(ticket, answer),
                Action::Emit(event) => {
                    self.remember(&event);
                    self.events.push_back(ServiceEvent::Life(event));
                }
                Action::Finish(outcome) => {
                    self.finished = true;
                    // Nobody will serve who connects from here on.
                    self.primary.close_listeners();
                    // Nor will anybody be answered who asks.
                    self.orders.clear();
                    self.requests.close();
                    while self.requests.try_recv().is_ok() {}
                    self.events.push_back(ServiceEvent::Finished(outcome));
                }
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation, gated: bool) {
        let input = match self.try_spawn(worker, slot, generation, gated) {
            Ok((pid, channel)) => Input::Started { worker, pid, channel },
            Err(reason) => Input::SpawnFailed { worker, reason },
        };
        self.machine.input(now(), input);
    }

    fn try_spawn(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        gated: bool,
    ) -> Result<(u32, bool), String> {
        let program = self
            .programs
            .get(&generation)
            .ok_or("its program is not known")?
            .clone();
        let channel = program.command.has_channel();
        let mut command = program.command_for(slot);
        if !channel {
            command = self.with_data(command);
        }
        let forked = self.primary.fork_as(worker, Some(slot), &command, gated);
        let forked = forked.map_err(|error| reason_of(&error))?;
        let mut tail = Tail::default();
        if let Some(lines) = &self.lines {
            for (stream, pipe) in [(Stream::Stdout, forked.stdout), (Stream::Stderr, forked.stderr)] {
                let Some(pipe) = pipe else { continue };
                let from = Origin {
                    worker,
                    slot,
                    pid: forked.pid,
                    stream,
                };
                match tail.capture(from, pipe, lines.clone()) {
                    Ok(capture) => drop(tokio::spawn(capture)),
                    // Closed at once, so that the worker is not held up.
                    Err(error) => tracing::warn!(%worker, %error, "what a worker prints is not read"),
                }
            }
        }
        // The first that it is sent: nothing else has had its channel yet.
        self.data.join(worker, self.primary.channel(worker).cloned());
        let pid = forked.pid;
        let listening = Vec::new();
        self.workers.insert(
            worker,
            Worker {
                slot,
                pid,
                program,
                tail,
                listening,
            },
        );
        Ok((pid, channel))
    }

    /// Keeps what may be asked about one that has ended.
    fn remember(&mut self, event: &Event) {
        let Event::Exited {
            worker: id,
            slot,
            generation,
            status,
            expected,
            failure,
            uptime,
        } = event
        else {
            return;
        };
        let Some(worker) = self.workers.remove(id) else { return };
        self.ended.push_front(Ended {
            worker: *id,
            slot: *slot,
            generation: *generation,
            pid: worker.pid,
            at: SystemTime::now(),
            status: *status,
            expected: *expected,
            failure: failure.clone(),
            uptime: *uptime,
            last_lines: worker.tail.last_lines(),
        });
        if self.ended.len() > REMEMBERED {
            let asked_for = self.ended.iter().rposition(|ended| ended.expected);
            self.ended.remove(asked_for.unwrap_or(REMEMBERED));
        }
    }

    fn drain(&mut self, worker: WorkerId, successor: bool) {
        let Some(drain) = self.workers.get(&worker).map(|worker| worker.program.drain) else {
            return;
        };
        let lame_duck = self.settings.lame_duck;
        if self.settings.stop_message
            && let Some(channel) = self.primary.channel(worker)
        {
            // One whose channel has ended hears the rest of it.
            let _ = channel.send("shutdown");
        }
        match (drain, successor) {
            // The signal is all that can be said to it: what it has to finish, it finishes until it is killed.
            (Drain::Signal, _) => self.machine.input(now(), Input::Drained { worker }),
            (Drain::HandBack, true) => self.primary.hand_back(worker, lame_duck),
            (Drain::Disconnect, true) => self.primary.disconnect(worker),
            (Drain::HandBack, false) => {
                self.primary.lame_duck(worker, lame_duck + LAST_OFFERS);
                self.lame_duck.get_or_insert_with(|| Instant::now() + lame_duck);
            }
            // Nothing tells such a worker's clients to leave, so there is nothing to wait for.
            (Drain::Disconnect, false) => self.lame_duck = Some(Instant::now()),
        }
    }

    /// The end of the lame-duck time.
    fn close(&mut self) {
        self.primary.close_listeners();
        for (id, worker) in &self.workers {
            if worker.program.drain == Drain::Disconnect {
                self.primary.disconnect(*id);
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
