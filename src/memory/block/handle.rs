//! One handle's share in a block's lock.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use super::lane::{self, Pass};
use super::monitor::Holder;
use super::{Access, Block, Grant, Mode, Via, Wait};
use crate::error::Result;
use crate::sys::thread_id;

/// One handle's share in a block's lock.
///
/// Invariant: every lock taken through a handle borrows it, so whoever has the handle by value or `&mut` knows that what
/// is still held under its number is a guard that was leaked.
pub(crate) struct LockHandle {
    block: Arc<Block>,
    number: u64,
}

impl LockHandle {
    pub(crate) fn new(block: Arc<Block>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only the values have to differ.
        Self { block, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    #[inline]
    pub(crate) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Locks the block; `Ok(None)` where the wait is over before that.
    #[inline]
    pub(crate) fn lock(&self, mode: Mode, wait: Wait<'_>, via: Via) -> Result<Option<Locked<'_>>> {
        match Locked::quickly(self, mode, via) {
            Some(locked) => Ok(Some(locked)),
            None => Locked::among_others(self, mode, wait, via),
        }
    }

    /// The calling thread, as a holder.
    #[inline]
    fn holder(&self, mode: Mode, via: Via) -> Holder {
        Holder { handle: self.number, thread: thread_id::current(), mode, via }
    }

    /// Runs `f` with the block locked shared.
    pub(crate) fn with_shared<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        let _locked = self.lock(Mode::Shared, Wait::Forever, Via::Own)?;
        Ok(f())
    }

    /// Runs `f` with the block locked exclusively.
    pub(crate) fn with_exclusive<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        let _locked = self.lock(Mode::Exclusive, Wait::Forever, Via::Own)?;
        Ok(f())
    }

    /// The descriptor leaves this process: from now on the kernel's lock is taken, for good.
    pub(crate) fn end_privacy(&self) -> Result<()> {
        self.block.end_privacy()
    }

    /// Is this the only handle on the block, which nobody locks, and was its descriptor never let out?
    pub(crate) fn is_sole_and_private(&self) -> bool {
        // Nobody can make another handle meanwhile: that takes the descriptor.
        self.block.is_of_this_process() && Arc::strong_count(&self.block) == 1 && {
            let inside = self.block.monitor.enter();
            inside.private && inside.holders.is_empty()
        }
    }

    /// May a lock be held under this handle's number? With `&mut self` at hand that is a leaked one.
    #[inline]
    fn may_have_leaked(&mut self) -> bool {
        self.block.monitor.may_hold(self.number)
    }

    /// Is an exclusive lock held under this handle's number, which then is a leaked one?
    #[inline]
    pub(crate) fn has_leaked_exclusive(&mut self) -> bool {
        self.may_have_leaked() && self.block.is_of_this_process() && {
            let inside = self.block.monitor.enter();
            inside.holders.iter().any(|holder| holder.handle == self.number && holder.mode == Mode::Exclusive)
        }
    }

    /// Unlocks what guards hold that were leaked: with `&mut self` none of them can be alive.
    #[inline]
    pub(crate) fn release_leaked(&mut self) {
        if self.may_have_leaked() {
            self.block.release_all(self.number);
        }
    }
}

impl Drop for LockHandle {
    fn drop(&mut self) {
        self.release_leaked();
    }
}

/// Who has a share in a block's lock.
pub(crate) trait Share {
    fn lock_handle(&self) -> &LockHandle;
}

impl Share for LockHandle {
    #[inline]
    fn lock_handle(&self) -> &LockHandle {
        self
    }
}

/// The block is locked for as long as this lives. Not `Send`: the block knows its holders by their thread.
///
/// Two words, so that it is handed on in registers.
pub(crate) struct Locked<'a, S: Share = LockHandle> {
    by: &'a S,
    token: Token,
    not_send: PhantomData<MutexGuard<'static, ()>>,
}

