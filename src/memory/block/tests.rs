//! What happens to a lock by the quick lane when others come, and that threads exclude each other by whichever way.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::lane::{Lane, Pass, Rest};
use super::monitor::{Holder, Monitor};
use super::{Block, LockHandle, Locked, Mode, Via, Wait};
use crate::ErrorKind;
use crate::sys::file;
use crate::sys::lock;
use crate::sys::map::Access;
use crate::sys::memfd;
use crate::sys::thread_id::{self, ThreadId};

fn holder(handle: u64, thread: u64) -> Holder {
    Holder { handle, thread: ThreadId::from_number(thread), mode: Mode::Exclusive, via: Via::Own }
}

fn pass(handle: u64) -> Pass {
    Pass::of(holder(handle, 1)).unwrap()
}

/// A private block, and a descriptor that its locks exclude.
fn private() -> (Arc<Block>, OwnedFd) {
    let file = memfd::create().unwrap();
    let open = || file::reopen(file.as_fd(), Access::ReadWrite).unwrap();
    (Block::open(open(), Access::ReadWrite, true).unwrap(), open())
}

fn is_open(handle: &LockHandle) -> bool {
    Locked::quickly(handle, Mode::Exclusive, Via::Own).is_some()
}

#[test]
fn a_pass_says_who_holds_the_block_and_how() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        for via in [Via::Own, Via::Lending] {
            for (handle, thread) in [(0, 1), (1, 1), (0xffff_ffff, 0x1fff_ffff), (0x1234_5678, 0x0fed_cba9)] {
                let holder = Holder { handle, thread: ThreadId::from_number(thread), mode, via };
                let pass = Pass::of(holder).unwrap();
                assert_eq!(pass.holder(), holder);
                assert_eq!(Pass::in_word(pass.word()), Some(pass));
            }
        }
    }
    assert_eq!(Pass::of(holder(1 << 32, 1)), None);
    assert_eq!(Pass::of(holder(1, 1 << 29)), None);
}

#[test]
fn an_open_lane_admits_one_at_a_time_and_a_closed_one_nobody() {
    let lane = Lane::<AtomicU64>::new(Rest::Open);
    assert!(lane.enter(pass(1)));
    assert!(!lane.enter(pass(2)) && !lane.enter(pass(1)));
    assert!(!lane.leave(pass(2)));
    assert!(lane.leave(pass(1)) && !lane.leave(pass(1)));
    assert!(lane.enter(pass(2)));
    assert_eq!(lane.close(), Some(pass(2)));
    assert_eq!(lane.close(), None);
    assert!(!lane.leave(pass(2)) && !lane.enter(pass(3)));
    for rest in [Rest::Closed, Rest::Vacant] {
        lane.settle(rest);
        assert!(!lane.enter(pass(3)) && !lane.leave(pass(2)));
        assert_eq!(lane.close(), None);
    }
    lane.settle(Rest::Open);
    assert!(lane.enter(pass(3)));
}

#[test]
fn the_lane_tells_whose_lock_it_may_hold() {
    let lane = Lane::<AtomicU64>::new(Rest::Vacant);
    assert!(!lane.may_hold(1));
    lane.close();
    assert!(lane.may_hold(1));
    lane.settle(Rest::Open);
    assert!(!lane.may_hold(1));
    assert!(lane.enter(pass(1)));
    assert!(lane.may_hold(1) && !lane.may_hold(2) && !lane.may_hold(0));
    lane.close();
    lane.settle(Rest::Closed);
    assert!(lane.may_hold(1) && lane.may_hold(2));
}

#[test]
fn a_holder_is_noted_when_somebody_looks_and_the_lane_stays_closed_until_it_has_gone() {
    let monitor: Monitor = Monitor::new(true);
    assert!(monitor.lock_quickly(pass(1)));
    assert_eq!(monitor.enter().holders, [holder(1, 1)]);
    assert!(!monitor.lock_quickly(pass(2)) && !monitor.unlock_quickly(pass(1)));
    assert_eq!(monitor.enter().holders, [holder(1, 1)]);
    let mut inside = monitor.enter();
    assert!(!inside.remove(holder(2, 1)) && inside.remove(holder(1, 1)));
    assert!(!monitor.lock_quickly(pass(2)));
    inside.wake();
    assert!(monitor.lock_quickly(pass(2)) && monitor.unlock_quickly(pass(2)));
    monitor.enter().private = false;
    assert!(!monitor.lock_quickly(pass(2)));
}

