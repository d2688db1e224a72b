//! Stopping, scaling, and what else the signals to thead mean.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;

use conformance::{PATIENCE, Run, Runtime, Thead, client, eventually, on};
use rustix::process::Signal;

/// A keep-alive connection and what one request on it brings.
fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let (mut answer, mut piece) = (String::new(), [0; 1024]);
    while !answer.ends_with('}') {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    Ok(answer)
}

fn at_sigterm_requests_are_finished_and_clients_are_told_to_leave(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").option("--lame-duck", "1s").start();
    let port = thead.ready(2);
    let mut kept = TcpStream::connect(client::local(port)).unwrap();
    assert!(ask(&mut kept, "/").unwrap().contains("200 OK"));
    let slow = client::begin(port, 2000);
    thead.signal(Signal::TERM);
    for _ in 0..2 {
        thead.next("draining");
    }
    // During the lame-duck time everybody is served, and told to come no more.
    // (The order to drain may reach the worker after the next request.)
    let told = |answer: String| answer.to_lowercase().contains("connection: close").then_some(());
    eventually("the worker tells its client to leave", || {
        told(ask(&mut kept, "/").unwrap())
    });
    assert_eq!(client::get(port, "/").status, 200);
    assert!(slow.finishes());
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
    assert_eq!(end.only("finished").text("outcome"), "stopped");
    assert!(end.all("exited").iter().all(|gone| gone.json["code"] == 0), "{end:#?}");
    client::try_get(port, "/").unwrap_err();
}

fn at_sigterm_deno_finishes_requests_and_closes_the_port(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").start();
    let port = thead.ready(2);
    let begun = [client::begin(port, 1000), client::begin(port, 1000)];
    thead.signal(Signal::TERM);
    assert!(begun.into_iter().all(client::Begun::finishes));
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
    assert!(end.all("exited").iter().all(|gone| gone.json["code"] == 0), "{end:#?}");
}

fn a_second_signal_stops_at_once(runtime: Runtime) {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut thead = Run::program(runtime, "http.js").start();
        let port = thead.ready(2);
        let mut stuck = TcpStream::connect(client::local(port)).unwrap();
        write!(stuck, "GET /slow?ms=60000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        thead.signal(signal);
        thead.next("stopping");
        thead.signal(signal);
        let end = thead.wait();
        assert_eq!(end.code, Some(code), "{end:#?}");
        let last = end.said.last().unwrap();
        assert_eq!(
            (last.event(), last.number("code")),
            ("exit", u64::from(code.unsigned_abs()))
        );
    }
}

fn g2_a_request_longer_than_the_drain_time_is_cut(runtime: Runtime) {
    let run = Run::program(runtime, "http.js").option("--drain", "500ms").workers(1);
    let mut thead = run.start();
    let port = thead.ready(1);
    let slow = client::begin(port, 60_000);
    thead.signal(Signal::TERM);
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
    assert!(!slow.finishes());
    end.only("terminating");
}

fn workers(thead: &Thead, runtime: Runtime) -> usize {
    let processes = thead.census().processes();
    let runtimes = processes
        .iter()
        .filter(|process| process.name != "thead" && !process.is_zombie());
    let count = runtimes.count();
    assert!(count > 0, "{runtime}");
    count
}

fn ttin_and_ttou_are_one_worker_more_and_one_less(runtime: Runtime) {
    let mut thead = Run::program(runtime, "http.js").workers(1).start();
    let port = thead.ready(1);
    for count in [2, 3] {
        thead.signal(Signal::TTIN);
        assert_eq!(thead.next("scaled").number("to"), count);
        thead.next("ready");
    }
    assert_eq!(workers(&thead, runtime), 3);
    for count in [2, 1] {
        thead.signal(Signal::TTOU);
        assert_eq!(thead.next("scaled").number("to"), count);
        assert_eq!(thead.next("exited").json["code"], 0);
    }
    thead.signal(Signal::TTOU);
    thead.next("refused");
    assert_eq!(workers(&thead, runtime), 1, "the last one stays");
    assert_eq!(client::get(port, "/").status, 200);
    thead.stop_cleanly();
}

fn usr2_is_passed_on(runtime: Runtime) {
    let text = "
        process.on('SIGUSR2', () => console.log('heard'));
        require('node:http').createServer().listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let mut thead = Run::script(runtime, text).start();
    thead.ready(2);
    thead.signal(Signal::USR2);
    for _ in 0..2 {
        thead.wait_for("line", |said| said.text("text") == "heard");
    }
    thead.stop_cleanly();
}

fn ctrl_c_on_a_terminal_reaches_thead_alone(runtime: Runtime) {
    // What the terminal does: SIGINT to the whole process group.
    let mut thead = Run::program(runtime, "http.js").start();
    let port = thead.ready(2);
    let slow = client::begin(port, 1000);
    let group = rustix::process::Pid::from_raw(thead.process().pid.cast_signed()).unwrap();
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    assert!(slow.finishes(), "the request is finished");
    let end = thead.wait();
    assert_eq!(end.code, Some(0));
}

