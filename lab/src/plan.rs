//! What is to be measured: which candidate under which load, how often, in which order.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::formula::{self, Work};
use crate::load::Shape;
use crate::model::{Candidate, Kind, Model};
use crate::peer::Peer;
use crate::results::Extent;

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// An answer at once, on kept connections.
    Hello,
    /// An answer at once, a new connection for each.
    HelloClose,
    /// An answer after 10 ms of waiting.
    Io,
    /// An answer after 2 ms of processor time.
    Cpu,
    /// At a fixed rate: answers at once, but 1 of 100 after 100 ms.
    Mix,
    /// 1 KiB.
    Small,
    /// 1 MiB.
    Large,
    /// 1 of 10 000 requests ends whoever handles it.
    Crash,
    /// Connections on which nothing is asked any more.
    Idle,
}

impl Workload {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Hello,
        Self::HelloClose,
        Self::Io,
        Self::Cpu,
        Self::Mix,
        Self::Small,
        Self::Large,
        Self::Crash,
        Self::Idle,
    ];

    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::HelloClose => "hello-close",
            Self::Io => "io",
            Self::Cpu => "cpu",
            Self::Mix => "mix",
            Self::Small => "body-1k",
            Self::Large => "body-1m",
            Self::Crash => "crash",
            Self::Idle => "idle",
        }
    }

    /// What it is, as a title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hello => "An answer at once, connections kept",
            Self::HelloClose => "An answer at once, a new connection for each",
            Self::Io => "10 ms of waiting",
            Self::Cpu => "2 ms of processor time",
            Self::Mix => "1 of 100 takes 100 ms",
            Self::Small => "1 KiB",
            Self::Large => "1 MiB",
            Self::Crash => "1 of 10 000 crashes",
            Self::Idle => "Connections that ask nothing",
        }
    }

    /// What is done, for one who wants to judge it.
    pub const fn how(self) -> &'static str {
        match self {
            Self::Hello => {
                "Closed loop: each client asks again when it has its answer. Connections are kept as long as the server keeps them."
            }
            Self::HelloClose => "Closed loop, and each request says `Connection: close`.",
            Self::Io => "Closed loop. Each request waits for 10 ms without using a processor, as for a database.",
            Self::Cpu => "Closed loop. Each request uses 2 ms of processor time of one thread.",
            Self::Mix => {
                "Open loop: requests come at a fixed rate, each on a new connection, and their time counts from when they were \
                 due. Each hundredth waits for 100 ms; the percentiles are those of the other ninety-nine, which need no time \
                 of their own."
            }
            Self::Small => "Closed loop, bodies of 1 KiB, connections kept.",
            Self::Large => "Closed loop, bodies of 1 MiB, connections kept.",
            Self::Crash => {
                "Closed loop of numbered requests. Each 10 000th ends the process that handles it; what else fails, fails with \
                 it. A client that is refused waits for 10 ms before its next request."
            }
            Self::Idle => {
                "Each connection asks once and then stays. Memory is that of the whole server while all of them are open."
            }
        }
    }

    /// What is asked for, with `{n}` for the number of the request.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Hello | Self::HelloClose | Self::Idle => "/",
            Self::Io => "/io?ms=10",
            Self::Cpu => "/cpu?ms=2",
            Self::Mix => "/mix?n={n}",
            Self::Small => "/body?bytes=1024",
            Self::Large => "/body?bytes=1048576",
            Self::Crash => "/crash?n={n}",
        }
    }

    /// Whether connections are used again.
    pub const fn keeps(self) -> bool {
        !matches!(self, Self::HelloClose | Self::Mix)
    }

    /// Each so many requests, one is slow on purpose; 0 for none.
    pub const fn slow_every(self) -> u64 {
        if matches!(self, Self::Mix) { 100 } else { 0 }
    }

    /// What one request needs, if it is always the same.
    pub const fn work(self) -> Option<Work> {
        match self {
            Self::Io => Some(Work {
                wait: Duration::from_millis(10),
                cpu: Duration::ZERO,
            }),
            Self::Cpu => Some(Work {
                wait: Duration::ZERO,
                cpu: Duration::from_millis(2),
            }),
            _ => None,
        }
    }

    /// Whether somebody can be asked for it.
    pub fn suits(self, kind: Kind) -> bool {
        match kind {
            // It serves what is fixed.
            Kind::Peer(Peer::Nginx) => matches!(self, Self::Hello | Self::HelloClose | Self::Large),
            // That is an answer at once, of which they give one already, and they take long to start.
            Kind::Peer(_) => self != Self::Small,
            Kind::Model(_) => true,
        }
    }

    /// The loads of it.
    fn shapes(self, quick: bool) -> Vec<Shape> {
        let closed = |steps: &[usize]| {
            steps
                .iter()
                .map(|connections| Shape::Closed {
                    connections: *connections,
                })
                .collect()
        };
        match (self, quick) {
            (Self::Hello, true) => closed(&[64]),
            (Self::Hello, false) => closed(&[256]),
            (Self::HelloClose, _) => closed(&[64]),
            (Self::Io, true) => closed(&[1, 16, 256]),
            (Self::Io, false) => closed(&[1, 8, 64, 256]),
            (Self::Cpu, _) => closed(&[256]),
            (Self::Mix, _) => vec![Shape::Open {
                rate: 400,
                connections: 256,
            }],
            (Self::Small | Self::Large, _) => closed(&[16]),
            (Self::Crash, _) => vec![Shape::Count {
                connections: 64,
                requests: 20_000,
            }],
            (Self::Idle, true) => [100, 1000].map(|connections| Shape::Hold { connections }).to_vec(),
            (Self::Idle, false) => [100, 1000, 10_000]
                .map(|connections| Shape::Hold { connections })
                .to_vec(),
        }
    }

    /// Whether a short run has it.
    const fn is_quick(self) -> bool {
        !matches!(self, Self::HelloClose | Self::Small | Self::Large)
    }

    /// Whether it is done as often as there are rounds. What is counted, not timed, is the same each time; and bodies are
    /// there to be looked at, no claim rests on them, and a full run has its limit.
    const fn is_repeated(self) -> bool {
        !matches!(self, Self::Crash | Self::Idle | Self::Small | Self::Large)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no workload has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no workload {name:?}: known are {}", Workload::ALL.map(Workload::name).join(", "))]
pub struct UnknownWorkload {
    name: String,
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        let mut all = Self::ALL.into_iter();
        all.find(|workload| workload.name() == name)
            .ok_or_else(|| UnknownWorkload { name: name.to_owned() })
    }
}

