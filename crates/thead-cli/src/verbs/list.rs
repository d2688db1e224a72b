//! `ls`, `describe`, `why`: how it is.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use thead::control::{ClientError, Description, Exit, Phase, Problem, Service, Worker};

use super::{print_json, with_daemon};
use crate::text::plain;
use crate::told::millis_now;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Services or namespaces; all if none is named.
    targets: Vec<String>,
    /// Each worker on a line of its own.
    #[arg(short, long)]
    workers: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// As `pm2 jlist` prints it: what reads that can read this.
    #[arg(long, conflicts_with = "json")]
    pm2_json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// A service.
    service: String,
    /// Show the values of variables.
    #[arg(long)]
    env: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// A service.
    service: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn list(args: &ListArgs) -> ExitCode {
    with_daemon(args.json || args.pm2_json, async |daemon| {
        let mut services = daemon.services().await?;
        let is_meant = |service: &Service, target: &String| {
            *target == service.name || *target == service.namespace || target == "all"
        };
        for target in &args.targets {
            if target != "all" && !services.iter().any(|service| is_meant(service, target)) {
                let problem = Problem {
                    code: "not-found".into(),
                    message: format!("there is no service and no namespace {target:?}"),
                    ..Problem::default()
                };
                return Err(ClientError::Refused { status: 404, problem });
            }
        }
        if !args.targets.is_empty() {
            services.retain(|service| args.targets.iter().any(|target| is_meant(service, target)));
        }
        if args.pm2_json {
            print_json(&super::pm2::jlist(&services));
        } else if args.json {
            print_json(&services);
        } else {
            let _ = table(&services, args.workers);
        }
        Ok(0)
    })
}

pub(crate) fn describe(args: &DescribeArgs) -> ExitCode {
    with_daemon(args.json, async |daemon| {
        let description = daemon.describe(&args.service, args.env).await?;
        if args.json {
            print_json(&description);
        } else {
            let _ = show(&description);
        }
        Ok(0)
    })
}

pub(crate) fn why(args: &WhyArgs) -> ExitCode {
    with_daemon(args.json, async |daemon| {
        let description = daemon.describe(&args.service, false).await?;
        if args.json {
            print_json(&serde_json::json!({
                "service": description.service.name,
                "phase": description.service.phase,
                "reason": description.service.reason,
                "exits": description.exits,
                "events": description.events,
            }));
        } else {
            let _ = explain(&description);
        }
        Ok(0)
    })
}

fn table(services: &[Service], workers: bool) -> io::Result<()> {
    let mut rows = vec![
        [
            "NAME", "PHASE", "READY", "GEN", "UP", "RESTARTS", "CPU", "MEMORY", "NOTE",
        ]
        .map(str::to_owned),
    ];
    let now = millis_now();
    for service in services {
        // The sum of none is -0.
        let cpu = 0.0 + service.workers.iter().map(|worker| worker.cpu_percent).sum::<f32>();
        rows.push([
            service.name.clone(),
            service.phase.as_str().to_owned(),
            format!("{}/{}", service.ready, service.instances),
            service.generation.to_string(),
            service
                .since
                .map_or_else(|| "-".into(), |since| age(now.saturating_sub(since))),
            service.restarts.to_string(),
            format!("{cpu:.0}%"),
            size(service.memory),
            service.reason.clone().unwrap_or_default(),
        ]);
        for worker in service.workers.iter().filter(|_| workers) {
            rows.push(row_of(service, worker, now));
        }
    }
    print(&rows, |row| phase_colour(&row[1]))
}

fn row_of(service: &Service, worker: &Worker, now: u64) -> [String; 9] {
    [
        format!("  {}/{}", service.name, worker.slot),
        worker.phase.clone(),
        worker.pid.map_or_else(|| "-".into(), |pid| format!("pid {pid}")),
        worker.generation.to_string(),
        worker
            .since
            .map_or_else(|| "-".into(), |since| age(now.saturating_sub(since))),
        worker.restarts.to_string(),
        format!("{:.0}%", worker.cpu_percent),
        size(worker.memory),
        worker.status.clone().unwrap_or_default(),
    ]
}

