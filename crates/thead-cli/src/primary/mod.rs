//! `thead primary`: the process that owns one service's listeners and is the parent of its workers.
//!
//! Control starts it, as the service's user, with a socket on which control comes, again after control was replaced. It ends
//! when the service does. It outlives control.

mod book;
mod clock;
mod data;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use thead::channel::{Handle, Message};
use thead::control::{Event, Outcome, Phase};
use thead::core::service::Event as Life;
use thead::core::worker::Slot;
use thead::service::{OrderError, Reply, Service, ServiceEvent};
use thead::sys::enclosure::Cgroup;
use thead::{Link, ParentEvent};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use book::Book;
use clock::{Clock, Due};
pub(crate) use data::files_dir;
use data::{Heard, Hot, Say};

use crate::config::Name;
use crate::control::PRIMARY_LISTENER;
use crate::launch;
use crate::log::{self, Writer};
use crate::orphans::{self, Collector};
use crate::program::Program;
use crate::report::{Teller, Tone};
use crate::role::{Order, Report, Spec, Status, Work};
use crate::sockets::Bound;
use crate::told::{event, event as event_of};
use crate::wait;

/// How long control may take to say what is to be run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end waits for a disk that does not write.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// Changes that are nearer than this are told together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Low descriptors kept free for what a worker inherits.
const SPAWN_SLOTS: usize = 8;
/// After so long without any life or death, what that took is given back.
const CALM: Duration = Duration::from_secs(1);

/// Runs until the service is over.
pub(crate) fn primary() -> ExitCode {
    let listener = match thead::sys::inherit::inherited(PRIMARY_LISTENER) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("thead: a primary is started by the daemon: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = thead::sys::limit::raise_open_files() {
        eprintln!("thead: the limit of open files stays as it is: {error}");
    }
    thead::sys::spawn::reserve(SPAWN_SLOTS);
    orphans::adopt();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // As in `thead run`: those who make us work go first.
        .on_thread_park(std::thread::yield_now)
        .build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let listener = std::os::unix::net::UnixListener::from(listener);
            listener.set_nonblocking(true)?;
            Box::pin(serve(UnixListener::from_std(listener)?)).await
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thead: primary: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(listener: UnixListener) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the daemon did not say what to run");
    let (link, spec, sockets) = tokio::time::timeout(PATIENCE, begin(&listener))
        .await
        .map_err(|_| late())??;
    let (program, mut options) = match launch::prepare(&spec, &sockets) {
        Ok(prepared) => prepared,
        Err(reason) => return refuse(&link, &spec.name, &reason).await,
    };
    let log = Writer::open(&spec.log_dir, spec.name.as_str(), launch::log_of(&spec.config.log))?;
    options.lines = Some(log.sink());
    let mute = !options.program.command.has_channel();
    // What there is, workers have before their first connection.
    let (mut hot, ready) = match Hot::open(&spec, mute).await {
        Ok(opened) => opened,
        Err(error) => {
            let reason = format!("its data: {}: {error}", spec.data_dir.display());
            return refuse(&link, &spec.name, &reason).await;
        }
    };
    let group = Cgroup::create(&orphans::group_name(spec.name.as_str(), std::process::id())).unwrap_or_default();
    options.program.command = grouped(options.program.command, group.as_ref());
    let mut service = match Service::start(options) {
        Ok(service) => service,
        Err(error) => return refuse(&link, &spec.name, &error.to_string()).await,
    };
    hot.begin(&mut service, ready);
    let mut primary = Primary {
        book: Book::new(spec.generation),
        program: program.clone(),
        works: JoinSet::new(),
        clock: Clock::new(&spec.config.restart),
        renewing: false,
        sockets,
        group,
        log,
        hot,
        service,
        link: Some(link),
        listener,
        told: Instant::now(),
        dirty: true,
        kept: BTreeMap::new(),
        orphans: Collector::default(),
        calm: None,
        spec: *spec,
    };
    for note in &program.notes {
        primary.tell("note", false, note.clone());
    }
    Box::pin(primary.run()).await
}

fn grouped(command: thead::Command, group: Option<&Cgroup>) -> thead::Command {
    match group {
        Some(group) => command.cgroup(group.dir()),
        None => command,
    }
}

