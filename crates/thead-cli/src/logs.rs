//! `thead logs`: what workers print, from the files that keep it.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::civil::{Date, DateTime, Time as Clock};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use regex::bytes::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::log::read::{Begin, Entry, Filter, LOOK, Query, Reader, Then, services};
use crate::log::{Kind, Time};
use crate::text::{Colours, harmless, harmless_json};

/// What is shown where nothing says how much.
const LINES: usize = 100;

/// What is to be shown, and how.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on as lines come.
    #[arg(short, long)]
    follow: bool,

    /// So many lines from the end. Default: 100, or all with --since.
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,

    /// No older lines: how long ago (10m, 2h 30m), or when (2026-11-23 14:05, 14:05, 2026-11-23T13:05Z).
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Time>,

    /// No newer lines.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Time>,

    /// Only lines in which this regular expression matches; "(?i)" in front ignores case.
    #[arg(short, long, value_name = "REGEX")]
    grep: Option<Regex>,

    /// Only of this stream; repeat for more. thead: what thead says about the service.
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Vec<Shown>,

    /// Only of the worker in this slot: 2 for api/2.
    #[arg(long, value_name = "SLOT")]
    worker: Option<u32>,

    /// Only of this process.
    #[arg(long)]
    pid: Option<u32>,

    /// One JSON object a line.
    #[arg(long, conflicts_with = "raw")]
    json: bool,

    /// What workers wrote, byte for byte, without anything in front of it.
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shown {
    Stdout,
    Stderr,
    Thead,
}

impl From<Shown> for Kind {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Stdout => Self::Stdout,
            Shown::Stderr => Self::Stderr,
            Shown::Thead => Self::Thead,
        }
    }
}

fn time(text: &str) -> Result<Time, String> {
    time_at(text, &Zoned::now())
}

/// Local where no zone is named.
fn time_at(text: &str, now: &Zoned) -> Result<Time, String> {
    let local = |time: DateTime| time.to_zoned(now.time_zone().clone()).map(|time| time.timestamp());
    let timestamp = if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Time(now.timestamp().as_millisecond()).before(ago));
    } else if let Ok(timestamp) = text.parse::<Timestamp>() {
        Ok(timestamp)
    } else if let Ok(time) = text.parse::<DateTime>() {
        local(time)
    } else if let Ok(date) = text.parse::<Date>() {
        local(date.to_datetime(Clock::midnight()))
    } else if let Ok(clock) = text.parse::<Clock>() {
        local(now.date().to_datetime(clock))
    } else {
        return Err("how long ago, such as 10m, or when, such as 14:05 or 2026-11-23 14:05".into());
    };
    timestamp
        .map(|time| Time(time.as_millisecond()))
        .map_err(|error| error.to_string())
}

