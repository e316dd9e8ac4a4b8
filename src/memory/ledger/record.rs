//! What one process owns, written down for another one that cleans up after it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::format::{Entry, SLOT};
use super::prune::Pruned;
use super::remove::patience;
use super::step::step;
use super::sweep::{Act, sweep, sweep_block};
use crate::sys::identity::Identity;
use crate::sys::{file, memfd, space};
use crate::{Error, Result};

/// A memfd that both processes have: an entry for each block, at the number that it has in the owner's ledger. It has no
/// name that anybody could remove.
#[derive(Debug)]
pub(crate) struct Record(OwnedFd);

impl Record {
    pub(crate) fn new() -> Result<Self> {
        memfd::create().map(Self)
    }

    /// The same one in the other process.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Notes a block that is going to get its name.
    pub(crate) fn write(&self, index: usize, name: &str, identity: Identity) -> Result<()> {
        space::check_file_size((index + 1) * SLOT)?;
        let entry = Entry { name: name.to_owned(), identity };
        file::write_at(self.fd(), index * SLOT, &entry.encode())
            .map_err(|errno| Error::from_os(errno, "cannot note what a manager's server owns"))?;
        step();
        Ok(())
    }

    /// Takes an entry out: the block is gone or belongs to nobody.
    pub(crate) fn clear(&self, index: usize) {
        // It was written before, so this needs no room. An entry that stays names a block that is not there any more.
        let _ = file::write_at(self.fd(), index * SLOT, &[0; SLOT]);
        step();
    }

    /// Removes what the process `owner`, which is dead, has left: the blocks that stand here, and its ledger.
    pub(crate) fn clean_up(&self, owner: u32) -> Pruned {
        let mut pruned = Pruned::default();
        let deadline = patience();
        let mut slot = [0; SLOT];
        for index in 0.. {
            match file::read_at(self.fd(), index * SLOT, &mut slot) {
                Ok(SLOT) => {}
                Ok(_) => break,
                Err(error) => {
                    pruned.problems.push(error);
                    break;
                }
            }
            // A damaged entry says nothing; only the owner could have written it.
            let Ok(Some(entry)) = Entry::parse(&slot) else { continue };
            match sweep_block(&entry, owner, Act::Remove, deadline) {
                Ok(block) => pruned.blocks.extend(block),
                Err(error) => pruned.problems.push(error),
            }
        }
        // The ledger, and whatever else it knows of. Other processes' blocks that go with it are no news of this one.
        match sweep(Act::Remove) {
            Ok(swept) => pruned.blocks.extend(swept.blocks.into_iter().filter(|block| block.owner == Some(owner))),
            Err(error) => pruned.problems.push(error),
        }
        pruned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SharedMemory;

    #[test]
    fn what_stands_in_a_record_is_removed_if_it_still_is_that_block() {
        let make = || {
            let mut memory = SharedMemory::create(10).unwrap();
            memory.keep();
            memory
        };
        let (listed, struck, replaced) = (make(), make(), make());
        let record = Record::new().unwrap();
        for (index, memory) in [&listed, &struck, &replaced].into_iter().enumerate() {
            record.write(3 * index, memory.name().unwrap(), Identity::of(memory.fd()).unwrap()).unwrap();
        }
        record.clear(3);
        let name = replaced.name().unwrap();
        SharedMemory::unlink_name(name).unwrap();
        let another = SharedMemory::create_named(name, 10).unwrap();

        let again = Record::from_fd(record.fd().try_clone_to_owned().unwrap());
        let pruned = again.clean_up(std::process::id());
        let names: Vec<_> = pruned.blocks().iter().map(crate::PrunedBlock::name).collect();
        assert_eq!(names, [listed.name().unwrap()]);
        let is_there = |memory: &SharedMemory| SharedMemory::attach(memory.name().unwrap()).is_ok();
        assert!(!is_there(&listed) && is_there(&struck) && is_there(&another));
        SharedMemory::unlink_name(struck.name().unwrap()).unwrap();
    }
}
