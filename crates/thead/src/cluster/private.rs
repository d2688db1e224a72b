//! Asking one worker how it is, by a connection of its own.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};
use thead_core::cluster::{Input, Private};
use thead_core::id::WorkerId;
use tokio::sync::oneshot;

use super::{Primary, now};

/// Why a worker cannot be asked alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// It does not listen on that port, or not yet; others do.
    #[error("it does not listen on port {0}")]
    NotListening(u16),
    /// Nobody listens on that port by the primary.
    #[error("nobody listens on port {0}")]
    Nowhere(u16),
    /// The connection could not be made.
    #[error("no connection to it could be made: {0}")]
    Io(#[from] io::Error),
}

/// A connection to one worker alone.
#[derive(Debug)]
pub struct PrivateConnection {
    /// Our end, non-blocking. It is closed from the other side if the worker does not take it.
    pub stream: TcpStream,
    /// Resolves when the worker has taken it, which a blocked event loop does not; an error if it will not.
    pub taken: oneshot::Receiver<()>,
}

impl Primary {
    /// A TCP connection to exactly this worker, as if it had come to this port of it (to any, for port 0), also while it is
    /// gated. Its peer is an address of this machine.
    ///
    /// # Errors
    /// [`PrivateError`].
    pub fn connect_to(&mut self, worker: WorkerId, port: u16) -> Result<PrivateConnection, PrivateError> {
        let listener = match self.machine.private(worker, port) {
            Private::At(listener) => listener,
            Private::NotListening => return Err(PrivateError::NotListening(port)),
            Private::Nowhere => return Err(PrivateError::Nowhere(port)),
        };
        let (stream, theirs) = tcp_pair()?;
        let theirs = OwnedFd::from(theirs);
        let conn = self.keep(theirs.into());
        let (sender, taken) = oneshot::channel();
        self.private.insert(conn, sender);
        self.machine.input(now(), Input::Private { worker, listener, conn });
        self.obey();
        Ok(PrivateConnection { stream, taken })
    }
}

/// Two ends of one connection, non-blocking. Nothing here waits: the kernel answers for a listener of our own.
fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let ours = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    match ours.connect(&listener.local_addr()?.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        // The handshake is done by now: both ends are the kernel's own.
        _ => {}
    }
    let ours = TcpStream::from(ours);
    let local = ours.local_addr()?;
    loop {
        let (theirs, peer) = listener.accept()?;
        // Anybody on this machine may have been faster.
        if peer == local {
            theirs.set_nonblocking(true)?;
            return Ok((ours, theirs));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_ends_of_a_pair_belong_together() {
        let (mut ours, mut theirs) = tcp_pair().unwrap();
        theirs.set_nonblocking(false).unwrap();
        ours.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        theirs.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}
