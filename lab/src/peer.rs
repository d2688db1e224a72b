//! What others have made of the same models. Each is started as its own documentation says, with the same answers as far as
//! it can give them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thead::{Command, Stdio};

use crate::model::Takes;
use crate::serve::ServeError;

/// A program that others have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// One Node process: the model of [`Event`](crate::model::Model::Event).
    Node,
    /// Node's `cluster`: the model of [`ClusterRoundRobin`](crate::model::Model::ClusterRoundRobin).
    NodeCluster,
    /// PM2's cluster mode: the same, by PM2.
    Pm2Cluster,
    /// gunicorn's sync workers: the model of [`Prefork`](crate::model::Model::Prefork).
    GunicornSync,
    /// gunicorn's threaded workers: the model of [`ThreadPool`](crate::model::Model::ThreadPool).
    GunicornThreads,
    /// nginx with a fixed answer: what a server could at most be. Knows only `/` and `/body`.
    Nginx,
}

/// What is not installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not installed: run {command}")]
pub struct Missing {
    /// The program.
    pub what: &'static str,
    /// What installs it.
    pub command: &'static str,
}

/// Where and how a server is to serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) backlog: u32,
    pub(crate) processes: u32,
    pub(crate) threads: u32,
}

/// How long a peer may take until it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(5);

/// nginx knows these bodies.
const BODIES: [usize; 2] = [1 << 10, 1 << 20];

impl Peer {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::NodeCluster,
        Self::Pm2Cluster,
        Self::GunicornSync,
        Self::GunicornThreads,
        Self::Nginx,
    ];

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::NodeCluster => "node-cluster",
            Self::Pm2Cluster => "pm2-cluster",
            Self::GunicornSync => "gunicorn-sync",
            Self::GunicornThreads => "gunicorn-threads",
            Self::Nginx => "nginx",
        }
    }

    /// What it is, in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Node => "peer: one Node process",
            Self::NodeCluster => "peer: M Node processes by Node's cluster",
            Self::Pm2Cluster => "peer: M Node processes by PM2",
            Self::GunicornSync => "peer: M Python processes, each one request at a time",
            Self::GunicornThreads => "peer: M Python processes of L threads",
            Self::Nginx => "peer: M processes of nginx with fixed answers, the upper bound; knows only / and /body",
        }
    }

    pub(crate) const fn takes(self) -> Takes {
        match self {
            Self::Node => Takes::Nothing,
            Self::NodeCluster | Self::Pm2Cluster | Self::GunicornSync | Self::Nginx => Takes::Processes,
            Self::GunicornThreads => Takes::ProcessesAndThreads,
        }
    }

    /// Its program.
    ///
    /// # Errors
    /// It is not installed.
    pub fn look(self) -> Result<PathBuf, Missing> {
        let missing = |what| Missing {
            what,
            command: "lab/setup",
        };
        let program = |path: PathBuf, what| if path.is_file() { Ok(path) } else { Err(missing(what)) };
        let node = || program(root().join("conformance/runtimes/bin/node22"), "Node 22");
        match self {
            Self::Node | Self::NodeCluster => node(),
            Self::Pm2Cluster => {
                node()?;
                program(root().join("bench/peers/node_modules/pm2/bin/pm2-runtime"), "PM2")
            }
            Self::GunicornSync | Self::GunicornThreads => program(script("venv/bin/gunicorn"), "gunicorn"),
            Self::Nginx => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                // Where Debian has it, which is not in everybody's PATH.
                let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
                let mut found = dirs.map(|dir| dir.join("nginx")).filter(|path| path.is_file());
                found.next().ok_or(Missing {
                    what: "nginx",
                    command: "apt-get install --no-install-recommends nginx-light (it starts a server on port 80)",
                })
            }
        }
    }

    /// What starts it, and how one knows that it serves.
    pub(crate) fn prepare(self, place: Place) -> Result<(Command, Running), ServeError> {
        let program = self.look()?;
        let (address, _) = reserve(place.address)?;
        self.arrange(&program, Place { address, ..place })
            .map_err(|source| ServeError::System {
                what: "a peer cannot be prepared",
                source,
            })
    }

    fn arrange(self, program: &Path, place: Place) -> io::Result<(Command, Running)> {
        let dir = tempfile::Builder::new().prefix("thead-lab-").tempdir()?;
        let (processes, threads) = (place.processes.to_string(), place.threads.to_string());
        let (address, backlog) = (place.address.to_string(), place.backlog.to_string());
        let command = match self {
            Self::Node => Command::new(program).arg(script("app.js")),
            Self::NodeCluster => Command::new(program).arg(script("cluster.js")).arg(&processes),
            Self::Pm2Cluster => {
                // It runs under the "node" of PATH.
                let bin = dir.path().join("bin");
                fs::create_dir(&bin)?;
                let node = Self::Node.look().map_err(io::Error::other)?;
                symlink(&node, bin.join("node"))?;
                let inherited = std::env::var_os("PATH").unwrap_or_default();
                let path = std::iter::once(bin).chain(std::env::split_paths(&inherited));
                Command::new(node)
                    .arg(program)
                    .args(["start", "--instances", &processes])
                    .arg(script("app.js"))
                    .env("PATH", std::env::join_paths(path).map_err(io::Error::other)?)
                    .env("PM2_HOME", dir.path().join("pm2"))
                    .env("PM2_DISABLE_VERSION_CHECK", "true")
            }
            Self::GunicornSync | Self::GunicornThreads => {
                let class = if self == Self::GunicornSync { "sync" } else { "gthread" };
                Command::new(program)
                    .args(["--worker-class", class, "--workers", &processes, "--threads", &threads])
                    .args(["--bind", &address, "--backlog", &backlog, "--keep-alive", "5"])
                    // As many connections as a worker may have that waits for requests.
                    .args(["--worker-connections", "20000", "--graceful-timeout", "1"])
                    .args(["--log-level", "error", "--no-control-socket"])
                    .arg("--pythonpath")
                    .arg(script(""))
                    .arg("app:app")
                    .env("PYTHONDONTWRITEBYTECODE", "1")
            }
            Self::Nginx => {
                for bytes in BODIES {
                    fs::write(dir.path().join(format!("body-{bytes}")), vec![b'x'; bytes])?;
                }
                let configuration = dir.path().join("nginx.conf");
                fs::write(&configuration, nginx(place, dir.path()))?;
                Command::new(program)
                    .arg("-p")
                    .arg(dir.path())
                    .args(["-e", "stderr", "-c"])
                    .arg(configuration)
            }
        };
        let ready = dir.path().join("ready");
        fs::write(&ready, "")?;
        let command = command
            .env("HOST", place.address.ip().to_string())
            .env("PORT", place.address.port().to_string())
            .env("BACKLOG", backlog)
            .env("READY", &ready)
            // Ours is for one line only.
            .stdout(Stdio::Null);
        let expected = match self {
            Self::Nginx => None,
            Self::Node => Some(1),
            _ => Some(place.processes as usize),
        };
        let running = Running {
            address: place.address,
            ready,
            expected,
            _dir: dir,
        };
        Ok((command, running))
    }
}

