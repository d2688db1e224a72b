//! `thead demo`: the main job, small enough to watch.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::signal::unix::SignalKind;

use crate::run::{self, RunArgs};

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The port to serve; 0 for any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// How many workers.
    #[arg(short, long, default_value_t = 2)]
    instances: usize,

    /// Use the built-in worker even if Node is installed.
    #[arg(long)]
    no_node: bool,

    /// End after the show.
    #[arg(long)]
    once: bool,
}

const SERVER: &str = include_str!("demo.cjs");
/// Requests of one round of the show.
const ROUND: usize = 6;
/// How long the server may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn demo(args: &DemoArgs) -> ExitCode {
    match words(args).and_then(|words| Ok((free_port(args.port)?, words))) {
        Ok((port, words)) => {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let once = args.once;
            let workers = args.instances;
            let show = std::thread::spawn(move || show(address, workers, once));
            let instances = args.instances.to_string();
            let port = format!("PORT={port}");
            let options = ["run", "--name", "demo", "-i", &instances, "--env", &port].map(OsString::from);
            let code = match RunArgs::try_parse_from(options.into_iter().chain(words)) {
                Ok(args) => run::run(&args),
                Err(error) => {
                    eprintln!("thead: {error}");
                    ExitCode::from(run::USAGE)
                }
            };
            // It ends by itself once nobody answers.
            drop(show);
            code
        }
        Err(error) => {
            eprintln!("thead: the demo cannot start: {error}");
            ExitCode::from(run::FAILED)
        }
    }
}

/// What to run: a script for the Node in PATH, or this program as a worker.
fn words(args: &DemoArgs) -> io::Result<Vec<OsString>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let node = std::env::split_paths(&path).any(|dir| thead::sys::path::executable(&dir.join("node")).is_ok());
    if node && !args.no_node {
        return Ok(vec![thead::preload::install_script("demo", SERVER)?.into()]);
    }
    if !args.no_node {
        println!("No node in PATH: the workers are thead's own.");
    }
    Ok(vec![
        "--channel".into(),
        std::env::current_exe()?.into(),
        "demo-worker".into(),
    ])
}

fn free_port(port: u16) -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", port))?.local_addr()?.port())
}

/// Asks the server, renews it, asks it again.
fn show(address: SocketAddr, workers: usize, once: bool) {
    let told = || -> io::Result<()> {
        wait_for(address, workers)?;
        println!("Serving http://{address}/");
        let mut before = BTreeMap::new();
        round(address, &mut before)?;
        println!(
            "Reload: new workers first, then the old ones leave (kill -HUP {}).",
            std::process::id()
        );
        signal(SignalKind::hangup())?;
        let (mut during, end) = (BTreeMap::new(), Instant::now() + PATIENCE);
        let mut asked = 0;
        // The old ones are gone when nobody but new ones has answered for a while.
        let mut last_old = Instant::now();
        while last_old.elapsed() < Duration::from_millis(500) && Instant::now() < end {
            let who = ask(address)?;
            if before.contains_key(&who) {
                last_old = Instant::now();
            }
            *during.entry(who).or_insert(0) += 1;
            asked += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("{asked} requests meanwhile, all answered.");
        round(address, &mut BTreeMap::new())?;
        Ok(())
    };
    match told() {
        Ok(()) if once => {
            let _ = signal(SignalKind::terminate());
        }
        Ok(()) => println!("Serving on at http://{address}/ until Ctrl-C."),
        Err(error) => println!("The demo's own requests failed: {error}"),
    }
}

fn round(address: SocketAddr, seen: &mut BTreeMap<String, usize>) -> io::Result<()> {
    for _ in 0..ROUND {
        let who = ask(address)?;
        println!("  GET http://{address}/ was answered by {who}");
        *seen.entry(who).or_insert(0) += 1;
    }
    Ok(())
}

/// Until every worker has answered, or that takes too long to be waited for.
fn wait_for(address: SocketAddr, workers: usize) -> io::Result<()> {
    let (mut seen, end) = (BTreeSet::new(), Instant::now() + PATIENCE);
    while seen.len() < workers {
        match ask(address) {
            Ok(who) => drop(seen.insert(who)),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(20));
        if Instant::now() > end && !seen.is_empty() {
            break;
        }
    }
    Ok(())
}

/// One request on a connection of its own; the body of the answer.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body
            .lines()
            .find(|line| line.contains("pid"))
            .unwrap_or(body)
            .trim()
            .to_owned()),
        _ => Err(io::Error::other(format!("no answer but {answer:?}"))),
    }
}

fn signal(kind: SignalKind) -> io::Result<()> {
    let us = thead::sys::pidfd::open(std::process::id().cast_signed())?;
    thead::sys::pidfd::send_signal(us, kind.as_raw_value())
}

/// The built-in worker: the same server as `demo.cjs`, in Rust.
pub(crate) fn worker() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> io::Result<()> {
    let worker = thead::worker::Worker::from_env().map_err(io::Error::other)?;
    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(3000);
    let mut listener = worker.listen(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let (leaving, left) = tokio::sync::watch::channel(());
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => match connection? {
                Some((connection, _)) => { connections.spawn(answer(connection, left.clone())); }
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(leaving);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Requests without a body, until the client or the server leaves. Between two requests the server may leave at once.
async fn answer(stream: thead::worker::Stream, mut leaving: tokio::sync::watch::Receiver<()>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut keep_alive) = (String::new(), true);
        tokio::select! {
            biased;
            read = stream.read_line(&mut line) => if read? == 0 { return Ok(()) },
            _ = leaving.changed() => return Ok(()),
        }
        loop {
            line.clear();
            if stream.read_line(&mut line).await? <= 2 {
                break;
            }
            keep_alive &= !line.to_ascii_lowercase().starts_with("connection: close");
        }
        keep_alive &= leaving.has_changed().is_ok();
        let body = format!("thead's own worker, pid {}\n", std::process::id());
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
        if !keep_alive {
            return Ok(());
        }
    }
}
