//! What a command can be told, and the four verbs.

use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use thead::output::Stream;
use thead::sys::spawn::Limit;
use thead::{
    AbortController, ChildEvent, Command, ExitStatus, Failure, Stdio, exec, exec_file, exec_file_sync, exec_sync,
    spawn, spawn_sync,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{children, example, history, in_time, test};

/// What a shell line prints.
async fn says(command: Command) -> String {
    in_time("the output", command.output())
        .await
        .unwrap()
        .text()
        .trim_end()
        .to_owned()
}

#[test]
fn the_verbs_have_nodes_defaults() {
    test(async || {
        assert_eq!(exec("echo $((1 + 1))").await.unwrap().text(), "2\n");
        assert_eq!(exec_file("echo", ["$HOME"]).await.unwrap().text(), "$HOME\n");
        let mut child = spawn("cat", [] as [&str; 0]).unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        assert!(child.stderr.is_some());
        stdin.write_all(b"there and back").await.unwrap();
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "there and back");
        assert_eq!(history(&mut child).await, ["exit 0", "close"]);
    });
}

#[test]
fn the_waiting_verbs_work_with_and_without_a_runtime() {
    fn both() {
        assert_eq!(exec_sync("echo a; echo b").unwrap().text(), "a\nb\n");
        assert_eq!(exec_file_sync("printf", ["%s", "x y"]).unwrap().text(), "x y");
        let (status, output) = spawn_sync("sh", ["-c", "echo why >&2; exit 3"]).unwrap();
        assert_eq!((status, &output.stderr[..]), (ExitStatus::Code(3), &b"why\n"[..]));
        assert_eq!(exec_sync("exit 4").unwrap_err().code(), Some(4));
    }
    both();
    test(async || both());
}

#[test]
fn an_error_says_what_where_and_how_to_mend_it() {
    test(async || {
        let error = exec("echo so far; echo because >&2; exit 3").await.unwrap_err();
        assert_eq!(error.output().text(), "so far\n");
        let line = "Command failed: /bin/sh -c echo so far; echo because >&2; exit 3 (exit code 3)\nbecause";
        assert_eq!(error.to_string(), line);
        let error = exec_file("no-such-program", ["x"]).await.unwrap_err();
        let Failure::Spawn(spawn) = error.failure() else {
            panic!("{error}")
        };
        assert_eq!(
            (spawn.code(), spawn.syscall().as_str()),
            ("ENOENT", "spawn no-such-program")
        );
        assert!(
            error.to_string().contains("is it installed, and in the child's PATH?"),
            "{error}"
        );
        let error = Command::new("true")
            .current_dir("/nonexistent")
            .output()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
        assert!(error.to_string().contains("no such directory"), "{error}");
        let error = exec_file("/etc", [] as [&str; 0]).await.unwrap_err();
        assert!(error.to_string().contains("chmod +x"), "{error}");
    });
}

#[test]
fn what_runs_too_long_and_ignores_its_signal_is_killed_in_the_end() {
    test(async || {
        let line = Command::shell("trap '' TERM; echo begun; while :; do sleep 0.05; done");
        let error = line.timeout(Duration::from_millis(200)).output().await.unwrap_err();
        assert!(matches!(error.failure(), Failure::Timeout(_)), "{error}");
        assert_eq!((error.signal(), error.killed()), (Some(libc::SIGKILL), true));
        assert_eq!(error.output().text(), "begun\n");
        let error = Command::shell("trap '' TERM; sleep 0.5; exit 0").timeout(Duration::from_millis(100));
        let error = error.output().await.unwrap_err();
        assert_eq!(
            (error.code(), error.killed()),
            (Some(0), true),
            "Node calls that a success"
        );
    });
}

#[test]
fn what_prints_too_much_is_cut_to_the_limit() {
    test(async || {
        for (redirection, stream) in [("", Stream::Stdout), (">&2", Stream::Stderr)] {
            let line = format!("yes {redirection}");
            let error = Command::shell(line).max_buffer(10_000).output().await.unwrap_err();
            assert!(matches!(error.failure(), Failure::MaxBuffer { stream: it, limit: 10_000 } if *it == stream));
            let printed = error.output().stdout.len() + error.output().stderr.len();
            assert_eq!(printed, 10_000);
        }
    });
}

#[test]
fn dropping_what_waits_kills_the_command_and_what_it_has_started() {
    test(async || {
        // A time that nobody else sleeps for, by which the sleepers are known.
        let time = 1_000_000 + std::process::id();
        let line = Command::shell(format!("sleep {time} & sleep {time} & (sleep {time}; true); wait"));
        let output = line.output();
        let none = tokio::time::timeout(Duration::from_millis(300), output).await;
        assert!(none.is_err());
        gone(&format!("sleep {time}")).await;
    });
}

