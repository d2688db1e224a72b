//! The lines of one file, as it is or compressed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use super::super::name::Aside;
use super::super::record::{Parser, Record};

/// A file of a log, read from its start.
#[derive(Debug)]
pub(super) struct Input {
    file: Arc<File>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Plain(At),
    Packed(Box<GzDecoder<BufReader<At>>>),
}

/// A place in a file that others may read too.
#[derive(Debug)]
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.body {
            Body::Plain(at) => at.read(buffer),
            Body::Packed(decoder) => decoder.read(buffer),
        }
    }
}

/// Opens a regular file to read it; `None` if there is none. Never follows a link and never waits: who may write into the
/// directory is not always who reads.
pub(super) fn open_plain(path: &Path) -> io::Result<Option<(File, Stat)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let error = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let fd = match open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(error(errno.into())),
    };
    let stat = fstat(&fd).map_err(|errno| error(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "no regular file")));
    }
    Ok(Some((File::from(fd), stat)))
}

/// As much of the first line as makes a file known again.
const FIRST: usize = 256;

impl Input {
    pub(super) fn plain(file: File) -> Self {
        Self::new(file.into(), false)
    }

    fn new(file: Arc<File>, compressed: bool) -> Self {
        let at = At {
            file: file.clone(),
            offset: 0,
        };
        let body = if compressed {
            Body::Packed(Box::new(GzDecoder::new(BufReader::new(at))))
        } else {
            Body::Plain(at)
        };
        Self { file, body }
    }

    /// Opens a file that was put aside; `None` if it is gone.
    pub(super) fn open(aside: &Aside) -> io::Result<Option<Self>> {
        let file = open_plain(&aside.path)?;
        Ok(file.map(|(file, _)| Self::new(file.into(), aside.compressed)))
    }

    /// The file itself, if it is not compressed.
    pub(super) fn as_plain(&self) -> Option<&File> {
        matches!(self.body, Body::Plain(_)).then_some(&*self.file)
    }

    /// What the file is known by; `None` while it has no line.
    pub(super) fn identify(&self) -> io::Result<Option<u64>> {
        let mut first = Vec::with_capacity(FIRST);
        Self::new(self.file.clone(), self.as_plain().is_none())
            .take(FIRST as u64)
            .read_to_end(&mut first)?;
        Ok(match memchr::memchr(b'\n', &first) {
            Some(end) => Some(hash(&first[..end])),
            None if first.len() == FIRST => Some(hash(&first)),
            None => None,
        })
    }

    fn skip(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.body {
            Body::Plain(at) => at.offset = offset,
            Body::Packed(decoder) => {
                io::copy(&mut decoder.take(offset), &mut io::sink())?;
            }
        }
        Ok(())
    }
}

/// FNV-1a: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The longest line that is taken as one, in bytes; our own are shorter by half.
pub(super) const LONGEST: usize = 128 << 10;
const READ: usize = 64 << 10;

/// The records of one file, forwards.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) input: Input,
    parser: Parser,
    buffer: Vec<u8>,
    /// What was given out of the buffer.
    start: usize,
    /// No newline stands between `start` and this.
    searched: usize,
    /// Of `start` in the file.
    offset: u64,
}

impl Lines {
    /// From this place on.
    pub(super) fn new(mut input: Input, offset: u64) -> io::Result<Self> {
        input.skip(offset)?;
        Ok(Self {
            input,
            parser: Parser::default(),
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            offset,
        })
    }

    /// Behind the record that was given last.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Behind all that was read.
    pub(super) fn read_to(&self) -> u64 {
        self.offset + (self.buffer.len() - self.start) as u64
    }

    /// The next record, whose line has an end; `None` if there is none now. Reads no further than `end`.
    pub(super) fn next(&mut self, end: u64) -> io::Result<Option<Record<'_>>> {
        loop {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                return Ok(Some(self.give(self.searched + found, 1)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() - self.start >= LONGEST {
                return Ok(Some(self.give(self.start + LONGEST, 0)));
            }
            self.buffer.drain(..self.start);
            (self.start, self.searched) = (0, self.buffer.len());
            let room = (end.saturating_sub(self.read_to())).min(READ as u64);
            let filled = self.buffer.len();
            self.buffer.resize(filled + usize::try_from(room).unwrap_or(READ), 0);
            let read = self.input.read(&mut self.buffer[filled..]);
            self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Ok(None);
            }
        }
    }

    /// The line that has no end, where nothing comes any more.
    pub(super) fn rest(&mut self) -> Option<Record<'_>> {
        let rest = self.buffer.len();
        (self.start < rest).then(|| self.give(rest, 0))
    }

    fn give(&mut self, end: usize, newline: usize) -> Record<'_> {
        let start = std::mem::replace(&mut self.start, end + newline);
        self.searched = self.start;
        self.offset += (self.start - start) as u64;
        self.parser.parse(&self.buffer[start..end])
    }
}