/// The first control, and what it wants.
async fn begin(listener: &UnixListener) -> io::Result<(Link, Box<Spec>, Bound)> {
    let mut link = admit(listener).await?;
    while let Some(event) = link.next().await {
        if let Some((message, handles)) = parts(event)
            && let Ok(Order::Begin { spec, sockets }) = message.parse()
        {
            return Ok((link, spec, Bound::received(sockets, handles)));
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon went away"))
}

/// A message, and the descriptors that came with it.
fn parts(event: ParentEvent) -> Option<(Message, Vec<Handle>)> {
    match event {
        ParentEvent::Message { message, .. } => Some((message, Vec::new())),
        ParentEvent::Descriptors { message, descriptors } => Some((message, descriptors)),
        _ => None,
    }
}

/// The next control: root, or the same user.
async fn admit(listener: &UnixListener) -> io::Result<Link> {
    loop {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return Link::over(stream.into_std()?.into());
        }
    }
}

async fn refuse(link: &Link, name: &Name, reason: &str) -> io::Result<()> {
    let mut status = Status {
        over: true,
        ..Status::default()
    };
    status.service.name = name.to_string();
    status.service.phase = Phase::Failed;
    status.service.reason = Some(reason.to_owned());
    let failed = event(
        name.as_str(),
        "failed",
        true,
        format!("cannot be started: {reason}"),
        Value::Null,
    );
    for report in [Report::Event(failed), Report::Status(Box::new(status))] {
        let _ = link.channel().send(&report);
    }
    link.channel().flush().await;
    Ok(())
}

struct Primary {
    spec: Spec,
    service: Service,
    book: Book,
    link: Option<Link>,
    listener: UnixListener,
    /// When control was told last how things are.
    told: Instant,
    /// Something has changed since.
    dirty: bool,
    /// Orders that are being carried out: each ends with its number and what came of it.
    works: JoinSet<(u64, Result<Ended, OrderError>)>,
    /// What the workers run.
    program: Program,
    /// What they are given to listen on.
    sockets: Bound,
    /// Where they are, so that nothing of theirs gets away. `None` where no group can be had.
    group: Option<Cgroup>,
    /// What is due by time.
    clock: Clock,
    /// A worker that was too old is being replaced.
    renewing: bool,
    /// What they print, and what happens to them.
    log: Writer,
    /// What they are pushed.
    hot: Hot,
    /// Limits that workers keep until a reload, by the change that is being made.
    kept: BTreeMap<&'static str, String>,
    orphans: Collector,
    /// When it has been calm for a while, after something had happened.
    calm: Option<Instant>,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Stopped,
    Restarted,
    Reloaded,
    /// Reloaded with a new configuration.
    Changed,
    Configured,
    Scaled(usize),
    Signalled,
    Renewed,
}

enum Happened {
    Service(Option<ServiceEvent>),
    Control(Option<ParentEvent>),
    Came(io::Result<Link>),
    Told(Work),
    Worked(u64, Result<Ended, OrderError>),
    Log(log::Event),
    Data(Heard),
    Due,
    /// Nothing has, for a while.
    Calm,
    Child,
    Time,
}

/// What primaries are told by signals: by a system that goes down, and by control when the channel is gone.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Happened {
        tokio::select! {
            _ = self.terminate.recv() => Happened::Told(Work::Stop { now: false }),
            _ = self.interrupt.recv() => Happened::Told(Work::Stop { now: false }),
            _ = self.hangup.recv() => Happened::Told(Work::Reload { spec: None }),
            _ = self.child.recv() => Happened::Child,
        }
    }
}

impl Primary {
    async fn run(mut self) -> io::Result<()> {
        let mut signals = Signals::new()?;
        loop {
            match self.wait(&mut signals).await {
                Happened::Service(Some(event)) => {
                    if self.hear(&event) {
                        break;
                    }
                }
                Happened::Service(None) => break,
                Happened::Control(Some(event)) => self.obey(event),
                Happened::Control(None) => self.link = None,
                Happened::Came(link) => {
                    // The newest control is the one.
                    self.link = Some(link?);
                    self.report();
                    self.send(&Report::Spec(Box::new(self.spec.clone())));
                    self.show_sockets();
                }
                Happened::Told(work) => self.work(0, work, None),
                Happened::Worked(id, result) => self.worked(id, result),
                Happened::Log(said) => {
                    self.dirty = true;
                    let bad = !matches!(said, log::Event::Recovered { .. });
                    self.tell("log", bad, said.to_string());
                }
                Happened::Data(heard) => self.hear_data(heard),
                Happened::Child => self.collect(),
                Happened::Due => self.replace_what_is_due(),
                Happened::Calm => {
                    self.calm = None;
                    thead::sys::rest::give_back();
                }
                Happened::Time => self.report(),
            }
        }
        self.end().await;
        Ok(())
    }

