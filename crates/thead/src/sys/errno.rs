//! Error numbers as Node shows them: the name as `code`, the negated number as `errno`.

use std::io;

macro_rules! names {
    ($($name:ident)*) => {
        /// The symbolic name of a positive error number, `"UNKNOWN"` for one that Linux does not define.
        ///
        /// Where two names share a number the one of Node is given (`EAGAIN`, `ENOTSUP`).
        pub fn name(errno: i32) -> &'static str {
            match errno {
                $(libc::$name => stringify!($name),)*
                _ => "UNKNOWN",
            }
        }
    };
}

names! {
    E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBUSY ECANCELED ECHILD ECONNABORTED
    ECONNREFUSED ECONNRESET EDEADLK EDESTADDRREQ EDOM EDQUOT EEXIST EFAULT EFBIG EHOSTDOWN EHOSTUNREACH EILSEQ
    EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR ELIBBAD ELOOP EMFILE EMLINK EMSGSIZE ENAMETOOLONG ENETDOWN ENETUNREACH
    ENFILE ENOBUFS ENODATA ENODEV ENOENT ENOEXEC ENOLCK ENOMEM ENONET ENOPROTOOPT ENOSPC ENOSYS ENOTCONN ENOTDIR
    ENOTEMPTY ENOTSOCK ENOTSUP ENOTTY ENXIO EOVERFLOW EOWNERDEAD EPERM EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE
    EREMOTEIO EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ESTALE ETIMEDOUT ETXTBSY EXDEV
}

/// The error as cluster replies carry it: a negative integer, `-EIO` for an error that has no number.
///
/// Node: a reply whose `errno` is not a negative integer kills the worker (`lib/internal/cluster/child.js`).
pub fn negative(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_that_node_gives_them() {
        for (number, name_of) in [
            (2, "ENOENT"),
            (11, "EAGAIN"),
            (95, "ENOTSUP"),
            (98, "EADDRINUSE"),
            (9999, "UNKNOWN"),
        ] {
            assert_eq!(name(number), name_of);
        }
        assert_eq!(negative(&io::Error::from_raw_os_error(libc::EACCES)), -13);
        assert_eq!(negative(&io::Error::other("no number")), -5);
    }
}
