//! What a manager tells of its blocks.

use super::protocol::{self, Content, Listed};
use crate::error::Result;
use crate::layout::DType;

/// A block of a [`SharedMemoryManager`](super::SharedMemoryManager), as [`list`](super::SharedMemoryManager::list) tells
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagedBlock {
    label: String,
    name: Option<String>,
    size: u64,
    kind: ManagedKind,
}

/// What is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManagedKind {
    /// Bytes.
    Memory,
    /// A [`ShareableList`](crate::ShareableList).
    #[non_exhaustive]
    List {
        /// The number of items.
        len: u64,
    },
    /// A [`SharedArray`](crate::SharedArray).
    #[non_exhaustive]
    Array {
        /// The element type.
        dtype: DType,
        /// The axis lengths.
        shape: Vec<usize>,
        /// Does the first axis vary fastest in memory?
        fortran: bool,
        /// Does the kernel let nobody write it, so that it is a [`FrozenArray`](crate::FrozenArray)?
        frozen: bool,
    },
}

impl ManagedBlock {
    pub(super) fn new(listed: Listed) -> Result<Self> {
        let kind = match listed.content {
            Content::Memory => ManagedKind::Memory,
            Content::List { len } => ManagedKind::List { len },
            Content::Array { descr, shape, fortran, frozen } => {
                ManagedKind::Array { dtype: protocol::dtype(&descr)?, shape, fortran, frozen }
            }
        };
        Ok(Self { label: listed.label, name: listed.name, size: listed.size, kind })
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

    /// What is in it.
    pub fn kind(&self) -> &ManagedKind {
        &self.kind
    }

    /// The element type, for an array.
    pub fn dtype(&self) -> Option<&DType> {
        match &self.kind {
            ManagedKind::Array { dtype, .. } => Some(dtype),
            _ => None,
        }
    }

    /// The axis lengths, for an array.
    pub fn shape(&self) -> Option<&[usize]> {
        match &self.kind {
            ManagedKind::Array { shape, .. } => Some(shape),
            _ => None,
        }
    }

    /// Is it an array that nobody can write any more?
    pub fn is_frozen(&self) -> bool {
        matches!(self.kind, ManagedKind::Array { frozen: true, .. })
    }
}
