//! Bytes and descriptors through a channel's socket pair.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use thead::sys::message::{MAX_DESCRIPTORS, NODE_BUFFER, Received, recv, send, send_vectored, socketpair};

use crate::kit::Census;

fn nonblocking(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(fd)
        .unwrap()
        .contains(rustix::fs::OFlags::NONBLOCK)
}

fn pipes(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| std::fs::File::open("/dev/null").unwrap().into())
        .collect()
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

#[test]
fn only_the_parents_end_is_non_blocking_and_both_are_close_on_exec() {
    let _census = Census::take();
    let pair = socketpair(Some(NODE_BUFFER)).unwrap();
    assert!(nonblocking(&pair.parent) && !nonblocking(&pair.child));
    for end in [&pair.parent, &pair.child] {
        assert!(fcntl_getfd(end).unwrap().contains(FdFlags::CLOEXEC));
        // The kernel doubles what it is told, and answers with that.
        assert_eq!(
            rustix::net::sockopt::socket_send_buffer_size(end).unwrap(),
            2 * NODE_BUFFER
        );
        assert_eq!(
            rustix::net::sockopt::socket_recv_buffer_size(end).unwrap(),
            2 * NODE_BUFFER
        );
    }
}

#[test]
fn nothing_blocks_not_even_on_the_blocking_end() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    let (mut buffer, mut sink) = (BytesMut::new(), Vec::new());
    assert_eq!(
        errno(recv(&pair.child, &mut buffer, &mut sink).unwrap_err()),
        libc::EAGAIN
    );
    let chunk = [7; 65536];
    let full = loop {
        if let Err(error) = send(&pair.child, &chunk, &[]) {
            break error;
        }
    };
    assert_eq!(errno(full), libc::EAGAIN);
}

#[test]
fn as_many_descriptors_as_the_kernel_allows_come_in_one_read() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    let files = pipes(MAX_DESCRIPTORS + 1);
    let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    assert_eq!(errno(send(&pair.parent, b"x", &borrowed).unwrap_err()), libc::EINVAL);
    assert_eq!(
        errno(send(&pair.parent, b"", &borrowed[..1]).unwrap_err()),
        libc::EINVAL,
        "they would be lost"
    );
    assert_eq!(send(&pair.parent, b"hello", &borrowed[..MAX_DESCRIPTORS]).unwrap(), 5);
    let (mut buffer, mut sink) = (BytesMut::new(), Vec::new());
    let received = recv(&pair.child, &mut buffer, &mut sink).unwrap();
    assert_eq!(
        received,
        Received {
            bytes: 5,
            truncated: false,
            sender: None
        }
    );
    assert_eq!((&*buffer, sink.len()), (&b"hello"[..], MAX_DESCRIPTORS));
    assert!(
        sink.iter()
            .all(|fd| fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC))
    );
}

#[test]
fn a_read_ends_behind_the_segment_that_carried_a_descriptor() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    let file = pipes(1);
    send(&pair.parent, b"plain,", &[]).unwrap();
    send_vectored(
        &pair.parent,
        &[std::io::IoSlice::new(b"han"), std::io::IoSlice::new(b"dle,")],
        &[file[0].as_fd()],
    )
    .unwrap();
    send(&pair.parent, b"plain", &[]).unwrap();
    let (mut buffer, mut sink) = (BytesMut::with_capacity(4096), Vec::new());
    assert_eq!(recv(&pair.child, &mut buffer, &mut sink).unwrap().bytes, 13);
    assert_eq!((&*buffer, sink.len()), (&b"plain,handle,"[..], 1));
    assert_eq!(recv(&pair.child, &mut buffer, &mut sink).unwrap().bytes, 5);
    assert_eq!((&*buffer, sink.len()), (&b"plain,handle,plain"[..], 1));
    drop(pair.parent);
    assert_eq!(recv(&pair.child, &mut buffer, &mut sink).unwrap().bytes, 0);
}

#[test]
fn a_partial_write_delivers_the_descriptor_with_its_first_byte_and_once() {
    let _census = Census::take();
    let pair = socketpair(Some(NODE_BUFFER)).unwrap();
    let file = pipes(1);
    let frame: Vec<u8> = (0..1 << 20).map(|index| (index % 251) as u8).collect();
    let mut sent = send(&pair.parent, &frame, &[file[0].as_fd()]).unwrap();
    assert!(sent < frame.len(), "larger than the buffers");
    let (mut buffer, mut sink) = (BytesMut::new(), Vec::new());
    while buffer.len() < frame.len() {
        let before = buffer.len();
        assert!(recv(&pair.child, &mut buffer, &mut sink).unwrap().bytes > 0);
        assert_eq!(sink.len(), 1, "from the first read on");
        assert!(before == 0 || buffer.len() > before);
        match send(&pair.parent, &frame[sent..], &[]) {
            Ok(more) => sent += more,
            Err(error) => assert_eq!(errno(error), libc::EAGAIN),
        }
    }
    assert_eq!(&*buffer, &*frame);
}

#[test]
fn a_receiver_without_room_for_descriptors_hears_that_some_are_lost() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    let files = pipes(10);
    let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    send(&pair.parent, b"x", &borrowed).unwrap();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let mut crowd = Vec::new();
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(100),
            ..before
        },
    )
    .unwrap();
    while let Ok(next) = fcntl_dupfd_cloexec(&files[0], 3) {
        crowd.push(next);
    }
    crowd.truncate(crowd.len() - 4);
    let (mut buffer, mut sink) = (BytesMut::new(), Vec::new());
    let received = recv(&pair.child, &mut buffer, &mut sink).unwrap();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
    assert_eq!(
        received,
        Received {
            bytes: 1,
            truncated: true,
            sender: None
        }
    );
    assert_eq!(sink.len(), 4);
}

#[test]
fn a_closed_peer_is_an_error_and_no_signal() {
    let _census = Census::take();
    let pair = socketpair(None).unwrap();
    // SAFETY: a disposition that no other test depends on.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    send(&pair.parent, b"unread", &[]).unwrap();
    drop(pair.child);
    assert_eq!(errno(send(&pair.parent, b"x", &[]).unwrap_err()), libc::EPIPE);
    let (mut buffer, mut sink) = (BytesMut::new(), Vec::new());
    // It closed without reading: the kernel says so once, then it is the end.
    assert_eq!(
        errno(recv(&pair.parent, &mut buffer, &mut sink).unwrap_err()),
        libc::ECONNRESET
    );
    assert_eq!(recv(&pair.parent, &mut buffer, &mut sink).unwrap().bytes, 0);
}
