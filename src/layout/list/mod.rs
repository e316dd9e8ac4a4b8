//! The bytes of a list: CPython's `multiprocessing.shared_memory.ShareableList`, versions 3.9 to 3.14.
//!
//! | offset | content |
//! |---|---|
//! | 0 | i64 N, the number of items |
//! | 8 | (N + 1) × i64: where each item's slot starts, from the data area on; the last one is K, the area's length |
//! | 8(N + 2) | K bytes of data; every slot is a multiple of 8 bytes |
//! | 8(N + 2) + K | N × 8 bytes: each item's format, in the language of Python's `struct`, see [`format`] |
//! | 8(N + 2) + K + 8N | N × i8: each item's code |
//!
//! A block may be longer than that. Where the items lie is read once; what their formats and codes say is judged anew at
//! every look, since other processes change them.

pub(crate) mod format;
mod glance;
pub(crate) mod visitors;

pub(crate) use glance::glance;

use std::ops::Range;

use super::MAGIC;
use crate::{Error, ErrorKind, Result};

/// Everything but the codes is made of these.
pub(crate) const WORD: usize = 8;

/// The longest str or bytes that a new item can hold: the format of the next longer slot has nine characters.
pub(crate) const MAX_TEXT: usize = MAX_SLOT - 1;

/// The widest slot whose format fits its field.
const MAX_SLOT: usize = 9_999_992;

/// What an empty list takes.
const MIN_TOTAL: usize = 2 * WORD;

/// What an item takes at least: its offset, a slot, its format and its code.
const MIN_ITEM: usize = 3 * WORD + 1;

/// Bytes that are read at a time.
const STEP: usize = 8192 * WORD;

const _: () = {
    assert!(MAX_TEXT == 9_999_991 && slot_for(MAX_TEXT) == MAX_SLOT && slot_for(MAX_TEXT + 1) > MAX_SLOT);
    assert!(slot_for(0) == 8 && slot_for(7) == 8 && slot_for(8) == 16);
    assert!(STEP.is_multiple_of(WORD));
};

/// The slot of a new str or bytes of `len` bytes.
pub(crate) const fn slot_for(len: usize) -> usize {
    WORD * (len / WORD + 1)
}

/// Where everything lies in the block of a list.
///
/// Invariant: `starts` has one entry more than there are items, ascends in steps that are multiples of 8 from 8 to
/// [`MAX_SLOT`], and begins at `8 * (items + 2)`; formats, codes and total follow from its last entry, without overflow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListLayout {
    starts: Box<[usize]>,
    formats: usize,
    codes: usize,
    total: usize,
}

/// Where one item lies, in bytes from the block's start. All of it is below the layout's total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// A multiple of 8.
    pub(crate) data: usize,
    /// Bytes from `data` on that are this item's: a multiple of 8, at least 8.
    pub(crate) slot: usize,
    /// A multiple of 8.
    pub(crate) format: usize,
    /// One byte, in a word that has only codes in it, and what comes after the list.
    pub(crate) code: usize,
}

impl ListLayout {
    /// The layout of a new list with slots of these widths, each of which is one that [`slot_for`] gives for at most
    /// [`MAX_TEXT`] bytes.
    pub(crate) fn with_slots(slots: impl ExactSizeIterator<Item = usize>) -> Result<Self> {
        let too_large = || Error::new(ErrorKind::InvalidSize, "a list of that many items and bytes fits no memory");
        let items = slots.len();
        let first = data_start(items).ok_or_else(too_large)?;
        let mut starts = Vec::new();
        reserve(&mut starts, items)?;
        starts.push(first);
        let mut end = first;
        for slot in slots {
            debug_assert!((WORD..=MAX_SLOT).contains(&slot) && slot.is_multiple_of(WORD));
            end = end.checked_add(slot).ok_or_else(too_large)?;
            starts.push(end);
        }
        Self::from_starts(starts).ok_or_else(too_large)
    }

    /// Reads the layout of the list in a block of `block_len` bytes, and looks at every item's format and code.
    ///
    /// `read` fills a buffer with what begins at an offset, which together always lie within the block. Each byte that
    /// tells where something lies is asked for once, so that it does not matter who writes the block meanwhile.
    pub(crate) fn parse(block_len: usize, mut read: impl FnMut(usize, &mut [u8]) -> Result<()>) -> Result<Self> {
        if block_len < MIN_TOTAL {
            return Err(damaged(format!("found {block_len} bytes, expected at least {MIN_TOTAL}")));
        }
        let mut word = [0; WORD];
        read(0, &mut word)?;
        // As a number of items it would be one of fifteen digits.
        if word.starts_with(&MAGIC) {
            return Err(damaged("it is an array, which begins with \"\\x93NUMPY\"; attach to it as a SharedArray"));
        }
        let found = i64::from_le_bytes(word);
        let most = (block_len - MIN_TOTAL) / MIN_ITEM;
        let items = usize::try_from(found).ok().filter(|&items| items <= most).ok_or_else(|| {
            damaged(format!("found {found} items, expected 0 to {most} in a block of {block_len} bytes"))
        })?;

        let layout = Self::from_starts(parse_starts(items, block_len, &mut read)?)
            .filter(|layout| layout.total <= block_len)
            .ok_or_else(|| {
                damaged(format!("found data that leaves no room for formats and codes in a block of {block_len} bytes"))
            })?;
        layout.check_items(read)?;
        Ok(layout)
    }

