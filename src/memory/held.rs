//! Names that this process owns for others: it gives them, and removes them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::memory::ledger::{Noted, Record, Removal, remove_within, step};
use crate::memory::name;
use crate::sys::file::{self, Found, SHM_DIR};
use crate::sys::identity::Identity;
use crate::{Error, ErrorKind, Result};

/// A name that was given to somebody else's block, and the duty to remove it. The block itself is not held open: who
/// removes the name by hand has the memory back.
///
/// Its holder ends it by [`settle`](Self::settle) or [`leave`](Self::leave).
#[derive(Debug)]
pub(crate) struct HeldName {
    name: String,
    path: PathBuf,
    identity: Identity,
    noted: Noted,
    record: Option<Arc<Record>>,
}

impl HeldName {
    /// Gives the name to the file behind `fd`, which nobody can find yet. It stands in this process's ledger, and in the
    /// record, before that.
    pub(crate) fn give(name: &str, fd: BorrowedFd<'_>, record: Option<&Arc<Record>>) -> Result<Self> {
        let path = name::path_of(name)?;
        let identity = Identity::of(fd)?;
        // Numbers in the record are those of one file system.
        if identity.id.dev != file::device(Path::new(SHM_DIR))? {
            let message = format!("found a block of another file system, expected one that is in {SHM_DIR} here");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let noted = Noted::new(name, fd)?;
        if let Some(record) = record {
            record.write(noted.index(), name, identity)?;
        }
        let held = Self { name: name.to_owned(), path, identity, noted, record: record.cloned() };
        match file::link_fd(fd, &held.path) {
            Ok(()) => {
                step();
                Ok(held)
            }
            Err(errno) => {
                let shown = held.path.display();
                let error = match errno {
                    Errno::EEXIST => Error::from_os(errno, format!("there is a {shown} already")),
                    _ => Error::from_os(errno, format!("cannot give a block the name {shown}")),
                };
                held.settle();
                Err(error)
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A descriptor of the block, opened in whatever way its mode allows; `None` where somebody has removed the name, or
    /// it is another file's by now.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>> {
        match file::open_to_lock(&self.path)? {
            Found::File(fd) | Found::Closed(fd) if self.is_it(&fd)? => Ok(Some(fd)),
            _ => Ok(None),
        }
    }

    /// Removes the name if it still is that block's.
    ///
    /// # Errors
    /// `WouldBlock` where another process, as one does that removes names, has it locked for longer than that.
    pub(crate) fn remove(&self, patience: Duration) -> Result<Removal> {
        remove_within(patience, &self.path, |fd| self.is_it(fd))
    }

    fn is_it(&self, fd: &OwnedFd) -> Result<bool> {
        Ok(Identity::of(fd.as_fd())? == self.identity)
    }

    /// The name is gone, or belongs to nobody from here on: it is taken out of the ledger.
    pub(crate) fn settle(self) {
        if let Some(record) = &self.record {
            record.clear(self.noted.index());
        }
        drop(self.noted);
    }

    /// The name could not be removed: it stays in the ledger for who comes later.
    pub(crate) fn leave(self) {
        self.noted.leave();
    }
}

/// Whether a descriptor stands for memory that lives in no file system which could make a look at it wait, such as a
/// network's: the kernel knows seals for its own memory only, and tells without a look at the file.
pub(crate) fn check_is_memory(fd: BorrowedFd<'_>) -> Result<()> {
    if crate::sys::memfd::has_seals(fd)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "found a descriptor of something else, expected anonymous memory or a block in /dev/shm",
    ))
}
