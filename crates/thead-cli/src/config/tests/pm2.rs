//! PM2's ecosystem files, where no runtime is needed to read them.

use super::{directory, load_text};
use crate::config::model::{Policy, Ready, Service};
use crate::config::value::{ByteSize, Instances, Span};
use crate::config::{Ask, Loaded, load};

fn loaded(text: &str) -> Loaded {
    let dir = directory();
    load_text(dir.path(), "ecosystem.json", text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The service of one app with these keys, and what is noted.
fn app(keys: &str) -> (Service, Vec<String>) {
    let loaded = loaded(&format!("{{ apps: [{{ name: 'a', script: './app', {keys} }}] }}"));
    let notes = loaded.notes.iter().map(ToString::to_string).collect();
    (loaded.config.service["a"].clone(), notes)
}

/// The service of keys that leave nothing to be noted.
fn plain(keys: &str) -> Service {
    let (service, notes) = app(keys);
    assert_eq!(notes, Vec::<String>::new(), "{keys}");
    service
}

#[test]
fn an_app_is_a_service() {
    let service = plain("");
    assert_eq!(service.run.words(), ["./app"]);
    assert_eq!(service.instances, Instances::new(1));
    assert_eq!(service.stop.signal.to_string(), "SIGINT");
    assert_eq!(service.pass_env, Some(vec!["*".to_owned()]));
    assert_eq!(service.restart, Service::new("x".parse().unwrap()).restart);
    assert_eq!(plain("args: '-a \"b c\"'").run.words(), ["./app", "-a", "b c"]);
    assert_eq!(plain("args: ['-a', 5]").run.words(), ["./app", "-a", "5"]);
    assert_eq!(
        plain("interpreter: './bun', interpreter_args: '--smol'").run.words(),
        ["./bun", "--smol", "./app"]
    );
    assert_eq!(
        plain("interpreter: './node', nodeArgs: ['-r', 'x'], source_map_support: true")
            .run
            .words(),
        ["./node", "--enable-source-maps", "-r", "x", "./app",]
    );
}

#[test]
fn the_number_of_workers_is_that_of_pm2() {
    for (keys, instances) in [
        ("instances: 4", Instances::new(4)),
        ("instances: '3'", Instances::new(3)),
        ("instances: 0", Some(Instances::Max)),
        ("instances: 'max', exec_mode: 'cluster'", Some(Instances::Max)),
        ("exec_mode: 'fork_mode'", Instances::new(1)),
    ] {
        assert_eq!(plain(keys).instances, instances, "{keys}");
    }
    let cores = thead::sys::limit::cores() as u64;
    assert_eq!(plain("instances: -1").instances, Instances::new((cores - 1).max(1)));
    assert_eq!(plain("instances: -4096").instances, Instances::new(1));
}

#[test]
fn bare_numbers_are_milliseconds() {
    let service = plain(
        "interpreter: './node', kill_timeout: 5000, listen_timeout: '8000', restart_delay: 250, wait_ready: true, shutdown_with_message: true",
    );
    assert_eq!(service.stop.timeout, Span::secs(5));
    assert_eq!(service.ready_timeout, Span::secs(8));
    assert_eq!(
        (service.restart.backoff.first, service.restart.backoff.max),
        (Span::millis(250), Span::millis(250))
    );
    assert_eq!(service.ready, Ready::Message);
    assert!(service.stop.message);
    let backoff = plain("exp_backoff_restart_delay: 100").restart;
    assert_eq!(
        (backoff.backoff.first, backoff.backoff.max, backoff.reset_after),
        (Span::millis(100), Span::secs(15), Span::secs(30))
    );
    assert_eq!(
        plain("exp_backoff_restart_delay: 20000").restart.backoff.max,
        Span::secs(20)
    );
    assert_eq!(plain("restart_delay: 0").restart, plain("").restart);
}

#[test]
fn what_follows_a_death_is_as_with_pm2() {
    let restart = plain("max_restarts: 5, min_uptime: '10s'").restart;
    assert_eq!(
        (
            restart.intensity.restarts,
            restart.intensity.period,
            restart.reset_after
        ),
        (5, Span::secs(50), Span::secs(10))
    );
    assert_eq!(plain("max_restarts: 20").restart.intensity.period, Span::secs(20));
    assert_eq!(plain("max_restarts: 0").restart.intensity.restarts, 0);
    assert_eq!(plain("autorestart: false").restart.policy, Policy::Never);
    assert_eq!(plain("stop_exit_codes: [0]").restart.policy, Policy::OnFailure);
    assert_eq!(
        plain("cron_restart: '0 3 * * *'").restart.cron.as_deref(),
        Some("0 3 * * *")
    );
    assert_eq!(plain("cron_restart: 0").restart.cron, None);
    assert_eq!(
        plain("max_memory_restart: '300M'").limit.memory,
        Some(ByteSize::mib(300))
    );
    assert_eq!(
        plain("max_memory_restart: 1048576").limit.memory,
        Some(ByteSize::mib(1))
    );
}

#[test]
fn variables_are_those_of_pm2() {
    let service = plain(
        "env: { PORT: 3000, DEBUG: true, O: { a: [1] }, GONE: null }, env_staging: { PORT: 1 }, increment_var: 'PORT', instance_var: 'N'",
    );
    let env: Vec<_> = service
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(env, [("DEBUG", "true"), ("O", "{\"a\":[1]}"), ("PORT", "3000")]);
    assert_eq!(
        (service.increment_env.as_deref(), service.instance_env.as_deref()),
        (Some("PORT"), Some("N"))
    );
    assert_eq!(plain("port: 80").env["PORT"], "80");
    assert_eq!(plain("filter_env: true").pass_env, None);
    let service = plain("uid: 'root', gid: 0, namespace: 'shop'");
    assert_eq!(
        (service.user.as_deref(), service.group.as_deref()),
        (Some("root"), Some("0"))
    );
    assert_eq!(service.namespace.unwrap().as_str(), "shop");
}

#[test]
fn an_environment_is_chosen_by_name() {
    let dir = directory();
    let text = "{ apps: [{ name: 'a', script: './app', append_env_to_name: true, env: { A: 1, B: 1, C: 1 }, env_live: { B: 2 } }],
        deploy: { live: { env: { C: 0, D: 0 } } } }";
    std::fs::write(dir.path().join("ecosystem.json"), text).unwrap();
    let with = |environment| {
        load(Ask {
            file: Some(&dir.path().join("ecosystem.json")),
            environment,
            only: &[],
        })
        .unwrap()
    };
    let live = with(Some("live"));
    let env: Vec<_> = live.config.service["a-live"]
        .env
        .iter()
        .map(|(name, value)| format!("{name}{value}"))
        .collect();
    assert_eq!(env, ["A1", "B2", "C1", "D0"]);
    assert_eq!(with(None).config.service["a"].env["B"], "1");
    let notes: Vec<_> = with(Some("test"))
        .notes
        .iter()
        .map(|note| note.message.clone())
        .collect();
    assert!(notes.iter().any(|note| note == "no app has env_test"), "{notes:?}");
}

#[test]
fn what_has_no_counterpart_is_noted_with_its_place_and_what_to_do() {
    for (keys, note) in [
        (
            "watch: ['src'], ignore_watch: ['x']",
            "`watch` = [\"src\"]: thead does not watch",
        ),
        (
            "out_file: './o.log'",
            "`out_file` = \"./o.log\": thead keeps what workers print",
        ),
        ("err_log: './e.log'", "`error_file` = \"./e.log\""),
        ("log_date_format: 'YYYY'", "each line is kept with its time"),
        ("log_type: 'json'", "thead logs --json"),
        ("merge_logs: false", "kept together"),
        ("pid: '/x.pid'", "no pid files"),
        ("treekill: false", "ends with it"),
        ("autostart: false", "start every service"),
        ("force: true", "a name of its own"),
        ("trace: true", "does not look into the code"),
        ("stop_exit_codes: [3]", "only 0 can end"),
        ("exec_mode: 'fork', instances: 2", "share a port"),
        ("filter_env: ['X']", "pass-env"),
        ("env: 'X=1'", "it is no object"),
        ("namespace: 'my space'", "left out"),
        ("namespace: 'a'", "a service has that name"),
        ("colour: 'red'", "`colour` = \"red\" is none of PM2's keys"),
        ("interpreter: 'node@1.2.3'", "nvm has no such version"),
    ] {
        let (_, notes) = app(&format!("args: [], {keys}"));
        let [only] = &notes[..] else {
            panic!("{keys}: {notes:?}");
        };
        assert!(only.contains(note), "{keys}: {only}");
        assert!(only.contains("ecosystem.json:1:"), "{only}");
    }
    for silent in [
        "watch: false, ignore_watch: ['x'], watch_delay: 1, time: true, merge_logs: true, vizion: false, pmx: false, treekill: true",
        "autorestart: true, autostart: true, automation: false, disable_logs: false, trace: false, windowsHide: true, kill_retry_time: 1",
        "env_production: {}, namespace: 'default', instance_var: 'NODE_APP_INSTANCE', disable_source_map_support: true",
    ] {
        plain(silent);
    }
}

#[test]
fn what_is_wrong_in_an_app_is_told_with_its_place() {
    let dir = directory();
    for (text, line, column, message) in [
        ("{ apps: [\n{ name: 'a' }] }", 2, 1, "an app needs a `script`"),
        (
            "{ apps: [\n{ script: './app',\n  kill_timeout: 'soon' }] }",
            3,
            17,
            "`kill_timeout`: expected milliseconds, found \"soon\"",
        ),
        (
            "{ apps: [{ script: './app',\n  instances: 5000 }] }",
            2,
            14,
            "more than 1024",
        ),
        (
            "{ apps: [{ script: './app',\n  instances: 1.5 }] }",
            2,
            14,
            "a number, or \"max\"",
        ),
        (
            "{ apps: [{ script: './app',\n  exec_mode: 'thread' }] }",
            2,
            14,
            "is no mode",
        ),
        (
            "{ apps: [{ script: './app',\n  cron: '61 * * * *' }] }",
            2,
            9,
            "no cron pattern",
        ),
        (
            "{ apps: [{ script: './app',\n  user: 'nobody-at-all' }] }",
            2,
            9,
            "no user",
        ),
        (
            "{ apps: [{ script: './app', env: { A: 'x' },\n  increment_var: 'A' }] }",
            2,
            18,
            "no number A",
        ),
        ("{ apps: [{\n script: './gone.sh' }] }", 2, 10, "does not exist"),
        ("{ apps: [{ script: './app',\n cwd: 'gone' }] }", 2, 7, "cannot be used"),
        ("{ apps: 5 }", 1, 9, "expected a list of apps"),
        ("{ apps: [\n5] }", 2, 1, "expected an app, found 5"),
    ] {
        let error = load_text(dir.path(), "ecosystem.json", text).unwrap_err();
        let found = error
            .problems()
            .iter()
            .any(|problem| (problem.line, problem.column) == (line, column) && problem.message.contains(message));
        assert!(found, "{text}\n{error}");
    }
}

#[test]
fn names_are_made_fit_and_told_apart() {
    let loaded = loaded(
        "[{ name: 'My API!', script: './app' }, { script: './app' }, { script: './app', name: 'app' }, { name: 'all', script: './app' }]",
    );
    let names: Vec<_> = loaded.config.service.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["My-API", "app", "app-2", "app-3"]);
    assert_eq!(loaded.notes.len(), 3);
}

