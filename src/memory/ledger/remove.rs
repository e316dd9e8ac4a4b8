//! Taking a name away, as everybody in the crate does it.
//!
//! Between a look at a name and its removal somebody else can remove it and give it to another block. So whoever removes
//! a name locks the file behind it first (`flock`, which nothing else here uses) and looks once more: a name changes hands
//! only by being removed, and who else would remove it needs the same lock. Creators need none, since the kernel refuses
//! a name that is there. Nobody goes on without the lock; it is held for three system calls.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::unlink;

use super::step::step;
use crate::sys::file::{self, Found};
use crate::sys::flock::Flocked;
use crate::{Error, ErrorKind, Result};

/// How long a remover waits for another one: for a process that was stopped in the middle, or for a stranger who has
/// locked the block.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    /// There is no such name.
    Gone,
    /// The name is another file's.
    Another,
}

/// When a remover that begins now gives up.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// Removes `path` if `is_it` says so of the file behind it.
///
/// # Errors
/// `WouldBlock` where another remover holds the file for longer than a moment.
pub(crate) fn remove(path: &Path, is_it: impl Fn(&OwnedFd) -> Result<bool>) -> Result<Removal> {
    remove_until(patience(), path, is_it)
}

/// [`remove`] that waits no longer than this for another remover.
pub(crate) fn remove_within(
    patience: Duration,
    path: &Path,
    is_it: impl Fn(&OwnedFd) -> Result<bool>,
) -> Result<Removal> {
    remove_until(Instant::now() + patience, path, is_it)
}

/// The same, with an end to its patience that many removals can share.
pub(super) fn remove_until(
    deadline: Instant,
    path: &Path,
    is_it: impl Fn(&OwnedFd) -> Result<bool>,
) -> Result<Removal> {
    loop {
        let file = match file::open_to_lock(path)? {
            Found::File(file) => file,
            // Its mode keeps all of this user's processes from locking it, but for its owner, who has it open: the look
            // alone has to do.
            Found::Closed(file) if is_it(&file)? => return unlink_if(path, file.as_fd()),
            Found::NotAFile | Found::Closed(_) => return Ok(Removal::Another),
            Found::Nothing => return Ok(Removal::Gone),
        };
        if !is_it(&file)? {
            return Ok(Removal::Another);
        }
        match remove_locked(deadline, path, file.as_fd())? {
            // It has changed since.
            Removal::Another => {}
            other => return Ok(other),
        }
    }
}

/// Removes `path` if it is the file behind `file`, which nobody locks through but who calls this. It needs no other
/// descriptor.
///
/// # Errors
/// As for [`remove`].
pub(crate) fn remove_open(path: &Path, file: BorrowedFd<'_>) -> Result<Removal> {
    remove_locked(patience(), path, file)
}

fn remove_locked(deadline: Instant, path: &Path, file: BorrowedFd<'_>) -> Result<Removal> {
    step();
    let locked = lock(deadline, file, path)?;
    step();
    let removed = unlink_if(path, file)?;
    step();
    drop(locked);
    Ok(removed)
}

/// To be called with the file locked: removes the name if it is still that file's.
pub(super) fn unlink_if(path: &Path, file: BorrowedFd<'_>) -> Result<Removal> {
    match file::identity_at(path)? {
        // The file is open, so nobody else gets its number.
        Some(found) if found == file::identity(file)? => {}
        Some(_) => return Ok(Removal::Another),
        None => return Ok(Removal::Gone),
    }
    step();
    match unlink(path) {
        Ok(()) => Ok(Removal::Removed),
        // Somebody who takes no lock was faster.
        Err(Errno::ENOENT) => Ok(Removal::Gone),
        Err(errno) => Err(Error::from_os(errno, format!("cannot remove {}", path.display()))),
    }
}

fn lock<'a>(deadline: Instant, file: BorrowedFd<'a>, path: &Path) -> Result<Flocked<'a>> {
    let mut pause = Duration::from_micros(20);
    loop {
        match Flocked::try_new(file) {
            Ok(locked) => return Ok(locked),
            Err(Errno::EAGAIN) if Instant::now() < deadline => {}
            Err(Errno::EAGAIN) => {
                let message = format!(
                    "cannot remove {}: another process has locked it (flock), as one does that removes it",
                    path.display()
                );
                return Err(Error::new(ErrorKind::WouldBlock, message));
            }
            Err(errno) => {
                return Err(Error::from_os(errno, format!("cannot lock {} to remove it", path.display())));
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}
