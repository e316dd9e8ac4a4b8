//! More results than the room for them holds: workers wait for the parent to take in what is there, and all arrive, whoever
//! is slow, dies or has to end.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod workers;

use std::thread::sleep;
use std::time::Duration;

use ndarray::Ix1;
use ndshm::{Each, ErrorKind, Param, Pool, SharedArray};
use nix::sys::signal::{Signal, raise as raise_signal};
use workers::{Flags, is_raised, raise};

ndshm::init_before_main!();

/// A worker has room for some 65,000 numbers that were not taken in.
const MANY: usize = 200_000;

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

fn rows() -> SharedArray<u8, Ix1> {
    SharedArray::zeros(MANY).unwrap()
}

#[test]
fn numbers_beyond_the_room_for_them_arrive() {
    let rows = rows();
    for workers in [1, 2, 3] {
        let halves = pool(workers).map(rows.chunks().rows(1), |_, chunk| chunk.index() as f64 / 2.0).unwrap();
        assert!(halves.into_iter().eq((0..MANY).map(|index| index as f64 / 2.0)), "{workers} workers");
    }
}

#[test]
fn results_of_all_sizes_beyond_the_room_for_them_arrive() {
    fn text(index: usize) -> String {
        "text".repeat(if index.is_multiple_of(1000) { 200_000 } else { index % 90 })
    }
    let items: Vec<usize> = (0..20_000).collect();
    let texts = pool(2).map(Each(&items), |index, _| text(index)).unwrap();
    assert!(texts.into_iter().eq(items.into_iter().map(text)));
}

#[test]
fn a_call_that_is_watched_idly_loses_no_result() {
    let rows = rows();
    let (mut seen, mut last) = (0, 0);
    let indices = pool(2)
        .call()
        .progress(|progress| {
            seen += 1;
            last = progress.chunks_done;
            sleep(Duration::from_millis(20));
        })
        .map(rows.chunks().rows(1), |_, chunk| (chunk.index(), true))
        .unwrap();
    assert!(indices.into_iter().eq((0..MANY).map(|index| (index, true))));
    assert!(seen > 1 && last == MANY, "{seen} {last}");
}

#[test]
fn only_what_a_dead_worker_had_begun_runs_again() {
    let flags = Flags::new();
    let mut begun = SharedArray::<u8, _>::zeros(MANY).unwrap();
    // The first and the last that fit, one of the next round, and the last of all.
    let deadly = [65_533, 65_534, 100_000, MANY - 1];
    let indices = pool(1)
        .call()
        .retries(1)
        .map((begun.chunks_mut().rows(1), Param(&(flags.path(), deadly))), |(mut row, (flags, deadly)), chunk| {
            row += 1;
            let flag = chunk.index().to_string();
            if deadly.contains(&chunk.index()) && !is_raised(&flags, &flag) {
                raise(&flags, &flag);
                raise_signal(Signal::SIGKILL).unwrap();
            }
            chunk.index()
        })
        .unwrap();
    assert!(indices.into_iter().eq(0..MANY));
    for (row, times) in begun.read().unwrap().iter().enumerate() {
        assert_eq!(*times, if deadly.contains(&row) { 2 } else { 1 }, "row {row}");
    }
}

#[test]
fn a_call_that_has_to_end_lets_waiting_workers_end_in_good_order() {
    let pool = pool(2);
    let mut rows = rows();
    let late = pool
        .call()
        .deadline(Duration::from_millis(50))
        .grace(Duration::MAX)
        // Workers have no room any more, or nothing to do, when this is over.
        .progress(|_| sleep(Duration::from_millis(100)))
        .map(rows.chunks_mut().rows(1), |mut row, chunk| {
            row.fill(1);
            chunk.index()
        });
    match late {
        Ok(indices) => assert!(indices.into_iter().eq(0..MANY)),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let rows = rows.read().unwrap();
            let is_missing = |row: &usize| error.rows().iter().any(|rows| rows.contains(row));
            assert!((0..MANY).all(|row| (rows[row] == 1) != is_missing(&row)));
        }
    }
    assert_eq!(pool.map(rows.chunks().rows(MANY), |row, _| row.len()).unwrap(), [MANY]);
}
