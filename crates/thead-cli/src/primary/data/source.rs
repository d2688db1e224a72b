//! From a file or a directory to what is pushed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thead::data::{Content, Memory, VALUE_LIMIT};

use crate::config::Form;
use crate::config::format::Format;
use crate::config::tree::{Number, Tree, Value as Node};

/// The largest memory file, in bytes.
pub(super) const MEMORY_LIMIT: u64 = 1 << 30;
/// Files of a directory that are looked at.
const ENTRIES: usize = 1000;
/// How often a file is read that changes while it is.
const TRIES: usize = 5;

/// What was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) content: Content,
    /// Tells it from any other.
    pub(super) digest: u64,
    /// What a check is shown.
    pub(super) shown: Shown,
}

/// What the check of new data is shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// The bytes as they were read, under this name.
    Bytes(String, Vec<u8>),
    /// The memory file, under this name.
    Memory(String),
    /// The directory itself.
    Dir(PathBuf),
}

/// Reads a file or directory as it is at one moment.
///
/// # Errors
/// Why it cannot be pushed: `FILE:LINE:COLUMN: what is wrong`, as far as it is known.
pub(super) fn read(name: &str, path: &Path, form: Form) -> Result<Found, String> {
    for _ in 0..TRIES {
        let before = signature(path);
        let read = read_once(name, path, form);
        if signature(path) == before {
            return read;
        }
    }
    Err(format!("{}: it changes faster than it can be read", path.display()))
}

/// What tells that a file, or one in a directory, is another or was written to.
pub(super) fn signature(path: &Path) -> Vec<Mark> {
    let mut marks = vec![Mark::of(path)];
    if path.is_dir() {
        let entries = entries(path).unwrap_or_default();
        marks.extend(entries.values().map(|path| Mark::of(path)));
        marks.extend(entries.into_keys().map(Mark::Name));
    }
    marks
}

/// A part of a [`signature`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Missing,
    Name(OsString),
    File {
        device: u64,
        inode: u64,
        size: u64,
        changed: (i64, i64),
        written: (i64, i64),
    },
}

impl Mark {
    fn of(path: &Path) -> Self {
        fs::metadata(path).map_or(Self::Missing, |file| Self::File {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
            written: (file.mtime(), file.mtime_nsec()),
        })
    }
}

fn read_once(name: &str, path: &Path, form: Form) -> Result<Found, String> {
    let wrong = |error: io::Error| format!("{}: {}", path.display(), words(&error));
    let metadata = fs::metadata(path).map_err(wrong)?;
    if metadata.is_dir() {
        return read_dir(path, form);
    }
    let file = open(path).map_err(wrong)?;
    let known = form_of(path, form);
    let text = matches!(known, Form::Auto)
        .then(|| is_text(&file))
        .transpose()
        .map_err(wrong)?;
    if known == Form::Memory || text == Some(false) {
        let memory = Memory::copy(name, &mut &file, MEMORY_LIMIT).map_err(wrong)?;
        let digest = digest_of(&memory).map_err(wrong)?;
        return Ok(Found {
            content: Content::Memory(memory.into()),
            digest,
            shown: Shown::Memory(file_name(path)),
        });
    }
    let bytes = limited(&file, VALUE_LIMIT).map_err(wrong)?;
    let value = parse(&bytes, known, path)?;
    Ok(Found {
        digest: digest(&bytes),
        content: content_of(&value)?,
        shown: Shown::Bytes(file_name(path), bytes),
    })
}

/// An object with a member for each file. What begins with a dot is left out, as Kubernetes' own files in a mounted ConfigMap
/// do; so are directories.
fn read_dir(path: &Path, form: Form) -> Result<Found, String> {
    let wrong = |path: &Path, error: io::Error| format!("{}: {}", path.display(), words(&error));
    if form == Form::Memory {
        return Err(format!("{}: a directory cannot be one memory file", path.display()));
    }
    let mut object = serde_json::Map::new();
    let (mut left, mut sum) = (VALUE_LIMIT, Digest::default());
    for (name, path) in entries(path).map_err(|error| wrong(path, error))? {
        let name = name.to_string_lossy().into_owned();
        let file = open(&path).map_err(|error| wrong(&path, error))?;
        let bytes = limited(&file, left).map_err(|error| wrong(&path, error))?;
        left -= bytes.len();
        sum.add(name.as_bytes());
        sum.add(&bytes);
        object.insert(name, parse(&bytes, form_of(&path, form), &path)?);
    }
    Ok(Found {
        digest: sum.end(),
        content: content_of(&Value::Object(object))?,
        shown: Shown::Dir(path.to_owned()),
    })
}

fn entries(dir: &Path) -> io::Result<BTreeMap<OsString, PathBuf>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && fs::metadata(entry.path()).is_ok_and(|file| file.is_file()) {
            entries.insert(entry.file_name(), entry.path());
        }
        if entries.len() > ENTRIES {
            let text = format!("a directory with more than {ENTRIES} files");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(entries)
}

