//! What a child is, besides its descriptors: program, environment, user, session, signals.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use thead::sys::pidfd::ExitStatus;
use thead::sys::spawn::{Credentials, FdSource, Limit, Session, SpawnSpec, Stage, spawn};
use thead::sys::{limit, path, pidfd};

use crate::kit::{
    Census, ORIGINAL_FILES, facts_of, group_and_session, is_root, kill, output, part, readable, sh, wait,
};

fn script(directory: &Path, name: &str, mode: u32, text: &str) {
    let file = directory.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_failure_names_the_stage_the_number_and_the_path() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    script(scratch.path(), "no-bit", 0o644, "#!/bin/sh\n");
    script(scratch.path(), "no-interpreter", 0o755, "#!/no/such/thing\n");
    let no_bit = scratch.path().join("no-bit");
    let no_interpreter = scratch.path().join("no-interpreter");

    let program = |name: &OsStr| spawn(&SpawnSpec::new(name)).unwrap_err();
    for (name, code) in [
        (OsStr::new("/no/such/program"), "ENOENT"),
        (OsStr::new("no-such-program"), "ENOENT"),
        (OsStr::new(""), "ENOENT"),
        (OsStr::new("/etc"), "EACCES"),
        (OsStr::new("/etc/passwd/x"), "ENOTDIR"),
        (no_bit.as_os_str(), "EACCES"),
        (no_interpreter.as_os_str(), "ENOENT"),
    ] {
        let error = program(name);
        assert_eq!(
            (error.stage(), error.code(), error.path()),
            (Stage::Program, code, Some(Path::new(name)))
        );
    }

    let mut spec = sh("exit 0");
    spec.cwd = Some("/no/such/directory".into());
    let error = spawn(&spec).unwrap_err();
    assert_eq!((error.stage(), error.code()), (Stage::Cwd, "ENOENT"));
    assert_eq!(
        error.to_string(),
        "enter the working directory (/no/such/directory): No such file or directory (os error 2)"
    );
    spec.cwd = Some("/etc/passwd".into());
    assert_eq!(spawn(&spec).unwrap_err().code(), "ENOTDIR");

    let mut spec = sh("exit 0");
    spec.fds.push((7, FdSource::Inherit));
    spec.fds.push((700, FdSource::Inherit));
    let error = spawn(&spec).unwrap_err();
    assert_eq!((error.stage(), error.code()), (Stage::FdMap(700), "EBADF"));
    spec.fds.push((-1, FdSource::Null));
    assert_eq!(spawn(&spec).unwrap_err().stage(), Stage::FdMap(-1));

    let mut spec = sh("exit 0");
    spec.session = Session::Group(1);
    assert_eq!(spawn(&spec).unwrap_err().stage(), Stage::Session);

    let mut spec = sh("exit 0");
    spec.args.push("x".repeat(1 << 20).into());
    assert_eq!(spawn(&spec).unwrap_err().code(), "E2BIG");
}

#[test]
fn a_nul_is_refused_wherever_it_is() {
    let _census = Census::take();
    let nul = OsStr::from_bytes(b"a\0b");
    let refused = |change: &dyn Fn(&mut SpawnSpec<'_>)| {
        let mut spec = sh("exit 0");
        change(&mut spec);
        let error = spawn(&spec).unwrap_err();
        assert_eq!(error.code(), "ERR_INVALID_ARG_VALUE");
        error.stage()
    };
    assert_eq!(
        refused(&|spec| spec.program = OsStr::from_bytes(b"/bin/\0sh").into()),
        Stage::Arguments
    );
    assert_eq!(refused(&|spec| spec.args.push(nul.into())), Stage::Arguments);
    assert_eq!(refused(&|spec| spec.arg0 = Some(nul.into())), Stage::Arguments);
    assert_eq!(refused(&|spec| spec.cwd = Some(nul.into())), Stage::Arguments);
    assert_eq!(
        refused(&|spec| spec.env.push((nul.into(), "".into()))),
        Stage::Environment
    );
    assert_eq!(
        refused(&|spec| spec.env.push(("A".into(), nul.into()))),
        Stage::Environment
    );
}

