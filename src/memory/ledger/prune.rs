//! The sweep as programs ask for it.

use super::sweep::{Act, sweep};
use crate::{Error, Result};

/// What [`prune`] has removed or [`prunable`] has found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    pub(super) blocks: Vec<PrunedBlock>,
    pub(super) problems: Vec<Error>,
}

/// A block that a dead process has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedBlock {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) owner: Option<u32>,
}

impl Pruned {
    /// The blocks, in no particular order.
    pub fn blocks(&self) -> &[PrunedBlock] {
        &self.blocks
    }

    /// What was left alone and why: a ledger of this user that is damaged, a block that somebody has locked.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }
}

impl Pruned {
    pub(crate) fn into_parts(self) -> (Vec<PrunedBlock>, Vec<Error>) {
        (self.blocks, self.problems)
    }
}

impl PrunedBlock {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size in bytes. The memory is free when nobody has the block mapped any more.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The id of the process that made the block, which is dead, where that is known.
    pub fn owner_pid(&self) -> Option<u32> {
        self.owner
    }
}

/// Removes the named blocks that dead processes of this user have left in `/dev/shm`: those that were made with this
/// crate by a process that was killed before it could remove them.
///
/// The first named block that a process creates does the same by itself. Nothing else is touched: not the blocks of
/// living processes, other users and other programs, nor those that were [kept](crate::SharedMemory::keep), nor a name
/// that is another file's by now. A process that was killed in this moment may hold its blocks a little longer, until
/// the kernel has torn it down; a child that it forked does not count as it.
///
/// # Errors
///
/// Of the operating system, where `/dev/shm` cannot be listed. What concerns a single block or ledger is in
/// [`Pruned::problems`] instead.
///
/// # Examples
///
/// ```
/// let pruned = ndshm::prune()?;
/// for block in pruned.blocks() {
///     println!("removed {}, {} bytes", block.name(), block.size());
/// }
/// for problem in pruned.problems() {
///     eprintln!("{problem}");
/// }
/// # Ok::<(), ndshm::Error>(())
/// ```
pub fn prune() -> Result<Pruned> {
    sweep(Act::Remove)
}

/// Tells what [`prune`] would remove, and removes nothing.
///
/// # Errors
///
/// As for [`prune`].
///
/// # Examples
///
/// ```
/// let memory = ndshm::SharedMemory::create(8)?;
/// let name = memory.name().expect("created with a name");
/// assert!(ndshm::prunable()?.blocks().iter().all(|block| block.name() != name), "its owner lives");
/// # Ok::<(), ndshm::Error>(())
/// ```
pub fn prunable() -> Result<Pruned> {
    sweep(Act::Tell)
}