/// Does not wait for what is no file.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"));
    }
    Ok(file)
}

fn limited(file: &File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let text = format!(
            "is larger than {} MiB, which is what workers take in a message; push it with as = \"memory\"",
            VALUE_LIMIT >> 20
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Whether a file of an unknown kind can be pushed as text.
fn is_text(file: &File) -> io::Result<bool> {
    if file.metadata()?.len() > VALUE_LIMIT as u64 {
        return Ok(false);
    }
    let bytes = limited(file, VALUE_LIMIT)?;
    rewind(file)?;
    Ok(std::str::from_utf8(&bytes).is_ok())
}

fn rewind(mut file: &File) -> io::Result<()> {
    io::Seek::rewind(&mut file)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
}

/// What `auto` means for a file of this name; `auto` still where that does not tell.
pub(super) fn form_of(path: &Path, form: Form) -> Form {
    if form != Form::Auto {
        return form;
    }
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "json" => Form::Json,
        "yaml" | "yml" => Form::Yaml,
        "toml" => Form::Toml,
        "json5" | "jsonc" => Form::Json5,
        _ => Form::Auto,
    }
}

/// Reads bytes that are in a form; in none, they are text.
///
/// # Errors
/// `FILE:LINE:COLUMN: what is wrong`.
pub(super) fn parse(bytes: &[u8], form: Form, path: &Path) -> Result<Value, String> {
    let shown = path.display();
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place(bytes, error.valid_up_to());
        format!("{shown}:{line}:{column}: not UTF-8")
    })?;
    // As editors on other systems begin a file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = match form {
        Form::Json => {
            return serde_json::from_str(text).map_err(|error| {
                let said = error.to_string();
                let what = said.split(" at line ").next().unwrap_or(&said);
                format!("{shown}:{}:{}: {what}", error.line(), error.column())
            });
        }
        Form::Yaml => Format::Yaml,
        Form::Toml => Format::Toml,
        Form::Json5 => Format::Json5,
        Form::Auto | Form::Text | Form::Memory => return Ok(Value::String(text.to_owned())),
    };
    let tree = format.parse(text).map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(
            || format!("{shown}: not {}", format.name()),
            |error| {
                let (line, column) = place(text.as_bytes(), error.span.start);
                format!("{shown}:{line}:{column}: {}", error.message)
            },
        )
    })?;
    value(tree).ok_or_else(|| format!("{shown}: a number that JSON cannot say (infinite, or none)"))
}

/// As JSON has it: the last of equal keys counts.
fn value(tree: Tree) -> Option<Value> {
    Some(match tree.value {
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(value),
        Node::Number(number, _) => match number {
            Number::Unsigned(number) => number.into(),
            Number::Signed(number) => number.into(),
            Number::Float(number) => serde_json::Number::from_f64(number)?.into(),
        },
        Node::Text(text) => Value::String(text),
        Node::Seq(items) => Value::Array(items.into_iter().map(value).collect::<Option<_>>()?),
        Node::Map(entries) => {
            let entries = entries.into_iter().map(|entry| Some((entry.key, value(entry.value)?)));
            Value::Object(entries.collect::<Option<_>>()?)
        }
    })
}

/// Line and column, from 1; columns in characters.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

pub(super) fn content_of(value: &Value) -> Result<Content, String> {
    let content = Content::value(value).map_err(|error| error.to_string())?;
    if content.len() > VALUE_LIMIT as u64 {
        return Err(format!(
            "the value has {} bytes as JSON, and workers take {VALUE_LIMIT} in a message; push it as memory",
            content.len()
        ));
    }
    Ok(content)
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it is not there".into(),
        io::ErrorKind::PermissionDenied => "it may not be read by the user of the service".into(),
        io::ErrorKind::FileTooLarge if error.get_ref().is_none() => {
            format!("is larger than {} MiB", MEMORY_LIMIT >> 20)
        }
        _ => error.to_string(),
    }
}

/// The digest of some bytes, the same in every version: what is kept on disk is compared with it.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.add(bytes);
    digest.end()
}

fn digest_of(memory: &Memory) -> io::Result<u64> {
    Ok(digest(&memory.map()?))
}