#[test]
fn a_tree_is_killed_with_its_branches_whoever_their_parent_is() {
    test(async || {
        // One whose parent has ended but that is still of the group, one of a session of its own with its parent alive.
        let time = 2_000_000 + std::process::id();
        let line = format!("sh -c 'sleep {time} & exec true'; setsid sleep {time} & echo up; wait");
        let mut child = Command::shell(line).own_group().stdout(Stdio::Pipe).spawn().unwrap();
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.kill_tree();
        assert!(history(&mut child).await.contains(&"signal 9".to_owned()));
        assert!(child.killed());
        gone(&format!("sleep {time}")).await;
    });
}

#[test]
fn nothing_escapes_from_a_control_group() {
    test(async || {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // A session and a group of its own, and a parent that has ended: only the control group knows it.
        let time = 3_000_000 + std::process::id();
        let escapes = format!("setsid sh -c 'setsid sleep {time} & exec true'; echo escaped; wait");
        let dir = tempfile::tempdir().unwrap();
        // A mount of this test's own, which ends with its processes.
        let line = "mount -t cgroup2 none \"$1\" && exec \"$2\" \"$1\" sh -c \"$3\"";
        let contain = Command::new("unshare")
            .args(["-m", "sh", "-c", line, "sh"])
            .arg(dir.path());
        let output = contain.arg(example("contain")).arg(escapes).output().await.unwrap();
        assert_eq!(output.text(), "escaped\n");
        gone(&format!("sleep {time}")).await;
    });
}

