//! The one who spawns: the low descriptor numbers it keeps for that, its stack, and the lock around both.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::process::{WaitId, WaitIdOptions};

use super::plan::Plan;
use super::{SpawnError, Stage, child};
use crate::sys::pidfd;

/// The child's table starts with the numbers below this. A table of 64 is part of the kernel's structure: no allocation.
pub(super) const LOW: RawFd = 64;

/// How many numbers are reserved when nobody asked for more: a channel, three standard streams, some listeners.
const FEW: usize = 8;

const STACK: usize = 64 * 1024;
const GUARD: usize = 64 * 1024;

static SPAWNER: Mutex<Spawner> = Mutex::new(Spawner {
    null: None,
    slots: Vec::new(),
    stack: None,
});

/// Reserves descriptor numbers below 64, so that children that inherit up to `count` descriptors start at a constant cost.
/// Returns how many are reserved now: fewer when lower numbers are taken already, so call it early.
///
/// Each shows up as an open `/dev/null` in this process and never leaves it. Spawning reserves a few by itself.
pub fn reserve(count: usize) -> usize {
    let mut spawner = lock();
    spawner.reserve(count);
    spawner.slots.len()
}

pub(super) fn lock() -> MutexGuard<'static, Spawner> {
    // Whoever panicked in here left slots behind that at worst hold a file open until they are used again.
    SPAWNER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Spawner {
    null: Option<OwnedFd>,
    /// Descriptors below `LOW` that stand for `/dev/null` between two spawns.
    slots: Vec<OwnedFd>,
    stack: Option<Stack>,
}

impl Spawner {
    /// Makes the child, and comes back when it executes its program or has failed to.
    pub(super) fn start(&mut self, plan: &mut Plan<'_>) -> Result<(i32, OwnedFd), SpawnError> {
        let failed = |errno| SpawnError::new(Stage::Clone, errno);
        let null = self.null().map_err(|errno| failed(errno.raw_os_error()))?;
        if self.stack.is_none() {
            self.stack = Some(Stack::new().map_err(failed)?);
        }
        for (place, source) in plan.orders.places.iter_mut().zip(&plan.sources) {
            place.source = source.unwrap_or(null);
        }
        let used = self.lay_out(&mut plan.orders)?;
        let cloned = self.clone_child(&mut plan.orders);
        self.restore(&used);
        let (pid, pidfd) = cloned.map_err(failed)?;
        match plan.orders.failure {
            None => Ok((pid, pidfd)),
            Some((stage, errno)) => {
                // It has left our memory and is ending. ECHILD: a SIGCHLD that is ignored collects it.
                let _ = pidfd::wait(WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), WaitIdOptions::EXITED);
                Err(SpawnError::new(stage, errno))
            }
        }
    }

    fn null(&mut self) -> rustix::io::Result<RawFd> {
        if self.null.is_none() {
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
            self.null = Some(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?);
        }
        Ok(self.null.as_ref().map_or(-1, AsRawFd::as_raw_fd))
    }

    fn reserve(&mut self, count: usize) {
        if self.null().is_err() {
            return;
        }
        let Some(null) = &self.null else { return };
        while self.slots.len() < count {
            // Gives the lowest number that is free, never one of the standard streams.
            match fcntl_dupfd_cloexec(null, 3) {
                Ok(slot) if slot.as_raw_fd() < LOW => self.slots.push(slot),
                _ => return,
            }
        }
    }

    /// Puts what lies too high, or where another descriptor shall go, into slots. Returns those in use.
    fn lay_out(&mut self, orders: &mut child::Orders) -> Result<Vec<usize>, SpawnError> {
        let targets: Vec<RawFd> = orders.places.iter().map(|place| place.target).collect();
        let is_target = |number: &RawFd| targets.binary_search(number).is_ok();
        let in_the_way = |place: &child::Place| place.source != place.target && is_target(&place.source);
        let must_move = |place: &child::Place| place.source >= LOW || in_the_way(place);
        let needed = orders.places.iter().filter(|place| must_move(place)).count();
        let usable = |slots: &[OwnedFd]| slots.iter().filter(|slot| !is_target(&slot.as_raw_fd())).count();
        if usable(&self.slots) < needed {
            self.reserve((self.slots.len() + needed - usable(&self.slots)).max(FEW));
        }
        orders.private_table = usable(&self.slots) < needed;
        let mut used = Vec::with_capacity(needed);
        if orders.private_table {
            orders
                .places
                .iter_mut()
                .for_each(|place| place.aside = in_the_way(place));
            return Ok(used);
        }
        let mut free = (0..self.slots.len())
            .filter(|index| !is_target(&self.slots[*index].as_raw_fd()))
            .collect::<Vec<_>>();
        for place in orders.places.iter_mut().filter(|place| must_move(place)) {
            let Some(index) = free.pop() else { break };
            // SAFETY: open for the time of this call, by the borrow in the plan; an inherited number that is not open
            // gives EBADF.
            let source = unsafe { BorrowedFd::borrow_raw(place.source) };
            used.push(index);
            if let Err(errno) = dup3(source, &mut self.slots[index], DupFlags::CLOEXEC) {
                self.restore(&used);
                return Err(SpawnError::new(Stage::FdMap(place.target), errno.raw_os_error()));
            }
            place.source = self.slots[index].as_raw_fd();
        }
        Ok(used)
    }

    /// Closes our second copy of what has been passed on.
    fn restore(&mut self, used: &[usize]) {
        let Some(null) = &self.null else { return };
        for index in used {
            // Cannot fail: both are open. If it does, the file stays open until the slot is used again.
            let _ = dup3(null, &mut self.slots[*index], DupFlags::CLOEXEC);
        }
    }

    fn clone_child(&mut self, orders: &mut child::Orders) -> Result<(i32, OwnedFd), i32> {
        let Some(stack) = &self.stack else {
            return Err(libc::ENOMEM);
        };
        let table = if orders.private_table { 0 } else { libc::CLONE_FILES };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | table;
        let mut pidfd: c_int = -1;
        // A handler of ours that ran in the child would run on our memory.
        let mask = child::block_signals();
        // SAFETY: the stack is ours alone while the lock is held, `orders` and all it points to outlive the call, which
        // CLONE_VFORK makes last until the child has executed or ended. The child keeps to the rules of its module.
        let pid = unsafe {
            let orders: *mut child::Orders = orders;
            libc::clone(child::main, stack.top(), flags, orders.cast(), &raw mut pidfd)
        };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
        child::restore_signals(mask);
        if pid < 0 {
            return Err(errno);
        }
        // SAFETY: the kernel made it for us.
        Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }
}

/// The stack that every child starts on, with a guard below.
struct Stack {
    base: *mut libc::c_void,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Stack {}

impl Stack {
    fn new() -> Result<Stack, c_int> {
        let failed = || std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM);
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { libc::mmap(ptr::null_mut(), GUARD + STACK, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        // SAFETY: the lower part of the mapping, which nobody uses yet.
        match unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } {
            0 => Ok(Stack { base }),
            _ => Err(failed()),
        }
    }

    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(GUARD + STACK)
    }
}
