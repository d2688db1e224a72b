//! `start`, `apply`, `plan`: what is to run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use serde_json::{Value, json};
use thead::control::{Apply, Client, Order, Verb};

use super::{FAILED, Progress, USAGE, absolute, block_on, complain, ensure, send};
use crate::config;

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// What the service is called. Default: the script's or program's name.
    #[arg(long)]
    name: Option<String>,

    /// How many workers: a number, or max.
    #[arg(short, long, value_name = "N|max")]
    instances: Option<String>,

    /// What it belongs to.
    #[arg(long)]
    namespace: Option<String>,

    /// Set a variable for the workers; repeat for more. Of a PM2 file: NAME alone adds the variables of env_NAME.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// The workers' directory. Default: this one.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// Any other setting of a service, as in thead.toml: --set stop.timeout=30s
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::run::variable)]
    set: Vec<(String, String)>,

    /// Of a configuration: only these services.
    #[arg(long, value_name = "SERVICE")]
    only: Vec<String>,

    /// Report as JSON.
    #[arg(long)]
    json: bool,

    /// A configuration file, the name of a service or namespace that is known, or a program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FILE|NAME|PROGRAM"
    )]
    words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The configuration. Default: thead.toml, thead.yaml, thead.json5, an ecosystem file or a Procfile of this directory.
    file: Option<PathBuf>,
    /// Of a PM2 file: with the variables of env_NAME.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only these services of it.
    #[arg(long, value_name = "SERVICE")]
    only: Vec<String>,
    /// Leave services running that are not in it any more.
    #[arg(long)]
    no_prune: bool,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn apply(args: &ApplyArgs, plan: bool) -> ExitCode {
    let ask = config::Ask {
        file: args.file.as_deref(),
        environment: args.env.as_deref(),
        only: &args.only,
    };
    let wish = match read(ask, args.json) {
        Ok(wish) => wish,
        Err(code) => return code,
    };
    let wish = Apply {
        prune: !args.no_prune,
        only: args.only.clone(),
        start: true,
        plan,
        ..wish
    };
    tell_daemon(&wish, args.json)
}

pub(crate) fn start(args: &StartArgs) -> ExitCode {
    if let [file, behind @ ..] = args.words.as_slice()
        && config::is_file(Path::new(file))
    {
        let behind = Behind::parse_from(behind);
        return start_file(
            Path::new(file),
            &[&args.only[..], &behind.only].concat(),
            args.env.iter().chain(&behind.env),
            args.json || behind.json,
        );
    }
    if let Some(code) = start_known(args) {
        return code;
    }
    match service_of(args) {
        Ok(wish) => tell_daemon(&wish, args.json),
        Err(problem) => {
            eprintln!("thead: {problem}");
            ExitCode::from(USAGE)
        }
    }
}

/// What may stand behind a file, as people who come from PM2 write it.
#[derive(Debug, Parser)]
#[command(name = "thead start FILE", no_binary_name = true)]
struct Behind {
    /// Only these services.
    #[arg(long, value_name = "SERVICE")]
    only: Vec<String>,
    /// Of a PM2 file: with the variables of env_NAME.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

fn start_file<'a>(file: &Path, only: &[String], env: impl Iterator<Item = &'a String>, json: bool) -> ExitCode {
    let env: Vec<_> = env.collect();
    let environment = match env[..] {
        [] => None,
        [name] if !name.contains('=') => Some(name.as_str()),
        _ => {
            eprintln!("thead: with a file, --env names one of its environments; set variables in the file");
            return ExitCode::from(USAGE);
        }
    };
    let ask = config::Ask {
        file: Some(file),
        environment,
        only,
    };
    match read(ask, json) {
        Ok(wish) => {
            let wish = Apply {
                only: only.to_vec(),
                start: true,
                ..wish
            };
            tell_daemon(&wish, json)
        }
        Err(code) => code,
    }
}

