//! The items of a list, one after another.

use std::iter::FusedIterator;
use std::ops::Range;

use super::{ShareableList, Value};
use crate::error::Result;

/// The items of a [`ShareableList`], each read when its turn comes: see [`ShareableList::iter`].
#[derive(Clone, Debug)]
pub struct ListIter<'a> {
    list: &'a ShareableList,
    left: Range<usize>,
}

impl<'a> ListIter<'a> {
    pub(super) fn new(list: &'a ShareableList) -> Self {
        Self { list, left: 0..list.len() }
    }
}

impl Iterator for ListIter<'_> {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left.next().map(|index| self.list.get(index))
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.left.nth(n).map(|index| self.list.get(index))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for ListIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left.next_back().map(|index| self.list.get(index))
    }
}

impl ExactSizeIterator for ListIter<'_> {}

impl FusedIterator for ListIter<'_> {}

impl<'a> IntoIterator for &'a ShareableList {
    type Item = Result<Value>;
    type IntoIter = ListIter<'a>;

    fn into_iter(self) -> ListIter<'a> {
        self.iter()
    }
}
