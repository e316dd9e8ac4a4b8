//! A call before it runs: its arguments written down, cut into chunks, and locked.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use smallvec::SmallVec;

use super::chunk::Division;
use super::scope::Unit;
use crate::array::{Core, Held};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Via;
use crate::sys::lock::{Mode, Wait};
use crate::sys::map::Access;

/// Chunks for each worker where nobody said how many: enough that uneven work evens out.
const CHUNKS_PER_WORKER: usize = 8;

/// One argument, or one part of a nested one, as the worker is told of it. The order is that of a walk through the
/// argument's type, which parent and worker share, so no leaf says which argument it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Leaf {
    Array(ArrayLeaf),
    /// A value, encoded.
    Param(ByteBuf),
    /// An item for each chunk, encoded.
    Each(Vec<ByteBuf>),
    /// The length of a `Vec` of arguments, which follow.
    Many(usize),
}

/// Where an array lies and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArrayLeaf {
    /// Index into the call's blocks.
    pub(crate) slot: usize,
    /// Of the first element, in bytes from the start of the block.
    pub(crate) offset: usize,
    pub(crate) shape: SmallVec<[usize; 4]>,
    pub(crate) fortran: bool,
    /// Axis and rows a chunk; `None` for an array that every task sees whole.
    pub(crate) split: Option<(usize, usize)>,
}

/// The arguments of a call, gathered by [`Args::describe`](super::Args::describe).
pub struct Plan<'p> {
    pub(crate) leaves: SmallVec<[Leaf; 4]>,
    pub(crate) blocks: SmallVec<[BlockUse<'p>; 4]>,
    pub(super) splits: SmallVec<[SplitUse; 4]>,
}

/// One block that a call uses, however many of its arguments lie in it.
pub(crate) struct BlockUse<'p> {
    pub(crate) core: &'p Core,
    pub(crate) access: BlockAccess,
    /// Once it is locked.
    pub(crate) held: Option<Held<'p>>,
}

impl BlockUse<'_> {
    /// The access of the description that the kernel's lock is on; none where there is no such lock.
    pub(crate) fn lock(&self) -> Option<Access> {
        self.held.as_ref().and_then(Held::kernel)
    }

    fn lock_it(&mut self, wait: Wait<'_>) -> Result<()> {
        if let Some(mode) = self.access.mode()
            && self.held.is_none()
        {
            self.held = Some(self.core.lock(mode, wait, Via::Lending)?);
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn named(&self) -> (u64, bool) {
        named(self.core, self.access)
    }
}

/// How workers are told of a block: by its serial, and whether it is written.
#[inline]
pub(super) fn named(core: &Core, access: BlockAccess) -> (u64, bool) {
    (core.memory().lock().block().serial(), access == BlockAccess::Write)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockAccess {
    /// Nobody can write it: no lock.
    Frozen,
    Read,
    Write,
}

impl BlockAccess {
    /// How it is locked, if it is.
    #[inline]
    pub(super) fn mode(self) -> Option<Mode> {
        match self {
            Self::Frozen => None,
            Self::Read => Some(Mode::Shared),
            Self::Write => Some(Mode::Exclusive),
        }
    }
}

/// An argument that splits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitUse {
    leaf: usize,
    pub(super) axis: usize,
    len: usize,
    pub(super) rows: Option<usize>,
    /// Not an array but items, one a chunk.
    items: bool,
}

impl SplitUse {
    fn extent(&self) -> String {
        let (len, noun) = (self.len, if self.items { "item" } else { "row" });
        if len == 1 { format!("1 {noun}") } else { format!("{len} {noun}s") }
    }
}

/// What chunks consist of that arguments are split into.
#[inline]
pub(super) fn unit_of(splits: &[SplitUse]) -> Unit {
    match splits.first() {
        None => Unit::Whole,
        Some(lead) if lead.items => Unit::Items,
        Some(_) => Unit::Rows,
    }
}

impl fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("leaves", &self.leaves).finish_non_exhaustive()
    }
}

