//! What is asked, and what there is to do for it. How it is done is each model's own.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::getpid;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// An answer that is there.
    Answer(Reply),
    /// To wait for something else than the processor, and to answer then.
    Wait(Duration),
    /// To use so much processor time of one thread, and to answer then.
    Burn(Duration),
    /// The end of the process that handles it.
    Crash,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

/// Longest wait or burn that can be asked for.
const LONGEST_MS: u64 = 60_000;

/// Of a `/mix` one request in so many is slow.
const SLOW_ONE_IN: u64 = 100;

/// What a slow request of a `/mix` waits.
const SLOW: Duration = Duration::from_millis(100);

/// A `/crash` with a multiple of this number is one.
const CRASH_ONE_IN: u64 = 10_000;

/// Whence bodies are taken: not copied for any request, and in memory once for all processes.
static FILL: [u8; 1 << 20] = [b'x'; 1 << 20];

/// Requests that this process has seen: its copy of the state.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Decides what there is to do for a request, by its target (`/io?ms=10`).
pub(super) fn plan(target: &str) -> Plan {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asked = match path {
        "/" => Ok(Plan::Answer(Reply::text(200, "hello from the lab\n"))),
        "/io" => number(query, "ms", 10, LONGEST_MS).map(|ms| Plan::Wait(Duration::from_millis(ms))),
        "/cpu" => number(query, "ms", 2, LONGEST_MS).map(|ms| Plan::Burn(Duration::from_millis(ms))),
        "/mix" => number(query, "n", seen, u64::MAX).map(|n| match n % SLOW_ONE_IN {
            0 => Plan::Wait(SLOW),
            _ => Plan::Answer(Reply::text(200, "fast\n")),
        }),
        "/body" => number(query, "bytes", 1024, FILL.len() as u64).map(|bytes| Plan::Answer(Reply::body(bytes))),
        "/crash" => number(query, "n", 1, u64::MAX).map(|n| match n % CRASH_ONE_IN {
            0 => Plan::Crash,
            _ => Plan::Answer(Reply::text(200, "survived\n")),
        }),
        "/state" => Ok(Plan::Answer(Reply::state(seen))),
        _ => Ok(Plan::Answer(Reply::text(
            404,
            "there are /, /io, /cpu, /mix, /body, /crash, /state\n",
        ))),
    };
    asked.unwrap_or_else(|bad| Plan::Answer(Reply::text(400, bad)))
}

/// A number of the query, or what is wrong with it.
fn number(query: &str, name: &str, default: u64, most: u64) -> Result<u64, String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = pairs.find(|(key, _)| *key == name) else {
        return Ok(default);
    };
    match value.parse() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(format!("{name} is {value:?}, it must be a number up to {most}\n")),
    }
}

impl Reply {
    /// A text.
    pub(super) fn text(status: u16, text: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "text/plain",
            body: text.into(),
        }
    }

    fn json(text: String) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: text.into(),
        }
    }

    fn body(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(FILL.len()).min(FILL.len());
        Self {
            status: 200,
            content_type: "application/octet-stream",
            body: Bytes::from_static(&FILL[..bytes]),
        }
    }

    fn state(seen: u64) -> Self {
        let (pid, thread) = (getpid().as_raw_nonzero(), gettid().as_raw_nonzero());
        Self::json(format!("{{\"pid\":{pid},\"thread\":{thread},\"requests\":{seen}}}\n"))
    }

    /// Who has just done what took until now, and when: by a clock that all processes share, so that one who has many of
    /// these can tell what was done at the same time.
    pub(super) fn span(began: Duration) -> Self {
        let (pid, thread) = (getpid().as_raw_nonzero(), gettid().as_raw_nonzero());
        let (began, ended) = (began.as_micros(), now().as_micros());
        Self::json(format!(
            "{{\"pid\":{pid},\"thread\":{thread},\"began_us\":{began},\"ended_us\":{ended}}}\n"
        ))
    }
}

/// Does it as one who has nothing else to do meanwhile: this thread waits.
pub(super) fn perform(plan: Plan) -> Reply {
    let began = now();
    match plan {
        Plan::Answer(reply) => return reply,
        Plan::Wait(time) => std::thread::sleep(time),
        Plan::Burn(time) => burn(time),
        Plan::Crash => std::process::abort(),
    }
    Reply::span(began)
}

/// The time since some moment that is the same for all processes of this machine.
pub(super) fn now() -> Duration {
    clock(ClockId::Monotonic)
}

/// Uses so much processor time of this thread. Measured by its own clock, so that it is the same work on a busy machine.
pub(super) fn burn(time: Duration) {
    let until = clock(ClockId::ThreadCPUTime) + time;
    let mut word = 1_u64;
    while clock(ClockId::ThreadCPUTime) < until {
        for _ in 0..1000 {
            word = black_box(word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn clock(id: ClockId) -> Duration {
    // Neither clock is ever before its beginning.
    clock_gettime(id).try_into().unwrap_or_default()
}
