//! The life of one child as its parent sees it: the order of events, its end, and what is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::json;
use thead::channel::{Handle, SendError};
use thead::{ChildEvent, Command, ExitStatus, HandleKind, Serialization, Stdio};
use tokio::io::AsyncReadExt;

use crate::kit::{DEADLINE, children, history, in_time, misbehave, name, next, state, test, until};

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

#[test]
fn messages_come_before_the_disconnect_before_the_exit_before_the_close() {
    test(async || {
        let script = r#"for n in 1 2 3; do echo $n >&3; done; exit 5"#;
        let mut child = shell(script).channel(Serialization::Json).spawn().unwrap();
        assert_eq!(
            history(&mut child).await,
            ["message 1", "message 2", "message 3", "disconnect", "exit 5", "close"]
        );
        assert!(child.next().await.is_none());
        assert_eq!(child.wait().await, ExitStatus::Code(5));
    });
}

#[test]
fn all_that_a_dead_child_had_written_is_heard() {
    test(async || {
        // As much as the socket holds, and the child is gone before the parent reads any of it.
        let script = r#"i=0; while [ $i -lt 100 ]; do echo $i >&3; i=$((i+1)); done"#;
        let mut child = shell(script).channel(Serialization::Json).spawn().unwrap();
        let begun = Instant::now();
        while state(&child) != 'Z' {
            assert!(begun.elapsed() < DEADLINE);
        }
        let messages = history(&mut child).await;
        let expected: Vec<_> = (0..100).map(|n| format!("message {n}")).collect();
        assert_eq!(messages[..100], expected);
        assert_eq!(messages[100..], ["disconnect", "exit 0", "close"]);
    });
}

#[test]
fn a_child_that_is_killed_tells_the_signal() {
    test(async || {
        let mut child = misbehave("idles").spawn().unwrap();
        child.kill(libc::SIGKILL).unwrap();
        assert_eq!(history(&mut child).await, ["disconnect", "signal 9", "close"]);
        assert_eq!(
            child.kill(libc::SIGTERM).unwrap_err().raw_os_error(),
            Some(libc::ESRCH),
            "nobody is hit by mistake"
        );
    });
}

#[test]
fn a_child_that_closes_its_channel_lives_on() {
    test(async || {
        let mut child = misbehave("closes its channel").spawn().unwrap();
        until(&mut child, "disconnect").await;
        assert!(matches!(child.post_message(&1).await, Err(SendError::Closed)));
        child.kill(libc::SIGTERM).unwrap();
        assert_eq!(history(&mut child).await, ["signal 15", "close"]);
    });
}

#[test]
fn a_parent_that_disconnects_hears_of_the_close_too() {
    test(async || {
        let mut child = misbehave("idles").spawn().unwrap();
        child.disconnect();
        assert!(!child.channel().unwrap().is_connected());
        assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
    });
}

#[test]
fn a_child_without_a_channel_exits_and_closes() {
    test(async || {
        let mut child = shell("exit 3").spawn().unwrap();
        assert!(matches!(child.post_message(&1).await, Err(SendError::Closed)));
        assert_eq!(history(&mut child).await, ["exit 3", "close"]);
    });
}

#[test]
fn half_a_message_at_the_end_is_no_message() {
    test(async || {
        let mut child = misbehave("dies in the middle of a frame").spawn().unwrap();
        assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
    });
}

#[test]
fn a_grandchild_with_the_channel_delays_the_disconnect_but_not_the_exit() {
    for what in [
        "leaves its channel to a grandchild",
        "leaves its channel to a grandchild that floods",
    ] {
        test(async || {
            let mut child = misbehave(what).spawn().unwrap();
            until(&mut child, "exit 0").await;
            // It ends when its channel does.
            child.disconnect();
            until(&mut child, "disconnect").await;
            assert_eq!(history(&mut child).await, ["close"]);
        });
    }
}

#[test]
fn a_grandchild_with_the_output_delays_the_close_but_not_the_exit() {
    test(async || {
        let script = "{ read line; echo $line; } <&3 & exit 1";
        let mut child = shell(script)
            .channel(Serialization::Json)
            .stdout(Stdio::Pipe)
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        assert_eq!(name(&next(&mut child).await.unwrap()), "exit 1");
        child.post_message("end").await.unwrap();
        let mut text = String::new();
        in_time("the output", out.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "\"end\"\n");
        assert_eq!(history(&mut child).await, ["disconnect", "close"]);
    });
}

#[test]
fn output_that_nobody_reads_holds_up_no_close() {
    test(async || {
        let mut child = shell("echo unread").stdout(Stdio::Pipe).spawn().unwrap();
        assert_eq!(history(&mut child).await, ["exit 0", "close"]);
    });
}

#[test]
fn a_line_of_a_hundred_megabytes_passes_through() {
    test(async || {
        let mut child = misbehave("prints a line of 100 MB")
            .stdout(Stdio::Pipe)
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let (mut piece, mut sum) = (vec![0; 1 << 16], 0);
        loop {
            match in_time("output", out.read(&mut piece)).await.unwrap() {
                0 => break,
                n => sum += n,
            }
        }
        assert_eq!(sum, (100 << 20) + 5);
        assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
    });
}

