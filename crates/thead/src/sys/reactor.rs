//! Descriptors in Tokio's reactor. The one place of this module that knows a runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts a descriptor under the reactor's watch. Must be called within a Tokio runtime.
///
/// # Errors
/// `EPERM` for a file that cannot be waited for, `ENOSPC` or `ENOMEM` when the kernel watches too many.
pub fn register(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `Arc<OwnedFd>` always answers with the same descriptor, and keeps it open as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
