//! The daemon: what is started runs, what is stopped is gone, and what concerns one service concerns no other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use conformance::client::{free_port, get, try_get};
use conformance::{Daemon, Process, eventually, kill};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server that says who it is.
const SERVER: &str = "
    require('http').createServer((request, response) => {
        if (request.url === '/die') process.exit(3);
        response.setHeader('x-pid', process.pid);
        response.end(JSON.stringify({ pid: process.pid, version: process.env.VERSION || null }));
    }).listen(process.env.PORT, '127.0.0.1');
";

/// A configuration as `thead.json`.
fn configure(daemon: &Daemon, config: &Value) {
    daemon.file("thead.json", &config.to_string());
}

/// A service of this server.
fn server(port: u16, more: Value) -> Value {
    let mut service = json!({
        "run": "node server.js",
        "instances": 2,
        "env": { "PORT": port.to_string() },
        "reload": { "lame-duck": "0s", "soak": "0s" },
    });
    service
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    service
}

fn with_server() -> Daemon {
    let daemon = Daemon::start();
    daemon.file("server.js", SERVER);
    daemon
}

#[test]
fn a_script_is_started_listed_and_stopped() {
    let daemon = with_server();
    let port = free_port();
    let env = format!("PORT={port}");
    let said = daemon.ok(&["start", "--name", "web", "-i", "2", "--env", &env, "server.js"]);
    assert!(said.contains("2 workers ready"), "{said}");
    let service = daemon.service("web");
    assert_eq!((&service["phase"], &service["ready"]), (&json!("ready"), &json!(2)));
    assert!(daemon.pids("web").contains(&get(port, "/").pid()));

    // What runs already is left alone.
    let pids = daemon.pids("web");
    daemon.ok(&["start", "web"]);
    assert_eq!(daemon.pids("web"), pids);

    daemon.ok(&["stop", "web"]);
    assert_eq!(daemon.service("web")["phase"], "stopped");
    assert!(try_get(port, "/").is_err());
    assert!(pids.iter().all(|pid| Process::read(*pid).is_none()));

    daemon.ok(&["start", "web"]);
    get(port, "/");
    daemon.ok(&["delete", "web"]);
    assert!(daemon.thead(&["describe", "web"]).failed(2).contains("no service"));
    daemon.stop();
}

#[test]
fn what_cannot_be_done_is_said_with_the_reason_and_an_exit_code() {
    let daemon = with_server();
    let said = daemon.thead(&["restart", "nobody"]).failed(2);
    assert!(said.contains("no service \"nobody\""), "{said}");
    let said = daemon.thead(&["start", "--name", "lost", "./missing.js"]).failed(2);
    assert!(said.contains("missing.js"), "{said}");
    daemon.file(
        "broken.js",
        "console.log('on the way'); throw new Error('out of cheese');",
    );
    let said = daemon.thead(&["start", "--name", "broken", "broken.js"]).failed(1);
    assert!(said.contains("out of cheese"), "{said}");
    assert_eq!(daemon.service("broken")["phase"], "failed");
    let why = daemon.ok(&["why", "broken"]);
    assert!(
        why.contains("out of cheese") && why.contains("exited with code 1"),
        "{why}"
    );
    daemon.stop();
}

#[test]
fn no_daemon_is_an_error_of_its_own() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let said = daemon.thead(&["ls"]).failed(3);
    assert!(said.contains("thead daemon --detach"), "{said}");
    // Another one in the same home is refused, with a code of its own.
    daemon.start_again();
    let said = daemon.thead(&["daemon"]).failed(3);
    assert!(said.contains("runs already"), "{said}");
    daemon.stop();
}

#[test]
fn g3_a_restart_of_one_service_touches_nothing_of_the_others() {
    let daemon = with_server();
    let names: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    let mut services = serde_json::Map::new();
    for name in &names {
        services.insert(name.clone(), server(free_port(), json!({ "instances": 1 })));
    }
    configure(&daemon, &json!({ "service": services }));
    daemon.ok(&["apply", "thead.json"]);
    let look = || -> Vec<(String, Vec<u32>, Vec<String>)> {
        let others = names.iter().filter(|name| *name != "s4");
        let primary = |name: &str| u32::try_from(daemon.service(name)["primary"].as_u64().unwrap()).unwrap();
        let sockets = |name: &str| Process::read(primary(name)).unwrap().sockets();
        others
            .map(|name| (name.clone(), daemon.pids(name), sockets(name)))
            .collect()
    };
    let (before, mine) = (look(), daemon.pids("s4"));
    daemon.ok(&["restart", "s4"]);
    let now = daemon.pids("s4");
    assert!(!now.is_empty() && now != mine, "{mine:?} {now:?}");
    assert_eq!(look(), before);
    daemon.stop();
}

