//! A server under load, seen from outside: nothing that is measured asks the server anything.
//!
//! Processor time, memory, processes and threads come from `/proc`, of the process that announced itself and all its
//! descendants. Context switches come from the kernel's account of the whole tree when it has ended, since threads that
//! have ended are in no other: so they are those of the server's whole life, over all its answers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::{Outcome, Phase, Spec};
use crate::model::Candidate;
use crate::results::Sample;
use crate::serve::Announcement;

/// Why a cell could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The server did not come up.
    #[error("{name} did not begin to serve: {said}")]
    Start {
        /// Who.
        name: String,
        /// What it said.
        said: String,
    },
    /// The load ended before its time.
    #[error("the load ended before its time{0}")]
    Load(String),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Keeps this process, and those it starts from now on, on some cores; on any if there are none given.
///
/// # Errors
/// There is no such core.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

/// How long a server may take to come up, and a load to say what it should have said.
const PATIENCE: Duration = Duration::from_secs(40);

/// How many connections are asked for the process that answers them.
pub const PROBES: usize = 32;

/// A candidate that serves; ended when it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// Where it serves.
    pub address: SocketAddrV4,
    /// The process that serves, or the parent of those that do.
    pub pid: u32,
}

impl Server {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It did not come up; then with what it said.
    pub fn start(candidate: &Candidate, mut command: Command) -> Result<Self, MeasureError> {
        let mut complaints = tempfile::tempfile()?;
        let mut process = command
            .args(["--listen", "127.0.0.1:0", "--until-stdin-closes"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?)
            .spawn()?;
        let announced = process
            .stdout
            .take()
            .map(lines)
            .and_then(|lines| lines.recv_timeout(PATIENCE).ok());
        let announced = announced.and_then(|line| serde_json::from_str::<Announcement>(&line).ok());
        if let Some(Announcement {
            listening: SocketAddr::V4(address),
            pid,
        }) = announced
        {
            return Ok(Self { process, address, pid });
        }
        let _ = process.kill();
        let _ = process.wait();
        let mut said = String::new();
        let _ = io::Seek::rewind(&mut complaints).and_then(|()| complaints.read_to_string(&mut said));
        Err(MeasureError::Start {
            name: candidate.name.clone(),
            said: if said.trim().is_empty() {
                "it said nothing".to_owned()
            } else {
                said.trim().to_owned()
            },
        })
    }

    /// Ends it and waits for it; returns how often its threads gave up a core, by themselves and because another was to have it.
    fn stop(mut self) -> (f64, f64) {
        let before = switches();
        self.end();
        let after = switches();
        (after.0 - before.0, after.1 - before.1)
    }

    fn end(&mut self) {
        // It ends with its standard input, and everything that it started ends before it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Voluntary and involuntary context switches of all processes that this one has waited for, and theirs.
fn switches() -> (f64, f64) {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or((0.0, 0.0), |usage| {
        (
            usage.voluntary_context_switches() as f64,
            usage.involuntary_context_switches() as f64,
        )
    })
}

/// The lines of a stream as they come; the channel ends with it.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (say, hear) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                break;
            }
        }
    });
    hear
}

/// What `/proc` says of a process and its descendants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tree {
    /// Those that live.
    pub processes: usize,
    /// Theirs.
    pub threads: usize,
    /// Processor time of those that live and of those they have collected, in seconds.
    pub cpu: f64,
    /// Memory, shared pages counted in parts: the sum is what there is. In MiB; 0 if it was not asked for.
    pub pss: f64,
    /// Memory, shared pages counted with each.
    pub rss: f64,
}

/// One line of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    is_dead: bool,
    /// Processor time of its own, in seconds.
    own: f64,
    /// Processor time of children that it has collected, and of theirs.
    collected: f64,
    threads: usize,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The processor time of a process, of children that it has collected too, in seconds.
