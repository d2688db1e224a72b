//! Control groups that limit memory, one for each worker: cgroup v2 where it has the controller, else v1.
//!
//! `cgroups(7)`; the kernel's `cgroup-v2` and `cgroup-v1/memory` documents.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::enclosure;

/// Where this process may make groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    parent: PathBuf,
    version: Version,
}

/// A hierarchy with its own names for the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group whose processes may use so much memory together. Removed when it is dropped, if nothing is left in it.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    version: Version,
}

/// Names of our groups begin so; the pid of their maker and a number follow.
const PREFIX: &str = "thead-";
/// A younger group without processes may be about to get some, from a process that this pid namespace does not know.
const ABANDONED: Duration = Duration::from_secs(60);
/// Where we go ourselves, for a group of v2 has either processes or groups with controllers.
const OURSELVES: &str = "thead-supervisor";

impl Groups {
    /// Finds the place; `None` where no memory controller can be had: it is another's, or read-only, as in most containers.
    ///
    /// `within`: a group of v2 that is ours and has no processes; there or in v1, nowhere else. Without, this may move our
    /// process into a group below its own, if that was delegated to it (`Delegate=` of systemd) or is the root of its
    /// namespace, and nobody else is in there.
    pub fn find(within: Option<&Path>) -> Option<Groups> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let two = match within {
            Some(within) => Self::below(within),
            None => {
                let is_root = groups.lines().any(|line| line == "0::/");
                own_directory(&groups, &mounts, Version::Two).and_then(|own| Self::of_two(&own, is_root))
            }
        };
        let one = || {
            let parent = own_directory(&groups, &mounts, Version::One)?;
            let version = Version::One;
            Some(Groups { parent, version })
        };
        two.or_else(|| one().filter(Groups::may_make))
    }

    /// Below a group without processes, of which the controllers are given on.
    fn below(group: &Path) -> Option<Groups> {
        let given = has_memory(group, "cgroup.controllers")
            && fs::write(group.join("cgroup.subtree_control"), "+memory").is_ok();
        let (parent, version) = (group.to_owned(), Version::Two);
        given.then_some(Groups { parent, version }).filter(Groups::may_make)
    }

    /// `is_root`: it is the root of our namespace, so nobody else cares for it.
    fn of_two(own: &Path, is_root: bool) -> Option<Groups> {
        // We have been here before.
        if own.ends_with(OURSELVES) {
            return Self::below(own.parent()?);
        }
        // The one group that may have both processes and groups with controllers.
        if own.exists() && !own.join("cgroup.type").exists() {
            return Self::below(own);
        }
        let alone = || fs::read_to_string(own.join("cgroup.procs")).is_ok_and(|pids| pids.trim() == pid().to_string());
        let is_ours = is_root || is_delegated(own);
        if !is_ours || !has_memory(own, "cgroup.controllers") || !alone() {
            return None;
        }
        let leaf = own.join(OURSELVES);
        let _ = fs::create_dir(&leaf);
        fs::write(leaf.join("cgroup.procs"), "0").ok()?;
        Self::below(own).or_else(|| {
            let _ = fs::write(own.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(&leaf);
            None
        })
    }

    fn may_make(&self) -> bool {
        self.remove_abandoned();
        let trial = self.parent.join(format!("{PREFIX}{}-trial", pid()));
        let made = fs::create_dir(&trial).is_ok();
        let limits = made && trial.join(self.version.limit()).exists();
        let _ = fs::remove_dir(&trial);
        limits
    }

    /// What processes left behind that were killed.
    fn remove_abandoned(&self) {
        let Ok(entries) = fs::read_dir(&self.parent) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let maker = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
            let dead = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
            let age = entry
                .metadata()
                .and_then(|made| made.modified())
                .map(|made| made.elapsed());
            let is_old = matches!(age, Ok(Ok(age)) if age > ABANDONED);
            if is_old && maker.is_some_and(|(pid, _)| dead(pid)) {
                // It stays if somebody is in it.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Makes a group with a number of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make(&self, number: u32, limit: u64) -> io::Result<Group> {
        // A pid is somebody else's too, in another namespace.
        let mark = RandomState::new().build_hasher().finish() as u32;
        let directory = self.parent.join(format!("{PREFIX}{}-{number}-{mark:08x}", pid()));
        fs::create_dir(&directory)?;
        let group = Group {
            directory,
            version: self.version,
        };
        group.set_limit(limit)?;
        if self.version == Version::Two {
            // All of it or nothing: a worker without its children is no worker. Linux 4.19.
            let _ = fs::write(group.directory.join("memory.oom.group"), "1");
        }
        Ok(group)
    }
}

impl Group {
    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Changes how much memory its processes may use, in bytes.
    ///
    /// # Errors
    /// `EBUSY` if they use more and nothing can be reclaimed (v1; v2 ends them).
    pub fn set_limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.directory.join(self.version.limit()), bytes.to_string())
    }

    /// Whether somebody is in it.
    pub fn is_used(&self) -> bool {
        fs::read_to_string(self.directory.join("cgroup.procs")).is_ok_and(|pids| !pids.trim().is_empty())
    }

    /// How many of its processes the kernel has ended for their memory.
    pub fn oom_kills(&self) -> u64 {
        oom_kills(&self.directory, self.version)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

impl Version {
    fn limit(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }
}

/// How many processes of this process's own group, and of those below it, the kernel has ended for their memory; `None` where
/// that cannot be known.
pub fn own_oom_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let of = |version| {
        let own = own_directory(&groups, &mounts, version)?;
        // We may have gone one below.
        let own = if own.ends_with(OURSELVES) {
            own.parent()?.to_owned()
        } else {
            own
        };
        own.join(events(version)).exists().then(|| oom_kills(&own, version))
    };
    of(Version::Two).or_else(|| of(Version::One))
}

