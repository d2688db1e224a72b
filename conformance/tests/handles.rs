//! Every kind of handle, both ways, between thead and every runtime, whichever of them is the parent, in both
//! serializations: `docs/compatibility.md` has the table, and each row is measured here.
//!
//! `THEAD_WRITE_TABLE=1 cargo nextest run -p conformance --test handles` writes what it measures into the table.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::{Path, PathBuf};

use conformance::handles::{Cell, Link, Thing, judge};
use conformance::{Runtime, Script, on, programs};
use thead::{Command, Serialization};

const CHILD: &str = env!("CARGO_BIN_EXE_child");

/// What became of each cell, in order.
type Row = Vec<(Cell, Result<(), String>)>;

fn as_child(runtime: Runtime, serialization: Serialization) -> Row {
    let kind = match runtime {
        Runtime::Bun => thead::Runtime::Bun,
        Runtime::Deno => thead::Runtime::Deno,
        _ => thead::Runtime::Node,
    };
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut row = Row::new();
    let cells = Cell::all();
    tokio.block_on(async {
        while row.len() < cells.len() {
            let child = Command::fork_with(runtime.path(), kind, &[], programs().join("handles.js"))
                .channel(serialization)
                .spawn()
                .unwrap();
            let mut link = Link::Child(Box::new(child));
            let left = &cells[row.len()..];
            judge(&mut link, left, |cell, result| row.push((cell, result))).await;
            let Link::Child(child) = link else { return };
            // One that has died of a handle is dead already.
            let _ = child.kill(rustix::process::Signal::KILL.as_raw());
            child.wait().await;
        }
    });
    row
}

fn as_parent(runtime: Runtime, serialization: Serialization) -> Row {
    let text = std::fs::read_to_string(programs().join("handles.js")).unwrap();
    let mut row = Row::new();
    let cells = Cell::all();
    while row.len() < cells.len() {
        let from = row.len().to_string();
        let variables = [
            ("CHILD", CHILD),
            ("SERIALIZATION", serialization.as_str()),
            ("FROM", &from),
        ];
        let mut script = Script::start(runtime, &text, &variables);
        let (_, lines) = script.end();
        let before = row.len();
        for line in lines {
            let Some(result) = line.get("result") else { continue };
            let result = result.as_str().map_or(Ok(()), |error| Err(error.to_owned()));
            row.push((cells[row.len()], result));
        }
        if row.len() == before {
            // The parent died of it, and its child with it.
            row.push((cells[before], Err("the runtime has ended".into())));
        }
    }
    row
}

fn name(runtime: Runtime) -> String {
    match runtime {
        Runtime::Bun => "Bun".into(),
        Runtime::Deno => "Deno".into(),
        node => format!("Node {}", node.node()),
    }
}

/// The rows of a runtime as they stand in the table.
fn measured(runtime: Runtime) -> Vec<String> {
    let mut rows = Vec::new();
    for serialization in [Serialization::Json, Serialization::Advanced] {
        for role in ["child", "parent"] {
            let row = match role {
                "child" => as_child(runtime, serialization),
                _ => as_parent(runtime, serialization),
            };
            for (cell, result) in &row {
                if let Err(error) = result {
                    println!("{runtime} {} {role} {cell}: {error}", serialization.as_str());
                }
            }
            let cells: Vec<_> = row
                .chunks(2)
                .map(|both| match (both[0].1.is_ok(), both[1].1.is_ok()) {
                    (true, true) => "both",
                    (true, false) => "takes",
                    (false, true) => "gives",
                    (false, false) => "–",
                })
                .collect();
            let (runtime, serialization) = (name(runtime), serialization.as_str());
            rows.push(format!(
                "| {runtime} | {serialization} | {role} | {} |",
                cells.join(" | ")
            ));
        }
    }
    rows
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md")
}

/// Puts rows into the table, in the place of those that begin alike.
fn write(rows: &[String]) {
    let file = File::open(table()).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let text = std::fs::read_to_string(table()).unwrap();
    let head = |row: &str| row.split('|').take(4).collect::<Vec<_>>().join("|");
    let lines = text.lines().map(|line| {
        let new = rows.iter().find(|row| head(row) == head(line) && line.starts_with('|'));
        new.map_or(line, String::as_str)
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(table(), text).unwrap();
}

fn handles_pass_as_the_table_says(runtime: Runtime) {
    let rows = measured(runtime);
    if std::env::var_os("THEAD_WRITE_TABLE").is_some() {
        write(&rows);
    }
    let text = std::fs::read_to_string(table()).unwrap();
    for row in rows {
        assert!(text.lines().any(|line| line == row), "the table does not have: {row}");
    }
}

on! { all: handles_pass_as_the_table_says }

#[test]
fn the_table_has_a_column_for_each_kind_of_handle() {
    let titles: Vec<_> = Thing::ALL.iter().map(|thing| thing.title()).collect();
    let head = format!("| runtime | serialization | it is the | {} |", titles.join(" | "));
    let text = std::fs::read_to_string(table()).unwrap();
    assert!(
        text.lines().any(|line| line == head),
        "the table does not begin with: {head}"
    );
}
