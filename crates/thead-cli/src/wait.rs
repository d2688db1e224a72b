//! Waiting for what may not be there.

use std::future::pending;

use thead::{Link, ParentEvent};
use tokio::time::{Instant, sleep_until};

/// For ever if there is no deadline.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// What comes next over a link; for ever if there is none.
pub(crate) async fn next(link: &mut Option<Link>) -> Option<ParentEvent> {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}
