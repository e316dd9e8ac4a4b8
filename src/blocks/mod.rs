//! Blocks as they are found: looked at from outside, whoever made them and whatever is in them.
//!
//! | file | idea |
//! |---|---|
//! | `file` | a block opened to be looked at: not mapped, so that nothing that happens to it hurts who looks |
//! | `info` | what is seen |
//! | `copy` | whole arrays from `.npy` files into blocks and back, of whatever element type |

mod copy;
mod file;
mod info;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;

pub use file::{BlockFile, BlockLock};
pub use info::{ArrayInfo, BlockInfo, BlockKind, BlockOwner, BlockState};

use crate::memory::{Owned, is_ledger, owned};
use crate::sys::file::SHM_DIR;
use crate::sys::identity::Identity;
use crate::{Error, Result};

/// The named blocks in `/dev/shm`, those of other programs and users too, in the order of their names.
///
/// Every regular file there is one, but for the ledgers that this crate keeps. What this user may not open is told of as
/// far as that goes. Nothing is locked or mapped, and nobody is held up; a block that comes or goes meanwhile is there or
/// not.
///
/// # Errors
///
/// Of the operating system, where `/dev/shm` cannot be listed.
///
/// # Examples
///
/// ```
/// use ndshm::{BlockKind, BlockOwner, SharedArray};
///
/// # let name = format!("listed_{}", std::process::id());
/// let array = SharedArray::<f32, _>::options().name(&name).zeros((3, 4))?;
/// let blocks = ndshm::blocks()?;
/// let block = blocks.iter().find(|block| block.name().is_some_and(|found| *found == *name)).expect("it is there");
/// let BlockKind::Array(info) = block.kind() else { panic!("{block:?}") };
/// assert_eq!((info.dtype().descr(), info.shape()), ("<f4", &[3, 4][..]));
/// assert_eq!(block.owner(), BlockOwner::Process { pid: Some(std::process::id()), alive: true });
/// # drop(array);
/// # Ok::<(), ndshm::Error>(())
/// ```
#[doc(alias = "ls")]
pub fn blocks() -> Result<Vec<BlockInfo>> {
    let cannot_list = |error: std::io::Error| Error::from_os(error, format!("cannot list {SHM_DIR}"));
    let mut names = fs::read_dir(SHM_DIR)
        .map_err(cannot_list)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(cannot_list)?;
    names.retain(|name| !is_ledger(name));
    names.sort_unstable();
    // After the names: a block that has just been made stands in a ledger before it has a name.
    let owned = owned()?;
    Ok(names.iter().filter_map(|name| info::at_name(name, &owned)).collect())
}

/// Who owns the block of that name, if a ledger says so.
fn owner_of(name: &OsStr, fd: impl AsFd, owned: &[Owned]) -> BlockOwner {
    let mut known = owned.iter().filter(|owned| *owned.name == *name).peekable();
    if known.peek().is_none() {
        return BlockOwner::Nobody;
    }
    let Ok(identity) = Identity::of(fd.as_fd()) else { return BlockOwner::Unknown };
    match known.find(|owned| owned.identity == identity) {
        Some(owned) => BlockOwner::Process { pid: owned.pid, alive: owned.alive },
        None => BlockOwner::Nobody,
    }
}
