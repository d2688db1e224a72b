//! Memory files that nobody can change any more: one copy of large data for any number of processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// What makes a memory file constant: it can be neither written nor resized, and that cannot be taken back.
const CONSTANT: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A sealed memory file, open for reading. Whoever opens it for writing by way of `/proc` gets `EPERM` when he writes.
///
/// Its memory is freed when the last process has closed and unmapped it. The process that made it is charged for it.
#[derive(Debug)]
pub struct Memory {
    fd: Arc<OwnedFd>,
    len: u64,
}

impl Memory {
    /// Takes what there is to read, up to `limit` bytes; of a file it does not pass through this process. `name` is what
    /// `/proc` and `lsof` show.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] beyond the limit; what reading says; `EMFILE`, `ENOMEM`; `ENOENT` without `/proc`.
    pub fn copy(name: &str, from: &mut impl Read, limit: u64) -> io::Result<Self> {
        let mut writer = File::from(create(name)?);
        let mut from = from.take(limit.saturating_add(1));
        let len = io::copy(&mut from, &mut writer)?;
        if len > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Self::seal(&writer, len)
    }

    fn seal(writer: &File, len: u64) -> io::Result<Self> {
        rustix::fs::fcntl_add_seals(writer, CONSTANT)?;
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let file = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path)?;
        let fd = Arc::new(file.into());
        Ok(Self { fd, len })
    }

    /// Takes a memory file that somebody else has made.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`]: it is not one, or could still be changed.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd);
        if !seals.is_ok_and(|seals| seals.contains(CONSTANT)) {
            let text = "not a sealed memory file: it could still be changed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let file = File::from(fd);
        let len = file.metadata()?.len();
        let fd = Arc::new(file.into());
        Ok(Self { fd, len })
    }

    /// The descriptor, for whoever passes it on: it stays open for as long as one of them has it.
    pub(crate) fn shared(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// Where any process of the same user can open it for reading, as long as this process has it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes as a slice, which share memory with all who map it.
    ///
    /// # Errors
    /// `ENOMEM`: no room in the address space.
    pub fn map(&self) -> io::Result<Map> {
        let len = usize::try_from(self.len).map_err(|_| Errno::NOMEM)?;
        if len == 0 {
            return Ok(Map { at: None, len });
        }
        // SAFETY: the kernel chooses where; nothing that is mapped already is replaced.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                self.fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map {
            at: NonNull::new(at.cast()),
            len,
        })
    }
}

/// A new memory file that can be written and sealed; not executable, where the kernel knows of that (6.3).
fn create(name: &str) -> io::Result<OwnedFd> {
    // The longest name is 249 bytes, and it ends at a zero.
    let name: String = name.chars().filter(|c| *c != '\0').take(60).collect();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(&*name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(&*name, flags)?),
        made => Ok(made?),
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The bytes of a [`Memory`]. They stay when that is dropped.
#[derive(Debug)]
pub struct Map {
    at: Option<NonNull<u8>>,
    len: usize,
}

// SAFETY: nobody can write to what is mapped: its file is sealed, which was looked at before it was mapped.
unsafe impl Send for Map {}
// SAFETY: as for Send.
unsafe impl Sync for Map {}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.at {
            // SAFETY: so many bytes are mapped there until this is dropped, and the seals keep the file as long as it was
            // and its bytes as they were.
            Some(at) => unsafe { std::slice::from_raw_parts(at.as_ptr(), self.len) },
            None => &[],
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: it was mapped by us, with this length, and no slice of it outlives us.
            unsafe { libc::munmap(at.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::Write;

    use super::*;

    #[test]
    fn g42_nobody_can_write_to_a_sealed_memory_file() {
        let memory = Memory::copy("test", &mut &b"constant"[..], 100).unwrap();
        let map = memory.map().unwrap();
        assert_eq!(&*map, b"constant");
        let path = format!("/proc/self/fd/{}", memory.as_fd().as_raw_fd());
        let errno = |error: io::Error| error.raw_os_error().unwrap();
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(errno(writer.write_all(b"x").unwrap_err()), libc::EPERM);
        assert_eq!(errno(writer.set_len(1).unwrap_err()), libc::EPERM);
        assert_eq!(errno(writer.set_len(100).unwrap_err()), libc::EPERM);
        let mut reader = File::from(memory.fd.try_clone().unwrap());
        assert_eq!(errno(reader.write_all(b"x").unwrap_err()), libc::EBADF);
        drop(memory);
        assert_eq!(&*map, b"constant", "a map outlives the descriptor");
    }

    #[test]
    fn what_could_still_be_changed_is_no_memory() {
        let open = create("open").unwrap();
        assert_eq!(Memory::from_fd(open).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let file = File::open("/dev/null").unwrap();
        assert!(Memory::from_fd(file.into()).is_err());
        let memory = Memory::copy("whole", &mut &b"12345"[..], 5).unwrap();
        let again = Memory::from_fd(memory.fd.try_clone().unwrap()).unwrap();
        assert_eq!(again.len(), 5);
    }

    #[test]
    fn what_is_too_large_is_not_taken() {
        let error = Memory::copy("large", &mut &[0; 6][..], 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(&*Memory::copy("none", &mut io::empty(), 5).unwrap().map().unwrap(), b"");
    }
}
