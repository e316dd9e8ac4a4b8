//! `flock`: a lock on the whole of a file that has nothing to do with those of `lock`, and needs no right to write.
#![expect(unsafe_code, reason = "nix locks only descriptors that it is given to keep")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Locked exclusively for as long as this lives.
#[derive(Debug)]
pub(crate) struct Flocked<'a> {
    fd: BorrowedFd<'a>,
}

impl<'a> Flocked<'a> {
    /// `EAGAIN` where another open file description has it.
    pub(crate) fn try_new(fd: BorrowedFd<'a>) -> Result<Self, Errno> {
        hold(fd)?;
        Ok(Self { fd })
    }
}

impl Drop for Flocked<'_> {
    fn drop(&mut self) {
        // Not left to the last descriptor: a child that was forked meanwhile has it too.
        release(self.fd);
    }
}

/// Locks for as long as the open file description lives or until [`release`]. `EAGAIN` where another one has it.
pub(crate) fn hold(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        // SAFETY: `fd` is open for as long as it is borrowed, and the call touches no memory of ours.
        let status = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        match Errno::result(status) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Ends [`hold`].
pub(crate) fn release(fd: BorrowedFd<'_>) {
    // SAFETY: as above.
    unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) };
}
