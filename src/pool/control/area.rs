//! A worker's area of the page as the ring that it is.

use super::board::Place;
use super::{ControlPage, Memory};

const WORD: usize = size_of::<u64>();

/// A worker's area of the page, by places in the stream of its outcomes: behind its end it goes on at its beginning.
pub(super) struct Area<'p, M> {
    page: &'p ControlPage<M>,
    offset: usize,
}

impl<'p, M: Memory> Area<'p, M> {
    pub(super) fn new(page: &'p ControlPage<M>, offset: usize) -> Self {
        Self { page, offset }
    }

    /// The offset of a place, and how many bytes there are up to the end.
    #[inline]
    fn find(&self, place: Place) -> (usize, usize) {
        let at = place & (M::RESULTS_LEN - 1);
        (self.offset + at, M::RESULTS_LEN - at)
    }

    #[inline]
    pub(super) fn put(&self, place: Place, words: &[u64]) {
        let (offset, left) = self.find(place);
        let (words, rest) = words.split_at(words.len().min(left / WORD));
        self.page.memory().put(offset, words);
        if !rest.is_empty() {
            self.page.memory().put(self.offset, rest);
        }
    }

    pub(super) fn put_bytes(&self, place: Place, bytes: &[u8]) {
        let (offset, left) = self.find(place);
        let (bytes, rest) = bytes.split_at(bytes.len().min(left));
        self.page.memory().copy_in(offset, bytes);
        if !rest.is_empty() {
            self.page.memory().copy_in(self.offset, rest);
        }
    }

    pub(super) fn get(&self, place: Place) -> u64 {
        let mut word = [0; WORD];
        self.page.memory().copy_out(self.find(place).0, &mut word);
        u64::from_ne_bytes(word)
    }

    /// Appends so many bytes, which are whole words and no more than the area, and returns where they begin.
    pub(super) fn append_to(&self, words: &mut Vec<u64>, place: Place, len: usize) -> usize {
        let at = words.len();
        words.resize(at + len / WORD, 0);
        let (offset, left) = self.find(place);
        let (out, rest) = words[at..].split_at_mut(len.min(left) / WORD);
        self.page.memory().copy_out(offset, bytemuck::cast_slice_mut(out));
        if !rest.is_empty() {
            self.page.memory().copy_out(self.offset, bytemuck::cast_slice_mut(rest));
        }
        at
    }
}
