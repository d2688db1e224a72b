//! Why a child did not start.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::sys::errno;

/// What was being done for the child when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The program's name, an argument or the directory has a NUL in it.
    Arguments,
    /// An entry of the environment has a NUL in it.
    Environment,
    /// Looking the program up, or executing it.
    Program,
    /// Another user was asked for, but this program did not call [`run_if_asked`](crate::sys::helper::run_if_asked).
    Helper,
    /// Making the process.
    Clone,
    /// Starting a session or joining a process group.
    Session,
    /// Tying its life to ours.
    DeathSignal,
    /// Moving it into a control group.
    Cgroup,
    /// Giving it this descriptor number.
    FdMap(RawFd),
    /// Setting a resource limit.
    Limit,
    /// Setting its priority.
    Nice,
    /// Entering the working directory.
    Cwd,
    /// Becoming another user.
    Credentials,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Arguments => "take an argument with a NUL in it",
            Stage::Environment => "take an environment entry with a NUL in it",
            Stage::Program => "execute the program",
            Stage::Helper => "become another user: `run_if_asked` was not called at the start of `main`",
            Stage::Clone => "make a process",
            Stage::Session => "set the session or process group",
            Stage::DeathSignal => "set the parent-death signal",
            Stage::Cgroup => "enter the control group",
            Stage::FdMap(number) => return write!(f, "pass descriptor {number}"),
            Stage::Limit => "set a resource limit",
            Stage::Nice => "set the priority",
            Stage::Cwd => "enter the working directory",
            Stage::Credentials => "become another user",
        })
    }
}

/// A child that did not start. Nothing of it is left: no process, no descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnError {
    stage: Stage,
    errno: i32,
    path: Option<PathBuf>,
}

impl SpawnError {
    pub(crate) fn new(stage: Stage, errno: i32) -> SpawnError {
        SpawnError {
            stage,
            errno,
            path: None,
        }
    }

    pub(crate) fn with_path(self, path: impl AsRef<OsStr>) -> SpawnError {
        SpawnError {
            path: Some(PathBuf::from(path.as_ref())),
            ..self
        }
    }

    /// What was being done.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The kernel's reason, a positive number.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The reason as Node names it: `"ENOENT"`; `"ERR_INVALID_ARG_VALUE"` for a NUL where none may be.
    pub fn code(&self) -> &'static str {
        match self.stage {
            Stage::Arguments | Stage::Environment => "ERR_INVALID_ARG_VALUE",
            _ => errno::name(self.errno),
        }
    }

    /// The program, or the directory at [`Stage::Cwd`], or the variable at [`Stage::Environment`].
    ///
    /// Differs from Node: Node names the program for a missing directory too.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        if let Some(path) = &self.path {
            write!(f, " ({})", path.display())?;
        }
        match self.stage {
            Stage::Arguments | Stage::Environment | Stage::Helper => Ok(()),
            _ => write!(f, ": {}", io::Error::from_raw_os_error(self.errno)),
        }
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(error.errno).kind(), error)
    }
}
