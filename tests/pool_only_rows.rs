//! Running just those rows again that a failed call did not finish: they and no others run, as the same chunks.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows are a list of ranges")]

mod workers;

use std::ops::Range;

use ndarray::Ix1;
use ndshm::{CancelToken, Each, ErrorKind, Param, Pool, Schedule, SharedArray};
use nix::sys::signal::{Signal, raise as raise_signal};
use workers::{Flags, assert_whole, is_raised, raise};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

/// Every third chunk of two rows.
const SOME: [Range<usize>; 3] = [0..2, 6..8, 12..13];

/// Counts how often each row was run; gives the chunks that were.
fn count(pool: &Pool, array: &mut SharedArray<u32, Ix1>, rows: &[Range<usize>]) -> ndshm::Result<Vec<usize>> {
    pool.call().only_rows(rows).map(array.chunks_mut().rows(2), |mut rows, chunk| {
        assert_eq!((chunk.count(), chunk.rows().start), (7, 2 * chunk.index()));
        rows += 1;
        chunk.index()
    })
}

#[test]
fn what_a_killed_worker_has_left_is_done_by_a_second_call() {
    for _ in 0..5 {
        let pool = two();
        let flags = Flags::new();
        let mut array = SharedArray::<u32, _>::zeros(100).unwrap();
        let mut call = pool.call();
        let mut calls = 0;
        let results = loop {
            calls += 1;
            let arguments = (array.chunks_mut().rows(3), Param(&flags.path()));
            let outcome = call.map(arguments, |(mut rows, flags), chunk| {
                if chunk.index() == 20 && !is_raised(&flags, "killed") {
                    raise(&flags, "killed");
                    raise_signal(Signal::SIGKILL).unwrap();
                }
                rows += 1;
                chunk.index()
            });
            let error = match outcome {
                Ok(results) => break results,
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
            assert!(error.rows().iter().any(|rows| rows.contains(&60)), "{error:?}");
            array.clear_poison().unwrap();
            let done = array.read().unwrap();
            let is_left = |row: usize| error.rows().iter().any(|rows| rows.contains(&row));
            assert!(done.iter().enumerate().all(|(row, &count)| count == u32::from(!is_left(row))), "{error:?}");
            drop(done);
            call = pool.call().only_rows(error.rows());
        };
        assert_eq!(calls, 2);
        assert!(results.is_sorted() && results.contains(&20), "{results:?}");
        assert!(array.read().unwrap().iter().all(|&count| count == 1), "each row was run once");
        assert_whole(&pool);
    }
}

#[test]
fn those_rows_run_and_no_others_in_the_order_of_the_chunks() {
    for pool in [two(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(13).unwrap();
        assert_eq!(count(&pool, &mut array, &SOME).unwrap(), [0, 3, 6]);
        // Again, when workers know what to do, and given in another order.
        assert_eq!(count(&pool, &mut array, &[12..13, 0..2, 6..8, 6..8]).unwrap(), [0, 3, 6]);
        assert_eq!(array.read().unwrap().to_vec(), [2, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 2]);
        assert_eq!(count(&pool, &mut array, &[2..6]).unwrap(), [1, 2]);
        // The next call runs all again.
        let all = pool.map(array.chunks_mut().rows(2), |mut rows, chunk| {
            rows += 1;
            chunk.index()
        });
        assert!(all.unwrap().into_iter().eq(0..7));
        assert_eq!(array.read().unwrap().to_vec(), [3, 3, 2, 2, 2, 2, 3, 3, 1, 1, 1, 1, 3]);
        pool.call().only_rows(&[0..2]).for_each(array.chunks_mut().rows(2), |mut rows, _| rows.fill(0)).unwrap();
        assert_eq!(array.read().unwrap().to_vec(), [0, 0, 2, 2, 2, 2, 3, 3, 1, 1, 1, 1, 3]);
    }
}

#[test]
fn items_are_named_by_their_numbers() {
    for pool in [two(), Pool::serial()] {
        let words = ["a", "bc", "def", "ghij"].map(String::from);
        let call = |rows: &[Range<usize>]| pool.call().only_rows(rows).map(Each(&words), |word, _| word.len());
        assert_eq!(call(&[1..2, 3..4]).unwrap(), [2, 4]);
        assert_eq!(call(&[0..4]).unwrap(), [1, 2, 3, 4]);
        let error = call(&[3..5]).unwrap_err();
        assert_eq!(error.to_string(), "items 3..5 are to run, but the call has 4");
        // What does not split has one row.
        assert_eq!(pool.call().only_rows(&[0..1]).map((), |(), chunk| chunk.count()).unwrap(), [1]);
    }
}

#[test]
fn rows_that_are_no_chunks_are_refused_and_nothing_runs() {
    for pool in [two(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(13).unwrap();
        for (rows, why) in [
            (&[1..4][..], "rows 1..4 are to run, but chunks are whole or not at all"),
            (&[0..2, 4..5], "those of 2 rows that they lie in are 4..6"),
            (&[12..14], "rows 12..14 are to run, but the call has 13"),
            (&[], "no rows are to run"),
        ] {
            let error = count(&pool, &mut array, rows).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(why), "{error}");
            // For who would try that again.
            assert_eq!(error.rows(), []);
        }
        assert!(!array.is_poisoned());
        assert_eq!(array.read().unwrap().sum(), 0);
    }
}

#[test]
fn rows_of_an_array_without_any_are_refused_too() {
    for pool in [two(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(0).unwrap();
        for (rows, why) in [(&[0..2][..], "rows 0..2 are to run, but the call has 0"), (&[], "no rows are to run")] {
            let error = count(&pool, &mut array, rows).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(pool.map(array.chunks(), |_, _| 1).unwrap(), []);
    }
}

#[test]
fn errors_and_progress_are_about_those_rows_alone() {
    // One worker, which runs them in their order.
    for pool in [Pool::builder().workers(1).build().unwrap(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(13).unwrap();
        let mut last = None;
        let call = pool.call().only_rows(&SOME).progress(|progress| last = Some(progress));
        call.for_each(array.chunks_mut().rows(2), |_, _| ()).unwrap();
        let last = last.unwrap();
        assert_eq!((last.chunks_done, last.chunks, last.rows_done, last.rows), (3, 3, 5, 5));

        let error = pool.call().only_rows(&SOME).for_each(array.chunks_mut().rows(2), |_, chunk| {
            assert!(chunk.index() < 6, "the last one");
        });
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskPanicked, [12..13].as_slice()));
        assert!(error.to_string().contains("rows 12..13 (chunk 6 of 7) panicked"), "{error}");
        assert!(error.to_string().contains("(1 of 5 rows are not finished)"), "{error}");
        array.clear_poison().unwrap();

        let token = CancelToken::new();
        token.cancel();
        let error = pool.call().only_rows(&SOME).cancel_with(&token).for_each(array.chunks_mut().rows(2), |_, _| ());
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, &SOME[..]));
        assert!(!array.is_poisoned());
    }
}

#[test]
fn those_of_dead_workers_run_again_by_retries_and_the_others_still_do_not() {
    for schedule in [Schedule::Dynamic, Schedule::Static] {
        let pool = two();
        let flags = Flags::new();
        let mut array = SharedArray::<u32, _>::zeros(13).unwrap();
        let call = pool.call().only_rows(&SOME).retries(1).schedule(schedule);
        let arguments = (array.chunks_mut().rows(2), Param(&flags.path()));
        let results = call.map(arguments, |(mut rows, flags), chunk| {
            if chunk.index() == 3 && !is_raised(&flags, "killed") {
                raise(&flags, "killed");
                raise_signal(Signal::SIGKILL).unwrap();
            }
            rows += 1;
            chunk.index()
        });
        assert_eq!(results.unwrap(), [0, 3, 6]);
        assert_eq!(array.read().unwrap().to_vec(), [1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
        assert_whole(&pool);
    }
}

#[test]
fn a_list_of_chunks_may_be_longer_than_the_page_has_room_for() {
    const ITEMS: usize = 100_000;
    let pool = two();
    let items: Vec<u8> = vec![1; ITEMS];
    let odd: Vec<_> = (0..ITEMS / 2).map(|i| 2 * i + 1..2 * i + 2).collect();
    let results = pool.call().only_rows(&odd).map(Each(&items), |_, chunk| chunk.index()).unwrap();
    assert!(results.into_iter().eq((0..ITEMS / 2).map(|i| 2 * i + 1)));
    assert_whole(&pool);
}
