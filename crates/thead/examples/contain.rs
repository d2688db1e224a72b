//! Runs a command in a control group of its own until it says something, and then ends everything that it has started:
//! `contain DIRECTORY PROGRAM [ARGS]`. The directory is one of a cgroup2 file system, where this user may make another.

use std::error::Error;
use std::path::PathBuf;

use thead::{Command, Stdio};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let (Some(directory), Some(program)) = (words.next(), words.next()) else {
        return Err("contain DIRECTORY PROGRAM [ARGS]".into());
    };
    let group = PathBuf::from(directory).join(format!("contain-{}", std::process::id()));
    std::fs::create_dir(&group)?;
    let command = Command::new(program).args(words).cgroup(&group).stdout(Stdio::Pipe);
    let mut child = command.spawn()?;
    let mut said = [0; 256];
    let length = match &mut child.stdout {
        Some(stdout) => stdout.read(&mut said).await?,
        None => 0,
    };
    print!("{}", String::from_utf8_lossy(&said[..length]));
    child.kill_tree();
    child.wait().await;
    // A group is removed when the last of it is gone.
    while std::fs::remove_dir(&group).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}
