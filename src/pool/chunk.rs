//! What a task is told about its share, and a caller about how far a call is.

use std::ops::Range;

/// One task's share of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    index: usize,
    count: usize,
    rows: Range<usize>,
}

impl Chunk {
    #[inline]
    pub(crate) fn new(index: usize, division: Division) -> Self {
        Self { index, count: division.count, rows: division.rows_of(index) }
    }

    /// Which chunk of the call this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many chunks the call has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows of this chunk: indices along the axis that the call's first splitting argument is split on. `0..1` where
    /// no argument splits.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }
}

/// How far a call is; see [`Call::progress`](super::Call::progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Chunks whose tasks have ended.
    pub chunks_done: usize,
    /// Chunks of the call.
    pub chunks: usize,
    /// Rows whose tasks have ended.
    pub rows_done: usize,
    /// Rows of the call.
    pub rows: usize,
    /// Workers that died while they had a part in the call, or were killed because it had to end.
    pub workers_lost: usize,
}

/// How a call is cut into chunks: `count` times `rows` indices of an axis of length `len`, the last one perhaps fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    pub(crate) count: usize,
    pub(crate) rows: usize,
    pub(crate) len: usize,
}

impl Division {
    #[inline]
    pub(crate) fn rows_of(self, chunk: usize) -> Range<usize> {
        let start = chunk.saturating_mul(self.rows).min(self.len);
        start..start.saturating_add(self.rows).min(self.len)
    }

    /// The rows of the chunks that `wanted` picks, in ascending order, merged where they touch.
    pub(crate) fn rows_where(self, wanted: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
        let mut merged: Vec<Range<usize>> = Vec::new();
        for rows in (0..self.count).filter(|&chunk| wanted(chunk)).map(|chunk| self.rows_of(chunk)) {
            match merged.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => merged.push(rows),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_rows_are_merged_where_they_touch() {
        let division = Division { count: 5, rows: 10, len: 43 };
        assert_eq!(division.rows_where(|chunk| chunk != 2), [0..20, 30..43]);
        assert!(division.rows_where(|_| false).is_empty());
    }
}
