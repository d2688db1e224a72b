//! Configurations as operators have them: PM2's ecosystem files under real runtimes, and the verbs that read and write files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::UNIX_EPOCH;

use conformance::client::{free_port, get};
use conformance::{Daemon, Runtime, kill, on, thead_binary};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A directory, and a PATH with one runtime in it.
struct Home {
    dir: TempDir,
    bin: TempDir,
}

impl Home {
    fn new(runtime: Option<Runtime>) -> Self {
        let home = Self {
            dir: tempfile::Builder::new().prefix("thead-").tempdir().unwrap(),
            bin: tempfile::tempdir().unwrap(),
        };
        if let Some(runtime) = runtime {
            let name = runtime.name().trim_end_matches(|c: char| c.is_ascii_digit());
            std::os::unix::fs::symlink(runtime.path(), home.bin.path().join(name)).unwrap();
        }
        for program in ["sleep", "sh"] {
            std::os::unix::fs::symlink(Path::new("/bin").join(program), home.bin.path().join(program)).unwrap();
        }
        home.file("server.js", "").file("dist/main.js", "")
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn thead(&self, args: &[&str]) -> Output {
        let mut command = Command::new(thead_binary());
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("PATH", self.bin.path());
        command
            .env("NO_COLOR", "1")
            .env("FROM_THE_SHELL", "yes")
            .output()
            .unwrap()
    }

    /// What it prints when it succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.thead(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails, which is by 2 and not by anything else.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.thead(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The configuration that a file stands for.
    fn import(&self, args: &[&str]) -> String {
        self.ok(&[&["import", "--secrets"], args].concat())
    }
}

/// As many have it: a file that computes, prints, and has several environments.
const COMPUTED: &str = "
const os = require('os');
const shared = require('./shared');
console.log('this is', os.hostname());
console.error('and this is an error');
process.stdout.write('no newline');
const names = ['mail', 'search'];
module.exports = {
  apps: [
    {
      ...shared,
      name: 'web',
      script: './server.js',
      instances: Math.min(os.cpus().length, 1) + 1,
      exec_mode: 'cluster',
      node_args: '--max-old-space-size=256',
      env: { NODE_ENV: 'development', PORT: 3000, SHELL_SAYS: process.env.FROM_THE_SHELL },
      env_production: { NODE_ENV: 'production' },
    },
    ...names.map((name, index) => ({ ...shared, name, script: 'dist/main.js', args: [name], env: { PORT: 4000 + index } })),
  ],
};
";

const SHARED: &str =
    "module.exports = { max_memory_restart: '1G', kill_timeout: 3000, autorestart: true, watch: false, time: true };";

fn a_file_that_computes_is_evaluated_and_not_disturbed_by_what_it_prints(runtime: Runtime) {
    for name in ["ecosystem.config.js", "pm2.config.cjs"] {
        let home = Home::new(Some(runtime)).file(name, COMPUTED).file("shared.js", SHARED);
        let toml = home.import(&[name, "--env", "production"]);
        for line in [
            "[service.web]",
            "instances = 2",
            "limit.memory = \"1 GiB\"",
            "stop.timeout = \"3s\"",
            "stop.signal = \"SIGINT\"",
            "NODE_ENV = \"production\"",
            "PORT = \"3000\"",
            "SHELL_SAYS = \"yes\"",
            "[service.mail]",
            "[service.search]",
            "PORT = \"4001\"",
        ] {
            assert!(toml.lines().any(|printed| printed == line), "{line}\n{toml}");
        }
        let interpreter = if home.bin.path().join("node").exists() {
            "node"
        } else {
            runtime.name()
        };
        let run = format!("run = [\"{interpreter}\", \"--max-old-space-size=256\", \"./server.js\"]");
        assert!(toml.contains(&run), "{toml}");
    }
}

fn a_file_may_be_a_module(runtime: Runtime) {
    let export =
        "import os from 'node:os';\nexport default { apps: [{ name: 'a', script: 'sleep 9', cwd: os.tmpdir() }] };";
    let named = "export const apps = [{ name: 'a', script: 'sleep', args: '9' }];";
    let function = "export default async () => ({ apps: [{ name: 'a', script: 'sleep 9' }] });";
    for text in [export, named, function] {
        let home = Home::new(Some(runtime)).file("ecosystem.config.mjs", text);
        assert!(
            home.import(&["ecosystem.config.mjs"])
                .contains("run = [\"sleep\", \"9\"]")
        );
    }
}

fn typescript_is_read_where_a_runtime_reads_it(runtime: Runtime) {
    let text = "interface App { name: string; script: string }\nconst apps: App[] = [{ name: 'a', script: 'sleep 9' }];\nexport default { apps };";
    let home = Home::new(Some(runtime)).file("ecosystem.config.ts", text);
    assert!(home.import(&["ecosystem.config.ts"]).contains("[service.a]"));
}

fn what_is_wrong_in_a_program_is_told_with_its_line(runtime: Runtime) {
    for (text, line, message) in [
        ("const a = 1;\nthrow new Error('out of order');\n", 2, "out of order"),
        ("const a = 1;\nmodule.exports = { apps: [\n", 0, ""),
        ("const a = 1;\nconst b = ;\n", 2, ""),
        ("\n\nrequire('./nothing');\n", 3, "./nothing"),
        (
            "module.exports = { apps: [\n { name: 'a', script: 'sleep 9', kill_timeout: 'soon' } ] };",
            2,
            "expected milliseconds",
        ),
        ("module.exports = 5;", 1, "expected a list of apps"),
        ("process.exit(0);", 1, "ends before it has exported anything"),
    ] {
        let home = Home::new(Some(runtime)).file("ecosystem.config.cjs", text);
        let said = home.fails(&["check"]);
        assert!(said.contains(message), "{text}\n{said}");
        // Not every runtime tells where a module that it cannot find was asked for, or where text ends too early.
        let place = format!("ecosystem.config.cjs:{line}:");
        assert!(
            said.contains(&place) || line == 0 || message == "./nothing" || runtime == Runtime::Deno,
            "{text}\n{said}"
        );
        assert!(said.contains("ecosystem.config.cjs:"), "{said}");
    }
}

on!([node18 Node18, node20 Node20, node22 Node22, node24 Node24, node26 Node26, bun Bun, deno Deno]:
    a_file_that_computes_is_evaluated_and_not_disturbed_by_what_it_prints,
    a_file_may_be_a_module,
    what_is_wrong_in_a_program_is_told_with_its_line,
);
on!([node24 Node24, node26 Node26, bun Bun, deno Deno]: typescript_is_read_where_a_runtime_reads_it);

#[test]
fn a_program_that_does_not_end_is_ended_and_told() {
    let home =
        Home::new(Some(Runtime::Node22)).file("ecosystem.config.js", "setInterval(() => {}, 1e6); while (true);");
    let began = std::time::Instant::now();
    let said = home.fails(&["check"]);
    assert!(said.contains("is not evaluated after 10 s"), "{said}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_goes_on_behind_an_export_is_not_waited_for() {
    let text = "setInterval(() => {}, 1e6); module.exports = { apps: [{ name: 'a', script: 'sleep 9' }] };";
    let home = Home::new(Some(Runtime::Node22)).file("ecosystem.config.js", text);
    assert!(home.ok(&["check"]).contains("the service a"));
}

#[test]
fn without_a_runtime_a_program_is_no_configuration() {
    let home = Home::new(None).file("ecosystem.config.js", COMPUTED);
    assert!(home.fails(&["check"]).contains("no node, bun or deno in PATH"));
}

#[test]
fn a_program_started_by_node_takes_no_channel_for_its_answer() {
    let home = Home::new(Some(Runtime::Node22)).file(
        "ecosystem.config.js",
        "module.exports = { apps: [{ script: 'sleep 9' }] };",
    );
    let output = Command::new(thead_binary())
        .args(["check", "--json"])
        .current_dir(home.dir.path())
        .env("PATH", home.bin.path())
        .envs([("NODE_CHANNEL_FD", "3"), ("NODE_UNIQUE_ID", "1")])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["services"], serde_json::json!(["sleep-9"]));
}

#[test]
fn check_tells_everything_that_is_wrong_and_exits_with_2() {
    let home = Home::new(None).file("thead.toml", "[service.api]\nrun = './gone'\ninstnaces = 2\n");
    let said = home.fails(&["check"]);
    assert!(
        said.contains("thead.toml:2:7") && said.contains("thead.toml:3:1"),
        "{said}"
    );
    assert!(
        said.contains("did you mean `instances`?") && said.contains("2 problems"),
        "{said}"
    );
    let output = home.thead(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["ok"], &said["problems"][0]["line"]),
        (&Value::from(false), &Value::from(2))
    );
    assert!(home.fails(&["check", "gone.toml"]).contains("No such file"));
}

