//! Opening blocks that exist.
#![expect(unsafe_code, reason = "attaching asks the caller to vouch for the other writers")]

use std::os::fd::BorrowedFd;
use std::path::Path;

use bytemuck::Pod;
use ndarray::{Dimension, IxDyn, ShapeBuilder};

use super::SharedArray;
use super::core::Core;
use super::create::dim_and_order;
use super::elements::{Bytes, Elements};
use super::options::ArrayOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{self, NpyHeader, trailer};
use crate::memory::SharedMemory;
use crate::sys::map::Access;

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// Attaches to the named array `name`, for reading and writing.
    ///
    /// The element type and, unless `D` is [`IxDyn`](type@ndarray::IxDyn), the number of axes have to be those of the
    /// block. The name stays with its owner: dropping this handle removes nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound), [`Permission`](ErrorKind::Permission), [`InvalidName`](ErrorKind::InvalidName);
    /// [`Layout`](ErrorKind::Layout) where the block is no `.npy` file or a damaged one;
    /// [`TypeMismatch`](ErrorKind::TypeMismatch) and [`ShapeMismatch`](ErrorKind::ShapeMismatch) name what was found and what
    /// was expected.
    ///
    /// # Safety
    ///
    /// For as long as the handle lives, every process that writes to the block does so under its lock, which is what this
    /// crate's guards and pools do, or while no guard is alive; and nobody cuts the block short.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::SharedArray;
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # let name = format!("steps_{}", std::process::id());
    /// let steps = SharedArray::<i64, _>::options().name(&name).from_shape_fn(4, |i| i as i64)?;
    /// // SAFETY: only this program knows the name, and it writes through guards alone.
    /// let again = unsafe { SharedArray::<i64, ndarray::Ix1>::attach(&name)? };
    /// assert_eq!(again.read()?.to_vec(), [0, 1, 2, 3]);
    /// # drop(steps);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "SharedMemory")]
    pub unsafe fn attach(name: &str) -> Result<Self> {
        // SAFETY: the caller vouches for what this one asks for, which is the same.
        unsafe { Self::options().attach(name) }
    }

    /// Attaches to the named array `name` for reading only: it is mapped so that this process cannot write to it.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach); write permission is not needed.
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn attach_read_only(name: &str) -> Result<Self> {
        // SAFETY: as above.
        unsafe { Self::options().attach_read_only(name) }
    }

    /// Attaches to the array behind a descriptor, such as [`share_fd`](Self::share_fd) of another process gave, received
    /// over a socket or opened at `/proc/<pid>/fd/<n>`. The descriptor is opened anew, so that this handle and its sender
    /// exclude each other, and may be closed afterwards.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach), and [`Unsupported`](ErrorKind::Unsupported) without `/proc`.
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn attach_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        Self::open(SharedMemory::from_fd(fd, Access::ReadWrite)?)
    }

    /// Attaches to the array behind a descriptor for reading only, see [`attach_fd`](Self::attach_fd).
    ///
    /// # Errors
    ///
    /// As for [`attach_fd`](Self::attach_fd); write permission is not needed.
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn attach_fd_read_only(fd: BorrowedFd<'_>) -> Result<Self> {
        Self::open(SharedMemory::from_fd(fd, Access::ReadOnly)?)
    }

    /// Opens a `.npy` file in place: what is written to the array is in the file. The format's versions 1.0, 2.0 and 3.0
    /// open; the elements have to be aligned in the file, as NumPy writes them.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach), for the path, and [`Unsupported`](ErrorKind::Unsupported) where guards are taken on
    /// a file system without locks.
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn open_npy(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(SharedMemory::open_path(path.as_ref(), Access::ReadWrite)?)
    }

    /// Opens a `.npy` file in place for reading only, see [`open_npy`](Self::open_npy).
    ///
    /// # Errors
    ///
    /// As for [`open_npy`](Self::open_npy); write permission is not needed.
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn open_npy_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(SharedMemory::open_path(path.as_ref(), Access::ReadOnly)?)
    }

    /// Views memory without a header as an array, such as NumPy makes with `np.ndarray(shape, dtype, buffer=shm.buf)`:
    /// `shape` elements, C order or `.f()`, from byte `offset` on.
    ///
    /// There is no trailer, so a writer that dies in another process leaves no mark. The handle keeps what the memory
    /// owned: its name is removed as before.
    ///
    /// # Errors
    ///
    /// [`InvalidSize`](ErrorKind::InvalidSize) where the elements do not fit into the memory, [`Layout`](ErrorKind::Layout)
    /// where `offset` is not a multiple of the element's alignment, [`TypeMismatch`](ErrorKind::TypeMismatch) as for
    /// [`zeros`](Self::zeros).
    ///
    /// # Safety
    ///
    /// As for [`attach`](Self::attach).
    pub unsafe fn from_memory<Sh>(memory: SharedMemory, offset: usize, shape: Sh) -> Result<Self>
    where
        Sh: ShapeBuilder<Dim = D>,
    {
        let (dim, fortran) = dim_and_order(shape)?;
        let elements = Elements::new(Bytes::of(memory.mapping(), memory.size()), offset, dim, fortran)?;
        Ok(Self { elements, core: Core::new(memory, None) })
    }

    /// The array in a block; attaching to that asks for what [`attach`](Self::attach) asks for.
    pub(crate) unsafe fn open_memory(memory: SharedMemory) -> Result<Self> {
        Self::open(memory)
    }

    fn open(memory: SharedMemory) -> Result<Self> {
        let (elements, trailer) = describe(&memory)?;
        Ok(Self { elements, core: Core::new(memory, trailer) })
    }
}

