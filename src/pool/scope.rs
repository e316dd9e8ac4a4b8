//! What a call is about: how it is cut into chunks, what these consist of, and which of them it runs.

use std::ops::Range;

use super::chunk::Division;
use crate::error::{Error, ErrorKind, Result};

/// What chunks consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Rows,
    Items,
    /// No argument splits: there is one chunk.
    Whole,
}

impl Unit {
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Rows | Self::Whole => "rows",
            Self::Items => "items",
        }
    }
}

/// A call's chunks.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Scope<'c> {
    pub(crate) division: Division,
    pub(crate) unit: Unit,
    /// Those that it runs, ascending; all of them where nothing is said.
    pub(crate) only: Option<&'c [usize]>,
}

impl Scope<'_> {
    /// How many chunks it runs.
    #[inline]
    pub(super) fn chunks(self) -> usize {
        self.only.map_or(self.division.count, <[usize]>::len)
    }

    /// The chunks that it does not run.
    pub(super) fn gaps(self) -> impl Iterator<Item = Range<usize>> {
        let (count, only) = (self.division.count, self.only.unwrap_or_default());
        let starts = std::iter::once(0).chain(only.iter().map(|chunk| chunk + 1));
        let ends = only.iter().copied().chain([count]);
        starts.zip(ends).filter(move |(start, end)| self.only.is_some() && start < end).map(|(start, end)| start..end)
    }

    /// The rows that it runs, in ascending order and merged where they touch.
    pub(super) fn rows(self) -> Vec<Range<usize>> {
        match self.only {
            None => self.division.rows_where(|_| true),
            Some(only) => self.division.rows_where(|chunk| only.binary_search(&chunk).is_ok()),
        }
    }
}

impl Division {
    /// The chunks that consist of just those rows.
    pub(super) fn chunks_of(self, wanted: &[Range<usize>], unit: Unit) -> Result<Vec<usize>> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        let Self { rows: step, len, .. } = self;
        let mut chunks = Vec::new();
        for Range { start, end } in wanted.iter().filter(|rows| !rows.is_empty()) {
            let name = format!("{} {start}..{end}", unit.plural());
            if *end > len {
                return wrong(format!("{name} are to run, but the call has {len}"));
            }
            let whole = start.next_multiple_of(step).min(len);
            if whole != *start || (end % step != 0 && *end != len) {
                let (first, last) = (start / step * step, end.next_multiple_of(step).min(len));
                return wrong(format!(
                    "{name} are to run, but chunks are whole or not at all: those of {step} {} that they lie in are \
                     {first}..{last}; a call that failed is cut in the same way by a pool of as many workers, or by `.rows(n)`",
                    unit.plural(),
                ));
            }
            chunks.extend(start / step..end.div_ceil(step));
        }
        if chunks.is_empty() {
            return wrong(format!(
                "no {} are to run: an error that names none is not about a call's chunks",
                unit.plural()
            ));
        }
        chunks.sort_unstable();
        chunks.dedup();
        Ok(chunks)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "rows are a list of ranges")]
mod tests {
    use super::*;

    const TENS: Division = Division { count: 5, rows: 10, len: 43 };

    fn refused(rows: &[Range<usize>]) -> String {
        let error = TENS.chunks_of(rows, Unit::Rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.to_string()
    }

    #[test]
    fn rows_name_whole_chunks_in_any_order() {
        assert_eq!(TENS.chunks_of(&[30..43, 0..20, 10..20, 7..7], Unit::Rows).unwrap(), [0, 1, 3, 4]);
    }

    #[test]
    fn rows_that_are_no_whole_chunks_are_refused_with_those_that_are() {
        for rows in [15..30, 10..25, 41..43, 0..42] {
            let range = format!("{rows:?}");
            assert!(refused(std::slice::from_ref(&rows)).starts_with(&format!("rows {range} are to run, but chunks")));
        }
        assert!(refused(&[0..10, 15..33]).contains("those of 10 rows that they lie in are 10..40;"));
        assert!(refused(&[40..44]).contains("but the call has 43"));
        assert!(refused(&[]).starts_with("no rows are to run"));
        assert!(refused(std::slice::from_ref(&(3..3))).starts_with("no rows are to run"));
    }

    #[test]
    fn what_does_not_run_lies_between_what_does() {
        let gaps =
            |only: &[usize]| Scope { division: TENS, unit: Unit::Rows, only: Some(only) }.gaps().collect::<Vec<_>>();
        assert_eq!(gaps(&[0, 3]), [1..3, 4..5]);
        assert_eq!(gaps(&[1, 2, 4]), [0..1, 3..4]);
        assert!(gaps(&[0, 1, 2, 3, 4]).is_empty());
        let all = Scope { division: TENS, unit: Unit::Rows, only: None };
        assert_eq!((all.gaps().count(), all.chunks(), all.rows()), (0, 5, vec![0..43]));
        assert_eq!(Scope { only: Some(&[0, 1, 4]), ..all }.rows(), [0..20, 40..43]);
    }
}
