//! Restarts: how long to wait, how many to allow, and when to give up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most restarts that an [`Intensity`] may allow: the window remembers each of them.
pub const MAX_RESTARTS: usize = 10_000;

/// What happens after a death that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Which deaths are followed by a restart. Default [`Policy::Always`].
    pub policy: Policy,
    /// How long to wait before it.
    pub backoff: Backoff,
    /// A worker that was ready for this long before it died starts the backoff anew. Default 10 s.
    pub reset_after: Duration,
    /// How many, in a service, until its dead stay dead.
    pub intensity: Intensity,
}

/// Which deaths are followed by a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each.
    #[default]
    Always,
    /// Each but exit code 0.
    OnFailure,
    /// None.
    Never,
}

/// A delay that grows from one death of a slot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first death. Default 100 ms.
    pub first: Duration,
    /// Longest, before jitter. Default 5 s.
    pub max: Duration,
    /// From one delay to the next. Default 2.
    pub factor: u32,
    /// Each delay is this much longer or shorter, at random, so that what died together does not come back together.
    /// Default 20.
    pub jitter_percent: u8,
}

/// How many restarts a service gets in a sliding window of time.
///
/// With the defaults a worker that dies at once spends them in about half a minute. A `period` shorter than the first
/// `restarts` delays of the backoff is never spent: such a service is restarted for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// So many, 0 to [`MAX_RESTARTS`]. Default 10.
    pub restarts: usize,
    /// In so long. Default 60 s.
    pub period: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            backoff: Backoff::default(),
            reset_after: Duration::from_secs(10),
            intensity: Intensity::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            factor: 2,
            jitter_percent: 20,
        }
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts: 10,
            period: Duration::from_secs(60),
        }
    }
}
