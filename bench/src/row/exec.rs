//! Running a command to its end, with its output, again and again.

use std::time::Instant;

use tokio::task::JoinSet;

use super::handles::Timed;
use crate::host::NODE;
use crate::report::{Line, Table};
use crate::{Extent, Failure};

const PROGRAM: &str = "/bin/true";
const THEAD: &str = "thead";
const TOKIO: &str = "tokio::process";
const PEER: &str = "Node";

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    [
        ("Running a command, one at a time", 1),
        ("Running commands, eight at a time", 8),
    ]
    .map(|(title, width)| table(title, 1000 / extent.divisor, width, extent.rounds))
    .into_iter()
    .collect()
}

fn table(title: &'static str, count: usize, width: usize, rounds: usize) -> Result<Table, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = [THEAD, TOKIO, PEER].map(Line::new);
    for _ in 0..rounds {
        let with_thead = async || thead::Command::new(PROGRAM).output().await.is_ok();
        lines[0]
            .samples
            .push(runtime.block_on(all(count, width, with_thead))?.rate());
        let with_tokio = async || {
            let output = tokio::process::Command::new(PROGRAM).output().await;
            output.is_ok_and(|output| output.status.success())
        };
        lines[1]
            .samples
            .push(runtime.block_on(all(count, width, with_tokio))?.rate());
        let arguments = [&*count.to_string(), &*width.to_string()];
        lines[2]
            .samples
            .push(Timed::of_script(NODE, "exec.js", &arguments)?.rate());
    }
    Ok(Table {
        title: title.into(),
        how: format!(
            "`{PROGRAM}` is run {count} times, {width} at a time, and what it prints is collected (Node: `execFile`). All parents \
             are small and have one thread; to start the program is the same for all, and most of it."
        ),
        unit: "commands/s",
        lines: lines.into(),
        base: PEER,
        targets: Vec::new(),
    })
}

/// Runs it so many times, some at a time.
async fn all<F>(count: usize, width: usize, run: impl Fn() -> F) -> Result<Timed, Failure>
where
    F: Future<Output = bool> + Send + 'static,
{
    let begun = Instant::now();
    let mut running = JoinSet::new();
    let (mut started, mut well) = (0, 0);
    while well < count {
        while started < count && running.len() < width {
            running.spawn(run());
            started += 1;
        }
        match running.join_next().await {
            Some(Ok(true)) => well += 1,
            _ => return Err(format!("{PROGRAM} failed").into()),
        }
    }
    Ok(Timed::new(count, begun))
}
