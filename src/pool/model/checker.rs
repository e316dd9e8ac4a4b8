//! What processes are made of, in either of the checkers: loom, or [`steps`].

use std::cell::Cell;
use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{self, AtomicU64};
use loom::thread;

use super::life::die;
use super::steps;

/// Loom's threads have small stacks. In words.
const STACK: usize = 32 * 1024;

thread_local! {
    static FENCES: Cell<bool> = const { Cell::new(true) };
}

/// Whether fences are any.
pub(super) fn set_fences(fences: bool) {
    FENCES.set(fences);
}

/// Orders all that stands before it and all that comes after it, among all fences.
pub(super) fn fence() {
    if FENCES.get() && !steps::runs() {
        atomic::fence(Ordering::SeqCst);
    }
}

/// A word of memory that processes share.
pub(super) enum Word {
    Loom(AtomicU64),
    Steps(steps::Word),
}

impl Word {
    pub(super) fn new() -> Self {
        if steps::runs() { Self::Steps(steps::Word::new()) } else { Self::Loom(AtomicU64::new(0)) }
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        match self {
            Self::Loom(word) => word.load(order),
            Self::Steps(word) => word.load(),
        }
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        match self {
            Self::Loom(word) => word.store(value, order),
            Self::Steps(word) => word.store(value),
        }
    }

    pub(super) fn compare_exchange(&self, old: u64, new: u64, orders: [Ordering; 2]) -> Result<u64, u64> {
        match self {
            Self::Loom(word) => word.compare_exchange(old, new, orders[0], orders[1]),
            Self::Steps(word) => {
                let before = word.update(|now| if now == old { new } else { now });
                if before == old { Ok(before) } else { Err(before) }
            }
        }
    }

    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        match self {
            Self::Loom(word) => word.fetch_add(value, order),
            Self::Steps(word) => word.update(|now| now.wrapping_add(value)),
        }
    }

    /// A step in which nothing is changed, but somebody may be woken who sleeps on the word.
    pub(super) fn ring(&self) {
        if let Self::Steps(word) = self {
            word.ring();
        }
    }

    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        match self {
            Self::Loom(word) => word.swap(value, order),
            Self::Steps(word) => word.update(|_| value),
        }
    }
}

/// Memory that may be used by one side at a time. Loom is told of each use, and finds those that nothing orders; the other
/// checker has to see what stands there, as a hash.
pub(super) enum Region {
    Loom(UnsafeCell<()>),
    Steps(steps::Word),
}

impl Region {
    pub(super) fn new() -> Self {
        if steps::runs() { Self::Steps(steps::Word::new()) } else { Self::Loom(UnsafeCell::new(())) }
    }

    pub(super) fn write(&self, hash: impl FnOnce() -> u64) {
        match self {
            Self::Loom(region) => region.with_mut(|_| ()),
            Self::Steps(word) => word.store(hash()),
        }
    }

    pub(super) fn read(&self) {
        match self {
            Self::Loom(region) => region.with(|_| ()),
            Self::Steps(word) => _ = word.load(),
        }
    }
}

/// A thread, which is a process or several ones after another.
#[derive(Clone)]
pub(super) enum Thread {
    Loom(thread::Thread),
    Steps(usize),
}

impl Thread {
    pub(super) fn current() -> Self {
        if steps::runs() { Self::Steps(steps::current()) } else { Self::Loom(thread::current()) }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Loom(one), Self::Loom(other)) => one.id() == other.id(),
            (Self::Steps(one), Self::Steps(other)) => one == other,
            _ => false,
        }
    }

    pub(super) fn unpark(&self) {
        match self {
            Self::Loom(thread) => thread.unpark(),
            Self::Steps(process) => steps::unpark(*process),
        }
    }

    /// As a signal does that kills.
    pub(super) fn doom(&self) {
        match self {
            Self::Loom(_) => unreachable!("nobody is killed in this checker"),
            Self::Steps(process) => steps::doom(*process),
        }
    }
}

/// Sleeps until somebody unparks this thread; `false` where the process dies.
pub(super) fn park() -> bool {
    if steps::runs() {
        return steps::park();
    }
    thread::park();
    true
}

/// What waits for a thread's end.
pub(super) struct Join(Option<thread::JoinHandle<()>>);

impl Join {
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    pub(super) fn join(self) {
        if let Self(Some(thread)) = self {
            thread.join().expect("the thread has ended");
        }
    }
}

pub(super) fn spawn(body: impl FnOnce() + Send + 'static) -> Join {
    if steps::runs() {
        steps::spawn(body);
        return Join(None);
    }
    Join(Some(thread::Builder::new().stack_size(STACK).spawn(body).expect("the checker has a thread")))
}

/// Does nothing until the condition is true, which is no step.
pub(super) fn wait_until(condition: impl Fn() -> bool + 'static) {
    if steps::runs() {
        if !steps::wait_until(condition) {
            die(None);
        }
        return;
    }
    while !condition() {
        thread::yield_now();
    }
}

pub(super) fn stop_exploring() {
    if steps::runs() { steps::stop_exploring() } else { loom::stop_exploring() }
}

/// From here on, or no more, the checker decides whether this process dies.
pub(super) fn set_mortal(mortal: bool) {
    if steps::runs() {
        steps::set_mortal(mortal);
    }
}

/// The process that runs is what `state` says, whatever it has seen.
pub(super) fn know_by(state: impl FnOnce() -> String) {
    if steps::runs() && !std::thread::panicking() {
        steps::know_by(&state());
    }
}
