//! Arrays as arguments: rows or all of it.
#![expect(unsafe_code, reason = "a task's views rest on the call's locks and on whose chunk it is")]

use std::ops::Range;

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Axis, Dimension};
use smallvec::SmallVec;

use super::{Args, Cursor, MappedBlock, Sealed, mark_of, mix, out_of_step};
use crate::array::{Chunks, ChunksMut, Core, Elements, FrozenArray, SharedArray, Source};
use crate::error::Result;
use crate::pool::plan::{ArrayLeaf, BlockAccess, Plan};
use crate::pool::told::Recall;

const fn array_mark<T, D: Dimension>(tag: u64) -> u64 {
    let rank = match D::NDIM {
        Some(rank) => rank as u64,
        None => u64::MAX,
    };
    mix(mark_of::<T>(tag), rank)
}

fn leaf<T: Pod, D: Dimension>(core: &Core, elements: &Elements<T, D>) -> ArrayLeaf {
    ArrayLeaf {
        slot: 0,
        offset: elements.offset_in(core.bytes()),
        shape: SmallVec::from_slice(elements.dim().slice()),
        fortran: elements.is_fortran(),
        split: None,
    }
}

/// An array that a task is given, all of it or by rows.
#[derive(Debug)]
pub struct Place<'a, T, D> {
    elements: Elements<T, D>,
    /// Axis and rows a chunk, where it is split.
    split: Option<(Axis, usize)>,
    block: MappedBlock<'a>,
}

impl<'a, T: Pod, D: Dimension> Place<'a, T, D> {
    /// The array that the cursor stands at.
    fn find(cursor: &mut Cursor<'a>, writable: bool) -> Result<Self> {
        let (leaf, block) = cursor.array(writable)?;
        let rank = leaf.shape.len();
        if D::NDIM.is_some_and(|fixed| fixed != rank) || leaf.split.is_some_and(|(axis, _)| axis >= rank) {
            return Err(out_of_step());
        }
        let mut dim = D::zeros(rank);
        dim.slice_mut().copy_from_slice(&leaf.shape);
        let elements = Elements::new(block.bytes, leaf.offset, dim, leaf.fortran)?;
        let split = leaf.split.map(|(axis, rows)| (Axis(axis), rows));
        Ok(Self { elements, split, block })
    }

    /// The rows of a chunk.
    #[inline]
    fn rows(&self, chunk: usize) -> Result<(Axis, Range<usize>)> {
        let (axis, rows) = self.split.ok_or_else(out_of_step)?;
        let start = chunk.saturating_mul(rows);
        Ok((axis, start..start.saturating_add(rows)))
    }
}

impl<T, D> Sealed for ChunksMut<'_, T, D> {}
impl<T: Pod, D: Dimension> Args for ChunksMut<'_, T, D> {
    type Views<'a> = ArrayViewMut<'a, T, D>;
    type Found<'a> = Place<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(1);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        let core = self.array.core();
        let split = Some((self.split.axis.index(), self.split.rows));
        plan.push_array(core, BlockAccess::Write, leaf(core, self.array.elements()), split)
    }

    const RECALLS: bool = true;

    #[inline]
    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        recall.is_array((self.array.core(), BlockAccess::Write), self.array.elements(), Some(self.split))
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        Place::find(cursor, true)
    }

    #[inline]
    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
        let (axis, rows) = found.rows(chunk)?;
        // SAFETY: mapped for `'a` by the cursor. The call holds the block's exclusive lock, no other argument of the call
        // lies in the block, chunks are disjoint ranges of rows, and this chunk is in nobody else's hands.
        let view = unsafe { found.elements.rows_mut(axis, rows) };
        found.block.ready(&view);
        Ok(view)
    }
}

impl<T: Pod, D: Dimension> Chunks<'_, T, D> {
    #[inline]
    fn block(&self) -> (&Core, BlockAccess) {
        let access = match self.source {
            Source::Shared(_) => BlockAccess::Read,
            Source::Frozen(_) => BlockAccess::Frozen,
        };
        (self.source.core(), access)
    }
}

impl<T, D> Sealed for Chunks<'_, T, D> {}
impl<T: Pod, D: Dimension> Args for Chunks<'_, T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    type Found<'a> = Place<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(2);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        let (core, access) = self.block();
        let split = Some((self.split.axis.index(), self.split.rows));
        plan.push_array(core, access, leaf(core, self.source.elements()), split)
    }

    const RECALLS: bool = true;

    #[inline]
    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        recall.is_array(self.block(), self.source.elements(), Some(self.split))
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        Place::find(cursor, false)
    }

    #[inline]
    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
        let (axis, rows) = found.rows(chunk)?;
        // SAFETY: mapped for `'a` by the cursor. The call holds the block's shared lock, or nobody can write it, and no
        // argument of the call writes to it.
        Ok(unsafe { found.elements.rows(axis, rows) })
    }
}

impl<T, D> Sealed for &SharedArray<T, D> {}
impl<T: Pod, D: Dimension> Args for &SharedArray<T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    type Found<'a> = Place<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(3);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_array(self.core(), BlockAccess::Read, leaf(self.core(), self.elements()), None)
    }

    const RECALLS: bool = true;

    #[inline]
    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        recall.is_array((self.core(), BlockAccess::Read), self.elements(), None)
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        Place::find(cursor, false)
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, _chunk: usize) -> Result<Self::Views<'a>> {
        // SAFETY: as for chunks.
        Ok(unsafe { found.elements.view() })
    }
}

impl<T, D> Sealed for &FrozenArray<T, D> {}
impl<T: Pod, D: Dimension> Args for &FrozenArray<T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    type Found<'a> = Place<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(4);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_array(self.core(), BlockAccess::Frozen, leaf(self.core(), self.elements()), None)
    }

    const RECALLS: bool = true;

    #[inline]
    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        recall.is_array((self.core(), BlockAccess::Frozen), self.elements(), None)
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        Place::find(cursor, false)
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, _chunk: usize) -> Result<Self::Views<'a>> {
        // SAFETY: mapped for `'a` by the cursor; the kernel lets nobody write.
        Ok(unsafe { found.elements.view() })
    }
}
