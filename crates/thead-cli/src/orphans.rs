//! Processes that nobody else looks after: what workers leave behind, and everything when thead is PID 1.

use std::time::Duration;

use thead::sys::reap::{self, Peek};
use thead::sys::stat::ProcessStat;

/// Becomes the parent of whatever the workers leave behind.
pub(crate) fn adopt() {
    if let Err(error) = reap::become_subreaper() {
        eprintln!("thead: processes that workers leave behind will not be found: {error}");
    }
}

/// Collects orphans that have ended. `false`: a process of our own has ended too and hides others; come back soon.
pub(crate) fn collect(owns: impl Fn(u32) -> bool) -> bool {
    loop {
        match reap::reap_one(|pid| owns(pid.unsigned_abs())) {
            Ok(Peek::Orphan(..)) => {}
            Ok(Peek::Own(_)) => return false,
            Ok(Peek::Nothing) | Err(_) => return true,
        }
    }
}

/// Kills what an ended worker left behind in its process group.
pub(crate) fn kill_group(group: u32, owns: impl Fn(u32) -> bool) {
    let same = |orphan: &reap::Orphan| orphan.group.unsigned_abs() == group;
    let _ = reap::kill_orphans(|pid| owns(pid.unsigned_abs()), same);
}

/// Kills and collects all that is left, generation after generation, and says what it was. Bounded: what cannot be killed
/// stays.
pub(crate) fn kill_all() -> Vec<String> {
    const ROUNDS: usize = 200;
    let mut names = Vec::new();
    for _ in 0..ROUNDS {
        collect(|_| false);
        if !reap::has_children().unwrap_or(false) {
            break;
        }
        for orphan in &reap::orphans(|_| false).unwrap_or_default() {
            let name = format!("{} (pid {})", name_of(orphan.pid), orphan.pid);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let _ = reap::kill_orphans(|_| false, |_| true);
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
