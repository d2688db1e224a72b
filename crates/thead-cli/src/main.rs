//! The program `thead`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod demo;
mod log;
mod logs;
mod orphans;
mod program;
mod report;
mod run;
mod text;

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
    /// Show what workers have printed, from the files that `thead run --log-dir` keeps.
    Logs {
        /// Where the files are.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
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
        Verb::Logs { dir, args, names } => logs::logs(&args, &dir, &names),
        Verb::Demo(args) => demo::demo(&args),
        Verb::DemoWorker => demo::worker(),
    }
}
