//! The load client tells each kind of failure apart. Each test has a server that fails in one way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::time::Duration;

use conformance::load::{Failures, Load, Mode, Report, Request, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;

/// One client that sends `requests`, one after the other, to a server that treats each connection with `serve`.
async fn load<F>(requests: u64, change: impl FnOnce(&mut Load), serve: fn(TcpStream) -> F) -> Report
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut load = one_client(Target::Tcp(listener.local_addr().unwrap()), requests);
    change(&mut load);
    let server = tokio::spawn(async move {
        loop {
            tokio::spawn(serve(listener.accept().await.unwrap().0));
        }
    });
    let report = load.run().await;
    server.abort();
    report
}

fn one_client(target: Target, requests: u64) -> Load {
    Load {
        connections: 1,
        max_requests: requests,
        max_time: Duration::from_secs(20),
        ..Load::on(target)
    }
}

/// Reads one request and tells its body. None at the end of the connection.
async fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Worker: 7\r\nContent-Length: 2\r\n\r\nok";

/// With bytes unread, the kernel resets a connection that is closed.
async fn reset(stream: TcpStream) {
    stream.peek(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn answers_are_counted_by_worker_and_a_kept_connection_is_opened_once() {
    let report = load(
        20,
        |_| {},
        |mut stream| async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(OK).await.unwrap();
            }
        },
    )
    .await;
    assert_eq!((report.requests, report.answers, report.opened), (20, 20, 1));
    assert_eq!(report.failures, Failures::default());
    assert_eq!(report.workers["7"], 20);
    assert!(report.latency.longest() > Duration::ZERO);
}

#[tokio::test]
async fn without_keep_alive_each_request_has_its_own_connection() {
    let report = load(
        5,
        |load| load.mode = Mode::NewConnections,
        |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        },
    )
    .await;
    assert_eq!(
        (
            report.answers,
            report.opened,
            report.closed_politely,
            report.failures.total()
        ),
        (5, 5, 0, 0)
    );
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    drop(listener);
    let report = one_client(target, 3).run().await;
    assert_eq!(
        report.failures,
        Failures {
            refused: 3,
            ..Failures::default()
        }
    );
    assert_eq!((report.requests, report.opened), (3, 0));
}

#[tokio::test]
async fn a_missing_unix_socket_is_refused_and_one_that_is_there_serves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let report = one_client(Target::Unix(path.clone()), 1).run().await;
    assert_eq!(
        report.failures,
        Failures {
            refused: 1,
            ..Failures::default()
        }
    );

    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut request = [0; 256];
        while stream.read(&mut request).await.unwrap() > 0 {
            stream.write_all(OK).await.unwrap();
        }
    });
    assert_eq!(one_client(Target::Unix(path), 4).run().await.answers, 4);
}

#[tokio::test]
async fn a_reset_before_the_first_answer_is_one_on_a_fresh_connection() {
    let report = load(2, |_| {}, reset).await;
    assert_eq!(
        report.failures,
        Failures {
            reset_fresh: 2,
            ..Failures::default()
        }
    );
    assert_eq!(report.opened, 2);
}

#[tokio::test]
async fn a_reset_after_an_answer_is_one_on_a_reused_connection() {
    let report = load(
        2,
        |_| {},
        |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            reset(stream).await;
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            reset_reused: 1,
            ..Failures::default()
        }
    );
    assert_eq!((report.requests, report.answers), (2, 1));
}

