//! One service as control has it: its configuration, whether it should run, and its primary.
//!
//! A primary lives as long as the service runs. It listens on a socket whose file control keeps, so that the next control
//! finds it again when this one is gone.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use thead::channel::Handle as Passed;
use thead::control::{Exit, Outcome, Phase, Problem, Service};
use thead::{Child, Command, ExitStatus, Link, ParentEvent, Stdio};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::state::Saved;
use crate::config::Name;
use crate::config::plan::Effect;
use crate::role::{Ask, Order, Report, Spec, Status, Work};
use crate::sockets::{Bound, Names};
use crate::told::{event, problem};
use crate::wait;

/// What others may know of a service.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) saved: Arc<Saved>,
    pub(crate) service: Service,
    pub(crate) exits: Vec<Exit>,
}

/// What a service is told to do. Each is answered once.
pub(crate) enum Task {
    /// Run, once those it waits for are ready.
    Start { after: Vec<(Name, watch::Receiver<View>)> },
    /// Be so configured from now on.
    Configure { saved: Box<Saved>, effect: Effect },
    /// What its primary does.
    Work(Work),
    /// What its primary knows or does about its data. The answer comes by itself, and the other reply says nothing.
    Data(Ask, oneshot::Sender<Answer>),
}

/// What is answered about data.
pub(crate) type Answer = Result<serde_json::Value, Problem>;

pub(crate) type Reply = oneshot::Sender<Outcome>;

/// What others hold of a service.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) name: Name,
    commands: mpsc::Sender<(Task, Reply)>,
    pub(crate) view: watch::Receiver<View>,
}

/// Orders that one service may have waiting; whoever orders more waits.
const ORDERS: usize = 64;
/// Delays between the deaths of a primary and its replacement: each is twice the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A primary that lived for so long had no trouble.
const LIVED_WELL: Duration = Duration::from_secs(30);
/// What a primary may take beyond what its workers may, until it is killed.
const GRACE: Duration = Duration::from_secs(5);

impl Handle {
    /// Begins the care for a service. It is not started, but found again if its primary lives.
    pub(crate) fn new(shared: Arc<Shared>, saved: Saved) -> Self {
        let (commands, taken) = mpsc::channel(ORDERS);
        let name = saved.name.clone();
        let service = Service::default();
        let (publish, view) = watch::channel(View {
            saved: Arc::new(saved.clone()),
            service,
            exits: Vec::new(),
        });
        let care = Care {
            shared,
            saved: Arc::new(saved),
            commands: taken,
            view: publish,
            run: Run::Idle,
            status: Status::default(),
            starting: Vec::new(),
            stopping: Vec::new(),
            pending: HashMap::new(),
            asked: HashMap::new(),
            last_id: 0,
            failures: 0,
            sockets: Bound::default(),
        };
        tokio::spawn(care.run());
        Self { name, commands, view }
    }

    /// Asks its primary about its data, and waits for the answer.
    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        let (reply, answer) = oneshot::channel();
        let task = Task::Data(ask, reply);
        // Nobody listens to the outcome of it.
        let _ = self.commands.send((task, oneshot::channel().0)).await;
        answer.await.unwrap_or_else(|_| {
            let text = format!("{} has ended, or its primary has", self.name);
            Err(problem("busy", text, None))
        })
    }

    /// Tells it to do something, and waits until that is done.
    pub(crate) async fn order(&self, command: Task) -> Outcome {
        let (reply, answer) = oneshot::channel();
        if self.commands.send((command, reply)).await.is_ok()
            && let Ok(outcome) = answer.await
        {
            return outcome;
        }
        failed(&self.name, "the daemon is ending")
    }
}

pub(crate) fn done(name: &Name, text: impl Into<String>) -> Outcome {
    Outcome {
        service: name.to_string(),
        ok: true,
        text: text.into(),
        last_lines: Vec::new(),
    }
}

