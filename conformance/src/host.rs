//! A `thead run`, started and watched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::census::{Census, MARK, PATIENCE, Process, eventually};
use crate::runtime::{Runtime, programs, root};

/// A `thead run` to be started. It reports in JSON, drains fast, and has no lame-duck time unless told otherwise.
#[derive(Debug)]
pub struct Run {
    launcher: Vec<String>,
    options: BTreeMap<String, Option<String>>,
    env: Vec<String>,
    words: Vec<String>,
    dir: TempDir,
    json: bool,
    unread: bool,
}

impl Run {
    /// Whatever words come after `thead run`, in an empty directory.
    pub fn words<W: ToString>(words: impl IntoIterator<Item = W>) -> Self {
        let run = Self {
            launcher: Vec::new(),
            options: BTreeMap::new(),
            env: Vec::new(),
            words: words.into_iter().map(|word| word.to_string()).collect(),
            dir: tempfile::Builder::new().prefix("thead-").tempdir().unwrap(),
            json: true,
            unread: false,
        };
        run.option("--lame-duck", "0")
            .option("--drain", "10s")
            .option("--stop-timeout", "5s")
    }

    /// A program of `conformance/programs`, on two workers and a port that the system chooses.
    pub fn program(runtime: Runtime, program: &str) -> Self {
        Self::words([programs().join(program).display()]).on(runtime)
    }

    /// As [`program`](Self::program), with the program's text (CommonJS).
    pub fn script(runtime: Runtime, text: &str) -> Self {
        let run = Self::words(["./script.cjs"]).on(runtime);
        run.file("script.cjs", text)
    }

    fn on(self, runtime: Runtime) -> Self {
        let path = runtime.path().display().to_string();
        self.option("--runtime", path)
            .workers(2)
            .env("PORT", 0)
            .env("HOST", "127.0.0.1")
    }

    /// How many workers.
    #[must_use]
    pub fn workers(self, count: usize) -> Self {
        self.option("--instances", count)
    }

