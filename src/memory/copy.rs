//! Bytes in and out of a mapping that other processes may be writing.
//!
//! Every access is a relaxed atomic one of a whole aligned 8-byte word: no other size, nothing volatile, and never a
//! `&[u8]`. So two handles that copy at once, in one process or in two, have no data race; they may see each other's
//! words half done, which the block's lock prevents. A write of a part of a word exchanges the whole one and keeps the
//! other bytes as they are.
#![expect(unsafe_code, reason = "turns addresses of a mapping into atomics")]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::map::{Access, Mapping};

const WORD: usize = 8;

/// The word that begins at byte `at`, a multiple of 8 below the mapping's length.
#[inline]
fn word(mapping: &Mapping, at: usize) -> &AtomicU64 {
    debug_assert!(at.is_multiple_of(WORD) && at < mapping.len());
    // SAFETY: `at` is below the mapping's length (all callers check it), so the address lies in the mapping.
    let ptr = unsafe { mapping.ptr().add(at) }.cast::<u64>();
    // SAFETY: a mapping starts at a page and `at` is a multiple of 8, so the pointer is aligned; what is mapped are whole
    // pages, so the last word is there even where `len` ends in the middle of it; it stays mapped for as long as
    // `mapping` is borrowed. Other code that is safe to call accesses the bytes through this function too, or holds the
    // block's lock against the callers'. Of read-only memory only words are asked that are loaded, relaxed.
    unsafe { AtomicU64::from_ptr(ptr.as_ptr()) }
}

#[inline]
fn check(mapping: &Mapping, offset: usize, len: usize) {
    let fits = offset.checked_add(len).is_some_and(|end| end <= mapping.len());
    assert!(fits, "{len} bytes at {offset} lie outside of a mapping of {} bytes", mapping.len());
    assert!(mapping.is_here(), "not mapped in a forked child");
}

/// Copies what begins at `offset` to `out`. The range must lie in the mapping.
pub(crate) fn copy_out(mapping: &Mapping, offset: usize, out: &mut [u8]) {
    check(mapping, offset, out.len());
    let skip = offset % WORD;
    let (head, rest) = out.split_at_mut(((WORD - skip) % WORD).min(out.len()));
    let mut at = offset - skip;
    if !head.is_empty() {
        head.copy_from_slice(&word(mapping, at).load(Ordering::Relaxed).to_ne_bytes()[skip..skip + head.len()]);
        at += WORD;
    }
    let mut pieces = rest.chunks_exact_mut(WORD);
    for piece in &mut pieces {
        piece.copy_from_slice(&word(mapping, at).load(Ordering::Relaxed).to_ne_bytes());
        at += WORD;
    }
    let tail = pieces.into_remainder();
    if !tail.is_empty() {
        tail.copy_from_slice(&word(mapping, at).load(Ordering::Relaxed).to_ne_bytes()[..tail.len()]);
    }
}

/// Copies whole `words` to where `offset` is, a multiple of 8. The range must lie in the mapping, which must be writable.
#[inline]
pub(crate) fn put_words(mapping: &Mapping, offset: usize, words: &[u64]) {
    check(mapping, offset, size_of_val(words));
    check_writable(mapping);
    assert!(offset.is_multiple_of(WORD), "words begin at multiples of 8 bytes, found {offset}");
    for (index, value) in words.iter().enumerate() {
        word(mapping, offset + index * WORD).store(*value, Ordering::Relaxed);
    }
}

#[inline]
fn check_writable(mapping: &Mapping) {
    assert_eq!(mapping.access(), Access::ReadWrite, "the mapping is read-only");
}

/// Copies `bytes` to where `offset` is. The range must lie in the mapping, which must be writable.
pub(crate) fn copy_in(mapping: &Mapping, offset: usize, bytes: &[u8]) {
    check(mapping, offset, bytes.len());
    check_writable(mapping);
    let skip = offset % WORD;
    let (head, rest) = bytes.split_at(((WORD - skip) % WORD).min(bytes.len()));
    let mut at = offset - skip;
    if !head.is_empty() {
        replace(word(mapping, at), skip, head);
        at += WORD;
    }
    let (pieces, tail) = rest.as_chunks::<WORD>();
    for piece in pieces {
        word(mapping, at).store(u64::from_ne_bytes(*piece), Ordering::Relaxed);
        at += WORD;
    }
    if !tail.is_empty() {
        replace(word(mapping, at), 0, tail);
    }
}

/// Replaces the bytes of `word` from the `skip`th on by `bytes`, and no other.
fn replace(word: &AtomicU64, skip: usize, bytes: &[u8]) {
    let mut old = word.load(Ordering::Relaxed);
    loop {
        let mut new = old.to_ne_bytes();
        new[skip..skip + bytes.len()].copy_from_slice(bytes);
        let new = u64::from_ne_bytes(new);
        match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(found) => old = found,
        }
    }
}
