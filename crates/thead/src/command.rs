//! What to run, and with which streams and channel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thead_wire::env::ChannelEnv;
use thead_wire::{Dialect, Serialization, endpoint};
use tokio::sync::mpsc;

use crate::channel::{Channel, Port};
use crate::child::{Born, Child};
use crate::runtime::Runtime;
use crate::sys;
use crate::sys::pidfd;
use crate::sys::reclaim::SocketId;
use crate::sys::spawn::{FdSource, Session, SpawnSpec, Stage};
use crate::watch::watch;

/// The child's descriptor of its channel, as with Node's `fork()`.
pub(crate) const CHANNEL_FD: i32 = 3;

/// How long a handle may stay unacknowledged, and a channel that is to end unread, before it is given up. Long, for a worker may be stopped in a
/// debugger or swapped out; a worker that dies is noticed at once by other means.
const PATIENCE: Duration = Duration::from_secs(120);

/// A standard stream of a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// The parent's own.
    #[default]
    Inherit,
    /// A pipe to the parent.
    Pipe,
    /// `/dev/null`.
    Null,
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The kernel refused, or the program is not there.
    #[error(transparent)]
    Spawn(#[from] sys::spawn::SpawnError),
    /// A pipe or a channel could not be made.
    #[error("failed to make a pipe or a channel for the child")]
    Stream(#[from] io::Error),
}

impl SpawnError {
    /// The error as Node names it, such as `ENOENT`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn(error) => error.code(),
            Self::Stream(error) => sys::errno::name(-sys::errno::negative(error)),
        }
    }

    /// Whether the program itself was not found or may not be executed.
    pub fn is_program(&self) -> bool {
        matches!(self, Self::Spawn(error) if error.stage() == Stage::Program)
    }
}

/// A process to be started, once or many times.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use thead::{ChildEvent, Command};
///
/// let mut child = Command::fork("worker.js").arg("--fast").spawn()?;
/// child.post_message(&serde_json::json!({ "hello": "world" })).await?;
/// while let Some(event) = child.next().await {
///     match event {
///         ChildEvent::Message { message, .. } => println!("{:?}", message.parse::<serde_json::Value>()?),
///         ChildEvent::Exit(status) => println!("ended: {status:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    inherit_env: bool,
    cwd: Option<PathBuf>,
    stdio: [Stdio; 3],
    channel: Option<endpoint::Config>,
    session: Session,
    death_signal: Option<i32>,
    /// Where an option goes that gives each worker a port of its own for the debugger, and the port of the first.
    inspect: Option<(usize, u16)>,
}