#[test]
fn a_program_is_looked_up_in_the_path_of_the_child() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    for (directory, mode) in [("first", 0o644), ("second", 0o755), ("third", 0o755)] {
        std::fs::create_dir(scratch.path().join(directory)).unwrap();
        script(
            &scratch.path().join(directory),
            "tool",
            mode,
            &format!("#!/bin/sh\necho {directory} $0\n"),
        );
    }
    std::fs::create_dir(scratch.path().join("zeroth")).unwrap();
    std::fs::create_dir(scratch.path().join("zeroth/tool")).unwrap();
    let with_path = |value: &str| {
        let mut spec = SpawnSpec::new("tool");
        spec.cwd = Some(scratch.path().into());
        spec.env = vec![("PATH".into(), value.into())];
        spec
    };
    // A directory and a file that is not executable are passed over; relative entries start from the child's directory.
    assert_eq!(
        output(with_path("/nowhere:zeroth:first:second:third")).0,
        "second second/tool\n"
    );
    assert_eq!(spawn(&with_path("/nowhere:first")).unwrap_err().code(), "EACCES");
    assert_eq!(spawn(&with_path("/nowhere")).unwrap_err().code(), "ENOENT");
    let mut here = with_path("");
    here.cwd = Some(scratch.path().join("third"));
    assert_eq!(output(here).0, "third ./tool\n");
    // Without a PATH: the one of the C library.
    assert_eq!(path::resolve(OsStr::new("sh"), None, None), Ok("/bin/sh".into()));
}

#[test]
fn a_script_without_an_interpreter_is_run_by_the_shell() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    script(scratch.path(), "plain", 0o755, "echo \"$0|$1|$2\"\n");
    let mut spec = SpawnSpec::new(scratch.path().join("plain"));
    spec.arg0 = Some("another name".into());
    spec.args = vec!["one".into(), "two words".into()];
    let expected = format!("{}|one|two words\n", scratch.path().join("plain").display());
    assert_eq!(output(spec).0, expected);
}

#[test]
fn a_child_has_the_arguments_the_environment_and_the_directory_it_was_given() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    let mut spec = part("facts");
    spec.args = vec!["".into(), "x y".into()];
    spec.env = vec![
        ("A".into(), "1".into()),
        ("B".into(), "".into()),
        ("C".into(), "=".into()),
    ];
    spec.cwd = Some(scratch.path().into());
    let facts = facts_of(spec);
    assert_eq!(facts["args"], r#"["part:facts", "", "x y"]"#);
    assert_eq!(facts["cwd"], scratch.path().canonicalize().unwrap().to_str().unwrap());
    let env: Vec<_> = facts.iter().filter(|(key, _)| key.starts_with("env.")).collect();
    assert_eq!(
        env.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>(),
        ["env.A=1", "env.B=", "env.C=="]
    );
}

#[test]
fn a_variable_can_be_the_childs_own_pid() {
    let _census = Census::take();
    let mut spec = part("facts");
    spec.own_pid = vec!["LISTEN_PID", "WATCHDOG_PID"];
    spec.env = vec![("LISTEN_PID".into(), "1".into()), ("Z".into(), "z".into())];
    let facts = facts_of(spec);
    assert_eq!(facts["env.LISTEN_PID"], facts["Pid"]);
    assert_eq!(facts["env.LISTEN_PID"], facts["pid"]);
    assert_eq!(facts["env.Z"], "z");
    assert_eq!(facts["env.WATCHDOG_PID"], facts["pid"]);
    let (script, _, _) = output({
        let mut spec = sh("test \"$LISTEN_PID\" = $$ && echo same");
        spec.own_pid = vec!["LISTEN_PID"];
        spec
    });
    assert_eq!(script, "same\n");
}

#[test]
fn ignored_caught_and_blocked_signals_are_not_inherited() {
    let _census = Census::take();
    extern "C" fn handler(_: i32) {}
    let handler: extern "C" fn(i32) = handler;
    let real_time = libc::SIGRTMIN() + 3;
    // SAFETY: changes of this thread's mask and of dispositions that no other test depends on.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::signal(real_time, libc::SIG_IGN);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    let (status, _, _) = output(sh("cat /proc/self/status"));
    for line in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let set = status
            .lines()
            .find_map(|found| found.strip_prefix(line))
            .unwrap()
            .trim();
        assert_eq!(set, "0000000000000000", "{line}");
    }
    // Ours are as they were.
    let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let mask = own
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
        .unwrap()
        .trim();
    assert_eq!(mask, format!("{:016x}", 1 << (libc::SIGTERM - 1)));
}

