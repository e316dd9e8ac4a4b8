//! What an array is apart from the type of its elements: memory, lock and the mark of a write in progress.

use std::sync::Arc;
use std::time::Instant;

use super::control::Control;
use super::elements::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::spare::{self, Recipe};
use crate::memory::{Block, LockHandle, Locked, Share, SharedMemory, Via};
use crate::sys::lock::{Mode, Wait};
use crate::sys::map::Access;

/// The untyped part of a [`SharedArray`](super::SharedArray).
pub(crate) struct Core {
    /// Taken out by `drop` alone.
    memory: Option<SharedMemory>,
    /// What the memory was made by, where it may be kept for another array.
    recipe: Option<Recipe>,
    /// Where the control trailer lies, in a block that has one.
    trailer: Option<usize>,
}

impl Core {
    pub(crate) fn new(memory: SharedMemory, trailer: Option<usize>) -> Self {
        Self { memory: Some(memory), recipe: None, trailer }
    }

    /// Leaves the memory to the next array that is made by `recipe`, as it was.
    pub(crate) fn reusable(mut self, recipe: Option<Recipe>) -> Self {
        self.recipe = recipe;
        self
    }

    #[inline]
    fn control(&self) -> Control<'_> {
        self.trailer.map_or(Control::NONE, |offset| Control::at(self.bytes(), offset))
    }

    #[inline]
    pub(crate) fn memory(&self) -> &SharedMemory {
        self.memory.as_ref().expect("an array has memory until it is dropped")
    }

    #[inline]
    pub(crate) fn memory_mut(&mut self) -> &mut SharedMemory {
        self.memory.as_mut().expect("an array has memory until it is dropped")
    }

    /// Seals the memory, unless it is poisoned: such an array is not fit to be handed on.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.release_leaked();
        let trailer = self.trailer;
        let block = Arc::clone(self.memory().lock().block());
        let name = self.memory().name().map(ToOwned::to_owned);
        self.memory_mut().freeze(|mapping| {
            let control =
                trailer.map_or(Control::NONE, |offset| Control::at(Bytes::of(mapping, mapping.len()), offset));
            if block.mark() || control.unfinished_writer() != 0 {
                return Err(poisoned(control.unfinished_writer(), name.as_deref()));
            }
            Ok(())
        })?;
        // It can no longer be written, and nobody has to.
        self.trailer = None;
        self.recipe = None;
        Ok(())
    }

    #[inline]
    pub(crate) fn bytes(&self) -> Bytes<'_> {
        Bytes::of(self.memory().mapping(), self.memory().size())
    }

    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.memory().mapping().access() == Access::ReadWrite {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Permission, "this array was opened read-only; attach to it for writing"))
    }

    /// Locks the array, and marks it as being written where `mode` is exclusive.
    #[inline]
    pub(crate) fn lock(&self, mode: Mode, wait: Wait<'_>, via: Via) -> Result<Held<'_>> {
        match self.lock_quickly(mode, via) {
            Some(held) => Ok(held),
            None => self.lock_among_others(mode, wait, via),
        }
    }

    /// The same where it is possible at once and without the kernel: for a private array, in the process that made it,
    /// that nobody holds or waits for and that is not poisoned; for writing where it can be written, and not in a panic.
    /// `None` says nothing of why: [`lock`](Self::lock) does, or waits.
    ///
    /// Never waits, makes no system call and no error.
    #[inline]
    pub(crate) fn lock_quickly(&self, mode: Mode, via: Via) -> Option<Held<'_>> {
        let memory = self.memory();
        if mode == Mode::Exclusive && memory.mapping().access() != Access::ReadWrite {
            return None;
        }
        let locked = Locked::quickly(self, mode, via)?;
        let (control, block) = (self.control(), memory.lock().block());
        if control.unfinished_writer() != 0 || block.mark() {
            return None;
        }
        Some(Held::new(locked, &control, block))
    }

    #[cold]
    fn lock_among_others(&self, mode: Mode, wait: Wait<'_>, via: Via) -> Result<Held<'_>> {
        let locked = self.lock_regardless(mode, wait, via)?;
        let (control, block) = (self.control(), self.memory().lock().block());
        let writer = control.unfinished_writer();
        if writer != 0 || block.mark() {
            return Err(poisoned(writer, self.memory().name()));
        }
        Ok(Held::new(locked, &control, block))
    }

    /// Locks the array whether it is poisoned or not, and marks nothing.
    fn lock_regardless(&self, mode: Mode, wait: Wait<'_>, via: Via) -> Result<Locked<'_, Self>> {
        if mode == Mode::Exclusive {
            self.check_writable()?;
        }
        let began = matches!(wait, Wait::Until(_)).then(Instant::now);
        match Locked::among_others(self, mode, wait, via)? {
            Some(locked) => Ok(locked),
            None => Err(busy(mode, began)),
        }
    }

    /// Whatever marks there are, the write has ended, or what it left behind is accepted.
    fn finish(&self) {
        self.control().finish();
        self.memory().lock().block().set_mark(false);
    }

    /// Under either lock: did a writer end without finishing?
    fn is_marked(&self) -> bool {
        self.control().unfinished_writer() != 0 || self.memory().lock().block().mark()
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.lock_regardless(Mode::Shared, Wait::No, Via::Own).is_ok_and(|_locked| self.is_marked())
    }

    pub(crate) fn clear_poison(&mut self) -> Result<()> {
        self.release_leaked();
        let _locked = self.lock_regardless(Mode::Exclusive, Wait::Forever, Via::Own)?;
        if self.is_marked() {
            self.finish();
        }
        Ok(())
    }

    /// Ends what guards hold that were leaked. What one of them wrote counts as finished: its owner chose to forget it.
    #[inline]
    pub(crate) fn release_leaked(&mut self) {
        if self.memory_mut().lock_mut().has_leaked_exclusive() {
            self.memory().lock().block().take_spoiled();
            self.finish();
        }
        self.memory_mut().lock_mut().release_leaked();
    }
}

impl Share for Core {
    #[inline]
    fn lock_handle(&self) -> &LockHandle {
        self.memory().lock()
    }
}

#[cold]
fn busy(mode: Mode, began: Option<Instant>) -> Error {
    let what = match mode {
        Mode::Shared => "written",
        Mode::Exclusive => "read or written",
    };
    let waited = began.map(|began| format!("; waited {:.1?}", began.elapsed())).unwrap_or_default();
    Error::new(ErrorKind::WouldBlock, format!("the array is being {what} by another handle or process{waited}"))
}

#[cold]
fn poisoned(writer: u32, name: Option<&str>) -> Error {
    let writer = match writer {
        0 => "this process".to_owned(),
        pid => format!("process {pid}"),
    };
    Error::new(
        ErrorKind::Poisoned,
        format!(
            "a write{} by {writer} did not finish (it died or panicked, or a task of its pool did, or its call \
             was cancelled or ran out of time); check the elements, \
             then call clear_poison()",
            name.map(|name| format!(" to {name:?}")).unwrap_or_default()
        ),
    )
}

impl Drop for Core {
    fn drop(&mut self) {
        self.release_leaked();
        let Some(recipe) = self.recipe.take() else { return };
        // A poisoned array is one of which it is not known who did what to it. The mark is in the memory, which a forked
        // child does not have.
        let fit = !std::thread::panicking() && self.memory().is_unshared() && !self.is_marked();
        if let Some(memory) = self.memory.take().filter(|_| fit) {
            spare::keep(memory, recipe);
        }
    }
}

/// The array is locked for as long as this lives; where it is written, dropping this ends the write, except in a panic
/// or after [`poison`](Held::poison).
pub(crate) struct Held<'a> {
    // Dropped after `Drop::drop` ran, so the mark is gone before the lock is.
    locked: Locked<'a, Core>,
}

