//! A worker that takes data, for tests: it answers each request with what it has of `flags` and `table`. It refuses flags that
//! are `bad`.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let state = Arc::new(Mutex::new(json!({ "pid": std::process::id() })));
    let set = |state: &Arc<Mutex<Value>>, name: &str, value: Value| {
        state.lock().unwrap_or_else(PoisonError::into_inner)[name] = value;
    };
    let mine = state.clone();
    thead::data::watch("flags", move |data| {
        let value: Value = data.parse()?;
        if value["bad"] == true {
            return Err("bad flags".into());
        }
        set(&mine, "flags", json!({ "revision": data.revision(), "value": value }));
        Ok(())
    })?;
    let mine = state.clone();
    let mut table = None;
    thead::data::watch("table", move |mut data| {
        let map = table.insert(data.memory()?.map()?);
        // Every page of it is looked at.
        let sum = map.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>();
        set(
            &mine,
            "table",
            json!({ "revision": data.revision(), "size": map.len(), "sum": sum }),
        );
        Ok(())
    })?;
    let port: u16 = std::env::var("PORT")?.parse()?;
    let mut listener = thead::worker::listen(std::net::SocketAddr::from(([127, 0, 0, 1], port))).await?;
    while let Some((mut stream, _)) = listener.accept().await? {
        let body = state.lock().unwrap_or_else(PoisonError::into_inner).to_string();
        tokio::spawn(async move {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut request).await, Ok(1..)) {}
            // A client that went away wants nothing.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
