//! What the kernel may do to us: calls that fail, death at any of them, pids that come round again, a clock that jumps.
//!
//! Calls are made to fail by strace, where that is installed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conformance::client::{self, free_port, get};
use conformance::{Daemon, Process, Run, Runtime, eventually, kill, thead_binary};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Answers, and can be told to end.
const SERVER: &str = "
    require('http').createServer((request, response) => {
        response.setHeader('x-pid', process.pid);
        response.end('hello');
    }).listen(process.env.PORT, '127.0.0.1');
";

/// strace on a running process. Dropping it lets the process go.
struct Fault(Child);

impl Fault {
    /// `None`, with the reason printed, where there is no strace.
    fn put_into(pid: u32, follow: bool, inject: &str) -> Option<Self> {
        let calls = inject.split(':').next().unwrap();
        let mut strace = Command::new("strace");
        if follow {
            strace.arg("-f");
        }
        // One thread after the other, so that what they start later is left alone.
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            strace.args(["-p", thread.unwrap().file_name().to_str().unwrap()]);
        }
        let traced = strace
            .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut strace) = traced else {
            println!("skipped: strace is not installed (Debian: apt-get install strace)");
            return None;
        };
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = said.next().unwrap().unwrap();
        assert!(attached.contains("attached"), "{attached}");
        // Nobody may wait for strace, which waits for who reads what it says.
        std::thread::spawn(move || said.for_each(drop));
        Some(Self(strace))
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // At SIGTERM it lets go, unless whom it traces is dead and not collected.
        kill(self.0.id(), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            if self.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The primaries of a daemon, of which there is one for each service.
fn primaries(daemon: &Daemon) -> Vec<Process> {
    let mut all = daemon.census().processes();
    all.retain(|process| process.parent == daemon.pid() && process.name == "thead");
    all
}

fn configure(daemon: &Daemon, services: &Value) {
    daemon.file("thead.json", &json!({ "service": services }).to_string());
    daemon.ok(&["apply", "thead.json"]);
}

/// Processes that come and go in the long test; the machine that makes releases has time for 10 000.
fn spawns() -> u64 {
    std::env::var("SPAWNS").map_or(3000, |count| count.parse().unwrap())
}

#[test]
fn g14_no_zombie_grows_old_however_many_come_and_go() {
    let daemon = Daemon::start();
    daemon.file(
        "orphans.py",
        "
import os, time
for _ in range(1000):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()
open('done', 'w')
while True: time.sleep(1000)
",
    );
    configure(
        &daemon,
        &json!({
            "short": {
                "run": "true",
                "instances": 8,
                "ready": { "delay": "0s" },
                "restart": {
                    "backoff": { "first": "1ms", "max": "1ms" },
                    "intensity": { "restarts": 10_000, "period": "1s" },
                },
                "reload": { "soak": "0s" },
            },
            "parent": { "run": "python3 orphans.py", "ready": { "delay": "0s" } },
        }),
    );

    let mut parents = vec![daemon.pid()];
    parents.extend(primaries(&daemon).iter().map(|primary| primary.pid));
    let mut known: std::collections::BTreeMap<u32, Instant> = std::collections::BTreeMap::new();
    let mut oldest = Duration::ZERO;
    let begun = Instant::now();
    loop {
        for _ in 0..50 {
            let now = Instant::now();
            let zombies: Vec<_> = Process::all()
                .into_iter()
                .filter(|process| process.is_zombie() && parents.contains(&process.parent))
                .map(|process| process.pid)
                .collect();
            known.retain(|pid, _| zombies.contains(pid));
            for pid in zombies {
                oldest = oldest.max(now - *known.entry(pid).or_insert(now));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let restarts = daemon.service("short")["restarts"].as_u64().unwrap();
        if restarts >= spawns() && daemon.app().join("done").exists() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "{restarts} restarts");
    }
    println!(
        "{} in {:?}; the oldest zombie was {oldest:?} old",
        spawns(),
        begun.elapsed()
    );
    // 100 ms where nothing else runs; here the other tests do.
    assert!(oldest < Duration::from_secs(1), "{oldest:?}");
    daemon.stop();
}

#[test]
fn g15_no_signal_reaches_a_stranger_where_pids_come_round_again() {
    // Before Linux 6.14 the limit is that of the whole machine.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    if version < (6, 14) || !rustix::process::geteuid().is_root() {
        println!("skipped: it takes root and Linux 6.14, where a PID namespace has a limit of its own");
        return;
    }
    let home = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
    let script = home.path().join("world.py");
    std::fs::write(&script, include_str!("../programs/recycled-pids.py")).unwrap();
    let output = Command::new("unshare")
        .args(["-pf", "--mount-proc", "--kill-child", "python3"])
        .args([&script, &thead_binary(), home.path()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let numbers: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&numbers["signals"], &numbers["failed"]),
        (&json!(0), &json!(0)),
        "{said}"
    );
    // Else it would prove nothing.
    assert!(numbers["rounds"].as_u64().unwrap() >= 5, "{said}");
}

#[test]
fn g16_how_a_worker_ended_is_told_exactly() {
    let mut daemon = Daemon::start();
    let none = Value::Null;
    let ends = [
        ("code", "exit 7", json!(7), none.clone()),
        ("segv", "ulimit -c 0; kill -SEGV $$", none.clone(), json!(11)),
        ("kill", "kill -KILL $$", none.clone(), json!(9)),
        ("pipe", "kill -PIPE $$", none.clone(), json!(13)),
        ("high", "kill -34 $$", none.clone(), json!(34)),
        // For a shell it means the same as a signal; it is none.
        ("like", "exit 137", json!(137), none.clone()),
        // While nobody but its primary is there.
        (
            "alone",
            "while ! [ -e gone ]; do sleep 0.05; done; exit 5",
            json!(5),
            none,
        ),
    ];
    for (name, end, ..) in &ends {
        let script = format!("[ -e {name} ] && exec sleep 1000; touch {name}; {end}");
        daemon.ok(&[
            "start",
            "--name",
            name,
            "--set",
            "ready.delay=0s",
            "bash",
            "-c",
            &script,
        ]);
    }
    daemon.kill();
    daemon.file("gone", "");
    daemon.start_again();
    for (name, _, code, signal) in &ends {
        let exit = eventually(name, || {
            let all = daemon.thead(&["describe", name, "--json"]).json();
            all["exits"].as_array()?.first().cloned()
        });
        assert_eq!((&exit["code"], &exit["signal"]), (code, signal), "{name}: {exit}");
    }
    daemon.stop();
}

#[test]
fn g17_a_crash_loop_costs_next_to_nothing() {
    let daemon = Daemon::start();
    configure(
        &daemon,
        &json!({ "short": {
            "run": "false",
            "ready": { "delay": "0s" },
            "restart": {
                "backoff": { "first": "100ms", "max": "1s" },
                "intensity": { "restarts": 1000, "period": "60s" },
            },
        } }),
    );

    let used = || {
        let primaries = primaries(&daemon);
        let primaries = primaries.iter().map(|primary| primary.cpu);
        primaries.sum::<Duration>() + Process::read(daemon.pid()).unwrap().cpu
    };
    let (before, begun) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(15));
    let share = (used() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let restarts = daemon.service("short")["restarts"].as_u64().unwrap();
    // 0.1 + 0.2 + 0.4 + 0.8 s, then one each second, give or take half of it.
    assert!((8..=40).contains(&restarts), "{restarts} restarts");
    assert!(share < 0.02, "{share:.4} of a core for {restarts} restarts");
    daemon.stop();
}

#[test]
fn g22_calls_that_fail_when_a_worker_is_started_leak_nothing_and_are_tried_again() {
    let daemon = Daemon::start();
    let restart =
        json!({ "intensity": { "restarts": 1000, "period": "60s" }, "backoff": { "first": "20ms", "max": "50ms" } });
    configure(
        &daemon,
        &json!({ "calm": { "run": "sleep 1000", "ready": { "delay": "0s" }, "restart": restart } }),
    );
    let primary = primaries(&daemon).remove(0);
    let before = eventually("a calm service", || {
        let service = daemon.service("calm");
        (service["phase"] == "ready").then(|| primary.descriptors())
    });
    for inject in [
        "clone,clone3,vfork,fork:error=EAGAIN",
        "clone,clone3,vfork,fork:error=ENOMEM",
        "pipe2,socketpair:error=EMFILE",
        "pidfd_open:error=EMFILE",
        "openat:error=EMFILE",
    ] {
        let old = daemon.pids("calm")[0];
        let restarts = daemon.service("calm")["restarts"].as_u64().unwrap();
        let Some(fault) = Fault::put_into(primary.pid, true, inject) else {
            return;
        };
        kill(old, Signal::KILL);
        // Some ways to start a worker need no such call; then it is simply there.
        daemon.wait_for("calm", inject, |service| {
            service["workers"][0]["pid"]
                .as_u64()
                .is_some_and(|pid| pid != u64::from(old))
                || service["restarts"].as_u64().unwrap() >= restarts + 3
        });
        let now = Process::read(primary.pid).unwrap();
        assert!(
            now.descriptors() <= before,
            "{inject}: {} of {before}",
            now.descriptors()
        );
        drop(fault);
        daemon.wait_for("calm", inject, |service| {
            service["phase"] == "ready" && service["workers"][0]["pid"] != old
        });
        eventually("as many descriptors as before", || {
            (Process::read(primary.pid).unwrap().descriptors() == before).then_some(())
        });
    }
    daemon.stop();
}

#[test]
fn g23_reloads_and_crashes_leave_no_descriptor() {
    let daemon = Daemon::start();
    daemon.file("server.js", SERVER);
    let port = free_port();
    let restart =
        json!({ "intensity": { "restarts": 1000, "period": "60s" }, "backoff": { "first": "1ms", "max": "1ms" } });
    configure(
        &daemon,
        &json!({ "web": {
            "run": "node server.js", "instances": 2, "env": { "PORT": port.to_string() }, "restart": restart,
            "reload": { "lame-duck": "0s", "soak": "0s" },
        } }),
    );
    let roles = || [daemon.pid(), primaries(&daemon)[0].pid].map(|pid| Process::read(pid).unwrap().descriptors());
    let round = || {
        daemon.ok(&["reload", "web"]);
        for _ in 0..3 {
            let old = daemon.pids("web")[0];
            kill(old, Signal::KILL);
            daemon.wait_for("web", "a new worker", |service| {
                service["ready"] == 2
                    && service["workers"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|worker| worker["pid"] != old)
            });
        }
        get(port, "/");
    };
    // What is opened once and kept is there after the first.
    round();
    let before = roles();
    for _ in 0..8 {
        round();
    }
    eventually(&format!("{before:?} descriptors again"), || {
        (roles() == before).then_some(())
    });
    daemon.stop();
}

#[test]
fn g25_out_of_descriptors_a_primary_waits_without_work_and_goes_on() {
    let mut thead = Run::program(Runtime::Node22, "http.js").workers(2).start();
    let port = thead.ready(2);
    get(port, "/");
    let primary = thead.process().pid;
    // No other number is free from now on.
    let open: BTreeSet<u32> = std::fs::read_dir(format!("/proc/{primary}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let pid = rustix::process::Pid::from_raw(primary.cast_signed());
    let mut limit = rustix::process::Rlimit {
        current: Some(free.into()),
        maximum: None,
    };
    let before = rustix::process::prlimit(pid, rustix::process::Resource::Nofile, {
        limit.maximum = hard_limit(primary);
        limit
    })
    .unwrap();
    let clients: Vec<_> = (0..50)
        .map(|_| std::net::TcpStream::connect(client::local(port)).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let (used, begun) = (Process::read(primary).unwrap().cpu, Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let share = (Process::read(primary).unwrap().cpu - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.05, "{share:.3} of a core");
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, before).unwrap();
    drop(clients);
    get(port, "/");
    thead.stop();
}

/// What a process may raise its limit of open files to.
fn hard_limit(pid: u32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().ok()
}

#[test]
fn g26_a_state_that_cannot_be_written_is_told_and_written_later() {
    let mut daemon = Daemon::start();
    daemon.ok(&["start", "--name", "first", "sleep", "1000"]);
    let Some(fault) = Fault::put_into(daemon.pid(), true, "fsync,rename,renameat,renameat2:error=ENOSPC") else {
        return;
    };
    // It runs all the same.
    daemon.ok(&["start", "--name", "second", "sleep", "1000"]);
    let told = daemon.events().into_iter().find(|event| event["event"] == "warning");
    assert!(told.unwrap()["text"].as_str().unwrap().contains("could not be saved"));
    drop(fault);
    // With the next change all of it is on disk.
    daemon.ok(&["start", "--name", "third", "sleep", "1000"]);
    daemon.kill();
    daemon.start_again();
    for name in ["first", "second", "third"] {
        assert_eq!(daemon.service(name)["phase"], "ready");
    }
    daemon.stop();
}

#[test]
fn g27_a_daemon_that_is_killed_at_any_call_of_a_save_loses_nothing() {
    let mut daemon = Daemon::start();
    daemon.ok(&["start", "--name", "other", "sleep", "1000"]);
    daemon.ok(&["start", "--name", "moved", "sleep", "1000"]);
    let mut deaths = BTreeSet::new();
    for call in ["openat", "write", "fsync", "rename", "close", "fcntl"] {
        for nth in 1..=6 {
            daemon.ok(&["start", "moved"]);
            let Some(fault) = Fault::put_into(daemon.pid(), true, &format!("{call}:signal=KILL:when={nth}")) else {
                return;
            };
            // It starts no process, which would be killed as well.
            let said = daemon.thead(&["stop", "moved"]);
            let is_dead = || Process::read(daemon.pid()).is_none_or(|process| process.is_zombie());
            // Who got no answer knows before the dead one has let go of everything.
            let died = is_dead() || said.code != Some(0);
            if died {
                eventually("its death", || is_dead().then_some(()));
            }
            drop(fault);
            daemon.kill();
            daemon.start_again();
            let at_rest = |name| {
                let rest = |service: &Value| service["phase"] == "ready" || service["phase"] == "stopped";
                daemon.wait_for(name, "rest", rest)["phase"].clone()
            };
            assert_eq!(at_rest("other"), "ready", "{call} {nth}");
            let moved = at_rest("moved");
            if said.code == Some(0) {
                assert_eq!(moved, "stopped", "{call} {nth}: it was told to be so");
            }
            let log = std::fs::read_to_string(daemon.home().join("stderr")).unwrap();
            assert!(!log.contains("is damaged"), "{call} {nth}: {log}");
            if !died {
                break;
            }
            deaths.insert(format!("{call} {nth}"));
        }
    }
    // Else it would prove nothing.
    for call in ["openat 1", "write 1", "fsync 1", "rename 1"] {
        assert!(deaths.contains(call), "it died at {deaths:?} only");
    }
    daemon.stop();
}

/// Tells the wrong time: as many seconds off as the file says that `CLOCK_OFFSET` names.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) offset = mapped;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"#;

#[test]
fn g30_a_clock_that_jumps_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
    let offset = dir.path().join("offset");
    std::fs::write(&source, CLOCK).unwrap();
    std::fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    let jump = |seconds: i64| {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&offset)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &seconds.to_ne_bytes()))
    };

    let lied_to = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("CLOCK_OFFSET={}", offset.display()),
    ];
    let mut thead = Run::program(Runtime::Node22, "http.js")
        .under(lied_to)
        .option("--heartbeat", "300ms")
        .option("--lame-duck", "0")
        .start();
    let port = thead.ready(2);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", thead.process().pid)).unwrap();
    assert!(maps.contains("clock.so"), "it knows the right time");
    let day = 24 * 60 * 60;
    for seconds in [day, -day, 400 * day, 0] {
        let pids = client::until_all(2, || [get(port, "/").pid()]);
        let exits = thead.all("exited").len();
        jump(seconds).unwrap();
        // Ten heartbeats: nobody is taken for hung.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            assert!(pids.contains(&get(port, "/").pid()), "{seconds}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(thead.all("exited").len(), exits, "{seconds}");
        // What is due now comes as ever: the pause before the next start, and a reload.
        kill(*pids.first().unwrap(), Signal::KILL);
        thead.next("exited");
        thead.next("ready");
        thead.signal(Signal::HUP);
        thead.next("reload_done");
        client::until_all(2, || {
            [get(port, "/").pid()].into_iter().filter(|pid| !pids.contains(pid))
        });
    }
    thead.stop_cleanly();
}
