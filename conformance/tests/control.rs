//! The control socket: who may use it, what it survives, and what it never says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use conformance::{Daemon, Process, eventually, thead_binary};
use serde_json::{Value, json};

/// What a request by hand is answered.
fn ask(daemon: &Daemon, request: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    // It may answer and hang up before it has heard all.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn get(daemon: &Daemon, path: &str) -> String {
    ask(
        daemon,
        &format!("GET {path} HTTP/1.1\r\nhost: thead\r\nconnection: close\r\n\r\n"),
    )
}

fn post(daemon: &Daemon, path: &str, body: &str) -> String {
    let length = body.len();
    ask(
        daemon,
        &format!("POST {path} HTTP/1.1\r\nhost: thead\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"),
    )
}

#[test]
fn nobody_else_can_come_near_it() {
    let daemon = Daemon::start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let home = daemon.home();
    assert_eq!(mode(&home.join("run")), 0o700);
    // Of root others may pass through to the data of their own service, and see nothing on the way.
    assert_eq!(mode(&home.join("state")) & 0o766, 0o700);
    assert_eq!(mode(&daemon.socket()), 0o600);
    daemon.ok(&["start", "--name", "sleeper", "sleep", "1000"]);
    eventually("the state to be saved", || {
        home.join("state/services.json").exists().then_some(())
    });
    assert_eq!(mode(&home.join("state/services.json")), 0o600);
    assert_eq!(mode(&home.join("log/sleeper")), 0o700);
    assert_eq!(mode(&home.join("state/data/sleeper")), 0o700);
    daemon.stop();
}

#[test]
fn another_user_is_turned_away_even_if_the_files_let_it_in() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let daemon = Daemon::start();
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(daemon.home(), 0o755);
    open(&daemon.home().join("run"), 0o755);
    open(&daemon.socket(), 0o666);
    let script = "
import os, socket, sys
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
try:
    peer.sendall(b'GET /v1/services HTTP/1.1\\r\\nhost: thead\\r\\n\\r\\n')
    print(len(peer.recv(1000)))
except OSError:
    print(0)
";
    let said = Command::new("python3")
        .args(["-c", script])
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "0", "{said:?}");
    assert!(get(&daemon, "/v1/services").starts_with("HTTP/1.1 200"));
    daemon.stop();
}

