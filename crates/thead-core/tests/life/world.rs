//! A simulated machine: it obeys a `Service` and lets its processes live, talk and die in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use thead_core::id::{Generation, Ticket, WorkerId};
use thead_core::service::{Action, Answer, Config, Event, Input, Order, Outcome, Ready, Service};
use thead_core::worker::{Exit, Phase, Slot};

use crate::laws::Laws;

pub(crate) const KILLED: Exit = Exit::Signal { signal: 9, core: false };
pub(crate) const TERMINATED: Exit = Exit::Signal {
    signal: 15,
    core: false,
};
pub(crate) const ABORTED: Exit = Exit::Signal { signal: 6, core: true };
/// The kernel says so of it; by itself it looks like [`KILLED`].
pub(crate) const OUT_OF_MEMORY: Exit = Exit::Signal { signal: 9, core: true };
pub(crate) const CRASHED: Exit = Exit::Code(1);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// What a process will do, counted from its start. The default is a Node cluster worker as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// From the order to the answer.
    pub(crate) boot: Duration,
    /// The answer is a refusal.
    pub(crate) fails: bool,
    pub(crate) channel: bool,
    pub(crate) online: Option<Duration>,
    pub(crate) listening: Option<Duration>,
    pub(crate) says_ready: Option<Duration>,
    pub(crate) disconnects: Option<Duration>,
    pub(crate) hangs: Option<Duration>,
    pub(crate) exits: Option<(Duration, Exit)>,
    pub(crate) drain: OnDrain,
    /// How long SIGTERM takes; never if it is ignored.
    pub(crate) term: Option<Duration>,
    /// How long SIGKILL takes; never in an uninterruptible sleep.
    pub(crate) kill: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum OnDrain {
    Exits(Duration),
    /// Closes its channel, but something keeps its event loop busy.
    Lingers(Duration),
    /// The driver found that there is nothing to drain.
    Drained(Duration),
    Ignores,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            boot: ms(1),
            fails: false,
            channel: true,
            online: Some(ms(30)),
            listening: Some(ms(50)),
            says_ready: None,
            disconnects: None,
            hangs: None,
            exits: None,
            drain: OnDrain::Exits(ms(100)),
            term: Some(ms(1)),
            kill: Some(ms(1)),
        }
    }
}

impl Program {
    pub(crate) fn healthy() -> Self {
        Self::default()
    }

    /// Crashes this long after its start.
    pub(crate) fn crashing(after: Duration) -> Self {
        Self {
            exits: Some((after, CRASHED)),
            ..Self::default()
        }
    }

    pub(crate) fn silent() -> Self {
        Self {
            listening: None,
            ..Self::default()
        }
    }

    /// A program that knows nothing of Node.
    pub(crate) fn plain() -> Self {
        Self {
            channel: false,
            online: None,
            listening: None,
            ..Self::default()
        }
    }

    /// It does nothing wrong in the eyes of such a configuration.
    pub(crate) fn is_healthy(&self, ready: Ready) -> bool {
        let soon = |after: Option<Duration>| after.is_some_and(|after| after < s(5));
        let gets_ready = match ready {
            Ready::Auto => !self.channel || soon(self.listening),
            Ready::Listening => soon(self.listening),
            Ready::Message => soon(self.says_ready),
            Ready::After(_) => true,
        };
        gets_ready && !self.fails && self.exits.is_none() && self.hangs.is_none() && self.disconnects.is_none()
    }
}

/// Small, seeded, and good enough to play with.
#[derive(Debug)]
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut x = self.0;
        x ^= x >> 33;
        x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^= x >> 33;
        x % sides
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn upto(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.roll(longest.as_micros() as u64 + 1))
    }
}

#[derive(Debug)]
enum Happening {
    Ordered(Order),
    Spawned(WorkerId),
    /// Said by a worker while it lives.
    Said(WorkerId, Input),
    Died(WorkerId, Exit),
}

#[derive(Debug)]
struct Process {
    program: Program,
    runs: bool,
}

/// Who is about to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
}

type Cast = Box<dyn FnMut(Call) -> Program>;

pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) now: Instant,
    start: Instant,
    seed: u64,
    pub(crate) ready_when: Ready,
    /// How much too late the driver may call.
    lag: Duration,
    dice: Dice,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    processes: BTreeMap<WorkerId, Process>,
    cast: Cast,
    laws: Laws,
    pub(crate) events: Vec<(Duration, Event)>,
    /// What is to be done.
    pub(crate) orders: Vec<(Duration, Action)>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) steps: usize,
    tickets: u64,
    answers: BTreeMap<Ticket, (Duration, Answer)>,
}

