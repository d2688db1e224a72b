//! Node's four verbs and their waiting forms, with Node's defaults. Each is a [`Command`] made and run; whatever else a
//! command can be told, tell the [`Command`].

use std::ffi::OsStr;

use crate::child::Child;
use crate::command::{Command, SpawnError};
use crate::exec::{ExecError, Output};
use crate::stdio::Stdio;

/// Starts a program; its three standard streams are pipes. Node: `child_process.spawn()`.
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Child, SpawnError> {
    let command = Command::new(program).args(args);
    let streams = (0..3).fold(command, |command, number| command.fd(number, Stdio::Pipe));
    streams.spawn()
}

/// Starts a script under `node`, with a channel; its streams are ours. Node: `child_process.fork()`.
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// [`SpawnError`].
pub fn fork(script: impl AsRef<OsStr>, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Child, SpawnError> {
    Command::fork(script).args(args).spawn()
}

/// Runs a line in a shell and returns what it printed. Node: `child_process.exec()`.
///
/// The shell obeys all characters of the line. With a word that comes from outside use [`exec_file`].
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// [`ExecError`], also if the line ends with another code than 0.
pub async fn exec(line: impl AsRef<OsStr>) -> Result<Output, ExecError> {
    Command::shell(line).output().await
}

/// Runs a program and returns what it printed. Node: `child_process.execFile()`.
///
/// Must be called within a Tokio runtime.
///
/// # Errors
/// [`ExecError`], also if it ends with another code than 0.
pub async fn exec_file(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Output, ExecError> {
    Command::new(program).args(args).output().await
}

/// Runs a program, waits for its end, and returns what it printed however it ended. Node: `child_process.spawnSync()`.
///
/// # Errors
/// [`ExecError`] if it could not be started, ran too long or printed too much. Another code than 0 is none:
/// Node's `status`.
pub fn spawn_sync(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<(crate::ExitStatus, Output), ExecError> {
    Command::new(program).args(args).run_sync()
}

/// As [`exec`], blocking. Node: `child_process.execSync()`.
///
/// # Errors
/// As [`exec`].
pub fn exec_sync(line: impl AsRef<OsStr>) -> Result<Output, ExecError> {
    Command::shell(line).output_sync()
}

/// As [`exec_file`], blocking. Node: `child_process.execFileSync()`.
///
/// # Errors
/// As [`exec_file`].
pub fn exec_file_sync(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Output, ExecError> {
    Command::new(program).args(args).output_sync()
}
