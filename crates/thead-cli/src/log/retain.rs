//! What becomes of files that were put aside: compressed, and deleted when there are too many.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::name::{Aside, Log, PART};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// How many files that were put aside.
    pub(super) keep: usize,
    /// In bytes, the live file among them.
    pub(super) total: u64,
    /// Compress what was put aside.
    pub(super) compress: bool,
}

/// A thread that keeps to the rules when it is woken, with what no other process needs of the processor.
#[derive(Debug)]
pub(super) struct Housekeeper(SyncSender<Rules>);

impl Housekeeper {
    /// It ends with this, or with the work that it has then.
    pub(super) fn start(log: Log) -> io::Result<Self> {
        let (wake, woken) = sync_channel::<Rules>(1);
        let work = move || {
            // For this thread, on Linux. Where it is refused, the work is done all the same.
            let _ = rustix::process::setpriority_process(None, 19);
            while let Ok(rules) = woken.recv() {
                // A full disk, a file that somebody else has removed: the next time may do better.
                let _ = tidy(&log, rules);
            }
        };
        std::thread::Builder::new().name("log-keeper".into()).spawn(work)?;
        Ok(Self(wake))
    }

    /// Has the rules applied soon; says whether it still can.
    pub(super) fn wake(&self, rules: Rules) -> bool {
        // One that is full will be told of these files by what waits there.
        !matches!(self.0.try_send(rules), Err(TrySendError::Disconnected(_)))
    }
}

/// Applies the rules once.
fn tidy(log: &Log, rules: Rules) -> io::Result<()> {
    let mut asides = log.asides()?;
    // Compressed, but killed before the other could be removed.
    let twice: Vec<_> = asides
        .windows(2)
        .filter(|pair| pair[0].time == pair[1].time && !pair[0].compressed)
        .map(|pair| pair[0].path.clone())
        .collect();
    for path in &twice {
        remove(path)?;
    }
    asides.retain(|aside| !twice.contains(&aside.path));
    let many = asides.len().saturating_sub(rules.keep);
    for aside in asides.drain(..many) {
        remove(&aside.path)?;
    }
    let size = |path: &Path| fs::symlink_metadata(path).map_or(0, |meta| meta.len());
    let mut room = rules.total.saturating_sub(size(&log.live()));
    let fits = asides.iter().rev().take_while(|aside| {
        let left = room.checked_sub(size(&aside.path));
        room = left.unwrap_or(0);
        left.is_some()
    });
    let many = asides.len() - fits.count();
    for aside in asides.drain(..many) {
        remove(&aside.path)?;
    }
    // Last, for it takes time and room.
    if rules.compress {
        for aside in asides.iter().filter(|aside| !aside.compressed) {
            compress(aside)?;
        }
    }
    Ok(())
}

/// Another process may have been first.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Bytes of a file that are read or written by one call.
const AT_ONCE: usize = 128 << 10;

/// Replaces a file by its compressed form. Killed at any point, one of the two is whole.
fn compress(aside: &Aside) -> io::Result<()> {
    let from = match File::open(&aside.path) {
        // Deleted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        from => from?,
    };
    let mut done = aside.path.clone().into_os_string();
    done.push(".gz");
    let mut part = done.clone();
    part.push(PART);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = File::from(rustix::fs::open(&part, flags, Mode::from_raw_mode(0o640))?);
    // Another process may be at it: an old primary beside its successor. One that was killed holds no lock. One that has
    // just finished has renamed what we opened.
    let ours = || -> io::Result<bool> {
        let (ours, named) = (to.metadata()?, fs::symlink_metadata(&part)?);
        Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
    };
    if flock(&to, FlockOperation::NonBlockingLockExclusive).is_err() || !ours().unwrap_or(false) {
        return Ok(());
    }
    let written = (|| {
        to.set_len(0)?;
        // `io::copy` would read a page or two at a time.
        let mut from = BufReader::with_capacity(AT_ONCE, &from);
        let mut encoder = GzEncoder::new(BufWriter::with_capacity(AT_ONCE, &to), Compression::fast());
        loop {
            let read = from.fill_buf()?;
            if read.is_empty() {
                break;
            }
            let count = read.len();
            encoder.write_all(read)?;
            from.consume(count);
        }
        encoder.finish()?.flush()?;
        to.sync_all()?;
        fs::rename(&part, &done)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    remove(&aside.path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;
    use crate::log::Time;

    const RULES: Rules = Rules {
        keep: 10,
        total: 1 << 30,
        compress: true,
    };

    struct Scene {
        dir: tempfile::TempDir,
        log: Log,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = Log::new(dir.path(), "api").unwrap();
            Self { dir, log }
        }

        fn put(&self, time: i64, text: &str) -> PathBuf {
            let path = self.dir.path().join(self.log.aside_name(Time(time)));
            fs::write(&path, text).unwrap();
            path
        }

        /// The times of what is there, and whether it is compressed.
        fn asides(&self) -> Vec<(i64, bool)> {
            let asides = self.log.asides().unwrap().into_iter();
            asides.map(|aside| (aside.time.0, aside.compressed)).collect()
        }
    }

    fn unpacked(path: &Path) -> String {
        let mut path = path.to_owned().into_os_string();
        path.push(".gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(path).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[test]
    fn what_was_put_aside_is_compressed_and_the_oldest_is_deleted() {
        let scene = Scene::new();
        let paths = [1, 2, 3].map(|time| scene.put(time, &format!("text {time}\n")));
        tidy(&scene.log, Rules { keep: 2, ..RULES }).unwrap();
        assert_eq!(scene.asides(), [(2, true), (3, true)]);
        assert_eq!(unpacked(&paths[2]), "text 3\n");
        tidy(&scene.log, Rules { keep: 0, ..RULES }).unwrap();
        assert_eq!(scene.asides(), []);
    }

    #[test]
    fn all_files_together_take_no_more_than_the_total() {
        let scene = Scene::new();
        for time in 1..=5 {
            scene.put(time, &"x".repeat(100));
        }
        fs::write(scene.log.live(), "x".repeat(50)).unwrap();
        let rules = Rules {
            total: 250,
            compress: false,
            ..RULES
        };
        tidy(&scene.log, rules).unwrap();
        assert_eq!(scene.asides(), [(4, false), (5, false)]);
    }

    #[test]
    fn what_a_killed_process_left_half_done_is_done() {
        let scene = Scene::new();
        // Killed while it compressed 1, and after it had compressed 2.
        let [one, two] = [1, 2].map(|time| scene.put(time, "text\n"));
        let with = |path: &Path, end: &str| PathBuf::from(format!("{}{end}", path.display()));
        fs::write(with(&one, ".gz.part"), "half").unwrap();
        fs::write(with(&two, ".gz"), "whole").unwrap();
        tidy(&scene.log, RULES).unwrap();
        assert_eq!(scene.asides(), [(1, true), (2, true)]);
        assert_eq!(unpacked(&one), "text\n");
        assert_eq!(fs::read_dir(scene.dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_another_process_compresses_is_left_to_it() {
        let scene = Scene::new();
        let path = scene.put(1, "text\n");
        let part = File::create(format!("{}.gz.part", path.display())).unwrap();
        flock(&part, FlockOperation::LockExclusive).unwrap();
        tidy(&scene.log, RULES).unwrap();
        assert_eq!(scene.asides(), [(1, false)]);
    }
}