#[test]
fn a_handle_that_the_child_never_got_comes_back() {
    test(async || {
        let mut child = misbehave("never reads").spawn().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = child.channel().unwrap();
        channel.send_handle(&1, HandleKind::Socket, theirs.into()).unwrap();
        child.kill(libc::SIGKILL).unwrap();
        let lost = until(&mut child, "handle lost").await;
        assert_eq!(history(&mut child).await, ["disconnect", "signal 9", "close"]);
        let ChildEvent::HandleLost(handle) = lost else {
            unreachable!();
        };
        let theirs = UnixStream::from(handle.into_owned().unwrap());
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        std::io::Read::read_exact(&mut &ours, &mut [0]).unwrap();
    });
}

#[test]
fn handles_that_the_child_refuses_come_back_and_the_channel_lives() {
    test(async || {
        let mut child = misbehave("refuses every handle").spawn().unwrap();
        for _ in 0..3 {
            let (_, theirs) = UnixStream::pair().unwrap();
            let channel = child.channel().unwrap();
            channel.send_handle(&1, HandleKind::Socket, theirs.into()).unwrap();
            until(&mut child, "handle lost").await;
        }
        child.disconnect();
        until(&mut child, "close").await;
    });
}

#[test]
fn acknowledgements_too_many_close_nothing_too_early() {
    test(async || {
        let mut child = misbehave("acknowledges twice").spawn().unwrap();
        let mut ends = Vec::new();
        for n in 0..20 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let channel = child.channel().unwrap();
            channel.send_handle(&n, HandleKind::Socket, theirs.into()).unwrap();
            ends.push(ours);
        }
        child.disconnect();
        assert_eq!(history(&mut child).await, ["disconnect", "exit 1", "close"]);
    });
}

#[test]
fn handles_and_messages_come_back_as_they_were_sent() {
    test(async || {
        let mut child = misbehave("echoes").spawn().unwrap();
        let channel = child.channel().unwrap().clone();
        let (_, theirs) = UnixStream::pair().unwrap();
        channel.send(&json!({ "n": 1 })).unwrap();
        channel
            .send_handle(&json!({ "n": 2 }), HandleKind::Socket, Handle::from(theirs))
            .unwrap();
        for expected in ["message {\"n\":1}", "message {\"n\":2} with a handle"] {
            assert_eq!(name(&next(&mut child).await.unwrap()), expected);
        }
        child.kill(libc::SIGKILL).unwrap();
        until(&mut child, "close").await;
    });
}

#[test]
fn a_child_that_shuts_down_its_reading_side_loses_its_channel_at_the_next_message() {
    test(async || {
        let mut child = misbehave("stops reading its end").spawn().unwrap();
        until(&mut child, "message \"shut\"").await;
        child.post_message(&1).await.unwrap();
        until(&mut child, "disconnect").await;
        child.kill(libc::SIGKILL).unwrap();
        until(&mut child, "close").await;
    });
}

/// Lets the tasks of the runtime work until there is no child left, not even a zombie.
async fn nobody_left() {
    let begun = Instant::now();
    while !children().is_empty() {
        assert!(begun.elapsed() < DEADLINE, "{:?} are left", children());
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_child_that_is_dropped_loses_its_channel_and_leaves_no_zombie() {
    test(async || {
        // This one says nothing, and ends when its channel does.
        drop(misbehave("idles").spawn().unwrap());
        // This one is in the middle of saying very much.
        drop(misbehave("floods with messages").spawn().unwrap());
        drop(shell("exit 1").spawn().unwrap());
        nobody_left().await;
    });
}

#[test]
fn a_child_is_collected_while_nobody_takes_its_messages() {
    test(async || {
        let mut child = misbehave("floods with messages").spawn().unwrap();
        until(&mut child, "message").await;
        child.kill(libc::SIGKILL).unwrap();
        nobody_left().await;
        until(&mut child, "signal 9").await;
        assert_eq!(history(&mut child).await, ["close"]);
    });
}

#[test]
fn a_thousand_children_leave_nothing_behind() {
    test(async || {
        for _ in 0..100 {
            let mut ten: Vec<_> = (0..10)
                .map(|_| {
                    let command = Command::new("true").channel(Serialization::Json).stdout(Stdio::Pipe);
                    command.spawn().unwrap()
                })
                .collect();
            for child in &mut ten {
                assert_eq!(history(child).await, ["disconnect", "exit 0", "close"]);
            }
        }
    });
}

#[test]
fn a_child_that_cannot_be_started_is_an_error_with_nodes_code_and_leaves_nothing() {
    test(async || {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let plain = file("plain", "echo", 0o644);
        let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
        let cases = [
            (Command::new("/no/such/program"), "ENOENT", true),
            (Command::new("no-such-program-in-the-path"), "ENOENT", true),
            (Command::new(&plain), "EACCES", true),
            (Command::new(dir.path()), "EACCES", true),
            (Command::new(&orphan), "ENOENT", true),
            (Command::new("true").current_dir("/no/such/directory"), "ENOENT", false),
            (Command::new("true").current_dir(&plain), "ENOTDIR", false),
            (Command::new("true").arg("x".repeat(1 << 20)), "E2BIG", true),
        ];
        for (command, code, is_program) in cases {
            let command = command
                .channel(Serialization::Json)
                .stdin(Stdio::Pipe)
                .stdout(Stdio::Pipe)
                .stderr(Stdio::Pipe);
            let error = command.spawn().unwrap_err();
            assert_eq!((error.code(), error.is_program()), (code, is_program), "{error}");
        }
        assert!(children().is_empty());
    });
}
