//! What should run, on disk: written whole at each change, and read back after any crash.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{self, Name};
use crate::whole::{Whole, private};

/// One service, as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) name: Name,
    pub(crate) config: config::Service,
    pub(crate) base: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// The group that it is in, as the configuration had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Member>,
    pub(crate) running: bool,
    pub(crate) generation: u64,
}

/// A service's place in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: Name,
    pub(crate) group: config::Group,
}

/// The file of the last state.
const CURRENT: &str = "services.json";
const MAGIC: &str = "thead-state 1";

/// The directory of the state. One daemon has it at a time.
#[derive(Debug)]
pub(crate) struct Store {
    file: Whole,
    _lock: File,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) services: Vec<Saved>,
    /// What is wrong with the newest file, if an older one was taken.
    pub(crate) damage: Option<String>,
}

impl Store {
    /// Takes the directory.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another daemon has it.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let lock = private()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            file: Whole::new(dir.join(CURRENT), MAGIC),
            _lock: lock,
        })
    }

    /// The newest state that is whole.
    ///
    /// # Errors
    /// There is a state, and none that is whole.
    pub(crate) fn load(&self) -> io::Result<Found> {
        let found = self.file.load()?;
        Ok(Found {
            services: found.content.unwrap_or_default(),
            damage: found.damage,
        })
    }

    /// Puts a new state in place of the old one. At every moment one of them is whole on disk.
    ///
    /// # Errors
    /// Of the file system; the old state is in force then.
    pub(crate) fn save(&self, services: &[Saved]) -> io::Result<()> {
        self.file.save(services)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PREVIOUS: &str = "services.json.old";
    const NEW: &str = "services.json.new";

    fn service(name: &str) -> Saved {
        Saved {
            name: name.parse().unwrap(),
            config: serde_json::from_value(serde_json::json!({ "run": "true" })).unwrap(),
            base: "/".into(),
            source: None,
            group: None,
            running: true,
            generation: 3,
        }
    }

    #[test]
    fn g27_a_damaged_state_never_takes_the_place_of_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&[service("a")]).unwrap();
        store.save(&[service("a"), service("b")]).unwrap();
        fs::write(dir.path().join(CURRENT), "thead-state 1 cut").unwrap();
        store.save(&[service("c")]).unwrap();
        assert_eq!(store.load().unwrap().services, [service("c")]);
        // Damaged once more: the one before the damage is still there.
        fs::write(dir.path().join(CURRENT), "").unwrap();
        let found = store.load().unwrap();
        assert_eq!(found.services, [service("a")]);
        assert!(found.damage.is_some());
    }

    #[test]
    fn g27_a_state_cut_at_any_byte_gives_way_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&[service("a")]).unwrap();
        store.save(&[service("a"), service("b")]).unwrap();
        let path = dir.path().join(CURRENT);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let found = store.load().unwrap();
            assert_eq!(found.services, [service("a")], "cut at {length}");
            assert!(found.damage.is_some(), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            let found = store.load().unwrap();
            // Spaces of the first line mean nothing.
            if found.damage.is_some() {
                assert_eq!(found.services, [service("a")], "changed at {at}");
            } else {
                assert_eq!(found.services.len(), 2, "changed at {at}");
            }
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(store.load().unwrap().services, [service("a"), service("b")]);
    }

    #[test]
    fn g27_a_crash_between_any_two_steps_of_saving_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap().services, []);
        store.save(&[service("a")]).unwrap();
        // As left by a crash after the first rename.
        fs::rename(dir.path().join(CURRENT), dir.path().join(PREVIOUS)).unwrap();
        assert_eq!(store.load().unwrap().services, [service("a")]);
        // As left by a crash before it.
        fs::write(dir.path().join(NEW), "half").unwrap();
        assert_eq!(store.load().unwrap().services, [service("a")]);
    }

    #[test]
    fn nobody_else_can_read_the_state_and_one_daemon_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&[service("a")]).unwrap();
        let mode = fs::metadata(dir.path().join(CURRENT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Store::open(dir.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    }
}