#[test]
fn the_daemon_dies_and_the_next_one_finds_everything_running() {
    let mut daemon = with_server();
    let port = free_port();
    configure(&daemon, &json!({ "service": { "web": server(port, json!({})) } }));
    daemon.ok(&["apply", "thead.json"]);
    let pids = daemon.pids("web");
    daemon.kill();
    // Nobody misses it.
    get(port, "/");
    daemon.start_again();
    assert_eq!(daemon.pids("web"), pids);
    daemon.ok(&["scale", "web", "3"]);
    daemon.wait_for("web", "three", |service| service["ready"] == 3);
    daemon.stop();
}

#[test]
fn after_a_crash_of_the_whole_machine_everything_that_ran_runs_again() {
    let mut daemon = with_server();
    let (one, two) = (free_port(), free_port());
    let services = json!({ "one": server(one, json!({})), "two": server(two, json!({})) });
    configure(&daemon, &json!({ "service": services }));
    daemon.ok(&["apply", "thead.json"]);
    daemon.ok(&["stop", "two"]);
    // All at once, as by a loss of power.
    for process in daemon.census().processes() {
        kill(process.pid, Signal::KILL);
    }
    daemon.kill_rest();
    daemon.start_again();
    daemon.phase("one", "ready");
    get(one, "/");
    assert_eq!(daemon.service("two")["phase"], "stopped");
    daemon.stop();
}

#[test]
fn a_primary_that_dies_is_replaced_and_leaves_nothing_behind() {
    let daemon = with_server();
    let port = free_port();
    // It does not end with its channel.
    daemon.file(
        "stubborn.js",
        &format!("process.on('disconnect', () => {{}}); {SERVER} setInterval(() => {{}}, 1e6);"),
    );
    let service = server(port, json!({ "run": "node stubborn.js", "preload": false }));
    configure(&daemon, &json!({ "service": { "web": service } }));
    daemon.ok(&["apply", "thead.json"]);
    let (old, primary) = (daemon.pids("web"), daemon.service("web")["primary"].as_u64().unwrap());
    kill(u32::try_from(primary).unwrap(), Signal::KILL);
    daemon.wait_for("web", "another primary", |service| {
        service["phase"] == "ready" && service["primary"] != primary
    });
    assert!(old.iter().all(|pid| Process::read(*pid).is_none()), "{old:?}");
    get(port, "/");
    assert!(
        daemon
            .ok(&["why", "web"])
            .contains("its primary was killed by signal 9")
    );
    daemon.stop();
}

#[test]
fn g13_a_grandchild_that_was_daemonised_thrice_is_gone_after_stop() {
    let daemon = Daemon::start();
    daemon.file(
        "daemonise.py",
        "
import os, sys, time
for depth in range(3):
    if os.fork() == 0:
        os.setsid()
    else:
        if depth == 0:
            # The worker itself stays.
            open('worker', 'w').write(str(os.getpid()))
            while True: time.sleep(1000)
        os._exit(0)
os.environ.clear()
open('hidden.new', 'w').write(str(os.getpid()))
os.rename('hidden.new', 'hidden')
time.sleep(1000)
",
    );
    daemon.ok(&["start", "--name", "forks", "python3", "daemonise.py"]);
    let hidden: u32 = eventually("the grandchild", || {
        std::fs::read_to_string(daemon.app().join("hidden")).ok()?.parse().ok()
    });
    assert!(Process::read(hidden).is_some());
    daemon.ok(&["stop", "forks"]);
    assert_eq!(Process::read(hidden), None);
    daemon.stop();
}

