//! Tables of what was measured: on the terminal as it comes, and as a page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::host::{self, NODE};
use crate::{Failure, load};

/// The samples of one candidate, one for each round.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) who: String,
    pub(crate) samples: Vec<f64>,
}

impl Line {
    pub(crate) fn new(who: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            samples: Vec::new(),
        }
    }
}

/// A promise about one line in terms of another, or in its own unit.
#[derive(Debug)]
pub(crate) struct Target {
    /// Which line, by its name.
    pub(crate) who: &'static str,
    /// Divided by this line, if there is one.
    pub(crate) over: Option<&'static str>,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One thing that was measured of several candidates.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// What was done, for one who wants to judge it.
    pub(crate) how: String,
    pub(crate) unit: &'static str,
    pub(crate) lines: Vec<Line>,
    /// The line that others are compared with.
    pub(crate) base: &'static str,
    pub(crate) targets: Vec<Target>,
}

/// The middle one; of an even number, between the two.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Three digits, and separated thousands.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && whole.len() > 4 {
            out.push(' ');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

impl Table {
    fn line(&self, who: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.who == who)
    }

    /// The median of what the rounds gave each: a disturbance that lasts falls on both.
    fn ratio(&self, who: &str, over: &str) -> Option<f64> {
        let (line, base) = (self.line(who)?, self.line(over)?);
        let ratios: Vec<f64> = line.samples.iter().zip(&base.samples).map(|(a, b)| a / b).collect();
        Some(median(&ratios))
    }

    fn rows(&self) -> Vec<[String; 4]> {
        let row = |line: &Line| {
            let (low, high) = line
                .samples
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sample| {
                    (low.min(*sample), high.max(*sample))
                });
            let ratio = self.ratio(&line.who, self.base).unwrap_or(f64::NAN);
            [
                line.who.clone(),
                number(median(&line.samples)),
                format!("{} – {}", number(low), number(high)),
                number(ratio),
            ]
        };
        self.lines.iter().map(row).collect()
    }

    fn heads(&self) -> [String; 4] {
        ["", self.unit, "least – most", &format!("× {}", self.base)].map(str::to_owned)
    }

    fn print(&self) {
        let rows = self.rows();
        let mut widths = self.heads().map(|head| head.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        println!("\n{}", self.title);
        for row in std::iter::once(&self.heads()).chain(&rows) {
            let [who, value, spread, ratio] = row;
            let [a, b, c, d] = widths;
            println!("  {who:a$}  {value:>b$}  {spread:>c$}  {ratio:>d$}");
        }
    }

    fn verdicts(&self) -> impl Iterator<Item = [String; 4]> {
        self.targets.iter().map(|target| {
            let value = match target.over {
                Some(over) => self.ratio(target.who, over).unwrap_or(f64::NAN),
                None => self.line(target.who).map_or(f64::NAN, |line| median(&line.samples)),
            };
            let (met, wanted) = match target.bound {
                Bound::AtLeast(bound) => (value >= bound, format!("≥ {}", number(bound))),
                Bound::AtMost(bound) => (value <= bound, format!("≤ {}", number(bound))),
            };
            let (what, unit) = match target.over {
                Some(over) => (format!("{}: {} ÷ {over}", self.title, target.who), String::new()),
                None => (format!("{}: {}", self.title, target.who), format!(" {}", self.unit)),
            };
            [
                what,
                format!("{wanted}{unit}"),
                format!("{}{unit}", number(value)),
                if met { "met" } else { "**falls short**" }.to_owned(),
            ]
        })
    }
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    tables: Vec<Table>,
    /// The load average before it began.
    load: f64,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            tables: Vec::new(),
            load: host::load_average(),
        }
    }

    pub(crate) fn add(&mut self, table: Table) {
        table.print();
        self.tables.push(table);
    }

    pub(crate) fn print_targets(&self) {
        println!();
        for [what, wanted, is, met] in self.tables.iter().flat_map(Table::verdicts) {
            println!("{:13} {is} (wanted {wanted})  {what}", met.trim_matches('*'));
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(fs::write(path, self.page()?)?)
    }

    fn page(&self) -> Result<String, Failure> {
        let mut page = String::from(HEAD);
        writeln!(page, "| target | wanted | measured | |\n| --- | --- | --- | --- |")?;
        for row in self.tables.iter().flat_map(Table::verdicts) {
            writeln!(page, "| {} |", row.join(" | "))?;
        }
        let node = host::version(&host::runtime(NODE))?;
        writeln!(
            page,
            "\n## Where\n\n{}. Node.js {node} for every server, worker and peer unless a row says otherwise; PM2 {}; \
             wrk with one thread and {} connections, on the same machine. Load average when it began: {}.\n\n{METHOD}",
            host::describe(),
            pm2_version()?,
            load::CONNECTIONS,
            number(self.load),
        )?;
        for table in &self.tables {
            writeln!(page, "\n## {}\n\n{}\n", table.title, table.how)?;
            writeln!(page, "| {} |\n| --- | ---: | ---: | ---: |", table.heads().join(" | "))?;
            for row in table.rows() {
                writeln!(page, "| {} |", row.join(" | "))?;
            }
        }
        Ok(page)
    }
}

fn pm2_version() -> Result<String, Failure> {
    let text = fs::read(host::script("package.json"))?;
    let json: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(json["dependencies"]["pm2"]
        .as_str()
        .unwrap_or("of no version")
        .to_owned())
}

const HEAD: &str = "\
# Performance

Written by `bench/run`; do not edit. Run it again to see how it is where you are:

```sh
bench/run                       # everything, about twenty minutes; writes this file
bench/run connections --quick   # one row, in a minute; writes nothing
```

It needs a Rust toolchain, npm and wrk, and installs the runtimes and PM2 into ignored directories. Compare ratios, not
numbers: peer and thead run in turn on the same machine within the same minutes, and what one run says of absolute speed is
true of that machine on that day.

";

const METHOD: &str = "\
Nothing is pinned to a core. Candidates take turns for several rounds, each round beginning with another one. A number is the
median of the rounds; the ratio beside it is the median of the ratios within each round, so it need not be the quotient of
two medians. Processor time is that of all threads of a process, from the scheduler's own account (`/proc/PID/task/*/schedstat`).";
