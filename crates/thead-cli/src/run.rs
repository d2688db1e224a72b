//! `thead run`: one service, in the foreground.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use thead::cluster::Scheduling;
use thead::core::id::WorkerId;
use thead::core::service::{Event, Outcome};
use thead::core::worker::Exit;
use thead::output;
use thead::service::{Backoff, Intensity, Life, Options, Policy, Service, ServiceEvent};
use thead::wire::cluster::AddressType;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config;
use crate::config::address::Address;
use crate::launch;
use crate::log::{Settings, Writer};
use crate::orphans::{self, Collector};
use crate::probe;
use crate::program::{Place, Program};
use crate::report::{Reporter, Style};
use crate::sockets::Bound;
use crate::wait;

/// Exit codes of `thead run`, besides those of [`crate::program::ProgramError::exit_code`].
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct RunArgs {
    /// How many workers: a number, or "max" for every core that the machine or its cgroup grants.
    /// Default: max for Node, Bun and Deno; 1 for other programs.
    #[arg(short, long, value_name = "N|max", value_parser = instances)]
    instances: Option<usize>,

    /// What the service is called. Default: the script's or program's name.
    #[arg(long)]
    name: Option<String>,

    /// Who gets the next connection: the workers in turn (round-robin), whoever of them accepts first (shared), one that the
    /// kernel picks (kernel: the cheapest, and even), or the one that the client's address names (sticky: for socket.io).
    /// Default: NODE_CLUSTER_SCHED_POLICY, or round-robin.
    #[arg(long, value_enum)]
    schedule: Option<Schedule>,

    /// When a worker is ready: auto (listening, if it is a server), listening, message (it sends "ready"), notify (it says
    /// READY=1 to NOTIFY_SOCKET), http://HOST:PORT/PATH (answered with 2xx or 3xx), tcp://HOST:PORT (it accepts), or a time.
    #[arg(long, default_value = "auto", value_parser = ready)]
    ready: config::Ready,

    /// How often a worker must show that it is alive; it is replaced when it does not for two of these. Node does so by the
    /// preload, others by WATCHDOG=1. Default: 5s for Node, none for others. 0 is none.
    #[arg(long, value_name = "TIME", value_parser = span)]
    heartbeat: Option<config::Span>,

    /// How much memory a worker may use, with all that it starts: 512M, 2G. Where control groups can be had the kernel ends
    /// one that uses more; elsewhere it is replaced, as at a reload.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<config::ByteSize>,

    /// A socket for workers, by a name: tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH. They find it as with systemd
    /// (LISTEN_FDS); Node listens on { fd: 3 }, the next on 4. Repeat for more.
    #[arg(long, value_name = "NAME=URL", value_parser = socket)]
    listen: Vec<(config::Name, String)>,

    /// How long a worker may take to be ready.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = time)]
    ready_timeout: Duration,

    /// How long a leaving worker may take to finish what it has.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = time)]
    drain: Duration,

    /// At the end: how long workers serve on with "Connection: close" before the port is closed.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time)]
    lame_duck: Duration,

    /// From SIGTERM to SIGKILL, for a worker that does not leave.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = time)]
    stop_timeout: Duration,

    /// At a reload: how many more workers than instances may run at once.
    #[arg(long, default_value_t = 1)]
    surge: usize,

    /// At a reload: how many fewer workers than instances may be ready at once, after the first new one has proven itself.
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_unavailable: usize,

    /// At a reload: how long the first new worker must live before it replaces an old one.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time)]
    soak: Duration,

    /// Which deaths are followed by a restart.
    #[arg(long, value_enum, default_value_t = Restart::Always)]
    restart: Restart,

    /// How long to wait before a restart: the first time, and at most; it doubles in between.
    #[arg(long, default_value = "100ms..5s", value_name = "FIRST..MAX", value_parser = backoff)]
    restart_backoff: (Duration, Duration),

    /// How many restarts in how long, until the service has failed.
    #[arg(long, default_value = "10/60s", value_name = "N/TIME", value_parser = intensity)]
    restart_limit: Intensity,

    /// Set a variable for the workers; repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// The workers' directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// The node, bun or deno to use, in place of the one in PATH.
    #[arg(long, value_name = "PATH")]
    runtime: Option<OsString>,

    /// Give a program that is no script a channel too: it is a worker made with thead's library.
    #[arg(long)]
    channel: bool,

    /// Load nothing into the workers. A reload then closes idle connections, and clients may see that.
    #[arg(long)]
    no_preload: bool,

    /// Keep what workers print in files in this directory, as `thead logs --dir` shows it, instead of printing it.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// Report everything on standard output, one JSON object a line.
    #[arg(long)]
    json: bool,

    /// A script (by extension or first line), a package script (npm start), or any program; then its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    words: Vec<OsString>,
}

