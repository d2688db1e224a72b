//! Workers that hang, and workers that are asked whether they are ready.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use conformance::client::{self, Answer};
use conformance::{PATIENCE, Run, Runtime, Thead, on};
use rustix::process::Signal;

/// Two heartbeats are long enough for a machine that other tests load too.
const HEARTBEAT: Duration = Duration::from_millis(1500);

/// Hangs in several ways when it is asked to, and tells when it begins.
const HANGS: &str = "
    const { writeSync } = require('node:fs');
    function spinForEver() { for (;;); }
    const hang = {
        '/spin': spinForEver,
        '/wait': () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
        // Nobody writes to the other end.
        '/read': () => require('node:child_process').execFileSync('sleep', ['1000']),
    };
    require('node:http').createServer((req, res) => {
        if (hang[req.url]) {
            writeSync(1, 'hangs\\n');
            hang[req.url]();
        }
        res.setHeader('x-pid', process.pid).end('hello');
    }).listen(Number(process.env.PORT), '127.0.0.1');
";

fn beating(run: Run) -> Run {
    run.option("--heartbeat", format!("{}ms", HEARTBEAT.as_millis()))
}

/// Asks for this path, from which nothing comes back.
fn ask(port: u16, path: &'static str) -> JoinHandle<std::io::Result<Answer>> {
    std::thread::spawn(move || client::try_get(port, path))
}

/// A worker hangs from now on: it is noticed in time, ended and replaced, and nobody else waits.
fn is_replaced(thead: &mut Thead, port: u16, worker: u64, since: Instant) -> String {
    let stuck = thead.wait_for("terminating", |said| said.number("worker") == worker);
    let took = since.elapsed();
    assert!(
        took <= HEARTBEAT * 2 + Duration::from_millis(500),
        "noticed after {took:?}"
    );
    assert!(stuck.text("why").contains("no heartbeat for 2.25s"), "{}", stuck.json);
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(client::get(port, "/").status, 200);
        assert!(begun.elapsed() < PATIENCE / 4, "nobody waits for one that hangs");
    }
    let gone = thead.wait_for("exited", |said| said.number("worker") == worker);
    assert_eq!(gone.text("cause"), "was stuck: no heartbeat for 2.25s");
    thead.ready(1);
    thead
        .all("stack")
        .last()
        .map(|said| said.json["frames"].to_string())
        .unwrap_or_default()
}

fn hangs_at(runtime: Runtime, path: &'static str) -> String {
    let mut thead = beating(Run::script(runtime, HANGS)).start();
    let port = thead.ready(2);
    let asked = ask(port, path);
    let worker = thead
        .wait_for("line", |said| said.text("text") == "hangs")
        .number("worker");
    let frames = is_replaced(&mut thead, port, worker, Instant::now());
    asked.join().unwrap().unwrap_err();
    thead.stop_cleanly();
    frames
}

fn g19_a_hung_node_worker_is_replaced_within_two_heartbeats_and_says_where_it_was(runtime: Runtime) {
    let frames = hangs_at(runtime, "/spin");
    assert!(frames.starts_with("[\"spinForEver ("), "{frames}");
    assert!(frames.contains("script.cjs:3:"), "{frames}");
}

fn g19_a_worker_in_a_deadlock_is_replaced_and_says_where_it_was(runtime: Runtime) {
    let frames = hangs_at(runtime, "/wait");
    assert!(frames.contains("script.cjs:6:"), "{frames}");
}

fn g19_a_worker_that_waits_for_another_process_says_nothing_and_takes_that_along(runtime: Runtime) {
    // What it had started ends with its group: `stop_cleanly` looks whether anything is left.
    assert_eq!(hangs_at(runtime, "/read"), "");
}

fn g19_a_stopped_worker_is_replaced_within_two_heartbeats(runtime: Runtime) {
    let mut thead = beating(Run::script(runtime, HANGS)).start();
    let port = thead.ready(2);
    conformance::kill(thead.pid_of(1), Signal::STOP);
    is_replaced(&mut thead, port, 1, Instant::now());
    // SIGABRT waits until it goes on, which it never does.
    let gone = thead.all("exited");
    assert_eq!(gone.last().unwrap().number("signal"), 9);
    thead.stop_cleanly();
}

fn a_worker_that_is_busy_at_its_start_is_given_time(runtime: Runtime) {
    let text = format!("const end = Date.now() + 2500; while (Date.now() < end); {HANGS}");
    let run = Run::script(runtime, &text).option("--heartbeat", "500ms");
    let mut thead = run.start();
    thead.ready(2);
    assert_eq!(thead.all("terminating").len(), 0);
    thead.stop_cleanly();
}

/// Ends by itself when nothing but its channel is left; says what it has seen of the heartbeats.
const IDLE: &str = "
    const seen = [];
    process.on('message', (message) => seen.push(message));
    process.channel.unref();
    setTimeout(() => console.log(JSON.stringify({ seen, env: process.env.THEAD_HEARTBEAT, debug: process.debugPort })), 900);
";

