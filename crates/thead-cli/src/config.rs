//! What the operator wrote: files in, a checked [`Config`] out.

use std::path::{Path, PathBuf};

pub(crate) mod address;
mod check;
pub(crate) mod cron;
mod format;
mod hint;
pub(crate) mod model;
pub(crate) mod plan;
mod problem;
mod schema;
mod source;
mod tree;
mod typed;
pub(crate) mod value;
pub(crate) mod verb;

#[cfg(test)]
mod tests;

pub(crate) use hint::nearest;
pub(crate) use model::*;
pub(crate) use problem::{Diagnostics, Problem};
pub(crate) use value::*;

use format::Format;
use source::Source;
use tree::{Step, Tree};
use typed::Finding;

/// A configuration that was read and found right.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Its paths are absolute, and every service has a `cwd`.
    pub(crate) config: Config,
    /// Where relative paths began: the directory of the file.
    pub(crate) base: PathBuf,
    /// The file.
    pub(crate) source: PathBuf,
    /// What is worth knowing.
    pub(crate) notes: Vec<Problem>,
}

/// The files that are looked for when none is named, best first.
pub(crate) const FILES: [&str; 13] = [
    "thead.toml",
    "thead.yaml",
    "thead.yml",
    "thead.json5",
    "thead.json",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.ts",
    "ecosystem.config.json",
    "ecosystem.config.yaml",
    "ecosystem.config.yml",
    "Procfile",
];

/// The configuration file of a directory.
pub(crate) fn find(directory: &Path) -> Result<PathBuf, Diagnostics> {
    let mut files = FILES.iter().map(|name| directory.join(name));
    files.find(|file| file.is_file()).ok_or_else(|| {
        let mend = format!(
            "name a file, or write one with `thead init`; looked for {}",
            FILES.join(", ")
        );
        Problem::of_file(directory, "no configuration here", &mend).into()
    })
}

/// Whether a word of the command line is a configuration file that is there, and not a program.
pub(crate) fn is_file(path: &Path) -> bool {
    (FILES.iter().any(|name| path.ends_with(name)) || Format::of(path).is_some()) && path.is_file()
}

/// Reads a file, whatever its format, and looks whether it can run on this machine. Without a file, that of the current
/// directory.
///
/// # Errors
/// All that is wrong with it, as far as that can be told at once.
pub(crate) fn load(path: Option<&Path>) -> Result<Loaded, Diagnostics> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => find(Path::new("."))?,
    };
    let path = std::path::absolute(&path).map_err(|error| Problem::of_file(&path, error.to_string(), "name a file"))?;
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    let source = Source::read(&path)?;
    let Some(format) = source.format else {
        let mend = "call it .toml, .yaml, .json5 or .json";
        return Err(Problem::of_file(&path, "of no format that thead reads", mend).into());
    };
    let mut tree = format.parse(&source.text).map_err(|errors| {
        let problems = errors.into_iter().map(|error| {
            let message = format!("not {}: {}", format.name(), error.message);
            Problem::at(&source, error.span, message, None)
        });
        Diagnostics::new(problems.collect()).unwrap_or_else(|| Problem::of_file(&path, "not readable", "").into())
    })?;
    // For editors; TOML has a comment for it.
    tree.remove(&[Step::from("$schema")]);
    let typed = typed::config(&tree);
    let mut errors = typed.findings;
    let mut notes = Vec::new();
    let mut config = typed.config;
    if let Some(config) = &mut config {
        settle(config, &base);
        let checked = check::check(config);
        let told = |finding: &Finding| !typed.mended.iter().any(|mended| covers(mended, finding));
        errors.extend(checked.errors.into_iter().filter(told));
        notes.extend(checked.notes.into_iter().filter(told));
    }
    let problems = |findings: Vec<Finding>| -> Vec<Problem> {
        findings
            .into_iter()
            .map(|finding| problem(&source, &tree, finding))
            .collect()
    };
    match (Diagnostics::new(problems(errors)), config) {
        (None, Some(config)) => Ok(Loaded {
            config,
            base,
            source: path,
            notes: problems(notes),
        }),
        (Some(diagnostics), _) => Err(diagnostics),
        (None, None) => Err(Problem::of_file(&path, "more is wrong than can be told", "").into()),
    }
}

/// Whether a finding is about something that was told already.
fn covers(mended: &[Step], finding: &Finding) -> bool {
    finding.path.starts_with(mended)
        || match mended {
            // A service that could not be read is not missing.
            [_, Step::Key(service)] => finding.message == format!("there is no service `{service}`"),
            _ => false,
        }
}

fn problem(source: &Source, tree: &Tree, finding: Finding) -> Problem {
    let span = source.locate(tree, &finding.path, finding.spot);
    Problem::at(source, span, finding.message, finding.mend)
}

/// What is wrong with a configuration that comes without a file: key, message and how to mend it.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let told = |finding: &Finding| {
        let mend = finding
            .mend
            .as_deref()
            .map(|mend| format!("; {mend}"))
            .unwrap_or_default();
        format!("{}: {}{mend}", tree::show_path(&finding.path), finding.message)
    };
    check::check(config).errors.iter().map(told).collect()
}

/// Makes every path absolute.
fn settle(config: &mut Config, base: &Path) {
    // Without the dots that need no file system to be understood.
    let place = |path: &Path| -> PathBuf { base.join(path).components().collect() };
    for service in config.service.values_mut() {
        service.cwd = Some(place(service.cwd.as_deref().unwrap_or(Path::new(""))));
        if let Some(runtime) = &mut service.runtime
            && runtime.components().count() > 1
        {
            *runtime = place(runtime);
        }
        for file in service
            .secret_files
            .values_mut()
            .chain(service.data.values_mut().map(|data| &mut data.file))
        {
            *file = place(file);
        }
    }
}
