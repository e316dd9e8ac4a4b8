//! What a manager tells of its blocks.

use super::protocol::{Content, Listed};
use crate::blocks::{ArrayInfo, BlockKind};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{DType, NpyHeader, checked_len};

/// A block of a [`SharedMemoryManager`](super::SharedMemoryManager), as [`list`](super::SharedMemoryManager::list) tells
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagedBlock {
    label: String,
    name: Option<String>,
    size: u64,
    kind: BlockKind,
    is_frozen: bool,
}

impl ManagedBlock {
    pub(super) fn new(listed: Listed) -> Result<Self> {
        let mut is_frozen = false;
        let kind = match listed.content {
            Content::Memory => BlockKind::Bytes,
            Content::List { len } => BlockKind::List { len },
            Content::Array { descr, shape, fortran, data, frozen } => {
                is_frozen = frozen;
                let dtype = DType::parse(&descr)?;
                let (data_offset, data_len) = data;
                if checked_len(dtype.item_size(), &shape).is_none() {
                    let message =
                        format!("a manager's server told of an array of shape {shape:?}, which there cannot be");
                    return Err(Error::new(ErrorKind::Layout, message));
                }
                BlockKind::Array(ArrayInfo::new(NpyHeader {
                    dtype,
                    fortran_order: fortran,
                    shape,
                    data_offset,
                    data_len,
                }))
            }
            Content::Damaged { problem } => BlockKind::Damaged { problem },
        };
        Ok(Self { label: listed.label, name: listed.name, size: listed.size, kind, is_frozen })
    }

    /// The label to attach by.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name in `/dev/shm`, for a block to which the manager gave one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The size of the block in bytes, headers included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is in it: what it was made or published as.
    pub fn kind(&self) -> &BlockKind {
        &self.kind
    }

    /// The element type, for an array.
    pub fn dtype(&self) -> Option<&DType> {
        match &self.kind {
            BlockKind::Array(array) => Some(array.dtype()),
            _ => None,
        }
    }

    /// The axis lengths, for an array.
    pub fn shape(&self) -> Option<&[usize]> {
        match &self.kind {
            BlockKind::Array(array) => Some(array.shape()),
            _ => None,
        }
    }

    /// Is it an array that the kernel lets nobody write, a [`FrozenArray`](crate::FrozenArray)?
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }
}
