//! What this process may use: open files, processors.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one and returns the limits as they were.
///
/// Children get the original soft limit back (programs that use `select` or close every possible descriptor at start
/// suffer from a large one). Calling it again changes nothing and returns the same.
///
/// # Errors
/// What `setrlimit` says; raising to the hard limit needs no privilege.
pub fn raise_open_files() -> io::Result<Rlimit> {
    let original = *ORIGINAL.get_or_init(|| getrlimit(Resource::Nofile));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: original.maximum,
            maximum: original.maximum,
        },
    )?;
    Ok(original)
}

/// How many files this process may have open now.
pub fn open_files() -> usize {
    let now = getrlimit(Resource::Nofile).current;
    now.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The limits of open files before [`raise_open_files`] changed them; `None` when it was never called.
pub fn original_open_files() -> Option<Rlimit> {
    ORIGINAL.get().copied()
}

/// How many threads can run at once here: the affinity mask and the cgroup's processor quota, rounded down, at least 1.
///
/// The standard library reads the quota of cgroup v2 (`cpu.max`) and of v1 (`cpu.cfs_quota_us`), of this group and of
/// all above it.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