#[test]
fn g21_a_stop_ends_even_if_the_signal_is_ignored() {
    let daemon = Daemon::start();
    daemon.file("deaf.py", "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('up', 'w')\nwhile True: time.sleep(1000)\n");
    let service = json!({ "run": "python3 deaf.py", "stop": { "timeout": "300ms" } });
    configure(&daemon, &json!({ "service": { "deaf": service } }));
    daemon.ok(&["apply", "thead.json"]);
    eventually("it to be deaf", || daemon.app().join("up").exists().then_some(()));
    let pids = daemon.pids("deaf");
    daemon.ok(&["stop", "deaf"]);
    assert!(pids.iter().all(|pid| Process::read(*pid).is_none()));
    daemon.stop();
}

#[test]
fn services_start_after_those_that_they_need_and_stop_before_them() {
    let daemon = with_server();
    daemon.file(
        "slow.js",
        &format!("setTimeout(() => {{ require('fs').writeFileSync('slow-is-up', ''); {SERVER} }}, 300);"),
    );
    daemon.file(
        "checks.js",
        &format!("if (!require('fs').existsSync('slow-is-up')) process.exit(9); {SERVER}"),
    );
    let (slow, checks) = (free_port(), free_port());
    let services = json!({
        "slow": server(slow, json!({ "run": "node slow.js" })),
        "checks": server(checks, json!({ "run": "node checks.js", "after": ["slow"] })),
    });
    configure(&daemon, &json!({ "service": services }));
    daemon.ok(&["apply", "thead.json"]);
    assert_eq!(daemon.service("checks")["restarts"], 0);
    let events = daemon.events();
    let at = |service: &str, kind: &str| {
        let found = events
            .iter()
            .rposition(|event| event["service"] == service && event["event"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} of {service}"))
    };
    assert!(at("slow", "ready") < at("checks", "spawned"));
    daemon.ok(&["stop", "all"]);
    let events = daemon.events();
    let at = |service: &str| {
        events
            .iter()
            .position(|event| event["service"] == service && event["event"] == "stopping")
            .unwrap()
    };
    assert!(at("checks") < at("slow"));
    daemon.stop();
}

#[test]
fn g18_a_group_is_restarted_with_the_member_that_failed() {
    let daemon = with_server();
    let ports: Vec<_> = (0..3).map(|_| free_port()).collect();
    let one = |n: usize| server(ports[n], json!({ "instances": 1 }));
    configure(
        &daemon,
        &json!({
            "service": { "a": one(0), "b": one(1), "c": one(2) },
            "group": { "all": { "services": ["a", "b", "c"], "strategy": "rest-for-one" } },
        }),
    );
    daemon.ok(&["apply", "thead.json"]);
    let before: Vec<_> = ["a", "b", "c"].map(|name| daemon.pids(name)).into();
    let _ = try_get(ports[1], "/die");
    daemon.wait_for("b", "another worker", |service| {
        service["phase"] == "ready" && service["restarts"] == 1
    });
    eventually("c to be restarted", || {
        let now = daemon.pids("c");
        (!now.is_empty() && now != before[2] && daemon.service("c")["phase"] == "ready").then_some(())
    });
    assert_eq!(daemon.pids("a"), before[0]);
    // A restart that was ordered concerns nobody else.
    let c = daemon.pids("c");
    daemon.ok(&["restart", "b"]);
    assert_eq!(daemon.pids("c"), c);
    daemon.stop();
}

/// Three services that write down when they begin and when they are ready, in a group of this strategy.
fn grouped(strategy: &str, second: &Value) -> (Daemon, Vec<u16>) {
    let daemon = Daemon::start();
    daemon.file(
        "server.js",
        "
        const say = (what) => require('fs').appendFileSync('said', `${process.env.ME} ${what}\\n`);
        say('begins');
        const slowly = process.env.ME === 'b' ? 300 : 0;
        setTimeout(() => require('http').createServer((request, response) => {
            if (request.url === '/die') process.exit(1);
            response.setHeader('x-pid', process.pid);
            response.end();
        }).listen(process.env.PORT, '127.0.0.1', () => say('is ready')), slowly);
        ",
    );
    let ports: Vec<_> = (0..3).map(|_| free_port()).collect();
    let one = |n: usize, more: &Value| {
        let mut service = server(ports[n], more.clone());
        service["instances"] = json!(1);
        service["env"]["ME"] = json!(["a", "b", "c"][n]);
        service
    };
    let nothing = json!({});
    configure(
        &daemon,
        &json!({
            "service": { "a": one(0, &nothing), "b": one(1, second), "c": one(2, &nothing) },
            "group": { "all": { "services": ["a", "b", "c"], "strategy": strategy } },
        }),
    );
    daemon.ok(&["apply", "thead.json"]);
    daemon.file("said", "");
    (daemon, ports)
}

#[test]
fn g18_those_that_are_restarted_with_another_wait_until_it_is_ready_and_for_one_another() {
    let (daemon, ports) = grouped("one-for-all", &json!({}));
    let before = ["a", "b", "c"].map(|name| daemon.pids(name));
    let _ = try_get(ports[1], "/die");
    let said = eventually("all to be ready again", || {
        let said = std::fs::read_to_string(daemon.app().join("said")).unwrap();
        (said.lines().count() >= 6).then_some(said)
    });
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "b begins",
            "b is ready",
            "a begins",
            "a is ready",
            "c begins",
            "c is ready"
        ]
    );
    eventually("them to be shown so", || {
        let ready = ["a", "b", "c"].map(|name| daemon.service(name)["phase"] == "ready");
        (ready == [true; 3]).then_some(())
    });
    let after = ["a", "b", "c"].map(|name| daemon.pids(name));
    assert!(
        before.iter().zip(&after).all(|(before, after)| before != after),
        "{after:?}"
    );
    daemon.stop();
}