    async fn wait(&mut self, signals: &mut Signals) -> Happened {
        let time = (self.dirty && self.link.is_some()).then(|| self.told + TOGETHER);
        let looks = self.clock.is_set() && !self.renewing;
        let due = looks.then(|| self.clock.deadline(&self.service.status())).flatten();
        tokio::select! {
            event = self.service.next() => Happened::Service(event),
            event = wait::next(&mut self.link) => Happened::Control(event),
            link = admit(&self.listener) => Happened::Came(link),
            told = signals.next() => told,
            said = self.log.next() => Happened::Log(said),
            heard = self.hot.next() => Happened::Data(heard),
            Some(Ok((id, result))) = self.works.join_next() => Happened::Worked(id, result),
            () = wait::until(time) => Happened::Time,
            () = wait::until(self.orphans.due()) => Happened::Child,
            () = wait::until(due) => Happened::Due,
            () = wait::until(self.calm) => Happened::Calm,
        }
    }

    /// Whether it is over.
    fn hear(&mut self, event: &ServiceEvent) -> bool {
        match event {
            ServiceEvent::Data(event) => {
                self.hot.note(event, &self.service, &self.spec.name);
                self.dirty = true;
                return false;
            }
            ServiceEvent::LimitKept { limit, reason, .. } => drop(self.kept.insert(limit, reason.clone())),
            ServiceEvent::Life(Life::Spawned { worker, .. }) => self.hot.spawned(*worker),
            ServiceEvent::Life(Life::Ready { worker, .. }) => self.hot.ready(*worker, &self.service),
            ServiceEvent::Life(Life::Exited { worker, .. }) => self.hot.ended(*worker),
            _ => {}
        }
        let heard = std::cell::RefCell::new(Vec::new());
        let say = |tone: Tone, text: String, kind: &str, details: Value| {
            // What follows the first line is among the numbers too.
            let text = text.lines().next().unwrap_or_default();
            let event = event_of(self.spec.name.as_str(), kind, tone == Tone::Bad, text, details);
            heard.borrow_mut().push(event);
        };
        let teller = Teller {
            name: self.spec.name.as_str(),
            messages: false,
            say: &say,
        };
        teller.event(&self.service, event, self.book.last_death());
        let over = self.book.note(event);
        self.dirty = true;
        self.calm = Some(Instant::now() + CALM);
        for event in heard.into_inner() {
            self.pass_on(event);
        }
        if let ServiceEvent::Life(Life::Exited { worker, .. }) = event {
            let ended = self.service.status().ended;
            let pid = ended
                .iter()
                .find(|ended| ended.worker == *worker)
                .map(|ended| ended.pid);
            if let Some(pid) = pid {
                let service = &self.service;
                let killed = self.orphans.worker_ended(pid, |pid| service.owns(pid));
                self.tell_killed(killed);
            }
        }
        over
    }

    fn hear_data(&mut self, heard: Heard) {
        match heard {
            Heard::Said(Say::Event {
                kind,
                bad,
                text,
                details,
            }) => self.pass_on(event(self.spec.name.as_str(), kind, bad, text, details)),
            Heard::Said(Say::Written { signal }) => self.hot.written(signal, &self.service),
            Heard::Said(Say::Changed) => self.dirty = true,
            Heard::Said(Say::Open {
                name,
                newest,
                in_force,
                opened,
            }) => {
                if let Err(error) = self.service.open_data(&name, newest, in_force) {
                    return self.tell("data_broken", true, format!("data {name}: cannot be pushed: {error}"));
                }
                // It was closed meanwhile, if nobody waits.
                let _ = opened.send(());
            }
            Heard::Answered(id, answer) => self.send(&Report::Answer { id, answer }),
        }
    }

    fn tell(&mut self, kind: &str, bad: bool, text: String) {
        self.pass_on(event(self.spec.name.as_str(), kind, bad, text, Value::Null));
    }

    fn pass_on(&mut self, event: Event) {
        if !event.text.is_empty() {
            self.log.note(None, event.text.clone());
        }
        self.send(&Report::Event(event));
    }

    fn send(&mut self, report: &Report) {
        // Control that reads too slowly misses news, and gets the next status.
        if let Some(link) = &self.link {
            let _ = link.channel().send(report);
        }
    }

