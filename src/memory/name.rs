//! Names of blocks: which are allowed, and who removes them.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::unlink;

use crate::memory::ledger::{Noted, Removal, remove, remove_open};
use crate::sys::file::SHM_DIR;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::random::random_u64;
use crate::{Error, ErrorKind, Result};

/// What the crate's own files begin with.
const RESERVED: &str = ".ndshm";

/// The longest file name that Linux allows, in bytes.
pub(crate) const MAX_LEN: usize = 255;

/// Where the block `name` lies, if that can be a name.
pub(crate) fn path_of(name: &str) -> Result<PathBuf> {
    let problem = match name {
        "" => "is empty",
        "." | ".." => "stands for a directory",
        _ if name.len() > MAX_LEN => "is longer than 255 bytes",
        _ if name.contains('/') => "has a `/` in it",
        _ if name.contains('\0') => "has a NUL byte in it",
        _ if name.starts_with(RESERVED) => "begins with `.ndshm`, which is reserved",
        _ => return Ok(Path::new(SHM_DIR).join(name)),
    };
    let advice = if name.strip_prefix(SHM_DIR).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1) {
        "; leave out /dev/shm/"
    } else {
        ""
    };
    let shown: String = name.chars().take(64).collect();
    let dots = if shown.len() < name.len() { "…" } else { "" };
    Err(Error::new(
        ErrorKind::InvalidName,
        format!("the name {shown:?}{dots} {problem}; expected 1 to 255 bytes without `/` and NUL{advice}"),
    ))
}

/// A name that nobody uses yet, or so it is to be hoped.
pub(crate) fn generate() -> Result<String> {
    Ok(format!("ndshm_{:016x}", random_u64()?))
}

/// Removes a name, whatever block it is.
pub(crate) fn unlink_any(name: &str) -> Result<()> {
    let path = path_of(name)?;
    match remove(&path, |_| Ok(true))? {
        Removal::Removed => Ok(()),
        Removal::Gone => Err(not_found(name)),
        // No regular file, so nothing that a block could take the place of unnoticed.
        Removal::Another => unlink(path.as_path()).map_err(|errno| match errno {
            Errno::ENOENT => not_found(name),
            Errno::EISDIR => {
                Error::new(ErrorKind::Layout, format!("{} is a directory, expected a block", path.display()))
            }
            _ => Error::from_os(errno, format!("cannot remove {}", path.display())),
        }),
    }
}

/// Removes a name if it still is the block behind `file`, through which nobody locks.
pub(crate) fn unlink_same(name: &str, file: BorrowedFd<'_>) -> Result<()> {
    match remove_open(&path_of(name)?, file)? {
        Removal::Removed => Ok(()),
        Removal::Another => Err(Error::new(
            ErrorKind::NotFound,
            format!("the name {name:?} belongs to another block by now; this one's was removed"),
        )),
        Removal::Gone => Err(not_found(name)),
    }
}

#[cold]
pub(crate) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no block named {name:?} in {SHM_DIR}"))
}

/// The duty to remove a name, which the process that made the block has.
///
/// Its holder ends it by one of its two methods; only dropped, it would leave a name that nobody ever removes.
#[derive(Debug)]
pub(crate) struct OwnedName {
    name: String,
    /// Only the process that made the block removes it: a forked child has a copy of this.
    epoch: Epoch,
    /// Until the name is gone or kept, it stands in this process's ledger.
    noted: Noted,
}

impl OwnedName {
    pub(crate) fn new(name: String, noted: Noted) -> Self {
        Self { name, epoch: epoch(), noted }
    }

    /// Leaves the name where it is, and takes it out of the ledger: from here on no sweep removes it.
    pub(crate) fn forget(self) {
        drop(self.noted);
    }

    /// Removes the name, if it still is the block behind `file`.
    pub(crate) fn remove(self, file: BorrowedFd<'_>) {
        if self.epoch != epoch() {
            return;
        }
        // Somebody else may have removed it; of another failure there is nobody to tell but the ledger.
        match unlink_same(&self.name, file) {
            Err(error) if error.kind() != ErrorKind::NotFound => self.noted.leave(),
            _ => drop(self.noted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_file_can_be_called() {
        for good in ["a", "psm_0123abcd", "climate 2024", "größe", ".hidden", "..a", "-", &"x".repeat(255)] {
            assert!(path_of(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "a\0", ".ndshm", ".ndshm.0", ".ndshm-1", &"x".repeat(256)] {
            assert_eq!(path_of(bad).unwrap_err().kind(), ErrorKind::InvalidName, "{bad}");
        }
        let advised = |name| path_of(name).unwrap_err().to_string().ends_with("leave out /dev/shm/");
        assert!(advised("/dev/shm/climate") && !advised("/dev/shm/") && !advised("/dev/shmclimate"));
    }
}
