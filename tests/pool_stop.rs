//! Calls that are ended from outside, by a deadline or a token: no chunk begins any more, short tasks finish, workers that
//! are stuck or stopped are gone before the call returns, and it says which rows are missing.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "attaching to arrays, and a fork in a callback")]

mod reexec;
mod workers;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ndarray::Ix1;
use ndshm::{CancelToken, Each, ErrorKind, Param, Pool, SharedArray, SharedMemory};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, raise as raise_signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use workers::{Flags, PATIENCE, assert_reaped, assert_whole, is_raised, raise, stop, tell, wait_for};

ndshm::init_before_main!();

/// Long enough for all that is not stuck, on a machine that is busy with something else.
const SOON: Duration = Duration::from_millis(500);

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

/// Longer than any test waits.
fn be_stuck() {
    thread::sleep(3 * PATIENCE);
}

/// Rows that are told are those of the chunk `stuck`, and what else is not done: on a machine that is busy with something
/// else a deadline cuts off more than what is stuck.
#[track_caller]
fn assert_told(error: &ndshm::Error, stuck: Range<usize>, done: impl Fn(usize) -> bool, of: usize) {
    let told: Vec<usize> = error.rows().iter().cloned().flatten().collect();
    let expected: Vec<usize> = (0..of).filter(|row| stuck.contains(row) || !done(*row)).collect();
    assert_eq!(told, expected, "{error}");
    let words = format!("{} of {of} rows", told.len());
    assert!(error.to_string().contains(&words), "{words} are missing in: {error}");
}

/// Gives what `body` does, which must not take long.
#[track_caller]
fn in_time<R>(body: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = body();
    assert!(start.elapsed() < PATIENCE / 2, "it took {:?}", start.elapsed());
    result
}

#[test]
fn a_deadline_ends_stuck_workers_and_names_their_rows() {
    let pool = two();
    let before = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(20).unwrap();
    let error = in_time(|| {
        pool.call()
            .deadline(SOON)
            .for_each((array.chunks_mut().rows(2), Param(&flags.path())), |(mut rows, flags), chunk| {
                rows[0] = 7;
                if chunk.index() == 0 {
                    tell(&flags, "stuck", &std::process::id().to_string());
                    be_stuck();
                }
                rows.fill(7);
            })
            .unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("within its deadline of 500ms"), "{error}");
    let stuck = wait_for(&flags.path(), "stuck").parse().unwrap();
    assert!(before.contains(&stuck));
    assert_reaped([stuck]);
    assert_eq!(pool.worker_pids().len(), 2);
    assert!(array.is_poisoned());
    array.clear_poison().unwrap();
    let rows = array.read().unwrap();
    assert_eq!((rows[0], rows[1]), (7, 0));
    assert_told(&error, 0..2, |row| rows[row] == 7, 20);
    drop(rows);
    assert_whole(&pool);
}

#[test]
fn a_deadline_of_nothing_begins_nothing() {
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u32, _>::zeros(20).unwrap();
        let error = pool.call().deadline(Duration::ZERO).for_each(array.chunks_mut(), |mut rows, _| rows += 1);
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, [0..20].as_slice()));
        assert!(!array.is_poisoned());
        assert_eq!(array.read().unwrap().sum(), 0);
        assert_eq!(pool.worker_pids(), pids);
        let far = pool.call().deadline(Duration::MAX).map(Each(&[1, 2]), |item, _| item + 1);
        assert_eq!(far.unwrap(), [2, 3]);
    }
}

