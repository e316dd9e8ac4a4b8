//! The memory of dropped arrays serves the next ones: with nothing of theirs in it, within limits, and only where nobody
//! else could have it.
#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "forks")]

mod reexec;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ndarray::Ix1;
use ndshm::{Each, ErrorKind, HugePages, Pool, Reserve, SharedArray, SharedMemory, spare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

ndshm::init_before_main!();

const MIB: usize = 1 << 20;
const DEFAULT_LIMIT: usize = 128 * MIB;

/// What is kept is the process's: one test at a time, each beginning with nothing.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    spare::set_limit(DEFAULT_LIMIT);
    spare::release();
    assert_eq!(spare::bytes(), 0);
    alone
}

fn ones(len: usize) -> SharedArray<u8, Ix1> {
    SharedArray::from_elem(len, 1).unwrap()
}

fn address(array: &SharedArray<u8, Ix1>) -> usize {
    array.read().unwrap().as_ptr().addr()
}

/// Where the memory lies that a dropped array of that many ones has left.
fn leave(len: usize) -> usize {
    let array = ones(len);
    let at = address(&array);
    drop(array);
    assert!(spare::bytes() > len, "{} bytes are kept", spare::bytes());
    at
}

#[test]
fn the_next_array_of_that_size_has_the_memory_and_nothing_that_was_in_it() {
    let _alone = alone();
    for len in [1, 4095, 100_000, 2 * MIB + 1, 9 * MIB] {
        spare::release();
        let at = leave(len);
        let zeros = SharedArray::<u8, _>::zeros(len).unwrap();
        assert_eq!(address(&zeros), at, "{len} bytes, the same memory");
        assert!(zeros.read().unwrap().iter().all(|&byte| byte == 0));
        assert_eq!(spare::bytes(), 0);
        drop(zeros);

        leave(len);
        let filled: ndshm::Result<_> = SharedArray::<u8, _>::fill_with(len, |mut view| {
            assert!(view.iter().all(|&byte| byte == 0));
            view[len - 1] = 2;
            Ok(())
        });
        let filled = filled.unwrap();
        assert_eq!(address(&filled), at);
        assert_eq!(filled.read().unwrap().iter().map(|&byte| usize::from(byte)).sum::<usize>(), 2);
        drop(filled);

        // Another type and shape with the same bytes.
        leave(len);
        let pairs = SharedArray::<[u8; 1], _>::from_shape_fn((1, len), |(_, j)| [(j % 7) as u8]).unwrap();
        assert_eq!(pairs.read().unwrap().as_ptr().addr(), at);
        assert!(pairs.read().unwrap().iter().enumerate().all(|(j, byte)| *byte == [(j % 7) as u8]));
        assert_eq!((pairs.shape(), pairs.name(), pairs.is_poisoned()), ([1, len].as_slice(), None, false));
    }
}

#[test]
fn what_another_program_could_have_or_is_doubtful_is_not_kept() {
    let _alone = alone();
    let options = SharedArray::<u8, Ix1>::options;
    let mut shared = ones(MIB);
    shared.share_fd().unwrap();
    drop(shared);
    drop(options().name(format!("ndshm-test-{}-spare", std::process::id())).zeros(MIB).unwrap());
    drop(options().reserve(Reserve::Lazily).zeros(MIB).unwrap());
    drop(options().mode(0o400).zeros(MIB).unwrap());
    drop(options().core_dump(true).zeros(MIB).unwrap());
    drop(ones(MIB).freeze().unwrap());
    drop(SharedMemory::anonymous(MIB).unwrap());

    let mut poisoned = ones(MIB);
    let write = catch_unwind(AssertUnwindSafe(|| {
        let _guard = poisoned.write().unwrap();
        panic!("in the middle of a write");
    }));
    assert!(write.is_err() && poisoned.is_poisoned());
    drop(poisoned);
    let unwound = catch_unwind(|| {
        let _array = ones(MIB);
        panic!("with an array in its hands");
    });
    assert!(unwound.is_err());
    let failed = SharedArray::<u8, Ix1>::fill_with(MIB, |_| Err(Failed));
    assert!(failed.is_err());
    assert_eq!(spare::bytes(), 0);

    // Nor does one stand in for what is asked for in another way.
    leave(MIB);
    let kept = spare::bytes();
    let lazy = options().reserve(Reserve::Lazily).zeros(MIB).unwrap();
    let small = options().huge_pages(HugePages::Try).zeros(MIB).unwrap();
    assert_eq!(spare::bytes(), kept);
    assert_eq!(lazy.read().unwrap().len() + small.read().unwrap().len(), 2 * MIB);
    // A guard that was leaked holds nothing back.
    let mut array = ones(2 * MIB);
    std::mem::forget(array.write().unwrap());
    drop(array);
    assert!(spare::bytes() > 3 * MIB);
}

#[derive(Debug)]
struct Failed;

impl From<ndshm::Error> for Failed {
    fn from(error: ndshm::Error) -> Self {
        panic!("{error}");
    }
}

#[test]
fn limits_hold_and_what_is_kept_can_be_given_back() {
    let _alone = alone();
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd:ndshm")).count()
    };
    let before = mappings();
    spare::set_limit(3 * MIB);
    assert_eq!(spare::limit(), 3 * MIB);
    drop((ones(2 * MIB), ones(2 * MIB + 4096), ones(4 * MIB)));
    let newest = spare::bytes();
    assert!((2 * MIB..3 * MIB).contains(&newest), "{newest} bytes");
    assert_eq!(mappings(), before + 1);
    assert_eq!(spare::release(), newest);
    assert_eq!((spare::bytes(), mappings()), (0, before));

    drop((0..20).map(|n| ones(1000 + 100 * n)).collect::<Vec<_>>());
    assert_eq!(mappings(), before + 8);
    spare::set_limit(0);
    assert_eq!((spare::bytes(), mappings()), (0, before));
    drop(ones(10));
    assert_eq!(spare::bytes(), 0);
}