    fn status(&self) -> Status {
        let mut status = self.book.status(self.spec.name.as_str(), &self.service);
        let log = self.log.stats();
        status.service.log = Some(thead::control::Log {
            lines: log.lines,
            bytes: log.bytes,
            dropped_lines: log.dropped_lines,
            put_aside: log.put_aside,
            waiting: log.waiting,
            failing: log.failing,
        });
        status
    }

    fn report(&mut self) {
        if self.link.is_none() {
            return;
        }
        self.told = Instant::now();
        self.dirty = false;
        let status = self.status();
        self.send(&Report::Status(Box::new(status)));
    }

    /// So that they outlive this process too.
    fn show_sockets(&self) {
        let (names, handles) = self.sockets.shared();
        if let Some(link) = &self.link
            && !handles.is_empty()
        {
            let channel = link.channel().clone();
            tokio::spawn(async move { channel.post_descriptors(&Report::Sockets(names), handles).await });
        }
    }

    fn collect(&mut self) {
        let service = &self.service;
        let killed = self.orphans.collect(|pid| service.owns(pid));
        self.tell_killed(killed);
    }

    fn tell_killed(&mut self, killed: Vec<String>) {
        for name in killed {
            let text = format!("killed {name}, which a worker had left behind");
            self.tell("warning", true, text);
        }
    }

    fn obey(&mut self, event: ParentEvent) {
        if matches!(event, ParentEvent::Disconnect { .. }) {
            self.link = None;
        }
        let Some((message, handles)) = parts(event) else { return };
        match message.parse::<Order>() {
            Ok(Order::Work { id, work, sockets }) => {
                let sockets = matches!(work, Work::Reload { spec: Some(_) }).then(|| Bound::received(sockets, handles));
                self.work(id, work, sockets);
            }
            Ok(Order::Data { id, ask }) => {
                if let Some(answer) = self.hot.ask(id, ask, &mut self.service) {
                    self.send(&Report::Answer { id, answer });
                }
            }
            // It runs already.
            Ok(Order::Begin { .. }) => {}
            Err(error) => self.tell("warning", true, format!("control said something unknown: {error}")),
        }
    }

    fn work(&mut self, id: u64, work: Work, sockets: Option<Bound>) {
        let operator = self.service.operator();
        let slot_of = |slot: u32| Slot(slot);
        match work {
            Work::Stop { now: false } => self.await_reply(id, Ended::Stopped, operator.stop()),
            Work::Stop { now: true } => self.await_reply(id, Ended::Stopped, operator.stop_now()),
            Work::Restart { slot: Some(slot) } => {
                self.await_reply(id, Ended::Restarted, operator.restart_worker(slot_of(slot)));
            }
            Work::Restart { slot: None } => match self.resolve(None, None) {
                // Secrets are read anew, and a program is looked for anew.
                Ok(program) => self.await_reply(id, Ended::Restarted, operator.restart(Some(program))),
                Err(reason) => self.answer(id, false, reason, Vec::new()),
            },
            Work::Reload { spec } => {
                let adopted = spec.is_some();
                match self.resolve(spec, sockets) {
                    Ok(program) => {
                        let ended = if adopted { Ended::Changed } else { Ended::Reloaded };
                        self.await_reply(id, ended, operator.reload(Some(program)));
                    }
                    Err(reason) => self.answer(id, false, reason, Vec::new()),
                }
            }
            Work::Change { spec } => {
                let mut settings = match launch::settings_of(&spec, &self.program) {
                    Ok(settings) => settings,
                    Err(reason) => return self.answer(id, false, reason, Vec::new()),
                };
                // What is not configured any more, workers have no more.
                for name in self.spec.config.env.keys() {
                    if spec.config.is_hot(name) && !spec.config.env.contains_key(name) {
                        settings.env.insert(name.clone(), None);
                    }
                }
                self.kept.clear();
                self.log.configure(launch::log_of(&spec.config.log));
                self.clock = Clock::new(&spec.config.restart);
                self.spec = *spec;
                let mute = !launch::has_channel(&self.program, &self.spec.config);
                self.hot.configure(&self.spec, mute, &mut self.service);
                self.await_reply(id, Ended::Configured, operator.configure(settings));
            }
            Work::Scale { instances } => self.await_reply(id, Ended::Scaled(instances), operator.scale(instances)),
            Work::Signal { signal, slot } => {
                let reply = match slot {
                    Some(slot) => operator.signal_worker(slot_of(slot), signal),
                    None => operator.signal(signal),
                };
                self.await_reply(id, Ended::Signalled, reply);
            }
            Work::Tell => {
                self.report();
                self.answer(id, true, "told".into(), Vec::new());
            }
            Work::Reopen => {
                self.log.reopen();
                self.answer(id, true, "opened anew".into(), Vec::new());
            }
        }
    }