#[test]
fn a_directory_that_others_prepared_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let start = || {
        let output = Command::new(thead_binary())
            .arg("daemon")
            .env("THEAD_HOME", home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let said = start();
    assert!(said.contains("chmod 700"), "{said}");
    std::fs::remove_dir(&run).unwrap();
    symlink("/tmp", &run).unwrap();
    let said = start();
    assert!(said.contains("is not a directory"), "{said}");
}

#[test]
fn g40_a_thousand_idle_connections_and_slow_ones_are_harmless() {
    let daemon = Daemon::start();
    let before = resident(daemon.pid());
    // The first 64 are kept, until they have had their time; the others are closed at once.
    let mut idle: Vec<_> = (0..1000)
        .filter_map(|_| UnixStream::connect(daemon.socket()).ok())
        .collect();
    for stream in &mut idle {
        let _ = stream.write_all(b"G");
    }
    let begun = Instant::now();
    eventually("an answer", || (daemon.thead(&["ls"]).code == Some(0)).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(resident(daemon.pid()) < before + (8 << 20));
    drop(idle);
    // A head without an end, and a body that never comes.
    for start in [
        "GET /v1/",
        "POST /v1/verbs/stop HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n{",
    ] {
        let mut slow = UnixStream::connect(daemon.socket()).unwrap();
        slow.write_all(start.as_bytes()).unwrap();
        slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = String::new();
        let _ = slow.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    }
    daemon.stop();
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What is refused is an object that says why.
fn is_problem(answer: &str) {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert!(!problem["code"].as_str().unwrap().is_empty(), "{answer}");
    assert!(!problem["message"].as_str().unwrap().is_empty(), "{answer}");
}

#[test]
fn g40_streams_that_go_on_leave_room_for_whoever_wants_something() {
    let daemon = Daemon::start();
    let request = "GET /v1/events HTTP/1.1\r\nhost: thead\r\n\r\n";
    let streams: Vec<_> = (0..60).map(|_| begin(&daemon, request)).collect();
    let open = streams.iter().filter(|(_, status)| status == "HTTP/1.1 200").count();
    let refused = streams.iter().filter(|(_, status)| status == "HTTP/1.1 429").count();
    assert_eq!((open, refused), (48, 12));
    daemon.ok(&["ls"]);
    drop(streams);
    eventually("room for another", || {
        (begin(&daemon, request).1 == "HTTP/1.1 200").then_some(())
    });
    daemon.stop();
}

/// A connection, and how an answer begins that may go on for ever.
fn begin(daemon: &Daemon, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (stream, String::from_utf8_lossy(&status).into_owned())
}

#[test]
fn what_means_nothing_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    daemon.ok(&["start", "--name", "sleeper", "sleep", "1000"]);
    let before = daemon.service("sleeper");
    for (path, body, status) in [
        ("/v1/verbs/explode", "{}", 404),
        ("/v1/verbs/stop", "", 400),
        ("/v1/verbs/stop", "{\"targets\": 7}", 400),
        ("/v1/verbs/stop", "{\"target\": [\"all\"]}", 400),
        ("/v1/verbs/stop", "{\"targets\": []}", 422),
        ("/v1/verbs/stop", "{\"targets\": [\"../sleeper\"]}", 422),
        ("/v1/verbs/stop", "{\"targets\": [\"sleeper/9\"]}", 404),
        (
            "/v1/verbs/scale",
            "{\"targets\": [\"sleeper\"], \"instances\": \"many\"}",
            422,
        ),
        (
            "/v1/verbs/signal",
            "{\"targets\": [\"sleeper\"], \"signal\": \"SIGFOO\"}",
            422,
        ),
        ("/v1/apply", "{\"config\": {\"service\": {\"x\": {}}}}", 422),
        (
            "/v1/apply",
            "{\"config\": {\"service\": {\"x\": {\"run\": \"true\", \"colour\": 1}}}}",
            422,
        ),
        (
            "/v1/apply",
            "{\"config\": {\"service\": {\"x\": {\"run\": \"true\", \"after\": [\"y\"]}}}}",
            422,
        ),
        ("/v1/nowhere", "{}", 404),
        ("/v1/services", "{}", 405),
        ("/v1/verbs/stop", "[[\"sleeper\"]]", 400),
    ] {
        let answer = post(&daemon, path, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path} {body}: {answer}"
        );
        is_problem(&answer);
    }
    for path in [
        "/v1/events?since=abc",
        "/v1/logs?lines=abc",
        "/v1/services/sleeper?env=banana",
        "/v1/services/%ff",
    ] {
        let answer = get(&daemon, path);
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
        is_problem(&answer);
    }
    let large = format!("{{\"targets\": [\"{}\"]}}", "x".repeat(2 << 20));
    let answer = post(&daemon, "/v1/verbs/stop", &large);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    let mut after = daemon.service("sleeper");
    // It may use some memory and time.
    for service in [&mut after] {
        service["memory"] = before["memory"].clone();
        for key in ["memory", "cpu_ms", "cpu_percent"] {
            service["workers"][0][key] = before["workers"][0][key].clone();
        }
    }
    assert_eq!(after, before);
    daemon.stop();
}

#[test]
fn a_secret_is_nowhere_but_in_the_worker() {
    const SECRET: &str = "canary-5up3r-s3cr3t";
    const PLAIN: &str = "canary-of-the-environment";
    let daemon = Daemon::start();
    daemon.file("secret", &format!("{SECRET}\n"));
    daemon.file(
        "server.js",
        "if (process.env.PASSWORD !== 'canary-5up3r-s3cr3t') process.exit(7);
         console.log('it is right'); setInterval(() => {}, 1000);",
    );
    let config = json!({ "service": { "keeper": {
        "run": "node server.js",
        "instances": 1,
        "ready": { "delay": "300ms" },
        "env": { "TOKEN": PLAIN },
        "secret-files": { "PASSWORD": "secret" },
    } } });
    daemon.file("thead.json", &config.to_string());
    daemon.ok(&["apply", "thead.json"]);
    daemon.ok(&["reload", "keeper"]);
    let mut said = Vec::new();
    for words in [
        &["ls", "--json"][..],
        &["ls", "--pm2-json"],
        &["describe", "keeper", "--json"],
        &["describe", "keeper"],
        &["why", "keeper", "--json"],
        &["events", "--all", "--no-follow", "--json"],
        &["plan", "thead.json", "--json"],
    ] {
        said.push((words.join(" "), daemon.ok(words)));
    }
    for (words, said) in &said {
        assert!(
            !said.contains(SECRET) && !said.contains(PLAIN),
            "thead {words} says it: {said}"
        );
    }
    // The owner may ask for what is configured; the secret is not even known.
    let shown = daemon.ok(&["describe", "keeper", "--env", "--json"]);
    assert!(shown.contains(PLAIN) && !shown.contains(SECRET));
    let mut files = Vec::new();
    collect(daemon.home(), &mut files);
    assert!(files.len() > 3);
    for file in files {
        let name = file.strip_prefix(daemon.home()).unwrap().display().to_string();
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(name.starts_with("app/") || !text.contains(SECRET), "{name} has it");
    }
    let primary = u32::try_from(daemon.service("keeper")["primary"].as_u64().unwrap()).unwrap();
    for pid in [daemon.pid(), primary] {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        for text in [environment, words] {
            assert!(
                !String::from_utf8_lossy(&text).contains("canary"),
                "process {pid} shows it"
            );
        }
    }
    daemon.stop();
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

#[test]
fn events_are_remembered_and_followed() {
    let daemon = Daemon::start();
    daemon.ok(&["start", "--name", "sleeper", "sleep", "1000"]);
    let events = daemon.events();
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
    assert!(
        events
            .iter()
            .any(|event| event["event"] == "ready" && event["service"] == "sleeper")
    );
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let last = ids.last().unwrap();
    let request = format!(
        "GET /v1/events HTTP/1.1\r\nhost: thead\r\nlast-event-id: {}\r\n\r\n",
        last - 1
    );
    stream.write_all(request.as_bytes()).unwrap();
    daemon.ok(&["stop", "sleeper"]);
    let mut text = String::new();
    eventually("the stop to be told", || {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
        text.contains("\"event\":\"stopping\"").then_some(())
    });
    // It begins behind the one that was named.
    assert!(
        text.contains(&format!("id: {last}\n")) && !text.contains(&format!("id: {}\n", last - 1)),
        "{text}"
    );
    daemon.stop();
}

#[test]
fn g5_a_wrong_configuration_touches_nothing_that_runs() {
    let daemon = Daemon::start();
    let good = "[service.sleeper]\nrun = \"sleep 1000\"\ninstances = 2\n";
    daemon.file("thead.toml", good);
    daemon.ok(&["apply"]);
    let pids = daemon.pids("sleeper");
    let wrong = [
        "[service.sleeper]\nrun = 7\n",
        "[service.sleeper]\nrun = \"sleep 1000\"\ninstanzes = 3\n",
        "[service.sleeper]\nrun = \"sleep 1000\"\ninstances = 0\n",
        "[service.sleeper]\nrun = \"sleep 1000\"\nuser = \"no-such-user\"\n",
        "[service.sleeper]\nrun = \"sleep 1000\"\ncwd = \"/no/such/directory\"\n",
        "[service.sleeper]\nrun = \"sleep 1000\"\nafter = [\"nobody\"]\n",
        "[service.sleeper\nrun = \"sleep 1000\"\n",
        "",
    ];
    for text in wrong {
        daemon.file("thead.toml", text);
        let said = daemon.thead(&["apply"]);
        assert_eq!(said.code, Some(2), "{text}: {said:?}");
        if !text.is_empty() {
            assert!(
                said.err.contains("thead.toml:"),
                "{text}: no place is named: {}",
                said.err
            );
        }
    }
    let mut invalid = good.as_bytes().to_vec();
    invalid.extend([0xff, 0xfe]);
    std::fs::write(daemon.app().join("thead.toml"), invalid).unwrap();
    assert_eq!(daemon.thead(&["apply"]).code, Some(2));
    assert_eq!(daemon.pids("sleeper"), pids);
    let state: Value = {
        let text = std::fs::read_to_string(daemon.home().join("state/services.json")).unwrap();
        serde_json::from_str(text.split_once('\n').unwrap().1).unwrap()
    };
    assert_eq!(state[0]["config"]["instances"], 2);
    assert!(pids.iter().all(|pid| Process::read(*pid).is_some()));
    daemon.stop();
}

/// The next answer on a connection that stays open: its status and body.
fn read_answer(stream: &mut impl BufRead) -> (String, String) {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| line != "\r\n") {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "it hung up after {lines:?}");
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let status = lines[0].split(' ').nth(1).unwrap();
    (status.to_owned(), String::from_utf8(body).unwrap())
}

#[test]
fn g5_ten_thousand_wrong_configurations_touch_nothing() {
    let daemon = Daemon::start();
    daemon.file("thead.toml", "[service.sleeper]\nrun = \"sleep 1000\"\n");
    daemon.ok(&["apply"]);
    let before = (daemon.pids("sleeper"), daemon.service("sleeper")["generation"].clone());
    let crowd: serde_json::Map<_, _> = (0..80)
        .map(|number| {
            let service = json!({ "run": format!("sleep {number}"), "env": { "A": "b" }, "stop": { "timeout": "1s" } });
            (format!("service-{number}"), service)
        })
        .collect();
    let whole = json!({ "config": { "service": crowd }, "base": daemon.app(), "start": true }).to_string();
    let mut wrong: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole.as_bytes()[..end].to_vec()).collect();
    for at in 0..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] = 0xff;
        wrong.push(bytes);
    }
    for value in [
        "5",
        "[]",
        "{}",
        "null",
        "\"\"",
        "{\"run\":5}",
        "{\"run\":\"true\",\"colour\":\"red\"}",
    ] {
        let one = format!("\"service-7\":{value},");
        wrong.push(whole.replacen("\"service-7\":", &one, 1).into_bytes());
        wrong.push(
            whole
                .replacen("\"service\":{", &format!("\"service\":{{\"new\":{value},"), 1)
                .into_bytes(),
        );
    }
    let mut stream = BufReader::new(UnixStream::connect(daemon.socket()).unwrap());
    for body in &wrong {
        let head = format!(
            "POST /v1/apply HTTP/1.1\r\nhost: thead\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        stream.get_mut().write_all(body).unwrap();
        let (status, answer) = read_answer(&mut stream);
        // Not JSON, or not a configuration.
        assert!(
            ["400", "422"].contains(&&*status),
            "{}: {status} {answer}",
            String::from_utf8_lossy(body)
        );
    }
    assert!(wrong.len() > 10_000, "{}", wrong.len());
    assert_eq!(
        (daemon.pids("sleeper"), daemon.service("sleeper")["generation"].clone()),
        before
    );
    assert_eq!(daemon.thead(&["ls", "--json"]).json().as_array().unwrap().len(), 1);
    daemon.stop();
}
