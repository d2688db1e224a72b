//! The load itself, against servers that misbehave on purpose.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::load::{Outcome, Phase, Shape, Spec};
use lab::measure::Server;
use lab::model::{Candidate, Kind, Model};
use lab::results::Agreement;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Runs `thead-lab load` as the measurement does.
fn load(spec: &Spec) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_thead-lab"))
        .args(["load", &serde_json::to_string(spec).unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let phases = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    let outcome = phases.into_iter().find_map(|phase| match phase {
        Phase::Measuring => None,
        Phase::Measured { outcome } => Some(outcome),
    });
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    outcome.unwrap()
}

fn spec(to: SocketAddrV4, shape: Shape) -> Spec {
    Spec {
        to,
        path: "/?n={n}".to_owned(),
        shape,
        keep_alive: true,
        warm_ms: 100,
        run_ms: 1000,
        patience_ms: 5000,
        cores: Vec::new(),
        slow_every: 0,
    }
}

/// A server in this process: what it does with each connection is the test's. It ends with the test's process.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        unreachable!("it was bound to one")
    };
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads requests from a connection and calls `answer` with each; ends when that says so, or with the connection.
fn requests(stream: &TcpStream, mut answer: impl FnMut(&str, &mut dyn std::io::Write) -> bool) {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        if !answer(&head, &mut writer) {
            return;
        }
    }
}

fn number(head: &str) -> u64 {
    let (_, rest) = head.split_once("n=").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Serves at once, but stands still for 400 ms when the load has run for 500 ms.
fn stalling() -> SocketAddrV4 {
    let began: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    server(move |stream| {
        requests(&stream, |_, out| {
            let (from, now) = (
                *began.get_or_init(Instant::now) + Duration::from_millis(500),
                Instant::now(),
            );
            let until = from + Duration::from_millis(400);
            if now >= from && now < until {
                thread::sleep(until - now);
            }
            out.write_all(ANSWER).is_ok()
        });
    })
}

#[test]
fn a_stall_shows_in_an_open_loop_and_hardly_in_a_closed_one() {
    // A closed loop asks some thousand times, and only one request of each of two clients meets the stall.
    let closed = load(&spec(stalling(), Shape::Closed { connections: 2 }));
    let open = load(&spec(
        stalling(),
        Shape::Open {
            rate: 500,
            connections: 2,
        },
    ));
    assert_eq!((closed.failures.sum(), open.failures.sum()), (0, 0));
    assert!(closed.latency.max_ms >= 300.0, "{closed:?}");
    assert!(closed.latency.p99_ms < 100.0, "{closed:?}");
    assert!(open.latency.p99_ms >= 300.0, "{open:?}");
    // 4 of 10 were due while it stood still.
    assert!(open.latency.p90_ms >= 200.0, "{open:?}");
}

#[test]
fn an_open_loop_asks_as_often_as_it_was_told() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let address = server(move |stream| {
        requests(&stream, |_, out| {
            count.fetch_add(1, Ordering::Relaxed);
            out.write_all(ANSWER).is_ok()
        });
    });
    let outcome = load(&spec(
        address,
        Shape::Open {
            rate: 300,
            connections: 8,
        },
    ));
    assert_eq!((outcome.answered, outcome.failures.sum()), (300, 0));
    // With the tenth of a second of warm-up.
    assert_eq!(seen.load(Ordering::Relaxed), 330);
}

#[test]
fn requests_are_numbered_from_one_and_counted() {
    let sum = Arc::new(AtomicU64::new(0));
    let add = Arc::clone(&sum);
    let address = server(move |stream| {
        requests(&stream, |head, out| {
            add.fetch_add(number(head), Ordering::Relaxed);
            out.write_all(ANSWER).is_ok()
        });
    });
    let outcome = load(&Spec {
        warm_ms: 0,
        ..spec(
            address,
            Shape::Count {
                connections: 4,
                requests: 100,
            },
        )
    });
    assert_eq!((outcome.answered, outcome.opened, outcome.clients_served), (100, 4, 4));
    assert_eq!(sum.load(Ordering::Relaxed), 5050);
}

