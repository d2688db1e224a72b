//! Orphans come to the subreaper, and do not stay.

use std::os::fd::AsFd;

use rustix::pipe::{PipeFlags, pipe_with};
use thead::sys::pidfd::ExitStatus;
use thead::sys::reap::{Peek, become_subreaper, kill_orphans, orphans, reap_one};
use thead::sys::spawn::{FdSource, Session, spawn};

use crate::kit::{Census, output, read_all, readable, sh, until, wait};

fn reap_all(own: i32) -> Vec<(i32, ExitStatus)> {
    let mut reaped = Vec::new();
    loop {
        match reap_one(|pid| pid == own).unwrap() {
            Peek::Orphan(pid, status) => reaped.push((pid, status)),
            Peek::Own(_) | Peek::Nothing => return reaped,
        }
    }
}

#[test]
fn orphans_are_found_told_apart_killed_and_collected() {
    let _census = Census::take();
    become_subreaper().unwrap();
    // A worker that leaves a family three deep in a session of its own, and one outside of it.
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut spec = sh("(sh -c 'sleep 1000 & echo a; wait' & wait) & setsid sleep 1000 & echo b; exit 3");
    spec.session = Session::New;
    spec.fds.push((1, FdSource::Fd(writer.as_fd())));
    let worker = spawn(&spec).unwrap();
    drop(writer);
    assert_eq!(wait(&worker), ExitStatus::Code(3));
    // Each says so when it has forked.
    let mut said = 0;
    while said < 4 {
        readable(&reader);
        said += rustix::io::read(&reader, &mut [0; 4]).unwrap();
    }
    let in_its_session = || {
        orphans(|_| false)
            .unwrap()
            .iter()
            .filter(|orphan| orphan.session == worker.pid)
            .count()
    };
    until("one has become ours and stayed, one has left", || {
        in_its_session() == 1 && orphans(|_| false).unwrap().len() == 2
    });

    // Only what the worker's session holds, generation by generation; then the one that had left it.
    let mut killed = 0;
    until("its session is empty", || {
        reap_all(0);
        let now = kill_orphans(|_| false, |orphan| orphan.session == worker.pid).unwrap();
        killed += now;
        now == 0 && orphans(|_| false).unwrap().len() == 1 && killed >= 3
    });
    assert_eq!(kill_orphans(|_| false, |_| true).unwrap(), 1);
    let mut reaped = Vec::new();
    until("all are collected", || {
        reaped.extend(reap_all(0));
        crate::kit::children().is_empty()
    });
    assert!(reaped.iter().all(|(_, status)| status.signal() == Some(libc::SIGKILL)));
    assert_eq!(read_all(reader), "", "nobody holds its output open");
}

#[test]
fn a_child_of_our_own_is_left_for_its_pidfd_and_hides_no_orphan_for_ever() {
    let _census = Census::take();
    become_subreaper().unwrap();
    assert_eq!(reap_one(|_| false).unwrap(), Peek::Nothing);
    let own = spawn(&sh("exit 1")).unwrap();
    readable(&own.pidfd);
    let (_, _, _) = output(sh("(sleep 0; exit 5) & exit 0"));
    assert_eq!(reap_one(|pid| pid == own.pid).unwrap(), Peek::Own(own.pid));
    assert_eq!(wait(&own), ExitStatus::Code(1));
    let mut orphan = None;
    until("the orphan ends", || {
        if let Peek::Orphan(_, status) = reap_one(|_| false).unwrap() {
            orphan = Some(status);
        }
        orphan.is_some()
    });
    assert_eq!(orphan, Some(ExitStatus::Code(5)));
}
