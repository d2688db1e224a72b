//! A file: its text, and where in it something stands.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Format, Spot};
use super::problem::{Diagnostics, Problem};
use super::tree::{Step, Tree, Value};

/// The largest file that is read, in bytes.
pub(crate) const LARGEST: u64 = 4 << 20;

/// A file that was read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: Arc<str>,
    /// `None` for a program or a Procfile.
    pub(crate) format: Option<Format>,
}

impl Source {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Diagnostics> {
        let failed = |message: String, mend: &str| Err(Problem::of_file(path, message, mend).into());
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
            Err(error) => {
                return failed(
                    format!("cannot be read: {error}"),
                    "name another file, or give the right to read it",
                );
            }
            Ok(_) if path.is_dir() => return failed("is a directory".into(), "name a file in it"),
            Ok(length) if length as u64 > LARGEST => {
                return failed(
                    "is larger than 4 MiB".into(),
                    "a configuration is not that long: is it the right file?",
                );
            }
            Ok(_) => {}
        }
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let format = Format::of(path);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                path: path.to_owned(),
                text: text.into(),
                format,
            }),
            Err(error) => {
                let at = error.valid_up_to();
                let source = Self {
                    path: path.to_owned(),
                    text: String::from_utf8_lossy(bytes).into(),
                    format,
                };
                let message = format!("the byte {:#04x} is not UTF-8", bytes[at]);
                let mend = "save the file in UTF-8";
                Err(Problem::at(
                    &source,
                    at..at + char::REPLACEMENT_CHARACTER.len_utf8(),
                    message,
                    Some(mend.into()),
                )
                .into())
            }
        }
    }

    /// Where the end of a path stands, or as much of the path as there is. Beginning of the file if nothing of it is.
    pub(crate) fn locate(&self, tree: &Tree, path: &[Step], spot: Spot) -> Range<usize> {
        let there = (0..=path.len())
            .rev()
            .find(|length| tree.at(&path[..*length]).is_some())
            .unwrap_or(0);
        // What is nothing has no place of its own.
        let nothing = tree.at(&path[..there]).is_some_and(|tree| tree.value == Value::Null);
        let spot = if there == path.len() && !nothing {
            spot
        } else {
            Spot::Key
        };
        let path = &path[..there];
        if path.is_empty() {
            return 0..0;
        }
        let span = match (spot, tree.entry(path)) {
            (Spot::Key, Some(entry)) => entry.key_span.clone(),
            _ => tree.at(path).and_then(|tree| tree.span.clone()),
        };
        let span = span.or_else(|| match self.format {
            Some(format) => format.locate(&self.text, path, spot),
            None => super::pm2::locate(&self.text, tree, path),
        });
        match span {
            Some(span) if self.text.get(span.clone()).is_some() => span,
            _ => 0..0,
        }
    }
}
