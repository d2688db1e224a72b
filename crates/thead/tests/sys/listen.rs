//! Listeners as a Node primary makes them.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use thead::sys::errno::negative;
use thead::sys::listen::{
    LocalAddress, SpareDescriptor, TcpOptions, UdpOptions, UnixOptions, accept, bind_tcp, bind_tcp_any, bind_udp,
    bind_unix, listen, local_address, numeric_address,
};

use crate::kit::{Census, readable};

fn assert_flags(socket: &OwnedFd) {
    assert!(rustix::fs::fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK));
    assert!(fcntl_getfd(socket).unwrap().contains(FdFlags::CLOEXEC));
}

fn port(socket: &OwnedFd) -> u16 {
    local_address(socket).unwrap().unwrap().port
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[test]
fn a_tcp_listener_is_bound_first_and_listens_later() {
    let _census = Census::take();
    let socket = bind_tcp(ANY_PORT, TcpOptions::default()).unwrap();
    assert_flags(&socket);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(&socket)));
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    listen(&socket, 0).unwrap();
    assert_eq!(accept(&socket).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let client = TcpStream::connect(address).unwrap();
    let connection = accept(&socket).unwrap();
    assert_flags(&connection);
    drop(client);
    let text = local_address(&socket).unwrap();
    assert_eq!(
        text,
        Some(LocalAddress {
            address: "127.0.0.1".into(),
            family: "IPv4",
            port: address.port()
        })
    );
    let taken = bind_tcp(address, TcpOptions::default()).unwrap_err();
    assert_eq!(negative(&taken), -libc::EADDRINUSE);
    let elsewhere = bind_tcp((Ipv4Addr::new(192, 0, 2, 1), 0).into(), TcpOptions::default()).unwrap_err();
    assert_eq!(negative(&elsewhere), -libc::EADDRNOTAVAIL);
}

#[test]
fn no_host_means_both_families_where_there_are_both() {
    let _census = Census::take();
    let socket = bind_tcp_any(0, TcpOptions::default()).unwrap();
    listen(&socket, 5).unwrap();
    let local = local_address(&socket).unwrap().unwrap();
    let _four = TcpStream::connect((Ipv4Addr::LOCALHOST, local.port)).unwrap();
    match &*local.address {
        "::" => {
            assert_eq!(local.family, "IPv6");
            drop(TcpStream::connect((Ipv6Addr::LOCALHOST, local.port)).unwrap());
        }
        other => assert_eq!((other, local.family), ("0.0.0.0", "IPv4"), "a machine without IPv6"),
    }
    assert_eq!(
        negative(&bind_tcp_any(local.port, TcpOptions::default()).unwrap_err()),
        -libc::EADDRINUSE
    );
}

#[test]
fn v6_only_and_reuse_port_are_what_was_asked() {
    let _census = Census::take();
    if let Ok(only) = bind_tcp(
        (Ipv6Addr::UNSPECIFIED, 0).into(),
        TcpOptions {
            v6_only: true,
            reuse_port: false,
        },
    ) {
        listen(&only, 0).unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port(&only))).is_err());
    }
    let shared = TcpOptions {
        v6_only: false,
        reuse_port: true,
    };
    let first = bind_tcp(ANY_PORT, shared).unwrap();
    let second = bind_tcp((Ipv4Addr::LOCALHOST, port(&first)).into(), shared).unwrap();
    listen(&first, 0).unwrap();
    listen(&second, 0).unwrap();
}

#[test]
fn udp_sockets_share_an_address_only_if_asked() {
    let _census = Census::take();
    let reuse = UdpOptions {
        v6_only: false,
        reuse_address: true,
    };
    let first = bind_udp(ANY_PORT, reuse).unwrap();
    assert_flags(&first);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(&first)));
    drop(bind_udp(address, reuse).unwrap());
    assert_eq!(
        negative(&bind_udp(address, UdpOptions::default()).unwrap_err()),
        -libc::EADDRINUSE
    );
}

#[test]
fn addresses_in_messages_are_numeric() {
    let _census = Census::take();
    assert_eq!(
        numeric_address("127.0.0.1", 80).unwrap(),
        (Ipv4Addr::LOCALHOST, 80).into()
    );
    assert_eq!(numeric_address("::1", 80).unwrap(), (Ipv6Addr::LOCALHOST, 80).into());
    match numeric_address("fe80::1%lo", 80).unwrap() {
        SocketAddr::V6(address) => assert!(address.scope_id() > 0),
        other => panic!("{other}"),
    }
    for (text, errno) in [
        ("localhost", -libc::EINVAL),
        ("", -libc::EINVAL),
        ("fe80::1%nowhere", -libc::ENODEV),
    ] {
        assert_eq!(negative(&numeric_address(text, 80).unwrap_err()), errno, "{text:?}");
    }
}

