//! Messages to a Node child that sends them back.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use thead::{ChildEvent, Runtime};

use super::handles::Timed;
use crate::host::{self, NODE};
use crate::report::{Bound, Line, Table, Target};
use crate::{Extent, Failure};

/// With its number and punctuation a message of 100 bytes.
const TEXT: &str = "the quick brown fox jumps over the lazy dog, and the dog sleeps on as it did";

const ONE_THREAD: &str = "thead, one thread";
const THREADS: &str = "thead, a pool of threads";
const PEER: &str = "Node";

#[derive(Clone, Copy)]
struct Load {
    total: usize,
    window: usize,
}

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let pipelined = table(
        "Messages to a Node child and back, many under way",
        Load {
            total: 200_000 / extent.divisor,
            window: 1000,
        },
        extent.rounds,
        vec![Target {
            who: ONE_THREAD,
            over: Some(PEER),
            bound: Bound::AtLeast(1.3),
        }],
    )?;
    let ping_pong = table(
        "Messages to a Node child and back, one at a time",
        Load {
            total: 20_000 / extent.divisor,
            window: 1,
        },
        extent.rounds,
        Vec::new(),
    )?;
    Ok(vec![pipelined, ping_pong])
}

fn table(title: &'static str, load: Load, rounds: usize, targets: Vec<Target>) -> Result<Table, Failure> {
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pool = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut lines = [ONE_THREAD, PEER, THREADS].map(Line::new);
    for _ in 0..rounds {
        lines[0].samples.push(one.block_on(there_and_back(load))?.rate());
        let arguments = [&load.total.to_string(), &load.window.to_string(), TEXT];
        lines[1]
            .samples
            .push(Timed::of_script(NODE, "send-messages.js", &arguments)?.rate());
        let task = pool.spawn(async move { there_and_back(load).await.map_err(|error| error.to_string()) });
        lines[2].samples.push(pool.block_on(task)??.rate());
    }
    Ok(Table {
        title,
        how: format!(
            "A forked Node child that sends every message back; {} messages of 100 bytes of JSON, {} under way at any time. \
             The parent is Rust or Node, and reads every answer into an object.",
            load.total, load.window
        ),
        unit: "round trips/s",
        lines: lines.into(),
        base: PEER,
        targets,
    })
}

#[derive(Serialize)]
struct Numbered {
    number: usize,
    text: &'static str,
}

#[derive(Deserialize)]
struct Echo {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    number: usize,
    #[serde(default, rename = "text")]
    _text: String,
}

async fn there_and_back(Load { total, window }: Load) -> Result<Timed, Failure> {
    let command = thead::Command::fork_with(host::runtime(NODE), Runtime::Node, &[], host::script("echo.js"));
    let mut child = command.spawn()?;
    let (mut sent, mut back, mut begun) = (0, 0, Instant::now());
    while let Some(event) = child.next().await {
        let message = match event {
            ChildEvent::Spawn => continue,
            ChildEvent::Message { message, .. } => message,
            _ => return Err(format!("the child came to {event:?}").into()),
        };
        let echo: Echo = message.parse()?;
        let more = if echo.ready {
            begun = Instant::now();
            window.min(total)
        } else {
            if echo.number != back {
                return Err(format!("message {} came in place of {back}", echo.number).into());
            }
            back += 1;
            usize::from(sent < total)
        };
        for _ in 0..more {
            child
                .post_message(&Numbered {
                    number: sent,
                    text: TEXT,
                })
                .await?;
            sent += 1;
        }
        if back == total {
            let timed = Timed::new(total, begun);
            child.disconnect();
            child.wait().await;
            return Ok(timed);
        }
    }
    Err("the child ended too early".into())
}
