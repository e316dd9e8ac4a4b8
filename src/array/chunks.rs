//! Rows of an array, as a pool hands them out.

use std::fmt;

use bytemuck::Pod;
use ndarray::{Axis, Dimension};

use super::core::Core;
use super::elements::Elements;
use super::{FrozenArray, SharedArray};

/// The rows of an array for reading, one chunk of them a task: see [`Pool`](crate::Pool).
#[derive(Debug)]
#[must_use = "chunks do nothing until they are given to a pool"]
pub struct Chunks<'a, T, D> {
    pub(crate) source: Source<'a, T, D>,
    pub(crate) split: Split,
}

/// The rows of an array for writing, one chunk of them a task, exclusively: see [`Pool`](crate::Pool).
///
/// The pool does not get an array that somebody looks at:
///
/// ```compile_fail,E0502
/// # fn main() -> ndshm::Result<()> {
/// let mut array = ndshm::SharedArray::<f64, _>::zeros((8, 3))?;
/// let pool = ndshm::Pool::serial();
/// let guard = array.read()?;
/// pool.for_each((array.chunks_mut(),), |(mut rows,), _| rows.fill(1.0))?;
/// drop(guard);
/// # Ok(()) }
/// ```
///
/// And nobody looks at an array that the pool has, through another argument or in a callback:
///
/// ```compile_fail,E0502
/// # fn main() -> ndshm::Result<()> {
/// let mut array = ndshm::SharedArray::<f64, _>::zeros((8, 3))?;
/// let pool = ndshm::Pool::serial();
/// pool.for_each((array.chunks_mut(), &array), |(mut rows, all), _| rows.fill(all.sum()))?;
/// # Ok(()) }
/// ```
///
/// ```compile_fail,E0502
/// # fn main() -> ndshm::Result<()> {
/// let mut array = ndshm::SharedArray::<f64, _>::zeros((8, 3))?;
/// let pool = ndshm::Pool::serial();
/// let call = pool.call().progress(|_| println!("{}", array.read().unwrap()[[0, 0]]));
/// call.for_each(array.chunks_mut(), |mut rows, _| rows.fill(1.0))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "chunks do nothing until they are given to a pool"]
pub struct ChunksMut<'a, T, D> {
    pub(crate) array: &'a mut SharedArray<T, D>,
    pub(crate) split: Split,
}

/// Along which axis an array is cut, and into pieces of how many indices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) axis: Axis,
    pub(crate) rows: Option<usize>,
}

/// Where rows for reading come from.
pub(crate) enum Source<'a, T, D> {
    Shared(&'a SharedArray<T, D>),
    Frozen(&'a FrozenArray<T, D>),
}

impl<T: Pod, D: Dimension> Source<'_, T, D> {
    pub(crate) fn core(&self) -> &Core {
        match self {
            Self::Shared(array) => array.core(),
            Self::Frozen(array) => array.core(),
        }
    }

    pub(crate) fn elements(&self) -> &Elements<T, D> {
        match self {
            Self::Shared(array) => array.elements(),
            Self::Frozen(array) => array.elements(),
        }
    }
}

impl<T, D> fmt::Debug for Source<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared(_) => "SharedArray",
            Self::Frozen(_) => "FrozenArray",
        })
    }
}

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// The rows along the first axis for reading, for a [`Pool`](crate::Pool): each task sees its own.
    pub fn chunks(&self) -> Chunks<'_, T, D> {
        Chunks::new(Source::Shared(self), Axis(0))
    }

    /// The rows along the first axis for writing, for a [`Pool`](crate::Pool): each task has its own, exclusively.
    pub fn chunks_mut(&mut self) -> ChunksMut<'_, T, D> {
        self.core.release_leaked();
        ChunksMut { array: self, split: Split { axis: Axis(0), rows: None } }
    }
}

impl<'a, T, D> Chunks<'a, T, D> {
    pub(crate) fn new(source: Source<'a, T, D>, axis: Axis) -> Self {
        Self { source, split: Split { axis, rows: None } }
    }

    /// So many rows a chunk, the last one perhaps fewer.
    ///
    /// Without this an array is cut as the call's first argument that splits is: by default into 8 chunks a worker, and one
    /// chunk a row where it has fewer rows. Results, and sums over chunks, then depend on the machine; with it they do not.
    /// Arrays of different lengths go together only where both have their rows set.
    pub fn rows(mut self, rows: usize) -> Self {
        self.split.rows = Some(rows);
        self
    }

    /// Chunks along `axis` instead of the first one; its indices are then the rows.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndarray::Axis;
    /// use ndshm::{Pool, SharedArray};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let table = SharedArray::<u32, _>::from_shape_fn((2, 6), |(i, j)| (10 * i + j) as u32)?;
    /// let columns = table.chunks().axis(Axis(1)).rows(3);
    /// let firsts = Pool::serial().map(columns, |part, chunk| (part.dim(), part[[0, 0]], chunk.rows()))?;
    /// assert_eq!(firsts, [((2, 3), 0, 0..3), ((2, 3), 3, 3..6)]);
    /// # Ok(()) }
    /// ```
    pub fn axis(mut self, axis: Axis) -> Self {
        self.split.axis = axis;
        self
    }
}

impl<T, D> ChunksMut<'_, T, D> {
    /// So many rows a chunk, the last one perhaps fewer.
    ///
    /// Without this an array is cut as the call's first argument that splits is: by default into 8 chunks a worker, and one
    /// chunk a row where it has fewer rows. Results, and sums over chunks, then depend on the machine; with it they do not.
    /// Arrays of different lengths go together only where both have their rows set.
    pub fn rows(mut self, rows: usize) -> Self {
        self.split.rows = Some(rows);
        self
    }

    /// Chunks along `axis` instead of the first one; its indices are then the rows.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndarray::Axis;
    /// use ndshm::{Pool, SharedArray};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let mut table = SharedArray::<u32, _>::zeros((2, 6))?;
    /// let columns = table.chunks_mut().axis(Axis(1)).rows(3);
    /// Pool::serial().for_each(columns, |mut part, chunk| part.fill(chunk.index() as u32))?;
    /// assert_eq!(table.read()?.row(1).to_vec(), [0, 0, 0, 1, 1, 1]);
    /// # Ok(()) }
    /// ```
    pub fn axis(mut self, axis: Axis) -> Self {
        self.split.axis = axis;
        self
    }
}
