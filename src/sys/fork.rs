//! Which process this is, without a system call.
//!
//! A forked child inherits every handle of its parent: descriptors whose locks are the parent's, names that the parent
//! owns, pools whose workers answer the parent. All of them remember the [`Epoch`] that they were made in and do nothing
//! in any other. The epoch lives in a page that the kernel hands to a child as zeros (`MADV_WIPEONFORK`, Linux 4.14), so
//! that even a raw `clone` is noticed; where that page cannot be had, the process id stands in for it.
#![expect(unsafe_code, reason = "maps the page that a forked child finds empty")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One process, as far as handles are concerned: the same value until a fork, another one in the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(u64);

/// What the wiped page says of this process: 0 where nobody in it has asked yet.
#[repr(C)]
struct Words {
    epoch: AtomicU64,
    id: AtomicU32,
}

static WORDS: OnceLock<Option<&'static Words>> = OnceLock::new();

/// The last epoch given out. Ordinary memory: a child goes on counting from its parent's value, so no epoch comes twice.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The epoch of the calling process.
#[inline]
pub(crate) fn epoch() -> Epoch {
    let Some(Words { epoch: word, .. }) = WORDS.get_or_init(wiped_words) else {
        return Epoch(u64::from(std::process::id()));
    };
    // Relaxed: the word guards no other memory; a thread sees its own process's value or 0, and 0 leads to the slow path.
    match word.load(Ordering::Relaxed) {
        0 => stamp(word),
        value => Epoch(value),
    }
}

/// The process that this was made in, for who asks often whether it still is that one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    word: Option<&'static AtomicU64>,
    epoch: Epoch,
}

impl Home {
    pub(crate) fn here() -> Self {
        let epoch = epoch();
        Self { word: WORDS.get().copied().flatten().map(|words| &words.epoch), epoch }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Is the calling process that one?
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.is_seen_here() || self.is_found_here()
    }

    #[cold]
    fn is_found_here(&self) -> bool {
        self.epoch == epoch()
    }

    /// The same where that can be seen at a glance, and `false` where it cannot.
    #[inline]
    pub(crate) fn is_seen_here(&self) -> bool {
        // Relaxed: as in `epoch`. A child finds another epoch, or 0, which is none.
        self.word.is_some_and(|word| word.load(Ordering::Relaxed) == self.epoch.0)
    }
}

/// The id of the calling process.
#[inline]
pub(crate) fn process_id() -> u32 {
    let Some(Words { id: word, .. }) = WORDS.get_or_init(wiped_words) else {
        return std::process::id();
    };
    // Relaxed: as in `epoch`.
    match word.load(Ordering::Relaxed) {
        0 => note_id(word),
        id => id,
    }
}

#[cold]
fn note_id(word: &AtomicU32) -> u32 {
    let id = std::process::id();
    // Other threads store the same.
    word.store(id, Ordering::Relaxed);
    id
}

#[cold]
fn stamp(word: &AtomicU64) -> Epoch {
    let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    match word.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Epoch(fresh),
        Err(other_thread) => Epoch(other_thread),
    }
}

fn wiped_words() -> Option<&'static Words> {
    const LEN: usize = 4096;
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping that was just made, and nothing is stored in it yet.
    if unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: the mapping was made above and no reference into it exists.
        unsafe { libc::munmap(page, LEN) };
        return None;
    }
    // SAFETY: the mapping is page-aligned, zeroed (valid atomic integers), longer than they are, never unmapped from here
    // on, and only reached through this reference.
    Some(unsafe { &*page.cast::<Words>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_has_another_epoch_and_id() {
        let mine = epoch();
        assert_eq!(mine, epoch());
        let home = Home::here();
        assert!(home.is_here());
        assert_eq!(home.is_seen_here(), home.word.is_some());
        assert_eq!((process_id(), process_id()), (std::process::id(), std::process::id()));
        // SAFETY: the child only reads an atomic and leaves with _exit.
        match unsafe { libc::fork() } {
            0 => {
                let away = !home.is_here() && !home.is_seen_here();
                let known = epoch() == epoch() && process_id() == std::process::id();
                let code = i32::from(epoch() == mine || !known || !away || home.is_here());
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(code) }
            }
            child => {
                let mut status = -1;
                // SAFETY: `status` outlives the call and `child` is this process's own child.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(status, 0);
                assert_eq!(mine, epoch());
            }
        }
    }
}
