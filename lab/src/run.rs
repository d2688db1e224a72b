//! `thead-lab`: measures all that was planned, tells how far it is, and reports.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::formula::{self, Seen};
use crate::load::{self, LoadError, Shape, Spec};
use crate::measure::{self, MeasureError, Server};
use crate::model::{Candidate, Kind, Model, Unknown};
use crate::plan::{Plan, Step, UnknownWorkload, Workload, shape_of};
use crate::report::{self, ReportError};
use crate::results::{Agreement, Cell, Extent, Results};
use crate::{check, machine};

/// Measures the service models and writes a report.
// The name of its group would be that of all options of the program.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Few and short rounds of the models alone: less than two minutes.
    #[arg(long)]
    quick: bool,
    /// Who is measured, in this order; by default all models, and without --quick the peers that are installed.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    models: Vec<String>,
    /// What is measured: hello, hello-close, io, cpu, mix, body-1k, body-1m, crash, idle.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    workloads: Vec<String>,
    /// How often each candidate has its turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// The most idle connections that are held.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    idle: Option<u32>,
    /// Threads of each process of the pool (L).
    #[arg(long, value_name = "L", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    out: PathBuf,
    /// Makes the report of an earlier run again, from its results.json, and measures nothing.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Prints the results as JSON on standard output, and tables nowhere.
    #[arg(long)]
    json: bool,
    /// Writes docs/models.md and its pictures too; only in a checkout, and only from a run of all that it tells of.
    #[arg(long)]
    docs: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such model or peer.
    #[error("{0}")]
    Candidate(#[from] Unknown),
    /// There is no such workload.
    #[error("{0}")]
    Workload(#[from] UnknownWorkload),
    /// What was asked for is not installed.
    #[error("nothing is left to measure: {0}")]
    Nothing(String),
    /// Too few descriptors.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// A cell could not be measured.
    #[error("{what}: {source}")]
    Measure {
        /// Which.
        what: String,
        /// Why.
        source: MeasureError,
    },
    /// The report could not be written.
    #[error("{0}")]
    Report(#[from] ReportError),
    /// What was to be read is not there, or is no report.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl RunError {
    /// What the program ends with: 2 for what its caller can mend, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Measure { .. } | Self::Io(_) => 1,
            _ => 2,
        }
    }
}

