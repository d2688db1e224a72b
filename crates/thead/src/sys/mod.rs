//! What thead asks of the kernel: spawning, passing descriptors, waiting, binding.
//!
//! The only module with `unsafe`. It never waits for another process: every descriptor it makes is
//! close-on-exec from birth, and every read, write and wait answers at once. Linux 5.10 or newer.
//!
//! It is public so that tests, benchmarks and the program `thead` can reach it; its names may change in any release.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod errno;
pub mod helper;
pub mod limit;
pub mod listen;
pub mod message;
pub mod path;
pub mod pidfd;
pub mod reactor;
pub mod reap;
pub mod reclaim;
pub mod spawn;
pub mod stat;
pub mod tree;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that this process was started with: close-on-exec and non-blocking from now on.
///
/// # Errors
/// `EBADF` if it is not open; `EBUSY` the second time that any is asked for.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if TAKEN.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return Err(rustix::io::Errno::BUSY.into());
    }
    // SAFETY: F_GETFD only asks.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is open, the environment says that it was passed for this purpose, and it is taken only once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
