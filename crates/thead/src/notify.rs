//! The supervisor's end of `NOTIFY_SOCKET`: what programs say of themselves, and who says it.
//!
//! What a datagram means is in [`thead_wire::notify`].

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use thead_wire::notify::LIMIT;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dir;
use crate::sys::{message, reactor};

/// A socket that programs write their notices to.
///
/// The kernel keeps what nobody has read, some ten datagrams (`net.unix.max_dgram_qlen`); whoever writes more waits.
#[derive(Debug)]
pub struct NotifySocket {
    socket: AsyncFd<Arc<OwnedFd>>,
    path: PathBuf,
}

/// What somebody wrote to a [`NotifySocket`].
#[derive(Debug)]
pub struct Datagram {
    /// Who: the process that wrote it, by the kernel's word.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What; [`thead_wire::notify::notices`] reads it.
    pub text: Bytes,
    /// What came along. One who waits at a barrier waits until it is closed.
    pub descriptors: Vec<OwnedFd>,
}

impl NotifySocket {
    /// A new one, in a directory that only this user can enter. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// There is no such directory and it cannot be made, or its path is too long for a socket; no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Self::below(&dir::own()?)
    }

    fn below(dir: &Path) -> io::Result<Self> {
        remove_abandoned(dir);
        let path = dir.join(format!("{PREFIX}{:016x}", RandomState::new().build_hasher().finish()));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        // Before it has a name, so that it never has another mode.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok(Self {
            socket: reactor::register(Arc::new(socket), Interest::READABLE)?,
            path,
        })
    }

    /// What `NOTIFY_SOCKET` has to say.
    pub fn address(&self) -> &OsStr {
        self.path.as_os_str()
    }

    /// The next datagram.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> io::Result<Datagram> {
        loop {
            let mut ready = self.socket.readable().await?;
            match receive(ready.get_inner()) {
                Ok(Some(datagram)) => return Ok(datagram),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// `None` if it has no sender that this process could know.
fn receive(socket: &OwnedFd) -> io::Result<Option<Datagram>> {
    let (mut text, mut descriptors) = (BytesMut::with_capacity(LIMIT), Vec::new());
    let received = message::recv(socket, &mut text, &mut descriptors)?;
    let sender = received.sender.filter(|sender| sender.pid > 0);
    Ok(sender.map(|sender| Datagram {
        pid: sender.pid.unsigned_abs(),
        uid: sender.uid,
        text: text.split_to(received.bytes.min(LIMIT)).freeze(),
        descriptors,
    }))
}

const PREFIX: &str = "notify-";

/// Removes what processes left behind that were killed: sockets that nobody has. Pids say nothing here, for a directory may be
/// seen from several pid namespaces.
fn remove_abandoned(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_ours && is_socket && is_abandoned(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let visit = || {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    visit() == Err(rustix::io::Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn in_runtime(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    }

    #[test]
    fn it_says_who_wrote_what_and_is_for_its_user_alone() {
        in_runtime(async || {
            let dir = tempfile::tempdir().unwrap();
            let mut socket = NotifySocket::below(dir.path()).unwrap();
            let path = socket.path.clone();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let writer = UnixDatagram::unbound().unwrap();
            writer.send_to(b"READY=1", &path).unwrap();
            writer.send_to(&[b'x'; 2 * LIMIT], &path).unwrap();
            writer.send_to(b"", &path).unwrap();
            let first = socket.next().await.unwrap();
            assert_eq!((first.pid, &first.text[..]), (std::process::id(), &b"READY=1"[..]));
            assert_eq!(first.uid, rustix::process::getuid().as_raw());
            assert_eq!(socket.next().await.unwrap().text.len(), LIMIT);
            assert!(socket.next().await.unwrap().text.is_empty());
            drop(socket);
            assert!(!path.exists());
        });
    }

    #[test]
    fn what_the_dead_left_behind_is_removed_and_nothing_else() {
        in_runtime(async || {
            let dir = tempfile::tempdir().unwrap();
            let dead = dir.path().join("notify-dead");
            drop(UnixDatagram::bind(&dead).unwrap());
            let others = ["preload-1.cjs", "notify-file"].map(|name| dir.path().join(name));
            for path in &others {
                fs::write(path, "").unwrap();
            }
            let alive = NotifySocket::below(dir.path()).unwrap();
            let another = NotifySocket::below(dir.path()).unwrap();
            assert!(!dead.exists() && others.iter().all(|path| path.exists()));
            assert!([&alive, &another].iter().all(|socket| socket.path.exists()));
        });
    }
}