fn heartbeats_keep_no_program_alive_and_are_seen_by_none(runtime: Runtime) {
    let run = Run::script(runtime, IDLE).workers(1).option("--restart", "never");
    let end = run
        .option("--heartbeat", "100ms")
        .option("--ready-timeout", "300ms")
        .end();
    assert_eq!(end.code, Some(0), "{end:#?}");
    let lines = end.all("line");
    assert_eq!(lines[0].text("text"), r#"{"seen":[],"debug":0}"#);
    assert!(end.all("terminating").is_empty(), "it was alive all the time");
}

fn who_waits_for_us_to_read_what_it_prints_is_not_stuck(runtime: Runtime) {
    let text = "const line = 'x'.repeat(1 << 14) + '\\n'; setImmediate(function print() {
        require('node:fs').writeSync(1, line);
        setImmediate(print);
    });";
    let run = Run::script(runtime, text)
        .workers(1)
        .unread()
        .option("--ready", "100ms");
    let mut thead = run.option("--heartbeat", "200ms").start();
    let pid = thead.process().pid;
    let workers = |thead: &Thead| -> Vec<u32> {
        let pids = thead.census().processes().into_iter().map(|process| process.pid);
        pids.filter(|other| *other != pid).collect()
    };
    let before = conformance::eventually("the worker", || Some(workers(&thead)).filter(|pids| !pids.is_empty()));
    // The one thing here that has to be watched for a while: that nothing happens.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(workers(&thead), before);
    drop(thead.take_stdout());
    thead.signal(Signal::TERM);
    thead.wait();
}

fn who_debugs_a_program_may_stop_it(runtime: Runtime) {
    let node = runtime.path().display().to_string();
    let run = Run::words([node, "--inspect=127.0.0.1:0".into(), "script.cjs".into()]);
    let run = run.file("script.cjs", HANGS).workers(1).env("PORT", 0);
    let mut thead = run
        .option("--heartbeat", "200ms")
        .option("--drain", "0")
        .option("--stop-timeout", "0")
        .start();
    let port = thead.ready(1);
    let asked = ask(port, "/wait");
    thead.wait_for("line", |said| said.text("text") == "hangs");
    // The one thing here that has to be watched for a while: that nothing happens.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(thead.all("terminating").len(), 0);
    thead.stop();
    asked.join().unwrap().unwrap_err();
}

/// Answers with 503 for a while; of the second generation for ever.
const SICK: &str = "
    const begun = Date.now();
    const { existsSync } = require('node:fs');
    const server = require('node:http').createServer((req, res) => {
        const sick = existsSync('sick') || Date.now() - begun < 1200;
        if (req.url === '/healthz') res.statusCode = sick ? 503 : 200;
        res.setHeader('x-pid', process.pid).setHeader('x-peer', req.socket.remoteAddress).end('hello');
    });
    server.listen(Number(process.env.PORT), '127.0.0.1');
";

fn g4_a_worker_is_ready_when_it_answers_so_and_each_is_asked_for_itself(runtime: Runtime) {
    let port = client::free_port();
    let run = Run::script(runtime, SICK).env("PORT", port);
    let mut thead = run
        .option("--ready", format!("http://127.0.0.1:{port}/healthz"))
        .option("--ready-timeout", "4s")
        .start();
    for _ in 0..2 {
        let took = thead.next("ready").number("took_ms");
        assert!((1000..4000).contains(&took), "ready after {took} ms");
    }
    let told = thead.all("probe_failed");
    let sick =
        |said: &conformance::Said| said.text("reason") == "/healthz is answered with HTTP/1.1 503 Service Unavailable";
    assert!(told.iter().any(sick), "{told:?}");
    let old = client::until_all(2, || [client::get(port, "/").pid()]);
    // The new ones are asked, and not those that serve.
    std::fs::write(thead.dir().join("sick"), "").unwrap();
    thead.signal(Signal::HUP);
    assert!(
        thead
            .next("reload_aborted")
            .text("reason")
            .contains("was not ready within 4s")
    );
    std::fs::remove_file(thead.dir().join("sick")).unwrap();
    assert_eq!(client::until_all(2, || [client::get(port, "/").pid()]), old);
    thead.signal(Signal::HUP);
    thead.next("reload_done");
    assert!(client::until_all(2, || [client::get(port, "/").pid()]).is_disjoint(&old));
    thead.stop_cleanly();
}

fn a_worker_is_ready_when_it_takes_a_connection(runtime: Runtime) {
    let text = "
        const server = require('node:net').createServer((socket) => socket.end());
        setTimeout(() => server.listen(Number(process.env.PORT), '127.0.0.1'), 700);
    ";
    let port = client::free_port();
    let run = Run::script(runtime, text).workers(1).env("PORT", port);
    let mut thead = run.option("--ready", format!("tcp://127.0.0.1:{port}")).start();
    let took = thead.next("ready").number("took_ms");
    assert!((700..5000).contains(&took), "ready after {took} ms");
    let told = thead.all("probe_failed");
    assert!(told[0].text("reason").contains("refused"), "{told:?}");
    thead.stop_cleanly();
}

on!(nodes:
    g19_a_hung_node_worker_is_replaced_within_two_heartbeats_and_says_where_it_was,
    g19_a_worker_in_a_deadlock_is_replaced_and_says_where_it_was,
    g19_a_stopped_worker_is_replaced_within_two_heartbeats,
    a_worker_that_is_busy_at_its_start_is_given_time,
    heartbeats_keep_no_program_alive_and_are_seen_by_none,
    who_waits_for_us_to_read_what_it_prints_is_not_stuck,
    who_debugs_a_program_may_stop_it,
    g4_a_worker_is_ready_when_it_answers_so_and_each_is_asked_for_itself,
    a_worker_is_ready_when_it_takes_a_connection,
);
on!([node22 Node22]: g19_a_worker_that_waits_for_another_process_says_nothing_and_takes_that_along);
