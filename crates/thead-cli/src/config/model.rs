//! What a service can have: the one model that every format is read into, that control keeps on disk, and that a primary is
//! told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::value::{Argv, ByteSize, Instances, Name, Signal, Span};

/// A configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Config {
    /// The namespace of services that name none. Default `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Name>,
    /// The services, by name.
    pub(crate) service: BTreeMap<Name, Service>,
    /// Services that are restarted together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) group: BTreeMap<Name, Group>,
}

/// A named, configured set of equal workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Service {
    /// The program and its arguments: one line, split as a shell would but run without one, or a list.
    pub(crate) run: Argv,
    /// What it belongs to; verbs take a namespace in place of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Name>,
    /// How many workers: a number from 1 to 1024, or `max` for every core that the machine or its cgroup grants.
    /// Default: `max` for Node, Bun and Deno, 1 for other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instances: Option<Instances>,
    /// The workers' directory. Default: that of the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cwd: Option<PathBuf>,
    /// Variables for the workers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Plain>")]
    pub(crate) env: BTreeMap<String, String>,
    /// Names of variables of `env` that the program reads each time it needs them; `*` at the end stands for anything. A change
    /// of these reaches running workers, in `process.env`. For Node with the preload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hot_env: Vec<String>,
    /// Variables whose values are read from files at each start of a worker, and kept nowhere else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) secret_files: BTreeMap<String, PathBuf>,
    /// A variable of `env` that holds a number: each worker has it with its own index added, so that a port is not taken twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) increment_env: Option<String>,
    /// The variable in which a worker finds its index, from 0. Default `NODE_APP_INSTANCE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance_env: Option<String>,
    /// Names of variables that workers get from the environment of the daemon; `*` at the end stands for anything.
    /// Default: `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `LC_*`, `TZ`, `TMPDIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pass_env: Option<Vec<String>>,
    /// The user that the primary and the workers run as, by name or number. Only root can choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Plain>")]
    pub(crate) user: Option<String>,
    /// The group, by name or number. Default: that of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Plain>")]
    pub(crate) group: Option<String>,
    /// The node, bun or deno to use in place of the one in PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<PathBuf>,
    /// Load thead's preload into Node workers: hand-back at reload, heartbeats. Default true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(crate) preload: bool,
    /// Give a program that is no script a channel too: it is a worker made with thead's library.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) channel: bool,
    /// Sockets for workers that take `LISTEN_FDS`, by name: `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix:///PATH`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) listen: BTreeMap<Name, String>,
    /// Who accepts connections. Default `round-robin`.
    #[serde(default)]
    pub(crate) schedule: Schedule,
    /// When a worker is ready. Default `auto`.
    #[serde(default)]
    pub(crate) ready: Ready,
    /// How long a worker may take to be ready. Default 10 s.
    #[serde(default = "ten_seconds")]
    pub(crate) ready_timeout: Span,
    /// Services that must be ready before this one starts, and that stop after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) after: Vec<Name>,
    /// Is a worker stuck?
    #[serde(default)]
    pub(crate) live: Live,
    /// What follows a death.
    #[serde(default)]
    pub(crate) restart: Restart,
    /// How a new generation takes over.
    #[serde(default)]
    pub(crate) reload: Reload,
    /// How workers are made to leave.
    #[serde(default)]
    pub(crate) stop: Stop,
    /// What workers may use.
    #[serde(default)]
    pub(crate) limit: Limit,
    /// Hot data: pushed to every worker with a revision, and again whenever the file changes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) data: BTreeMap<Name, Data>,
    /// What is kept of what workers print.
    #[serde(default)]
    pub(crate) log: Log,
}

impl Service {
    /// Nothing but a command.
    pub(crate) fn new(run: Argv) -> Self {
        Self {
            run,
            namespace: None,
            instances: None,
            cwd: None,
            env: BTreeMap::new(),
            hot_env: Vec::new(),
            secret_files: BTreeMap::new(),
            increment_env: None,
            instance_env: None,
            pass_env: None,
            user: None,
            group: None,
            runtime: None,
            preload: true,
            channel: false,
            listen: BTreeMap::new(),
            schedule: Schedule::default(),
            ready: Ready::default(),
            ready_timeout: ten_seconds(),
            after: Vec::new(),
            live: Live::default(),
            restart: Restart::default(),
            reload: Reload::default(),
            stop: Stop::default(),
            limit: Limit::default(),
            data: BTreeMap::new(),
            log: Log::default(),
        }
    }

