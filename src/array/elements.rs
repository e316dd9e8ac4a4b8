//! Where an array's elements lie: the one place that turns mapped bytes into ndarray views.
#![expect(unsafe_code, reason = "builds views over mapped memory")]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Axis, Dimension, RawArrayView, RawArrayViewMut, ShapeBuilder, Slice};

use crate::error::{Error, ErrorKind, Result};
use crate::layout;
use crate::sys::map::Mapping;

/// A range of bytes that is mapped for as long as `'a`, by whoever made this. What lies in it may change at any time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a> {
    start: NonNull<u8>,
    len: usize,
    mapped: PhantomData<&'a Cell<u8>>,
}

impl<'a> Bytes<'a> {
    /// The first `len` bytes of a mapping.
    ///
    /// # Panics
    /// Where the mapping is shorter.
    #[inline]
    pub(crate) fn of(mapping: &'a Mapping, len: usize) -> Self {
        assert!(len <= mapping.len(), "a block of {len} bytes is mapped whole");
        Self { start: mapping.ptr(), len, mapped: PhantomData }
    }

    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// The elements of an array: an aligned pointer, the axis lengths and the order in memory.
///
/// Invariant, checked by [`Elements::new`] and by nothing after it: all elements of `dim` lie within the bytes given
/// there, `start` is aligned for `T`, and the product of the non-zero axes times the size of `T` is at most
/// `isize::MAX`. How long the bytes live and who may touch them is the caller's to know; hence raw pointers here, and
/// `unsafe` on everything that makes a view.
pub(crate) struct Elements<T, D> {
    start: NonNull<T>,
    dim: D,
    /// `false` where the order is C's as well.
    fortran: bool,
}

// SAFETY: an address, a shape and an order; views of it are made under the rules of `view` and `view_mut`, and give out
// references or values of `T`, which may go to other threads where `T` may.
unsafe impl<T: Send, D: Send> Send for Elements<T, D> {}
// SAFETY: as above; `&Elements` leads to `&T` in several threads, hence `T: Sync`.
unsafe impl<T: Send + Sync, D: Sync> Sync for Elements<T, D> {}

impl<T, D: fmt::Debug> fmt::Debug for Elements<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elements")
            .field("type", &std::any::type_name::<T>())
            .field("shape", &self.dim)
            .field("fortran", &self.fortran)
            .finish_non_exhaustive()
    }
}

/// Refuses element types that no block can hold.
pub(crate) fn check_element<T: Pod>() -> Result<()> {
    let name = std::any::type_name::<T>();
    if size_of::<T>() == 0 {
        return Err(Error::new(ErrorKind::TypeMismatch, format!("elements of type {name} have no bytes to share")));
    }
    if align_of::<T>() > layout::DATA_OFFSET {
        return Err(Error::new(
            ErrorKind::TypeMismatch,
            format!(
                "elements of type {name} are aligned to {} bytes; a block holds at most {}",
                align_of::<T>(),
                layout::DATA_OFFSET
            ),
        ));
    }
    Ok(())
}

impl<T: Pod, D: Dimension> Elements<T, D> {
    /// The elements of shape `dim` that start `offset` bytes into `bytes`.
    #[inline]
    pub(crate) fn new(bytes: Bytes<'_>, offset: usize, dim: D, fortran: bool) -> Result<Self> {
        check_element::<T>()?;
        let end = layout::checked_len(size_of::<T>(), dim.slice()).and_then(|(_, len)| len.checked_add(offset));
        if end.is_none_or(|end| end > bytes.len) {
            return Err(Error::new(
                ErrorKind::InvalidSize,
                format!(
                    "an array of shape {:?} with {} bytes an element does not fit at offset {offset} of {} bytes",
                    dim.slice(),
                    size_of::<T>(),
                    bytes.len
                ),
            ));
        }
        // SAFETY: offset <= end <= bytes.len, so the result is inside the mapped range or one past its end.
        let start = unsafe { bytes.start.add(offset) }.cast::<T>();
        if !start.is_aligned() {
            return Err(Error::new(
                ErrorKind::Layout,
                format!(
                    "the elements start at byte {offset}, but {} has to be aligned to {} bytes",
                    std::any::type_name::<T>(),
                    align_of::<T>()
                ),
            ));
        }
        // A header may say either of an array that is in both orders.
        let one_order = dim.slice().iter().filter(|&&axis| axis != 1).count() > 1 && dim.size() > 0;
        Ok(Self { start, dim, fortran: fortran && one_order })
    }