pub(crate) fn failed(name: &Name, text: impl Into<String>) -> Outcome {
    Outcome {
        ok: false,
        ..done(name, text)
    }
}

/// Whether there is a primary.
enum Run {
    Idle,
    /// Those that it starts after are not ready.
    Waiting {
        after: Vec<(Name, watch::Receiver<View>)>,
        ready: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    },
    Alive(Box<Primary>),
    /// The primary died.
    Backoff {
        until: Instant,
    },
}

/// A living primary.
struct Primary {
    pid: u32,
    since: Instant,
    exit: Pin<Box<dyn Future<Output = Option<ExitStatus>> + Send + Sync>>,
    child: Option<Child>,
    link: Option<Link>,
    /// It is killed then.
    deadline: Option<Instant>,
    /// It was told to end.
    stopping: bool,
    /// The next one follows it.
    next: bool,
}

struct Care {
    shared: Arc<Shared>,
    saved: Arc<Saved>,
    commands: mpsc::Receiver<(Task, Reply)>,
    view: watch::Sender<View>,
    run: Run,
    status: Status,
    starting: Vec<Reply>,
    stopping: Vec<Reply>,
    pending: HashMap<u64, (Reply, Option<Box<Saved>>)>,
    asked: HashMap<u64, oneshot::Sender<Answer>>,
    last_id: u64,
    failures: u32,
    /// Kept for as long as the service is to run.
    sockets: Bound,
}

enum Happened {
    Ordered(Option<(Task, Reply)>),
    Heard(Option<ParentEvent>),
    Exited(Option<ExitStatus>),
    Ready,
    Late,
}

impl Care {
    async fn run(mut self) {
        self.find().await;
        if matches!(self.run, Run::Idle) {
            let own = |pid| self.shared.is_own(pid);
            for name in crate::orphans::kill_in_old(self.name().as_str(), own) {
                self.tell(
                    "warning",
                    true,
                    format!("killed {name}, which an earlier primary had left behind"),
                );
            }
        }
        self.publish();
        loop {
            let happened = self.wait().await;
            match happened {
                Happened::Ordered(Some((command, reply))) => self.obey(command, reply).await,
                // Control ends, the primary lives on.
                Happened::Ordered(None) => return,
                Happened::Heard(Some(event)) => self.hear(event).await,
                Happened::Heard(None) => self.lose_link(),
                Happened::Exited(status) => self.bereaved(status).await,
                Happened::Ready => self.spawn().await,
                Happened::Late => self.expire().await,
            }
            self.publish();
        }
    }

    async fn wait(&mut self) -> Happened {
        let commands = &mut self.commands;
        match &mut self.run {
            Run::Idle => Happened::Ordered(commands.recv().await),
            Run::Waiting { ready, .. } => tokio::select! {
                command = commands.recv() => Happened::Ordered(command),
                () = ready => Happened::Ready,
            },
            Run::Backoff { until } => tokio::select! {
                command = commands.recv() => Happened::Ordered(command),
                () = sleep_until(*until) => Happened::Late,
            },
            Run::Alive(primary) => {
                let deadline = primary.deadline;
                // What it said last is heard before its end.
                tokio::select! {
                    biased;
                    event = wait::next(&mut primary.link) => Happened::Heard(event),
                    command = commands.recv() => Happened::Ordered(command),
                    status = &mut primary.exit => Happened::Exited(status),
                    () = wait::until(deadline) => Happened::Late,
                }
            }
        }
    }

    fn name(&self) -> &Name {
        &self.saved.name
    }

    fn tell(&self, kind: &str, bad: bool, text: impl Into<String>) {
        self.shared
            .journal
            .tell(event(self.name().as_str(), kind, bad, text, json!({})));
    }

    fn change(&mut self, change: impl FnOnce(&mut Saved)) {
        change(Arc::make_mut(&mut self.saved));
        self.publish();
        self.shared.changed();
    }

