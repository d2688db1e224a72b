//! A UDP socket of a worker.

use std::io;
use std::net::SocketAddr;

use super::Stay;
use super::member::Held;

/// A UDP socket, wherever it comes from; of those that share it under a primary, any may get a datagram. Dropping it closes
/// this worker's.
#[derive(Debug)]
pub struct UdpSocket {
    pub(super) socket: tokio::net::UdpSocket,
    pub(super) stay: Stay,
    pub(super) _held: Option<Held>,
}

impl UdpSocket {
    /// The next datagram: its length, cut to the buffer's, and its sender; `None` when this worker is to leave, or its
    /// primary is gone.
    ///
    /// # Errors
    /// As `recvfrom(2)`.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        tokio::select! {
            biased;
            () = self.stay.ended() => Ok(None),
            received = self.socket.recv_from(buffer) => received.map(Some),
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As `sendto(2)`.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has sent nothing.
    pub async fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(datagram, peer).await
    }

    /// The address that it is bound to, with the real port.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket itself, for all else that it can. It does not know when this worker is to leave.
    pub fn get_ref(&self) -> &tokio::net::UdpSocket {
        &self.socket
    }
}