#[test]
fn workers_keep_their_mapping_of_memory_that_passes_from_array_to_array() {
    let _alone = alone();
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut places = std::collections::HashSet::new();
    for round in 0..30_u8 {
        let mut message = SharedArray::<u8, _>::from_elem(3 * MIB, round).unwrap();
        let seen = pool.map((&message, Each(&[0, 1])), |(all, _), _| {
            (
                all.iter().step_by(1001).map(|&byte| u64::from(byte)).sum::<u64>(),
                std::process::id(),
                all.as_ptr().addr(),
            )
        });
        for (sum, pid, at) in seen.unwrap() {
            assert_eq!(sum, u64::from(round) * (3 * MIB).div_ceil(1001) as u64);
            places.insert((pid, at));
        }
        if round % 10 == 9 {
            // Written by workers, dropped, zero again.
            pool.for_each(message.chunks_mut(), |mut rows, _| rows.fill(0xff)).unwrap();
            drop(message);
            let zeros = SharedArray::<u8, _>::zeros(3 * MIB).unwrap();
            let clean = pool.map(zeros.chunks(), |rows, _| rows.iter().all(|&byte| byte == 0));
            assert!(clean.unwrap().into_iter().all(|clean| clean));
        }
    }
    // Read-only at first, then mapped anew to be written.
    assert!(places.len() <= 4, "{places:?}");

    // Given back, it is gone from the workers too.
    spare::release();
    pool.map(Each(&[0; 16]), |_, _| ()).unwrap();
    // They do it when they have nothing else to do.
    let start = Instant::now();
    for pid in pool.worker_pids() {
        loop {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            let is_array = |line: &&str| line.contains("memfd:ndshm") && mapped_bytes(line) > 3 * MIB;
            if !maps.lines().any(|line| is_array(&line)) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{maps}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The length of a mapping, by its line in `maps`.
fn mapped_bytes(line: &str) -> usize {
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    usize::from_str_radix(end, 16).unwrap() - usize::from_str_radix(start, 16).unwrap()
}

#[test]
fn a_call_that_lost_a_worker_leaves_no_memory_behind() {
    let _alone = alone();
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut array = ones(MIB);
    let failed = pool.for_each(array.chunks_mut().rows(MIB / 4), |mut rows, chunk| {
        rows.fill(9);
        if chunk.index() == 1 {
            std::process::abort();
        }
    });
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::WorkerDied);
    drop(array);
    assert_eq!(spare::bytes(), 0);
}

#[test]
fn threads_that_make_and_drop_arrays_at_once_never_share_one() {
    let _alone = alone();
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            scope.spawn(move || {
                for _ in 0..200 {
                    let mut array = SharedArray::<u8, _>::zeros(10_000).unwrap();
                    assert!(array.read().unwrap().iter().all(|&byte| byte == 0));
                    array.write().unwrap().fill(thread);
                    std::thread::yield_now();
                    assert!(array.read().unwrap().iter().all(|&byte| byte == thread));
                }
            });
        }
    });
}

#[test]
fn a_forked_child_has_nothing_of_what_its_parent_keeps() {
    const TEST: &str = "a_forked_child_has_nothing_of_what_its_parent_keeps";
    if reexec::role().is_none() {
        reexec::run(TEST, "parent");
        return;
    }
    let at = leave(MIB);
    let kept = spare::bytes();
    // SAFETY: this process was started to run this test alone, so no other thread holds a lock that the child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let outcome = catch_unwind(|| {
                assert_eq!(spare::bytes(), 0);
                leave(MIB);
                assert!(SharedArray::<u8, _>::zeros(MIB).unwrap().read().unwrap().iter().all(|&byte| byte == 0));
                assert!(spare::release() > MIB);
            });
            // SAFETY: _exit runs no destructors and no exit handlers, which are the parent's to run.
            unsafe { nix::libc::_exit(i32::from(outcome.is_err())) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            assert_eq!(spare::bytes(), kept);
            // As it was left: what the child did was done to memory of its own.
            let array = SharedArray::<u8, _>::from_shape_fn(MIB, |_| 3).unwrap();
            assert_eq!((address(&array), array.read().unwrap()[MIB - 1]), (at, 3));
        }
    }
}

#[test]
fn what_is_kept_takes_no_descriptor_that_an_array_needs() {
    // Out of descriptors, while eight arrays that were gone had some.
    if reexec::role().is_none() {
        reexec::run("what_is_kept_takes_no_descriptor_that_an_array_needs", "child");
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut arrays = Vec::new();
    let full = loop {
        match SharedArray::<u8, _>::zeros(1000 * (arrays.len() + 1)) {
            Ok(array) => arrays.push(array),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("ulimit -n"), "{full}");
    let count = arrays.len();
    arrays.truncate(count - 8);
    assert!(spare::bytes() > 0);
    for i in 1..=8 {
        arrays.push(SharedArray::zeros(100_000 * i).unwrap());
    }
    assert_eq!((arrays.len(), spare::bytes()), (count, 0));
}
