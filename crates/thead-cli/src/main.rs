//! The program `thead`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use thead::control::Verb as Order;

mod config;
mod control;
mod demo;
mod launch;
mod log;
mod logs;
mod notify;
mod orphans;
mod primary;
mod probe;
mod program;
mod report;
mod role;
mod run;
mod setup;
mod sockets;
mod text;
mod told;
mod verbs;
mod wait;
mod whole;

/// Runs a server on every core, keeps it there, and renews it without losing a request.
#[derive(Debug, Parser)]
#[command(name = "thead", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a program on every core, in the foreground.
    Run(Box<run::RunArgs>),
    /// Start a service: a program, what a configuration file names, or one that is known.
    Start(verbs::StartArgs),
    /// Drain and stop.
    Stop(verbs::StopArgs),
    /// Stop, then start: a gap. For one worker: restart api/2.
    Restart(verbs::TargetArgs),
    /// Replace all workers by new ones, new before old: no gap.
    Reload(verbs::TargetArgs),
    /// Stop and forget.
    Delete(verbs::StopArgs),
    /// Have another number of workers.
    Scale(verbs::ScaleArgs),
    /// Send a signal to the workers.
    Signal(verbs::SignalArgs),
    /// Open the log files anew, after something else has moved them.
    Reopen(verbs::TargetArgs),
    /// Push data to living workers, and see who has applied it.
    Data(verbs::DataArgs),
    /// List services.
    #[command(visible_alias = "list")]
    Ls(verbs::ListArgs),
    /// Everything about one service.
    Describe(verbs::DescribeArgs),
    /// Why a service is as it is: the last deaths, and what is being waited for.
    Why(verbs::WhyArgs),
    /// What happens, as it happens.
    Events(verbs::EventsArgs),
    /// Put a configuration in force.
    Apply(verbs::ApplyArgs),
    /// Say what `apply` would change.
    Plan(verbs::ApplyArgs),
    /// Look whether a configuration is right, and tell all that is not.
    Check(config::verb::CheckArgs),
    /// Write a configuration to begin with, fit for this directory.
    Init(config::verb::InitArgs),
    /// Print a configuration made from PM2's, or from a Procfile.
    Import(config::verb::ImportArgs),
    /// Print what a configuration can say, as a JSON Schema.
    Schema(config::verb::SchemaArgs),
    /// Run the daemon, or end it.
    Daemon(control::DaemonArgs),
    /// Let systemd start the daemon at boot: writes a unit, and checks it.
    Startup(setup::StartupArgs),
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man(setup::ManArgs),
    /// A service's primary; the daemon starts it.
    #[command(hide = true)]
    Primary {
        /// The service, for whoever lists processes.
        name: String,
    },
    /// Show what workers have printed.
    Logs {
        /// Where the files are: that of `thead run --log-dir`. Default: those of the daemon.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        args: logs::LogsArgs,
        /// The services; all that have a log if none is named.
        names: Vec<String>,
    },
    /// See it work: serves a small server, asks it, renews it, and goes on until Ctrl-C.
    Demo(demo::DemoArgs),
    /// The server of the demo, as a worker without Node.
    #[command(hide = true)]
    DemoWorker,
}

fn main() -> ExitCode {
    thead::sys::helper::run_if_asked();
    match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Start(args) => verbs::start(&args),
        Verb::Stop(args) => verbs::stop(Order::Stop, &args),
        Verb::Restart(args) => verbs::simple(Order::Restart, &args),
        Verb::Reload(args) => verbs::simple(Order::Reload, &args),
        Verb::Delete(args) => verbs::stop(Order::Delete, &args),
        Verb::Scale(args) => verbs::scale(&args),
        Verb::Signal(args) => verbs::send_signal(&args),
        Verb::Reopen(args) => verbs::simple(Order::Reopen, &args),
        Verb::Data(args) => verbs::data(&args),
        Verb::Ls(args) => verbs::list(&args),
        Verb::Describe(args) => verbs::describe(&args),
        Verb::Why(args) => verbs::why(&args),
        Verb::Events(args) => verbs::events(&args),
        Verb::Apply(args) => verbs::apply(&args, false),
        Verb::Plan(args) => verbs::apply(&args, true),
        Verb::Check(args) => config::verb::check(&args),
        Verb::Init(args) => config::verb::init(&args),
        Verb::Import(args) => config::verb::import(&args),
        Verb::Schema(args) => config::verb::schema(&args),
        Verb::Daemon(args) => control::daemon(&args),
        Verb::Startup(args) => setup::startup(&args),
        Verb::Completions { shell } => setup::completions(shell),
        Verb::Man(args) => setup::man(&args),
        Verb::Primary { .. } => primary::primary(),
        Verb::Logs { dir, args, names } => logs::logs(&args, &dir.unwrap_or_else(thead::control::log_dir), &names),
        Verb::Demo(args) => demo::demo(&args),
        Verb::DemoWorker => demo::worker(),
    }
}
