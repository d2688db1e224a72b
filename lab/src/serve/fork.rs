//! A process for each connection, and M processes that were forked before: if a request takes N seconds, M serve M/N in a
//! second. Whoever crashes takes only its own connection along.
//!
//! Both fork without exec, as inetd's children and Apache's do not: a child is a copy of its parent, state and all, until it
//! writes to it. That is sound only while there is one thread, which is why nothing here has a second one.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;

use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, wait};

use super::http::converse;
use super::sync::serve_in_turn;
use super::{Announcement, ServeError, accept, rest};

/// A process for each connection.
pub(super) fn each(listener: &TcpListener) -> Result<Infallible, ServeError> {
    // SAFETY: the handler does nothing that a handler may not.
    unsafe {
        libc::signal(
            libc::SIGCHLD,
            collect as extern "C" fn(libc::c_int) as libc::sighandler_t,
        )
    };
    Announcement::of(listener)?.print()?;
    loop {
        let stream = accept(listener);
        match fork() {
            Ok(Forked::Child) => {
                // A client that goes away midway misses its answer.
                let _ = converse(stream, None, || false);
                std::process::exit(0);
            }
            Ok(Forked::Parent(_)) => {}
            // The client is refused: its connection is closed here.
            Err(error) => rest("a connection got no process", &error),
        }
    }
}

/// Collects all children that have ended. The kernel would do so too if it was told to ignore them, but then it forgets the
/// processor time that they used, which the lab counts.
extern "C" fn collect(_: libc::c_int) {
    // SAFETY: both may be called in a handler, and whoever was interrupted finds its own error again.
    unsafe {
        let errno = *libc::__errno_location();
        while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
        *libc::__errno_location() = errno;
    }
}

/// M processes that all accept from one listener, each with one request at a time. Whoever dies is replaced.
pub(super) fn before(listener: &TcpListener, processes: u32) -> Result<Infallible, ServeError> {
    keep(processes, listener, || serve_in_turn(listener))
}

/// Forks so many processes that work, and a new one for each that dies.
pub(super) fn keep(
    processes: u32,
    listener: &TcpListener,
    work: impl Fn() -> Infallible,
) -> Result<Infallible, ServeError> {
    let start = || match fork() {
        Ok(Forked::Child) => match work() {},
        Ok(Forked::Parent(pid)) => Ok(pid),
        Err(error) => Err(error),
    };
    for _ in 0..processes {
        start().map_err(ServeError::system("no process could be forked"))?;
    }
    Announcement::of(listener)?.print()?;
    let mut missing = 0;
    loop {
        if missing == 0 {
            wait(WaitOptions::empty()).map_err(ServeError::system("no worker is left"))?;
            missing = 1;
        }
        match start() {
            Ok(_) => missing = 0,
            Err(error) => rest("a worker could not be replaced yet", &error),
        }
    }
}

enum Forked {
    Child,
    Parent(Pid),
}

/// Only in a process that has one thread. The child dies with its parent.
fn fork() -> io::Result<Forked> {
    let parent = getpid();
    // SAFETY: there is no other thread that could hold a lock which the child would find locked for ever.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(pid) = Pid::from_raw(pid) {
        return Ok(Forked::Parent(pid));
    }
    // It may have died before it could be told of.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || getppid() != Some(parent) {
        std::process::exit(1);
    }
    Ok(Forked::Child)
}
