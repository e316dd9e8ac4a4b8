//! A block opened to be looked at.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use super::info::{ArrayInfo, BlockInfo, BlockKind, BlockOwner, BlockState};
use super::owner_of;
use crate::layout::{self, NpyHeader, list, trailer};
use crate::memory::{Owned, name, owned};
use crate::sys::file::{self, Links, SHM_DIR};
use crate::sys::lock::{self, Mode, Wait};
use crate::sys::map::Access;
use crate::sys::stamp;
use crate::{Error, ErrorKind, Result};

/// A block opened to be looked at, whatever is in it: named, another process's anonymous one (`/proc/<pid>/fd/<n>`), or
/// a `.npy` file.
///
/// It is not mapped. So it needs no type and no promise about other writers, and a block that is cut short while it is
/// read is an error and not a bus error. To work with the elements attach to the block with
/// [`SharedArray`](crate::SharedArray).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use ndshm::{BlockFile, SharedArray};
///
/// # let name = format!("seen_{}", std::process::id());
/// let mut array = SharedArray::<u16, _>::options().name(&name).from_elem(4, 7)?;
/// let file = BlockFile::open_named(&name)?;
/// let info = file.array()?;
/// assert_eq!(info.dtype().descr(), "<u2");
///
/// let mut bytes = [0; 8];
/// {
///     let _locked = file.read_lock(Duration::from_secs(1))?;
///     file.read_at(info.data_offset() as u64, &mut bytes)?;
/// }
/// assert_eq!(bytes, [7, 0, 7, 0, 7, 0, 7, 0]);
///
/// let guard = array.write()?;
/// assert_eq!(file.read_lock(Duration::ZERO).unwrap_err().kind(), ndshm::ErrorKind::WouldBlock);
/// # drop(guard);
/// # Ok::<(), ndshm::Error>(())
/// ```
#[derive(Debug)]
pub struct BlockFile {
    pub(super) file: File,
    path: PathBuf,
}