/// Measures and reports, or reports again. Whether all checks hold is in the report, not in the exit code: a machine that is
/// busy with something else is no fault of the program.
///
/// # Errors
/// Bad arguments, too few descriptors, a server that does not come up, a report that cannot be written.
pub fn run(arguments: &Arguments) -> Result<(), RunError> {
    let results = match &arguments.from {
        Some(path) => read(path)?,
        None => measured(arguments)?,
    };
    if arguments.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &results).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print!("{}", report::text(&results));
    }
    let page = report::write(&results, &arguments.out)?;
    eprintln!("thead-lab: the report is {}", page.display());
    if arguments.docs {
        report::write_docs(&results)?;
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Results, RunError> {
    let failed = |source| RunError::Read {
        path: path.clone(),
        source,
    };
    let text = fs::read(path).map_err(failed)?;
    let mut results: Results = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    // Judged by the rules of today.
    judge(&mut results);
    Ok(results)
}

fn measured(arguments: &Arguments) -> Result<Results, RunError> {
    let workloads = arguments
        .workloads
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Vec<Workload>, _>>()?;
    let named = arguments
        .models
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Vec<Kind>, _>>()?;
    let kinds = match (named.is_empty(), arguments.quick) {
        (false, _) => named,
        (true, true) => Model::ALL.map(Kind::Model).to_vec(),
        (true, false) => Kind::ALL.to_vec(),
    };
    let cores = machine::cores();
    let (servers, load_cores) = machine::divide(&cores);
    let machine = machine::describe(&cores, &servers);

    let processes = machine.server_cores;
    let mut missing = Vec::new();
    let mut candidates = Vec::new();
    for kind in kinds {
        let candidate = Candidate::new(kind, u32::try_from(processes).unwrap_or(1), arguments.threads);
        match candidate.command() {
            Ok(_) => candidates.push(candidate),
            Err(absent) => missing.push(absent.to_string()),
        }
    }
    missing.dedup();
    if candidates.is_empty() {
        return Err(RunError::Nothing(missing.join("; ")));
    }
    let mut extent = Extent::new(arguments.quick, processes, arguments.threads as usize);
    if let Some(rounds) = arguments.rounds {
        extent.rounds = rounds.into();
    }
    let plan = Plan::new(candidates, &workloads, extent, arguments.idle.map(|most| most as usize));
    let most = plan
        .steps
        .iter()
        .map(|step| step.shape.connections())
        .max()
        .unwrap_or(0);
    load::raise_descriptors(most)?;
    measure::pin(&servers)?;
    for absent in &missing {
        eprintln!("thead-lab: {absent}; its rows are left out");
    }

    let begun = Instant::now();
    let mut results = Results {
        machine,
        extent,
        took_seconds: 0.0,
        missing,
        cells: cells(&plan),
        wrk: None,
        checks: Vec::new(),
    };
    fill(&plan, &load_cores, &mut results)?;
    if workloads.is_empty() || workloads.contains(&Workload::Hello) {
        match agreement(&plan, &load_cores)? {
            Ok(agreement) => results.wrk = agreement,
            Err(absent) => {
                eprintln!("thead-lab: {absent}");
                results.missing.push(absent);
            }
        }
    }
    judge(&mut results);
    results.took_seconds = begun.elapsed().as_secs_f64();
    Ok(results)
}

/// One for each candidate of each step, still empty.
pub(crate) fn cells(plan: &Plan) -> Vec<Cell> {
    let of = |step: &Step, candidate: &Candidate| Cell {
        workload: step.workload.name().to_owned(),
        candidate: candidate.name.clone(),
        connections: step.shape.connections(),
        rate: if let Shape::Open { rate, .. } = step.shape {
            Some(rate)
        } else {
            None
        },
        requests: if let Shape::Count { requests, .. } = step.shape {
            Some(requests)
        } else {
            None
        },
        predicted: None,
        formula: None,
        explanation: None,
        samples: Vec::new(),
    };
    let steps = plan.steps.iter();
    steps
        .flat_map(|step| {
            step.candidates
                .iter()
                .map(move |place| of(step, &plan.candidates[*place]))
        })
        .collect()
}

fn fill(plan: &Plan, load_cores: &[usize], results: &mut Results) -> Result<(), RunError> {
    let all: Vec<(usize, usize)> = plan.order().collect();
    let mut progress = Progress::new(plan, all.len());
    for (step, place) in all {
        let (step, candidate) = (&plan.steps[step], &plan.candidates[place]);
        progress.tell(step, candidate);
        let what = || format!("{} under {}", candidate.name, step.workload);
        let failed = |source| RunError::Measure { what: what(), source };
        let server = start(candidate).map_err(failed)?;
        let (sample, _) = measure::sample(server, &spec(step, load_cores)).map_err(failed)?;
        let connections = step.shape.connections();
        let cell = results.cells.iter_mut().find(|cell| {
            cell.workload == step.workload.name() && cell.candidate == candidate.name && cell.connections == connections
        });
        if let Some(cell) = cell {
            cell.samples.push(sample);
        }
        progress.done(plan.estimate_of(step, candidate));
    }
    progress.end();
    Ok(())
}

fn start(candidate: &Candidate) -> Result<Server, MeasureError> {
    let command = candidate.command().map_err(|missing| MeasureError::Start {
        name: candidate.name.clone(),
        said: missing.to_string(),
    })?;
    Server::start(candidate, command)
}

/// The load of a step; whom it is for is not known yet.
fn spec(step: &Step, cores: &[usize]) -> Spec {
    Spec {
        to: std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0),
        path: step.workload.path().to_owned(),
        shape: step.shape,
        keep_alive: step.workload.keeps(),
        warm_ms: step.warm_ms,
        run_ms: step.run_ms,
        // Longer than the longest queue: what is late is waited for, unless it never comes.
        patience_ms: 10_000,
        cores: cores.to_vec(),
        slow_every: step.workload.slow_every(),
    }
}

/// The formula beside each cell that has one, and why they part; then what must hold.
fn judge(results: &mut Results) {
    let (machine, extent) = (results.machine.clone(), results.extent);
    let whole = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    for cell in &mut results.cells {
        let kind = cell.candidate.parse::<Kind>().ok();
        let candidate = kind.map(|kind| Candidate::new(kind, whole(extent.processes), whole(extent.threads)));
        let work = cell.workload.parse::<Workload>().ok().and_then(Workload::work);
        let (Some(shape), Some(work)) = (candidate.as_ref().and_then(shape_of), work) else {
            continue;
        };
        let load = cell.median(|sample| sample.load_cores);
        // Where they share cores, the servers have what the load leaves.
        let cores = if machine.pinned {
            machine.server_cores as f64
        } else {
            machine.cores as f64 - load
        };
        let Some(prediction) = formula::predict(shape, work, cell.connections, cores) else {
            continue;
        };
        let seen = Seen {
            per_second: cell.per_second(),
            server: cell.median(|sample| sample.cores),
            load: if machine.pinned { 0.0 } else { load },
            cores: machine.server_cores as f64,
            others: cell.median(|sample| sample.other_cores),
            p50_ms: cell.median(|sample| sample.latency.p50_ms),
            failed_percent: cell.failed() * 100.0,
        };
        cell.explanation = Some(formula::explain(&prediction, &seen));
        cell.predicted = Some(prediction.per_second);
        cell.formula = Some(prediction.formula.to_owned());
    }
    results.checks = check::checks(results);
}

