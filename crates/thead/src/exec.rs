//! Running a command to its end.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::channel::until;
use crate::child::{ChildError, ChildEvent};
use crate::command::{Command, SpawnError};
use crate::output::Stream;
use crate::stdio::{ChildOutput, Stdio};
use crate::sys::pidfd::ExitStatus;

/// What a command printed that ended well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its standard output, if that was a pipe.
    pub stdout: Vec<u8>,
    /// Its standard error, if that was a pipe.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its standard output as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }
}

/// What went wrong with a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It ended with another code than 0, or by a signal that was not sent from here.
    #[error("{}", ended(*.0))]
    Exit(ExitStatus),
    /// It ran longer than it may ([`Command::timeout`]) and was sent its kill signal.
    #[error("it ran longer than {0:?}")]
    Timeout(Duration),
    /// It printed more than it may ([`Command::max_buffer`]) and was sent its kill signal.
    #[error("{} maxBuffer length exceeded: more than {limit} bytes", .stream.as_str())]
    MaxBuffer {
        /// Where.
        stream: Stream,
        /// How much it may.
        limit: usize,
    },
    /// It was aborted ([`Command::abort_on`]).
    #[error("the operation was aborted")]
    Aborted,
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal { signal, .. } => format!("signal {signal}"),
    }
}

/// A command that did not end well, and what it printed until then.
#[derive(Debug)]
pub struct ExecError(Box<Failed>);

#[derive(Debug)]
struct Failed {
    failure: Failure,
    command: String,
    status: Option<ExitStatus>,
    killed: bool,
    output: Output,
}

impl ExecError {
    /// What went wrong.
    pub fn failure(&self) -> &Failure {
        &self.0.failure
    }

    /// The program and its arguments, joined by spaces. Node: `cmd`.
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// The exit code, if it ended with one. Node: `code`, which has the name of a failed start too; see
    /// [`SpawnError::code`].
    pub fn code(&self) -> Option<i32> {
        self.0.status.and_then(ExitStatus::code)
    }

    /// The signal that ended it, if one did. Node: `signal`.
    pub fn signal(&self) -> Option<i32> {
        self.0.status.and_then(ExitStatus::signal)
    }

    /// Whether it was sent a signal from here. Node: `killed`, which is unset when it printed too much.
    pub fn killed(&self) -> bool {
        self.0.killed
    }

    /// What it printed. After [`Failure::MaxBuffer`] cut to the limit.
    pub fn output(&self) -> &Output {
        &self.0.output
    }

    /// Whether it was aborted.
    pub fn is_aborted(&self) -> bool {
        matches!(self.0.failure, Failure::Aborted)
    }
}

/// As Node words it: `Command failed: CMD`, then the reason, then what it printed to standard error.
impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command failed: {} ({})", self.0.command, self.0.failure)?;
        if let Failure::Spawn(error) = &self.0.failure
            && !error.hint().is_empty()
        {
            write!(f, "; {}", error.hint())?;
        }
        let stderr = String::from_utf8_lossy(&self.0.output.stderr);
        if !stderr.trim().is_empty() {
            write!(f, "\n{}", stderr.trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for ExecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.failure {
            Failure::Spawn(error) => Some(error),
            _ => None,
        }
    }
}

/// From the kill signal to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How much more room a stream gets at once, at least.
const PIECE: usize = 8 << 10;

impl Command {
    /// Runs it to its end and returns what it printed, if it ends with code 0. Node: `execFile`.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Failure::Exit`].
    pub async fn output(&self) -> Result<Output, ExecError> {
        let (status, output) = self.run().await?;
        self.success(status, output)
    }

