//! The one state that a process has of a block: who may lock it, who does, and through which descriptors.
//!
//! Every handle on the same file, an array, a raw memory, an argument lent to a pool, meets here, found by device and
//! inode. Within the process a small [`monitor`] admits many readers or one writer; across processes the kernel's
//! lock does, which is taken when the first of this process comes and dropped when the last one goes. A block that is
//! *private*, anonymous memory whose descriptor never left this process and its workers, needs no kernel lock at all, and
//! where nobody else of this process wants it either, the monitor is passed by in the quick [`lane`].
//!
//! Two open file descriptions serve a block, because an unlock through one drops every lock held through it: the
//! process's *own*, for guards, and one for *lending*, which the workers of a pool hold too, so that a lock on lent
//! memory lives until the last of them is gone.
//!
//! | file | idea |
//! |---|---|
//! | `handle` | one handle's share: what is locked through it, and what was leaked |
//! | `monitor` | who holds the block within this process, and who waits |
//! | `lane` | the word by which a block that nobody else wants is locked |
//! | `lent` | what a worker must not lock, since its call has it locked |
//! | `model` | monitor and lane under a model checker |

mod handle;
mod lane;
mod lent;
#[cfg(test)]
mod model;
mod monitor;
#[cfg(test)]
mod tests;

pub(crate) use handle::{LockHandle, Locked, Share};
pub(crate) use lent::{NotedLent, note_lent, note_lent_again};

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::monitor::{Asking, Holder, Inside, Monitor};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::{self, FileId};
use crate::sys::fork::{Epoch, Home, process_id};
use crate::sys::lock::{self, Mode, Wait};
use crate::sys::map::Access;

/// How long a reader that lets a writer of another process pass waits before it looks again.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// What this process knows of one file.
pub(crate) struct Block {
    id: FileId,
    home: Home,
    /// Of the process that it is at home in.
    process_id: u32,
    /// Own description opened for writing, and one opened read-only: at least one is there. Nobody but this state locks
    /// through them, and they are given to nobody.
    writable: OnceLock<OwnedFd>,
    readable: OnceLock<OwnedFd>,
    /// The descriptions that workers hold too, opened with the most access that there is at the time.
    lending_writable: OnceLock<OwnedFd>,
    lending_readable: OnceLock<OwnedFd>,
    monitor: Monitor,
    /// A write of this process ended in a panic, in a block that has no trailer to say so.
    mark: AtomicBool,
    /// The write that is under way is not to end well. Relaxed throughout: used under the exclusive lock alone.
    spoiled: AtomicBool,
    /// Never given out twice: names the block to workers, which inode numbers, used again by the kernel, could not.
    serial: u64,
    /// The pools whose workers may have the block mapped.
    borrowers: Mutex<Vec<Weak<dyn Borrower>>>,
}

/// Somebody whose other processes keep mappings of a block after they were lent it.
pub(crate) trait Borrower: Send + Sync {
    /// The block is gone from this process: no need to keep it mapped. Must not wait.
    fn forget(&self, serial: u64);

    /// Returns when nobody has the block mapped any more, or at the deadline.
    fn let_go(&self, serial: u64, deadline: Instant);
}

/// What became of a wish to lock. Small, so that it is handed on in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// The wait was over before.
    Late,
    Private,
    /// The kernel has the lock too, on the description of that access.
    Kernel(Access),
}

/// Which description the kernel's lock is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The process's own: guards and copies.
    Own,
    /// The one that workers share: a call to a pool.
    Lending,
}