impl<'a, S: Share> Locked<'a, S> {
    /// Locks the block if it is private and idle; `None` in every other case, and for writing in a panic. Never waits and
    /// makes no system call.
    #[inline]
    pub(crate) fn quickly(by: &'a S, mode: Mode, via: Via) -> Option<Self> {
        let handle = by.lock_handle();
        // What a task was lent another process has made, so here it is not private, and nobody has to ask for it.
        if !handle.block.is_of_this_process() || (mode == Mode::Exclusive && std::thread::panicking()) {
            return None;
        }
        let pass = Pass::of(handle.holder(mode, via))?;
        let locked = || Self { by, token: Token::quick(pass), not_send: PhantomData };
        handle.block.monitor.lock_quickly(pass).then(locked)
    }

    /// Waits until the block can be locked; `Ok(None)` where the wait is over before that.
    #[cold]
    pub(crate) fn among_others(by: &'a S, mode: Mode, wait: Wait<'_>, via: Via) -> Result<Option<Self>> {
        let handle = by.lock_handle();
        let kernel = match handle.block.acquire(handle.holder(mode, via), wait)? {
            Grant::Late => return Ok(None),
            Grant::Private => None,
            Grant::Kernel(access) => Some(access),
        };
        let token = Token::noted(mode, via, kernel, std::thread::panicking());
        Ok(Some(Self { by, token, not_send: PhantomData }))
    }

    #[inline]
    pub(crate) fn by(&self) -> &'a S {
        self.by
    }

    #[inline]
    pub(crate) fn mode(&self) -> Mode {
        self.token.mode()
    }

    /// When it was locked: the access of the description that the kernel's lock is on; none for a private block.
    #[inline]
    pub(crate) fn kernel(&self) -> Option<Access> {
        self.token.kernel()
    }

    /// Was it locked for writing by a thread that was panicking?
    #[inline]
    pub(crate) fn began_in_panic(&self) -> bool {
        self.token.0 & Token::IN_PANIC != 0 && self.token.pass().is_none()
    }

    #[cold]
    fn release(&self) {
        let handle = self.by.lock_handle();
        // Not `Send`: this is still the thread that locked it.
        handle.block.release(handle.holder(self.token.mode(), self.token.via()));
    }
}

impl<S: Share> Drop for Locked<'_, S> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child the lane is a copy, in which nothing is done for anybody.
        let quickly = |pass| self.by.lock_handle().block.monitor.unlock_quickly(pass);
        if !self.token.pass().is_some_and(quickly) {
            self.release();
        }
    }
}

/// What a lock is, in one word: a [`Pass`] where it was taken quickly, and otherwise the bits of one that say how, with more
/// in place of who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token(u64);

impl Token {
    const KERNEL: u64 = 1 << 3;
    const WRITABLE: u64 = 1 << 4;
    const IN_PANIC: u64 = 1 << 5;

    #[inline]
    fn quick(pass: Pass) -> Self {
        Self(pass.word())
    }

    fn noted(mode: Mode, via: Via, kernel: Option<Access>, in_panic: bool) -> Self {
        let kernel = match kernel {
            None => 0,
            Some(Access::ReadOnly) => Self::KERNEL,
            Some(Access::ReadWrite) => Self::KERNEL | Self::WRITABLE,
        };
        Self(lane::kind(mode, via) | kernel | if in_panic { Self::IN_PANIC } else { 0 })
    }

    #[inline]
    fn pass(self) -> Option<Pass> {
        Pass::in_word(self.0)
    }

    #[inline]
    fn mode(self) -> Mode {
        lane::mode(self.0)
    }

    fn via(self) -> Via {
        lane::via(self.0)
    }

    #[inline]
    fn kernel(self) -> Option<Access> {
        if self.pass().is_some() || self.0 & Self::KERNEL == 0 {
            None
        } else if self.0 & Self::WRITABLE == 0 {
            Some(Access::ReadOnly)
        } else {
            Some(Access::ReadWrite)
        }
    }
}
