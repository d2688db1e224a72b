//! The daemon's directories: its own, closed to everybody else.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use thead::sys::user::User;

/// Binds a socket that only its owner can open, from its first moment on.
///
/// # Errors
/// Of the file system; `EADDRINUSE` where something of the name is.
pub(crate) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // The one thread that makes files is this one.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener
}

/// Makes a directory that only its owner can enter, or takes one that is so already.
///
/// # Errors
/// It is a link, somebody else's, or open to others; of the file system.
pub(crate) fn private(dir: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    make(dir, owner, 0o700)
}

/// As [`private`], of our own, and of root others can pass through it to a directory of theirs. What is in it they must know
/// by name, and may not open.
///
/// # Errors
/// As [`private`].
pub(crate) fn passable(dir: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return private(dir, None);
    }
    make(dir, None, 0o711)?;
    // Whatever the umask is, and whoever has made it.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
}

/// Whether there is a directory that belongs to another user than the one who is to have it.
pub(crate) fn is_anothers(dir: &Path, owner: Option<&User>) -> bool {
    let uid = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
    fs::symlink_metadata(dir).is_ok_and(|found| found.uid() != uid)
}

fn make(dir: &Path, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    let (uid, gid) = owner.unwrap_or((us, rustix::process::getegid().as_raw()));
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) if uid != us => chown(dir, Some(uid), Some(gid))?,
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(dir)?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if !found.is_dir() {
        return refuse("is not a directory; remove it, or choose another place with THEAD_HOME".into());
    }
    if found.uid() != uid {
        // Root gives a service's directory to the user that it runs as now.
        if us != 0 || owner.is_none() {
            return refuse(format!(
                "belongs to uid {}, not to {uid}; remove it, or choose another place with THEAD_HOME",
                found.uid()
            ));
        }
        chown(dir, Some(uid), Some(gid))?;
    }
    if found.mode() & 0o077 & !mode != 0 {
        return refuse(format!(
            "is open to others (mode {:o}); close it: chmod 700 {}",
            found.mode() & 0o777,
            dir.display()
        ));
    }
    Ok(())
}
