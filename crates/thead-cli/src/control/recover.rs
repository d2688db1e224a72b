//! What runs though the state knows nothing of it: the state was lost, and its primaries were not.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use thead::{Link, ParentEvent};
use tokio::net::UnixStream;

use super::PRIMARY;
use super::state::Saved;
use crate::config::Name;
use crate::role::{Report, Spec};

/// How long a primary may take to say what it runs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The services of all primaries that listen in this directory and are not among those known. Files that nobody listens at are
/// removed.
pub(super) async fn unknown(run_dir: &Path, known: &[Saved]) -> Vec<Saved> {
    let known: BTreeSet<_> = known.iter().map(|saved| saved.name.as_str()).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(PRIMARY));
        let Some(name) = name.filter(|name| !known.contains(name) && name.parse::<Name>().is_ok()) else {
            continue;
        };
        match tokio::time::timeout(PATIENCE, ask(&entry.path())).await {
            Ok(Ok(spec)) if spec.name.as_str() == name => found.push(Saved {
                name: spec.name,
                config: spec.config,
                base: spec.base,
                source: None,
                group: None,
                running: true,
                generation: spec.generation,
            }),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(entry.path());
            }
            _ => eprintln!(
                "thead: {}: what listens there is no primary that answers",
                entry.path().display()
            ),
        }
    }
    found
}

/// What a primary runs. It says so to each control that comes.
async fn ask(path: &Path) -> io::Result<Spec> {
    let mut link = Link::over(UnixStream::connect(path).await?.into_std()?.into())?;
    while let Some(event) = link.next().await {
        if let ParentEvent::Message { message, .. } = event
            && let Ok(Report::Spec(spec)) = message.parse()
        {
            return Ok(*spec);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