impl<'a> Held<'a> {
    /// Marks that a write begins, where it is one. Nothing is marked yet.
    #[inline]
    fn new(locked: Locked<'a, Core>, control: &Control<'_>, block: &Block) -> Self {
        if locked.mode() == Mode::Exclusive {
            if control.exists() {
                control.begin(block.process_id());
            } else {
                block.set_mark(true);
            }
        }
        Self { locked }
    }

    /// The access of the description that the kernel's lock is on; none for a private block.
    #[inline]
    pub(crate) fn kernel(&self) -> Option<Access> {
        self.locked.kernel()
    }

    /// The mark stays when the lock goes: the next one is told that the elements may be half written.
    pub(crate) fn poison(&self) {
        if self.locked.mode() == Mode::Exclusive {
            self.locked.by().memory().lock().block().spoil();
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.locked.mode() == Mode::Shared {
            return;
        }
        let core = self.locked.by();
        let block = core.memory().lock().block();
        // In a forked child the trailer is not mapped, and the write is the parent's.
        if !block.is_of_this_process() {
            return;
        }
        let half_written = std::thread::panicking() && !self.locked.began_in_panic();
        if block.take_spoiled() || half_written {
            return;
        }
        let control = core.control();
        if control.exists() {
            control.finish();
        } else {
            block.set_mark(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SharedArray;

    #[test]
    fn what_cannot_be_locked_at_once_is_not_locked_quickly() {
        let mut array = SharedArray::<u8, _>::zeros(3).unwrap();
        let core = array.core();
        let held = core.lock_quickly(Mode::Exclusive, Via::Lending).unwrap();
        assert_eq!(held.kernel(), None);
        assert!(core.lock_quickly(Mode::Shared, Via::Lending).is_none());
        assert!(core.is_marked());
        drop(held);
        assert!(!core.is_marked());
        let held = core.lock_quickly(Mode::Shared, Via::Lending).unwrap();
        assert!(core.lock(Mode::Exclusive, Wait::No, Via::Own).is_err());
        drop(held);
        let held = core.lock_quickly(Mode::Exclusive, Via::Lending).unwrap();
        held.poison();
        drop(held);
        assert!(core.lock_quickly(Mode::Shared, Via::Lending).is_none());
        assert!(
            core.lock(Mode::Shared, Wait::No, Via::Lending).is_err_and(|error| error.kind() == ErrorKind::Poisoned)
        );
        array.clear_poison().unwrap();
        drop(array.core().lock_quickly(Mode::Exclusive, Via::Lending).unwrap());
        assert!(!array.core().is_marked());
        array.share_fd().unwrap();
        assert!(array.core().lock_quickly(Mode::Shared, Via::Lending).is_none());
    }
}