#[test]
fn session_and_group_are_as_asked() {
    let _census = Census::take();
    let (group, session) = group_and_session();
    let ours = (session, group);
    let of = |session: Session| {
        let mut spec = part("facts");
        spec.session = session;
        let facts = facts_of(spec);
        (facts["session"].clone(), facts["group"].clone(), facts["pid"].clone())
    };
    let (session, group, _) = of(Session::Inherit);
    assert_eq!((session, group), ours);
    let (session, group, pid) = of(Session::New);
    assert_eq!((&session, &group), (&pid, &pid));
    let (session, group, pid) = of(Session::NewGroup);
    assert_eq!((&session, &group), (&ours.0, &pid));
    let mut leader = sh("exec sleep 1000");
    leader.session = Session::NewGroup;
    let leader = spawn(&leader).unwrap();
    assert_eq!(of(Session::Group(leader.pid)).1, leader.pid.to_string());
    kill(&leader);
}

#[test]
fn a_child_with_a_death_signal_ends_with_the_thread_that_spawned_it() {
    let _census = Census::take();
    let mut spec = sh("exec sleep 1000");
    spec.death_signal = Some(libc::SIGTERM);
    let child = std::thread::spawn(move || spawn(&spec).unwrap()).join().unwrap();
    assert_eq!(
        wait(&child),
        ExitStatus::Signal {
            signal: libc::SIGTERM,
            core: false
        }
    );
}

#[test]
fn limits_priority_and_mask_are_as_asked() {
    let _census = Census::take();
    let before = limit::raise_open_files().unwrap();
    assert_eq!(
        before.current,
        Some(ORIGINAL_FILES),
        "the second call remembers the first"
    );
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(ours.current, ours.maximum);
    let plain = facts_of(part("facts"));
    assert_eq!(plain["files"], ORIGINAL_FILES.to_string());
    let mut spec = part("facts");
    let own = rustix::process::Rlimit {
        current: Some(99),
        maximum: Some(100),
    };
    spec.limits = vec![Limit {
        resource: rustix::process::Resource::Nofile,
        limit: own,
    }];
    spec.nice = Some(7);
    spec.umask = Some(0o027);
    let facts = facts_of(spec);
    assert_eq!(
        (&*facts["files"], &*facts["nice"], &*facts["Umask"]),
        ("99", "7", "0027")
    );
    assert_eq!(
        rustix::process::getpriority_process(None).unwrap(),
        plain["nice"].parse::<i32>().unwrap()
    );
}

#[test]
fn a_child_starts_in_the_control_group_it_was_given() {
    let _census = Census::take();
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let group = root.map(|root| Path::new(root).join(format!("thead-test-{}", std::process::id())));
    let Some(group) = group.filter(|group| std::fs::create_dir(group).is_ok()) else {
        println!("skipped: no cgroup v2 that we may write to");
        return;
    };
    let procs: OwnedFd = std::fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"))
        .unwrap()
        .into();
    let mut spec = sh("grep ^0:: /proc/self/cgroup");
    spec.cgroups = vec![procs.as_fd()];
    let (text, status, _) = output(spec);
    assert_eq!(status, ExitStatus::Code(0));
    assert!(
        text.trim().ends_with(group.file_name().unwrap().to_str().unwrap()),
        "{text}"
    );
    drop(procs);
    crate::kit::until("the group is empty", || std::fs::remove_dir(&group).is_ok());
}

#[test]
fn another_user_is_another_user_through_and_through() {
    let _census = Census::take();
    if !is_root() {
        return;
    }
    let mut spec = part("facts");
    // The program of a test lies where only its owner may go; the standard shell does not.
    spec.program = "/bin/sh".into();
    spec.arg0 = Some("name".into());
    spec.args = vec!["-c".into(), "cat /proc/self/status; echo env.A=$A; echo env.LD=$LD_PRELOAD; echo env.pid=$LISTEN_PID; echo env.self=$$; ls /proc/self/fd | tr '\\n' ' '".into()];
    spec.env = vec![("A".into(), "a".into()), ("LD_PRELOAD".into(), "".into())];
    spec.cwd = Some("/".into());
    spec.own_pid = vec!["LISTEN_PID"];
    spec.session = Session::New;
    spec.credentials = Some(Credentials {
        uid: Some(65534),
        gid: Some(65533),
        groups: vec![11, 12],
    });
    let (text, status, _) = output(spec);
    assert_eq!(status, ExitStatus::Code(0), "{text}");
    let line = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
            .trim()
            .replace('\t', " ")
    };
    assert_eq!(line("Uid:"), "65534 65534 65534 65534");
    assert_eq!(line("Gid:"), "65533 65533 65533 65533");
    assert_eq!(line("Groups:"), "11 12");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "SigIgn:", "SigBlk:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(line("env.A="), "a");
    assert_eq!(line("env.pid="), line("env.self="));
    assert_eq!(
        text.lines().last().unwrap().trim(),
        "0 1 2 3",
        "three streams and what ls opened"
    );
    // On shared memory the change would have cost us this.
    assert_eq!(
        rustix::process::dumpable_behavior().unwrap(),
        rustix::process::DumpableBehavior::Dumpable
    );
}

