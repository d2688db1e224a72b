//! One request at a time: the server that everything began with. If a request takes N seconds, it serves 1/N in a second.
//!
//! A connection is kept while nobody else waits: to the client that it has answered it says `Connection: close` as soon as
//! another one stands in the queue, so that clients take turns by requests although there is only one to serve them. (Tomcat's
//! blocking connector ended keep-alive too when it ran short of threads.) A client that has a connection and asks nothing
//! holds the server for [`KEEP_ALIVE`], since nobody can be told to come again before an answer: that is what the model
//! costs.

use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::http::converse;
use super::{Announcement, ServeError, accept};

/// How long a blocking server that cannot do anything else meanwhile waits for the next request of a connection. Apache's
/// default, and Node's.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The model.
pub(super) fn run(listener: &TcpListener) -> Result<Infallible, ServeError> {
    Announcement::of(listener)?.print()?;
    serve_in_turn(listener)
}

/// Serves one connection after the other. Whoever calls this, in whatever process or thread, is one more to serve them.
pub(super) fn serve_in_turn(listener: &TcpListener) -> ! {
    loop {
        let stream = accept(listener);
        // A client that goes away midway misses its answer; the next one is served.
        let _ = converse(stream, Some(KEEP_ALIVE), || somebody_waits(listener));
    }
}

/// Whether a connection stands in the queue.
fn somebody_waits(listener: &TcpListener) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    matches!(poll(&mut asked, Some(&Timespec::default())), Ok(1..))
}