    async fn obey(&mut self, command: Task, reply: Reply) {
        match command {
            Task::Start { after } => self.start(after, reply).await,
            Task::Configure { saved, effect } => self.configure(saved, effect, reply).await,
            Task::Work(work) => self.work(work, reply).await,
            Task::Data(ask, answer) => self.ask(ask, answer),
        }
    }

    async fn start(&mut self, after: Vec<(Name, watch::Receiver<View>)>, reply: Reply) {
        match &mut self.run {
            Run::Alive(primary) if !primary.stopping && !self.status.over => {
                let text = format!("runs already ({})", self.status.service.phase.as_str());
                if self.status.service.phase == Phase::Starting {
                    self.starting.push(reply);
                } else {
                    let _ = reply.send(done(&self.saved.name, text));
                }
            }
            // It is ending: the next one follows it.
            Run::Alive(primary) => {
                primary.next = true;
                self.starting.push(reply);
                self.change(|saved| saved.running = true);
            }
            Run::Idle | Run::Waiting { .. } | Run::Backoff { .. } => {
                self.starting.push(reply);
                self.failures = 0;
                self.change(|saved| saved.running = true);
                self.run = Run::Waiting {
                    ready: Box::pin(all_ready(after.clone())),
                    after,
                };
            }
        }
    }

    async fn configure(&mut self, saved: Box<Saved>, effect: Effect, reply: Reply) {
        let alive = matches!(self.run, Run::Alive(_));
        let keep = (self.saved.running, self.saved.generation);
        let adopt = move |old: &mut Saved| {
            *old = *saved;
            (old.running, old.generation) = keep;
        };
        if !alive || effect == Effect::Nothing {
            self.change(adopt);
            let _ = reply.send(done(self.name(), "configured"));
            return;
        }
        let mut new = (*self.saved).clone();
        adopt(&mut new);
        let spec = Box::new(self.spec_of(&new));
        let work = match effect {
            Effect::Nothing | Effect::Live => Work::Change { spec },
            Effect::Reload => {
                let owner = self.shared.owner_of(&new.config);
                let bound = owner.and_then(|owner| {
                    let listen = &new.config.listen;
                    self.sockets.become_so(listen, owner.as_ref(), self.shared.umask)
                });
                if let Err(reason) = bound {
                    let _ = reply.send(failed(self.name(), reason));
                    return;
                }
                Work::Reload { spec: Some(spec) }
            }
            Effect::Restart => {
                // Another user, another way to schedule: another primary.
                self.change(|old| *old = new);
                self.starting.push(reply);
                return self.stop(false, true);
            }
        };
        self.forward(work, Some(Box::new(new)), reply).await;
    }

    async fn work(&mut self, work: Work, reply: Reply) {
        match work {
            Work::Stop { now } => {
                if self.saved.running {
                    self.change(|saved| saved.running = false);
                }
                self.give_up_starting("it was told to stop");
                if matches!(self.run, Run::Alive(_)) {
                    self.stopping.push(reply);
                    self.stop(now, false);
                } else {
                    self.run = Run::Idle;
                    self.status.service.phase = Phase::Stopped;
                    self.status.service.reason = None;
                    let _ = reply.send(done(self.name(), "was not running"));
                }
            }
            Work::Scale { instances } => {
                let instances = crate::config::Instances::new(instances as u64);
                self.change(|saved| saved.config.instances = instances);
                if matches!(self.run, Run::Alive(_)) {
                    self.forward(work, None, reply).await;
                } else {
                    let _ = reply.send(done(self.name(), "will have so many when it is started"));
                }
            }
            _ if matches!(self.run, Run::Alive(_)) => self.forward(work, None, reply).await,
            _ => {
                let text = format!("it is not running; start it: thead start {}", self.name());
                let _ = reply.send(failed(self.name(), text));
            }
        }
    }

