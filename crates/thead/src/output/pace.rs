//! How often a stream is looked at, and how large its pipe is.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Stream;

/// What follows a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next one, when the kernel says that there is something.
    Await,
    /// The next one, at once.
    Again,
    /// A [`REST`], in which the kernel is not asked either.
    Rest,
}

#[derive(Debug)]
pub(super) struct Pace {
    /// Of the last read.
    last: Option<Instant>,
    /// How many reads came within [`SOON`] of the one before.
    soon: u32,
    /// It floods, and is read at intervals; so much was read since the last one.
    flood: Option<usize>,
    /// Its pipe is large all its life.
    large: Option<Large>,
}

/// For so long a flood is not read. A large pipe takes 500 MB/s meanwhile; a line that comes alone never waits for it.
pub(super) const REST: Duration = Duration::from_millis(2);
/// Two reads within this time may be the beginning of a flood,
const SOON: Duration = Duration::from_millis(1);
/// and so many of them are, or a read of so much. A program that says a few things and is silent again is none.
const FEW: u32 = 4;
const MUCH: usize = 16 << 10;
/// A flood that brings less than this in a [`REST`] has ended: it is 1 MB/s.
const TRICKLE: usize = 2 << 10;
/// Room for a worker that floods: what an unprivileged process may ask for. Node never waits for a full pipe but keeps what
/// does not fit, all of it until its event loop turns, and writes the rest of a loop of `console.log` behind that.
pub(super) const LARGE_PIPE: usize = 1 << 20;
/// The kernel's default.
const PIPE: usize = 64 << 10;
/// How many pipes of a process are large all their lives. The others grow with a flood, which may be too late for Node. By
/// default an unprivileged user may have 64 MiB in pipes; past that its new ones hold 8 KiB.
const MOST_LARGE: usize = 8;

/// One of [`MOST_LARGE`].
#[derive(Debug)]
struct Large;

static LARGE: AtomicUsize = AtomicUsize::new(0);

impl Large {
    fn make(pipe: impl AsFd) -> Option<Self> {
        let more = |count| (count < MOST_LARGE).then_some(count + 1);
        LARGE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let large = Self;
        rustix::pipe::fcntl_setpipe_size(pipe, LARGE_PIPE).ok()?;
        Some(large)
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        LARGE.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    pub(super) fn of(stream: Stream, pipe: impl AsFd) -> Self {
        let large = (stream == Stream::Stdout).then(|| Large::make(pipe));
        Self {
            last: None,
            soon: 0,
            flood: None,
            large: large.flatten(),
        }
    }

    /// After a read of so many bytes, which were all there were or not.
    pub(super) fn after(&mut self, read: usize, is_all: bool, pipe: impl AsFd) -> Then {
        self.after_at(Instant::now(), read, is_all, pipe)
    }

    fn after_at(&mut self, now: Instant, read: usize, is_all: bool, pipe: impl AsFd) -> Then {
        let soon = self.last.replace(now).is_some_and(|last| now - last < SOON);
        match self.flood {
            None => {
                self.soon = if soon { self.soon + 1 } else { 0 };
                if self.soon < FEW && read < MUCH {
                    return Then::Await;
                }
                (self.flood, self.soon) = (Some(0), 0);
                if self.large.is_none() {
                    // Refused where the user has too many; then a worker that floods has to wait for us now and then.
                    let _ = rustix::pipe::fcntl_setpipe_size(pipe, LARGE_PIPE);
                }
            }
            Some(before) if is_all && before + read < TRICKLE => {
                self.flood = None;
                if self.large.is_none() {
                    // Refused while more than that is in it; then it stays as it is for this time.
                    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
                }
                return Then::Await;
            }
            Some(before) => self.flood = Some(if is_all { 0 } else { before + read }),
        }
        if is_all { Then::Rest } else { Then::Again }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const LINE: usize = 100;

    /// A stream whose pipe is not large from the beginning.
    fn pace() -> Pace {
        Pace {
            last: None,
            soon: 0,
            flood: None,
            large: None,
        }
    }

    #[test]
    fn a_program_that_says_a_few_things_is_heard_at_once() -> io::Result<()> {
        let (pipe, _writer) = rustix::pipe::pipe()?;
        let (mut pace, mut now) = (pace(), Instant::now());
        for _ in 0..100 {
            for _ in 0..FEW {
                assert_eq!(pace.after_at(now, LINE, true, &pipe), Then::Await);
                now += SOON / 10;
            }
            now += 2 * SOON;
        }
        Ok(())
    }

    #[test]
    fn a_flood_is_read_at_intervals_from_a_larger_pipe_until_it_ends() -> io::Result<()> {
        let (pipe, _writer) = rustix::pipe::pipe()?;
        let before = rustix::pipe::fcntl_getpipe_size(&pipe)?;
        let (mut pace, mut now) = (pace(), Instant::now());
        let mut next = |read, is_all, after| {
            now += after;
            pace.after_at(now, read, is_all, &pipe)
        };
        for _ in 0..FEW {
            assert_eq!(next(LINE, true, SOON / 10), Then::Await);
        }
        assert_eq!(next(LINE, true, SOON / 10), Then::Rest);
        assert!(rustix::pipe::fcntl_getpipe_size(&pipe)? > before);
        for _ in 0..10 {
            assert_eq!(next(MUCH, false, REST), Then::Again);
            assert_eq!(next(LINE, true, SOON / 10), Then::Rest);
        }
        assert_eq!(next(LINE, true, REST), Then::Await);
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&pipe)?, before);
        // Much at once is one too.
        assert_eq!(next(MUCH, false, REST), Then::Again);
        Ok(())
    }
}
