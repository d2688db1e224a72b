//! Messages to a child that sends them back.

use std::borrow::Cow;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thead::{ChildEvent, Command, ParentEvent, Runtime, Serialization};

use super::handles::Timed;
use crate::host::{self, NODE};
use crate::report::{Bound, Line, Table, Target};
use crate::{Extent, Failure};

/// The argument by which this program becomes a child that sends every message back.
pub(crate) const ECHO: &str = "echo-child";

/// With its number and punctuation a message of 100 bytes; longer ones repeat it.
const TEXT: &str = "the quick brown fox jumps over the lazy dog, and the dog sleeps on as it did";

const RUST: &str = "thead – thead";
const MIXED: &str = "thead – Node";
const POOL: &str = "thead, a pool of threads – Node";
const PEER: &str = "Node – Node";

/// How a channel is loaded.
#[derive(Clone, Copy)]
struct Load {
    size: &'static str,
    /// Bytes of text in a message, about.
    bytes: usize,
    total: usize,
    /// Messages that are under way at any time.
    window: usize,
}

const LOADS: [Load; 5] = [
    Load {
        size: "100 bytes",
        bytes: 0,
        total: 200_000,
        window: 1000,
    },
    Load {
        size: "100 bytes",
        bytes: 0,
        total: 20_000,
        window: 1,
    },
    Load {
        size: "4 KiB",
        bytes: 4 << 10,
        total: 40_000,
        window: 200,
    },
    Load {
        size: "64 KiB",
        bytes: 64 << 10,
        total: 4000,
        window: 20,
    },
    Load {
        size: "8 MiB",
        bytes: 8 << 20,
        total: 30,
        window: 2,
    },
];

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let mut tables = Vec::new();
    for serialization in [Serialization::Json, Serialization::Advanced] {
        for load in LOADS {
            let least = if load.bytes > 1 << 20 { 3 } else { 200 };
            let total = (load.total / extent.divisor).max(load.total.min(least));
            tables.push(table(serialization, Load { total, ..load }, extent.rounds.min(3))?);
        }
    }
    Ok(tables)
}

fn targets(serialization: Serialization, load: Load) -> Vec<Target> {
    if load.bytes > 0 || load.window == 1 {
        return Vec::new();
    }
    let mixed = match serialization {
        Serialization::Json => 1.3,
        Serialization::Advanced => 2.0,
    };
    [(RUST, 5.0), (MIXED, mixed)]
        .map(|(who, bound)| Target {
            who,
            over: Some(PEER),
            bound: Bound::AtLeast(bound),
        })
        .into()
}

fn table(serialization: Serialization, load: Load, rounds: usize) -> Result<Table, Failure> {
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pool = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut lines = [RUST, MIXED, POOL, PEER].map(Line::new);
    let node = || Command::fork_with(host::runtime(NODE), Runtime::Node, &[], host::script("echo.js"));
    for _ in 0..rounds {
        let rust = Command::new(std::env::current_exe()?)
            .arg(ECHO)
            .dialect(thead::wire::Dialect::Pipelined);
        let ways = [rust, node()].map(|command| command.channel(serialization));
        for (line, command) in lines.iter_mut().zip(ways) {
            line.samples.push(one.block_on(there_and_back(command, load))?.rate());
        }
        let command = node().channel(serialization);
        let task = async move { there_and_back(command, load).await.map_err(|error| error.to_string()) };
        lines[2].samples.push(pool.block_on(pool.spawn(task))??.rate());
        let (total, window, text) = (load.total.to_string(), load.window.to_string(), load.bytes.to_string());
        let arguments = [&*total, &window, name(serialization), &text, TEXT];
        lines[3]
            .samples
            .push(Timed::of_script(NODE, "send-messages.js", &arguments)?.rate());
    }
    Ok(Table {
        title: format!(
            "Messages of {} and back, `{}`, {}",
            load.size,
            name(serialization),
            if load.window == 1 {
                "one at a time"
            } else {
                "many under way"
            }
        ),
        how: format!(
            "A child reads every message into an object and sends it back; {} messages of {}, {} under way at any time. Parent \
             and child are Rust programs of one thread (or, the parent, of a pool) or Node; the parent too reads every answer into \
             an object.",
            load.total, load.size, load.window
        ),
        unit: "round trips/s",
        lines: lines.into(),
        base: PEER,
        targets: targets(serialization, load),
    })
}

fn name(serialization: Serialization) -> &'static str {
    match serialization {
        Serialization::Json => "json",
        Serialization::Advanced => "advanced",
    }
}

#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Numbered<'a> {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ready: bool,
    #[serde(default)]
    pub(crate) number: usize,
    #[serde(default)]
    pub(crate) text: Cow<'a, str>,
}

async fn there_and_back(
    command: Command,
    Load {
        total, window, bytes, ..
    }: Load,
) -> Result<Timed, Failure> {
    let text = TEXT.repeat((bytes / TEXT.len()).max(1));
    let mut child = command.spawn()?;
    let channel = child.channel().ok_or("a channel was asked for")?.clone();
    let (mut sent, mut back, mut begun) = (0, 0, Instant::now());
    while let Some(event) = child.next().await {
        let message = match event {
            ChildEvent::Spawn => continue,
            ChildEvent::Message { message, .. } => message,
            _ => return Err(format!("the child came to {event:?}").into()),
        };
        let echo: Numbered<'static> = message.parse()?;
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
            let message = Numbered {
                number: sent,
                text: (&*text).into(),
                ..Numbered::default()
            };
            // Both ends that waited for room here, and read nothing meanwhile, would wait for ever.
            channel.send(&message)?;
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

/// What a child does: sends every message back, read and written anew.
pub(crate) fn echo() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut parent = thead::parent()?.ok_or("an echo child needs a parent with a channel")?;
        let ready = Numbered {
            ready: true,
            ..Numbered::default()
        };
        parent.post_message(&ready).await?;
        while let Some(event) = parent.next().await {
            // A handle that comes with a message is closed here.
            if let ParentEvent::Message { message, handle: None } = event {
                let message: Numbered<'static> = message.parse()?;
                parent.send(&message)?;
            }
        }
        Ok(())
    })
}