impl BlockFile {
    /// Opens the block or file at a path, for reading. A symbolic link is followed.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound), [`Permission`](ErrorKind::Permission); [`Layout`](ErrorKind::Layout) where it is no
    /// regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = file::open_existing(path, Access::ReadOnly, Links::Follow)?;
        Ok(Self { file: file.into(), path: path.to_owned() })
    }

    /// Opens the block `name` in `/dev/shm`, for reading.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and [`InvalidName`](ErrorKind::InvalidName).
    pub fn open_named(name: &str) -> Result<Self> {
        Self::open_in_shm(name::path_of(name)?).map_err(|error| match error.kind() {
            ErrorKind::NotFound => name::not_found(name),
            _ => error,
        })
    }

    /// Somebody else can have planted anything there.
    pub(super) fn open_in_shm(path: PathBuf) -> Result<Self> {
        let file = file::open_existing(&path, Access::ReadOnly, Links::Refuse)?;
        Ok(Self { file: file.into(), path })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the block now.
    ///
    /// # Errors
    ///
    /// Of the operating system.
    pub fn info(&self) -> Result<BlockInfo> {
        let owned = if self.path.starts_with(SHM_DIR) { owned()? } else { Vec::new() };
        self.info_with(&owned)
    }

    pub(super) fn info_with(&self, owned: &[Owned]) -> Result<BlockInfo> {
        let metadata = self.file.metadata().map_err(|error| self.failed(error))?;
        let mut info = BlockInfo::new(self.path.clone(), &metadata);
        info.kind = self.kind(info.size)?;
        info.owner = match info.name() {
            _ if foreign(info.uid) == BlockOwner::Unknown => BlockOwner::Unknown,
            Some(name) => owner_of(name, self.file.as_fd(), owned),
            None => BlockOwner::Nobody,
        };
        info.state = self.state(&info.kind, info.size, info.name().is_some());
        info.generation = self.trailer(&info.kind).map(|(_, generation)| generation);
        Ok(info)
    }

    fn kind(&self, size: u64) -> Result<BlockKind> {
        let mut first = [0; layout::MAGIC.len()];
        let begins = self.read_at(0, &mut first)?;
        if first[..begins] == layout::MAGIC {
            return match self.array() {
                Ok(info) => Ok(BlockKind::Array(info)),
                Err(error) => match error.kind() {
                    ErrorKind::TypeMismatch => Ok(BlockKind::Unsupported { problem: error.to_string() }),
                    ErrorKind::Layout => Ok(BlockKind::Damaged { problem: error.to_string() }),
                    _ => Err(error),
                },
            };
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let items = list::glance(size, |offset, out| Ok(self.read_at(offset as u64, out)? == out.len()))?;
        Ok(items.map_or(BlockKind::Bytes, |len| BlockKind::List { len }))
    }

    /// The header of a typed array.
    ///
    /// # Errors
    ///
    /// [`Layout`](ErrorKind::Layout) where the block is none or a damaged one, [`TypeMismatch`](ErrorKind::TypeMismatch) for
    /// Python objects and elements that have fields.
    pub fn array(&self) -> Result<ArrayInfo> {
        let size = self.file.metadata().map_err(|error| self.failed(error))?.len();
        let header = || {
            let mut prefix = vec![0; 12];
            let read = self.read_at(0, &mut prefix)?;
            let needed = NpyHeader::prefix_len(&prefix[..read])?;
            prefix.resize(needed, 0);
            let read = self.read_at(0, &mut prefix)?;
            NpyHeader::parse(&prefix[..read], size)
        };
        header().map(ArrayInfo::new).map_err(|error| error.about(self.path.display()))
    }

    /// Writer and generation, for an array that has a trailer.
    fn trailer(&self, kind: &BlockKind) -> Option<(u32, u64)> {
        let BlockKind::Array(info) = kind else { return None };
        let offset = trailer::trailer_offset(info.data_offset() + info.nbytes())?;
        let mut bytes = [0; trailer::TRAILER_LEN];
        let read = self.read_at(offset as u64, &mut bytes).ok()?;
        trailer::parse(&bytes[..read])
    }

    fn state(&self, kind: &BlockKind, size: u64, named: bool) -> BlockState {
        if size == 0 {
            return BlockState::Free;
        }
        // The lock between two looks at the words: where they are the same, the write that they tell of was under way,
        // or given up, when the lock was looked at.
        let mut before = self.trailer(kind);
        for _ in 0..100 {
            let Ok(held) = lock::held_elsewhere(self.file.as_fd()) else { return BlockState::Unknown };
            let after = self.trailer(kind);
            if before != after {
                before = after;
                continue;
            }
            let writer = after.map(|(writer, _)| writer).filter(|&writer| writer != 0);
            return match (held, writer) {
                (Some(Mode::Exclusive), pid) => BlockState::Written { pid },
                // Without a name it may be locked by its process alone, where nobody else sees it.
                (_, Some(pid)) if !named && !stamp::is_gone(pid) => BlockState::Written { pid: Some(pid) },
                (_, Some(pid)) => BlockState::Poisoned { pid },
                (Some(Mode::Shared), None) => BlockState::Read,
                (None, None) => BlockState::Free,
            };
        }
        // So many writes meanwhile: somebody is writing.
        BlockState::Written { pid: before.map(|(writer, _)| writer).filter(|&writer| writer != 0) }
    }

    /// Locks the block for reading, as the guards of this crate do, and waits for writers at most so long. A poisoned array
    /// is no error here.
    ///
    /// An anonymous array that was never handed out is locked by its process alone: that lock is not seen here.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](ErrorKind::WouldBlock) where it is being written, or somebody waits to, for longer than that;
    /// [`Unsupported`](ErrorKind::Unsupported) on a file system without locks.
    pub fn read_lock(&self, timeout: Duration) -> Result<BlockLock<'_>> {
        // Through a description of its own: unlocking one leaves the others locked.
        let fd = file::reopen(self.file.as_fd(), Access::ReadOnly)?;
        if lock::lock(fd.as_fd(), Mode::Shared, Wait::at_most(timeout), true)? {
            return Ok(BlockLock { fd, file: PhantomData });
        }
        let writer = match self.info().map(|info| info.state) {
            Ok(BlockState::Written { pid: Some(pid) }) => format!("process {pid}"),
            _ => "another process".to_owned(),
        };
        let message = format!("{} is being written by {writer}; waited {timeout:?}", self.path.display());
        Err(Error::new(ErrorKind::WouldBlock, message))
    }

    /// Reads what begins at `offset` until `out` is full or the block ends, and says how many bytes there were.
    ///
    /// # Errors
    ///
    /// Of the operating system.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match self.file.read_at(&mut out[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(done)
    }

    pub(super) fn failed(&self, error: std::io::Error) -> Error {
        Error::from_os(error, format!("cannot read {}", self.path.display()))
    }
}

/// The block is locked for reading for as long as this lives.
#[derive(Debug)]
#[must_use = "the block is unlocked when this is dropped"]
pub struct BlockLock<'a> {
    fd: OwnedFd,
    file: PhantomData<&'a BlockFile>,
}

impl Drop for BlockLock<'_> {
    fn drop(&mut self) {
        // Not by closing it alone: a forked child has the descriptor too.
        lock::unlock(self.fd.as_fd());
    }
}

/// Unknown for other users' blocks.
pub(super) fn foreign(uid: u32) -> BlockOwner {
    if uid == geteuid().as_raw() { BlockOwner::Nobody } else { BlockOwner::Unknown }
}
