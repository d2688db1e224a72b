//! Starting a process at a cost that does not grow with the parent: neither with its memory nor with its open files.
//!
//! The child is made by `clone(CLONE_VM | CLONE_VFORK)`: it borrows our memory until it executes its program, and the
//! calling thread stands still for that long (some tens of µs; longer if the program lies on a slow file system). It also
//! borrows our table of descriptors, and leaves it with one `close_range` that copies only the numbers below 64. So what it
//! is to inherit is first laid into numbers below 64 that are reserved for this; see [`reserve`]. Without any the child gets
//! a copy of the whole table: slower the more files are open, with the same result.
//!
//! Whatever the parent has open, close-on-exec or not, the child has exactly the descriptors named in its specification.
//!
//! # Platform
//! Linux 5.10 or newer. Any number of threads may spawn at once; they take turns. A parent-death signal is tied to the
//! *thread* that spawns: spawn from one that lives as long as the process does.

mod child;
mod error;
mod plan;
mod slot;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};

pub use error::{SpawnError, Stage};
pub use slot::reserve;

use crate::sys::helper::Report;

/// What a child's descriptor number shall be.
#[derive(Clone, Copy, Debug)]
pub enum FdSource<'fd> {
    /// The file behind this descriptor of ours.
    Fd(BorrowedFd<'fd>),
    /// The file behind the same number in this process. 0, 1 and 2 are made blocking, for parent and child alike: few
    /// programs expect anything else (Node: libuv does so too).
    Inherit,
    /// `/dev/null`, for reading and writing.
    Null,
}

/// The child's place among sessions and process groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// The same as ours.
    #[default]
    Inherit,
    /// A new session, and a new group in it, led by the child (Node's `detached`).
    New,
    /// A new group in our session, led by the child.
    NewGroup,
    /// This existing group of our session.
    Group(i32),
}

/// Another user for the child. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved user.
    pub uid: Option<u32>,
    /// Real, effective and saved group.
    pub gid: Option<u32>,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// A resource limit for the child.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// To how much; `None` is unlimited.
    pub limit: Rlimit,
}

/// Everything about a child. Start from [`SpawnSpec::new`] and fill in what differs.
///
/// Signals need no field: every child starts with all dispositions at their default and nothing blocked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpawnSpec<'fd> {
    /// The program. A name without a slash is looked up as `execvp` does, with the PATH of [`env`](Self::env); a text file
    /// without `#!` is run by `/bin/sh`.
    pub program: OsString,
    /// What the child sees as its own name; the program if `None`.
    pub arg0: Option<OsString>,
    /// The arguments behind that.
    pub args: Vec<OsString>,
    /// The whole environment, in this order.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; ours if `None`.
    pub cwd: Option<PathBuf>,
    /// The child's descriptors; the last entry for a number counts. 0, 1 and 2 are `/dev/null` unless named.
    pub fds: Vec<(RawFd, FdSource<'fd>)>,
    /// Session and process group.
    pub session: Session,
    /// The signal that the child gets when the *thread* that spawned it ends; also if it ended meanwhile.
    pub death_signal: Option<i32>,
    /// Open `cgroup.procs` files (one per hierarchy) that the child enters before it runs. None may be frozen, or the
    /// calling thread stands still until it is thawed.
    pub cgroups: Vec<BorrowedFd<'fd>>,
    /// Resource limits. Open files are set back to what they were before
    /// [`raise_open_files`](crate::sys::limit::raise_open_files) unless given here.
    pub limits: Vec<Limit>,
    /// Priority, -20 to 19.
    pub nice: Option<i32>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Another user. Starts through the [`helper`](crate::sys::helper) and about 1 ms later; whether it worked is in
    /// [`Spawned::report`].
    pub credentials: Option<Credentials>,
    /// Variables that the child's own pid is added as, in place of any that [`env`](Self::env) has: `LISTEN_PID`,
    /// `WATCHDOG_PID`.
    pub own_pid: Vec<&'static str>,
}

impl SpawnSpec<'_> {
    /// A child without arguments, with an *empty* environment and everything else as it comes.
    pub fn new(program: impl Into<OsString>) -> Self {
        SpawnSpec {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            fds: Vec::new(),
            session: Session::Inherit,
            death_signal: None,
            cgroups: Vec::new(),
            limits: Vec::new(),
            nice: None,
            umask: None,
            credentials: None,
            own_pid: Vec::new(),
        }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_os_str())
    }

    fn describe(&self, error: SpawnError) -> SpawnError {
        match (error.stage(), &self.cwd) {
            (Stage::Program, _) => error.with_path(&self.program),
            (Stage::Cwd, Some(cwd)) => error.with_path(cwd),
            _ => error,
        }
    }
}

/// A child that executes its program (or, with other credentials, the helper on the way to it).
///
/// Dropping it neither ends nor collects the child.
#[derive(Debug)]
#[must_use]
pub struct Spawned {
    /// Its pid, for people to read. Signal and wait by [`pidfd`](Self::pidfd).
    pub pid: i32,
    /// The process. Readable once it has ended.
    pub pidfd: OwnedFd,
    /// With [`SpawnSpec::credentials`]: whether the program came to run.
    pub report: Option<Report>,
}

/// Starts a child. When it returns, the child executes its program.
///
/// # Errors
/// See [`Stage`] for what may fail. Nothing is left of a child that did not start.
pub fn spawn(spec: &SpawnSpec<'_>) -> Result<Spawned, SpawnError> {
    start(spec).map_err(|error| spec.describe(error))
}

fn start(spec: &SpawnSpec<'_>) -> Result<Spawned, SpawnError> {
    let report = spec
        .credentials
        .as_ref()
        .map(|_| Report::pipe(&spec.program))
        .transpose()?;
    let mut plan = plan::Plan::new(spec, report.as_ref().map(|(_, writer)| writer.as_fd()))?;
    let (pid, pidfd) = slot::lock().start(&mut plan)?;
    Ok(Spawned {
        pid,
        pidfd,
        report: report.map(|(report, _)| report),
    })
}

/// `path` below `cwd`, or as it is.
fn program_path(spec: &SpawnSpec<'_>) -> Result<PathBuf, SpawnError> {
    let cwd: Option<&Path> = spec.cwd.as_deref();
    crate::sys::path::resolve(&spec.program, spec.variable("PATH"), cwd)
        .map_err(|errno| SpawnError::new(Stage::Program, errno.raw_os_error()))
}
