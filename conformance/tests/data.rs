//! Hot data: what is pushed reaches every worker, in order, and what one refuses nobody has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use conformance::client::{free_port, get};
use conformance::data::{App, replace};
use conformance::{Daemon, Runtime, eventually, kill, on, programs};
use rustix::process::Signal;
use serde_json::{Value, json};

const WORKER: &str = env!("CARGO_BIN_EXE_data-worker");

fn g41_a_worker_has_the_data_before_its_first_connection(runtime: Runtime) {
    let config = json!({ "data": { "flags": "flags.json" } });
    let app = App::start_with(runtime, config, &[("flags.json", r#"{"version":0}"#)]);
    assert_eq!(app.flags()["value"], json!({ "version": 0 }));
    let file = app.daemon.app().join("flags.json");
    app.all_have(&json!({ "version": 0 }));
    for version in 1..3 {
        app.daemon.ok(&["reload", "app"]);
        let answer = get(app.port, "/").json();
        assert_eq!(
            answer["flags"]["value"],
            json!({ "version": version - 1 }),
            "a worker without data"
        );
        replace(&file, &json!({ "version": version }).to_string());
        app.all_have(&json!({ "version": version }));
    }
    app.daemon.stop();
}

on!(all: g41_a_worker_has_the_data_before_its_first_connection);

#[test]
fn g41_a_rust_worker_has_the_data_before_its_first_connection() {
    let app = App::rust(WORKER, 2, json!({ "flags": { "file": "flags.yaml" } }), |daemon| {
        daemon.file("flags.yaml", "version: 1\n");
    });
    for version in 1..10 {
        assert_eq!(app.flags()["value"], json!({ "version": version }));
        app.pushed(&json!({ "version": version + 1 }));
        let pid = app.daemon.pids("app")[0];
        kill(pid, Signal::KILL);
        app.daemon.wait_for("app", "another worker", |service| {
            let workers = service["workers"].as_array().unwrap();
            workers
                .iter()
                .all(|worker| worker["pid"] != pid && worker["phase"] == "ready")
        });
    }
    app.daemon.stop();
}

#[test]
fn g43_what_one_worker_refuses_nobody_has() {
    let app = App::start(json!({ "instances": 3 }));
    let first = app.pushed(&json!({ "good": 1 }));
    app.all_have(&json!({ "good": 1 }));
    let (code, outcome) = app.push(&json!({ "bad": "cheese" }));
    assert_eq!(code, Some(1));
    assert_eq!(
        (&outcome["revision"], &outcome["back"]),
        (&json!(first + 1), &json!(first + 2))
    );
    let text = outcome["text"].as_str().unwrap();
    assert!(text.starts_with("app/") && text.contains("no cheese, please"), "{text}");
    app.all_have(&json!({ "good": 1 }));
    assert_eq!(app.flags()["revision"], first + 2);
    assert_eq!(app.events("data_refused").len(), 1);

    // Data that kills whoever applies it kills each once.
    let pids = app.daemon.pids("app");
    let (code, outcome) = app.push(&json!({ "die": true }));
    assert_eq!(code, Some(1), "{outcome}");
    app.all_have(&json!({ "good": 1 }));
    let restarted = app
        .daemon
        .wait_for("app", "all are back", |service| service["ready"] == 3);
    assert!(restarted["restarts"].as_u64().unwrap() <= 3, "{restarted}");
    assert!(app.daemon.pids("app").iter().all(|pid| !pids.contains(pid)));

    // And who comes later is not given it.
    let history: Vec<Value> = serde_json::from_str(&app.data(&["history", "app", "flags", "--json"]).ok()).unwrap();
    let states: Vec<_> = history.iter().map(|about| about["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in-force", "refused", "replaced", "refused", "replaced"]);
    app.daemon.stop();
}

#[test]
fn g43_a_newcomer_that_refuses_what_the_others_have_rolls_nothing_back() {
    let app = App::rust(WORKER, 2, json!({ "flags": "flags.json" }), |daemon| {
        daemon.file("flags.json", r#"{"bad":true}"#)
    });
    // The first who try it refuse: nothing is in force, and nobody who comes later is given it.
    let piece = app.wait_for("flags", "the refusal", |piece| {
        piece["workers"][1]["state"] == "refused"
    });
    assert_eq!(piece["in_force"], Value::Null);
    assert_eq!(app.flags(), Value::Null);
    kill(app.daemon.pids("app")[0], Signal::KILL);
    app.wait_for("flags", "a newcomer without data", |piece| {
        let workers = piece["workers"].as_array().unwrap();
        workers.iter().any(|worker| worker["state"] == "nothing")
    });
    replace(&app.daemon.app().join("flags.json"), r#"{"fine":true}"#);
    app.all_have(&json!({ "fine": true }));
    app.daemon.stop();
}

/// Pushes of the long test; the machine that makes releases has time for 1 000.
fn pushes() -> u64 {
    std::env::var("DATA_PUSHES").map_or(60, |count| count.parse().unwrap())
}

#[test]
fn g41_revisions_only_grow_whoever_is_killed_and_all_end_with_the_newest() {
    let seen = tempfile::tempdir().unwrap();
    let app = App::start(json!({
        "instances": 4,
        "env": { "PORT": free_port().to_string(), "SEEN": seen.path() },
    }));
    let mut seed = 0x1234_5678_u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % below
    };
    let (mut newest, mut pushed, mut refused, mut tries) = (0, 0, 0, 0);
    while pushed < pushes() {
        tries += 1;
        assert!(tries < 20 * pushes(), "{pushed} of {tries} came through");
        let service = app.daemon.service("app");
        let workers: Vec<_> = service["workers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|worker| worker["pid"].as_u64())
            .collect();
        let victim = match random(40) {
            0 => service["primary"].as_u64(),
            1..16 if !workers.is_empty() => workers
                .get(random(u32::try_from(workers.len()).unwrap()) as usize)
                .copied(),
            _ => None,
        };
        if let Some(pid) = victim {
            // It may have ended by itself meanwhile.
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let (code, outcome) = app.push(&json!({ "push": pushed }));
        match code {
            Some(0) => {
                let revision = outcome["revision"].as_u64().unwrap();
                assert!(revision > newest, "revision {revision} after {newest}");
                (newest, pushed) = (revision, pushed + 1);
                for worker in app.piece("flags")["workers"].as_array().unwrap() {
                    // Whoever is there has answered, or has come since and will.
                    let has = worker["applied"].as_u64();
                    assert!(has.is_none() || has == Some(revision), "{worker} of {revision}");
                }
            }
            Some(1) => {
                let text = outcome["text"].as_str().unwrap();
                assert!(
                    text.contains("died before it answered") || text.contains("has ended"),
                    "{text}"
                );
                refused += 1;
                newest = newest.max(outcome["back"].as_u64().unwrap_or(newest));
            }
            // Its primary was killed, and the next one is on its way.
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let last = json!({ "push": "last" });
    eventually("the last push", || (app.push(&last).0 == Some(0)).then_some(()));
    app.daemon
        .wait_for("app", "all are ready", |service| service["ready"] == 4);
    let piece = app.wait_for("flags", "everybody's answer", |piece| {
        let workers = piece["workers"].as_array().unwrap();
        workers.len() == 4 && workers.iter().all(|worker| worker["applied"] == piece["newest"])
    });
    assert!(pushed > refused, "{pushed} pushed, {refused} rolled back");
    let mut observed = 0;
    for file in fs::read_dir(seen.path()).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let revisions: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "{revisions:?}");
        observed += revisions.len();
    }
    for pid in app.daemon.pids("app") {
        let text = fs::read_to_string(seen.path().join(pid.to_string())).unwrap();
        assert_eq!(text.lines().last().unwrap(), piece["newest"].to_string());
    }
    eprintln!("{pushed} in force, {refused} rolled back, {tries} tries, {observed} revisions seen by workers");
    app.daemon.stop();
}

#[test]
fn a_file_that_is_broken_missing_or_refused_changes_nothing_and_is_told_with_its_place() {
    let config = json!({ "data": { "flags": {
        "file": "conf/flags.yaml",
        "check": ["sh", "-c", "! grep forbidden \"$1\" >&2", "check"],
    } } });
    let app = App::start_with(Runtime::Node22, config, &[("conf/flags.yaml", "a: 1\n")]);
    let file = app.daemon.app().join("conf/flags.yaml");
    app.all_have(&json!({ "a": 1 }));
    let revision = app.piece("flags")["newest"].clone();
    for (text, problem) in [
        ("a: 1\nb: [\n", "conf/flags.yaml:2:4: unclosed bracket"),
        ("a: forbidden\n", "exited with 1: a: forbidden"),
        ("a: 1\n# a comment\nb: {{\n", "conf/flags.yaml:3:"),
    ] {
        replace(&file, text);
        let piece = app.wait_for("flags", problem, |piece| {
            piece["problem"].as_str().is_some_and(|said| said.contains(problem))
        });
        assert_eq!(piece["newest"], revision);
    }
    fs::remove_file(&file).unwrap();
    app.wait_for("flags", "it is gone", |piece| {
        piece["problem"].as_str().is_some_and(|said| said.contains("not there"))
    });
    assert_eq!(app.flags()["value"], json!({ "a": 1 }));
    // What was in force before needs no push.
    fs::write(&file, "a: 1\n").unwrap();
    let piece = app.wait_for("flags", "all is well", |piece| piece["problem"] == Value::Null);
    assert_eq!(piece["newest"], revision);
    assert_eq!(app.events("data_broken").len(), 4);
    app.daemon.stop();
}

#[test]
fn the_swap_of_a_mounted_config_map_is_pushed() {
    let config = json!({ "data": { "flags": "mounted/flags.json", "all": "mounted" } });
    let files = [
        ("mounted/..1/flags.json", r#"{"version":1}"#),
        ("mounted/..1/motd", "hello 1"),
    ];
    let daemon = Daemon::start();
    let dir = daemon.app().join("mounted");
    for (name, text) in files {
        daemon.file(name, text);
    }
    symlink("..1", dir.join("..data")).unwrap();
    for name in ["flags.json", "motd"] {
        symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    }
    let app = App::start_in(daemon, Runtime::Node22, config);
    let version = |number: u32| {
        let name = format!("..{number}");
        fs::create_dir(dir.join(&name)).unwrap();
        fs::write(
            dir.join(&name).join("flags.json"),
            json!({ "version": number }).to_string(),
        )
        .unwrap();
        fs::write(dir.join(&name).join("motd"), format!("hello {number}")).unwrap();
        symlink(&name, dir.join("..new")).unwrap();
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    };
    for number in 1..4 {
        if number > 1 {
            version(number);
            fs::remove_dir_all(dir.join(format!("..{}", number - 1))).unwrap();
        }
        app.all_have(&json!({ "version": number }));
        let expected = json!({ "flags.json": { "version": number }, "motd": format!("hello {number}") });
        eventually("the directory", || {
            (get(app.port, "/").json()["all"]["value"] == expected).then_some(())
        });
    }
    app.daemon.stop();
}

#[test]
fn a_program_that_knows_nothing_of_data_neither_blocks_nor_refuses() {
    let daemon = Daemon::start();
    let port = free_port();
    let service = json!({
        "run": ["node", programs().join("http.js")],
        "instances": 2,
        "env": { "PORT": port.to_string(), "HOST": "127.0.0.1" },
    });
    let app = App::of(daemon, port, service);
    let began = Instant::now();
    let (code, outcome) = app.push(&json!(1));
    assert_eq!((code, &outcome["unacknowledged"]), (Some(0), &json!(2)));
    assert!(began.elapsed() < Duration::from_secs(30), "a push waits for 5 s");
    eventually("that they are known not to answer", || {
        let piece = app.piece("flags");
        let all = piece["workers"].as_array().unwrap();
        all.iter()
            .all(|worker| worker["state"] == "unacknowledged")
            .then_some(())
    });
    let began = Instant::now();
    for number in 2..6 {
        app.pushed(&json!(number));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "nobody is waited for any more"
    );
    assert_eq!(get(port, "/").status, 200);
    app.daemon.stop();
}

#[test]
fn revisions_and_contents_outlive_workers_primary_and_daemon() {
    let config = json!({ "data": { "table": { "file": "table.bin", "as": "memory" } } });
    let mut app = App::start_with(Runtime::Node22, config, &[("table.bin", &"7".repeat(10_000))]);
    let first = app.pushed(&json!({ "kept": 1 }));
    app.wait_for("table", "the table", |piece| piece["in_force"]["size"] == 10_000);
    let second = app.pushed(&json!({ "kept": 2 }));
    assert!(second > first);
    let primary = u32::try_from(app.daemon.service("app")["primary"].as_u64().unwrap()).unwrap();
    kill(primary, Signal::KILL);
    app.daemon.wait_for("app", "the next primary", |service| {
        service["phase"] == "ready" && service["primary"].as_u64().is_some_and(|pid| pid != u64::from(primary))
    });
    app.all_have(&json!({ "kept": 2 }));
    let third = app.pushed(&json!({ "kept": 3 }));
    assert!(third > second, "{third} after {second}");

    // The primary goes on without the daemon, and answers the next one.
    app.daemon.kill();
    let file = app.daemon.app().join("table.bin");
    replace(&file, &"8".repeat(20_000));
    app.daemon.start_again();
    app.wait_for("table", "the new table", |piece| piece["in_force"]["size"] == 20_000);

    app.daemon.ok(&["daemon", "stop"]);
    app.daemon.kill_rest();
    // The history was cut off by whatever befell the disk.
    let history = app.daemon.home().join("state/data/app/flags.piece/history.json");
    let text = fs::read(&history).unwrap();
    fs::write(&history, &text[..text.len() / 2]).unwrap();
    app.daemon.start_again();
    app.daemon.phase("app", "ready");
    app.wait_for("flags", "an older state", |piece| {
        piece["in_force"]["revision"].is_u64()
    });
    let fourth = app.pushed(&json!({ "kept": 4 }));
    assert!(fourth > third, "{fourth} after {third}");
    assert_eq!(app.events("data_damaged").len(), 1);
    let table = &get(app.port, "/").json()["table"];
    assert_eq!(table["size"], 20_000, "{table}");
    app.daemon.stop();
}

#[test]
fn an_older_revision_can_be_had_again() {
    let config = json!({ "data": { "flags": "flags.json5" } });
    let app = App::start_with(Runtime::Node22, config, &[("flags.json5", "{ n: 1 }")]);
    let file = app.daemon.app().join("flags.json5");
    app.all_have(&json!({ "n": 1 }));
    replace(&file, "{ n: 2, }");
    app.all_have(&json!({ "n": 2 }));
    let said = app.data(&["rollback", "app", "flags"]).ok();
    assert!(said.contains("revision 3 is in force: 2 workers applied it"), "{said}");
    app.all_have(&json!({ "n": 1 }));
    // The file has not changed since.
    app.daemon.ok(&["reload", "app"]);
    app.all_have(&json!({ "n": 1 }));
    let said = app.data(&["rollback", "app", "flags", "--to", "2", "--json"]);
    assert_eq!(said.json()["revision"], 4);
    app.all_have(&json!({ "n": 2 }));
    assert_eq!(
        app.data(&["get", "app", "flags", "--revision", "1"]).ok(),
        "{\n  \"n\": 1\n}\n"
    );
    for _ in 0..20 {
        app.pushed(&json!("x".repeat(100)));
    }
    let history: Vec<Value> = serde_json::from_str(&app.data(&["history", "app", "flags", "--json"]).ok()).unwrap();
    assert_eq!(history.len(), 10);
    let said = app.data(&["rollback", "app", "flags", "--to", "1"]).failed(2);
    assert!(said.contains("no revision 1"), "{said}");
    app.daemon.stop();
}

#[test]
fn what_is_asked_wrongly_is_said_so() {
    let config = json!({ "data": { "flags": "flags.json" } });
    let app = App::start_with(Runtime::Node22, config, &[("flags.json", "not yet")]);
    for (words, code, text) in [
        (&["status", "nobody"][..], 2, "no service \"nobody\""),
        (&["get", "app", "flgas"], 2, "did you mean \"flags\"?"),
        (&["get", "app", "flags"], 2, "nothing is in force"),
        (&["rollback", "app", "flags"], 2, "nothing else was in force before"),
        (&["push", "app", "flags", "--value", "{"], 2, "--value is not JSON"),
        (&["push", "app", "flags", "missing.json"], 2, "missing.json"),
        (&["push", "app", "no/name", "--value", "1"], 2, "cannot name data"),
        (&["push", "app", "flags"], 2, "<FILE>"),
    ] {
        let said = app.data(words).failed(code);
        assert!(said.contains(text), "{words:?}: {said} is not {text}");
    }
    app.daemon.file("broken.toml", "a = 1\nb = \n");
    let said = app.data(&["push", "app", "flags", "broken.toml"]).failed(2);
    assert!(said.contains("broken.toml:2:"), "{said}");
    app.daemon.file("fine.toml", "a = 1\n");
    app.data(&["push", "app", "flags", "fine.toml"]).ok();
    app.all_have(&json!({ "a": 1 }));
    app.daemon.ok(&["stop", "app"]);
    let said = app.data(&["status", "app"]).failed(2);
    assert!(
        said.contains("app is not running") && said.contains("thead start app"),
        "{said}"
    );
    app.daemon.stop();
}

#[test]
fn a_configuration_adds_and_takes_away_data_while_the_service_runs() {
    let config = json!({ "data": { "flags": "flags.json" } });
    let app = App::start_with(Runtime::Node22, config, &[("flags.json", "1"), ("more.json", "2")]);
    app.all_have(&json!(1));
    let pids = app.daemon.pids("app");
    let mut config: Value = serde_json::from_slice(&fs::read(app.daemon.app().join("thead.json")).unwrap()).unwrap();
    config["service"]["app"]["data"] = json!({ "more": "more.json" });
    app.daemon.file("thead.json", &config.to_string());
    let said = app.daemon.ok(&["plan", "thead.json"]);
    assert!(said.contains("data"), "{said}");
    app.daemon.ok(&["apply", "thead.json"]);
    app.wait_for("more", "the new piece", |piece| piece["in_force"]["revision"] == 1);
    let all: BTreeMap<String, Value> = serde_json::from_value(get(app.port, "/").json()).unwrap();
    assert_eq!(all["more"]["value"], json!(2));
    let pieces = app.data(&["status", "app", "--json"]).json();
    assert_eq!(pieces.as_array().unwrap().len(), 1, "{pieces}");
    assert_eq!(app.daemon.pids("app"), pids, "nobody was restarted for it");
    // Its numbers go on when it comes back.
    config["service"]["app"]["data"] = json!({ "flags": "flags.json" });
    app.daemon.file("flags.json", "3");
    app.daemon.file("thead.json", &config.to_string());
    app.daemon.ok(&["apply", "thead.json"]);
    let piece = app.wait_for("flags", "it is back", |piece| {
        piece["in_force"]["revision"].as_u64() > Some(1)
    });
    assert!(piece["in_force"]["revision"].as_u64() > Some(1));
    app.daemon.stop();
}

#[test]
fn what_was_pushed_by_hand_can_be_deleted() {
    let app = App::start_with(
        Runtime::Node22,
        json!({ "data": { "flags": "flags.json" } }),
        &[("flags.json", "1")],
    );
    app.all_have(&json!(1));
    app.data(&["push", "app", "more", "--value", "\"a secret\""]).ok();
    let content = app.daemon.home().join("state/data/app/more.piece");
    let has_content = || {
        let entries = fs::read_dir(&content).unwrap().map(|entry| entry.unwrap().path());
        let texts = entries.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
        texts.collect::<String>().contains("a secret")
    };
    assert!(has_content());
    let said = app.data(&["delete", "app", "flags"]).failed(2);
    assert!(said.contains("flags.json") && said.contains("thead apply"), "{said}");
    let said = app.data(&["delete", "app", "more"]).ok();
    assert!(said.contains("deleted"), "{said}");
    assert!(app.data(&["get", "app", "more"]).failed(2).contains("no data"));
    assert!(app.data(&["delete", "app", "more"]).failed(2).contains("no data"));
    eventually("its content to be gone", || (!has_content()).then_some(()));
    // Who comes does not get it, and it may come again, with numbers that go on.
    app.daemon.ok(&["restart", "app"]);
    assert_eq!(get(app.port, "/").json()["more"], Value::Null);
    let again: Value = app.data(&["push", "app", "more", "--value", "2", "--json"]).json();
    assert!(again["revision"].as_u64() > Some(1), "{again}");
    app.daemon.stop();
}
