//! Users and groups by name, from whatever the system is configured to ask.

use std::ffi::{CStr, CString};
use std::io;
use std::path::PathBuf;

/// A user of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
    /// All groups that it is in, its own among them.
    pub groups: Vec<u32>,
}

/// The largest record that is taken: a group may have thousands of members.
const RECORD_LIMIT: usize = 1 << 20;

/// Finds a user by its name or number; `None` if there is no such user.
///
/// # Errors
/// The system's user database cannot be read.
pub fn user(name: &str) -> io::Result<Option<User>> {
    // SAFETY: all zeroes is a valid passwd: null pointers and numbers.
    let mut record: libc::passwd = unsafe { std::mem::zeroed() };
    let by_name = CString::new(name)?;
    let ask = |buffer: &mut [libc::c_char], found: &mut *mut libc::passwd, record: &mut libc::passwd| {
        // SAFETY: record, buffer and found are valid for writes, and the name ends with NUL.
        unsafe {
            match name.parse() {
                Ok(uid) => libc::getpwuid_r(uid, record, buffer.as_mut_ptr(), buffer.len(), found),
                Err(_) => libc::getpwnam_r(by_name.as_ptr(), record, buffer.as_mut_ptr(), buffer.len(), found),
            }
        }
    };
    let Some(_buffer) = lookup(|buffer, found| ask(buffer, found, &mut record))? else {
        return Ok(None);
    };
    // SAFETY: the record was found, so its strings are in the buffer, which lives.
    let (pw_name, home) = unsafe { (CStr::from_ptr(record.pw_name), CStr::from_ptr(record.pw_dir)) };
    Ok(Some(User {
        name: pw_name.to_string_lossy().into_owned(),
        uid: record.pw_uid,
        gid: record.pw_gid,
        home: PathBuf::from(home.to_string_lossy().into_owned()),
        groups: groups_of(pw_name, record.pw_gid),
    }))
}

/// Finds a group by its name or number: its number. A number need not have a name.
///
/// # Errors
/// The system's group database cannot be read.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let by_name = CString::new(name)?;
    // SAFETY: all zeroes is a valid group: null pointers and a number.
    let mut record: libc::group = unsafe { std::mem::zeroed() };
    let found = lookup(|buffer: &mut [libc::c_char], found| {
        // SAFETY: as above.
        unsafe { libc::getgrnam_r(by_name.as_ptr(), &mut record, buffer.as_mut_ptr(), buffer.len(), found) }
    })?;
    Ok(found.map(|_| record.gr_gid))
}

/// Asks with a buffer that is large enough; returns the buffer if there is such a record.
fn lookup<T>(
    mut ask: impl FnMut(&mut [libc::c_char], &mut *mut T) -> libc::c_int,
) -> io::Result<Option<Vec<libc::c_char>>> {
    let mut buffer = vec![0; 4096];
    loop {
        let mut found = std::ptr::null_mut();
        match ask(&mut buffer, &mut found) {
            0 => return Ok((!found.is_null()).then_some(buffer)),
            libc::EINTR => {}
            libc::ERANGE if buffer.len() < RECORD_LIMIT => buffer.resize(buffer.len() * 2, 0),
            // How some systems say that there is none.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn groups_of(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; 64];
    for _ in 0..2 {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the array has room for as many groups as it says.
        let fits = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        groups.resize(usize::try_from(count).unwrap_or(0), 0);
        if fits >= 0 {
            break;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
        assert!(root.groups.contains(&0));
        assert_eq!(user("0").unwrap(), Some(root));
        assert_eq!(group("root").unwrap(), Some(0));
        assert_eq!(group("4711").unwrap(), Some(4711));
    }

    #[test]
    fn who_does_not_exist_is_not_found() {
        assert_eq!(user("no such user").unwrap(), None);
        assert_eq!(group("no such group").unwrap(), None);
        assert!(user("with\0nul").is_err());
    }
}
