//! A control group of one's own, so that nothing that is started in it can get away.
//!
//! Only version 2, and only its grouping: no controller is needed, so a group can be had wherever its directory can be made
//! (as root, or below a group that systemd has delegated).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::pidfd;

/// A group below that of this process. Dropping it removes it, if nobody is in it.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one of this name; `None` where there is no version 2, or it may not be written to.
    ///
    /// # Errors
    /// Of the file system, other than that.
    pub fn create(name: &str) -> io::Result<Option<Cgroup>> {
        let Some(own) = own_group()? else { return Ok(None) };
        let dir = own.join(name);
        match fs::create_dir(&dir) {
            Ok(()) => Ok(Some(Cgroup { dir })),
            // Left over by one that was killed; whoever is still in it belongs here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(Cgroup { dir })),
            Err(error) => match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT | libc::EOPNOTSUPP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// One of this name that somebody else has made and left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn find(name: &str) -> io::Result<Option<Cgroup>> {
        let dir = own_group()?.map(|own| own.join(name)).filter(|dir| dir.is_dir());
        Ok(dir.map(|dir| Cgroup { dir }))
    }

    /// All beside it whose name begins so, with the rest of their names.
    ///
    /// # Errors
    /// Of the file system.
    pub fn of_prefix(prefix: &str) -> io::Result<Vec<(String, Cgroup)>> {
        let Some(own) = own_group()? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in fs::read_dir(own)? {
            let entry = entry?;
            if let Some(rest) = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)) {
                found.push((rest.to_owned(), Cgroup { dir: entry.path() }));
            }
        }
        Ok(found)
    }

    /// Its directory: for [`Command::cgroup`](crate::Command::cgroup).
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// It is somebody else's: it stays when this is dropped.
    pub fn keep(mut self) {
        self.dir.clear();
    }

    /// Who is in it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Sends SIGKILL to all that are in it, and in groups below it.
    ///
    /// Before Linux 5.14 there is no way to do that at once; who is born meanwhile is found by the next call.
    ///
    /// # Errors
    /// Of the file system.
    pub fn kill(&self) -> io::Result<()> {
        match fs::write(self.dir.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        for pid in self.processes()? {
            // One that has ended meanwhile is what is wanted.
            let _ = pidfd::open(pid).and_then(|pidfd| pidfd::send_signal(pidfd, libc::SIGKILL));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.dir.as_os_str().is_empty() {
            // Somebody is in it, or it is gone: neither can be helped here.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Where the group of this process is in the file system.
fn own_group() -> io::Result<Option<PathBuf>> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(place(&groups, &mounts))
}

/// From the two files in `/proc` (cgroups(7), proc_pid_mountinfo(5)).
pub(super) fn place(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(group).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_wherever_it_is_mounted() {
        let found = |groups, mounts| place(groups, mounts).map(|path| path.display().to_string());
        let whole = "26 22 0:23 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "30 22 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let part = "26 22 0:23 /system.slice/box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let group = "0::/system.slice/thead.service\n";
        assert_eq!(
            found(group, whole),
            Some("/sys/fs/cgroup/system.slice/thead.service".into())
        );
        let mixed = "3:cpu:/\n0::/a\n";
        assert_eq!(found(mixed, hybrid), Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(found("0::/system.slice/box/x\n", part), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(found("0::/elsewhere\n", part), None);
        assert_eq!(found("3:cpu:/\n", hybrid), None);
        assert_eq!(found(group, ""), None);
    }
}
