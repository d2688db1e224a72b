//! What to run, and with which streams and channel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thead_wire::{Dialect, Serialization, endpoint};

use crate::abort::AbortSignal;
use crate::channel::Handle;
use crate::runtime::Runtime;
use crate::stdio::Stdio;
use crate::sys;
use crate::sys::spawn::{Credentials, Limit, Session, Stage};

mod launch;

pub(crate) use launch::{FIRST_FD, Launched};

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
    /// A socket cannot be passed in so.
    #[error("cannot pass in the socket {name:?}: {reason}")]
    Listener {
        /// By which it was to be known.
        name: String,
        /// What is in the way.
        reason: &'static str,
    },
}

impl SpawnError {
    /// The error as Node names it, such as `ENOENT`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn(error) => error.code(),
            Self::Stream(error) => sys::errno::name(-sys::errno::negative(error)),
            Self::Listener { .. } => "EINVAL",
        }
    }

    /// Whether the program itself was not found or may not be executed.
    pub fn is_program(&self) -> bool {
        matches!(self, Self::Spawn(error) if error.stage() == Stage::Program)
    }

    /// What failed, as Node's errors have it in `syscall`: `"spawn ls"`, or `"spawn"` if it was not the program.
    pub fn syscall(&self) -> String {
        match self {
            Self::Spawn(error) if self.is_program() => {
                format!("spawn {}", error.path().unwrap_or(Path::new("")).display())
            }
            _ => "spawn".into(),
        }
    }

    /// What may be done about it; empty if there is nothing to say.
    pub fn hint(&self) -> &'static str {
        match self.code() {
            "ENOENT" if self.is_program() => {
                "is it installed, and in the child's PATH? For a script: is the interpreter of its first line?"
            }
            "ENOENT" => "there is no such directory",
            "EACCES" => "is it a file that may be executed (chmod +x), and may its directory be entered?",
            "E2BIG" => "the arguments and the environment are too large together: pass less, or pass a file",
            "EMFILE" | "ENFILE" => "no descriptors are left: raise the limit of open files (ulimit -n)",
            "EAGAIN" => "no more processes are allowed: raise the limit (ulimit -u, or pids.max of the cgroup)",
            "EPERM" => "this user may not do that: root, or a capability, is needed",
            _ => "",
        }
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
    pub(crate) program: OsString,
    arg0: Option<OsString>,
    pub(crate) args: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    inherit_env: bool,
    cwd: Option<PathBuf>,
    pub(crate) stdio: BTreeMap<i32, Stdio>,
    channel: Option<endpoint::Config>,
    session: Session,
    death_signal: Option<i32>,
    credentials: Option<Credentials>,
    limits: Vec<Limit>,
    nice: Option<i32>,
    umask: Option<u32>,
    cgroup: Option<PathBuf>,
    /// Another one, of another hierarchy or below that.
    also_cgroup: Option<PathBuf>,
    pub(crate) timeout: Option<Duration>,
    abort: Option<AbortSignal>,
    pub(crate) kill_signal: i32,
    kill_on_drop: bool,
    pub(crate) max_buffer: usize,
    pub(crate) input: Option<Vec<u8>>,
    /// Sockets that are passed in from number 3 on, and their names.
    listeners: Vec<(String, Handle)>,
    /// Variables that hold the child's pid.
    own_pid: Vec<&'static str>,
    /// Where an option goes that gives each worker a port of its own for the debugger, and the port of the first.
    inspect: Option<(usize, u16)>,
}

/// What a child may print while [`Command::output`] waits for it, unless it is told otherwise. Node: `maxBuffer`.
pub const MAX_BUFFER: usize = 1 << 20;

