//! Handles to a Node child, as fast as it takes them.

use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde::Deserialize;
use thead::channel::Handle;
use thead::wire::HandleKind;
use thead::{ChildEvent, Command, Runtime};

use super::messages::ECHO;
use crate::report::{Bound, Line, Table, Target};
use crate::{Extent, Failure, host};

/// What the peers' scripts print.
#[derive(Deserialize)]
pub(crate) struct Timed {
    count: f64,
    seconds: f64,
}

impl Timed {
    pub(crate) fn new(count: usize, begun: Instant) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = count as f64;
        Self {
            count,
            seconds: begun.elapsed().as_secs_f64(),
        }
    }

    pub(crate) fn rate(&self) -> f64 {
        self.count / self.seconds
    }

    /// Runs a script of the peers' and reads what it prints.
    pub(crate) fn of_script(node: &str, script: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let output = std::process::Command::new(host::runtime(node))
            .arg(host::script(script))
            .args(arguments)
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("{script} failed").into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

const COUNT: usize = 30_000;

/// A way to send handles, and the Nodes that it is tried with: a runtime, and what its two lines are called.
struct Trial {
    title: &'static str,
    kind: HandleKind,
    /// What the peer's script calls it.
    word: &'static str,
    what: &'static str,
    pairs: &'static [(&'static str, &'static str, &'static str)],
    targets: Vec<Target>,
}

pub(crate) fn measure(extent: Extent) -> Result<Vec<Table>, Failure> {
    let native = Trial {
        title: "Handles to a Node child",
        kind: HandleKind::Native,
        word: "native",
        what: "as bare handles (`net.Native`, what `cluster` sends)",
        pairs: &[
            ("node18", "thead → Node 18", "Node 18 → Node 18"),
            ("node22", "thead → Node 22", "Node 22 → Node 22"),
            ("node26", "thead → Node 26", "Node 26 → Node 26"),
        ],
        targets: vec![Target {
            who: "thead → Node 22",
            over: Some("Node 22 → Node 22"),
            bound: Bound::AtLeast(6.0),
        }],
    };
    let socket = Trial {
        title: "Sockets to a Node child",
        kind: HandleKind::Socket,
        word: "socket",
        what: "as `net.Socket`, which costs the child more than all that precedes it",
        pairs: &[("node22", "thead → Node 22", "Node 22 → Node 22")],
        targets: Vec::new(),
    };
    Ok(vec![
        try_out(native, extent)?,
        try_out(socket, extent)?,
        between_rust(extent)?,
    ])
}

const DESCRIPTORS: usize = 1_000_000;
/// How many go with one message, and what the line is called.
const TOGETHER: [(usize, &str); 3] = [(1, "1 in a message"), (16, "16 in a message"), (64, "64 in a message")];

fn between_rust(extent: Extent) -> Result<Table, Failure> {
    let count = DESCRIPTORS / extent.divisor;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = TOGETHER.map(|(_, who)| Line::new(who));
    for _ in 0..extent.rounds {
        for (line, (together, _)) in lines.iter_mut().zip(TOGETHER) {
            // One at a time takes longer, and tells as much.
            let count = if together == 1 { count / 10 } else { count };
            line.samples
                .push(runtime.block_on(send_descriptors(count, together))?.rate());
        }
    }
    Ok(Table {
        title: "Descriptors between two Rust programs".into(),
        how: format!(
            "{count} descriptors of any kind (one in a message: a tenth of them), here clones of one for `/dev/null`, to a child \
             that closes them, until the child has answered a message behind them. Each message is acknowledged."
        ),
        unit: "descriptors/s",
        lines: lines.into(),
        base: TOGETHER[0].1,
        targets: vec![Target {
            who: TOGETHER[2].1,
            over: None,
            bound: Bound::AtLeast(1e6),
        }],
    })
}

