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
        history.tidy();
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
