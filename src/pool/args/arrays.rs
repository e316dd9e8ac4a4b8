//! Arrays as arguments: rows or all of it.
#![expect(unsafe_code, reason = "a task's views rest on the call's locks and on whose chunk it is")]

use std::ops::Range;

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Axis, Dimension};

use super::{Args, Cursor, MappedBlock, Sealed, mark_of, mix, out_of_step};
use crate::array::{Chunks, ChunksMut, Core, Elements, FrozenArray, SharedArray, Source};
use crate::error::Result;
use crate::pool::plan::{ArrayLeaf, BlockAccess, Plan};

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
        shape: elements.dim().slice().to_vec(),
        fortran: elements.is_fortran(),
        split: None,
    }
}

/// An axis and a range of its indices.
type Rows = (Axis, Range<usize>);

/// The array that the cursor stands at, and, where it is split, the rows of the cursor's chunk; and the block it lies in.
fn place<'a, T: Pod, D: Dimension>(
    cursor: &mut Cursor<'a>,
    writable: bool,
) -> Result<(Elements<T, D>, Option<Rows>, MappedBlock<'a>)> {
    let chunk = cursor.chunk;
    let (leaf, block) = cursor.array(writable)?;
    let rank = leaf.shape.len();
    if D::NDIM.is_some_and(|fixed| fixed != rank) {
        return Err(out_of_step());
    }
    let mut dim = D::zeros(rank);
    dim.slice_mut().copy_from_slice(&leaf.shape);
    let elements = Elements::new(block.bytes, leaf.offset, dim, leaf.fortran)?;
    let rows = leaf.split.map(|(axis, rows)| {
        let start = chunk.saturating_mul(rows);
        (Axis(axis), start..start.saturating_add(rows))
    });
    Ok((elements, rows, block))
}

impl<T, D> Sealed for ChunksMut<'_, T, D> {}
impl<T: Pod, D: Dimension> Args for ChunksMut<'_, T, D> {
    type Views<'a> = ArrayViewMut<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(1);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        let core = self.array.core();
        let split = Some((self.split.axis.index(), self.split.rows));
        plan.push_array(core, BlockAccess::Write, leaf(core, self.array.elements()), split)
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let (elements, rows, block) = place(cursor, true)?;
        let (axis, rows) = rows.ok_or_else(out_of_step)?;
        // SAFETY: mapped for `'a` by the cursor. The call holds the block's exclusive lock, no other argument of the call
        // lies in the block, chunks are disjoint ranges of rows, and this chunk is in nobody else's hands.
        let view = unsafe { elements.rows_mut(axis, rows) };
        block.ready(&view);
        Ok(view)
    }
}

impl<T, D> Sealed for Chunks<'_, T, D> {}
impl<T: Pod, D: Dimension> Args for Chunks<'_, T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(2);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        let core = self.source.core();
        let access = match self.source {
            Source::Shared(_) => BlockAccess::Read,
            Source::Frozen(_) => BlockAccess::Frozen,
        };
        let split = Some((self.split.axis.index(), self.split.rows));
        plan.push_array(core, access, leaf(core, self.source.elements()), split)
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let (elements, rows, _) = place(cursor, false)?;
        let (axis, rows) = rows.ok_or_else(out_of_step)?;
        // SAFETY: mapped for `'a` by the cursor. The call holds the block's shared lock, or nobody can write it, and no
        // argument of the call writes to it.
        Ok(unsafe { elements.rows(axis, rows) })
    }
}

impl<T, D> Sealed for &SharedArray<T, D> {}
impl<T: Pod, D: Dimension> Args for &SharedArray<T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(3);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_array(self.core(), BlockAccess::Read, leaf(self.core(), self.elements()), None)
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let (elements, ..) = place(cursor, false)?;
        // SAFETY: as for chunks.
        Ok(unsafe { elements.view() })
    }
}

impl<T, D> Sealed for &FrozenArray<T, D> {}
impl<T: Pod, D: Dimension> Args for &FrozenArray<T, D> {
    type Views<'a> = ArrayView<'a, T, D>;
    const TYPES: u64 = array_mark::<T, D>(4);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_array(self.core(), BlockAccess::Frozen, leaf(self.core(), self.elements()), None)
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let (elements, ..) = place(cursor, false)?;
        // SAFETY: mapped for `'a` by the cursor; the kernel lets nobody write.
        Ok(unsafe { elements.view() })
    }
}