impl Command {
    /// A program without a channel. A name without a slash is looked up in the child's PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            inherit_env: true,
            cwd: None,
            stdio: [Stdio::Inherit; 3],
            channel: None,
            session: Session::Inherit,
            death_signal: None,
            inspect: None,
        }
    }

    /// A script under `node`, with a channel. Node: `child_process.fork(script)`.
    pub fn fork(script: impl AsRef<OsStr>) -> Self {
        Self::fork_with("node", Runtime::Node, &[], script)
    }

    /// A script under a runtime of your choice, with a channel; `options` stand before the script.
    pub fn fork_with(
        program: impl AsRef<OsStr>,
        runtime: Runtime,
        options: &[OsString],
        script: impl AsRef<OsStr>,
    ) -> Self {
        let mut command = Self::new(program)
            .args(runtime.arguments(options, script.as_ref()))
            .channel(Serialization::Json)
            .dialect(runtime.dialect());
        if runtime == Runtime::Node {
            command.inspect = inspect_port(options).map(|port| (command.args.len() - 1, port));
        }
        command
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Inherits no variable of the parent's.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.inherit_env = false;
        self.env.clear();
        self
    }

    /// The working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// Gives the child a channel, as `stdio: [..., 'ipc']` does.
    #[must_use]
    pub fn channel(mut self, serialization: Serialization) -> Self {
        self.channel = Some(endpoint::Config {
            serialization,
            ..self.channel.unwrap_or_default()
        });
        self
    }

    /// How the child takes handles, if it is known; careful otherwise.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.channel = Some(endpoint::Config {
            dialect,
            ..self.channel.unwrap_or_default()
        });
        self
    }

    /// The largest message accepted from the child, in bytes. Default 16 MiB; a larger one costs the child its channel.
    #[must_use]
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.channel = Some(endpoint::Config {
            frame_limit: bytes,
            ..self.channel.unwrap_or_default()
        });
        self
    }

    /// Puts the child into a process group of its own, so that the terminal's Ctrl-C does not reach it.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.session = Session::NewGroup;
        self
    }

    /// The signal that the child gets when the parent's *thread* that spawned it ends. Only for parents that spawn from
    /// a thread that lives as long as they do.
    #[must_use]
    pub fn death_signal(mut self, signal: i32) -> Self {
        self.death_signal = Some(signal);
        self
    }

    /// Whether the child gets a channel.
    pub fn has_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether the child can be handed connections as a cluster worker.
    pub(crate) fn takes_connections(&self) -> bool {
        self.channel.is_some_and(|config| config.dialect != Dialect::Bun)
    }

    /// Starts it. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing was started.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        let Launched {
            pid,
            pidfd,
            channel,
            stdin,
            stdout,
            stderr,
        } = self.launch(None)?;
        let (sink, reports) = mpsc::unbounded_channel();
        let (port, channel) = channel.map(|made| (made.port, made.channel)).unzip();
        tokio::spawn(watch((), port, pidfd.clone(), sink));
        let child = Child::new(Born {
            pid,
            pidfd: pidfd.clone(),
            channel,
            reports,
            stdin,
            stdout,
            stderr,
        });
        if child.is_err() {
            // It runs, and nobody would know.
            let _ = pidfd::send_signal(&*pidfd, libc::SIGKILL);
        }
        Ok(child?)
    }

    /// Starts it, as a cluster worker if it gets an id and has a channel.
    pub(crate) fn launch(&self, unique_id: Option<u32>) -> Result<Launched, SpawnError> {
        let mut spec = SpawnSpec::new(&self.program);
        spec.args.clone_from(&self.args);
        if let (Some((at, first)), Some(id)) = (self.inspect, unique_id) {
            spec.args
                .insert(at, format!("--inspect-port={}", nth_port(first, id)).into());
        }
        spec.cwd.clone_from(&self.cwd);
        spec.session = self.session;
        spec.death_signal = self.death_signal;
        spec.env = self.environment();

        let [(stdin, child_stdin), (stdout, child_stdout), (stderr, child_stderr)] = [
            pipe(self.stdio[0], true)?,
            pipe(self.stdio[1], false)?,
            pipe(self.stdio[2], false)?,
        ];
        for (number, (stdio, child)) in (0..).zip(self.stdio.iter().zip([&child_stdin, &child_stdout, &child_stderr])) {
            spec.fds.push((
                number,
                match (stdio, child) {
                    (Stdio::Inherit, _) => FdSource::Inherit,
                    (_, Some(child)) => FdSource::Fd(child.as_fd()),
                    (_, None) => FdSource::Null,
                },
            ));
        }

        let mut made = None;
        let pair = self
            .channel
            .map(|_| sys::message::socketpair(Some(sys::message::NODE_BUFFER)))
            .transpose()?;
        let (ours, theirs) = pair.map(|pair| (pair.parent, pair.child)).unzip();
        if let (Some(config), Some(ours), Some(theirs)) = (self.channel, ours, &theirs) {
            let env = ChannelEnv {
                fd: CHANNEL_FD,
                serialization: config.serialization,
                unique_id,
            };
            spec.env
                .extend(env.variables().map(|(name, value)| (name.into(), value.into())));
            spec.fds.push((CHANNEL_FD, FdSource::Fd(theirs.as_fd())));
            let end = SocketId::of(theirs)?;
            let (port, channel) = Port::new(ours, config, PATIENCE)?;
            made = Some(MadeChannel { port, channel, end });
        }
        let spawned = sys::spawn::spawn(&spec)?;
        Ok(Launched {
            pid: spawned.pid.unsigned_abs(),
            pidfd: Arc::new(spawned.pidfd),
            channel: made,
            stdin,
            stdout,
            stderr,
        })
    }

    /// The parent's variables, changed as asked, without those that only the channel may set.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let parents = std::env::vars_os().filter(|(name, _)| self.inherit_env && !self.env.contains_key(name));
        let own = self
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let channels = |name: &OsStr| name.to_str().is_some_and(ChannelEnv::owns);
        parents.chain(own).filter(|(name, _)| !channels(name)).collect()
    }
}

/// The port of a debugger that these options ask for. A worker's port counts on from it, as under Node's cluster; there the
/// primary itself has the first, which here is the first worker's.
///
/// Node: `lib/internal/cluster/primary.js`, `createWorkerProcess`.
fn inspect_port(options: &[OsString]) -> Option<u16> {
    let mut values = options.iter().filter_map(|option| {
        let option = option.to_str()?;
        let (flag, value) = option.split_once('=').unwrap_or((option, ""));
        let known = [
            "--inspect",
            "--inspect-brk",
            "--inspect-wait",
            "--inspect-port",
            "--debug-port",
        ]
        .contains(&flag);
        known
            .then(|| value.rsplit(':').next()?.parse().ok())
            .map(|port: Option<u16>| port.unwrap_or(9229))
    });
    values.next_back()
}

/// Past the last port it goes on at 1024. Port 0, any, stays.
fn nth_port(first: u16, id: u32) -> u32 {
    let nth = u32::from(first) + id.saturating_sub(1);
    match nth {
        _ if first == 0 => 0,
        ..=65_535 => nth,
        _ => 1024 + (nth - 65_536) % (65_536 - 1024),
    }
}

/// A process that was just started.
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) channel: Option<MadeChannel>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// The parent's side of a new channel.
pub(crate) struct MadeChannel {
    pub(crate) port: Port,
    pub(crate) channel: Channel,
    /// Which socket the child's end is.
    pub(crate) end: SocketId,
}

/// The parent's (non-blocking) and the child's (blocking) end of a pipe, if one is wanted.
fn pipe(stdio: Stdio, child_reads: bool) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if stdio != Stdio::Pipe {
        return Ok((None, None));
    }
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (ours, theirs) = if child_reads {
        (writer, reader)
    } else {
        (reader, writer)
    };
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Some(ours), Some(theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_port_of_its_own_for_the_debugger() {
        let port = |options: &[&str]| inspect_port(&options.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(port(&["--require", "a"]), None);
        assert_eq!(port(&["--inspect"]), Some(9229));
        assert_eq!(port(&["--inspect=0.0.0.0:4000"]), Some(4000));
        assert_eq!(port(&["--inspect-brk", "--inspect-port=5000"]), Some(5000));
        assert_eq!([1, 2, 9].map(|id| nth_port(65_530, id)), [65_530, 65_531, 1026]);
        assert_eq!(nth_port(0, 3), 0);
    }
}
