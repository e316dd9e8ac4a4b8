//! The words of a mapped list: aligned 8-byte atomics, and nothing else ever touches the block.
//!
//! Any process may write any of them at any time. So nothing that is loaded here is believed: not the second time either.
//! Loads are relaxed with a fence behind them, which read-only memory allows; stores release, exchanges are sequentially
//! consistent. A byte is changed by exchanging its word.
#![expect(unsafe_code, reason = "turns addresses of a mapping into atomics")]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::error::{Error, ErrorKind, Result};
use crate::layout::list::WORD;
use crate::sys::map::{Access, Mapping};

/// The words of one mapping, in the process that made it.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    /// Invariant: mapped, in this process.
    mapping: &'a Mapping,
}

impl<'a> Words<'a> {
    #[inline]
    pub(super) fn of(mapping: &'a Mapping) -> Result<Self> {
        if mapping.is_here() {
            return Ok(Self { mapping });
        }
        Err(gone())
    }

    /// The word that begins at byte `at`: a multiple of 8 within the block, though its last bytes need not be.
    #[inline]
    pub(super) fn word(self, at: usize) -> Word<'a> {
        assert!(
            at.is_multiple_of(WORD) && at < self.mapping.len(),
            "byte {at} is not where a word of the block begins"
        );
        // SAFETY: `at` is below the mapping's length, as just checked, so the address lies in the mapping.
        let ptr = unsafe { self.mapping.ptr().add(at) }.cast::<u64>();
        // SAFETY: a mapping starts at a page and `at` is a multiple of 8, so the pointer is aligned; what is mapped are
        // whole pages, so the last word is there even where the length ends in its middle; it stays mapped for 'a,
        // for which the mapping is borrowed, and is mapped in this process (the field's invariant). Everything in this
        // crate that is safe to call accesses a block that has no typed array in it by words of this kind alone. Of
        // read-only memory only words are asked that are loaded, relaxed: whoever stores asks `check_writable` first.
        Word(unsafe { AtomicU64::from_ptr(ptr.as_ptr()) })
    }

    /// The byte at `at`, which is anywhere in the block.
    #[inline]
    pub(super) fn byte(self, at: usize) -> Byte<'a> {
        let skip = at % WORD;
        Byte { word: self.word(at - skip), shift: skip * 8 }
    }

    /// Who stores asks this first: memory that is mapped read-only cannot be written.
    pub(super) fn check_writable(self) {
        assert_eq!(self.mapping.access(), Access::ReadWrite, "the mapping is read-only");
    }

    /// Copies the bytes from `at`, a multiple of 8, on.
    pub(super) fn copy_out(self, at: usize, out: &mut [u8]) {
        for (index, piece) in out.chunks_mut(WORD).enumerate() {
            let word = self.word(at + index * WORD).0.load(Ordering::Relaxed);
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
        fence(Ordering::Acquire);
    }

    /// Whether the bytes from `at`, a multiple of 8, on are still these.
    pub(super) fn are(self, at: usize, bytes: &[u8]) -> bool {
        let same = bytes.chunks(WORD).enumerate().all(|(index, piece)| {
            let word = self.word(at + index * WORD).0.load(Ordering::Relaxed);
            word.to_le_bytes()[..piece.len()] == *piece
        });
        fence(Ordering::Acquire);
        same
    }

    /// Stores `bytes` from `at`, a multiple of 8, on, and NUL up to `len` bytes, a multiple of 8 that is no less.
    pub(super) fn copy_in(self, at: usize, bytes: &[u8], len: usize) {
        self.check_writable();
        let (pieces, rest) = bytes.as_chunks::<WORD>();
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        let padding = std::iter::once(last).chain(std::iter::repeat([0; WORD]));
        for (index, piece) in pieces.iter().copied().chain(padding).take(len / WORD).enumerate() {
            self.word(at + index * WORD).store(u64::from_le_bytes(piece));
        }
    }
}

/// One word that any process may write at any time.
#[derive(Clone, Copy)]
pub(super) struct Word<'a>(&'a AtomicU64);

impl Word<'_> {
    /// What is loaded after this is at least as new.
    #[inline]
    pub(super) fn load(self) -> u64 {
        let value = self.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// The same for writable memory, in one order with all exchanges: of two who exchange one word and then load this way
    /// what the other has exchanged, at least one sees the other.
    #[inline]
    pub(super) fn load_in_order(self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Who sees this sees what was stored before, too.
    #[inline]
    pub(super) fn store(self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Stores `new` where `old` is there, else says what is.
    #[inline]
    pub(super) fn exchange(self, old: u64, new: u64) -> Result<(), u64> {
        self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
    }
}

/// One byte of a word.
#[derive(Clone, Copy)]
pub(super) struct Byte<'a> {
    word: Word<'a>,
    /// By how many bits it stands to the left.
    shift: usize,
}

impl Byte<'_> {
    #[inline]
    pub(super) fn load(self) -> u8 {
        self.of(self.word.load())
    }

    #[inline]
    pub(super) fn load_in_order(self) -> u8 {
        self.of(self.word.load_in_order())
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "one byte is asked for")]
    fn of(self, word: u64) -> u8 {
        (word >> self.shift) as u8
    }

    /// The others of the word stay as they are, whoever changes them meanwhile.
    pub(super) fn store(self, value: u8) {
        let with = |old: u64| old & !(0xff << self.shift) | u64::from(value) << self.shift;
        let mut old = self.word.load();
        while let Err(found) = self.word.exchange(old, with(old)) {
            old = found;
        }
    }
}

#[cold]
fn gone() -> Error {
    Error::new(
        ErrorKind::Closed,
        "this handle belongs to the process that this one was forked from; attach to the list anew",
    )
}
