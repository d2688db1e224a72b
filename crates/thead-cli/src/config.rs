//! What the operator wrote: files in, a checked [`Config`] out.

use std::path::{Path, PathBuf};

pub(crate) mod address;
mod check;
pub(crate) mod cron;
pub(crate) mod format;
mod hint;
mod init;
pub(crate) mod model;
pub(crate) mod plan;
mod pm2;
mod problem;
mod procfile;
mod schema;
mod source;
pub(crate) mod tree;
mod typed;
pub(crate) mod value;
pub(crate) mod verb;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use check::is_ours;
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
    let named = FILES.iter().any(|name| path.ends_with(name)) || Format::of(path).is_some() || pm2::is_program(path);
    named && path.is_file()
}

/// What is to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask<'a> {
    /// Without a file, that of the current directory.
    pub(crate) file: Option<&'a Path>,
    /// Which of the environments that a PM2 file has.
    pub(crate) environment: Option<&'a str>,
    /// The services that matter, unless all do. What this machine lacks for others is no problem.
    pub(crate) only: &'a [String],
}

/// Reads a file, whatever its format, and looks whether it can run on this machine.
///
/// # Errors
/// All that is wrong with it, as far as that can be told at once.
pub(crate) fn load(ask: Ask<'_>) -> Result<Loaded, Diagnostics> {
    let path = match ask.file {
        Some(path) => path.to_owned(),
        None => find(Path::new("."))?,
    };
    let path = std::path::absolute(&path).map_err(|error| Problem::of_file(&path, error.to_string(), "name a file"))?;
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    let source = Source::read(&path)?;
    let mut reading = read(&source, &base, ask.environment)?;
    if let Some(config) = &mut reading.config {
        settle(config, &base);
        let checked = check::check(config);
        let worth = |finding: &Finding| {
            is_wanted(finding, ask.only) && !reading.mended.iter().any(|mended| covers(mended, finding))
        };
        let errors = checked
            .errors
            .into_iter()
            .filter(worth)
            .map(|finding| reading.translate(finding));
        let notes = checked
            .notes
            .into_iter()
            .filter(worth)
            .map(|finding| reading.translate(finding));
        let (errors, notes): (Vec<_>, Vec<_>) = (errors.collect(), notes.collect());
        reading.errors.extend(errors);
        reading.notes.extend(notes);
    }
    let problems = |findings: Vec<Finding>| -> Vec<Problem> {
        findings
            .into_iter()
            .map(|finding| problem(&source, &reading.tree, finding))
            .collect()
    };
    match (Diagnostics::new(problems(reading.errors)), reading.config) {
        (None, Some(config)) => Ok(Loaded {
            config,
            base,
            source: path,
            notes: problems(reading.notes),
        }),
        (Some(diagnostics), _) => Err(diagnostics),
        (None, None) => Err(Problem::of_file(&path, "more is wrong than can be told", "").into()),
    }
}

/// Whether a finding is about one of the services that were asked for, or about all of them.
fn is_wanted(finding: &Finding, only: &[String]) -> bool {
    match &finding.path[..] {
        [Step::Key(table), Step::Key(name), ..] if table == "service" => only.is_empty() || only.contains(name),
        _ => true,
    }
}

/// What a file was understood as.
#[derive(Debug)]
struct Reading {
    /// What it says.
    tree: Tree,
    config: Option<Config>,
    /// About places in the tree.
    errors: Vec<Finding>,
    notes: Vec<Finding>,
    /// Places in the configuration that were made up so that the rest could be read. Nothing there is worth a second
    /// complaint.
    mended: Vec<Vec<Step>>,
    /// From places in the configuration to those in the tree; what has none is at the same place.
    origins: Vec<(Vec<Step>, Vec<Step>)>,
}

impl Reading {
    /// A finding about the configuration as one about the tree.
    fn translate(&self, finding: Finding) -> Finding {
        let fits = self.origins.iter().filter(|(place, _)| finding.path.starts_with(place));
        match fits.max_by_key(|(place, _)| place.len()) {
            Some((_, origin)) => Finding {
                path: origin.clone(),
                ..finding
            },
            None => finding,
        }
    }
}

/// Reads what `pm2 save` has written, without looking whether it can run on this machine.
///
/// # Errors
/// It is none.
pub(crate) fn load_dump(path: &Path) -> Result<Loaded, Diagnostics> {
    let source = Source::read(path)?;
    let dump = Format::Json5
        .parse(&source.text)
        .ok()
        .filter(|tree| matches!(tree.value, tree::Value::Seq(_)));
    let Some(dump) = dump else {
        return Err(Problem::of_file(path, "is no dump of PM2", "`pm2 save` writes one: ~/.pm2/dump.pm2").into());
    };
    let base = std::path::absolute(".").unwrap_or_default();
    let reading = pm2::read(pm2::apps_of_dump(&dump), &base, None);
    let problems = |findings: Vec<Finding>| -> Vec<Problem> {
        findings
            .into_iter()
            .map(|finding| problem(&source, &reading.tree, finding))
            .collect()
    };
    match (Diagnostics::new(problems(reading.errors)), reading.config) {
        (None, Some(config)) => Ok(Loaded {
            config,
            base,
            source: path.to_owned(),
            notes: problems(reading.notes),
        }),
        (Some(diagnostics), _) => Err(diagnostics),
        (None, None) => Err(Problem::of_file(path, "is no dump of PM2", "").into()),
    }
}

fn read(source: &Source, base: &Path, environment: Option<&str>) -> Result<Reading, Diagnostics> {
    if pm2::is_program(&source.path) {
        let tree = pm2::evaluate(source, base)?;
        return Ok(pm2::read(tree, base, environment));
    }
    let Some(format) = source.format else {
        if source
            .path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("Procfile"))
        {
            return Ok(procfile::read(&source.text));
        }
        let mend = "call it .toml, .yaml, .json5 or .json; of PM2 it may be a .config.js, and of others a Procfile";
        return Err(Problem::of_file(&source.path, "of no format that thead reads", mend).into());
    };
    let mut tree = format.parse(&source.text).map_err(|errors| {
        let problems = errors.into_iter().map(|error| {
            let message = format!("not {}: {}", format.name(), error.message);
            Problem::at(source, error.span, message, None)
        });
        let unknown = || Problem::of_file(&source.path, format!("not {}", format.name()), "").into();
        Diagnostics::new(problems.collect()).unwrap_or_else(unknown)
    })?;
    if pm2::is_tree(&tree) && format != Format::Toml {
        return Ok(pm2::read(tree, base, environment));
    }
    // For editors; TOML has a comment for it.
    tree.remove(&[Step::from("$schema")]);
    let typed = typed::config(&tree);
    Ok(Reading {
        tree,
        config: typed.config,
        errors: typed.findings,
        notes: Vec::new(),
        mended: typed.mended,
        origins: Vec::new(),
    })
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

/// What is wrong with a configuration that comes without a file, from a command line or over the control socket. `only` are
/// the services that matter, unless all do.
pub(crate) fn problems(config: &Config, base: &Path, only: &[String]) -> Vec<String> {
    let mut config = config.clone();
    settle(&mut config, base);
    // What it starts after may be known from elsewhere.
    let worth = |finding: &Finding| is_wanted(finding, only) && !finding.path.contains(&Step::from("after"));
    let told = |finding: Finding| {
        let mend = finding.mend.map(|mend| format!("; {mend}")).unwrap_or_default();
        format!("{}: {}{mend}", tree::show_path(&finding.path), finding.message)
    };
    check::check(&config)
        .errors
        .into_iter()
        .filter(worth)
        .map(told)
        .collect()
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