    /// Where the elements begin, in bytes from the start of the block that they lie in.
    #[inline]
    pub(crate) fn offset_in(&self, block: Bytes<'_>) -> usize {
        self.start.as_ptr().addr() - block.start.as_ptr().addr()
    }

    #[inline]
    pub(crate) fn dim(&self) -> &D {
        &self.dim
    }

    #[inline]
    pub(crate) fn is_fortran(&self) -> bool {
        self.fortran
    }

    fn raw(&self) -> RawArrayView<T, D> {
        // SAFETY: the type's invariant is what is asked for: a non-null pointer and a shape that does not overflow, with
        // the strides of a contiguous array.
        unsafe { RawArrayView::from_shape_ptr(self.dim.clone().set_f(self.fortran), self.start.as_ptr()) }
    }

    fn raw_mut(&self) -> RawArrayViewMut<T, D> {
        // SAFETY: as in `raw`; contiguous strides do not overlap.
        unsafe { RawArrayViewMut::from_shape_ptr(self.dim.clone().set_f(self.fortran), self.start.as_ptr()) }
    }

    /// All elements.
    ///
    /// # Safety
    /// For as long as `'a` the bytes are mapped and nobody, in any process, writes to them.
    pub(crate) unsafe fn view<'a>(&self) -> ArrayView<'a, T, D> {
        // SAFETY: alignment and bounds by the invariant, any bytes are a `T` because it is `Pod`, the rest by the caller.
        unsafe { self.raw().deref_into_view() }
    }

    /// All elements, for writing.
    ///
    /// # Safety
    /// For as long as `'a` the bytes are mapped for writing and nobody else, in any process, reads or writes them.
    pub(crate) unsafe fn view_mut<'a>(&self) -> ArrayViewMut<'a, T, D> {
        // SAFETY: as in `view`.
        unsafe { self.raw_mut().deref_into_view_mut() }
    }

    /// The elements whose index along `axis` lies in `range`, which is clipped to the axis.
    ///
    /// # Safety
    /// As for [`view`](Self::view), for those elements.
    ///
    /// # Panics
    /// Where the array has no such axis.
    pub(crate) unsafe fn rows<'a>(&self, axis: Axis, range: Range<usize>) -> ArrayView<'a, T, D> {
        let raw = if let Some(part) = self.part(axis, &range) {
            part.raw()
        } else {
            let mut raw = self.raw();
            raw.slice_axis_inplace(axis, self.clip(axis, &range));
            raw
        };
        // SAFETY: slicing keeps within the bounds; the rest as in `view`.
        unsafe { raw.deref_into_view() }
    }

    /// The elements whose index along `axis` lies in `range`, which is clipped to the axis, for writing.
    ///
    /// # Safety
    /// As for [`view_mut`](Self::view_mut), for those elements: disjoint ranges of one array may be had at a time.
    ///
    /// # Panics
    /// Where the array has no such axis.
    pub(crate) unsafe fn rows_mut<'a>(&self, axis: Axis, range: Range<usize>) -> ArrayViewMut<'a, T, D> {
        let raw = if let Some(part) = self.part(axis, &range) {
            part.raw_mut()
        } else {
            let mut raw = self.raw_mut();
            raw.slice_axis_inplace(axis, self.clip(axis, &range));
            raw
        };
        // SAFETY: as in `rows`; a raw view was sliced, so no reference to elements outside the range ever existed.
        unsafe { raw.deref_into_view_mut() }
    }