#[test]
fn init_writes_what_check_finds_right_and_writes_nothing_over() {
    let package = "{ \"name\": \"@shop/api\", \"scripts\": { \"start\": \"node server.js\" } }";
    let home = Home::new(Some(Runtime::Node22)).file("package.json", package);
    home.ok(&["init"]);
    assert!(home.ok(&["check"]).contains("the service api"));
    let written = std::fs::read_to_string(home.dir.path().join("thead.toml")).unwrap();
    assert!(written.contains("run = \"npm start\""), "{written}");
    assert!(home.fails(&["init"]).contains("is there already"));

    let home = Home::new(Some(Runtime::Bun))
        .file("ecosystem.config.js", COMPUTED)
        .file("shared.js", SHARED);
    home.ok(&["init"]);
    assert!(home.ok(&["check", "thead.toml"]).contains("3 services"));
}

#[test]
fn import_keeps_secrets_out_unless_asked() {
    let dump = "[{ \"name\": \"api\", \"pm_exec_path\": \"/srv/api/server.js\", \"pm_cwd\": \"/srv/api\", \"exec_interpreter\": \"node\",
        \"env\": { \"API_KEY\": \"s3cret\", \"NODE_ENV\": \"production\", \"SSH_CLIENT\": \"x\" } }]";
    let home = Home::new(None).file("dump.pm2", dump);
    let toml = home.ok(&["import", "pm2", "dump.pm2"]);
    assert!(
        toml.contains("NODE_ENV = \"production\"") && toml.contains("# API_KEY"),
        "{toml}"
    );
    assert!(!toml.contains("s3cret") && !toml.contains("SSH_CLIENT"), "{toml}");
    assert!(
        home.ok(&["import", "pm2", "dump.pm2", "--secrets"])
            .contains("API_KEY = \"s3cret\"")
    );
    assert!(home.fails(&["import", "pm2", "gone"]).contains("cannot be read"));

    let home = Home::new(None).file("Procfile", "web: sleep 9\n");
    assert!(home.ok(&["import", "Procfile"]).contains("run = [\"sleep\", \"9\"]"));
}

