//! What can be given to a manager.

use std::os::fd::{AsFd, BorrowedFd};

use bytemuck::Pod;
use ndarray::Dimension;

use super::protocol::Kind;
use crate::array::{FrozenArray, SharedArray};
use crate::error::Result;
use crate::list::ShareableList;
use crate::memory::SharedMemory;

/// What [`publish`](super::SharedMemoryManager::publish) takes: a `&mut SharedArray`, `&FrozenArray`, `&mut ShareableList`
/// or `&mut SharedMemory`. What others may write is given by `&mut`: from then on its locks are the kernel's. This trait is
/// sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published by a manager",
    label = "not a block that a manager can hold",
    note = "give a `&mut SharedArray`, `&FrozenArray`, `&mut ShareableList` or `&mut SharedMemory`"
)]
pub trait Publish: sealed::Sealed {
    /// Gives a descriptor for other processes; what is behind it counts as theirs too from then on.
    #[doc(hidden)]
    fn give<R>(self, give: impl FnOnce(Kind, BorrowedFd<'_>) -> Result<R>) -> Result<R>;
}

mod sealed {
    // The compiler reports this bound beside the one on `Publish`: see there.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be published by a manager",
        label = "not a block that a manager can hold",
        note = "give a `&mut SharedArray`, `&FrozenArray`, `&mut ShareableList` or `&mut SharedMemory`"
    )]
    pub trait Sealed {}
}

impl<T: Pod, D: Dimension> sealed::Sealed for &mut SharedArray<T, D> {}
impl<T: Pod, D: Dimension> sealed::Sealed for &FrozenArray<T, D> {}
impl sealed::Sealed for &mut ShareableList {}
impl sealed::Sealed for &mut SharedMemory {}

impl<T: Pod, D: Dimension> Publish for &mut SharedArray<T, D> {
    fn give<R>(self, give: impl FnOnce(Kind, BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        give(Kind::Array, self.share_fd()?)
    }
}

impl<T: Pod, D: Dimension> Publish for &FrozenArray<T, D> {
    fn give<R>(self, give: impl FnOnce(Kind, BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        give(Kind::Array, self.as_fd())
    }
}

impl Publish for &mut ShareableList {
    fn give<R>(self, give: impl FnOnce(Kind, BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        give(Kind::List, self.shm_mut().share_fd()?)
    }
}

impl Publish for &mut SharedMemory {
    fn give<R>(self, give: impl FnOnce(Kind, BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        give(Kind::Memory, self.share_fd()?)
    }
}
