//! A service: a cluster that is kept alive, renewed without a gap, and stopped in good order.
//!
//! What is decided is decided in [`thead_core::service`]; here it is done, with real processes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use thead_core::id::{Generation, Ticket, WorkerId};
use thead_core::probe;
use thead_core::service::{AbortCause, Action, Answer, ConfigError, Input, Order};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{SendError, until};
use crate::cluster::{Primary, PrimaryEvent};
use crate::data::push::Pieces;
use crate::notify::NotifySocket;
use crate::output::Sink;

mod event;
mod health;
mod hot;
mod limits;
mod memory;
mod operator;
mod options;
mod status;
mod worker;

pub use event::ServiceEvent;
pub use health::{Prober, Target};
pub use limits::Limits;
pub use operator::{Done, Operator, OrderError, Reply};
pub use options::{Drain, Listen, Options, Program, Settings, Sockets, Variables};
pub use status::{ADDRESSES, Ended, SlotStatus, Status, WorkerStatus};
pub use thead_core::probe::{Config as Watching, Live, Pace, Purpose};
pub use thead_core::restart::{Backoff, Intensity, Policy, Restart};
pub use thead_core::service::{Config as Life, Ready, Reload, Stop};

use health::{News, next_notice};
use memory::Memory;
use operator::{Request, Requests, What};
use worker::{Worker, exit};

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
    requests: Requests,
    memory: Memory,
    /// What programs say of themselves.
    notices: Option<NotifySocket>,
    /// One for each probe and each stuck worker at most.
    news: mpsc::UnboundedSender<News>,
    heard: mpsc::UnboundedReceiver<News>,
    events: VecDeque<ServiceEvent>,
    data: Pieces,
    /// The service stops; until then workers serve on.
    lame_duck: Option<Instant>,
    finished: bool,
}

/// The longest message that can be `ready`, in bytes, in either serialization.
const READY: usize = 32;

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
        let (news, heard) = mpsc::unbounded_channel();
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
            memory: Memory::default(),
            notices: None,
            news,
            heard,
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
            let deadlines = [
                self.machine.deadline().map(Instant::from_std),
                self.lame_duck,
                self.data.deadline(),
                self.watch_deadline(),
                self.memory_deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            tokio::select! {
                request = self.requests.next() => self.take(request),
                Some(event) = self.primary.next() => self.hear(event),
                Some(news) = self.heard.recv() => self.take_news(news),
                notice = next_notice(&mut self.notices) => match notice {
                    Ok(datagram) => self.heed(&datagram),
                    Err(error) => {
                        tracing::warn!(%error, "notices are not read any more");
                        self.notices = None;
                    }
                },
                () = until(deadline) => {}
            }
            if self.lame_duck.is_some_and(|until| Instant::now() >= until) {
                self.lame_duck = None;
                self.close();
            }
            self.machine.advance(now());
            self.data.advance();
            self.advance_watches();
            self.look_at_memory();
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
                    let old = std::mem::replace(&mut self.settings, *settings);
                    self.watch_anew();
                    self.limit_anew(&old.limits);
                    self.tell_env_anew(&old.env);
                }
                (Order::Configure(Box::new(life)), None)
            }
            What::Signal(signal, slot) => {
                let meant = |worker: &Worker| slot.is_none_or(|slot| slot == worker.slot);
                let workers = self.workers.iter().filter(|(_, worker)| meant(worker));
                for id in workers.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.kill(id, signal);
                }
                let _ = reply.send(Ok(self.done(Instant::now())));
                return;
            }
        };
        let ticket = self.next_ticket();
        let ordered = Ordered {
            since: Instant::now(),
            program,
            reply,
        };
        self.orders.insert(ticket, ordered);
        self.machine.input(now(), Input::Order { ticket, order });
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
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
            PrimaryEvent::Beat { worker } => return self.watch(worker, probe::Input::Beat),
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
                let status = exit(status);
                let oom = self.was_out_of_memory(worker, status);
                Input::Exited { worker, status, oom }
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
                Action::Abort { worker } => self.abort(worker),
                Action::Kill { worker } => self.end(worker, libc::SIGKILL),
                Action::Answer { ticket, answer } => self.answer(ticket, answer),
                Action::Emit(event) => {
                    self.watch_event(&event);
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
                    self.events.push_back(ServiceEvent::Finished(outcome));
                }
            }
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
