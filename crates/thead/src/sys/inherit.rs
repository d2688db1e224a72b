//! What this process was started with for itself alone: descriptors, and the variables that name them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Takes over a descriptor that this process was started with: close-on-exec from now on.
///
/// One of the standard three is taken to another number, and `/dev/null` put into its place.
///
/// # Errors
/// `EBADF` if it is not open, or was not inherited: all that Rust opens is close-on-exec, and so is what was taken before.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: F_GETFD only asks.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(Errno::BADF.into());
    }
    if number < 3 {
        // SAFETY: it is open, and the standard three are closed by nobody.
        let standard = unsafe { BorrowedFd::borrow_raw(number) };
        let taken = rustix::io::fcntl_dupfd_cloexec(standard, 3)?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        // SAFETY: both are open; whoever uses the standard stream goes on, with nothing to read.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
        return Ok(taken);
    }
    // SAFETY: it is open, and came with exec, for it is not close-on-exec as all is that was opened since. The environment
    // says that it was passed for this purpose; taken once, it is close-on-exec and not taken again.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// As [`inherited`], for the end of a channel: a Unix stream socket, non-blocking from now on.
///
/// # Errors
/// `EBADF`; `ENOTSOCK` and `EPROTOTYPE` for a descriptor of another kind, which is left alone.
pub fn inherited_channel(number: RawFd) -> io::Result<OwnedFd> {
    let socket = socket_kind(number)?;
    if socket != (AddressFamily::UNIX, SocketType::STREAM) {
        return Err(Errno::PROTOTYPE.into());
    }
    let fd = inherited(number)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Family and type of a socket that is known by its number.
fn socket_kind(number: RawFd) -> io::Result<(AddressFamily, SocketType)> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: a number that is not open is answered with EBADF, and one that is, is only asked what it is.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok((sockopt::socket_domain(fd)?, sockopt::socket_type(fd)?))
}

/// Removes variables from this process's environment, so that what it starts does not inherit them.
///
/// Call it before anything else runs that may read the environment by other means than [`mod@std::env`], best as the first
/// thing in `main`.
pub fn forget_variables(names: &[&str]) {
    for name in names {
        // SAFETY: `std::env` takes turns with itself, so of Rust code none is disturbed. C code that reads the environment
        // in another thread at this very moment (`getaddrinfo`, `localtime`) takes no turns; that is why this is to be
        // called first. What it could meet is pointers being moved: the entries came with exec, and are never freed.
        unsafe { std::env::remove_var(name) };
    }
}