#[test]
fn yaml_and_a_lone_app_are_read_too() {
    let dir = directory();
    let yaml = "apps:\n  - script: ./app\n    name: y\n    env:\n      CODE: 08\n";
    assert_eq!(
        load_text(dir.path(), "ecosystem.config.yaml", yaml)
            .unwrap()
            .config
            .service["y"]
            .env["CODE"],
        "08"
    );
    assert!(
        load_text(dir.path(), "process.json", "{ script: './app', name: 'lone' }")
            .unwrap()
            .config
            .service
            .contains_key("lone")
    );
    let line = "{ apps: [{ name: 'line', script: './app -a && true' }] }";
    assert_eq!(
        load_text(dir.path(), "process.json", line).unwrap().config.service["line"]
            .run
            .words()[0],
        "sh"
    );
}

#[test]
fn g5_an_ecosystem_with_a_wrong_type_anywhere_is_a_located_error_or_is_read() {
    let dir = directory();
    let keys = "name script args interpreter node_args cwd instances exec_mode env env_x max_memory_restart kill_timeout \
        listen_timeout wait_ready shutdown_with_message cron_restart max_restarts min_uptime restart_delay \
        exp_backoff_restart_delay autorestart stop_exit_codes namespace uid gid out_file watch increment_var instance_var \
        source_map_support treekill filter_env port append_env_to_name merge_logs deploy";
    for key in keys.split_whitespace() {
        for value in [
            "null",
            "true",
            "-1",
            "1e99",
            "''",
            "'\\u0000'",
            "'é x'",
            "[]",
            "[[]]",
            "[null]",
            "{}",
            "{'': 1}",
        ] {
            let text = format!("{{ apps: [{{ script: './app', '{key}': {value} }}] }}").replacen(
                "script: './app', 'script'",
                "'script'",
                1,
            );
            super::g5::located(dir.path(), "ecosystem.json", text.as_bytes());
        }
    }
}

