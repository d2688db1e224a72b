//! A worker that takes two pieces of data while it runs: `greeting`, a value, and `table`, a memory file.
//!
//! It tells its parent what it has applied. It refuses a greeting that is empty, or that names its own worker id, and panics
//! at one that says so.

use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Greeting {
    text: String,
    /// The worker that does not like it.
    #[serde(default)]
    not_for: Option<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let me = std::env::var("NODE_UNIQUE_ID").ok().and_then(|id| id.parse().ok());
    let Some(mut parent) = thead::parent()? else {
        return Err("to be run as a worker: thead run --channel hot".into());
    };
    let tell = parent.channel().clone();
    thead::data::watch("greeting", move |data| {
        let greeting: Greeting = data.parse()?;
        if greeting.text.is_empty() {
            return Err("an empty greeting".into());
        }
        if greeting.not_for.is_some() && greeting.not_for == me {
            return Err(format!("not for {me:?}").into());
        }
        assert_ne!(greeting.text, "panic", "as it was told");
        if greeting.text == "die" {
            std::process::exit(3);
        }
        tell.send(&json!({ "greeting": greeting.text, "revision": data.revision() }))?;
        Ok(())
    })?;
    let tell = parent.channel().clone();
    let mut table = None;
    thead::data::watch("table", move |mut data| {
        // The one before is unmapped here.
        let map = table.insert(data.memory()?.map()?);
        let sum = map.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        tell.send(&json!({ "table": map.len(), "sum": sum, "revision": data.revision() }))?;
        Ok(())
    })?;
    parent.send("watching")?;
    while parent.next().await.is_some() {}
    Ok(())
}
