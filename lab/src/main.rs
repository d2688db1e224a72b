//! `thead-lab`: the service models, as real servers, measured side by side.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::{load, run, serve};

/// The service models, as real servers, measured side by side.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: run::Arguments,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serves as one model does, or by a peer, until SIGTERM or SIGINT.
    Serve(serve::Arguments),
    /// The server itself, which `serve` starts and ends.
    #[command(hide = true)]
    Model(serve::ModelArguments),
    /// A worker of the cluster, which its primary starts.
    #[command(hide = true)]
    Worker(serve::WorkerArguments),
    /// The load, which the measurement starts.
    #[command(hide = true)]
    Load {
        /// A [`load::Spec`] as JSON.
        #[arg(value_parser = spec)]
        spec: load::Spec,
    },
}

fn spec(text: &str) -> Result<load::Spec, serde_json::Error> {
    serde_json::from_str(text)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.action {
        Some(Action::Serve(arguments)) => {
            serve::serve(&arguments).map_err(|error| (error.exit_code(), error.to_string()))
        }
        Some(Action::Model(arguments)) => match serve::model(&arguments) {
            Ok(never) => match never {},
            Err(error) => Err((error.exit_code(), error.to_string())),
        },
        Some(Action::Worker(arguments)) => serve::worker(&arguments)
            .map(|()| 0)
            .map_err(|error| (error.exit_code(), error.to_string())),
        Some(Action::Load { spec }) => load::run(&spec).map(|()| 0).map_err(|error| (2, error.to_string())),
        None => run::run(&arguments.run)
            .map(|()| 0)
            .map_err(|error| (error.exit_code(), error.to_string())),
    };
    match ended {
        Ok(code) => code.into(),
        Err((code, error)) => {
            eprintln!("thead-lab: {error}");
            code.into()
        }
    }
}
