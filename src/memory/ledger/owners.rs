//! Who owns what, for who only wants to know.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use super::sweep::{is_ledger_name, owner_has_ended, read};
use crate::sys::file::{self, Links, SHM_DIR, Trust};
use crate::sys::identity::Identity;
use crate::sys::lock;
use crate::sys::map::Access;
use crate::{Error, Result};

/// A block that stands in a ledger.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) pid: Option<u32>,
    pub(crate) alive: bool,
}

/// Is a file of that name in `/dev/shm` a ledger, and not a block?
pub(crate) fn is_ledger(name: &OsStr) -> bool {
    is_ledger_name(name)
}

/// All that stands in this user's ledgers. Nothing is locked, so that no sweep or owner takes notice; a ledger that is
/// damaged or just being changed counts for nothing.
pub(crate) fn owned() -> Result<Vec<Owned>> {
    let entries = fs::read_dir(SHM_DIR).map_err(|error| Error::from_os(error, format!("cannot list {SHM_DIR}")))?;
    let ledgers = entries.filter_map(Result::ok).filter(|entry| is_ledger_name(&entry.file_name()));
    Ok(ledgers.filter_map(|ledger| of_ledger(&ledger.path())).flatten().collect())
}

fn of_ledger(path: &Path) -> Option<Vec<Owned>> {
    // Asked before it is opened: to open what others have planted can have effects.
    if file::trust_at(path).ok()? != Trust::Own {
        return None;
    }
    let ledger = file::open_existing(path, Access::ReadOnly, Links::Refuse).ok()?;
    if file::trust(ledger.as_fd()).ok()? != Trust::Own {
        return None;
    }
    let identity = Identity::of(ledger.as_fd()).ok()?;
    // An owner that writes just now may be seen half way through a slot; not three times in a row.
    let (head, entries) = (0..3).find_map(|_| read(ledger.as_fd(), &identity).ok())??;
    let alive = lock::held_elsewhere(ledger.as_fd()).ok()?.is_some() && !owner_has_ended(ledger.as_fd());
    let pid = head.owner.pid_here();
    Some(entries.into_iter().map(|entry| Owned { name: entry.name, identity: entry.identity, pid, alive }).collect())
}
