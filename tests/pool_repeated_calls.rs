//! Calls that are almost like the one before them: each is about its own arrays, rows, order and task, whatever the last one
//! was about.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![expect(unsafe_code, reason = "from_memory, and init_before_main")]

use std::thread;
use std::time::Duration;

use ndarray::{Array2, Axis, Ix1, Ix2, ShapeBuilder, array};
use ndshm::{ErrorKind, Param, Pool, SharedArray, SharedMemory};

ndshm::init_before_main!();

fn pool() -> Pool {
    Pool::builder().workers(1).build().unwrap()
}

/// Twice the same, so that the second time is one that is like the first.
fn twice(mut call: impl FnMut()) {
    call();
    call();
}

#[test]
fn each_call_is_about_its_own_array() {
    let pool = pool();
    let mut arrays: Vec<_> = (0..3).map(|i| SharedArray::<u32, _>::from_elem(4, i).unwrap()).collect();
    for _ in 0..3 {
        for (i, array) in (0..).zip(&arrays) {
            twice(|| assert_eq!(pool.map((array,), |(all,), _| all.sum()).unwrap(), [4 * i]));
        }
    }
    for array in &mut arrays {
        twice(|| pool.for_each(array.chunks_mut(), |mut rows, _| rows += 10).unwrap());
    }
    assert_eq!(arrays.iter().map(|array| array.read().unwrap()[0]).collect::<Vec<_>>(), [20, 21, 22]);
}

#[test]
fn an_array_in_the_place_of_one_that_is_gone_is_another() {
    let pool = pool();
    for i in 0..20_u32 {
        let array = SharedArray::<u32, _>::from_elem(4, i).unwrap();
        twice(|| assert_eq!(pool.map((&array,), |(all,), _| all.sum()).unwrap(), [4 * i]));
    }
}

/// Rows and first element of each chunk.
fn cut(pool: &Pool, split: ndshm::Chunks<'_, u32, Ix2>) -> Vec<(usize, usize, u32)> {
    pool.map(split, |rows, chunk| (chunk.rows().start, chunk.rows().end, rows[[0, 0]])).unwrap()
}

