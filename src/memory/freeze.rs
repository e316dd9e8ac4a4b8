//! Sealing a block against writing, for good.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::SealFlag;

use super::block::{Block, Via};
use super::shared_memory::{SharedMemory, Whereabouts};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file;
use crate::sys::lock::{Mode, Wait};
use crate::sys::map::{Access, Mapping};
use crate::sys::memfd;

/// How long other processes have to drop the mappings through which they could write.
const PATIENCE: Duration = Duration::from_secs(2);

fn seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

impl SharedMemory {
    /// Seals the block against writing, under its lock: `check` looks at it last, when nobody writes any more.
    ///
    /// Where that fails it is as it was; where not even that can be had, it is not mapped any more, see
    /// [`Mapping::is_mapped`](crate::sys::map::Mapping::is_mapped).
    pub(crate) fn freeze(&mut self, check: impl FnOnce(&Mapping) -> Result<()>) -> Result<()> {
        self.lock.block().check_process()?;
        let nameless = matches!(self.whereabouts, Whereabouts::Anonymous | Whereabouts::Nameless);
        // A named block that was attached through a descriptor is known by the seal against sealing that it was born with.
        if !nameless || memfd::get_seals(self.file.as_fd())?.contains(SealFlag::F_SEAL_SEAL) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} cannot be frozen: the kernel seals anonymous memory only; make it without a name, and hand it on by a \
                     manager's label or its descriptor",
                    self.whereabouts
                ),
            ));
        }
        self.lock.release_leaked();
        // Held across the sealing, so that nobody begins a write that the seal would cut short.
        let _locked = self.lock.lock(Mode::Exclusive, Wait::Forever, Via::Own)?;
        check(&self.mapping)?;
        // The kernel refuses while any mapping could write, one that was made for reading through this descriptor too.
        self.mapping.hide()?;
        let sealed = seal_within(self.file.as_fd(), self.lock.block(), PATIENCE);
        let access = if sealed.is_ok() { Access::ReadOnly } else { Access::ReadWrite };
        let mapped = file::reopen(self.file.as_fd(), access).and_then(|fd| {
            self.mapping.show(fd.as_fd(), access)?;
            self.file = fd;
            if access == Access::ReadOnly {
                // Nobody can write it, so a forked child may go on reading.
                self.mapping.allow_in_children()?;
            }
            Ok(())
        });
        sealed.and(mapped)
    }

    /// The memory behind a descriptor, for reading, where the kernel lets nobody write it.
    pub(crate) fn from_frozen_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        file::require_regular(fd, Path::new("the descriptor"))?;
        if !memfd::get_seals(fd)?.contains(seals()) {
            return Err(Error::new(
                ErrorKind::Permission,
                "this memory is not frozen: others can write it, and it lacks the seals F_SEAL_WRITE, F_SEAL_SHRINK and \
                 F_SEAL_GROW; attach to it as a SharedArray (with a manager, by attach_array)",
            ));
        }
        let memory = Self::from_fd(fd, Access::ReadOnly)?;
        memory.mapping.allow_in_children()?;
        Ok(memory)
    }
}

/// Sets the seals as soon as nobody has the file mapped for writing any more.
fn seal_within(file: BorrowedFd<'_>, block: &Block, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    block.ask_borrowers_to_let_go(deadline);
    let mut pause = Duration::from_micros(50);
    loop {
        match memfd::add_seals(file, seals()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Error::new(
                    ErrorKind::WouldBlock,
                    format!(
                        "another process has had the array mapped for writing for {} seconds, so it cannot be frozen",
                        patience.as_secs()
                    ),
                ));
            }
            other => return other,
        }
    }
}
