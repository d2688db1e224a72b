//! Many messages and handles through one channel: memory and descriptors afterwards.

use std::fs;
use std::net::UdpSocket;

use thead::channel::{Channel, Handle};
use thead::wire::Dialect;
use thead::{Child, ChildEvent, Command, HandleKind};

use super::messages::{ECHO, Numbered};
use crate::report::{Bound, Line, Table, Target};
use crate::{Extent, Failure};

const MESSAGES: usize = 10_000_000;
const HANDLES: usize = 1_000_000;
/// Messages under way. The first thousands fill what is kept for later; that much is "before".
const WINDOW: usize = 1000;
const WARM: usize = 100_000;

/// The lines: of whom, and when.
const LINES: [&str; 4] = ["parent, before", "parent, after", "child, before", "child, after"];

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let (messages, handles) = (MESSAGES / extent.divisor, HANDLES / extent.divisor);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [before, after] = runtime.block_on(soak(messages, handles))?;
    let how = format!(
        "One channel between two Rust programs: {messages} messages there and back, {WINDOW} under way, and {handles} handles (a UDP \
         socket) from the parent to the child, which closes them. Before: after {WARM} messages of them."
    );
    let table = |title: &str, unit, of: fn(&State) -> f64, bounds: [Bound; 2]| {
        let values = [&before[0], &after[0], &before[1], &after[1]].map(of);
        let lines = LINES.into_iter().zip(values).map(|(who, value)| Line {
            samples: vec![value],
            ..Line::new(who)
        });
        let targets = [(LINES[1], LINES[0]), (LINES[3], LINES[2])].into_iter().zip(bounds);
        Table {
            title: title.into(),
            how: how.clone(),
            unit,
            lines: lines.collect(),
            base: LINES[0],
            targets: targets
                .map(|((who, over), bound)| Target {
                    who,
                    over: Some(over),
                    bound,
                })
                .collect(),
        }
    };
    let memory = [Bound::AtMost(1.25); 2];
    let same = [Bound::AtMost(1.0); 2];
    Ok(vec![
        table(
            "Memory after a long conversation",
            "MiB",
            |state| state.mebibytes,
            memory,
        ),
        table(
            "Descriptors after a long conversation",
            "open",
            |state| state.open,
            same,
        ),
    ])
}

/// What a process holds.
struct State {
    mebibytes: f64,
    open: f64,
}

impl State {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn of(pid: u32) -> Result<Self, Failure> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: f64 = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(Self {
            mebibytes: kibibytes / 1024.0,
            open: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64,
        })
    }

    fn of_both(child: &Child) -> Result<[Self; 2], Failure> {
        Ok([Self::of(std::process::id())?, Self::of(child.id())?])
    }
}

/// Of parent and child, before and after.
async fn soak(messages: usize, handles: usize) -> Result<[[State; 2]; 2], Failure> {
    let command = Command::new(std::env::current_exe()?)
        .arg(ECHO)
        .dialect(Dialect::Pipelined);
    let mut child = command.channel(thead::Serialization::Json).spawn()?;
    let channel = child.channel().ok_or("a channel was asked for")?.clone();
    let socket = Handle::from(UdpSocket::bind("127.0.0.1:0")?);
    // The child says that it is ready, which is one message more than is sent.
    echoes(&mut child, &channel, WARM, 1).await?;
    let before = State::of_both(&child)?;
    echoes(&mut child, &channel, messages - WARM, 0).await?;
    for number in 0..handles {
        let message = Numbered {
            number,
            ..Numbered::default()
        };
        channel
            .post_handle(&message, HandleKind::DgramNative, socket.clone())
            .await
            .map_err(|(error, _)| error)?;
    }
    // When this is back, all before it have arrived.
    echoes(&mut child, &channel, 1, 0).await?;
    let after = State::of_both(&child)?;
    child.disconnect();
    child.wait().await;
    Ok([before, after])
}

/// Sends so many messages and waits until they are back, and so many more.
async fn echoes(child: &mut Child, channel: &Channel, count: usize, more: usize) -> Result<(), Failure> {
    let (mut sent, mut back) = (0, 0);
    while back < count + more {
        while sent < count && sent + more < back + WINDOW {
            let message = Numbered {
                number: sent,
                ..Numbered::default()
            };
            channel.post_message(&message).await?;
            sent += 1;
        }
        match child.next().await {
            Some(ChildEvent::Message { .. }) => back += 1,
            Some(ChildEvent::Spawn) => {}
            other => return Err(format!("the child came to {other:?}").into()),
        }
    }
    Ok(())
}
