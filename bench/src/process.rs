//! Processes that were started here: what they use, and their end.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::Failure;

/// How long anything may take to come up or to go.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is ended and collected when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = pid_of(self.0.id()) {
            end(pid, Signal::TERM);
        }
        // It is collected; this only tells the standard library.
        let _ = self.0.try_wait();
    }
}

pub(crate) fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Ends a child of this process, adopted ones too: by `signal`, and if that does not help by SIGKILL. Returns once it is
/// collected.
pub(crate) fn end(pid: Pid, signal: Signal) {
    // Nobody else collects it, so the number stays its own until `wait_for` has it.
    let _ = kill_process(pid, signal);
    if !wait_for(pid, PATIENCE) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// Collects a child that ends within this time; says whether it did.
pub(crate) fn wait_for(pid: Pid, patience: Duration) -> bool {
    until(patience, || {
        !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
    })
}

/// Asks until it is so; says whether it was.
pub(crate) fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > patience {
            return false;
        }
        sleep(Duration::from_millis(5));
    }
    true
}

/// Kills and collects whatever the candidates left behind; returns how many that were.
pub(crate) fn end_orphans() -> usize {
    let mut left = 0;
    loop {
        while !matches!(
            thead::sys::reap::reap_one(|_| false),
            Ok(thead::sys::reap::Peek::Nothing) | Err(_)
        ) {}
        let Ok(orphans) = thead::sys::reap::orphans(|_| false) else {
            return left;
        };
        if orphans.is_empty() {
            return left;
        }
        left += orphans.len();
        for pid in orphans.iter().filter_map(|orphan| Pid::from_raw(orphan.pid)) {
            end(pid, Signal::KILL);
        }
    }
}

/// The processor time of all threads that a process has, to the nanosecond.
///
/// From `schedstat`: `stat` counts in hundredths of a second. Threads that have ended are missing; none of those measured
/// here ends any.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    cpu_time_of(pid, |_| true)
}

/// As [`cpu_time`], of threads with such names.
pub(crate) fn cpu_time_of(pid: u32, is_meant: impl Fn(&str) -> bool) -> Result<Duration, Failure> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if !is_meant(fs::read_to_string(task.join("comm"))?.trim()) {
            continue;
        }
        let text = fs::read_to_string(task.join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// The resident memory of a process, in MiB.
pub(crate) fn resident(pid: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS")?
        .parse()?;
    Ok(kibibytes / 1024.0)
}
