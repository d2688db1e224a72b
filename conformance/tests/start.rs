//! The words after `thead run`: what is run, what is refused, and how that is said.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{PermissionsExt, symlink};

use conformance::{End, Run, Runtime, client, programs};

/// A server that says with what it was started.
const SERVER: &str = "
    const server = require('node:http').createServer((req, res) => {
        const { ARGS, MODE } = process.env;
        res.end(JSON.stringify({ argv: process.argv.slice(2), options: process.execArgv, MODE, node: process.version }));
    });
    server.listen(0, '127.0.0.1');
";

/// With `node` (22) in PATH, and the server beside.
fn run(words: &[&str]) -> Run {
    let run = Run::words(words)
        .workers(1)
        .file("server.js", SERVER)
        .file("bin/empty", "");
    symlink(Runtime::Node22.path(), run.dir().join("bin/node")).unwrap();
    let path = format!("{}:/usr/bin:/bin", run.dir().join("bin").display());
    run.under(["env".to_owned(), format!("PATH={path}")])
}

/// Starts a server and asks it how it was started.
fn started(run: Run) -> serde_json::Value {
    let mut thead = run.start();
    let port = thead.ready(1);
    let said = client::get(port, "/").json();
    thead.stop_cleanly();
    said
}

/// The message of a refusal with this exit code; nothing was started.
fn refused(run: Run, code: i32) -> String {
    let end = run.end();
    assert_eq!(end.code, Some(code), "{end:#?}");
    assert!(end.all("spawned").is_empty());
    end.only("error").text("message").to_owned()
}

#[test]
fn a_script_runs_under_node_with_its_arguments() {
    let said = started(run(&["server.js", "one", "--two", "-i"]));
    assert_eq!(said["argv"], serde_json::json!(["one", "--two", "-i"]));
    assert!(said["node"].as_str().unwrap().starts_with("v22."));
    assert_eq!(said["options"], serde_json::json!([]), "the preload hides itself");
}

#[test]
fn the_extension_may_be_left_to_node() {
    started(run(&["node", "server"]));
}

#[test]
fn options_of_node_stay_in_front_of_the_script() {
    let words = [
        "node",
        "--no-warnings",
        "--require",
        "./extra.cjs",
        "--stack-trace-limit=20",
        "server.js",
        "arg",
    ];
    let said = started(run(&words).file("extra.cjs", "process.env.MODE = 'required'"));
    assert_eq!(said["MODE"], "required");
    assert_eq!(said["argv"], serde_json::json!(["arg"]));
    assert!(said["options"].to_string().contains("--no-warnings"), "{said}");
}

#[test]
fn the_first_line_of_a_file_names_its_runtime() {
    let text = format!("#!/usr/bin/env node\n{SERVER}");
    let run = run(&["./serve"]).file("serve", &text);
    std::fs::set_permissions(run.dir().join("serve"), PermissionsExt::from_mode(0o755)).unwrap();
    started(run);
}

#[test]
fn another_runtime_can_be_named() {
    let run = run(&["server.js"]).option("--runtime", Runtime::Node18.path().display());
    assert!(started(run)["node"].as_str().unwrap().starts_with("v18."));
}

const PACKAGE: &str = r#"{ "scripts": {
    "start": "MODE=package node server.js --from package",
    "again": "npm run start",
    "tool": "serve-tool --quick",
    "built": "node server.js",
    "prebuilt": "echo building",
    "shell": "node server.js && echo done",
    "quoted": "node -r './a b.js' server.js",
    "watch": "node --watch server.js",
    "loop": "npm run loop"
} }"#;

fn package(words: &[&str]) -> Run {
    run(words).file("package.json", PACKAGE)
}