#[test]
fn a_task_that_ends_soon_after_the_deadline_ends_in_good_order() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    let token = CancelToken::new();
    let error = pool
        .call()
        .cancel_with(&token)
        // The usual one would do where nothing else holds up the worker.
        .grace(PATIENCE)
        .progress(|_| {
            token.cancel();
            raise(&flags.path(), "cancelled");
        })
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
            // Longer than outcomes are kept back, so that the first one is told while the second task runs.
            thread::sleep(Duration::from_millis(12));
            if chunk.index() > 0 {
                wait_for(&flags, "cancelled");
                // Until the call is told to end.
                thread::sleep(Duration::from_millis(50));
            }
            row.fill(1);
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!array.is_poisoned());
    // The second one as well, unless the call was over before it began; and a parent that gets no time may let others begin.
    let done = array.read().unwrap().sum() as usize;
    assert!((1..4).contains(&done));
    assert_eq!(error.rows(), [done..4]);
    assert_eq!(pool.worker_pids(), pids, "nobody was killed");

    // The last chunk as well: then nothing is missing.
    let token = CancelToken::new();
    let results = pool.call().cancel_with(&token).progress(|_| token.cancel()).map(Each(&[1]), |item, _| item);
    assert_eq!(results.unwrap(), [1]);
}

#[test]
fn tasks_end_in_good_order_where_the_grace_is_long_enough() {
    for grace in [PATIENCE, Duration::MAX] {
        let pool = Pool::builder().workers(1).build().unwrap();
        let pids = pool.worker_pids();
        let flags = Flags::new();
        let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
        let token = CancelToken::new();
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                wait_for(&flags.path(), "running");
                token.cancel();
                raise(&flags.path(), "cancelled");
            });
            let call = pool.call().cancel_with(&token).grace(grace);
            call.for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), _| {
                raise(&flags, "running");
                wait_for(&flags, "cancelled");
                // Longer than the usual grace.
                thread::sleep(SOON);
                row.fill(1);
            })
            .unwrap_err()
        });
        assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [1..4].as_slice()));
        assert!(error.to_string().contains("the call was cancelled by a token"), "{error}");
        assert!(!array.is_poisoned());
        assert_eq!(array.read().unwrap().to_vec(), [1, 0, 0, 0]);
        assert_eq!(pool.worker_pids(), pids, "nobody was killed");
    }
}

#[test]
fn without_grace_tasks_are_cut_short_at_once() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut array = SharedArray::<u32, _>::zeros(1).unwrap();
    let call = pool.call().deadline(SOON).grace(Duration::ZERO);
    let error = in_time(|| call.for_each(array.chunks_mut(), |_, _| be_stuck()).unwrap_err());
    assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, [0..1].as_slice()));
    assert!(array.is_poisoned());
    assert_whole(&pool);
}

#[test]
fn a_stopped_worker_is_ended_by_a_deadline_with_retries_too() {
    for retries in [0, 2] {
        let pool = two();
        let stopped = pool.worker_pids()[0];
        stop(stopped);
        let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
        let outcome = in_time(|| {
            pool.call().retries(retries).deadline(SOON).for_each(array.chunks_mut().rows(1), |mut rows, _| rows += 1)
        });
        // It had no chunk in its hands, and the other one ran them all, if it was given the time.
        assert_reaped([stopped]);
        array.clear_poison().unwrap();
        match outcome {
            Ok(()) => assert!(array.read().unwrap().iter().all(|&count| count == 1)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                let rows = array.read().unwrap();
                assert_told(&error, 0..0, |row| rows[row] == 1, 40);
            }
        }
        let before = array.read().unwrap().to_owned();

        let flags = Flags::new();
        let error = in_time(|| {
            pool.call()
                .retries(retries)
                .deadline(SOON)
                .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
                    if chunk.index() == 0 {
                        tell(&flags, "pid", &std::process::id().to_string());
                        raise_signal(Signal::SIGSTOP).unwrap();
                    }
                    row += 1;
                })
                .unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_reaped([wait_for(&flags.path(), "pid").parse().unwrap()]);
        assert!(array.is_poisoned());
        array.clear_poison().unwrap();
        let rows = array.read().unwrap();
        assert_told(&error, 0..1, |row| rows[row] == before[row] + 1, 40);
        assert_whole(&pool);
    }
}