/// Ours and wrk in turn, each against a server of its own; or how to get wrk.
fn agreement(plan: &Plan, load_cores: &[usize]) -> Result<Result<Option<Agreement>, String>, RunError> {
    const CONNECTIONS: usize = 64;
    let candidate = plan
        .candidates
        .iter()
        .find(|candidate| candidate.kind == Kind::Model(Model::Event));
    let Some(candidate) = candidate else {
        return Ok(Ok(None));
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let failed = |source| RunError::Measure {
        what: "comparing with wrk".to_owned(),
        source,
    };
    let run_ms = plan.extent.run_ms.max(1_000) * if plan.extent.quick { 1 } else { 2 };
    let step = Step {
        workload: Workload::Hello,
        shape: Shape::Closed {
            connections: CONNECTIONS,
        },
        candidates: Vec::new(),
        rounds: 1,
        warm_ms: 100,
        run_ms,
    };
    for pair in 0..if plan.extent.quick { 3 } else { 7 } {
        // Each goes first every other time.
        for is_wrk in [pair % 2 == 0, pair % 2 != 0] {
            let server = start(candidate).map_err(failed)?;
            if !is_wrk {
                let (sample, _) = measure::sample(server, &spec(&step, load_cores)).map_err(failed)?;
                ours.push(sample.per_second);
                continue;
            }
            match wrk(&server, CONNECTIONS, run_ms / 1_000, load_cores) {
                Ok(rate) => theirs.push(rate),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let told = "wrk is not installed: run apt-get install wrk (or build github.com/wg/wrk); it is not compared with";
                    return Ok(Err(told.to_owned()));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
    Ok(Ok(Some(Agreement {
        candidate: candidate.name.clone(),
        connections: CONNECTIONS,
        ours,
        wrk: theirs,
    })))
}

/// Requests a second by wrk, which has no warm-up, within so many seconds.
///
/// # Errors
/// It is not there ([`io::ErrorKind::NotFound`]), or its requests failed.
pub fn wrk(server: &Server, connections: usize, seconds: u64, cores: &[usize]) -> io::Result<f64> {
    let url = format!("http://{}/", server.address);
    // As ours: one thread, kept away from the servers where it can be.
    let cores = cores.to_vec();
    let load = thread::spawn(move || {
        measure::pin(&cores)?;
        Command::new("wrk")
            .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), &url])
            .stdin(Stdio::null())
            .output()
    });
    let output = load
        .join()
        .map_err(|_| io::Error::other("wrk could not be waited for"))??;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    match rate {
        Some(rate) if output.status.success() && !text.contains("Non-2xx") => Ok(rate),
        _ => Err(io::Error::other(format!("wrk failed:\n{text}"))),
    }
}

/// How far it is: one line that changes on a terminal, else a line for each step.
#[derive(Debug)]
struct Progress {
    terminal: bool,
    count: usize,
    done: usize,
    left: Duration,
    last: Option<(Workload, usize)>,
}

impl Progress {
    fn new(plan: &Plan, count: usize) -> Self {
        let left = plan.estimate();
        eprintln!(
            "thead-lab: {count} measurements of {} candidates, about {} min",
            plan.candidates.len(),
            (left.as_secs_f64() / 60.0).ceil()
        );
        Self {
            terminal: io::stderr().is_terminal(),
            count,
            done: 0,
            left,
            last: None,
        }
    }

    fn tell(&mut self, step: &Step, candidate: &Candidate) {
        let connections = step.shape.connections();
        if self.terminal {
            let left = self.left.as_secs();
            // From the start of the line, and nothing left of what stood there.
            eprint!(
                "\r\x1b[K[{}/{}] {} · {connections} connections · {} · {} min {:02} s left",
                self.done + 1,
                self.count,
                step.workload.title(),
                candidate.name,
                left / 60,
                left % 60
            );
            let _ = io::stderr().flush();
        } else if self.last != Some((step.workload, connections)) {
            eprintln!(
                "[{}/{}] {} · {connections} connections",
                self.done + 1,
                self.count,
                step.workload.title()
            );
        }
        self.last = Some((step.workload, connections));
    }

    fn done(&mut self, took: Duration) {
        self.done += 1;
        self.left = self.left.saturating_sub(took);
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