impl Command {
    /// A program without a channel. A name without a slash is looked up in the child's PATH.
    ///
    /// Whatever the parent has changed, a child starts with every signal at its default and none blocked, and has no
    /// descriptor but those named here.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arg0: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            inherit_env: true,
            cwd: None,
            stdio: (0..3).map(|number| (number, Stdio::Inherit)).collect(),
            channel: None,
            session: Session::Inherit,
            death_signal: None,
            credentials: None,
            limits: Vec::new(),
            nice: None,
            umask: None,
            cgroup: None,
            also_cgroup: None,
            timeout: None,
            abort: None,
            kill_signal: libc::SIGTERM,
            kill_on_drop: false,
            max_buffer: MAX_BUFFER,
            input: None,
            listeners: Vec::new(),
            own_pid: Vec::new(),
            inspect: None,
        }
    }

    /// A line for `/bin/sh -c`. What comes from outside does not belong into it: the shell obeys all of its characters.
    pub fn shell(line: impl AsRef<OsStr>) -> Self {
        Self::shell_with("/bin/sh", line)
    }

    /// A line for `SHELL -c`.
    pub fn shell_with(shell: impl AsRef<OsStr>, line: impl AsRef<OsStr>) -> Self {
        Self::new(shell).arg("-c").arg(line)
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
            command.inspect = launch::inspect_port(options).map(|port| (command.args.len() - 1, port));
        }
        command
    }

    /// What the child sees as its own name, in place of the program's. Node: `argv0`.
    #[must_use]
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.arg0 = Some(name.as_ref().to_owned());
        self
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

    /// Does not pass these on from the parent. What was set or removed by name stays so.
    pub(crate) fn env_keep_back(mut self, names: &[&str]) -> Self {
        for name in names {
            self.env.entry(name.into()).or_insert(None);
        }
        self
    }

    /// Sets a variable to the child's own pid.
    pub(crate) fn env_own_pid(mut self, name: &'static str) -> Self {
        self.own_pid.push(name);
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

    /// Standard input. Inherited by default.
    #[must_use]
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Self {
        self.fd(0, stdio)
    }

    /// Standard output. Inherited by default.
    #[must_use]
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Self {
        self.fd(1, stdio)
    }

    /// Standard error. Inherited by default.
    #[must_use]
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Self {
        self.fd(2, stdio)
    }

    /// Any descriptor of the child. Our end of a pipe is in [`Child::streams`](crate::Child::streams) from number 3 on.
    #[must_use]
    pub fn fd(mut self, number: i32, stdio: impl Into<Stdio>) -> Self {
        self.stdio.insert(number, stdio.into());
        self
    }

    /// What the child reads as its standard input; then the file ends.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self.stdin(Stdio::Pipe)
    }

    /// Passes a socket in, bound or listening, as systemd does (`sd_listen_fds(3)`): the first is the child's descriptor 3, the
    /// next 4, and so on, and `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` say so. A channel is behind them.
    ///
    /// A name has up to 255 characters of printable ASCII, and no colon. Whether the socket is blocking is one for everybody who
    /// holds it, so it is left as it is: make it blocking, as systemd does and simple programs need it, before the first
    /// child has it; who needs it otherwise sees to that itself.
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<Handle>) -> Self {
        self.listeners.push((name.into(), socket.into()));
        self
    }

    /// The first number from which on it is given nothing yet.
    pub(crate) fn free_fd(&self) -> i32 {
        let streams = self.stdio.keys().max().map_or(0, |last| last + 1);
        streams.max(FIRST_FD + self.listeners.len() as i32)
    }

    /// Gives the child a channel, as `stdio: [..., 'ipc']` does, at the first number from 3 on that nothing else has.
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

    /// Gives the child a session of its own, so that no terminal and no shell ends it with us. Node: `detached`.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.session = Session::New;
        self
    }

    /// Puts the child into an existing process group of our session.
    #[must_use]
    pub fn process_group(mut self, group: i32) -> Self {
        self.session = Session::Group(group);
        self
    }

    /// The child's user. Unless [`gid`](Self::gid) and [`groups`](Self::groups) are set too, it keeps our group; it has
    /// no supplementary groups but those named.
    ///
    /// Needs root, and a `main` that begins with [`run_if_asked`](crate::sys::helper::run_if_asked): a child must not become
    /// somebody else while it borrows our memory, so it runs this program once more on its way. About 1 ms.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.credentials.get_or_insert_default().uid = Some(uid);
        self
    }

    /// The child's group; see [`uid`](Self::uid).
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.credentials.get_or_insert_default().gid = Some(gid);
        self
    }

    /// All supplementary groups of the child; see [`uid`](Self::uid).
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.credentials.get_or_insert_default().groups = groups.into_iter().collect();
        self
    }

    /// A resource limit of the child.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// The child's priority, -20 (first) to 19 (last).
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Permissions that files of the child do not get.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = Some(umask);
        self
    }

    /// Starts the child in this control group (a directory of a cgroup2 file system, which the caller makes and removes).
    /// [`Child::kill_tree`](crate::Child::kill_tree) then ends all that is in it.
    #[must_use]
    pub fn cgroup(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(directory.into());
        self
    }

    /// The control group that it starts in.
    pub(crate) fn own_cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// Starts the child in this control group too: of another hierarchy, or below that of [`cgroup`](Self::cgroup).
    pub(crate) fn also_cgroup(mut self, directory: impl Into<PathBuf>) -> Self {
        self.also_cgroup = Some(directory.into());
        self
    }

    /// How long the child may run; then it gets the [`kill_signal`](Self::kill_signal), once.
    ///
    /// What [`output`](Self::output) waits for gets SIGKILL in the end.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the child the [`kill_signal`](Self::kill_signal) when this aborts. Node: `signal`.
    #[must_use]
    pub fn abort_on(mut self, signal: AbortSignal) -> Self {
        self.abort = Some(signal);
        self
    }

    /// What ends the child after its [`timeout`](Self::timeout), when it prints too much, or on abort. Default SIGTERM.
    #[must_use]
    pub fn kill_signal(mut self, signal: i32) -> Self {
        self.kill_signal = signal;
        self
    }

    /// Ends the child, and all that it has started, with SIGKILL when its [`Child`](crate::Child) is dropped.
    #[must_use]
    pub fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    /// How many bytes the child may print to standard output, and to standard error, while [`output`](Self::output) waits
    /// for it. Default [`MAX_BUFFER`].
    #[must_use]
    pub fn max_buffer(mut self, bytes: usize) -> Self {
        self.max_buffer = bytes;
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
}