/// Columns as wide as they need to be; the last one is not padded.
fn print<const N: usize>(rows: &[[String; N]], colour: impl Fn(&[String; N]) -> &'static str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let text = plain(text.as_bytes());
            if column + 1 == N {
                line.push_str(&text);
            } else {
                line.push_str(&format!("{text:<width$}  ", width = widths[column]));
            }
        }
        let line = line.trim_end();
        let paint = if coloured && index > 0 { colour(row) } else { "" };
        if paint.is_empty() {
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{paint}{line}\x1b[0m")?;
        }
    }
    out.flush()
}

fn phase_colour(phase: &str) -> &'static str {
    match phase {
        "failed" => "\x1b[31m",
        "degraded" | "waiting" | "starting" | "reloading" | "stopping" => "\x1b[33m",
        "stopped" => "\x1b[2m",
        _ => "",
    }
}

fn show(description: &Description) -> io::Result<()> {
    let service = &description.service;
    table(std::slice::from_ref(service), true)?;
    let mut out = io::stdout().lock();
    writeln!(out)?;
    for (name, value) in [
        ("namespace", service.namespace.clone()),
        ("program", service.run.join(" ")),
        ("directory", description.base.clone()),
        (
            "configured by",
            service.source.clone().unwrap_or_else(|| "the command line".into()),
        ),
        (
            "primary",
            service
                .primary
                .map_or_else(|| "none".into(), |pid| format!("pid {pid}")),
        ),
    ] {
        writeln!(out, "{name:<14} {}", plain(value.as_bytes()))?;
    }
    writeln!(
        out,
        "\n{}",
        serde_json::to_string_pretty(&description.config).unwrap_or_default()
    )?;
    if !description.exits.is_empty() {
        writeln!(out, "\nlast exits, newest first:")?;
        for exit in &description.exits {
            writeln!(out, "  {}", exit_line(exit))?;
        }
    }
    Ok(())
}

fn exit_line(exit: &Exit) -> String {
    format!(
        "{} ago: /{} (worker {}) after {}: {}",
        age(millis_now().saturating_sub(exit.time)),
        exit.slot,
        exit.worker,
        age(exit.uptime_ms),
        plain(exit.cause.as_bytes())
    )
}

fn explain(description: &Description) -> io::Result<()> {
    let service = &description.service;
    let mut out = io::stdout().lock();
    let reason = service
        .reason
        .as_deref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    writeln!(
        out,
        "{} is {} ({} of {} workers ready){}",
        service.name,
        service.phase.as_str(),
        service.ready,
        service.instances,
        plain(reason.as_bytes())
    )?;
    let unexpected: Vec<_> = description.exits.iter().filter(|exit| !exit.expected).collect();
    match unexpected.first() {
        None => writeln!(out, "No worker has died.")?,
        Some(last) => {
            writeln!(out, "\nDeaths that nobody had asked for, newest first:")?;
            for exit in &unexpected {
                writeln!(out, "  {}", exit_line(exit))?;
            }
            if !last.stack.is_empty() {
                writeln!(out, "\nWhere the last of them was:")?;
                for frame in &last.stack {
                    writeln!(out, "  | {}", plain(frame.as_bytes()))?;
                }
            }
            if !last.last_lines.is_empty() {
                writeln!(out, "\nWhat the last of them said:")?;
                for line in &last.last_lines {
                    writeln!(out, "  | {}", plain(line.as_bytes()))?;
                }
            }
        }
    }
    let bad: Vec<_> = description.events.iter().filter(|event| event.bad).take(5).collect();
    if !bad.is_empty() {
        writeln!(out, "\nWhat went wrong, newest first:")?;
        for event in bad {
            writeln!(out, "  {} {}", super::clock(event.time), plain(event.text.as_bytes()))?;
        }
    }
    let hint = match service.phase {
        Phase::Failed => format!("Mend the cause, then: thead start {0}", service.name),
        Phase::Stopped => format!("Start it: thead start {}", service.name),
        Phase::Ready => String::new(),
        _ => format!("See more: thead logs {0}, thead events", service.name),
    };
    if !hint.is_empty() {
        writeln!(out, "\n{hint}")?;
    }
    Ok(())
}

/// How long, in its two largest units.
fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Bytes, as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(age(999), "999ms");
        assert_eq!(age(59_999), "59s");
        assert_eq!(age(61_000), "1m01s");
        assert_eq!(age(3_660_000), "1h01m");
        assert_eq!(age(90_000_000), "1d01h");
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
    }
}
