//! The monitor and its quick lane under a model checker: [loom](https://docs.rs/loom) runs them in every order of steps
//! that matters, with every older value that a load may still return.
//!
//! The code is what blocks run, over loom's atomics, mutex and condition variable; [`Stage`] puts its parts together as
//! `Block` and `Locked` do. What the lock guards is told to loom at each use: two uses of which one writes, and that nothing
//! orders, fail the check. So does a thread that sleeps for ever. In the end the lane has to be open again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;

use super::lane::{Pass, Word};
use super::monitor::{Holder, Local, Monitor, Primitives};
use super::{Mode, Via, Wait};
use crate::sys::thread_id::ThreadId;

struct Model;

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> bool {
        self.compare_exchange(old, new, order, Ordering::Relaxed).is_ok()
    }
}

impl Primitives for Model {
    type Word = AtomicU64;
    type Mutex = Mutex<Local>;
    type Guard<'a> = MutexGuard<'a, Local>;
    type Condvar = Condvar;

    fn mutex(local: Local) -> Mutex<Local> {
        Mutex::new(local)
    }

    fn lock(mutex: &Mutex<Local>) -> MutexGuard<'_, Local> {
        mutex.lock().unwrap()
    }

    fn condvar() -> Condvar {
        Condvar::new()
    }

    fn wait<'a>(
        condvar: &'a Condvar,
        guard: MutexGuard<'a, Local>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, Local> {
        assert_eq!(at_most, None, "no time passes here");
        condvar.wait(guard).unwrap()
    }

    fn notify_all(condvar: &Condvar) {
        condvar.notify_all();
    }
}

/// A block, and what its lock guards.
struct Stage {
    monitor: Monitor<Model>,
    elements: UnsafeCell<()>,
}

/// A lock that was taken.
struct Taken {
    holder: Holder,
    pass: Option<Pass>,
}

/// Thread and handle of that number.
fn holder(number: u64, mode: Mode) -> Holder {
    Holder { handle: number, thread: ThreadId::from_number(number), mode, via: Via::Own }
}

impl Stage {
    fn lock(&self, holder: Holder, wait: Wait<'_>) -> Option<Taken> {
        let pass = Pass::of(holder).filter(|&pass| self.monitor.lock_quickly(pass));
        if pass.is_none() {
            let mut inside = self.monitor.enter();
            inside.refuse_own(holder).unwrap();
            if !inside.wait_for_turn(holder, wait, || Ok(true)).unwrap() {
                inside.wake();
                return None;
            }
            if !inside.private {
                // What the kernel is asked then is another thing.
                return None;
            }
            inside.holders.push(holder);
            inside.wake();
        }
        Some(Taken { holder, pass })
    }

    fn unlock(&self, taken: &Taken) {
        if taken.pass.is_some_and(|pass| self.monitor.unlock_quickly(pass)) {
            return;
        }
        let mut inside = self.monitor.enter();
        assert!(inside.remove(taken.holder), "who does not leave by the lane is noted");
        inside.wake();
    }

    fn look(&self, mode: Mode) {
        match mode {
            Mode::Shared => self.elements.with(|_| ()),
            Mode::Exclusive => self.elements.with_mut(|_| ()),
        }
    }

    /// Locks, looks and unlocks, where it is admitted.
    fn once(&self, holder: Holder, wait: Wait<'_>) -> bool {
        let taken = self.lock(holder, wait);
        if let Some(taken) = &taken {
            self.look(holder.mode);
            self.unlock(taken);
        }
        taken.is_some()
    }
}

type Part = fn(&Stage);

/// What threads do with a private block, one part each; the first is done by the thread that waits for the others.
fn check(preemptions: Option<usize>, private_after: bool, parts: &'static [Part]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        let stage = Arc::new(Stage { monitor: Monitor::new(true), elements: UnsafeCell::new(()) });
        let threads: Vec<_> = parts[1..]
            .iter()
            .map(|part| {
                let stage = Arc::clone(&stage);
                thread::spawn(move || part(&stage))
            })
            .collect();
        parts[0](&stage);
        for thread in threads {
            thread.join().unwrap();
        }
        let pass = Pass::of(holder(9, Mode::Exclusive)).unwrap();
        assert_eq!(stage.monitor.lock_quickly(pass), private_after, "the lane is open where nobody is there");
        if private_after {
            stage.look(Mode::Exclusive);
        }
    });
}

