//! The program `thead`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[expect(dead_code, reason = "its readers and the processes that obey it follow")]
mod config;
mod demo;
mod orphans;
mod program;
mod report;
mod run;

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
    /// Look whether a configuration is right, and tell all that is not.
    Check(config::verb::CheckArgs),
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
        Verb::Check(args) => config::verb::check(&args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::DemoWorker => demo::worker(),
    }
}
