//! What the protocol's words are made of: eight bytes that several processes change in single steps, and sleep on.
//!
//! The protocol reaches them through these traits alone, so that the same code runs over a mapped page, and over the
//! memory of a model checker that looks at its interleavings.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use crate::sys::futex;

/// One word.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// Relaxed where it fails.
    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// Adds, wrapping around; returns what was there before.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Returns at once where the lower half of the word is not that of `expected`, and otherwise when it is woken, at the
    /// end of `timeout`, or for no reason.
    fn sleep(&self, expected: u64, timeout: Option<Duration>);
    /// Wakes everybody who sleeps on the word.
    fn wake(&self);
    /// All that this thread did before comes before all that it does after, in one order with every other such fence.
    fn fence();
}

/// How many words a line has.
pub(crate) const PLACES: usize = 8;

/// Words by line and place in the line; what is on one line travels between processors together.
pub(crate) trait Words {
    type Word: Word;

    /// The words of a line.
    ///
    /// # Panics
    /// Where there is no such line.
    fn line(&self, line: usize) -> &[Self::Word; PLACES];

    /// How many tickets a worker draws at a time that has so many left to draw; at least one. What is drawn is nobody
    /// else's any more, so most are left for those who come.
    #[inline]
    fn portion(&self, left: usize, most: usize) -> usize {
        (left / 8).clamp(1, most.max(1))
    }
}

/// All that lies on a page: its words, and behind them areas of bytes that are only ever read and written by those whose
/// turn it is.
pub(crate) trait Memory: Words {
    /// Room for a call's description; a longer one goes by mail. The pages of what is not used are never touched.
    const DESCRIPTION_LEN: usize = 64 * 1024;
    /// Room for a worker's outcomes that the parent has not read yet, a power of two; a larger one goes over its socket.
    const RESULTS_LEN: usize = 512 * 1024;

    /// Copies `bytes` to that offset of the page.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// Copies whole words to that offset of the page, a multiple of 8.
    fn put(&self, offset: usize, words: &[u64]);
    /// Copies from that offset of the page.
    fn copy_out(&self, offset: usize, out: &mut [u8]);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.compare_exchange(old, new, order, Ordering::Relaxed)
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }

    fn sleep(&self, expected: u64, timeout: Option<Duration>) {
        futex::wait(self, expected, timeout);
    }

    fn wake(&self) {
        futex::wake(self);
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}
