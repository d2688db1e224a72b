//! A `thead daemon` with a home of its own, and the verbs that are said to it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::census::{Census, PASSED_MARK, eventually, kill};
use crate::host::thead_binary;
use crate::runtime::Runtime;

/// A running daemon. Dropping it kills everything that belongs to it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    census: Census,
    /// Its home, and the directory `app` in which services run.
    home: TempDir,
    mark: String,
    /// What every command and the daemon itself find in their environment.
    env: Vec<(String, String)>,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// Its standard output, of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }

    /// All that it said, of a command that failed.
    ///
    /// # Panics
    /// When it did not.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.out + &self.err
    }

    /// The last line of its standard output, as JSON.
    ///
    /// # Panics
    /// When that is none.
    pub fn json(&self) -> Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self::start()
    }
}

impl Daemon {
    /// Starts one that knows of no service; Node 22 is the `node` of its services.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with more in its environment.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let mark = format!(
            "{}-{since}-d{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let home = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
        for dir in ["app", "bin"] {
            std::fs::create_dir(home.path().join(dir)).unwrap();
        }
        let bin = home.path().join("bin");
        std::os::unix::fs::symlink(Runtime::Node22.path(), bin.join("node")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut all = vec![
            ("THEAD_HOME".to_owned(), home.path().display().to_string()),
            ("PATH".to_owned(), format!("{}:{path}", bin.display())),
            (PASSED_MARK.to_owned(), mark.clone()),
        ];
        all.extend(
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let child = spawn(&all, home.path());
        let census = Census::new(mark.clone(), child.id(), home.path());
        let daemon = Self {
            child,
            census,
            home,
            mark,
            env: all,
        };
        daemon.answers();
        daemon
    }

    /// Waits until it answers.
    fn answers(&self) {
        let socket = self.socket();
        eventually("the daemon's answer", || {
            std::os::unix::net::UnixStream::connect(&socket).ok()?;
            (self.thead(&["daemon", "status"]).code == Some(0)).then_some(())
        });
    }

    /// Its own process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("run/control.sock")
    }

    /// Where commands are said, and services run.
    pub fn app(&self) -> PathBuf {
        self.home.path().join("app")
    }

    /// Writes a file there.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.app().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Who belongs to it.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Says something to it, and waits for the answer.
    pub fn thead(&self, words: &[&str]) -> Said {
        let mut command = Command::new(thead_binary());
        command
            .args(words)
            .current_dir(self.app())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// As [`thead`](Self::thead), of a command that succeeds.
    pub fn ok(&self, words: &[&str]) -> String {
        self.thead(words).ok()
    }

    /// How a service is, as `ls --json` has it.
    ///
    /// # Panics
    /// When there is none of the name.
    pub fn service(&self, name: &str) -> Value {
        let all = self.thead(&["ls", "--json"]).json();
        let found = all.as_array().unwrap().iter().find(|service| service["name"] == name);
        found.unwrap_or_else(|| panic!("no service {name:?} in {all}")).clone()
    }

    /// Waits until a service is as wanted.
    pub fn wait_for(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{name}: {what}"), || {
            Some(self.service(name)).filter(|service| wanted(service))
        })
    }

    /// Waits until a service is in a phase.
    pub fn phase(&self, name: &str, phase: &str) -> Value {
        self.wait_for(name, phase, |service| service["phase"] == phase)
    }

    /// The processes of a service's workers, by slot.
    pub fn pids(&self, name: &str) -> Vec<u32> {
        let service = self.service(name);
        let workers = service["workers"].as_array().unwrap();
        let pids = workers.iter().filter_map(|worker| worker["pid"].as_u64());
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
    }

    /// Kills the daemon's own process, which nothing prepares it for.
    pub fn kill(&mut self) {
        kill(self.child.id(), Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Collects the daemon's own process, after all of it was killed.
    pub fn kill_rest(&mut self) {
        self.child.wait().unwrap();
    }

    /// All events that it remembers, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let said = self.ok(&["events", "--all", "--no-follow", "--json"]);
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts the next daemon in the same home.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.env, self.home.path());
        self.census.also(self.child.id());
        self.answers();
    }

    /// Ends everything, and proves that nothing is left.
    pub fn stop(mut self) {
        self.ok(&["daemon", "stop"]);
        let status = eventually("the daemon's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        self.census.nothing_is_left();
        let sockets = std::fs::read_dir(self.home.path().join("run")).unwrap();
        let sockets: Vec<_> = sockets.map(|file| file.unwrap().path()).collect();
        assert!(sockets.is_empty(), "sockets are left: {sockets:?}");
    }

    /// What marks the environment of all that belongs to it.
    pub fn mark(&self) -> &str {
        &self.mark
    }
}

fn spawn(env: &[(String, String)], home: &Path) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("stderr"))
        .unwrap();
    let mut command = Command::new(thead_binary());
    command
        .arg("daemon")
        .current_dir("/")
        .envs(env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // SAFETY: one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    command.spawn().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.census.kill();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default();
            eprintln!("the daemon said: {said}");
        }
    }
}
