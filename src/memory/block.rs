//! The one state that a process has of a block: who may lock it, who does, and through which descriptors.
//!
//! Every handle on the same file, an array, a raw memory, an argument lent to a pool, meets here, found by device and
//! inode. Within the process a small monitor ([`Local`]) admits many readers or one writer; across processes the kernel's
//! lock does, which is taken when the first of this process comes and dropped when the last one goes. A block that is
//! *private*, anonymous memory whose descriptor never left this process and its workers, needs no kernel lock at all.
//!
//! Two open file descriptions serve a block, because an unlock through one drops every lock held through it: the
//! process's *own*, for guards, and one for *lending*, which the workers of a pool hold too, so that a lock on lent
//! memory lives until the last of them is gone.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::{self, FileId};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::lock::{self, Mode, Wait};
use crate::sys::map::Access;
use crate::sys::thread_id::{self, ThreadId};

/// How long a reader that lets a writer of another process pass waits before it looks again.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// How often somebody whose patience may end looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// What this process knows of one file.
pub(crate) struct Block {
    id: FileId,
    epoch: Epoch,
    /// Own description opened for writing, and one opened read-only: at least one is there. Nobody but this state locks
    /// through them, and they are given to nobody.
    writable: OnceLock<OwnedFd>,
    readable: OnceLock<OwnedFd>,
    /// The descriptions that workers hold too, opened with the most access that there is at the time.
    lending_writable: OnceLock<OwnedFd>,
    lending_readable: OnceLock<OwnedFd>,
    local: Mutex<Local>,
    /// How many holders are noted in `local`, which is where it changes.
    noted: AtomicUsize,
    changed: Condvar,
    /// A write of this process ended in a panic, in a block that has no trailer to say so.
    mark: AtomicBool,
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

/// The monitor. Invariant: `holders` has any number of shared entries or exactly one exclusive one, and while the block
/// is not private, `own` and `lent` say what the kernel holds for the entries of that [`Via`].
struct Local {
    private: bool,
    holders: Vec<Holder>,
    /// A thread is asking the kernel, without the mutex; nobody else is admitted until it has its answer.
    asking: Option<Asking>,
    /// Writers of this process in the queue: new readers let them pass.
    writers_waiting: usize,
    /// Threads that wait for a change.
    sleepers: usize,
    own: Option<(Mode, Access)>,
    lent: Option<(Mode, Access)>,
}

/// How long the kernel's answer can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// It says yes or no at once.
    Briefly,
    /// Until another process lets go.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    handle: u64,
    thread: ThreadId,
    mode: Mode,
    via: Via,
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
        let key = (epoch(), id);
        let block = registry.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            Arc::new(Self {
                id,
                epoch: key.0,
                writable: OnceLock::new(),
                readable: OnceLock::new(),
                lending_writable: OnceLock::new(),
                lending_readable: OnceLock::new(),
                local: Mutex::new(Local {
                    private,
                    holders: Vec::new(),
                    asking: None,
                    writers_waiting: 0,
                    sleepers: 0,
                    own: None,
                    lent: None,
                }),
                noted: AtomicUsize::new(0),
                changed: Condvar::new(),
                mark: AtomicBool::new(false),
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
        self.epoch == epoch()
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
        let lent = locked(&self.local).lent;
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
        let mut local = locked(&self.local);
        if !local.private {
            return Ok(());
        }
        for via in [Via::Own, Via::Lending] {
            let Some(mode) = local.holders.iter().find(|holder| holder.via == via).map(|holder| holder.mode) else {
                continue;
            };
            let access = self.access_for(via, mode);
            lock::lock(self.description(via, access)?, mode, Wait::No, false)?;
            *local.kernel(via) = Some((mode, access));
        }
        local.private = false;
        Ok(())
    }

    /// Waits until the lock can be granted and notes the holder.
    #[inline]
    fn acquire(&self, holder: Holder, wait: Wait<'_>) -> Result<Grant> {
        self.check_process()?;
        let mut local = locked(&self.local);
        if local.is_idle() && !is_lent(self.id, holder.mode) {
            self.note(&mut local, holder);
            return Ok(Grant::Private);
        }
        self.acquire_among_others(local, holder, wait)
    }

    fn note(&self, local: &mut Local, holder: Holder) {
        local.holders.push(holder);
        // Relaxed: see `LockHandle::release_leaked`.
        self.noted.store(local.holders.len(), Ordering::Relaxed);
    }

    fn acquire_among_others<'a>(
        &'a self,
        mut local: MutexGuard<'a, Local>,
        holder: Holder,
        wait: Wait<'_>,
    ) -> Result<Grant> {
        let Holder { thread, mode, via, .. } = holder;
        if local.holders.iter().any(|h| h.thread == thread && (h.mode == Mode::Exclusive || mode == Mode::Exclusive)) {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "this thread holds a guard of the same block, and waiting for itself would never end; drop the guard first",
            ));
        }
        if is_lent(self.id, mode) {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "the call that this task belongs to was lent the same block, and waiting for its end here would never end; \
                 use the view that the task was given",
            ));
        }
        // Counted while it waits, so that readers of this process that come later let it pass.
        let queued = mode == Mode::Exclusive;
        local.writers_waiting += usize::from(queued);
        loop {
            let admitted = local.admits(mode, thread);
            if admitted && !local.joins_readers(mode, thread) {
                break;
            }
            // While this process reads, the kernel asks no more of its readers: they have to let writers of other
            // processes pass here, or would starve them.
            let held_back = admitted && !lock::gate_is_open(self.own_fd(Access::ReadOnly).0)?;
            if admitted && !held_back {
                break;
            }
            // Nobody tells when the gate opens, unless the last reader of this process goes.
            let wait_now = if held_back { wait.at_most_for(GATE_PAUSE) } else { wait };
            let (next, timed_out) = self.wait_for_change(local, wait_now);
            local = next;
            // A pause may have been over before it began.
            if timed_out && wait.left().is_some_and(|left| left.is_zero()) {
                local.writers_waiting -= usize::from(queued);
                self.wake(local);
                return Ok(Grant::Late);
            }
        }
        local.writers_waiting -= usize::from(queued);
        if !local.private && local.kernel(via).is_none() {
            // A shared lock that this process already has through its other description: see `lock::lock`.
            let pass_gate = local.holders.is_empty();
            local.asking = Some(Asking::Briefly);
            drop(local);
            let access = self.access_for(via, mode);
            let ask = |wait| lock::lock(self.description(via, access)?, mode, wait, pass_gate);
            let mut answer = ask(Wait::No);
            if !matches!(wait, Wait::No) && matches!(answer, Ok(false)) {
                local = locked(&self.local);
                local.asking = Some(Asking::Waiting);
                self.wake(local);
                answer = ask(wait);
            }
            local = locked(&self.local);
            local.asking = None;
            if !matches!(answer, Ok(true)) {
                self.wake(local);
                return answer.map(|_| Grant::Late);
            }
            *local.kernel(via) = Some((mode, access));
        }
        self.note(&mut local, holder);
        let grant = local.kernel(via).map_or(Grant::Private, |(_, access)| Grant::Kernel(access));
        self.wake(local);
        Ok(grant)
    }

    fn wait_for_change<'a>(&self, mut local: MutexGuard<'a, Local>, wait: Wait<'_>) -> (MutexGuard<'a, Local>, bool) {
        // Nobody takes another thread's short question for a lock that is held, not even who only tries.
        let left = match (local.asking, wait) {
            (Some(Asking::Briefly), _) | (_, Wait::Forever) => None,
            (_, Wait::With(_)) => Some(wait.left().unwrap_or(LOOK)),
            _ => wait.left(),
        };
        if left == Some(Duration::ZERO) {
            return (local, true);
        }
        local.sleepers += 1;
        let mut local = match left {
            None => self.changed.wait(local).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.changed.wait_timeout(local, left).unwrap_or_else(PoisonError::into_inner).0,
        };
        local.sleepers -= 1;
        (local, false)
    }

    /// Lets those that wait look again. Without any it makes no system call, which a condition variable always does.
    #[inline]
    fn wake(&self, local: MutexGuard<'_, Local>) {
        let sleepers = local.sleepers;
        drop(local);
        if sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Takes back one entry like that, and the kernel's lock with the last one.
    #[inline]
    fn release(&self, holder: Holder) {
        if !self.is_of_this_process() {
            return;
        }
        let mut local = locked(&self.local);
        if let Some(position) = local.holders.iter().position(|noted| *noted == holder) {
            local.holders.swap_remove(position);
            self.released(local);
        }
    }

    /// The same for all entries of a handle.
    #[cold]
    fn release_all(&self, handle: u64) {
        if !self.is_of_this_process() {
            return;
        }
        let mut local = locked(&self.local);
        let before = local.holders.len();
        local.holders.retain(|holder| holder.handle != handle);
        if local.holders.len() < before {
            self.released(local);
        }
    }

    #[inline]
    fn released(&self, mut local: MutexGuard<'_, Local>) {
        self.noted.store(local.holders.len(), Ordering::Relaxed);
        if !local.private {
            self.unlock_for_nobody(&mut local);
        }
        self.wake(local);
    }

    /// Takes back the kernel's locks that nobody is noted for.
    fn unlock_for_nobody(&self, local: &mut Local) {
        for via in [Via::Own, Via::Lending] {
            if local.holders.iter().any(|holder| holder.via == via) {
                continue;
            }
            if let Some((_, access)) = local.kernel(via).take()
                && let Ok(fd) = self.description(via, access)
            {
                lock::unlock(fd);
            }
        }
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
        let key = (self.epoch, self.id);
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

impl Local {
    /// Does nobody hold, ask or wait, and is the kernel not asked either?
    #[inline]
    fn is_idle(&self) -> bool {
        self.private && self.holders.is_empty() && self.asking.is_none() && self.writers_waiting == 0
    }

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
    fn joins_readers(&self, mode: Mode, thread: ThreadId) -> bool {
        mode == Mode::Shared
            && !self.private
            && !self.holders.is_empty()
            && self.holders.iter().all(|holder| holder.thread != thread)
    }

    /// What the kernel holds for the entries of a [`Via`].
    fn kernel(&mut self, via: Via) -> &mut Option<(Mode, Access)> {
        match via {
            Via::Own => &mut self.own,
            Via::Lending => &mut self.lent,
        }
    }
}

/// In a worker: the blocks of the call that it works on, which its parent has locked for it. Its own handles on the same
/// blocks would wait for the call to end, and the call for them.
static LENT: Mutex<Vec<(FileId, Mode)>> = Mutex::new(Vec::new());

/// Is there any? Processes that are no workers never have to look further.
static ANY_LENT: AtomicBool = AtomicBool::new(false);

/// Notes what the call lends for as long as the returned value lives.
pub(crate) fn note_lent(blocks: impl Iterator<Item = (FileId, Mode)>) -> NotedLent {
    let mut lent = locked(&LENT);
    lent.clear();
    lent.extend(blocks);
    // Relaxed: the task's own thread sees it, and so does whoever the task starts or tells.
    ANY_LENT.store(!lent.is_empty(), Ordering::Relaxed);
    NotedLent(())
}

/// The same once more for what was noted last.
#[inline]
pub(crate) fn note_lent_again() -> NotedLent {
    // Relaxed: as in `note_lent`.
    ANY_LENT.store(true, Ordering::Relaxed);
    NotedLent(())
}

/// See [`note_lent`].
pub(crate) struct NotedLent(());

impl Drop for NotedLent {
    #[inline]
    fn drop(&mut self) {
        ANY_LENT.store(false, Ordering::Relaxed);
    }
}

#[inline]
fn is_lent(id: FileId, mode: Mode) -> bool {
    ANY_LENT.load(Ordering::Relaxed) && is_lent_in_conflict(id, mode)
}

#[cold]
fn is_lent_in_conflict(id: FileId, mode: Mode) -> bool {
    let conflicts = |lent: Mode| lent == Mode::Exclusive || mode == Mode::Exclusive;
    locked(&LENT).iter().any(|&(lent, held)| lent == id && conflicts(held))
}

/// One handle's share in a block's lock.
///
/// Invariant: every lock taken through a handle borrows it, so whoever has the handle by value or `&mut` knows that what
/// is still noted under its number is a guard that was leaked.
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
        let holder = Holder { handle: self.number, thread: thread_id::current(), mode, via };
        let grant = self.block.acquire(holder, wait)?;
        if grant == Grant::Late {
            return Ok(None);
        }
        Ok(Some(Locked { handle: self, holder, grant, not_send: PhantomData }))
    }

    /// Locks the block if it is private and idle; `None` in every other case. Never waits and makes no system call.
    #[inline]
    pub(crate) fn lock_quickly(&self, mode: Mode, via: Via) -> Option<Locked<'_>> {
        let block = &*self.block;
        // Where a task is lent anything, it takes a longer look to tell whether this is it.
        if !block.is_of_this_process() || ANY_LENT.load(Ordering::Relaxed) {
            return None;
        }
        let holder = Holder { handle: self.number, thread: thread_id::current(), mode, via };
        let mut local = match block.local.try_lock() {
            Ok(local) => local,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if !local.is_idle() {
            return None;
        }
        block.note(&mut local, holder);
        drop(local);
        Some(Locked { handle: self, holder, grant: Grant::Private, not_send: PhantomData })
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
            let local = locked(&self.block.local);
            local.private && local.holders.is_empty()
        }
    }

    /// May a lock be noted under this handle's number? With `&mut self` at hand that is a leaked one.
    #[inline]
    fn may_have_leaked(&mut self) -> bool {
        // Relaxed: whoever locked through this handle borrowed it, and is done with that before `&mut self`. What is still
        // noted from then on keeps the number above 0.
        self.block.noted.load(Ordering::Relaxed) > 0
    }

    /// Is an exclusive lock noted under this handle's number, which then is a leaked one?
    #[inline]
    pub(crate) fn has_leaked_exclusive(&mut self) -> bool {
        self.may_have_leaked()
            && self.block.is_of_this_process()
            && locked(&self.block.local).holders.iter().any(|h| h.handle == self.number && h.mode == Mode::Exclusive)
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

/// The block is locked for as long as this lives. Not `Send`: the block knows its holders by their thread.
pub(crate) struct Locked<'a> {
    handle: &'a LockHandle,
    holder: Holder,
    grant: Grant,
    not_send: PhantomData<MutexGuard<'static, ()>>,
}

impl Locked<'_> {
    /// When it was locked: the access of the description that the kernel's lock is on; none for a private block.
    pub(crate) fn kernel(&self) -> Option<Access> {
        match self.grant {
            Grant::Kernel(access) => Some(access),
            Grant::Late | Grant::Private => None,
        }
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.handle.block.release(self.holder);
    }
}
