//! Several sockets on one port.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use thead::sys::errno::negative;
use thead::sys::lane::{beside, steer};
use thead::sys::listen::{TcpOptions, accept, bind_tcp, bind_tcp_any, listen};

use crate::kit::Census;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn first(address: SocketAddr) -> OwnedFd {
    let socket = bind_tcp(address, TcpOptions::default()).unwrap();
    listen(&socket, 0).unwrap();
    socket
}

fn address(socket: &OwnedFd) -> SocketAddr {
    SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap()
}

/// How many of so many connections each socket gets.
fn shares(sockets: &[OwnedFd], count: usize) -> Vec<usize> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, address(&sockets[0]).port()));
    let mut shares = vec![0; sockets.len()];
    // Fewer at once than a backlog holds.
    for _ in 0..count / 100 {
        let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(to).unwrap()).collect();
        for (share, socket) in shares.iter_mut().zip(sockets) {
            *share += std::iter::from_fn(|| accept(socket).ok()).count();
        }
        drop(clients);
    }
    shares
}

#[test]
fn the_kernel_gives_connections_to_the_chosen_sockets_and_to_each_as_many() {
    let _census = Census::take();
    for host in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()] {
        let mut sockets = vec![first(SocketAddr::new(host, 0))];
        for _ in 0..5 {
            sockets.push(beside(&sockets[0], 0).unwrap());
        }
        for chosen in [&[0, 1, 2, 3, 4, 5][..], &[2], &[0, 2, 3, 5], &[4, 5], &[1, 3]] {
            steer(&sockets[1], chosen).unwrap();
            let count = 4_000;
            let shares = shares(&sockets, count);
            assert_eq!(shares.iter().sum::<usize>(), count);
            for (socket, share) in (0..).zip(&shares) {
                let fair = if chosen.contains(&socket) {
                    count / chosen.len()
                } else {
                    0
                };
                assert!(share.abs_diff(fair) <= fair / 5, "{shares:?} of {chosen:?}");
            }
        }
    }
}

#[test]
fn a_socket_that_is_added_gets_nothing_before_it_is_chosen() {
    let _census = Census::take();
    let mut sockets = vec![first(ANY_PORT)];
    sockets.push(beside(&sockets[0], 0).unwrap());
    steer(&sockets[0], &[1]).unwrap();
    for _ in 0..10 {
        sockets.push(beside(&sockets[0], 0).unwrap());
        let shares = shares(&sockets, 300);
        assert_eq!(shares[1], 300, "{shares:?}");
    }
}

#[test]
fn what_lies_in_a_queue_stays_there_when_the_kernel_is_steered_elsewhere() {
    let _census = Census::take();
    let first = first(ANY_PORT);
    let second = beside(&first, 0).unwrap();
    steer(&first, &[0]).unwrap();
    let client = TcpStream::connect(address(&first)).unwrap();
    steer(&first, &[1]).unwrap();
    let other = TcpStream::connect(address(&first)).unwrap();
    let peer = |socket: &OwnedFd| {
        let connection = accept(socket).unwrap();
        SocketAddr::try_from(rustix::net::getpeername(&connection).unwrap().unwrap()).unwrap()
    };
    assert_eq!(peer(&first), client.local_addr().unwrap());
    assert_eq!(peer(&second), other.local_addr().unwrap());
}

#[test]
fn a_port_in_use_is_one_also_if_it_is_shared_and_nobody_else_comes_in() {
    let _census = Census::take();
    let first = first(ANY_PORT);
    let at = address(&first);
    let taken = |options| negative(&bind_tcp(at, options).unwrap_err()) == -libc::EADDRINUSE;
    let shares = TcpOptions {
        v6_only: false,
        reuse_port: true,
    };
    assert!(taken(TcpOptions::default()) && taken(shares));
    let _second = beside(&first, 0).unwrap();
    assert!(taken(TcpOptions::default()), "as another primary would");
}

#[test]
fn without_a_host_both_families_are_spread() {
    let _census = Census::take();
    let first = bind_tcp_any(0, TcpOptions::default()).unwrap();
    listen(&first, 0).unwrap();
    if address(&first).is_ipv4() {
        return;
    }
    let second = beside(&first, 0).unwrap();
    steer(&first, &[1]).unwrap();
    let port = address(&first).port();
    let _clients = [
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(),
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap(),
    ];
    accept(&second).unwrap();
    accept(&second).unwrap();
}

#[test]
fn nobody_cannot_be_chosen() {
    let _census = Census::take();
    let first = first(ANY_PORT);
    assert_eq!(
        negative(&steer(&first, &[0]).unwrap_err()),
        -libc::EINVAL,
        "it is alone"
    );
    let _second = beside(&first, 0).unwrap();
    assert_eq!(negative(&steer(&first, &[]).unwrap_err()), -libc::EINVAL);
    let gaps: Vec<u32> = (0..1_364).map(|n| 2 * n).collect();
    steer(&first, &gaps).unwrap();
    let more: Vec<u32> = (0..1_365).map(|n| 2 * n).collect();
    assert_eq!(negative(&steer(&first, &more).unwrap_err()), -libc::EINVAL);
}
