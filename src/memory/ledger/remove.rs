//! Taking a name away, as everybody in the crate does it.
//!
//! Between a look at a name and its removal somebody else can remove it and give it to another block. So whoever removes
//! a name locks the file behind it first (`flock`, which nothing else here uses) and looks once more: a name changes hands
//! only by being removed, and who else would remove it needs the same lock. Creators need none, since the kernel refuses
//! a name that is there. Nobody goes on without the lock; it is held for three system calls.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::unlink;

use super::step::step;
use crate::sys::file::{self, Found};
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

/// Removes `path` if `is_it` says so of the file behind it.
///
/// # Errors
/// `WouldBlock` where another remover holds the file for longer than a moment.
pub(crate) fn remove(path: &Path, is_it: impl Fn(&OwnedFd) -> Result<bool>) -> Result<Removal> {
    loop {
        let (file, can_lock) = match file::open_to_lock(path)? {
            Found::File(file) => (file, true),
            // Its mode keeps all of this user's processes from locking it: the look alone has to do.
            Found::Closed(file) => (file, false),
            Found::Nothing => return Ok(Removal::Gone),
            Found::NotAFile => return Ok(Removal::Another),
        };
        if !is_it(&file)? {
            return Ok(Removal::Another);
        }
        let id = file::identity(file.as_fd())?;
        step();
        // Either keeps the file open.
        let locked = if can_lock { Ok(lock(file, path)?) } else { Err(file) };
        step();
        // The file is open, so nobody else gets its number.
        if file::identity_at(path)? != Some(id) {
            continue;
        }
        step();
        let removed = match unlink(path) {
            Ok(()) => Removal::Removed,
            // Somebody who takes no lock was faster.
            Err(Errno::ENOENT) => Removal::Gone,
            Err(errno) => return Err(Error::from_os(errno, format!("cannot remove {}", path.display()))),
        };
        step();
        drop(locked);
        return Ok(removed);
    }
}

fn lock(mut file: OwnedFd, path: &Path) -> Result<Flock<OwnedFd>> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(20);
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((file, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => file,
            Err((_, Errno::EAGAIN)) => {
                let message = format!(
                    "cannot remove {}: another process has locked it (flock) for over {PATIENCE:?}, as one does that \
                     removes it",
                    path.display()
                );
                return Err(Error::new(ErrorKind::WouldBlock, message));
            }
            Err((_, errno)) => {
                let message = format!("cannot lock {} to remove it", path.display());
                return Err(Error::from_os(errno, message));
            }
        };
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}
