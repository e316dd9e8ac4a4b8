//! What a task is told about its share, and a caller about how far a call is.

use std::fmt;
use std::ops::Range;
use std::sync::Weak;

use super::cancel::Stop;
use super::worker::ending;

/// One task's share of a call.
#[derive(Clone)]
pub struct Chunk {
    index: usize,
    count: usize,
    rows: Range<usize>,
    ending: Ending,
}

/// Where it stands whether a call is to end, for its tasks to ask.
#[derive(Clone)]
pub(crate) enum Ending {
    /// On the page of the pool that this process is a worker of, under the call's number.
    OnPage(u64),
    /// In what may end a call that runs in this process, for as long as it does; nowhere where nothing can end it.
    Here(Weak<Stop>),
}

impl Chunk {
    /// No chunk yet, but for [`go_to`](Self::go_to): what is the same for all chunks of a call is written once.
    #[inline]
    pub(crate) fn of_call(division: Division, ending: Ending) -> Self {
        Self { index: 0, count: division.count, rows: 0..0, ending }
    }

    #[inline]
    pub(crate) fn go_to(&mut self, index: usize, division: Division) {
        (self.index, self.rows) = (index, division.rows_of(index));
    }

    /// The same for the chunks of another call that is cut in the same way.
    #[inline]
    pub(crate) fn go_to_call(&mut self, ending: Ending) {
        self.ending = ending;
    }

    /// Which chunk of the call this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many chunks the call has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows of this chunk: indices along the axis that the call's first splitting argument is split on, or the number of
    /// its item where that is [`Each`](super::Each). `0..1` where no argument splits.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Is the call to end: since its [deadline](super::Call::deadline) is over, a [token](super::CancelToken) or Ctrl-C
    /// has cancelled it, or another chunk has failed?
    ///
    /// For tasks that take long to ask now and then, also from threads of their own, so that they end in good time. Else
    /// they are killed after the call's [grace](super::Call::grace), or hold up the return of an error. To ask costs about
    /// as much as to read an atomic integer.
    ///
    /// **A chunk whose task was told `true` is not finished, whatever the task does then**: its rows are among
    /// [`Error::rows`](crate::Error::rows), and the arrays that were lent for writing are poisoned, as its rows may be half
    /// written. A task that leaves them in order says so by an error, with [`try_map`](super::Pool::try_map): then they are
    /// not poisoned. The call's error is what made it end, and not that of a task which was told to. Who finishes its rows
    /// in any case does not ask.
    ///
    /// In [`Pool::serial`](super::Pool::serial) this looks at the deadline, the tokens and Ctrl-C themselves. When the task
    /// is over, the answer to who has kept a clone of its chunk means nothing. A child that a task in a worker forks is
    /// always told `false`.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use std::time::Duration;
    ///
    /// use ndshm::{ErrorKind, Pool, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(1).build()?;
    ///     let mut steps = SharedArray::<u64, _>::zeros(1)?;
    ///     let call = pool.call().deadline(Duration::from_millis(500)).grace(Duration::MAX);
    ///     let late = call.try_map(steps.chunks_mut(), |mut steps, chunk| {
    ///         while !chunk.is_cancelled() {
    ///             steps += 1; // one whole step
    ///         }
    ///         Err::<(), _>("stopped between two steps")
    ///     });
    ///     let error = late.unwrap_err();
    ///     assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, &[0..1][..]));
    ///     assert!(steps.read()?[0] > 0); // not poisoned
    ///     Ok(())
    /// }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        match &self.ending {
            Ending::OnPage(call) => ending::tell(*call),
            Ending::Here(stop) => stop.upgrade().is_some_and(|stop| stop.tell()),
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("index", &self.index)
            .field("count", &self.count)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Those of the same rows are alike, whichever call they belong to.
impl PartialEq for Chunk {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.count, &self.rows) == (other.index, other.count, &other.rows)
    }
}

impl Eq for Chunk {}

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
