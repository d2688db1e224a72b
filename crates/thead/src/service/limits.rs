//! What workers may use of descriptors, processes, core files and the processor, and their variables: from their start, and
//! while they run.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getpriority_process, getrlimit, prlimit, setpriority_process};

use super::{Drain, Service, ServiceEvent, Variables};
use crate::command::Command;
use crate::sys::limit::original_open_files;
use crate::sys::spawn::Limit;
use crate::sys::tree;

/// What one worker may use. Nothing is limited by default.
///
/// Where a limit changes while workers run, it holds for them too, and for what they have started, as far as the kernel permits:
/// what they may use can be lessened, and raised again only with `CAP_SYS_RESOURCE` (root outside of a container). Who keeps what
/// it had is told by [`ServiceEvent::LimitKept`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of a worker with all that it has started, in bytes. Where a control group can be had the kernel holds it and ends
    /// the worker ([`Failure::OutOfMemory`](thead_core::service::Failure::OutOfMemory)); elsewhere resident memory is looked at
    /// each second, and a worker above it is replaced, new before old.
    pub memory: Option<u64>,
    /// Open descriptors of one process (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Processes and threads of the user (`RLIMIT_NPROC`).
    pub processes: Option<u64>,
    /// Size of a core file, in bytes (`RLIMIT_CORE`).
    pub core: Option<u64>,
    /// Priority, -20 (first) to 19 (last).
    pub nice: Option<i32>,
}

impl Limits {
    fn resources(&self) -> [(&'static str, Resource, Option<u64>); 3] {
        [
            ("open files", Resource::Nofile, self.open_files),
            ("processes", Resource::Nproc, self.processes),
            ("core files", Resource::Core, self.core),
        ]
    }

    /// The command of a worker that is to have them. Memory is held otherwise.
    pub(super) fn on(&self, command: Command) -> Command {
        let set = |command: Command, (_, resource, value): (_, _, Option<u64>)| match value {
            Some(value) => command.limit(Limit {
                resource,
                limit: both(value),
            }),
            None => command,
        };
        let command = self.resources().into_iter().fold(command, set);
        match self.nice {
            Some(nice) => command.nice(nice),
            None => command,
        }
    }

    /// What is not as in `old`, as a worker would have it that is started now.
    fn changes(&self, old: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for ((name, resource, new), (_, _, old)) in self.resources().into_iter().zip(old.resources()) {
            if new != old {
                let limit = new.map_or_else(|| inherited(resource), both);
                changes.push(Change {
                    name,
                    to: To::Limit(resource, limit),
                });
            }
        }
        if self.nice != old.nice {
            // Without one they are as we are.
            let nice = self.nice.or_else(|| getpriority_process(None).ok()).unwrap_or(0);
            changes.push(Change {
                name: "priority",
                to: To::Nice(nice),
            });
        }
        changes
    }
}

fn both(value: u64) -> Rlimit {
    Rlimit {
        current: Some(value),
        maximum: Some(value),
    }
}

/// What a child has that nothing else is said about.
fn inherited(resource: Resource) -> Rlimit {
    match resource {
        Resource::Nofile => original_open_files().unwrap_or_else(|| getrlimit(resource)),
        _ => getrlimit(resource),
    }
}

struct Change {
    name: &'static str,
    to: To,
}

enum To {
    Limit(Resource, Rlimit),
    Nice(i32),
}

impl Change {
    /// For a worker and what it has started; that which ends meanwhile needs nothing.
    fn bring_to(&self, worker: u32) -> io::Result<()> {
        for pid in tree::descendants(worker.cast_signed()) {
            let Some(process) = Pid::from_raw(pid) else { continue };
            let done = match self.to {
                To::Limit(resource, limit) => prlimit(Some(process), resource, limit).map(drop),
                To::Nice(nice) => renice(pid, nice),
            };
            match done {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// On Linux each thread has a priority of its own.
fn renice(pid: i32, nice: i32) -> Result<(), Errno> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Ok(());
    };
    let threads = threads
        .flatten()
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for thread in threads.filter_map(Pid::from_raw) {
        match setpriority_process(Some(thread), nice) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl Service {
    /// Other limits hold than these.
    pub(super) fn limit_anew(&mut self, old: &Limits) {
        let limits = self.settings.limits.clone();
        if limits.memory != old.memory {
            self.limit_memory_anew();
        }
        for change in limits.changes(old) {
            for (worker, pid) in self.workers.iter().map(|(id, worker)| (*id, worker.pid)) {
                if let Err(error) = change.bring_to(pid) {
                    let (limit, reason) = (change.name, error.to_string());
                    self.events.push_back(ServiceEvent::LimitKept { worker, limit, reason });
                }
            }
        }
    }

    /// Other variables hold than these: workers that can be told are.
    pub(super) fn tell_env_anew(&mut self, old: &Variables) {
        let env = &self.settings.env;
        let changed: BTreeMap<_, _> = env
            .iter()
            .filter(|(name, value)| old.get(*name) != Some(*value))
            .collect();
        if changed.is_empty() {
            return;
        }
        for (id, worker) in &self.workers {
            if worker.program.drain == Drain::HandBack {
                self.primary.change_env(*id, &changed);
            }
        }
    }
}
