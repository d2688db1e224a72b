//! What a run must show, judged by its own figures.

use crate::plot::number;
use crate::results::{Agreement, Cell, Check, Results};

/// How far a model may stay behind another one before it is behind: what two runs of the same thing differ by.
const NOISE: f64 = 0.05;

/// All checks of a run.
pub fn checks(results: &Results) -> Vec<Check> {
    let mut checks = vec![cluster_is_first(results), one_over_n(results), pool(results)];
    if let Some(wrk) = &results.wrk {
        checks.push(agrees(wrk));
    }
    checks
}

fn check(claim: &str, verdict: Option<(bool, String)>) -> Check {
    let (holds, figures) = verdict.unzip();
    Check {
        claim: claim.to_owned(),
        holds,
        figures: figures.unwrap_or_else(|| "not measured in this run".to_owned()),
    }
}

/// At 256 connections that all compute, nobody serves more than a loop for each core.
fn cluster_is_first(results: &Results) -> Check {
    let cell = |name: &str| results.cell("cpu", name, 256);
    let verdict = cell("cluster").and_then(|cluster| {
        let models = ["sync", "fork", "prefork", "threads", "pool", "event"];
        let best = models
            .iter()
            .filter_map(|name| cell(name))
            .max_by(|a, b| a.per_second().total_cmp(&b.per_second()))?;
        let allowed = NOISE.max(cluster.noise()).max(best.noise());
        let (ours, theirs) = (cluster.per_second(), best.per_second());
        let figures = format!(
            "cluster {}/s, the best other one ({}) {}/s; noise {:.0} %; other programs kept {} cores busy",
            number(ours),
            best.candidate,
            number(theirs),
            allowed * 100.0,
            number(cluster.median(|sample| sample.other_cores))
        );
        Some((ours >= theirs * (1.0 - allowed), figures))
    });
    check(
        "2 ms of processor time, 256 connections: cluster serves as many as any other model, within noise",
        verdict,
    )
}

/// The greatest step at which a model was measured with 10 ms of waiting.
fn widest<'a>(results: &'a Results, candidate: &'a str) -> Option<&'a Cell> {
    results
        .of("io")
        .filter(|cell| cell.candidate == candidate)
        .max_by_key(|cell| cell.connections)
}

fn beside_formula(cell: &Cell, margin: f64) -> Option<(bool, String)> {
    let (is, predicted) = (cell.per_second(), cell.predicted?);
    let figures = format!(
        "{}/s at {} connections, {} = {}/s: {} %",
        number(is),
        cell.connections,
        cell.formula.as_deref().unwrap_or_default(),
        number(predicted),
        number(is / predicted * 100.0)
    );
    Some(((is / predicted - 1.0).abs() <= margin, figures))
}

fn one_over_n(results: &Results) -> Check {
    let verdict = widest(results, "sync").and_then(|cell| beside_formula(cell, 0.05));
    check("10 ms of waiting: sync is within 5 % of 1/N", verdict)
}

fn pool(results: &Results) -> Check {
    let claim = "10 ms of waiting: pool is within 10 % of M·L/N, unless the cores are full";
    let verdict = widest(results, "pool").and_then(|cell| {
        let (near, figures) = beside_formula(cell, 0.10)?;
        let busy = cell.median(|sample| sample.cores + sample.load_cores);
        let full = busy > 0.9 * results.machine.cores as f64;
        Some((
            near || full,
            format!("{figures}; {} of {} cores busy", number(busy), results.machine.cores),
        ))
    });
    check(claim, verdict)
}

fn agrees(wrk: &Agreement) -> Check {
    let ratio = wrk.ratio();
    let figures = format!(
        "{} % of wrk's requests/s ({}, {} connections, kept)",
        number(ratio * 100.0),
        wrk.candidate,
        wrk.connections
    );
    check(
        "the load of the lab and wrk agree within 15 %",
        Some(((ratio - 1.0).abs() <= Agreement::MARGIN, figures)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Extent, Machine, Sample};

    fn cell(workload: &str, candidate: &str, connections: usize, rates: &[f64], predicted: Option<f64>) -> Cell {
        Cell {
            workload: workload.to_owned(),
            candidate: candidate.to_owned(),
            connections,
            rate: None,
            requests: None,
            predicted,
            formula: predicted.map(|_| "1/N".to_owned()),
            explanation: None,
            samples: rates
                .iter()
                .map(|per_second| Sample {
                    per_second: *per_second,
                    cores: 1.0,
                    ..Sample::default()
                })
                .collect(),
        }
    }

    fn holds(cells: Vec<Cell>) -> Vec<Option<bool>> {
        let results = Results {
            machine: Machine {
                description: String::new(),
                cores: 2,
                server_cores: 2,
                pinned: false,
                load_average: 0.0,
            },
            extent: Extent::new(true, 2, 8),
            took_seconds: 0.0,
            missing: Vec::new(),
            cells,
            wrk: None,
            checks: Vec::new(),
        };
        checks(&results).into_iter().map(|check| check.holds).collect()
    }

    #[test]
    fn what_was_not_measured_neither_holds_nor_fails() {
        assert_eq!(holds(Vec::new()), [None, None, None]);
    }

    #[test]
    fn cluster_may_stay_behind_by_noise_only() {
        let cpu = |cluster: &[f64], threads: &[f64]| {
            holds(vec![
                cell("cpu", "cluster", 256, cluster, None),
                cell("cpu", "threads", 256, threads, None),
            ])[0]
        };
        assert_eq!(cpu(&[960.0], &[1000.0]), Some(true));
        assert_eq!(cpu(&[900.0], &[1000.0]), Some(false));
        // The rounds themselves differ by more.
        assert_eq!(cpu(&[800.0, 900.0, 1000.0], &[1000.0]), Some(true));
    }

    #[test]
    fn the_formulas_are_held_to_their_margins_at_the_widest_step() {
        let io = |sync: f64, pool: f64| {
            holds(vec![
                cell("io", "sync", 1, &[10.0], Some(100.0)),
                cell("io", "sync", 256, &[sync], Some(100.0)),
                cell("io", "pool", 256, &[pool], Some(1600.0)),
            ])
        };
        assert_eq!(io(96.0, 1500.0)[1..], [Some(true), Some(true)]);
        assert_eq!(io(94.0, 1400.0)[1..], [Some(false), Some(false)]);
    }
}
