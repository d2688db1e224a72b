//! What the tests share: a census around each, children that report, and waiting with a deadline.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thead::sys::pidfd::{self, ExitStatus};
use thead::sys::spawn::{FdSource, SpawnSpec, Spawned, reserve, spawn};
use thead::sys::{helper, limit};

/// Long enough for a slow machine, short enough to see that a test hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The soft limit of open files that this process pretends to have been started with.
pub(crate) const ORIGINAL_FILES: u64 = 777;

static LIMITS: OnceLock<()> = OnceLock::new();
static ALONE: Mutex<()> = Mutex::new(());

/// Taken first in each test, so that it comes to its end last: nothing may be left behind, no descriptor, no child.
/// Tests of one process take turns for it.
pub(crate) struct Census {
    descriptors: BTreeMap<RawFd, String>,
    children: Vec<i32>,
    _turn: MutexGuard<'static, ()>,
}

impl Census {
    pub(crate) fn take() -> Census {
        let turn = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        reserve(16);
        LIMITS.get_or_init(|| {
            let hard = getrlimit(Resource::Nofile).maximum;
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(ORIGINAL_FILES),
                    maximum: hard,
                },
            )
            .unwrap();
            limit::raise_open_files().unwrap();
        });
        Census {
            descriptors: descriptors(),
            children: children(),
            _turn: turn,
        }
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for child in children() {
                let _ = pidfd::open(child).and_then(|child| pidfd::send_signal(child, libc::SIGKILL));
            }
            return;
        }
        assert_eq!(descriptors(), self.descriptors, "descriptors are left behind");
        assert_eq!(children(), self.children, "children are left behind");
    }
}

pub(crate) fn descriptors() -> BTreeMap<RawFd, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        found.insert(number, target.to_string_lossy().into_owned());
    }
    // The directory that was open for the reading.
    found.retain(|_, target| !(target.starts_with("/proc/") && target.ends_with("/fd")));
    found
}

pub(crate) fn children() -> Vec<i32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let line = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.extend(line.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    children.sort_unstable();
    children
}

/// `/bin/sh -c script`, with the parent's standard error.
pub(crate) fn sh(script: impl Into<OsString>) -> SpawnSpec<'static> {
    let mut spec = SpawnSpec::new("/bin/sh");
    spec.args = vec!["-c".into(), script.into()];
    spec.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
    spec.fds = vec![(2, FdSource::Inherit)];
    spec
}

/// This test program as a child that plays one of the parts below.
pub(crate) fn part(name: &str) -> SpawnSpec<'static> {
    let mut spec = SpawnSpec::new(std::env::current_exe().unwrap());
    spec.arg0 = Some(format!("part:{name}").into());
    spec.fds = vec![(2, FdSource::Inherit)];
    spec
}

/// Plays a part instead of running tests, if we are such a child. Runs before `main`, which the test harness owns.
extern "C" fn play() {
    helper::run_if_asked();
    let Some(name) = std::env::args_os().next() else { return };
    let Some(part) = name.as_bytes().strip_prefix(b"part:") else {
        return;
    };
    match part {
        b"facts" => facts(),
        b"cores" => println!("{}", limit::cores()),
        other => panic!("no such part: {}", other.escape_ascii()),
    }
    std::process::exit(0)
}

#[used]
#[unsafe(link_section = ".init_array")]
static PLAY: extern "C" fn() = play;

/// The process group and the session of this process. They are 0 where the leader lives outside of a container, which
/// rustix's calls do not allow for.
pub(crate) fn group_and_session() -> (String, String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(2).map(String::from);
    (fields.next().unwrap(), fields.next().unwrap())
}

/// Everything a child can say about itself, one `key=value` a line.
fn facts() {
    for (number, target) in descriptors() {
        println!("fd.{number}={target}");
    }
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        let (key, value) = line.split_once(':').unwrap();
        println!("{key}={}", value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for (key, value) in std::env::vars_os() {
        println!("env.{}={}", key.display(), value.display());
    }
    println!("cwd={}", std::env::current_dir().unwrap().display());
    let (group, session) = group_and_session();
    println!("session={session}");
    println!("group={group}");
    println!("nice={}", rustix::process::getpriority_process(None).unwrap());
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    println!("files={}", files.current.unwrap());
    println!("args={:?}", std::env::args_os().collect::<Vec<_>>());
    for number in 0..3 {
        // SAFETY: open while the program runs: the runtime sees to it.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        println!("nonblocking.{number}={}", flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
}

/// Runs a child to its end; what it printed and how it ended.
pub(crate) fn output(spec: SpawnSpec<'_>) -> (String, ExitStatus, i32) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let child = {
        let mut spec: SpawnSpec<'_> = spec;
        spec.fds.push((1, FdSource::Fd(writer.as_fd())));
        spawn(&spec).unwrap()
    };
    drop(writer);
    let text = read_all(reader);
    let status = wait(&child);
    (text, status, child.pid)
}

/// The facts of a child that is started like this.
pub(crate) fn facts_of(spec: SpawnSpec<'_>) -> BTreeMap<String, String> {
    let (text, status, pid) = output(spec);
    assert_eq!(status, ExitStatus::Code(0), "{text}");
    let mut facts: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    facts.insert("pid".into(), pid.to_string());
    facts
}

pub(crate) fn read_all(from: OwnedFd) -> String {
    let mut file = std::fs::File::from(from);
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        readable(&file);
        match file.read(&mut chunk).unwrap() {
            0 => return String::from_utf8_lossy(&text).into_owned(),
            length => text.extend_from_slice(&chunk[..length]),
        }
    }
}

pub(crate) fn wait(child: &Spawned) -> ExitStatus {
    readable(&child.pidfd);
    pidfd::try_wait(&child.pidfd)
        .unwrap()
        .expect("a readable pidfd has a status")
}

pub(crate) fn kill(child: &Spawned) -> ExitStatus {
    pidfd::send_signal(&child.pidfd, libc::SIGKILL).unwrap();
    wait(child)
}

pub(crate) fn readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&DEADLINE.try_into().unwrap())).unwrap();
    assert_eq!(
        ready,
        1,
        "nothing came from descriptor {} in time",
        fd.as_fd().as_raw_fd()
    );
}

/// For what has no descriptor to wait for: asks again and again.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root may do this");
    }
    root
}
