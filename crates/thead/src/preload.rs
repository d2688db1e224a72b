//! The file that lets unmodified Node programs leave without dropping a request.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What `node --require` loads in front of a worker's script.
pub const SOURCE: &str = include_str!("preload.cjs");

/// Puts the preload on disk, if it is not there yet, and returns its path.
///
/// It lies in a directory of the user's, `thead-UID` below `XDG_RUNTIME_DIR` or the directory for temporary files, under
/// a name that changes with its contents; processes of several versions do not disturb each other. It stays there.
///
/// # Errors
/// The directory cannot be made, or belongs to somebody else, or others may write to it.
pub fn install() -> io::Result<PathBuf> {
    install_script("preload", SOURCE)
}

/// As [`install`], for a script of the caller's.
///
/// # Errors
/// As [`install`].
pub fn install_script(name: &str, source: &str) -> io::Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir());
    install_in(&base.unwrap_or_else(std::env::temp_dir), name, source)
}

fn install_in(base: &Path, name: &str, source: &str) -> io::Result<PathBuf> {
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
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let path = dir.join(format!("{name}-{:016x}.cjs", hasher.finish()));
    if !is_whole(&path, source) {
        let new = dir.join(format!(".{name}-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(source.as_bytes())?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}

fn is_whole(path: &Path, source: &str) -> bool {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .is_ok()
        && text == source
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_made_once_mended_when_cut_and_refused_where_others_may_write() {
        let base = tempfile::tempdir().unwrap();
        let path = install_in(base.path(), "preload", SOURCE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), SOURCE);
        let made = fs::metadata(&path).unwrap().ino();
        assert_eq!(
            fs::metadata(install_in(base.path(), "preload", SOURCE).unwrap())
                .unwrap()
                .ino(),
            made
        );
        fs::write(&path, "cut").unwrap();
        install_in(base.path(), "preload", SOURCE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), SOURCE);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            install_in(base.path(), "preload", SOURCE).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }
}