impl<'p> Plan<'p> {
    pub(crate) fn new() -> Self {
        Self { leaves: SmallVec::new(), blocks: SmallVec::new(), splits: SmallVec::new() }
    }

    pub(crate) fn push_value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.leaves.push(Leaf::Param(encode(value)?));
        Ok(())
    }

    pub(crate) fn push_items<T: Serialize>(&mut self, items: &[T]) -> Result<()> {
        let encoded = items.iter().map(encode).collect::<Result<_>>()?;
        self.splits.push(SplitUse { leaf: self.leaves.len(), axis: 0, len: items.len(), rows: Some(1), items: true });
        self.leaves.push(Leaf::Each(encoded));
        Ok(())
    }

    pub(crate) fn push_count(&mut self, count: usize) {
        self.leaves.push(Leaf::Many(count));
    }

    /// An array that is split along `axis` into chunks of `rows`, where that is given, or seen whole.
    pub(crate) fn push_array(
        &mut self,
        core: &'p Core,
        access: BlockAccess,
        leaf: ArrayLeaf,
        split: Option<(usize, Option<usize>)>,
    ) -> Result<()> {
        if access == BlockAccess::Write {
            core.check_writable()?;
        }
        if let Some((axis, rows)) = split {
            let Some(&len) = leaf.shape.get(axis) else {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("an array of shape {:?} has no axis {axis} to be split along", leaf.shape),
                ));
            };
            self.splits.push(SplitUse { leaf: self.leaves.len(), axis, len, rows, items: false });
        }
        let slot = self.slot(core, access)?;
        self.leaves.push(Leaf::Array(ArrayLeaf { slot, ..leaf }));
        Ok(())
    }

    fn slot(&mut self, core: &'p Core, access: BlockAccess) -> Result<usize> {
        let id = core.memory().lock().block().id();
        let known = self.blocks.iter().position(|block| block.core.memory().lock().block().id() == id);
        let Some(slot) = known else {
            self.blocks.push(BlockUse { core, access, held: None });
            return Ok(self.blocks.len() - 1);
        };
        if access == BlockAccess::Write || self.blocks[slot].access == BlockAccess::Write {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the same block is given twice to one call, and once for writing: tasks would write what others read; give \
                 it once, by `chunks_mut`, or read from a copy",
            ));
        }
        Ok(slot)
    }

    /// Cuts the arguments that split into the same number of chunks.
    ///
    /// The first one leads. Arrays as long as it are cut as it is. Those of another length go with it only where the call
    /// says how: with rows for both, or by items that lead, each of which gets its part of the array.
    #[inline]
    pub(crate) fn divide(&mut self, workers: usize) -> Result<Division> {
        if self.splits.is_empty() { Ok(Division { count: 1, rows: 1, len: 1 }) } else { self.divide_splits(workers) }
    }

    /// What chunks consist of.
    pub(super) fn unit(&self) -> Unit {
        unit_of(&self.splits)
    }

    fn divide_splits(&mut self, workers: usize) -> Result<Division> {
        let lead = &self.splits[0];
        if self.splits.iter().any(|split| split.rows == Some(0)) {
            return Err(Error::new(ErrorKind::InvalidArgument, "a chunk has at least one row, found .rows(0)"));
        }
        let mut like_lead = self.splits.iter().filter(|split| split.len == lead.len);
        let given = lead.rows.or_else(|| like_lead.find_map(|split| split.rows));
        let rows = given.unwrap_or_else(|| {
            let pieces = workers.saturating_mul(CHUNKS_PER_WORKER).clamp(1, lead.len.max(1));
            lead.len.div_ceil(pieces).max(1)
        });
        let division = Division { count: lead.len.div_ceil(rows), rows, len: lead.len };
        if division.count > super::control::MAX_CHUNKS {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "a call has at most {} chunks, found {}; take more rows a chunk",
                    super::control::MAX_CHUNKS,
                    division.count
                ),
            ));
        }
        for split in &self.splits {
            let rows = match split.rows {
                None if lead.items => split.len.div_ceil(division.count.max(1)).max(1),
                own if split.len == lead.len => own.unwrap_or(rows),
                Some(own) if given.is_some() => own,
                _ => return Err(unequal(lead, split)),
            };
            let as_lead = (split.len, rows) == (lead.len, division.rows);
            let count = if as_lead { division.count } else { split.len.div_ceil(rows) };
            if count != division.count {
                return Err(Error::new(
                    ErrorKind::ShapeMismatch,
                    format!(
                        "arguments that split have to come to the same number of chunks: {} by {} are {}, but {} by \
                         {rows} are {count}; set .rows(n)",
                        lead.extent(),
                        division.rows,
                        division.count,
                        split.extent(),
                    ),
                ));
            }
            if let Leaf::Array(leaf) = &mut self.leaves[split.leaf] {
                leaf.split = Some((split.axis, rows));
            }
        }
        Ok(division)
    }

    /// Locks every block that is not, in the one order in which all calls of all processes lock, until this is dropped.
    #[inline]
    pub(crate) fn lock(&mut self, wait: Wait<'_>) -> Result<()> {
        if self.blocks.is_empty() { Ok(()) } else { self.lock_in_order(wait) }
    }

    fn lock_in_order(&mut self, wait: Wait<'_>) -> Result<()> {
        match &mut self.blocks[..] {
            [block] => block.lock_it(wait),
            blocks => {
                let mut order: SmallVec<[&mut BlockUse<'p>; 4]> = blocks.iter_mut().collect();
                order.sort_unstable_by_key(|block| block.core.memory().lock().block().id());
                order.into_iter().try_for_each(|block| block.lock_it(wait))
            }
        }
    }
}

