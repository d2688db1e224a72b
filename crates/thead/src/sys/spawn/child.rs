//! What the child does between `clone` and `execve`, on its parent's memory and on a stack of its own.
//!
//! Here only raw system calls: no allocation, no lock, no panic, nothing of `std` that could do one of them, and no wrapper
//! of the C library with effects on the whole process. No change of credentials either: on shared memory `setresuid` takes
//! the *parent's* right to dump core away for good.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;

use super::slot::LOW;
use super::{Session, Stage};

/// One descriptor of the child.
pub(super) struct Place {
    pub(super) target: RawFd,
    pub(super) source: RawFd,
    /// Another place's target: take a copy before anything is placed.
    pub(super) aside: bool,
    /// Clear O_NONBLOCK.
    blocking: bool,
}

impl Place {
    pub(super) fn new(target: RawFd, blocking: bool) -> Place {
        Place {
            target,
            source: -1,
            aside: false,
            blocking,
        }
    }
}

/// All that the child is told; pointers lead into memory of the plan.
pub(super) struct Orders {
    pub(super) program: *const c_char,
    /// One entry for a shell, then argv as the program sees it.
    pub(super) argv: *mut *const c_char,
    pub(super) env: *const *const c_char,
    /// A program that is not executable code is a script for the shell.
    pub(super) shell_runs_text: bool,
    pub(super) cwd: *const c_char,
    /// Where to write our pid, ten digits and a NUL each.
    pub(super) pid_digits: Vec<*mut u8>,
    /// In ascending order of targets.
    pub(super) places: Vec<Place>,
    pub(super) gaps: Vec<(c_uint, c_uint)>,
    /// The table of descriptors is a copy already.
    pub(super) private_table: bool,
    pub(super) session: Session,
    pub(super) death_signal: Option<c_int>,
    pub(super) parent: c_int,
    pub(super) cgroups: Vec<RawFd>,
    pub(super) limits: Vec<(c_int, [u64; 2])>,
    pub(super) nice: Option<c_int>,
    pub(super) umask: Option<c_uint>,
    /// What the child answers, if anything.
    pub(super) failure: Option<(Stage, c_int)>,
}

/// The kernel's own size of a signal set, in bytes.
const SET: usize = 8;
/// No less than the kernel's `struct sigaction`; all zeroes mean the default.
const DEFAULT_ACTION: [u64; 8] = [0; 8];

/// `syscall` with every argument as wide as a register.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the callers pass numbers, and pointers to memory that the orders keep alive.
        answer(unsafe { libc::syscall($number $(, $argument as c_long)*) })
    };
}

fn answer(result: c_long) -> Result<c_long, c_int> {
    match result {
        // SAFETY: always valid; it is the variable of the parent's thread, which stands still meanwhile.
        -1 => Err(unsafe { *libc::__errno_location() }),
        value => Ok(value),
    }
}

/// Blocks every signal of this thread, those of the C library too, and returns what was blocked before.
pub(super) fn block_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0_u64);
    // Fails for no valid argument.
    let _ = call!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &raw const all,
        &raw mut before,
        SET
    );
    before
}

pub(super) fn restore_signals(mask: u64) {
    let _ = call!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &raw const mask,
        ptr::null::<u64>(),
        SET
    );
}

/// Where the child begins.
pub(super) extern "C" fn main(orders: *mut c_void) -> c_int {
    // SAFETY: the parent passes its orders and stands still until we are done with them.
    let orders = unsafe { &mut *orders.cast::<Orders>() };
    let failure = match prepare(orders) {
        Ok(()) => execute(orders),
        Err(failure) => failure,
    };
    orders.failure = Some(failure);
    exit()
}

fn exit() -> c_int {
    loop {
        let _ = call!(libc::SYS_exit_group, 127);
    }
}