fn a_service_that_never_starts_fails_with_the_reason_and_the_last_lines(runtime: Runtime) {
    let end = Run::program(runtime, "throws-at-start.js").end();
    assert_eq!(end.code, Some(1));
    let failed = end.only("failed");
    assert!(
        failed.json["last_lines"]
            .to_string()
            .contains("throws-at-start.js throws at start"),
        "{}",
        failed.json
    );
    assert!(failed.text("reason").contains("exited with code 1"), "{}", failed.json);
    assert_eq!(end.said.last().unwrap().event(), "exit");

    let people = Run::program(runtime, "throws-at-start.js").human().end();
    assert_eq!(people.code, Some(1));
    let (_, reason) = people.stderr.rsplit_once("has failed").unwrap();
    assert!(
        reason.contains("exited with code 1") && reason.contains("throws at start"),
        "{}",
        people.stderr
    );
}

fn a_crash_loop_ends_when_the_restarts_are_spent(runtime: Runtime) {
    let run = Run::program(runtime, "crash.js")
        .workers(1)
        .option("--restart-limit", "2/60s");
    let mut thead = run.option("--restart-backoff", "1ms..1ms").start();
    let port = thead.ready(1);
    for restarts in 1..=3 {
        client::try_get(port, "/throw").unwrap_err();
        assert_eq!(thead.next("exited").json["code"], 1);
        if restarts < 3 {
            assert_eq!(thead.next("restart").number("restarts"), restarts);
            thead.next("ready");
        }
    }
    let end = thead.wait();
    assert_eq!(end.code, Some(1));
    let failed = end.only("failed");
    assert!(
        failed.text("reason").contains("2 restarts within 60s are spent"),
        "{}",
        failed.json
    );
    assert!(
        failed.json["last_lines"].to_string().contains("asked to throw"),
        "{}",
        failed.json
    );
}

fn a_crash_of_one_worker_does_not_touch_the_other(runtime: Runtime) {
    let mut thead = Run::program(runtime, "crash.js").start();
    let port = thead.ready(2);
    client::try_get(port, "/exit?code=9").unwrap_err();
    let dead = thead.next("exited");
    assert_eq!((dead.number("code"), dead.json["expected"].clone()), (9, false.into()));
    let ready = thead.next("ready");
    assert_eq!(ready.number("worker"), 3);
    assert_eq!(
        thead.all("spawned")[2].number("slot"),
        dead.number("slot"),
        "it takes the place of the dead"
    );
    let end = thead.stop_cleanly();
    assert_eq!(end.all("spawned").len(), 3);
}

fn restart_never_and_on_failure_pass_the_exit_code_on(runtime: Runtime) {
    let run = |policy: &str, text: &str| {
        Run::script(runtime, text)
            .workers(1)
            .option("--restart", policy)
            .option("--restart-backoff", "1ms..1ms")
            .end()
    };
    assert_eq!(run("never", "process.exit(5)").code, Some(5));
    assert_eq!(run("never", "process.kill(process.pid, 'SIGKILL')").code, Some(137));
    let done = run("never", "process.exit(0)");
    assert_eq!(done.code, Some(0));
    assert_eq!(done.only("finished").text("outcome"), "done");
    assert_eq!(run("on-failure", "process.exit(0)").all("spawned").len(), 1);
    let failed = run("on-failure", "process.exit(5)");
    assert_eq!(failed.code, Some(1));
    assert!(failed.all("spawned").len() > 1);
}

fn a_worker_that_is_never_ready_fails_if_it_must_listen(runtime: Runtime) {
    let run = Run::program(runtime, "never-listens.js")
        .workers(1)
        .option("--ready", "listening");
    let end = run
        .option("--ready-timeout", "1s")
        .option("--restart-backoff", "1ms..1ms")
        .end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.only("failed").text("reason").contains("not ready"),
        "{:?}",
        end.only("failed")
    );
}

fn a_worker_that_does_not_listen_may_be_no_server(runtime: Runtime) {
    let run = Run::program(runtime, "never-listens.js")
        .workers(1)
        .option("--ready-timeout", "1s");
    let mut thead = run.start();
    thead.next("not_listening");
    thead.next("ready");
    thead.stop();
}

fn ready_can_be_a_message_as_with_pm2(runtime: Runtime) {
    let run = Run::program(runtime, "ready-message.js")
        .env("READY_AFTER", 600)
        .option("--ready", "message");
    let mut thead = run.start();
    for _ in 0..2 {
        assert!(thead.next("ready").number("took_ms") >= 600);
    }
    thead.stop();
}

on!(nodes:
    at_sigterm_requests_are_finished_and_clients_are_told_to_leave,
    usr2_is_passed_on,
    ready_can_be_a_message_as_with_pm2,
);
on!(nodes_and_deno:
    a_second_signal_stops_at_once,
    g2_a_request_longer_than_the_drain_time_is_cut,
    ttin_and_ttou_are_one_worker_more_and_one_less,
    a_service_that_never_starts_fails_with_the_reason_and_the_last_lines,
    a_crash_of_one_worker_does_not_touch_the_other,
);
on!([deno Deno]: at_sigterm_deno_finishes_requests_and_closes_the_port);
on!([node22 Node22]:
    ctrl_c_on_a_terminal_reaches_thead_alone,
    a_crash_loop_ends_when_the_restarts_are_spent,
    restart_never_and_on_failure_pass_the_exit_code_on,
    a_worker_that_is_never_ready_fails_if_it_must_listen,
    a_worker_that_does_not_listen_may_be_no_server,
);
