//! A daemon with a hundred services: what a list takes, what it uses while nothing happens, and how much memory it has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fleet::Pm2;
use crate::process::{self, PATIENCE, Running};
use crate::report::{Bound, Line, Table, Target, median};
use crate::{Extent, Failure, host};

const THEAD: &str = "thead";
const PM2: &str = "PM2";
/// What each service runs.
const PROGRAM: [&str; 2] = ["/bin/sleep", "100000"];
/// Lists in each round.
const LISTS: usize = 20;

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let services = 100 / extent.divisor.min(4);
    let idle = Duration::from_secs(2 * u64::from(extent.seconds) + 2);
    let dir = tempfile::tempdir()?;
    let thead = Thead::start(&dir.path().join("thead"), services)?;
    let pm2 = Pm2::start(&dir.path().join("pm2"))?;
    start_all(&pm2, dir.path(), services)?;

    let mut lists = [THEAD, PM2].map(Line::new);
    let mut quiet = [THEAD, PM2].map(Line::new);
    let mut memory = [
        Line::new("thead, the daemon"),
        Line::new("thead, with all primaries"),
        Line::new(PM2),
    ];
    for _ in 0..extent.rounds {
        lists[0].samples.push(time(LISTS, || thead.command(&["ls"]))?);
        // It takes so long that fewer will do.
        lists[1].samples.push(time(LISTS / 10, || {
            let mut command = pm2.command();
            command.arg("ls");
            command
        })?);
        quiet[0].samples.push(idle_share(&thead.all()?, idle)?);
        quiet[1].samples.push(idle_share(&[pm2.pid()?], idle)?);
        memory[0].samples.push(process::resident(thead.process.pid())?);
        let all = thead.all()?;
        let sum: Result<f64, Failure> = all.iter().map(|pid| process::resident(*pid)).sum();
        memory[1].samples.push(sum?);
        memory[2].samples.push(process::resident(pm2.pid()?)?);
    }
    thead.stop()?;
    drop(pm2);
    let how = format!("{services} services of one worker each (`{}`).", PROGRAM.join(" "));
    let at_most = |who, bound| Target {
        who,
        over: None,
        bound: Bound::AtMost(bound),
    };
    println!("median of a list: {:.1} ms", median(&lists[0].samples));
    Ok(vec![
        Table {
            title: "A list of all services".into(),
            how: format!("{how} `ls`, from the start of the command to its end, the mean of several."),
            unit: "ms",
            lines: lists.into(),
            base: PM2,
            targets: vec![at_most(THEAD, 20.0)],
        },
        Table {
            title: "Processor time of an idle daemon".into(),
            how: format!(
                "{how} Nothing happens for {} s; thead: the daemon and all primaries.",
                idle.as_secs()
            ),
            unit: "% of a core",
            lines: quiet.into(),
            base: PM2,
            targets: vec![at_most(THEAD, 0.1)],
        },
        Table {
            title: "Memory of a daemon".into(),
            how: format!(
                "{how} Resident memory. All primaries share the pages of one program, which are counted for each."
            ),
            unit: "MiB",
            lines: memory.into(),
            base: PM2,
            targets: vec![at_most("thead, the daemon", 10.0)],
        },
    ])
}

/// Milliseconds that a command takes, on average.
fn time(count: usize, command: impl Fn() -> Command) -> Result<f64, Failure> {
    let begun = Instant::now();
    for _ in 0..count {
        let status = command().stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err("a list failed".into());
        }
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0 / count as f64)
}

/// Processor time of these while nothing happens, in percent of a core.
fn idle_share(pids: &[u32], time: Duration) -> Result<f64, Failure> {
    let used = || -> Result<Duration, Failure> { pids.iter().map(|pid| process::cpu_time(*pid)).sum() };
    let (before, begun) = (used()?, Instant::now());
    std::thread::sleep(time);
    let spent = used()?.saturating_sub(before);
    Ok(100.0 * spent.as_secs_f64() / begun.elapsed().as_secs_f64())
}

struct Thead {
    process: Running,
    home: PathBuf,
}

impl Thead {
    fn start(home: &Path, services: usize) -> Result<Self, Failure> {
        std::fs::create_dir(home)?;
        let mut command = Command::new(host::thead()?);
        command.arg("daemon").env("THEAD_HOME", home).stdin(Stdio::null());
        let thead = Self {
            process: Running::start(&mut command)?,
            home: home.to_owned(),
        };
        let socket = home.join("run/control.sock");
        if !process::until(PATIENCE, || socket.exists()) {
            return Err("the daemon did not start".into());
        }
        let mut table = serde_json::Map::new();
        for number in 0..services {
            let ready = json!({ "delay": "0s" });
            table.insert(format!("s{number}"), json!({ "run": PROGRAM, "ready": ready }));
        }
        let file = home.join("thead.json");
        std::fs::write(&file, json!({ "service": table }).to_string())?;
        let output = thead.command(&["apply", &file.display().to_string()]).output()?;
        if !output.status.success() {
            return Err(format!("apply failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(thead)
    }

    fn command(&self, words: &[&str]) -> Command {
        // It was found when the daemon was started.
        let mut command = Command::new(host::thead().unwrap_or_default());
        command.args(words).env("THEAD_HOME", &self.home).stdin(Stdio::null());
        command
    }

    /// The daemon and all primaries.
    fn all(&self) -> Result<Vec<u32>, Failure> {
        let output = self.command(&["ls", "--json"]).output()?;
        let list: Value = serde_json::from_slice(&output.stdout)?;
        let primaries = list.as_array().into_iter().flatten();
        let pids = primaries.filter_map(|service| u32::try_from(service["primary"].as_u64()?).ok());
        Ok(std::iter::once(self.process.pid()).chain(pids).collect())
    }

    fn stop(self) -> Result<(), Failure> {
        let status = self.command(&["daemon", "stop"]).stdout(Stdio::null()).status()?;
        let pid = process::pid_of(self.process.pid()).ok_or("no pid")?;
        process::end(pid, Signal::TERM);
        if status.success() {
            Ok(())
        } else {
            Err("the daemon did not stop".into())
        }
    }
}

fn start_all(pm2: &Pm2, dir: &Path, services: usize) -> Result<(), Failure> {
    let app = |number| json!({ "name": format!("s{number}"), "script": PROGRAM[0], "args": PROGRAM[1], "interpreter": "none" });
    let apps: Vec<Value> = (0..services).map(app).collect();
    let file = dir.join("apps.json");
    std::fs::write(&file, json!({ "apps": apps }).to_string())?;
    let status = pm2.command().arg("start").arg(&file).status()?;
    if status.success() {
        Ok(())
    } else {
        Err("pm2 start failed".into())
    }
}
