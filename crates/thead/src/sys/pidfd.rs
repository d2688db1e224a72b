//! Processes by descriptor: a pidfd names one process for ever, where a pid may name another one tomorrow.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};

/// How a process ended: by itself with a code, or by a signal. Never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It returned from `main` or called `exit`; 0 to 255.
    Code(i32),
    /// A signal killed it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// It left a core dump.
        core: bool,
    },
}

impl ExitStatus {
    /// The exit code, unless a signal ended it.
    pub fn code(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code),
            ExitStatus::Signal { .. } => None,
        }
    }

    /// The signal that ended it, if one did.
    pub fn signal(self) -> Option<i32> {
        match self {
            ExitStatus::Code(_) => None,
            ExitStatus::Signal { signal, .. } => Some(signal),
        }
    }

    /// It left a core dump.
    pub fn core_dumped(self) -> bool {
        matches!(self, ExitStatus::Signal { core: true, .. })
    }

    /// It ended with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    fn from_wait(status: &WaitIdStatus) -> Option<ExitStatus> {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(ExitStatus::Code(code)),
            (None, Some(signal)) => Some(ExitStatus::Signal {
                signal,
                core: status.dumped(),
            }),
            (None, None) => None,
        }
    }
}

/// Collects the exit of a child if it has ended; `None` while it runs. The pidfd turns readable when it ends.
///
/// # Errors
/// `ECHILD` when the process is not a child of ours or was collected already.
pub fn try_wait(pidfd: impl AsFd) -> io::Result<Option<ExitStatus>> {
    wait(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )
}

/// A child is stopped by a signal just now. Does not take the news away from anybody.
///
/// # Errors
/// `ECHILD` as in [`try_wait`].
pub fn is_stopped(pidfd: impl AsFd) -> io::Result<bool> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::PidFd(pidfd.as_fd()), options)?.is_some())
}

pub(super) fn wait(id: WaitId<'_>, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
    loop {
        match waitid(id.clone(), options) {
            Ok(status) => return Ok(status.as_ref().and_then(ExitStatus::from_wait)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a signal by number, 1 to 64.
///
/// # Errors
/// `ESRCH` when the process has been collected (a recycled pid is never hit), `EINVAL` for a number that is no signal,
/// `EPERM`.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let signal = match Signal::from_named_raw(signal) {
        Some(signal) => signal,
        // SAFETY: not zero, and in the range that the C library leaves to programs.
        None if real_time.contains(&signal) => unsafe { Signal::from_raw_unchecked(signal) },
        None => return Err(rustix::io::Errno::INVAL.into()),
    };
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// A pidfd for a process that the caller knows to be alive or to be its own child that is not collected yet.
///
/// # Errors
/// `ESRCH` when there is no such process, `EMFILE`.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A duplicate, close-on-exec, of another process's descriptor. Its file status flags are shared: leave them alone.
///
/// # Errors
/// `EBADF` when it has no such descriptor, `ESRCH` when it has ended, `EPERM` when we may not trace it.
pub fn getfd(pidfd: impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?)
}