fn write(stage: &Stage, number: u64) {
    assert!(stage.once(holder(number, Mode::Exclusive), Wait::Forever));
}

fn read(stage: &Stage, number: u64) {
    assert!(stage.once(holder(number, Mode::Shared), Wait::Forever));
}

fn try_to(stage: &Stage, number: u64, mode: Mode) {
    stage.once(holder(number, mode), Wait::No);
}

#[test]
fn two_writers_take_turns_and_none_sleeps_for_ever() {
    check(
        None,
        true,
        &[
            |stage| {
                write(stage, 1);
                write(stage, 1);
            },
            |stage| write(stage, 2),
        ],
    );
}

#[test]
fn writers_and_readers_take_turns() {
    check(None, true, &[|stage| write(stage, 1), |stage| read(stage, 2)]);
    check(Some(3), true, &[|stage| write(stage, 1), |stage| read(stage, 2), |stage| read(stage, 3)]);
    check(Some(3), true, &[|stage| write(stage, 1), |stage| write(stage, 2), |stage| write(stage, 3)]);
    check(Some(3), true, &[|stage| read(stage, 1), |stage| write(stage, 2), |stage| write(stage, 3)]);
}

#[test]
fn who_only_tries_leaves_nothing_behind() {
    check(
        None,
        true,
        &[
            |stage| try_to(stage, 1, Mode::Exclusive),
            |stage| {
                write(stage, 2);
                try_to(stage, 2, Mode::Shared);
            },
        ],
    );
    check(
        Some(3),
        true,
        &[|stage| try_to(stage, 1, Mode::Exclusive), |stage| try_to(stage, 2, Mode::Shared), |stage| write(stage, 3)],
    );
}

#[test]
fn a_thread_reads_twice_while_a_writer_waits() {
    check(
        Some(3),
        true,
        &[
            |stage| {
                let first = stage.lock(holder(1, Mode::Shared), Wait::Forever).unwrap();
                let second = stage.lock(holder(1, Mode::Shared), Wait::Forever).unwrap();
                stage.look(Mode::Shared);
                stage.unlock(&first);
                stage.look(Mode::Shared);
                stage.unlock(&second);
            },
            |stage| write(stage, 2),
        ],
    );
}

#[test]
fn who_ends_privacy_sees_whoever_is_there_and_admits_nobody_after_that() {
    const END: Part = |stage| {
        let mut inside = stage.monitor.enter();
        let alone = inside.holders.is_empty();
        inside.private = false;
        inside.wake();
        if alone {
            // Another process may be at it from here on, and no kernel's lock keeps it away.
            stage.look(Mode::Exclusive);
        }
    };
    check(
        None,
        false,
        &[END, |stage| {
            try_to(stage, 2, Mode::Exclusive);
            try_to(stage, 2, Mode::Exclusive);
        }],
    );
    check(Some(3), false, &[END, |stage| try_to(stage, 2, Mode::Shared), |stage| try_to(stage, 3, Mode::Shared)]);
}

#[test]
fn a_lock_that_was_leaked_is_found_by_its_handle() {
    const LEAK: Part = |stage| {
        assert!(stage.lock(holder(1, Mode::Exclusive), Wait::Forever).is_some());
        stage.look(Mode::Exclusive);
        assert!(stage.monitor.may_hold(1));
        let mut inside = stage.monitor.enter();
        assert!(inside.remove_all(1));
        inside.wake();
    };
    check(None, true, &[LEAK, |stage| write(stage, 2)]);
    check(
        Some(3),
        true,
        &[
            LEAK,
            |stage| try_to(stage, 2, Mode::Exclusive),
            |stage| {
                let mut inside = stage.monitor.enter();
                assert!(!inside.remove_all(3));
            },
        ],
    );
}