#[test]
fn the_schema_is_json() {
    let home = Home::new(None);
    let schema: Value = serde_json::from_str(&home.ok(&["schema"])).unwrap();
    assert!(schema["$defs"]["Service"]["properties"]["run"].is_object());
    assert!(home.ok(&["schema", "--markdown"]).starts_with("# Configuration\n"));
}

/// A server that tells what it was given.
const SERVER: &str = "
    require('http').createServer((request, response) => {
        response.setHeader('x-pid', process.pid);
        response.end(JSON.stringify({ pid: process.pid, env: process.env.NODE_ENV }));
    }).listen(process.env.PORT, '127.0.0.1');
";

#[test]
fn an_ecosystem_file_is_started_as_it_is() {
    let daemon = Daemon::start();
    daemon.file("server.js", SERVER);
    let port = free_port();
    daemon.file(
        "ecosystem.config.js",
        &format!(
            "module.exports = {{ apps: [
                {{ name: 'web', script: './server.js', instances: 2, exec_mode: 'cluster', merge_logs: true,
                   error_file: './logs/error.log', watch: ['src'],
                   env: {{ PORT: {port}, NODE_ENV: 'development' }}, env_production: {{ NODE_ENV: 'production' }} }},
                {{ name: 'gone', script: './gone.js' }},
            ] }};"
        ),
    );
    let said = daemon.thead(&["start", "ecosystem.config.js", "--only", "web", "--env", "production"]);
    for key in ["error_file", "watch"] {
        assert!(said.err.contains(key), "a note for {key}: {said:#?}");
    }
    assert!(!said.err.contains("merge_logs"), "thead does that anyway: {said:#?}");
    said.ok();
    assert_eq!(daemon.pids("web").len(), 2);
    assert!(get(port, "/").body.contains("production"));
    daemon.stop();
}

