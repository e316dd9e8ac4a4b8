//! What this process owns, in memory and in its ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

use super::file::LedgerFile;
use super::format::{Entry, SLOT};
use super::step::step;
use super::sweep::{Act, sweep};
use crate::sys::file;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::identity::Identity;
use crate::sys::process::PerProcess;
use crate::sys::stamp::Stamp;
use crate::{Error, ErrorKind, Result};

/// One for each process: a forked child begins with an empty one and leaves its parent's alone.
#[derive(Debug)]
struct Owner {
    swept: Once,
    stamp: OnceLock<Stamp>,
    books: Mutex<BTreeMap<Shelf, Books>>,
}

/// A process has a ledger for each of these: it may change its user, and another `/dev/shm` may be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shelf {
    /// Whose the block is, and so the ledger: the sweeps of that user are to find both.
    user: u32,
    /// The file system that both lie in.
    dev: u64,
}

static OWNER: PerProcess<Owner> = PerProcess::new();

fn owner() -> Result<&'static Owner> {
    OWNER.get_or_try_init(|| Ok(Owner { swept: Once::new(), stamp: OnceLock::new(), books: Mutex::default() }))
}

/// Sweeps what dead processes of this user have left, unless this process has done so before.
pub(crate) fn sweep_once() {
    if let Ok(owner) = owner() {
        // What could not be swept is no error for who wants to create something.
        owner.swept.call_once_force(|_| drop(sweep(Act::Remove)));
    }
}

/// A block's entry in the ledger. Dropped, it is taken out: the block is gone or belongs to nobody.
#[derive(Debug)]
pub(crate) struct Noted {
    owner: &'static Owner,
    epoch: Epoch,
    shelf: Shelf,
    index: usize,
}

impl Noted {
    /// Notes that this process owns the block behind `fd`, which is going to be called `name`. When this returns it
    /// stands in the ledger.
    pub(crate) fn new(name: &str, fd: BorrowedFd<'_>) -> Result<Self> {
        let entry = Entry { name: name.to_owned(), identity: Identity::of(fd)? };
        let shelf = Shelf { user: file::user(fd)?, dev: entry.identity.id.dev };
        let owner = owner()?;
        let stamp = *owner.stamp.get_or_init(Stamp::of_this_process);
        let index = owner.books().entry(shelf).or_default().enter(entry, stamp)?;
        step();
        Ok(Self { owner, epoch: epoch(), shelf, index })
    }

    /// Its number among this user's entries of this process in this file system: no other one of those has it for as long as
    /// this lives.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Leaves the entry for whoever sweeps when this process is dead: the name could not be removed.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if self.epoch == epoch() {
            self.owner.books().entry(self.shelf).or_default().strike(self.index);
        }
    }
}

impl Owner {
    fn books(&self) -> MutexGuard<'_, BTreeMap<Shelf, Books>> {
        // A panic in there could only have come from the allocator; the lists are whole between any two statements.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries, each with its slot's number as index. Invariant: `free` has exactly the indices of `None`, the last entry
/// is not `None`, and every entry stands in `file`, if that has not been removed by hand.
#[derive(Debug, Default)]
struct Books {
    entries: Vec<Option<Entry>>,
    free: BTreeSet<usize>,
    /// There while there are entries.
    file: Option<LedgerFile>,
}

impl Books {
    fn enter(&mut self, entry: Entry, stamp: Stamp) -> Result<usize> {
        if self.entries.len() >= super::format::MAX_SLOTS {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("this process owns {} named blocks already, the most that it can", self.entries.len()),
            ));
        }
        let slot = entry.encode();
        let index = self.free.pop_first().unwrap_or(self.entries.len());
        if index == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[index] = Some(entry);
        let written = match &mut self.file {
            Some(file) if file.stands() => {
                step();
                file.write(index, &slot)
            }
            _ => self.renew(stamp),
        };
        if let Err(error) = written {
            self.forget(index);
            return Err(error);
        }
        Ok(index)
    }

    /// Makes the ledger again, with all entries, and ends the old one only then.
    fn renew(&mut self, stamp: Stamp) -> Result<()> {
        let slots: Vec<_> = self.entries.iter().map(|entry| entry.as_ref().map_or([0; SLOT], Entry::encode)).collect();
        if let Some(old) = self.file.replace(LedgerFile::create(stamp, &slots)?) {
            old.retire();
        }
        Ok(())
    }

    fn strike(&mut self, index: usize) {
        self.forget(index);
        let Some(file) = &mut self.file else { return };
        step();
        if self.entries.is_empty() {
            // Nothing of a process that owns nothing is left in `/dev/shm`.
            if let Some(file) = self.file.take() {
                file.retire();
            }
        } else if file.write_free(index).is_ok() {
            file.trim(self.entries.len());
        } else if let Some(file) = self.file.take() {
            // A limit on the size of files, say. Better no entry than one that is wrong; the next creation notes them anew.
            file.retire();
        }
        step();
    }

    fn forget(&mut self, index: usize) {
        self.entries[index] = None;
        self.free.insert(index);
        while let Some(None) = self.entries.last() {
            self.entries.pop();
        }
        self.free.split_off(&self.entries.len());
    }
}
