//! What a process uses, cheaply: one `pread` of a file that is kept open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};

/// A process being watched. The open file belongs to that process alone: a recycled pid cannot fool it.
#[derive(Debug)]
pub struct ProcessStat {
    file: File,
}

/// What `/proc/PID/stat` said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// One letter: R, S, D, T (stopped), Z (ended, not collected), …
    pub state: char,
    /// The parent's pid.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// The session.
    pub session: i32,
    /// Time on a processor, user and system, of all threads, in steps of a clock tick (10 ms).
    pub cpu: Duration,
    /// Resident memory, bytes. The kernel counts it roughly: tens of pages per thread may be missing.
    pub resident: u64,
}

impl ProcessStat {
    /// Opens the file of a process.
    ///
    /// # Errors
    /// `ENOENT` when there is no such process.
    pub fn open(pid: i32) -> io::Result<ProcessStat> {
        Ok(ProcessStat {
            file: File::open(format!("/proc/{pid}/stat"))?,
        })
    }

    /// Reads it anew, in about 3 µs.
    ///
    /// # Errors
    /// `ESRCH` when the process has been collected.
    pub fn sample(&self) -> io::Result<Sample> {
        let mut text = [0; 1024];
        let length = self.file.read_at(&mut text, 0)?;
        parse(&text[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Fields are counted behind the name, which is in parentheses and may hold anything, parentheses too (proc_pid_stat(5)).
fn parse(text: &[u8]) -> Option<Sample> {
    let name_end = memchr_last(text, b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let user: u64 = fields.nth(7)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let pages: u64 = fields.nth(8)?.parse().ok()?;
    let ticks = user + system;
    let per_second = clock_ticks_per_second().max(1);
    let cpu = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    Some(Sample {
        state,
        parent,
        group,
        session,
        cpu,
        resident: pages.saturating_mul(page_size() as u64),
    })
}

fn memchr_last(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().rposition(|other| *other == byte)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_shift_the_fields() {
        let text = b"42 (a) R (b) Z) S 7 8 9 0 -1 4194560 1 2 3 4 250 50 1 1 20 0 1 0 5 1000 3 184467 1 1 0\n";
        let sample = parse(text).unwrap();
        assert_eq!(
            (sample.state, sample.parent, sample.group, sample.session),
            ('S', 7, 8, 9)
        );
        assert_eq!(sample.cpu, Duration::from_secs(3));
        assert_eq!(sample.resident, 3 * page_size() as u64);
    }

    #[test]
    fn this_process_uses_memory_and_has_a_parent() {
        let sample = ProcessStat::open(std::process::id() as i32).unwrap().sample().unwrap();
        assert!(sample.resident > 100_000);
        assert_eq!(sample.parent, std::os::unix::process::parent_id() as i32);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 (x) S 1 2"), None);
    }
}