#[test]
fn failures_are_told_apart() {
    // Each tenth request fails in its own way; the others are right.
    let address = server(|stream| {
        requests(&stream, |head, out| match number(head) % 100 {
            10 => false,
            20 => {
                let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok");
                false
            }
            30 => out.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").is_ok(),
            40 => {
                let _ = out.write_all(b"no HTTP at all\r\n\r\n");
                false
            }
            50 => {
                // Longer than the load waits.
                thread::sleep(Duration::from_millis(600));
                false
            }
            _ => out.write_all(ANSWER).is_ok(),
        });
    });
    let count = |keep_alive| {
        let outcome = load(&Spec {
            warm_ms: 0,
            patience_ms: 300,
            keep_alive,
            ..spec(
                address,
                Shape::Count {
                    connections: 1,
                    requests: 100,
                },
            )
        });
        assert_eq!(outcome.answered, 95, "{outcome:?}");
        let failures = outcome.failures;
        assert_eq!(
            (failures.partial, failures.status, failures.other, failures.timeout),
            (1, 1, 1, 1),
            "{failures:?}"
        );
        assert_eq!(failures.sum(), 5, "{failures:?}");
        (failures.lost_fresh, failures.lost_reused)
    };
    assert_eq!(count(true), (0, 1));
}

#[test]
fn a_connection_that_ends_before_its_first_answer_is_another_failure_than_one_that_served() {
    let address = server(drop);
    let outcome = load(&Spec {
        warm_ms: 0,
        ..spec(
            address,
            Shape::Count {
                connections: 1,
                requests: 5,
            },
        )
    });
    assert_eq!(
        (outcome.failures.lost_fresh, outcome.failures.lost_reused),
        (5, 0),
        "{outcome:?}"
    );
}

#[test]
fn nobody_there_is_refused_and_nothing_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        unreachable!("it was bound to one")
    };
    drop(listener);
    let outcome = load(&Spec {
        warm_ms: 0,
        ..spec(
            address,
            Shape::Count {
                connections: 2,
                requests: 20,
            },
        )
    });
    assert_eq!((outcome.answered, outcome.failures.refused), (0, 20), "{outcome:?}");
}

#[test]
fn held_connections_stay_open_until_the_load_is_told_to_end() {
    let open = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&open);
    let address = server(move |mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        requests(&stream, |_, out| out.write_all(ANSWER).is_ok());
        let _ = stream.read(&mut [0]);
        count.fetch_sub(1, Ordering::Relaxed);
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_thead-lab"))
        .arg("load")
        .arg(serde_json::to_string(&spec(address, Shape::Hold { connections: 200 })).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let Phase::Measured { outcome } = serde_json::from_str(&lines.nth(1).unwrap().unwrap()).unwrap() else {
        panic!("the second phase is the last");
    };
    assert_eq!((outcome.held, outcome.failures.sum()), (200, 0));
    assert_eq!(open.load(Ordering::Relaxed), 200);
    drop(child.stdin.take());
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while open.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < deadline, "connections outlive the load");
        thread::yield_now();
    }
}

#[test]
fn too_few_descriptors_are_said_with_what_mends_it() {
    let wanted = spec("127.0.0.1:1".parse().unwrap(), Shape::Hold { connections: 5000 });
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 1000; exec \"$0\" load \"$1\"",
            env!("CARGO_BIN_EXE_thead-lab"),
        ])
        .arg(serde_json::to_string(&wanted).unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("5000 connections need 5100 descriptors") && said.contains("ulimit -Hn 5100"),
        "{said}"
    );
}

#[test]
fn wrk_and_the_load_agree() {
    let candidate = Candidate::new(Kind::Model(Model::Event), 1, 1);
    let start = || Server::start(&candidate, candidate.command().unwrap()).unwrap();
    let mut ratios = Vec::new();
    // In turn, until they agree once: other tests disturb now one, now the other. If they counted differently, they never would.
    while ratios.len() < 12 {
        let theirs = match lab::run::wrk(&start(), 32, 1, &[]) {
            Ok(rate) => rate,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("wrk is not installed (apt-get install wrk): nothing to agree with");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let server = start();
        let outcome = load(&spec(server.address, Shape::Closed { connections: 32 }));
        assert_eq!(outcome.failures.sum(), 0);
        let ratio = outcome.per_second() / theirs;
        if (ratio - 1.0).abs() <= Agreement::MARGIN {
            return;
        }
        ratios.push(ratio);
    }
    panic!("they never agree: {ratios:?}");
}