    /// Lets the primary do it. `saved` is what is in force if it succeeds.
    async fn forward(&mut self, work: Work, saved: Option<Box<Saved>>, reply: Reply) {
        self.last_id += 1;
        let id = self.last_id;
        let (sockets, handles) = match &work {
            Work::Reload { spec: Some(_) } => self.sockets.shared(),
            _ => Default::default(),
        };
        let order = Order::Work { id, work, sockets };
        if let Run::Alive(primary) = &self.run
            && let Some(link) = &primary.link
            && send(link.channel(), &order, handles).await.is_ok()
        {
            self.pending.insert(id, (reply, saved));
        } else {
            let _ = reply.send(failed(self.name(), "its primary does not answer; try again"));
        }
    }

    fn ask(&mut self, ask: Ask, answer: oneshot::Sender<Answer>) {
        let name = self.saved.name.clone();
        let Run::Alive(primary) = &self.run else {
            let hint = format!("start it: thead start {name}");
            let refusal = problem("stopped", format!("{name} is not running"), Some(&hint));
            let _ = answer.send(Err(refusal));
            return;
        };
        self.last_id += 1;
        let id = self.last_id;
        let told = primary
            .link
            .as_ref()
            .map(|link| link.channel().send(&Order::Data { id, ask }));
        if matches!(told, Some(Ok(()))) {
            self.asked.insert(id, answer);
        } else {
            let refusal = problem(
                "busy",
                format!("the primary of {name} does not answer; try again"),
                None,
            );
            let _ = answer.send(Err(refusal));
        }
    }

    fn stop(&mut self, now: bool, next: bool) {
        let config = &self.saved.config;
        let patience = if now {
            GRACE
        } else {
            let waits = [config.reload.lame_duck, config.reload.drain, config.stop.timeout];
            waits.iter().map(|span| span.duration()).sum::<Duration>() + GRACE
        };
        let Run::Alive(primary) = &mut self.run else { return };
        primary.stopping = true;
        primary.next = next;
        let at = Instant::now() + patience;
        primary.deadline = Some(primary.deadline.map_or(at, |known| known.min(at)));
        let order = Order::Work {
            id: 0,
            work: Work::Stop { now },
            sockets: Names::new(),
        };
        let told = primary.link.as_ref().map(|link| link.channel().send(&order));
        if !matches!(told, Some(Ok(()))) {
            // It hears signals as well.
            let _ = signal(primary, rustix::process::Signal::TERM);
        }
    }

    async fn hear(&mut self, heard: ParentEvent) {
        let (message, handles) = match heard {
            ParentEvent::Message { message, .. } => (message, Vec::new()),
            ParentEvent::Descriptors { message, descriptors } => (message, descriptors),
            ParentEvent::Disconnect { .. } => return self.lose_link(),
            _ => return,
        };
        match message.parse::<Report>() {
            Ok(Report::Status(status)) => self.note(*status),
            // Known.
            Ok(Report::Spec(_)) => {}
            Ok(Report::Sockets(names)) => self.sockets = Bound::received(names, handles),
            Ok(Report::Event(event)) => self.shared.journal.tell(event),
            Ok(Report::Done { id, outcome }) => {
                if let Some((reply, saved)) = self.pending.remove(&id) {
                    if let (true, Some(new)) = (outcome.ok, saved) {
                        let keep = (self.saved.running, self.status.service.generation);
                        self.change(|old| {
                            *old = *new;
                            (old.running, old.generation) = keep;
                        });
                    }
                    let _ = reply.send(outcome);
                }
            }
            Ok(Report::Answer { id, answer }) => {
                if let Some(reply) = self.asked.remove(&id) {
                    // Whoever does not wait does not want to know.
                    let _ = reply.send(answer);
                }
            }
            Err(error) => self.tell("warning", true, format!("its primary said something unknown: {error}")),
        }
    }

