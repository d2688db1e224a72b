//! What a program tells its supervisor over `NOTIFY_SOCKET`: a datagram of lines, `NAME=VALUE`.
//!
//! systemd: `sd_notify(3)`, `sd_watchdog_enabled(3)`.

use std::time::Duration;

use crate::message::BadMessage;

/// The address of the socket. One that begins with `@` is a name in the kernel's abstract namespace.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Within how many microseconds a program must say again that it is alive. Programs say it in half of that.
pub const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// Whom [`WATCHDOG_USEC`] is for.
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The longest datagram that is read, in bytes, as with systemd. The kernel cuts a longer one.
pub const LIMIT: usize = 4096;

/// What is kept of a `STATUS`, in characters.
pub const STATUS_LIMIT: usize = 256;

/// One line that means something here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// `READY=1`: it has started, or has finished reloading.
    Ready,
    /// `RELOADING=1`: it reads its configuration again.
    Reloading,
    /// `STOPPING=1`: it is about to end.
    Stopping,
    /// `STATUS=…`: how it is, for people; the first [`STATUS_LIMIT`] characters.
    Status(String),
    /// `WATCHDOG=1`: it is alive.
    Alive,
    /// `WATCHDOG=trigger`: it is not, by its own account.
    Trouble,
    /// `WATCHDOG_USEC=…`: from now on it says that it is alive within this span.
    WatchdogSpan(Duration),
    /// `EXTEND_TIMEOUT_USEC=…`: it needs so much longer for what it is about.
    Extend(Duration),
    /// `MAINPID=…`: another process of it is the one that matters.
    MainPid(u32),
    /// `FDSTORE=1`: the descriptors that came along are to be kept for it.
    StoreDescriptors,
    /// `BARRIER=1`: it waits until the descriptor that came along is closed, which says that all before was read.
    Barrier,
}

/// The lines of a datagram, in order. Those with other names are left out, as systemd does.
///
/// # Errors
/// For each known name with a value that it cannot have; once for a datagram with a NUL in it.
pub fn notices(datagram: &[u8]) -> impl Iterator<Item = Result<Notice, BadMessage>> {
    let has_nul = datagram.contains(&0);
    let nul = has_nul.then(|| Err(BadMessage::new("a notice with a NUL in it", datagram)));
    let lines = datagram.split(|byte| *byte == b'\n').filter(move |_| !has_nul);
    nul.into_iter().chain(lines.filter_map(notice))
}

fn notice(line: &[u8]) -> Option<Result<Notice, BadMessage>> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&line[..at], &line[at + 1..]);
    let flag = |notice| (value == b"1").then_some(notice);
    let notice = match name {
        b"READY" => flag(Notice::Ready),
        b"RELOADING" => flag(Notice::Reloading),
        b"STOPPING" => flag(Notice::Stopping),
        b"STATUS" => Some(Notice::Status(
            String::from_utf8_lossy(value).chars().take(STATUS_LIMIT).collect(),
        )),
        b"WATCHDOG" if value == b"trigger" => Some(Notice::Trouble),
        b"WATCHDOG" => flag(Notice::Alive),
        b"WATCHDOG_USEC" => number(value).map(|span| Notice::WatchdogSpan(Duration::from_micros(span))),
        b"EXTEND_TIMEOUT_USEC" => number(value).map(|span| Notice::Extend(Duration::from_micros(span))),
        b"MAINPID" => number(value).filter(|pid| *pid != 0).map(Notice::MainPid),
        b"FDSTORE" => flag(Notice::StoreDescriptors),
        b"BARRIER" => flag(Notice::Barrier),
        _ => return None,
    };
    Some(notice.ok_or_else(|| BadMessage::new("a notice with a value that it cannot have", line)))
}

/// Digits and nothing else: not what Rust takes besides, such as a plus.
fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(datagram: &str) -> Vec<Notice> {
        notices(datagram.as_bytes()).map(Result::unwrap).collect()
    }

    fn bad(datagram: &str) -> usize {
        notices(datagram.as_bytes()).filter(Result::is_err).count()
    }

    #[test]
    fn each_line_is_understood_and_others_are_left_out() {
        use Notice::{Alive, Barrier, Extend, MainPid, Ready, Reloading, Status, Stopping, Trouble, WatchdogSpan};
        assert_eq!(
            all("READY=1\nSTATUS=serving = well\nMAINPID=42\n"),
            [Ready, Status("serving = well".into()), MainPid(42)]
        );
        assert_eq!(
            all("RELOADING=1\nMONOTONIC_USEC=5\n\nSTOPPING=1"),
            [Reloading, Stopping]
        );
        assert_eq!(
            all("WATCHDOG=1\nWATCHDOG=trigger\nBARRIER=1"),
            [Alive, Trouble, Barrier]
        );
        let second = Duration::from_secs(1);
        assert_eq!(
            all("WATCHDOG_USEC=1000000\nEXTEND_TIMEOUT_USEC=1000000"),
            [WatchdogSpan(second), Extend(second)]
        );
        assert_eq!(all("FDSTORE=1\nFDNAME=a"), [Notice::StoreDescriptors]);
        assert_eq!(all(""), []);
        assert_eq!(all("no line of ours\nX_OWN=1"), []);
    }

    #[test]
    fn a_value_that_cannot_be_is_told_and_costs_no_other_line() {
        for line in [
            "READY=0",
            "READY=",
            "MAINPID=0",
            "MAINPID=-1",
            "MAINPID=+1",
            "MAINPID=4294967296",
            "WATCHDOG=2",
            "WATCHDOG_USEC=",
            "WATCHDOG_USEC=18446744073709551616",
            "EXTEND_TIMEOUT_USEC=1s",
        ] {
            assert_eq!(bad(line), 1, "{line}");
            assert_eq!(notices(format!("{line}\nREADY=1").as_bytes()).count(), 2, "{line}");
        }
        assert_eq!(bad("READY=1\0"), 1);
        assert_eq!(notices(b"READY=1\nA\0").count(), 1);
    }

    #[test]
    fn a_status_is_cut_and_need_not_be_text() {
        let long = format!("STATUS={}", "ä".repeat(LIMIT));
        assert_eq!(all(&long), [Notice::Status("ä".repeat(STATUS_LIMIT))]);
        let odd: Vec<_> = notices(b"STATUS=\xff").collect();
        assert_eq!(odd, [Ok(Notice::Status("\u{fffd}".into()))]);
    }
}
