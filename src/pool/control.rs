//! The control page: a page of atomic words that parent and workers map, through which chunks are handed out.
//!
//! # The words
//!
//! *Ticket*, one: `call number << 24 | next chunk`. The parent opens a call by storing its number with chunk 0. A worker
//! takes a chunk by a compare-and-swap that adds 1, and only where the number is that of the call it was sent: a late
//! worker finds another number and takes nothing. The parent closes a call by setting the chunk to the call's count,
//! after which nobody takes from it either. Call numbers are never used twice.
//!
//! *Current*, one a worker: `call number << 24 | chunk + 1` from when the worker took the chunk to when it takes the
//! next. It tells the parent what a worker that died had in its hands. A worker that dies between the ticket and its
//! own word leaves a chunk that was taken and has no answer; the parent finds it by counting.
#![expect(unsafe_code, reason = "reaches atomic words in mapped memory")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::SealFlag;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::file;
use crate::sys::map::{Access, Mapping};
use crate::sys::memfd;

const INDEX_BITS: u32 = 24;

/// One less than the index field holds, so that a chunk's number plus one fits as well.
pub(crate) const MAX_CHUNKS: usize = (1 << INDEX_BITS) - 2;

/// Words are a cache line apart: a worker that notes its chunk does not slow the others down.
const STRIDE: usize = 64;

fn pack(call: u64, index: usize) -> u64 {
    debug_assert!(index < 1 << INDEX_BITS, "chunk indices are checked when a call is planned");
    call << INDEX_BITS | index as u64
}

fn unpack(word: u64) -> (u64, usize) {
    let index = word & ((1 << INDEX_BITS) - 1);
    (word >> INDEX_BITS, usize::try_from(index).unwrap_or(usize::MAX))
}

/// The page as one process sees it. Invariant: `mapping` is at least one stride for the ticket and one for each of
/// `workers`.
pub(crate) struct ControlPage {
    fd: OwnedFd,
    mapping: Mapping,
    workers: usize,
}

impl ControlPage {
    /// A new page for so many workers.
    pub(crate) fn create(workers: usize) -> Result<Self> {
        let len = Self::len_for(workers);
        let fd = memfd::create()?;
        file::set_size(fd.as_fd(), len)?;
        memfd::add_seals(fd.as_fd(), SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
        Self::map(fd, workers)
    }

    /// The page behind a descriptor that the parent sent.
    pub(crate) fn map(fd: OwnedFd, workers: usize) -> Result<Self> {
        let len = Self::len_for(workers);
        let size = file::size(fd.as_fd())?;
        if size < len as u64 {
            return Err(Error::new(
                ErrorKind::Layout,
                format!("a control page for {workers} workers has {len} bytes, found {size}"),
            ));
        }
        let mapping = Mapping::new(fd.as_fd(), len, Access::ReadWrite, false, false)?;
        Ok(Self { fd, mapping, workers })
    }

    fn len_for(workers: usize) -> usize {
        (workers + 1) * STRIDE
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index <= self.workers, "worker {index} of {} has no word", self.workers);
        // SAFETY: the word lies inside the mapping by the invariant.
        let word = unsafe { self.mapping.ptr().add(index * STRIDE) };
        // SAFETY: mapped for as long as `self` lives, 64-byte aligned, and only ever used atomically.
        unsafe { AtomicU64::from_ptr(word.cast().as_ptr()) }
    }

    fn ticket(&self) -> &AtomicU64 {
        self.word(0)
    }

    fn current(&self, worker: usize) -> &AtomicU64 {
        self.word(worker + 1)
    }

    /// Parent: chunks of `call` may be taken from here on.
    pub(crate) fn open(&self, call: u64) {
        // Release: who takes a chunk sees what the parent wrote before it opened the call.
        self.ticket().store(pack(call, 0), Ordering::Release);
    }

    /// Parent: no more chunks of `call` are taken. Returns how many were.
    pub(crate) fn close(&self, call: u64, count: usize) -> usize {
        let (open, taken) = unpack(self.ticket().swap(pack(call, count), Ordering::AcqRel));
        if open == call { taken.min(count) } else { count }
    }

    /// Parent: are there chunks of `call` that nobody has taken?
    pub(crate) fn has_untaken(&self, call: u64, count: usize) -> bool {
        let (open, next) = unpack(self.ticket().load(Ordering::Acquire));
        open == call && next < count
    }

    /// Worker: the next chunk of `call`, exclusively; `None` where there is none or another call has begun.
    pub(crate) fn take(&self, worker: usize, call: u64, count: usize) -> Option<usize> {
        let ticket = self.ticket();
        let mut seen = ticket.load(Ordering::Acquire);
        loop {
            let (open, index) = unpack(seen);
            if open != call || index >= count {
                return None;
            }
            // AcqRel: acquires what the parent wrote before it opened the call; chunks need no order among themselves.
            match ticket.compare_exchange_weak(seen, pack(call, index + 1), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    // Release: the parent reads it after the worker's death, which orders it anyway; costs nothing here.
                    self.current(worker).store(pack(call, index + 1), Ordering::Release);
                    return Some(index);
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Parent, after the worker was reaped: the chunk of `call` that it took last.
    pub(crate) fn last_taken(&self, worker: usize, call: u64) -> Option<usize> {
        let (taken_in, index) = unpack(self.current(worker).load(Ordering::Acquire));
        if taken_in == call { index.checked_sub(1) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_worker_takes_nothing_from_the_next_call() {
        let page = ControlPage::create(2).unwrap();
        page.open(7);
        assert_eq!(page.take(0, 7, 2), Some(0));
        page.open(8);
        assert_eq!(page.take(1, 7, 2), None);
        assert_eq!(page.take(1, 8, 2), Some(0));
        assert_eq!(page.last_taken(0, 8), None);
        assert_eq!(page.last_taken(0, 7), Some(0));
    }

    #[test]
    fn a_closed_call_says_how_much_was_taken() {
        let page = ControlPage::create(1).unwrap();
        page.open(1);
        assert_eq!(page.take(0, 1, 5), Some(0));
        assert_eq!(page.take(0, 1, 5), Some(1));
        assert!(page.has_untaken(1, 5));
        assert_eq!(page.close(1, 5), 2);
        assert!(!page.has_untaken(1, 5));
        assert_eq!(page.take(0, 1, 5), None);
        assert_eq!(page.close(1, 5), 5);
    }

    #[test]
    fn every_chunk_is_taken_once() {
        let page = ControlPage::create(4).unwrap();
        page.open(3);
        let mut taken: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|w| {
                    let page = &page;
                    scope.spawn(move || std::iter::from_fn(|| page.take(w, 3, 10_000)).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..10_000));
    }
}
