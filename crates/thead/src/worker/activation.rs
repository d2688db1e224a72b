//! Listening sockets that a service manager passes in: systemd's socket activation, and whoever speaks it.
//!
//! systemd: `sd_listen_fds(3)`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{SocketType, sockopt};

use crate::sys::inherit;

const FIRST: RawFd = 3;
const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A TCP listener that was passed in, and that nobody has taken yet.
#[derive(Debug)]
struct Passed {
    name: String,
    address: SocketAddr,
    socket: OwnedFd,
}

/// Takes a listener that was passed in: by its name, else the one that is bound to the address, else the first that is left.
pub(crate) fn take(name: Option<&str>, address: SocketAddr) -> Option<(OwnedFd, SocketAddr)> {
    static PASSED: Mutex<Option<Vec<Passed>>> = Mutex::new(None);
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    choose(passed.get_or_insert_with(all), name, address)
}

fn choose(passed: &mut Vec<Passed>, name: Option<&str>, address: SocketAddr) -> Option<(OwnedFd, SocketAddr)> {
    let at = match name {
        Some(name) => passed.iter().position(|passed| passed.name == name)?,
        None if passed.is_empty() => return None,
        None => passed.iter().position(|passed| passed.address == address).unwrap_or(0),
    };
    let Passed { socket, address, .. } = passed.remove(at);
    Some((socket, address))
}

/// All that were meant for this process; their variables are removed, so that its children do not take them for theirs.
fn all() -> Vec<Passed> {
    let Some(names) = announced(|name| std::env::var(name).ok(), std::process::id()) else {
        return Vec::new();
    };
    inherit::forget_variables(&VARIABLES);
    let passed = (FIRST..)
        .zip(names)
        .filter_map(|(number, name)| match listener(number) {
            Ok((socket, address)) => Some(Passed { name, address, socket }),
            Err(error) => {
                tracing::warn!(number, name, %error, "a descriptor that was passed in is no TCP listener");
                None
            }
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

fn listener(number: RawFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = inherit::inherited(number)?;
    if sockopt::socket_type(&socket)? != SocketType::STREAM || !sockopt::socket_acceptconn(&socket)? {
        return Err(rustix::io::Errno::PROTOTYPE.into());
    }
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::TcpListener;

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
    fn a_listener_is_chosen_by_name_then_by_address_then_in_order() {
        let mut passed = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            passed.push(Passed {
                name: name.into(),
                address,
                socket: socket.into(),
            });
        }
        let addresses: Vec<_> = passed.iter().map(|passed| passed.address).collect();
        let other = "127.0.0.1:1".parse().unwrap();
        let mut take = |name, address| choose(&mut passed, name, address).map(|(_, address)| address);
        assert_eq!(take(Some("x"), addresses[0]), None);
        assert_eq!(take(Some("b"), addresses[0]), Some(addresses[1]));
        assert_eq!(take(None, addresses[2]), Some(addresses[2]));
        assert_eq!(take(None, other), Some(addresses[0]));
        assert_eq!(take(None, other), Some(addresses[3]));
        assert_eq!(take(None, other), None);
    }
}
