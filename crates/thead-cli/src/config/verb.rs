//! The verbs that only read and write configurations.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use super::{Diagnostics, Loaded};
use crate::run::USAGE;

#[derive(Debug, Parser)]
#[command(after_help = "Exit codes:\n  0  it can run\n  2  something is wrong with it, or there is no file")]
pub(crate) struct CheckArgs {
    /// The file. Default: thead.toml, or another that thead reads, in the current directory.
    file: Option<PathBuf>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// `thead check`
pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    let loaded = super::load(args.file.as_deref());
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
