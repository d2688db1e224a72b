//! A directory of the user's own, for what must be a file for a while.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `thead-UID` below `XDG_RUNTIME_DIR` or the directory for temporary files. Made if it is not there.
///
/// # Errors
/// It cannot be made, or belongs to somebody else, or others may write to it.
pub(crate) fn own() -> io::Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir());
    own_in(&base.unwrap_or_else(std::env::temp_dir))
}

pub(crate) fn own_in(base: &Path) -> io::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let dir = base.join(format!("thead-{uid}"));
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(&dir)?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
        let what = format!(
            "{} is not a directory that only user {uid} can write to; remove it",
            dir.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(dir)
}
