//! Other processes' ledgers: which to believe, whose owner is dead, and what may go.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;

use super::PREFIX;
use super::format::{Damage, Entry, Head, MAX_SLOTS, SLOT};
use super::prune::{Pruned, PrunedBlock};
use super::remove::{Removal, patience, remove_until, unlink_if};
use super::step::step;
use crate::memory::name;
use crate::sys::file::{self, Found, HIDDEN_PREFIX, Links, SHM_DIR, Trust};
use crate::sys::flock::Flocked;
use crate::sys::identity::Identity;
use crate::sys::lock::{self, Mode, Wait};
use crate::sys::map::Access;
use crate::{Error, ErrorKind, Result};

/// What to do with what dead processes have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Remove,
    Tell,
}

/// Goes through all ledgers of this user.
pub(super) fn sweep(act: Act) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    // One for all: whoever may lock many blocks of this user holds up nobody for longer than who locks one.
    let deadline = patience();
    // First those that were never finished: a ledger that still has its hidden name would seem to have two.
    if act == Act::Remove {
        pruned.problems.extend(list(HIDDEN_PREFIX)?.iter().filter_map(|path| sweep_hidden(path).err()));
    }
    for path in list(PREFIX)? {
        let swept = sweep_ledger(&path, act, deadline, &mut pruned);
        pruned.problems.extend(swept.err());
    }
    Ok(pruned)
}

/// The files whose names begin so.
fn list(prefix: &str) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::from_os(error, format!("cannot list {SHM_DIR}"));
    let mut paths = Vec::new();
    for entry in fs::read_dir(SHM_DIR).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

pub(super) fn is_ledger_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// Removes a file that its maker, who is dead, never gave its name. Makers keep theirs locked.
fn sweep_hidden(path: &Path) -> Result<()> {
    if matches!(file::trust_at(path)?, Trust::Foreign | Trust::Nothing) {
        return Ok(());
    }
    let Found::File(hidden) = file::open_to_lock(path)? else { return Ok(()) };
    if matches!(file::trust(hidden.as_fd())?, Trust::Foreign) {
        return Ok(());
    }
    step();
    match Flocked::try_new(hidden.as_fd()) {
        // It goes as any other name does: locked, and looked at once more.
        Ok(_locked) => unlink_if(path, hidden.as_fd()).map(drop),
        Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(Error::from_os(errno, format!("cannot lock {}", path.display()))),
    }
}

