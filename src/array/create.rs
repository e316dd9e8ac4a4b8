//! Making arrays.
#![expect(unsafe_code, reason = "fills memory that nobody else can reach yet")]

use std::convert::Infallible;
use std::path::Path;

use bytemuck::Pod;
use ndarray::{ArrayRef, ArrayView, ArrayViewMut, Dimension, ShapeBuilder};

use super::SharedArray;
use super::core::Core;
use super::elements::{Bytes, Elements, check_element, write_fresh};
use super::fill;
use super::options::ArrayOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{self, BlockLayout, DType, trailer};
use crate::memory::{Draft, SharedMemory, Target, spare};
use crate::sys::map::Mapping;

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// An array of zeros, anonymous. `shape` is as in [`ndarray::Array::zeros`]: `(3, 4)`, or `(3, 4).f()` for Fortran order.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](ErrorKind::NoSpace) where the memory, the control group or a limit of the process has no room for it,
    /// [`InvalidSize`](ErrorKind::InvalidSize) where the product of the non-zero axes is too large for any machine,
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) for elements of no bytes or aligned to more than 4096.
    #[doc(alias = "np.zeros")]
    pub fn zeros<Sh: ShapeBuilder<Dim = D>>(shape: Sh) -> Result<Self> {
        Self::options().zeros(shape)
    }

    /// An array whose elements are all `value`, anonymous.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    #[doc(alias = "np.full")]
    pub fn from_elem<Sh: ShapeBuilder<Dim = D>>(shape: Sh, value: T) -> Result<Self> {
        Self::options().from_elem(shape, value)
    }

    /// A copy of an ndarray array or view, anonymous; in Fortran order where that is the order of `array`, else in C order.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    pub fn from_array(array: &ArrayRef<T, D>) -> Result<Self> {
        Self::options().from_array(array)
    }

    /// An array whose elements are `f` of their index, anonymous; `f` is called in logical order, the last axis fastest.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    pub fn from_shape_fn<Sh: ShapeBuilder<Dim = D>>(shape: Sh, f: impl FnMut(D::Pattern) -> T) -> Result<Self> {
        Self::options().from_shape_fn(shape, f)
    }

    /// The same, with several threads at work where that pays; `f` may be called for any index at any time, once for each.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    ///
    /// # Panics
    ///
    /// Where `f` does, with its panic.
    pub fn par_from_shape_fn<Sh>(shape: Sh, f: impl Fn(D::Pattern) -> T + Sync) -> Result<Self>
    where
        Sh: ShapeBuilder<Dim = D>,
        T: Send,
    {
        Self::options().par_from_shape_fn(shape, f)
    }

    /// An array that `fill` has filled in; it begins as zeros. Nothing is left where `fill` fails or panics.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros), and what `fill` returns.
    pub fn fill_with<Sh, E>(shape: Sh, fill: impl FnOnce(ArrayViewMut<'_, T, D>) -> Result<(), E>) -> Result<Self, E>
    where
        Sh: ShapeBuilder<Dim = D>,
        E: From<Error>,
    {
        Self::options().fill_with(shape, fill)
    }

    /// Options for an array with a name, other permissions or other pages.
    pub fn options() -> ArrayOptions<T, D> {
        ArrayOptions::new()
    }

    /// A new `.npy` file of zeros at `path`, in place: what is written to the array is in the file.
    ///
    /// The file appears under its name when it is whole. It stays when the array is dropped.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) where the path exists, [`NoSpace`](ErrorKind::NoSpace) where the disk
    /// has no room, and those of [`zeros`](Self::zeros).
    pub fn create_npy<Sh: ShapeBuilder<Dim = D>>(path: impl AsRef<Path>, shape: Sh) -> Result<Self> {
        Self::options().create_npy(path, shape)
    }
}

impl<T: Pod, D: Dimension> ArrayOptions<T, D> {
    /// See [`SharedArray::zeros`].
    ///
    /// # Errors
    ///
    /// As there, and [`AlreadyExists`](ErrorKind::AlreadyExists) or [`InvalidName`](ErrorKind::InvalidName) because of the name.
    pub fn zeros<Sh: ShapeBuilder<Dim = D>>(self, shape: Sh) -> Result<SharedArray<T, D>> {
        self.make(self.target(), shape, Before::Zeros, |_| ())
    }

    /// See [`SharedArray::from_elem`].
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    pub fn from_elem<Sh: ShapeBuilder<Dim = D>>(self, shape: Sh, value: T) -> Result<SharedArray<T, D>> {
        self.make(self.target(), shape, Before::Anything, |mut view| fill::with_value(&mut view, value))
    }

    /// See [`SharedArray::from_array`].
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    pub fn from_array(self, array: &ArrayRef<T, D>) -> Result<SharedArray<T, D>> {
        let fortran = !array.is_standard_layout() && array.t().is_standard_layout();
        self.make(self.target(), array.raw_dim().set_f(fortran), Before::Anything, |mut view| {
            fill::with_array(&mut view, array);
        })
    }

    /// See [`SharedArray::from_shape_fn`].
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    pub fn from_shape_fn<Sh: ShapeBuilder<Dim = D>>(
        self,
        shape: Sh,
        mut f: impl FnMut(D::Pattern) -> T,
    ) -> Result<SharedArray<T, D>> {
        self.make(self.target(), shape, Before::Anything, |mut view| {
            view.indexed_iter_mut().for_each(|(index, x)| *x = f(index));
        })
    }

    /// See [`SharedArray::par_from_shape_fn`].
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros).
    ///
    /// # Panics
    ///
    /// As there.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::SharedArray;
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # let name = format!("waves_{}", std::process::id());
    /// let step = 0.01;
    /// let waves = SharedArray::options().name(name).par_from_shape_fn((300, 200), |(i, j)| (step * (i * j) as f64).sin())?;
    /// assert_eq!(waves.read()?[[100, 30]], 30_f64.sin());
    /// # Ok(()) }
    /// ```
    pub fn par_from_shape_fn<Sh>(self, shape: Sh, f: impl Fn(D::Pattern) -> T + Sync) -> Result<SharedArray<T, D>>
    where
        Sh: ShapeBuilder<Dim = D>,
        T: Send,
    {
        self.make(self.target(), shape, Before::Anything, |view| fill::with_function(view, f))
    }

    /// See [`SharedArray::fill_with`]. The array gets its name only when `fill` has succeeded, so nobody ever attaches to
    /// one that is half filled.
    ///
    /// # Errors
    ///
    /// As for [`zeros`](Self::zeros), and what `fill` returns.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, SharedArray};
    ///
    /// # let name = format!("readings_{}", std::process::id());
    /// let readings = SharedArray::<f64, _>::options().name(&name).fill_with(3, |mut view| -> std::io::Result<()> {
    ///     for (element, line) in view.iter_mut().zip("1.5 2.5 x".split(' ')) {
    ///         *element = line.parse().map_err(std::io::Error::other)?;
    ///     }
    ///     Ok(())
    /// });
    /// assert!(readings.is_err());
    /// assert_eq!(ndshm::SharedMemory::attach(&name).unwrap_err().kind(), ErrorKind::NotFound);
    /// ```
    pub fn fill_with<Sh, E>(
        self,
        shape: Sh,
        fill: impl FnOnce(ArrayViewMut<'_, T, D>) -> Result<(), E>,
    ) -> Result<SharedArray<T, D>, E>
    where
        Sh: ShapeBuilder<Dim = D>,
        E: From<Error>,
    {
        match self.build(self.target(), shape, Before::Zeros, fill) {
            Ok(array) => Ok(array),
            Err(Failed::Ours(error)) => Err(error.into()),
            Err(Failed::Theirs(error)) => Err(error),
        }
    }

    /// See [`SharedArray::create_npy`].
    ///
    /// # Errors
    ///
    /// As there, and [`InvalidArgument`](ErrorKind::InvalidArgument) where a name in `/dev/shm` was set too.
    pub fn create_npy<Sh: ShapeBuilder<Dim = D>>(self, path: impl AsRef<Path>, shape: Sh) -> Result<SharedArray<T, D>> {
        if let Some(name) = &self.name {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a file has a path, not the name {name:?} in /dev/shm as well"),
            ));
        }
        self.make(Target::Path(path.as_ref().to_owned()), shape, Before::Zeros, |_| ())
    }

    /// Builds with a `fill` that cannot fail.
    fn make<Sh>(
        &self,
        target: Target,
        shape: Sh,
        before: Before,
        fill: impl FnOnce(ArrayViewMut<'_, T, D>),
    ) -> Result<SharedArray<T, D>>
    where
        Sh: ShapeBuilder<Dim = D>,
    {
        let built = self.build(target, shape, before, |view| {
            fill(view);
            Ok::<(), Infallible>(())
        });
        built.map_err(|failed| match failed {
            Failed::Ours(error) => error,
            Failed::Theirs(never) => match never {},
        })
    }

    /// Makes the block without a name, lets `fill` fill it, then publishes it.
    pub(super) fn build<Sh, E>(
        &self,
        target: Target,
        shape: Sh,
        before: Before,
        fill: impl FnOnce(ArrayViewMut<'_, T, D>) -> Result<(), E>,
    ) -> Result<SharedArray<T, D>, Failed<E>>
    where
        Sh: ShapeBuilder<Dim = D>,
    {
        self.construct(Draft::publish, target, shape, before, fill)
    }

    /// The same of an array that begins as zeros, published by `publish`.
    pub(crate) fn build_and<Sh, E>(
        &self,
        publish: impl FnOnce(Draft) -> Result<SharedMemory>,
        target: Target,
        shape: Sh,
        fill: impl FnOnce(ArrayViewMut<'_, T, D>) -> Result<(), E>,
    ) -> Result<SharedArray<T, D>, Failed<E>>
    where
        Sh: ShapeBuilder<Dim = D>,
    {
        self.construct(publish, target, shape, Before::Zeros, fill)
    }

    /// An anonymous array may get the memory of one that was dropped, which needs no publishing.
    fn construct<Sh, E>(
        &self,
        publish: impl FnOnce(Draft) -> Result<SharedMemory>,
        target: Target,
        shape: Sh,
        before: Before,
        fill: impl FnOnce(ArrayViewMut<'_, T, D>) -> Result<(), E>,
    ) -> Result<SharedArray<T, D>, Failed<E>>
    where
        Sh: ShapeBuilder<Dim = D>,
    {
        check_element::<T>()?;
        let (dim, fortran) = dim_and_order(shape)?;
        let block = BlockLayout::new(size_of::<T>(), dim.slice())?;
        let header = layout::encode_header(&DType::of::<T>(), fortran, dim.slice())?;
        let recipe = self.memory.recipe(block.total_len).filter(|_| target == Target::Anonymous);
        let fresh = match recipe.and_then(spare::take) {
            Some(memory) => Fresh::Spare(memory),
            None => Fresh::Draft(self.memory.draft(target, block.total_len)?),
        };
        let bytes = Bytes::of(fresh.mapping(), block.total_len);
        // SAFETY: a draft is mapped for writing and has no name yet, a spare block is mapped for writing and no task runs
        // that was given it, so this is the only process that can reach it, through this value alone.
        unsafe { write_fresh(bytes, 0, &header) };
        let data_end = block.data_offset + block.data_len;
        let gap = vec![0; block.trailer_offset - data_end];
        // SAFETY: as above.
        unsafe { write_fresh(bytes, data_end, &gap) };
        // SAFETY: as above.
        unsafe { write_fresh(bytes, block.trailer_offset, &trailer::encode_trailer()) };
        let elements = Elements::new(bytes, block.data_offset, dim, fortran)?;
        // SAFETY: mapped for writing for as long as `fresh` lives, which outlives the view; nobody else can reach it.
        let mut view = unsafe { elements.view_mut() };
        if before == Before::Zeros && matches!(fresh, Fresh::Spare(_)) {
            fill::with_zeros(&mut view);
        }
        fill(view).map_err(Failed::Theirs)?;
        // Publishing moves the mapping's owner, not the mapping.
        let memory = match fresh {
            Fresh::Draft(draft) => publish(draft)?,
            Fresh::Spare(memory) => memory,
        };
        Ok(SharedArray { elements, core: Core::new(memory, Some(block.trailer_offset)).reusable(recipe) })
    }
}

/// What the elements are before they are filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Zeros,
    /// All of them are going to be written, and nobody looks before that.
    Anything,
}

/// Memory that nobody else can reach.
enum Fresh {
    Draft(Draft),
    /// It holds what its last array did.
    Spare(SharedMemory),
}

impl Fresh {
    fn mapping(&self) -> &Mapping {
        match self {
            Self::Draft(draft) => draft.mapping(),
            Self::Spare(memory) => memory.mapping(),
        }
    }
}

/// Who failed when an array was filled.
pub(crate) enum Failed<E> {
    Ours(Error),
    Theirs(E),
}

impl<E> From<Error> for Failed<E> {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// Axis lengths and whether the order is Fortran's, of which ndarray's `Shape` shows only the first.
pub(super) fn dim_and_order<Sh: ShapeBuilder>(shape: Sh) -> Result<(Sh::Dim, bool)> {
    let shape = shape.into_shape_with_order();
    let dim = shape.raw_dim().clone();
    // A vector of units takes no memory whatever its length, but the length has to be one.
    let (len, _) = layout::checked_len(1, dim.slice()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidSize, format!("an array of shape {:?} is too large for any machine", dim.slice()))
    })?;
    let units = vec![(); len];
    let view = ArrayView::from_shape(shape, &units)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "this shape cannot be laid out").with_source(error))?;
    Ok((dim, !view.is_standard_layout()))
}