#[test]
fn nobody_overtakes_those_who_sleep() {
    let monitor: Arc<Monitor> = Arc::new(Monitor::new(true));
    assert!(monitor.lock_quickly(pass(1)));
    let asleep = Arc::new(AtomicUsize::new(0));
    let waiter = thread::spawn({
        let (monitor, asleep) = (Arc::clone(&monitor), Arc::clone(&asleep));
        move || {
            let mut inside = monitor.enter();
            asleep.store(1, Ordering::SeqCst);
            // The mutex is locked until this sleeps.
            assert!(inside.wait_for_turn(holder(2, 2), Wait::Forever, || Ok(true)).unwrap());
            inside.holders.push(holder(2, 2));
            inside.wake();
        }
    });
    while asleep.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let mut inside = monitor.enter();
    assert!(inside.remove(holder(1, 1)));
    // Nobody is told, so the waiter goes on sleeping.
    drop(inside);
    assert!(!monitor.lock_quickly(pass(3)));
    monitor.enter().wake();
    waiter.join().unwrap();
    assert!(!monitor.lock_quickly(pass(3)));
    assert!(monitor.enter().remove(holder(2, 2)));
    assert!(monitor.lock_quickly(pass(3)));
}

#[test]
fn readers_that_overlap_unlock_in_any_order_and_then_the_lane_is_open() {
    let (block, _fd) = private();
    let [one, other] = [LockHandle::new(Arc::clone(&block)), LockHandle::new(block)];
    for (first, last) in [(&one, &other), (&other, &one), (&one, &one)] {
        for swapped in [false, true] {
            let quick = Locked::quickly(first, Mode::Shared, Via::Own).unwrap();
            let noted = last.lock(Mode::Shared, Wait::No, Via::Own).unwrap().unwrap();
            assert!(!is_open(&one));
            let (goes, stays) = if swapped { (noted, quick) } else { (quick, noted) };
            drop(goes);
            assert!(!is_open(&one));
            drop(stays);
            assert!(is_open(&one) && is_open(&other));
        }
    }
}

#[test]
fn a_thread_that_would_wait_for_itself_is_told() {
    let (block, _fd) = private();
    let [one, other] = [LockHandle::new(Arc::clone(&block)), LockHandle::new(block)];
    for (held, wanted) in
        [(Mode::Exclusive, Mode::Exclusive), (Mode::Exclusive, Mode::Shared), (Mode::Shared, Mode::Exclusive)]
    {
        let quick = Locked::quickly(&one, held, Via::Lending).unwrap();
        for wait in [Wait::Forever, Wait::No, Wait::at_most(Duration::from_secs(60))] {
            let error = other.lock(wanted, wait, Via::Own).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(error.to_string().contains("waiting for itself would never end"), "{error}");
        }
        drop(quick);
        assert!(is_open(&other));
    }
}

#[test]
fn what_was_leaked_ends_with_its_handle_and_not_with_another() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        for noted in [false, true] {
            let (block, _fd) = private();
            let [mut one, mut other] = [LockHandle::new(Arc::clone(&block)), LockHandle::new(block)];
            std::mem::forget(Locked::quickly(&one, mode, Via::Own).unwrap());
            if noted {
                assert!(other.lock(Mode::Exclusive, Wait::No, Via::Own).is_err());
            }
            other.release_leaked();
            assert!(!other.has_leaked_exclusive());
            assert!(!is_open(&other));
            assert_eq!(one.has_leaked_exclusive(), mode == Mode::Exclusive);
            one.release_leaked();
            assert!(!one.has_leaked_exclusive());
            assert!(is_open(&other));
            std::mem::forget(Locked::quickly(&one, mode, Via::Own).unwrap());
            drop(one);
            assert!(is_open(&other));
        }
    }
}

#[test]
fn a_lock_by_the_lane_becomes_the_kernel_s_when_others_may_come() {
    for (mode, seen) in [(Mode::Shared, Mode::Shared), (Mode::Exclusive, Mode::Exclusive)] {
        for via in [Via::Own, Via::Lending] {
            let (block, fd) = private();
            let handle = LockHandle::new(Arc::clone(&block));
            let locked = Locked::quickly(&handle, mode, via).unwrap();
            assert_eq!(lock::held_elsewhere(fd.as_fd()).unwrap(), None);
            handle.end_privacy().unwrap();
            assert_eq!(lock::held_elsewhere(fd.as_fd()).unwrap(), Some(seen));
            assert_eq!(block.lent_fd().unwrap().is_some(), via == Via::Lending);
            // As it was when it was taken.
            assert_eq!(locked.kernel(), None);
            drop(locked);
            assert_eq!(lock::held_elsewhere(fd.as_fd()).unwrap(), None);
            assert!(!is_open(&handle));
            let locked = handle.lock(mode, Wait::No, via).unwrap().unwrap();
            assert!(locked.kernel().is_some() && locked.mode() == mode);
        }
    }
}

#[test]
fn a_block_stays_private_where_a_holder_cannot_have_the_kernel_s_lock() {
    let file = memfd::create().unwrap();
    let open = || file::reopen(file.as_fd(), Access::ReadOnly).unwrap();
    let handle = LockHandle::new(Block::open(open(), Access::ReadOnly, true).unwrap());
    let locked = Locked::quickly(&handle, Mode::Exclusive, Via::Own).unwrap();
    // The kernel locks for writing only what was opened for it.
    assert_eq!(handle.end_privacy().unwrap_err().kind(), ErrorKind::Permission);
    drop(locked);
    assert!(is_open(&handle) && handle.is_sole_and_private());
    assert_eq!(lock::held_elsewhere(open().as_fd()).unwrap(), None);
}

