//! The sockets that services are given, by name. Whoever holds them outlives those who serve: connections wait meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::chown;

use thead::channel::Handle;
use thead::service::{Listen, Sockets};
use thead::sys::errno;
use thead::sys::listen::{self, SocketFile, TcpOptions, UdpOptions, UnixOptions};
use thead::sys::user::User;

use crate::config::Name;
use crate::config::address::{Address, HostPort};

/// The bound sockets of one service.
#[derive(Debug, Default)]
pub(crate) struct Bound(BTreeMap<String, Socket>);

#[derive(Debug)]
struct Socket {
    /// As it is configured.
    url: String,
    handle: Handle,
    /// Removed with it.
    _file: Option<SocketFile>,
}

/// How sockets are called where they are passed on, in their order.
pub(crate) type Names = Vec<(String, String)>;

impl Bound {
    /// Binds what is wanted and not bound yet, and closes what is not wanted any more. If something cannot be bound,
    /// everything stays as it was.
    ///
    /// # Errors
    /// Which socket it is, why, and how to mend it.
    pub(crate) fn become_so(
        &mut self,
        wanted: &BTreeMap<Name, String>,
        owner: Option<&User>,
        umask: u32,
    ) -> Result<(), String> {
        let mut new = Vec::new();
        for (name, url) in wanted {
            if self.0.get(name.as_str()).is_none_or(|bound| bound.url != *url) {
                let bound = bind(url, owner, umask).and_then(|(handle, file)| {
                    // As systemd does: programs that do not know of it want to wait in `accept`. Only now, for from here on
                    // others have it too, and they may want it otherwise.
                    rustix::io::ioctl_fionbio(&handle, false)?;
                    Ok((handle, file))
                });
                let (handle, file) = bound.map_err(|error| {
                    let code = errno::name(error.raw_os_error().unwrap_or(0));
                    format!("the socket {name} cannot be bound to {url}: {error}{}", mend(code))
                })?;
                let url = url.clone();
                new.push((
                    name.to_string(),
                    Socket {
                        url,
                        handle,
                        _file: file,
                    },
                ));
            }
        }
        self.0.extend(new);
        self.0
            .retain(|name, _| wanted.keys().any(|wanted| wanted.as_str() == name));
        Ok(())
    }

    /// To pass them on.
    pub(crate) fn shared(&self) -> (Names, Vec<Handle>) {
        let named = |(name, socket): (&String, &Socket)| ((name.clone(), socket.url.clone()), socket.handle.clone());
        self.0.iter().map(named).unzip()
    }

    /// What was passed on.
    pub(crate) fn received(names: Names, handles: Vec<Handle>) -> Self {
        let socket = |((name, url), handle)| {
            let socket = Socket {
                url,
                handle,
                _file: None,
            };
            (name, socket)
        };
        Self(names.into_iter().zip(handles).map(socket).collect())
    }

    /// As workers are started with them.
    pub(crate) fn listen(&self) -> Vec<Listen> {
        let listen = |(name, socket): (&String, &Socket)| Listen {
            name: name.clone(),
            sockets: Sockets::Shared(socket.handle.clone()),
        };
        self.0.iter().map(listen).collect()
    }
}

fn bind(url: &str, owner: Option<&User>, umask: u32) -> io::Result<(Handle, Option<SocketFile>)> {
    let address = Address::parse(url).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    match address {
        Address::Tcp(place) => {
            let socket = first(&place, |address| {
                let socket = listen::bind_tcp(address, TcpOptions::default())?;
                listen::listen(&socket, 0)?;
                Ok(socket)
            })?;
            Ok((socket.into(), None))
        }
        Address::Udp(place) => {
            let socket = first(&place, |address| listen::bind_udp(address, UdpOptions::default()))?;
            Ok((socket.into(), None))
        }
        Address::Unix(path) => {
            // As the service would have made it.
            let ours = rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let bound = listen::bind_unix(&path, UnixOptions::default());
            rustix::process::umask(ours);
            let bound = bound?;
            if let Some(owner) = owner {
                chown(&path, Some(owner.uid), Some(owner.gid))?;
            }
            listen::listen(&bound.socket, 0)?;
            Ok((bound.socket.into(), bound.file))
        }
        Address::Abstract(name) => {
            let bound = listen::bind_unix(format!("\0{name}").as_ref(), UnixOptions::default())?;
            listen::listen(&bound.socket, 0)?;
            Ok((bound.socket.into(), None))
        }
    }
}

/// The first address of a host that can be had.
fn first<T>(place: &HostPort, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in (place.host.as_str(), place.port).to_socket_addrs()? {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn mend(code: &str) -> &'static str {
    match code {
        "EADDRINUSE" => "; another process has it: end that one, or choose another address",
        "EACCES" => "; this user may not: choose a port from 1024 up, or a directory that is its own",
        "EADDRNOTAVAIL" => "; this machine has no such address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::net::UnixStream;

    use super::*;

    fn wanted(sockets: &[(&str, String)]) -> BTreeMap<Name, String> {
        let named = sockets.iter().map(|(name, url)| (name.parse().unwrap(), url.clone()));
        named.collect()
    }

    #[test]
    fn what_stays_is_not_bound_again_and_what_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let url = |name: &str| format!("unix://{}", dir.path().join(name).display());
        let mut bound = Bound::default();
        bound
            .become_so(&wanted(&[("a", url("a")), ("b", url("b"))]), None, 0o022)
            .unwrap();
        let waiting = UnixStream::connect(dir.path().join("a")).unwrap();
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(dir.path().join(name)).map(|file| file.ino()).ok()
        };
        let before = (inode("a"), inode("b"));
        let missing = format!("unix://{}/no/such/c", dir.path().display());
        let said = bound
            .become_so(&wanted(&[("a", url("a")), ("c", missing)]), None, 0o022)
            .unwrap_err();
        assert!(said.contains("the socket c"), "{said}");
        assert_eq!((inode("a"), inode("b")), before);

        bound
            .become_so(&wanted(&[("a", url("a")), ("d", url("d"))]), None, 0o022)
            .unwrap();
        assert_eq!(inode("a"), before.0);
        assert_eq!(inode("b"), None);
        assert!(inode("d").is_some());
        let (names, handles) = bound.shared();
        assert_eq!(
            names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["a", "d"]
        );
        listen::accept(&handles[0]).unwrap();
        drop((waiting, bound));
        assert_eq!(inode("a"), None);
    }
}