#[test]
fn a_stopped_worker_whose_mail_box_is_full_is_ended_by_a_deadline() {
    let pool = two();
    let stopped = pool.worker_pids()[0];
    stop(stopped);
    // More than a socket's buffer holds.
    let arrays: Vec<_> = (0..600).map(|_| SharedArray::<u8, _>::zeros(1).unwrap()).collect();
    let arguments = (Each(&[1, 2]), arrays.iter().collect::<Vec<_>>());
    let outcome = in_time(|| pool.call().deadline(SOON).map(arguments, |(_, arrays), _| arrays.len()));
    if let Err(error) = outcome {
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    assert_reaped([stopped]);
    assert_whole(&pool);
}

#[test]
fn chunks_that_kill_their_workers_without_end_end_at_the_deadline() {
    let pool = two();
    let error = in_time(|| {
        pool.call().retries(u32::MAX).deadline(SOON).for_each(Each(&[0, 1, 2]), |item, _| {
            if item == 1 {
                raise_signal(Signal::SIGKILL).unwrap();
            }
        })
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.rows().iter().any(|rows| rows.contains(&1)), "{error:?}");
    assert_whole(&pool);
}

#[test]
fn a_call_that_ends_while_its_only_worker_is_replaced_says_why() {
    // It was a WouldBlock error, which spoke of a worker that could not be started.
    let pool = Pool::builder().workers(1).build().unwrap();
    for millis in [30, 35, 40, 45, 50, 55] {
        let soon = Duration::from_millis(millis);
        let deadly = pool.call().retries(u32::MAX).deadline(soon).for_each(Each(&[0]), |_, _| std::process::abort());
        let error = deadly.unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, &[0..1][..]), "{error}");
    }
    assert_whole(&pool);
}

#[test]
fn what_went_wrong_before_the_deadline_is_what_is_told() {
    let pool = two();
    let flags = Flags::new();
    let error = in_time(|| {
        pool.call().deadline(3 * SOON).for_each((Each(&[0, 1]), Param(&flags.path())), |(item, flags), _| {
            if item == 1 {
                wait_for(&flags, "stuck");
                panic!("before");
            }
            raise(&flags, "stuck");
            be_stuck();
        })
    });
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskPanicked, [0..2].as_slice()));
    assert_whole(&pool);
}

// What a call waits for before it begins

#[test]
fn a_deadline_bounds_the_wait_for_a_lock() {
    let name = format!("ndshm-test-stop-lock-{}", std::process::id());
    let mut made = SharedArray::<u32, _>::options().name(&name).zeros(8).unwrap();
    // SAFETY: nobody but this test knows the name, and it writes through guards and pools alone.
    let other = unsafe { SharedArray::<u32, Ix1>::attach(&name) }.unwrap();
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let (holding, held) = mpsc::channel();
        let (free, freed) = mpsc::channel::<()>();
        let error = thread::scope(|scope| {
            let other = &other;
            // A guard of this process.
            scope.spawn(move || {
                let _guard = other.read().unwrap();
                holding.send(()).unwrap();
                let _ = freed.recv();
            });
            held.recv().unwrap();
            let call = || pool.call().deadline(SOON).for_each(made.chunks_mut(), |mut rows, _| rows += 1);
            let error = in_time(call).unwrap_err();
            drop(free);
            error
        });
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, [0..8].as_slice()));
        assert!(error.to_string().contains("still waiting for its arrays"), "{error}");

        // A lock of somebody else's.
        let file = File::options().read(true).write(true).open(format!("/dev/shm/{name}")).unwrap();
        let everything = libc::flock {
            l_type: i16::try_from(libc::F_WRLCK).unwrap(),
            l_whence: 0,
            l_start: 0,
            l_len: 1 << 62,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&everything)).unwrap();
        let call = || pool.call().deadline(SOON).for_each(made.chunks_mut(), |mut rows, _| rows += 1);
        assert_eq!(in_time(call).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(file);
        assert!(!made.is_poisoned());
        assert_eq!(pool.worker_pids(), pids);
    }
    assert_eq!(made.read().unwrap().sum(), 0);
    SharedMemory::attach(&name).unwrap();
}

