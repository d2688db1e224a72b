//! The examples, as they stand: each serves on all its workers under the daemon, is reloaded under load, and stopped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conformance::client::{free_port, get, local};
use conformance::load::{Load, Mode, Target};
use conformance::{Daemon, Runtime, root};

/// The port of all examples.
const PORT: &str = "3000";
/// What all of them begin their answer with.
const GREETING: &str = "hello";
const WORKERS: usize = 2;

fn examples() -> PathBuf {
    root().join("../examples")
}

fn files_of(example: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(example).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// As [`runs_under`], under clients that keep their connections and clients that open one for each request.
fn runs(name: &str, prepare: impl FnOnce(&Daemon)) {
    runs_under(&[Mode::KeepAlive, Mode::NewConnections], name, prepare);
}

/// Starts an example in a home of its own, where `prepare` puts what its first line has people install; its port.
fn started(name: &str, prepare: impl FnOnce(&Daemon)) -> (Daemon, u16) {
    let daemon = Daemon::start();
    let port = free_port();
    for file in files_of(&examples().join(name)) {
        let text = std::fs::read_to_string(&file).unwrap();
        let to = file.file_name().unwrap().to_str().unwrap();
        daemon.file(to, &text.replace(PORT, &port.to_string()));
    }
    prepare(&daemon);
    daemon.ok(&["apply"]);
    assert_eq!(daemon.service("web")["phase"], "ready");
    assert_eq!(daemon.pids("web").len(), WORKERS);
    assert!(get(port, "/").body.starts_with(GREETING));
    (daemon, port)
}

/// Starts an example, reloads it under load, and stops it.
fn runs_under(modes: &[Mode], name: &str, prepare: impl FnOnce(&Daemon)) {
    let (daemon, port) = started(name, prepare);
    let before = daemon.pids("web");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let loads: Vec<_> = modes
        .iter()
        .map(|mode| {
            let load = Load {
                connections: 8,
                mode: *mode,
                think: Duration::from_millis(5),
                timeout: Duration::from_secs(30),
                max_time: Duration::from_secs(300),
                ..Load::on(Target::Tcp(local(port)))
            };
            load.start()
        })
        .collect();
    let served = || loads.iter().for_each(|load| runtime.block_on(load.answered(200)));
    served();
    daemon.ok(&["reload", "web"]);
    served();
    for load in loads {
        let report = runtime.block_on(load.stop());
        let logs = || daemon.ok(&["logs", "web"]);
        assert_eq!(report.failures.total(), 0, "{report}\n{}", logs());
        assert!(report.workers.len() > 1, "old and new ones served: {report}");
    }
    let after = daemon.pids("web");
    assert_eq!(after.len(), WORKERS);
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
    daemon.stop();
}

/// Whether a program is there; if not, says how it comes there.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !there {
        println!("not tested: {program} is not installed; conformance/setup installs it, as root on Debian");
    }
    there
}

fn venv(daemon: &Daemon) {
    let venv = root().join("runtimes/venv");
    assert!(venv.exists(), "run conformance/setup");
    symlink(venv, daemon.app().join(".venv")).unwrap();
}

#[test]
fn gunicorn_runs() {
    runs("python-gunicorn", venv);
}

#[test]
fn g4_an_application_that_gunicorn_cannot_load_is_refused() {
    let (daemon, port) = started("python-gunicorn", venv);
    let before = daemon.pids("web");
    daemon.file("app.py", "import nothing_of_this_name");
    let said = daemon.thead(&["reload", "web"]).failed(1);
    assert!(said.contains("nothing_of_this_name"), "{said}");
    assert!(get(port, "/").body.starts_with(GREETING));
    daemon.wait_for("web", "only the old ones", |service| {
        service["workers"].as_array().unwrap().len() == WORKERS
    });
    assert_eq!(daemon.pids("web"), before);
    daemon.stop();
}

#[test]
fn uvicorn_runs() {
    runs("python-uvicorn", venv);
}

#[test]
fn puma_runs() {
    if has("puma") {
        runs("ruby-puma", |_| ());
    }
}

#[test]
fn go_runs() {
    if has("go") {
        runs("go", |daemon| {
            let mut build = Command::new("go");
            build.args(["build", "-o", "server", "."]).current_dir(daemon.app());
            let status = build.env("GOCACHE", root().join("runtimes/go")).status().unwrap();
            assert!(status.success());
        });
    }
}

#[test]
fn axum_runs() {
    runs("rust-axum", |daemon| {
        symlink(env!("CARGO_BIN_EXE_axum-worker"), daemon.app().join("axum-worker")).unwrap();
    });
}

#[test]
fn express_runs() {
    let modules = root().join("runtimes/node_modules");
    runs("node-express", |daemon| {
        symlink(modules, daemon.app().join("node_modules")).unwrap();
    });
}

#[test]
fn deno_runs() {
    runs("deno", |daemon| {
        symlink(Runtime::Deno.path(), daemon.home().join("bin/deno")).unwrap();
    });
}

/// Each of its workers has a socket of its own. Only where the kernel moves what waits in one that is closed is nothing lost of
/// new connections; see the example.
#[test]
fn bun_runs() {
    let moves = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|value| value.trim() == "1");
    let modes = [Mode::KeepAlive, Mode::NewConnections];
    let modes = if moves { &modes[..] } else { &modes[..1] };
    runs_under(modes, "bun", |daemon| {
        symlink(Runtime::Bun.path(), daemon.home().join("bin/bun")).unwrap();
    });
}

#[test]
fn the_page_on_languages_shows_what_the_examples_say() {
    let page = std::fs::read_to_string(root().join("../docs/languages.md")).unwrap();
    let mut shown = 0;
    for example in files_of(&examples()) {
        let name = example.file_name().unwrap().to_str().unwrap();
        let link = format!("](../examples/{name})");
        let (_, section) = page.split_once(&link).unwrap_or_else(|| panic!("no link to {name}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        let texts: Vec<_> = files_of(&example)
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect();
        for block in section.split("```").skip(1).step_by(2) {
            let (_, block) = block.split_once('\n').unwrap();
            assert!(texts.iter().any(|text| text.contains(block)), "{name}: {block}");
            shown += 1;
        }
    }
    assert!(shown >= 8, "{shown}");
}