/// That of node-express-boilerplate by Hagop Jamkojian, MIT, as it was published: `conformance/setup` fetches and checks it. The
/// server that it names is ours.
#[test]
fn an_ecosystem_file_of_a_public_project_is_started_unchanged_and_listed_for_readers_of_jlist() {
    let file = conformance::root().join("runtimes/public/ecosystem.config.json");
    let port = free_port();
    // Its author has the port from the environment.
    let daemon = Daemon::start_with(&[("PORT", &port.to_string())]);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("run conformance/setup: {error}"));
    daemon.file("ecosystem.config.json", &text);
    daemon.file("src/index.js", SERVER);
    let began = UNIX_EPOCH.elapsed().unwrap().as_millis();
    let said = daemon.thead(&["start", "ecosystem.config.json"]);
    assert!(
        !said.err.contains("ecosystem.config.json"),
        "every key of it has a counterpart: {said:#?}"
    );
    said.ok();
    let answer = get(port, "/").json();
    assert_eq!(answer["env"], "production");
    kill(daemon.pids("app")[0], Signal::KILL);
    daemon.wait_for("app", "its restart", |service| {
        service["phase"] == "ready" && service["workers"][0]["restarts"] == 1
    });

    // What Node scripts do with the output of `pm2 jlist`.
    let list = daemon.ok(&["ls", "--pm2-json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let [entry] = &list.as_array().unwrap()[..] else {
        panic!("one app: {list}")
    };
    assert_eq!(entry["name"], "app");
    assert_eq!(entry["pm_id"], 0);
    assert_eq!(entry["pid"], get(port, "/").json()["pid"]);
    let env = &entry["pm2_env"];
    assert_eq!(env["status"], "online");
    assert_eq!(env["restart_time"], 1);
    let since = u128::from(env["pm_uptime"].as_u64().unwrap());
    assert!(
        (began..=UNIX_EPOCH.elapsed().unwrap().as_millis()).contains(&since),
        "{env}"
    );
    // A Node process has at least so many bytes.
    assert!(entry["monit"]["memory"].as_u64().unwrap() > 10_000_000, "{entry}");
    assert!(entry["monit"]["cpu"].is_u64(), "{entry}");
    daemon.stop();
}

#[test]
fn g5_a_configuration_that_is_wrong_touches_nothing_that_runs() {
    let daemon = Daemon::start();
    daemon.file("server.js", SERVER);
    let port = free_port();
    // JSON that ends anywhere but at its end is none.
    let right = format!(
        "{{\"service\":{{\"web\":{{\"run\":\"node server.js\",\"instances\":1,\"env\":{{\"PORT\":\"{port}\"}},\
         \"stop\":{{\"timeout\":\"5s\"}}}}}}}}"
    );
    daemon.file("thead.json", &right);
    daemon.ok(&["apply"]);
    let before = (daemon.pids("web"), daemon.service("web")["generation"].clone());

    let mut wrong: Vec<Vec<u8>> = (1..right.len()).map(|end| right.as_bytes()[..end].to_vec()).collect();
    for at in (0..right.len()).step_by(3) {
        let mut bytes = right.clone().into_bytes();
        bytes[at] = 0xff;
        wrong.push(bytes);
    }
    for (key, value) in [
        ("run", "5"),
        ("run", "\"./gone\""),
        ("run", "\"node gone.js\""),
        ("instances", "0"),
        ("instances", "\"many\""),
        ("env", "[]"),
        ("user", "\"nobody-at-all\""),
        ("cwd", "\"./gone\""),
        ("after", "[\"gone\"]"),
        ("secret-files", "{\"A\":\"./gone\"}"),
        ("listen", "{\"a\":\"tcp://0.0.0.0\"}"),
        ("stop", "{\"timeout\":5}"),
        ("colour", "\"red\""),
    ] {
        let mut config: Value = serde_json::from_str(&right).unwrap();
        config["service"]["web"][key] = serde_json::from_str(value).unwrap();
        wrong.push(config.to_string().into_bytes());
    }
    for bytes in wrong {
        std::fs::write(daemon.app().join("thead.json"), &bytes).unwrap();
        let said = daemon.thead(&["apply"]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("thead.json:1:"), "{said:?}");
    }
    assert_eq!(
        (daemon.pids("web"), daemon.service("web")["generation"].clone()),
        before
    );
    assert!(get(port, "/").body.contains("pid"));
    daemon.stop();
}

#[test]
fn an_app_of_pm2_gets_the_environment_of_the_daemon_but_not_what_is_said_to_the_daemon() {
    let said_to_it = [
        ("FROM_THE_SHELL", "yes"),
        ("WATCHDOG_USEC", "60000000"),
        ("LISTEN_FDNAMES", "x"),
    ];
    let daemon = Daemon::start_with(&said_to_it);
    let port = free_port();
    daemon.file(
        "server.js",
        "const text = JSON.stringify(process.env);
         require('http').createServer((request, response) => response.end(text)).listen(process.env.PORT, '127.0.0.1');",
    );
    daemon.file("process.json", &format!("[{{ script: './server.js', port: {port} }}]"));
    daemon.ok(&["start", "process.json"]);
    let env = get(port, "/").json();
    assert_eq!(env["FROM_THE_SHELL"], "yes");
    assert_eq!(
        (&env["WATCHDOG_USEC"], &env["LISTEN_FDNAMES"], &env["THEAD_HOME"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    daemon.stop();
}
