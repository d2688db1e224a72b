//! From what is to be run to a [`Command`], for `thead run` and for the primary of a configured service.

use std::path::Path;
use std::time::Duration;

use thead::cluster::Scheduling;
use thead::output::WhenFull;
use thead::service::{
    Backoff, Drain, Intensity, Life, Limits, Options, Policy, Ready, Reload, Restart, Settings, Stop, Variables,
};
use thead::{Command, Runtime, Serialization};
use tokio::signal::unix::SignalKind;

use crate::config::{self, Name};
use crate::log;
use crate::orphans::SERVICE;
use crate::primary::files_dir;
use crate::probe;
use crate::program::{Place, Program};
use crate::role::Spec;
use crate::sockets::Bound;

/// Names the directory in which a program without a channel finds its data, a file for each piece.
const DATA_DIR: &str = "THEAD_DATA_DIR";

/// What a command needs besides its program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// A program that is no script has a channel too.
    pub(crate) channel: bool,
    /// Node gets thead's preload.
    pub(crate) preload: bool,
    /// The workers' directory.
    pub(crate) cwd: Option<&'a Path>,
}

/// The command of a worker, and how it is asked to leave.
pub(crate) fn program_of(program: &mut Program, wish: Wish<'_>) -> thead::service::Program {
    let (mut command, drain) = match &program.script {
        None if wish.channel => (
            Command::new(&program.command).channel(Serialization::Json),
            Drain::Disconnect,
        ),
        None => (
            Command::new(&program.command).death_signal(SignalKind::terminate().as_raw_value()),
            Drain::Signal,
        ),
        Some(script) => {
            let mut options = script.options.clone();
            let mut drain = match script.runtime {
                Runtime::Node | Runtime::Deno => Drain::Disconnect,
                // Its HTTP workers do not hear `disconnect`.
                Runtime::Bun => Drain::Signal,
            };
            if script.runtime == Runtime::Node && wish.preload {
                match thead::preload::install() {
                    Ok(path) => {
                        options.splice(0..0, ["--require".into(), path.into_os_string()]);
                        drain = Drain::HandBack;
                    }
                    Err(error) => program.notes.push(format!("workers run without the preload: {error}")),
                }
            }
            (
                Command::fork_with(&program.command, script.runtime, &options, &script.path),
                drain,
            )
        }
    };
    if let Some(cwd) = wish.cwd {
        command = command.current_dir(cwd);
    }
    for (name, value) in &program.env {
        command = command.env(name, value);
    }
    thead::service::Program {
        command: command.args(&program.args).own_group(),
        drain,
        listen: Vec::new(),
        slot_env: Vec::new(),
        // Runtimes of scripts have their own ways, and may be asked to use this one.
        notify: program.script.is_none(),
    }
}

/// A Node worker with the preload shows this often that it is alive, unless something else was said.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a service is called that was given no name.
pub(crate) fn name_of(program: &Program) -> String {
    let path = program.script.as_ref().map_or(&program.command, |script| &script.path);
    let stem = std::path::Path::new(path)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|stem| !stem.is_empty() && stem != "." && stem != "..")
        .unwrap_or_else(|| "service".into())
}

/// What a runtime cannot do is done otherwise, or at least said.
pub(crate) fn mend_schedule(program: &mut Program, scheduling: &mut Scheduling) {
    match (program.script.as_ref().map(|script| script.runtime), *scheduling) {
        (Some(Runtime::Deno), Scheduling::Shared | Scheduling::Kernel) => {
            let note = "Deno cannot accept from a socket that it is given: connections go round-robin";
            program.notes.push(note.into());
            *scheduling = Scheduling::RoundRobin;
        }
        (Some(Runtime::Bun), Scheduling::Sticky) => {
            let note =
                "Bun's servers accept by themselves, whichever the kernel picks: clients do not keep their worker";
            program.notes.push(note.into());
        }
        _ => {}
    }
}

/// The program of a service's workers, or why there is none.
pub(crate) fn resolve(spec: &Spec, sockets: &Bound) -> Result<(Program, thead::service::Program), String> {
    let config = &spec.config;
    let cwd = spec.base.join(config.cwd.as_deref().unwrap_or(Path::new("")));
    if !cwd.is_dir() {
        return Err(format!("{}: no such directory (cwd)", cwd.display()));
    }
    let path = config
        .env
        .get("PATH")
        .map(Into::into)
        .or_else(|| std::env::var_os("PATH"));
    let place = Place {
        cwd: &cwd,
        path: path.as_deref(),
        runtime: config.runtime.as_ref().map(|path| path.as_os_str()),
    };
    let words: Vec<_> = config.run.words().iter().map(Into::into).collect();
    let mut program = place.resolve(&words).map_err(|error| error.to_string())?;
    let wish = Wish {
        channel: config.channel,
        preload: config.preload,
        cwd: Some(&cwd),
    };
    let mut made = program_of(&mut program, wish);
    made.listen = sockets.listen();
    for (name, value) in config.env.iter().filter(|(name, _)| !config.is_hot(name)) {
        made.command = made.command.env(name, value);
    }
    for (name, path) in &config.secret_files {
        let path = spec.base.join(path);
        let secret = std::fs::read_to_string(&path)
            .map_err(|error| format!("the secret {name}: {}: {error}", path.display()))?;
        made.command = made.command.env(name, secret.strip_suffix('\n').unwrap_or(&secret));
    }
    let instance = config.instance_env.as_deref().unwrap_or("NODE_APP_INSTANCE");
    made.slot_env.push((instance.to_owned(), 0));
    if program.script.is_some() {
        // What a program that knew PM2 may look for.
        made.slot_env.push(("pm_id".into(), 0));
        made.command = made.command.env("name", spec.name.as_str());
    }
    if let Some(name) = &config.increment_env {
        let first = config.env.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        made.slot_env.push((name.clone(), first));
    }
    made.command = made
        .command
        .env(SERVICE, spec.name.as_str())
        .env(DATA_DIR, files_dir(&spec.data_dir));
    made.notify |= config.ready == config::Ready::Notify || config.live.heartbeat.is_some();
    Ok((program, made))
}