/// Waits until no process has that command line.
async fn gone(line: &str) {
    let line = format!("{}\0", line.replace(' ', "\0"));
    let there = || {
        let processes = std::fs::read_dir("/proc").unwrap();
        let lines = processes.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok());
        lines.filter(|it| *it == line).count()
    };
    in_time("the end of what it started", async {
        while there() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[test]
fn the_end_can_be_awaited_again_and_elsewhere() {
    test(async || {
        let mut child = Command::shell("exit 5").spawn().unwrap();
        let elsewhere = tokio::spawn(child.wait());
        assert_eq!(child.wait().await, ExitStatus::Code(5));
        assert_eq!(child.wait().await, ExitStatus::Code(5));
        assert_eq!(elsewhere.await.unwrap(), ExitStatus::Code(5));
        assert_eq!(child.exit_status(), Some(ExitStatus::Code(5)));
        assert_eq!(history(&mut child).await, ["exit 5", "close"], "nothing is lost by it");
        let last = child.wait();
        drop(child);
        assert_eq!(last.await, ExitStatus::Code(5));
    });
}

#[test]
fn a_child_can_outlive_what_held_it_and_is_still_collected() {
    test(async || {
        let child = Command::shell("sleep 0.2; exit 7").spawn().unwrap();
        let end = child.wait();
        drop(child);
        assert_eq!(in_time("the end", end).await, ExitStatus::Code(7));
        assert!(children().is_empty());
    });
}

#[test]
fn kill_on_drop_kills() {
    test(async || {
        let child = Command::new("sleep").arg("1002").kill_on_drop().spawn().unwrap();
        let end = child.wait();
        drop(child);
        assert_eq!(in_time("the end", end).await.signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn what_outlives_its_runtime_is_collected_later() {
    test(async || {
        let short = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { drop(Command::new("true").spawn().unwrap()) });
        };
        std::thread::spawn(short).join().unwrap();
        in_time("its end", async {
            while !children().is_empty() {
                assert!(Command::new("true").output().await.is_ok(), "any later child will do");
            }
        })
        .await;
    });
}

#[test]
fn an_abort_ends_every_child_that_hears_it() {
    test(async || {
        let controller = AbortController::new();
        let command = Command::new("sleep")
            .arg("1003")
            .abort_on(controller.signal())
            .kill_signal(libc::SIGINT);
        let mut all: Vec<_> = (0..3).map(|_| command.spawn().unwrap()).collect();
        controller.abort();
        for child in &mut all {
            assert_eq!(history(child).await, ["Error(Aborted)", "signal 2", "close"]);
            assert!(child.killed());
        }
    });
}

#[test]
fn any_number_of_descriptors_of_any_kind() {
    test(async || {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a file").unwrap();
        file.rewind().unwrap();
        let line = "cat <&4; read line <&5; echo \"[$line]\"; echo answer >&5; [ ! -e /proc/self/fd/6 ] && echo none";
        let command = Command::shell(line)
            .stdout(Stdio::Pipe)
            .fd(4, OwnedFd::from(file))
            .fd(5, Stdio::Pipe);
        let mut child = command.spawn().unwrap();
        let (mut out, mut five) = (child.stdout.take().unwrap(), child.streams.remove(&5).unwrap());
        five.write_all(b"question\n").await.unwrap();
        let mut text = String::new();
        out.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "a file[question]\nnone\n");
        text.clear();
        five.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer\n");
        assert_eq!(history(&mut child).await, ["exit 0", "close"]);
    });
}

#[test]
fn a_channel_takes_a_number_that_is_free() {
    test(async || {
        let code = "process.send(require('fs').readFileSync(4, 'utf8')); process.disconnect()";
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"four").unwrap();
        file.rewind().unwrap();
        let command = Command::new("node")
            .args(["-e", code])
            .fd(3, Stdio::Null)
            .fd(4, OwnedFd::from(file));
        let mut child = command.channel(thead::Serialization::Json).spawn().unwrap();
        assert_eq!(
            history(&mut child).await,
            ["message \"four\"", "disconnect", "exit 0", "close"]
        );
    });
}

#[test]
fn name_place_priority_mask_and_limits_are_as_asked() {
    test(async || {
        assert_eq!(
            says(Command::shell("echo $0").arg0("ignored by sh -c")).await,
            "ignored by sh -c"
        );
        assert_eq!(says(Command::shell("umask").umask(0o027)).await, "0027");
        assert_eq!(says(Command::shell("nice").nice(7)).await, "7");
        let limit = rustix::process::Rlimit {
            current: Some(77),
            maximum: Some(78),
        };
        let limit = Limit {
            resource: rustix::process::Resource::Nofile,
            limit,
        };
        assert_eq!(
            says(Command::shell("ulimit -n; ulimit -Hn").limit(limit)).await,
            "77\n78"
        );
        let session = "[ $(cut -d' ' -f6 /proc/self/stat) = $$ ] && echo own";
        assert_eq!(says(Command::shell(session).detached()).await, "own");
        let shell = Command::shell_with("/bin/bash", "echo ${BASH_VERSION:+bash}");
        assert_eq!(says(shell).await, "bash");
        assert_eq!(says(Command::new("cat").input("fed")).await, "fed");
        assert_eq!(says(Command::new("cat")).await, "", "its input is at its end");
    });
}

#[test]
fn input_that_is_not_read_is_no_error() {
    test(async || {
        let megabyte = vec![b'x'; 1 << 20];
        assert_eq!(says(Command::shell("echo done").input(megabyte.clone())).await, "done");
        let count = Command::shell("wc -c").input(megabyte);
        assert_eq!(says(count).await, "1048576");
    });
}

#[test]
fn to_become_somebody_else_main_must_help() {
    test(async || {
        // The main of this program is the test harness's.
        let error = Command::new("id").uid(65_534).gid(65_534).spawn().unwrap_err();
        assert!(error.to_string().contains("run_if_asked"), "{error}");
    });
}

#[test]
fn a_child_becomes_another_user_or_the_call_says_why_not() {
    test(async || {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let r#become = |words: &[&str]| Command::new(example("become")).args(["65534", "65533"]).args(words);
        assert_eq!(
            says(r#become(&["sh", "-c", "id -u; id -g; id -G"])).await,
            "65534\n65533\n65533"
        );
        let missing = r#become(&["/nonexistent/program"]).output().await.unwrap_err();
        assert_eq!(missing.code(), Some(1));
        assert!(missing.to_string().contains("No such file or directory"), "{missing}");
    });
}

#[test]
fn a_child_says_that_it_runs_before_anything_else() {
    test(async || {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().await;
        assert!(matches!(child.next().await, Some(ChildEvent::Spawn)));
    });
}

/// What a child finds of the sockets that it was passed, and that nothing else has come along.
const PASSED: &str = r#"
    [ "$LISTEN_PID" = $$ ] && echo "for me: $LISTEN_FDS of $LISTEN_FDNAMES, channel ${NODE_CHANNEL_FD-none}"
    for fd in 3 4 5 6; do
        [ ! -e /proc/$$/fd/$fd ] || echo "$fd $(readlink /proc/$$/fd/$fd | tr -d '[:digit:]')"
    done
"#;

#[test]
fn sockets_are_passed_in_as_systemd_does_and_a_channel_is_behind_them() {
    test(async || {
        let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let command = Command::shell(PASSED)
            .env("LISTEN_FDS", "7")
            .env("LISTEN_PID", "1")
            .listener("http", socket())
            .listener("admin page", socket());
        let found = says(command.clone()).await;
        assert_eq!(
            found,
            "for me: 2 of http:admin page, channel none\n3 socket:[]\n4 socket:[]"
        );
        let found = says(command.channel(thead::Serialization::Json)).await;
        assert!(found.starts_with("for me: 2 of http:admin page, channel 5"), "{found}");
    });
}

#[test]
fn a_socket_without_a_place_or_a_name_is_refused() {
    test(async || {
        let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        for (name, number) in [("a:b", 9), ("a\n", 9), ("a", 3)] {
            let command = Command::new("true").listener(name, socket()).fd(number, Stdio::Null);
            let error = command.spawn().unwrap_err();
            assert_eq!(error.code(), "EINVAL", "{name:?} {number}: {error}");
        }
    });
}

#[test]
fn a_child_is_not_taken_for_an_orphan() {
    use thead::sys::reap::{Peek, reap_one};
    test(async || {
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        // The runtime does not turn meanwhile, so it has not collected it.
        let peek = loop {
            match reap_one(|_| false).unwrap() {
                Peek::Nothing => std::thread::yield_now(),
                peek => break peek,
            }
        };
        assert_eq!(peek, Peek::Own(child.id().cast_signed()));
        assert_eq!(child.wait().await, ExitStatus::Code(7));
    });
}