#[test]
fn a_cancelled_call_stops_waiting_for_a_lock_and_for_the_workers() {
    let name = format!("ndshm-test-stop-cancel-{}", std::process::id());
    let made = SharedArray::<u32, _>::options().name(&name).zeros(8).unwrap();
    // SAFETY: nobody but this test knows the name, and it writes through guards and pools alone.
    let mut other = unsafe { SharedArray::<u32, Ix1>::attach(&name) }.unwrap();
    let (pool, flags, token) = (two(), Flags::new(), CancelToken::new());
    thread::scope(|scope| {
        let guard = made.read().unwrap();
        let for_lock = scope.spawn(|| pool.call().cancel_with(&token).for_each(other.chunks_mut(), |_, _| ()));
        let first = scope.spawn(|| {
            pool.for_each((Each(&[0, 1]), Param(&flags.path())), |(_, flags), _| {
                raise(&flags, "running");
                wait_for(&flags, "go on");
            })
        });
        wait_for(&flags.path(), "running");
        let for_workers = scope.spawn(|| pool.call().cancel_with(&token).for_each(Each(&[0; 7]), |_, _| ()));
        // Time to get as far as they can.
        thread::sleep(Duration::from_millis(50));
        assert!(!for_lock.is_finished() && !for_workers.is_finished());
        token.cancel();
        for (waiting, rows) in [(for_lock, 8), (for_workers, 7)] {
            let error = in_time(|| waiting.join().unwrap()).unwrap_err();
            assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [0..rows].as_slice()));
            assert!(error.to_string().contains("the call was cancelled by a token: it "), "{error}");
        }
        drop(guard);
        assert!(!first.is_finished());
        raise(&flags.path(), "go on");
        first.join().unwrap().unwrap();
    });
    assert_whole(&pool);
}

#[test]
fn a_call_with_a_deadline_gets_its_turn_among_calls_of_other_threads() {
    let pool = two();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    pool.for_each(Each(&[1, 2]), |_, _| thread::sleep(Duration::from_millis(2))).unwrap();
                }
            });
        }
        for _ in 0..10 {
            let outcome = pool.call().deadline(PATIENCE).map(Each(&[3]), |item, _| item);
            if outcome.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            assert_eq!(outcome.unwrap(), [3]);
        }
        over.store(true, Ordering::Relaxed);
    });
}

// Tokens

#[test]
fn one_token_ends_calls_of_several_pools_and_those_that_come_later() {
    let (one, other, flags) = (two(), two(), Flags::new());
    let token = CancelToken::new();
    let unused = CancelToken::new();
    thread::scope(|scope| {
        let calls = [(&one, "one".to_owned()), (&other, "other".to_owned())].map(|(pool, flag)| {
            let (flags, token, unused) = (flags.path(), token.clone(), unused.clone());
            scope.spawn(move || {
                let call = pool.call().cancel_with(&unused).cancel_with(&token);
                call.for_each((Param(&flags), Param(&flag)), |(flags, flag), _| {
                    raise(&flags, &flag);
                    be_stuck();
                })
            })
        });
        wait_for(&flags.path(), "one");
        wait_for(&flags.path(), "other");
        assert!(!token.is_cancelled());
        token.clone().cancel();
        for call in calls {
            let error = in_time(|| call.join().unwrap()).unwrap_err();
            assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [0..1].as_slice()));
        }
    });
    token.cancel();
    assert!(token.is_cancelled() && !unused.is_cancelled());
    for pool in [&one, &other, &Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(3).unwrap();
        let error = pool.call().cancel_with(&token).for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [0..3].as_slice()));
        assert_eq!(array.read().unwrap().sum(), 0);
        assert_whole_or_serial(pool);
    }
}

