//! Telling work to end from elsewhere.

use tokio::sync::watch;

/// Ends whatever was given its [`signal`](Self::signal). Node: `AbortController`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use thead::{AbortController, Command};
///
/// let controller = AbortController::new();
/// let slow = Command::new("sleep").arg("1000").abort_on(controller.signal());
/// controller.abort();
/// assert!(slow.output().await.unwrap_err().is_aborted());
/// # });
/// ```
#[derive(Debug)]
pub struct AbortController(watch::Sender<bool>);

impl AbortController {
    /// A controller that has not aborted anything.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// What listens to this controller.
    pub fn signal(&self) -> AbortSignal {
        AbortSignal(self.0.subscribe())
    }

    /// Aborts, for good.
    pub fn abort(&self) {
        self.0.send_replace(true);
    }
}

impl Default for AbortController {
    fn default() -> Self {
        Self::new()
    }
}

/// Hears when its [`AbortController`] aborts. Cheap to clone. Dropping the controller aborts nothing.
#[derive(Clone, Debug)]
pub struct AbortSignal(watch::Receiver<bool>);

impl AbortSignal {
    /// Whether it has been aborted.
    pub fn is_aborted(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is aborted; for ever if that cannot be any more.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn aborted(&mut self) {
        if self.0.wait_for(|aborted| *aborted).await.is_err() {
            std::future::pending().await
        }
    }
}
