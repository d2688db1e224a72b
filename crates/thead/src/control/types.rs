//! What is said over the control socket. Fields may be added; what is there keeps its meaning within `/v1`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Milliseconds since 1970-01-01T00:00Z.
pub type UnixMillis = u64;

/// What runs behind the socket. `GET /v1/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Version {
    /// Of thead.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Since when it runs.
    pub since: UnixMillis,
    /// Where it keeps what should run.
    pub state_dir: String,
    /// Where it keeps what workers print.
    pub log_dir: String,
}

/// How a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Not running, as it was told, or because it ended by itself.
    #[default]
    Stopped,
    /// Until another service is ready, or until a backoff is over.
    Waiting,
    /// Its first workers are not ready yet.
    Starting,
    /// All wanted workers are ready.
    Ready,
    /// Some of its workers are not ready.
    Degraded,
    /// A new generation is on its way.
    Reloading,
    /// Told to stop.
    Stopping,
    /// Given up; waits for an operator.
    Failed,
}

impl Phase {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Reloading => "reloading",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// A service and its workers. `GET /v1/services`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Service {
    /// Its name, unique in the daemon.
    pub name: String,
    /// What it belongs to.
    pub namespace: String,
    /// How it is.
    pub phase: Phase,
    /// Workers that are wanted.
    pub instances: u32,
    /// Workers that are ready.
    pub ready: u32,
    /// The version of command and environment that is served.
    pub generation: u64,
    /// Program and arguments.
    pub run: Vec<String>,
    /// The file that it was configured by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The process of its primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<u32>,
    /// Since when the primary runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// Deaths of workers that were followed by a restart, since the primary runs.
    pub restarts: u64,
    /// What it waits for, or why it failed, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Resident memory of primary and workers, in bytes.
    pub memory: u64,
    /// What is kept of what its workers print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Its workers, by slot.
    pub workers: Vec<Worker>,
}

/// What was kept of what the workers of a service printed, since its primary runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Log {
    /// Lines written, ours among them.
    pub lines: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Lines that were dropped, for the disk did not keep up.
    pub dropped_lines: u64,
    /// Files that were put aside.
    pub put_aside: u64,
    /// Bytes that wait in memory.
    pub waiting: u64,
    /// Why nothing can be written now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// One process that serves, or is about to, or is leaving.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Worker {
    /// Its place: `service/slot`.
    pub slot: u32,
    /// Its number in this run of the service; never used twice.
    pub id: u32,
    /// Its process; none before it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `spawning`, `starting`, `soaking`, `ready`, `draining`, `terminating`, `killed`, ...
    pub phase: String,
    /// Of command and environment.
    pub generation: u64,
    /// Since when its process runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// Deaths in its slot that were followed by a restart.
    pub restarts: u64,
    /// What it said to `NOTIFY_SOCKET` with `STATUS=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Resident memory in bytes.
    pub memory: u64,
    /// Processor time used so far, in milliseconds.
    pub cpu_ms: u64,
    /// Processor use since it was last looked at, in percent of one core.
    pub cpu_percent: f32,
    /// The revision of each piece of hot data that it has applied.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub data: std::collections::BTreeMap<String, u64>,
}

/// How a worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Exit {
    /// When.
    pub time: UnixMillis,
    /// Its place.
    pub slot: u32,
    /// Its number.
    pub worker: u32,
    /// Its exit code, if it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal, if one ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It had been told to leave, and not for a fault.
    pub expected: bool,
    /// In words: what happened, and what came of it.
    pub cause: String,
    /// How long it lived.
    pub uptime_ms: u64,
    /// What it printed last.
    pub last_lines: Vec<String>,
    /// What it was doing when it was found stuck, innermost first: `function (file:line:column)`. Of Node workers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
}

/// Everything about a service. `GET /v1/services/{name}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Description {
    /// How it is.
    pub service: Service,
    /// How it is configured, as in `thead.toml`; the values of variables are hidden unless they were asked for
    /// (`?env=true`).
    pub config: Value,
    /// What its relative paths start from.
    pub base: String,
    /// Its last exits, newest first, at most 16.
    pub exits: Vec<Exit>,
    /// Its last events, newest first, at most 16.
    pub events: Vec<Event>,
}

/// Something that happened. `GET /v1/events`, as server-sent events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Event {
    /// Grows by one with each event of this daemon's process.
    pub id: u64,
    /// When.
    pub time: UnixMillis,
    /// To which service; empty for the daemon itself.
    pub service: String,
    /// What kind: `spawned`, `ready`, `exited`, `reload_done`, ...
    pub event: String,
    /// In words.
    pub text: String,
    /// It needs somebody's attention.
    pub bad: bool,
    /// Its numbers.
    pub details: Value,
}

/// A line of a log. `GET /v1/logs`, as server-sent events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LogLine {
    /// When it came: RFC 3339, UTC.
    pub time: String,
    /// Of which service.
    pub service: String,
    /// Of the worker in which slot; none for what thead says.
    pub slot: Option<u32>,
    /// Of which process.
    pub pid: Option<u32>,
    /// `stdout`, `stderr` or `thead`.
    pub stream: String,
    /// The line; what is no UTF-8 is replaced.
    pub text: String,
    /// It goes on in the next one of this process and stream.
    pub cut: bool,
}

