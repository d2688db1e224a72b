//! What a process that waits can do without.

use std::ffi::{c_int, c_void};
use std::ptr;

/// Gives back memory that is free, and code that nobody executes: for a process that has done much and now waits.
///
/// Freed memory goes back to the kernel, where the allocator can do that (glibc). Code leaves the resident set; the kernel
/// keeps it with the file, so what is executed again is mapped again, 64 KiB by a fault of less than a microsecond.
pub fn give_back() {
    // SAFETY: it takes locks of the allocator only, and moves nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: `forget` does nothing but give advice, and keeps no pointer.
    unsafe {
        libc::dl_iterate_phdr(Some(forget), ptr::null_mut());
    }
}

/// # Safety
/// To be called by `dl_iterate_phdr` alone.
unsafe extern "C" fn forget(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: it is valid while this call lasts.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many headers are there.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    let page = rustix::param::page_size();
    for header in headers {
        // What could have been written is not in the file: the advice would undo it.
        let is_code = header.p_type == libc::PT_LOAD && header.p_flags & (libc::PF_X | libc::PF_W) == libc::PF_X;
        let (Ok(address), Ok(size)) = (usize::try_from(header.p_vaddr), usize::try_from(header.p_memsz)) else {
            continue;
        };
        // The vDSO has no file. What is said of it is refused, which does no harm.
        if is_code {
            let begin = (object.dlpi_addr as usize + address) & !(page - 1);
            let end = (object.dlpi_addr as usize + address + size).next_multiple_of(page);
            // SAFETY: code that is mapped from a file and never written comes back as it was. No code of ours or of any
            // library that we use patches itself.
            unsafe {
                libc::madvise(
                    ptr::with_exposed_provenance_mut(begin),
                    end - begin,
                    libc::MADV_DONTNEED,
                )
            };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    /// Kibibytes of files that are resident.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        let number = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
        number.unwrap_or_default()
    }

    #[test]
    fn code_that_is_not_executed_is_not_resident_and_comes_back() {
        let before = resident();
        super::give_back();
        let after = resident();
        assert!(after < before, "{before} KiB, then {after}");
        // And all of it still works.
        assert_eq!(format!("{:?}", vec![1.5; 3]), "[1.5, 1.5, 1.5]");
    }
}