#[test]
fn every_key_of_pm2_is_mapped_or_noted_and_never_unknown() {
    // `lib/API/schema.json` of PM2 7.0.3, and the aliases there.
    let keys = "script exec cmd command name name_prefix filter_env namespace install_url cwd args exec_interpreter interpreter \
        node_args interpreterArgs interpreter_args out_file out output out_log error_file error err err_file err_log log_file \
        log disable_logs log_type log_date_format time env env_live max_memory_restart pid_file pid restart_delay \
        exp_backoff_restart_delay source_map_support disable_source_map_support wait_ready instances kill_timeout \
        shutdown_with_message listen_timeout cron_restart cron merge_logs combine_logs vizion autostart autorestart \
        stop_exit_codes watch_delay watch ignore_watch watch_options min_uptime max_restarts execute_command exec_mode force \
        append_env_to_name post_update trace disable_trace v8 event_loop_inspector deep_monitoring increment_var instance_var \
        pmx automation treekill port username uid user gid windowsHide kill_retry_time write io maxMemoryRestart execMode";
    let dir = directory();
    for key in keys.split_whitespace() {
        let text = format!("[{{ name: 'a', script: './app', '{key}': 'x' }}]").replacen(
            "name: 'a', script: './app', 'name'",
            "script: './app', 'name'",
            1,
        );
        let text = if key == "script" {
            "[{ script: 'x' }]".to_owned()
        } else {
            text
        };
        let said = match load_text(dir.path(), "ecosystem.json", &text) {
            Ok(loaded) => loaded.notes.iter().map(ToString::to_string).collect::<String>(),
            Err(error) => error.to_string(),
        };
        assert!(!said.contains("is none of PM2's keys"), "{key}: {said}");
    }
}