#[test]
fn g18_nobody_follows_one_that_does_not_come_back() {
    let budget = json!({ "restart": {
        "intensity": { "restarts": 2, "period": "60s" },
        "backoff": { "first": "10ms", "max": "20ms" },
    } });
    let (daemon, ports) = grouped("one-for-all", &budget);
    let before = ["a", "c"].map(|name| daemon.pids(name));
    // From now on it cannot start.
    let server = std::fs::read_to_string(daemon.app().join("server.js")).unwrap();
    daemon.file(
        "server.js",
        &format!("if (process.env.ME === 'b') process.exit(3);\n{server}"),
    );
    let _ = try_get(ports[1], "/die");
    daemon.phase("b", "failed");
    let told = eventually("it to be told", || {
        let events = daemon.events();
        let mut told = events.iter().filter(|event| event["event"] == "group_restart");
        told.next().map(|event| event["text"].as_str().unwrap().to_owned())
    });
    assert!(told.contains("did not come back: a, c not restarted with it"), "{told}");
    assert_eq!(["a", "c"].map(|name| daemon.pids(name)), before);
    get(ports[0], "/");
    // An operator mends it and starts it: that is no failure.
    daemon.file("server.js", &server);
    daemon.ok(&["start", "b"]);
    assert_eq!(["a", "c"].map(|name| daemon.pids(name)), before);
    daemon.stop();
}

#[test]
fn apply_adds_changes_and_removes_in_the_mildest_way() {
    let daemon = with_server();
    let (one, two, three) = (free_port(), free_port(), free_port());
    let services = |more: Value| json!({ "service": { "one": server(one, json!({})), "two": server(two, more) } });
    configure(&daemon, &services(json!({})));
    let plan = daemon.ok(&["plan", "thead.json"]);
    assert!(plan.contains("one: add and start"), "{plan}");
    assert_eq!(daemon.thead(&["ls", "--json"]).json(), json!([]));
    daemon.ok(&["apply", "thead.json"]);
    let (first, second) = (daemon.pids("one"), daemon.pids("two"));

    // The same again is nothing.
    let plan = daemon.ok(&["plan", "thead.json"]);
    assert!(plan.contains("one: nothing") && plan.contains("two: nothing"), "{plan}");
    daemon.ok(&["apply", "thead.json"]);
    assert_eq!(
        (daemon.pids("one"), daemon.pids("two")),
        (first.clone(), second.clone())
    );

    // What can change while it runs, does.
    configure(
        &daemon,
        &services(json!({ "stop": { "timeout": "3s" }, "instances": 3 })),
    );
    assert!(daemon.ok(&["plan", "thead.json"]).contains("change while it runs"));
    daemon.ok(&["apply", "thead.json"]);
    daemon.wait_for("two", "three workers", |service| service["ready"] == 3);
    let now: BTreeSet<_> = daemon.pids("two").into_iter().collect();
    assert!(second.iter().all(|pid| now.contains(pid)), "{second:?} {now:?}");

    // A new environment is a new generation.
    let env = json!({ "PORT": two.to_string(), "VERSION": "2" });
    configure(&daemon, &services(json!({ "env": env })));
    assert!(daemon.ok(&["plan", "thead.json"]).contains("reload"));
    daemon.ok(&["apply", "thead.json"]);
    assert_eq!(get(two, "/").json()["version"], "2");
    assert!(daemon.service("two")["generation"].as_u64() > Some(1));

    // What is not there any more is removed; what is new is added.
    configure(
        &daemon,
        &json!({ "service": { "one": server(one, json!({})), "three": server(three, json!({})) } }),
    );
    daemon.ok(&["apply", "thead.json"]);
    assert!(try_get(two, "/").is_err());
    get(three, "/");
    assert_eq!(daemon.pids("one"), first);
    daemon.stop();
}

