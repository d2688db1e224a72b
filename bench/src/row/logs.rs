//! What it costs to keep what a worker prints.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fleet::Pm2;
use crate::host::{self, NODE};
use crate::process::{self, PATIENCE, Running, cpu_time, cpu_time_of};
use crate::report::{Bound, Line, Table, Target};
use crate::{Extent, Failure};

/// Of 100 bytes.
const LINES: usize = 1_000_000;

const OURS: &str = "thead";
const WRITING: &str = "thead, without compressing";
const PM2: &str = "PM2 cluster";
const ALONE: &str = "into a file, without a primary";

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let lines = LINES / extent.divisor;
    let mut time = [OURS, WRITING, PM2].map(Line::new);
    let mut memory = [OURS, PM2, ALONE].map(Line::new);
    for _ in 0..extent.rounds {
        let ours = thead(lines)?;
        let pm2 = pm2(lines)?;
        for (line, sample) in time.iter_mut().zip([ours.cpu, ours.writing, pm2.cpu]) {
            line.samples.push(sample);
        }
        for (line, sample) in memory.iter_mut().zip([ours.grown, pm2.grown, alone(lines)?]) {
            line.samples.push(sample);
        }
    }
    let how = format!(
        "One Node worker prints {lines} lines of 100 bytes in a loop; over when the last of them is in a file and the primary has \
         nothing left to do. thead as it is by default: it puts files of 50 MiB aside and compresses them, with what nobody else \
         needs of the processor."
    );
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let share = lines as f64 / LINES as f64;
    Ok(vec![
        Table {
            title: "Log lines: processor time of the primary".into(),
            how: format!("{how} PM2: of its daemon."),
            unit: "s",
            lines: time.into(),
            base: PM2,
            targets: vec![Target {
                who: OURS,
                over: None,
                bound: Bound::AtMost(0.3 * share),
            }],
        },
        Table {
            title: "Log lines: memory of the worker".into(),
            how: format!("{how} How much more the worker had resident at most than when it began."),
            unit: "MiB",
            lines: memory.into(),
            base: ALONE,
            targets: vec![Target {
                who: OURS,
                over: Some(ALONE),
                bound: Bound::AtMost(1.25),
            }],
        },
    ])
}

struct Cost {
    /// Of the primary, in seconds.
    cpu: f64,
    /// Of that, without the thread that compresses.
    writing: f64,
    /// By which the worker has grown, in MiB.
    grown: f64,
}

fn thead(lines: usize) -> Result<Cost, Failure> {
    let dir = tempfile::tempdir()?;
    let (logs, report) = (dir.path().join("logs"), dir.path().join("report"));
    let mut command = Command::new(host::thead()?);
    command
        .args([
            "run",
            "--name",
            "bench",
            "--instances",
            "1",
            "--ready",
            "0",
            "--log-dir",
        ])
        .arg(&logs)
        .arg("--runtime")
        .arg(host::runtime(NODE))
        .arg(host::script("logs.js"))
        .env("LINES", lines.to_string())
        .env("REPORT", &report)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let running = Running::start(&mut command)?;
    until_printed(&logs.join("bench.log"), lines, &report)?;
    until_idle(running.pid())?;
    Ok(Cost {
        cpu: cpu_time(running.pid())?.as_secs_f64(),
        writing: cpu_time_of(running.pid(), |name| name != "log-keeper")?.as_secs_f64(),
        grown: fs::read_to_string(&report)?.parse()?,
    })
}

fn pm2(lines: usize) -> Result<Cost, Failure> {
    let dir = tempfile::tempdir()?;
    let (log, report) = (dir.path().join("log"), dir.path().join("report"));
    let pm2 = Pm2::start(dir.path())?;
    let mut command = pm2.command();
    command
        .arg("start")
        .arg(host::script("logs.js"))
        .args(["--name", "bench", "--instances", "1", "--merge-logs", "--output"])
        .arg(&log)
        .env("LINES", lines.to_string())
        .env("REPORT", &report)
        .stderr(Stdio::null());
    if !command.status()?.success() {
        return Err("pm2 start failed".into());
    }
    until_printed(&log, lines, &report)?;
    until_idle(pm2.pid()?)?;
    let cpu = cpu_time(pm2.pid()?)?.as_secs_f64();
    Ok(Cost {
        cpu,
        writing: cpu,
        grown: fs::read_to_string(&report)?.parse()?,
    })
}

/// MiB.
fn alone(lines: usize) -> Result<f64, Failure> {
    let dir = tempfile::tempdir()?;
    let (log, report) = (dir.path().join("log"), dir.path().join("report"));
    let mut command = Command::new(host::runtime(NODE));
    command
        .arg(host::script("logs.js"))
        .env("LINES", lines.to_string())
        .env("REPORT", &report)
        .stdin(Stdio::null())
        .stdout(File::create(&log)?);
    let _running = Running::start(&mut command)?;
    until_printed(&log, lines, &report)?;
    Ok(fs::read_to_string(&report)?.parse()?)
}

/// Waits until a process has done what it had to do.
fn until_idle(pid: u32) -> Result<(), Failure> {
    let until = Instant::now() + 4 * PATIENCE;
    while Instant::now() < until {
        let before = cpu_time(pid)?;
        sleep(QUIET);
        if cpu_time(pid)? - before < QUIET / 50 {
            return Ok(());
        }
    }
    Err("a primary has no end of work".into())
}

/// For so long a process does next to nothing that is done.
const QUIET: Duration = Duration::from_millis(500);

/// Waits until the last line is in the file and the worker has told what it took.
fn until_printed(log: &Path, lines: usize, report: &Path) -> Result<(), Failure> {
    let last = format!("{lines} GET");
    let is_there = || {
        let end = || -> std::io::Result<String> {
            let file = File::open(log)?;
            let mut end = vec![0; 512];
            let read = file.read_at(&mut end, file.metadata()?.len().saturating_sub(512))?;
            Ok(String::from_utf8_lossy(&end[..read]).into_owned())
        };
        report.exists() && end().is_ok_and(|end| end.contains(&last))
    };
    if process::until(2 * PATIENCE, is_there) {
        Ok(())
    } else {
        Err(format!("the last of {lines} lines did not come").into())
    }
}
