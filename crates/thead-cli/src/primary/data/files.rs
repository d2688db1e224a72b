//! Data as files, for programs that have no channel: one for each piece, replaced at once as a whole.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;
use thead::data::Content;

use crate::whole::private;

/// Puts a content into place: a string as it is, any other value as JSON, memory as a link to the memory file, which can be
/// opened for reading by whoever runs as the user of the service.
///
/// # Errors
/// Of the file system; the file is as it was.
pub(super) fn put(dir: &Path, name: &str, content: &Content) -> io::Result<()> {
    // No piece is called so: their names begin with a letter or a digit.
    let new = dir.join(format!(".{name}"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match content {
        Content::Memory(memory) => std::os::unix::fs::symlink(memory.path(), &new)?,
        Content::Value(value) => {
            let mut file = private().write(true).create_new(true).open(&new)?;
            match serde_json::from_str(value.get())? {
                Value::String(text) => file.write_all(text.as_bytes())?,
                _ => file.write_all(value.get().as_bytes())?,
            }
        }
    }
    fs::rename(&new, dir.join(name))
}

/// Takes it away.
///
/// # Errors
/// Of the file system.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
