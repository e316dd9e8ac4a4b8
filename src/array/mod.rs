//! [`SharedArray`]: an n-d array behind a reader-writer lock that spans processes.
//!
//! | file | idea |
//! |---|---|
//! | `core` | memory, lock and write mark, whatever the elements are |
//! | `control` | the words of the trailer that carry the mark |
//! | `elements` | mapped bytes become ndarray views, here and nowhere else |
//! | `options`, `create`, `fill` | making arrays |
//! | `attach`, `npy` | opening blocks and files that exist |
//! | `guard` | a locked array, as ndarray sees it |
//! | `frozen` | arrays that nobody can write any more |
//! | `chunks` | rows, as a pool hands them out |

mod attach;
mod chunks;
mod control;
mod core;
mod create;
mod elements;
mod fill;
mod frozen;
mod guard;
mod npy;
mod options;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use bytemuck::Pod;
use ndarray::Dimension;

pub use chunks::{Chunks, ChunksMut};
pub use frozen::{FreezeError, FrozenArray};
pub use guard::{ReadGuard, WriteGuard};
pub use options::ArrayOptions;

pub(crate) use self::attach::read_header;
pub(crate) use self::chunks::{Source, Split};
pub(crate) use self::core::{Core, Held};
pub(crate) use self::create::Failed;
pub(crate) use self::elements::{Bytes, Elements};

use crate::error::Result;
use crate::layout::DType;
use crate::memory::Via;
use crate::sys::lock::{Mode, Wait};