/// Shows the logs of these services, of all that have one if none is named.
pub(crate) fn logs(args: &LogsArgs, dir: &Path, names: &[String]) -> ExitCode {
    match show(args, dir, names) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough (`thead logs | head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thead: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &LogsArgs, dir: &Path, names: &[String]) -> io::Result<()> {
    let found = services(dir).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?;
    // One that is followed may have its first line later.
    if let Some(missing) = names.iter().find(|name| !args.follow && !found.contains(name)) {
        let known = match &*found {
            [] => "there is none at all".to_owned(),
            found => format!("there are logs of {}", found.join(", ")),
        };
        let message = format!("no log of {missing} in {}; {known}", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let all = names.is_empty();
    let mut names = if all { found } else { names.to_vec() };
    names.sort();
    names.dedup();
    let begin = match (args.lines, args.since) {
        (Some(lines), _) => Begin::Last(lines),
        (None, Some(_)) => Begin::Oldest,
        (None, None) => Begin::Last(LINES),
    };
    let query = Query {
        filter: Filter {
            since: args.since,
            until: args.until,
            grep: args.grep.clone(),
            kinds: match (args.stream.is_empty(), args.raw) {
                (true, true) => vec![Kind::Stdout, Kind::Stderr],
                _ => args.stream.iter().map(|shown| Kind::from(*shown)).collect(),
            },
            slot: args.worker,
            pid: args.pid,
        },
        begin,
        follow: args.follow,
    };
    let mut reader = Reader::open(dir, &names, query)?;
    if all && args.follow {
        reader = reader.with_newcomers(dir)?;
    }
    let style = Style::of(args);
    let mut out = io::stdout().lock();
    let mut bytes = Vec::new();
    loop {
        let batch = reader.read()?;
        for entry in &batch.entries {
            style.add(entry, &mut bytes)?;
        }
        out.write_all(&bytes)?;
        bytes.clear();
        match batch.then {
            Then::More => {}
            Then::Wait => {
                out.flush()?;
                if is_left_within(&out, LOOK)? {
                    return Ok(());
                }
            }
            Then::End => return out.flush(),
        }
    }
}

/// Waits; says whether nobody reads any more.
fn is_left_within(out: &io::StdoutLock<'_>, time: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(out, PollFlags::empty())];
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&time)) {
        Ok(_) => Ok(fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// How records are shown.
#[derive(Debug)]
enum Style {
    Human { colours: bool, zone: TimeZone },
    Json,
    Raw,
}

impl Style {
    fn of(args: &LogsArgs) -> Self {
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match (args.json, args.raw) {
            (true, _) => Self::Json,
            (_, true) => Self::Raw,
            _ => Self::Human {
                colours: allowed && io::stdout().is_terminal(),
                zone: TimeZone::system(),
            },
        }
    }

    fn add(&self, entry: &Entry, to: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Raw => {
                to.extend_from_slice(&entry.text);
                if !entry.cut {
                    to.push(b'\n');
                }
                Ok(())
            }
            Self::Json => writeln!(to, "{}", harmless_json(&serde_json::to_string(entry)?)),
            Self::Human { colours, zone } => {
                let time = entry.time.timestamp().to_zoned(zone.clone());
                let time = time.strftime("%Y-%m-%d %H:%M:%S.%3f");
                let service = &entry.service;
                let slot = entry.about.map_or(String::new(), |(slot, _)| format!("/{slot}"));
                let mark = entry.kind.mark();
                let more = if entry.cut { "…" } else { "" };
                if *colours {
                    let text = harmless(&entry.text, Colours::Kept);
                    let colour = colour_of(service);
                    writeln!(
                        to,
                        "\x1b[2m{time}\x1b[0m \x1b[{colour}m{service}{slot} {mark}|\x1b[0m {text}{more}"
                    )
                } else {
                    let text = harmless(&entry.text, Colours::Dropped);
                    writeln!(to, "{time} {service}{slot} {mark}| {text}{more}")
                }
            }
        }
    }
}

/// The same for the same name: cyan, green, magenta, yellow, blue, and their bright kin. Red is for what is wrong.
fn colour_of(service: &str) -> u8 {
    const COLOURS: [u8; 10] = [36, 32, 35, 33, 34, 96, 92, 95, 93, 94];
    let sum = service
        .bytes()
        .fold(0_usize, |sum, byte| sum * 31 % 1009 + usize::from(byte));
    COLOURS[sum % COLOURS.len()]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn entry(text: &[u8]) -> Entry {
        Entry {
            service: "api".into(),
            time: Time(1_795_435_200_123),
            about: Some((2, 4711)),
            kind: Kind::Stdout,
            cut: false,
            text: text.to_vec(),
        }
    }

    fn shown(style: &Style, entry: &Entry) -> String {
        let mut bytes = Vec::new();
        style.add(entry, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &[u8] = b"\x1b[31mred\x1b[0m \x1b[2J\r2026-11-23T12:00:00.123Z - - thead forged \xff \xe2\x80\xae";

    #[test]
    fn g39_every_view_escapes_what_could_steer_a_terminal() {
        let zone = TimeZone::UTC;
        let plain = Style::Human {
            colours: false,
            zone: zone.clone(),
        };
        assert_eq!(
            shown(&plain, &entry(HOSTILE)),
            "2026-11-23 12:00:00.123 api/2 out| red \\u{1b}[2J\\r2026-11-23T12:00:00.123Z - - thead forged \u{fffd} \
             \\u{202e}\n"
        );
        let coloured = Style::Human { colours: true, zone };
        let text = shown(&coloured, &entry(HOSTILE));
        assert!(
            text.contains("api/2 out|\x1b[0m \x1b[31mred\x1b[0m \\u{1b}[2J\\r2026"),
            "{text:?}"
        );
        assert!(text.ends_with("\\u{202e}\x1b[0m\n"), "{text:?}");
        let json = shown(&Style::Json, &entry(HOSTILE));
        assert!(!json.trim_end().contains(char::is_control), "{json:?}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["text"], *String::from_utf8_lossy(HOSTILE));
        assert_eq!(value["time"], "2026-11-23T12:00:00.123Z");
        assert_eq!((&value["slot"], &value["stream"]), (&2.into(), &"stdout".into()));
    }

    #[test]
    fn pieces_of_a_line_are_one_again_where_it_is_shown_raw() {
        let first = Entry {
            cut: true,
            ..entry(b"a\xff")
        };
        let mut bytes = Vec::new();
        Style::Raw.add(&first, &mut bytes).unwrap();
        Style::Raw.add(&entry(b"b"), &mut bytes).unwrap();
        assert_eq!(bytes, b"a\xffb\n");
    }

    #[test]
    fn a_time_is_how_long_ago_or_when() {
        let now: Zoned = "2026-11-23T15:00:00+01:00[Europe/Vienna]"
            .parse()
            .or_else(|_| "2026-11-23T15:00:00+01:00[+01:00]".parse())
            .unwrap();
        let at = |text: &str| time_at(text, &now).map(|time| time.to_string());
        for (text, expected) in [
            ("10m", "2026-11-23T13:50:00.000Z"),
            ("2h 30m", "2026-11-23T11:30:00.000Z"),
            ("14:05", "2026-11-23T13:05:00.000Z"),
            ("2026-11-22", "2026-11-21T23:00:00.000Z"),
            ("2026-11-22 14:05", "2026-11-22T13:05:00.000Z"),
            ("2026-11-22T14:05:01.5", "2026-11-22T13:05:01.500Z"),
            ("2026-11-22T14:05Z", "2026-11-22T14:05:00.000Z"),
            ("2026-11-22T14:05:00.123+02:00", "2026-11-22T12:05:00.123Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected), "{text}");
        }
        assert!(at("yesterday").is_err());
    }
}
