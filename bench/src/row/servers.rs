//! Servers under load: connections, requests, and what the primary costs.

use crate::fleet::{Candidate, Server};
use crate::report::{Bound, Line, Report, Table, Target};
use crate::{Extent, Failure, Row, load, process};

/// Starts all candidates and measures the rows that are wanted.
pub(crate) fn measure(wanted: &dyn Fn(Row) -> bool, extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let servers = Candidate::ALL
        .into_iter()
        .map(Server::start)
        .collect::<Result<Vec<_>, _>>()?;
    let idle = memory(&servers)?;
    // Lets every candidate compile its hot paths; nobody counts it.
    for server in &servers {
        load::run(server.port, 1, true)?;
        load::run(server.port, 1, false)?;
    }
    if wanted(Row::Connections) || wanted(Row::Memory) {
        let (rates, costs) = connections(&servers, extent)?;
        if wanted(Row::Connections) {
            report.add(rates);
            report.add(costs);
        }
    }
    if wanted(Row::KeepAlive) {
        report.add(keep_alive(&servers, extent)?);
    }
    if wanted(Row::Memory) {
        report.add(memory_table(idle, memory(&servers)?));
    }
    Ok(())
}

/// All in turn, each round beginning with another.
fn in_turn(servers: &[Server], round: usize) -> impl Iterator<Item = &Server> {
    servers.iter().cycle().skip(round % servers.len()).take(servers.len())
}

fn lines(candidates: impl Iterator<Item = Candidate>) -> Vec<Line> {
    candidates.map(|candidate| Line::new(candidate.name())).collect()
}

fn add(lines: &mut [Line], candidate: Candidate, sample: f64) {
    if let Some(line) = lines.iter_mut().find(|line| line.who == candidate.name()) {
        line.samples.push(sample);
    }
}

fn connections(servers: &[Server], extent: Extent) -> Result<(Table, Table), Failure> {
    let mut rates = lines(Candidate::ALL.into_iter());
    let mut costs = lines(Candidate::ALL.into_iter().filter(|candidate| candidate.has_primary()));
    for round in 0..extent.rounds {
        for server in in_turn(servers, round) {
            let before = process::cpu_time(server.pid)?;
            let load = load::run(server.port, extent.seconds, true)?;
            let used = process::cpu_time(server.pid)? - before;
            add(&mut rates, server.candidate, load.per_second);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            add(
                &mut costs,
                server.candidate,
                used.as_secs_f64() * 1e6 / load.requests as f64,
            );
        }
    }
    let rates = Table {
        title: "New connections".into(),
        how: "An HTTP server that answers `hello world`, two workers, and a client that opens a connection for every request \
              (`Connection: close`). Client, primary and workers share the cores: what the primary does not use, the workers \
              have. With shared and kernel scheduling there is no primary in the way, so what they reach is the most that \
              round-robin could. To sticky scheduling this client is one client, so all its connections go to one of the two \
              workers: compare it with one process."
            .into(),
        unit: "connections/s",
        lines: rates,
        base: Candidate::NodeRoundRobin.name(),
        targets: vec![
            Target {
                who: Candidate::TheadRoundRobin.name(),
                over: Some(Candidate::NodeRoundRobin.name()),
                bound: Bound::AtLeast(1.8),
            },
            Target {
                who: Candidate::TheadKernel.name(),
                over: Some(Candidate::NodeShared.name()),
                bound: Bound::AtLeast(1.0),
            },
        ],
    };
    let costs = Table {
        title: "The primary's share of a connection".into(),
        how: "In the same runs: processor time of the primary (PM2: of its daemon), divided by the connections served. The \
              kernel has a part in it that no program can avoid: accepting, passing on, hearing of it and closing are four \
              system calls, and being woken for them. With shared and kernel scheduling the workers accept themselves, and a \
              primary has nothing to do."
            .into(),
        unit: "µs",
        lines: costs,
        base: Candidate::NodeRoundRobin.name(),
        targets: vec![Target {
            who: Candidate::TheadRoundRobin.name(),
            over: None,
            bound: Bound::AtMost(8.0),
        }],
    };
    Ok((rates, costs))
}

fn keep_alive(servers: &[Server], extent: Extent) -> Result<Table, Failure> {
    // Of a client with one address only one worker of the sticky ones would have anything to do.
    let spreads = |candidate: &Candidate| *candidate != Candidate::TheadSticky;
    let mut rates = lines(Candidate::ALL.into_iter().filter(spreads));
    for round in 0..extent.rounds {
        for server in in_turn(servers, round).filter(|server| spreads(&server.candidate)) {
            add(
                &mut rates,
                server.candidate,
                load::run(server.port, extent.seconds, false)?.per_second,
            );
        }
    }
    Ok(Table {
        title: "Requests on connections that stay".into(),
        how: "The same server; the client keeps its connections. No primary has any part in a request, so all clusters should \
              be equal. With shared scheduling whichever worker wakes first takes the connections, and one may get most of them."
            .into(),
        unit: "requests/s",
        lines: rates,
        base: Candidate::NodeRoundRobin.name(),
        targets: Vec::new(),
    })
}

fn memory(servers: &[Server]) -> Result<Vec<(Candidate, f64)>, Failure> {
    let primaries = servers.iter().filter(|server| server.candidate.has_primary());
    primaries
        .map(|server| Ok((server.candidate, process::resident(server.pid)?)))
        .collect()
}

fn memory_table(idle: Vec<(Candidate, f64)>, loaded: Vec<(Candidate, f64)>) -> Table {
    let mut lines = Vec::new();
    for (when, samples) in [("idle", idle), ("after the load", loaded)] {
        for (candidate, sample) in samples {
            let mut line = Line::new(format!("{}, {when}", candidate.name()));
            line.samples.push(sample);
            lines.push(line);
        }
    }
    Table {
        title: "Memory of the primary".into(),
        how: "Resident memory (`VmRSS`, with the pages of the program's file) of the process that the workers are children of: \
              when they listen, and after all loads of this page."
            .into(),
        unit: "MiB",
        lines,
        base: "Node cluster, round-robin, idle",
        targets: vec![
            Target {
                who: "thead, round-robin, idle",
                over: None,
                bound: Bound::AtMost(6.0),
            },
            Target {
                who: "thead, round-robin, after the load",
                over: None,
                bound: Bound::AtMost(6.0),
            },
        ],
    }
}
