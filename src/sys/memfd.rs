//! Memory without a name: memfds and their seals.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys::file::{clear_of_streams, descriptors_error};
use crate::{Error, ErrorKind, Result};

/// A new, empty memfd that can be sealed and never be run as a program.
pub(crate) fn create() -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let noexec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    // Before 6.3 the kernel does not know the flag and says EINVAL; some sandboxes say EPERM.
    match memfd_create(c"ndshm", flags | noexec) {
        Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => memfd_create(c"ndshm", flags),
        other => other,
    }
    .and_then(clear_of_streams)
    .map_err(|errno| match errno {
        Errno::ENOSYS => Error::from_os(errno, "this kernel has no memfd_create, which anonymous memory is made with"),
        Errno::EMFILE | Errno::ENFILE => descriptors_error(errno, "create anonymous memory"),
        _ => Error::from_os(errno, "cannot create anonymous memory"),
    })
}

/// Sets `seals` on a memfd, in addition to those that it has.
///
/// `EBUSY` (a mapping that could write, under `F_SEAL_WRITE`) is [`ErrorKind::WouldBlock`].
pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: SealFlag) -> Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop).map_err(|errno| {
        let error = Error::from_os(errno, format!("cannot set the seals {seals:?}"));
        match errno {
            Errno::EBUSY => error.with_kind(ErrorKind::WouldBlock),
            Errno::EINVAL => error.with_kind(ErrorKind::Unsupported),
            _ => error,
        }
    })
}

/// Does a descriptor stand for memory of the kernel's own, of a kind that knows seals? Nothing else is asked for, so it
/// does not matter what it stands for otherwise.
pub(crate) fn has_seals(fd: BorrowedFd<'_>) -> Result<bool> {
    match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Ok(_) => Ok(true),
        // EBADF: it was opened as a mere path.
        Err(Errno::EINVAL | Errno::EBADF) => Ok(false),
        Err(errno) => Err(Error::from_os(errno, "cannot read the seals")),
    }
}

/// The seals of a file; none where the file is of a kind that has no seals. Compare by mask: others may be set.
pub(crate) fn get_seals(fd: BorrowedFd<'_>) -> Result<SealFlag> {
    match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Ok(bits) => Ok(SealFlag::from_bits_retain(bits)),
        Err(Errno::EINVAL) => Ok(SealFlag::empty()),
        Err(errno) => Err(Error::from_os(errno, "cannot read the seals")),
    }
}
