//! What was pushed of one piece, on disk: so that numbers never go back, and that the last good content is there again after
//! any crash.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thead::control::{DataRevision, DataState, UnixMillis};
use thead::data::{Content, Memory, Revision};

use super::source::MEMORY_LIMIT;
use crate::told::millis_now;
use crate::whole::{Whole, private};

/// Revisions that are remembered.
const REMEMBERED: usize = 10;
/// What their contents may take on disk together, in bytes. Those of the revision in force, of the one before and of the one on
/// trial are kept in any case.
const KEPT: u64 = 64 << 20;
/// Numbers that a push and what follows from it may take: its own, and that of the rollback.
const NUMBERS: u64 = 2;
/// What is skipped when only an older file is left, which may have forgotten so many.
const SKIPPED: u64 = 1000;

const FILE: &str = "history.json";
const MAGIC: &str = "thead-data 1";

/// The history of one piece. All of it waits for the disk.
#[derive(Debug)]
pub(super) struct History {
    dir: PathBuf,
    file: Whole,
    book: Book,
}

/// As it is on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    /// No number above this was ever used.
    reserved: u64,
    /// Of the contents.
    next_id: u64,
    /// Oldest first.
    entries: Vec<Entry>,
    /// Kept, and not numbered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    candidate: Option<Candidate>,
    /// It was closed, and is opened only if somebody asks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
    /// The digest of the file's last content that was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    revision: u64,
    time: UnixMillis,
    from: String,
    state: DataState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    again: Option<u64>,
    kept: Kept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<u64>,
}

/// What is to be pushed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Candidate {
    from: String,
    kept: Kept,
    digest: Option<u64>,
}

/// A content on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    id: u64,
    memory: bool,
    size: u64,
}

/// What a piece begins with.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) history: History,
    pub(super) newest: Revision,
    pub(super) in_force: Option<(Revision, Content)>,
    /// Was pushed when everything ended, and is to be pushed again: its content, and what is known of it.
    pub(super) again: Option<(Content, String, Option<u64>)>,
    /// What is wrong.
    pub(super) damage: Option<String>,
}

/// Whether a piece was closed, and is there only for its numbers.
pub(super) fn is_closed(dir: &Path) -> bool {
    let found = Whole::new(dir.join(FILE), MAGIC).load::<Book>();
    found.is_ok_and(|found| found.content.is_none_or(|book| book.closed))
}

impl History {
    /// What is there of a piece, in a directory of its own.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn open(name: &str, dir: &Path) -> io::Result<Found> {
        match fs::DirBuilder::new().create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = Whole::new(dir.join(FILE), MAGIC);
        let (mut book, mut damage) = match file.load::<Book>() {
            Ok(found) => (found.content.unwrap_or_default(), found.damage),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // Nobody knows how far the numbers had come. By the clock they had not come so far.
                let book = Book {
                    reserved: millis_now() / 1000,
                    ..Book::default()
                };
                (book, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        if damage.is_some() {
            book.reserved += SKIPPED;
        }
        let mut history = Self {
            dir: dir.to_owned(),
            file,
            book,
        };
        let good = history.find(|entry| entry.state == DataState::InForce).cloned();
        let mut lost = |what: &str, error: io::Error| damage = Some(format!("the content {what} is lost: {error}"));
        let in_force = good.as_ref().and_then(|entry| match history.read(name, entry.kept) {
            Ok(content) => Some((Revision(entry.revision), content)),
            Err(error) => {
                lost("in force", error);
                None
            }
        });
        let is_lost = good.is_some() && in_force.is_none();
        // On trial, or about to be.
        let trial = history.find(|entry| entry.state == DataState::OnTrial);
        let trial = trial.map(|entry| (entry.kept, entry.from.clone(), entry.digest));
        let candidate = history.book.candidate.take();
        let candidate = candidate.map(|candidate| (candidate.kept, candidate.from, candidate.digest));
        let again = candidate
            .or(trial)
            .and_then(|(kept, from, digest)| match history.read(name, kept) {
                Ok(content) => Some((content, from, digest)),
                Err(error) => {
                    lost("that was about to be pushed", error);
                    None
                }
            });
        let book = &mut history.book;
        book.closed = false;
        if is_lost {
            // So that the file is pushed again.
            book.seen = None;
        }
        for entry in &mut book.entries {
            match entry.state {
                DataState::OnTrial => entry.state = DataState::Superseded,
                DataState::InForce if is_lost => entry.state = DataState::Replaced,
                _ => {}
            }
        }
        Ok(Found {
            newest: Revision(history.book.reserved),
            history,
            in_force,
            again,
            damage,
        })
    }

    fn find(&self, wanted: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        self.book.entries.iter().rfind(|entry| wanted(entry))
    }

    /// Keeps what is about to be pushed, and the numbers for it. `of`: it is the content of that revision.
    ///
    /// # Errors
    /// Of the file system; then it must not be pushed.
    pub(super) fn keep(
        &mut self,
        content: &Content,
        from: &str,
        digest: Option<u64>,
        of: Option<Revision>,
    ) -> io::Result<()> {
        let known = of.and_then(|of| self.find(|entry| Revision(entry.revision) == of));
        let kept = match known.map(|entry| entry.kept) {
            Some(kept) => kept,
            None => self.write(content)?,
        };
        let newest = self.book.entries.last().map_or(0, |entry| entry.revision);
        self.book.reserved = self.book.reserved.max(newest + NUMBERS);
        self.book.candidate = Some(Candidate {
            from: from.to_owned(),
            kept,
            digest,
        });
        self.file.save(&self.book)
    }

    /// The candidate has its number.
    pub(super) fn begin(&mut self, revision: Revision) {
        let Some(Candidate { from, kept, digest }) = self.book.candidate.take() else {
            return;
        };
        self.add(Entry {
            revision: revision.0,
            time: millis_now(),
            from,
            state: DataState::OnTrial,
            reason: None,
            again: None,
            kept,
            digest,
        });
    }

    /// The candidate gets none.
    ///
    /// # Errors
    /// Of the file system: it will be pushed when the service starts again.
    pub(super) fn drop_candidate(&mut self) -> io::Result<()> {
        self.book.candidate = None;
        self.tidy();
        self.file.save(&self.book)
    }

    /// The piece is no more. Its numbers are remembered, for one of the name may come again.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.book.closed = true;
        self.file.save(&self.book)
    }

