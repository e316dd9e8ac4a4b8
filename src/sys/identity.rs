//! Which file a descriptor stands for, told apart from all that ever had its number.
#![expect(unsafe_code, reason = "name_to_handle_at has no safe wrapper among the dependencies")]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Result;
use crate::sys::file::{self, FileId};

/// The longest handle that is told apart; tmpfs has 12 bytes.
pub(crate) const HANDLE_LEN: usize = 64;

/// What the kernel accepts at most (`MAX_HANDLE_SZ`).
const KERNEL_HANDLE_LEN: u32 = 128;

/// A file for ever: its number may come back, its handle does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: FileId,
    /// `None` where the kernel or the file system gives none.
    pub(crate) handle: Option<Handle>,
}

/// What `name_to_handle_at` says; on tmpfs the number of the inode and its generation, a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) kind: i32,
    /// At most [`HANDLE_LEN`].
    pub(crate) len: usize,
    /// Zero from `len` on.
    pub(crate) bytes: [u8; HANDLE_LEN],
}

impl Identity {
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self { id: file::identity(fd)?, handle: handle(fd) })
    }

    /// Is it the file that was noted as `noted`? `None` where that cannot be told: it has the number, and the rest of what
    /// was noted is not to be had here. Where only the number was noted, that has to do.
    pub(crate) fn is(&self, noted: &Self) -> Option<bool> {
        match (self.handle, noted.handle) {
            _ if self.id != noted.id => Some(false),
            (_, None) => Some(true),
            (None, Some(_)) => None,
            (Some(handle), Some(noted)) => Some(handle == noted),
        }
    }
}

fn handle(fd: BorrowedFd<'_>) -> Option<Handle> {
    /// `struct file_handle` with room behind it.
    #[repr(C)]
    struct Raw {
        len: u32,
        kind: i32,
        bytes: [u8; KERNEL_HANDLE_LEN as usize],
    }
    let mut raw = Raw { len: KERNEL_HANDLE_LEN, kind: 0, bytes: [0; KERNEL_HANDLE_LEN as usize] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a C string, empty, for which the flag makes the call take `fd`, which is open; `raw` has the
    // layout that the call expects and says how many bytes follow its head; both places are writable and outlive it.
    let status = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    // Old seccomp filters, gVisor and some file systems: a file is its device and inode there.
    let len = usize::try_from(raw.len).ok().filter(|&len| status == 0 && len <= HANDLE_LEN)?;
    let mut bytes = [0; HANDLE_LEN];
    bytes[..len].copy_from_slice(&raw.bytes[..len]);
    Some(Handle { kind: raw.kind, len, bytes })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::file::{SHM_DIR, Unlinked};

    #[test]
    fn a_file_is_itself_through_any_descriptor_and_no_other_file() {
        let make = || Unlinked::create(SHM_DIR.as_ref(), 0o600).unwrap();
        let (a, b) = (make(), make());
        let again = file::reopen(a.fd(), crate::sys::map::Access::ReadOnly).unwrap();
        assert_eq!(Identity::of(a.fd()).unwrap(), Identity::of(again.as_fd()).unwrap());
        assert_ne!(Identity::of(a.fd()).unwrap(), Identity::of(b.fd()).unwrap());
    }

    #[test]
    fn what_cannot_be_compared_is_not_taken_for_the_same() {
        let id = FileId { dev: 1, ino: 2 };
        let with =
            |generation| Identity { id, handle: Some(Handle { kind: 1, len: 12, bytes: [generation; HANDLE_LEN] }) };
        let without = Identity { id, handle: None };
        assert_eq!(with(1).is(&with(1)), Some(true));
        assert_eq!(with(1).is(&with(2)), Some(false));
        assert_eq!(with(1).is(&without), Some(true));
        assert_eq!(without.is(&without), Some(true));
        assert_eq!(without.is(&with(1)), None);
        let other = Identity { id: FileId { dev: 1, ino: 3 }, ..with(1) };
        assert_eq!((other.is(&with(1)), other.is(&without)), (Some(false), Some(false)));
    }
}
