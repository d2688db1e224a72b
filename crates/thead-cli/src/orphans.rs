//! Processes that nobody else looks after: what workers leave behind, and everything when thead is PID 1.

use std::time::Duration;

use thead::sys::enclosure::Cgroup;
use thead::sys::reap::{self, Peek};
use thead::sys::stat::ProcessStat;
use tokio::time::Instant;

/// Becomes the parent of whatever the workers leave behind.
pub(crate) fn adopt() {
    if let Err(error) = reap::become_subreaper() {
        eprintln!("thead: processes that workers leave behind will not be found: {error}");
    }
}

/// Collects orphans as they end: at each SIGCHLD, and [`when it is due`](Self::due).
#[derive(Debug, Default)]
pub(crate) struct Collector {
    again: Option<Instant>,
    /// Process groups of workers that have ended lately.
    ended: Vec<Ended>,
}

#[derive(Debug)]
struct Ended {
    group: u32,
    at: Instant,
    /// Who was killed in it.
    killed: Vec<i32>,
}

/// For so long after the end of a worker those of its group are killed that turn up when their parents are.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Until a process of our own is collected that has ended and hides others.
const COME_BACK: Duration = Duration::from_millis(10);

impl Collector {
    /// Collects those that have ended, and kills what is left of workers that have; says what it was.
    pub(crate) fn collect(&mut self, owns: impl Fn(u32) -> bool) -> Vec<String> {
        self.again = (!collect(&owns)).then(|| Instant::now() + COME_BACK);
        self.kill_rest(owns)
    }

    /// Kills what an ended worker left behind in its process group, and says what it was.
    pub(crate) fn worker_ended(&mut self, pid: u32, owns: impl Fn(u32) -> bool) -> Vec<String> {
        self.ended.push(Ended {
            group: pid,
            at: Instant::now(),
            killed: Vec::new(),
        });
        self.kill_rest(owns)
    }

    fn kill_rest(&mut self, owns: impl Fn(u32) -> bool) -> Vec<String> {
        // A pid that came round again may lead a group of ours.
        self.ended
            .retain(|ended| ended.at.elapsed() < AFTERMATH && !owns(ended.group));
        let mut names = Vec::new();
        if self.ended.is_empty() {
            return names;
        }
        for orphan in reap::orphans(|pid| owns(pid.unsigned_abs())).unwrap_or_default() {
            let group = orphan.group.unsigned_abs();
            let Some(ended) = self.ended.iter_mut().find(|ended| ended.group == group) else {
                continue;
            };
            if !ended.killed.contains(&orphan.pid) {
                ended.killed.push(orphan.pid);
                names.push(format!("{} (pid {})", name_of(orphan.pid), orphan.pid));
            }
        }
        let doomed = |orphan: &reap::Orphan| self.ended.iter().any(|ended| ended.killed.contains(&orphan.pid));
        let _ = reap::kill_orphans(|pid| owns(pid.unsigned_abs()), doomed);
        names
    }

    /// When to collect again, though no signal comes.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.again
    }
}

/// Collects orphans that have ended. `false`: a process of our own has ended too and hides others; come back soon.
fn collect(owns: impl Fn(u32) -> bool) -> bool {
    loop {
        match reap::reap_one(|pid| owns(pid.unsigned_abs())) {
            Ok(Peek::Orphan(..)) => {}
            Ok(Peek::Own(_)) => return false,
            Ok(Peek::Nothing) | Err(_) => return true,
        }
    }
}

/// Whether a process was started for a service: its environment says so, unless it was changed.
pub(crate) fn belongs_to(pid: i32, service: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = format!("{SERVICE}={service}");
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == wanted.as_bytes())
}

/// The control group of a service's workers, by the process of its primary.
pub(crate) fn group_name(service: &str, primary: u32) -> String {
    format!("{}{primary}", group_prefix(service))
}

/// With the PID namespace, for containers may share a hierarchy of groups, and have the same pids.
fn group_prefix(service: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    format!("thead.{service}.{namespace}-")
}

/// Kills what is left in control groups of a service whose primaries are gone, with nobody to see it; says what it was.
pub(crate) fn kill_in_old(service: &str, owns: impl Fn(u32) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for (pid, group) in Cgroup::of_prefix(&group_prefix(service)).unwrap_or_default() {
        match pid.parse::<i32>() {
            // Another daemon may have a service of the same name.
            Ok(pid) if ProcessStat::open(pid).is_ok() => group.keep(),
            Ok(_) => names.extend(kill_in(&group, &owns)),
            Err(_) => group.keep(),
        }
    }
    names
}

/// Kills all that is left in a control group, and says what it was. Bounded.
pub(crate) fn kill_in(group: &Cgroup, owns: impl Fn(u32) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..ROUNDS {
        let left = group.processes().unwrap_or_default();
        if left.is_empty() {
            break;
        }
        for pid in left {
            let name = format!("{} (pid {pid})", name_of(pid));
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let _ = group.kill();
        std::thread::sleep(Duration::from_millis(5));
        collect(&owns);
    }
    names
}

/// Names the service in the environment of its workers.
pub(crate) const SERVICE: &str = "THEAD_SERVICE";

/// Kills and collects those orphans that are meant, generation after generation, and says what they were. Bounded.
pub(crate) fn kill_of(owns: impl Fn(u32) -> bool, meant: impl Fn(&reap::Orphan) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..ROUNDS {
        collect(&owns);
        let orphans = reap::orphans(|pid| owns(pid.unsigned_abs())).unwrap_or_default();
        let doomed: Vec<_> = orphans.iter().filter(|orphan| meant(orphan)).collect();
        if doomed.is_empty() {
            break;
        }
        for orphan in &doomed {
            let name = format!("{} (pid {})", name_of(orphan.pid), orphan.pid);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let pids: Vec<_> = doomed.iter().map(|orphan| orphan.pid).collect();
        let _ = reap::kill_orphans(|pid| owns(pid.unsigned_abs()), |orphan| pids.contains(&orphan.pid));
        std::thread::sleep(Duration::from_millis(5));
    }
    names
}

/// What is not gone after so many tries cannot be killed.
const ROUNDS: usize = 200;

/// Kills and collects all that is left, generation after generation, and says what it was. Bounded: what cannot be killed
/// stays.
pub(crate) fn kill_all() -> Vec<String> {
    let names = kill_of(|_| false, |_| true);
    for _ in 0..ROUNDS {
        collect(|_| false);
        if !reap::has_children().unwrap_or(false) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    names
}

fn name_of(pid: i32) -> String {
    let known = ProcessStat::open(pid).is_ok();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .filter(|_| known);
    name.map_or_else(|| "a process".into(), |name| name.trim_end().to_owned())
}
