//! `thead daemon`: the process that knows what should run.
//!
//! It keeps the configuration, starts a primary for each service that runs, and answers on the control socket. It accepts no
//! connection of a service and parses no byte of a worker. When it ends or dies the primaries live on, and the next daemon
//! finds them by their sockets.

mod apply;
mod daemon;
mod data;
mod dirs;
mod events;
mod group;
mod logs;
mod openapi;
mod recover;
mod registry;
mod sample;
mod server;
mod service;
mod state;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use daemon::{DaemonArgs, daemon};
pub(crate) use dirs::passable;
use events::Journal;
pub(crate) use service::PRIMARY_LISTENER;
use thead::sys::enclosure::Cgroup;
use thead::sys::user::{self, User};
use tokio::sync::Notify;

use crate::config;
use crate::role::Status;

/// How the sockets of primaries end, in the directory of sockets.
const PRIMARY: &str = ".primary";

/// The directory within that of the state which has one for the data of each service.
const DATA: &str = "data";

/// What all services of a daemon share.
#[derive(Debug)]
struct Shared {
    journal: Journal,
    run_dir: PathBuf,
    state_dir: PathBuf,
    log_dir: PathBuf,
    /// This program.
    exe: PathBuf,
    /// That of whoever started the daemon: workers get it back.
    umask: u32,
    /// What is saved is not what should be.
    dirty: Notify,
    /// Somebody was served.
    busy: Notify,
    /// Processes of primaries that we have started and not collected.
    own: Mutex<Vec<u32>>,
}

/// Variables that workers get from the daemon's environment unless `pass-env` says otherwise.
const PASSED: [&str; 9] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR",
];

impl Shared {
    /// What should run has changed.
    fn changed(&self) {
        self.dirty.notify_one();
    }

    /// Where the data of a service is kept.
    fn data_dir(&self, service: &config::Name) -> PathBuf {
        self.state_dir.join(DATA).join(service.as_str())
    }

    fn lock_own(&self) -> MutexGuard<'_, Vec<u32>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process that is not collected is a primary of ours, which its own task collects.
    fn is_own(&self, pid: u32) -> bool {
        self.lock_own().contains(&pid)
    }

    /// Who a service runs as, if not as we do.
    fn owner_of(&self, config: &config::Service) -> Result<Option<User>, String> {
        if config.user.is_none() && config.group.is_none() {
            return Ok(None);
        }
        let us = rustix::process::geteuid();
        let name = config.user.clone().unwrap_or_else(|| us.as_raw().to_string());
        let mut owner = match user::user(&name) {
            Ok(Some(owner)) => owner,
            Ok(None) => return Err(format!("there is no user {name:?}")),
            Err(error) => return Err(format!("the user {name:?} cannot be looked up: {error}")),
        };
        if let Some(name) = &config.group {
            owner.gid = match user::group(name) {
                Ok(Some(gid)) => gid,
                Ok(None) => return Err(format!("there is no group {name:?}")),
                Err(error) => return Err(format!("the group {name:?} cannot be looked up: {error}")),
            };
            owner.groups = vec![owner.gid];
        }
        if owner.uid == us.as_raw() && owner.gid == rustix::process::getegid().as_raw() {
            return Ok(None);
        }
        if !us.is_root() {
            return Err(format!(
                "only a daemon that root has started can run it as user {name:?}"
            ));
        }
        Ok(Some(owner))
    }

    /// The environment of a service's primary, which its workers inherit.
    fn environment(&self, config: &config::Service) -> BTreeMap<OsString, OsString> {
        let passed = |name: &OsString| {
            let matches = |name: &str| match &config.pass_env {
                Some(patterns) => patterns.iter().any(|pattern| config::stands_for(pattern, name)),
                None => PASSED.iter().any(|pattern| config::stands_for(pattern, name)),
            };
            // What the daemon's own supervisor says to it is for nobody else, whatever the pattern.
            name.to_str()
                .is_some_and(|name| matches(name) && !config::is_ours(name))
        };
        let mut environment: BTreeMap<_, _> = std::env::vars_os().filter(|(name, _)| passed(name)).collect();
        if let Ok(Some(owner)) = self.owner_of(config) {
            for (name, value) in [
                ("HOME", owner.home.into_os_string()),
                ("USER", owner.name.clone().into()),
                ("LOGNAME", owner.name.into()),
            ] {
                environment.insert(name.into(), value);
            }
        }
        environment
    }

    /// Kills and collects what a primary that has ended left behind; their names.
    fn collect_left(&self, service: &config::Name, primary: u32, status: &Status) -> Vec<String> {
        let groups: Vec<_> = status.service.workers.iter().filter_map(|worker| worker.pid).collect();
        let name = crate::orphans::group_name(service.as_str(), primary);
        let mut left = match Cgroup::find(&name) {
            Ok(Some(group)) => crate::orphans::kill_in(&group, |pid| self.is_own(pid)),
            Ok(None) | Err(_) => Vec::new(),
        };
        left.extend(crate::orphans::kill_of(
            |pid| self.is_own(pid),
            |orphan| {
                groups.contains(&orphan.group.unsigned_abs())
                    || crate::orphans::belongs_to(orphan.pid, service.as_str())
            },
        ));
        left
    }
}
