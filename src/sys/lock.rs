//! Open file description locks on a block's file: the reader-writer lock that spans processes.
//!
//! Two ranges of the file are locked, both far beyond what most files hold: the *block*, bytes `0..2^62`, and the
//! *gate*, the byte at `2^62`. A writer holds the gate exclusively while it waits for the block; a reader passes through
//! the gate (takes it shared and drops it) before it locks the block. Overlapping readers therefore cannot starve a
//! writer. A lock belongs to an open file description and is released by the kernel when the last descriptor of that
//! description is gone, however its process ended.
//!
//! # The axiom
//!
//! That these locks order memory is nowhere written down; this crate takes it as given, once, here: *whatever a process
//! wrote to a shared mapping before it released a lock is seen by every process that acquires a conflicting lock
//! afterwards.* Linux takes a spin lock of the inode (`flc_lock`) on both sides, which is a release and an acquire on
//! every architecture. So that Rust's memory model has something to hold on to as well, each side also runs a fence
//! ([`released`], [`acquired`]), and blocks with a trailer carry a generation word that the writer bumps with release
//! and everybody who locks loads with acquire. Every `SAFETY` comment about a lock cites this paragraph.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, ErrorKind, Result};

/// Shared by readers, exclusive for a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait<'a> {
    No,
    Until(Instant),
    /// For as long as it lasts, which is asked every few milliseconds.
    With(&'a dyn Patience),
    Forever,
}

/// Knows when not to wait any longer.
pub(crate) trait Patience: fmt::Debug {
    fn is_over(&self) -> bool;
}

impl Wait<'_> {
    /// Waits that long from now; for ever where the clock cannot count so far.
    pub(crate) fn at_most(timeout: Duration) -> Self {
        Instant::now().checked_add(timeout).map_or(Self::Forever, Self::Until)
    }

    /// The same wait, cut short after `pause` where it would be longer.
    pub(crate) fn at_most_for(self, pause: Duration) -> Self {
        let cut = Instant::now() + pause;
        match self {
            Self::No => Self::No,
            Self::Until(deadline) => Self::Until(deadline.min(cut)),
            // Looks again as often by itself.
            Self::With(patience) => Self::With(patience),
            Self::Forever => Self::Until(cut),
        }
    }

    /// What is left of it; `None` where that is not known.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::No => Some(Duration::ZERO),
            Self::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            Self::With(patience) if patience.is_over() => Some(Duration::ZERO),
            Self::With(_) | Self::Forever => None,
        }
    }
}

/// The first byte after the block and the offset of the gate.
const GATE: i64 = 1 << 62;

#[derive(Clone, Copy)]
enum Range {
    Block,
    Gate,
}

/// Locks the block through the description of `fd`; `false` where the wait is over before it could.
///
/// `pass_gate` is `false` only where this process already holds the block shared: then the gate's writer waits for this
/// process, and waiting for that writer in turn would never end.
pub(crate) fn lock(fd: BorrowedFd<'_>, mode: Mode, wait: Wait<'_>, pass_gate: bool) -> Result<bool> {
    let done = match mode {
        Mode::Shared => {
            if pass_gate {
                if !set(fd, Range::Gate, libc::F_RDLCK, wait)? {
                    return Ok(false);
                }
                set(fd, Range::Gate, libc::F_UNLCK, Wait::No)?;
            }
            set(fd, Range::Block, libc::F_RDLCK, wait)?
        }
        Mode::Exclusive => {
            if !set(fd, Range::Gate, libc::F_WRLCK, wait)? {
                return Ok(false);
            }
            let done = set(fd, Range::Block, libc::F_WRLCK, wait);
            set(fd, Range::Gate, libc::F_UNLCK, Wait::No)?;
            done?
        }
    };
    acquired();
    Ok(done)
}

/// Is no writer waiting, as far as other open file descriptions than that of `fd` go?
pub(crate) fn gate_is_open(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut asked = flock(Range::Gate, libc::F_RDLCK);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(|errno| failed(fd, errno))?;
    Ok(i32::from(asked.l_type) == libc::F_UNLCK)
}

/// How the block is locked through other descriptions than that of `fd`, at this moment.
pub(crate) fn held_elsewhere(fd: BorrowedFd<'_>) -> Result<Option<Mode>> {
    let mut asked = flock(Range::Block, libc::F_WRLCK);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(|errno| failed(fd, errno))?;
    Ok(match i32::from(asked.l_type) {
        libc::F_UNLCK => None,
        libc::F_RDLCK => Some(Mode::Shared),
        _ => Some(Mode::Exclusive),
    })
}

/// Unlocks the block that the description of `fd` holds.
pub(crate) fn unlock(fd: BorrowedFd<'_>) {
    released();
    // Unlocking a range that one description locked whole splits nothing and allocates nothing, so it cannot fail on a
    // descriptor that is open.
    let _ = set(fd, Range::Block, libc::F_UNLCK, Wait::No);
}

/// Before a lock is released: nothing that was written under it may be moved past this point.
fn released() {
    fence(Ordering::SeqCst);
}

/// After a lock was acquired: nothing that is read under it may be moved before this point.
fn acquired() {
    fence(Ordering::SeqCst);
}

fn flock(range: Range, kind: libc::c_int) -> libc::flock {
    let (start, len) = match range {
        Range::Block => (0, GATE),
        Range::Gate => (GATE, 1),
    };
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(i16::MAX),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(i16::MAX),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn set(fd: BorrowedFd<'_>, range: Range, kind: libc::c_int, wait: Wait<'_>) -> Result<bool> {
    let request = flock(range, kind);
    // The kernel has no lock call with a deadline, and a signal to cut a blocking one short would be the program's, not
    // ours: so a wait with an end asks again, ever less often, up to once a millisecond.
    let mut pause = Duration::from_micros(20);
    loop {
        let call = match wait {
            Wait::Forever => FcntlArg::F_OFD_SETLKW(&request),
            Wait::No | Wait::Until(_) | Wait::With(_) => FcntlArg::F_OFD_SETLK(&request),
        };
        match fcntl(fd, call) {
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let left = wait.left().unwrap_or(pause);
                if left.is_zero() {
                    return Ok(false);
                }
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(1));
            }
            Err(errno) => return Err(failed(fd, errno)),
        }
    }
}

#[cold]
fn failed(fd: BorrowedFd<'_>, errno: Errno) -> Error {
    match errno {
        Errno::EBADF => {
            Error::new(ErrorKind::Permission, "a block that was opened read-only cannot be locked for writing")
        }
        Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP => Error::from_os(
            io::Error::from(errno),
            "the file system of this file has no open file description locks (a network mount?); \
             copy the file to a local disk or load it into memory",
        )
        .with_kind(ErrorKind::Unsupported),
        _ => Error::from_os(io::Error::from(errno), format!("cannot lock descriptor {}", fd.as_raw_fd())),
    }
}
