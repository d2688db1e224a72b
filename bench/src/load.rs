//! A load, by wrk.

use std::process::{Command, Stdio};

use crate::Failure;

/// Connections that wrk holds open at once.
pub(crate) const CONNECTIONS: u32 = 64;

/// What a load brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
}

/// Loads a port for some seconds. `close`: a new connection for each request.
///
/// # Errors
/// Any request that failed is one.
pub(crate) fn run(port: u16, seconds: u32, close: bool) -> Result<Load, Failure> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
    if close {
        wrk.args(["-H", "Connection: close"]);
    }
    let output = wrk
        .arg(format!("http://127.0.0.1:{port}/"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("wrk does not run (Debian: apt-get install wrk): {error}"))?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() || text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(format!("requests failed:\n{text}").into());
    }
    let word_before = |mark: &str| text.split(mark).next()?.split_whitespace().next_back();
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    Ok(Load {
        requests: word_before(" requests in ").ok_or("wrk tells no requests")?.parse()?,
        per_second: rate.ok_or("wrk tells no rate")?.trim().parse()?,
    })
}