const HELP: &str = "\
Signals:
  HUP        reload: new workers first, then the old ones drain
  TERM, INT  drain and stop; a second one stops at once
  TTIN, TTOU one worker more, one less
  USR1, USR2 are passed on to the workers

Exit codes:
  0    stopped as asked, or every worker ended with 0
  1    the service failed: its restarts are spent, or it never became ready
  2    the command line is wrong
  126  the program may not be executed
  127  the program does not exist
  N    with --restart never or on-failure: how the last failing worker ended (128 + signal if by a signal)
  130, 143  stopped at once by a second INT or TERM";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Schedule {
    RoundRobin,
    Shared,
    Kernel,
    Sticky,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

fn instances(text: &str) -> Result<usize, String> {
    if text == "max" {
        return Ok(thead::sys::limit::cores());
    }
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("a number from 1 to 1024, or max".into()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with a unit, such as 500ms or 10s"))
}

fn ready(text: &str) -> Result<config::Ready, String> {
    use config::Ready::{Auto, Delay, Http, Listening, Message, Notify, Tcp};
    Ok(match text {
        "auto" => Auto,
        "listening" => Listening,
        "message" => Message,
        "notify" => Notify,
        _ if text.starts_with("http") => Http(text.to_owned()),
        _ => match text.strip_prefix("tcp://") {
            Some(address) => Tcp(address.to_owned()),
            None => Delay(span(text).map_err(
                |_| "auto, listening, message, notify, http://HOST:PORT/PATH, tcp://HOST:PORT, or a time such as 2s",
            )?),
        },
    })
}

fn span(text: &str) -> Result<config::Span, String> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).map_err(|_| "too long".to_owned());
    time(text).and_then(millis).map(config::Span::millis)
}

fn size(text: &str) -> Result<config::ByteSize, String> {
    text.parse()
}

fn socket(text: &str) -> Result<(config::Name, String), String> {
    let (name, url) = text
        .split_once('=')
        .ok_or("a name and an address, such as http=tcp://0.0.0.0:3000")?;
    Address::parse(url)?;
    Ok((name.parse()?, url.to_owned()))
}

fn backoff(text: &str) -> Result<(Duration, Duration), String> {
    let (first, max) = text.split_once("..").ok_or("two times, such as 100ms..5s")?;
    Ok((time(first)?, time(max)?))
}

fn intensity(text: &str) -> Result<Intensity, String> {
    let (restarts, period) = text.split_once('/').ok_or("a number and a time, such as 10/60s")?;
    let restarts = restarts.parse().map_err(|_| format!("{restarts:?} is no number"))?;
    Ok(Intensity {
        restarts,
        period: time(period)?,
    })
}

pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("NAME=VALUE".into()),
    }
}

