//! What the preload adds to the start of a worker.

use std::time::Instant;

use thead::cluster::{Config, Primary, PrimaryEvent};
use thead::{Command, Runtime};

use crate::host::{self, NODE};
use crate::report::{Line, Table};
use crate::{Extent, Failure};

const WITH: &str = "with the preload";
const WITHOUT: &str = "without";
const RUNS: usize = 30;

pub(crate) fn measure(extent: Extent) -> Result<Table, Failure> {
    let runs = (RUNS / extent.divisor).max(5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let preload = thead::preload::install()?;
    let command = |options: &[_]| {
        let server = Command::fork_with(host::runtime(NODE), Runtime::Node, options, host::script("server.js"));
        server.env("PORT", "0").env_remove("READY")
    };
    let (with, without) = (command(&["--require".into(), preload.into_os_string()]), command(&[]));
    let (mut lines, mut added) = ([WITH, WITHOUT].map(Line::new), Line::new("difference"));
    for _ in 0..runs {
        let [a, b] = [runtime.block_on(start(&with))?, runtime.block_on(start(&without))?];
        lines[0].samples.push(a);
        lines[1].samples.push(b);
        added.samples.push(a - b);
    }
    Ok(Table {
        title: "The preload".into(),
        how: format!(
            "From the fork of a worker to its `listening`, {runs} times with and without the file that `thead run` loads in \
             front of a Node program to drain it without loss."
        ),
        unit: "ms",
        lines: lines.into_iter().chain([added]).collect(),
        base: WITHOUT,
        targets: Vec::new(),
    })
}

/// Milliseconds until a worker listens.
async fn start(command: &Command) -> Result<f64, Failure> {
    let mut primary = Primary::new(Config::default());
    let begun = Instant::now();
    let worker = primary.fork(command)?;
    let mut taken = None;
    while let Some(event) = primary.next().await {
        match event {
            PrimaryEvent::Listening { .. } => {
                taken = Some(begun.elapsed().as_secs_f64() * 1e3);
                primary.kill(worker, rustix::process::Signal::KILL.as_raw())?;
            }
            PrimaryEvent::Exit { status, .. } => return taken.ok_or(format!("the worker ended: {status:?}").into()),
            _ => {}
        }
    }
    Err("a primary has always more to tell".into())
}
