//! [`FrozenArray`]: an array that nobody can write any more.
#![expect(unsafe_code, reason = "makes views of memory that the kernel keeps from changing")]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytemuck::Pod;
use ndarray::{ArrayView, Axis, Dimension};

use super::SharedArray;
use super::attach::describe;
use super::chunks::{Chunks, Source};
use super::core::Core;
use super::elements::Elements;
use crate::error::{Error, Result};
use crate::layout::DType;
use crate::memory::SharedMemory;

/// An n-d array that no process can write, shrink or grow any more: the kernel refuses. It needs no lock and no `unsafe`.
///
/// Made with [`SharedArray::freeze`], attached to by descriptor, cloned without copying.
///
/// # Examples
///
/// ```
/// use ndshm::{FrozenArray, SharedArray};
/// use std::os::fd::AsFd;
///
/// # fn main() -> ndshm::Result<()> {
/// let table = SharedArray::<u32, _>::from_shape_fn((2, 3), |(i, j)| (10 * i + j) as u32)?.freeze()?;
/// assert_eq!(table.view()[[1, 2]], 12);
///
/// // What another process does with a descriptor that it was sent:
/// let again = FrozenArray::<u32, ndarray::Ix2>::attach_fd(table.as_fd())?;
/// assert_eq!(again.view(), table.view());
/// # Ok(()) }
/// ```
pub struct FrozenArray<T, D> {
    inner: Arc<Inner<T, D>>,
}

struct Inner<T, D> {
    /// Invariant: they lie in the memory of `core`, whose file bears the seals against writing, shrinking and growing.
    elements: Elements<T, D>,
    core: Core,
}

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// Seals the array: from here on no process can write it.
    ///
    /// It waits, up to two seconds, for other processes to drop the mappings through which they could write; workers of
    /// this process's pools are asked to.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a named array or a file, which the kernel cannot seal,
    /// [`Permission`](crate::ErrorKind::Permission) for one that was opened read-only,
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) where another process keeps it mapped for writing,
    /// [`Poisoned`](crate::ErrorKind::Poisoned). The error holds the array, as it was.
    #[doc(alias = "F_SEAL_WRITE")]
    pub fn freeze(mut self) -> Result<FrozenArray<T, D>, FreezeError<T, D>> {
        match self.try_freeze() {
            Ok(()) => {
                let Self { elements, core } = self;
                Ok(FrozenArray { inner: Arc::new(Inner { elements, core }) })
            }
            Err(error) => {
                let array = self.core.memory().mapping().is_mapped().then(|| Box::new(self));
                Err(FreezeError { error, array })
            }
        }
    }

    fn try_freeze(&mut self) -> Result<()> {
        self.core.check_writable()?;
        self.core.freeze()
    }
}

impl<T: Pod, D: Dimension> FrozenArray<T, D> {
    /// Attaches to the frozen array behind a descriptor. The descriptor may be closed afterwards.
    ///
    /// # Errors
    ///
    /// [`Permission`](crate::ErrorKind::Permission) where the memory does not bear the seals, so that somebody might still
    /// write it; else as for [`SharedArray::attach_fd`].
    pub fn attach_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        let memory = SharedMemory::from_frozen_fd(fd)?;
        let (elements, _) = describe(&memory)?;
        Ok(Self { inner: Arc::new(Inner { elements, core: Core::new(memory, None) }) })
    }

    /// The elements.
    pub fn view(&self) -> ArrayView<'_, T, D> {
        // SAFETY: mapped for as long as `self` lives. The kernel lets nobody write, by the invariant of `inner`.
        unsafe { self.inner.elements.view() }
    }

    /// The axis lengths.
    pub fn shape(&self) -> &[usize] {
        self.inner.elements.dim().slice()
    }

    /// The axis lengths, as ndarray's dimension type.
    pub fn raw_dim(&self) -> D {
        self.inner.elements.dim().clone()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.inner.elements.dim().size()
    }

    /// Is any axis of length 0?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type, as NumPy writes it.
    pub fn dtype(&self) -> DType {
        DType::of::<T>()
    }

    /// The rows along the first axis, for a [`Pool`](crate::Pool): each task sees its own.
    pub fn chunks(&self) -> Chunks<'_, T, D> {
        Chunks::new(Source::Frozen(self), Axis(0))
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    pub(crate) fn elements(&self) -> &Elements<T, D> {
        &self.inner.elements
    }
}

impl<T, D> Clone for FrozenArray<T, D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A read-only descriptor, to be sent to other processes, which [`attach_fd`](FrozenArray::attach_fd) to it.
impl<T, D> AsFd for FrozenArray<T, D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.core.memory().fd()
    }
}

impl<T, D: fmt::Debug> fmt::Debug for FrozenArray<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenArray").field("elements", &self.inner.elements).finish_non_exhaustive()
    }
}

/// Why an array could not be frozen, together with the array.
pub struct FreezeError<T, D> {
    error: Error,
    /// Boxed, so that the error is no larger than what it is returned instead of.
    array: Option<Box<SharedArray<T, D>>>,
}

impl<T, D> FreezeError<T, D> {
    /// Why.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The array, as it was; `None` only where the kernel refused to map its memory again.
    pub fn into_array(self) -> Option<SharedArray<T, D>> {
        self.array.map(|array| *array)
    }
}

impl<T, D> From<FreezeError<T, D>> for Error {
    fn from(failed: FreezeError<T, D>) -> Self {
        failed.error
    }
}

impl<T, D> fmt::Display for FreezeError<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T, D> fmt::Debug for FreezeError<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FreezeError").field(&self.error).finish()
    }
}

impl<T, D> std::error::Error for FreezeError<T, D> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}