fn prepare(orders: &mut Orders) -> Result<(), (Stage, c_int)> {
    // First, for no handler may ever run here. Real-time signals too; SIGKILL and SIGSTOP answer EINVAL.
    for signal in 1..=64 {
        let _ = call!(
            libc::SYS_rt_sigaction,
            signal,
            DEFAULT_ACTION.as_ptr(),
            ptr::null::<u64>(),
            SET
        );
    }
    match orders.session {
        Session::Inherit => Ok(0),
        Session::New => call!(libc::SYS_setsid),
        Session::NewGroup => call!(libc::SYS_setpgid, 0, 0),
        Session::Group(group) => call!(libc::SYS_setpgid, 0, group),
    }
    .map_err(|errno| (Stage::Session, errno))?;
    if let Some(signal) = orders.death_signal {
        call!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0).map_err(|errno| (Stage::DeathSignal, errno))?;
        // It died before it could be noticed.
        if call!(libc::SYS_getppid) != Ok(c_long::from(orders.parent)) {
            exit();
        }
    }
    // While we still have the parent's descriptors.
    for cgroup in &orders.cgroups {
        call!(libc::SYS_write, *cgroup, c"0".as_ptr(), 1).map_err(|errno| (Stage::Cgroup, errno))?;
    }
    place_descriptors(orders)?;
    // Behind the descriptors, whose numbers may be above the limit.
    for (resource, limit) in &orders.limits {
        call!(libc::SYS_prlimit64, 0, *resource, limit.as_ptr(), ptr::null::<u64>())
            .map_err(|errno| (Stage::Limit, errno))?;
    }
    if let Some(nice) = orders.nice {
        call!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice).map_err(|errno| (Stage::Nice, errno))?;
    }
    if let Some(umask) = orders.umask {
        let _ = call!(libc::SYS_umask, umask);
    }
    if !orders.cwd.is_null() {
        call!(libc::SYS_chdir, orders.cwd).map_err(|errno| (Stage::Cwd, errno))?;
    }
    for digits in &orders.pid_digits {
        let pid = call!(libc::SYS_getpid).unwrap_or(0);
        // SAFETY: there is room for ten digits, and the NUL is there already.
        unsafe { write_pid(*digits, pid) };
    }
    Ok(())
}

fn place_descriptors(orders: &mut Orders) -> Result<(), (Stage, c_int)> {
    if !orders.private_table {
        // Until here the table was the parent's. This leaves it to her, and takes a copy of the low numbers along.
        call!(libc::SYS_close_range, LOW, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
            .map_err(|errno| (Stage::Clone, errno))?;
    }
    let above_all = orders.places.last().map_or(0, |last| last.target.wrapping_add(1));
    for place in orders.places.iter_mut().filter(|place| place.aside) {
        let copy = call!(libc::SYS_fcntl, place.source, libc::F_DUPFD_CLOEXEC, above_all);
        place.source = copy.map_err(|errno| (Stage::FdMap(place.target), errno))? as RawFd;
    }
    for place in &orders.places {
        let failed = |errno| (Stage::FdMap(place.target), errno);
        if place.source == place.target {
            call!(libc::SYS_fcntl, place.target, libc::F_SETFD, 0).map_err(failed)?;
        } else {
            call!(libc::SYS_dup3, place.source, place.target, 0).map_err(failed)?;
        }
        if place.blocking {
            let flags = call!(libc::SYS_fcntl, place.target, libc::F_GETFL).map_err(failed)?;
            let blocking = flags & !c_long::from(libc::O_NONBLOCK);
            if blocking != flags {
                call!(libc::SYS_fcntl, place.target, libc::F_SETFL, blocking).map_err(failed)?;
            }
        }
    }
    // Not by close-on-exec, which some library of the parent may have forgotten.
    for (first, last) in &orders.gaps {
        call!(libc::SYS_close_range, *first, *last, 0).map_err(|errno| (Stage::Clone, errno))?;
    }
    Ok(())
}

/// Returns only if it fails.
fn execute(orders: &mut Orders) -> (Stage, c_int) {
    let argv = orders.argv.wrapping_add(1);
    // Last, so that a signal that came meanwhile ends the child with the right status.
    restore_signals(0);
    let failure = call!(libc::SYS_execve, orders.program, argv, orders.env);
    if failure == Err(libc::ENOEXEC) && orders.shell_runs_text {
        // SAFETY: argv has at least the shell's entry and one more.
        let shell = unsafe {
            *argv = orders.program;
            *orders.argv
        };
        let _ = call!(libc::SYS_execve, shell, orders.argv, orders.env);
    }
    (Stage::Program, failure.err().unwrap_or(0))
}

/// # Safety
/// Eleven bytes must be writable at `digits`.
unsafe fn write_pid(digits: *mut u8, pid: c_long) {
    let mut length = 1;
    let mut rest = pid / 10;
    while rest > 0 {
        length += 1;
        rest /= 10;
    }
    let mut rest = pid;
    // SAFETY: a pid has at most ten digits.
    unsafe {
        *digits.wrapping_add(length) = 0;
        while length > 0 {
            length -= 1;
            *digits.wrapping_add(length) = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}
