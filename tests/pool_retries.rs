//! Chunks whose worker died run again, as often as the call says, and nothing else does: the others go on, the dead are
//! replaced, and what comes out is whole or an error that says how often it was tried.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]

mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ndshm::{Each, ErrorKind, Param, Pool, SharedArray};
use nix::sys::signal::{Signal, raise as raise_signal};
use workers::{Flags, assert_reaped, assert_whole, is_raised, raise, signal, tell, wait_for, wait_until_stopped};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

/// Is it the first time that somebody comes here with this flag?
fn is_first(flags: &Path, flag: &str) -> bool {
    let first = !is_raised(flags, flag);
    raise(flags, flag);
    first
}

fn die() {
    raise_signal(Signal::SIGKILL).unwrap();
}

/// Quick chunks are handed out several at a time.
#[test]
fn chunks_that_a_dead_worker_had_not_begun_run_once() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let flags = Flags::new();
    let mut begun = SharedArray::<u32, _>::zeros(1000).unwrap();
    let deadly = [0, 1, 2, 333, 500, 999];
    pool.call()
        .retries(1)
        .for_each((begun.chunks_mut().rows(1), Param(&(flags.path(), deadly))), |(mut row, (flags, deadly)), chunk| {
            row += 1;
            if deadly.contains(&chunk.index()) && is_first(&flags, &chunk.index().to_string()) {
                die();
            }
        })
        .unwrap();
    for (row, times) in begun.read().unwrap().iter().enumerate() {
        assert_eq!(*times, if deadly.contains(&row) { 2 } else { 1 }, "row {row}");
    }
}

#[test]
fn only_chunks_whose_worker_died_run_again() {
    let pool = two();
    let before = pool.worker_pids();
    let flags = Flags::new();
    let mut begun = SharedArray::<u32, _>::zeros(60).unwrap();
    let mut reported = Vec::new();
    let results = pool
        .call()
        .retries(1)
        .progress(|progress| reported.push((progress.chunks_done, progress.rows_done)))
        .map((begun.chunks_mut().rows(2), Param(&flags.path())), |(mut rows, flags), chunk| {
            rows += 1;
            if chunk.index() % 10 == 3 && is_first(&flags, &chunk.index().to_string()) {
                die();
            }
            chunk.index() * 10
        })
        .unwrap();
    assert!(results.into_iter().eq((0..30).map(|index| index * 10)));
    assert!(!begun.is_poisoned());
    let begun = begun.read().unwrap();
    for (row, times) in begun.iter().enumerate() {
        let died = (row / 2) % 10 == 3;
        assert_eq!(*times, if died { 2 } else { 1 }, "row {row}");
    }
    assert_eq!(reported.last(), Some(&(30, 60)));
    assert!(reported.is_sorted());
    assert_eq!(pool.worker_pids().len(), 2);
    let replaced = before.iter().filter(|pid| !pool.worker_pids().contains(pid));
    assert_reaped(replaced.copied());
    assert_whole(&pool);
}

#[test]
fn the_callback_hears_of_a_lost_worker_before_anything_else_happens() {
    let pool = two();
    let flags = Flags::new();
    let mut lost = Vec::new();
    pool.call()
        .retries(1)
        .progress(|progress| {
            lost.push((progress.workers_lost, progress.chunks_done));
            raise(&flags.path(), "heard");
        })
        .for_each((Each(&[0, 1]), Param(&flags.path())), |(_, flags), chunk| {
            if chunk.index() == 0 && is_first(&flags, "dying") {
                die();
            }
            wait_for(&flags, "heard");
        })
        .unwrap();
    assert_eq!((lost.first(), lost.last()), (Some(&(1, 0)), Some(&(1, 2))));

    // Where it ends the call too.
    let mut lost = 0;
    let ended = pool.call().progress(|progress| lost = progress.workers_lost).for_each((), |(), _| die());
    assert_eq!((ended.unwrap_err().kind(), lost), (ErrorKind::WorkerDied, 1));
    assert_whole(&pool);
}

#[test]
fn a_task_that_always_kills_its_worker_ends_the_call_with_how_often_it_did() {
    let pool = two();
    for (retries, words) in
        [(0, None), (1, Some(", as did one worker before it")), (3, Some(", as did 3 workers before it"))]
    {
        let mut begun = SharedArray::<u32, _>::zeros(8).unwrap();
        let error = pool
            .call()
            .retries(retries)
            .for_each(begun.chunks_mut().rows(1), |mut row, chunk| {
                row += 1;
                if chunk.index() == 5 {
                    die();
                }
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        let message = error.to_string();
        assert!(message.contains("SIGKILL) while it ran rows 5..6 (chunk 5 of 8)"), "{message}");
        assert_eq!(message.contains("as did"), words.is_some(), "{message}");
        assert!(words.is_none_or(|words| message.contains(words)), "{message}");
        assert!(error.rows().contains(&(5..6)) || retries == 0, "{error:?}");
        assert!(begun.is_poisoned());
        begun.clear_poison().unwrap();
        assert_eq!(begun.read().unwrap()[5], retries + 1);
        if retries > 0 {
            // The others were not held up by it.
            assert_eq!(error.rows(), [5..6]);
            assert_eq!(begun.read().unwrap().sum(), 7 + retries + 1);
        }
        assert_whole(&pool);
    }
}

#[test]
fn panics_and_failures_are_not_tried_again() {
    for pool in [two(), Pool::serial()] {
        let mut begun = SharedArray::<u32, _>::zeros(1).unwrap();
        let panicked = pool.call().retries(5).for_each(begun.chunks_mut(), |mut row, _| {
            row += 1;
            panic!("no")
        });
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::TaskPanicked);
        begun.clear_poison().unwrap();
        let failed = pool.call().retries(5).try_map(begun.chunks_mut(), |mut row, _| {
            row += 1;
            Err::<(), _>("no")
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::TaskFailed);
        assert!(!begun.is_poisoned());
        assert_eq!(begun.read().unwrap()[0], 2);
    }
}

#[test]
fn a_failure_leaves_the_half_written_rows_of_a_dead_worker_poisoned() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros((2, 2)).unwrap();
    let error = pool
        .call()
        .retries(9)
        .try_map((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
            if chunk.index() == 0 {
                row[[0, 0]] = 7;
                raise(&flags, "half written");
                die();
            }
            wait_for(&flags, "half written");
            Err::<(), _>("in good order")
        })
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [0..2].as_slice()));
    assert!(array.is_poisoned());
}

