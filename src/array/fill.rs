//! Filling fresh arrays, by several threads where they are large.
//!
//! Elements are plain data but need not be `Send`: what goes to other threads are their bytes.

use bytemuck::Pod;
use ndarray::{ArrayRef, ArrayViewMut, Axis, Dimension, IntoDimension};

use crate::sys::threads::share_out;

/// What a thread takes at a time, in bytes: enough that taking costs nothing, small enough that they end together.
const PIECE: usize = 1 << 20;

/// A number of elements that come to about [`PIECE`] bytes.
fn elements_of_piece<T>() -> usize {
    (PIECE / size_of::<T>()).max(1)
}

/// Every byte of every element becomes 0.
pub(super) fn with_zeros<T: Pod, D: Dimension>(view: &mut ArrayViewMut<'_, T, D>) {
    let Some(elements) = view.as_slice_memory_order_mut() else { return view.fill(T::zeroed()) };
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
    let len = bytes.len();
    share_out(bytes.chunks_mut(PIECE), len, |piece| piece.fill(0));
}

/// Every element becomes `value`.
pub(super) fn with_value<T: Pod, D: Dimension>(view: &mut ArrayViewMut<'_, T, D>, value: T) {
    let Some(elements) = view.as_slice_memory_order_mut() else { return view.fill(value) };
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
    let (len, piece) = (bytes.len(), elements_of_piece::<T>() * size_of::<T>());
    let pattern = bytemuck::bytes_of(&value).to_vec();
    share_out(bytes.chunks_mut(piece), len, |piece| {
        bytemuck::cast_slice_mut::<u8, T>(piece).fill(bytemuck::pod_read_unaligned(&pattern));
    });
}

/// Copies the elements of `array`, which has the same shape.
pub(super) fn with_array<T: Pod, D: Dimension>(view: &mut ArrayViewMut<'_, T, D>, array: &ArrayRef<T, D>) {
    let same_order = view.strides() == array.strides();
    let (Some(to), Some(from), true) = (view.as_slice_memory_order_mut(), array.as_slice_memory_order(), same_order)
    else {
        return view.assign(array);
    };
    let (to, from): (&mut [u8], &[u8]) = (bytemuck::cast_slice_mut(to), bytemuck::cast_slice(from));
    let len = to.len();
    share_out(to.chunks_mut(PIECE).zip(from.chunks(PIECE)), len, |(to, from)| to.copy_from_slice(from));
}

/// Every element becomes `f` of its index, in any order.
pub(super) fn with_function<T, D>(mut view: ArrayViewMut<'_, T, D>, f: impl Fn(D::Pattern) -> T + Sync)
where
    T: Pod + Send,
    D: Dimension,
{
    let slowest = if view.is_standard_layout() { 0 } else { view.ndim() - 1 };
    let row_len = match view.shape().get(slowest) {
        Some(&rows @ 1..) => view.len() / rows,
        // No axis, or nothing along it.
        _ => 0,
    };
    if row_len == 0 {
        return view.indexed_iter_mut().for_each(|(index, element)| *element = f(index));
    }
    let rows = (elements_of_piece::<T>() / row_len).max(1);
    let len = view.len() * size_of::<T>();
    share_out(view.axis_chunks_iter_mut(Axis(slowest), rows).enumerate(), len, |(chunk, mut part)| {
        for (index, element) in part.indexed_iter_mut() {
            let mut index = index.into_dimension();
            index[slowest] += chunk * rows;
            *element = f(index.into_pattern());
        }
    });
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, Ix0, ShapeBuilder};

    use super::*;

    fn index((i, j, k): (usize, usize, usize)) -> u64 {
        (1_000_000 * i + 1000 * j + k) as u64
    }

    #[test]
    fn a_function_gets_the_index_of_every_element_in_both_orders_and_all_sizes() {
        for shape in [(0, 3, 2), (1, 1, 1), (3, 4, 5), (200, 100, 60), (2, 900, 800), (1, 1, 2_000_000)] {
            for fortran in [false, true] {
                let mut array = Array::zeros(shape.set_f(fortran));
                with_function(array.view_mut(), index);
                assert!(array.indexed_iter().all(|(at, &element)| element == index(at)), "{shape:?} {fortran}");
            }
        }
        let mut single = Array::<u64, Ix0>::zeros(());
        with_function(single.view_mut(), |()| 7);
        assert_eq!(single.into_scalar(), 7);
    }

    #[test]
    fn values_and_arrays_arrive_whole_whatever_their_size_and_order() {
        // The size of an element does not divide that of a piece.
        for len in [0, 1, 5, 300_000, 3_000_001] {
            let mut filled = Array::from_elem(len, [0_u8; 3]);
            with_value(&mut filled.view_mut(), [1, 2, 3]);
            assert!(filled.iter().all(|element| *element == [1, 2, 3]));
        }
        for shape in [(3, 4, 5), (150, 100, 100)] {
            let source = Array::from_shape_fn(shape, index);
            for from in [source.view(), source.view().reversed_axes(), source.slice(ndarray::s![..;-1, .., ..])] {
                for fortran in [false, true] {
                    let mut copy = Array::zeros(from.raw_dim().set_f(fortran));
                    with_array(&mut copy.view_mut(), &from);
                    assert_eq!(copy, from);
                }
            }
        }
    }
}
