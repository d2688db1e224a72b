//! A Node child of a Rust program: `cargo run -p thead --example fork` (needs `node` in PATH).

use std::path::Path;

use thead::{ChildEvent, Command};

#[derive(serde::Deserialize)]
struct Answer {
    sum: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fork.js");
    let mut child = Command::fork(script).spawn()?;
    child.post_message(&[1, 2, 39]).await?;
    while let Some(event) = child.next().await {
        match event {
            ChildEvent::Message { message, .. } => {
                println!("the child says {}", message.parse::<Answer>()?.sum);
                // The channel is all that keeps this child alive.
                child.disconnect();
            }
            ChildEvent::Exit(status) => println!("the child ended: {status:?}"),
            _ => {}
        }
    }
    Ok(())
}
