//! What can be seen of a block from outside.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::BlockFile;
use crate::layout::{DType, NpyHeader};
use crate::memory::Owned;
use crate::sys::file::SHM_DIR;

/// A block, as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct BlockInfo {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) resident: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) kind: BlockKind,
    pub(super) owner: BlockOwner,
    pub(super) state: BlockState,
    pub(super) generation: Option<u64>,
}

/// What is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockKind {
    /// A typed array: a `.npy` header and the elements.
    Array(ArrayInfo),
    /// A [`ShareableList`](crate::ShareableList), Python's or this crate's.
    List {
        /// The number of items.
        len: usize,
    },
    /// Anything else.
    Bytes,
    /// An array of NumPy's with elements that this crate cannot read: Python objects, or ones that have fields.
    Unsupported {
        /// What they are.
        problem: String,
    },
    /// It begins as an array does, but is not whole or does not say what is in it.
    Damaged {
        /// What is wrong.
        problem: String,
    },
    /// This user may not read it.
    Unreadable,
}

/// The header of a typed array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayInfo {
    header: NpyHeader,
}

/// Who removes a block's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockOwner {
    /// A process of this crate made it. Where that is dead, [`prune`](crate::prune) removes the name.
    Process {
        /// Its id, where that is known and the process is not another container's.
        pid: Option<u32>,
        /// Whether the process, or a child that it forked, is there.
        alive: bool,
    },
    /// Nobody that this crate knows of: the block was kept, or another program made it, or it has no name in `/dev/shm`.
    Nobody,
    /// The block is another user's, whose ledgers are not looked into.
    Unknown,
}

/// Whether a block is locked or half written, at the moment when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockState {
    /// Nobody has it locked.
    Free,
    /// Somebody reads it.
    Read,
    /// Somebody writes it: the process where the block says which.
    Written {
        /// The process.
        pid: Option<u32>,
    },
    /// A write did not finish, so who locks the array gets [`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned).
    Poisoned {
        /// The process that was writing.
        pid: u32,
    },
    /// This user may not read it, or the file system has no locks.
    Unknown,
}

impl BlockInfo {
    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in `/dev/shm`, where it has one. Other programs' names need not be UTF-8.
    pub fn name(&self) -> Option<&OsStr> {
        self.path.parent().filter(|dir| *dir == Path::new(SHM_DIR)).and_then(|_| self.path.file_name())
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of it that are in memory (or swap): pages that nobody has touched take none.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// The permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// The user that it belongs to.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Device and inode, by which a mapping in `/proc/<pid>/maps` is known as one of this block.
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// What is in it.
    pub fn kind(&self) -> &BlockKind {
        &self.kind
    }

    /// Who removes its name.
    pub fn owner(&self) -> BlockOwner {
        self.owner
    }

    /// Whether it is locked or half written. An anonymous array that was never handed out is locked without the kernel,
    /// so that all that can be seen is whether it is being written.
    pub fn state(&self) -> BlockState {
        self.state
    }

    /// How many writes of an array have ended; `None` for other blocks, and for an array that has no such count, such as a
    /// file that NumPy wrote.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    pub(super) fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            resident: metadata.blocks().saturating_mul(512),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            kind: BlockKind::Unreadable,
            owner: BlockOwner::Nobody,
            state: BlockState::Unknown,
            generation: None,
        }
    }
}

impl ArrayInfo {
    pub(crate) fn new(header: NpyHeader) -> Self {
        Self { header }
    }

    /// The element type: any that NumPy knows, also those that cannot be attached to.
    pub fn dtype(&self) -> &DType {
        &self.header.dtype
    }

    /// The axis lengths.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        // No overflow: the header was checked to fit the block.
        self.header.shape.iter().product()
    }

    /// Is any axis of length 0?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the first axis vary fastest in memory?
    pub fn is_fortran(&self) -> bool {
        self.header.fortran_order
    }

    /// Where the elements start, in bytes.
    pub fn data_offset(&self) -> usize {
        self.header.data_offset
    }

    /// The size of all elements in bytes.
    pub fn nbytes(&self) -> usize {
        self.header.data_len
    }
}

/// What there is under a name in `/dev/shm`; `None` where that is no regular file, or gone by now.
pub(super) fn at_name(name: &OsStr, owned: &[Owned]) -> Option<BlockInfo> {
    let path = Path::new(SHM_DIR).join(name);
    let metadata = fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
    match BlockFile::open_in_shm(path.clone()) {
        Ok(file) => file.info_with(owned).ok(),
        Err(error) if error.kind() == crate::ErrorKind::NotFound => None,
        Err(_) => {
            let mut info = BlockInfo::new(path, &metadata);
            info.owner = super::file::foreign(info.uid);
            Some(info)
        }
    }
}