    /// An option of `thead run` with its value; the last of a name counts.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.options.insert(name.to_owned(), Some(value.to_string()));
        self
    }

    /// An option without a value.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.options.insert(name.to_owned(), None);
        self
    }

    /// A variable of the workers.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push(format!("{name}={}", value.to_string()));
        self
    }

    /// A file in the directory where it runs.
    #[must_use]
    pub fn file(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// The directory where it runs, which ends with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// For people instead of JSON.
    #[must_use]
    pub fn human(mut self) -> Self {
        self.json = false;
        self
    }

    /// Nobody reads its standard output.
    #[must_use]
    pub fn unread(mut self) -> Self {
        self.unread = true;
        self
    }

    /// Another program runs it, such as `unshare`.
    #[must_use]
    pub fn under<W: ToString>(mut self, launcher: impl IntoIterator<Item = W>) -> Self {
        self.launcher = launcher.into_iter().map(|word| word.to_string()).collect();
        self
    }

    /// Starts it.
    pub fn start(self) -> Thead {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // A pid comes again, and what another run left behind may still be there.
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let mark = format!(
            "{}-{since}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let thead = thead_binary().display().to_string();
        let mut words = self.launcher.clone();
        words.extend([thead, "run".into()]);
        if self.json {
            words.push("--json".into());
        }
        for (name, value) in &self.options {
            words.push(name.clone());
            words.extend(value.clone());
        }
        for variable in &self.env {
            words.extend(["--env".into(), variable.clone()]);
        }
        words.extend(self.words.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.dir.path());
        command.env(MARK, &mark).env_remove("NODE_CLUSTER_SCHED_POLICY");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: two system calls, which allocate nothing.
        unsafe {
            command.pre_exec(|| {
                // All that it starts belongs to one session, by which also a zombie is known.
                rustix::process::setsid()?;
                // A test that is killed takes its thead along; the workers see the end of their channels.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let census = Census::new(mark, child.id(), self.dir.path());
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut readers = vec![keep(child.stderr.take().unwrap(), stderr.clone())];
        let (says, heard) = channel();
        let human = Arc::new(Mutex::new(String::new()));
        if !self.unread {
            let stdout = child.stdout.take().unwrap();
            readers.push(if self.json {
                std::thread::spawn(move || {
                    for line in BufReader::new(stdout).split(b'\n') {
                        let line = line.unwrap();
                        let said = serde_json::from_slice(&line)
                            .map_err(|error| format!("{error}: {:?}", String::from_utf8_lossy(&line)));
                        if says.send(said).is_err() {
                            return;
                        }
                    }
                })
            } else {
                keep(stdout, human.clone())
            });
        }
        Thead {
            child,
            census,
            dir: self.dir,
            heard,
            said: Vec::new(),
            unclaimed: BTreeMap::new(),
            human,
            stderr,
            readers,
        }
    }

    /// Starts it and waits for its end.
    pub fn end(self) -> End {
        self.start().wait()
    }
}

/// Collects what is written to a pipe.
fn keep(mut pipe: impl Read + Send + 'static, text: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            text.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    })
}

/// The program under test.
///
/// # Panics
/// When it is not there or older than its sources.
pub fn thead_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("THEAD_BIN") {
        return path.into();
    }
    // …/target/debug/deps/test-1234 → …/target/debug/thead
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("thead");
    let built = path.metadata().and_then(|metadata| metadata.modified());
    let built = built.unwrap_or_else(|error| panic!("{}: {error}; run `cargo build` first", path.display()));
    let crates = root().parent().unwrap().join("crates");
    for sources in ["thead-cli/src", "thead/src", "thead-core/src", "thead-wire/src"] {
        let (changed, file) = newest(&crates.join(sources));
        assert!(
            changed <= built,
            "thead is older than {}: run `cargo build` first",
            file.display()
        );
    }
    path
}

fn newest(dir: &Path) -> (SystemTime, PathBuf) {
    let mut newest = (SystemTime::UNIX_EPOCH, PathBuf::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        newest = newest.max(if metadata.is_dir() {
            crate::host::newest(&entry.path())
        } else {
            (metadata.modified().unwrap(), entry.path())
        });
    }
    newest
}

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Said {
    /// What it says.
    pub json: Value,
}

impl Said {
    /// Its name.
    pub fn event(&self) -> &str {
        self.json["event"].as_str().unwrap_or_default()
    }

    /// A field that is a number.
    ///
    /// # Panics
    /// When there is no such field.
    pub fn number(&self, field: &str) -> u64 {
        self.json[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {field:?} in {}", self.json))
    }

    /// A field that is a text; empty if there is none.
    pub fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }
}

/// A running `thead run`. Dropping it kills everything that belongs to it.
#[derive(Debug)]
pub struct Thead {
    child: Child,
    census: Census,
    dir: TempDir,
    heard: Receiver<Result<Value, String>>,
    said: Vec<Said>,
    /// What no wait has returned yet, by its name.
    unclaimed: BTreeMap<String, VecDeque<usize>>,
    human: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Thead {
    /// The process: of `thead`, or of what it was started [`under`](Run::under).
    pub fn process(&self) -> Process {
        Process::read(self.child.id()).unwrap()
    }

    /// Where it runs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Who belongs to it.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// The next event of this name that `wanted` accepts and that was not returned before, said already or still to come.
    ///
    /// # Panics
    /// When it is not said within [`PATIENCE`], or thead ends without it; with all that was said.
    pub fn wait_for(&mut self, event: &str, wanted: impl Fn(&Said) -> bool) -> Said {
        let deadline = Instant::now() + PATIENCE;
        let mut looked_at = 0;
        loop {
            let unclaimed = self.unclaimed.entry(event.to_owned()).or_default();
            while let Some(at) = unclaimed.get(looked_at) {
                if wanted(&self.said[*at]) {
                    return unclaimed.remove(looked_at).map(|at| self.said[at].clone()).unwrap();
                }
                looked_at += 1;
            }
            match self
                .heard
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(said) => self.hear(said),
                Err(RecvTimeoutError::Timeout) => panic!("no {event:?} within {PATIENCE:?}{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => panic!("thead ended without {event:?}{}", self.story()),
            }
        }
    }

    /// Waits until it ends by itself, with nothing left behind.
    pub fn wait(mut self) -> End {
        self.await_end()
    }

    /// As [`wait_for`](Self::wait_for), any of this name.
    pub fn next(&mut self, event: &str) -> Said {
        self.wait_for(event, |_| true)
    }

    /// Waits until that many workers are ready; returns the port that the first of them said to listen on.
    pub fn ready(&mut self, workers: usize) -> u16 {
        let mut port = 0;
        for _ in 0..workers {
            let worker = self.next("ready").number("worker");
            if port == 0 {
                let mine = self
                    .said
                    .iter()
                    .find(|said| said.event() == "listening" && said.number("worker") == worker);
                port = mine.and_then(|said| said.json["port"].as_u64()).unwrap_or(0);
            }
        }
        u16::try_from(port).unwrap_or(0)
    }

    /// All that was said so far, in order.
    pub fn said(&mut self) -> &[Said] {
        while let Ok(said) = self.heard.try_recv() {
            self.hear(said);
        }
        &self.said
    }

    /// All events of this name so far.
    pub fn all(&mut self, event: &str) -> Vec<Said> {
        self.said()
            .iter()
            .filter(|said| said.event() == event)
            .cloned()
            .collect()
    }

    /// The process of a worker that was spawned.
    pub fn pid_of(&mut self, worker: u64) -> u32 {
        let spawned = self.all("spawned");
        let it = spawned.iter().find(|said| said.number("worker") == worker).unwrap();
        u32::try_from(it.number("pid")).unwrap()
    }

    /// What it printed so far for people; see [`Run::human`].
    pub fn printed(&self) -> String {
        self.human.lock().unwrap().clone()
    }

    /// The pipe of its standard output, which nobody read; see [`Run::unread`].
    ///
    /// # Panics
    /// When it was taken before or is read.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Sends a signal to thead.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and all that belongs to a good end: exit code 0, nothing left behind.
    pub fn stop(mut self) -> End {
        self.signal(Signal::TERM);
        let end = self.await_end();
        assert_eq!(end.code, Some(0), "after SIGTERM{}", self.story());
        end
    }

    /// As [`stop`](Self::stop), when all workers are ready; then each of them ends with exit code 0.
    pub fn stop_cleanly(mut self) -> End {
        loop {
            let named = |thead: &mut Self, event| -> BTreeSet<u64> {
                thead.all(event).iter().map(|said| said.number("worker")).collect()
            };
            let (spawned, ready) = (named(&mut self, "spawned"), named(&mut self, "ready"));
            let gone = named(&mut self, "exited");
            let Some(worker) = spawned
                .difference(&ready)
                .find(|worker| !gone.contains(worker))
                .copied()
            else {
                break;
            };
            self.wait_for("ready", |said| said.number("worker") == worker);
        }
        let end = self.stop();
        for gone in end.all("exited").iter().filter(|gone| gone.json["expected"] == true) {
            assert_eq!(gone.json["code"], 0, "{}", gone.json);
        }
        end
    }

    fn await_end(&mut self) -> End {
        let status = eventually("the end of thead", || self.child.try_wait().unwrap());
        let late = Instant::now() + Duration::from_secs(5);
        for reader in std::mem::take(&mut self.readers) {
            // A process that was left behind would hold the pipe; the census says which.
            while !reader.is_finished() && Instant::now() < late {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.said();
        self.census.nothing_is_left();
        End::new(status, self)
    }

    fn hear(&mut self, said: Result<Value, String>) {
        match said {
            Ok(json) => {
                let said = Said { json };
                self.unclaimed
                    .entry(said.event().to_owned())
                    .or_default()
                    .push_back(self.said.len());
                self.said.push(said);
            }
            Err(torn) => panic!("a line of the report is no JSON: {torn}"),
        }
    }

    /// All that happened, for the message of a failed test.
    fn story(&self) -> String {
        let mut story = String::from("\n");
        let shown = self.said.len().saturating_sub(200);
        for said in &self.said[shown..] {
            let _ = writeln!(story, "  {}", said.json);
        }
        let _ = write!(story, "stderr: {}", self.stderr());
        story
    }
}

impl Drop for Thead {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.census.kill();
    }
}

/// How a `thead run` ended.
#[derive(Debug)]
pub struct End {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All events.
    pub said: Vec<Said>,
    /// What it printed, if that was for people.
    pub printed: String,
    /// Its standard error.
    pub stderr: String,
}

impl End {
    fn new(status: ExitStatus, thead: &mut Thead) -> Self {
        Self {
            code: status.code(),
            signal: status.signal(),
            said: thead.said().to_vec(),
            printed: thead.printed(),
            stderr: thead.stderr(),
        }
    }

    /// All events of this name.
    pub fn all(&self, event: &str) -> Vec<&Said> {
        self.said.iter().filter(|said| said.event() == event).collect()
    }

    /// The only event of this name.
    ///
    /// # Panics
    /// When there is none or another.
    pub fn only(&self, event: &str) -> &Said {
        let all = self.all(event);
        assert_eq!(all.len(), 1, "one {event:?} was expected: {self:#?}");
        all[0]
    }
}
