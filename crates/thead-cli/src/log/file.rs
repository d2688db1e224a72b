//! The live file: opened so that nothing else can be in its place, appended to, put aside.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fstat, openat, renameat_with, statat};
use rustix::io::Errno;

use super::name::Log;
use super::record::{Kind, Parser, Time};

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The directory.
    #[error("open the log directory {path}: {source}")]
    Dir { path: String, source: io::Error },
    /// The file.
    #[error("open the log {path}: {source}")]
    Open { path: String, source: io::Error },
    /// Something that must not be written to.
    #[error("open the log {path}: it is {what}; remove it")]
    Foreign { path: String, what: &'static str },
    /// Its contents.
    #[error("write the log {path}: {source}")]
    Write { path: String, source: io::Error },
    /// Its name.
    #[error("put the log {path} aside: {source}")]
    Rename { path: String, source: io::Error },
}

impl FileError {
    /// There is no room on the disk, or none that this user may have.
    pub(super) fn is_full(&self) -> bool {
        let Self::Write { source, .. } = self else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The live file of a log, open.
#[derive(Debug)]
pub(super) struct LiveFile {
    log: Log,
    dir: OwnedFd,
    file: File,
    identity: (u64, u64),
    /// In bytes.
    size: u64,
    /// When its first record was written, as far as is known.
    born: Instant,
    /// When its name was last seen to be its own.
    checked: Instant,
    /// A line of somebody who was killed has no end.
    torn: bool,
}

/// How long somebody else may have moved the file away before that is noticed.
const LOOK: Duration = Duration::from_secs(1);

impl LiveFile {
    /// Opens it, and makes it and its directory where they are missing. Never waits for another process: what is a FIFO,
    /// a device, a symbolic link or has a second name is refused.
    pub(super) fn open(log: &Log) -> Result<Self, FileError> {
        let dir = open_dir(log)?;
        let path = || log.live().display().to_string();
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let fd = openat(&dir, log.live_name(), flags, Mode::from_raw_mode(0o640)).map_err(|errno| match errno {
            Errno::LOOP => FileError::Foreign {
                path: path(),
                what: "a symbolic link",
            },
            // A directory, and a FIFO or socket on some systems.
            Errno::ISDIR => FileError::Foreign {
                path: path(),
                what: "a directory",
            },
            Errno::NXIO => FileError::Foreign {
                path: path(),
                what: "no regular file",
            },
            errno => FileError::Open {
                path: path(),
                source: errno.into(),
            },
        })?;
        let open_error = |source: io::Error| FileError::Open { path: path(), source };
        let stat = fstat(&fd).map_err(|errno| open_error(errno.into()))?;
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink > 1 => Some("hard-linked to another file"),
            FileType::RegularFile => None,
            FileType::Fifo => Some("a FIFO"),
            _ => Some("no regular file"),
        };
        if let Some(what) = what {
            return Err(FileError::Foreign { path: path(), what });
        }
        let file = File::from(fd);
        let size = size_of(&stat);
        let torn = size > 0 && {
            let mut last = [0];
            file.read_exact_at(&mut last, size - 1).map_err(open_error)?;
            last != *b"\n"
        };
        let now = Instant::now();
        Ok(Self {
            log: log.clone(),
            dir,
            identity: identity(&stat),
            size,
            born: now.checked_sub(age(&file)).unwrap_or(now),
            checked: now,
            torn,
            file,
        })
    }

    /// Whether the file ends within a line, which is to be ended before anything is written.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Writes; adds to `done` what was written even if not all was.
    pub(super) fn append(&mut self, bytes: &[u8], done: &mut usize) -> Result<(), FileError> {
        while *done < bytes.len() {
            match self.file.write(&bytes[*done..]) {
                Ok(0) => return Err(self.write_error(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    *done += written;
                    self.size += written as u64;
                    self.torn = bytes[*done - 1] != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.write_error(error)),
            }
        }
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> FileError {
        FileError::Write {
            path: self.log.live().display().to_string(),
            source,
        }
    }

    /// Whether the name still leads to this file; looks at most once a second. Notices too that it was truncated.
    pub(super) fn is_in_place(&mut self) -> bool {
        if self.checked.elapsed() < LOOK {
            return true;
        }
        self.checked = Instant::now();
        let Ok(stat) = statat(&self.dir, self.log.live_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        if identity(&stat) != self.identity {
            return false;
        }
        if size_of(&stat) < self.size {
            (self.size, self.born, self.torn) = (size_of(&stat), self.checked, false);
        }
        true
    }

    /// Gives it the name that says when, later than `after`; `None` if somebody has moved it away. The live file is another
    /// from now on; this one can still be written.
    pub(super) fn put_aside(&self, after: Option<Time>) -> Result<Option<Time>, FileError> {
        let mut time = Time::now();
        if let Some(after) = after {
            time = time.max(Time(after.0 + 1));
        }
        loop {
            let name = self.log.aside_name(time);
            let rename = |flags| renameat_with(&self.dir, self.log.live_name(), &self.dir, &name, flags);
            let renamed = match rename(RenameFlags::NOREPLACE) {
                // A file system that cannot promise it; nobody else makes such names here.
                Err(Errno::INVAL) => rename(RenameFlags::empty()),
                renamed => renamed,
            };
            match renamed {
                Ok(()) => return Ok(Some(time)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST) => time = Time(time.0 + 1),
                Err(errno) => {
                    return Err(FileError::Rename {
                        path: self.log.live().display().to_string(),
                        source: errno.into(),
                    });
                }
            }
        }
    }
}

fn open_dir(log: &Log) -> Result<OwnedFd, FileError> {
    let error = |source| FileError::Dir {
        path: log.dir.display().to_string(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(&log.dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o750).create(&log.dir).map_err(error)?;
            rustix::fs::open(&log.dir, flags, Mode::empty())
        }
        opened => opened,
    }
    .map_err(|errno| error(errno.into()))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// How long ago the first record was written, by its own account.
fn age(file: &File) -> Duration {
    let mut head = [0; 256];
    let read = file.read_at(&mut head, 0).unwrap_or(0);
    let record = Parser::default().parse(head[..read].split(|byte| *byte == b'\n').next().unwrap_or_default());
    if record.kind == Kind::Unknown {
        return Duration::ZERO;
    }
    let millis = Time::now().0.saturating_sub(record.time.0);
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
