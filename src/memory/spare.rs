//! Memory of dropped arrays, kept for the next ones of the same size.
//!
//! Most of what a new array costs is its pages: the kernel has to find, clear and map them, here and in every worker that
//! touches them. An anonymous array that is dropped therefore leaves its memory to the next one that this process makes of
//! the same size, which is then as fast as one that is there already. A program that passes fresh arrays to a
//! [`Pool`](crate::Pool) in a loop, message by message, gains most: the workers keep their mappings too.
//!
//! | what | which |
//! |---|---|
//! | kept | memory of anonymous arrays that no other program ever could reach: not after [`share_fd`](crate::SharedArray::share_fd) or [`freeze`](crate::SharedArray::freeze), not of poisoned arrays |
//! | how much | up to [`limit`] bytes and eight arrays, the latest; by default 128 MiB, never more than an eighth of what the machine and the control group have free |
//! | what the next one finds | zeros, or its own elements: never what was there before |
//! | given back | when memory gets short and another array is made or dropped, before any [`NoSpace`](crate::ErrorKind::NoSpace) error or one for want of descriptors, by [`release`], and when the process ends |
//!
//! Arrays with other than the default [`mode`](crate::ArrayOptions::mode), [`reserve`](crate::ArrayOptions::reserve) or
//! [`core_dump`](crate::ArrayOptions::core_dump) take no part.
//!
//! # Examples
//!
//! ```standalone_crate
//! use ndshm::{SharedArray, spare};
//!
//! # fn main() -> ndshm::Result<()> {
//! for n in 0..100 {
//!     let message = SharedArray::from_elem(1000, n)?; // the same memory each time
//!     assert_eq!(message.read()?[999], n);
//! }
//! assert!(spare::bytes() >= 4000);
//! spare::set_limit(0); // from here on every array has its own
//! assert_eq!(spare::bytes(), 0);
//! # Ok(()) }
//! ```

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::{HugePages, SharedMemory};
use crate::sys::file;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::space;

const DEFAULT_LIMIT: usize = 128 << 20;

/// Each keeps descriptors open and, in workers, a mapping.
const MAX_KEPT: usize = 8;

/// The part of free memory that may be kept.
const FREE_PART: usize = 8;

/// How long a look at what is free holds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Less than this is kept without a look at what is free.
const SMALL: usize = 1 << 20;

/// What a block was made like. One can stand in for another where these are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) size: usize,
    pub(crate) huge_pages: HugePages,
}

/// Invariant of `kept`: blocks that only this process and its workers ever could reach and that nobody has a handle on;
/// workers may have them mapped, but touch them only in calls that name them, and all such calls have ended.
struct Store {
    kept: VecDeque<(Recipe, SharedMemory)>,
    bytes: usize,
    limit: usize,
    /// What may be kept in view of what is free, and when that was found out.
    looked: Option<(Instant, usize)>,
    /// Of the process that the blocks belong to.
    epoch: Option<Epoch>,
}

static STORE: Mutex<Store> =
    Mutex::new(Store { kept: VecDeque::new(), bytes: 0, limit: DEFAULT_LIMIT, looked: None, epoch: None });

/// Blocks on their way out. Dropped without the store's lock, since it takes others and lets go of memory.
#[derive(Default)]
struct Leaving(Vec<SharedMemory>);

impl Drop for Leaving {
    fn drop(&mut self) {
        for memory in &self.0 {
            if memory.mapping().is_here() {
                // Frees the memory also where workers, which are told later, still have it mapped. Where the file system
                // cannot, it goes with the last mapping.
                let _ = file::punch(memory.fd().as_fd(), memory.size());
            }
        }
    }
}

impl Store {
    /// After a fork the blocks are the parent's: their handles here go, their memory is none of this process's business.
    fn be_of_this_process(&mut self) {
        let now = Some(epoch());
        if self.epoch != now {
            self.epoch = now;
            self.bytes = 0;
            // Closes this process's descriptors and does nothing else.
            self.kept.clear();
        }
    }

    fn room(&mut self, wanted: usize) -> usize {
        if self.bytes + wanted < SMALL {
            return self.limit;
        }
        let affordable = match self.looked {
            Some((when, affordable)) if when.elapsed() < LOOK_AGAIN => affordable,
            _ => {
                let free = space::free_memory().map_or(usize::MAX, |free| usize::try_from(free).unwrap_or(usize::MAX));
                // What is kept counts as free, since it can be had.
                let affordable = free.saturating_add(self.bytes) / FREE_PART;
                self.looked = Some((Instant::now(), affordable));
                affordable
            }
        };
        self.limit.min(affordable)
    }

    /// Takes out the oldest until at most `bytes` bytes and `count` blocks are left.
    fn shrink(&mut self, bytes: usize, count: usize) -> Leaving {
        let mut leaving = Leaving::default();
        while self.bytes > bytes || self.kept.len() > count {
            let Some((recipe, memory)) = self.kept.pop_front() else { break };
            self.bytes -= recipe.size;
            leaving.0.push(memory);
        }
        leaving
    }
}

/// The store, for what this process keeps. `None` in a process that was forked while another thread had the store locked,
/// which it then is for ever: that process does without.
fn store() -> Option<MutexGuard<'static, Store>> {
    static HOME: OnceLock<Epoch> = OnceLock::new();
    let mut store = if *HOME.get_or_init(epoch) == epoch() {
        STORE.lock().unwrap_or_else(PoisonError::into_inner)
    } else {
        match STORE.try_lock() {
            Ok(store) => store,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        }
    };
    store.be_of_this_process();
    Some(store)
}

/// Sets how many bytes are kept at most; 0 keeps none, and gives back what is kept. This process alone is concerned: where
/// the workers of a pool make arrays of their own, each of them has its own limit.
pub fn set_limit(bytes: usize) {
    let Some(mut store) = store() else { return };
    store.limit = bytes;
    let leaving = store.shrink(bytes, MAX_KEPT);
    drop(store);
    drop(leaving);
}

/// How many bytes are kept at most.
pub fn limit() -> usize {
    store().map_or(0, |store| store.limit)
}

/// How many bytes are kept now.
pub fn bytes() -> usize {
    store().map_or(0, |store| store.bytes)
}

/// Gives everything that is kept back to the system, at once, and says how many bytes it was.
pub fn release() -> usize {
    let Some(mut store) = store() else { return 0 };
    let bytes = store.bytes;
    let leaving = store.shrink(0, 0);
    drop(store);
    drop(leaving);
    bytes
}

/// A block of that kind, as it was left, if there is one.
pub(crate) fn take(recipe: Recipe) -> Option<SharedMemory> {
    let mut store = store()?;
    let position = store.kept.iter().rposition(|(kept, _)| *kept == recipe)?;
    let (recipe, memory) = store.kept.remove(position)?;
    store.bytes -= recipe.size;
    Some(memory)
}

/// Keeps a block that was made by `recipe`, or drops it where there is no room. Whoever had it as an array has let go.
pub(crate) fn keep(memory: SharedMemory, recipe: Recipe) {
    if !memory.is_unshared() {
        return;
    }
    let Some(mut store) = store() else { return };
    let room = store.room(recipe.size);
    let mut leaving = Leaving::default();
    if recipe.size <= room {
        store.bytes += recipe.size;
        store.kept.push_back((recipe, memory));
    } else {
        leaving.0.push(memory);
    }
    let others = store.shrink(room, MAX_KEPT);
    drop(store);
    drop((leaving, others));
}
