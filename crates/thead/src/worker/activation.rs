//! Listening sockets that a service manager passes in: systemd's socket activation, and whoever speaks it.
//!
//! systemd: `sd_listen_fds(3)`.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::address::{Address, Place};
use crate::sys::inherit;

const FIRST: RawFd = 3;
const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The sockets that were passed in, and that nobody has taken yet.
pub(super) struct Sockets(Mutex<Vec<Socket>>);

#[derive(Debug)]
struct Socket {
    name: String,
    /// `STREAM` for a listener, `DGRAM` for UDP.
    kind: SocketType,
    address: Address,
    fd: OwnedFd,
}

/// What was passed in. Asked for the first time it changes the environment.
pub(super) fn passed() -> &'static Sockets {
    static PASSED: OnceLock<Sockets> = OnceLock::new();
    PASSED.get_or_init(|| Sockets(Mutex::new(all())))
}

impl Sockets {
    /// Takes one of this kind: by its name, else the one that is bound there, else the first that is left.
    pub(super) fn take(
        &self,
        kind: SocketType,
        name: Option<&str>,
        place: Option<&Place>,
    ) -> Option<(OwnedFd, Address)> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fit =
            |wanted: &dyn Fn(&Socket) -> bool| sockets.iter().position(|socket| socket.kind == kind && wanted(socket));
        let at = match name {
            Some(name) => fit(&|socket| socket.name == name),
            None => fit(&|socket| place.is_some_and(|place| place.is(&socket.address))).or_else(|| fit(&|_| true)),
        };
        let Socket { fd, address, .. } = sockets.remove(at?);
        Some((fd, address))
    }
}

/// All that were meant for this process; their variables are removed, so that its children do not take them for theirs.
fn all() -> Vec<Socket> {
    let Some(names) = announced(|name| std::env::var(name).ok(), std::process::id()) else {
        return Vec::new();
    };
    inherit::forget_variables(&VARIABLES);
    let passed = (FIRST..).zip(names).filter_map(|(number, name)| {
        let socket = socket(number, &name);
        if let Err(error) = &socket {
            tracing::warn!(number, name, %error, "a descriptor that was passed in neither listens nor is UDP");
        }
        socket.ok()
    });
    passed.collect()
}

/// The names of the descriptors from 3 on, if they are for the process with this id.
fn announced(get: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Vec<String>> {
    if get("LISTEN_PID")?.parse() != Ok(pid) {
        return None;
    }
    let count = get("LISTEN_FDS")?.parse().ok().filter(|count| *count <= MOST)?;
    let names = get("LISTEN_FDNAMES").unwrap_or_default();
    let mut names: Vec<_> = names.split(':').map(str::to_owned).take(count).collect();
    names.resize(count, String::new());
    Some(names)
}

/// More descriptors than any manager passes.
const MOST: usize = 1 << 16;

fn socket(number: RawFd, name: &str) -> io::Result<Socket> {
    let fd = inherit::inherited(number)?;
    let (family, kind) = (sockopt::socket_domain(&fd)?, sockopt::socket_type(&fd)?);
    let known = match (family, kind) {
        (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => true,
        (AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX, SocketType::STREAM) => {
            sockopt::socket_acceptconn(&fd)?
        }
        _ => false,
    };
    if !known {
        return Err(rustix::io::Errno::PROTOTYPE.into());
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Socket {
        name: name.to_owned(),
        kind,
        address: Address::of(&fd)?,
        fd,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn descriptors_are_for_the_process_that_is_named() {
        let with = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            announced(get, 7)
        };
        let pid = ("LISTEN_PID", "7");
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[pid]), None);
        assert_eq!(with(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1")]), None);
        assert_eq!(with(&[pid, ("LISTEN_FDS", "-1")]), None);
        assert_eq!(
            with(&[pid, ("LISTEN_FDS", "2")]),
            Some(vec![String::new(), String::new()])
        );
        let names = with(&[pid, ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "http:https")]);
        assert_eq!(names.unwrap(), ["http", "https", ""]);
        let names = with(&[pid, ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http:https")]);
        assert_eq!(names.unwrap(), ["http"]);
    }

    #[test]
    fn a_socket_is_chosen_by_name_then_by_address_then_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let fds = [
            ("a", SocketType::STREAM, tcp()),
            ("b", SocketType::STREAM, tcp()),
            ("c", SocketType::STREAM, UnixListener::bind(&path).unwrap().into()),
            ("d", SocketType::STREAM, tcp()),
            ("e", SocketType::DGRAM, UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ];
        let sockets = fds.map(|(name, kind, fd)| Socket {
            name: name.into(),
            kind,
            address: Address::of(&fd).unwrap(),
            fd,
        });
        let addresses = sockets.each_ref().map(|socket| socket.address.clone());
        let at = |address: &Address| match address {
            Address::Ip(address) => Place::Ip(*address),
            _ => Place::Path(path.clone()),
        };
        let passed = Sockets(Mutex::new(sockets.into()));
        let take = |kind, name, place: Option<&Place>| passed.take(kind, name, place).map(|(_, address)| address);
        let stream = |name, place: &Place| take(SocketType::STREAM, name, Some(place));
        let other = Place::Any(1);
        assert_eq!(stream(Some("x"), &at(&addresses[0])), None);
        assert_eq!(stream(Some("e"), &other), None, "of the kind that is wanted");
        assert_eq!(stream(Some("b"), &at(&addresses[0])), Some(addresses[1].clone()));
        assert_eq!(stream(None, &at(&addresses[2])), Some(addresses[2].clone()));
        assert_eq!(take(SocketType::STREAM, None, None), Some(addresses[0].clone()));
        assert_eq!(stream(None, &other), Some(addresses[3].clone()));
        assert_eq!(stream(None, &other), None);
        assert_eq!(take(SocketType::DGRAM, None, Some(&other)), Some(addresses[4].clone()));
    }
}
