//! Whole arrays from files into blocks and back, whatever their element type.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::file::BlockFile;
use super::info::ArrayInfo;
use crate::layout::{self, BlockLayout, DATA_OFFSET, trailer};
use crate::memory::{AtomicFile, SharedMemory, SharedMemoryOptions, Target, spare};
use crate::sys::file::{self, SHM_DIR};
use crate::sys::space::{self, Place};
use crate::{Error, ErrorKind, Reserve, Result};

/// Bytes that are copied at a time: they stay in the processor's cache between the two copies.
const PIECE: usize = 256 << 10;

impl BlockFile {
    /// Copies the array into a new named block, with its element type and order, which need not be ones that this crate can
    /// attach to. The block gets its name when it is whole; whoever looks sees nothing before, and nothing is left where
    /// it fails or the process is killed meanwhile.
    ///
    /// Others that may be writing the source are held back by a [`read_lock`](Self::read_lock) alone. `progress` is told
    /// how many bytes of how many are there.
    ///
    /// # Errors
    ///
    /// As for [`array`](Self::array) and [`SharedMemory::create_named`]; [`Layout`](ErrorKind::Layout) where the source is
    /// cut short meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{BlockFile, SharedArray, SharedMemory};
    ///
    /// # let path = std::env::temp_dir().join(format!("ndshm-doc-{}.npy", std::process::id()));
    /// # let name = format!("loaded_{}", std::process::id());
    /// SharedArray::<f64, _>::from_elem((2, 3), 1.5)?.save_npy(&path)?;
    /// let mut block = BlockFile::open(&path)?.load_named(&name, &SharedMemory::options(), |_, _| ())?;
    /// block.keep(); // stays when this program ends
    /// // SAFETY: nobody writes it.
    /// let array = unsafe { SharedArray::<f64, ndarray::Ix2>::attach(&name)? };
    /// assert_eq!(array.read()?.sum(), 9.0);
    /// # SharedMemory::unlink_name(&name)?;
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "np.load")]
    pub fn load_named(
        &self,
        name: &str,
        options: &SharedMemoryOptions,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<SharedMemory> {
        let info = self.array()?;
        let layout = BlockLayout::new(info.dtype().item_size(), info.shape())?;
        let header = layout::encode_header(info.dtype(), info.is_fortran(), info.shape())?;
        let place = Place::Directory(Path::new(SHM_DIR));
        match space::check(place, layout.total_len) {
            // What is kept for reuse is room too.
            Err(error) if error.kind() == ErrorKind::NoSpace && spare::release() > 0 => {
                space::check(place, layout.total_len)?;
            }
            checked => checked?,
        }
        // Writing takes the pages as it goes, faster than they could be set aside first, and says where there are none.
        let draft = options.clone().reserve(Reserve::Lazily).draft(Target::Named(name.to_owned()), layout.total_len)?;
        let to = draft.fd();
        let write = |offset: usize, bytes: &[u8]| {
            file::write_at(to, offset, bytes).map_err(|errno| space::refused(place, layout.total_len, errno))
        };
        write(0, &header)?;
        self.each_piece(&info, |at, bytes| {
            write(DATA_OFFSET + at, bytes)?;
            progress((at + bytes.len()) as u64, info.nbytes() as u64);
            Ok(())
        })?;
        let data_end = DATA_OFFSET + layout.data_len;
        write(data_end, &[0; trailer::TRAILER_LEN][..layout.trailer_offset - data_end])?;
        write(layout.trailer_offset, &trailer::encode_trailer())?;
        draft.publish()
    }

    /// Writes the array to a `.npy` file, which replaces what is at `path` when it is whole.
    ///
    /// Others that may be writing the block are held back by a [`read_lock`](Self::read_lock) alone. `progress` is told how
    /// many bytes of how many are there.
    ///
    /// # Errors
    ///
    /// As for [`array`](Self::array), and those of writing the file; [`Layout`](ErrorKind::Layout) where something other than
    /// a file is at `path`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use ndshm::{BlockFile, SharedArray};
    ///
    /// # let path = std::env::temp_dir().join(format!("ndshm-doc-save-{}.npy", std::process::id()));
    /// # let name = format!("saved_{}", std::process::id());
    /// let array = SharedArray::<i32, _>::options().name(&name).from_elem(10, 4)?;
    /// let block = BlockFile::open_named(&name)?;
    /// let locked = block.read_lock(Duration::from_secs(5))?;
    /// block.save_npy(&path, |_, _| ())?;
    /// drop(locked);
    /// let copy = SharedArray::<i32, ndarray::Ix1>::load_npy(&path)?;
    /// assert_eq!(copy.read()?, array.read()?);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "np.save")]
    pub fn save_npy(&self, path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<()> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| Error::from_os(error, format!("cannot write {}", path.display()));
        let info = self.array()?;
        let header = layout::encode_header(info.dtype(), info.is_fortran(), info.shape())?;
        space::check_file_size(header.len().saturating_add(info.nbytes()))?;
        let target = AtomicFile::create(path)?;
        target.as_file().write_all(&header).map_err(failed)?;
        self.each_piece(&info, |at, bytes| {
            target.as_file().write_all(bytes).map_err(failed)?;
            progress((at + bytes.len()) as u64, info.nbytes() as u64);
            Ok(())
        })?;
        target.publish()
    }

    /// Reads the elements from first to last and hands them over with where they begin, from the first element on.
    fn each_piece(&self, info: &ArrayInfo, mut take: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        advise_sequential(self.file.as_fd());
        let mut buffer = vec![0; PIECE.min(info.nbytes())];
        let mut at = 0;
        while at < info.nbytes() {
            let piece = &mut buffer[..PIECE.min(info.nbytes() - at)];
            let read = self.read_at((info.data_offset() + at) as u64, piece)?;
            if read < piece.len() {
                let message = format!(
                    "{} was cut short: found {} bytes of elements, expected {}",
                    self.path().display(),
                    at + read,
                    info.nbytes()
                );
                return Err(Error::new(ErrorKind::Layout, message));
            }
            take(at, piece)?;
            at += piece.len();
        }
        Ok(())
    }
}

/// So that the disk is read ahead of the copying.
fn advise_sequential(fd: BorrowedFd<'_>) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    // Advice; without it all goes on.
    let _ = posix_fadvise(fd, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
}