#[tokio::test]
async fn an_end_before_the_first_answer_is_one_on_a_fresh_connection() {
    let report = load(
        2,
        |_| {},
        |mut stream| async move {
            request(&mut stream).await;
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            eof_fresh: 2,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn an_end_after_the_next_request_is_one_on_a_reused_connection() {
    let report = load(
        2,
        |_| {},
        |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            request(&mut stream).await;
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            eof_reused: 1,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn an_end_that_was_there_before_the_next_request_is_no_failure() {
    // Long pauses: the end of the first connection arrives in one.
    let pauses = |load: &mut Load| load.think = Duration::from_millis(400);
    let report = load(4, pauses, |mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
    })
    .await;
    assert_eq!((report.answers, report.failures.total()), (4, 0), "{report}");
    assert_eq!((report.opened, report.closed_idle), (4, 3));
}

#[tokio::test]
async fn a_connection_that_the_server_says_it_will_close_is_closed_politely() {
    let report = load(
        3,
        |_| {},
        |mut stream| async move {
            request(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
        },
    )
    .await;
    assert_eq!(
        (
            report.answers,
            report.opened,
            report.closed_politely,
            report.closed_idle
        ),
        (3, 3, 3, 0)
    );
    assert_eq!(report.failures.total(), 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_partial_wherever_it_breaks() {
    for part in [
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345678",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let load = one_client(Target::Tcp(listener.local_addr().unwrap()), 1);
        let server = async {
            let mut stream = listener.accept().await.unwrap().0;
            request(&mut stream).await;
            stream.write_all(part.as_bytes()).await.unwrap();
        };
        let (report, ()) = tokio::join!(load.run(), server);
        assert_eq!(
            report.failures,
            Failures {
                partial: 1,
                ..Failures::default()
            },
            "{part:?}"
        );
    }
}

#[tokio::test]
async fn what_is_not_http_is_partial() {
    let report = load(
        1,
        |_| {},
        |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(b"SSH-2.0-none\r\n\r\n").await.unwrap();
            request(&mut stream).await;
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            partial: 1,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn chunks_and_a_body_to_the_end_of_the_connection_are_complete_answers() {
    let echo = |load: &mut Load| load.mix = vec![(1, Request::post("/", "hello"))];
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut load = one_client(Target::Tcp(listener.local_addr().unwrap()), 1);
        echo(&mut load);
        let server = async {
            let mut stream = listener.accept().await.unwrap().0;
            assert_eq!(request(&mut stream).await.unwrap(), b"hello");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (report, ()) = tokio::join!(load.run(), server);
        assert_eq!(
            (report.answers, report.failures.total()),
            (1, 0),
            "{answer:?}: {report}"
        );
    }
}

#[tokio::test]
async fn an_echo_that_is_not_what_was_sent_is_partial() {
    let report = load(
        1,
        |load| load.mix = vec![(1, Request::post("/", "no"))],
        |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            partial: 1,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn a_body_larger_than_all_buffers_is_sent_while_its_echo_is_read() {
    let body = vec![b'x'; 8 << 20];
    let report = load(
        1,
        |load| load.mix = vec![(1, Request::post("/", body))],
        |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 << 20).as_bytes())
                .await
                .unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        },
    )
    .await;
    assert_eq!((report.answers, report.failures.total()), (1, 0), "{report}");
}

#[tokio::test]
async fn another_status_is_counted_as_such_and_the_connection_is_kept() {
    let report = load(
        3,
        |_| {},
        |mut stream| async move {
            while request(&mut stream).await.is_some() {
                stream
                    .write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
            }
        },
    )
    .await;
    assert_eq!(
        report.failures,
        Failures {
            status: 3,
            ..Failures::default()
        }
    );
    assert_eq!((report.opened, report.answers), (1, 0));
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_a_status_failure() {
    let pauses = |load: &mut Load| load.think = Duration::from_millis(400);
    let report = load(2, pauses, |mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    assert_eq!(report.failures.status, 1, "{report}");
}

#[tokio::test]
async fn no_answer_in_time_is_a_timeout() {
    let soon = |load: &mut Load| load.timeout = Duration::from_millis(50);
    let report = load(1, soon, |mut stream| async move {
        while request(&mut stream).await.is_some() {}
    })
    .await;
    assert_eq!(
        report.failures,
        Failures {
            timeout: 1,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn pipelined_requests_are_written_together() {
    let report = load(
        12,
        |load| load.mode = Mode::Pipelined(4),
        |mut stream| async move {
            // No answer before the fourth request is there.
            for _ in 0..3 {
                for _ in 0..4 {
                    request(&mut stream).await.unwrap();
                }
                stream.write_all(&OK.repeat(4)).await.unwrap();
            }
        },
    )
    .await;
    assert_eq!(
        (report.answers, report.opened, report.failures.total()),
        (12, 1, 0),
        "{report}"
    );
}

#[tokio::test]
async fn pipelined_requests_behind_a_polite_close_are_not_counted_and_those_behind_an_end_are() {
    let pipelined = |load: &mut Load| load.mode = Mode::Pipelined(4);
    let polite = load(4, pipelined, |mut stream| async move {
        request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    assert_eq!(
        (polite.requests, polite.answers, polite.failures.total()),
        (1, 1, 0),
        "{polite}"
    );

    let rude = load(4, pipelined, |mut stream| async move {
        for _ in 0..4 {
            request(&mut stream).await;
        }
        stream.write_all(OK).await.unwrap();
    })
    .await;
    assert_eq!((rude.requests, rude.answers), (4, 1));
    assert_eq!(
        rude.failures,
        Failures {
            eof_reused: 3,
            ..Failures::default()
        }
    );
}

#[tokio::test]
async fn a_load_runs_until_it_is_told_to_stop_and_ends_its_last_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    let (asked, mut all_asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                while request(&mut stream).await.is_some() {
                    asked.send(()).unwrap();
                    stream.write_all(OK).await.unwrap();
                }
            });
        }
    });
    let running = Load {
        connections: 3,
        ..Load::on(target)
    }
    .start();
    running.answered(50).await;
    let report = running.stop().await;
    assert!(report.answers >= 50, "{report}");
    assert_eq!((report.opened, report.failures.total()), (3, 0));
    let mut requests = 0;
    while all_asked.try_recv().is_ok() {
        requests += 1;
    }
    assert_eq!(report.requests, requests, "each request that the server saw is counted");
}

#[tokio::test]
async fn a_load_ends_by_itself_at_its_bounds() {
    let serve = |mut stream: TcpStream| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
    };
    assert_eq!(load(7, |load| load.connections = 3, serve).await.requests, 7);
    let report = load(u64::MAX, |load| load.max_time = Duration::from_millis(30), serve).await;
    assert!(report.answers > 0 && report.failures.total() == 0, "{report}");
}
