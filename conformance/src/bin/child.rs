//! A Rust program that was forked, for tests: `child WHAT`.
//!
//! What it has to say goes to the channel, or to standard output where there may be none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use conformance::handles::{Cell, Link, judge};
use serde_json::{Value, json};
use thead::channel::{Handle, SendError, SocketList};
use thead::worker::{Address, Listener, Worker};
use thead::{HandleKind, Parent, ParentEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "serves" {
        serve().await;
        return ExitCode::SUCCESS;
    }
    let parent = match thead::parent() {
        Ok(parent) => parent,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            println!("{}", json!({ "error": error.to_string(), "source": source }));
            return ExitCode::FAILURE;
        }
    };
    match (what.as_str(), parent) {
        ("alone", parent) => println!("{}", json!({ "parent": parent.is_some(), "inherits": inherited() })),
        (_, None) => return ExitCode::FAILURE,
        ("echoes", Some(parent)) => echo(parent).await,
        ("listens late", Some(parent)) => {
            // Nothing is asked of the channel before the parent says so on another way.
            std::thread::spawn(|| std::io::stdin().read(&mut [0]).unwrap())
                .join()
                .unwrap();
            echo(parent).await;
        }
        ("leaves descriptors to nobody", Some(parent)) => {
            let twice = matches!(thead::parent(), Err(thead::ParentError::Taken));
            let answer = json!({ "inherits": inherited(), "twice": twice });
            parent.post_message(&answer).await.unwrap();
            parent.channel().flush().await;
        }
        ("judges", Some(parent)) => {
            let from: usize = std::env::var("FROM").map_or(0, |from| from.parse().unwrap());
            let cells = Cell::all();
            judge(&mut Link::Parent(parent), &cells[from..], |_, result| {
                println!("{}", json!({ "result": result.err() }));
            })
            .await;
        }
        ("takes nothing", Some(_parent)) => {
            println!("{}", json!({ "ready": true }));
            std::future::pending().await
        }
        ("sends until it is refused", Some(parent)) => {
            let large = "x".repeat(1 << 20);
            let refused = loop {
                if let Err(error) = parent.send(&large) {
                    break error;
                }
                tokio::task::yield_now().await;
            };
            println!("{}", json!({ "refused": refused.to_string() }));
            std::future::pending().await
        }
        ("counts descriptors", Some(mut parent)) => {
            let mut count = 0;
            while let Some(event) = parent.next().await {
                match event {
                    ParentEvent::Descriptors { descriptors, .. } => count += descriptors.len(),
                    ParentEvent::Message { .. } => parent.post_message(&count).await.unwrap(),
                    _ => {}
                }
            }
        }
        ("sends handles between messages", Some(parent)) => {
            for n in [0, 3, 6] {
                let (_, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                parent.send(&n).unwrap();
                parent.send_handle(&(n + 1), HandleKind::Socket, theirs.into()).unwrap();
                parent.send(&(n + 2)).unwrap();
            }
            echo(parent).await;
        }
        ("gives", Some(parent)) => give(parent).await,
        ("says much and ends", Some(mut parent)) => {
            for _ in 0..20 {
                parent.send(&"x".repeat(100_000)).unwrap();
            }
            parent.disconnect();
            assert!(parent.send(&1).is_err());
            while parent.next().await.is_some() {}
        }
        (what, _) => panic!("nobody knows how to: {what}"),
    }
    ExitCode::SUCCESS
}

/// What a child of this process would believe to be its own: variables of a parent's, and sockets beyond the standard three.
fn inherited() -> Value {
    let script = "env | grep -E '^(NODE_CHANNEL|NODE_UNIQUE|LISTEN_)' ; ls -l /proc/self/fd";
    let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found = text.lines().filter_map(|line| match line.split_once(" -> ") {
        Some((left, target)) => {
            let number: u32 = left.rsplit(' ').next()?.parse().ok()?;
            (number > 2 && target.starts_with("socket:")).then(|| format!("{number}: {target}"))
        }
        None => line.contains('=').then(|| line.to_owned()),
    });
    json!(found.collect::<Vec<_>>())
}

/// The most memory that this process had resident, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// Sends back what comes, handles too, until the channel ends.
async fn echo(mut parent: Parent) {
    while let Some(event) = parent.next().await {
        match event {
            ParentEvent::Message { message, handle: None } => match parent.channel().send_raw(message.raw()) {
                // That it has ended is told as an event.
                Ok(()) | Err(SendError::Closed) => {}
                Err(error) => panic!("{error}"),
            },
            ParentEvent::Message {
                message,
                handle: Some(received),
            } => {
                let kind = received.kind.unwrap_or(HandleKind::Native);
                let value: Value = message.parse().unwrap();
                let handle: Handle = received.handle;
                parent.post_handle(&value, kind, handle).await.unwrap();
            }
            ParentEvent::Descriptors { message, descriptors } => {
                let value: Value = message.parse().unwrap();
                parent.channel().post_descriptors(&value, descriptors).await.unwrap();
            }
            ParentEvent::BadMessage(bad) => parent.post_message(&json!({ "bad": bad.to_string() })).await.unwrap(),
            ParentEvent::Disconnect { fault, .. } => {
                println!(
                    "{}",
                    json!({ "fault": fault.map(|fault| fault.to_string()), "peak": peak() })
                );
            }
            ParentEvent::HandleLost(_) => println!("{}", json!({ "lost": true })),
            _ => {}
        }
    }
}

