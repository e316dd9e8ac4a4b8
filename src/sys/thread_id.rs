//! Which thread this is, without a look at its name and a count of who holds it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread of this process; never given to another one. In a forked child the thread that forked goes on with its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(u64);

impl ThreadId {
    /// The thread that has this number.
    #[inline]
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Not 0.
    #[inline]
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// The calling thread.
#[inline]
pub(crate) fn current() -> ThreadId {
    thread_local! {
        // Without a destructor, so that it can be asked for while the thread ends.
        static MINE: Cell<u64> = const { Cell::new(0) };
    }
    #[cold]
    fn first() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only the values have to differ.
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        MINE.set(number);
        number
    }
    match MINE.get() {
        0 => ThreadId(first()),
        number => ThreadId(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_a_number_of_its_own() {
        let mine = current();
        let theirs = std::thread::spawn(|| (current(), current())).join().unwrap();
        assert_eq!(theirs.0, theirs.1);
        assert_ne!(theirs.0, mine);
        assert_eq!(current(), mine);
    }
}