/// Arguments of different lengths that nobody said how to pair: more likely a mistake than meant.
#[cold]
fn unequal(lead: &SplitUse, split: &SplitUse) -> Error {
    let (len, which) = if split.items { (lead.extent(), "the array") } else { (lead.len.to_string(), "both") };
    Error::new(
        ErrorKind::ShapeMismatch,
        format!(
            "arguments that split have {len} and {}; set .rows(n) on {which} to pair chunks of different sizes",
            split.extent()
        ),
    )
}

/// Values travel with the names of their fields, so that every attribute of serde works.
fn encode(value: &(impl Serialize + ?Sized)) -> Result<ByteBuf> {
    let mut bytes = Vec::new();
    encode_to(&mut bytes, value)?;
    Ok(ByteBuf::from(bytes))
}

/// Appends a value. What is appended where it fails is not to be used.
#[inline]
pub(crate) fn encode_to(bytes: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<()> {
    encode_within(bytes, value, LONGEST)
}

#[inline]
fn encode_within(bytes: &mut Vec<u8>, value: &(impl Serialize + ?Sized), longest: usize) -> Result<()> {
    let before = bytes.len();
    rmp_serde::encode::write_named(bytes, value).map_err(|error| {
        Error::new(ErrorKind::Serialization, "a value cannot be turned into bytes").with_source(error)
    })?;
    match bytes.len() - before {
        len if len > longest => Err(too_long(len, longest)),
        _ => Ok(()),
    }
}

/// What the encoding can say of a length. A longer one would be cut without a word, and a value with such a part is longer
/// as a whole.
const LONGEST: usize = u32::MAX as usize;

#[cold]
fn too_long(len: usize, longest: usize) -> Error {
    let message = format!(
        "a value of {len} bytes cannot be passed to or from a worker, {longest} at most; what is large goes into an array"
    );
    Error::new(ErrorKind::Serialization, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_whose_length_the_encoding_cannot_tell_is_refused() {
        let value = serde_bytes::Bytes::new(&[7; 100]);
        let mut bytes = vec![0; 50];
        encode_within(&mut bytes, value, 102).unwrap();
        assert_eq!(bytes.len(), 152);
        let error = encode_within(&mut bytes, value, 101).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Serialization);
        assert!(error.to_string().starts_with("a value of 102 bytes cannot be passed"), "{error}");
    }
}
