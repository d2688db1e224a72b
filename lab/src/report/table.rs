//! Tables: the same one on a terminal, in a page and in Markdown.

use std::fmt::Write as _;

use crate::plan::Workload;
use crate::plot::{count, number};
use crate::results::{Cell, Results, Sample};

/// Rows of text under heads. The first column names, the others count.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) title: String,
    /// What was done.
    pub(super) how: String,
    pub(super) heads: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    /// How many columns at the end are words.
    pub(super) words: usize,
}

impl Table {
    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let all = || std::iter::once(&heads).chain(&self.rows);
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = format!("\n{}\n", self.title);
        for row in all() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match self.is_name(column) {
                    true => write!(line, "  {cell:<width$}"),
                    false => write!(line, "  {cell:>width$}"),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    fn is_name(&self, column: usize) -> bool {
        column == 0 || column + self.words >= self.heads.len()
    }

    /// For Markdown, without the title.
    pub(super) fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|", self.heads.join(" | "));
        for column in 0..self.heads.len() {
            out.push_str(if self.is_name(column) { " --- |" } else { " ---: |" });
        }
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = write!(out, "\n| {} |", cells.join(" | "));
        }
        out
    }

    /// For a page.
    pub(super) fn html(&self) -> String {
        let class = |column: usize| if self.is_name(column) { " class=\"name\"" } else { "" };
        let mut out = format!(
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table>\n<thead><tr>",
            escape(&self.title)
        );
        for (column, head) in self.heads.iter().enumerate() {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column), escape(head));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let tag = if column == 0 { "th scope=\"row\"" } else { "td" };
                let end = if column == 0 { "th" } else { "td" };
                let _ = write!(out, "<{tag}{}>{}</{end}>", class(column), escape(cell));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
}

/// A text as HTML has it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// All tables of a run, in the order of the workloads; those without a row are left out.
pub(super) fn all(results: &Results) -> Vec<Table> {
    let mut tables: Vec<Table> = Workload::ALL
        .into_iter()
        .map(|workload| of(results, workload))
        .collect();
    tables.push(predictions(results));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// The table of a workload.
pub(super) fn of(results: &Results, workload: Workload) -> Table {
    let cells = results.of(workload.name()).filter(|cell| !cell.samples.is_empty());
    let heads = match workload {
        Workload::Crash => vec!["", "requests", "crashed", "others failed", "how"],
        Workload::Idle => vec!["", "connections", "kept", "MiB", "KiB each", "processes", "threads"],
        _ => vec![
            "",
            "connections",
            "requests/s",
            "±",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "cores",
            "others'",
            "µs each",
            "switches",
            "MiB",
            "processes",
            "threads",
            "states",
            "failed",
        ],
    };
    let row = match workload {
        Workload::Crash => crash,
        Workload::Idle => idle,
        _ => timed,
    };
    Table {
        title: workload.title().to_owned(),
        how: workload.how().to_owned(),
        heads,
        rows: cells.map(row).collect(),
        words: usize::from(workload == Workload::Crash),
    }
}

fn timed(cell: &Cell) -> Vec<String> {
    let value = |of: fn(&Sample) -> f64| number(cell.median(of));
    let whole = |of: fn(&Sample) -> f64| format!("{:.0}", cell.median(of));
    let failed = cell.failed();
    let copies = cell.median(|sample| sample.copies as f64) as usize;
    vec![
        cell.candidate.clone(),
        cell.connections.to_string(),
        value(|sample| sample.per_second),
        if cell.samples.len() > 1 {
            format!("{:.0} %", cell.noise() * 100.0)
        } else {
            "–".to_owned()
        },
        value(|sample| sample.latency.p50_ms),
        value(|sample| sample.latency.p90_ms),
        value(|sample| sample.latency.p99_ms),
        value(|sample| sample.latency.p999_ms),
        value(|sample| sample.cores),
        value(|sample| sample.other_cores),
        whole(|sample| sample.cpu_us),
        value(|sample| sample.voluntary + sample.involuntary),
        value(|sample| sample.pss_mib),
        whole(|sample| sample.processes as f64),
        whole(|sample| sample.threads as f64),
        match copies {
            0 => "–".to_owned(),
            crate::measure::PROBES => "one each".to_owned(),
            copies => copies.to_string(),
        },
        if failed == 0.0 {
            "0".to_owned()
        } else {
            format!("{} %", number(failed * 100.0))
        },
    ]
}

/// Requests that failed and were not to: the others of those whose number ends a process.
pub(super) fn bystanders(cell: &Cell) -> (u64, u64) {
    let crashes = cell.requests.unwrap_or(0) / 10_000;
    let failed = cell.samples.first().map_or(0, |sample| sample.failures.sum());
    (crashes, failed.saturating_sub(crashes))
}

fn crash(cell: &Cell) -> Vec<String> {
    let (crashes, others) = bystanders(cell);
    let words = cell
        .samples
        .first()
        .map(|sample| sample.failures.words())
        .unwrap_or_default();
    vec![
        cell.candidate.clone(),
        count(cell.requests.unwrap_or(0) as f64),
        crashes.to_string(),
        count(others as f64),
        words,
    ]
}

fn idle(cell: &Cell) -> Vec<String> {
    let held = cell.median(|sample| sample.held as f64);
    let pss = cell.median(|sample| sample.pss_mib);
    vec![
        cell.candidate.clone(),
        count(cell.connections as f64),
        count(held),
        number(pss),
        // Of few connections it would be the server itself.
        if held >= 1000.0 {
            number(pss * 1024.0 / held)
        } else {
            "–".to_owned()
        },
        format!("{:.0}", cell.median(|sample| sample.processes as f64)),
        format!("{:.0}", cell.median(|sample| sample.threads as f64)),
    ]
}

/// What the formulas say, beside what was measured.
pub(super) fn predictions(results: &Results) -> Table {
    let row = |cell: &Cell| {
        let predicted = cell.predicted?;
        let workload: Workload = cell.workload.parse().ok()?;
        Some(vec![
            cell.candidate.clone(),
            workload.title().to_owned(),
            cell.connections.to_string(),
            cell.formula.clone()?,
            number(predicted),
            number(cell.per_second()),
            cell.explanation.clone()?,
        ])
    };
    Table {
        title: "Predicted and measured".to_owned(),
        how: "N is the time of one request, M processes, L threads of each, C connections. What a formula leaves out is what \
              the last column tells of. Where the load shares the cores, the prediction has what it leaves of them."
            .to_owned(),
        heads: vec!["", "load", "connections", "formula", "predicted/s", "measured/s", "why they part"],
        rows: results.cells.iter().filter_map(row).collect(),
        words: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            title: "T".to_owned(),
            how: String::new(),
            heads: vec!["", "rate", "why"],
            rows: vec![vec!["a".to_owned(), "1 000".to_owned(), "x | <y>".to_owned()]],
            words: 1,
        }
    }

    #[test]
    fn names_stand_left_and_numbers_right() {
        assert_eq!(table().text(), "\nT\n      rate  why\n  a  1 000  x | <y>\n");
    }

    #[test]
    fn markdown_and_html_cannot_be_broken_by_what_is_in_a_cell() {
        assert_eq!(
            table().markdown(),
            "|  | rate | why |\n| --- | ---: | --- |\n| a | 1 000 | x \\| <y> |"
        );
        let html = table().html();
        assert!(
            html.contains("<td class=\"name\">x | &lt;y&gt;</td>") && html.contains("<th scope=\"row\""),
            "{html}"
        );
    }
}
