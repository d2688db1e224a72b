//! What operators say to the daemon. Each verb is a request to the control socket; nothing here knows more than its answer.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use thead::control::{Apply, Client, ClientError, Event, Order, Outcomes, Verb};

use crate::text::plain;

mod data;
mod list;
mod pm2;
mod start;

pub(crate) use data::{DataArgs, data};
pub(crate) use list::{DescribeArgs, ListArgs, WhyArgs, describe, list, why};
pub(crate) use start::{ApplyArgs, StartArgs, apply, start};

/// Exit codes: what was asked for was not done; the command is wrong; no daemon answers.
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const UNREACHABLE: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Services (api), namespaces (shop), or: all.
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<String>,
    /// Report as JSON: an object for each event, and one with the result.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Kill at once: nothing is drained.
    #[arg(long)]
    now: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// A service or a namespace.
    target: String,
    /// How many workers: 4, max, or a difference: +1, -2.
    #[arg(allow_hyphen_values = true)]
    instances: String,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// By name or number: HUP, SIGUSR2, 12.
    signal: String,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Begin with the events that the daemon remembers.
    #[arg(long)]
    all: bool,
    /// Go on as they come, which is what it does anyway.
    #[arg(short, long, conflicts_with = "no_follow")]
    follow: bool,
    /// End with the last of them, and do not wait for more.
    #[arg(long, requires = "all")]
    no_follow: bool,
    /// As JSON, an object a line.
    #[arg(long)]
    json: bool,
}

/// Verbs whose only argument is whom they are for.
pub(crate) fn simple(verb: Verb, args: &TargetArgs) -> ExitCode {
    order(
        verb,
        Order {
            targets: args.targets.clone(),
            ..Order::default()
        },
        args.json,
    )
}

pub(crate) fn stop(verb: Verb, args: &StopArgs) -> ExitCode {
    let wish = Order {
        targets: args.target.targets.clone(),
        now: args.now,
        ..Order::default()
    };
    order(verb, wish, args.target.json)
}

pub(crate) fn scale(args: &ScaleArgs) -> ExitCode {
    let wish = Order {
        targets: vec![args.target.clone()],
        instances: Some(args.instances.clone()),
        ..Order::default()
    };
    order(Verb::Scale, wish, args.json)
}

pub(crate) fn send_signal(args: &SignalArgs) -> ExitCode {
    let wish = Order {
        targets: args.target.targets.clone(),
        signal: Some(args.signal.clone()),
        ..Order::default()
    };
    order(Verb::Signal, wish, args.target.json)
}

fn order(verb: Verb, wish: Order, json: bool) -> ExitCode {
    with_daemon(json, async |daemon| {
        let mut progress = Progress::new(json);
        let outcomes = daemon.order(verb, &wish, |event| progress.show(event)).await?;
        Ok(progress.finish(&outcomes))
    })
}

