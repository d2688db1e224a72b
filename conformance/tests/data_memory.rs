//! Hot data that is large, or comes as files: one copy for all, which nobody can write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use conformance::client::{free_port, get};
use conformance::data::{App, replace};
use conformance::{Daemon, eventually};
use serde_json::json;

/// A program without a channel that prints what it finds, at its start and at each SIGHUP.
const FILES: &str = "
import mmap, os, signal, sys, time
table = None
def show(*_):
    global table
    where = os.environ['THEAD_DATA_DIR']
    flags = open(where + '/flags').read()
    with open(where + '/table', 'rb') as file:
        table = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    total = sum(table[at] for at in range(0, len(table), 4096))
    try:
        os.write(os.open(where + '/table', os.O_RDWR), b'x')
        wrote = 0
    except OSError as error:
        wrote = error.errno
    inherited = len(open(os.environ['THEAD_DATA_TABLE'], 'rb').read())
    with open('seen.%d' % os.getpid(), 'a') as seen:
        seen.write('%s %d %d %d %d\\n' % (flags, len(table), total, wrote, inherited))
signal.signal(signal.SIGHUP, show)
show()
while True:
    time.sleep(60)
";

const EPERM: i32 = 1;

/// Waits until each of these has this as the last line of the file `seen.PID` that it writes.
fn all_saw(app: &App, pids: &[u32], line: &str) {
    for pid in pids {
        let file = app.daemon.app().join(format!("seen.{pid}"));
        eventually(line, || {
            let text = fs::read_to_string(&file).ok()?;
            (text.lines().last() == Some(line)).then_some(())
        });
    }
}

#[test]
fn a_program_without_a_channel_has_files_and_a_signal() {
    let daemon = Daemon::start();
    daemon.file("show.py", FILES);
    daemon.file("flags.json", "1");
    fs::write(daemon.app().join("table.bin"), vec![1; 8192]).unwrap();
    let service = json!({
        "run": "python3 show.py",
        "instances": 2,
        "ready": { "delay": "300ms" },
        "data": {
            "flags": { "file": "flags.json", "signal": "HUP" },
            "table": { "file": "table.bin", "as": "memory", "signal": "HUP" },
        },
    });
    let app = App::of(daemon, 0, service);
    let pids = app.daemon.pids("app");
    let all_saw = |line: &str| all_saw(&app, &pids, line);
    all_saw(&format!("1 8192 2 {EPERM} 8192"));
    replace(&app.daemon.app().join("flags.json"), "2");
    all_saw(&format!("2 8192 2 {EPERM} 8192"));
    fs::write(app.daemon.app().join("table.new"), vec![3; 4096]).unwrap();
    fs::rename(app.daemon.app().join("table.new"), app.daemon.app().join("table.bin")).unwrap();
    all_saw(&format!("2 4096 3 {EPERM} 8192"));
    let piece = app.piece("flags");
    assert_eq!(piece["workers"][0]["state"], "told");
    assert_eq!(app.daemon.pids("app"), pids, "nobody died of a signal");
    app.daemon.stop();
}

/// Private memory of processes together, in bytes.
fn private(pids: &[u32]) -> i64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("Private_"));
        lines
            .map(|line| line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap())
            .sum::<i64>()
    };
    pids.iter().map(of).sum::<i64>() << 10
}

const LARGE: usize = 100 << 20;
const MOST: i64 = 10 << 20;

