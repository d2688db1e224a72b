//! The servers, all at once and each on a port of its own. Those that are not loaded use no processor.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::Failure;
use crate::host::{self, NODE};
use crate::process::{self, PATIENCE, Running};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    TheadRoundRobin,
    TheadShared,
    NodeRoundRobin,
    NodeShared,
    Pm2,
    OneProcess,
}

impl Candidate {
    pub(crate) const ALL: [Self; 6] = [
        Self::TheadRoundRobin,
        Self::NodeRoundRobin,
        Self::Pm2,
        Self::TheadShared,
        Self::NodeShared,
        Self::OneProcess,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TheadRoundRobin => "thead, round-robin",
            Self::TheadShared => "thead, shared",
            Self::NodeRoundRobin => "Node cluster, round-robin",
            Self::NodeShared => "Node cluster, shared",
            Self::Pm2 => "PM2 cluster",
            Self::OneProcess => "one Node process",
        }
    }

    /// Whether a process stands between the kernel and the workers.
    pub(crate) fn has_primary(self) -> bool {
        self != Self::OneProcess
    }

    const fn processes(self) -> usize {
        match self {
            Self::OneProcess => 1,
            _ => WORKERS,
        }
    }
}

const WORKERS: usize = 2;

/// A candidate that serves.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) candidate: Candidate,
    pub(crate) port: u16,
    /// The primary; for [`Candidate::OneProcess`] that process.
    pub(crate) pid: u32,
    // Ended in this order.
    _process: Option<Running>,
    _daemon: Option<Daemon>,
    _dir: TempDir,
}

impl Server {
    /// Starts it and waits until all its processes listen.
    pub(crate) fn start(candidate: Candidate) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let ready = dir.path().join("ready");
        fs::write(&ready, "")?;
        // Free a moment ago: what is started next takes it.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let node = host::runtime(NODE);
        let (server, cluster) = (host::script("server.js"), host::script("cluster.js"));
        let workers = WORKERS.to_string();
        let mut daemon = None;
        let mut command = match candidate {
            Candidate::TheadRoundRobin | Candidate::TheadShared => {
                let mut command = Command::new(host::thead()?);
                command.args(["run", "--instances", &workers, "--schedule"]);
                command.arg(match candidate {
                    Candidate::TheadShared => "shared",
                    _ => "round-robin",
                });
                command.arg("--runtime").arg(node).arg(server);
                command
            }
            Candidate::NodeRoundRobin | Candidate::NodeShared => {
                let mut command = Command::new(node);
                command.arg(cluster).arg(&workers);
                let shared = candidate == Candidate::NodeShared;
                command.env("NODE_CLUSTER_SCHED_POLICY", if shared { "none" } else { "rr" });
                command
            }
            Candidate::OneProcess => {
                let mut command = Command::new(node);
                command.arg(server);
                command
            }
            Candidate::Pm2 => {
                let pm2 = Daemon::in_dir(dir.path())?;
                let mut command = pm2.command();
                command
                    .arg("start")
                    .arg(server)
                    .args(["--name", "bench", "--instances", &workers]);
                daemon = Some(pm2);
                command
            }
        };
        command.env("PORT", port.to_string()).env("READY", &ready);
        let log = dir.path().join("log");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let (process, pid) = match &daemon {
            Some(daemon) => {
                if !command.status()?.success() {
                    return Err(format!("pm2 start failed:\n{}", fs::read_to_string(&log)?).into());
                }
                (None, daemon.pid()?)
            }
            None => {
                let process = Running::start(&mut command)?;
                let pid = process.pid();
                (Some(process), pid)
            }
        };
        let server = Self {
            candidate,
            port,
            pid,
            _process: process,
            _daemon: daemon,
            _dir: dir,
        };
        let listening = || fs::read_to_string(&ready).map_or(0, |text| text.lines().count());
        if process::until(PATIENCE, || listening() == candidate.processes()) {
            Ok(server)
        } else {
            let said = fs::read_to_string(&log)?;
            Err(format!("{} did not come up:\n{said}", candidate.name()).into())
        }
    }
}

/// PM2's daemon, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    home: PathBuf,
    path: OsString,
}

impl Daemon {
    /// It starts with the first command.
    pub(crate) fn in_dir(dir: &Path) -> Result<Self, Failure> {
        // It runs under the "node" of PATH.
        let bin = dir.join("bin");
        fs::create_dir(&bin)?;
        symlink(host::runtime(NODE), bin.join("node"))?;
        Ok(Self {
            home: dir.join("pm2"),
            path: path_with(bin)?,
        })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(host::runtime(NODE));
        command
            .arg(host::script("node_modules/pm2/bin/pm2"))
            .env("PM2_HOME", &self.home)
            .env("PATH", &self.path)
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        Ok(fs::read_to_string(self.home.join("pm2.pid"))?.trim().parse()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.pid().ok().and_then(process::pid_of);
        let _ = self.command().arg("kill").status();
        // Its own parent has ended, so it is ours to collect.
        if let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) {
            end_unless_gone(pid);
        }
    }
}

fn end_unless_gone(pid: Pid) {
    if !process::wait_for(pid, PATIENCE) {
        process::end(pid, Signal::KILL);
    }
}

fn path_with(first: PathBuf) -> Result<OsString, Failure> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(
        std::iter::once(first).chain(std::env::split_paths(&inherited)),
    )?)
}
