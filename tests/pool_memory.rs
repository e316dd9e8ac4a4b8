//! What a pool's processes have of arrays: one copy together, mapped for as long as the array lives and no longer.
#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod reexec;
mod workers;

use std::thread::sleep;
use std::time::{Duration, Instant};

use ndshm::{Each, Pool, SharedArray};
use workers::{PATIENCE, assert_reaped, assert_whole, stop};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Footprint {
    mappings: usize,
    descriptors: usize,
    /// See [`pss`], and page tables, in KiB.
    memory: usize,
}

/// The proportional set size of a process in KiB. Without its files: of the program and its libraries it has a larger share
/// when other tests' processes end.
fn pss(pid: u32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    ["Pss_Anon:", "Pss_Shmem:"].into_iter().map(|field| kib(&rollup, field)).sum()
}

fn kib(text: &str, field: &str) -> usize {
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn footprint(pid: u32) -> Footprint {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    Footprint {
        // The array's own: an allocator may map what it likes.
        mappings: read("maps").lines().filter(|line| line.contains("memfd:") || line.contains("/dev/shm/")).count(),
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        memory: pss(pid) + kib(&read("status"), "VmPTE:"),
    }
}

/// Makes an array of 512 KiB, lends it in the way that its number picks, and drops it.
fn use_once(pool: &Pool, number: usize) {
    let shape = (256, 256);
    let mut array = if number % 4 == 3 {
        let name = format!("ndshm-test-many-{}-{number}", std::process::id());
        SharedArray::<f64, _>::options().name(name).zeros(shape).unwrap()
    } else {
        SharedArray::<f64, _>::zeros(shape).unwrap()
    };
    pool.for_each(array.chunks_mut(), |mut rows, _| rows.fill(1.0)).unwrap();
    assert_eq!(pool.map(&array, |array, _| array.sum()).unwrap(), [65536.0]);
    if number % 4 == 2 {
        let frozen = array.freeze().unwrap();
        assert_eq!(pool.map(&frozen, |array, _| array.sum()).unwrap(), [65536.0]);
    }
}

#[test]
fn two_hundred_arrays_through_one_pool_leave_nothing_in_parent_or_workers() {
    const TEST: &str = "two_hundred_arrays_through_one_pool_leave_nothing_in_parent_or_workers";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let kept = SharedArray::<f64, _>::zeros(1000).unwrap();
    let processes: Vec<u32> = [std::process::id()].into_iter().chain(pool.worker_pids()).collect();
    let measure = || {
        // Every worker is told before it runs the call what it may unmap.
        for _ in 0..3 {
            pool.map(kept.chunks().rows(1), |_, _| ()).unwrap();
        }
        processes.iter().map(|&pid| footprint(pid)).collect::<Vec<_>>()
    };
    // What is allocated once, is.
    (0..20).for_each(|number| use_once(&pool, number));
    let before = measure();
    (0..200).for_each(|number| use_once(&pool, number));
    let after = measure();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.mappings, after.mappings, "{before:?} {after:?}");
        assert_eq!(before.descriptors, after.descriptors, "{before:?} {after:?}");
        // 100 MiB went through.
        assert!(after.memory < before.memory + 1024, "{before:?} {after:?}");
    }
    assert_eq!(pool.worker_pids(), processes[1..]);
    let prefix = format!("ndshm-test-many-{}-", std::process::id());
    assert!(!reexec::shm_names().iter().any(|name| name.starts_with(&prefix)));
}

#[test]
fn parent_and_workers_together_hold_one_copy_of_an_array() {
    const TEST: &str = "parent_and_workers_together_hold_one_copy_of_an_array";
    const KIB: usize = 64 << 10;
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let processes: Vec<u32> = [std::process::id()].into_iter().chain(pool.worker_pids()).collect();
    let together = || processes.iter().copied().map(pss).sum::<usize>();
    let before = together();
    let mut array = SharedArray::<u64, _>::zeros((KIB, 128)).unwrap();
    pool.for_each(array.chunks_mut(), |mut rows, _| rows.fill(1)).unwrap();
    // Every process has every element before its eyes.
    let sums = pool.map((&array, Each(&[0, 1, 2, 3])), |(all, _), _| all.sum()).unwrap();
    assert_eq!(sums, [KIB as u64 * 128; 4]);
    assert_eq!(array.read().unwrap().sum(), sums[0]);
    let grown = together() - before;
    assert!((KIB..KIB + KIB / 10).contains(&grown), "{grown} KiB for an array of {KIB} KiB");
}

#[test]
fn an_array_that_workers_have_mapped_for_writing_can_be_frozen() {
    let (pool, other) = (two(), two());
    let pids = pool.worker_pids();
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    for pool in [&pool, &other] {
        pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pids[0])).unwrap();
    assert!(maps.lines().filter(|line| line.contains("memfd:") && line.contains("rw-s")).count() > 1, "{maps}");
    let frozen = array.freeze().unwrap();
    assert_eq!(frozen.view().sum(), 80);
    for pool in [&pool, &other] {
        let sums = pool.map((&frozen, frozen.chunks().rows(40)), |(all, rows), _| (all.sum(), rows.sum())).unwrap();
        assert_eq!(sums, [(80, 80)]);
        assert_whole(pool);
    }
    assert_eq!(pool.worker_pids(), pids);
}

#[test]
fn a_worker_that_cannot_let_go_is_replaced_so_that_an_array_can_be_frozen() {
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    let stopped = pool.worker_pids()[0];
    stop(stopped);
    assert_eq!(array.freeze().unwrap().view().sum(), 40);
    assert_reaped([stopped]);
    pool.for_each((), |(), _| ()).unwrap();
    assert_whole(&pool);
}

/// How many blocks a process has mapped.
fn mapped(pid: u32) -> usize {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().matches("memfd:").count()
}

#[test]
fn arrays_that_two_threads_drop_at_once_are_unmapped_without_a_further_call() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let worker = pool.worker_pids()[0];
    pool.for_each((), |(), _| ()).unwrap();
    let before = mapped(worker);
    for round in 0..300 {
        let mut arrays = [(); 2].map(|()| SharedArray::<u8, _>::zeros(1 << 12).unwrap());
        // Shared, so that their memory is not kept for the next ones.
        for array in &mut arrays {
            array.share_fd().unwrap();
        }
        let [one, other] = arrays;
        pool.for_each((&one, &other), |_, _| ()).unwrap();
        assert!(mapped(worker) > before, "round {round}");
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let both = &both;
            for array in [one, other] {
                scope.spawn(move || {
                    both.wait();
                    drop(array);
                });
            }
        });
        let dropped = Instant::now();
        while mapped(worker) > before {
            assert!(dropped.elapsed() < PATIENCE, "round {round}: {} blocks are still mapped", mapped(worker) - before);
            sleep(Duration::from_millis(1));
        }
    }
}