/// Puts a large file, written to its end, in place of the small one.
fn grow(path: &Path) {
    let new = path.with_extension("new");
    fs::write(&new, vec![1; LARGE]).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn g42_eight_rust_workers_share_one_hundred_megabytes() {
    let data = json!({ "table": { "file": "table.bin", "as": "memory" } });
    let app = App::rust(env!("CARGO_BIN_EXE_data-worker"), 8, data, |daemon| {
        daemon.file("table.bin", "x")
    });
    let all_have = |size: usize| {
        app.wait_for("table", "the table everywhere", |piece| {
            let all = piece["workers"].as_array().unwrap();
            let fits = piece["in_force"]["size"] == size;
            fits && all.len() == 8 && all.iter().all(|worker| worker["applied"] == piece["newest"])
        });
    };
    all_have(1);
    let pids = app.daemon.pids("app");
    let before = private(&pids);
    grow(&app.daemon.app().join("table.bin"));
    all_have(LARGE);
    let answer = get(app.port, "/").json();
    assert_eq!(
        (&answer["table"]["size"], &answer["table"]["sum"]),
        (&json!(LARGE), &json!(LARGE / 4096))
    );
    let grown = private(&pids) - before;
    eprintln!("8 Rust workers: {} KiB more of private memory", grown >> 10);
    assert!(grown < MOST, "{grown} bytes");
    // The first of them is freed, and the primary itself has no copy.
    let primary = u32::try_from(app.daemon.service("app")["primary"].as_u64().unwrap()).unwrap();
    let open = fs::read_dir(format!("/proc/{primary}/fd")).unwrap();
    let files = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    assert_eq!(
        files.filter(|to| to.to_string_lossy().contains("memfd:table")).count(),
        1
    );
    assert!(private(&[primary]) < MOST * 5, "{}", private(&[primary]));
    app.daemon.stop();
}

#[test]
fn g42_eight_python_programs_share_one_hundred_megabytes() {
    let daemon = Daemon::start();
    // Python keeps what it has read: here it maps only.
    daemon.file(
        "show.py",
        &FILES.replace("len(open(os.environ['THEAD_DATA_TABLE'], 'rb').read())", "0"),
    );
    daemon.file("flags.json", "1");
    fs::write(daemon.app().join("table.bin"), "x").unwrap();
    let service = json!({
        "run": "python3 show.py",
        "instances": 8,
        "ready": { "delay": "500ms" },
        "data": { "flags": "flags.json", "table": { "file": "table.bin", "as": "memory", "signal": "HUP" } },
    });
    let app = App::of(daemon, 0, service);
    let pids = app.daemon.pids("app");
    let all_saw = |line: &str| all_saw(&app, &pids, line);
    all_saw(&format!("1 1 120 {EPERM} 0"));
    let before = private(&pids);
    grow(&app.daemon.app().join("table.bin"));
    all_saw(&format!("1 {LARGE} {} {EPERM} 0", LARGE / 4096));
    let grown = private(&pids) - before;
    eprintln!("8 Python programs: {} KiB more of private memory", grown >> 10);
    assert!(grown < MOST, "{grown} bytes");
    app.daemon.stop();
}

/// Reads a byte of every page, by the path that comes with the message, and never the whole file.
const READS: &str = "
    const fs = require('fs');
    let table = null;
    process.on('message', ({ cmd, name, revision, path, size }) => {
        if (cmd !== 'thead:data') return;
        const fd = fs.openSync(path, 'r');
        const byte = Buffer.alloc(1);
        let sum = 0;
        for (let at = 0; at < size; at += 4096) { fs.readSync(fd, byte, 0, 1, at); sum += byte[0]; }
        let wrote = 'yes';
        try { const writer = fs.openSync(path, 'r+'); fs.writeSync(writer, 'x', 0); } catch (error) { wrote = error.code; }
        if (table) fs.closeSync(table.fd);
        table = { fd, size, sum, wrote, revision };
        process.send({ cmd: 'thead:applied', name, revision });
    });
    require('http').createServer((request, response) => {
        response.end(JSON.stringify(table));
    }).listen(process.env.PORT, '127.0.0.1');
";

#[test]
fn g42_node_reads_the_shared_memory_by_its_path_and_cannot_write_it() {
    let daemon = Daemon::start();
    daemon.file("reads.cjs", READS);
    fs::write(daemon.app().join("table.bin"), "x").unwrap();
    let port = free_port();
    let service = json!({
        "run": "node reads.cjs",
        "instances": 2,
        "env": { "PORT": port.to_string() },
        "data": { "table": { "file": "table.bin", "as": "memory" } },
    });
    let app = App::of(daemon, port, service);
    let pids = app.daemon.pids("app");
    let before = private(&pids);
    grow(&app.daemon.app().join("table.bin"));
    app.wait_for("table", "the table everywhere", |piece| {
        let all = piece["workers"].as_array().unwrap();
        piece["in_force"]["size"] == LARGE && all.iter().all(|worker| worker["applied"] == piece["newest"])
    });
    let answer = get(app.port, "/").json();
    assert_eq!(
        (&answer["sum"], &answer["wrote"]),
        (&json!(LARGE / 4096), &json!("EPERM"))
    );
    // What Node's own heap does is its own affair.
    eprintln!(
        "2 Node workers: {} KiB more of private memory",
        (private(&pids) - before) >> 10
    );
    app.daemon.stop();
}
