//! `thead data`: what a service pushes to its workers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use thead::control::{ClientError, DataOutcome, DataPiece, DataPush, DataRevision, DataRollback};

use super::{FAILED, USAGE, absolute, clock, print_json, with_daemon};
use crate::text::plain;

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(Debug, Subcommand)]
enum DataVerb {
    /// Push new data to every worker of a service; returns when all have answered.
    Push(PushArgs),
    /// Print the content of a revision.
    Get(GetArgs),
    /// Show what is in force, and which worker has applied what.
    Status {
        /// The service.
        service: String,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Push the content of an older revision again, under a new number.
    Rollback {
        #[command(flatten)]
        piece: PieceArgs,
        /// The revision. Default: the one that was in force before.
        #[arg(long, value_name = "REVISION")]
        to: Option<u64>,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete a piece that was pushed by hand, with its history. Workers that run keep what they have.
    Delete {
        #[command(flatten)]
        piece: PieceArgs,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the last revisions.
    History {
        #[command(flatten)]
        piece: PieceArgs,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct PieceArgs {
    /// The service.
    service: String,
    /// The piece of data.
    name: String,
}

#[derive(Debug, Args)]
struct PushArgs {
    #[command(flatten)]
    piece: PieceArgs,
    /// The file or directory, or - for standard input.
    #[arg(required_unless_present = "value", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// A value, as JSON.
    #[arg(long, value_name = "JSON")]
    value: Option<String>,
    /// How the file is read. Default: by its extension, or as the piece is configured.
    #[arg(long = "as", value_enum, value_name = "FORM")]
    form: Option<Form>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    #[command(flatten)]
    piece: PieceArgs,
    /// Which. Default: the one that workers have, or are trying.
    #[arg(long)]
    revision: Option<u64>,
    /// As JSON, with what is known about it.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Auto,
    Json,
    Yaml,
    Toml,
    Json5,
    Text,
    Memory,
}

pub(crate) fn data(args: &DataArgs) -> ExitCode {
    match &args.verb {
        DataVerb::Push(args) => push(args),
        DataVerb::Get(args) => get(args),
        DataVerb::Status { service, json } => with_daemon(*json, async |daemon| {
            let pieces = daemon.data(service).await?;
            if *json {
                print_json(&pieces);
            } else {
                show(|out| pieces.iter().try_for_each(|piece| show_piece(out, service, piece)));
                if pieces.is_empty() {
                    println!("{service} has no data; push some: thead data push {service} NAME FILE");
                }
            }
            Ok(0)
        }),
        DataVerb::Rollback { piece, to, json } => with_daemon(*json, async |daemon| {
            let rollback = DataRollback { to: *to };
            let outcome = daemon.roll_back_data(&piece.service, &piece.name, &rollback).await?;
            Ok(tell(&outcome, *json))
        }),
        DataVerb::Delete { piece, json } => with_daemon(*json, async |daemon| {
            let outcome = daemon.delete_data(&piece.service, &piece.name).await?;
            Ok(tell(&outcome, *json))
        }),
        DataVerb::History { piece, json } => with_daemon(*json, async |daemon| {
            let revisions = daemon.data_history(&piece.service, &piece.name).await?;
            if *json {
                print_json(&revisions);
            } else {
                show(|out| revisions.iter().try_for_each(|about| writeln!(out, "{}", line(about))));
            }
            Ok(0)
        }),
    }
}

fn push(args: &PushArgs) -> ExitCode {
    let push = match what(args) {
        Ok(push) => push,
        Err(text) => {
            eprintln!("thead: {text}");
            return ExitCode::from(USAGE);
        }
    };
    with_daemon(args.json, async |daemon| {
        let outcome = daemon.push_data(&args.piece.service, &args.piece.name, &push).await?;
        Ok(tell(&outcome, args.json))
    })
}

/// What is sent: a text that we can read, or the path of what only a file can be.
fn what(args: &PushArgs) -> Result<DataPush, String> {
    let form = args
        .form
        .and_then(|form| Some(form.to_possible_value()?.get_name().to_owned()));
    let mut push = DataPush {
        form,
        ..DataPush::default()
    };
    if let Some(text) = &args.value {
        // As it is written, so that null is one.
        serde_json::from_str::<serde_json::Value>(text).map_err(|error| format!("--value is not JSON: {error}"))?;
        push.text = Some(text.clone());
        push.form = Some("json".into());
        push.from = Some("--value".into());
        return Ok(push);
    }
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    if file == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin()
            .lock()
            .take(thead::data::VALUE_LIMIT as u64 + 1)
            .read_to_string(&mut text);
        read.map_err(|error| format!("standard input: {error}"))?;
        push.text = Some(text);
        push.from = Some("standard input".into());
        return Ok(push);
    }
    let path = absolute(file);
    let wrong = |error: io::Error| format!("{}: {error}", file.display());
    let metadata = path.metadata().map_err(wrong)?;
    let small = metadata.is_file() && metadata.len() <= thead::data::VALUE_LIMIT as u64;
    if small && args.form != Some(Form::Memory) {
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(wrong)?;
        if let Ok(text) = String::from_utf8(bytes) {
            push.text = Some(text);
            push.from = Some(path.display().to_string());
            return Ok(push);
        }
    }
    push.file = Some(path.display().to_string());
    Ok(push)
}

fn get(args: &GetArgs) -> ExitCode {
    with_daemon(args.json, async |daemon| {
        let content = daemon
            .data_content(&args.piece.service, &args.piece.name, args.revision)
            .await?;
        if args.json {
            print_json(&content);
            return Ok(0);
        }
        let mut out = io::stdout().lock();
        let written = match (&content.value, &content.path) {
            // A text as it was, for a program that reads it.
            (Some(serde_json::Value::String(text)), _) => out.write_all(text.as_bytes()),
            (Some(value), _) => writeln!(out, "{value:#}"),
            (None, Some(path)) => match File::open(path) {
                Ok(mut file) => io::copy(&mut file, &mut out).map(drop),
                Err(error) => return Err(ClientError::Broken(format!("{path}: {error}"))),
            },
            (None, None) => Ok(()),
        };
        // A reader that went away wants nothing.
        Ok(if written.and_then(|()| out.flush()).is_ok() {
            0
        } else {
            FAILED
        })
    })
}

fn show(print: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
    // A reader that went away wants nothing.
    let _ = print(&mut io::stdout().lock());
}

fn tell(outcome: &DataOutcome, json: bool) -> u8 {
    if json {
        print_json(outcome);
    } else {
        let text = format!(
            "{} {}: {}",
            outcome.service,
            outcome.name,
            plain(outcome.text.as_bytes())
        );
        if outcome.ok {
            println!("{text}");
        } else {
            eprintln!("{text}");
        }
    }
    if outcome.ok { 0 } else { FAILED }
}

fn line(about: &DataRevision) -> String {
    let mut line = format!(
        "{:>6}  {:<10}  {}  {:>9}  {}",
        about.revision,
        about.state.as_str(),
        clock(about.time),
        size(about.size),
        plain(about.from.as_bytes())
    );
    if let Some(reason) = &about.reason {
        line.push_str(&format!("; {}", plain(reason.as_bytes())));
    }
    line
}

fn show_piece(out: &mut impl Write, service: &str, piece: &DataPiece) -> io::Result<()> {
    let file = piece.file.as_deref().map(|file| format!("  from {file}"));
    writeln!(
        out,
        "{service} {}{}",
        piece.name,
        plain(file.unwrap_or_default().as_bytes())
    )?;
    for about in piece.on_trial.iter().chain(&piece.in_force) {
        writeln!(out, "{}", line(about))?;
    }
    if piece.in_force.is_none() && piece.on_trial.is_none() {
        writeln!(out, "        nothing is in force")?;
    }
    if let Some(problem) = &piece.problem {
        writeln!(out, "        {}", plain(problem.as_bytes()))?;
    }
    for worker in &piece.workers {
        let pid = worker.pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
        let revision = worker
            .revision
            .map(|revision| format!(" {revision}"))
            .unwrap_or_default();
        let mut line = format!("        /{:<4} {pid:<12} {}{revision}", worker.slot, worker.state);
        if let Some(applied) = worker.applied.filter(|applied| Some(*applied) != worker.revision) {
            line.push_str(&format!(", uses {applied}"));
        }
        if let Some(reason) = &worker.reason {
            line.push_str(&format!(": {}", plain(reason.as_bytes())));
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