#[test]
fn a_unix_socket_removes_its_file_and_only_its_own() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    let bound = bind_unix(&path, UnixOptions::default()).unwrap();
    assert_flags(&bound.socket);
    listen(&bound.socket, 0).unwrap();
    assert_eq!(local_address(&bound.socket).unwrap(), None);
    let client = UnixStream::connect(&path).unwrap();
    assert_flags(&accept(&bound.socket).unwrap());
    drop(client);
    assert_eq!(
        negative(&bind_unix(&path, UnixOptions::default()).unwrap_err()),
        -libc::EADDRINUSE
    );
    let file = bound.file.unwrap();
    assert_eq!(file.path(), path);
    drop(file);
    assert!(!path.exists());

    let first = bind_unix(&path, UnixOptions::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = bind_unix(&path, UnixOptions::default()).unwrap();
    drop(first);
    assert!(path.exists(), "another socket has that name now");
    assert_eq!(second.file.unwrap().keep(), path);
    assert!(path.exists(), "it was told to keep it");
    let stale = bind_unix(&path, UnixOptions::default()).unwrap_err();
    assert_eq!(
        negative(&stale),
        -libc::EADDRINUSE,
        "as Node: a stale file is in the way"
    );
}

#[test]
fn a_unix_socket_is_open_to_whom_the_options_say() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    let mode = |name: &str, readable_all: bool, writable_all: bool| {
        let path = scratch.path().join(name);
        let bound = bind_unix(
            &path,
            UnixOptions {
                readable_all,
                writable_all,
            },
        )
        .unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(bound);
        mode
    };
    let plain = mode("plain", false, false);
    assert_eq!(mode("read", true, false), plain | 0o444);
    assert_eq!(mode("write", false, true), plain | 0o222);
    assert_eq!(mode("both", true, true), plain | 0o666);
}

#[test]
fn a_missing_directory_is_eacces_and_a_long_path_einval_unless_there_is_a_shorter_way() {
    let _census = Census::take();
    let scratch = tempfile::tempdir().unwrap();
    let missing = bind_unix(&scratch.path().join("no/s"), UnixOptions::default()).unwrap_err();
    assert_eq!(negative(&missing), -libc::EACCES);
    let deep = scratch
        .path()
        .canonicalize()
        .unwrap()
        .join("d".repeat(60))
        .join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("s");
    assert_eq!(
        negative(&bind_unix(&path, UnixOptions::default()).unwrap_err()),
        -libc::EINVAL
    );
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&deep).unwrap();
    let bound = bind_unix(&path, UnixOptions::default());
    std::env::set_current_dir(before).unwrap();
    let bound = bound.unwrap();
    assert!(path.exists());
    drop(bound);
    assert!(!path.exists(), "found again from another directory");
}

#[test]
fn an_abstract_name_starts_at_the_nul_whatever_the_worker_put_before_it() {
    let _census = Census::take();
    let name = format!("\0thead-test-{}", std::process::id());
    let sent = [b"/some/directory/".as_slice(), name.as_bytes()].concat();
    let bound = bind_unix(Path::new(OsStr::from_bytes(&sent)), UnixOptions::default()).unwrap();
    assert!(bound.file.is_none());
    listen(&bound.socket, 0).unwrap();
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let _client = UnixStream::connect_addr(&address).unwrap();
    accept(&bound.socket).unwrap();
}

#[test]
fn g25_without_descriptors_a_waiting_connection_can_still_be_refused() {
    let _census = Census::take();
    let listener = bind_tcp(ANY_PORT, TcpOptions::default()).unwrap();
    listen(&listener, 0).unwrap();
    let mut spare = SpareDescriptor::new().unwrap();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port(&listener))).unwrap();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit {
        current: Some(100),
        ..before
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).unwrap();
    let mut crowd = Vec::new();
    while let Ok(next) = fcntl_dupfd_cloexec(&listener, 3) {
        crowd.push(next);
    }
    let full = accept(&listener).unwrap_err();
    let refused = [
        spare.refuse_one(&listener).unwrap(),
        spare.refuse_one(&listener).unwrap(),
    ];
    drop(crowd);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
    assert_eq!(full.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(refused, [true, false]);
    readable(&client);
}