    /// Runs it to its end: how it ended and what it printed. Standard output and standard error are pipes, and standard
    /// input is empty ([`input`](Self::input) fills it), unless they were given something other than [`Stdio::Inherit`].
    ///
    /// A command that runs too long, prints too much or is aborted is an error, and gets its kill signal; if it is still
    /// there after 5 s, SIGKILL. What it has started itself lives on then, and is not waited for. Dropping the future kills
    /// the command and all that it has started.
    ///
    /// Differs from Node: a command that ignores the signal of its timeout and ends with code 0 has not succeeded, since its
    /// output is cut off. Standard input is at its end, where Node leaves a pipe open that nobody writes to.
    ///
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ExecError`]. Another code than 0 is none.
    pub async fn run(&self) -> Result<(ExitStatus, Output), ExecError> {
        let mut run = Run::new(self);
        match run.go(self).await {
            Ok(status) => Ok((status, run.into_output())),
            Err(failure) => Err(self.error(failure, run.status, run.killed, run.into_output())),
        }
    }

    /// As [`output`](Self::output), for programs without a Tokio runtime, or code that may block. Node: `execFileSync`.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub fn output_sync(&self) -> Result<Output, ExecError> {
        let (status, output) = self.run_sync()?;
        self.success(status, output)
    }

    /// As [`run`](Self::run), for programs without a Tokio runtime, or code that may block. Node: `spawnSync`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_sync(&self) -> Result<(ExitStatus, Output), ExecError> {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(self.run()),
                Err(error) => Err(self.error(SpawnError::Stream(error).into(), None, false, Output::default())),
            }
        };
        // A runtime cannot be entered from within another one, so this one has a thread of its own.
        std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn success(&self, status: ExitStatus, output: Output) -> Result<Output, ExecError> {
        if status.success() {
            return Ok(output);
        }
        Err(self.error(Failure::Exit(status), Some(status), false, output))
    }

    fn error(&self, failure: Failure, status: Option<ExitStatus>, killed: bool, output: Output) -> ExecError {
        ExecError(Box::new(Failed {
            failure,
            command: self.line(),
            status,
            killed,
            output,
        }))
    }

    /// With its streams where [`run`](Self::run) wants them, and without a limit, which is kept here.
    fn for_output(&self) -> Self {
        let mut command = self.clone().kill_on_drop();
        command.timeout = None;
        for (number, stdio) in [(0, Stdio::Null), (1, Stdio::Pipe), (2, Stdio::Pipe)] {
            if matches!(self.stdio.get(&number), Some(Stdio::Inherit)) {
                command = command.fd(number, stdio);
            }
        }
        command
    }

    /// As a person would write it, more or less: nothing is quoted. Node: `cmd`.
    fn line(&self) -> String {
        let words = [&self.program].into_iter().chain(&self.args);
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// A command on its way to its end.
struct Run {
    streams: [Collected; 2],
    status: Option<ExitStatus>,
    killed: bool,
}

/// What a stream brought.
struct Collected {
    stream: Stream,
    pipe: Option<ChildOutput>,
    bytes: Vec<u8>,
    limit: usize,
}

impl Run {
    fn new(command: &Command) -> Self {
        let collected = |stream| Collected {
            stream,
            pipe: None,
            bytes: Vec::new(),
            limit: command.max_buffer,
        };
        Self {
            streams: [collected(Stream::Stdout), collected(Stream::Stderr)],
            status: None,
            killed: false,
        }
    }

    /// Returns when it has ended and its streams have, or were let go of.
    async fn go(&mut self, command: &Command) -> Result<ExitStatus, Failure> {
        let mut child = command.for_output().spawn()?;
        let mut input = child.stdin.take().zip(command.input.as_deref());
        let [stdout, stderr] = &mut self.streams;
        (stdout.pipe, stderr.pipe) = (child.stdout.take(), child.stderr.take());
        let mut deadline = command.timeout.map(|limit| Instant::now() + limit);
        let mut failure = None;
        loop {
            let failed = tokio::select! {
                event = child.next() => match event {
                    Some(ChildEvent::Exit(status)) => {
                        self.status = Some(status);
                        input = None;
                        None
                    }
                    Some(ChildEvent::Error(ChildError::Aborted)) => {
                        self.killed = true;
                        Some(Failure::Aborted)
                    }
                    Some(ChildEvent::Close(status)) => return failure.map_or(Ok(status), Err),
                    _ => None,
                },
                full = stdout.read(), if stdout.pipe.is_some() => full.err(),
                full = stderr.read(), if stderr.pipe.is_some() => full.err(),
                () = until(deadline) => {
                    deadline = None;
                    if failure.is_some() {
                        // It has had its time to leave.
                        let _ = child.kill(libc::SIGKILL);
                        None
                    } else {
                        command.timeout.map(Failure::Timeout)
                    }
                }
                () = feed(&mut input) => None,
            };
            let Some(failed) = failed else { continue };
            if failure.is_none() {
                // What it has started may hold its streams for ever.
                (stdout.pipe, stderr.pipe, input) = (None, None, None);
                deadline = Some(Instant::now() + GRACE);
                if !matches!(failed, Failure::Aborted) && child.kill(command.kill_signal).is_ok() {
                    self.killed = true;
                }
                failure = Some(failed);
            }
        }
    }

    fn into_output(self) -> Output {
        let [stdout, stderr] = self.streams.map(|stream| stream.bytes);
        Output { stdout, stderr }
    }
}

impl Collected {
    /// Reads some more.
    ///
    /// # Cancel safety
    /// Loses nothing.
    async fn read(&mut self) -> Result<(), Failure> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        // One byte more than it may have tells that there was more.
        let room = self.limit.saturating_add(1).saturating_sub(self.bytes.len());
        self.bytes.reserve(room.min(PIECE));
        let read = (&mut *pipe).take(room as u64).read_buf(&mut self.bytes).await;
        if !matches!(read, Ok(1..)) {
            self.pipe = None;
        }
        if self.bytes.len() > self.limit {
            self.bytes.truncate(self.limit);
            return Err(Failure::MaxBuffer {
                stream: self.stream,
                limit: self.limit,
            });
        }
        Ok(())
    }
}

/// Writes some of what the child is to read, and closes the pipe behind it.
async fn feed(input: &mut Option<(crate::ChildStdin, &[u8])>) {
    let Some((pipe, bytes)) = input else {
        return std::future::pending().await;
    };
    match pipe.write(bytes).await {
        Ok(written) if written < bytes.len() => *bytes = &bytes[written..],
        // All is written, or it reads no more.
        _ => *input = None,
    }
}