/// A peer that was started, with the files that it needs.
#[derive(Debug)]
pub(crate) struct Running {
    address: SocketAddr,
    /// Each of its processes that serves writes a line to it.
    ready: PathBuf,
    /// How many these will be; `None` for one that tells nothing.
    expected: Option<usize>,
    _dir: TempDir,
}

impl Running {
    /// Waits until all of its processes serve.
    pub(crate) async fn listening(&self) -> Result<SocketAddr, ServeError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.serves() {
            if Instant::now() > deadline {
                return Err(ServeError::Died(format!("it did not serve within {PATIENCE:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(self.address)
    }

    fn serves(&self) -> bool {
        let told = || fs::read_to_string(&self.ready).map_or(0, |text| text.lines().count());
        self.expected.is_none_or(|expected| told() >= expected) && TcpStream::connect(self.address).is_ok()
    }
}

/// A port that was free a moment ago, or the one that was asked for if it is.
fn reserve(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    bound.map_err(|source| ServeError::Listen { address, source })
}

fn nginx(place: Place, dir: &Path) -> String {
    let Place {
        address,
        backlog,
        processes,
        ..
    } = place;
    let dir = dir.display();
    // As root it would serve as another user, who may not read our directory.
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        r#"{user}
daemon off;
worker_processes {processes};
pid {dir}/pid;
error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=10;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path {dir}/client;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen {address} backlog={backlog};
    root {dir};
    location = / {{ default_type text/plain; return 200 "hello from the lab\n"; }}
    location = /body {{ try_files /body-$arg_bytes =404; }}
    location / {{ return 404; }}
  }}
}}
"#
    )
}

/// A file of the peers'.
fn script(name: &str) -> PathBuf {
    root().join("lab/peers").join(name)
}

/// The workspace.
fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}
