//! One port, two Node workers: `cargo run -p thead --example cluster` (needs `node` in PATH).

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;

use thead::Command;
use thead::cluster::{Config, Primary, PrimaryEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster.js");
    let mut primary = Primary::new(Config::default());
    for _ in 0..2 {
        primary.fork(&Command::fork(&script))?;
    }
    let (mut listening, mut port) = (0, 0);
    while listening < 2 {
        if let Some(PrimaryEvent::Listening { address, .. }) = primary.next().await {
            listening += 1;
            port = address.port.and_then(|port| port.try_into().ok()).unwrap_or(0);
        }
    }
    let asking = tokio::spawn(async move {
        let mut answered = BTreeSet::new();
        for _ in 0..4 {
            answered.insert(ask(port).await?);
        }
        Ok::<_, std::io::Error>(answered)
    });
    // The primary works only while it is asked for events.
    let answered = tokio::select! {
        answered = asking => answered??,
        () = async { while primary.next().await.is_some() {} } => BTreeSet::new(),
    };
    println!("{} workers answered on port {port}", answered.len());

    let workers: Vec<_> = primary.workers().collect();
    for worker in workers {
        primary.disconnect(worker);
    }
    while primary.workers().next().is_some() {
        if let Some(PrimaryEvent::Exit { worker, status }) = primary.next().await {
            println!("worker {worker} ended: {status:?}");
        }
    }
    Ok(())
}

async fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}