/// What a primary runs, or why it cannot.
pub(crate) fn prepare(spec: &Spec, sockets: &Bound) -> Result<(Program, Options), String> {
    let (mut program, made) = resolve(spec, sockets)?;
    let mut options = Options::new(made);
    options.settings = settings_of(spec, &program)?;
    options.settings.life.validate().map_err(|error| error.to_string())?;
    options.cluster.scheduling = match spec.config.schedule {
        config::Schedule::RoundRobin => Scheduling::RoundRobin,
        config::Schedule::Shared => Scheduling::Shared,
        config::Schedule::Kernel => Scheduling::Kernel,
        config::Schedule::Sticky => Scheduling::Sticky,
    };
    mend_schedule(&mut program, &mut options.cluster.scheduling);
    Ok((program, options))
}

/// Whether its workers can be talked to.
pub(crate) fn has_channel(program: &Program, config: &config::Service) -> bool {
    program.script.is_some() || config.channel
}

/// What can change while a service runs.
///
/// # Errors
/// A probe that nobody can carry out.
pub(crate) fn settings_of(spec: &Spec, program: &Program) -> Result<Settings, String> {
    let config = &spec.config;
    let mut settings = Settings {
        life: life_of(&spec.name, config, has_channel(program, config)),
        lame_duck: config.reload.lame_duck.duration(),
        stop_signal: config.stop.signal.number(),
        stop_message: config.stop.message,
        limits: limits_of(&config.limit),
        env: hot_env(config),
        ..Settings::default()
    };
    let place = probe::Place {
        cwd: Some(spec.base.join(config.cwd.as_deref().unwrap_or(Path::new("")))),
        env: config.env.clone().into_iter().collect(),
    };
    probe::apply(&mut settings, &config.ready, &config.live, place)?;
    if config.preload && config.live.heartbeat.is_none() && program.is_node() {
        settings.watch.heartbeat = Some(HEARTBEAT);
    }
    Ok(settings)
}

/// The variables that can change while workers run.
pub(crate) fn hot_env(config: &config::Service) -> Variables {
    let hot = config.env.iter().filter(|(name, _)| config.is_hot(name));
    hot.map(|(name, value)| (name.clone(), Some(value.clone()))).collect()
}

/// When a worker is ready; where it is asked, that says so.
pub(crate) fn ready_of(ready: &config::Ready) -> Ready {
    match ready {
        config::Ready::Auto => Ready::Auto,
        config::Ready::Listening => Ready::Listening,
        config::Ready::Delay(span) => Ready::After(span.duration()),
        config::Ready::Message
        | config::Ready::Notify
        | config::Ready::Http(_)
        | config::Ready::Tcp(_)
        | config::Ready::Exec(_) => Ready::Message,
    }
}

/// `cluster`: its workers can share a port.
pub(crate) fn life_of(name: &Name, config: &config::Service, cluster: bool) -> Life {
    let cores = thead::sys::limit::cores();
    let instances = match config.instances {
        Some(instances) => instances.count(cores),
        None if cluster => cores,
        None => 1,
    };
    Life {
        instances,
        ready: ready_of(&config.ready),
        ready_timeout: config.ready_timeout.duration(),
        restart: Restart {
            policy: match config.restart.policy {
                config::Policy::Always => Policy::Always,
                config::Policy::OnFailure => Policy::OnFailure,
                config::Policy::Never => Policy::Never,
            },
            backoff: Backoff {
                first: config.restart.backoff.first.duration(),
                max: config.restart.backoff.max.duration(),
                ..Backoff::default()
            },
            intensity: Intensity {
                restarts: config.restart.intensity.restarts as usize,
                period: config.restart.intensity.period.duration(),
            },
            reset_after: config.restart.reset_after.duration(),
        },
        reload: Reload {
            surge: config.reload.surge as usize,
            soak: config.reload.soak.duration(),
            max_unavailable: config.reload.max_unavailable as usize,
        },
        stop: Stop {
            drain: config.reload.drain.duration(),
            timeout: config.stop.timeout.duration(),
        },
        // Services that were started together do not restart together.
        seed: seed_of(name.as_str()),
    }
}

/// How what workers print is kept.
pub(crate) fn log_of(config: &config::Log) -> log::Settings {
    log::Settings {
        max_size: config.max_size.bytes(),
        max_age: config.max_age.map(config::Span::duration),
        keep: config.keep as usize,
        total: config.total.bytes(),
        compress: config.compress,
        when_full: match config.when_full {
            config::WhenFull::Drop => WhenFull::Drop,
            config::WhenFull::Wait => WhenFull::Wait,
        },
        ..log::Settings::default()
    }
}

fn seed_of(name: &str) -> u64 {
    let start = u64::from(std::process::id());
    name.bytes()
        .fold(start, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()))
}

fn limits_of(limit: &config::Limit) -> Limits {
    Limits {
        memory: limit.memory.map(config::ByteSize::bytes),
        open_files: limit.open_files,
        processes: limit.processes,
        core: limit.core.map(config::ByteSize::bytes),
        nice: limit.nice.map(Into::into),
    }
}
