//! Programs that are no scripts of a JavaScript runtime: started, captured, restarted, stopped, and no orphans left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use conformance::{Process, Run, Thead, client, eventually};
use rustix::process::Signal;

fn shell(text: &str) -> Run {
    Run::words(["/bin/sh", "./script.sh"]).file("script.sh", text)
}

/// Whether a process of this name belongs to it.
fn has(thead: &Thead, name: &str) -> bool {
    thead
        .census()
        .processes()
        .iter()
        .any(|process| process.name == name && !process.is_zombie())
}

#[test]
fn pythons_http_server_runs_and_stops() {
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(python) = python else {
        return eprintln!("skipped: no python3");
    };
    let port = client::free_port();
    let run = Run::words([
        python,
        "-u",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &port.to_string(),
    ]);
    let mut thead = run.file("hello.txt", "hello").start();
    assert_eq!(thead.next("started").number("instances"), 1);
    eventually("it answers", || {
        client::try_get(port, "/hello.txt")
            .ok()
            .filter(|answer| answer.body == "hello")
    });
    thead.wait_for("line", |said| said.text("text").contains("GET /hello.txt"));
    thead.next("ready");
    let end = thead.stop();
    assert_eq!(end.only("exited").number("signal"), 15, "it does not catch SIGTERM");
}

#[test]
fn a_shell_script_stops_with_its_children() {
    let mut thead = shell("sleep 1000 &\nsleep 1000\n").start();
    thead.next("ready");
    assert!(has(&thead, "sleep"));
    thead.stop();
}

#[test]
fn a_program_may_take_its_time_to_stop_and_say_how_it_ended() {
    let mut thead = shell("trap 'echo leaving; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n").start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    let end = thead.stop_cleanly();
    assert!(end.all("line").iter().any(|said| said.text("text") == "leaving"));
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_in_the_end() {
    let run = shell("trap '' TERM\necho up\nwhile :; do sleep 0.05; done\n");
    let mut thead = run.option("--drain", "300ms").option("--stop-timeout", "300ms").start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    let end = thead.stop();
    assert_eq!(end.only("exited").number("signal"), 9);
    end.only("killing");
}

#[test]
fn what_a_dead_program_leaves_behind_is_killed_before_it_is_restarted() {
    let run = shell("sleep 1000 &\nsleep 0.2\nexit 3\n").option("--restart-backoff", "400ms..400ms");
    let mut thead = run.start();
    assert_eq!(thead.next("exited").number("code"), 3);
    eventually("the orphan is gone", || (!has(&thead, "sleep")).then_some(()));
    thead.wait_for("spawned", |said| said.number("worker") == 2);
    thead.stop();
}

#[test]
fn a_daemon_that_fled_into_its_own_session_is_killed_at_the_end() {
    let mut thead = shell("setsid sleep 1000 &\necho up\nwhile :; do sleep 0.05; done\n").start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    eventually("it has fled", || {
        let processes = thead.census().processes();
        processes
            .into_iter()
            .find(|process| process.name == "sleep" && process.session == process.pid)
    });
    let end = thead.stop();
    assert!(
        end.all("warning")
            .iter()
            .any(|said| said.text("message").contains("sleep")),
        "{end:#?}"
    );
}

#[test]
fn orphans_that_end_are_collected_while_the_program_runs() {
    let text = "
        for n in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.01 & ) ; done
        echo up
        while :; do sleep 0.05; done
    ";
    let mut thead = shell(text).start();
    thead.wait_for("line", |said| said.text("text") == "up");
    thead.next("ready");
    eventually("no zombie is left", || {
        let processes = thead.census().processes();
        let ended = processes.iter().any(Process::is_zombie);
        (!ended && processes.len() <= 3).then_some(())
    });
    thead.stop();
}

#[test]
fn programs_die_with_thead() {
    let mut thead = shell("echo up\nexec sleep 1000\n").start();
    thead.wait_for("line", |said| said.text("text") == "up");
    let own = thead.process().pid;
    thead.signal(Signal::KILL);
    eventually("it is gone", || {
        thead
            .census()
            .processes()
            .iter()
            .all(|left| left.pid == own)
            .then_some(())
    });
    assert_eq!(thead.wait().signal, Some(9));
}

#[test]
fn several_instances_of_any_program() {
    let mut thead = shell("echo $$\nexec sleep 1000\n").workers(3).start();
    for worker in 1..=3 {
        let said = thead.wait_for("line", |said| said.number("worker") == worker);
        assert_eq!(said.text("text"), thead.pid_of(worker).to_string());
    }
    for _ in 0..3 {
        thead.next("ready");
    }
    let end = thead.stop();
    assert_eq!(end.all("exited").len(), 3);
}

#[test]
fn a_program_that_exits_at_once_fails_the_service_with_its_words() {
    let end = shell("echo 'no such database' >&2\nexit 4\n").end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.only("failed").json["last_lines"]
            .to_string()
            .contains("no such database")
    );
}

#[test]
fn no_descriptor_of_theads_is_inherited() {
    let mut thead = shell("ls -l /proc/self/fd\nexec sleep 1000\n").start();
    thead.next("ready");
    let end = thead.stop();
    let lines: Vec<_> = end
        .all("line")
        .iter()
        .map(|said| said.text("text").to_owned())
        .collect();
    let numbers = lines.iter().filter_map(|line| line.split_once(" -> "));
    let numbers: Vec<_> = numbers
        .map(|(entry, target)| (entry.rsplit(' ').next().unwrap(), target))
        .collect();
    assert_eq!(
        numbers.len(),
        4,
        "standard streams and the directory itself: {lines:#?}"
    );
    assert_eq!(numbers[0], ("0", "/dev/null"));
}

#[test]
fn a_reload_renews_any_program() {
    let run = shell("echo $$\nexec sleep 1000\n").option("--soak", "0");
    let mut thead = run.start();
    thead.next("ready");
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    let pids = [thead.pid_of(1), thead.pid_of(2)];
    let end = thead.stop();
    let printed: Vec<_> = end
        .all("line")
        .iter()
        .map(|said| said.text("text").to_owned())
        .collect();
    assert_eq!(printed, pids.map(|pid| pid.to_string()));
}