    /// Whether running workers hear of a change of this variable.
    pub(crate) fn is_hot(&self, variable: &str) -> bool {
        self.hot_env.iter().any(|pattern| stands_for(pattern, variable))
    }
}

/// Whether a pattern stands for this name: it is the name, or a `*` at its end stands for the rest of it.
pub(crate) fn stands_for(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// What is text in the end, and may be written as it is: text, a number, true or false.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is asked for")]
enum Plain {
    Text(String),
    Number(f64),
    Boolean(bool),
}

/// Services that are restarted together, in the order in which they start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Group {
    /// Its members, first to start first.
    pub(crate) services: Vec<Name>,
    /// Who is restarted when one of them fails. Default `one-for-one`.
    #[serde(default)]
    pub(crate) strategy: Strategy,
}

/// Who else is restarted when the last worker of a service dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Strategy {
    /// Nobody.
    #[default]
    OneForOne,
    /// Those that started after it.
    RestForOne,
    /// All of the group.
    OneForAll,
}

/// Who accepts connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Schedule {
    /// The primary, which offers them in turn.
    #[default]
    RoundRobin,
    /// The workers, from one socket.
    Shared,
    /// The workers, each from a socket of its own among which the kernel chooses.
    Kernel,
    /// The primary, which gives each client address to the same worker.
    Sticky,
}

/// When a started worker counts as ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ready {
    /// By what it is: a server when it listens, another program when it has lived for a second.
    #[default]
    Auto,
    /// When it listens as a cluster worker.
    Listening,
    /// When it sends the message `ready`.
    Message,
    /// When it says `READY=1` to `NOTIFY_SOCKET`.
    Notify,
    /// When a GET of this URL is answered with 2xx or 3xx.
    Http(String),
    /// When this address (`HOST:PORT`) accepts.
    Tcp(String),
    /// When this command exits with 0.
    Exec(Argv),
    /// When it has lived this long.
    Delay(Span),
}

/// Liveness: is a worker stuck? Whichever is set is asked; one that says no is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Live {
    /// How often a worker must show that its event loop turns: Node by the preload, others by `WATCHDOG=1`. One that
    /// does not is replaced within two. Default: 5 s for Node with the preload, off for others; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heartbeat: Option<Span>,
    /// A URL that must answer with 2xx or 3xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<String>,
    /// An address that must accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp: Option<String>,
    /// A command that must exit with 0. It finds the worker's pid in `THEAD_WORKER_PID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exec: Option<Argv>,
    /// Between two probes. Default 10 s.
    pub(crate) interval: Span,
    /// For an answer. Default 2 s.
    pub(crate) timeout: Span,
    /// Probes that must fail in a row. Default 3.
    pub(crate) failures: u32,
}

/// What follows a death.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Restart {
    /// Which deaths are followed by a restart. Default `always`.
    pub(crate) policy: Policy,
    /// How long to wait.
    pub(crate) backoff: Backoff,
    /// How many restarts in how long, until the service has failed. Default 10 in 60 s.
    pub(crate) intensity: Intensity,
    /// A worker that was ready for so long makes earlier deaths forgotten. Default 10 s.
    pub(crate) reset_after: Span,
    /// Workers older than this are replaced, one at a time, as at a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<Span>,
    /// When all workers are replaced as at a reload: cron, 5 or 6 fields or `@daily` and the like, in the daemon's time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cron: Option<String>,
}

/// Which deaths are followed by a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// All.
    #[default]
    Always,
    /// All but an exit with 0.
    OnFailure,
    /// None.
    Never,
}

/// Delays between a death and the restart: each is twice the one before, with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Backoff {
    /// The first. Default 100 ms.
    pub(crate) first: Span,
    /// The longest. Default 5 s.
    pub(crate) max: Span,
}

/// How many restarts in how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Intensity {
    /// How many. Default 10.
    pub(crate) restarts: u32,
    /// In how long. Default 60 s.
    pub(crate) period: Span,
}

/// How a new generation takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Reload {
    /// How many more workers than instances may run at once. Default 1.
    pub(crate) surge: u32,
    /// How many fewer workers than instances may be ready meanwhile. Default 0: new before old.
    pub(crate) max_unavailable: u32,
    /// How long the first new worker must live, ready, before it replaces an old one. Default 1 s.
    pub(crate) soak: Span,
    /// Where connections cannot be handed back: how long workers answer with `Connection: close` before they leave.
    /// Default 1 s.
    pub(crate) lame_duck: Span,
    /// How long a leaving worker may take to finish what it has. Default 30 s.
    pub(crate) drain: Span,
}