#[test]
fn a_handle_is_sole_and_private_while_nobody_holds_it() {
    let (block, _fd) = private();
    let handle = LockHandle::new(block);
    assert!(handle.is_sole_and_private());
    let locked = Locked::quickly(&handle, Mode::Shared, Via::Own).unwrap();
    assert!(!handle.is_sole_and_private());
    drop(locked);
    assert!(handle.is_sole_and_private() && is_open(&handle));
    handle.end_privacy().unwrap();
    assert!(!handle.is_sole_and_private());
}

/// What a lock guards, and who is there.
#[derive(Default)]
struct Room {
    readers: AtomicUsize,
    writers: AtomicUsize,
    /// Counted in two steps, of which a lock that does not exclude would lose some.
    count: AtomicU64,
}

impl Room {
    fn visit(&self, mode: Mode) {
        let (readers, writers) = (&self.readers, &self.writers);
        match mode {
            Mode::Shared => {
                readers.fetch_add(1, Ordering::SeqCst);
                assert_eq!(writers.load(Ordering::SeqCst), 0, "readers are alone with readers");
                readers.fetch_sub(1, Ordering::SeqCst);
            }
            Mode::Exclusive => {
                assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0, "a writer is alone");
                assert_eq!(readers.load(Ordering::SeqCst), 0, "a writer is alone");
                let count = self.count.load(Ordering::Relaxed);
                if count.is_multiple_of(64) {
                    thread::yield_now();
                }
                self.count.store(count + 1, Ordering::Relaxed);
                writers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// A sequence of numbers that look like chance, the same in each run.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    }
}

/// Locks in one way or another and, where that is granted, visits the room; leaves the lock behind if it is to leak.
fn take_a_turn(handle: &LockHandle, room: &Room, mode: Mode, leaks: bool, roll: &mut impl FnMut(u64) -> u64) -> bool {
    let via = if roll(4) == 0 { Via::Lending } else { Via::Own };
    let locked = match roll(4) {
        0 => Locked::quickly(handle, mode, via),
        1 => handle.lock(mode, Wait::No, via).unwrap(),
        2 => handle.lock(mode, Wait::at_most(Duration::from_micros(roll(100))), via).unwrap(),
        _ => Some(handle.lock(mode, Wait::Forever, via).unwrap().unwrap()),
    };
    let Some(locked) = locked else { return false };
    room.visit(mode);
    if mode == Mode::Shared && roll(4) == 0 {
        // A thread that reads already never waits to read, not for writers that wait either.
        drop(handle.lock(Mode::Shared, Wait::No, Via::Own).unwrap().unwrap());
        room.visit(mode);
    }
    if leaks {
        std::mem::forget(locked);
    }
    true
}

#[test]
fn threads_exclude_each_other_whether_they_wait_try_give_up_or_leak() {
    const THREADS: usize = 4;
    const TURNS: usize = 5_000;
    let (block, _fd) = private();
    let (room, barrier) = (Room::default(), Barrier::new(THREADS));
    let visited: u64 = thread::scope(|scope| {
        let visit = |number| {
            let (block, room, barrier) = (&block, &room, &barrier);
            move || {
                let mut handle = LockHandle::new(Arc::clone(block));
                let mut roll = dice(number);
                let mut written = 0;
                barrier.wait();
                for _ in 0..TURNS {
                    let mode = if roll(2) == 0 { Mode::Shared } else { Mode::Exclusive };
                    let leaks = roll(8) == 0;
                    // What is leaked is released at once, and else there is nothing of it.
                    if take_a_turn(&handle, room, mode, leaks, &mut roll) {
                        written += u64::from(mode == Mode::Exclusive);
                        assert_eq!(handle.has_leaked_exclusive(), leaks && mode == Mode::Exclusive);
                        handle.release_leaked();
                    }
                }
                written
            }
        };
        let threads: Vec<_> = (1..).take(THREADS).map(|number| scope.spawn(visit(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(room.count.load(Ordering::Relaxed), visited);
    assert!(is_open(&LockHandle::new(block)), "when all have gone the lane is open");
}

#[test]
fn a_handle_whose_number_is_too_large_for_a_pass_locks_by_the_monitor() {
    let monitor: Monitor = Monitor::new(true);
    let large = Holder { handle: 1 << 40, thread: thread_id::current(), mode: Mode::Shared, via: Via::Own };
    assert_eq!(Pass::of(large), None);
    let mut inside = monitor.enter();
    assert!(inside.wait_for_turn(large, Wait::No, || Ok(true)).unwrap());
    inside.holders.push(large);
    inside.wake();
    assert!(!monitor.lock_quickly(pass(1)));
    assert!(monitor.may_hold(1 << 40));
    assert!(monitor.enter().remove_all(1 << 40));
    assert!(monitor.lock_quickly(pass(1)));
}
