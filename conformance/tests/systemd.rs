//! The unit that `thead startup` writes, under a real systemd that is PID 1 of a namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use conformance::{eventually, thead_binary};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// A machine that has nothing but systemd and our unit. Dropping it ends all that is on it.
struct Machine {
    outer: Child,
    /// Its PID 1, as we see it.
    init: u32,
    home: tempfile::TempDir,
}

impl Machine {
    /// `None`, with the reason printed, where there can be none.
    fn boot() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new(SYSTEMD).exists() {
            println!("skipped: it takes root and an installed systemd");
            return None;
        }
        let home = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
        let unit = Command::new(thead_binary())
            .args(["startup", "--print"])
            .output()
            .unwrap();
        let unit = String::from_utf8(unit.stdout).unwrap();
        std::fs::write(home.path().join("thead.service"), unit).unwrap();
        // Where it lives, and a watchdog that does not take half a minute.
        let more = format!(
            "[Service]\nEnvironment=THEAD_HOME={}\nEnvironment=PATH={}\nWatchdogSec=3\nTimeoutStopSec=20\n[Unit]\nDefaultDependencies=no\nWants=\nAfter=\n",
            home.path().display(),
            std::env::var("PATH").unwrap()
        );
        std::fs::write(home.path().join("more.conf"), more).unwrap();
        std::fs::write(
            home.path().join("boot"),
            format!(
                "set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system/thead.service.d /run/lock
cp {0}/thead.service /run/systemd/system/
cp {0}/more.conf /run/systemd/system/thead.service.d/
printf '[Unit]\\nDescription=all there is\\nDefaultDependencies=no\\nWants=thead.service\\n' > /run/systemd/system/mini.target
mount -t proc proc /proc
export container=lxc
exec {SYSTEMD} --system --unit=mini.target --log-target=console --log-level=warning --show-status=no
",
                home.path().display()
            ),
        )
        .unwrap();
        let log = std::fs::File::create(home.path().join("console")).unwrap();
        let outer = Command::new("unshare")
            .args(["--fork", "--pid", "--mount", "--cgroup", "--kill-child", "bash"])
            .arg(home.path().join("boot"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        let mut machine = Self { outer, init: 0, home };
        for _ in 0..1000 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            if machine.outer.try_wait().unwrap().is_some() {
                println!("skipped: no systemd can be had here: {}", machine.console());
                return None;
            }
            let children = format!("/proc/{0}/task/{0}/children", machine.outer.id());
            let children = std::fs::read_to_string(children).unwrap_or_default();
            let Some(init) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
                continue;
            };
            machine.init = init;
            if machine.run(&["systemctl", "is-active", "thead"]).status.success() {
                return Some(machine);
            }
        }
        println!("skipped: systemd does not start the unit here: {}", machine.console());
        let said = machine.run(&["systemctl", "status", "thead"]);
        println!("{}", String::from_utf8_lossy(&said.stdout));
        // Where it starts anything at all, our unit must be among it.
        let works = machine.run(&["systemctl", "is-active", "mini.target"]).status.success();
        assert!(!works, "systemd works, and our unit does not");
        None
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.home.path().join("console")).unwrap_or_default()
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.init.to_string(), "--pid", "--mount", "--cgroup"])
            .args(words)
            .env("THEAD_HOME", self.home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.console());
        String::from_utf8(output.stdout).unwrap()
    }

    fn thead(&self, words: &[&str]) -> String {
        let binary = thead_binary().display().to_string();
        let mut all = vec![binary.as_str()];
        all.extend(words);
        self.ok(&all)
    }

    /// The main process of the unit, as it is called on that machine.
    fn daemon(&self) -> String {
        self.ok(&["systemctl", "show", "--property=MainPID", "--value", "thead"])
            .trim()
            .to_owned()
    }

    /// The only worker of the service, once it is ready.
    fn worker(&self) -> u64 {
        eventually("the sleeper", || {
            let output = self.run(&[&thead_binary().display().to_string(), "ls", "--json"]);
            let list: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let service = list.as_array()?.iter().find(|service| service["phase"] == "ready")?;
            service["workers"][0]["pid"].as_u64()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

#[test]
fn systemd_starts_restarts_and_watches_the_daemon_and_services_live_on() {
    let Some(machine) = Machine::boot() else { return };
    machine.thead(&["start", "--name", "sleeper", "sleep", "1000"]);
    let (worker, first) = (machine.worker(), machine.daemon());

    machine.ok(&["systemctl", "restart", "thead"]);
    let second = machine.daemon();
    assert_ne!(second, first);
    assert_eq!(machine.worker(), worker);

    // One that hangs is killed by the watchdog, and the next one takes over.
    machine.ok(&["kill", "-STOP", &second]);
    eventually("the watchdog", || {
        let now = machine.daemon();
        (now != second && now != "0").then_some(())
    });
    assert_eq!(machine.worker(), worker);

    // `thead daemon stop` ends it all; systemd would start it again, and then what ran runs again.
    machine.thead(&["daemon", "stop"]);
    eventually("another worker", || (machine.worker() != worker).then_some(()));
}