    /// The program of a new generation; what else is new takes effect at once.
    fn resolve(&mut self, spec: Option<Box<Spec>>, sockets: Option<Bound>) -> Result<thead::service::Program, String> {
        let spec = spec.map_or_else(|| self.spec.clone(), |spec| *spec);
        let (program, mut made) = launch::resolve(&spec, sockets.as_ref().unwrap_or(&self.sockets))?;
        made.command = grouped(made.command, self.group.as_ref());
        let settings = launch::settings_of(&spec, &program)?;
        settings.life.validate().map_err(|error| error.to_string())?;
        if spec.config != self.spec.config {
            drop(self.service.operator().configure(settings));
            self.log.configure(launch::log_of(&spec.config.log));
            self.clock = Clock::new(&spec.config.restart);
            self.hot
                .configure(&spec, !made.command.has_channel(), &mut self.service);
        }
        self.program = program;
        self.spec = spec;
        self.sockets = sockets.unwrap_or_else(|| std::mem::take(&mut self.sockets));
        Ok(made)
    }

    fn replace_what_is_due(&mut self) {
        let due = self.clock.due(&self.service.status());
        match due {
            None => {}
            Some(Due::Reload) => {
                self.tell("cron", false, "all workers are replaced, as the calendar has it".into());
                self.work(0, Work::Reload { spec: None }, None);
            }
            Some(Due::Renew(slot)) => {
                self.renewing = true;
                let name = &self.spec.name;
                self.tell(
                    "max_age",
                    false,
                    format!("{name}/{slot} is replaced: it is older than max-age"),
                );
                let reply = self.service.operator().renew(slot);
                self.await_reply(0, Ended::Renewed, reply);
            }
        }
    }

    fn await_reply(&mut self, id: u64, ended: Ended, reply: Reply) {
        self.works.spawn(async move { (id, reply.await.map(|_| ended)) });
    }

    fn worked(&mut self, id: u64, result: Result<Ended, OrderError>) {
        if id == 0 {
            self.renewing = false;
        }
        self.dirty = true;
        // Whoever hears the answer and asks then shall see what came of it.
        self.report();
        match result {
            Ok(ended) => {
                let text = match ended {
                    Ended::Stopped => "stopped".to_owned(),
                    Ended::Restarted => "restarted".to_owned(),
                    Ended::Reloaded | Ended::Changed => {
                        let generation = self.book.generation(&self.service);
                        format!("reloaded, generation {generation} serves")
                    }
                    Ended::Configured => self.configured(),
                    Ended::Scaled(1) => "1 worker".to_owned(),
                    Ended::Scaled(instances) => format!("{instances} workers"),
                    Ended::Renewed => "replaced".to_owned(),
                    Ended::Signalled => "signal sent".to_owned(),
                };
                self.answer(id, true, text, Vec::new());
            }
            Err(OrderError::Aborted { cause, last_lines }) => {
                self.answer(id, false, format!("not done: {cause}"), last_lines);
            }
            Err(error) => self.answer(id, false, format!("not done: {error}"), Vec::new()),
        }
    }

    fn configured(&mut self) -> String {
        let mut text = "changed while it runs".to_owned();
        for (limit, reason) in std::mem::take(&mut self.kept) {
            let _ = write!(
                text,
                "; running workers keep their limit of {limit} until a reload: {reason}"
            );
        }
        text
    }

    fn answer(&mut self, id: u64, ok: bool, text: String, last_lines: Vec<String>) {
        let outcome = Outcome {
            service: self.spec.name.to_string(),
            ok,
            text,
            last_lines,
        };
        if id != 0 {
            self.send(&Report::Done { id, outcome });
        }
    }

    /// Leaves nothing behind, and says how it ended.
    async fn end(mut self) {
        let mut status = self.status();
        status.over = true;
        let mut left = match &self.group {
            Some(group) => orphans::kill_in(group, |_| false),
            None => Vec::new(),
        };
        left.extend(orphans::kill_all());
        self.tell_killed(left);
        // The last of what workers printed is on disk before anybody hears that it is over.
        let Self { service, log, link, .. } = self;
        drop(service);
        log.close(LOG_PATIENCE).await;
        let Some(link) = link else { return };
        let _ = link.channel().send(&Report::Status(Box::new(status)));
        let _ = tokio::time::timeout(PATIENCE, link.channel().flush()).await;
    }
}
