//! Orphans: descendants whose own parent has ended, and that became children of ours because we are a subreaper.
//!
//! Own children are waited for by pidfd ([`super::pidfd::try_wait`]), never here. Nobody else in the process may call
//! `waitpid(-1)`: the safety of signalling an orphan by its pid rests on our being the only one to collect it.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::pidfd::{self, ExitStatus};
use super::stat::ProcessStat;

/// From now on orphaned descendants become children of this process, not of PID 1. Not inherited by children.
///
/// # Errors
/// None that are known.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// What the first ended child turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// No child has ended.
    Nothing,
    /// One of our own has ended: collect it through its pidfd, then call again, for it may hide orphans.
    Own(i32),
    /// An orphan had ended and has been collected.
    Orphan(i32, ExitStatus),
}

/// Children that this library has spawned and not collected yet.
static SPAWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn spawned() -> MutexGuard<'static, BTreeSet<i32>> {
    SPAWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is waited for by its pidfd: nothing here takes it for an orphan until this is dropped.
#[derive(Debug)]
pub(crate) struct Spawned(i32);

impl Spawned {
    /// Before anything else happens than its start.
    pub(crate) fn new(pid: u32) -> Self {
        let pid = pid.cast_signed();
        spawned().insert(pid);
        Self(pid)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        spawned().remove(&self.0);
    }
}

/// Looks at one ended child, and collects it unless `is_own` knows its pid, or [`Command`](crate::Command) has started it. Call
/// it after SIGCHLD until it says [`Peek::Nothing`].
///
/// # Errors
/// None that are known.
pub fn reap_one(is_own: impl FnOnce(i32) -> bool) -> io::Result<Peek> {
    let Some(pid) = first_ended()? else {
        return Ok(Peek::Nothing);
    };
    let number = pid.as_raw_nonzero().get();
    if spawned().contains(&number) || is_own(number) {
        return Ok(Peek::Own(number));
    }
    match pidfd::wait(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
        Some(status) => Ok(Peek::Orphan(number, status)),
        None => Ok(Peek::Nothing),
    }
}

/// The pid of a child that has ended, leaving it uncollected.
fn first_ended() -> io::Result<Option<Pid>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is a writable siginfo_t.
        let result = unsafe {
            libc::waitid(
                libc::P_ALL,
                0,
                info.as_mut_ptr(),
                libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
            )
        };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
    // SAFETY: zeroed, or filled by waitid; after waitid si_pid is valid, and 0 when no child has ended.
    Ok(Pid::from_raw(unsafe { info.assume_init().si_pid() }))
}

/// A living child that we did not spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its pid; ours to collect, so it cannot be recycled.
    pub pid: i32,
    /// Its process group, which tells whose descendant it was if each worker leads a group.
    pub group: i32,
    /// Its session, for the same purpose.
    pub session: i32,
}

/// The living children that `is_own` does not know. Grandchildren of theirs appear once *their* parents have ended.
///
/// Read from `/proc/self/task/*/children`; where the kernel has no such files, from every `/proc/PID/stat`.
///
/// # Errors
/// When /proc cannot be read.
pub fn orphans(is_own: impl Fn(i32) -> bool) -> io::Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    for pid in children()?.into_iter().filter(|pid| !is_own(*pid)) {
        // It may have ended meanwhile, collected by another thread of ours.
        let Ok(sample) = ProcessStat::open(pid).and_then(|stat| stat.sample()) else {
            continue;
        };
        if !matches!(sample.state, 'Z' | 'X') {
            orphans.push(Orphan {
                pid,
                group: sample.group,
                session: sample.session,
            });
        }
    }
    Ok(orphans)
}

/// Sends SIGKILL to every orphan for which `doomed` says so; returns to how many. Orphans of orphans turn up when those
/// have ended: reap, and call it again until it returns 0.
///
/// # Errors
/// As [`orphans`]; an orphan that cannot be killed (`EPERM`) is an error after all others were.
pub fn kill_orphans(is_own: impl Fn(i32) -> bool, doomed: impl Fn(&Orphan) -> bool) -> io::Result<usize> {
    let (mut killed, mut failure) = (0, None);
    for orphan in orphans(is_own)?.iter().filter(|orphan| doomed(orphan)) {
        match pidfd::open(orphan.pid).and_then(|pidfd| pidfd::send_signal(pidfd, libc::SIGKILL)) {
            Ok(()) => killed += 1,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(killed), Err)
}

/// Whether there is any child, living or not: one that has ended cannot be collected before all of its threads have.
///
/// # Errors
/// When /proc cannot be read.
pub fn has_children() -> io::Result<bool> {
    Ok(!children()?.is_empty())
}

/// All children of this process, ended ones included.
fn children() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        match std::fs::read_to_string(task?.path().join("children")) {
            Ok(line) => pids.extend(line.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            Err(_) if !std::fs::exists("/proc/thread-self/children")? => return children_by_parent(),
            // The thread has ended; its children belong to another thread now.
            Err(_) => {}
        }
    }
    Ok(pids)
}

fn children_by_parent() -> io::Result<Vec<i32>> {
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if ProcessStat::open(pid)
            .and_then(|stat| stat.sample())
            .is_ok_and(|sample| sample.parent == us)
        {
            pids.push(pid);
        }
    }
    Ok(pids)
}