    fn note(&mut self, status: Status) {
        self.status = status;
        if self.status.service.generation > self.saved.generation {
            let generation = self.status.service.generation;
            self.change(|saved| saved.generation = generation);
        }
        let (ready, phase) = (self.status.service.ready, self.status.service.phase);
        if phase == Phase::Ready {
            for reply in self.starting.drain(..) {
                let plural = if ready == 1 { "worker" } else { "workers" };
                let _ = reply.send(done(&self.saved.name, format!("started: {ready} {plural} ready")));
            }
        }
    }

    /// The primary has closed the channel, or broken it. One that lives on and says nothing is of no use.
    fn lose_link(&mut self) {
        // Those who ask are told that nobody answers.
        self.asked.clear();
        if let Run::Alive(primary) = &mut self.run {
            primary.link = None;
            primary.deadline.get_or_insert_with(|| Instant::now() + GRACE);
        }
    }

    async fn bereaved(&mut self, status: Option<ExitStatus>) {
        let Run::Alive(primary) = std::mem::replace(&mut self.run, Run::Idle) else {
            return;
        };
        let lived = primary.since.elapsed();
        self.shared.lock_own().retain(|pid| *pid != primary.pid);
        let Primary { next, stopping, .. } = *primary;
        // Whoever connects to it now would wait for nobody.
        let _ = std::fs::remove_file(self.socket_path());
        let left = self.shared.collect_left(self.name(), primary.pid, &self.status);
        for name in &left {
            self.tell(
                "warning",
                true,
                format!("killed {name}, which its primary had left behind"),
            );
        }
        self.asked.clear();
        for (_, (reply, _)) in self.pending.drain() {
            let _ = reply.send(failed(&self.saved.name, "it ended meanwhile"));
        }
        self.status.service.workers.clear();
        self.status.service.ready = 0;
        let over = std::mem::take(&mut self.status.over);
        for reply in self.stopping.drain(..) {
            let _ = reply.send(done(&self.saved.name, "stopped"));
        }
        if next {
            return self.spawn().await;
        }
        if over || stopping {
            // Nobody will serve who connects from here on.
            self.sockets = Bound::default();
        }
        if over || stopping || !self.saved.running {
            let phase = if self.status.service.phase == Phase::Failed {
                Phase::Failed
            } else {
                Phase::Stopped
            };
            self.status.service.phase = phase;
            if phase == Phase::Stopped && self.saved.running {
                // Its workers have ended by themselves, and the policy does not want them back.
                self.change(|saved| saved.running = false);
            }
            let reason = self.status.service.reason.clone();
            let text = reason.unwrap_or_else(|| "every worker has ended".into());
            return self.give_up_starting(&text);
        }
        self.failures = if lived > LIVED_WELL {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let delay = (FIRST_BACKOFF * 2u32.saturating_pow(self.failures.min(10))).min(LAST_BACKOFF);
        let how = match status {
            Some(ExitStatus::Code(code)) => format!("exited with {code}"),
            Some(ExitStatus::Signal { signal, .. }) => format!("was killed by signal {signal}"),
            _ => "ended".into(),
        };
        self.tell(
            "primary_died",
            true,
            format!("its primary {how}; the next one starts in {delay:?}"),
        );
        self.status.service.phase = Phase::Waiting;
        self.status.service.reason = Some(format!("its primary {how}"));
        self.run = Run::Backoff {
            until: Instant::now() + delay,
        };
    }

    fn give_up_starting(&mut self, why: &str) {
        let mut exits = self.status.exits.iter();
        let last_lines = exits.find(|exit| !exit.expected).map(|exit| exit.last_lines.clone());
        for reply in self.starting.drain(..) {
            let _ = reply.send(Outcome {
                last_lines: last_lines.clone().unwrap_or_default(),
                ..failed(&self.saved.name, format!("not started: {why}"))
            });
        }
    }

    async fn expire(&mut self) {
        match &self.run {
            Run::Backoff { .. } => self.spawn().await,
            Run::Alive(primary) => {
                self.tell("warning", true, "its primary did not end in time and is killed");
                let _ = signal(primary, rustix::process::Signal::KILL);
                if let Run::Alive(primary) = &mut self.run {
                    primary.deadline = Some(Instant::now() + GRACE);
                }
            }
            _ => {}
        }
    }

    fn socket_path(&self) -> PathBuf {
        self.shared.run_dir.join(format!("{}{}", self.name(), super::PRIMARY))
    }

    /// Takes over the primary that an earlier control has left.
    async fn find(&mut self) {
        let path = self.socket_path();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) => {
                // The primary has ended since, and nobody was there to clear up behind it.
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    let _ = std::fs::remove_file(&path);
                }
                return;
            }
        };
        let Ok(mut link) = stream.into_std().and_then(|stream| Link::over(stream.into())) else {
            return;
        };
        // It tells first how it is.
        let first = tokio::time::timeout(GRACE, link.next()).await;
        let Ok(Some(ParentEvent::Message { message, .. })) = first else {
            return;
        };
        let Ok(Report::Status(status)) = message.parse() else {
            return;
        };
        let Some(pid) = status.service.primary else { return };
        let Ok(pidfd) = thead::sys::pidfd::open(pid.cast_signed()) else {
            return;
        };
        let exit = Box::pin(async move {
            if let Ok(pidfd) = thead::sys::reactor::register(Arc::new(pidfd), Interest::READABLE) {
                let _ = pidfd.readable().await;
            }
            None
        });
        self.run = Run::Alive(Box::new(Primary {
            pid,
            since: Instant::now(),
            exit,
            child: None,
            link: Some(link),
            deadline: None,
            stopping: false,
            next: false,
        }));
        self.note(*status);
        self.tell("adopted", false, format!("found running, primary {pid}"));
    }

    fn spec_of(&self, saved: &Saved) -> Spec {
        Spec {
            name: saved.name.clone(),
            config: saved.config.clone(),
            base: saved.base.clone(),
            log_dir: self.shared.log_dir.join(saved.name.as_str()),
            data_dir: self.shared.data_dir(&saved.name),
            generation: saved.generation.max(1),
        }
    }

    async fn spawn(&mut self) {
        self.status = Status::default();
        match self.launch().await {
            Ok(primary) => {
                self.status.service.phase = Phase::Starting;
                self.run = Run::Alive(Box::new(primary));
            }
            Err(reason) => {
                self.tell("failed", true, format!("cannot be started: {reason}"));
                self.run = Run::Idle;
                self.status.service.phase = Phase::Failed;
                self.status.service.reason = Some(reason.clone());
                self.give_up_starting(&reason);
            }
        }
    }

    async fn launch(&mut self) -> Result<Primary, String> {
        let path = self.socket_path();
        let socket = |error: std::io::Error| format!("{}: {error}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(socket(error)),
            _ => {}
        }
        let spec = self.spec_of(&self.saved);
        let owner = self.shared.owner_of(&self.saved.config)?;
        let listen = &self.saved.config.listen;
        self.sockets.become_so(listen, owner.as_ref(), self.shared.umask)?;
        if super::dirs::is_anothers(&spec.data_dir, owner.as_ref()) {
            // What is in it cannot be given away: its owner may have put links there.
            std::fs::remove_dir_all(&spec.data_dir).map_err(|error| format!("{}: {error}", spec.data_dir.display()))?;
            self.tell("note", false, "it runs as another user now: its data begins anew");
        }
        for dir in [&spec.log_dir, &spec.data_dir] {
            super::dirs::private(dir, owner.as_ref().map(|owner| (owner.uid, owner.gid)))
                .map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let listener = super::dirs::bind_private(&path).map_err(socket)?;
        let mut command = Command::new(&self.shared.exe)
            .arg("primary")
            .arg(self.name().as_str())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::Null)
            .fd(PRIMARY_LISTENER, std::os::fd::OwnedFd::from(listener))
            .umask(self.shared.umask)
            .detached();
        for (name, value) in self.shared.environment(&self.saved.config) {
            command = command.env(name, value);
        }
        if let Some(owner) = &owner {
            command = command
                .uid(owner.uid)
                .gid(owner.gid)
                .groups(owner.groups.iter().copied());
        }
        let child = command
            .spawn()
            .map_err(|error| format!("its primary could not be started: {error}"))?;
        let stream = UnixStream::connect(&path).await.map_err(socket)?;
        let link = stream
            .into_std()
            .and_then(|stream| Link::over(stream.into()))
            .map_err(socket)?;
        let (sockets, handles) = self.sockets.shared();
        let spec = Box::new(spec);
        send(link.channel(), &Order::Begin { spec, sockets }, handles).await?;
        self.shared.lock_own().push(child.id());
        let wait = child.wait();
        Ok(Primary {
            pid: child.id(),
            since: Instant::now(),
            exit: Box::pin(async move { Some(wait.await) }),
            child: Some(child),
            link: Some(link),
            deadline: None,
            stopping: false,
            next: false,
        })
    }

    /// Lets others see how it is.
    fn publish(&mut self) {
        let saved = &self.saved;
        let mut service = self.status.service.clone();
        service.name = saved.name.to_string();
        service.namespace = saved
            .config
            .namespace
            .as_ref()
            .map_or("default", Name::as_str)
            .to_owned();
        service.run = saved.config.run.words().to_vec();
        service.source.clone_from(&saved.source);
        service.generation = service.generation.max(saved.generation);
        match &self.run {
            Run::Alive(primary) => {
                service.primary = Some(primary.pid);
                if primary.stopping {
                    service.phase = Phase::Stopping;
                }
            }
            Run::Waiting { after, .. } => {
                let late = after.iter().filter(|(_, view)| !is_ready(&view.borrow()));
                let late: Vec<_> = late.map(|(name, _)| name.as_str()).collect();
                service.phase = Phase::Waiting;
                service.reason = Some(format!("waits until {} is ready", late.join(", ")));
            }
            Run::Idle | Run::Backoff { .. } => service.primary = None,
        }
        let exits = self.status.exits.clone();
        let saved = Arc::clone(saved);
        self.view.send_if_modified(|view| {
            let same = view.service == service && view.exits == exits && Arc::ptr_eq(&view.saved, &saved);
            *view = View { saved, service, exits };
            !same
        });
    }
}

