//! The command that says whether new data may be pushed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thead::data::Content;
use thead::{ChildEvent, Command, ExitStatus, Stdio};
use tokio::io::AsyncReadExt;

use super::source::Shown;

/// How long it may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A check, and where it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check<'a> {
    /// The command.
    pub(super) words: &'a [String],
    pub(super) cwd: &'a Path,
    /// A directory that can be made, and removed again.
    pub(super) scratch: &'a Path,
    pub(super) patience: Duration,
}
/// What it may print, of which the last line is the reason.
const PRINTED: u64 = 64 << 10;

/// Runs the command with the new data as its last argument: a file of the same name in a directory of its own, that is removed
/// afterwards.
///
/// # Errors
/// Why the data is refused: what the command said last, or what became of it.
pub(super) async fn check(check: Check<'_>, shown: Shown, content: &Content) -> Result<(), String> {
    let Check {
        words,
        cwd,
        scratch,
        patience,
    } = check;
    let (place, content) = (scratch.to_owned(), content.clone());
    let candidate = tokio::task::spawn_blocking(move || Candidate::new(&place, shown, &content));
    let candidate = candidate.await.map_err(|error| error.to_string())??;
    let shown = words.join(" ");
    let command = Command::new(&words[0])
        .args(&words[1..])
        .arg(&candidate.path)
        .current_dir(cwd)
        .stdin(Stdio::Null)
        .stdout(Stdio::Pipe)
        .stderr(Stdio::Pipe)
        .own_group()
        .kill_on_drop();
    let mut child = command
        .spawn()
        .map_err(|error| format!("the check cannot be started: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut printed = (Vec::new(), Vec::new());
    let run = async {
        let read = async {
            let out = async {
                if let Some(stdout) = stdout {
                    let _ = stdout.take(PRINTED).read_to_end(&mut printed.0).await;
                }
            };
            let err = async {
                if let Some(stderr) = stderr {
                    let _ = stderr.take(PRINTED).read_to_end(&mut printed.1).await;
                }
            };
            tokio::join!(out, err);
        };
        let ended = async {
            while let Some(event) = child.next().await {
                if let ChildEvent::Exit(status) = event {
                    return Some(status);
                }
            }
            None
        };
        tokio::join!(read, ended).1
    };
    let status = match tokio::time::timeout(patience, run).await {
        Ok(status) => status,
        Err(_) => {
            child.kill_tree();
            child.wait().await;
            return Err(format!("the check ({shown}) took longer than {patience:?}"));
        }
    };
    let ended = match status {
        Some(ExitStatus::Code(0)) => return Ok(()),
        Some(ExitStatus::Code(code)) => format!("exited with {code}"),
        Some(ExitStatus::Signal { signal, .. }) => format!("was killed by signal {signal}"),
        None => "ended".into(),
    };
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.map(|line| line.trim().chars().take(300).collect::<String>())
    };
    Err(match last(&printed.1).or_else(|| last(&printed.0)) {
        Some(said) => format!("the check ({shown}) {ended}: {said}"),
        None => format!("the check ({shown}) {ended}"),
    })
}

/// The file that a check looks at.
struct Candidate {
    path: PathBuf,
    dir: Option<PathBuf>,
}

impl Candidate {
    fn new(scratch: &Path, shown: Shown, content: &Content) -> Result<Self, String> {
        let place = |name: &str| {
            let _ = fs::remove_dir_all(scratch);
            fs::create_dir(scratch).map(|()| scratch.join(name))
        };
        let made = match (shown, content) {
            (Shown::Dir(path), _) => return Ok(Self { path, dir: None }),
            (Shown::Bytes(name, bytes), _) => place(&name).and_then(|path| {
                fs::write(&path, bytes)?;
                Ok(path)
            }),
            // Its content, without a copy of it.
            (Shown::Memory(name), Content::Memory(memory)) => place(&name).and_then(|path| {
                std::os::unix::fs::symlink(memory.path(), &path)?;
                Ok(path)
            }),
            (Shown::Memory(_), Content::Value(_)) => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let path = made.map_err(|error| format!("{}: {error}", scratch.display()))?;
        Ok(Self {
            path,
            dir: Some(scratch.to_owned()),
        })
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    async fn run(script: &str, patience: Duration) -> (Result<(), String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        let words = ["sh", "-c", script, "check"].map(str::to_owned);
        let one = Check {
            words: &words,
            cwd: dir.path(),
            scratch: &scratch,
            patience,
        };
        let shown = Shown::Bytes("flags.yaml".into(), b"a: 1".to_vec());
        let done = check(one, shown, &Content::value(&1).unwrap()).await;
        (done, scratch.exists())
    }

    #[tokio::test]
    async fn a_check_sees_the_file_under_its_name_and_its_last_words_are_the_reason() {
        for (script, expected) in [
            (r#"test "$(cat "$1")" = "a: 1" && test "${1##*/}" = flags.yaml"#, Ok(())),
            (
                "echo on the way >&2; echo 'a: must be 2' >&2; echo; exit 3",
                Err("exited with 3: a: must be 2"),
            ),
            ("echo out; exit 1", Err("exited with 1: out")),
            ("exit 4", Err("exited with 4")),
            ("kill -9 $$", Err("was killed by signal 9")),
        ] {
            let (done, left) = run(script, PATIENCE).await;
            assert!(!left, "nothing is left of it");
            match (done, expected) {
                (Ok(()), Ok(())) => {}
                (Err(said), Err(expected)) => assert!(said.ends_with(expected), "{said} is not {expected}"),
                (done, expected) => panic!("{script}: {done:?} is not {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_killed_with_all_that_it_started() {
        let (done, left) = run("sleep 1000 & sleep 1000", Duration::from_millis(200)).await;
        assert!(done.unwrap_err().ends_with("took longer than 200ms"));
        assert!(!left);
    }

    #[tokio::test]
    async fn a_check_that_cannot_be_started_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let one = Check {
            words: &["/nowhere/check".to_owned()],
            cwd: dir.path(),
            scratch: &dir.path().join("scratch"),
            patience: PATIENCE,
        };
        let done = check(one, Shown::Dir(dir.path().into()), &Content::value(&1).unwrap()).await;
        assert!(done.unwrap_err().starts_with("the check cannot be started"));
    }
}
