//! Events as they are told: to watchers of the daemon, and into the log of a service.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use thead::control::{Event, Problem, UnixMillis};

/// Now, as it is written into events.
pub(crate) fn millis_now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Something that has just happened to a service, or to the daemon itself where that has no name.
pub(crate) fn event(service: &str, kind: &str, bad: bool, text: impl Into<String>, details: Value) -> Event {
    Event {
        id: 0,
        time: millis_now(),
        service: service.to_owned(),
        event: kind.to_owned(),
        text: text.into(),
        bad,
        details,
    }
}

/// Why a request is refused.
pub(crate) fn problem(code: &str, message: impl Into<String>, hint: Option<&str>) -> Problem {
    Problem {
        code: code.to_owned(),
        message: message.into(),
        hint: hint.map(str::to_owned),
    }
}
