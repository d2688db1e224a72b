//! `thead::Worker`: a script in a process is what it is in a browser's dedicated worker, and a function in a thread has the
//! same interface.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use conformance::{PATIENCE, Runtime, on};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use thead::wire::v8::Kind;
use thead::{ExitStatus, HandleKind, Worker, WorkerEvent, WorkerMessage, WorkerScope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs a test within a runtime, in time.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let in_time = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.is_ok() });
    assert!(in_time, "not done after {PATIENCE:?}");
}

/// A script on disk.
struct Script {
    _dir: TempDir,
    path: PathBuf,
}

impl Script {
    fn new(name: &str, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    fn start(&self, runtime: Runtime) -> Worker {
        Worker::with_runtime(runtime.path(), &[], &self.path, "the name").unwrap()
    }
}

async fn message(worker: &mut Worker) -> WorkerMessage {
    match worker.next().await {
        Some(WorkerEvent::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

async fn json_of(worker: &mut Worker) -> Value {
    message(worker).await.parse().unwrap()
}

async fn exit(worker: &mut Worker) -> ExitStatus {
    match worker.next().await {
        Some(WorkerEvent::Exit(status)) => status,
        other => panic!("{other:?}"),
    }
}

fn messages_go_both_ways(runtime: Runtime) {
    run(async {
        let script = Script::new(
            "w.js",
            "onmessage = (event) => postMessage([event.data, event.target === self, name])",
        );
        let mut worker = script.start(runtime);
        for n in 0..100 {
            worker.post_message(&json!({ "n": n })).await.unwrap();
        }
        for n in 0..100 {
            assert_eq!(json_of(&mut worker).await, json!([{ "n": n }, true, "the name"]));
        }
        assert_eq!(worker.terminate().await.signal(), Some(9));
    });
}

fn the_scope_is_a_browsers(runtime: Runtime) {
    let text = "
        'use strict';
        importScripts('./lib.js');
        let heard = 0;
        const once = () => heard++;
        self.addEventListener('message', once, { once: true });
        addEventListener('message', ({ data, type }) => postMessage({ data, type, heard, imported, self: self === globalThis }));
        self.onmessage = function ({ data }) { if (data === 'close') { postMessage('last'); close(); postMessage('never'); } };
    ";
    run(async {
        let script = Script::new("w.js", text);
        std::fs::write(script.path.with_file_name("lib.js"), "var imported = 'yes'").unwrap();
        let mut worker = script.start(runtime);
        worker.post_message("one").await.unwrap();
        let first = json_of(&mut worker).await;
        assert_eq!(
            first,
            json!({ "data": "one", "type": "message", "heard": 1, "imported": "yes", "self": true })
        );
        worker.post_message("close").await.unwrap();
        assert_eq!(json_of(&mut worker).await["heard"], 1);
        assert_eq!(json_of(&mut worker).await, "last");
        let status = loop {
            match worker.next().await {
                // What is posted between close() and the end of the task may come or not.
                Some(WorkerEvent::Message(_)) => {}
                Some(WorkerEvent::Exit(status)) => break status,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(status, ExitStatus::Code(0));
        assert!(worker.next().await.is_none());
        assert_eq!(worker.wait().await, ExitStatus::Code(0));
        assert!(worker.post_message("too late").await.is_err());
    });
}

fn values_arrive_whole(runtime: Runtime) {
    let text =
        "postMessage({ map: new Map([[1, 'one']]), date: new Date(1000), big: 12345678901234567890n, none: undefined,
        bytes: new Uint8Array([1, 2, 3]), error: new RangeError('too far') });
        onmessage = ({ data }) => postMessage(data instanceof Map && data.get('k') instanceof Uint8Array)";
    run(async {
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        let value = message(&mut worker).await.value().unwrap();
        let kind = |name| value.get(name).unwrap().kind();
        assert!(matches!(kind("map"), Kind::Map(_)));
        assert!(matches!(kind("date"), Kind::Date(ms) if ms == 1000.0));
        assert!(matches!(kind("big"), Kind::BigInt(_)));
        assert!(value.get("none").unwrap().is_undefined());
        assert_eq!(&value.get("bytes").unwrap().as_bytes().unwrap()[..], [1, 2, 3]);
        assert!(matches!(kind("error"), Kind::Error(_)));
        worker.terminate().await;
    });
}

fn deep_and_circular_values_arrive_too(runtime: Runtime) {
    let text = "const self = {}; self.self = self; postMessage(self);
        let deep = 1; for (let n = 0; n < 900; n++) deep = [deep]; postMessage(deep);
        process.send({ not: 'posted' })";
    run(async {
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        let circle = message(&mut worker).await.value().unwrap();
        assert_eq!(circle.get("self").unwrap().id(), circle.root().id());
        assert!(message(&mut worker).await.value().unwrap().root().as_array().is_some());
        assert!(matches!(worker.next().await, Some(WorkerEvent::MessageError(_))));
        worker.terminate().await;
    });
}

fn a_transferred_buffer_is_gone_where_it_was(runtime: Runtime) {
    let text = "const bytes = new Uint8Array([7, 8]); postMessage(bytes, [bytes.buffer]); postMessage(bytes.length);
        try { postMessage(() => {}) } catch (error) { postMessage(error.name) }";
    run(async {
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        assert_eq!(
            &message(&mut worker).await.value().unwrap().root().as_bytes().unwrap()[..],
            [7, 8]
        );
        assert_eq!(json_of(&mut worker).await, 0);
        assert!(json_of(&mut worker).await.as_str().unwrap().contains("Error"));
        assert_eq!(
            exit(&mut worker).await,
            ExitStatus::Code(0),
            "it does not listen, so it is done"
        );
    });
}

fn an_exception_is_told_and_the_worker_lives_on(runtime: Runtime) {
    let text =
        "onmessage = ({ data }) => {\n  if (data === 'throw') throw new TypeError('wrong');\n  postMessage(data);\n}";
    run(async {
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        worker.post_message("throw").await.unwrap();
        worker.post_message("after").await.unwrap();
        let Some(WorkerEvent::Error(error)) = worker.next().await else {
            panic!()
        };
        assert_eq!(error.message, "Uncaught TypeError: wrong");
        assert!(error.filename.ends_with("/w.js"), "{error:?}");
        assert_eq!((error.lineno, error.colno), (2, 31));
        assert_eq!(json_of(&mut worker).await, "after");
        worker.terminate().await;
    });
}

fn an_exception_can_be_handled_in_the_worker(runtime: Runtime) {
    let text = "onerror = (message, file, line) => { postMessage([message, line]); return true };
        onmessage = () => { throw new Error('mine') }";
    run(async {
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        worker.post_message(&()).await.unwrap();
        assert_eq!(json_of(&mut worker).await, json!(["Uncaught Error: mine", 2]));
        worker.terminate().await;
    });
}

fn a_script_that_cannot_begin_is_an_error_and_an_exit(runtime: Runtime) {
    run(async {
        let script = Script::new("w.js", "\nthis is not JavaScript");
        let mut worker = script.start(runtime);
        let Some(WorkerEvent::Error(error)) = worker.next().await else {
            panic!()
        };
        assert!(error.message.starts_with("Uncaught SyntaxError"), "{error:?}");
        assert_eq!(error.lineno, 2, "{error:?}");
        assert_eq!(exit(&mut worker).await, ExitStatus::Code(1));
    });
}

fn messages_that_come_before_a_module_listens_are_kept(runtime: Runtime) {
    let text = "await new Promise((done) => setTimeout(done, 300)); onmessage = ({ data }) => postMessage(data);";
    run(async {
        let script = Script::new("w.mjs", text);
        let mut worker = script.start(runtime);
        worker.post_message("early").await.unwrap();
        assert_eq!(json_of(&mut worker).await, "early");
        worker.terminate().await;
    });
}

fn a_worker_that_does_nothing_but_count_is_terminated(runtime: Runtime) {
    run(async {
        let script = Script::new("w.js", "postMessage('begun'); for (;;);");
        let mut worker = script.start(runtime);
        // Node writes to the channel before it goes on.
        assert_eq!(json_of(&mut worker).await, "begun");
        assert_eq!(worker.terminate().await.signal(), Some(9));
    });
}

fn a_dropped_worker_ends(runtime: Runtime) {
    run(async {
        let script = Script::new("w.js", "onmessage = () => {}; postMessage(process.pid)");
        let mut worker = script.start(runtime);
        let pid = json_of(&mut worker).await;
        drop(worker);
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

fn a_socket_can_be_transferred(runtime: Runtime) {
    let text = "onmessage = ({ data, handle }) => { handle.write('hello ' + data); handle.once('data', (bytes) => {
        postMessage('got ' + bytes); handle.end() }) }";
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        let accepted = accepted.into_std().unwrap();
        worker.transfer("socket", HandleKind::Socket, accepted).await.unwrap();
        let mut text = [0; 12];
        client.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello socket");
        client.write_all(b"bytes").await.unwrap();
        assert_eq!(json_of(&mut worker).await, "got bytes");
        worker.terminate().await;
    });
}

fn callbacks_get_what_has_come_and_what_comes(runtime: Runtime) {
    run(async {
        let text =
            "postMessage(1); onmessage = ({ data }) => { if (data === 3) throw new Error('three'); postMessage(data) }";
        let script = Script::new("w.js", text);
        let mut worker = script.start(runtime);
        let (sink, heard) = mpsc::channel();
        let errors = sink.clone();
        // So that one event has come before anybody listens.
        tokio::time::sleep(Duration::from_millis(200)).await;
        worker.on_error(move |error| errors.send(error.message).unwrap());
        worker.on_message(move |message| sink.send(message.parse::<u32>().unwrap().to_string()).unwrap());
        for n in 2..5 {
            worker.post_message(&n).await.unwrap();
        }
        let mut all = Vec::new();
        while all.len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            all.extend(heard.try_iter());
        }
        assert_eq!(all, ["1", "2", "Uncaught Error: three", "4"]);
        worker.terminate().await;
    });
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Job {
    id: u32,
    words: Vec<String>,
    counts: BTreeMap<String, u32>,
}

fn job() -> Job {
    Job {
        id: 7,
        words: vec!["a".into(), "é".into()],
        counts: [("a".into(), 1)].into(),
    }
}

#[test]
fn a_thread_has_the_same_interface() {
    run(async {
        let mut worker = Worker::thread(|mut scope: WorkerScope| {
            while let Some(message) = scope.recv() {
                let mut job: Job = message.parse().unwrap();
                job.id += 1;
                scope.post_message(&job).unwrap();
            }
        })
        .unwrap();
        worker.post_message(&job()).await.unwrap();
        let answer: Job = message(&mut worker).await.parse().unwrap();
        assert_eq!(answer, Job { id: 8, ..job() });
        assert_eq!(worker.terminate().await, ExitStatus::Code(0));
    });
}

#[test]
fn a_panic_of_a_thread_is_an_error() {
    run(async {
        let mut worker = Worker::thread(|_| panic!("thrown")).unwrap();
        let Some(WorkerEvent::Error(error)) = worker.next().await else {
            panic!()
        };
        assert_eq!(error.message, "Uncaught thrown");
        assert_eq!(exit(&mut worker).await, ExitStatus::Code(101));
        assert!(worker.next().await.is_none());
    });
}

#[test]
fn a_thread_that_posts_without_end_is_held_up_and_can_be_terminated() {
    run(async {
        let (sink, posted) = mpsc::channel();
        let worker = Worker::thread(move |scope: WorkerScope| {
            while scope.post_message(&vec![0; 1000]).is_ok() {
                let _ = sink.send(());
            }
        })
        .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(posted.try_iter().count() < 1000, "nobody takes them, so few are kept");
        assert_eq!(worker.terminate().await, ExitStatus::Code(0));
    });
}

on!([node18 Node18, node22 Node22, node26 Node26]: messages_go_both_ways,
    the_scope_is_a_browsers,
    values_arrive_whole,
    deep_and_circular_values_arrive_too,
    a_transferred_buffer_is_gone_where_it_was,
    an_exception_is_told_and_the_worker_lives_on,
    an_exception_can_be_handled_in_the_worker,
    a_script_that_cannot_begin_is_an_error_and_an_exit,
    messages_that_come_before_a_module_listens_are_kept,
    a_worker_that_does_nothing_but_count_is_terminated,
    a_dropped_worker_ends,
    a_socket_can_be_transferred,
    callbacks_get_what_has_come_and_what_comes);
