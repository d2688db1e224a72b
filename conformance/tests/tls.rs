//! TLS between several workers: a session begun with one is resumed by another.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use conformance::{Run, Runtime, client, on};
use rustix::process::Signal;
use serde_json::Value;

/// The answers, and the session to resume.
fn ask(port: u16, count: usize, session: &str) -> (Vec<Value>, String) {
    let said = client::script("https.js", &[port.to_string(), count.to_string(), session.into()]);
    (
        said["answers"].as_array().unwrap().clone(),
        said["session"].as_str().unwrap().to_owned(),
    )
}

fn session_tickets_of_one_worker_are_good_for_all(runtime: Runtime) {
    let mut thead = Run::program(runtime, "https.js").start();
    let port = thead.ready(2);
    let (answers, session) = ask(port, 1, "");
    assert_eq!(answers[0]["resumed"], false);
    client::until_all(2, || {
        let (answers, _) = ask(port, 4, &session);
        assert!(answers.iter().all(|answer| answer["resumed"] == true), "{answers:?}");
        answers.into_iter().map(|answer| answer["worker"].as_u64())
    });
    thead.stop_cleanly();
}

/// Node forgets the keys with the last worker.
fn session_tickets_outlive_all_workers(runtime: Runtime) {
    let mut thead = Run::program(runtime, "https.js").start();
    let port = thead.ready(2);
    let (_, session) = ask(port, 1, "");
    for worker in 1..=2 {
        conformance::kill(thead.pid_of(worker), Signal::KILL);
        thead.next("exited");
    }
    thead.ready(2);
    let (answers, _) = ask(port, 2, &session);
    assert!(answers.iter().all(|answer| answer["resumed"] == true), "{answers:?}");
    thead.stop_cleanly();
}

on!(nodes: session_tickets_of_one_worker_are_good_for_all, session_tickets_outlive_all_workers);
