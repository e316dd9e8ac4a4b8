//! The quick lane: one word beside the monitor, through which a private block that nobody else wants is locked and
//! unlocked by one compare-and-swap each.
//!
//! | the word | who holds the block |
//! |---|---|
//! | `OPEN` | nobody, and the monitor would admit anybody |
//! | a [`Pass`] | its holder alone, who is not noted in the monitor |
//! | `CLOSED` | whoever is noted in the monitor |
//! | `VACANT` | nobody is noted, but only the monitor admits |
//!
//! ```text
//!              enter                  leave
//!   OPEN ---------------> Pass ---------------> OPEN
//!     \                     |                    ^
//!      \ close              | close: the holder  | settle
//!       \                   v is noted           |
//!        `------------> CLOSED ------------------+---> VACANT ---> CLOSED
//! ```
//!
//! *Enter* and *leave* are anybody's, without the monitor's mutex. *Close* and *settle* happen under it: whoever has locked
//! the mutex closes the lane before looking at anything, and settles it last, before unlocking.
//!
//! **Invariant.** While the word is `OPEN` or a pass, the block is private, nobody is noted in the monitor, asks, waits or
//! sleeps there. While the word is `CLOSED` or `VACANT`, it changes only under the mutex.
//!
//! - *No second holder is admitted.* A pass is given out from `OPEN` alone, when nobody is noted; the monitor admits only
//!   once the lane is closed, and the one swap that closes it tells of a pass that was out, which is noted before anybody is
//!   judged. From `CLOSED` no pass is given out.
//! - *No wake-up is lost.* Who sleeps was counted under the mutex, with the lane closed, and the lane is not opened while
//!   anybody is. So every holder's `leave` fails from then on, and the way that is left to it leads through the mutex, where
//!   it sees the sleeper.
//! - *No pass is taken for another's.* Passes that are equal are of the same thread, handle and kind, and the word is no pass
//!   while one like it is noted.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use super::monitor::Holder;
use super::{Mode, Via};
use crate::sys::thread_id::ThreadId;

const OPEN: u64 = 0;
const CLOSED: u64 = 2;
const VACANT: u64 = 4;

/// Set in every pass, and in nothing else.
const HELD: u64 = 1;
const EXCLUSIVE: u64 = 1 << 1;
const LENDING: u64 = 1 << 2;
const THREAD_SHIFT: u32 = 3;
const HANDLE_SHIFT: u32 = 32;

/// An atomic word. A model checker has its own.
pub(super) trait Word {
    fn new(value: u64) -> Self;
    /// Relaxed.
    fn load(&self) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Relaxed where it fails.
    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> bool;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    #[inline]
    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> bool {
        self.compare_exchange(old, new, order, Ordering::Relaxed).is_ok()
    }
}

/// A holder, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass(NonZeroU64);

impl Pass {
    /// None for a handle or a thread whose number is too large: after four thousand million handles, or five hundred million
    /// threads.
    #[inline]
    pub(super) fn of(holder: Holder) -> Option<Self> {
        let (handle, thread) = (holder.handle, holder.thread.number());
        if handle >> (u64::BITS - HANDLE_SHIFT) != 0 || thread >> (HANDLE_SHIFT - THREAD_SHIFT) != 0 {
            return None;
        }
        let who = handle << HANDLE_SHIFT | thread << THREAD_SHIFT;
        NonZeroU64::new(who | kind(holder.mode, holder.via) | HELD).map(Self)
    }

    #[inline]
    pub(super) fn in_word(word: u64) -> Option<Self> {
        NonZeroU64::new(word).filter(|word| word.get() & HELD != 0).map(Self)
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0.get()
    }

    #[inline]
    fn handle(self) -> u64 {
        self.word() >> HANDLE_SHIFT
    }

    pub(super) fn holder(self) -> Holder {
        let word = self.word();
        let thread = ThreadId::from_number((word & ((1 << HANDLE_SHIFT) - 1)) >> THREAD_SHIFT);
        Holder { handle: self.handle(), thread, mode: mode(word), via: via(word) }
    }
}

/// The bits of a pass that say how it holds the block. `HELD` is not one of them.
#[inline]
pub(super) fn kind(mode: Mode, via: Via) -> u64 {
    let mode = if mode == Mode::Exclusive { EXCLUSIVE } else { 0 };
    let via = if via == Via::Lending { LENDING } else { 0 };
    mode | via
}

#[inline]
pub(super) fn mode(word: u64) -> Mode {
    if word & EXCLUSIVE == 0 { Mode::Shared } else { Mode::Exclusive }
}

#[inline]
pub(super) fn via(word: u64) -> Via {
    if word & LENDING == 0 { Via::Own } else { Via::Lending }
}

/// How the lane is left by whoever had the mutex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Open,
    /// Somebody is noted, or waits.
    Closed,
    /// Closed, and nobody is noted.
    Vacant,
}

/// See the [module](self).
pub(super) struct Lane<W>(W);

impl<W: Word> Lane<W> {
    pub(super) fn new(rest: Rest) -> Self {
        Self(W::new(match rest {
            Rest::Open => OPEN,
            Rest::Closed => CLOSED,
            Rest::Vacant => VACANT,
        }))
    }

    /// Admits a holder, if nobody is there.
    #[inline]
    pub(super) fn enter(&self, pass: Pass) -> bool {
        // Acquire: sees what everybody did who left before, by `leave` or under the mutex that `settle` was called under.
        self.0.compare_exchange(OPEN, pass.word(), Ordering::Acquire)
    }

    /// The holder goes; `false` where it was noted in the monitor meanwhile, and has to be taken out there.
    #[inline]
    pub(super) fn leave(&self, pass: Pass) -> bool {
        // Release: who enters or closes next sees what was done under the lock, or that it was only read.
        self.0.compare_exchange(pass.word(), OPEN, Ordering::Release)
    }

    /// Under the mutex: from here on nobody enters or leaves without it. Returns the pass that was out, to be noted at once.
    #[inline]
    pub(super) fn close(&self) -> Option<Pass> {
        // Relaxed: it became `CLOSED` under the mutex, and so it is still that.
        if self.0.load() == CLOSED {
            return None;
        }
        // Acquire: as in `enter`. A pass that is found was swapped in for what the holder before it left, and a swap passes
        // on what it replaced.
        Pass::in_word(self.0.swap(CLOSED, Ordering::Acquire))
    }

    /// Under the mutex, with the lane closed, as the last thing: what the monitor says is how it is left.
    #[inline]
    pub(super) fn settle(&self, rest: Rest) {
        match rest {
            // Release: who enters without the mutex sees what was done under it.
            Rest::Open => self.0.store(OPEN, Ordering::Release),
            Rest::Closed => {}
            // Relaxed: nobody goes on from here without the mutex.
            Rest::Vacant => self.0.store(VACANT, Ordering::Relaxed),
        }
    }

    /// May a holder of that handle be in the lane, or noted in the monitor?
    ///
    /// Never `false` where a lock through that handle was taken before, as seen from here, and not given back.
    #[inline]
    pub(super) fn may_hold(&self, handle: u64) -> bool {
        // Relaxed: the lock was taken before this, and from then on the word is its pass, and `CLOSED` once that was noted,
        // until it is given back.
        match self.0.load() {
            OPEN | VACANT => false,
            word => Pass::in_word(word).is_none_or(|pass| pass.handle() == handle),
        }
    }
}
