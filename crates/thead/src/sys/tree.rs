//! A process and all that it has started.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::pidfd;
use super::spawn::Session;
use super::stat::{ProcessStat, Sample};

/// A child with its descendants, as far as they can be known: by their parents, by the process group and session that are
/// the child's own, and by its control group. One that has left all of these has escaped.
#[derive(Clone, Debug)]
pub struct Tree {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    session: Session,
    cgroup: Option<PathBuf>,
}

/// What a scan found.
struct Found {
    processes: Vec<(i32, OwnedFd)>,
    /// Those that were known before are stopped, or have ended.
    still: bool,
}

/// Processes of one tree that are counted.
const DESCENDANTS: usize = 1024;

/// How far up a process's ancestors are looked at.
const ANCESTORS: usize = 64;

/// Scans until nothing new is found, at most.
const SCANS: usize = 100;

impl Tree {
    pub(crate) fn new(pid: u32, pidfd: Arc<OwnedFd>, session: Session, cgroup: Option<PathBuf>) -> Self {
        Self {
            pid: pid.cast_signed(),
            pidfd,
            session,
            cgroup,
        }
    }

    /// The child itself.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Kills all of it with SIGKILL, the child first. What is found is stopped before it is killed, so that it starts nothing
    /// more; a control group is killed by the kernel in one go.
    ///
    /// Once the child has ended, only the control group is left to know its descendants by.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            // Linux 5.14; before that, what follows has to do.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
        let _ = pidfd::send_signal(&*self.pidfd, libc::SIGSTOP);
        let mut found: Vec<(i32, OwnedFd)> = Vec::new();
        for _ in 0..SCANS {
            let Ok(fresh) = self.scan(&found) else { break };
            // A pid that was given back may be a stranger's, and what was found by it too.
            if self.is_collected() {
                break;
            }
            for (_, process) in &fresh.processes {
                let _ = pidfd::send_signal(process, libc::SIGSTOP);
            }
            // One that does not stand still yet may be starting another.
            if fresh.processes.is_empty() && fresh.still {
                break;
            }
            found.extend(fresh.processes);
        }
        let _ = pidfd::send_signal(&*self.pidfd, libc::SIGKILL);
        for (_, process) in &found {
            let _ = pidfd::send_signal(process, libc::SIGKILL);
        }
    }

    fn is_collected(&self) -> bool {
        pidfd::is_stopped(&*self.pidfd).is_err()
    }

    /// Looks for processes that belong to the tree and are not among those known.
    fn scan(&self, known: &[(i32, OwnedFd)]) -> io::Result<Found> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // It may end at any moment.
            if let Ok(sample) = ProcessStat::open(pid).and_then(|stat| stat.sample()) {
                all.push((pid, sample));
            }
        }
        let mut pids: Vec<i32> = known.iter().map(|(pid, _)| *pid).chain([self.pid]).collect();
        let still = all
            .iter()
            .all(|(pid, sample)| !pids.contains(pid) || "TtZX".contains(sample.state));
        let mut fresh = Vec::new();
        loop {
            let before = pids.len();
            for (pid, sample) in &all {
                if !pids.contains(pid) && sample.state != 'Z' && self.has(sample, &pids) {
                    pids.push(*pid);
                    fresh.push((*pid, *sample));
                }
            }
            if pids.len() == before {
                break;
            }
        }
        let fresh = fresh
            .into_iter()
            .filter_map(|(pid, sample)| Some((pid, open(pid, &sample)?)));
        Ok(Found {
            processes: fresh.collect(),
            still,
        })
    }

    fn has(&self, sample: &Sample, pids: &[i32]) -> bool {
        let of_session = self.session == Session::New && sample.session == self.pid;
        let of_group = matches!(self.session, Session::New | Session::NewGroup) && sample.group == self.pid;
        pids.contains(&sample.parent) || of_session || of_group
    }
}

/// Whether a process is `root`, or was started by it as far as that can be known: one of its descendants, or of the group or
/// session that it leads.
pub fn belongs(pid: i32, root: i32) -> bool {
    let mut pid = pid;
    for _ in 0..ANCESTORS {
        if pid == root {
            return true;
        }
        let Ok(sample) = ProcessStat::open(pid).and_then(|stat| stat.sample()) else {
            return false;
        };
        if sample.group == root || sample.session == root {
            return true;
        }
        pid = sample.parent;
    }
    false
}

/// A process and all that descend from it, as far as their parents are there to tell.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        at += 1;
        // Each thread has children of its own.
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
            for child in children.filter(|child| *child != 0) {
                if pids.len() < DESCENDANTS && !pids.contains(&child) {
                    pids.push(child);
                }
            }
        }
    }
    pids
}

/// The process, unless another one has its pid by now.
fn open(pid: i32, sample: &Sample) -> Option<OwnedFd> {
    let process = pidfd::open(pid).ok()?;
    let now = ProcessStat::open(pid).and_then(|stat| stat.sample()).ok()?;
    let same = (now.parent, now.group, now.session) == (sample.parent, sample.group, sample.session);
    same.then_some(process)
}
