//! The program: `thead run --log-dir` keeps what workers print, `thead logs` shows it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Long enough for a slow machine, short enough to see that a test hangs.
const DEADLINE: Duration = Duration::from_secs(60);

fn thead() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thead"));
    command.stdin(Stdio::null()).env("TZ", "UTC").env_remove("NO_COLOR");
    command
}

/// A service of one shell that ends by itself.
fn run(dir: &Path, script: &str) -> Command {
    let mut command = thead();
    command
        .args([
            "run",
            "--name",
            "api",
            "--restart",
            "never",
            "--ready",
            "0",
            "--log-dir",
        ])
        .arg(dir)
        .args(["sh", "-c", script]);
    command
}

fn finish(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What `thead logs` prints.
fn logs(dir: &Path, arguments: &[&str]) -> String {
    let output = finish(thead().args(["logs", "--dir"]).arg(dir).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// Without the time in front.
fn said(dir: &Path, arguments: &[&str]) -> Vec<String> {
    let lines = logs(dir, arguments);
    let time = "2026-11-23 12:00:00.123 ".len();
    lines.lines().map(|line| line[time..].to_owned()).collect()
}

/// Killed when it goes.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// What it has had resident at most, in bytes.
    fn peak(&self) -> Option<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<usize>().ok()? << 10)
    }

    fn wait(mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_workers_print_is_kept_and_shown() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let output = finish(&mut run(dir, "echo to out; echo to err >&2; echo café; exit 0"));
    assert_eq!(output.stdout, b"", "it is not printed as well");
    assert_eq!(
        said(dir, &["--stream", "stdout"]),
        ["api/0 out| to out", "api/0 out| café"]
    );
    assert_eq!(said(dir, &["api", "--stream", "stderr"]), ["api/0 err| to err"]);
    let all = said(dir, &[]);
    assert!(all[0].starts_with("api thead| api: 1 worker of "), "{all:?}");
    assert_eq!(all.last().unwrap(), "api thead| api: every worker has ended");
    assert_eq!(said(dir, &["--grep", "^to e"]), ["api/0 err| to err"]);
    assert_eq!(logs(dir, &["--raw", "--stream", "stdout"]), "to out\ncafé\n");
    assert_eq!(
        said(dir, &["-n", "1", "--worker", "0", "--stream", "stdout"]),
        ["api/0 out| café"]
    );
    assert_eq!(logs(dir, &["--since", "1h", "--until", "2020-01-01"]), "");
    let json: serde_json::Value = serde_json::from_str(&logs(dir, &["--json", "--grep", "café"])).unwrap();
    assert_eq!(
        (
            &json["service"],
            &json["slot"],
            &json["stream"],
            &json["text"],
            &json["cut"]
        ),
        (
            &"api".into(),
            &0.into(),
            &"stdout".into(),
            &"café".into(),
            &false.into()
        )
    );
    assert!(
        json["pid"].as_u64().is_some() && json["time"].as_str().unwrap().ends_with('Z'),
        "{json}"
    );
}

#[test]
fn a_log_that_is_not_there_is_an_error_that_tells_which_are() {
    let dir = TempDir::new().unwrap();
    let refused = |arguments: &[&str]| {
        let output = thead()
            .args(["logs", "--dir"])
            .arg(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["api"]).contains("no log of api"));
    finish(&mut run(dir.path(), "true"));
    assert!(refused(&["web"]).contains("there are logs of api"));
    assert!(refused(&["../api", "-f"]).contains("no name of a service"));
    let output = run(dir.path(), "true").args(["--name", "../api"]).output().unwrap();
    // The name belongs to the arguments of the program there.
    assert!(output.status.success());
    let mut wrong = thead();
    wrong
        .args(["run", "--name", "../api", "--log-dir"])
        .arg(dir.path())
        .arg("true");
    let output = wrong.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no name of a service"));
}

#[test]
fn g39_a_line_of_many_megabytes_is_kept_whole_and_costs_no_memory() {
    // A gigabyte: THEAD_TEST_LINE=1024.
    let megabytes: usize = std::env::var("THEAD_TEST_LINE").map_or(48, |text| text.parse().unwrap());
    let dir = TempDir::new().unwrap();
    let script = format!("head -c {megabytes}M /dev/zero | tr '\\0' x; echo; sleep 0.5; echo after");
    let mut running = Running::start(&mut run(dir.path(), &script));
    let mut peak = 0;
    let ended = eventually("it ends", || {
        peak = running.peak().map_or(peak, |now| now.max(peak));
        running.0.try_wait().unwrap()
    });
    assert!(ended.success());
    // The queue, the pipe's worth of a block on each side, and what the program itself takes.
    assert!(peak > 0 && peak < 32 << 20, "{} MiB", peak >> 20);
    let mut shown = thead();
    shown
        .args(["logs", "--raw", "-n", "1000000", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped());
    let mut shown = Running::start(&mut shown);
    let mut out = BufReader::with_capacity(1 << 20, shown.0.stdout.take().unwrap());
    let (mut length, mut rest) = (0, Vec::new());
    let line = vec![b'x'; 1 << 20];
    let mut peak = None;
    loop {
        peak = shown.peak().or(peak);
        let some = out.fill_buf().unwrap();
        if some.is_empty() || *some != line[..some.len()] {
            break;
        }
        let read = some.len();
        length += read;
        out.consume(read);
    }
    let from = out.buffer().iter().position(|byte| *byte != b'x').unwrap_or(0);
    length += from;
    out.consume(from);
    out.read_to_end(&mut rest).unwrap();
    // Pieces of 64 KiB that a slow disk had no time for are counted.
    let dropped = usize::try_from(dropped(dir.path())).unwrap() << 16;
    assert_eq!(length + dropped, megabytes << 20);
    assert_eq!(String::from_utf8_lossy(&rest), "\nafter\n");
    assert!(peak.is_some_and(|peak| peak < 32 << 20), "{peak:?}");
}

#[test]
fn g39_a_worker_can_neither_forge_a_record_nor_steer_the_terminal() {
    let dir = TempDir::new().unwrap();
    let script =
        r"printf '\033[2J\033[31mred\r2026-11-23T12:00:00.123Z - - thead api: forged\n\377\302\233\342\200\256\n'";
    finish(&mut run(dir.path(), script));
    assert_eq!(
        said(dir.path(), &["--stream", "stdout"]),
        [
            r"api/0 out| \u{1b}[2Jred\r2026-11-23T12:00:00.123Z - - thead api: forged",
            "api/0 out| \u{fffd}\\u{9b}\\u{202e}",
        ]
    );
    let thead = said(dir.path(), &["--stream", "thead"]);
    assert!(thead.iter().all(|line| !line.contains("forged")), "{thead:?}");
    let json = logs(dir.path(), &["--json"]);
    assert!(!json.replace('\n', "").contains(char::is_control), "{json:?}");
}

/// A shell that prints numbered lines until it is killed.
const COUNTS: &str = "n=0; while :; do n=$((n+1)); echo $n; done";

#[test]
fn g29_a_thead_that_is_killed_at_any_time_leaves_whole_records_and_goes_on() {
    let dir = TempDir::new().unwrap();
    for round in 0..15 {
        let running = Running::start(run(dir.path(), COUNTS).stderr(Stdio::null()));
        let live = dir.path().join("api.log");
        let size = fs::metadata(&live).map_or(0, |meta| meta.len());
        eventually("it prints", || {
            (fs::metadata(&live).ok()?.len() > size + 1000 + 2000 * round).then_some(())
        });
        running.signal(Signal::KILL);
        drop(running);
    }
    finish(&mut run(dir.path(), "echo end"));
    let text = fs::read_to_string(dir.path().join("api.log")).unwrap();
    let mut runs = 0;
    let mut last = 0;
    for line in text.lines() {
        let Some((_, number)) = line.split_once(" out ") else {
            continue;
        };
        match number.parse::<u64>() {
            Ok(1) => (runs, last) = (runs + 1, 1),
            Ok(number) => {
                assert_eq!(number, last + 1, "{line}");
                last = number;
            }
            Err(_) => assert_eq!(number, "end"),
        }
    }
    assert_eq!(runs, 15);
}

#[test]
fn who_follows_sees_lines_as_they_come_and_ends_with_the_one_who_reads() {
    let dir = TempDir::new().unwrap();
    let mut follow = thead();
    follow
        .args(["logs", "-f", "api", "--raw", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped());
    let mut follow = Running::start(&mut follow);
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap());
    let _running = Running::start(run(dir.path(), "echo one; echo two; sleep 600").stderr(Stdio::null()));
    let mut text = String::new();
    while text != "one\ntwo\n" {
        assert_ne!(lines.read_line(&mut text).unwrap(), 0, "{text}");
    }
    // As `thead logs -f | head -2`: though nothing more comes.
    drop(lines);
    assert!(follow.wait());
}

#[test]
fn g28_a_reader_that_is_stopped_holds_no_worker_up() {
    let dir = TempDir::new().unwrap();
    let mut follow = thead();
    follow
        .args(["logs", "-f", "api", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped());
    let follow = Running::start(&mut follow);
    follow.signal(Signal::STOP);
    // 8 MB, more than all pipes and queues hold.
    finish(&mut run(
        dir.path(),
        "yes 'a line of some length, again and again' | head -n 200000; echo done",
    ));
    // The disk may have been slower than that: what was dropped is counted.
    let kept = logs(dir.path(), &["--raw", "--since", "1h"]).lines().count() as u64;
    let all = kept + dropped(dir.path());
    // Among them may be a word of thead's own.
    assert!((200_001..200_010).contains(&all), "{all}");
}

/// How many lines found no room in memory.
fn dropped(dir: &Path) -> u64 {
    let notes = said(dir, &["--grep", "lines? (was|were) dropped here", "--since", "1h"]);
    let count = |note: &String| note.split(' ').nth(2)?.parse::<u64>().ok();
    notes.iter().filter_map(count).sum()
}
