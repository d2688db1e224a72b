//! Tells that a file or directory may have changed: when it is written, when another takes its place, and when a link on the
//! way to it leads elsewhere, as in a ConfigMap that Kubernetes has mounted.
//!
//! What is watched are directories: of the file itself and of every link that leads to it. One that is not there is waited for in
//! the deepest directory that is. Where the kernel cannot watch, because a limit is reached, files are looked at every 2 s.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::source::{Mark, signature};
use crate::wait;

/// How long nothing may happen to a file until it is read: somebody may still be writing it.
const QUIET: Duration = Duration::from_millis(100);
/// How often files are looked at that cannot be watched.
const LOOK: Duration = Duration::from_secs(2);
/// Links that are followed on the way to a file. The kernel follows 40.
const LINKS: usize = 40;

/// Watches files; see [`Watch::next`].
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    shared: Arc<Shared>,
    files: BTreeMap<String, File>,
    directories: BTreeSet<PathBuf>,
    /// The kernel does not tell of everything: look.
    looks: Option<Instant>,
    /// What is to be told to people, once.
    complaints: mpsc::UnboundedSender<String>,
    complained: bool,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    signature: Vec<Mark>,
}

/// With the thread that hears of changes.
#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    /// Entries of directories, and whose they are.
    entries: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Directories of which every entry counts.
    whole: BTreeMap<PathBuf, BTreeSet<String>>,
    /// When something happened to them last.
    touched: BTreeMap<String, Instant>,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: notify::Result<notify::Event>) {
        let mut wanted = self.wanted();
        let now = Instant::now();
        let mut names = BTreeSet::new();
        match event {
            // Reading is no change, and we read.
            Ok(event) if is_access(event.kind) => return,
            Ok(event) if event.need_rescan() => names.extend(wanted.entries.values().flatten().cloned()),
            Ok(event) => {
                for path in &event.paths {
                    let whole = [Some(path.as_path()), path.parent()].into_iter().flatten();
                    let whole = whole.filter_map(|path| wanted.whole.get(path));
                    names.extend(wanted.entries.get(path).into_iter().chain(whole).flatten().cloned());
                    // The directory itself has gone, and what was in it.
                    let below = wanted.entries.iter().filter(|(entry, _)| entry.parent() == Some(path));
                    names.extend(below.flat_map(|(_, names)| names).cloned());
                }
            }
            // Events were lost: whatever is watched may have changed.
            Err(_) => names.extend(wanted.entries.values().flatten().cloned()),
        }
        if names.is_empty() {
            return;
        }
        wanted.touched.extend(names.into_iter().map(|name| (name, now)));
        drop(wanted);
        self.wake.notify_one();
    }
}

fn is_access(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new(complaints: mpsc::UnboundedSender<String>) -> Self {
        Self {
            watcher: None,
            shared: Arc::default(),
            files: BTreeMap::new(),
            directories: BTreeSet::new(),
            looks: None,
            complaints,
            complained: false,
        }
    }

    /// Watches these files from now on, by the names under which [`next`](Self::next) tells of them.
    pub(super) fn set(&mut self, files: BTreeMap<String, PathBuf>) {
        if self.watcher.is_none() && !files.is_empty() {
            let shared = self.shared.clone();
            match notify::recommended_watcher(move |event| shared.hear(event)) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => self.look(&error),
            }
        }
        self.files.retain(|name, file| files.get(name) == Some(&file.path));
        for (name, path) in files {
            let signature = signature(&path);
            self.files.entry(name).or_insert(File { path, signature });
        }
        self.follow();
    }

    /// The next file that has changed, or may have. It is quiet by now.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(super) async fn next(&mut self) -> String {
        loop {
            if let Some(name) = self.changed() {
                return name;
            }
            let touched = self.shared.wanted().touched.values().min().map(|at| *at + QUIET);
            let due = touched.into_iter().chain(self.looks).min();
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = wait::until(due) => {}
            }
        }
    }

    fn changed(&mut self) -> Option<String> {
        let now = Instant::now();
        if self.looks.is_some_and(|at| at <= now) {
            self.looks = Some(now + LOOK);
            let names: Vec<_> = self.files.keys().cloned().collect();
            self.shared
                .wanted()
                .touched
                .extend(names.into_iter().map(|name| (name, now - QUIET)));
        }
        loop {
            let mut wanted = self.shared.wanted();
            let quiet = wanted.touched.iter().find(|(_, at)| **at + QUIET <= now);
            let name = quiet.map(|(name, _)| name.clone())?;
            wanted.touched.remove(&name);
            drop(wanted);
            let Some(file) = self.files.get_mut(&name) else {
                continue;
            };
            let signature = signature(&file.path);
            let changed = signature != file.signature;
            file.signature = signature;
            // Also a way that leads nowhere may be another one now.
            self.follow();
            if changed {
                return Some(name);
            }
        }
    }

    /// Watches what leads to the files now.
    fn follow(&mut self) {
        let mut wanted = Wanted::default();
        for (name, file) in &self.files {
            let way = way(&file.path);
            for entry in way.entries {
                wanted.entries.entry(entry).or_default().insert(name.clone());
            }
            if let Some(directory) = way.directory {
                wanted.whole.entry(directory).or_default().insert(name.clone());
            }
        }
        let parents = wanted.entries.keys().filter_map(|entry| entry.parent());
        let directories: BTreeSet<_> = parents
            .map(Path::to_owned)
            .chain(wanted.whole.keys().cloned())
            .collect();
        {
            let mut shared = self.shared.wanted();
            wanted.touched = std::mem::take(&mut shared.touched);
            *shared = wanted;
        }
        let Some(watcher) = &mut self.watcher else { return };
        let mut failed = None;
        for directory in self.directories.difference(&directories) {
            // It may be gone.
            let _ = watcher.unwatch(directory);
        }
        let mut watched = BTreeSet::new();
        for directory in directories {
            // One that was removed and made again is another: whether it is watched, only the kernel knows.
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(directory);
                }
                Err(error) => failed = Some(error),
            }
        }
        let new = watched.iter().any(|directory| !self.directories.contains(directory));
        self.directories = watched;
        match failed {
            Some(error) => self.look(&error),
            None => self.looks = None,
        }
        if new {
            // What happened before it was watched was not heard of.
            let now = Instant::now();
            let names: Vec<_> = self.files.keys().cloned().collect();
            self.shared
                .wanted()
                .touched
                .extend(names.into_iter().map(|name| (name, now)));
            self.shared.wake.notify_one();
        }
    }

    /// Files are looked at from now on.
    fn look(&mut self, error: &notify::Error) {
        self.looks.get_or_insert_with(|| Instant::now() + LOOK);
        if !std::mem::replace(&mut self.complained, true) {
            let text = format!("files are looked at every {LOOK:?}, for they cannot be watched: {error}");
            let _ = self.complaints.send(text);
        }
    }
}