    /// As [`close`](Self::close), and no content is left.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn delete(&mut self) -> io::Result<()> {
        let reserved = self.book.entries.last().map_or(0, |entry| entry.revision);
        self.book = Book {
            reserved: self.book.reserved.max(reserved),
            closed: true,
            ..Book::default()
        };
        self.file.save(&self.book)?;
        self.tidy();
        // Once more, for the one before this is kept as well.
        self.file.save(&self.book)
    }

    /// Whether the file had this content when it was in force last, or has it on trial.
    pub(super) fn has_file(&self, digest: u64) -> bool {
        let on_trial = self.find(|entry| entry.state == DataState::OnTrial);
        self.book.seen == Some(digest) || on_trial.is_some_and(|entry| entry.digest == Some(digest))
    }

    /// Whether a revision is noted; `tried`: and what became of it.
    pub(super) fn knows(&self, revision: Revision, tried: bool) -> bool {
        let entry = self.find(|entry| entry.revision == revision.0);
        entry.is_some_and(|entry| !tried || entry.state != DataState::OnTrial)
    }

    /// An older revision is in force under a new number.
    pub(super) fn again(&mut self, revision: Revision, old: Revision) {
        let Some(entry) = self.find(|entry| entry.revision == old.0).cloned() else {
            return;
        };
        self.replaced();
        self.add(Entry {
            revision: revision.0,
            time: millis_now(),
            from: format!("revision {old}"),
            state: DataState::InForce,
            reason: None,
            again: Some(old.0),
            ..entry
        });
    }

    fn add(&mut self, entry: Entry) {
        self.book.reserved = self.book.reserved.max(entry.revision);
        self.book.entries.push(entry);
    }

    fn replaced(&mut self) {
        for entry in &mut self.book.entries {
            if entry.state == DataState::InForce {
                entry.state = DataState::Replaced;
            }
        }
    }

    /// A trial is over.
    ///
    /// # Errors
    /// Of the file system: what is on disk is older.
    pub(super) fn end(&mut self, revision: Revision, state: DataState, reason: Option<String>) -> io::Result<()> {
        if state == DataState::InForce {
            self.replaced();
        }
        let entries = &mut self.book.entries;
        if let Some(entry) = entries.iter_mut().rfind(|entry| entry.revision == revision.0) {
            (entry.state, entry.reason) = (state, reason);
            if let (DataState::InForce, Some(digest)) = (state, entry.digest) {
                self.book.seen = Some(digest);
            }
        }
        self.tidy();
        self.file.save(&self.book)
    }

    /// All revisions that are remembered, newest first.
    pub(super) fn revisions(&self) -> Vec<DataRevision> {
        let all = self.book.entries.iter().rev();
        all.map(|entry| DataRevision {
            revision: entry.revision,
            time: entry.time,
            from: entry.from.clone(),
            state: entry.state,
            reason: entry.reason.clone(),
            again: entry.again,
            memory: entry.kept.memory,
            size: entry.kept.size,
            kept: self.path(entry.kept).exists(),
        })
        .collect()
    }

    /// The content of a revision, if it is kept.
    ///
    /// # Errors
    /// Why it is not there.
    pub(super) fn content(&self, name: &str, revision: Revision) -> Result<Content, String> {
        let kept = self.entry(revision)?.kept;
        self.read(name, kept)
            .map_err(|_| format!("the content of revision {revision} is not kept any more"))
    }

    /// What workers have, or are trying.
    pub(super) fn newest(&self) -> Option<Revision> {
        let current = |entry: &Entry| matches!(entry.state, DataState::OnTrial | DataState::InForce);
        self.find(current).map(|entry| Revision(entry.revision))
    }

    /// The revision that was in force before the one that is.
    pub(super) fn before(&self) -> Option<Revision> {
        let current = self.find(|entry| entry.state == DataState::InForce)?;
        let mut older = self.book.entries.iter().rev();
        let other = older.find(|entry| entry.state == DataState::Replaced && entry.kept.id != current.kept.id)?;
        Some(Revision(other.revision))
    }

    /// Where the content of a revision is.
    ///
    /// # Errors
    /// Why it is not there.
    pub(super) fn file_of(&self, revision: Revision) -> Result<PathBuf, String> {
        let entry = self.entry(revision)?;
        let path = self.path(entry.kept);
        match path.exists() {
            true => Ok(path),
            false => Err(format!("the content of revision {revision} is not kept any more")),
        }
    }

    fn entry(&self, revision: Revision) -> Result<&Entry, String> {
        self.find(|entry| entry.revision == revision.0).ok_or_else(|| {
            let known: Vec<_> = self
                .revisions()
                .iter()
                .map(|entry| entry.revision.to_string())
                .collect();
            match known.is_empty() {
                true => "it has no revision yet".into(),
                false => format!("it has no revision {revision}; remembered are {}", known.join(", ")),
            }
        })
    }

    fn path(&self, kept: Kept) -> PathBuf {
        self.dir.join(format!("{}.content", kept.id))
    }

    fn write(&mut self, content: &Content) -> io::Result<Kept> {
        self.book.next_id += 1;
        let kept = Kept {
            id: self.book.next_id,
            memory: matches!(content, Content::Memory(_)),
            size: content.len(),
        };
        let mut file = private()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(kept))?;
        match content {
            Content::Value(value) => file.write_all(value.get().as_bytes())?,
            // Not read by its descriptor, whose place in the file belongs to all who have it.
            Content::Memory(memory) => file.write_all(&memory.map()?)?,
        }
        file.sync_all()?;
        Ok(kept)
    }

    fn read(&self, name: &str, kept: Kept) -> io::Result<Content> {
        let mut file = private().read(true).open(self.path(kept))?;
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "it is cut off");
        if file.metadata()?.len() != kept.size {
            return Err(cut());
        }
        if kept.memory {
            return Ok(Content::Memory(Memory::copy(name, &mut file, MEMORY_LIMIT)?.into()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Content::Value(RawValue::from_string(text)?.into()))
    }

    /// Lets go of what is too old, and of contents that nobody can ask for.
    fn tidy(&mut self) {
        let settled = |entry: &Entry| !matches!(entry.state, DataState::InForce | DataState::OnTrial);
        while self.book.entries.len() > REMEMBERED {
            let Some(oldest) = self.book.entries.iter().position(settled) else {
                break;
            };
            self.book.entries.remove(oldest);
        }
        let before = self.before();
        let needed = |entry: &Entry| !settled(entry) || Some(Revision(entry.revision)) == before;
        let mut keep: Vec<u64> = self.book.candidate.iter().map(|candidate| candidate.kept.id).collect();
        keep.extend(
            self.book
                .entries
                .iter()
                .filter(|entry| needed(entry))
                .map(|entry| entry.kept.id),
        );
        let mut left = KEPT;
        for entry in self.book.entries.iter().rev() {
            if !keep.contains(&entry.kept.id) && entry.kept.size <= left {
                left -= entry.kept.size;
                keep.push(entry.kept.id);
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_suffix(".content")?.parse().ok());
            if id.is_some_and(|id: u64| !keep.contains(&id)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn value(number: u64) -> Content {
        Content::value(&number).unwrap()
    }

    fn open(dir: &Path) -> Found {
        History::open("x", dir).unwrap()
    }

    /// Pushes what is in force at once.
    fn push(history: &mut History, revision: u64, content: &Content) {
        history.keep(content, "a test", Some(revision), None).unwrap();
        history.begin(Revision(revision));
        history.end(Revision(revision), DataState::InForce, None).unwrap();
    }

    fn number(content: &Content) -> u64 {
        let Content::Value(value) = content else {
            panic!("{content:?}")
        };
        value.get().parse().unwrap()
    }

    #[test]
    fn what_was_in_force_is_there_again_and_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("x");
        let found = open(&dir);
        assert_eq!((found.newest, found.in_force.is_none()), (Revision(0), true));
        let mut history = found.history;
        push(&mut history, 1, &value(10));
        push(&mut history, 2, &value(20));
        // A crash during the next.
        history.keep(&value(30), "a test", Some(3), None).unwrap();
        drop(history);
        let found = open(&dir);
        assert_eq!(
            found.newest,
            Revision(4),
            "three, and the rollback that may have followed"
        );
        let (revision, content) = found.in_force.unwrap();
        assert_eq!((revision, number(&content)), (Revision(2), 20));
        let (content, from, digest) = found.again.unwrap();
        assert_eq!((number(&content), from.as_str(), digest), (30, "a test", Some(3)));
        let mut history = found.history;
        assert!(history.has_file(2) && !history.has_file(3));
        // It is refused now, and what was in force has another number.
        history.keep(&value(30), "a test", Some(3), None).unwrap();
        history.begin(Revision(5));
        assert!(history.has_file(3) && history.knows(Revision(5), false) && !history.knows(Revision(5), true));
        history.again(Revision(6), Revision(2));
        history.end(Revision(5), DataState::Refused, Some("no".into())).unwrap();
        let states: Vec<_> = history
            .revisions()
            .iter()
            .map(|about| (about.revision, about.state))
            .collect();
        let expected = [
            (6, DataState::InForce),
            (5, DataState::Refused),
            (2, DataState::Replaced),
            (1, DataState::Replaced),
        ];
        assert_eq!(states, expected);
        assert_eq!(history.before(), Some(Revision(1)), "the one before is another content");
        let found = open(&dir);
        assert_eq!(
            found.in_force.map(|(revision, content)| (revision, number(&content))),
            Some((Revision(6), 20))
        );
        assert!(found.again.is_none() && found.damage.is_none());
    }

    #[test]
    fn a_history_cut_at_any_byte_never_takes_a_number_back() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("x");
        let mut history = open(&dir).history;
        push(&mut history, 1, &value(10));
        push(&mut history, 2, &value(20));
        let (path, old) = (dir.join(FILE), dir.join("history.json.old"));
        let (whole, before) = (fs::read(&path).unwrap(), fs::read(&old).unwrap());
        for length in (0..whole.len()).step_by(7) {
            for also_old in [false, true] {
                fs::write(&path, &whole[..length]).unwrap();
                fs::write(
                    &old,
                    if also_old {
                        &before[..length.min(before.len() - 1)]
                    } else {
                        &before
                    },
                )
                .unwrap();
                let found = open(&dir);
                assert!(found.newest > Revision(2), "cut at {length}");
                assert!(found.damage.is_some());
                assert_eq!(found.in_force.is_none(), also_old, "cut at {length}");
            }
        }
    }

    #[test]
    fn what_is_too_old_or_too_large_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("x");
        let mut history = open(&dir).history;
        for number in 1..=30 {
            push(&mut history, number, &value(number));
        }
        assert_eq!(history.revisions().len(), REMEMBERED);
        assert!(history.revisions().iter().all(|about| about.kept));
        assert_eq!(number(&history.content("x", Revision(21)).unwrap()), 21);
        assert!(
            history
                .content("x", Revision(20))
                .unwrap_err()
                .starts_with("it has no revision 20; remembered are 30, 29")
        );
        let large = |byte: u8| Content::memory("x", &mut &vec![byte; 40 << 20][..], MEMORY_LIMIT).unwrap();
        for number in 31..=34 {
            push(&mut history, number, &large(1));
        }
        let kept: Vec<_> = history
            .revisions()
            .iter()
            .filter(|about| about.kept)
            .map(|about| about.revision)
            .collect();
        assert_eq!(kept[..3], [34, 33, 32], "two in any case, and one that has room");
        assert!(!kept.contains(&31) && kept.contains(&30));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), kept.len() + 2);
        assert!(
            history
                .content("x", Revision(31))
                .unwrap_err()
                .ends_with("is not kept any more")
        );
        let Content::Memory(memory) = open(&dir).in_force.unwrap().1 else {
            panic!()
        };
        assert_eq!(memory.len(), 40 << 20);
    }

    #[test]
    fn a_lost_content_is_told_and_its_file_is_pushed_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("x");
        let mut history = open(&dir).history;
        push(&mut history, 1, &value(10));
        assert!(history.has_file(1));
        fs::write(history.path(history.entry(Revision(1)).unwrap().kept), "1").unwrap();
        let found = open(&dir);
        assert!(found.in_force.is_none() && !found.history.has_file(1));
        assert!(found.damage.unwrap().contains("is lost: it is cut off"));
        assert!(found.newest >= Revision(1));
    }
}
