//! Everything that needs memory is done here, before the child exists.

use std::collections::BTreeMap;
use std::ffi::{OsStr, c_char, c_int};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::process::{Resource, Rlimit};

use super::child::{Orders, Place};
use super::{FdSource, SpawnError, SpawnSpec, Stage, program_path};
use crate::sys::{helper, limit};

/// Digits that a pid can have, of which the child writes as many as it needs.
const PID_ROOM: &[u8] = b"0000000000";

/// What the child will be told, and the memory that its orders point into.
pub(super) struct Plan<'fd> {
    pub(super) orders: Orders,
    /// Which descriptor stands behind each place; `None` is `/dev/null`, which the spawner keeps.
    pub(super) sources: Vec<Option<RawFd>>,
    _strings: Strings,
    _pointers: Vec<*const c_char>,
    _descriptors: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Plan<'fd> {
    pub(super) fn new(spec: &SpawnSpec<'fd>, report: Option<BorrowedFd<'fd>>) -> Result<Plan<'fd>, SpawnError> {
        let map = descriptor_map(spec)?;
        let program = program_path(spec)?;
        let report_number = map.keys().next_back().map_or(0, |last| last.saturating_add(1));
        let mut strings = Strings::default();

        // The order matters: the pointers to what follows the program make up argv, with room for a shell in front.
        strings.push(Stage::Arguments, &[b"/bin/sh"])?;
        let arg0 = spec.arg0.as_deref().unwrap_or(&spec.program).as_bytes();
        let env_prefix: &[u8] = match &spec.credentials {
            Some(credentials) => {
                let request = helper::request(credentials, spec.death_signal, report_number)?;
                for argument in [helper::NAME, request.as_bytes(), program.as_os_str().as_bytes(), arg0] {
                    strings.push(Stage::Arguments, &[argument])?;
                }
                helper::ENV_PREFIX
            }
            None => {
                strings.push(Stage::Arguments, &[arg0])?;
                b""
            }
        };
        for argument in &spec.args {
            strings.push(Stage::Arguments, &[argument.as_bytes()])?;
        }
        let argc = strings.starts.len();
        for (name, value) in &spec.env {
            if spec.own_pid.iter().any(|own| name == own) {
                continue;
            }
            strings
                .push(
                    Stage::Environment,
                    &[env_prefix, name.as_bytes(), b"=", value.as_bytes()],
                )
                .map_err(|error| error.with_path(name))?;
        }
        let mut pids_at = Vec::with_capacity(spec.own_pid.len());
        for name in &spec.own_pid {
            strings.push(Stage::Environment, &[env_prefix, name.as_bytes(), b"=", PID_ROOM])?;
            pids_at.push(strings.bytes.len() - 1 - PID_ROOM.len());
        }
        let envc = strings.starts.len();
        let program: &OsStr = match spec.credentials {
            Some(_) => OsStr::new("/proc/self/exe"),
            None => program.as_os_str(),
        };
        let program_at = strings.push(Stage::Arguments, &[program.as_bytes()])?;
        let cwd_at = match &spec.cwd {
            Some(cwd) => Some(strings.push(Stage::Arguments, &[cwd.as_os_str().as_bytes()])?),
            None => None,
        };

        // Nothing is pushed from here on, so the bytes stay where they are.
        let base = strings.bytes.as_mut_ptr();
        let at = |start: usize| base.wrapping_add(start).cast::<c_char>();
        let mut pointers: Vec<*const c_char> = Vec::with_capacity(envc + 2);
        pointers.extend(strings.starts[..argc].iter().map(|start| at(*start).cast_const()));
        pointers.push(ptr::null());
        pointers.extend(strings.starts[argc..envc].iter().map(|start| at(*start).cast_const()));
        pointers.push(ptr::null());
        let argv = pointers.as_mut_ptr();

        let mut sources: Vec<Option<RawFd>> = Vec::with_capacity(map.len() + 1);
        let mut places: Vec<Place> = Vec::with_capacity(map.len() + 1);
        for (target, source) in &map {
            let inherited = matches!(source, FdSource::Inherit);
            sources.push(match source {
                FdSource::Fd(fd) => Some(fd.as_raw_fd()),
                FdSource::Inherit => Some(*target),
                FdSource::Null => None,
            });
            places.push(Place::new(*target, inherited && *target <= 2));
        }
        if let Some(report) = report {
            sources.push(Some(report.as_raw_fd()));
            places.push(Place::new(report_number, false));
        }
        let orders = Orders {
            program: at(program_at),
            argv,
            env: argv.wrapping_add(argc + 1),
            shell_runs_text: spec.credentials.is_none(),
            cwd: cwd_at.map_or(ptr::null(), |start| at(start).cast_const()),
            pid_digits: pids_at.into_iter().map(|start| at(start).cast()).collect(),
            gaps: gaps(&places),
            places,
            private_table: false,
            session: spec.session,
            death_signal: spec.death_signal,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            cgroups: spec.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
            limits: limits(spec),
            nice: spec.nice,
            umask: spec.umask,
            failure: None,
        };
        Ok(Plan {
            orders,
            sources,
            _strings: strings,
            _pointers: pointers,
            _descriptors: PhantomData,
        })
    }
}

/// Strings that end in NUL, one behind the other.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Strings {
    fn push(&mut self, stage: Stage, parts: &[&[u8]]) -> Result<usize, SpawnError> {
        let start = self.bytes.len();
        for part in parts {
            if part.contains(&0) {
                return Err(SpawnError::new(stage, libc::EINVAL));
            }
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        self.starts.push(start);
        Ok(start)
    }
}

fn descriptor_map<'fd>(spec: &SpawnSpec<'fd>) -> Result<BTreeMap<RawFd, FdSource<'fd>>, SpawnError> {
    let mut map = BTreeMap::from([(0, FdSource::Null), (1, FdSource::Null), (2, FdSource::Null)]);
    map.extend(spec.fds.iter().copied());
    match map.keys().next() {
        Some(lowest) if *lowest < 0 => Err(SpawnError::new(Stage::FdMap(*lowest), libc::EBADF)),
        _ => Ok(map),
    }
}

/// The ranges of numbers, both ends included, in which the child shall have nothing. `places` ascend.
fn gaps(places: &[Place]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut free = 0;
    for place in places {
        let target = place.target.unsigned_abs();
        if target > free {
            gaps.push((free, target - 1));
        }
        free = target + 1;
    }
    gaps.push((free, u32::MAX));
    gaps
}

fn limits(spec: &SpawnSpec<'_>) -> Vec<(c_int, [u64; 2])> {
    let raw = |limit: Rlimit| [limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX)];
    let open_files = limit::original_open_files().map(|limit| (Resource::Nofile as c_int, raw(limit)));
    let own = spec.limits.iter().map(|own| (own.resource as c_int, raw(own.limit)));
    open_files.into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gaps_are_all_numbers_that_no_place_has() {
        let of = |targets: &[RawFd]| {
            gaps(
                &targets
                    .iter()
                    .map(|target| Place::new(*target, false))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(of(&[0, 1, 2, 3, 7, 9]), [(4, 6), (8, 8), (10, u32::MAX)]);
        assert_eq!(of(&[2]), [(0, 1), (3, u32::MAX)]);
    }
}
