//! Calls and guards of several threads: each has its turn, and none waits for one that waits for it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(unsafe_code, reason = "attaching, and init_before_main")]

mod workers;

use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use ndarray::Ix1;
use ndshm::{Param, Pool, SharedArray, SharedMemory};
use workers::{PATIENCE, assert_whole};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[test]
fn calls_that_take_the_same_arrays_in_opposite_order_do_not_wait_for_each_other() {
    let names = ["one", "two"].map(|which| format!("ndshm-test-order-{which}-{}", std::process::id()));
    let _made = names.each_ref().map(|name| SharedArray::<u32, _>::options().name(name).zeros(8).unwrap());
    // SAFETY: nobody but this test knows the names, and it writes through pools alone.
    let attach = |name: &String| unsafe { SharedArray::<u32, Ix1>::attach(name) }.unwrap();
    let orders = [names.each_ref().map(attach), names.each_ref().map(attach)];
    let (sender, ended) = mpsc::channel();
    for (thread, [mut one, mut two]) in orders.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let pool = Pool::builder().workers(1).build().unwrap();
            for _ in 0..100 {
                let (first, second) = if thread == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
                pool.for_each(
                    (first.chunks_mut().rows(8), second.chunks_mut().rows(8)),
                    |(mut first, mut second), _| {
                        first += 1;
                        second += 1;
                    },
                )
                .unwrap();
            }
            drop((pool, one, two));
            sender.send(()).unwrap();
        });
    }
    for _ in 0..2 {
        ended.recv_timeout(PATIENCE).expect("they wait for each other");
    }
    assert!(names.each_ref().map(attach).iter().all(|array| array.read().unwrap().iter().all(|&n| n == 200)));
}

#[test]
fn a_guard_of_one_thread_and_a_call_of_another_do_not_wait_for_each_other() {
    // The call had the workers and waited for the guard, whose thread waited for the workers.
    let name = format!("ndshm-test-guard-and-call-{}", std::process::id());
    let (sender, ended) = mpsc::channel();
    let made = SharedArray::<u32, _>::options().name(&name).zeros(8).unwrap();
    // SAFETY: nobody but this test knows the name, and it writes through pools alone.
    let mut again = unsafe { SharedArray::<u32, Ix1>::attach(&name) }.unwrap();
    let unrelated = SharedArray::<u32, _>::zeros(8).unwrap();
    let running = thread::spawn(move || {
        let pool = two();
        thread::scope(|scope| {
            let guard = made.read().unwrap();
            scope.spawn(|| pool.for_each(again.chunks_mut(), |mut rows, _| rows += 1).unwrap());
            // Time to get as far as it can.
            thread::sleep(Duration::from_millis(100));
            assert_eq!(pool.map(&unrelated, |all, _| all.sum()).unwrap(), [0]);
            assert_eq!(guard.sum(), 0);
            drop(guard);
        });
        assert_eq!(made.read().unwrap().sum(), 8);
        sender.send(()).unwrap();
    });
    let ended = ended.recv_timeout(PATIENCE);
    if ended.is_err() && !running.is_finished() {
        SharedMemory::unlink_name(&name).unwrap();
    }
    ended.expect("they wait for each other");
    running.join().unwrap();
}

#[test]
fn calls_of_many_threads_are_all_right() {
    let pool = two();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (pool, start) = (&pool, &start);
            scope.spawn(move || {
                let mut array = SharedArray::<u64, _>::zeros(64).unwrap();
                start.wait();
                for round in 0..25 {
                    let sums = pool
                        .map((array.chunks_mut().rows(5), Param(&thread)), |(mut rows, thread), chunk| {
                            rows += thread + 1;
                            (chunk.index(), rows.sum())
                        })
                        .unwrap();
                    let each = (round + 1) * (thread + 1);
                    assert!(sums[..12].iter().copied().eq((0..12).map(|index| (index, 5 * each))));
                    assert_eq!(sums[12], (12, 4 * each));
                }
            });
        }
    });
    assert_whole(&pool);
}
