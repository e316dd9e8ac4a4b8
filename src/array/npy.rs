//! `.npy` files, read into memory and written from it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use ndarray::Dimension;

use super::SharedArray;
use super::attach::{checked_dim, read_header};
use super::create::{Before, Failed};
use super::elements::check_element;
use super::options::ArrayOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::layout;
use crate::memory::AtomicFile;
use crate::sys::file::{self, Links};
use crate::sys::map::Access;
use crate::sys::threads::share_out;
use ndarray::{ArrayViewMut, ShapeBuilder};

impl<T: Pod, D: Dimension> SharedArray<T, D> {
    /// A copy of a `.npy` file, in anonymous memory. The format's versions 1.0, 2.0 and 3.0 load, in both orders.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Permission`](crate::ErrorKind::Permission) and other errors of reading the
    /// file; [`Layout`](crate::ErrorKind::Layout) where it is no `.npy` file or a damaged one;
    /// [`TypeMismatch`](crate::ErrorKind::TypeMismatch) and [`ShapeMismatch`](crate::ErrorKind::ShapeMismatch) name what was
    /// found and what was expected; and those of [`zeros`](Self::zeros).
    #[doc(alias = "np.load")]
    pub fn load_npy(path: impl AsRef<Path>) -> Result<Self> {
        Self::options().load_npy(path)
    }

    /// Writes the array to a `.npy` file, in the array's order, under a read lock. The file replaces what is at `path` when
    /// it is whole.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and those of writing the file; [`Layout`](ErrorKind::Layout) where something other than
    /// a file is at `path`.
    #[doc(alias = "np.save")]
    pub fn save_npy(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| Error::from_os(error, format!("cannot write {}", path.display()));
        let header = layout::encode_header(&self.dtype(), self.is_fortran(), self.shape())?;
        let file = AtomicFile::create(path)?;
        let mut out = file.as_file();
        out.write_all(&header).map_err(failed)?;
        {
            let _guard = self.read()?;
            let memory = self.core().memory();
            // Not from the mapping: pages that nobody has touched yet would be made, and fail where there is no room.
            let from = self.elements().offset_in(self.core().bytes());
            file::append(out.as_fd(), memory.fd(), from, self.nbytes()).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => memory.blame(cut_short(error)),
                _ => failed(error),
            })?;
        }
        file.publish()
    }
}

impl<T: Pod, D: Dimension> ArrayOptions<T, D> {
    /// See [`SharedArray::load_npy`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_npy(self, path: impl AsRef<Path>) -> Result<SharedArray<T, D>> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| Error::from_os(error, format!("cannot read {}", path.display()));
        check_element::<T>()?;
        let file = File::from(file::open_existing(path, Access::ReadOnly, Links::Follow)?);
        let len = file.metadata().map_err(failed)?.len();
        let wrong = |error: Error| error.about(path.display());
        let header = read_header(usize::try_from(len).unwrap_or(usize::MAX), |offset, buffer| {
            read_up_to(&file, buffer, offset as u64).map_err(failed)
        });
        let header = header.map_err(wrong)?;
        layout::check_dtype::<T>(&header.dtype).map_err(wrong)?;
        let dim: D = checked_dim(&header.shape).map_err(wrong)?;
        let read_data = |mut view: ArrayViewMut<'_, T, D>| -> Result<()> {
            let data: &mut [u8] = bytemuck::cast_slice_mut(view.as_slice_memory_order_mut().unwrap_or_default());
            let len = data.len();
            let first_error = Mutex::new(None);
            share_out(data.chunks_mut(PIECE).enumerate(), len, |(piece, part)| {
                let at = header.data_offset as u64 + (piece * PIECE) as u64;
                if let Err(error) = file.read_exact_at(part, at) {
                    first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
            first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |error| Err(failed(error)))
        };
        match self.build(self.target(), dim.set_f(header.fortran_order), Before::Anything, read_data) {
            Ok(array) => Ok(array),
            Err(Failed::Ours(error) | Failed::Theirs(error)) => Err(error),
        }
    }
}

/// What a thread reads at a time.
const PIECE: usize = 4 << 20;

#[cold]
fn cut_short(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Layout, "the block was cut short: it has fewer bytes than its array").with_source(error)
}

fn read_up_to(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<usize> {
    let wanted = buffer.len();
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - buffer.len())
}