/// What matters of a candidate for the formula; `None` for one whose answers cost what it is not known.
pub fn shape_of(candidate: &Candidate) -> Option<formula::Shape> {
    let (processes, threads) = (candidate.processes as usize, candidate.threads as usize);
    Some(match candidate.kind {
        Kind::Model(model) => match model {
            Model::Sync => formula::Shape::OneAtATime,
            Model::ForkEach | Model::ThreadEach => formula::Shape::PerConnection,
            Model::Prefork => formula::Shape::Workers(processes),
            Model::ThreadPool => formula::Shape::Workers(processes * threads),
            Model::Event => formula::Shape::Loops(1),
            Model::ClusterRoundRobin | Model::ClusterShared | Model::ClusterKernel => formula::Shape::Loops(processes),
        },
        Kind::Peer(peer) => match peer {
            Peer::Node => formula::Shape::Loops(1),
            Peer::NodeCluster | Peer::Pm2Cluster => formula::Shape::Loops(processes),
            Peer::GunicornSync => formula::Shape::Workers(processes),
            Peer::GunicornThreads => formula::Shape::Workers(processes * threads),
            Peer::Nginx => return None,
        },
    })
}

/// A load on one candidate after the other.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is asked for.
    pub workload: Workload,
    /// How it is shaped.
    pub shape: Shape,
    /// Which candidates, by their place in [`Plan::candidates`].
    pub candidates: Vec<usize>,
    /// How often each has its turn.
    pub rounds: usize,
    /// How long nothing is counted at first.
    pub warm_ms: u64,
    /// How long it is counted.
    pub run_ms: u64,
}

/// All that is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who takes part.
    pub candidates: Vec<Candidate>,
    /// What they are asked for, in this order.
    pub steps: Vec<Step>,
    /// How much of everything.
    pub extent: Extent,
}

