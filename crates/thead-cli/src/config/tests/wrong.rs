//! What is wrong is told with its place and its cure.

use super::{directory, load_text};

/// A file, and of each problem its line, its column, a part of what is said and a part of the cure.
type Case<'a> = (&'a str, &'a [(usize, usize, &'a str, &'a str)]);

const SERVICE: &str = "[service.a]\nrun = './app'\n";

fn tell(file: &str, cases: &[Case<'_>]) {
    let dir = directory();
    for (text, expected) in cases {
        let error = load_text(dir.path(), file, text).unwrap_err();
        let problems = error.problems();
        for (line, column, message, mend) in *expected {
            let found = problems.iter().any(|problem| {
                (problem.line, problem.column) == (*line, *column)
                    && problem.message.contains(message)
                    && problem.to_string().contains(mend)
            });
            assert!(found, "{line}:{column} {message} {mend}\n{text}\n{error}");
        }
        assert_eq!(problems.len(), expected.len(), "{text}\n{error}");
        assert!(
            error.render(false).contains(&format!("{file}:")),
            "{}",
            error.render(false)
        );
    }
}

#[test]
fn syntax() {
    tell(
        "thead.toml",
        &[
            ("a = [", &[(1, 6, "unclosed array", "")]),
            (
                "[service.a]\nrun = node\n[service.a]\n",
                &[(2, 7, "text needs quotes", ""), (3, 10, "duplicate key", "")],
            ),
        ],
    );
    tell(
        "thead.yaml",
        &[
            ("a: [", &[(1, 4, "unclosed bracket", "")]),
            ("a: 1\na: 2", &[(2, 1, "duplicate", "")]),
        ],
    );
    tell(
        "thead.json5",
        &[
            ("{a: [1 2]}", &[(1, 8, "expected a comma", "")]),
            ("{'a': 1,\n a: 2}", &[(2, 2, "twice", "")]),
        ],
    );
}

#[test]
fn keys_and_types() {
    tell(
        "thead.toml",
        &[
            (
                "servce = 1",
                &[(1, 1, "unknown key `servce`", "did you mean `service`?")],
            ),
            (
                "[service.a]\nscript = 'x'",
                &[
                    (1, 10, "`run` is missing in service.a", "say what is run"),
                    (2, 1, "unknown key `script`", "`run`"),
                ],
            ),
            (
                "[service.a]\nrun = 5\ninstances = 'all'",
                &[(2, 7, "expected a command", ""), (3, 13, "\"max\"", "")],
            ),
            ("service = 5", &[(1, 11, "expected a table, found 5", "")]),
            (
                "[service]\na = 5\nb = { run = './app' }",
                &[(2, 5, "expected a table, found 5", "")],
            ),
            (
                "[service.'a b']\nrun = './app'",
                &[(1, 10, "'.', '_' and '-' only", "")],
            ),
            (
                "[service.a]\nrun = './app'\nready = 'http'",
                &[(3, 9, "needs a value", "a table with the key \"http\"")],
            ),
            (
                "[service.a]\nrun = './app'\nready = { listening = 1 }",
                &[(3, 11, "has no value", "write it alone")],
            ),
            (
                "[service.a]\nrun = './app'\nready = { http = 'http://a/', tcp = 'a:1' }",
                &[(3, 9, "found a table with 2 keys", "")],
            ),
            (
                "[service.a]\nrun = './app'\nready = 1",
                &[(3, 9, "found 1", "\"listening\"")],
            ),
            (
                "[service.a]\nrun = './app'\nlimit.nice = 200",
                &[(3, 14, "from -128 to 127", "")],
            ),
            (
                "[service.a]\nrun = './app'\nlive.failures = -1",
                &[(3, 17, "not negative, found -1", "")],
            ),
            (
                "[service.a]\nrun = './app'\npreload = 'yes'",
                &[(3, 11, "expected true or false, found \"yes\"", "")],
            ),
            (
                "[service.a]\nrun = ['./app', []]",
                &[(2, 17, "expected text, found a list", "")],
            ),
            (
                "[service.a]\nrun = './app'\ndata.x = { as = 'json' }",
                &[(3, 6, "`file` is missing in service.a.data.x", "say which file")],
            ),
            (
                "[service.a]\nrun = './app'\ndata.x = 5",
                &[(3, 10, "expected a path", "")],
            ),
            (
                "[service.a]\nrun = './app'\nreload.drain = 10",
                &[(3, 16, "no length of time", "a unit, such as \"500ms\"")],
            ),
            (
                "[service.a]\nrun = './app'\nafter = 'b'",
                &[(3, 9, "expected a list", "")],
            ),
            ("[group.g]", &[(1, 8, "`services` is missing", "list the members")]),
        ],
    );
    // The same places where the parser tells none.
    tell(
        "thead.json5",
        &[
            (
                "{service: {a: {run: './app',\n script: 1, live: {timeout: 5}}}}",
                &[
                    (2, 2, "unknown key `script`", "`run`"),
                    (2, 29, "no length of time", ""),
                ],
            ),
            ("{service: {a: {}}}", &[(1, 12, "`run` is missing", "")]),
            ("5", &[(1, 1, "expected a table, found 5", "")]),
        ],
    );
    tell(
        "thead.yaml",
        &[
            (
                "service:\n  a: &a\n    run: ./app\n    instances: 08\n  b:\n    <<: *a\n",
                &[(4, 16, "a.instances", "found 8.0"), (4, 16, "b.instances", "\"max\"")],
            ),
            ("service:\n  a:\n", &[(2, 3, "expected a table, found nothing", "")]),
            ("5", &[(1, 1, "expected a table, found 5", "")]),
        ],
    );
}

fn service(lines: &str, expected: &[(usize, usize, &str, &str)]) {
    tell("thead.toml", &[(&format!("{SERVICE}{lines}"), expected)]);
}

#[test]
fn names_and_order() {
    service(
        "after = ['b', 'a']",
        &[
            (3, 10, "no service `b`", "leave it out"),
            (3, 15, "waits for itself", ""),
        ],
    );
    service(
        "after = ['c']\n[service.b]\nrun = './app'\nafter = ['a']\n[service.c]\nrun = './app'\nafter = ['b']",
        &[(
            6,
            10,
            "none of these can start first: a waits for c waits for b waits for a",
            "leave out one",
        )],
    );
    service(
        "after = ['b']\n[service.b]\nrun = './app'\n[group.g]\nservices = ['a', 'b']",
        &[(7, 18, "a waits for b waits for a", "the order of the group")],
    );
    service(
        "[group.g]\nservices = ['a', 'a']\n[group.h]\nservices = ['a']\n[group.i]\nservices = []",
        &[
            (4, 18, "in the group `g` twice", ""),
            (6, 13, "in the group `g` already", ""),
            (8, 12, "needs a member", ""),
        ],
    );
    service(
        "namespace = 'all'\n[service.all]\nrun = './app'\nnamespace = 'a'",
        &[
            (3, 13, "`all` is taken", ""),
            (4, 10, "`all` is taken", "call the service something else"),
            (6, 13, "a service has it", ""),
        ],
    );
    // A service that could not be read is not missing too.
    service("after = ['b']\n[service]\nb = 5", &[(5, 5, "expected a table", "")]);
}

#[test]
fn addresses() {
    service(
        "listen = { x = 'tcp://0.0.0.0:80', y = 'tcp://127.0.0.1:80', z = '80' }",
        &[
            (
                3,
                40,
                "collides with tcp://0.0.0.0:80, which is `listen.x`",
                "an address of its own",
            ),
            (3, 66, "no address", "tcp://0.0.0.0:80"),
        ],
    );
    service(
        "ready = { http = 'https://a/' }\nlive = { tcp = 'a', http = 'a', exec = 'missing-program' }",
        &[
            (3, 18, "no TLS", "http://a/"),
            (4, 16, "no port", "HOST:PORT"),
            (4, 28, "no URL", "http://HOST"),
            (4, 40, "\"missing-program\" cannot be run", "install it"),
        ],
    );
    service("ready = { tcp = 'a:0' }", &[(3, 17, "the port 0", "")]);
}

#[test]
fn the_machine() {
    service(
        "cwd = 'gone'\nuser = 'nobody-at-all'\ngroup = 'nor-this'",
        &[
            (3, 7, "gone cannot be used: No such file", "make it"),
            (4, 8, "no user", "useradd"),
            (5, 9, "no group", "groupadd"),
        ],
    );
    service("cwd = 'secret'", &[(3, 7, "is no directory", "name a directory")]);
    service(
        "user = 4000000\ngroup = 4000000",
        &[(3, 8, "there is no user \"4000000\"", "useradd")],
    );
    service(
        "secret-files.A = 'gone'\ndata.b = 'gone'\ndata.c = { file = '.', check = 'gone' }",
        &[
            (3, 18, "gone cannot be read", "relative path"),
            (4, 10, "gone cannot be read", "relative path"),
            (5, 32, "\"gone\" cannot be run", ""),
        ],
    );
    service("secret-files.A = '.'", &[(3, 18, "is no file", "")]);
    tell(
        "thead.toml",
        &[
            (
                "[service.a]\nrun = 'sh gone.sh'",
                &[(2, 7, "the script \"gone.sh\" does not exist", "`cwd`")],
            ),
            (
                "[service.a]\nrun = './gone'",
                &[(2, 7, "\"./gone\" does not exist", "`cwd`")],
            ),
            (
                "[service.a]\nrun = './flags.json'\n[service.b]\nrun = 'npm install'",
                &[(4, 7, "npm install starts no script", "name the program")],
            ),
            (
                "[service.a]\nrun = 'server.js'\nruntime = './ruby'",
                &[
                    (2, 7, "not a runtime", ""),
                    (3, 11, "no runtime that thead knows", "node, bun or deno"),
                ],
            ),
        ],
    );
}

#[test]
fn variables() {
    service(
        "env = { '' = '1', 'A=B' = '2', NODE_CHANNEL_FD = '3', THEAD_X = '4', NODE_CLUSTER_SCHED_POLICY = 'none' }",
        &[
            (3, 9, "needs a name", ""),
            (3, 19, "no name of a variable", ""),
            (3, 32, "set by thead itself", ""),
            (3, 55, "set by thead itself", ""),
            (3, 70, "set by thead itself", "say `schedule` instead"),
        ],
    );
    service(
        "env.A = \"x\\u0000\"\nsecret-files = { A = 'secret' }\npass-env = ['A*', '*B', '']",
        &[
            (3, 9, "NUL", ""),
            (3, 9, "in `secret-files` too", ""),
            (5, 19, "no name of a variable", "a * may stand at the end"),
            (5, 25, "no name of a variable", ""),
        ],
    );
}

#[test]
fn times_and_amounts() {
    service(
        "restart = { cron = '61 * * * *', backoff = { first = '6s' }, intensity.period = '0' }\nready-timeout = 0",
        &[
            (3, 20, "no cron pattern", "5 fields"),
            (
                3,
                44,
                "the first delay, 6s, is longer than the longest, 5s",
                "raise `max`",
            ),
            (3, 81, "`restart.intensity.period` is no time at all", ""),
            (4, 17, "`ready-timeout` is no time at all", ""),
        ],
    );
    service(
        "live.failures = 0\nreload.surge = 0\nlimit = { memory = 512, open-files = 3, processes = 0, nice = 20 }\nlog = { max-size = '5G' }",
        &[
            (3, 17, "no probe has to fail", ""),
            (4, 1, "neither add a worker nor take one away", ""),
            (5, 20, "512 B is less memory", "\"512M\""),
            (5, 38, "open files", ""),
            (5, 53, "a process itself", ""),
            (5, 63, "from -20 to 19", ""),
            (6, 7, "less than one of 5 GiB", "raise `total`"),
        ],
    );
    service(
        "restart.intensity.restarts = 100000",
        &[(3, 30, "it must be from 0 to 10000", "within these bounds")],
    );
    service("reload.drain = '400d'", &[(3, 16, "longer than a year", "")]);
    service("log.max-size = 50", &[(3, 16, "put aside at each line", "\"50M\"")]);
}

#[test]
fn what_the_program_cannot() {
    service("ready = 'message'", &[(3, 9, "has no channel", "set `channel`")]);
    tell(
        "thead.toml",
        &[
            (
                "[service.a]\nrun = './node server.js'\npreload = false\nlive.heartbeat = '1s'",
                &[(4, 18, "preload, which is turned off", "let `preload` be true")],
            ),
            (
                "[service.a]\nrun = './bun server.js'\nlive.heartbeat = '1s'",
                &[(3, 18, "under bun has no heartbeat", "live.http")],
            ),
        ],
    );
}

#[test]
fn files() {
    let dir = directory();
    let wrong = |file: &str, text: &[u8], at: (usize, usize), message: &str| {
        let error = load_text(dir.path(), file, text).unwrap_err();
        let problem = &error.problems()[0];
        assert_eq!((problem.line, problem.column), at, "{error}");
        assert!(problem.message.contains(message), "{error}");
    };
    wrong("thead.toml", b"# a\na = \"\xff\"", (2, 6), "the byte 0xff is not UTF-8");
    wrong("thead.ini", b"", (1, 1), "of no format that thead reads");
    wrong("thead.toml", &vec![b'#'; (4 << 20) + 1], (1, 1), "larger than 4 MiB");
    let load = |file| {
        crate::config::load(crate::config::Ask {
            file: Some(file),
            ..Default::default()
        })
    };
    let error = load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    let error = load(&dir.path().join("gone.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("gone.toml:1:1: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn what_is_shown_cannot_steer_a_terminal() {
    let dir = directory();
    let error = load_text(dir.path(), "thead.json5", "{'a\\u001b[2J': 1,\n 'b\x1b[2J\u{202e}': 2}").unwrap_err();
    for shown in [error.to_string(), error.render(false)] {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

#[test]
fn what_others_lack_is_no_problem_of_those_that_are_asked_for() {
    let dir = directory();
    std::fs::write(
        dir.path().join("thead.toml"),
        "[service.a]\nrun = './gone'\n[service.b]\nrun = './app'\nafter = ['c']\n",
    )
    .unwrap();
    let load = |only: &[&str]| {
        let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
        let file = dir.path().join("thead.toml");
        crate::config::load(crate::config::Ask {
            file: Some(&file),
            only: &only,
            ..Default::default()
        })
        .map_err(|error| error.problems().len())
        .map(|_| ())
    };
    assert_eq!(load(&[]), Err(2));
    assert_eq!(load(&["b"]), Err(1));
}
