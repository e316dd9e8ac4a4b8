//! The file of a ledger: made whole and locked before anybody can find it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::PREFIX;
use super::format::{Head, SLOT};
use super::step::step;
use crate::sys::file::{self, FileId, SHM_DIR, Trust, Unlinked};
use crate::sys::identity::Identity;
use crate::sys::lock::{self, Mode, Wait};
use crate::sys::random::random_u64;
use crate::sys::space;
use crate::sys::stamp::Stamp;
use crate::{Error, ErrorKind, Result};

/// This process's ledger. The lock lives as long as the descriptor.
#[derive(Debug)]
pub(super) struct LedgerFile {
    fd: OwnedFd,
    path: PathBuf,
    id: FileId,
    /// The slots that the file has room for, the head among them.
    slots: usize,
}

impl LedgerFile {
    /// Makes the ledger of the process `owner`: `slots` are what follows the head.
    pub(super) fn create(owner: Stamp, slots: &[[u8; SLOT]]) -> Result<Self> {
        let dir = Path::new(SHM_DIR);
        step();
        let file = Unlinked::create(dir, 0o600)?;
        // The umask may have taken even the owner's rights.
        file::set_mode(file.fd(), 0o600)?;
        step();
        // Before it has a name: a sweep that found it unlocked would take its owner for dead.
        if !lock::lock(file.fd(), Mode::Exclusive, Wait::No, false)? {
            return Err(Error::new(ErrorKind::WouldBlock, "another process has locked this process's new ledger"));
        }
        let identity = Identity::of(file.fd())?;
        let mut bytes = Vec::with_capacity((1 + slots.len()) * SLOT);
        bytes.extend_from_slice(&Head { identity, owner }.encode());
        bytes.extend(slots.iter().flatten());
        step();
        write(file.fd(), 0, &bytes)?;
        step();
        let path = dir.join(format!("{PREFIX}{:016x}", random_u64()?));
        let fd = file
            .link(&path)
            .map_err(|errno| Error::from_os(errno, format!("cannot give a ledger the name {}", path.display())))?;
        step();
        Ok(Self { fd, path, id: identity.id, slots: 1 + slots.len() })
    }

    /// Is it where sweeps look for it, whole, and such that they believe it? Somebody may have removed, renamed, cut or
    /// opened it to others.
    pub(super) fn stands(&self) -> bool {
        let believed = file::trust(self.fd.as_fd()).is_ok_and(|trust| trust == Trust::Own);
        let whole = file::size(self.fd.as_fd()).is_ok_and(|size| size == (self.slots * SLOT) as u64);
        believed && whole && file::identity_at(&self.path).is_ok_and(|found| found == Some(self.id))
    }

    /// Writes the entry number `index`.
    pub(super) fn write(&mut self, index: usize, slot: &[u8; SLOT]) -> Result<()> {
        write(self.fd.as_fd(), (1 + index) * SLOT, slot)?;
        self.slots = self.slots.max(2 + index);
        Ok(())
    }

    /// Takes the entry number `index` out.
    pub(super) fn write_free(&mut self, index: usize) -> Result<()> {
        let at = (1 + index) * SLOT;
        // A limit on the size of files may have come since the entry was written.
        write(self.fd.as_fd(), at, &[0; SLOT])
            .or_else(|error| file::clear(self.fd.as_fd(), at, SLOT).map_err(|_| error))
    }

    /// Cuts off what follows the first `entries`, where that is much.
    pub(super) fn trim(&mut self, entries: usize) {
        step();
        // Half of it and a page: a block that comes and goes does not cut and grow the file each time.
        if self.slots > 2 * (1 + entries) + 4096 / SLOT && file::set_size(self.fd.as_fd(), (1 + entries) * SLOT).is_ok()
        {
            self.slots = 1 + entries;
        }
    }

    /// Makes it say nothing and removes it. What is empty is no error for a sweep, under whatever name it finds it, and
    /// who opened it before and gets the lock now learns nothing.
    pub(super) fn retire(self) {
        // To make a file shorter needs no room and heeds no limit. Nobody is there to be told of a failure.
        let _ = file::set_size(self.fd.as_fd(), 0);
        step();
        let _ = super::remove::remove_open(&self.path, self.fd.as_fd());
        step();
    }
}

fn write(fd: BorrowedFd<'_>, at: usize, bytes: &[u8]) -> Result<()> {
    // Past that limit comes a signal that kills.
    space::check_file_size(at + bytes.len())?;
    file::write_at(fd, at, bytes).map_err(|errno| {
        Error::from_os(
            errno,
            format!("cannot note in {SHM_DIR} that this process owns a block; is it full? See `df {SHM_DIR}`"),
        )
    })
}