///
/// `stat` counts in hundredths of a second, which is too coarse for hundreds of processes that do little each; the
/// scheduler's own account is exact, but has only threads that live. So it is the greater of the two.
fn cpu(pid: u32, stat: &Stat) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let exact = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    stat.own.max(exact.sum::<u64>() as f64 / 1e9) + stat.collected
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may have blanks and brackets of its own.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let seconds = |at: usize| Some((number(at)? + number(at + 1)?) as f64 / ticks);
    Some(Stat {
        parent: number(1)?.try_into().ok()?,
        is_dead: matches!(*fields.first()?, "Z" | "X"),
        own: seconds(11)?,
        collected: seconds(13)?,
        threads: number(17)?.try_into().ok()?,
    })
}

/// Looks at a process and its descendants; at their memory only if asked, since that holds them up.
pub fn tree(root: u32, with_memory: bool) -> Tree {
    let mut sum = Tree::default();
    let all: Vec<(u32, Stat)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect();
    let mut members = BTreeSet::from([root]);
    // A child can have a smaller number than its parent: as long as some are found.
    loop {
        let before = members.len();
        for (pid, stat) in &all {
            if members.contains(&stat.parent) {
                members.insert(*pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    for (pid, stat) in all.iter().filter(|(pid, _)| members.contains(pid)) {
        sum.cpu += cpu(*pid, stat);
        if stat.is_dead {
            continue;
        }
        sum.processes += 1;
        sum.threads += stat.threads;
        if with_memory {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            sum.pss += mebibytes(&rollup, "Pss:");
            sum.rss += mebibytes(&rollup, "Rss:");
        }
    }
    sum
}

fn mebibytes(rollup: &str, name: &str) -> f64 {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    line.and_then(|kibibytes| kibibytes.trim().parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// A load under way.
struct Load {
    process: Child,
    phases: Receiver<String>,
}

impl Load {
    fn start(spec: &Spec) -> Result<Self, MeasureError> {
        let spec = serde_json::to_string(spec).map_err(io::Error::from)?;
        let mut process = Command::new(crate::model::program())
            .args(["load", &spec])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let phases = process
            .stdout
            .take()
            .map(lines)
            .ok_or_else(|| MeasureError::Load(String::new()))?;
        Ok(Self { process, phases })
    }

    /// Waits for what it says next.
    fn next(&self, patience: Duration) -> Result<Phase, MeasureError> {
        let line = self.phases.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => MeasureError::Load(": it says nothing".to_owned()),
            RecvTimeoutError::Disconnected => MeasureError::Load(String::new()),
        })?;
        serde_json::from_str(&line).map_err(|error| MeasureError::Load(format!(": {error}: {line}")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // What it had to say was said, or will never be; its connections end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Loads a server, wherever [`Spec::to`] points, looks at it meanwhile, and ends it.
///
/// # Errors
/// The load could not be made. What the server does wrong is in the sample.
pub fn sample(server: Server, spec: &Spec) -> Result<(Sample, Outcome), MeasureError> {
    let spec = Spec {
        to: server.address,
        ..spec.clone()
    };
    // Before the load: a server that is behind with its queue would not answer.
    let copies = copies(server.address).len();
    let load = Load::start(&spec)?;
    let patience = Duration::from_millis(spec.warm_ms + spec.run_ms + spec.patience_ms) + PATIENCE;
    load.next(patience)?;
    let asking = load.process.id();
    let moment = || {
        let load = stat(asking).map_or(0.0, |stat| cpu(asking, &stat));
        (Instant::now(), busy(), tree(server.pid, false), load)
    };
    let before = urgently(moment);
    thread::sleep(Duration::from_millis(spec.run_ms / 2));
    let midway = urgently(|| tree(server.pid, true));
    let Phase::Measured { outcome } = load.next(patience)? else {
        return Err(MeasureError::Load(": it measures twice".to_owned()));
    };
    let after = urgently(moment);
    let last = urgently(|| tree(server.pid, true));
    let seconds = (after.0 - before.0).as_secs_f64();
    let (cpu, load_cpu) = ((after.2.cpu - before.2.cpu).max(0.0), (after.3 - before.3).max(0.0));
    drop(load);

    let (voluntary, involuntary) = server.stop();
    let per_request = |sum: f64| {
        if outcome.answered_in_all > 0 {
            sum / outcome.answered_in_all as f64
        } else {
            0.0
        }
    };
    let sample = Sample {
        per_second: outcome.per_second(),
        latency: outcome.latency,
        failures: outcome.failures,
        answered: outcome.answered,
        clients_served: outcome.clients_served,
        held: outcome.held,
        cores: cpu / seconds,
        load_cores: load_cpu / seconds,
        other_cores: (after.1 - before.1 - cpu - load_cpu).max(0.0) / seconds,
        cpu_us: if outcome.answered > 0 {
            cpu * 1e6 / outcome.answered as f64
        } else {
            0.0
        },
        pss_mib: midway.pss.max(last.pss),
        rss_mib: midway.rss.max(last.rss),
        processes: midway.processes.max(last.processes),
        threads: midway.threads.max(last.threads),
        voluntary: per_request(voluntary),
        involuntary: per_request(involuntary),
        copies,
    };
    Ok((sample, outcome))
}

/// Looks before those that are looked at: where they are hundreds on few cores, a look of equal rank would take as long as
/// the measurement. Without the right to (CAP_SYS_NICE) it is one of equal rank.
fn urgently<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread only, which starts nothing that could inherit it.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
            look()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Processor time that all programs have used since the machine began, in seconds.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, waiting, interrupts (two kinds); guests are in user already, and what was stolen is nobody's.
    let used: f64 = ticks
        .iter()
        .enumerate()
        .filter(|(at, _)| matches!(at, 0 | 1 | 2 | 5 | 6))
        .map(|(_, ticks)| ticks)
        .sum();
    used / rustix::param::clock_ticks_per_second() as f64
}

/// The processes that answer, each with a state of its own; [`PROBES`] of them means one for each connection.
fn copies(address: SocketAddrV4) -> BTreeSet<u64> {
    // All at once, and each takes its while: otherwise a single process could be quick enough for all of them.
    let asked: Vec<TcpStream> = (0..PROBES).map_while(|_| send(address, "/cpu?ms=2").ok()).collect();
    let pid = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str::<serde_json::Value>(body)
            .ok()?
            .get("pid")?
            .as_u64()
    };
    asked.into_iter().filter_map(pid).collect()
}

/// Asks on a connection of its own; the answer is to be read within two seconds.
fn send(address: SocketAddrV4, path: &str) -> io::Result<TcpStream> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    Ok(stream)
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_move_the_fields() {
        let fields = "S 42 1 1 0 -1 4194560 100 200 0 0 7 3 20 10 20 0 5 0 100 1000 50";
        let stat = parse_stat(&format!("99 (a) b (c)) {fields}")).expect("fields");
        assert_eq!((stat.parent, stat.threads, stat.is_dead), (42, 5, false));
        assert!(
            (stat.collected / stat.own - 3.0).abs() < 1e-9,
            "{} {}",
            stat.own,
            stat.collected
        );
        assert!(parse_stat("99 (a) Z 1").is_none());
    }

    #[test]
    fn a_tree_has_this_process_with_its_memory_and_a_child_of_it() {
        let alone = tree(std::process::id(), true);
        assert!(
            alone.processes >= 1 && alone.threads >= 1 && alone.pss > 0.1 && alone.rss >= alone.pss,
            "{alone:?}"
        );
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let both = tree(std::process::id(), false);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert!(both.processes > 1, "{both:?}");
        assert_eq!(both.pss, 0.0);
    }

    #[test]
    fn memory_is_read_from_the_rollup() {
        let rollup = "00400000-7fff [rollup]\nRss:            2048 kB\nPss:             512 kB\nPss_Dirty:  1 kB\n";
        assert_eq!(
            (
                mebibytes(rollup, "Rss:"),
                mebibytes(rollup, "Pss:"),
                mebibytes(rollup, "Swap:")
            ),
            (2.0, 0.5, 0.0)
        );
    }
}