#[test]
fn g4_a_new_version_that_does_not_work_never_replaces_the_old_one() {
    let daemon = with_server();
    let port = free_port();
    configure(
        &daemon,
        &json!({ "service": { "web": server(port, json!({ "ready-timeout": "2s", "reload": { "soak": "1s" } })) } }),
    );
    daemon.ok(&["apply", "thead.json"]);
    let pids = daemon.pids("web");
    for (broken, says) in [
        ("throw new Error('not today')", "not today"),
        ("setTimeout(() => process.exit(5), 300)", "exited with code 5"),
        (
            &format!("{SERVER} setTimeout(() => process.exit(6), 500)"),
            "exited with code 6",
        ),
        ("setInterval(() => {}, 1000)", "did not listen"),
    ] {
        daemon.file("server.js", broken);
        let said = daemon.thead(&["reload", "web"]).failed(1);
        assert!(said.contains(says), "{says:?}: {said}");
        // What was tried leaves, what served serves on.
        daemon.wait_for("web", "only the old ones", |service| {
            service["workers"].as_array().unwrap().len() == 2
        });
        assert_eq!(daemon.pids("web"), pids, "{says}");
        get(port, "/");
    }
    daemon.file("server.js", SERVER);
    daemon.ok(&["reload", "web"]);
    assert!(daemon.pids("web").iter().all(|pid| !pids.contains(pid)));
    daemon.stop();
}

#[test]
fn workers_know_their_place_and_who_knew_pm2_finds_what_it_looks_for() {
    let daemon = Daemon::start();
    daemon.file(
        "server.js",
        "
        const { NODE_APP_INSTANCE, pm_id, name, PORT } = process.env;
        require('fs').writeFileSync(`place-${NODE_APP_INSTANCE}`, JSON.stringify({ pm_id, name, PORT }));
        process.on('message', (message) => {
            if (message === 'shutdown') require('fs').writeFileSync(`told-${NODE_APP_INSTANCE}`, '');
        });
        // A server that is ready when it says so.
        setTimeout(() => process.send('ready'), 100);
        setInterval(() => {}, 1000);
        ",
    );
    let service = json!({
        "run": "node server.js", "instances": 2, "ready": "message", "env": { "PORT": 4000 }, "increment-env": "PORT",
        "reload": { "drain": "200ms" }, "stop": { "message": true },
    });
    configure(&daemon, &json!({ "service": { "old": service } }));
    daemon.ok(&["apply", "thead.json"]);
    let place = |n: u32| -> Value {
        serde_json::from_slice(&std::fs::read(daemon.app().join(format!("place-{n}"))).unwrap()).unwrap()
    };
    assert_eq!(place(0), json!({ "pm_id": "0", "name": "old", "PORT": "4000" }));
    assert_eq!(place(1), json!({ "pm_id": "1", "name": "old", "PORT": "4001" }));
    daemon.ok(&["stop", "old"]);
    for n in 0..2 {
        assert!(daemon.app().join(format!("told-{n}")).exists(), "{n}");
    }
    daemon.stop();
}

