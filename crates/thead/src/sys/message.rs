//! Bytes and descriptors over Unix sockets. Nothing here blocks, whatever the mode of the socket.

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use bytes::BytesMut;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, sockopt,
};

/// The most descriptors that one message can carry (`SCM_MAX_FD` of the kernel); one more is `EINVAL`.
pub const MAX_DESCRIPTORS: usize = 253;

/// The socket buffers that Node 22 and later give to a channel, in bytes; Node 18 and 20 keep the kernel's default.
pub const NODE_BUFFER: usize = 65536;

/// Room made in a buffer that has none left.
const READ_ROOM: usize = 64 * 1024;

/// The two ends of a channel. Both are close-on-exec; they differ in blocking.
#[derive(Debug)]
pub struct SocketPair {
    /// Non-blocking, for the event loop.
    pub parent: OwnedFd,
    /// Blocking, as programs expect of what they inherit. Close it once the child has been spawned, or the end of the
    /// channel will never be seen.
    pub child: OwnedFd,
}

/// Makes a channel's socket pair; `buffer` sets the size of all four socket buffers, in bytes.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOBUFS`.
pub fn socketpair(buffer: Option<usize>) -> io::Result<SocketPair> {
    let (parent, child) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&parent, true)?;
    if let Some(size) = buffer {
        for end in [&parent, &child] {
            sockopt::set_socket_send_buffer_size(end, size)?;
            sockopt::set_socket_recv_buffer_size(end, size)?;
        }
    }
    Ok(SocketPair { parent, child })
}

/// Sends bytes, and the descriptors with the first of them. Returns how many bytes went.
///
/// A partial write has delivered *all* descriptors: send the rest without them. No SIGPIPE is raised.
///
/// # Errors
/// `EAGAIN` when the buffer is full, `EPIPE` and `ECONNRESET` when the peer is gone, `EINVAL` for descriptors without a
/// byte or for more than [`MAX_DESCRIPTORS`], `ETOOMANYREFS` when too many are under way unread.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_vectored(socket, &[IoSlice::new(bytes)], descriptors)
}

/// Like [`send`], from several buffers (at most 1024).
///
/// # Errors
/// As [`send`].
pub fn send_vectored(socket: impl AsFd, bytes: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let socket = socket.as_fd();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if descriptors.is_empty() {
        return retry(|| sendmsg(socket, bytes, &mut SendAncillaryBuffer::default(), flags));
    }
    if bytes.iter().all(|slice| slice.is_empty()) {
        // The kernel would drop the descriptors without a word.
        return Err(rustix::io::Errno::INVAL.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    retry(|| sendmsg(socket, bytes, &mut control, flags))
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// Bytes appended to the buffer. 0 is the end: the peer has closed.
    pub bytes: usize,
    /// The kernel threw descriptors away, because we have too many open. What was sent cannot be trusted any more.
    pub truncated: bool,
    /// Who sent it, by the kernel's word; only of a socket that asks for it (`SO_PASSCRED`).
    pub sender: Option<Sender>,
}

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its process; 0 for one that this pid namespace does not know.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// As many bytes as the most descriptors that one message can carry need, and its sender.
const CONTROL: usize = {
    // SAFETY: CMSG_SPACE only computes.
    unsafe {
        let descriptors = libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32);
        (descriptors + libc::CMSG_SPACE(size_of::<libc::ucred>() as u32)) as usize
    }
};

/// Left uninitialised on purpose: the kernel writes what is read, and clearing a kilobyte costs more than a small read.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    _bytes: [MaybeUninit<u8>; CONTROL],
}

/// Reads once into the spare capacity of `buffer`, which cuts a datagram that is longer, and puts the descriptors that came along, close-on-exec, into `sink`.
///
/// One read stops behind the first segment that carried descriptors: they belong to the last bytes of the read, or to a
/// message that starts there. A buffer without spare capacity grows by 64 KiB.
///
/// # Errors
/// `EAGAIN` when there is nothing; `ECONNRESET` once when the peer closed without reading everything.
pub fn recv(socket: impl AsFd, buffer: &mut BytesMut, sink: &mut impl Extend<OwnedFd>) -> io::Result<Received> {
    if buffer.len() == buffer.capacity() {
        buffer.reserve(READ_ROOM);
    }
    let spare = buffer.spare_capacity_mut();
    let mut vector = libc::iovec {
        iov_base: spare.as_mut_ptr().cast(),
        iov_len: spare.len(),
    };
    let mut control = MaybeUninit::<Control>::uninit();
    // SAFETY: all zeroes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let bytes = loop {
        // SAFETY: the header points to one writable buffer and one writable control buffer with their true lengths.
        let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
        if let Ok(count) = usize::try_from(count) {
            break count;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // Before anything that could fail: from here on every descriptor has an owner.
    // SAFETY: recvmsg has filled the header and its control buffer.
    let sender = unsafe { take_control(&header, sink) };
    // SAFETY: the kernel has written `bytes` bytes behind the present length.
    unsafe { buffer.set_len(buffer.len() + bytes) };
    Ok(Received {
        bytes,
        truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
        sender,
    })
}

/// # Safety
/// `header` must be as a successful `recvmsg` left it, and be taken from once only.
unsafe fn take_control(header: &libc::msghdr, sink: &mut impl Extend<OwnedFd>) -> Option<Sender> {
    let mut sender = None;
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: not null, so it lies within the control buffer, which is aligned for it.
        let message = unsafe { &*next };
        // SAFETY: CMSG_LEN only computes.
        let length = message.cmsg_len as usize - unsafe { libc::CMSG_LEN(0) } as usize;
        // SAFETY: the data follows the header.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (message.cmsg_level, message.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let data: *const RawFd = data.cast();
                sink.extend((0..length / size_of::<RawFd>()).map(|index| {
                    // SAFETY: inside the message; each number is a new descriptor of ours that nobody else owns.
                    unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) }
                }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: inside the message, and any bytes are a valid `ucred`.
                let libc::ucred { pid, uid, .. } = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                sender = Some(Sender { pid, uid });
            }
            _ => {}
        }
        // SAFETY: both belong together.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    sender
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Bytes that can be read from a socket now; 0 when it cannot be told.
pub fn waiting(socket: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(socket)
        .ok()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0)
}

/// Bytes that the peer of a Unix stream socket has not read yet; 0 when it cannot be told.
pub fn unread(socket: impl AsFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        usize::try_from(count).unwrap_or(0)
    } else {
        0
    }
}
