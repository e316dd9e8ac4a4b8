//! Which worker runs which chunks.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

use std::process;
use std::thread;
use std::time::Duration;

use ndshm::{Each, Param, Pool, Schedule};

ndshm::init_before_main!();

/// The processes that ran ten chunks, of which the first takes long: time enough for others to help.
fn runners(pool: &Pool, schedule: Schedule) -> Vec<u32> {
    let items: Vec<u64> = (0..10).collect();
    let run = pool.call().schedule(schedule).map(Each(&items), |item, _| {
        thread::sleep(Duration::from_millis(if item == 0 { 200 } else { 0 }));
        process::id()
    });
    run.unwrap()
}

#[test]
fn with_a_static_schedule_every_worker_runs_its_own_share_and_no_more() {
    let pool = Pool::builder().workers(3).build().unwrap();
    let pids = pool.worker_pids();
    let shares: Vec<u32> = [3, 3, 4].iter().zip(&pids).flat_map(|(&len, &pid)| vec![pid; len]).collect();
    for _ in 0..3 {
        assert_eq!(runners(&pool, Schedule::Static), shares);
    }
}

#[test]
fn by_default_workers_that_are_done_help_the_others() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let [first, second] = pool.worker_pids()[..] else { panic!("{pool:?}") };
    // Whoever has the chunk that takes long, the other one runs what lies next to it.
    let runners = runners(&pool, Schedule::default());
    assert_ne!((&runners[..5], &runners[5..]), (&[first; 5][..], &[second; 5][..]));
}

#[test]
fn with_more_workers_than_chunks_each_chunk_has_one_of_its_own() {
    let pool = Pool::builder().workers(3).build().unwrap();
    let ran = pool.call().schedule(Schedule::Static).map(Each(&[(), ()]), |(), _| process::id()).unwrap();
    assert_eq!(ran, pool.worker_pids()[..2]);
}

#[test]
fn where_a_worker_dies_the_one_in_its_place_goes_on_with_its_share() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let [first, second] = pool.worker_pids()[..] else { panic!("{pool:?}") };
    let items: Vec<usize> = (0..8).collect();
    let call = pool.call().schedule(Schedule::Static).retries(1);
    let ran = call.map((Each(&items), Param(&first)), |(item, first), _| {
        if item == 1 && process::id() == first {
            process::abort();
        }
        process::id()
    });
    let ran = ran.unwrap();
    let [third, other] = pool.worker_pids()[..] else { panic!("{pool:?}") };
    assert!(third != first && other == second, "{pool:?}");
    assert_eq!(ran[0], first);
    assert!([second, third].contains(&ran[1]), "chunk 1 was lost, and went to whoever was free: {ran:?}");
    assert_eq!((&ran[2..4], &ran[4..]), (&[third; 2][..], &[second; 4][..]));
}

#[test]
fn in_a_serial_pool_it_makes_no_difference() {
    let ran = Pool::serial().call().schedule(Schedule::Static).map(Each(&[1, 2, 3]), |item, _| 2 * item).unwrap();
    assert_eq!(ran, [2, 4, 6]);
}