fn assert_whole_or_serial(pool: &Pool) {
    if !pool.worker_pids().is_empty() {
        assert_whole(pool);
    }
}

#[test]
fn without_workers_a_call_ends_between_chunks() {
    let token = CancelToken::new();
    let mut array = SharedArray::<u32, _>::zeros(5).unwrap();
    let error = Pool::serial()
        .call()
        .cancel_with(&token)
        .progress(|progress| {
            if progress.chunks_done == 2 {
                token.cancel();
            }
        })
        .for_each(array.chunks_mut().rows(1), |mut row, _| row += 1)
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [2..5].as_slice()));
    assert!(!array.is_poisoned());
    assert_eq!(array.read().unwrap().sum(), 2);
}

#[test]
fn threads_that_call_and_threads_that_cancel_at_the_same_time_all_come_to_an_end() {
    let pool = two();
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut array = SharedArray::<u64, _>::zeros(50).unwrap();
                for round in 0..40 {
                    let token = CancelToken::new();
                    let canceller = token.clone();
                    let cancelling = thread::spawn(move || {
                        thread::sleep(Duration::from_micros((thread * 97 + round * 61) % 1500));
                        canceller.cancel();
                    });
                    let call = pool.call().cancel_with(&token).retries(1);
                    let outcome = call.for_each((array.chunks_mut().rows(1), Param(&round)), |(mut row, round), _| {
                        thread::sleep(Duration::from_micros(50));
                        row.fill(round + 1);
                    });
                    cancelling.join().unwrap();
                    let lost: Vec<usize> = match &outcome {
                        Ok(()) => Vec::new(),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                            error.rows().iter().cloned().flatten().collect()
                        }
                    };
                    assert_eq!(outcome.is_err(), !lost.is_empty());
                    // A task that was asleep for longer than the grace was cut short.
                    array.clear_poison().unwrap();
                    let rows = array.read().unwrap();
                    assert!((0..50).all(|row| rows[row] == round + 1 || lost.contains(&row)));
                }
            });
        }
    });
    assert_whole(&pool);
}

// Callbacks

#[test]
fn a_callback_that_forks_under_a_deadline_and_with_retries_harms_no_one() {
    const TEST: &str = "a_callback_that_forks_under_a_deadline_and_with_retries_harms_no_one";
    if reexec::role().is_none() {
        // A process of its own: another test's thread may hold a lock that the child needs.
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let flags = Flags::new();
    let mut children = Vec::new();
    let mut array = SharedArray::<u32, _>::zeros(6).unwrap();
    let mut in_child = false;
    let outcome = pool
        .call()
        .retries(1)
        .deadline(PATIENCE)
        .progress(|_| {
            if children.is_empty() {
                // SAFETY: the child returns from the call, looks at what it got, and leaves with _exit.
                match unsafe { fork() }.unwrap() {
                    ForkResult::Parent { child } => children.push(child),
                    ForkResult::Child => in_child = true,
                }
            }
        })
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
            thread::sleep(Duration::from_millis(6));
            if chunk.index() == 3 && !is_raised(&flags, "died") {
                raise(&flags, "died");
                raise_signal(Signal::SIGKILL).unwrap();
            }
            row.fill(1);
        });
    if in_child {
        let closed = outcome.is_err_and(|error| error.kind() == ErrorKind::Closed);
        // SAFETY: ends the process, runs nothing of its parent's.
        unsafe { libc::_exit(if closed { 7 } else { 8 }) }
    }
    outcome.unwrap();
    assert_eq!(waitpid(children[0], None).unwrap(), WaitStatus::Exited(children[0], 7));
    assert_eq!(array.read().unwrap().sum(), 6);
    assert_whole(&pool);
}