#[test]
fn when_all_workers_die_others_do_their_work() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let before = pool.worker_pids();
    pool.call()
        .retries(1)
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
            if is_first(&flags, &chunk.index().to_string()) {
                (0..2).for_each(|other| drop(wait_for(&flags, &other.to_string())));
                die();
            }
            row.fill(7);
        })
        .unwrap();
    assert_eq!(array.read().unwrap().sum(), 14);
    assert_reaped(before);
    assert_whole(&pool);
}

#[test]
fn a_worker_may_end_in_any_way() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<usize, _>::zeros(40).unwrap();
    pool.call()
        // The one without descriptors is killed in any chunk, which may be one that has yet to end its own worker.
        .retries(2)
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
            if chunk.index() % 8 == 0 && is_first(&flags, &chunk.index().to_string()) {
                row.fill(99);
                match chunk.index() / 8 {
                    0 => std::process::exit(0),
                    1 => std::process::abort(),
                    2 => raise_signal(Signal::SIGSEGV).unwrap(),
                    3 => raise_signal(Signal::SIGTERM).unwrap(),
                    _ => drop((3..256).map(nix::unistd::close).collect::<Vec<_>>()),
                }
            }
            row.fill(chunk.index());
        })
        .unwrap();
    assert!(array.read().unwrap().iter().copied().eq(0..40));
    // The one that closed its descriptors may have returned before that was seen.
    pool.for_each((), |(), _| ()).unwrap();
    pool.for_each((), |(), _| ()).unwrap();
    assert_eq!(pool.map(Each(&[1, 2, 3]), |item, _| item).unwrap(), [1, 2, 3]);
}

#[test]
fn calls_too_long_for_the_page_are_tried_again_too() {
    let pool = two();
    let flags = Flags::new();
    let words: Vec<String> = (0..40).map(|i| i.to_string().repeat(5_000)).collect();
    let lengths = pool
        .call()
        .retries(1)
        .map((Each(&words), Param(&flags.path())), |(word, flags), chunk| {
            if chunk.index() % 20 == 7 && is_first(&flags, &chunk.index().to_string()) {
                die();
            }
            word.len()
        })
        .unwrap();
    assert!(lengths.iter().zip(&words).all(|(len, word)| *len == word.len()));
}

#[test]
fn a_stopped_worker_that_is_killed_loses_its_chunk_to_another() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    thread::scope(|scope| {
        let path = flags.path();
        scope.spawn(move || {
            let pid = wait_for(&path, "pid").parse().unwrap();
            wait_until_stopped(pid);
            // Time for a call that runs the chunk while its worker could go on with it.
            thread::sleep(Duration::from_millis(100));
            assert!(!is_raised(&path, "again"), "the chunk ran again before its worker was gone");
            signal(pid, Signal::SIGKILL);
        });
        pool.call()
            .retries(1)
            .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut row, flags), chunk| {
                if chunk.index() == 0 {
                    if is_first(&flags, "stopping") {
                        tell(&flags, "pid", &std::process::id().to_string());
                        raise_signal(Signal::SIGSTOP).unwrap();
                    }
                    raise(&flags, "again");
                }
                row += 1;
            })
            .unwrap();
    });
    assert_eq!(array.read().unwrap().to_vec(), [1; 4]);
    assert_whole(&pool);
}

#[test]
fn a_callback_that_panics_while_chunks_wait_for_their_next_turn_ends_the_call() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        pool.call().retries(3).progress(|_| panic!("in the callback")).for_each(
            (array.chunks_mut().rows(1), Param(&flags.path())),
            |(mut row, flags), chunk| {
                row += 1;
                if chunk.index() == 0 {
                    raise(&flags, "dying");
                    die();
                }
                wait_for(&flags, "dying");
                // Longer than outcomes are kept back.
                thread::sleep(Duration::from_millis(6));
            },
        )
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"in the callback"));
    assert!(array.is_poisoned());
    array.clear_poison().unwrap();
    assert_eq!(array.read().unwrap()[0], 1);
    // Where the callback was told of another chunk first, the dead worker is replaced by the next call.
    pool.for_each((), |(), _| ()).unwrap();
    assert_whole(&pool);
}

#[test]
fn without_workers_retries_change_nothing() {
    assert_eq!(Pool::serial().call().retries(3).map(Each(&[1, 2]), |item, _| item * 2).unwrap(), [2, 4]);
}
