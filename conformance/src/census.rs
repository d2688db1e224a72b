//! Who is there, seen from outside: every descendant of a test, whatever it did to hide.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything is waited for that has to come. Long, for the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The variable that every process of a test inherits.
pub(crate) const MARK: &str = "THEAD_CONFORMANCE";
/// As [`MARK`], by a name that the daemon passes on to services.
pub(crate) const PASSED_MARK: &str = "LC_THEAD_CONFORMANCE";

/// Waits until `look` sees something.
///
/// # Panics
/// When it has not after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process of the test.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A process as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name, 15 bytes at most.
    pub name: String,
    /// `R`, `S`, `T`, `Z` …
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// Processor time that it has used, user and system.
    pub cpu: Duration,
}

impl Process {
    /// Reads one; `None` when there is none.
    pub fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        Some(Self {
            pid,
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: number(1)?,
            session: number(3)?,
            // In hundredths of a second on every Linux that we know.
            cpu: Duration::from_millis(u64::from(number(11)? + number(12)?) * 10),
        })
    }

    /// All of them.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::read).collect()
    }

    /// Whether it has ended and nobody has collected it.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    /// Which sockets it has open, by their inodes, one entry for each descriptor.
    pub fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten()
            .flatten();
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        let mut sockets: Vec<_> = targets
            .map(|target| target.display().to_string())
            .filter(|target| target.starts_with("socket:"))
            .collect();
        sockets.sort();
        sockets
    }

    fn has_mark(&self, mark: &str) -> bool {
        let wanted = [MARK, PASSED_MARK].map(|name| format!("{name}={mark}"));
        let is_wanted = |entry: &[u8]| wanted.iter().any(|wanted| entry == wanted.as_bytes());
        fs::read(format!("/proc/{}/environ", self.pid))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(is_wanted))
    }
}

/// Counts what belongs to one test: the processes that bear its mark or belong to a session it began, and the socket files
/// in its directory.
#[derive(Debug)]
pub struct Census {
    mark: String,
    sessions: Vec<u32>,
    dir: PathBuf,
}

impl Census {
    pub(crate) fn new(mark: String, session: u32, dir: &Path) -> Self {
        Self {
            mark,
            sessions: vec![session],
            dir: dir.to_owned(),
        }
    }

    /// One more session that the test began.
    pub(crate) fn also(&mut self, session: u32) {
        self.sessions.push(session);
    }

    /// Every process of the test that there is, zombies included.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = Process::all();
        all.retain(|process| self.sessions.contains(&process.session) || process.has_mark(&self.mark));
        all
    }

    /// Proves that nothing is left.
    ///
    /// # Panics
    /// When something is.
    pub fn nothing_is_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:#?}");
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let sockets: Vec<_> = files
            .filter(|file| file.file_type().is_ok_and(|kind| kind.is_socket()))
            .map(|file| file.path())
            .collect();
        assert!(sockets.is_empty(), "socket files are left: {sockets:?}");
    }

    /// Ends all of it, by pid.
    pub(crate) fn kill(&self) {
        for process in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(process.pid.cast_signed()) {
                // One that ended meanwhile cannot be killed, and need not.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
