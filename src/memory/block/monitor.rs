//! The monitor: who holds a block within this process, who asks for it and who waits.
//!
//! Many readers or one writer. What it knows stands under a mutex, and beside that is the [quick lane](super::lane) for a
//! block that nobody else wants. [`Monitor::enter`] is the one way to the mutex: it closes the lane, and the value that
//! it returns opens it again, where it may, when it is dropped.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::lane::{Lane, Pass, Rest, Word};
use super::{Access, GATE_PAUSE, Mode, Via, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::lock::Wait;
use crate::sys::thread_id::ThreadId;

/// How often somebody whose patience may end looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// What threads meet by. A model checker has its own.
pub(super) trait Primitives: 'static {
    type Word: Word;
    type Mutex;
    type Guard<'a>: DerefMut<Target = Local>;
    type Condvar;

    fn mutex(local: Local) -> Self::Mutex;
    fn lock(mutex: &Self::Mutex) -> Self::Guard<'_>;
    fn condvar() -> Self::Condvar;
    fn wait<'a>(condvar: &'a Self::Condvar, guard: Self::Guard<'a>, at_most: Option<Duration>) -> Self::Guard<'a>;
    fn notify_all(condvar: &Self::Condvar);
}

/// Those of the standard library.
pub(super) struct Std;

impl Primitives for Std {
    type Word = AtomicU64;
    type Mutex = Mutex<Local>;
    type Guard<'a> = MutexGuard<'a, Local>;
    type Condvar = Condvar;

    fn mutex(local: Local) -> Mutex<Local> {
        Mutex::new(local)
    }

    #[inline]
    fn lock(mutex: &Mutex<Local>) -> MutexGuard<'_, Local> {
        locked(mutex)
    }

    fn condvar() -> Condvar {
        Condvar::new()
    }

    fn wait<'a>(
        condvar: &'a Condvar,
        guard: MutexGuard<'a, Local>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, Local> {
        match at_most {
            None => condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(time) => condvar.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    fn notify_all(condvar: &Condvar) {
        condvar.notify_all();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) handle: u64,
    pub(super) thread: ThreadId,
    pub(super) mode: Mode,
    pub(super) via: Via,
}

/// How long the kernel's answer can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// It says yes or no at once.
    Briefly,
    /// Until another process lets go.
    Waiting,
}

/// What the mutex guards. Invariant: `holders` has any number of shared entries or exactly one exclusive one, and while
/// the block is not private, `own` and `lent` say what the kernel holds for the entries of that [`Via`].
#[derive(Debug)]
pub(super) struct Local {
    pub(super) private: bool,
    pub(super) holders: Vec<Holder>,
    /// A thread is asking the kernel, without the mutex; nobody else is admitted until it has its answer.
    pub(super) asking: Option<Asking>,
    /// Writers of this process in the queue: new readers let them pass.
    writers_waiting: usize,
    /// Threads that wait for a change.
    sleepers: usize,
    own: Option<(Mode, Access)>,
    lent: Option<(Mode, Access)>,
}

/// See the [module](self).
pub(super) struct Monitor<P: Primitives = Std> {
    lane: Lane<P::Word>,
    local: P::Mutex,
    changed: P::Condvar,
}

impl<P: Primitives> Monitor<P> {
    pub(super) fn new(private: bool) -> Self {
        let local = Local {
            private,
            holders: Vec::new(),
            asking: None,
            writers_waiting: 0,
            sleepers: 0,
            own: None,
            lent: None,
        };
        Self { lane: Lane::new(local.rest()), local: P::mutex(local), changed: P::condvar() }
    }

    /// Locks the block for the holder if it is private and nobody holds it or waits for it.
    #[inline]
    pub(super) fn lock_quickly(&self, pass: Pass) -> bool {
        self.lane.enter(pass)
    }

    /// Unlocks what was locked quickly; `false` where the holder was noted meanwhile and has to be taken out.
    #[inline]
    pub(super) fn unlock_quickly(&self, pass: Pass) -> bool {
        self.lane.leave(pass)
    }

    /// See [`Lane::may_hold`].
    #[inline]
    pub(super) fn may_hold(&self, handle: u64) -> bool {
        self.lane.may_hold(handle)
    }

    /// Everybody who holds the block is noted in what this returns, and for as long as it lives nobody comes or goes.
    #[inline]
    pub(super) fn enter(&self) -> Inside<'_, P> {
        let mut local = P::lock(&self.local);
        if let Some(pass) = self.lane.close() {
            local.holders.push(pass.holder());
        }
        Inside { monitor: self, local: Some(local) }
    }
}

/// The mutex is locked and the lane closed.
pub(super) struct Inside<'a, P: Primitives = Std> {
    monitor: &'a Monitor<P>,
    /// Away while this waits.
    local: Option<P::Guard<'a>>,
}

