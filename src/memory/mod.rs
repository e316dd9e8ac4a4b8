//! [`SharedMemory`]: a block of bytes, its name, and who removes it.

mod atomic_file;
mod block;
mod copy;
mod draft;
mod freeze;
mod held;
pub(crate) mod ledger;
mod limits;
pub(crate) mod name;
mod options;
mod shared_memory;
pub mod spare;

pub(crate) use atomic_file::AtomicFile;
pub(crate) use block::{Block, Borrower, LockHandle, Locked, NotedLent, Share, Via, note_lent, note_lent_again};
pub(crate) use copy::{copy_in, copy_out, put_words};
pub(crate) use draft::{Draft, Target};
pub(crate) use held::{HeldName, check_is_memory};
pub(crate) use ledger::{Owned, Record, is_ledger, owned, step, sweep_once};
pub use ledger::{Pruned, PrunedBlock, prunable, prune};
pub use limits::{Limit, limits};
pub use options::{HugePages, Reserve, SharedMemoryOptions};
pub use shared_memory::SharedMemory;