#[test]
fn trap_17_npm_start_is_resolved_to_what_it_would_run() {
    for words in [
        &["npm", "start"][..],
        &["npm", "run", "start"],
        &["npm", "run-script", "again"],
        &["yarn", "start"],
        &["pnpm", "run", "start"],
        &["node", "--run", "start"],
    ] {
        let said = started(package(words));
        assert_eq!(said["MODE"], "package", "{words:?}");
        assert_eq!(said["argv"], serde_json::json!(["--from", "package"]), "{words:?}");
    }
    let said = started(package(&["npm", "start", "--", "--more"]));
    assert_eq!(said["argv"], serde_json::json!(["--from", "package", "--more"]));
}

#[test]
fn a_package_script_finds_the_packages_own_programs() {
    for words in [
        &["npm", "run", "tool"][..],
        &["npx", "serve-tool", "--quick"],
        &["npm", "exec", "serve-tool", "--quick"],
    ] {
        let tool = format!("#!/usr/bin/env node\n{SERVER}");
        let run = package(words).file("node_modules/.bin/serve-tool", &tool);
        let file = run.dir().join("node_modules/.bin/serve-tool");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(started(run)["argv"], serde_json::json!(["--quick"]), "{words:?}");
    }
}

#[test]
fn trap_17_wrappers_are_refused_with_the_reason_and_the_remedy() {
    for (words, reason, remedy) in [
        (&["node", "--watch", "server.js"][..], "watcher", "reload"),
        (&["bun", "--hot", "server.js"], "watcher", "reload"),
        (&["npm", "run", "watch"], "watcher", "reload"),
        (&["node", "-e", "1"], "a worker needs one", "save the code as a file"),
        (&["node", "-"], "standard input", "save it as a file"),
        (&["node"], "without a script", "node server.js"),
        (&["node", "--test"], "not a server script", "name the script"),
        (&["npm", "install"], "starts no script", "name the program"),
        (&["npm", "run", "shell"], "needs a shell", "name the program"),
        (&["npm", "run", "quoted"], "needs a shell", "name the program"),
        (&["npm", "run", "built"], "prebuilt", "npm run prebuilt"),
        (&["npm", "run", "loop"], "without end", "name the program"),
        (
            &["npm", "run", "nothing"],
            "no script \"nothing\"; it has start",
            "name the program",
        ),
        (&["npx", "missing"], "not in node_modules", "npm install missing"),
        (&["deno", "task", "start"], "not a server script", "name the script"),
    ] {
        let message = refused(package(words), 2);
        assert!(
            message.contains(reason) && message.contains(remedy),
            "{words:?}: {message}"
        );
    }
    let message = refused(run(&["npm", "start"]), 2);
    assert!(message.contains("package.json"), "{message}");
}

#[test]
fn what_does_not_exist_is_127_as_in_a_shell() {
    for (words, hint) in [
        (&["missing-program"][..], "PATH"),
        (&["./missing"], "check the path"),
        (&["missing.js"], "check the path"),
        (&["node", "missing.js"], "check the path"),
        (&["empty.txt"], "say ./empty.txt"),
        (&["/missing/node", "server.js"], "name another runtime"),
    ] {
        let message = refused(run(words).file("empty.txt", ""), 127);
        assert!(message.contains(hint), "{words:?}: {message}");
    }
    let run = Run::words(["server.js"])
        .file("server.js", SERVER)
        .under(["env", "PATH=/nowhere"]);
    assert!(refused_by_env(run).contains("install it, or name another"));
}

/// `env PATH=/nowhere` must find thead by its path, which it has.
fn refused_by_env(run: Run) -> String {
    refused(run, 127)
}

#[test]
fn what_may_not_be_executed_is_126_as_in_a_shell() {
    let run = run(&["./plain"]).file("plain", "#!/bin/sh\nexit 0\n");
    let message = refused(run, 126);
    assert!(message.contains("chmod +x"), "{message}");
}

#[test]
fn an_interpreter_that_is_missing_is_said() {
    let run = run(&["./app"]).file("app", "#!/missing/interpreter\n");
    std::fs::set_permissions(run.dir().join("app"), PermissionsExt::from_mode(0o755)).unwrap();
    let message = refused(run, 126);
    assert!(
        message.contains("/missing/interpreter, which does not exist"),
        "{message}"
    );
}

