//! Looking a program up as `execvp` does, but in the parent: the child may then execute exactly one path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

/// Where to look when the child has no PATH at all, as in glibc and musl.
const DEFAULT: &[u8] = b"/bin:/usr/bin";

/// Finds the file that `execvp(program)` would execute in a child with this PATH and this working directory.
///
/// A name with a slash is not looked up; it comes back as it is, to be read relative to the child's directory. So are
/// relative entries of PATH (the empty one means the directory itself).
///
/// # Errors
/// `ENOENT` when no directory has it; `EACCES` when one has it but not executable.
pub fn resolve(program: &OsStr, path: Option<&OsStr>, cwd: Option<&Path>) -> Result<PathBuf, Errno> {
    let name = program.as_bytes();
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    if name.contains(&b'/') {
        return Ok(PathBuf::from(program));
    }
    let mut worst = Errno::NOENT;
    for entry in path.map_or(DEFAULT, OsStrExt::as_bytes).split(|byte| *byte == b':') {
        let entry = if entry.is_empty() { b"." } else { entry };
        let candidate = Path::new(OsStr::from_bytes(entry)).join(program);
        let seen_from_here = cwd.map_or_else(|| candidate.clone(), |cwd| cwd.join(&candidate));
        match executable(&seen_from_here) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => worst = Errno::ACCESS,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT | Errno::NAMETOOLONG) => {}
            Err(other) => return Err(other),
        }
    }
    Err(worst)
}

/// Whether `execve` would take this file for one that it may execute.
///
/// # Errors
/// `EACCES`, `ENOENT`.
pub fn executable(path: &Path) -> Result<(), Errno> {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    // A directory passes the check above; execve answers EACCES for it, and execvp goes on to the next entry.
    match FileType::from_raw_mode(stat(path)?.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}