async fn send_descriptors(count: usize, together: usize) -> Result<Timed, Failure> {
    let file = Handle::from(std::fs::File::open("/dev/null")?);
    let mut child = Command::new(std::env::current_exe()?)
        .arg(ECHO)
        .channel(thead::Serialization::Json)
        .spawn()?;
    let channel = child.channel().ok_or("a channel was asked for")?.clone();
    answer(&mut child).await?;
    let begun = Instant::now();
    for sent in 0..count / together {
        let all = vec![file.clone(); together];
        channel
            .post_descriptors(&Numbered { sent }, all)
            .await
            .map_err(|(error, _)| error)?;
    }
    channel.post_message(&Numbered { sent: 0 }).await?;
    answer(&mut child).await?;
    let timed = Timed::new(count, begun);
    child.disconnect();
    child.wait().await;
    Ok(timed)
}

/// Waits for a message of the child's.
async fn answer(child: &mut thead::Child) -> Result<(), Failure> {
    loop {
        match child.next().await {
            Some(ChildEvent::Spawn) => {}
            Some(ChildEvent::Message { .. }) => return Ok(()),
            other => return Err(format!("the child came to {other:?}").into()),
        }
    }
}

fn try_out(trial: Trial, extent: Extent) -> Result<Table, Failure> {
    // Fewer would tell how fast a child compiles its code.
    let count = COUNT / extent.divisor.min(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines: Vec<Line> = trial
        .pairs
        .iter()
        .flat_map(|(_, ours, theirs)| [Line::new(*ours), Line::new(*theirs)])
        .collect();
    for _ in 0..extent.rounds {
        for ((node, ..), pair) in trial.pairs.iter().zip(lines.chunks_exact_mut(2)) {
            pair[0]
                .samples
                .push(runtime.block_on(send(node, trial.kind, count))?.rate());
            let peer = Timed::of_script(node, "send-handles.js", &[&count.to_string(), trial.word])?;
            pair[1].samples.push(peer.rate());
        }
    }
    Ok(Table {
        title: trial.title.into(),
        how: format!(
            "A forked Node child counts and closes what it gets: {count} times one TCP socket with a short message, {}, from \
             the first call to the child's report. The sender is a Rust program with one thread, or Node itself, which waits \
             for the acknowledgement of one before it writes the next. A child that gets them without waiting is busy all the \
             time: how fast it can take them is the limit.",
            trial.what
        ),
        unit: "handles/s",
        lines,
        base: "Node 22 → Node 22",
        targets: trial.targets,
    })
}

#[derive(serde::Serialize)]
struct Numbered {
    sent: usize,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seen: usize,
}

async fn send(node: &str, kind: HandleKind, count: usize) -> Result<Timed, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    socket.set_nonblocking(true)?;
    let socket = Handle::from(socket);

    let command = Command::fork_with(
        host::runtime(node),
        Runtime::Node,
        &[],
        host::script("count-handles.js"),
    );
    let mut child = command.arg(count.to_string()).spawn()?;
    let Some(channel) = child.channel().cloned() else {
        return Err("a forked child has a channel".into());
    };
    let mut begun = Instant::now();
    while let Some(event) = child.next().await {
        match event {
            ChildEvent::Spawn => {}
            ChildEvent::Message { message, .. } if message.parse::<Answer>()?.seen == count => {
                let timed = Timed::new(count, begun);
                child.disconnect();
                child.wait().await;
                return Ok(timed);
            }
            ChildEvent::Message { .. } => {
                begun = Instant::now();
                let (channel, socket) = (channel.clone(), socket.clone());
                tokio::spawn(async move {
                    for sent in 0..count {
                        let handle = socket.clone();
                        // A channel that ends here is an event of the child's.
                        let _ = channel.post_handle(&Numbered { sent }, kind, handle).await;
                    }
                });
            }
            other => return Err(format!("the child came to {other:?}").into()),
        }
    }
    Err("the child ended without a report".into())
}