#[test]
fn what_the_helper_could_not_do_comes_back_as_a_report() {
    let _census = Census::take();
    let failure = |mut spec: SpawnSpec<'_>, credentials: Credentials| {
        spec.credentials = Some(credentials);
        let child = spawn(&spec).unwrap();
        let report = child.report.as_ref().unwrap();
        readable(report);
        let outcome = report.poll().unwrap();
        (outcome.map_err(|error| (error.stage(), error.code())), wait(&child))
    };
    let same = Credentials {
        uid: Some(rustix::process::geteuid().as_raw()),
        ..Credentials::default()
    };
    assert_eq!(failure(sh("exit 3"), same.clone()), (Ok(()), ExitStatus::Code(3)));
    let missing = SpawnSpec::new("/no/such/program");
    assert_eq!(
        failure(missing, same),
        (Err((Stage::Program, "ENOENT")), ExitStatus::Code(127))
    );
    if is_root() {
        let nobody = Credentials {
            uid: Some(65534),
            gid: Some(65534),
            groups: Vec::new(),
        };
        let scratch = tempfile::tempdir().unwrap();
        script(scratch.path(), "private", 0o700, "#!/bin/sh\n");
        let private = SpawnSpec::new(scratch.path().join("private"));
        assert_eq!(
            failure(private, nobody),
            (Err((Stage::Program, "EACCES")), ExitStatus::Code(127))
        );
    } else {
        let root = Credentials {
            uid: Some(0),
            ..Credentials::default()
        };
        assert_eq!(
            failure(sh("exit 0"), root),
            (Err((Stage::Credentials, "EPERM")), ExitStatus::Code(127))
        );
    }
}

#[test]
fn another_user_keeps_the_death_signal() {
    let _census = Census::take();
    if !is_root() {
        return;
    }
    let (end, program) = std::sync::mpsc::channel::<()>();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut spec = sh("exec sleep 1000");
        spec.death_signal = Some(libc::SIGTERM);
        spec.credentials = Some(Credentials {
            uid: Some(65534),
            gid: Some(65534),
            groups: Vec::new(),
        });
        send.send(spawn(&spec).unwrap()).unwrap();
        let _ = program.recv();
    });
    let child = receive.recv().unwrap();
    let report = child.report.as_ref().unwrap();
    readable(report);
    assert_eq!(report.poll(), Some(Ok(())));
    assert_eq!(pidfd::try_wait(&child.pidfd).unwrap(), None);
    drop(end);
    thread.join().unwrap();
    assert_eq!(
        wait(&child),
        ExitStatus::Signal {
            signal: libc::SIGTERM,
            core: false
        }
    );
}

#[test]
fn every_end_is_told_apart() {
    let _census = Census::take();
    assert_eq!(output(sh("exit 0")).1, ExitStatus::Code(0));
    assert_eq!(output(sh("exit 255")).1, ExitStatus::Code(255));
    assert_eq!(
        output(sh("kill -USR1 $$")).1,
        ExitStatus::Signal {
            signal: libc::SIGUSR1,
            core: false
        }
    );
    let child = spawn(&sh("exec sleep 1000")).unwrap();
    assert_eq!(pidfd::try_wait(&child.pidfd).unwrap(), None);
    pidfd::send_signal(&child.pidfd, libc::SIGRTMIN() + 1).unwrap();
    assert_eq!(
        wait(&child),
        ExitStatus::Signal {
            signal: libc::SIGRTMIN() + 1,
            core: false
        }
    );
    // Collected: the pid may be somebody else's by now.
    assert_eq!(
        pidfd::send_signal(&child.pidfd, libc::SIGTERM)
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ESRCH)
    );
    assert_eq!(
        pidfd::try_wait(&child.pidfd).unwrap_err().raw_os_error(),
        Some(libc::ECHILD)
    );
    assert_eq!(
        pidfd::send_signal(&child.pidfd, 65).unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
}
