//! The words of a block's control trailer: is a write in progress, and how many have ended.
#![expect(unsafe_code, reason = "reaches the trailer's atomic words in mapped memory")]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::elements::Bytes;
use crate::layout::trailer;

/// The trailer of one block, where it has one.
///
/// The *writer* word is the id of the process that is writing, 0 when none is. It changes only under the exclusive lock,
/// so who holds either lock and finds it set knows that a writer ended without finishing. The *generation* counts the
/// writes that did finish; it is what carries the lock's order into Rust's memory model, see `sys::lock`.
///
/// Invariant: `start` is the first byte of a 64-byte aligned trailer inside a range that is mapped for `'a`.
pub(crate) struct Control<'a> {
    start: Option<NonNull<u8>>,
    mapped: PhantomData<Bytes<'a>>,
}

impl<'a> Control<'a> {
    /// A block without a trailer: locks, but no mark.
    pub(crate) const NONE: Self = Self { start: None, mapped: PhantomData };

    /// The trailer at `offset` of mapped bytes; none where it would not fit.
    #[inline]
    pub(crate) fn at(bytes: Bytes<'a>, offset: usize) -> Self {
        if offset.checked_add(trailer::TRAILER_LEN).is_none_or(|end| end > bytes.len()) {
            return Self::NONE;
        }
        // SAFETY: offset is inside the mapped range, as just checked.
        let start = unsafe { bytes.start().add(offset) };
        Self { start: (start.as_ptr().addr() % trailer::TRAILER_LEN == 0).then_some(start), mapped: PhantomData }
    }

    #[inline]
    fn writer(&self) -> Option<&AtomicU32> {
        let start = self.start?;
        // SAFETY: the word lies within the trailer.
        let word = unsafe { start.add(trailer::WRITER_OFFSET) };
        // SAFETY: mapped for as long as `self` lives, aligned to 4 (the trailer to 64), and only ever used atomically.
        Some(unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) })
    }

    #[inline]
    fn generation(&self) -> Option<&AtomicU64> {
        let start = self.start?;
        // SAFETY: the word lies within the trailer.
        let word = unsafe { start.add(trailer::GENERATION_OFFSET) };
        // SAFETY: mapped for as long as `self` lives, aligned to 8 (the trailer to 64), and only ever used atomically.
        Some(unsafe { AtomicU64::from_ptr(word.cast().as_ptr()) })
    }

    #[inline]
    pub(crate) fn exists(&self) -> bool {
        self.start.is_some()
    }

    /// Under either lock: the process whose write did not end, 0 where all did.
    #[inline]
    pub(crate) fn unfinished_writer(&self) -> u32 {
        // The block may be mapped read-only, where only relaxed loads are defined; the fence makes them acquire. It pairs
        // with `finish`'s release: what was written in the generation that is read here is seen.
        self.generation().map(|word| word.load(Ordering::Relaxed));
        let writer = self.writer().map_or(0, |word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        writer
    }

    /// Under the exclusive lock: a write of that process begins.
    #[inline]
    pub(crate) fn begin(&self, process_id: u32) {
        if let Some(word) = self.writer() {
            word.store(process_id, Ordering::Release);
        }
    }

    /// Under the exclusive lock: the write has ended, or what it left behind is accepted.
    #[inline]
    pub(crate) fn finish(&self) {
        if let Some(word) = self.generation() {
            // Nobody else counts meanwhile, so this needs no read and write in one step. Whoever locks next reads this value,
            // or that of a later writer, who had read this one.
            word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
        if let Some(word) = self.writer() {
            word.store(0, Ordering::Release);
        }
    }
}
