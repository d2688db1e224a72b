//! `docs/models.md`: an essay whose numbers come from a run.
//!
//! The words stand in `models.md` beside this file. Where it says `{{rate io sync 256}}`, the number of that cell is put in;
//! a number that the run does not have is an error, so that no sentence is ever about nothing.

use super::picture::Picture;
use super::table;
use super::{ReportError, page};
use crate::plan::Workload;
use crate::plot::{count, number};
use crate::results::{Cell, Results};

const ESSAY: &str = include_str!("models.md");

/// The essay with the numbers of a run.
pub(super) fn essay(results: &Results, pictures: &[Picture]) -> Result<String, ReportError> {
    fill(ESSAY, |place| value(results, pictures, place))
}

/// Puts a value into each place; an error names the first that has none.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, ReportError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, after) = after.split_once("}}").unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(&value(place).ok_or_else(|| ReportError::NotMeasured {
            place: place.to_owned(),
        })?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(results: &Results, pictures: &[Picture], place: &str) -> Option<String> {
    let words: Vec<&str> = place.split_whitespace().collect();
    let extent = results.extent;
    Some(match words[..] {
        ["machine"] => page::about(results),
        ["kind"] => {
            if extent.quick {
                "A short run: one round. ".to_owned()
            } else {
                String::new()
            }
        }
        ["M"] => extent.processes.to_string(),
        ["L"] => extent.threads.to_string(),
        ["ML"] => (extent.processes * extent.threads).to_string(),
        ["rounds"] => extent.rounds.to_string(),
        ["seconds"] => number(extent.run_ms as f64 / 1000.0),
        ["checks"] => page::checks(results, "- "),
        ["words"] => super::WORDS.to_owned(),
        ["missing"] => results
            .missing
            .iter()
            .map(|absent| format!("- Left out: {absent}.\n"))
            .collect(),
        ["formulas"] => table::predictions(results).markdown(),
        ["table", workload] => {
            let table = table::of(results, workload.parse::<Workload>().ok()?);
            if table.rows.is_empty() {
                return None;
            }
            format!("{}\n\n{}", table.how, table.markdown())
        }
        ["picture", name] => {
            let picture = pictures.iter().find(|picture| picture.name == name)?;
            format!(
                "![{}](models/{name}.svg)\n\n*{}.* {}",
                picture.title, picture.title, picture.caption
            )
        }
        [what, workload, candidate] => figure(what, widest(results, workload, candidate)?)?,
        ["ratio", workload, one, other] => {
            let rate = |candidate| widest(results, workload, candidate).map(Cell::per_second);
            number(rate(one)? / rate(other)?)
        }
        [what, workload, candidate, connections] => {
            figure(what, results.cell(workload, candidate, connections.parse().ok()?)?)?
        }
        _ => return None,
    })
}

/// A candidate's cell of a workload with the most connections.
fn widest<'a>(results: &'a Results, workload: &str, candidate: &str) -> Option<&'a Cell> {
    let is_meant = |cell: &&Cell| cell.workload == workload && cell.candidate == candidate && !cell.samples.is_empty();
    results
        .cells
        .iter()
        .filter(is_meant)
        .max_by_key(|cell| cell.connections)
}

/// A figure of a cell, as it is written.
fn figure(what: &str, cell: &Cell) -> Option<String> {
    if cell.samples.is_empty() {
        return None;
    }
    let counted = match what {
        "kept" => cell.median(|sample| sample.held as f64),
        "processes" => cell.median(|sample| sample.processes as f64),
        "threads" => cell.median(|sample| sample.threads as f64),
        "crashes" => table::bystanders(cell).0 as f64,
        "others" => table::bystanders(cell).1 as f64,
        "requests" => cell.requests? as f64,
        _ => return measured(what, cell).map(number),
    };
    Some(count(counted))
}

fn measured(what: &str, cell: &Cell) -> Option<f64> {
    Some(match what {
        "rate" => cell.per_second(),
        "predicted" => cell.predicted?,
        "p50" => cell.median(|sample| sample.latency.p50_ms),
        "p90" => cell.median(|sample| sample.latency.p90_ms),
        "p99" => cell.median(|sample| sample.latency.p99_ms),
        "p999" => cell.median(|sample| sample.latency.p999_ms),
        "cores" => cell.median(|sample| sample.cores),
        "cpu" => cell.median(|sample| sample.cpu_us),
        "switches" => cell.median(|sample| sample.voluntary + sample.involuntary),
        "mib" => cell.median(|sample| sample.pss_mib),
        _ => return None,
    })
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::report::picture;

    #[test]
    fn a_place_without_a_number_is_an_error_that_names_it() {
        let filled = fill("a {{x y}} b {{z}}.", |place| (place == "x y").then(|| "1".to_owned()));
        assert!(matches!(filled, Err(ReportError::NotMeasured { place }) if place == "z"));
        assert_eq!(
            fill("a {{x}}{{y}} b", |place| Some(place.to_uppercase())).expect("all are known"),
            "a XY b"
        );
    }

    #[test]
    fn every_place_of_the_essay_is_one_that_a_full_run_fills() {
        let results = crate::report::tests::full_run();
        let text = essay(&results, &picture::all(&results)).expect("all places are known");
        assert!(!text.contains("{{") && text.contains("models/throughput.svg"));
    }
}
