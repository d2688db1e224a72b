//! The report as one page that fetches nothing.

use std::fmt::Write as _;

use super::picture::{NARROW, Picture, WIDE};
use super::table::{self, escape};
use crate::plot::{Ink, STYLE, number};
use crate::results::{Check, Results};

/// What the page looks like, apart from its colours.
const LAYOUT: &str = "*{box-sizing:border-box}\
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,'DejaVu Sans',sans-serif}\
main{max-width:1000px;margin:0 auto;padding:24px 16px 64px}\
h1{font-size:1.7rem;line-height:1.2;margin:.5em 0}h2{font-size:1.2rem;line-height:1.3;margin:2.2em 0 .4em}\
p{max-width:70ch;margin:.5em 0}.quiet,figcaption{color:var(--quiet)}\
a{color:var(--cluster)}\
figure{margin:1em 0}figcaption{max-width:70ch;font-size:.9rem;margin-top:.4em}\
svg{display:block;max-width:100%;height:auto}.narrow{display:none}\
ul.checks{list-style:none;padding:0;margin:1em 0}\
ul.checks li{padding:.5em 0 .5em 2.2em;border-bottom:1px solid var(--grid);position:relative}\
ul.checks b{position:absolute;left:.3em}.holds b{color:var(--good)}.fails b{color:var(--bad)}\
.scroll{overflow-x:auto;margin:.8em 0;border:1px solid var(--grid);border-radius:6px}\
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}\
th,td{padding:.3em .7em;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}\
tbody tr:last-child>*{border-bottom:0}\
thead th{color:var(--quiet);font-weight:500}.name{text-align:left}\
td.name{white-space:normal;min-width:16em}\
th:first-child{position:sticky;left:0;background:var(--ground);font-weight:600}\
@media(max-width:700px){.wide{display:none}.narrow{display:block}.narrow svg{width:100%;max-width:560px}body{font-size:15px}h1{font-size:1.4rem}}";

/// What a verdict looks like: a sign, a word and a class.
fn verdict(check: &Check) -> (&'static str, &'static str, &'static str) {
    match check.holds {
        Some(true) => ("✓", "holds", "holds"),
        Some(false) => ("✗", "does not hold", "fails"),
        None => ("–", "not measured", "open"),
    }
}

pub(super) fn page(results: &Results, pictures: &[Picture]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Service models, measured</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <style>{STYLE}{LAYOUT}</style>\n</head>\n<body>\n<main>\n<h1>Service models, measured</h1>\n"
    );
    let extent = results.extent;
    let _ = writeln!(out, "<p>{}</p>", escape(&about(results)));
    let _ = writeln!(
        out,
        "<p class=\"quiet\">{} round{} of {} s each, in {} min. M is {}, L is {}.{}</p>",
        extent.rounds,
        if extent.rounds == 1 { "" } else { "s" },
        number(extent.run_ms as f64 / 1000.0),
        number(results.took_seconds / 60.0),
        extent.processes,
        extent.threads,
        if extent.quick {
            " A short run: a single round says nothing of how far numbers scatter."
        } else {
            ""
        },
    );
    for absent in &results.missing {
        let _ = writeln!(out, "<p class=\"quiet\">Left out: {}.</p>", escape(absent));
    }
    out.push_str("<ul class=\"checks\">\n");
    for check in &results.checks {
        let (sign, word, class) = verdict(check);
        let _ = writeln!(
            out,
            "<li class=\"{class}\"><b aria-hidden=\"true\">{sign}</b>{} – {word}.<br><span class=\"quiet\">{}</span></li>",
            escape(&check.claim),
            escape(&check.figures),
        );
    }
    out.push_str("</ul>\n");
    for picture in pictures {
        let _ = writeln!(
            out,
            "<h2>{}</h2>\n<figure>\n<div class=\"wide\">{}</div>\n<div class=\"narrow\">{}</div>\n\
             <figcaption>{}</figcaption>\n</figure>",
            escape(&picture.title),
            picture.draw(Ink::Page, WIDE),
            picture.draw(Ink::Page, NARROW),
            picture.caption,
        );
    }
    for table in table::all(results) {
        let _ = writeln!(
            out,
            "<h2>{}</h2>\n<p>{}</p>\n{}",
            escape(&table.title),
            escape(&table.how),
            table.html()
        );
    }
    let _ = writeln!(
        out,
        "<h2>Words</h2>\n<p>{}</p>\n</main>\n</body>\n</html>",
        escape(super::WORDS)
    );
    out
}

/// Where it was measured, and what of it may be compared.
pub(super) fn about(results: &Results) -> String {
    let machine = &results.machine;
    let shared = if machine.pinned {
        format!(
            "The load has {} of the cores for itself.",
            machine.cores - machine.server_cores
        )
    } else {
        "The load shares the cores with the servers: what it uses, they do not have.".to_owned()
    };
    format!(
        "Measured on {}; load average when it began: {}. {shared} Read ratios, not numbers: all candidates took turns on the \
         same machine within the same minutes.",
        machine.description,
        number(machine.load_average)
    )
}

/// The checks for a terminal or for Markdown.
pub(super) fn checks(results: &Results, bullet: &str) -> String {
    let lines = results.checks.iter().map(|check| {
        let (sign, word, _) = verdict(check);
        format!("{bullet}{sign} {} – {word}: {}", check.claim, check.figures)
    });
    lines.collect::<Vec<_>>().join("\n")
}
