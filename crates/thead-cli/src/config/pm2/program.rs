//! What an app's script, interpreter and arguments are as a command.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::procfile::in_shell;
use super::super::value::Argv;

/// What an app says of its program.
pub(super) struct Wish<'a> {
    pub(super) script: String,
    pub(super) args: Vec<String>,
    pub(super) interpreter: Option<String>,
    pub(super) node_args: Vec<String>,
    pub(super) cwd: &'a Path,
}

/// The command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) words: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// What and how to mend it.
    pub(super) notes: Vec<(String, &'static str)>,
}

/// By extension, as PM2 has them.
const INTERPRETERS: [(&str, &str); 14] = [
    ("sh", "bash"),
    ("py", "python3"),
    ("rb", "ruby"),
    ("php", "php"),
    ("pl", "perl"),
    ("js", "node"),
    ("cjs", "node"),
    ("mjs", "node"),
    ("coffee", "coffee"),
    ("ls", "lsc"),
    ("ts", "bun"),
    ("tsx", "bun"),
    ("mts", "bun"),
    ("cts", "bun"),
];

impl Wish<'_> {
    /// Whether Node runs it.
    pub(super) fn is_node(&self) -> bool {
        match &self.interpreter {
            Some(interpreter) => interpreter
                .rsplit('/')
                .next()
                .is_some_and(|name| name == "node" || name.starts_with("node@")),
            None => self.by_extension() == Some("node"),
        }
    }

    fn file(&self) -> PathBuf {
        self.cwd.join(&self.script)
    }

    fn by_extension(&self) -> Option<&'static str> {
        let extension = Path::new(&self.script).extension()?.to_str()?;
        INTERPRETERS
            .iter()
            .find(|(known, _)| *known == extension)
            .map(|(_, program)| *program)
    }

    /// The script as a word that is not looked for in PATH.
    fn word(&self) -> String {
        match self.script.contains('/') || !self.file().exists() {
            true => self.script.clone(),
            false => format!("./{}", self.script),
        }
    }

    pub(super) fn make(self) -> Made {
        let mut made = Made::default();
        // PM2: a line is bash's.
        if self.script.contains(' ') && !self.file().exists() {
            made.words = match self.script.parse::<Argv>() {
                Ok(argv) => argv.words().to_vec(),
                Err(_) => in_shell(&self.script),
            };
            return made;
        }
        let interpreter = self.interpreter(&mut made);
        if let Some(interpreter) = interpreter {
            if interpreter.contains("python") {
                made.env.push(("PYTHONUNBUFFERED".into(), "1".into()));
            }
            made.words.push(interpreter);
            made.words.extend(self.node_args.iter().cloned());
        }
        made.words.push(self.word());
        made.words.extend(self.args);
        made
    }

    /// What runs the script, if it does not run by itself.
    fn interpreter(&self, made: &mut Made) -> Option<String> {
        if let Some(interpreter) = &self.interpreter {
            return match interpreter.split_once('@') {
                _ if interpreter == "none" => None,
                Some(("node", version)) => Some(of_nvm(version).unwrap_or_else(|| {
                    let message = format!("the interpreter {interpreter:?} is not there: nvm has no such version");
                    made.notes
                        .push((message, "install it (nvm install), or name the path of a node"));
                    "node".into()
                })),
                _ => Some(interpreter.clone()),
            };
        }
        if let Some(program) = self.by_extension() {
            let there = |program: &str| {
                thead::sys::path::resolve(program.as_ref(), std::env::var_os("PATH").as_deref(), None).is_ok()
            };
            return Some(match program {
                "bun" if !there("bun") => "node".into(),
                "node" if !there("node") && there("bun") => "bun".into(),
                "node" if !there("node") && there("deno") => "deno".into(),
                "python3" if !there("python3") && there("python") => "python".into(),
                program => program.to_owned(),
            });
        }
        // What is in PATH, such as npm, is found by its own first line; so is a file that has one.
        let mut head = [0; 64];
        let length = File::open(self.file())
            .and_then(|mut file| file.read(&mut head))
            .unwrap_or(0);
        let head = &head[..length];
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let node = first.starts_with(b"#!") && first.windows(4).any(|word| word == b"node");
        let text = length > 0 && !head.contains(&0) && !first.starts_with(b"#!");
        (node || text).then(|| "node".into())
    }
}

/// The node of a version that nvm has installed.
fn of_nvm(version: &str) -> Option<String> {
    let home = std::env::var_os("NVM_DIR").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".nvm")))?;
    let node = home.join(format!("versions/node/v{}/bin/node", version.trim_start_matches('v')));
    node.is_file().then(|| node.display().to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn make(cwd: &Path, script: &str, interpreter: Option<&str>, node_args: &[&str], args: &[&str]) -> String {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let wish = Wish {
            script: script.into(),
            args: list(args),
            interpreter: interpreter.map(str::to_owned),
            node_args: list(node_args),
            cwd,
        };
        wish.make().words.join("|")
    }

    #[test]
    fn an_interpreter_is_found_as_pm2_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("server.js", ""),
            ("www", "#!/usr/bin/env node\n"),
            ("plain", "x()\n"),
            ("binary", "\x7fELF\0"),
            ("run", "#!/bin/sh\n"),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        for (script, interpreter, node_args, args, expected) in [
            ("server.js", None, &[][..], &["-p", "80"][..], "node|./server.js|-p|80"),
            (
                "./server.js",
                None,
                &["--max-old-space-size=100"],
                &[],
                "node|--max-old-space-size=100|./server.js",
            ),
            ("www", None, &["-r", "x"], &[], "node|-r|x|./www"),
            ("plain", None, &[], &[], "node|./plain"),
            ("binary", None, &["-r"], &["a"], "./binary|a"),
            ("run", None, &[], &[], "./run"),
            ("run", Some("none"), &[], &[], "./run"),
            ("server.js", Some("./bin/node"), &[], &[], "./bin/node|./server.js"),
            ("npm", None, &[], &["run", "start"], "npm|run|start"),
            ("npm run start", None, &[], &["lost"], "npm|run|start"),
            ("cd app && node x.js", None, &[], &[], "sh|-c|cd app && node x.js"),
            ("gone.js", None, &[], &[], "node|gone.js"),
        ] {
            assert_eq!(make(dir.path(), script, interpreter, node_args, args), expected);
        }
    }

    #[test]
    fn python_prints_at_once() {
        let wish = Wish {
            script: "app.py".into(),
            args: Vec::new(),
            interpreter: Some("./venv/bin/python".into()),
            node_args: Vec::new(),
            cwd: Path::new("/"),
        };
        assert_eq!(wish.make().env, [("PYTHONUNBUFFERED".into(), "1".into())]);
    }
}
