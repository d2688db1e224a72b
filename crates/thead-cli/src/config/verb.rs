//! The verbs that only read and write configurations.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use super::write::is_secret;
use super::{Ask, Diagnostics, Loaded, Problem};
use crate::run::USAGE;

#[derive(Debug, Parser)]
#[command(after_help = "Exit codes:\n  0  it can run\n  2  something is wrong with it, or there is no file")]
pub(crate) struct CheckArgs {
    /// The file. Default: thead.toml, or another that thead reads, in the current directory.
    file: Option<PathBuf>,

    /// Of a PM2 file: with the variables of env_NAME.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,

    /// Of this machine, only what these services need.
    #[arg(long, value_name = "SERVICE")]
    only: Vec<String>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// `thead check`
pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    let loaded = super::load(Ask {
        file: args.file.as_deref(),
        environment: args.env.as_deref(),
        only: &args.only,
    });
    if args.json {
        let answer = match &loaded {
            Ok(Loaded {
                config, source, notes, ..
            }) => json!({
                "ok": true,
                "file": source,
                "services": config.service.keys().collect::<Vec<_>>(),
                "notes": notes,
            }),
            Err(diagnostics) => diagnostics.json(),
        };
        return print(&format!("{answer}\n"), if loaded.is_ok() { 0 } else { USAGE });
    }
    match loaded {
        Ok(loaded) => {
            tell_notes(&loaded);
            let names: Vec<_> = loaded.config.service.keys().map(|name| name.as_str()).collect();
            let services = match &names[..] {
                [] => "no services".to_owned(),
                [one] => format!("the service {one}"),
                names => format!("{} services: {}", names.len(), names.join(", ")),
            };
            print(&format!("{} is right: {services}\n", loaded.source.display()), 0)
        }
        Err(diagnostics) => diagnostics.report(false),
    }
}

fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
}

impl Diagnostics {
    /// Tells what is wrong: on standard error, or as an object on standard output. Returns the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            return print(&format!("{}\n", self.json()), USAGE);
        }
        let count = self.problems().len();
        eprintln!("{}", self.render(colours()));
        if count > 1 {
            eprintln!("\nthead: {count} problems");
        }
        ExitCode::from(USAGE)
    }

    fn json(&self) -> Value {
        json!({ "ok": false, "problems": self })
    }
}

/// Shows on standard error what is worth knowing.
pub(crate) fn tell_notes(loaded: &Loaded) {
    if !loaded.notes.is_empty() {
        eprintln!("{}\n", super::problem::render_notes(&loaded.notes, colours()));
    }
}

/// To standard output, whose reader may have gone.
fn print(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::from(code)
}

#[derive(Debug, Parser)]
pub(crate) struct SchemaArgs {
    /// The same as a reference in Markdown.
    #[arg(long)]
    markdown: bool,
}

/// `thead schema`
pub(crate) fn schema(args: &SchemaArgs) -> ExitCode {
    match args.markdown {
        true => print(&super::schema::reference(), 0),
        false => print(&format!("{:#}\n", super::schema::schema()), 0),
    }
}

#[derive(Debug, Parser)]
pub(crate) struct InitArgs {
    /// Print it, and write nothing.
    #[arg(long)]
    print: bool,
}

/// `thead init`
pub(crate) fn init(args: &InitArgs) -> ExitCode {
    let text = match super::init::text(Path::new(".")) {
        Ok(text) => text,
        Err(diagnostics) => return diagnostics.report(false),
    };
    if args.print {
        return print(&text, 0);
    }
    // Nothing that has come since is written over.
    let file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(super::init::FILE);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => print(
            &format!("{} is written; look at it with: thead check\n", super::init::FILE),
            0,
        ),
        Err(error) => {
            let mend = "write it by hand: thead init --print";
            let problem = Problem::of_file(
                Path::new(super::init::FILE),
                format!("cannot be written: {error}"),
                mend,
            );
            Diagnostics::from(problem).report(false)
        }
    }
}

#[derive(Debug, Parser)]
pub(crate) struct ImportArgs {
    /// The word pm2, for what `pm2 save` has saved; or a file: PM2's ecosystem file, a Procfile, any configuration.
    #[arg(value_name = "pm2|FILE")]
    from: String,

    /// With pm2: what was saved. Default: dump.pm2 in PM2_HOME or ~/.pm2.
    #[arg(value_name = "DUMP")]
    dump: Option<PathBuf>,

    /// Of a PM2 file: with the variables of env_NAME.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,

    /// Print variables that look like secrets too.
    #[arg(long)]
    secrets: bool,
}

/// `thead import`: prints a thead.toml.
pub(crate) fn import(args: &ImportArgs) -> ExitCode {
    let loaded = match args.from.as_str() {
        "pm2" => super::load_dump(&args.dump.clone().unwrap_or_else(saved)),
        file => super::load(Ask {
            file: Some(Path::new(file)),
            environment: args.env.as_deref(),
            ..Ask::default()
        }),
    };
    let mut loaded = match loaded {
        Ok(loaded) => loaded,
        Err(diagnostics) => return diagnostics.report(false),
    };
    tell_notes(&loaded);
    let mut left_out = BTreeMap::new();
    if !args.secrets {
        for (name, service) in &mut loaded.config.service {
            let mut secrets = Vec::new();
            service.env.retain(|name, value| {
                let secret = is_secret(name, value);
                secrets.extend(secret.then(|| name.clone()));
                !secret
            });
            left_out.insert(name.clone(), secrets);
        }
    }
    print(&super::write::toml(&loaded.config, &loaded.base, &left_out), 0)
}

/// Where PM2 keeps what it saves.
fn saved() -> PathBuf {
    let home = std::env::var_os("PM2_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pm2")));
    home.unwrap_or_default().join("dump.pm2")
}