impl<T: Pod, D: Dimension> ArrayOptions<T, D> {
    /// See [`SharedArray::attach`]. [`populate`](Self::populate), [`core_dump`](Self::core_dump) and
    /// [`HugePages::Never`](crate::HugePages::Never) make a difference; the rest is as whoever made the array has it.
    ///
    /// # Errors
    ///
    /// As there, and [`InvalidArgument`](ErrorKind::InvalidArgument) where another name was set.
    ///
    /// # Safety
    ///
    /// As there.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::SharedArray;
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # let name = format!("tiles_{}", std::process::id());
    /// let tiles = SharedArray::options().name(&name).from_elem((100, 200), 0.5)?;
    /// // All of it is going to be written: better not to wait for each page.
    /// // SAFETY: only this program knows the name, and it writes through guards alone.
    /// let mut again = unsafe { SharedArray::<f64, ndarray::Ix2>::options().populate(true).attach(&name)? };
    /// again.write()?.fill(1.5);
    /// assert_eq!(tiles.read()?[[99, 199]], 1.5);
    /// # Ok(()) }
    /// ```
    pub unsafe fn attach(self, name: &str) -> Result<SharedArray<T, D>> {
        self.attach_with(name, Access::ReadWrite)
    }

    /// See [`SharedArray::attach_read_only`] and [`attach`](Self::attach).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn attach_read_only(self, name: &str) -> Result<SharedArray<T, D>> {
        self.attach_with(name, Access::ReadOnly)
    }

    fn attach_with(self, name: &str, access: Access) -> Result<SharedArray<T, D>> {
        match &self.name {
            Some(own) if own != name => {
                let message = format!("the options are for an array named {own:?}, expected none or {name:?}");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
            _ => SharedArray::open(self.memory.read_only(access == Access::ReadOnly).attach(name)?),
        }
    }
}

/// Reads the header of a block, once, and places its elements and trailer.
pub(super) fn describe<T: Pod, D: Dimension>(memory: &SharedMemory) -> Result<(Elements<T, D>, Option<usize>)> {
    described(memory).map_err(|error| memory.blame(instead(memory, error)))
}

/// A block that is no array may be a list, of which its user thinks as one.
#[cold]
fn instead(memory: &SharedMemory, error: Error) -> Error {
    let read = |offset, out: &mut [u8]| Ok(memory.read_header(offset, out)? == out.len());
    if error.kind() != ErrorKind::Layout || layout::is_array(read) {
        return error;
    }
    match layout::list::glance(memory.size(), read) {
        Ok(Some(items)) if items > 0 => {
            let items = if items == 1 { "1 item".to_owned() } else { format!("{items} items") };
            let message = format!("not an array block: it is a list of {items}, see ShareableList::attach");
            Error::new(ErrorKind::Layout, message)
        }
        _ => error,
    }
}

fn described<T: Pod, D: Dimension>(memory: &SharedMemory) -> Result<(Elements<T, D>, Option<usize>)> {
    let header = read_header(memory.size(), |offset, buffer| memory.read_header(offset, buffer))?;
    layout::check_dtype::<T>(&header.dtype)?;
    let dim = checked_dim::<D>(&header.shape)?;
    let bytes = Bytes::of(memory.mapping(), memory.size());
    let elements = Elements::new(bytes, header.data_offset, dim, header.fortran_order)?;
    let end = header.data_offset + elements.dim().size() * size_of::<T>();
    let trailer = match trailer::trailer_offset(end).filter(|offset| offset + trailer::TRAILER_LEN <= memory.size()) {
        Some(offset) => {
            let mut trailer = [0; trailer::TRAILER_LEN];
            let read = memory.read_header(offset, &mut trailer)?;
            trailer::is_trailer(&trailer[..read]).then_some(offset)
        }
        None => None,
    };
    Ok((elements, trailer))
}

/// The header of a block or file of `len` bytes, of which `read_at` reads into a buffer what is there at an offset.
pub(crate) fn read_header(len: usize, read_at: impl Fn(usize, &mut [u8]) -> Result<usize>) -> Result<NpyHeader> {
    let mut prefix = vec![0; 12];
    let read = read_at(0, &mut prefix)?;
    let needed = NpyHeader::prefix_len(&prefix[..read])?;
    prefix.resize(needed, 0);
    let read = read_at(0, &mut prefix)?;
    NpyHeader::parse(&prefix[..read], len as u64)
}

pub(super) fn checked_dim<D: Dimension>(shape: &[usize]) -> Result<D> {
    D::from_dimension(&IxDyn(shape)).ok_or_else(|| {
        let plural = |n: usize| if n == 1 { "1 axis".to_owned() } else { format!("{n} axes") };
        Error::new(
            ErrorKind::ShapeMismatch,
            format!(
                "the block holds an array of {} (shape {shape:?}), expected {}",
                plural(shape.len()),
                D::NDIM.map_or_else(|| "any".to_owned(), plural)
            ),
        )
    })
}