/// An n-d array in shared memory, behind a reader-writer lock that spans processes.
///
/// `T` is any [`bytemuck::Pod`] type of at least one byte, aligned to at most 4096; `D` is one of ndarray's dimension
/// types, as in [`ndarray::Array`]. The block is a `.npy` file: NumPy opens it with
/// `np.load("/dev/shm/<name>", mmap_mode="r+")`.
///
/// The elements are reached through guards, [`read`](Self::read) and [`write`](Self::write), which dereference to
/// [`ndarray::ArrayRef`]. Within one process the borrow checker excludes, between handles and processes the lock does;
/// a thread that has to write through a handle that it shares puts the handle into a [`std::sync::RwLock`].
///
/// An array without a name is anonymous memory that no other program can reach; the kernel frees it with the last
/// handle, however that ends. A named one ([`options`](Self::options)) lies in `/dev/shm` and is removed when the handle
/// that created it is dropped, unless [`keep`](Self::keep) was called; where its process was killed, by the next one of
/// the same user that creates its first named array or calls [`prune`](crate::prune).
///
/// Programs that do not take the lock, NumPy among them, are not held back by it: whoever writes from there while a
/// guard is alive breaks what [`attach`](Self::attach) asks for. Python takes the same lock so:
///
/// ```python
/// import fcntl, numpy as np
///
/// path = "/dev/shm/climate"
/// climate = np.load(path, mmap_mode="r+")  # before locking
/// with open(path, "r+b") as file:
///     fcntl.lockf(file, fcntl.LOCK_EX, 2**62, 0)  # waits for guards, and makes them wait
///     climate[0, 90, 180] = 21.5
///     climate.flush()
///     fcntl.lockf(file, fcntl.LOCK_UN, 2**62, 0)  # as closing does
/// ```
///
/// `lockf` is a POSIX lock: whenever that Python process closes *any* descriptor of the file, as
/// `np.load(path, mmap_mode="r+")` does, the lock is gone without a word, so load first and open the file once. For reading,
/// `LOCK_SH` does with a file opened `"rb"`.
///
/// # Examples
///
/// ```
/// use ndshm::SharedArray;
///
/// # fn main() -> ndshm::Result<()> {
/// let mut heights = SharedArray::<f32, _>::zeros((3, 4))?;
/// heights.write()?.row_mut(1).fill(2.5);
/// assert_eq!(heights.read()?.sum(), 10.0);
/// assert_eq!(heights.shape(), [3, 4]);
/// assert_eq!(heights.dtype().descr(), "<f4");
/// # Ok(()) }
/// ```
///
/// Elements are plain data:
///
/// ```compile_fail,E0599
/// let strings = ndshm::SharedArray::<String, _>::zeros(3);
/// ```
#[doc(alias = "SharedMemory.buf")]
#[doc(alias = "np.memmap")]
#[doc(alias = "shared_array")]
pub struct SharedArray<T, D> {
    /// Points into the mapping of `core`, which stays where it is for as long as `core` lives.
    elements: Elements<T, D>,
    core: Core,
}

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// The axis lengths.
    pub fn shape(&self) -> &[usize] {
        self.elements.dim().slice()
    }

    /// The axis lengths, as ndarray's dimension type.
    pub fn raw_dim(&self) -> D {
        self.elements.dim().clone()
    }

    /// The number of axes.
    pub fn ndim(&self) -> usize {
        self.elements.dim().ndim()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.elements.dim().size()
    }

    /// Is any axis of length 0?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of all elements in bytes; header and trailer come on top of it.
    pub fn nbytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// The element type, as NumPy writes it.
    pub fn dtype(&self) -> DType {
        DType::of::<T>()
    }

    /// Does the first axis vary fastest in memory? (Fortran order; `false` is C order, also where both are the same.)
    pub fn is_fortran(&self) -> bool {
        self.elements.is_fortran()
    }

    /// The name in `/dev/shm`, for an array that has one.
    pub fn name(&self) -> Option<&str> {
        self.core.memory().name()
    }

    /// Was this array opened read-only?
    pub fn is_read_only(&self) -> bool {
        self.core.check_writable().is_err()
    }

    /// Locks the array for reading and waits for writers of other handles and processes until it can.
    ///
    /// Any number of guards may read at a time. Anonymous arrays whose descriptor was never handed out are locked without
    /// a system call.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) where a write did not finish, [`WouldBlock`](crate::ErrorKind::WouldBlock)
    /// where this thread itself is writing the same block through another handle, [`Closed`](crate::ErrorKind::Closed) in a
    /// forked child.
    pub fn read(&self) -> Result<ReadGuard<'_, T, D>> {
        self.read_within(Wait::Forever)
    }

    /// Locks the array for reading if that is possible at once.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`WouldBlock`](crate::ErrorKind::WouldBlock) where somebody is writing or waits to.
    pub fn try_read(&self) -> Result<ReadGuard<'_, T, D>> {
        self.read_within(Wait::No)
    }

    /// Locks the array for reading, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`try_read`](Self::try_read).
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_, T, D>> {
        self.read_within(Wait::at_most(timeout))
    }

    #[inline]
    fn read_within(&self, wait: Wait<'_>) -> Result<ReadGuard<'_, T, D>> {
        let held = self.core.lock(Mode::Shared, wait, Via::Own)?;
        Ok(ReadGuard::new(&self.elements, held))
    }

    /// Locks the array for writing and waits for readers and writers of other handles and processes until it can.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`Permission`](crate::ErrorKind::Permission) where the array was opened read-only.
    pub fn write(&mut self) -> Result<WriteGuard<'_, T, D>> {
        self.write_within(Wait::Forever)
    }

    /// Locks the array for writing if that is possible at once.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), and [`WouldBlock`](crate::ErrorKind::WouldBlock) where somebody reads or writes.
    pub fn try_write(&mut self) -> Result<WriteGuard<'_, T, D>> {
        self.write_within(Wait::No)
    }

    /// Locks the array for writing, waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`try_write`](Self::try_write).
    pub fn write_timeout(&mut self, timeout: Duration) -> Result<WriteGuard<'_, T, D>> {
        self.write_within(Wait::at_most(timeout))
    }

    #[inline]
    fn write_within(&mut self, wait: Wait<'_>) -> Result<WriteGuard<'_, T, D>> {
        self.core.release_leaked();
        let held = self.core.lock(Mode::Exclusive, wait, Via::Own)?;
        Ok(WriteGuard::new(&self.elements, held))
    }

    /// Did a writer die or panic while it was writing? `false` also while somebody is writing.
    ///
    /// A block without a control trailer, such as a file that NumPy wrote, has no mark that other processes could see:
    /// there only this process's own panics poison.
    pub fn is_poisoned(&self) -> bool {
        self.core.is_poisoned()
    }

    /// Accepts the elements as they are, after a writer left them half written.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write), except that a poisoned array is none.
    pub fn clear_poison(&mut self) -> Result<()> {
        self.core.clear_poison()
    }

    /// Keeps the name of a named array when this handle is dropped: from here on somebody else removes it, with
    /// [`SharedMemory::unlink_name`](crate::SharedMemory::unlink_name) or `rm`; [`prune`](crate::prune) does not.
    pub fn keep(&mut self) {
        self.core.memory_mut().keep();
    }

    /// Removes the name now. The memory goes with the last process that has it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) where there is no such name any more, or none at all.
    pub fn unlink(&mut self) -> Result<()> {
        self.core.memory_mut().unlink()
    }

    /// A descriptor of the memory, to be sent to another process or opened by one through `/proc/<pid>/fd/<n>`.
    ///
    /// From here on others can reach the memory, so every guard takes the kernel's lock, for good. The descriptor is for
    /// [`attach_fd`](Self::attach_fd) on the other side; it is closed with the array.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the process is out of descriptors, [`Closed`](crate::ErrorKind::Closed) in a
    /// forked child.
    pub fn share_fd(&mut self) -> Result<BorrowedFd<'_>> {
        self.core.release_leaked();
        self.core.memory_mut().share_fd()
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn elements(&self) -> &Elements<T, D> {
        &self.elements
    }
}

impl<T, D: fmt::Debug> fmt::Debug for SharedArray<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray")
            .field("name", &self.core.memory().name())
            .field("elements", &self.elements)
            .finish_non_exhaustive()
    }
}