/// If all words are names that the daemon knows.
fn start_known(args: &StartArgs) -> Option<ExitCode> {
    let client = Client::default();
    block_on(async {
        let services = client.services().await.ok()?;
        let known = |word: &String| {
            word == "all"
                || services
                    .iter()
                    .any(|service| *word == service.name || *word == service.namespace)
        };
        if !args.words.iter().all(known) {
            return None;
        }
        let order = Order {
            targets: args.words.clone(),
            ..Order::default()
        };
        let mut progress = Progress::new(args.json);
        Some(
            match client.order(Verb::Start, &order, |event| progress.show(event)).await {
                Ok(outcomes) => ExitCode::from(progress.finish(&outcomes)),
                Err(error) => complain(&error, args.json),
            },
        )
    })
}

fn read(ask: config::Ask<'_>, json: bool) -> Result<Apply, ExitCode> {
    let loaded = config::load(ask).map_err(|problems| problems.report(json))?;
    config::verb::tell_notes(&loaded);
    Ok(Apply {
        config: serde_json::to_value(&loaded.config).unwrap_or_default(),
        base: loaded.base.display().to_string(),
        source: loaded.source.display().to_string(),
        ..Apply::default()
    })
}

fn tell_daemon(wish: &Apply, json: bool) -> ExitCode {
    let client = Client::default();
    block_on(async {
        if let Err(problem) = ensure(&client).await {
            eprintln!("thead: {problem}");
            return ExitCode::from(FAILED);
        }
        match send(&client, wish, json).await {
            Ok(code) => ExitCode::from(code),
            Err(error) => complain(&error, json),
        }
    })
}

/// The configuration that the options and words of the command line stand for.
fn service_of(args: &StartArgs) -> Result<Apply, String> {
    let cwd = absolute(args.cwd.as_deref().unwrap_or(Path::new(".")));
    if !cwd.is_dir() {
        return Err(format!("{}: no such directory", cwd.display()));
    }
    let words: Vec<_> = args.words.iter().map(Into::into).collect();
    let path = std::env::var_os("PATH");
    let place = crate::program::Place {
        cwd: &cwd,
        path: path.as_deref(),
        runtime: None,
    };
    // Whoever mistypes a name shall be told now, by the terminal, and with the exit code of a shell.
    let program = place.resolve(&words).map_err(|error| error.to_string())?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_from(&crate::launch::name_of(&program)),
    };
    let mut service = json!({ "run": args.words, "cwd": cwd });
    let mut set = |key: &str, value: Value| insert(&mut service, key, value);
    if let Some(instances) = &args.instances {
        set("instances", typed(instances))?;
    }
    if let Some(namespace) = &args.namespace {
        set("namespace", namespace.as_str().into())?;
    }
    if !args.env.is_empty() {
        let env: Result<BTreeMap<_, _>, _> = args.env.iter().map(|text| crate::run::variable(text)).collect();
        let env = env.map_err(|expected| format!("--env: expected {expected}"))?;
        set("env", json!(env))?;
    }
    for (key, value) in &args.set {
        set(key, typed(value))?;
    }
    let config = json!({ "service": { name: service } });
    // What is wrong with it is said in the words of the command line.
    serde_json::from_value::<config::Config>(config.clone()).map_err(|error| error.to_string())?;
    Ok(Apply {
        config,
        base: cwd.display().to_string(),
        start: true,
        ..Apply::default()
    })
}

/// `a.b` = value.
fn insert(service: &mut Value, key: &str, value: Value) -> Result<(), String> {
    let mut place = service;
    for part in key.split('.') {
        if place.is_null() {
            *place = json!({});
        }
        let Value::Object(table) = place else {
            return Err(format!("--set {key}: what is before {part:?} is no table"));
        };
        place = table.entry(part).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

/// Numbers, booleans, lists and tables as JSON has them; all else is a string.
fn typed(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_))) => value,
        _ => text.into(),
    }
}

/// A name out of a file's: what may not be in one becomes a dash.
fn name_from(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = text.chars().map(plain).take(64).collect();
    match name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "" => "service".into(),
        name => name.into(),
    }
}
