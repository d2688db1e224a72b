//! The pictures of a run.

use crate::plan::Workload;
use crate::plot::{Dot, Ink, Line, Lines, Mark, Row, Rows, number};
use crate::results::{Cell, Results, Sample};

/// A picture, with what stands below it.
#[derive(Debug)]
pub(super) struct Picture {
    /// Its file, without an ending.
    pub(super) name: &'static str,
    pub(super) title: String,
    /// What one sees in it.
    pub(super) caption: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Lines(Lines),
    Rows(Rows),
}

/// As wide as a column of text on a desk.
pub(super) const WIDE: f64 = 948.0;
/// As wide as a telephone.
pub(super) const NARROW: f64 = 346.0;

impl Picture {
    pub(super) fn draw(&self, ink: Ink, width: f64) -> String {
        match &self.kind {
            Kind::Lines(lines) => lines.draw(ink, width),
            Kind::Rows(rows) => rows.draw(ink, width),
        }
    }
}

/// The models that differ from each other as models; the two other kinds of cluster would cover the first.
const MODELS: [&str; 7] = ["sync", "fork", "prefork", "threads", "pool", "event", "cluster"];

/// All of a run that has what they show.
pub(super) fn all(results: &Results) -> Vec<Picture> {
    [
        throughput(results),
        latency(results),
        memory(results),
        formula(results),
        candidates(results),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Lines of a workload, one for each model: what is up is taken from each cell that has it.
fn lines(results: &Results, workload: Workload, up: impl Fn(&Cell) -> Option<f64>) -> Vec<Line> {
    let line = |name: &&str| {
        let cells = results
            .of(workload.name())
            .filter(|cell| cell.candidate == *name && !cell.samples.is_empty());
        let points: Vec<(f64, f64)> = cells
            .filter_map(|cell| Some((cell.connections as f64, up(cell)?)))
            .collect();
        (!points.is_empty()).then(|| Line {
            name: (*name).to_owned(),
            points,
        })
    };
    MODELS.iter().filter_map(line).collect()
}

fn steps(results: &Results, workload: Workload) -> Vec<f64> {
    results
        .steps(workload.name())
        .into_iter()
        .map(|step| step as f64)
        .collect()
}

fn throughput(results: &Results) -> Option<Picture> {
    let lines = lines(results, Workload::Io, |cell| Some(cell.per_second()));
    let title = "Throughput against concurrency, each request waits for 10 ms".to_owned();
    (!lines.is_empty()).then(|| Picture {
        name: "throughput",
        title: title.clone(),
        caption: "One at a time stays at 1/N whoever asks. A fixed number of workers rises until each is taken. Models without \
                  such a number rise with their clients, until a core is full.",
        kind: Kind::Lines(Lines {
            title,
            along: "connections".to_owned(),
            up: "requests/s".to_owned(),
            lines,
            steps: steps(results, Workload::Io),
        }),
    })
}

fn memory(results: &Results) -> Option<Picture> {
    // A server that does not keep them has nothing to show.
    let kept = |cell: &Cell| {
        let held = cell.median(|sample| sample.held as f64);
        (held >= 0.99 * cell.connections as f64).then(|| cell.median(|sample| sample.pss_mib))
    };
    let lines = lines(results, Workload::Idle, kept);
    let title = "Memory against connections that ask nothing".to_owned();
    (!lines.is_empty()).then(|| Picture {
        name: "memory",
        title: title.clone(),
        caption: "What a connection costs in a process, a thread or a loop, as far as it is the program's own memory: what \
                  the kernel keeps for a process or a thread is not in it. Models that keep no more connections than they \
                  have workers are missing.",
        kind: Kind::Lines(Lines {
            title,
            along: "connections kept open".to_owned(),
            up: "MiB, Pss of all processes".to_owned(),
            lines,
            steps: steps(results, Workload::Idle),
        }),
    })
}

fn dot(name: &str, mark: Mark, colour: &'static str, hollow: bool) -> Dot {
    Dot {
        name: name.to_owned(),
        mark,
        colour,
        hollow,
    }
}

fn group(name: String) -> Row {
    Row {
        name,
        values: Vec::new(),
        note: String::new(),
    }
}

fn milliseconds(value: f64) -> String {
    if value >= 1000.0 {
        format!("{} s", number(value / 1000.0))
    } else {
        format!("{} ms", number(value))
    }
}

fn latency(results: &Results) -> Option<Picture> {
    let quantiles: [fn(&Sample) -> f64; 4] = [
        |sample| sample.latency.p50_ms,
        |sample| sample.latency.p90_ms,
        |sample| sample.latency.p99_ms,
        |sample| sample.latency.p999_ms,
    ];
    let cells = || results.of(Workload::Mix.name()).filter(|cell| !cell.samples.is_empty());
    let rate = cells().next()?.rate?;
    let row = |cell: &Cell| Row {
        name: cell.candidate.clone(),
        values: quantiles.iter().map(|of| Some(cell.median(of))).collect(),
        note: milliseconds(cell.median(quantiles[3])),
    };
    let title = format!("How long requests that need no time take, when 1 of 100 needs 100 ms ({rate} requests/s)");
    Some(Picture {
        name: "latency",
        title: title.clone(),
        caption: "Who waits behind a slow request: everybody, where there is one worker; nobody, where waiting takes no worker. \
                  The slow requests themselves are left out. At the right: 99.9 %.",
        kind: Kind::Rows(Rows {
            title,
            along: "ms since the request was due".to_owned(),
            dots: vec![
                dot("50 %", Mark::Circle, "cluster", false),
                dot("90 %", Mark::Circle, "cluster", true),
                dot("99 %", Mark::Diamond, "fork", false),
                dot("99.9 %", Mark::Up, "bad", false),
            ],
            rows: cells().map(row).collect(),
        }),
    })
}

fn formula(results: &Results) -> Option<Picture> {
    let mut rows = Vec::new();
    for workload in [Workload::Io, Workload::Cpu] {
        let Some(widest) = results.steps(workload.name()).last().copied() else {
            continue;
        };
        let cells = results
            .of(workload.name())
            .filter(|cell| cell.connections == widest && !cell.samples.is_empty());
        let row = |cell: &Cell| {
            let (predicted, measured) = (cell.predicted?, cell.per_second());
            Some(Row {
                name: cell.candidate.clone(),
                values: vec![Some(predicted), Some(measured)],
                note: format!("{:.0} %", measured / predicted * 100.0),
            })
        };
        let these: Vec<Row> = cells.filter_map(row).collect();
        if !these.is_empty() {
            rows.push(group(format!("{}, {widest} connections", workload.title())));
            rows.extend(these);
        }
    }
    let title = "Predicted and measured throughput".to_owned();
    (!rows.is_empty()).then(|| Picture {
        name: "formula",
        title: title.clone(),
        caption: "The bar is what the formula says, the dot what was measured; at the right, the second for each of the first. \
                  They part where what a formula leaves out is no longer small: being connected, scheduled and woken.",
        kind: Kind::Rows(Rows {
            title,
            along: "requests/s".to_owned(),
            dots: vec![
                dot("predicted", Mark::Bar, "quiet", false),
                dot("measured", Mark::Circle, "cluster", false),
            ],
            rows,
        }),
    })
}

fn candidates(results: &Results) -> Option<Picture> {
    let mut rows = Vec::new();
    for workload in [Workload::Hello, Workload::Cpu] {
        let Some(widest) = results.steps(workload.name()).last().copied() else {
            continue;
        };
        rows.push(group(format!("{}, {widest} clients", workload.title())));
        let cells = results
            .of(workload.name())
            .filter(|cell| cell.connections == widest && !cell.samples.is_empty());
        rows.extend(cells.map(|cell| Row {
            name: cell.candidate.clone(),
            values: vec![Some(cell.per_second())],
            note: number(cell.per_second()),
        }));
    }
    let title = "Models and peers".to_owned();
    (!rows.is_empty()).then(|| Picture {
        name: "candidates",
        title: title.clone(),
        caption: "Requests a second of each candidate that was there. What each answer costs the server in processor time \
                  decides the upper half; cores decide the lower.",
        kind: Kind::Rows(Rows {
            title,
            along: "requests/s".to_owned(),
            dots: vec![dot("requests/s", Mark::Circle, "cluster", false)],
            rows,
        }),
    })
}