impl<P: Primitives> Inside<'_, P> {
    /// A thread that waits for itself would wait for ever.
    #[inline]
    pub(super) fn refuse_own(&self, holder: Holder) -> Result<()> {
        let Holder { thread, mode, .. } = holder;
        if self.holders.iter().any(|h| h.thread == thread && (h.mode == Mode::Exclusive || mode == Mode::Exclusive)) {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "this thread holds a guard of the same block, and waiting for itself would never end; drop the guard first",
            ));
        }
        Ok(())
    }

    /// Waits until the holder can be admitted; `false` where the wait is over before. A reader that comes while others of
    /// this process have the kernel's lock is held back for a moment where `gate_is_open` says no.
    #[inline]
    pub(super) fn wait_for_turn(
        &mut self,
        holder: Holder,
        wait: Wait<'_>,
        gate_is_open: impl Fn() -> Result<bool>,
    ) -> Result<bool> {
        // Counted while it waits, so that readers of this process that come later let it pass.
        let queued = usize::from(holder.mode == Mode::Exclusive);
        self.writers_waiting += queued;
        let turn = self.wait_to_be_admitted(holder, wait, gate_is_open);
        self.writers_waiting -= queued;
        turn
    }

    #[inline]
    fn wait_to_be_admitted(
        &mut self,
        Holder { thread, mode, .. }: Holder,
        wait: Wait<'_>,
        gate_is_open: impl Fn() -> Result<bool>,
    ) -> Result<bool> {
        loop {
            let admitted = self.admits(mode, thread);
            // While this process reads, the kernel asks no more of its readers: they have to let writers of other
            // processes pass here, or would starve them.
            let held_back = admitted && self.joins_readers(mode, thread) && !gate_is_open()?;
            if admitted && !held_back {
                return Ok(true);
            }
            // Nobody tells when the gate opens, unless the last reader of this process goes.
            let wait_now = if held_back { wait.at_most_for(GATE_PAUSE) } else { wait };
            // A pause may have been over before it began.
            if self.wait_for_change(wait_now) && wait.left().is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }

    /// Returns whether the wait was over before it began.
    fn wait_for_change(&mut self, wait: Wait<'_>) -> bool {
        // Nobody takes another thread's short question for a lock that is held, not even who only tries.
        let left = match (self.asking, wait) {
            (Some(Asking::Briefly), _) | (_, Wait::Forever) => None,
            (_, Wait::With(_)) => Some(wait.left().unwrap_or(LOOK)),
            _ => wait.left(),
        };
        if left == Some(Duration::ZERO) {
            return true;
        }
        self.sleepers += 1;
        self.local = self.local.take().map(|local| P::wait(&self.monitor.changed, local, left));
        // The lane is still closed: it is not opened while anybody sleeps.
        self.sleepers -= 1;
        false
    }

    /// Takes out one entry like that; `false` where there is none.
    #[inline]
    pub(super) fn remove(&mut self, holder: Holder) -> bool {
        let position = self.holders.iter().position(|noted| *noted == holder);
        position.is_some_and(|position| {
            self.holders.swap_remove(position);
            true
        })
    }

    /// The same for all entries of a handle.
    pub(super) fn remove_all(&mut self, handle: u64) -> bool {
        let before = self.holders.len();
        self.holders.retain(|holder| holder.handle != handle);
        self.holders.len() < before
    }

    /// Lets those that wait look again. Without any it makes no system call, which a condition variable always does.
    #[inline]
    pub(super) fn wake(self) {
        let (monitor, sleepers) = (self.monitor, self.sleepers);
        drop(self);
        if sleepers > 0 {
            P::notify_all(&monitor.changed);
        }
    }
}

impl<P: Primitives> Deref for Inside<'_, P> {
    type Target = Local;

    #[inline]
    fn deref(&self) -> &Local {
        self.local.as_ref().expect("the mutex is locked but while this waits")
    }
}

impl<P: Primitives> DerefMut for Inside<'_, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Local {
        self.local.as_mut().expect("the mutex is locked but while this waits")
    }
}

impl<P: Primitives> Drop for Inside<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            self.monitor.lane.settle(local.rest());
        }
    }
}

impl Local {
    /// How the lane is to be left.
    #[inline]
    fn rest(&self) -> Rest {
        if !self.private && self.holders.is_empty() {
            Rest::Vacant
        } else if self.holders.is_empty() && self.sleepers == 0 {
            // A writer that waits sleeps, without the mutex, and what is private asks no kernel.
            debug_assert!(self.writers_waiting == 0 && self.asking.is_none(), "{self:?}");
            Rest::Open
        } else {
            Rest::Closed
        }
    }

    #[inline]
    fn admits(&self, mode: Mode, thread: ThreadId) -> bool {
        if self.asking.is_some() || self.holders.iter().any(|holder| holder.mode == Mode::Exclusive) {
            return false;
        }
        match mode {
            Mode::Exclusive => self.holders.is_empty(),
            // A thread that reads already must not wait for a writer that waits for it.
            Mode::Shared => self.writers_waiting == 0 || self.holders.iter().any(|holder| holder.thread == thread),
        }
    }

    /// Would it be a reader that comes while others of this process hold the kernel's lock? Not one that reads already:
    /// a writer that waits for that thread would be waited for in turn.
    #[inline]
    fn joins_readers(&self, mode: Mode, thread: ThreadId) -> bool {
        mode == Mode::Shared
            && !self.private
            && !self.holders.is_empty()
            && self.holders.iter().all(|holder| holder.thread != thread)
    }

    /// What the kernel holds for the entries of a [`Via`].
    #[inline]
    pub(super) fn kernel(&mut self, via: Via) -> &mut Option<(Mode, Access)> {
        match via {
            Via::Own => &mut self.own,
            Via::Lending => &mut self.lent,
        }
    }
}
