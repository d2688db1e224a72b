//! Starting a process: what it costs the parent, by how much memory and how many files it has.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use thead::sys::message::socketpair;
use thead::sys::pidfd;
use thead::sys::spawn::{FdSource, SpawnSpec};

use crate::host::{self, NODE};
use crate::report::{Bound, Line, Table, Target, median};
use crate::{Extent, Failure};

/// The argument by which this program becomes a parent of some size: `spawn-probe MEBIBYTES FILES RUNS`.
pub(crate) const PROBE: &str = "spawn-probe";

const PROGRAM: &str = "/bin/true";

/// Ways that take a large part of a second get one run in so many.
const SELDOM: usize = 10;

/// Microseconds of each run, by method.
type Taken = BTreeMap<String, Vec<f64>>;

/// The memory and the open files of a parent.
const PARENTS: [(&str, usize, usize); 3] = [
    ("8 MiB", 8, 0),
    ("1 GiB", 1024, 0),
    ("1 GiB, 10 000 files open", 1024, 10_000),
];
const METHODS: [(&str, &str); 6] = [
    ("thead", "thead, with a channel"),
    ("command", "std::process::Command"),
    ("tokio", "tokio::process::Command"),
    ("command-fds", "command-fds, one descriptor"),
    ("pre-exec", "std::process::Command, with pre_exec"),
    ("node", "Node, with a channel"),
];

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let runs = (300 / extent.divisor).max(50);
    let few = (runs / SELDOM).to_string();
    let runs = runs.to_string();
    let mut lines: Vec<Line> = METHODS
        .iter()
        .flat_map(|(_, method)| {
            PARENTS
                .iter()
                .map(move |(parent, ..)| Line::new(format!("{method}: {parent}")))
        })
        .collect();
    for _ in 0..extent.rounds.min(3) {
        for (parent, mebibytes, files) in PARENTS {
            let size = [&mebibytes.to_string(), &files.to_string(), &runs];
            let mut taken = taken(Command::new(std::env::current_exe()?).arg(PROBE).args(size))?;
            taken.append(&mut self::taken(
                Command::new(host::runtime(NODE))
                    .arg(host::script("spawn.js"))
                    .args(size),
            )?);
            for (name, method) in METHODS {
                let line = lines.iter_mut().find(|line| line.who == format!("{method}: {parent}"));
                if let (Some(line), Some(taken)) = (line, taken.get(name)) {
                    line.samples.push(median(taken));
                }
            }
        }
    }
    let large = "thead, with a channel: 1 GiB";
    let targets = [large, "thead, with a channel: 1 GiB, 10 000 files open"].map(|who| Target {
        who,
        over: Some("thead, with a channel: 8 MiB"),
        bound: Bound::AtMost(2.0),
    });
    Ok(vec![Table {
        title: "Starting a process".into(),
        how: format!(
            "How long the call takes in the parent until the child runs `{PROGRAM}`; the median of {runs} runs in each round, or of {few} \
             where each takes a large part of a second. The \
             parent has touched all its memory, in pages of 4 KiB. What has a channel makes its socket pair within the time. A \
             `pre_exec` that does nothing stands for anything that needs one, such as passing a descriptor under a number: the \
             standard library then copies the parent's page tables."
        ),
        unit: "µs",
        lines,
        base: "std::process::Command: 8 MiB",
        targets: targets.into(),
    }])
}

fn taken(command: &mut Command) -> Result<Taken, Failure> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("a parent that was to spawn failed".into());
    }
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    json.retain(|_, value| value.is_array());
    Ok(serde_json::from_value(json.into())?)
}

/// What a parent does: grows, spawns by each method in turn, and prints how long that took.
pub(crate) fn probe() -> Result<(), Failure> {
    let arguments: Vec<usize> = std::env::args()
        .skip(2)
        .map(|word| word.parse())
        .collect::<Result<_, _>>()?;
    let [mebibytes, files, runs] = arguments[..] else {
        return Err("spawn-probe MEBIBYTES FILES RUNS".into());
    };
    thead::sys::limit::raise_open_files()?;
    rustix::thread::disable_transparent_huge_pages(true)?;
    thead::sys::spawn::reserve(8);
    let memory = vec![1_u8; mebibytes << 20];
    let null = File::open("/dev/null")?;
    let open = (0..files).map(|_| null.try_clone()).collect::<Result<Vec<_>, _>>()?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut taken = Taken::new();
    let mut add = |name: &str, time: Duration| {
        taken.entry(name.to_owned()).or_default().push(time.as_secs_f64() * 1e6);
    };
    for run in 0..runs {
        add("thead", with_thead()?);
        add("command", with_command(&mut Command::new(PROGRAM))?);
        add("tokio", with_tokio(&runtime)?);
        if run % SELDOM == 0 {
            add("pre-exec", with_command(with_pre_exec(&mut Command::new(PROGRAM)))?);
            add("command-fds", with_command_fds(&null)?);
        }
    }
    println!("{}", serde_json::to_string(&taken)?);
    std::hint::black_box((memory, open));
    Ok(())
}

fn with_thead() -> Result<Duration, Failure> {
    let begun = Instant::now();
    let pair = socketpair(None)?;
    let mut spec = SpawnSpec::new(PROGRAM);
    spec.env = std::env::vars_os().collect();
    spec.fds.push((3, FdSource::Fd(pair.child.as_fd())));
    let child = thead::sys::spawn::spawn(&spec)?;
    let taken = begun.elapsed();
    rustix::process::waitid(
        rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    )?;
    match pidfd::try_wait(&child.pidfd)? {
        Some(status) if status.success() => Ok(taken),
        other => Err(format!("{PROGRAM} came to {other:?}").into()),
    }
}

fn with_command(command: &mut Command) -> Result<Duration, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let taken = begun.elapsed();
    if child.wait()?.success() {
        Ok(taken)
    } else {
        Err(format!("{PROGRAM} failed").into())
    }
}

fn with_tokio(runtime: &tokio::runtime::Runtime) -> Result<Duration, Failure> {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    runtime.block_on(async {
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let taken = begun.elapsed();
        if child.wait().await?.success() {
            Ok(taken)
        } else {
            Err(format!("{PROGRAM} failed").into())
        }
    })
}

fn with_command_fds(file: &File) -> Result<Duration, Failure> {
    let mut command = Command::new(PROGRAM);
    let mapping = FdMapping {
        parent_fd: file.try_clone()?.into(),
        child_fd: 3,
    };
    command.fd_mappings(vec![mapping])?;
    with_command(&mut command)
}

fn with_pre_exec(command: &mut Command) -> &mut Command {
    // SAFETY: it does nothing.
    unsafe { command.pre_exec(|| Ok(())) }
}
