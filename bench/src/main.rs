//! Measures thead against Node's cluster and PM2, all in the same run: what is said of speed is a ratio.
//!
//! `bench/run` builds what is needed and starts this. Every row runs its candidates in turn, several rounds of it, and takes
//! medians; a ratio is the median of the ratios of each round, so that what else the machine does falls on both sides.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

mod fleet;
mod host;
mod load;
mod process;
mod report;
mod row;

use report::Report;

/// Why a measurement could not be made.
type Failure = Box<dyn std::error::Error>;

/// Measures thead against Node's cluster and PM2; with no row named, all of them, and writes docs/performance.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    rows: Vec<Row>,
    /// Few and short rounds, to see that everything runs. Writes no file.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// New connections a second, and the primary's processor time for each.
    Connections,
    /// Requests a second on connections that stay.
    KeepAlive,
    /// Memory of the primary, before and after the load.
    Memory,
    /// Handles a second to a Node child.
    Handles,
    /// Messages to a child and back.
    Messages,
    /// Starting a process, from small and large parents.
    Spawn,
    /// Running a command to its end.
    Exec,
    /// Ten million messages and a million handles through one channel: what memory and which files are left.
    Soak,
    /// A hundred megabytes of lines that a worker prints.
    Logs,
    /// What the preload adds to the start of a worker.
    Preload,
    /// A daemon with a hundred services: a list, processor time while nothing happens, memory.
    Daemon,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// How often each candidate has its turn.
    rounds: usize,
    /// How long a load lasts, in seconds.
    seconds: u32,
    /// Counts are divided by this.
    divisor: usize,
}

const FULL: Extent = Extent {
    rounds: 5,
    seconds: 4,
    divisor: 1,
};
const QUICK: Extent = Extent {
    rounds: 3,
    seconds: 1,
    divisor: 10,
};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(row::spawn::PROBE) => return ended(row::spawn::probe()),
        Some(row::messages::ECHO) => return ended(row::messages::echo()),
        _ => {}
    }
    let arguments = Arguments::parse();
    ended(run(&arguments))
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thead-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    thead::sys::reap::become_subreaper()?;
    thead::sys::limit::raise_open_files()?;
    let all = arguments.rows.is_empty();
    let wanted = |row| all || arguments.rows.contains(&row);
    let extent = if arguments.quick { QUICK } else { FULL };
    host::install_peers()?;

    let mut report = Report::new();
    let result = measure(&wanted, extent, &mut report);
    let left = process::end_orphans();
    result?;
    if left > 0 {
        return Err(format!("{left} processes were left over, and have been killed").into());
    }
    if all && !arguments.quick {
        let path = host::root().join("docs/performance.md");
        report.write(&path)?;
        println!("written to docs/performance.md");
    }
    report.print_targets();
    Ok(())
}

fn measure(wanted: &dyn Fn(Row) -> bool, extent: Extent, report: &mut Report) -> Result<(), Failure> {
    if [Row::Connections, Row::KeepAlive, Row::Memory].into_iter().any(wanted) {
        row::servers::measure(wanted, extent, report)?;
    }
    // In a process that has not grown yet.
    if wanted(Row::Soak) {
        for table in row::soak::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Handles) {
        for table in row::handles::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Messages) {
        for table in row::messages::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Exec) {
        for table in row::exec::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Spawn) {
        for table in row::spawn::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Logs) {
        for table in row::logs::measure(extent)? {
            report.add(table);
        }
    }
    if wanted(Row::Preload) {
        report.add(row::preload::measure(extent)?);
    }
    if wanted(Row::Daemon) {
        for table in row::daemon::measure(extent)? {
            report.add(table);
        }
    }
    Ok(())
}
