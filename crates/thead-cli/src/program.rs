//! What the words after `thead run` mean: which program is started, and whether it is a script of a JavaScript runtime.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thead::Runtime;

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// A name to be found in PATH, or a path.
    pub(crate) command: OsString,
    /// `None` for a program that is no JavaScript runtime: it gets no channel.
    pub(crate) script: Option<Script>,
    /// What follows the command (and the script).
    pub(crate) args: Vec<OsString>,
    /// Variables that a package script sets in front of its command.
    pub(crate) env: Vec<(String, String)>,
    /// What was resolved, for the operator.
    pub(crate) notes: Vec<String>,
}

/// A script and its runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) runtime: Runtime,
    /// Options of the runtime that stand before the script.
    pub(crate) options: Vec<OsString>,
    pub(crate) path: OsString,
}

/// Why nothing can be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("{0:?} does not exist (looked for it in {1}); check the path, or --cwd")]
    Missing(OsString, String),
    #[error("{path:?} cannot be executed: {reason}; {mend}")]
    NotExecutable {
        path: OsString,
        reason: String,
        mend: String,
    },
    #[error("{what}\n  {mend}")]
    Refused { what: String, mend: String },
}

impl ProgramError {
    /// As a shell would answer: 127 not found, 126 found but not executable, 2 not understood.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Missing(..) => 127,
            Self::NotExecutable { .. } => 126,
            Self::Refused { .. } => 2,
        }
    }
}

fn refused(what: impl Into<String>, mend: impl Into<String>) -> ProgramError {
    ProgramError::Refused {
        what: what.into(),
        mend: mend.into(),
    }
}

/// How many package scripts may call each other.
const PACKAGE_DEPTH: usize = 4;

/// Where programs are looked for.
pub(crate) struct Place<'a> {
    /// The directory of the workers.
    pub(crate) cwd: &'a Path,
    /// Their PATH.
    pub(crate) path: Option<&'a OsStr>,
    /// `--runtime`.
    pub(crate) runtime: Option<&'a OsStr>,
}

impl Program {
    /// Its workers are Node's.
    pub(crate) fn is_node(&self) -> bool {
        self.script
            .as_ref()
            .is_some_and(|script| script.runtime == Runtime::Node)
    }
}