    fn from_starts(starts: Vec<usize>) -> Option<Self> {
        let items = starts.len() - 1;
        let formats = starts[items];
        let codes = formats.checked_add(items.checked_mul(WORD)?)?;
        let total = codes.checked_add(items)?;
        isize::try_from(total).ok()?;
        Some(Self { starts: starts.into_boxed_slice(), formats, codes, total })
    }

    /// A format or code that no process would ever write shows a damaged block. A pair that does not match is left to
    /// the reader of the item: it may be about to change.
    fn check_items(&self, mut read: impl FnMut(usize, &mut [u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; STEP.min(self.len() * WORD)];
        for items in steps(self.len(), STEP / WORD) {
            let formats = &mut buffer[..items.len() * WORD];
            read(self.formats + items.start * WORD, formats)?;
            for (item, format) in items.zip(formats.as_chunks::<WORD>().0) {
                let slot = self.starts[item + 1] - self.starts[item];
                if format::Format::parse(u64::from_le_bytes(*format), slot).is_none() {
                    let shown = format::show(u64::from_le_bytes(*format));
                    return Err(damaged(format!("found format {shown} at item {item}, in a slot of {slot} bytes")));
                }
            }
        }
        for items in steps(self.len(), STEP) {
            let codes = &mut buffer[..items.len()];
            read(self.codes + items.start, codes)?;
            if let Some(at) = codes.iter().position(|&code| code > format::CODE_NONE) {
                let (code, item) = (codes[at].cast_signed(), items.start + at);
                return Err(damaged(format!("found code {code} at item {item}, expected 0 to 3")));
            }
        }
        Ok(())
    }

    /// The number of items.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of the list, which a block may exceed.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    #[inline]
    pub(crate) fn place(&self, item: usize) -> Option<Place> {
        let [data, end] = *self.starts.get(item..)?.first_chunk()?;
        Some(Place { data, slot: end - data, format: self.formats + item * WORD, code: self.codes + item })
    }

    /// The words that a list begins with: how many items, and where they are.
    pub(crate) fn head(&self) -> impl Iterator<Item = u64> {
        let offsets = self.starts.iter().map(|start| start - self.starts[0]);
        std::iter::once(self.len()).chain(offsets).map(|word| word as u64)
    }

    /// Where the codes lie, one byte an item.
    pub(crate) fn codes(&self) -> usize {
        self.codes
    }
}

fn data_start(items: usize) -> Option<usize> {
    items.checked_add(2)?.checked_mul(WORD)
}

fn parse_starts(
    items: usize,
    block_len: usize,
    read: &mut impl FnMut(usize, &mut [u8]) -> Result<()>,
) -> Result<Vec<usize>> {
    // No overflow, here and below: so many items fit the block.
    let first = WORD * (items + 2);
    let mut starts = Vec::new();
    reserve(&mut starts, items)?;
    let mut buffer = vec![0; STEP.min((items + 1) * WORD)];
    for entries in steps(items + 1, STEP / WORD) {
        let words = &mut buffer[..entries.len() * WORD];
        read(WORD + entries.start * WORD, words)?;
        for (entry, word) in entries.zip(words.as_chunks::<WORD>().0) {
            let offset = u64::from_le_bytes(*word);
            let start = usize::try_from(offset).ok().and_then(|offset| first.checked_add(offset));
            let start = start.filter(|&start| start <= block_len).ok_or_else(|| {
                damaged(format!("found offset {offset} at item {entry}, past the end of a block of {block_len} bytes"))
            })?;
            match starts.last() {
                None if start == first => {}
                None => return Err(damaged(format!("found {offset} as the first item's offset, expected 0"))),
                Some(&before) => {
                    let slot = start.checked_sub(before).filter(|slot| (WORD..=MAX_SLOT).contains(slot));
                    if !slot.is_some_and(|slot| slot.is_multiple_of(WORD)) {
                        return Err(damaged(format!(
                            "found offset {offset} after {}, expected a step of 8 to {MAX_SLOT} that is a multiple of 8",
                            before - first
                        )));
                    }
                }
            }
            starts.push(start);
        }
    }
    Ok(starts)
}

/// Room for one entry more than there are items, without an abort where there is none.
fn reserve(starts: &mut Vec<usize>, items: usize) -> Result<()> {
    items.checked_add(1).and_then(|entries| starts.try_reserve_exact(entries).ok()).ok_or_else(|| {
        Error::new(ErrorKind::NoSpace, format!("there is no memory to hold the offsets of {items} items"))
    })
}

/// `0..len` in pieces of at most `step`.
fn steps(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}

pub(crate) fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Layout, format!("not a list block: {what}"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
