//! Files that are programs: a runtime of the user's evaluates them once.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use thead::{Command, ExecError, Failure, Runtime};

use super::super::format::Format;
use super::super::problem::{Diagnostics, Problem};
use super::super::source::{LARGEST, Source};
use super::super::tree::Tree;

/// Exports what the file named by the first argument exports, as JSON on descriptor 3. What the file prints goes elsewhere.
const PROGRAM: &str = include_str!("evaluate.mjs");

/// How long a file may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the file exports.
///
/// # Errors
/// No runtime is there, or the file fails, with the place that the runtime tells.
pub(crate) fn evaluate(source: &Source, base: &Path) -> Result<Tree, Diagnostics> {
    let typescript = source
        .path
        .extension()
        .is_some_and(|extension| extension.to_string_lossy().ends_with("ts"));
    // Of TypeScript, older versions of Node know nothing.
    let order = match typescript {
        true => [Runtime::Bun, Runtime::Deno, Runtime::Node],
        false => [Runtime::Node, Runtime::Bun, Runtime::Deno],
    };
    let path = std::env::var_os("PATH");
    let find = |runtime: Runtime| {
        let program = thead::sys::path::resolve(runtime.name().as_ref(), path.as_deref(), Some(base));
        program.ok().map(|program| (runtime, program))
    };
    let Some((runtime, program)) = order.into_iter().find_map(find) else {
        let mend = "install node, bun or deno, or write a thead.toml";
        let message = "is a program, and there is no node, bun or deno in PATH that could evaluate it";
        return Err(Problem::of_file(&source.path, message, mend).into());
    };
    let told = |message: String, mend: &str| Diagnostics::from(Problem::of_file(&source.path, message, mend));
    let memory = memfd_create("thead-configuration", MemfdFlags::CLOEXEC)
        .map_err(|error| told(format!("cannot be evaluated: {error}"), "free some memory"))?;
    let mut answer = std::fs::File::from(memory);
    let theirs = answer
        .try_clone()
        .map_err(|error| told(format!("cannot be evaluated: {error}"), "raise the limit of open files"))?;
    let mut command = Command::new(&program).env("NO_COLOR", "1").env_remove("FORCE_COLOR");
    // What whoever started us says to us is not for it; descriptor 3 would be taken for a channel.
    for variable in ["NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID"] {
        command = command.env_remove(variable);
    }
    let command = command
        .args(arguments(runtime))
        .arg(&source.path)
        .current_dir(base)
        .fd(3, theirs)
        .own_group()
        .timeout(PATIENCE)
        .kill_signal(9);
    if let Err(error) = command.output_sync() {
        return Err(failed(source, runtime, &error).into());
    }
    let mut text = String::new();
    let read = answer
        .seek(SeekFrom::Start(0))
        .and_then(|_| answer.take(LARGEST + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(told(format!("cannot be evaluated: {error}"), "")),
        Ok(length) if length as u64 > LARGEST => Err(told("exports more than 4 MiB".into(), "is it the right file?")),
        Ok(0) => Err(told(
            "ends before it has exported anything".into(),
            "let it export { apps: [...] }, and not call process.exit",
        )),
        Ok(_) => Format::Json5.parse(&text).map_err(|errors| {
            let reason = errors.into_iter().next().map(|error| error.message).unwrap_or_default();
            told(
                format!("exports what is no configuration: {reason}"),
                "let it export { apps: [...] }",
            )
        }),
    }
}

fn arguments(runtime: Runtime) -> Vec<OsString> {
    let words: &[&str] = match runtime {
        Runtime::Node => &["--input-type=module", "-e", PROGRAM, "--"],
        Runtime::Bun => &["-e", PROGRAM],
        Runtime::Deno => &["eval", "--no-check", PROGRAM],
    };
    words.iter().map(OsString::from).collect()
}

/// What went wrong, and where, out of what the runtime printed.
fn failed(source: &Source, runtime: Runtime, error: &ExecError) -> Problem {
    let name = runtime.name();
    if let Failure::Timeout(limit) = error.failure() {
        let message = format!("is not evaluated after {} s", limit.as_secs());
        return Problem::of_file(&source.path, message, "let it export a value, and wait for nothing");
    }
    let printed = String::from_utf8_lossy(&error.output().stderr);
    let says = |line: &&str| {
        let head = line
            .split(':')
            .next()
            .unwrap_or_default()
            .trim_start_matches("Uncaught ");
        line.contains(": ") && (head.ends_with("Error") || head == "error") && !head.contains(' ')
    };
    let line = printed.lines().map(str::trim).find(says);
    let message = match line {
        Some(line) => format!("{name} cannot evaluate it: {line}"),
        None => format!("{name} cannot evaluate it: {}", error.failure()),
    };
    let mend = Some("a configuration exports { apps: [...] }".to_owned());
    match place(&printed, &source.path) {
        Some((line, column)) => {
            let start: usize = source.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
            let rest = source.text.get(start..).unwrap_or_default();
            let length = rest.lines().next().unwrap_or_default().len();
            let begin = rest
                .char_indices()
                .nth(column.saturating_sub(1))
                .map_or(0, |(at, _)| at)
                .min(length);
            Problem::at(source, start + begin..start + length, message, mend)
        }
        None => Problem::at(source, 0..0, message, mend),
    }
}

/// The line, from 1, and the column, from 1 or 0 if it is not told: `FILE:LINE:COLUMN` or `FILE:LINE`.
fn place(printed: &str, file: &Path) -> Option<(usize, usize)> {
    // Bun and Deno name it by its real path.
    let real = std::fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
    let names = [file.display().to_string(), real.display().to_string()];
    let mut only_line = None;
    for name in names {
        for (at, _) in printed.match_indices(&name) {
            let mut numbers = printed[at + name.len()..]
                .split(|c: char| !c.is_ascii_digit() && c != ':')
                .next()?
                .split(':')
                .skip(1);
            let line = numbers
                .next()
                .and_then(|number| number.parse().ok())
                .filter(|line| *line > 0);
            let column = numbers.next().and_then(|number| number.parse().ok());
            match (line, column) {
                (Some(line), Some(column)) => return Some((line, column)),
                (Some(line), None) => only_line = only_line.or(Some((line, 0))),
                _ => {}
            }
        }
    }
    only_line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_found_in_what_a_runtime_prints() {
        let file = Path::new("/app/ecosystem.config.js");
        for (printed, expected) in [
            (
                "/app/ecosystem.config.js:3\n  a b\n    ^\n\nSyntaxError: Unexpected",
                Some((3, 0)),
            ),
            (
                "/app/ecosystem.config.js:2\nthrow\n^\nError: x\n    at Object.<anonymous> (/app/ecosystem.config.js:2:7)",
                Some((2, 7)),
            ),
            ("file:///app/ecosystem.config.js:4\n", Some((4, 0))),
            ("error: x\n    at file:///app/ecosystem.config.js:1:9", Some((1, 9))),
            ("elsewhere.js:3:4", None),
            ("/app/ecosystem.config.js", None),
            ("", None),
        ] {
            assert_eq!(place(printed, file), expected, "{printed}");
        }
    }
}
