//! The report: tables on a terminal, `results.json`, a page that fetches nothing, the pictures, and `docs/models.md`.

mod docs;
mod page;
mod picture;
mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plot::{Ink, number};
use crate::results::Results;
use picture::WIDE;

/// Why the report could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The essay asks for something that this run has not measured, or that nobody knows.
    #[error(
        "docs/models.md tells of {place:?}, which this run has not measured: run `./dev lab --docs` without a choice of \
         models or workloads"
    )]
    NotMeasured {
        /// The place in the template.
        place: String,
    },
    /// A picture as pixels.
    #[cfg(feature = "png")]
    #[error("{0}")]
    Png(#[from] crate::plot::png::PngError),
}

/// What the heads of tables mean.
const WORDS: &str = "p50, p90, p99, p99.9: so many of a hundred answers took no longer; in an open loop counted from when the \
                     request was due, so that waiting counts. ±: half of what lies between the least and the greatest round. \
                     cores: how many the server and all its processes kept busy; \
                     others': how many other programs did, which disturbs. µs each: their processor time for each \
                     answer. switches: how often a thread gave up its core, for each answer. MiB: memory of all processes, \
                     shared pages counted once (Pss). states: processes that answered, each with a memory of its own.";

/// The report for a terminal.
pub fn text(results: &Results) -> String {
    let tables: String = table::all(results).iter().map(table::Table::text).collect();
    let missing: String = results
        .missing
        .iter()
        .map(|absent| format!("\nleft out: {absent}"))
        .collect();
    format!(
        "{tables}\n{}\n{missing}\n{}\ntook {} s\n\n{}\n",
        WORDS,
        page::about(results),
        number(results.took_seconds),
        page::checks(results, "")
    )
}

/// Writes `results.json`, `index.html` and the pictures into a directory, which is made. Returns the page.
///
/// # Errors
/// A file cannot be written.
pub fn write(results: &Results, out: &Path) -> Result<PathBuf, ReportError> {
    fs::create_dir_all(out).map_err(|source| ReportError::Write {
        path: out.to_owned(),
        source,
    })?;
    put_json(&out.join("results.json"), results)?;
    let pictures = picture::all(results);
    let page = out.join("index.html");
    put(&page, page::page(results, &pictures).as_bytes())?;
    draw(&pictures, out)?;
    Ok(page)
}

/// Each picture as SVG, and as PNG where this program can.
fn draw(pictures: &[picture::Picture], out: &Path) -> Result<(), ReportError> {
    for picture in pictures {
        put(
            &out.join(format!("{}.svg", picture.name)),
            picture.draw(Ink::Alone, WIDE).as_bytes(),
        )?;
        #[cfg(feature = "png")]
        {
            let pixels = crate::plot::png::png(&picture.draw(Ink::Light, WIDE))?;
            put(&out.join(format!("{}.png", picture.name)), &pixels)?;
        }
    }
    Ok(())
}

/// Writes `docs/models.md` and its pictures, into the checkout that this program was built in.
///
/// # Errors
/// The run has not measured what the essay tells of, or a file cannot be written.
pub fn write_docs(results: &Results) -> Result<(), ReportError> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = own.parent().unwrap_or(own).join("docs");
    let essay = essay(results)?;
    let beside = docs.join("models");
    fs::create_dir_all(&beside).map_err(|source| ReportError::Write {
        path: beside.clone(),
        source,
    })?;
    draw(&picture::all(results), &beside)?;
    put_json(&beside.join("results.json"), results)?;
    put(&docs.join("models.md"), essay.as_bytes())
}

/// `docs/models.md` with the numbers of a run.
///
/// # Errors
/// The run has not measured what it tells of.
pub fn essay(results: &Results) -> Result<String, ReportError> {
    docs::essay(results, &picture::all(results))
}

fn put_json(path: &Path, results: &Results) -> Result<(), ReportError> {
    let failed = |source| ReportError::Write {
        path: path.to_owned(),
        source,
    };
    let mut json = serde_json::to_vec_pretty(results).map_err(|error| failed(error.into()))?;
    json.push(b'\n');
    put(path, &json)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    fs::write(path, bytes).map_err(|source| ReportError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::load::Latency;
    use crate::model::{Candidate, Kind};
    use crate::plan::Plan;
    use crate::results::{Agreement, Extent, Machine, Sample};

    /// A run of everything, with invented numbers.
    pub(super) fn full_run() -> Results {
        let extent = Extent::new(false, 2, 8);
        let candidates = Kind::ALL.iter().map(|kind| Candidate::new(*kind, 2, 8)).collect();
        let plan = Plan::new(candidates, &[], extent, None);
        let mut results = Results {
            machine: Machine {
                description: "2 cores".to_owned(),
                cores: 2,
                server_cores: 2,
                pinned: false,
                load_average: 0.5,
            },
            extent,
            took_seconds: 900.0,
            missing: vec!["a <peer> is not installed".to_owned()],
            cells: crate::run::cells(&plan),
            wrk: Some(Agreement {
                candidate: "event".to_owned(),
                connections: 64,
                ours: vec![98.0],
                wrk: vec![100.0],
            }),
            checks: Vec::new(),
        };
        for (at, cell) in results.cells.iter_mut().enumerate() {
            let size = (1 + at % 7) as f64;
            cell.samples = vec![
                Sample {
                    per_second: 100.0 * size,
                    latency: Latency {
                        p50_ms: size,
                        p90_ms: 2.0 * size,
                        p99_ms: 30.0 * size,
                        p999_ms: 400.0 * size,
                        max_ms: 500.0 * size,
                    },
                    answered: 1000,
                    held: cell.connections,
                    pss_mib: size,
                    processes: 2,
                    threads: 3,
                    copies: 2,
                    ..Sample::default()
                };
                3
            ];
            if cell.workload == "io" {
                cell.predicted = Some(120.0 * size);
                cell.formula = Some("C/N".to_owned());
                cell.explanation = Some("As predicted.".to_owned());
            }
        }
        results.checks = crate::check::checks(&results);
        results
    }

    #[test]
    fn the_page_fetches_nothing_and_has_every_picture_twice() {
        let results = full_run();
        let pictures = picture::all(&results);
        let page = page::page(&results, &pictures);
        assert_eq!(pictures.len(), 5);
        assert_eq!(page.matches("<svg").count(), 2 * pictures.len());
        for outside in ["src=", "@import", "url(", "<script", "href=\"http"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("a &lt;peer&gt; is not installed"));
    }

    #[test]
    fn a_run_is_the_same_after_it_was_written_and_read() {
        let results = full_run();
        let dir = tempfile::tempdir().expect("a directory");
        write(&results, dir.path()).expect("it is written");
        let text = fs::read(dir.path().join("results.json")).expect("it is there");
        assert_eq!(serde_json::from_slice::<Results>(&text).expect("it is read"), results);
    }

    #[test]
    fn the_report_of_a_run_of_nothing_says_that_nothing_was_measured() {
        let mut results = full_run();
        results.cells.clear();
        results.wrk = None;
        results.checks = crate::check::checks(&results);
        assert_eq!(text(&results).matches("not measured:").count(), 3);
        assert!(picture::all(&results).is_empty());
    }
}
