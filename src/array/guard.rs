//! Guards: an array that is locked, as an ndarray array.
#![expect(unsafe_code, reason = "makes views whose exclusion the lock vouches for")]

use std::fmt;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use ndarray::{ArrayBase, ArrayRef, ArrayView, ArrayViewMut, Data, Dimension};

use super::core::Held;
use super::elements::Elements;

/// A [`SharedArray`](super::SharedArray) locked for reading: dereferences to an [`ndarray::ArrayRef`], so every reading
/// method of ndarray is there. Dropping it unlocks.
///
/// A view of it cannot outlive the guard:
///
/// ```compile_fail,E0505
/// # fn main() -> ndshm::Result<()> {
/// let array = ndshm::SharedArray::<f64, _>::zeros((2, 3))?;
/// let guard = array.read()?;
/// let row = guard.row(0);
/// drop(guard);
/// println!("{row}");
/// # Ok(()) }
/// ```
#[must_use = "the array is unlocked when the guard is dropped"]
pub struct ReadGuard<'a, T, D> {
    // The guard's own layout: what `ArrayRef`'s methods do to it stays here. The view's lifetime is a lie that never
    // leaves: it is only ever lent for as long as the guard is borrowed. ndarray keeps a raw pointer inside, so that the
    // compiler assumes nothing about the elements once the lock is gone.
    view: ArrayView<'a, T, D>,
    _held: Held<'a>,
}

/// A [`SharedArray`](super::SharedArray) locked for writing: dereferences to an [`ndarray::ArrayRef`], so every method
/// of ndarray is there. Dropping it unlocks; dropping it in a panic poisons the array as well.
///
/// While it lives the array cannot be touched otherwise:
///
/// ```compile_fail,E0502
/// # fn main() -> ndshm::Result<()> {
/// let mut array = ndshm::SharedArray::<f64, _>::zeros((2, 3))?;
/// let guard = array.write()?;
/// let other = array.read()?;
/// drop(guard);
/// # Ok(()) }
/// ```
#[must_use = "the array is unlocked when the guard is dropped"]
pub struct WriteGuard<'a, T, D> {
    view: ArrayViewMut<'a, T, D>,
    _held: Held<'a>,
}

impl<'a, T: Pod, D: Dimension> ReadGuard<'a, T, D> {
    /// `held` is a lock, shared or exclusive, on the block that `elements` lie in.
    pub(super) fn new(elements: &'a Elements<T, D>, held: Held<'a>) -> Self {
        // SAFETY: the elements are mapped for as long as the array is borrowed (`'a`). Nobody writes them meanwhile: the
        // lock is held until `_held` is dropped, which is after the view (fields drop in order); other holders keep to
        // the lock by what they promised when they attached.
        let view = unsafe { elements.view() };
        Self { view, _held: held }
    }
}

impl<'a, T: Pod, D: Dimension> WriteGuard<'a, T, D> {
    /// `held` is an exclusive lock on the block that `elements` lie in, which is mapped for writing.
    pub(super) fn new(elements: &'a Elements<T, D>, held: Held<'a>) -> Self {
        // SAFETY: as for reading; exclusive, so nobody reads them either.
        let view = unsafe { elements.view_mut() };
        Self { view, _held: held }
    }
}

impl<T, D: Dimension> Deref for ReadGuard<'_, T, D> {
    type Target = ArrayRef<T, D>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

impl<T, D: Dimension> Deref for WriteGuard<'_, T, D> {
    type Target = ArrayRef<T, D>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

impl<T, D: Dimension> DerefMut for WriteGuard<'_, T, D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.view
    }
}

impl<T: fmt::Debug, D: Dimension> fmt::Debug for ReadGuard<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl<T: fmt::Display, D: Dimension> fmt::Display for ReadGuard<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl<T: fmt::Debug, D: Dimension> fmt::Debug for WriteGuard<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl<T: fmt::Display, D: Dimension> fmt::Display for WriteGuard<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

/// Guards equal what their elements equal: other guards, arrays and views of the same shape.
macro_rules! equal {
    ($($left:ident $right:ident),*) => {$(
        impl<A: PartialEq<B>, B, D: Dimension> PartialEq<$right<'_, B, D>> for $left<'_, A, D> {
            fn eq(&self, other: &$right<'_, B, D>) -> bool {
                **self == **other
            }
        }
    )*};
    ($($left:ident),*) => {$(
        impl<A: PartialEq<B>, B, D: Dimension> PartialEq<ArrayRef<B, D>> for $left<'_, A, D> {
            fn eq(&self, other: &ArrayRef<B, D>) -> bool {
                **self == *other
            }
        }

        impl<A: PartialEq<S::Elem>, S: Data, D: Dimension> PartialEq<ArrayBase<S, D>> for $left<'_, A, D> {
            fn eq(&self, other: &ArrayBase<S, D>) -> bool {
                **self == **other
            }
        }
    )*};
}

equal!(ReadGuard ReadGuard, ReadGuard WriteGuard, WriteGuard ReadGuard, WriteGuard WriteGuard);
equal!(ReadGuard, WriteGuard);