impl Place<'_> {
    /// Understands the words after `thead run`.
    pub(crate) fn resolve(&self, words: &[OsString]) -> Result<Program, ProgramError> {
        self.resolve_words(words, 0)
    }

    fn resolve_words(&self, words: &[OsString], depth: usize) -> Result<Program, ProgramError> {
        let [command, rest @ ..] = words else {
            return Err(refused("no program given", "try: thead run server.js"));
        };
        if command.as_bytes().starts_with(b"-") {
            return Err(refused(
                format!("{} is no option of thead run", command.display()),
                "see: thead run --help",
            ));
        }
        if let Some(runtime) = Runtime::of_program(command) {
            return self.resolve_runtime(command, runtime, rest, depth);
        }
        let name = Path::new(command)
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        if let "npm" | "yarn" | "pnpm" | "npx" | "pnpx" | "bunx" = name {
            return self.resolve_package(name, rest, depth);
        }
        let file = self.cwd.join(command);
        if Runtime::runs(Path::new(command)) || file.is_dir() {
            return self.script(self.script_runtime(&file)?, Vec::new(), command, rest);
        }
        let Some(found) = self.find(command) else {
            let mut mend = String::new();
            if file.is_file() {
                mend = format!("; a file of that name is in the directory: say ./{}", command.display());
            }
            return Err(ProgramError::Missing(
                command.clone(),
                format!("{}{mend}", self.places(command)),
            ));
        };
        if let Some((interpreter, options)) = shebang(&found) {
            if let Some(runtime) = Runtime::of_program(&interpreter) {
                let (program, path) = (self.runtime.unwrap_or(&interpreter), found.into_os_string());
                return self.script((program.to_owned(), runtime), options, &path, rest);
            }
            if self.find(&interpreter).is_none() {
                return Err(ProgramError::NotExecutable {
                    path: command.clone(),
                    reason: format!("its first line names {}, which does not exist", interpreter.display()),
                    mend: "install that, or correct the line".into(),
                });
            }
        }
        executable(&found)?;
        Ok(Program {
            command: command.clone(),
            script: None,
            args: rest.to_vec(),
            env: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// `node [options] script args`.
    fn resolve_runtime(
        &self,
        command: &OsStr,
        runtime: Runtime,
        words: &[OsString],
        depth: usize,
    ) -> Result<Program, ProgramError> {
        let mut options = Vec::new();
        let mut words = words.iter().peekable();
        if runtime != Runtime::Node && words.peek().is_some_and(|word| *word == "run") {
            words.next();
        }
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            let flag = text.split('=').next().unwrap_or_default();
            match flag {
                "--" => continue,
                "-" => {
                    return Err(refused(
                        "a script on standard input cannot be given to several workers",
                        "save it as a file and run that",
                    ));
                }
                "-e" | "--eval" | "-p" | "--print" | "-pe" | "-i" | "--interactive" | "eval" | "repl" => {
                    return Err(refused(
                        format!("{} {flag} runs no file, and a worker needs one", runtime.name()),
                        "save the code as a file and run that",
                    ));
                }
                "--watch" | "--watch-path" | "--hot" | "-w" => {
                    return Err(refused(
                        format!(
                            "{} {flag} puts a watcher between thead and the server: the watcher would become the worker",
                            runtime.name()
                        ),
                        "leave it out; a reload is `kill -HUP` to thead",
                    ));
                }
                "--test" | "test" | "install" | "task" | "serve" => {
                    return Err(refused(
                        format!("{} {flag} is not a server script", runtime.name()),
                        "name the script that listens",
                    ));
                }
                "--run" => {
                    let name = text
                        .split_once('=')
                        .map(|(_, name)| name.into())
                        .or_else(|| words.next().cloned());
                    let name = name.ok_or_else(|| refused("--run without the name of a script", "say which"))?;
                    return self.package_script(&name.to_string_lossy(), words.cloned().collect(), depth);
                }
                _ if text.starts_with('-') => {
                    options.push(word.clone());
                    if takes_value(flag) && !text.contains('=') {
                        options.extend(words.next().cloned());
                    }
                }
                _ => {
                    let args: Vec<_> = words.cloned().collect();
                    let command = self.runtime.unwrap_or(command);
                    return self.script((command.to_owned(), runtime), options, word, &args);
                }
            }
        }
        Err(refused(
            format!("{} without a script", runtime.name()),
            format!("try: thead run {} server.js", runtime.name()),
        ))
    }

    fn script(
        &self,
        (command, runtime): (OsString, Runtime),
        options: Vec<OsString>,
        path: &OsStr,
        args: &[OsString],
    ) -> Result<Program, ProgramError> {
        let runtime = self.runtime.map_or(Ok(runtime), known_runtime)?;
        let file = self.cwd.join(path);
        // Node adds the extension itself, so `node server` is a script too.
        let with_extension = file.with_extension("js");
        if !file.exists() && !with_extension.exists() {
            return Err(ProgramError::Missing(path.to_owned(), self.cwd.display().to_string()));
        }
        if let Err(error) = fs::File::open(if file.exists() { &file } else { &with_extension }) {
            return Err(ProgramError::NotExecutable {
                path: path.to_owned(),
                reason: error.to_string(),
                mend: "give the user that runs thead the right to read it (chmod +r)".into(),
            });
        }
        if self.find(&command).is_none() {
            return Err(ProgramError::Missing(
                command.clone(),
                format!("{}; install it, or name another runtime", self.places(&command)),
            ));
        }
        let script = Script {
            runtime,
            options,
            path: path.to_owned(),
        };
        Ok(Program {
            command,
            script: Some(script),
            args: args.to_vec(),
            env: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// `--runtime`, what the script's first line names, or node.
    fn script_runtime(&self, script: &Path) -> Result<(OsString, Runtime), ProgramError> {
        if let Some(program) = self.runtime {
            return Ok((program.to_owned(), known_runtime(program)?));
        }
        let named = shebang(script).and_then(|(program, _)| Some((Runtime::of_program(&program)?, program)));
        Ok(named.map_or_else(
            || ("node".into(), Runtime::Node),
            |(runtime, program)| (program, runtime),
        ))
    }

    /// `npm start` and its like: npm would become the worker, so what it would run is run instead.
    fn resolve_package(&self, tool: &str, words: &[OsString], depth: usize) -> Result<Program, ProgramError> {
        let text: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let verbs: Vec<&str> = text.iter().map(AsRef::as_ref).collect();
        let after_dashes =
            |args: &[OsString]| -> Vec<OsString> { args.iter().skip_while(|arg| *arg == "--").cloned().collect() };
        match (tool, &verbs[..]) {
            ("npx" | "pnpx" | "bunx", [name, ..]) | (_, ["exec", name, ..]) if !name.starts_with('-') => {
                let skip = if tool == "npm" || verbs[0] == "exec" { 2 } else { 1 };
                let bin = Path::new("node_modules/.bin").join(name);
                if !self.cwd.join(&bin).exists() {
                    return Err(refused(
                        format!("{tool} would fetch {name:?} at each start: it is not in node_modules"),
                        format!("install it first (npm install {name})"),
                    ));
                }
                let words: Vec<_> = [bin.into_os_string()]
                    .into_iter()
                    .chain(words[skip..].iter().cloned())
                    .collect();
                self.resolve_words(&words, depth + 1)
            }
            (_, ["run" | "run-script", name, ..]) => self.package_script(name, after_dashes(&words[2..]), depth),
            (_, ["start", ..]) => self.package_script("start", after_dashes(&words[1..]), depth),
            ("yarn" | "pnpm", [name, ..]) if !name.starts_with('-') => {
                self.package_script(name, after_dashes(&words[1..]), depth)
            }
            _ => Err(refused(
                format!(
                    "{tool} {} starts no script that thead could run itself",
                    verbs.join(" ")
                ),
                "name the program that listens: thead run server.js",
            )),
        }
    }

    fn package_script(&self, name: &str, args: Vec<OsString>, depth: usize) -> Result<Program, ProgramError> {
        if depth >= PACKAGE_DEPTH {
            return Err(refused(
                "package scripts that call each other without end",
                "name the program that listens",
            ));
        }
        let file = self.cwd.join("package.json");
        let bad = |reason: String| {
            refused(
                format!("{}: {reason}", file.display()),
                "name the program that listens: thead run server.js",
            )
        };
        let package: serde_json::Value = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?,
            Err(error) => return Err(bad(error.to_string())),
        };
        let script = |name: &str| package["scripts"][name].as_str().map(str::to_owned);
        let Some(line) = script(name) else {
            let names: Vec<_> = package["scripts"]
                .as_object()
                .map(|all| all.keys().cloned().collect())
                .unwrap_or_default();
            return Err(bad(format!(
                "no script {name:?}; it has {}",
                if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                }
            )));
        };
        if let Some(before) = script(&format!("pre{name}")) {
            return Err(refused(
                format!("{}: script \"pre{name}\" ({before}) would be left out", file.display()),
                format!("run it once first (npm run pre{name}), then: thead run {line}"),
            ));
        }
        let mut env = Vec::new();
        let mut words: Vec<OsString> = Vec::new();
        for word in line.split_whitespace() {
            if word.contains(['&', '|', ';', '<', '>', '$', '`', '(', '\'', '"', '\\', '*', '?']) {
                return Err(refused(
                    format!(
                        "{}: script {name:?} needs a shell ({line}); the shell would stand between thead and the server",
                        file.display()
                    ),
                    "name the program that listens: thead run server.js",
                ));
            }
            match word.split_once('=') {
                Some((key, value)) if words.is_empty() && !key.is_empty() => env.push((key.into(), value.into())),
                _ if words.is_empty() && word == "cross-env" => {}
                _ => words.push(word.into()),
            }
        }
        // npm puts the package's own programs before those of PATH.
        if let Some(first) = words.first_mut() {
            let bin = Path::new("node_modules/.bin").join(&*first);
            if self.cwd.join(&bin).exists() {
                *first = bin.into_os_string();
            }
        }
        words.extend(args);
        let mut program = self.resolve_words(&words, depth + 1)?;
        env.append(&mut program.env);
        program.env = env;
        program
            .notes
            .insert(0, format!("script {name:?} of package.json is: {line}"));
        Ok(program)
    }

    /// As `execvp` finds it, except that the rights are looked at later.
    fn find(&self, command: &OsStr) -> Option<PathBuf> {
        if command.as_bytes().contains(&b'/') {
            let file = self.cwd.join(command);
            return file.is_file().then_some(file);
        }
        let path = self.path.unwrap_or(OsStr::new("/bin:/usr/bin"));
        std::env::split_paths(path)
            .map(|dir| self.cwd.join(dir).join(command))
            .find(|file| file.is_file())
    }

    fn places(&self, command: &OsStr) -> String {
        if command.as_bytes().contains(&b'/') {
            return self.cwd.display().to_string();
        }
        "PATH".into()
    }
}

fn known_runtime(program: &OsStr) -> Result<Runtime, ProgramError> {
    Runtime::of_program(program).ok_or_else(|| {
        refused(
            format!(
                "--runtime {}: not a runtime that thead knows by its file name",
                program.display()
            ),
            "give the path of a program called node, bun or deno",
        )
    })
}

/// Options of Node, Bun and Deno whose value is a word of its own.
fn takes_value(flag: &str) -> bool {
    const FLAGS: [&str; 14] = [
        "-r",
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "-C",
        "--conditions",
        "--env-file",
        "--env-file-if-exists",
        "--title",
        "--icu-data-dir",
        "--preload",
        "--config",
        "--stack-trace-limit",
    ];
    FLAGS.contains(&flag)
}

/// The interpreter that a script's first line names, and its options; of `/usr/bin/env NAME` it is NAME.
fn shebang(file: &Path) -> Option<(OsString, Vec<OsString>)> {
    let mut head = [0; 256];
    let length = fs::File::open(file).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head[..length]
        .split(|byte| *byte == b'\n')
        .next()?
        .strip_prefix(b"#!")?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace().peekable();
    let mut interpreter = words.next()?;
    if Path::new(interpreter).file_name() == Some(OsStr::new("env")) {
        words.next_if_eq(&"-S");
        interpreter = words.next()?;
    }
    Some((interpreter.into(), words.map(OsString::from).collect()))
}

fn executable(file: &Path) -> Result<(), ProgramError> {
    let not = |reason: String, mend: String| {
        Err(ProgramError::NotExecutable {
            path: file.as_os_str().to_owned(),
            reason,
            mend,
        })
    };
    match thead::sys::path::resolve(file.as_os_str(), None, None).and_then(|_| thead::sys::path::executable(file)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let reason = io::Error::from(error).to_string();
            not(
                reason,
                "give it the right (chmod +x), or name its interpreter: thead run python3 app.py".into(),
            )
        }
    }
}