#[test]
fn a_wrong_command_line_is_2_and_says_why() {
    let wrong = |option: &str, value: &str| -> End {
        let end = run(&["server.js"]).option(option, value).end();
        assert_eq!(end.code, Some(2), "{option} {value}: {end:#?}");
        assert!(end.all("spawned").is_empty());
        end
    };
    for (option, value, reason) in [
        ("--instances", "0", "1 to 1024"),
        ("--instances", "many", "1 to 1024"),
        ("--drain", "5", "unit"),
        ("--schedule", "fair", "round-robin"),
        ("--ready", "soon", "listening"),
        ("--restart", "sometimes", "on-failure"),
        ("--restart-backoff", "1s", "100ms..5s"),
        ("--restart-limit", "10", "10/60s"),
        ("--env", "NOVALUE", "NAME=VALUE"),
    ] {
        let end = wrong(option, value);
        assert!(end.stderr.contains(reason), "{option} {value}: {}", end.stderr);
    }
    for (option, value, reason) in [
        ("--runtime", "/bin/ls", "node, bun or deno"),
        ("--cwd", "/missing", "no such directory"),
        ("--nonsense", "1", "is no option of thead run"),
        ("--surge", "0", "surge"),
        ("--ready-timeout", "0", "ready-timeout"),
        ("--restart-backoff", "5s..1s", "first"),
    ] {
        let end = wrong(option, value);
        let message = end.only("error").text("message");
        assert!(message.contains(reason), "{option} {value}: {message}");
    }
    let nothing = Run::words([""; 0]).end();
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("PROGRAM"), "{}", nothing.stderr);
}

#[test]
fn a_script_that_does_not_parse_fails_with_its_message() {
    let end = run(&["broken.js"]).file("broken.js", "this is no JavaScript").end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.only("failed").json["last_lines"]
            .to_string()
            .contains("SyntaxError")
    );
}

#[test]
fn variables_and_the_directory_are_the_workers() {
    let text = "
        process.send({ MODE: process.env.MODE, cwd: process.cwd(), id: process.env.NODE_UNIQUE_ID ?? null });
    ";
    let run = Run::words(["./where.cjs"])
        .option("--runtime", Runtime::Node22.path().display())
        .workers(1);
    let run = run
        .file("sub/where.cjs", text)
        .option("--cwd", "sub")
        .env("MODE", "a=b c");
    let sub = run.dir().join("sub").canonicalize().unwrap();
    let mut thead = run.start();
    let said = thead.next("message").json["message"].clone();
    assert_eq!(said, serde_json::json!({ "MODE": "a=b c", "cwd": sub, "id": null }));
    thead.stop();
}

#[test]
fn grandchildren_are_plain_processes() {
    let text = "
        const { spawnSync, fork } = require('node:child_process');
        const { isWorker } = require('node:cluster');
        const code = 'process.stdout.write(JSON.stringify([require(\"cluster\").isWorker, typeof process.send, process.execArgv]))';
        const plain = JSON.parse(spawnSync(process.execPath, ['-e', code]).stdout);
        const child = fork(__dirname + '/child.cjs');
        child.on('message', (forked) => process.send({ isWorker, plain: plain.slice(0, 2), forked }));
    ";
    let run = Run::script(Runtime::Node22, text).workers(1);
    let child = "process.send([require('cluster').isWorker, process.execArgv.length]); process.disconnect();";
    let mut thead = run.file("child.cjs", child).start();
    let said = thead.next("message").json["message"].clone();
    assert_eq!(
        said,
        serde_json::json!({ "isWorker": true, "plain": [false, "undefined"], "forked": [false, 0] })
    );
    thead.stop();
}

#[test]
fn the_default_is_one_worker_for_each_core() {
    let run = Run::words([programs().join("http.js").display()]).env("PORT", 0);
    let run = run.option("--runtime", Runtime::Node22.path().display());
    let mut thead = run.start();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(thead.next("started").number("instances"), cores as u64);
    thead.ready(cores);
    thead.stop_cleanly();
}
