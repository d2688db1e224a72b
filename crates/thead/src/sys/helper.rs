//! The step in between for children that become another user.
//!
//! A child that still shares our memory must not change its credentials, so it executes *this very program* first, with a
//! request for an argument. A program that wants such children calls [`run_if_asked`] before anything else in `main`; asked,
//! that call becomes the other user and executes the child's program, and never returns.
//!
//! The child's environment travels with a mark before each name: what the loader or Rust's runtime would obey
//! (`LD_PRELOAD`, `RUST_BACKTRACE`) is for the program, not for the helper, which still has our rights.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Pid, Signal, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::spawn::{Credentials, SpawnError, Stage};

/// The helper's own name, by which it knows that it was asked.
pub(super) const NAME: &[u8] = b"thead: becoming another user";
/// Before each entry of the environment that is meant for the program.
pub(super) const ENV_PREFIX: &[u8] = b"-";

static CAN_HELP: AtomicBool = AtomicBool::new(false);

/// Call it first in `main`, while there is only one thread. Returns at once unless this process was started to help.
pub fn run_if_asked() {
    CAN_HELP.store(true, Ordering::Relaxed);
    let mut args = std::env::args_os();
    if args.next().is_none_or(|name| name.as_bytes() != NAME) {
        return;
    }
    let Some(request) = args.next().and_then(|text| Request::parse(text.to_str()?)) else {
        std::process::exit(127)
    };
    // SAFETY: the parent has put the pipe there for us, and nothing else in this process knows of it.
    let report = unsafe { OwnedFd::from_raw_fd(request.report) };
    let (stage, errno) = request.run(&report, args);
    let mut record = [0; 8];
    record[..4].copy_from_slice(&stage_number(stage).to_ne_bytes());
    record[4..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
    // If nobody listens, the exit code has to tell.
    let _ = rustix::io::write(&report, &record);
    std::process::exit(127)
}

/// What the helper is asked, as text: `report,parent,signal,uid,gid,group:group…`, 0 for no signal, `-` for no change.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    report: RawFd,
    parent: i32,
    death_signal: i32,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Vec<u32>,
}

pub(super) fn request(wanted: &Credentials, death_signal: Option<i32>, report: RawFd) -> Result<String, SpawnError> {
    if !CAN_HELP.load(Ordering::Relaxed) {
        return Err(SpawnError::new(Stage::Helper, libc::ENOSYS));
    }
    let parent = rustix::process::getpid().as_raw_nonzero();
    let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let groups = wanted.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(":");
    let (uid, gid) = (id(wanted.uid), id(wanted.gid));
    Ok(format!(
        "{report},{parent},{},{uid},{gid},{groups}",
        death_signal.unwrap_or(0)
    ))
}

impl Request {
    fn parse(text: &str) -> Option<Request> {
        let mut fields = text.split(',');
        let id = |text: &str| {
            if text == "-" {
                Some(None)
            } else {
                text.parse().ok().map(Some)
            }
        };
        Some(Request {
            report: fields.next()?.parse().ok().filter(|number| *number > 2)?,
            parent: fields.next()?.parse().ok()?,
            death_signal: fields.next()?.parse().ok()?,
            uid: id(fields.next()?)?,
            gid: id(fields.next()?)?,
            groups: fields
                .next()?
                .split_terminator(':')
                .map(|group| group.parse().ok())
                .collect::<Option<_>>()?,
        })
    }

