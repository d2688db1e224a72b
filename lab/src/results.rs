//! What was measured, as it stands in `results.json`: everything that is shown is made from this.

use serde::{Deserialize, Serialize};

use crate::load::{Failures, Latency};

/// One run of the lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// How much of everything.
    pub extent: Extent,
    /// How long it took, in seconds.
    pub took_seconds: f64,
    /// What could not be measured, and how to mend it.
    pub missing: Vec<String>,
    /// What was.
    pub cells: Vec<Cell>,
    /// What wrk says of the same server.
    pub wrk: Option<Agreement>,
    /// What must hold.
    pub checks: Vec<Check>,
}

/// What can be told of a machine without naming it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores, processor, memory, kernel.
    pub description: String,
    /// Cores that there are.
    pub cores: usize,
    /// Cores that the servers were kept on; all if they share them with the load.
    pub server_cores: usize,
    /// Whether the load had cores of its own.
    pub pinned: bool,
    /// Processes that wanted to run when it began, on average over a minute.
    pub load_average: f64,
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Few and short.
    pub quick: bool,
    /// How often each candidate has its turn.
    pub rounds: usize,
    /// M.
    pub processes: usize,
    /// L.
    pub threads: usize,
    /// How long is counted, in milliseconds.
    pub run_ms: u64,
}

impl Extent {
    /// A short run or a full one, with so many processes (M) of so many threads (L).
    pub fn new(quick: bool, processes: usize, threads: usize) -> Self {
        Self {
            quick,
            rounds: if quick { 1 } else { 3 },
            processes,
            threads,
            run_ms: if quick { 600 } else { 1_000 },
        }
    }
}

/// One candidate under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// A name of [`crate::plan::Workload`].
    pub workload: String,
    /// A name of [`crate::model::Kind`].
    pub candidate: String,
    /// Clients, or connections that are held.
    pub connections: usize,
    /// Requests a second that were asked for; `None` in a closed loop.
    pub rate: Option<u32>,
    /// Requests in all; `None` if time was the limit.
    pub requests: Option<u64>,
    /// What the formula says, in requests a second.
    pub predicted: Option<f64>,
    /// The formula.
    pub formula: Option<String>,
    /// Where and why the two part.
    pub explanation: Option<String>,
    /// One for each round.
    pub samples: Vec<Sample>,
}

/// What one round showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Right answers a second.
    pub per_second: f64,
    /// How long they took.
    pub latency: Latency,
    /// Requests without a right answer.
    pub failures: Failures,
    /// Right answers.
    pub answered: u64,
    /// Clients that had one.
    pub clients_served: usize,
    /// Connections that the server kept after an answer.
    pub held: usize,
    /// Cores that the server kept busy.
    pub cores: f64,
    /// Cores that the load kept busy.
    pub load_cores: f64,
    /// Cores that all other programs kept busy: what disturbs.
    pub other_cores: f64,
    /// Processor time of the server for each answer, in µs.
    pub cpu_us: f64,
    /// Memory of all its processes, shared pages counted once.
    pub pss_mib: f64,
    /// Memory, shared pages counted with each process.
    pub rss_mib: f64,
    /// Processes, the most that were seen.
    pub processes: usize,
    /// Threads, the most that were seen.
    pub threads: usize,
    /// Times that a thread waited for something, for each answer.
    pub voluntary: f64,
    /// Times that a thread had to let another one run, for each answer.
    pub involuntary: f64,
    /// Processes that answered: each has a state of its own.
    pub copies: usize,
}

/// What another load generator says of the same server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Who served.
    pub candidate: String,
    /// Clients.
    pub connections: usize,
    /// Requests a second by ours, one for each pair.
    pub ours: Vec<f64>,
    /// Requests a second by wrk.
    pub wrk: Vec<f64>,
}

impl Agreement {
    /// How far apart they may be, of 1.
    pub const MARGIN: f64 = 0.15;

    /// Ours for each of wrk's: the median of the pairs, of which each was measured within seconds.
    pub fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.wrk).map(|(ours, wrk)| ours / wrk))
    }
}

/// What must hold, and whether it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The claim.
    pub claim: String,
    /// Whether it holds; `None` if what it is about was not measured.
    pub holds: Option<bool>,
    /// The figures.
    pub figures: String,
}

/// The middle one; of an even number, between the two. 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Cell {
    /// The median of the rounds.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    /// The least and the greatest of the rounds.
    pub fn spread(&self, of: impl Fn(&Sample) -> f64) -> (f64, f64) {
        let values = self.samples.iter().map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    }

    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        self.median(|sample| sample.per_second)
    }

    /// Half of what lies between the least and the greatest rate, for each of the median.
    pub fn noise(&self) -> f64 {
        let (low, high) = self.spread(|sample| sample.per_second);
        let middle = self.per_second();
        if middle > 0.0 { (high - low) / 2.0 / middle } else { 0.0 }
    }

    /// Failures of all rounds, for each request of all rounds.
    pub fn failed(&self) -> f64 {
        let (failed, answered) = self.samples.iter().fold((0, 0), |(failed, answered), sample| {
            (failed + sample.failures.sum(), answered + sample.answered)
        });
        if failed == 0 {
            0.0
        } else {
            failed as f64 / (failed + answered) as f64
        }
    }
}

impl Results {
    /// The cells of a workload, in the order in which they were planned.
    pub fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.workload == workload)
    }

    /// One cell.
    pub fn cell(&self, workload: &str, candidate: &str, connections: usize) -> Option<&Cell> {
        let is_meant = |cell: &&Cell| cell.workload == workload && cell.candidate == candidate;
        self.cells
            .iter()
            .filter(is_meant)
            .find(|cell| cell.connections == connections)
    }

    /// The candidates of a workload, each once.
    pub fn candidates(&self, workload: &str) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in self.cells.iter().filter(|cell| cell.workload == workload) {
            if !names.contains(&cell.candidate.as_str()) {
                names.push(&cell.candidate);
            }
        }
        names
    }

    /// The numbers of connections of a workload, each once, rising.
    pub fn steps(&self, workload: &str) -> Vec<usize> {
        let mut steps: Vec<usize> = self
            .cells
            .iter()
            .filter(|cell| cell.workload == workload)
            .map(|cell| cell.connections)
            .collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_rounds_is_shown_with_their_spread() {
        let cell = Cell {
            workload: "io".to_owned(),
            candidate: "sync".to_owned(),
            connections: 16,
            rate: None,
            requests: None,
            predicted: None,
            formula: None,
            explanation: None,
            samples: [90.0, 110.0, 100.0]
                .map(|per_second| Sample {
                    per_second,
                    answered: 99,
                    failures: Failures {
                        refused: 1,
                        ..Failures::default()
                    },
                    ..Sample::default()
                })
                .to_vec(),
        };
        assert_eq!(
            (cell.per_second(), cell.spread(|sample| sample.per_second)),
            (100.0, (90.0, 110.0))
        );
        assert!((cell.noise() - 0.1).abs() < 1e-9);
        assert!((cell.failed() - 0.01).abs() < 1e-9);
        assert_eq!((median([1.0, 2.0]), median([])), (1.5, 0.0));
    }
}
