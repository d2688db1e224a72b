//! Taking back what a stopped worker has not read.

use std::os::fd::AsFd;

use thead::sys::message::{send, socketpair};
use thead::sys::reclaim::{SocketId, reclaim};
use thead::sys::spawn::{FdSource, spawn};
use thead::sys::{pidfd, stat};

use crate::kit::{Census, kill, sh, until};

#[test]
fn what_a_stopped_worker_has_not_read_comes_back_with_its_descriptors() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    let end = SocketId::of(&pair.child).unwrap();
    // It reads six bytes, and no more.
    let mut spec = sh("head -c 6 <&3 >/dev/null; kill -STOP $$; exec sleep 1000");
    spec.fds.push((3, FdSource::Fd(pair.child.as_fd())));
    let child = spawn(&spec).unwrap();
    drop(pair.child);
    assert!(!pidfd::is_stopped(&child.pidfd).unwrap());
    let file = std::fs::File::open("/etc/passwd").unwrap();
    send(&pair.parent, b"taken.", &[]).unwrap();
    until("the worker stops", || pidfd::is_stopped(&child.pidfd).unwrap());
    assert_eq!(stat::ProcessStat::open(child.pid).unwrap().sample().unwrap().state, 'T');
    send(&pair.parent, b"first", &[file.as_fd()]).unwrap();
    send(&pair.parent, b"second", &[file.as_fd(), file.as_fd()]).unwrap();
    send(&pair.parent, b"third", &[]).unwrap();

    let other = socketpair(None).unwrap();
    let wrong = reclaim(&child.pidfd, 3, SocketId::of(&other.child).unwrap()).unwrap_err();
    assert_eq!(wrong.raw_os_error(), Some(libc::EBADF), "another socket is left alone");
    assert_eq!(
        reclaim(&child.pidfd, 9, end).unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );

    let reads = reclaim(&child.pidfd, 3, end).unwrap();
    let found: Vec<_> = reads
        .iter()
        .map(|read| (&*read.bytes, read.descriptors.len(), read.truncated))
        .collect();
    assert_eq!(
        found,
        [(&b"first"[..], 1, false), (b"second", 2, false), (b"third", 0, false)]
    );
    let inode = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
    assert_eq!(inode(&reads[1].descriptors[1]), inode(&file));
    assert!(reclaim(&child.pidfd, 3, end).unwrap().is_empty(), "once");
    kill(&child);
    assert_eq!(
        reclaim(&child.pidfd, 3, end).unwrap_err().raw_os_error(),
        Some(libc::ESRCH)
    );
}
