//! Who is just overwriting an int, float or bool by another of the same type.
//!
//! Such a write is a single word and needs no lock, only the certainty that the type stays what it is meanwhile. So a
//! *visitor* counts itself in the item's format before it stores the word, and leaves it again afterwards; who wants to
//! change the type first closes the item to new visitors (by its code) and then waits until nobody is inside. The count
//! is one byte of white space, which Python skips, behind the format: one of [`DIGITS`], the first for one visitor, the
//! last for six. Since `xxxxxxx?` has no room behind it, an item that holds a bool has the format `7x?` meanwhile, which
//! is the same to Python's `struct`.

use super::format::{BOOL, DIGITS, FLOAT, INT};

/// `xxxxxxx?` in fewer characters.
pub(super) const SHORT_BOOL: &[u8] = b"7x?";

/// The types that can be visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Int,
    Float,
    Bool,
}

impl Plain {
    pub(crate) const ALL: [Self; 3] = [Self::Int, Self::Float, Self::Bool];

    /// The format while nobody is inside.
    #[inline]
    pub(crate) fn format(self) -> u64 {
        match self {
            Self::Int => INT,
            Self::Float => FLOAT,
            Self::Bool => BOOL,
        }
    }

    /// What the count stands behind, and by how many bits.
    #[inline]
    fn stem(self) -> (u64, u32) {
        match self {
            Self::Int | Self::Float => (self.format(), 8),
            Self::Bool => (u64::from_le_bytes([SHORT_BOOL[0], SHORT_BOOL[1], SHORT_BOOL[2], 0, 0, 0, 0, 0]), 24),
        }
    }

    /// The format with one visitor.
    fn first(self) -> u64 {
        let (stem, shift) = self.stem();
        stem | u64::from(DIGITS[0]) << shift
    }

    /// How many are inside, by a format; `None` where it is not one of this type, or has other white space.
    pub(crate) fn count(self, format: u64) -> Option<usize> {
        if format == self.format() {
            return Some(0);
        }
        let (stem, shift) = self.stem();
        let digit = (format ^ stem) >> shift;
        if format ^ stem != digit << shift {
            return None;
        }
        DIGITS.iter().position(|&known| u64::from(known) == digit).map(|at| at + 1)
    }

    fn counting(self, visitors: usize) -> Option<u64> {
        let Some(at) = visitors.checked_sub(1) else { return Some(self.format()) };
        let (stem, shift) = self.stem();
        Some(stem | u64::from(*DIGITS.get(at)?) << shift)
    }

    /// The format with one visitor more; `None` where it is not one of this type, or nobody more can be counted.
    #[inline]
    pub(crate) fn enter(self, format: u64) -> Option<u64> {
        if format == self.format() {
            return Some(self.first());
        }
        self.counting(self.count(format)? + 1)
    }

    /// The format with one visitor less; `None` where it is not one of this type or says that nobody is inside, so that
    /// somebody who does not take part has written it.
    #[inline]
    pub(crate) fn leave(self, format: u64) -> Option<u64> {
        if format == self.first() {
            return Some(self.format());
        }
        self.counting(self.count(format)?.checked_sub(1)?)
    }
}

/// Whether anybody is inside, as far as the format says.
pub(crate) fn any_inside(format: u64) -> bool {
    Plain::ALL.into_iter().any(|plain| plain.count(format).is_some_and(|visitors| visitors > 0))
}