impl Plan {
    /// For these candidates and workloads; without workloads, all that belong to such an extent.
    pub fn new(candidates: Vec<Candidate>, workloads: &[Workload], extent: Extent, most_idle: Option<usize>) -> Self {
        let quick = extent.quick;
        let chosen = Workload::ALL.into_iter().filter(|workload| {
            if workloads.is_empty() {
                !quick || workload.is_quick()
            } else {
                workloads.contains(workload)
            }
        });
        let mut steps = Vec::new();
        for workload in chosen {
            for shape in workload.shapes(quick) {
                if matches!((shape, most_idle), (Shape::Hold { connections }, Some(most)) if connections > most) {
                    continue;
                }
                let suited = candidates.iter().enumerate().filter(|(_, candidate)| {
                    // Peers are compared where it is most telling: they take long to start.
                    let last = workload.shapes(quick).last() == Some(&shape);
                    workload.suits(candidate.kind) && (last || matches!(candidate.kind, Kind::Model(_)))
                });
                steps.push(Step {
                    workload,
                    shape,
                    candidates: suited.map(|(place, _)| place).collect(),
                    rounds: if workload.is_repeated() { extent.rounds } else { 1 },
                    warm_ms: match shape {
                        Shape::Closed { .. } | Shape::Open { .. } => {
                            if quick {
                                200
                            } else {
                                300
                            }
                        }
                        Shape::Count { .. } | Shape::Hold { .. } => 0,
                    },
                    run_ms: match shape {
                        // At a hundred a second, one more or less is to be a hundredth.
                        Shape::Closed { .. } if workload == Workload::Io => extent.run_ms.max(1_000),
                        Shape::Closed { .. } => extent.run_ms,
                        // Percentiles need numbers.
                        Shape::Open { .. } => extent.run_ms * 2,
                        Shape::Count { .. } => {
                            if quick {
                                5_000
                            } else {
                                20_000
                            }
                        }
                        // Some models keep but a few, and all of it is waited in vain.
                        Shape::Hold { connections } => 800 + connections as u64 * 7 / 10,
                    },
                });
            }
        }
        Self {
            candidates,
            steps,
            extent,
        }
    }

    /// The cells in the order in which they are measured: all candidates in turn, round by round, each round beginning with
    /// another one, so that what else the machine does falls on all of them.
    pub fn order(&self) -> impl Iterator<Item = (usize, usize)> {
        self.steps.iter().enumerate().flat_map(|(place, step)| {
            let count = step.candidates.len();
            (0..step.rounds)
                .flat_map(move |round| (0..count).map(move |turn| (place, step.candidates[(turn + round) % count])))
        })
    }

    /// About how long it takes.
    pub fn estimate(&self) -> Duration {
        self.order()
            .map(|(step, candidate)| self.estimate_of(&self.steps[step], &self.candidates[candidate]))
            .sum()
    }

    /// About how long one cell takes: to start, to load, to ask for state and to end.
    pub fn estimate_of(&self, step: &Step, candidate: &Candidate) -> Duration {
        let around = match candidate.kind {
            Kind::Model(_) => 400,
            Kind::Peer(Peer::Pm2Cluster) => 5000,
            Kind::Peer(_) => 2800,
        };
        let load = match step.shape {
            Shape::Closed { .. } | Shape::Open { .. } => step.warm_ms + step.run_ms,
            Shape::Count { requests, .. } => requests / 15,
            Shape::Hold { connections } => 300 + connections as u64 / 2,
        };
        Duration::from_millis(around + load)
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn extent(quick: bool) -> Extent {
        Extent::new(quick, 2, 8)
    }

    fn candidates(kinds: &[Kind]) -> Vec<Candidate> {
        kinds.iter().map(|kind| Candidate::new(*kind, 2, 8)).collect()
    }

    #[test]
    fn a_short_run_takes_less_than_two_minutes_and_a_full_one_with_all_peers_less_than_twenty() {
        let models = Model::ALL.map(Kind::Model);
        let quick = Plan::new(candidates(&models), &[], extent(true), None).estimate();
        assert!(quick < Duration::from_secs(115), "{quick:?}");
        let full = Plan::new(candidates(&Kind::ALL), &[], extent(false), None).estimate();
        assert!(full < Duration::from_secs(1150), "{full:?}");
    }

    #[test]
    fn candidates_take_turns_and_each_round_begins_with_another() {
        let all = candidates(&[
            Kind::Model(Model::Sync),
            Kind::Model(Model::Event),
            Kind::Model(Model::Prefork),
        ]);
        let plan = Plan::new(all, &[Workload::Cpu], extent(false), None);
        let order: Vec<usize> = plan.order().map(|(_, candidate)| candidate).collect();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
    }

    #[test]
    fn nobody_is_asked_for_what_it_cannot_do() {
        let plan = Plan::new(candidates(&[Kind::Peer(Peer::Nginx)]), &[], extent(false), None);
        let asked = plan.steps.iter().filter(|step| !step.candidates.is_empty());
        let asked: Vec<&str> = asked.map(|step| step.workload.name()).collect();
        assert_eq!(asked, ["hello", "hello-close", "body-1m"]);
    }

    #[test]
    fn a_workload_that_does_not_exist_is_refused_with_those_that_do() {
        let error = "ios".parse::<Workload>().expect_err("no such workload").to_string();
        assert!(error.contains("\"ios\"") && error.contains("hello-close"), "{error}");
        assert_eq!("idle".parse(), Ok(Workload::Idle));
    }

    #[test]
    fn fewer_idle_connections_can_be_asked_for() {
        let all = candidates(&[Kind::Model(Model::Event)]);
        let plan = Plan::new(all, &[Workload::Idle], extent(false), Some(1000));
        assert_eq!(plan.steps.len(), 2);
    }
}
