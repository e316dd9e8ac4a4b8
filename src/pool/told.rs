//! What workers were told last, and whether a call is like it: most are like the one before.

use std::fmt;
use std::slice::Iter;

use arrayvec::ArrayVec;
use bytemuck::Pod;
use ndarray::Dimension;
use smallvec::SmallVec;

use super::plan::{ArrayLeaf, BlockAccess, BlockUse, Leaf, SplitUse, named, unit_of};
use super::protocol::{Asked, CallMessage};
use super::schedule::Schedule;
use super::scope::Scope;
use super::task::TaskRef;
use crate::array::{Core, Elements, Split};
use crate::memory::Via;
use crate::sys::map::Access;

/// What a call's workers do, as they were told.
pub(super) struct Told {
    pub(super) task: Option<TaskRef>,
    pub(super) message: CallMessage,
    /// Its arguments that split, as they were before they were divided.
    splits: SmallVec<[SplitUse; 4]>,
    /// Whether it stands on the page.
    pub(super) on_page: bool,
    /// The locks of its blocks, once all that take part have those blocks, and for as long as they do.
    pub(super) lent: Option<SmallVec<[Option<Access>; 4]>>,
}

impl Told {
    pub(super) fn nothing() -> Self {
        Self { task: None, message: CallMessage::nothing(), splits: SmallVec::new(), on_page: false, lent: None }
    }

    pub(super) fn new(task: TaskRef, message: CallMessage, splits: &[SplitUse], on_page: bool) -> Self {
        Self { task: Some(task), message, splits: SmallVec::from_slice(splits), on_page, lent: None }
    }

    /// Were they told to do what is asked?
    #[inline]
    pub(super) fn are(&self, asked: &Asked<'_>) -> bool {
        self.on_page && self.task == Some(asked.task) && self.message.is(asked)
    }

    /// Is there nothing more to be told where a call without settings has that task and the same arguments, and what it lends
    /// is private?
    #[inline]
    pub(super) fn is_all_but_arguments(&self, task: TaskRef) -> bool {
        self.lent.is_some()
            && self.on_page
            && self.task == Some(task)
            && self.message.left.is_none()
            && self.message.schedule == Schedule::default()
    }

    /// What the call was about whose chunks were not listed.
    #[inline]
    pub(super) fn scope(&self) -> Scope<'static> {
        Scope { division: self.message.division(), unit: unit_of(&self.splits), only: None }
    }
}

/// Where a walk through a call's arguments stands in what workers were told last.
pub struct Recall<'k, 'p> {
    named: &'k [(u64, bool)],
    leaves: Iter<'k, Leaf>,
    splits: Iter<'k, SplitUse>,
    /// Those of the blocks that were come by, locked, in the order in which workers were told of them.
    blocks: &'k mut Blocks<'p>,
}

/// Those of one call. One with more of them is never like the one before it.
pub(super) type Blocks<'p> = ArrayVec<BlockUse<'p>, 8>;

impl fmt::Debug for Recall<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recall").field("leaves", &self.leaves).finish_non_exhaustive()
    }
}

impl<'k, 'p> Recall<'k, 'p> {
    #[inline]
    pub(super) fn of(told: &'k Told, blocks: &'k mut Blocks<'p>) -> Self {
        let CallMessage { blocks: named, leaves, .. } = &told.message;
        Self { named, leaves: leaves.iter(), splits: told.splits.iter(), blocks }
    }

    /// Was everything that workers were told of come by?
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.leaves.as_slice().is_empty()
    }

    /// Is this the array that comes next, split as it was, and can it be locked at once? Then it is.
    #[inline]
    pub(super) fn is_array<T: Pod, D: Dimension>(
        &mut self,
        (core, access): (&'p Core, BlockAccess),
        elements: &Elements<T, D>,
        split: Option<Split>,
    ) -> bool {
        let Some(Leaf::Array(leaf)) = self.leaves.next() else { return false };
        let is_split = match split {
            None => leaf.split.is_none(),
            Some(Split { axis, rows }) => {
                self.splits.next().is_some_and(|before| before.axis == axis.index() && before.rows == rows)
            }
        };
        is_split && leaf.is_of(core, elements) && self.is_block(leaf.slot, core, access)
    }

    /// How many arguments come next: is it that many?
    #[inline]
    pub(super) fn is_count(&mut self, count: usize) -> bool {
        matches!(self.leaves.next(), Some(Leaf::Many(before)) if *before == count)
    }

    #[inline]
    fn is_block(&mut self, slot: usize, core: &'p Core, access: BlockAccess) -> bool {
        if self.named.get(slot) != Some(&named(core, access)) {
            return false;
        }
        // One that was come by before has an access that goes with this one: it went then, too.
        if slot < self.blocks.len() {
            return true;
        }
        let held = access.mode().map(|mode| core.lock_quickly(mode, Via::Lending));
        if matches!(held, Some(None)) {
            return false;
        }
        // Locked before, so that nobody has to wait for what is stored here.
        self.blocks.try_push(BlockUse { core, access, held: held.flatten() }).is_ok()
    }
}

impl ArrayLeaf {
    /// Does it say where these elements lie?
    #[inline]
    fn is_of<T: Pod, D: Dimension>(&self, core: &Core, elements: &Elements<T, D>) -> bool {
        self.offset == elements.offset_in(core.bytes())
            && self.fortran == elements.is_fortran()
            && self.shape[..] == *elements.dim().slice()
    }
}
