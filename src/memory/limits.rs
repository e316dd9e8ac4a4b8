//! What limits how large a block can be.

use std::path::Path;

use crate::sys::file::SHM_DIR;
use crate::sys::space::{Place, Room, rooms};

/// Something that can be full: `/dev/shm`, the machine's memory, a control group.
#[derive(Clone, Debug)]
pub struct Limit {
    room: Room,
}

impl Limit {
    /// The bytes that are free in it now.
    pub fn free(&self) -> u64 {
        self.room.free
    }

    /// The bytes that it holds in all.
    pub fn total(&self) -> u64 {
        self.room.total
    }

    /// What it is, as a noun: `/dev/shm, which holds 64 MiB`.
    pub fn what(&self) -> &str {
        &self.room.what
    }

    /// How to have more of it, as an imperative.
    pub fn advice(&self) -> &str {
        &self.room.advice
    }
}

/// What limits how large a named block can be, the tightest first. All but the one of `/dev/shm` hold for anonymous memory
/// too. What the system does not tell is left out.
///
/// # Examples
///
/// ```
/// let limits = ndshm::limits();
/// if let Some(tightest) = limits.first() {
///     println!("room for {} bytes, because of {}", tightest.free(), tightest.what());
/// }
/// assert!(limits.is_sorted_by_key(|limit| limit.free()));
/// ```
#[doc(alias = "statvfs")]
pub fn limits() -> Vec<Limit> {
    let mut rooms = rooms(Place::Directory(Path::new(SHM_DIR)), true);
    rooms.sort_by_key(|room| room.free);
    rooms.into_iter().map(|room| Limit { room }).collect()
}
