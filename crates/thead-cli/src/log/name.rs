//! What the files of a service are called, and which of them there are.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::Time;

/// Where the log of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// The directory, which may have the logs of many.
    pub(super) dir: PathBuf,
    /// The service.
    pub(super) name: String,
}

/// A file that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aside {
    /// When. Nothing in it came later, unless the clock was set back.
    pub(super) time: Time,
    /// It ends in `.gz`.
    pub(super) compressed: bool,
    pub(super) path: PathBuf,
}

/// Before the ending of a file that is being compressed.
pub(super) const PART: &str = ".part";

/// The length of a time in a name.
const TIME: usize = "20261123T205201.123Z".len();
const LIVE: &str = ".log";
const COMPRESSED: &str = ".log.gz";

impl Log {
    /// # Errors
    /// The name is none that a service can have: it could lead out of the directory, or to the files of another service.
    pub(crate) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(plain) || name.len() > 64
        {
            let message =
                format!("{name:?} is no name of a service: letters, digits, '.', '_' and '-', at most 64 of them");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The log of a service among those of others: in the directory itself, or in one of the service's own in it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn find(dir: &Path, name: &str) -> io::Result<Self> {
        let log = Self::new(dir, name)?;
        let own = dir.join(name);
        Ok(if own.is_dir() { Self { dir: own, ..log } } else { log })
    }

    pub(super) fn live_name(&self) -> String {
        format!("{}{LIVE}", self.name)
    }

    pub(super) fn live(&self) -> PathBuf {
        self.dir.join(self.live_name())
    }

    /// What the live file is called once it is put aside. Sorts by time.
    pub(super) fn aside_name(&self, time: Time) -> String {
        let time = time.timestamp().strftime("%Y%m%dT%H%M%S.%3fZ");
        format!("{}@{time}{LIVE}", self.name)
    }

    /// The time in the name of a file of this service that was put aside, and whether it is compressed.
    pub(super) fn time_of(&self, file: &str) -> Option<(Time, bool)> {
        let rest = file.strip_prefix(&*self.name)?.strip_prefix('@')?;
        let (time, compressed) = match rest.strip_suffix(COMPRESSED) {
            Some(time) => (time, true),
            None => (rest.strip_suffix(LIVE)?, false),
        };
        // No other spelling of it, so that a time has one name.
        let time = time.as_bytes();
        (time.len() == TIME && time.ends_with(b"Z"))
            .then(|| Time::parse(time))?
            .map(|time| (time, compressed))
    }

    /// The files that were put aside, oldest first. Where a file is there twice, as it is and compressed, both are.
    ///
    /// What a directory says of names that come and go while it is read is undefined (POSIX: readdir): a file that was put
    /// aside meanwhile may be missing though a later one is not, and one that was compressed meanwhile may be seen under
    /// neither name. So it is read until nothing new has come since the last time, and both times count.
    pub(super) fn asides(&self) -> io::Result<Vec<Aside>> {
        let last = |asides: &[Aside]| asides.iter().map(|aside| aside.time).max();
        let mut before = self.asides_seen()?;
        for _ in 0..LOOKS {
            let now = self.asides_seen()?;
            if last(&now) <= last(&before) {
                before.extend(now);
                break;
            }
            before = now;
        }
        before.sort_by_key(|aside| (aside.time, aside.compressed));
        before.dedup();
        Ok(before)
    }

    fn asides_seen(&self) -> io::Result<Vec<Aside>> {
        let aside = |entry: OsString| {
            let (time, compressed) = entry.to_str().and_then(|file| self.time_of(file))?;
            let path = self.dir.join(&entry);
            Some(Aside { time, compressed, path })
        };
        Ok(entries(&self.dir)?.into_iter().filter_map(aside).collect())
    }
}

/// How often a directory is read in which files are put aside faster than it can be read.
const LOOKS: usize = 100;

/// The services that have a log in this directory, by name.
pub(crate) fn services(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = entries(dir)?
        .iter()
        .filter_map(|entry| {
            let file = entry.to_str()?;
            if dir.join(file).join(format!("{file}{LIVE}")).exists() {
                return Log::new(dir, file).ok().map(|log| log.name);
            }
            let stem = file.strip_suffix(COMPRESSED).or_else(|| file.strip_suffix(LIVE))?;
            let name = stem.split_once('@').map_or(stem, |(name, _)| name);
            Log::new(dir, name).ok().map(|log| log.name)
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn entries(dir: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn log(dir: &Path, name: &str) -> Log {
        Log::new(dir, name).unwrap()
    }

    #[test]
    fn a_name_cannot_lead_anywhere_else() {
        for name in [
            "",
            ".",
            "..",
            "../api",
            "a/b",
            "/api",
            ".api",
            "api@x",
            "a b",
            "a\0",
            "é",
            &"a".repeat(65),
        ] {
            assert!(Log::new(Path::new("/logs"), name).is_err(), "{name:?}");
        }
        for name in ["a", "api", "Api.v2_x-1", &"a".repeat(64)] {
            assert!(Log::new(Path::new("/logs"), name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn files_put_aside_sort_by_their_time_and_belong_to_one_service() {
        let log = log(Path::new("/logs"), "api");
        let times = [Time(0), Time(1), Time(1_795_435_200_123), Time(1_795_435_200_124)];
        let names = times.map(|time| log.aside_name(time));
        assert_eq!(names[2], "api@20261123T120000.123Z.log");
        assert!(names.is_sorted());
        for (name, time) in names.iter().zip(times) {
            assert_eq!(log.time_of(name), Some((time, false)));
            assert_eq!(log.time_of(&format!("{name}.gz")), Some((time, true)));
        }
        for other in [
            "api.log",
            "api.20261123T120000.123Z.log",
            "apis@20261123T120000.123Z.log",
            "api@2026-11-23T12:00:00.123Z.log",
            "api@20261123T120000.123Z.log.gz.part",
            "api@now.log",
        ] {
            assert_eq!(log.time_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_tells_whose_logs_it_has() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "web.log",
            "api@20261123T120000.123Z.log.gz",
            "api.log",
            "notes.txt",
            ".log",
        ] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(services(dir.path()).unwrap(), ["api", "web"]);
        assert_eq!(log(dir.path(), "api").asides().unwrap().len(), 1);
        assert_eq!(services(&dir.path().join("none")).unwrap(), Vec::<String>::new());
    }
}
