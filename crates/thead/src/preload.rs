//! The file that lets unmodified Node programs leave without dropping a request.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::dir;

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
    install_in(&dir::own()?, name, source)
}

fn install_in(dir: &Path, name: &str, source: &str) -> io::Result<PathBuf> {
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn the_file_is_made_once_mended_when_cut_and_refused_where_others_may_write() {
        let base = tempfile::tempdir().unwrap();
        let install = || install_in(&dir::own_in(base.path())?, "preload", SOURCE);
        let path = install().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), SOURCE);
        let made = fs::metadata(&path).unwrap().ino();
        assert_eq!(fs::metadata(install().unwrap()).unwrap().ino(), made);
        fs::write(&path, "cut").unwrap();
        install().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), SOURCE);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(install().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