impl World {
    pub(crate) fn new(config: Config, cast: impl FnMut(Call) -> Program + 'static) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an instant to count from; nothing waits for it"
        )]
        let start = Instant::now();
        Self {
            laws: Laws::new(config.clone()),
            seed: config.seed,
            ready_when: config.ready,
            dice: Dice(config.seed),
            service: Service::new(config).unwrap(),
            now: start,
            start,
            lag: Duration::ZERO,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            processes: BTreeMap::new(),
            cast: Box::new(cast),
            events: Vec::new(),
            orders: Vec::new(),
            outcome: None,
            steps: 0,
            tickets: 0,
            answers: BTreeMap::new(),
        }
    }

    /// A world that was started and has come to rest.
    pub(crate) fn settled(config: Config, cast: impl FnMut(Call) -> Program + 'static) -> Self {
        let mut world = Self::new(config, cast);
        world.order(Order::Start);
        world.rest();
        world
    }

    pub(crate) fn lagging(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self.laws.lag = lag;
        self
    }

    /// From now on, these programs are started.
    pub(crate) fn recast(&mut self, cast: impl FnMut(Call) -> Program + 'static) {
        self.cast = Box::new(cast);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn order(&mut self, order: Order) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.input(Input::Order { ticket, order });
        ticket
    }

    /// What came of an order, and when.
    pub(crate) fn answer(&self, to: Ticket) -> Option<(Duration, Answer)> {
        self.answers.get(&to).cloned()
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.laws.before(self.now, &input);
        self.service.input(self.now, input);
        self.obey();
    }

    pub(crate) fn later(&mut self, delay: Duration, order: Order) {
        self.schedule(delay, Happening::Ordered(order));
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Until nothing is left to happen.
    pub(crate) fn rest(&mut self) {
        let end = self.now + s(7 * 24 * 3600);
        while self.step(end) {}
        assert!(
            self.queue.is_empty() && self.service.deadline().is_none(),
            "it comes to rest"
        );
        self.laws.at_rest();
    }

    fn step(&mut self, end: Instant) -> bool {
        let happening = self.queue.peek().map(|Reverse((at, _))| *at);
        let deadline = self.service.deadline();
        let both = happening.is_some() && happening == deadline;
        let advance = match (happening, deadline) {
            (None, None) => return false,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some(at), Some(deadline)) => deadline < at || (both && self.dice.chance(50)),
        };
        let Some(at) = (if advance { deadline } else { happening }) else {
            return false;
        };
        if at > end {
            return false;
        }
        self.steps += 1;
        if advance {
            let late = self.dice.upto(self.lag);
            self.now = self.now.max(at + late);
            self.service.advance(self.now);
            self.obey();
            return true;
        }
        let Some(Reverse((at, number))) = self.queue.pop() else {
            return false;
        };
        self.now = self.now.max(at);
        let Some(happening) = self.happenings.remove(&number) else {
            return true;
        };
        match happening {
            Happening::Ordered(order) => drop(self.order(order)),
            Happening::Spawned(worker) => self.answer_spawn(worker),
            Happening::Said(worker, input) if self.runs(worker) => self.input(input),
            Happening::Died(worker, status) if self.runs(worker) => {
                self.processes.remove(&worker);
                let oom = status == OUT_OF_MEMORY;
                self.input(Input::Exited { worker, status, oom });
            }
            Happening::Said(..) | Happening::Died(..) => {}
        }
        true
    }

    fn runs(&self, worker: WorkerId) -> bool {
        self.processes.get(&worker).is_some_and(|process| process.runs)
    }

    fn answer_spawn(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else {
            return;
        };
        process.runs = !process.program.fails;
        let program = process.program.clone();
        if program.fails {
            self.processes.remove(&worker);
            return self.input(Input::SpawnFailed {
                worker,
                reason: "no such file or directory".into(),
            });
        }
        let says = [
            (program.online, Input::Online { worker }),
            (program.listening, Input::Listening { worker }),
            (program.says_ready, Input::SaidReady { worker }),
            (program.disconnects, Input::Disconnected { worker }),
            (
                program.hangs,
                Input::Unhealthy {
                    worker,
                    reason: "no heartbeat for 10 s".into(),
                },
            ),
        ];
        for (after, input) in says {
            if let Some(after) = after {
                self.schedule(after, Happening::Said(worker, input));
            }
        }
        if let Some((after, status)) = program.exits {
            self.schedule(after, Happening::Died(worker, status));
        }
        self.input(Input::Started {
            worker,
            pid: 1000 + worker.0,
            channel: program.channel,
        });
    }

    fn schedule(&mut self, delay: Duration, happening: Happening) {
        let number = self.happenings.last_key_value().map_or(0, |(last, _)| last + 1);
        self.queue.push(Reverse((self.now + delay, number)));
        self.happenings.insert(number, happening);
    }

    fn obey(&mut self) {
        while let Some(action) = self.service.poll() {
            self.laws.action(self.now, &action);
            if !matches!(action, Action::Emit(_) | Action::Begin { .. } | Action::Answer { .. }) {
                self.orders.push((self.elapsed(), action.clone()));
            }
            match action {
                Action::Spawn {
                    worker,
                    slot,
                    generation,
                    ..
                } => {
                    let program = (self.cast)(Call {
                        worker,
                        slot,
                        generation,
                    });
                    self.laws.healthy(worker, program.is_healthy(self.ready_when));
                    self.schedule(program.boot, Happening::Spawned(worker));
                    self.processes.insert(worker, Process { program, runs: false });
                }
                Action::Open { .. } => {}
                Action::Drain { worker, .. } => self.drain(worker),
                Action::Terminate { worker } => self.signal(worker, TERMINATED),
                Action::Abort { worker } => self.signal(worker, ABORTED),
                Action::Kill { worker } => self.signal(worker, KILLED),
                Action::Begin { .. } => {}
                Action::Answer { ticket, answer } => {
                    self.answers.insert(ticket, (self.elapsed(), answer));
                }
                Action::Emit(event) => self.events.push((self.elapsed(), event)),
                Action::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
        self.laws.after(self.now, &self.service);
    }

    fn drain(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get(&worker) else {
            return;
        };
        match process.program.drain {
            OnDrain::Exits(after) => self.schedule(after, Happening::Died(worker, Exit::Code(0))),
            OnDrain::Lingers(after) => self.schedule(after, Happening::Said(worker, Input::Disconnected { worker })),
            OnDrain::Drained(after) => self.schedule(after, Happening::Said(worker, Input::Drained { worker })),
            OnDrain::Ignores => {}
        }
    }

    fn signal(&mut self, worker: WorkerId, signal: Exit) {
        let Some(process) = self.processes.get(&worker) else {
            return;
        };
        let after = if signal == KILLED {
            process.program.kill
        } else {
            process.program.term
        };
        if let Some(after) = after {
            self.schedule(after, Happening::Died(worker, signal));
        }
    }

    /// Processes that run, by what the machine knows and the service may not.
    pub(crate) fn running(&self) -> usize {
        self.processes.values().filter(|process| process.runs).count()
    }

    /// Slots and generations of the ready workers.
    pub(crate) fn ready(&self) -> Vec<(u32, u32)> {
        let ready = self.service.workers().filter(|view| view.phase == Phase::Ready);
        let mut ready: Vec<_> = ready.map(|view| (view.slot.0, view.generation.0)).collect();
        ready.sort_unstable();
        ready
    }

    pub(crate) fn spawns(&self) -> usize {
        self.orders
            .iter()
            .filter(|(_, order)| matches!(order, Action::Spawn { .. }))
            .count()
    }

    /// When which order was given to this worker.
    pub(crate) fn told(&self, worker: u32) -> Vec<(Duration, Action)> {
        let id = WorkerId(worker);
        let to = |order: &Action| match order {
            Action::Open { worker } | Action::Drain { worker, .. } => *worker == id,
            Action::Terminate { worker } | Action::Abort { worker } | Action::Kill { worker } => *worker == id,
            Action::Spawn { .. }
            | Action::Begin { .. }
            | Action::Answer { .. }
            | Action::Emit(_)
            | Action::Finish(_) => false,
        };
        self.orders.iter().filter(|(_, order)| to(order)).cloned().collect()
    }

    /// What `pick` wants of the events, and when they were.
    pub(crate) fn seen<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Vec<(Duration, T)> {
        self.events
            .iter()
            .filter_map(|(at, event)| Some((*at, pick(event)?)))
            .collect()
    }

    pub(crate) fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| is(event)).count()
    }
}

impl Drop for World {
    #[expect(clippy::disallowed_macros, reason = "a world that broke a law tells its story")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, at {:?}, the last events:", self.seed, self.elapsed());
            for (at, event) in self.events.iter().rev().take(30).rev() {
                eprintln!("  {at:?} {event:?}");
            }
        }
    }
}