/// How workers are made to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Stop {
    /// What asks them. Default SIGTERM.
    pub(crate) signal: Signal,
    /// From the signal to SIGKILL. Default 10 s.
    pub(crate) timeout: Span,
    /// Send the message `shutdown` before the signal, as PM2 does with `shutdown_with_message`.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) message: bool,
}

/// What workers may use. Nothing is limited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Limit {
    /// Memory of one worker and its children. Where a cgroup can be had the kernel holds it; elsewhere resident memory is
    /// looked at each second, and a worker above it is replaced as at a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<ByteSize>,
    /// Open descriptors of one process (RLIMIT_NOFILE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_files: Option<u64>,
    /// Processes and threads of the user (RLIMIT_NPROC), or of one worker where a cgroup can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) processes: Option<u64>,
    /// Size of a core file (RLIMIT_CORE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) core: Option<ByteSize>,
    /// The workers' niceness: -20, first, to 19, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nice: Option<i8>,
}

/// One piece of hot data: a path, or a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(from = "DataForm")]
pub(crate) struct Data {
    /// The file or directory.
    pub(crate) file: PathBuf,
    /// How workers get it.
    #[serde(rename = "as")]
    pub(crate) form: Form,
    /// A command that is run with the new file as its last argument; unless it exits with 0 the change is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<Argv>,
    /// A signal for workers without a channel when the data has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<Signal>,
}

/// How [`Data`] is written.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is asked for")]
enum DataForm {
    /// Only its path.
    Path(PathBuf),
    /// All of it.
    Table(DataTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DataTable {
    /// The file or directory.
    file: PathBuf,
    /// How workers get it. Default `auto`.
    #[serde(rename = "as", default)]
    form: Form,
    /// A command that is run with the new file as its last argument; unless it exits with 0 the change is refused.
    check: Option<Argv>,
    /// A signal for workers without a channel when the data has changed.
    signal: Option<Signal>,
}

impl<'de> Deserialize<'de> for Data {
    /// By hand, for what is derived for such a choice says no more than that neither fits.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table with `file`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Data, E> {
                Ok(Data {
                    file: path.into(),
                    form: Form::default(),
                    check: None,
                    signal: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Data, A::Error> {
                let table = DataTable::deserialize(MapAccessDeserializer::new(access))?;
                Ok(Data {
                    file: table.file,
                    form: table.form,
                    check: table.check,
                    signal: table.signal,
                })
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// How workers get a piece of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Form {
    /// By the file's extension: `json`, `yaml` and `yml`, `toml`, `json5` and `jsonc` parsed; others as text if they are
    /// UTF-8, else as memory. A directory is an object with a member for each file.
    #[default]
    Auto,
    /// Parsed as JSON.
    Json,
    /// Parsed as YAML.
    Yaml,
    /// Parsed as TOML.
    Toml,
    /// Parsed as JSON5, and so JSON with comments.
    Json5,
    /// A string.
    Text,
    /// One sealed memory file for all workers, passed as a descriptor: for what is large.
    Memory,
}

/// What is kept of what workers print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Log {
    /// A file is put aside when it is larger. Default 50M.
    pub(crate) max_size: ByteSize,
    /// A file is put aside when it is older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<Span>,
    /// How many files are kept that were put aside. Default 10.
    pub(crate) keep: u32,
    /// What all of them together may take. Default 1G.
    pub(crate) total: ByteSize,
    /// Compress what was put aside. Default true.
    pub(crate) compress: bool,
    /// What happens to lines when the disk does not keep up. Default `drop`.
    pub(crate) when_full: WhenFull,
}

/// What happens to lines when the disk does not keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WhenFull {
    /// They are dropped; how many is written in their place.
    #[default]
    Drop,
    /// Workers wait.
    Wait,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            heartbeat: None,
            http: None,
            tcp: None,
            exec: None,
            interval: Span::secs(10),
            timeout: Span::secs(2),
            failures: 3,
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            backoff: Backoff::default(),
            intensity: Intensity::default(),
            reset_after: Span::secs(10),
            max_age: None,
            cron: None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Span::millis(100),
            max: Span::secs(5),
        }
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts: 10,
            period: Span::secs(60),
        }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            surge: 1,
            max_unavailable: 0,
            soak: Span::secs(1),
            lame_duck: Span::secs(1),
            drain: Span::secs(30),
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: Signal::TERM,
            timeout: Span::secs(10),
            message: false,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_size: ByteSize::mib(50),
            max_age: None,
            keep: 10,
            total: ByteSize::mib(1024),
            compress: true,
            when_full: WhenFull::default(),
        }
    }
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const fn ten_seconds() -> Span {
    Span::secs(10)
}
