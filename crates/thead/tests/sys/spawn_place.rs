//! Which descriptors a child has, and what spawning costs the parent: none, ever.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use thead::sys::pidfd::ExitStatus;
use thead::sys::spawn::{FdSource, Session, SpawnSpec, Stage, reserve, spawn};

use crate::kit::{Census, children, facts_of, kill, part, readable, sh, wait};

fn file() -> OwnedFd {
    std::fs::File::open("/proc/self/status").unwrap().into()
}

/// Files with names of their own, so that a child can tell them apart.
fn named(directory: &std::path::Path, name: &str) -> (OwnedFd, String) {
    let path = directory.canonicalize().unwrap().join(name);
    let file = std::fs::File::create(&path).unwrap();
    (file.into(), path.to_str().unwrap().to_owned())
}

fn child_descriptors(spec: SpawnSpec<'_>) -> BTreeMap<RawFd, String> {
    let facts = facts_of(spec);
    let numbers = facts
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("fd.")?.parse().unwrap(), value.clone())));
    numbers.collect()
}

/// Takes every number below 64 that is free, so that the spawner cannot reserve another one.
fn crowd() -> Vec<OwnedFd> {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut crowd = Vec::new();
    loop {
        let next = fcntl_dupfd_cloexec(&null, 0).unwrap();
        if next.as_raw_fd() >= 64 {
            return crowd;
        }
        crowd.push(next);
    }
}

#[test]
fn descriptors_can_be_swapped_and_moved_anywhere() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    let (a, a_name) = named(scratch.path(), "a");
    let (b, b_name) = named(scratch.path(), "b");
    let (c, c_name) = named(scratch.path(), "c");
    let high = fcntl_dupfd_cloexec(&c, 300).unwrap();
    let map = || {
        let mut spec = part("facts");
        spec.fds.extend([
            (a.as_raw_fd(), FdSource::Fd(b.as_fd())),
            (b.as_raw_fd(), FdSource::Fd(a.as_fd())),
            (0, FdSource::Fd(high.as_fd())),
            (40, FdSource::Fd(a.as_fd())),
            (200, FdSource::Fd(b.as_fd())),
            (201, FdSource::Null),
            (high.as_raw_fd(), FdSource::Inherit),
        ]);
        spec
    };
    let expected = [
        (0, &c_name),
        (a.as_raw_fd(), &b_name),
        (b.as_raw_fd(), &a_name),
        (40, &a_name),
        (200, &b_name),
        (201, &"/dev/null".to_owned()),
        (high.as_raw_fd(), &c_name),
    ];
    let check = |found: BTreeMap<RawFd, String>| {
        assert_eq!(
            found.len(),
            expected.len() + 2,
            "and the standard streams 1 and 2: {found:?}"
        );
        for (number, name) in &expected {
            assert_eq!(&found[number], *name, "descriptor {number}");
        }
    };
    check(child_descriptors(map()));
    // Without low numbers to spare: more is to be moved than there are slots.
    let _crowd = crowd();
    let mut many = map();
    let more: Vec<RawFd> = (500..560).collect();
    many.fds
        .extend(more.iter().map(|number| (*number, FdSource::Fd(high.as_fd()))));
    let mut found = child_descriptors(many);
    for number in more {
        assert_eq!(found.remove(&number).as_ref(), Some(&c_name), "descriptor {number}");
    }
    check(found);
}

#[test]
fn what_is_not_named_does_not_reach_the_child_even_if_it_is_not_close_on_exec() {
    let _census = Census::take();
    let (low, high) = (file(), fcntl_dupfd_cloexec(file(), 400).unwrap());
    for leak in [&low, &high] {
        fcntl_setfd(leak, FdFlags::empty()).unwrap();
    }
    let standard = |found: BTreeMap<RawFd, String>| assert_eq!(found.into_keys().collect::<Vec<_>>(), [0, 1, 2]);
    standard(child_descriptors(part("facts")));
    let crowd = crowd();
    for leak in &crowd {
        fcntl_setfd(leak, FdFlags::empty()).unwrap();
    }
    standard(child_descriptors(part("facts")));
    // A whole copy of the table: the same.
    let mut spec = part("facts");
    spec.fds
        .extend((64..130).map(|number| (number, FdSource::Fd(high.as_fd()))));
    let found = child_descriptors(spec);
    assert_eq!(
        found.into_keys().collect::<Vec<_>>(),
        [0, 1, 2].into_iter().chain(64..130).collect::<Vec<_>>()
    );
}