pub(crate) fn events(args: &EventsArgs) -> ExitCode {
    with_daemon(args.json, async |daemon| {
        let mut events = daemon.events(args.all.then_some(0), !args.no_follow).await?;
        while let Some(event) = events.next().await? {
            let mut out = io::stdout().lock();
            let written = if args.json {
                writeln!(out, "{}", serde_json::to_string(&event).unwrap_or_default())
            } else if event.text.is_empty() {
                // For programs: what follows says it to people.
                continue;
            } else {
                writeln!(out, "{} {}", clock(event.time), sentence(&event))
            };
            if written.and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        Ok(0)
    })
}

pub(crate) fn shut_down(json: bool) -> ExitCode {
    with_daemon(json, async |daemon| {
        let mut progress = Progress::new(json);
        let outcomes = daemon.shutdown(|event| progress.show(event)).await?;
        // Whoever starts the next one finds the place free.
        for _ in 0..500 {
            if daemon.version().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(progress.finish(&outcomes))
    })
}

/// Starts a daemon in the background, unless one answers.
pub(crate) fn detached() -> ExitCode {
    let client = Client::default();
    match block_on(ensure(&client)) {
        Ok(()) => daemon_status(),
        Err(problem) => {
            eprintln!("thead: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

pub(crate) fn daemon_status() -> ExitCode {
    with_daemon(false, async |daemon| {
        let version = daemon.version().await?;
        println!(
            "thead {} runs as pid {}; socket {}, state in {}, logs in {}",
            version.version,
            version.pid,
            daemon.path().display(),
            version.state_dir,
            version.log_dir
        );
        Ok(0)
    })
}

/// Asks the daemon of this user, and says what went wrong.
pub(super) fn with_daemon<F>(json: bool, ask: F) -> ExitCode
where
    F: AsyncFnOnce(&Client) -> Result<u8, ClientError>,
{
    let client = Client::default();
    match block_on(ask(&client)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => complain(&error, json),
    }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => {
            eprintln!("thead: {error}");
            std::process::exit(FAILED.into())
        }
    }
}

fn complain(error: &ClientError, json: bool) -> ExitCode {
    let (code, hint) = match error {
        ClientError::Unreachable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            (UNREACHABLE, Some("it is another user's; ask as that user".to_owned()))
        }
        ClientError::Unreachable { .. } => (UNREACHABLE, Some("start one: thead daemon --detach".to_owned())),
        ClientError::Refused { problem, .. } => (USAGE, problem.hint.clone()),
        _ => (FAILED, None),
    };
    if json {
        print_json(&serde_json::json!({ "error": error.to_string(), "hint": hint }));
    } else {
        eprintln!("thead: {error}");
        if let Some(hint) = hint {
            eprintln!("  {hint}");
        }
    }
    ExitCode::from(code)
}

pub(super) fn print_json(value: &impl Serialize) {
    // A reader that went away wants nothing.
    let _ = writeln!(
        io::stdout().lock(),
        "{}",
        serde_json::to_string(value).unwrap_or_default()
    );
}

/// Shows what happens while something long is done: on a terminal one line that changes, in a pipe nothing but what is bad.
pub(super) struct Progress {
    json: bool,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: io::stderr().is_terminal(),
            shown: false,
        }
    }

    pub(super) fn show(&mut self, event: &Event) {
        if self.json {
            return print_json(event);
        }
        if event.text.is_empty() {
            return;
        }
        let text = sentence(event);
        let mut err = io::stderr().lock();
        let _ = if event.bad {
            self.shown = false;
            let clear = if self.terminal { "\r\x1b[2K" } else { "" };
            writeln!(err, "{clear}{text}")
        } else if self.terminal {
            self.shown = true;
            let line: String = text.lines().next().unwrap_or_default().chars().take(78).collect();
            write!(err, "\r\x1b[2K{line}")
        } else {
            Ok(())
        };
        let _ = err.flush();
    }

    /// The exit code.
    pub(super) fn finish(self, outcomes: &Outcomes) -> u8 {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
        if self.json {
            print_json(outcomes);
        } else {
            for outcome in &outcomes.outcomes {
                let text = plain(outcome.text.as_bytes());
                let name = if outcome.service.is_empty() {
                    "thead"
                } else {
                    &outcome.service
                };
                if outcome.ok {
                    let _ = writeln!(io::stdout().lock(), "{name}: {text}");
                } else {
                    eprintln!("{name}: {text}");
                    for line in &outcome.last_lines {
                        eprintln!("  | {}", plain(line.as_bytes()));
                    }
                }
            }
        }
        if outcomes.ok() { 0 } else { FAILED }
    }
}

fn sentence(event: &Event) -> String {
    let text = plain(event.text.as_bytes());
    if event.service.is_empty() || text.starts_with(&event.service) {
        text.into_owned()
    } else {
        format!("{}: {text}", event.service)
    }
}

/// Time of the day, UTC.
pub(super) fn clock(millis: u64) -> String {
    let seconds = millis / 1000 % 86400;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}Z")
}

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a daemon in the background, unless one answers; waits until it does.
pub(super) async fn ensure(client: &Client) -> Result<(), String> {
    if client.version().await.is_ok() {
        return Ok(());
    }
    detach(client).await
}

pub(super) async fn detach(client: &Client) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::process::CommandExt;
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let log = thead::control::state_dir();
    crate::control::passable(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let log = log.join("daemon.log");
    let shown = log.display().to_string();
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .map_err(|error| format!("{shown}: {error}"))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = std::process::Command::new(exe)
        .arg("daemon")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // The keys of this terminal are not meant for it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the daemon could not be started: {error}"))?;
    let since = std::time::Instant::now();
    loop {
        if client.version().await.is_ok() {
            return Ok(());
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || since.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it said nothing");
            return Err(format!("the daemon did not start: {last} ({shown})"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A path as the daemon, which has another directory, must be told it.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(super) async fn send(daemon: &Client, wish: &Apply, json: bool) -> Result<u8, ClientError> {
    let mut progress = Progress::new(json);
    let outcomes = daemon.apply(wish, |event| progress.show(event)).await?;
    Ok(progress.finish(&outcomes))
}