/// Sends an order, with what belongs to it.
async fn send(channel: &thead::channel::Channel, order: &Order, handles: Vec<Passed>) -> Result<(), String> {
    if handles.is_empty() {
        return channel.send(order).map_err(|error| error.to_string());
    }
    let sent = tokio::time::timeout(GRACE, channel.post_descriptors(order, handles)).await;
    let sent = sent.map_err(|_| "its primary does not answer".to_owned())?;
    sent.map(drop).map_err(|(error, _)| error.to_string())
}

/// The descriptor of a primary on which control comes.
pub(crate) const PRIMARY_LISTENER: i32 = 3;

fn is_ready(view: &View) -> bool {
    matches!(view.service.phase, Phase::Ready | Phase::Degraded | Phase::Reloading)
}

async fn all_ready(after: Vec<(Name, watch::Receiver<View>)>) {
    for (_, mut view) in after {
        // One that was deleted is waited for no more.
        let _ = view.wait_for(is_ready).await;
    }
}

fn signal(primary: &Primary, signal: rustix::process::Signal) -> std::io::Result<()> {
    match &primary.child {
        Some(child) => child.kill(signal.as_raw()),
        None => {
            let pidfd = thead::sys::pidfd::open(primary.pid.cast_signed())?;
            thead::sys::pidfd::send_signal(pidfd.as_fd(), signal.as_raw())
        }
    }
}
