//! What a task can be given.
//!
//! | file | arguments |
//! |---|---|
//! | `arrays` | `a.chunks_mut()`, `a.chunks()`, `&a` |
//! | `values` | `Param(&value)`, `Each(&items)` |
//! | `nested` | tuples, arrays and `Vec`s of arguments |
#![expect(unsafe_code, reason = "the trait's contract is what views in a task rest on")]

mod arrays;
mod nested;
mod values;

pub use values::{Each, Param};

use ndarray::{ArrayViewMut, Dimension};

use serde_bytes::ByteBuf;

use super::plan::{ArrayLeaf, Leaf, Plan};
use super::told::Recall;
use crate::array::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::map::Mapping;

/// What can be handed to the tasks of a [`Pool`](crate::Pool).
///
/// | argument | the task sees |
/// |---|---|
/// | [`a.chunks_mut()`](crate::SharedArray::chunks_mut) | its own rows of `a`, exclusively: [`ArrayViewMut<T, D>`](ndarray::ArrayViewMut) |
/// | [`a.chunks()`](crate::SharedArray::chunks) | the matching rows: [`ArrayView<T, D>`](ndarray::ArrayView) |
/// | `&a`, a [`SharedArray`](crate::SharedArray) or [`FrozenArray`](crate::FrozenArray) | all of `a`: [`ArrayView<T, D>`](ndarray::ArrayView) |
/// | [`Param(&value)`](Param) | its own copy |
/// | [`Each(&items)`](Each) | its own item, one task an item |
///
/// and tuples (up to eight), arrays and `Vec`s of these, nested. This trait is sealed.
///
/// Arguments that split come to the same number of chunks. The first of them leads: arrays as long as it are cut as it is.
/// Another length is a [`ShapeMismatch`](crate::ErrorKind::ShapeMismatch) error, unless both have their rows set with
/// `.rows(n)`, such as a mask of 21600 rows by 120 with tiles of 180 rows by 1, or the first one is [`Each`]: then an array is cut
/// into as many chunks as there are items.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be handed to the tasks of a pool",
    label = "not an argument for tasks",
    note = "give `array.chunks_mut()`, `array.chunks()`, `&array`, `Param(&value)` or `Each(&items)`, \
            or a tuple, array or `Vec` of these"
)]
pub trait Args: sealed::Sealed {
    /// What a task gets in its place.
    type Views<'a>;

    /// A mark of this type that parent and worker compare.
    #[doc(hidden)]
    const TYPES: u64;

    /// Writes the argument down for the workers.
    #[doc(hidden)]
    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()>;

    /// Can it be told without writing it down whether it is the same as before?
    #[doc(hidden)]
    const RECALLS: bool;

    /// Is it what `describe` wrote down for the last call? Where the answer is no it may as well be the same.
    #[doc(hidden)]
    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool;

    /// The argument as a worker has found it: what is the same for every chunk.
    #[doc(hidden)]
    type Found<'a>;

    /// Reads, and checks, what `describe` wrote down.
    #[doc(hidden)]
    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>>;

    /// The views of one chunk.
    ///
    /// # Safety
    ///
    /// `found` comes from a cursor that stood where `describe` of a value of this type began. Until the views are gone, which
    /// may be long before the end of `'a`, the blocks are locked as the plan says, and the chunk is in nobody else's hands.
    #[doc(hidden)]
    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>>;
}

mod sealed {
    // The compiler reports this bound beside the one on `Args`: without the same words it would speak of a private trait.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be handed to the tasks of a pool",
        label = "not an argument for tasks",
        note = "give `array.chunks_mut()`, `array.chunks()`, `&array`, `Param(&value)` or `Each(&items)`, \
                or a tuple, array or `Vec` of these"
    )]
    pub trait Sealed {}
}
use sealed::Sealed;

/// Where a worker stands in the description of a call's arguments.
#[derive(Debug)]
pub struct Cursor<'a> {
    leaves: std::slice::Iter<'a, Leaf>,
    blocks: &'a [MappedBlock<'a>],
}

/// A block as a task can reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedBlock<'a> {
    pub(crate) bytes: Bytes<'a>,
    pub(crate) writable: bool,
    /// Its mapping, of which a process has not touched all pages yet.
    pub(crate) fresh: Option<&'a Mapping>,
}

impl MappedBlock<'_> {
    /// Readies what a task is going to write, where it lies in a row.
    #[inline]
    fn ready<T, D: Dimension>(&self, rows: &ArrayViewMut<'_, T, D>) {
        if let (Some(mapping), Some(elements)) = (self.fresh, rows.as_slice_memory_order()) {
            let start = elements.as_ptr().addr() - self.bytes.start().as_ptr().addr();
            mapping.populate_ahead(start..start + size_of_val(elements));
        }
    }
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(leaves: &'a [Leaf], blocks: &'a [MappedBlock<'a>]) -> Self {
        Self { leaves: leaves.iter(), blocks }
    }

    fn array(&mut self, writable: bool) -> Result<(&'a ArrayLeaf, MappedBlock<'a>)> {
        let Some(Leaf::Array(leaf)) = self.leaves.next() else { return Err(out_of_step()) };
        match self.blocks.get(leaf.slot) {
            Some(block) if block.writable || !writable => Ok((leaf, *block)),
            _ => Err(out_of_step()),
        }
    }

    fn param(&mut self) -> Result<&'a [u8]> {
        match self.leaves.next() {
            Some(Leaf::Param(bytes)) => Ok(bytes),
            _ => Err(out_of_step()),
        }
    }

    fn items(&mut self) -> Result<&'a [ByteBuf]> {
        match self.leaves.next() {
            Some(Leaf::Each(items)) => Ok(items),
            _ => Err(out_of_step()),
        }
    }

    fn count(&mut self) -> Result<usize> {
        match self.leaves.next() {
            Some(Leaf::Many(count)) => Ok(*count),
            _ => Err(out_of_step()),
        }
    }
}

/// Not reached while parent and worker run the same program, which both check.
#[cold]
fn out_of_step() -> Error {
    Error::new(ErrorKind::Layout, "the arguments that the worker was sent are not those that its task takes")
}

/// Mixes a number into the mark of a type (FNV-1a over its bytes).
pub(crate) const fn mix(mark: u64, number: u64) -> u64 {
    let bytes = number.to_le_bytes();
    let mut mark = mark;
    let mut i = 0;
    while i < bytes.len() {
        mark = (mark ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    mark
}

/// The mark of a type with that tag, size and alignment.
pub(crate) const fn mark_of<T>(tag: u64) -> u64 {
    mix(mix(mix(0xcbf2_9ce4_8422_2325, tag), size_of::<T>() as u64), align_of::<T>() as u64)
}