#[test]
fn each_call_is_cut_as_it_says() {
    let pool = pool();
    let array = SharedArray::<u32, _>::from_array(&array![[0, 1], [2, 3]]).unwrap();
    for _ in 0..2 {
        twice(|| assert_eq!(cut(&pool, array.chunks().rows(1)), [(0, 1, 0), (1, 2, 2)]));
        twice(|| assert_eq!(cut(&pool, array.chunks().rows(1).axis(Axis(1))), [(0, 1, 0), (1, 2, 1)]));
        twice(|| assert_eq!(cut(&pool, array.chunks().rows(2)), [(0, 2, 0)]));
        twice(|| assert_eq!(cut(&pool, array.chunks()), [(0, 1, 0), (1, 2, 2)]));
        twice(|| assert_eq!(cut(&pool, array.chunks().rows(7)), [(0, 2, 0)]));
    }
    let refused = pool.for_each(array.chunks().axis(Axis(2)), |_, _| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let none = pool.for_each(array.chunks().rows(0), |_, _| ()).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn arrays_of_one_block_differ_by_where_they_lie_their_shape_and_their_order() {
    let pool = pool();
    let numbers: Vec<u8> = (0..12_u32).flat_map(u32::to_ne_bytes).collect();
    let memory = || {
        let memory = SharedMemory::anonymous(48).unwrap();
        memory.write_at(0, &numbers).unwrap();
        memory
    };
    let at = |memory, offset| {
        // SAFETY: nobody else has the memory.
        unsafe { SharedArray::<u32, Ix1>::from_memory(memory, offset, 3).unwrap() }
    };
    let (first, last) = (at(memory(), 0), at(memory(), 36));
    for _ in 0..2 {
        twice(|| assert_eq!(pool.map((&first,), |(all,), _| all.to_vec()).unwrap(), [[0, 1, 2]]));
        twice(|| assert_eq!(pool.map((&last,), |(all,), _| all.to_vec()).unwrap(), [[9, 10, 11]]));
    }
    let order = Array2::from_shape_fn((2, 3), |(i, j)| u32::try_from(3 * i + j).unwrap());
    let c = SharedArray::<u32, _>::from_array(&order).unwrap();
    let mut fortran = SharedArray::<u32, _>::zeros((2, 3).f()).unwrap();
    fortran.write().unwrap().assign(&order);
    for _ in 0..2 {
        for array in [&c, &fortran] {
            twice(|| assert_eq!(pool.map((array,), |(all,), _| all[[1, 0]]).unwrap(), [3]));
        }
    }
}

#[test]
fn lists_of_arrays_are_as_long_as_they_are() {
    let pool = pool();
    let (a, b) = (SharedArray::<u32, _>::from_elem(2, 1).unwrap(), SharedArray::<u32, _>::from_elem(2, 5).unwrap());
    let sums = |arrays: Vec<&SharedArray<u32, Ix1>>| {
        pool.map(arrays, |arrays, _| arrays.iter().map(|all| all.sum()).collect::<Vec<_>>()).unwrap().remove(0)
    };
    for _ in 0..2 {
        twice(|| assert_eq!(sums(vec![&a, &b]), [2, 10]));
        twice(|| assert_eq!(sums(vec![&b, &a]), [10, 2]));
        twice(|| assert_eq!(sums(vec![&a]), [2]));
        twice(|| assert_eq!(sums(vec![&a, &a]), [2, 2]));
        twice(|| assert_eq!(sums(vec![]), [0_u32; 0]));
    }
}

#[test]
fn repeated_calls_may_be_lent_any_number_of_arrays() {
    let pool = pool();
    for count in [7, 8, 9, 20] {
        let mut arrays: Vec<_> = (0..count).map(|_| SharedArray::<u32, _>::zeros(3).unwrap()).collect();
        let add = |arrays: &mut [SharedArray<u32, Ix1>]| {
            let all: Vec<_> = arrays.iter_mut().map(|array| array.chunks_mut().rows(3)).collect();
            pool.for_each(all, |all, _| {
                for mut rows in all {
                    rows += 1;
                    assert!(rows[0] < 3, "the third time");
                }
            })
        };
        twice(|| add(&mut arrays).unwrap());
        assert!(arrays.iter().all(|array| array.read().unwrap()[2] == 2), "of {count} arrays");
        // Each of them is locked for the call, and so each is poisoned.
        assert_eq!(add(&mut arrays).unwrap_err().kind(), ErrorKind::TaskPanicked);
        assert!(arrays.iter().all(SharedArray::is_poisoned), "of {count} arrays");
    }
}

#[test]
fn each_call_has_its_own_task_and_parameter() {
    let pool = pool();
    let array = SharedArray::<u32, _>::from_elem(4, 3).unwrap();
    for i in 0..5 {
        twice(|| assert_eq!(pool.map((&array,), |(all,), _| all.sum()).unwrap(), [12]));
        twice(|| assert_eq!(pool.map((&array,), |(all,), _| all.product()).unwrap(), [81]));
        twice(|| assert_eq!(pool.map((&array, Param(&i)), |(all, i), _| all.sum() + i).unwrap(), [12 + i]));
        twice(|| assert_eq!(pool.call().retries(1).map((&array,), |(all,), _| all.sum()).unwrap(), [12]));
    }
}

#[test]
fn a_poisoned_array_is_refused_and_taken_again_once_it_is_cleared() {
    let pool = pool();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    let add = |array: &mut SharedArray<u32, Ix1>| pool.for_each(array.chunks_mut().rows(4), |mut rows, _| rows += 1);
    twice(|| add(&mut array).unwrap());
    let died = pool.for_each(array.chunks_mut().rows(4), |_, _| std::process::abort()).unwrap_err();
    assert_eq!(died.kind(), ErrorKind::WorkerDied);
    twice(|| assert_eq!(add(&mut array).unwrap_err().kind(), ErrorKind::Poisoned));
    array.clear_poison().unwrap();
    twice(|| add(&mut array).unwrap());
    assert_eq!(array.read().unwrap().to_vec(), [4; 4]);
    // Nothing of the call is left on it.
    assert!(!array.is_poisoned());
}

#[test]
fn a_repeated_call_waits_for_the_array() {
    let pool = pool();
    let array = SharedArray::<u32, _>::from_elem(4, 1).unwrap();
    let sum = || pool.map((&array,), |(all,), _| all.sum()).unwrap();
    twice(|| assert_eq!(sum(), [4]));
    // Readers go together: this thread's own guard, and one of another.
    let guard = array.read().unwrap();
    twice(|| assert_eq!(sum(), [4]));
    thread::scope(|scope| {
        let other = scope.spawn(|| pool.map((&array,), |(all,), _| all.sum()).unwrap());
        assert_eq!(other.join().unwrap(), [4]);
    });
    drop(guard);
    twice(|| assert_eq!(sum(), [4]));
}

#[test]
fn an_array_that_was_frozen_or_shared_meanwhile_is_lent_as_it_is_now() {
    let pool = pool();
    let mut array = SharedArray::<u32, _>::from_elem(4, 1).unwrap();
    twice(|| pool.for_each(array.chunks_mut().rows(4), |mut rows, _| rows += 1).unwrap());
    array.share_fd().unwrap();
    twice(|| pool.for_each(array.chunks_mut().rows(4), |mut rows, _| rows += 1).unwrap());
    assert_eq!(array.read().unwrap().to_vec(), [5; 4]);

    let mut array = SharedArray::<u32, _>::from_elem(4, 1).unwrap();
    twice(|| pool.for_each(array.chunks_mut().rows(4), |mut rows, _| rows += 1).unwrap());
    let frozen = array.freeze().map_err(|error| error.to_string()).unwrap();
    twice(|| assert_eq!(pool.map((&frozen,), |(all,), _| all.sum()).unwrap(), [12]));
}

#[test]
fn a_worker_that_was_killed_between_repeated_calls_is_replaced() {
    let pool = pool();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    for round in 1..=5 {
        twice(|| pool.for_each(array.chunks_mut().rows(4), |mut rows, _| rows += 1).unwrap());
        assert_eq!(array.read().unwrap().to_vec(), [2 * round; 4]);
        let pid = nix::unistd::Pid::from_raw(pool.worker_pids()[0].cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        while pool.worker_pids() == [pid.as_raw().cast_unsigned()] {
            // The next call finds out.
            if pool.call().retries(1).for_each((), |(), _| ()).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn calls_of_several_threads_with_the_same_arrays_in_any_order_all_end() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let arrays = [1, 2].map(|i| SharedArray::<u64, _>::from_elem(16, i).unwrap());
    let [a, b] = &arrays;
    thread::scope(|scope| {
        for turn in 0..4 {
            let (pool, pair) = (&pool, if turn % 2 == 0 { (a, b) } else { (b, a) });
            scope.spawn(move || {
                for _ in 0..500 {
                    let sums = pool.map(pair, |(one, other), _| (one.sum(), other.sum())).unwrap();
                    assert_eq!(sums, [if turn % 2 == 0 { (16, 32) } else { (32, 16) }]);
                }
            });
        }
    });
}