#[test]
fn any_program_gets_its_sockets_and_they_outlive_it_and_its_primary() {
    let mut daemon = Daemon::start();
    // As a plain program does that knows nothing of thead but what systemd's interface has.
    daemon.file(
        "server.py",
        "
import os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['LISTEN_PID']
names = os.environ['LISTEN_FDNAMES'].split(':')
assert os.environ['LISTEN_FDS'] == str(len(names)) == '2'
http = socket.socket(fileno=3 + names.index('http'))
print('up', flush=True)
while True:
    peer, _ = http.accept()
    head = b''
    while b'\\r\\n\\r\\n' not in head: head += peer.recv(10000) or b'\\r\\n\\r\\n'
    peer.sendall(b'HTTP/1.1 200 OK\\r\\nx-pid: %d\\r\\nconnection: close\\r\\ncontent-length: 2\\r\\n\\r\\nok' % os.getpid())
    peer.close()
",
    );
    let port = free_port();
    let path = daemon.app().join("admin.sock");
    let listen = json!({ "http": format!("tcp://127.0.0.1:{port}"), "admin": format!("unix://{}", path.display()) });
    let service = json!({
        "run": "python3 server.py", "instances": 2, "listen": listen, "ready": { "delay": "300ms" },
        "stop": { "timeout": "2s" },
    });
    configure(&daemon, &json!({ "service": { "py": service } }));
    daemon.ok(&["apply", "thead.json"]);
    assert!(daemon.pids("py").contains(&get(port, "/").pid()));
    let primary = |daemon: &Daemon| u32::try_from(daemon.service("py")["primary"].as_u64().unwrap()).unwrap();
    // While nobody serves, clients wait; nobody is refused. (Who was taken by a worker that dies has lost.)
    let served = || {
        eventually("an answer", || match try_get(port, "/") {
            Ok(answer) => Some(answer),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                None
            }
        });
    };
    let old = primary(&daemon);
    kill(old, Signal::KILL);
    served();
    let another = |daemon: &Daemon, old: u32| {
        daemon.wait_for("py", "another primary", |service| {
            service["phase"] == "ready" && service["primary"] != u64::from(old)
        });
    };
    another(&daemon, old);
    // The next daemon gets them from the primary, and they outlive that as well.
    daemon.kill();
    daemon.start_again();
    daemon.phase("py", "ready");
    get(port, "/");
    let old = primary(&daemon);
    kill(old, Signal::KILL);
    served();
    another(&daemon, old);
    daemon.ok(&["reload", "py"]);
    get(port, "/");
    daemon.ok(&["stop", "py"]);
    assert!(try_get(port, "/").is_err());
    daemon.stop();
}

#[test]
fn workers_that_are_too_old_are_replaced_one_by_one_and_all_by_the_calendar() {
    let daemon = with_server();
    let (aged, dated) = (free_port(), free_port());
    let services = json!({
        "aged": server(aged, json!({ "restart": { "max-age": "2s" } })),
        "dated": server(dated, json!({ "restart": { "cron": "*/3 * * * * *" } })),
    });
    configure(&daemon, &json!({ "service": services }));
    daemon.ok(&["apply", "thead.json"]);
    for (name, port, kind) in [("aged", aged, "max_age"), ("dated", dated, "cron")] {
        let first = daemon.pids(name);
        eventually(&format!("all of {name} to be replaced"), || {
            get(port, "/");
            let now = daemon.pids(name);
            first.iter().all(|pid| !now.contains(pid)).then_some(())
        });
        let events = daemon.events();
        assert!(
            events
                .iter()
                .any(|event| event["event"] == kind && event["service"] == name),
            "{events:?}"
        );
        assert_eq!(daemon.service(name)["restarts"], 0);
    }
    daemon.stop();
}

#[test]
fn g17_a_crash_loop_ends_in_failed_by_its_budget_and_concerns_nobody_else() {
    let daemon = with_server();
    let port = free_port();
    daemon.file("short.js", "setTimeout(() => process.exit(1), 1200);");
    let restart =
        json!({ "intensity": { "restarts": 3, "period": "60s" }, "backoff": { "first": "10ms", "max": "50ms" } });
    let services = json!({
        "short": { "run": "node short.js", "instances": 1, "ready": { "delay": "100ms" }, "restart": restart },
        "web": server(port, json!({})),
    });
    configure(&daemon, &json!({ "service": services }));
    daemon.ok(&["apply", "thead.json"]);
    let sibling = daemon.pids("web");
    let failed = daemon.phase("short", "failed");
    assert_eq!(failed["restarts"], 3, "{failed}");
    let why = daemon.ok(&["why", "short"]);
    assert!(
        why.contains("exited with code 1") && why.contains("thead start short"),
        "{why}"
    );
    assert_eq!(daemon.pids("web"), sibling);
    get(port, "/");
    // An operator may try again.
    daemon.ok(&["start", "short"]);
    daemon.stop();
}

