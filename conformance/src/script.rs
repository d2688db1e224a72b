//! A script under a runtime that says in lines of JSON what it sees.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::census::PATIENCE;
use crate::runtime::Runtime;

/// A process whose standard output is lines of JSON, its own and its children's. Dropping it kills it.
#[derive(Debug)]
pub struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    log: Vec<Value>,
    _dir: TempDir,
}

impl Script {
    /// Starts a script (CommonJS) of this text. `variables` are added to its environment.
    pub fn start(runtime: Runtime, text: &str, variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
        let path = dir.path().join("script.cjs");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(runtime.path());
        if runtime == Runtime::Deno {
            command.args(["run", "-A"]);
        }
        command.arg(path).envs(variables.iter().copied());
        Self::command(command, dir)
    }

    /// Starts a program instead.
    pub fn program(program: impl AsRef<Path>, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(args).envs(variables.iter().copied());
        Self::command(command, tempfile::tempdir().unwrap())
    }

    fn command(mut command: Command, dir: TempDir) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir(dir.path());
        let mut child = command.spawn().unwrap();
        let (said, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            log: Vec::new(),
            _dir: dir,
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line to its standard input.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that `wanted` makes something of; others are passed over.
    ///
    /// # Panics
    /// When none has come after [`PATIENCE`], or it has ended.
    pub fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    let seen = wanted(&line);
                    self.log.push(line);
                    if let Some(seen) = seen {
                        return seen;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} in time: {:#?}", self.log),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {what}: {:#?}", self.log),
            }
        }
    }

    /// The next line.
    ///
    /// # Panics
    /// As [`wait`](Self::wait).
    pub fn line(&mut self) -> Value {
        self.wait("line", |line| Some(line.clone()))
    }

    /// The next line that has this field.
    ///
    /// # Panics
    /// As [`wait`](Self::wait).
    pub fn field(&mut self, name: &str) -> Value {
        self.wait(name, |line| line.get(name).cloned())
    }

    /// Everything that it says until it ends, and how it ends.
    ///
    /// # Panics
    /// When it has not ended after [`PATIENCE`].
    pub fn end(&mut self) -> (ExitStatus, Vec<Value>) {
        drop(self.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?} {rest:#?}", self.log),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It has ended if its end was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
