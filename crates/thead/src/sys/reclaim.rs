//! Taking back what a stuck worker has not read from its channel.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use bytes::BytesMut;

use super::{message, pidfd};

/// Which socket a descriptor stands for, whatever its number and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    device: u64,
    inode: u64,
}

impl SocketId {
    /// Reads the identity. Take it of the child's end when the channel is made.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn of(socket: impl AsFd) -> io::Result<SocketId> {
        let stat = rustix::fs::fstat(socket)?;
        Ok(SocketId {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

impl std::fmt::Display for SocketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// One read's worth of what the worker had not read.
#[derive(Debug)]
pub struct Reclaimed {
    /// The bytes; the first read may begin in the middle of a frame, if the worker stopped there.
    pub bytes: BytesMut,
    /// The descriptors, in order.
    pub descriptors: Vec<OwnedFd>,
    /// Some descriptors were lost because we have too many open.
    pub truncated: bool,
}

/// Receives, in the place of a living worker, everything that waits in its end of the channel.
///
/// `number` is the channel's descriptor number in the worker and `end` the identity of that end. Stop the worker first
/// (SIGSTOP, then wait until [`pidfd::is_stopped`]): a running one would read at the same time, and each of us would get
/// pieces. Kill it afterwards; its channel has a hole now.
///
/// # Errors
/// `ESRCH` when the worker has ended (what it had not read is gone then), `EBADF` when it has closed the channel or put
/// another file at its number, `EPERM` when we may not trace it (same user and dumpable, or `CAP_SYS_PTRACE`).
pub fn reclaim(worker: impl AsFd, number: RawFd, end: SocketId) -> io::Result<Vec<Reclaimed>> {
    let theirs = pidfd::getfd(worker, number)?;
    if SocketId::of(&theirs)? != end {
        return Err(rustix::io::Errno::BADF.into());
    }
    let mut reads = Vec::new();
    loop {
        let (mut bytes, mut descriptors) = (BytesMut::new(), Vec::new());
        match message::recv(&theirs, &mut bytes, &mut descriptors) {
            Ok(read) if read.bytes == 0 => return Ok(reads),
            Ok(read) => reads.push(Reclaimed {
                bytes,
                descriptors,
                truncated: read.truncated,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(reads),
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(reads),
            Err(error) => return Err(error),
        }
    }
}
