//! A file that is whole on disk at every moment, or gives way to the one before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A JSON file `NAME`, its predecessor `NAME.old`, and `NAME.new` on its way.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    path: PathBuf,
    /// Of the first line: says what the file is, and guards the rest of it.
    magic: &'static str,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// Nothing before the first save.
    pub(crate) content: Option<T>,
    /// What is wrong with the newest file, if an older one was taken.
    pub(crate) damage: Option<String>,
}

impl Whole {
    pub(crate) fn new(path: PathBuf, magic: &'static str) -> Self {
        Self { path, magic }
    }

    fn with(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// The newest content that is whole.
    ///
    /// # Errors
    /// There is a file, and none that is whole.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<Found<T>> {
        match (self.read(&self.path), self.read(&self.with(".old"))) {
            (Ok(Some(content)), _) => Ok(Found {
                content: Some(content),
                damage: None,
            }),
            // A crash between the two renames, or the first start.
            (Ok(None), Ok(content)) => Ok(Found { content, damage: None }),
            (Err(error), Ok(Some(content))) => Ok(Found {
                content: Some(content),
                damage: Some(error.to_string()),
            }),
            (Err(error), _) | (Ok(None), Err(error)) => Err(error),
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> io::Result<Option<T>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |what: String| {
            let text = format!("{} is damaged: {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let body = self
            .checked(&bytes)
            .ok_or_else(|| damaged("it is cut off, or was changed by hand".into()))?;
        serde_json::from_slice(body)
            .map(Some)
            .map_err(|error| damaged(error.to_string()))
    }

    /// Puts new content in place of the old. At every moment one of them is whole on disk.
    ///
    /// # Errors
    /// Of the file system; the old content is in force then.
    pub(crate) fn save(&self, content: &(impl Serialize + ?Sized)) -> io::Result<()> {
        let body = serde_json::to_vec_pretty(content)?;
        let new = self.with(".new");
        let mut file = private().write(true).create(true).truncate(true).open(&new)?;
        let head = format!("{} {} {:016x}\n", self.magic, body.len(), hash(&body));
        file.write_all(head.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        // One that is damaged must not take the place of the good one before it.
        if fs::read(&self.path).is_ok_and(|bytes| self.checked(&bytes).is_some()) {
            fs::rename(&self.path, self.with(".old"))?;
        }
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    /// What follows the first line, if that fits it.
    fn checked<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut words = head.strip_prefix(self.magic)?.split_whitespace();
        let body = &bytes[end + 1..];
        let length = words.next()?.parse::<usize>().ok()?;
        let sum = u64::from_str_radix(words.next()?, 16).ok()?;
        (length == body.len() && sum == hash(body)).then_some(body)
    }
}

/// Readable by its owner only, from its first moment on.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    options
}

/// FNV-1a: against cuts and slips of the hand, not against enemies, who cannot write here.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