    /// The elements whose index along `axis` lies in `range`, clipped, where they lie one after another: along the axis whose
    /// index changes last as one walks through memory. Views of it are made in a few instructions.
    #[inline]
    fn part(&self, axis: Axis, range: &Range<usize>) -> Option<Self> {
        let last = if self.fortran { self.dim.ndim() - 1 } else { 0 };
        if axis.index() != last {
            return None;
        }
        let mut dim = self.dim.clone();
        let lengths = dim.slice_mut();
        let end = range.end.min(lengths[last]);
        let begin = range.start.min(end);
        // Elements a row. No overflow, as the product of what is not 0 does not.
        lengths[last] = 1;
        let row: usize = lengths.iter().product();
        lengths[last] = end - begin;
        // SAFETY: `begin` rows are within the elements, which are within the bytes by the invariant.
        let start = unsafe { self.start.add(begin * row) };
        // The invariant: the elements are some of those of `self`, and no axis is longer.
        Some(Self { start, dim, fortran: self.fortran })
    }

    fn clip(&self, axis: Axis, range: &Range<usize>) -> Slice {
        let len = self.dim.slice()[axis.index()];
        let end = range.end.min(len);
        let start = range.start.min(end);
        Slice::new(start.cast_signed(), Some(end.cast_signed()), 1)
    }
}

/// Copies `content` to the given offset of fresh memory.
///
/// # Safety
/// The bytes are mapped for writing and nobody else can reach them yet.
///
/// # Panics
/// Where the content does not fit.
pub(crate) unsafe fn write_fresh(bytes: Bytes<'_>, offset: usize, content: &[u8]) {
    assert!(offset <= bytes.len && content.len() <= bytes.len - offset, "content lies within the block");
    // SAFETY: offset is within the mapped range, as asserted.
    let target = unsafe { bytes.start.add(offset) };
    // SAFETY: the target range is mapped for writing and not shared with anybody, so it cannot overlap `content`.
    unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), target.as_ptr(), content.len()) };
}

#[cfg(test)]
mod tests {
    use ndarray::IxDyn;

    use super::*;
    use crate::sys::map::Access;
    use crate::sys::memfd;

    #[test]
    fn rows_are_those_of_the_whole_whatever_the_axis_and_the_order() {
        let fd = memfd::create().unwrap();
        crate::sys::file::set_size(std::os::fd::AsFd::as_fd(&fd), 4096).unwrap();
        let mapping = Mapping::new(std::os::fd::AsFd::as_fd(&fd), 4096, Access::ReadWrite, false, false).unwrap();
        for shape in [&[7][..], &[4, 3], &[1, 5], &[5, 1], &[0, 3], &[3, 0], &[2, 3, 4], &[2, 0, 4]] {
            for (fortran, axis) in
                [false, true].into_iter().flat_map(|order| (0..shape.len()).map(move |axis| (order, axis)))
            {
                let elements =
                    Elements::<u16, IxDyn>::new(Bytes::of(&mapping, 4096), 64, IxDyn(shape), fortran).unwrap();
                // SAFETY: mapped, and nobody else has it.
                let whole = unsafe { elements.view() };
                for range in [0..0, 0..1, 1..3, 2..100, 0..shape[axis], 50..60] {
                    let end = range.end.min(shape[axis]);
                    let expected = whole.slice_axis(Axis(axis), Slice::from(range.start.min(end)..end));
                    // SAFETY: as above.
                    let rows = unsafe { elements.rows(Axis(axis), range.clone()) };
                    assert_eq!(rows.shape(), expected.shape(), "{shape:?} {fortran} {axis} {range:?}");
                    let places =
                        |view: &ArrayView<'_, u16, IxDyn>| view.iter().map(std::ptr::from_ref).collect::<Vec<_>>();
                    assert_eq!(places(&rows), places(&expected), "{shape:?} {fortran} {axis} {range:?}");
                }
            }
        }
    }
}