    /// Returns only if it fails.
    fn run(&self, report: &OwnedFd, mut args: impl Iterator<Item = OsString>) -> (Stage, Errno) {
        if let Err(errno) = self.become_other(report) {
            return (Stage::Credentials, errno);
        }
        let (Some(program), Some(arg0)) = (args.next(), args.next()) else {
            return (Stage::Program, Errno::INVAL);
        };
        let env = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.as_bytes().strip_prefix(ENV_PREFIX)?;
            Some((OsString::from_vec(name.to_vec()), value))
        });
        let error = Command::new(program).arg0(arg0).args(args).env_clear().envs(env).exec();
        (Stage::Program, Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    }

    /// Groups first: afterwards we would not be allowed to. The calls change one thread, and there is only one.
    fn become_other(&self, report: &OwnedFd) -> rustix::io::Result<()> {
        rustix::io::fcntl_setfd(report, rustix::io::FdFlags::CLOEXEC)?;
        let groups: Vec<Gid> = self.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        match set_thread_groups(&groups) {
            // Node ignores it too, for a user who "becomes" himself. Nobody else gets past it.
            Err(Errno::PERM) if groups.is_empty() && self.changes_nothing() => {}
            other => other?,
        }
        if let Some(gid) = self.gid.map(Gid::from_raw) {
            set_thread_res_gid(gid, gid, gid)?;
        }
        if let Some(uid) = self.uid.map(Uid::from_raw) {
            set_thread_res_uid(uid, uid, uid)?;
        }
        if let Some(signal) = Signal::from_named_raw(self.death_signal) {
            // A change of user has taken it away. And the parent may have died since.
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            if rustix::process::getppid() != Pid::from_raw(self.parent) {
                std::process::exit(127);
            }
        }
        Ok(())
    }

    fn changes_nothing(&self) -> bool {
        let same_user = self.uid.is_none_or(|uid| rustix::process::geteuid().as_raw() == uid);
        same_user && self.gid.is_none_or(|gid| rustix::process::getegid().as_raw() == gid)
    }
}

/// News of a child that was to become another user. Readable (or hung up) when there is some.
#[derive(Debug)]
pub struct Report {
    pipe: OwnedFd,
    program: OsString,
}

impl Report {
    pub(super) fn pipe(program: &OsStr) -> Result<(Report, OwnedFd), SpawnError> {
        let failed = |errno: Errno| SpawnError::new(Stage::Clone, errno.raw_os_error());
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        rustix::io::ioctl_fionbio(&pipe, true).map_err(failed)?;
        Ok((
            Report {
                pipe,
                program: program.to_owned(),
            },
            writer,
        ))
    }

    /// `None` while the helper is at work; `Ok` when the program runs (or a signal ended the helper); else why not. The
    /// child of a failure ends with code 127 and must be collected as any other.
    ///
    /// # Errors
    /// [`Stage::Credentials`] or [`Stage::Program`], with the errno.
    pub fn poll(&self) -> Option<Result<(), SpawnError>> {
        let mut record = [0; 8];
        match rustix::io::read(&self.pipe, &mut record) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            Ok(8) => {
                let (stage, errno) = record.split_at(4);
                let number = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_ne_bytes);
                let error = match number(stage) == stage_number(Stage::Program) {
                    true => SpawnError::new(Stage::Program, number(errno)).with_path(&self.program),
                    false => SpawnError::new(Stage::Credentials, number(errno)),
                };
                Some(Err(error))
            }
            _ => Some(Ok(())),
        }
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn stage_number(stage: Stage) -> i32 {
    match stage {
        Stage::Program => 1,
        _ => 2,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// This test program's `main` is the harness's, which does not know of the helper.
    #[test]
    fn a_program_that_cannot_help_is_told_so() {
        let error = request(&Credentials::default(), None, 3).unwrap_err();
        assert_eq!((error.stage(), error.code()), (Stage::Helper, "ENOSYS"));
        assert_eq!(
            error.to_string(),
            "become another user: `run_if_asked` was not called at the start of `main`"
        );
    }

    #[test]
    fn a_request_is_understood_or_refused() {
        let whole = Request {
            report: 4,
            parent: 9,
            death_signal: 15,
            uid: Some(1),
            gid: None,
            groups: vec![7, 8],
        };
        assert_eq!(Request::parse("4,9,15,1,-,7:8"), Some(whole));
        assert!(Request::parse("4,9,0,-,-,").unwrap().groups.is_empty());
        for nonsense in ["", "4,9,0,-,-", "2,9,0,-,-,", "4,9,0,-5,-,", "4,9,0,-,-,x"] {
            assert_eq!(Request::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