/// Tells that something has changed; an enemy who can write the file needs no collision.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            self.0 = (self.0 ^ word).wrapping_mul(PRIME).rotate_left(23);
        }
        let rest = words
            .remainder()
            .iter()
            .fold(1, |sum, byte| sum << 8 | u64::from(*byte));
        self.0 = (self.0 ^ rest).wrapping_mul(PRIME).rotate_left(23);
        self.0 = (self.0 ^ bytes.len() as u64).wrapping_mul(PRIME);
    }

    fn end(self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn value_of(read: &Found) -> Value {
        let Content::Value(value) = &read.content else {
            panic!("{read:?}")
        };
        serde_json::from_str(value.get()).unwrap()
    }

    #[test]
    fn files_are_read_by_their_extension() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for (name, text, expected) in [
            (
                "a.json",
                r#"{"b":1,"a":[true,null,1.5]}"#,
                json!({"b":1,"a":[true,null,1.5]}),
            ),
            (
                "a.yaml",
                "b: 1\na: [yes, ~, 1.5]\n",
                json!({"b":1,"a":["yes",null,1.5]}),
            ),
            ("a.toml", "b = 1\na = [true]\n", json!({"b":1,"a":[true]})),
            ("a.json5", "{b: 1, /* c */ a: ['x',],}", json!({"b":1,"a":["x"]})),
            ("motd", "hello\n", json!("hello\n")),
        ] {
            fs::write(path.join(name), text).unwrap();
            let read = read("x", &path.join(name), Form::Auto).unwrap();
            assert_eq!(value_of(&read), expected, "{name}");
        }
        fs::write(path.join("geo.bin"), [0xff, 0, 1]).unwrap();
        let read = read("x", &path.join("geo.bin"), Form::Auto).unwrap();
        assert!(matches!(read.content, Content::Memory(memory) if *memory.map().unwrap() == [0xff, 0, 1]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir(path.join("dir")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("pipe.json"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        for (name, form, text, expected) in [
            (
                "a.json",
                Form::Auto,
                &b"{\n \"a\": x\n}"[..],
                "a.json:2:7: expected value",
            ),
            ("a.json", Form::Auto, b"", "a.json:1:0: EOF while parsing a value"),
            ("a.yaml", Form::Auto, b"a: 1\nb: [", "a.yaml:2:4: unclosed bracket '['"),
            ("a.toml", Form::Auto, b"a = 1\nb = x\n", "a.toml:2:5: text needs quotes"),
            (
                "a.json5",
                Form::Auto,
                b"{a: }",
                "a.json5:1:5: expected a value; text needs quotes",
            ),
            (
                "a.toml",
                Form::Auto,
                b"a = inf",
                "a.toml: a number that JSON cannot say (infinite, or none)",
            ),
            ("text", Form::Text, b"a\nb\xff", "text:2:2: not UTF-8"),
        ] {
            fs::write(path.join(name), text).unwrap();
            let error = read("x", &path.join(name), form).unwrap_err();
            assert!(error.ends_with(expected), "{error} is not {expected}");
        }
        for (name, form, expected) in [
            ("none.json", Form::Auto, "none.json: it is not there"),
            ("dir", Form::Memory, "dir: a directory cannot be one memory file"),
            ("pipe.json", Form::Auto, "pipe.json: is not a file"),
        ] {
            let error = read("x", &path.join(name), form).unwrap_err();
            assert!(error.ends_with(expected), "{error} is not {expected}");
        }
        let large = File::create(path.join("large.json")).unwrap();
        large.set_len(VALUE_LIMIT as u64 + 1).unwrap();
        let error = read("x", &path.join("large.json"), Form::Auto).unwrap_err();
        assert!(error.contains("is larger than 15 MiB"), "{error}");
        large.set_len(MEMORY_LIMIT + 1).unwrap();
        let error = read("x", &path.join("large.json"), Form::Memory).unwrap_err();
        assert!(error.ends_with("is larger than 1024 MiB"), "{error}");
    }

    #[test]
    fn a_directory_is_an_object_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        // As Kubernetes mounts a ConfigMap.
        fs::create_dir_all(path.join("..1")).unwrap();
        fs::write(path.join("..1/flags.yaml"), "a: 1").unwrap();
        fs::write(path.join("..1/motd"), "hi").unwrap();
        std::os::unix::fs::symlink("..1", path.join("..data")).unwrap();
        for name in ["flags.yaml", "motd"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), path.join(name)).unwrap();
        }
        let first = read("x", path, Form::Auto).unwrap();
        assert_eq!(value_of(&first), json!({ "flags.yaml": { "a": 1 }, "motd": "hi" }));
        let before = signature(path);
        fs::create_dir(path.join("..2")).unwrap();
        fs::write(path.join("..2/flags.yaml"), "a: 2").unwrap();
        fs::write(path.join("..2/motd"), "hi").unwrap();
        std::os::unix::fs::symlink("..2", path.join("..new")).unwrap();
        fs::rename(path.join("..new"), path.join("..data")).unwrap();
        assert_ne!(signature(path), before);
        let second = read("x", path, Form::Auto).unwrap();
        assert_ne!(first.digest, second.digest);
        fs::write(path.join("bin"), b"\xff").unwrap();
        assert!(read("x", path, Form::Auto).unwrap_err().ends_with("bin:1:1: not UTF-8"));
    }

    #[test]
    fn a_digest_tells_contents_apart_and_stays_as_it_is() {
        let all = [
            &b""[..],
            b"\0",
            b"\0\0",
            b"a",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefghi",
            b"hgfedcba",
        ];
        for (index, one) in all.iter().enumerate() {
            for other in &all[..index] {
                assert_ne!(digest(one), digest(other), "{one:?} {other:?}");
            }
        }
        // What is on disk was written by an older version.
        assert_eq!(digest(b"thead"), 10_258_003_978_362_834_006);
    }
}