/// Gives two connections to the parent, and tells it what it asks about them.
async fn give(mut parent: Parent) {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let list = SocketList::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(
            tokio::net::TcpStream::connect(server.local_addr().unwrap())
                .await
                .unwrap(),
        );
        let (accepted, _) = server.accept().await.unwrap();
        let handle = Handle::from(accepted.into_std().unwrap()).counted_by(&list);
        let sent = parent.post_handle(&json!({}), HandleKind::Socket, handle).await;
        sent.map_err(|(error, _)| error).unwrap();
    }
    while let Some(event) = parent.next().await {
        let ParentEvent::Message { message, .. } = event else {
            continue;
        };
        let (channel, list) = (parent.channel().clone(), list.clone());
        match message.parse::<String>().unwrap().as_str() {
            "count" => channel.send(&json!({ "count": list.count().await.unwrap() })).unwrap(),
            "ping" => channel.send(&json!({ "pong": true })).unwrap(),
            _ => drop(tokio::spawn(async move {
                list.closed().await.unwrap();
                channel.send(&json!({ "closed": true })).unwrap();
            })),
        }
    }
}

/// Serves HTTP at `ADDRESS`, or at `PORT` of 127.0.0.1, with `OPTIONS` as Node has them; the path says what it does besides.
/// Says what happened on standard output.
async fn serve() {
    let worker = Worker::from_env().unwrap();
    let port = || std::env::var("PORT").unwrap_or("0".into());
    let address = std::env::var("ADDRESS").unwrap_or_else(|_| format!("127.0.0.1:{}", port()));
    let options = std::env::var("OPTIONS").unwrap_or_default();
    let is = |option| options.split(' ').any(|is| is == option);
    if is("udp") {
        return serve_udp(&worker, address).await;
    }
    let mut listen = worker
        .listen(address)
        .ipv6_only(is("ipv6Only"))
        .exclusive(is("exclusive"))
        .readable_all(is("readableAll"))
        .writable_all(is("writableAll"));
    if let Ok(backlog) = std::env::var("BACKLOG") {
        listen = listen.backlog(backlog.parse().unwrap());
    }
    if let Ok(name) = std::env::var("LISTEN_NAME") {
        listen = listen.named(name);
    }
    let mut listener = match listen.await {
        Ok(listener) => listener,
        Err(error) => return println!("{}", json!({ "code": error.code(), "error": error.to_string() })),
    };
    let port = match listener.local_addr() {
        Address::Ip(address) => Some(address.port()),
        _ => None,
    };
    let address = listener.local_addr().to_string();
    println!(
        "{}",
        json!({ "address": address, "port": port, "id": worker.id(), "inherits": inherited() })
    );
    // Messages reach the program of a worker too.
    if let Some(mut parent) = thead::parent().unwrap() {
        tokio::spawn(async move {
            while let Some(event) = parent.next().await {
                match event {
                    ParentEvent::Message { message, .. } => parent.channel().send_raw(message.raw()).unwrap(),
                    ParentEvent::Leave => println!("{}", json!({ "leave": true })),
                    _ => {}
                }
            }
        });
    }
    let served = accept(&mut listener, &worker).await;
    println!("{}", json!({ "served": served }));
}

/// Answers each datagram with what it was and who this is.
async fn serve_udp(worker: &Worker, address: String) {
    let options = std::env::var("OPTIONS").unwrap_or_default();
    let is = |option| options.split(' ').any(|is| is == option);
    let bind = worker
        .bind_udp(address)
        .ipv6_only(is("ipv6Only"))
        .exclusive(is("exclusive"));
    let socket = match bind.reuse_address(is("reuseAddr")).await {
        Ok(socket) => socket,
        Err(error) => return println!("{}", json!({ "code": error.code(), "error": error.to_string() })),
    };
    let address = socket.local_addr().unwrap();
    println!(
        "{}",
        json!({ "address": address.to_string(), "port": address.port(), "id": worker.id(), "inherits": inherited() })
    );
    if is("twice") {
        let second = worker.bind_udp(address).reuse_address(true).await;
        let code = second.map_or_else(|error| error.code(), |_| "bound");
        println!("{}", json!({ "second": code }));
    }
    let (mut buffer, mut served) = ([0; 1500], 0);
    while let Some((length, peer)) = socket.recv_from(&mut buffer).await.unwrap() {
        served += 1;
        let message = String::from_utf8_lossy(&buffer[..length]);
        let answer = json!({ "message": message, "pid": std::process::id(), "id": worker.id() });
        socket.send_to(answer.to_string().as_bytes(), peer).await.unwrap();
    }
    println!("{}", json!({ "served": served }));
}

async fn accept(listener: &mut Listener, worker: &Worker) -> usize {
    let mut open = tokio::task::JoinSet::new();
    let mut served = 0;
    let end = Arc::new(Notify::new());
    loop {
        let next = tokio::select! {
            next = listener.accept() => next.unwrap(),
            () = end.notified() => break,
        };
        let Some((mut stream, peer)) = next else { break };
        assert_eq!(
            peer.map(|peer| peer.ip().to_canonical().is_loopback()),
            stream.as_tcp().map(|_| true)
        );
        served += 1;
        let (worker, end) = (worker.clone(), end.clone());
        open.spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            let request = String::from_utf8_lossy(&request);
            let body = json!({ "id": worker.id(), "pid": std::process::id() }).to_string();
            if request.starts_with("GET /leave ") {
                tokio::spawn(async move { worker.disconnect().await });
            } else if request.starts_with("GET /slow ") {
                // Until it is told to leave, and a little longer than that takes.
                worker.leaving().await;
            } else if request.starts_with("GET /end ") {
                end.notify_one();
            } else if request.starts_with("GET /die ") {
                std::process::exit(7);
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // A client that has gone has no need of it.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        });
    }
    open.join_all().await;
    served
}