#[test]
fn g14_twenty_orphans_leave_no_zombie() {
    let daemon = Daemon::start();
    daemon.file(
        "orphans.py",
        "
import os, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3)
        os._exit(0)
    os.wait()
open('done', 'w')
while True: time.sleep(1000)
",
    );
    daemon.ok(&[
        "start",
        "--name",
        "parent",
        "--set",
        "ready.delay=0s",
        "python3",
        "orphans.py",
    ]);
    eventually("all of them", || daemon.app().join("done").exists().then_some(()));
    // They end within 0.3 s, and are collected at once; a busy machine may take longer to look.
    eventually("nobody to be left but the worker", || {
        let all = daemon.census().processes();
        let python = all.iter().filter(|process| process.name.starts_with("python")).count();
        (python == 1 && !all.iter().any(Process::is_zombie)).then_some(())
    });
    daemon.stop();
}

#[test]
fn a_failed_service_that_is_mended_is_started_by_apply() {
    let daemon = with_server();
    let port = free_port();
    let broken =
        json!({ "env": { "PORT": "99999999" }, "restart": { "intensity": { "restarts": 0, "period": "60s" } } });
    let mended = json!({ "restart": { "intensity": { "restarts": 0, "period": "60s" } } });
    configure(&daemon, &json!({ "service": { "web": server(port, broken) } }));
    daemon.thead(&["apply", "thead.json"]).failed(1);
    daemon.phase("web", "failed");
    configure(&daemon, &json!({ "service": { "web": server(port, mended) } }));
    daemon.ok(&["apply", "thead.json"]);
    get(port, "/");
    daemon.stop();
}

#[test]
fn what_a_dead_worker_leaves_behind_is_killed_down_to_the_last_generation_and_told() {
    let daemon = Daemon::start();
    daemon.file(
        "family.py",
        "import subprocess, time
subprocess.Popen(['sh', '-c', 'sleep 6001; true'])
open('begun', 'w')
time.sleep(6002)
",
    );
    daemon.ok(&[
        "start",
        "--name",
        "family",
        "--set",
        "ready.delay=0s",
        "python3",
        "family.py",
    ]);
    for _ in 0..3 {
        let sleeps = || {
            let all = daemon.census().processes();
            all.iter().filter(|process| process.name == "sleep").count()
        };
        eventually("its family", || (sleeps() == 1).then_some(()));
        let worker = daemon.pids("family")[0];
        kill(worker, Signal::KILL);
        eventually("another worker", || {
            daemon.pids("family").first().copied().filter(|pid| *pid != worker)
        });
        eventually("one family alone", || (sleeps() == 1).then_some(()));
    }
    let told = daemon.events();
    let told = told
        .iter()
        .filter(|event| event["text"].as_str().unwrap().contains("killed sleep"));
    assert!(told.count() >= 2);
    daemon.stop();
}

#[test]
fn services_that_run_are_taken_up_though_the_state_is_lost() {
    let mut daemon = with_server();
    let port = free_port();
    configure(&daemon, &json!({ "service": { "web": server(port, json!({})) } }));
    daemon.ok(&["apply", "thead.json"]);
    let pids = daemon.pids("web");
    daemon.kill();
    for file in ["services.json", "services.json.old"] {
        let _ = std::fs::remove_file(daemon.home().join("state").join(file));
    }
    daemon.start_again();
    daemon.phase("web", "ready");
    assert_eq!(daemon.pids("web"), pids);
    assert!(daemon.events().iter().any(|event| event["event"] == "recovered"));
    // It is in the state again.
    daemon.kill();
    daemon.start_again();
    daemon.phase("web", "ready");
    assert!(!daemon.events().iter().any(|event| event["event"] == "recovered"));
    daemon.stop();
    assert!(try_get(port, "/").is_err());
}
