//! Several listening sockets on one port, over which the kernel spreads connections (SO_REUSEPORT).
//!
//! The kernel counts them in the order in which they began to listen; when one is closed the last takes its number, so none may
//! be closed before all are. Another program of the same user that binds the port with SO_REUSEPORT is counted too.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::sockopt;

use super::listen::{self, TcpOptions};

/// One more listening socket on the port of this one, and like it. It gets connections from here on.
///
/// The first was bound for itself alone, so that a port in use is noticed; it may share its port from now on.
///
/// # Errors
/// As [`listen::bind_tcp`].
pub fn beside(first: impl AsFd, backlog: i32) -> io::Result<OwnedFd> {
    let first = first.as_fd();
    sockopt::set_socket_reuseport(first, true)?;
    let address = SocketAddr::try_from(rustix::net::getsockname(first)?)?;
    let options = TcpOptions {
        v6_only: address.is_ipv6() && sockopt::ipv6_v6only(first)?,
        reuse_port: true,
    };
    let socket = listen::bind_tcp(address, options)?;
    listen::listen(&socket, backlog)?;
    Ok(socket)
}

/// Lets the kernel give new connections to these sockets only, each as often as the others, at random. The numbers are in order.
///
/// Handshakes that have begun end where they began. May be repeated at any time.
///
/// # Errors
/// `EINVAL` for no number, for a socket that is the only one on its port, or for more gaps in the numbers than fit into a
/// program of the kernel's (1 364).
pub fn steer(any_of_them: impl AsFd, numbers: &[u32]) -> io::Result<()> {
    let mut program = choose(numbers);
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| rustix::io::Errno::INVAL)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option takes a `sock_fprog`, whose instructions live until after the call; the kernel copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            any_of_them.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A program of the kernel's (classic BPF) that returns one of these numbers.
///
/// It draws one of 0, 1, … and as often as there are numbers; to this it adds what the number of that rank has on top, which is
/// the same for numbers without a gap between them, so there is one step for each such run and not for each number.
fn choose(numbers: &[u32]) -> Vec<libc::sock_filter> {
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
    let mut program = vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, RANDOM, 0),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, numbers.len() as u32, 0),
    ];
    let ranked: Vec<(u32, u32)> = (0..).zip(numbers.iter().copied()).collect();
    for run in ranked.chunk_by(|(_, one), (_, next)| one + 1 == *next) {
        let ((first, number), (last, _)) = (run[0], run[run.len() - 1]);
        // Behind this run: two steps on.
        program.push(step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, last + 1, 2));
        program.push(step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, number - first, 0));
        program.push(step(libc::BPF_RET | libc::BPF_A, 0, 0));
    }
    // Not reached: a program must end by returning.
    program.push(step(libc::BPF_RET | libc::BPF_A, 0, 0));
    program
}

fn step(code: u32, operand: u32, if_true: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: 0,
        k: operand,
    }
}
