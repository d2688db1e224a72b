//! `thead-lab`: the service models, as real servers, measured side by side.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::serve;

/// The service models, as real servers, measured side by side.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
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
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().action {
        Action::Serve(arguments) => serve::serve(&arguments),
        Action::Model(arguments) => serve::model(&arguments).map(|never| match never {}),
        Action::Worker(arguments) => serve::worker(&arguments).map(|()| 0),
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("thead-lab: {error}");
            error.exit_code().into()
        }
    }
}
