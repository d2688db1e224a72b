//! What the tests share: a census around each, the child that misbehaves, memory, and waiting with a deadline.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thead::sys::stat::ProcessStat;
use thead::sys::{pidfd, spawn};
use thead::{Child, ChildEvent, Command, ExitStatus, Serialization};

/// Long enough for a slow machine, short enough to see that a test hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

static ALONE: Mutex<()> = Mutex::new(());

/// Nothing may be left behind: no descriptor, no child, no zombie. Tests of one process take turns for it.
struct Census {
    descriptors: BTreeMap<RawFd, String>,
    children: Vec<i32>,
    _turn: MutexGuard<'static, ()>,
}

impl Census {
    fn take() -> Census {
        let turn = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        spawn::reserve(16);
        // Built with signals, as the program thead is, the first runtime opens two sockets for good.
        drop(
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        );
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
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        found.insert(number, target.to_string_lossy().into_owned());
    }
    // The directory that is being read.
    found.retain(|_, target| !target.ends_with("/fd"));
    found
}

/// Living ones and zombies.
pub(crate) fn children() -> Vec<i32> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // A thread that ends meanwhile leaves its children to another.
        let Ok(line) = fs::read_to_string(task.unwrap().path().join("children")) else {
            continue;
        };
        children.extend(line.split_ascii_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    children
}

/// Runs a test in a runtime of its own, of one thread as `thead run` has it, with a census around it.
pub(crate) fn test(body: impl AsyncFnOnce()) {
    let _census = Census::take();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(in_time("the whole test", body()));
    // Tasks that collect children end with them; what is left now belongs to grandchildren of a test.
    drop(runtime);
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// The child that does what no child should.
pub(crate) fn misbehave(what: &str) -> Command {
    Command::new(example("misbehave"))
        .arg(what)
        .channel(Serialization::Json)
}

pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p thead --examples");
    path
}

/// The most memory that this process had resident since the peak was last forgotten, in bytes.
pub(crate) fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

pub(crate) fn forget_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// What the kernel says a child does: R, S, T, Z.
pub(crate) fn state(child: &Child) -> char {
    let pid = child.id().try_into().unwrap();
    let stat = ProcessStat::open(pid).unwrap();
    stat.sample().unwrap().state
}

/// What the next event is called, and what it says, in a few words.
pub(crate) fn name(event: &ChildEvent) -> String {
    match event {
        ChildEvent::Message { message, handle } => {
            let text = String::from_utf8_lossy(message.raw()).into_owned();
            let handle = handle.as_ref().map_or("", |_| " with a handle");
            format!("message {text}{handle}")
        }
        ChildEvent::BadMessage(_) => "bad message".into(),
        ChildEvent::HandleLost(_) => "handle lost".into(),
        ChildEvent::Disconnect { fault: None, .. } => "disconnect".into(),
        ChildEvent::Disconnect { fault: Some(fault), .. } => format!("disconnect: {fault:?}"),
        ChildEvent::Exit(ExitStatus::Code(code)) => format!("exit {code}"),
        ChildEvent::Exit(ExitStatus::Signal { signal, .. }) => format!("signal {signal}"),
        ChildEvent::Close(_) => "close".into(),
        other => format!("{other:?}"),
    }
}

/// The next event but the first, which is always the same.
pub(crate) async fn next(child: &mut Child) -> Option<ChildEvent> {
    loop {
        match in_time("the next event", child.next()).await {
            Some(ChildEvent::Spawn) => {}
            event => return event,
        }
    }
}

/// All events to the end.
pub(crate) async fn history(child: &mut Child) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(event) = next(child).await {
        names.push(name(&event));
    }
    names
}

/// Events until one is called that.
pub(crate) async fn until(child: &mut Child, wanted: &str) -> ChildEvent {
    loop {
        let event = in_time(wanted, child.next())
            .await
            .unwrap_or_else(|| panic!("no {wanted} came"));
        if name(&event).starts_with(wanted) {
            return event;
        }
    }
}