fn stdin_becomes(fd: &OwnedFd) {
    // SAFETY: 0 stays open, as a duplicate of the other.
    assert_eq!(unsafe { libc::dup2(fd.as_raw_fd(), 0) }, 0);
}

#[test]
fn standard_streams_that_are_not_named_are_null_and_inherited_ones_are_blocking() {
    let _census = Census::take();
    let found = child_descriptors(part("facts"));
    assert_eq!(found[&0], "/dev/null");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    let saved = fcntl_dupfd_cloexec(std::io::stdin(), 3).unwrap();
    stdin_becomes(&reader);
    let mut spec = part("facts");
    spec.fds.push((0, FdSource::Inherit));
    let facts = facts_of(spec);
    stdin_becomes(&saved);
    assert_eq!(facts["nonblocking.0"], "false");
    let mut spec = part("facts");
    spec.fds.push((0, FdSource::Fd(writer.as_fd())));
    assert_eq!(
        facts_of(spec)["nonblocking.0"],
        "true",
        "what is passed on purpose stays as it is"
    );
}

#[test]
fn two_thousand_spawns_from_four_threads_leave_nothing_behind() {
    let _census = Census::take();
    let one_thread = || {
        for round in 0..500 {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let (from, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let mut spec = SpawnSpec::new("/bin/true");
            spec.fds = vec![
                (3, FdSource::Fd(to.as_fd())),
                (reader.as_raw_fd(), FdSource::Fd(writer.as_fd())),
            ];
            if round % 10 == 0 {
                spec.program = "/no/such/program".into();
                assert_eq!(spawn(&spec).unwrap_err().stage(), Stage::Program);
            } else {
                let child = spawn(&spec).unwrap();
                // The end of a pipe is seen at once: no other child has a copy of our end.
                drop((to, writer));
                readable(&from);
                readable(&reader);
                assert_eq!(wait(&child), ExitStatus::Code(0));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(one_thread);
        }
    });
}

#[test]
fn with_ten_thousand_open_descriptors_a_child_still_has_only_its_own() {
    let _census = Census::take();
    let room = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap();
    let count = room.saturating_sub(200).min(10_000);
    let null = std::fs::File::open("/dev/null").unwrap();
    let open: Vec<OwnedFd> = (0..count).map(|_| fcntl_dupfd_cloexec(&null, 3).unwrap()).collect();
    let highest = open.last().unwrap();
    fcntl_setfd(highest, FdFlags::empty()).unwrap();
    let mut spec = part("facts");
    spec.fds.push((3, FdSource::Fd(highest.as_fd())));
    assert_eq!(child_descriptors(spec).into_keys().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn without_a_free_descriptor_spawning_fails_and_recovers() {
    let _census = Census::take();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit {
        current: Some(100),
        ..before
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).unwrap();
    let mut open = Vec::new();
    while let Ok(next) = fcntl_dupfd_cloexec(std::io::stdin(), 3) {
        open.push(next);
    }
    let error = spawn(&SpawnSpec::new("/bin/true")).unwrap_err();
    assert_eq!((error.stage(), error.code()), (Stage::Clone, "EMFILE"));
    drop(open);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
    assert_eq!(wait(&spawn(&SpawnSpec::new("/bin/true")).unwrap()), ExitStatus::Code(0));
}

#[test]
fn a_file_passed_on_is_not_kept_open_by_the_parent() {
    let _census = Census::take();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let high = fcntl_dupfd_cloexec(&writer, 100).unwrap();
    let mut spec = sh("exec sleep 1000");
    spec.fds.push((3, FdSource::Fd(high.as_fd())));
    let child = spawn(&spec).unwrap();
    drop((writer, high));
    kill(&child);
    // End of file: nobody has the writing end any more.
    readable(&reader);
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn reserving_again_keeps_what_there_is() {
    let _census = Census::take();
    let now = reserve(0);
    assert!(now >= 1);
    assert_eq!(reserve(now), now);
}

#[test]
fn a_failed_child_is_no_zombie() {
    let _census = Census::take();
    let before = children();
    let mut spec = SpawnSpec::new("/no/such/program");
    spec.session = Session::New;
    for _ in 0..100 {
        spawn(&spec).unwrap_err();
    }
    assert_eq!(children(), before);
}