/// What a path goes through.
#[derive(Debug, Default)]
struct Way {
    /// Every link, then the file itself or the first part that is not there.
    entries: BTreeSet<PathBuf>,
    /// It ends in a directory.
    directory: Option<PathBuf>,
}

fn way(path: &Path) -> Way {
    let mut way = Way::default();
    let mut at = PathBuf::from("/");
    let mut left: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(&part);
        match std::fs::symlink_metadata(&entry) {
            Ok(found) if found.is_symlink() && links < LINKS => {
                links += 1;
                let target = std::fs::read_link(&entry).unwrap_or_default();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                way.entries.insert(entry);
                left.extend(parts(&target));
            }
            Ok(found) if found.is_dir() => {
                if left.is_empty() {
                    way.directory = Some(entry.clone());
                    way.entries.insert(entry.clone());
                }
                at = entry;
            }
            // A file, or nothing: the way ends here.
            _ => {
                way.entries.insert(entry);
                break;
            }
        }
    }
    way
}

/// The parts of a path, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn hears(watch: &mut Watch) -> String {
        tokio::time::timeout(Duration::from_secs(30), watch.next())
            .await
            .unwrap()
    }

    fn watch(path: &Path) -> Watch {
        let mut watch = Watch::new(mpsc::unbounded_channel().0);
        watch.set(BTreeMap::from([("x".to_owned(), path.to_owned())]));
        watch
    }

    #[tokio::test]
    async fn writes_renames_and_links_are_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        // A temporary directory may be behind a link itself.
        let dir = dir.path().canonicalize().unwrap();
        let file = dir.join("a.json");
        let mut watch = watch(&file);
        fs::write(&file, "1").unwrap();
        assert_eq!(hears(&mut watch).await, "x");
        fs::write(&file, "22").unwrap();
        hears(&mut watch).await;
        fs::write(dir.join("new"), "333").unwrap();
        fs::rename(dir.join("new"), &file).unwrap();
        hears(&mut watch).await;
        fs::remove_file(&file).unwrap();
        hears(&mut watch).await;
        symlink("sub/a.json", &file).unwrap();
        let nothing = tokio::time::timeout(QUIET * 3, watch.next()).await;
        assert!(nothing.is_err(), "a link that leads nowhere is still no file");
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/a.json"), "4").unwrap();
        hears(&mut watch).await;
        fs::write(dir.join("sub/a.json"), "55").unwrap();
        hears(&mut watch).await;
        fs::rename(dir.join("sub"), dir.join("gone")).unwrap();
        hears(&mut watch).await;
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/a.json"), "666").unwrap();
        hears(&mut watch).await;
    }

    #[tokio::test]
    async fn the_swap_of_a_mounted_config_map_is_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let version = |number: u32| {
            let name = format!("..{number}");
            fs::create_dir(dir.join(&name)).unwrap();
            fs::write(dir.join(&name).join("a.json"), number.to_string()).unwrap();
            symlink(&name, dir.join("..new")).unwrap();
            fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
        };
        version(1);
        symlink("..data/a.json", dir.join("a.json")).unwrap();
        let mut file = watch(&dir.join("a.json"));
        let mut whole = watch(&dir);
        for number in 2..5 {
            version(number);
            fs::remove_dir_all(dir.join(format!("..{}", number - 1))).unwrap();
            hears(&mut file).await;
            hears(&mut whole).await;
        }
    }

    #[tokio::test]
    async fn what_others_do_in_the_directory_is_not_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::write(dir.join("a.json"), "1").unwrap();
        let mut watch = watch(&dir.join("a.json"));
        fs::write(dir.join("other"), "1").unwrap();
        // The same file, looked at and read.
        fs::read(dir.join("a.json")).unwrap();
        let heard = tokio::time::timeout(QUIET * 5, watch.next()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    #[tokio::test]
    async fn where_nothing_can_be_watched_files_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        let (complaints, mut complained) = mpsc::unbounded_channel();
        let mut watch = Watch::new(complaints);
        watch.look(&notify::Error::generic("no watches are left"));
        watch.files.insert(
            "x".into(),
            File {
                path: file.clone(),
                signature: signature(&file),
            },
        );
        fs::write(&file, "1").unwrap();
        assert_eq!(hears(&mut watch).await, "x");
        assert!(complained.recv().await.unwrap().ends_with("no watches are left"));
    }
}