fn sweep_ledger(path: &Path, act: Act, deadline: Instant, pruned: &mut Pruned) -> Result<()> {
    // Asked before it is opened: to open what others have planted can have effects.
    if matches!(file::trust_at(path)?, Trust::Foreign | Trust::Nothing) {
        // Not a regular file, another user's, or gone by now.
        return Ok(());
    }
    // To read and to write: in a user namespace all users look the same that have no number there, but the kernel opens
    // only this one's file to this one.
    let ledger = match file::open_existing(path, Access::ReadWrite, Links::Refuse) {
        Ok(ledger) => ledger,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Between the two looks it may have become another file.
    let doubt = match file::trust(ledger.as_fd())? {
        Trust::Own => None,
        Trust::Foreign | Trust::Nothing => return Ok(()),
        Trust::Doubtful(why) => Some(why),
    };
    step();
    let locked = lock::lock(ledger.as_fd(), Mode::Exclusive, Wait::No, false)?;
    if !locked && !owner_has_ended(ledger.as_fd()) {
        return Ok(());
    }
    let identity = Identity::of(ledger.as_fd())?;
    // An owner that ended in peace removed its ledger before it let go of the lock.
    if file::identity_at(path)? != Some(identity.id) {
        return Ok(());
    }
    if let Some(why) = doubt {
        return Err(distrusted(path, why));
    }
    let Some((head, entries)) = read(ledger.as_fd(), &identity).map_err(|why| why.into_error(path))? else {
        // Retired: its owner was killed after it had made it say nothing.
        return settle(path, &identity, act, deadline);
    };

    let mut settled = true;
    for entry in entries {
        match sweep_block(&entry, head.owner.pid, act, deadline) {
            Ok(None) => {}
            Ok(Some(block)) => pruned.blocks.push(block),
            // It stays in the ledger, and is found again.
            Err(error) => {
                settled = false;
                pruned.problems.push(error);
            }
        }
    }
    if settled { settle(path, &identity, act, deadline) } else { Ok(()) }
}

/// Removes a ledger that has nothing more to say.
fn settle(path: &Path, identity: &Identity, act: Act, deadline: Instant) -> Result<()> {
    if act == Act::Remove {
        step();
        remove_until(deadline, path, |found| Ok(Identity::of(found.as_fd())? == *identity))?;
    }
    Ok(())
}

/// The lock is held, but a child that the owner forked holds it as well: is the owner itself dead?
pub(super) fn owner_has_ended(ledger: BorrowedFd<'_>) -> bool {
    let mut slot = [0; SLOT];
    matches!(file::read_at(ledger, 0, &mut slot), Ok(SLOT))
        && Head::parse(&slot).is_ok_and(|head| head.owner.has_ended())
}

pub(super) fn sweep_block(entry: &Entry, owner: u32, act: Act, deadline: Instant) -> Result<Option<PrunedBlock>> {
    let path = name::path_of(&entry.name)?;
    // Only regular files of this user are opened.
    if !matches!(file::trust_at(&path)?, Trust::Own | Trust::Doubtful(_)) {
        return Ok(None);
    }
    let is_it = |found: &OwnedFd| -> Result<bool> {
        if matches!(file::trust(found.as_fd())?, Trust::Foreign) {
            return Ok(false);
        }
        Identity::of(found.as_fd())?.is(&entry.identity).ok_or_else(|| untold(&path))
    };
    let size = match file::open_to_lock(&path)? {
        Found::File(found) | Found::Closed(found) if is_it(&found)? => file::size(found.as_fd())?,
        _ => return Ok(None),
    };
    let block = PrunedBlock { name: entry.name.clone(), size, owner: (owner != 0).then_some(owner) };
    match act {
        Act::Tell => Ok(Some(block)),
        Act::Remove => Ok((remove_until(deadline, &path, is_it)? == Removal::Removed).then_some(block)),
    }
}

/// Why a ledger could not be read.
pub(super) enum Unread {
    Damaged(Damage),
    Failed(Error),
}

impl Unread {
    fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Damaged(why) => distrusted(path, why),
            Self::Failed(error) => error,
        }
    }
}

fn untold(path: &Path) -> Error {
    let message = format!(
        "cannot tell whether {} is still the block that a dead process has left: the system call name_to_handle_at is not \
         allowed here, or not there; it was left alone",
        path.display()
    );
    Error::new(ErrorKind::Unsupported, message)
}

fn distrusted(path: &Path, why: &str) -> Error {
    let message =
        format!("the ledger {} {why}; what it names was left alone: look at it and remove it by hand", path.display());
    Error::new(ErrorKind::Layout, message)
}

/// All of a ledger, or nothing where it is empty. One bad slot, and none is believed.
pub(super) fn read(ledger: BorrowedFd<'_>, identity: &Identity) -> Result<Option<(Head, Vec<Entry>)>, Unread> {
    let size = file::size(ledger).map_err(Unread::Failed)?;
    if size == 0 {
        return Ok(None);
    }
    let slots = usize::try_from(size).ok().filter(|size| size.is_multiple_of(SLOT)).map(|size| size / SLOT);
    let Some(slots) = slots.filter(|&slots| slots <= 1 + MAX_SLOTS) else {
        return Err(Unread::Damaged("has a size that a ledger cannot have"));
    };
    let slot_at = |index: usize| {
        let mut slot = [0; SLOT];
        match file::read_at(ledger, index * SLOT, &mut slot) {
            Ok(SLOT) => Ok(slot),
            Ok(_) => Err(Unread::Damaged("was cut short while it was read")),
            Err(error) => Err(Unread::Failed(error)),
        }
    };
    let head = Head::parse(&slot_at(0)?).map_err(Unread::Damaged)?;
    // Where that cannot be told it is taken for itself: a copy beside it would have another number.
    if identity.is(&head.identity) == Some(false) {
        return Err(Unread::Damaged("is a copy of another one"));
    }
    let mut entries = Vec::new();
    for index in 1..slots {
        entries.extend(Entry::parse(&slot_at(index)?).map_err(Unread::Damaged)?);
    }
    Ok(Some((head, entries)))
}