/// What a verb is to work on. `POST /v1/verbs/{verb}`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// Services (`api`), workers (`api/2`), namespaces (`shop`), or `all`.
    pub targets: Vec<String>,
    /// For `scale`: how many, or `+1`, `-2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<String>,
    /// For `signal`: by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// For `stop`, `restart`, `delete`: kill at once.
    #[serde(skip_serializing_if = "is_false")]
    pub now: bool,
}

/// A verb that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Run what is stopped or failed; what runs is left alone.
    Start,
    /// Drain and end; what waits for it is stopped first.
    Stop,
    /// Stop, then start: a gap.
    Restart,
    /// New generation first, then drain: no gap.
    Reload,
    /// Stop and forget.
    Delete,
    /// Have another number of workers.
    Scale,
    /// Send a signal to the workers.
    Signal,
    /// Open the log files anew.
    Reopen,
}

impl Verb {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Delete => "delete",
            Self::Scale => "scale",
            Self::Signal => "signal",
            Self::Reopen => "reopen",
        }
    }
}

/// A configuration that is to be in force. `POST /v1/apply`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// As in `thead.toml`, as JSON.
    pub config: Value,
    /// What its relative paths start from.
    pub base: String,
    /// The file that it comes from.
    pub source: String,
    /// Services that came from the same file and are not in it any more are stopped and forgotten.
    pub prune: bool,
    /// Only say what would change.
    pub plan: bool,
    /// Start services in it that are stopped or failed.
    pub start: bool,
    /// Only these services of it; none means all.
    pub only: Vec<String>,
}

/// What was done to one service, or why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Outcome {
    /// Which.
    pub service: String,
    /// Whether it was done.
    pub ok: bool,
    /// What was done, or why not.
    pub text: String,
    /// What the worker printed last that was in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// What became of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Outcomes {
    /// One for each service that it was about.
    pub outcomes: Vec<Outcome>,
}

impl Outcomes {
    /// Whether all of it was done.
    pub fn ok(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.ok)
    }
}

/// How a revision of a piece of data stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DataState {
    /// Workers that run, or come, are trying it.
    #[default]
    OnTrial,
    /// It is what workers have.
    InForce,
    /// It was in force.
    Replaced,
    /// A worker refused it.
    Refused,
    /// A newer one took its place before anybody had tried it.
    Superseded,
}

impl DataState {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnTrial => "on-trial",
            Self::InForce => "in-force",
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
        }
    }
}

/// A revision of a piece of data. `GET /v1/data/{service}/{name}/history`, newest first, at most 10.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DataRevision {
    /// Its number: each is higher than any before, whatever happened in between.
    pub revision: u64,
    /// When it came to be.
    pub time: UnixMillis,
    /// Where it came from: a file, or whoever pushed it.
    pub from: String,
    /// How it stands.
    pub state: DataState,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The older revision that it is the same as, if it took the place of one that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// It is a memory file.
    pub memory: bool,
    /// Its bytes: of the JSON text, or of the memory file.
    pub size: u64,
    /// Its content can still be had.
    pub kept: bool,
}

/// A piece of data that a service pushes to its workers. `GET /v1/data/{service}`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DataPiece {
    /// Its name.
    pub name: String,
    /// The file or directory that it is read from, if the configuration names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The highest number that was ever given out.
    pub newest: u64,
    /// What workers have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<DataRevision>,
    /// What they are trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_trial: Option<DataRevision>,
    /// Why its file could not be pushed as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How each worker stands to it.
    pub workers: Vec<DataWorker>,
}

/// How a worker stands to a piece of data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DataWorker {
    /// Its place.
    pub slot: u32,
    /// Its number.
    pub worker: u32,
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `applied`, `pending`, `refused`; `unacknowledged`: it said nothing in time, perhaps because its program does not know
    /// of data; `told`: it has no channel to answer by; `nothing`: there was nothing to send.
    pub state: String,
    /// The revision that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The one that it uses, if it has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Why it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The content of a revision. `GET /v1/data/{service}/{name}?revision=7`; without a number of the one in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DataContent {
    /// About it.
    pub about: DataRevision,
    /// The value, unless it is a memory file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Where the memory file can be read, by the user of the service and by root, for as long as it is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// New data. `POST /v1/data/{service}/{name}`: exactly one of `value`, `text` and `file`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DataPush {
    /// Any JSON value; so `null` is written as the text `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The text of a file, to be parsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A file or directory, absolute, that the user of the service can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How text and files are read: `auto` (by the extension), `json`, `yaml`, `toml`, `json5`, `text` or `memory`. Default:
    /// as the piece is configured.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Where it comes from, for the history; of text also the name by whose extension it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// `POST /v1/data/{service}/{name}/rollback`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DataRollback {
    /// The revision whose content is to be in force again, under a new number. Default: the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// What came of a push or a rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DataOutcome {
    /// Which service.
    pub service: String,
    /// Which piece.
    pub name: String,
    /// Whether it is in force.
    pub ok: bool,
    /// In words.
    pub text: String,
    /// Its number, if it got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The number under which everybody has again what was in force, after a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<u64>,
    /// So many workers have applied it.
    pub applied: usize,
    /// So many have not said anything.
    pub unacknowledged: usize,
    /// So many have no channel to answer by.
    pub told: usize,
}

/// Why a request was refused as a whole; nothing was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Problem {
    /// For programs: `not-found`, `invalid`, `busy`, `forbidden`, `internal`, ...
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}
