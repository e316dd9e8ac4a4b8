//! Who runs which chunks of a call.

use serde::{Deserialize, Serialize};

/// Which workers run which chunks of a call; see [`Call::schedule`](crate::Call::schedule).
///
/// Either way a worker begins with a share of its own, one run of chunks that lie next to each other, as long as the
/// others' to within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Schedule {
    /// Workers that are done with their own share help the others, so that uneven work evens out.
    #[default]
    Dynamic,
    /// Each worker runs its own share and nothing else, so that in every call with as many chunks the same worker has the
    /// same rows, while it lives.
    ///
    /// For machines with several NUMA nodes, where memory comes from the node of the processor that touches it first:
    ///
    /// ```standalone_crate
    /// use ndshm::{Pool, Reserve, Schedule, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(2).pin(true).build()?;
    ///     let mut field = SharedArray::<f64, _>::options().reserve(Reserve::Lazily).zeros((1000, 1000))?;
    ///     // Each worker touches its own rows first, and has them near it …
    ///     pool.call().schedule(Schedule::Static).for_each(field.chunks_mut(), |mut rows, _| rows.fill(1.0))?;
    ///     // … from here on.
    ///     pool.call().schedule(Schedule::Static).for_each(field.chunks_mut(), |mut rows, _| rows *= 2.0)?;
    ///     assert_eq!(field.read()?.sum(), 2e6);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Where a worker dies the one in its place goes on with its share. Only chunks that would be left over otherwise, such as
    /// those that run again by [`retries`](crate::Call::retries), and those of a call of
    /// [`only_rows`](crate::Call::only_rows) go to whoever is free.
    Static,
}
