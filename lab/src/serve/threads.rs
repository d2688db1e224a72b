//! A thread for each connection, and M processes of L threads: if a request takes N seconds, these serve M·L/N in a second.
//! A thread costs less than a process and shares all state; a crash takes all of its process along.

use std::convert::Infallible;
use std::net::TcpListener;
use std::thread;

use super::http::converse;
use super::sync::serve_in_turn;
use super::{Announcement, ServeError, accept, fork, rest};

/// A thread for each connection.
pub(super) fn each(listener: &TcpListener) -> Result<Infallible, ServeError> {
    Announcement::of(listener)?.print()?;
    loop {
        let stream = accept(listener);
        // A client that goes away midway misses its answer.
        let serve = || drop(converse(stream, None, || false));
        if let Err(error) = thread::Builder::new().spawn(serve) {
            // The client is refused: its connection was closed with the thread that did not come to be.
            rest("a connection got no thread", &error);
        }
    }
}

/// M processes of L threads that all accept from one listener, each thread with one request at a time. A process that dies
/// is replaced.
pub(super) fn pool(listener: &TcpListener, processes: u32, threads: u32) -> Result<Infallible, ServeError> {
    fork::keep(processes, listener, || {
        thread::scope(|scope| {
            for _ in 1..threads {
                let spawned = thread::Builder::new().spawn_scoped(scope, || serve_in_turn(listener));
                if let Err(error) = spawned {
                    // Fewer than were asked for would be another model. The parent tries again.
                    rest("a process got too few threads", &error);
                    std::process::exit(1);
                }
            }
            serve_in_turn(listener)
        })
    })
}
