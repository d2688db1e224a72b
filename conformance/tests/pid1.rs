//! As the first process of a container: `unshare -pf --mount-proc`, where that is permitted.

use std::process::Command;

use conformance::{Process, Run, Runtime, Thead, client, eventually, kill, on, programs};
use rustix::process::Signal;

const UNSHARE: [&str; 4] = ["unshare", "-pf", "--mount-proc", "--kill-child"];

fn permitted() -> bool {
    let permitted = Command::new(UNSHARE[0])
        .args(&UNSHARE[1..])
        .arg("true")
        .status()
        .is_ok_and(|status| status.success());
    if !permitted {
        eprintln!("skipped: new PID namespaces are not permitted here");
    }
    permitted
}

/// thead as the host sees it: the child of unshare.
fn first(thead: &Thead) -> Process {
    let unshare = thead.process().pid;
    eventually("thead runs", || {
        let processes = thead.census().processes();
        processes
            .into_iter()
            .find(|process| process.parent == unshare && process.name == "thead")
    })
}

fn pid_1_serves_and_stops_by_sigterm(runtime: Runtime) {
    if !permitted() {
        return;
    }
    let mut thead = Run::program(runtime, "http.js").under(UNSHARE).start();
    let port = thead.ready(2);
    assert_eq!(thead.next("started").number("pid"), 1);
    for _ in 0..4 {
        assert_eq!(client::get(port, "/").status, 200);
    }
    kill(first(&thead).pid, Signal::TERM);
    let end = thead.wait();
    assert_eq!(end.code, Some(0), "{end:#?}");
    // Bun's workers are told by the signal.
    let (how, value) = if runtime == Runtime::Bun {
        ("signal", 15)
    } else {
        ("code", 0)
    };
    assert!(end.all("exited").iter().all(|gone| gone.json[how] == value), "{end:#?}");
}

fn pid_1_passes_the_exit_code_on(runtime: Runtime) {
    if !permitted() {
        return;
    }
    let run = Run::program(runtime, "throws-at-start.js").under(UNSHARE);
    assert_eq!(run.option("--restart", "never").workers(1).end().code, Some(1));
    let text = "process.exit(42)";
    let run = Run::script(runtime, text)
        .under(UNSHARE)
        .option("--restart", "never")
        .workers(1);
    assert_eq!(run.end().code, Some(42));
}

fn shell(text: &str) -> Run {
    Run::words(["/bin/sh", "./script.sh"])
        .file("script.sh", text)
        .under(UNSHARE)
}

#[test]
fn pid_1_collects_orphans_that_end() {
    if !permitted() {
        return;
    }
    let text = "
        for n in 1 2 3 4 5 6 7 8 9 10; do (setsid sleep 0.01 & ) ; done
        echo up
        while :; do sleep 0.05; done
    ";
    let mut thead = shell(text).start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    eventually("no zombie is left", || {
        let processes = thead.census().processes();
        // unshare, thead, the shell and its sleep.
        (processes.len() <= 4 && !processes.iter().any(Process::is_zombie)).then_some(())
    });
    kill(first(&thead).pid, Signal::TERM);
    assert_eq!(thead.wait().code, Some(0));
}

#[test]
fn pid_1_kills_what_is_left_when_it_stops() {
    if !permitted() {
        return;
    }
    let mut thead = shell("setsid sleep 1000 &\necho up\nwhile :; do sleep 0.05; done\n").start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    kill(first(&thead).pid, Signal::TERM);
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
    assert!(
        end.all("warning")
            .iter()
            .any(|said| said.text("message").contains("sleep")),
        "{end:#?}"
    );
}

#[test]
fn pid_1_can_be_interrupted_twice() {
    if !permitted() {
        return;
    }
    let run = Run::words([programs().join("http.js").display()])
        .under(UNSHARE)
        .workers(1)
        .env("PORT", 0);
    let mut thead = run.option("--runtime", Runtime::Node22.path().display()).start();
    let port = thead.ready(1);
    let begun = client::begin(port, 60_000);
    let pid = first(&thead).pid;
    kill(pid, Signal::TERM);
    thead.next("stopping");
    kill(pid, Signal::TERM);
    assert_eq!(thead.wait().code, Some(143));
    assert!(!begun.finishes());
}

on!([node18 Node18, node26 Node26, bun Bun, deno Deno]: pid_1_serves_and_stops_by_sigterm);
on!([node22 Node22]: pid_1_passes_the_exit_code_on);