type Registry = Mutex<HashMap<(Epoch, FileId), Weak<Block>>>;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only the values have to differ.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A thread that panicked while it held one of these mutexes left nothing half done: every change is a single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// The state of the file behind `fd`, an open file description that was opened for this and that nobody else uses.
    ///
    /// `private` counts only where the file is new to this process.
    pub(crate) fn open(fd: OwnedFd, access: Access, private: bool) -> Result<Arc<Self>> {
        let id = file::identity(fd.as_fd())?;
        let mut registry = locked(registry());
        let home = Home::here();
        let key = (home.epoch(), id);
        let block = registry.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            Arc::new(Self {
                id,
                home,
                process_id: process_id(),
                writable: OnceLock::new(),
                readable: OnceLock::new(),
                lending_writable: OnceLock::new(),
                lending_readable: OnceLock::new(),
                monitor: Monitor::new(private),
                mark: AtomicBool::new(false),
                spoiled: AtomicBool::new(false),
                serial: next_serial(),
                borrowers: Mutex::default(),
            })
        });
        registry.insert(key, Arc::downgrade(&block));
        let slot = match access {
            Access::ReadWrite => &block.writable,
            Access::ReadOnly => &block.readable,
        };
        // Where the slot is taken, `fd` is one description too many and closes here.
        let _ = slot.set(fd);
        Ok(block)
    }

    #[inline]
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    #[inline]
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Under either lock: did a write of this process end in a panic, with no trailer to note it in?
    #[inline]
    pub(crate) fn mark(&self) -> bool {
        // Relaxed: read and written under the block's lock, which orders it.
        self.mark.load(Ordering::Relaxed)
    }

    /// Under the exclusive lock.
    #[inline]
    pub(crate) fn set_mark(&self, mark: bool) {
        self.mark.store(mark, Ordering::Relaxed);
    }

    /// Under the exclusive lock: whoever ends the write is to leave its mark.
    pub(crate) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    /// Under the exclusive lock, when the write ends: was it spoiled? The next one is not.
    #[inline]
    pub(crate) fn take_spoiled(&self) -> bool {
        let spoiled = self.spoiled.load(Ordering::Relaxed);
        if spoiled {
            self.spoiled.store(false, Ordering::Relaxed);
        }
        spoiled
    }

    /// Somebody is lent the block and has to be told when it goes.
    pub(crate) fn add_borrower(&self, borrower: &Weak<dyn Borrower>) {
        let mut borrowers = locked(&self.borrowers);
        borrowers.retain(|known| known.strong_count() > 0);
        if !borrowers.iter().any(|known| Weak::ptr_eq(known, borrower)) {
            borrowers.push(Weak::clone(borrower));
        }
    }

    /// Waits until nobody who was lent the block has it mapped, or for the deadline.
    pub(crate) fn ask_borrowers_to_let_go(&self, deadline: Instant) {
        let borrowers: Vec<_> = locked(&self.borrowers).iter().filter_map(Weak::upgrade).collect();
        for borrower in borrowers {
            borrower.let_go(self.serial, deadline);
        }
    }

    /// Was this state made in the calling process, and not in one that it was forked from?
    #[inline]
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.home.is_here()
    }

    /// The id of the process that this state was made in.
    #[inline]
    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.is_of_this_process() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Closed,
            "this handle belongs to the process that this one was forked from; attach to the block anew",
        ))
    }

    /// The description that a call's lock is on, which its workers have to hold; none for a private block.
    pub(crate) fn lent_fd(&self) -> Result<Option<(BorrowedFd<'_>, Access)>> {
        let lent = *self.monitor.enter().kernel(Via::Lending);
        lent.map(|(_, access)| Ok((self.lending_fd(access)?, access))).transpose()
    }

    fn lending_fd(&self, access: Access) -> Result<BorrowedFd<'_>> {
        let slot = match access {
            Access::ReadWrite => &self.lending_writable,
            Access::ReadOnly => &self.lending_readable,
        };
        if let Some(fd) = slot.get() {
            return Ok(fd.as_fd());
        }
        let fd = file::reopen(self.own_fd(access).0, access)?;
        Ok(slot.get_or_init(|| fd).as_fd())
    }

    /// The access of the description that a new lock goes through. Another thread may open the block with other access
    /// at any time, so who locks decides once and unlocks through the same.
    fn access_for(&self, via: Via, mode: Mode) -> Access {
        match (via, mode) {
            (_, Mode::Exclusive) => Access::ReadWrite,
            (Via::Own, Mode::Shared) => self.own_fd(Access::ReadOnly).1,
            (Via::Lending, Mode::Shared) => self.own_fd(Access::ReadWrite).1,
        }
    }

    fn description(&self, via: Via, access: Access) -> Result<BorrowedFd<'_>> {
        match via {
            Via::Own => Ok(self.own_fd(access).0),
            Via::Lending => self.lending_fd(access),
        }
    }

    fn own_fd(&self, wanted: Access) -> (BorrowedFd<'_>, Access) {
        let writable = self.writable.get().map(|fd| (fd.as_fd(), Access::ReadWrite));
        let readable = self.readable.get().map(|fd| (fd.as_fd(), Access::ReadOnly));
        let pick = match wanted {
            Access::ReadWrite => writable.or(readable),
            Access::ReadOnly => readable.or(writable),
        };
        pick.expect("a block is opened with a descriptor")
    }

    /// From here on others may reach the memory: the kernel's lock is needed. Guards that exist get theirs now; nobody
    /// else can hold one yet.
    fn end_privacy(&self) -> Result<()> {
        let mut inside = self.monitor.enter();
        if !inside.private {
            return Ok(());
        }
        let locked = [Via::Own, Via::Lending].into_iter().try_for_each(|via| {
            let Some(mode) = inside.holders.iter().find(|holder| holder.via == via).map(|holder| holder.mode) else {
                return Ok(());
            };
            let access = self.access_for(via, mode);
            lock::lock(self.description(via, access)?, mode, Wait::No, false)?;
            *inside.kernel(via) = Some((mode, access));
            Ok(())
        });
        inside.private = locked.is_err();
        if inside.private {
            for via in [Via::Own, Via::Lending] {
                self.unlock(&mut inside, via);
            }
        }
        locked
    }

    fn unlock(&self, inside: &mut Inside<'_>, via: Via) {
        if let Some((_, access)) = inside.kernel(via).take()
            && let Ok(fd) = self.description(via, access)
        {
            lock::unlock(fd);
        }
    }

    /// Waits until the lock can be granted and notes the holder.
    fn acquire(&self, holder: Holder, wait: Wait<'_>) -> Result<Grant> {
        self.check_process()?;
        let Holder { mode, via, .. } = holder;
        let mut inside = self.monitor.enter();
        inside.refuse_own(holder)?;
        lent::refuse(self.id, mode)?;
        if !inside.wait_for_turn(holder, wait, || lock::gate_is_open(self.own_fd(Access::ReadOnly).0))? {
            inside.wake();
            return Ok(Grant::Late);
        }
        if !inside.private && inside.kernel(via).is_none() {
            // A shared lock that this process already has through its other description: see `lock::lock`.
            let pass_gate = inside.holders.is_empty();
            inside.asking = Some(Asking::Briefly);
            drop(inside);
            let access = self.access_for(via, mode);
            let ask = |wait| lock::lock(self.description(via, access)?, mode, wait, pass_gate);
            let mut answer = ask(Wait::No);
            if !matches!(wait, Wait::No) && matches!(answer, Ok(false)) {
                inside = self.monitor.enter();
                inside.asking = Some(Asking::Waiting);
                inside.wake();
                answer = ask(wait);
            }
            inside = self.monitor.enter();
            inside.asking = None;
            if !matches!(answer, Ok(true)) {
                inside.wake();
                return answer.map(|_| Grant::Late);
            }
            *inside.kernel(via) = Some((mode, access));
        }
        inside.holders.push(holder);
        let grant = inside.kernel(via).map_or(Grant::Private, |(_, access)| Grant::Kernel(access));
        inside.wake();
        Ok(grant)
    }

    /// Takes back one entry like that, and the kernel's lock with the last one.
    fn release(&self, holder: Holder) {
        // In a forked child another thread of the parent may have had the monitor, for ever.
        if !self.is_of_this_process() {
            return;
        }
        let mut inside = self.monitor.enter();
        if inside.remove(holder) {
            self.released(inside);
        }
    }

    /// The same for all entries of a handle.
    #[cold]
    fn release_all(&self, handle: u64) {
        if !self.is_of_this_process() {
            return;
        }
        let mut inside = self.monitor.enter();
        if inside.remove_all(handle) {
            self.released(inside);
        }
    }

    /// Takes back the kernel's locks that nobody is noted for, and lets those that wait look again.
    #[inline]
    fn released(&self, mut inside: Inside<'_>) {
        if !inside.private {
            for via in [Via::Own, Via::Lending] {
                if inside.holders.iter().all(|holder| holder.via != via) {
                    self.unlock(&mut inside, via);
                }
            }
        }
        inside.wake();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // In a forked child another thread of the parent may have had the registry locked, for ever. The key is the
        // parent's, so nobody here finds what stays behind.
        if !self.is_of_this_process() {
            return;
        }
        let mut registry = locked(registry());
        let key = (self.home.epoch(), self.id);
        // Another thread may have made a new state for the same file since the last handle went.
        if registry.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
            registry.remove(&key);
        }
        drop(registry);
        let borrowers = std::mem::take(self.borrowers.get_mut().unwrap_or_else(PoisonError::into_inner));
        for borrower in borrowers.iter().filter_map(Weak::upgrade) {
            borrower.forget(self.serial);
        }
    }
}
