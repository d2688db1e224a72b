//! `thead-lab serve`, started and watched from outside, and a client.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::model::{Candidate, Kind};
use lab::serve::Announcement;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// How long anything is waited for that has to come. Long, for the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The variable that every process of a server inherits, with a value of its own.
const MARK: &str = "THEAD_LAB_TEST";

/// Waits until `look` sees something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal to a process of the test.
pub(crate) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// What the threads of a process have used.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // One that has ended meanwhile has nothing to tell.
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let used = texts.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap());
    Duration::from_nanos(used.sum())
}

/// What `thead-lab` says to such words, to its end.
pub(crate) fn said_to(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thead-lab"));
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

/// A server that serves. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    mark: String,
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(kind: impl Into<Kind>, processes: u32, threads: u32) -> Self {
        let command = Candidate::new(kind.into(), processes, threads).command();
        Self::by(command.unwrap_or_else(|missing| panic!("{missing}")))
    }

    /// One that may have so many files open.
    pub(crate) fn limited(kind: impl Into<Kind>, files: u32) -> Self {
        let command = Candidate::new(kind, 1, 1).command().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        Self::by(shell)
    }

    pub(crate) fn by(mut command: Command) -> Self {
        let since = Instant::now();
        let mark = format!("{}-{since:?}", std::process::id());
        // A test that is killed takes its server along.
        command.arg("--until-stdin-closes").env(MARK, &mark);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Announcement { listening, pid } =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: it said {line:?}"));
        Self {
            child,
            mark,
            pid,
            address: listening,
        }
    }

    /// The server's process, and all that it has started and not collected.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let pids = thead::sys::tree::descendants(self.pid.cast_signed());
        pids.into_iter().map(i32::cast_unsigned).collect()
    }

    /// Threads of each of these, the first process first.
    pub(crate) fn threads(&self) -> Vec<usize> {
        let tasks = |pid| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        self.processes().into_iter().map(tasks).collect()
    }

    /// A connection on which nothing was asked.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    /// A connection whose process burns for a minute, and has begun to.
    pub(crate) fn burning(&self) -> Client {
        let mut client = self.connect();
        let pid = client.pid();
        let before = processor_time(pid);
        client.send("/cpu?ms=60000");
        let is_burning = || processor_time(pid) > before + Duration::from_millis(50);
        eventually("it burns", || is_burning().then_some(()));
        client
    }

    /// So many requests at once, each on a connection of its own: who did them, and when.
    pub(crate) fn at_once(&self, requests: usize, target: &str) -> Vec<Span> {
        let mut clients: Vec<_> = (0..requests).map(|_| self.connect()).collect();
        for client in &mut clients {
            client.send(target);
        }
        clients
            .iter_mut()
            .map(|client| client.receive().unwrap().json())
            .collect()
    }

    /// SIGTERM, and all that belongs to a good end: exit code 0, no process, no socket.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.ended(), Some(0));
    }

    /// Closes its standard input.
    pub(crate) fn let_go(mut self) {
        drop(self.child.stdin.take());
        assert_eq!(self.ended(), Some(0));
    }

    /// To what supervises it.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// Waits until it has ended, with nothing left; its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = eventually("the end of the server", || self.child.try_wait().unwrap());
        let left = self.left();
        assert!(left.is_empty(), "processes are left: {left:?}");
        assert!(TcpStream::connect(self.address).is_err(), "the port is still open");
        status.code()
    }

    /// Whether any of its processes runs.
    pub(crate) fn is_alive(&self) -> bool {
        let state = |pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        self.left().into_iter().any(|pid| {
            state(pid)
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with('Z'))
        })
    }

    /// Processes that were started by it or for it, zombies too.
    fn left(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name: state, parent, process group. A zombie has no environment any more.
            let group = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
            group == Some(self.pid) || environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        pids.filter(is_ours).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, target: &str) {
        self.write(&format!("GET {target} HTTP/1.1\r\nHost: lab\r\n\r\n"));
    }

    /// These very bytes. What becomes of them is told by what is received.
    pub(crate) fn write(&mut self, text: &str) {
        let _ = self.0.get_mut().write_all(text.as_bytes());
    }

    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        let mut status = String::new();
        let mut length = 0;
        let mut closes = false;
        if self.0.read_line(&mut status)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                break;
            };
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.parse().unwrap(),
                "connection" => closes = value == "close",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Response {
            status: status.split(' ').nth(1).unwrap().parse().unwrap(),
            closes,
            body,
        })
    }

    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.send(target);
        self.receive().unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    /// Nothing follows, and nothing can.
    pub(crate) fn is_over(&mut self) -> bool {
        !matches!(self.0.fill_buf(), Ok([_, ..]))
    }

    /// The process that serves this connection.
    pub(crate) fn pid(&mut self) -> u32 {
        self.get("/state").json::<State>().pid
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// It said `Connection: close`.
    pub(crate) closes: bool,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json<T: for<'a> Deserialize<'a>>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// What `/state` says.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) pid: u32,
    pub(crate) requests: u64,
}

/// What `/io` and `/cpu` say.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Span {
    pub(crate) pid: u32,
    pub(crate) thread: u32,
    pub(crate) began_us: u64,
    pub(crate) ended_us: u64,
}

/// How many of these were under way at the same time, at the most.
pub(crate) fn most_at_once(spans: &[Span]) -> usize {
    let at = |moment| {
        let under_way = |span: &&Span| span.began_us <= moment && moment < span.ended_us;
        spans.iter().filter(under_way).count()
    };
    spans.iter().map(|span| at(span.began_us)).max().unwrap_or(0)
}
