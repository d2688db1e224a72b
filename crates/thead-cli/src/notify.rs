//! What whoever supervises us wants to know, where that is a systemd: `NOTIFY_SOCKET`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// We answer now.
///
/// # Errors
/// Nobody listens there.
pub(crate) fn ready() -> io::Result<()> {
    say(&format!("READY=1\nMAINPID={}", std::process::id()))
}

/// We end now.
///
/// # Errors
/// As [`ready`].
pub(crate) fn stopping() -> io::Result<()> {
    say("STOPPING=1")
}

/// Says that we live, for as long as it is awaited; for ever if nobody wants to know.
pub(crate) async fn keep_alive() {
    let variable = |name: &str| std::env::var(name).ok();
    let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let period = variable("WATCHDOG_USEC")
        .and_then(|text| text.parse().ok())
        .filter(|_| meant);
    let Some(period) = period.map(Duration::from_micros).filter(|period| !period.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        // One that is lost is followed by another in time.
        let _ = say("WATCHDOG=1");
        tokio::time::sleep(period / 3).await;
    }
}

fn say(text: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}