fn events(version: Version) -> &'static str {
    match version {
        Version::One => "memory.oom_control",
        Version::Two => "memory.events",
    }
}

fn oom_kills(directory: &Path, version: Version) -> u64 {
    let text = fs::read_to_string(directory.join(events(version))).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn pid() -> u32 {
    std::process::id()
}

fn has_memory(group: &Path, file: &str) -> bool {
    let controllers = fs::read_to_string(group.join(file)).unwrap_or_default();
    controllers
        .split_ascii_whitespace()
        .any(|controller| controller == "memory")
}

/// systemd marks what it leaves to others.
fn is_delegated(group: &Path) -> bool {
    let mut value = [0; 1];
    let marked = |name: &str| rustix::fs::getxattr(group, name, &mut value).is_ok_and(|read| read == 1);
    ["user.delegate", "trusted.delegate"].iter().copied().any(marked) && value == *b"1"
}

/// The directory of this process's group in the hierarchy that limits memory, as the two files say that the kernel keeps
/// (cgroups(7), proc_pid_mountinfo(5)).
fn own_directory(groups: &str, mounts: &str, version: Version) -> Option<PathBuf> {
    if version == Version::Two {
        return enclosure::place(groups, mounts);
    }
    let has_memory = |list: &str| list.split(',').any(|controller| controller == "memory");
    // `4:memory:/path`
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        has_memory(controllers).then_some(path)
    })?;
    // `35 31 0:32 ROOT POINT rw,relatime shared:1 - cgroup SOURCE OPTIONS`
    mounts.lines().find_map(|line| {
        let (before, behind) = line.split_once(" - cgroup ")?;
        let options = behind.split(' ').nth(1).filter(|options| has_memory(options));
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A container may see only a part of it.
        let below = Path::new(path).strip_prefix(root).ok()?;
        options.map(|_| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn our_own_group_is_found_in_either_hierarchy() {
        let groups = "4:memory:/user/a\n2:cpu,cpuacct:/b\n0::/c/d\n";
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 /c /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = |version| own_directory(groups, mounts, version);
        assert_eq!(own(Version::One).unwrap(), Path::new("/sys/fs/cgroup/memory/user/a"));
        assert_eq!(own(Version::Two).unwrap(), Path::new("/sys/fs/cgroup/unified/d"));
        assert_eq!(own_directory("0::/elsewhere\n", mounts, Version::Two), None);
        assert_eq!(own_directory("", mounts, Version::One), None);
        let root = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(
            own_directory("0::/\n", root, Version::Two).unwrap(),
            Path::new("/sys/fs/cgroup")
        );
    }

    /// A directory that looks like a group to us.
    fn group(directory: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn where_somebody_else_is_nothing_is_rearranged() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        let (us, both) = (pid().to_string(), format!("{}\n1\n", pid()));
        let parts = |controllers, pids| {
            [
                ("cgroup.type", "domain\n"),
                ("cgroup.controllers", controllers),
                ("cgroup.procs", pids),
            ]
        };
        // That of a service of systemd's, which has not delegated it, is not ours, whoever we are.
        for (files, is_root) in [
            (parts("cpu memory\n", both.as_str()), true),
            (parts("cpu\n", &us), true),
            (parts("cpu memory\n", &us), false),
        ] {
            group(&own, &files);
            assert_eq!(Groups::of_two(&own, is_root), None);
            assert!(!own.join(OURSELVES).exists());
        }
    }

    #[test]
    fn what_the_kernel_ended_is_counted() {
        let root = tempfile::tempdir().unwrap();
        group(
            root.path(),
            &[
                ("memory.events", "low 0\nmax 17\noom 2\noom_kill 3\noom_group_kill 1\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"),
            ],
        );
        assert_eq!(oom_kills(root.path(), Version::Two), 3);
        assert_eq!(oom_kills(root.path(), Version::One), 5);
        assert_eq!(oom_kills(&root.path().join("gone"), Version::Two), 0);
    }

    /// Where this test may make groups.
    #[test]
    fn a_group_is_made_limited_and_removed() {
        let Some(groups) = Groups::find(None) else {
            return println!("skipped: no memory controller can be had here");
        };
        let group = groups.make(u32::MAX, 64 << 20).unwrap();
        let directory = group.directory().to_owned();
        let limit = || fs::read_to_string(directory.join(groups.version.limit())).unwrap();
        assert_eq!(limit().trim(), (64 << 20).to_string());
        group.set_limit(32 << 20).unwrap();
        assert_eq!(limit().trim(), (32 << 20).to_string());
        assert_eq!(group.oom_kills(), 0);
        drop(group);
        assert!(!directory.exists());
    }
}