/// Runs until the service is over.
pub(crate) fn run(args: &RunArgs) -> ExitCode {
    let style = if args.json { Style::Json } else { Style::human() };
    // Files of sockets are removed at the end.
    let (program, options, name, _sockets) = match prepare(args) {
        Ok(prepared) => prepared,
        Err((message, code)) => {
            style.complain(&message);
            return ExitCode::from(code);
        }
    };
    if let Err(error) = thead::sys::limit::raise_open_files() {
        style.complain(&format!("the limit of open files stays as it is: {error}"));
    }
    thead::sys::spawn::reserve(SPAWN_SLOTS);
    orphans::adopt();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Where all processors are busy, those who make us work go first, and we find in one go what would have woken us
        // several times, each time in the way of a worker. With a processor to spare this returns at once.
        .on_thread_park(std::thread::yield_now)
        .build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(serve(program, options, name, style, args.log_dir.as_deref())),
        Err(error) => Err(error),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            style.complain(&format!("failed to start: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Low descriptors kept free for what a worker inherits: its streams and its channel.
const SPAWN_SLOTS: usize = 8;

type Prepared = (Program, Options, String, Bound);

/// Understands the command line, before anything is started.
fn prepare(args: &RunArgs) -> Result<Prepared, (String, u8)> {
    let cwd = match &args.cwd {
        Some(cwd) if cwd.is_dir() => cwd.clone(),
        Some(cwd) => return Err((format!("--cwd {}: no such directory", cwd.display()), USAGE)),
        None => std::env::current_dir().map_err(|error| (format!("the current directory is gone: {error}"), USAGE))?,
    };
    let path = args
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, path)| OsString::from(path));
    let path = path.or_else(|| std::env::var_os("PATH"));
    let place = Place {
        cwd: &cwd,
        path: path.as_deref(),
        runtime: args.runtime.as_deref(),
    };
    let mut program = place
        .resolve(&args.words)
        .map_err(|error| (error.to_string(), error.exit_code()))?;
    let wish = launch::Wish {
        channel: args.channel,
        preload: !args.no_preload,
        cwd: args.cwd.as_deref(),
    };
    let mut made = launch::program_of(&mut program, wish);
    for (name, value) in &args.env {
        made.command = made.command.env(name, value);
    }
    made.notify |= args.ready == config::Ready::Notify || args.heartbeat.is_some();
    let wanted = args.listen.iter().cloned().collect();
    let mut sockets = Bound::default();
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let bound = sockets.become_so(&wanted, None, umask.bits());
    bound.map_err(|error| (error, FAILED))?;
    made.listen = sockets.listen();
    let mut options = Options::new(made);
    let channel = program.script.is_some() || args.channel;
    options.settings.lame_duck = args.lame_duck;
    options.settings.life = Life {
        instances: args
            .instances
            .unwrap_or_else(|| if channel { thead::sys::limit::cores() } else { 1 }),
        ready: launch::ready_of(&args.ready),
        ready_timeout: args.ready_timeout,
        restart: thead::service::Restart {
            policy: match args.restart {
                Restart::Always => Policy::Always,
                Restart::OnFailure => Policy::OnFailure,
                Restart::Never => Policy::Never,
            },
            backoff: Backoff {
                first: args.restart_backoff.0,
                max: args.restart_backoff.1,
                ..Backoff::default()
            },
            intensity: args.restart_limit,
            ..Default::default()
        },
        reload: thead::service::Reload {
            surge: args.surge,
            soak: args.soak,
            max_unavailable: args.max_unavailable,
        },
        stop: thead::service::Stop {
            drain: args.drain,
            timeout: args.stop_timeout,
        },
        seed: std::process::id().into(),
    };
    let live = config::Live {
        heartbeat: args.heartbeat,
        ..config::Live::default()
    };
    options.settings.limits.memory = args.memory.map(config::ByteSize::bytes);
    let place = probe::Place {
        cwd: args.cwd.clone(),
        env: args.env.clone(),
    };
    probe::apply(&mut options.settings, &args.ready, &live, place).map_err(|error| (error, USAGE))?;
    if args.heartbeat.is_none() && program.is_node() {
        options.settings.watch.heartbeat = Some(launch::HEARTBEAT);
    }
    let life = &options.settings.life;
    life.validate().map_err(|error| (error.to_string(), USAGE))?;
    options.cluster.scheduling = match args.schedule {
        Some(Schedule::RoundRobin) => Scheduling::RoundRobin,
        Some(Schedule::Shared) => Scheduling::Shared,
        Some(Schedule::Kernel) => Scheduling::Kernel,
        Some(Schedule::Sticky) => Scheduling::Sticky,
        None if std::env::var_os("NODE_CLUSTER_SCHED_POLICY").is_some_and(|policy| policy == "none") => {
            Scheduling::Shared
        }
        None => Scheduling::RoundRobin,
    };
    launch::mend_schedule(&mut program, &mut options.cluster.scheduling);
    let name = args.name.clone().unwrap_or_else(|| launch::name_of(&program));
    Ok((program, options, name, sockets))
}

/// Bytes of what workers print that may wait to be printed; when they are there, the workers wait.
const WAITING: usize = 64 << 10;

async fn serve(
    program: Program,
    mut options: Options,
    name: String,
    style: Style,
    log_dir: Option<&Path>,
) -> io::Result<u8> {
    let mut log = log_dir
        .map(|dir| Writer::open(dir, &name, Settings::default()))
        .transpose()?;
    let (lines, printed) = output::queue(WAITING);
    options.lines = Some(log.as_ref().map_or(lines, Writer::sink));
    let mut reporter = Reporter::start(style, name, printed, log.as_ref().map(Writer::sink));
    reporter.started(&program, &options);
    let mut signals = Signals::new()?;
    let unix_note = match options.cluster.scheduling {
        Scheduling::Kernel => Some("the kernel does not spread the connections of a Unix socket: they go round-robin"),
        Scheduling::Sticky => Some("clients of a Unix socket have no address to be told by: they are served in turn"),
        Scheduling::RoundRobin | Scheduling::Shared => None,
    };
    let mut service = Service::start(options).map_err(io::Error::other)?;
    let mut watch = Watch {
        unix_note,
        ..Watch::default()
    };
    let code = loop {
        tokio::select! {
            event = service.next() => match event {
                Some(event) => {
                    if let Some(code) = watch.hear(&service, &reporter, event) {
                        break code;
                    }
                }
                None => break FAILED,
            },
            signal = signals.next() => watch.obey(signal, &service, &reporter),
            Some(event) = async { Some(log.as_mut()?.next().await) } => reporter.warning(&event.to_string()),
            () = wait::until(watch.orphans.due()) => watch.collect(&service, &reporter),
        }
    };
    drop(service);
    tell_killed(&reporter, &orphans::kill_all());
    reporter.leave_log();
    if let Some(log) = log
        && !log.close(LOG_PATIENCE).await
    {
        reporter.warning("the end of the log could not be written");
    }
    reporter.finish(code).await;
    Ok(code)
}

/// How long the end waits for workers that do not close their streams, and for a disk that does not write the log.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

fn tell_killed(reporter: &Reporter, killed: &[String]) {
    for name in killed {
        reporter.warning(&format!("killed {name}, which a worker had left behind"));
    }
}

/// What is remembered between events.
#[derive(Default)]
struct Watch {
    pids: HashMap<WorkerId, u32>,
    /// How the last worker that was not told to leave ended.
    last: Option<(WorkerId, Exit)>,
    /// The signal that asked for the end.
    stopping: Option<Told>,
    orphans: Collector,
    /// The restarts are spent.
    failed: bool,
    /// What is to be said when a worker listens on a Unix socket.
    unix_note: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Once,
    Twice(i32),
}

impl Watch {
    fn obey(&mut self, signal: Heard, service: &Service, reporter: &Reporter) {
        let operator = service.operator();
        match signal {
            Heard::Reload => drop(operator.reload(None)),
            Heard::More => drop(operator.scale_by(1)),
            Heard::Less => drop(operator.scale_by(-1)),
            Heard::Stop(_) if self.stopping.is_none() => {
                self.stopping = Some(Told::Once);
                operator.stop();
            }
            Heard::Stop(number) => {
                self.stopping = Some(Told::Twice(number));
                reporter.warning("told twice: everything is killed now");
                operator.stop_now();
            }
            Heard::PassOn(number) => drop(operator.signal(number)),
            Heard::Child => self.collect(service, reporter),
        }
    }

    fn collect(&mut self, service: &Service, reporter: &Reporter) {
        let killed = self.orphans.collect(|pid| service.owns(pid));
        tell_killed(reporter, &killed);
    }

    /// The exit code, once it is over.
    fn hear(&mut self, service: &Service, reporter: &Reporter, event: ServiceEvent) -> Option<u8> {
        match &event {
            ServiceEvent::Life(Event::Spawned { worker, pid, .. }) => {
                self.pids.insert(*worker, *pid);
            }
            ServiceEvent::Life(Event::Exited {
                worker,
                status,
                expected,
                ..
            }) => {
                if let Some(pid) = self.pids.remove(worker) {
                    let killed = self.orphans.worker_ended(pid, |pid| service.owns(pid));
                    tell_killed(reporter, &killed);
                }
                if !expected {
                    self.last = Some((*worker, *status));
                }
            }
            ServiceEvent::Listening { address, .. } if address.address_type == Some(AddressType::Unix) => {
                if let Some(note) = self.unix_note.take() {
                    reporter.note(note);
                }
            }
            // Workers that live on would hide from whoever supervises this program that it is not whole.
            ServiceEvent::Life(Event::GaveUp { .. }) => {
                self.failed = true;
                service.operator().stop();
            }
            _ => {}
        }
        reporter.event(service, &event, self.last.map(|(worker, _)| worker));
        let ServiceEvent::Finished(outcome) = event else {
            return None;
        };
        Some(match (outcome, self.stopping, self.last) {
            (_, Some(Told::Twice(signal)), _) => code_of(Exit::Signal { signal, core: false }),
            (Outcome::Failed { .. }, ..) => FAILED,
            _ if self.failed => FAILED,
            (Outcome::Done, _, Some((_, status))) => code_of(status),
            (Outcome::Done | Outcome::Stopped, ..) => 0,
        })
    }
}

/// As a shell has it.
fn code_of(status: Exit) -> u8 {
    match status {
        Exit::Code(code) => u8::try_from(code & 0xff).unwrap_or(FAILED),
        Exit::Signal { signal, .. } => u8::try_from(128 + signal).unwrap_or(FAILED),
    }
}

/// What a signal to thead means.
enum Heard {
    Reload,
    Stop(i32),
    More,
    Less,
    PassOn(i32),
    Child,
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    more: Signal,
    less: Signal,
    user1: Signal,
    user2: Signal,
    child: Signal,
}

/// SIGTTIN and SIGTTOU, as gunicorn has them.
const MORE: SignalKind = SignalKind::from_raw(21);
const LESS: SignalKind = SignalKind::from_raw(22);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            more: signal(MORE)?,
            less: signal(LESS)?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Heard {
        let raw = |kind: SignalKind| kind.as_raw_value();
        tokio::select! {
            _ = self.hangup.recv() => Heard::Reload,
            _ = self.interrupt.recv() => Heard::Stop(raw(SignalKind::interrupt())),
            _ = self.terminate.recv() => Heard::Stop(raw(SignalKind::terminate())),
            _ = self.more.recv() => Heard::More,
            _ = self.less.recv() => Heard::Less,
            _ = self.user1.recv() => Heard::PassOn(raw(SignalKind::user_defined1())),
            _ = self.user2.recv() => Heard::PassOn(raw(SignalKind::user_defined2())),
            _ = self.child.recv() => Heard::Child,
        }
    }
}
