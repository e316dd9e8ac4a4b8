//! Tasks and callbacks that misbehave: no call ends and no row changes hands before every worker has answered or is gone,
//! whatever a task does to its process.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "tasks that misbehave as only unsafe code can, and init_before_main")]

mod reexec;
mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ndarray::{ArrayViewMut1, Ix1};
use ndshm::{Chunk, Each, ErrorKind, Param, Pool, SharedArray, SharedMemory};
use nix::sys::signal::{Signal, kill, raise as raise_signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use workers::{
    Flags, KillAtEnd, PATIENCE, assert_reaped, assert_whole, is_alive, is_raised, raise, signal, stop, tell, wait_for,
    wait_until_gone, wait_until_replaced, wait_until_stopped,
};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

// Callbacks

#[test]
fn a_callback_that_panics_ends_the_call_first() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let other = SharedArray::<u32, _>::zeros(2).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        pool.call()
            .progress(|_| {
                raise(&flags.path(), "panicking");
                panic!("in the callback");
            })
            .for_each((array.chunks_mut().rows(1), &other, Param(&flags.path())), |(mut rows, _, flags), chunk| {
                if chunk.index() == 0 {
                    // Longer than outcomes are kept back, so that it is sent at once.
                    thread::sleep(Duration::from_millis(6));
                    return;
                }
                wait_for(&flags, "panicking");
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(300) {
                    rows += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                raise(&flags, "ended");
            })
    }));
    assert!(is_raised(&flags.path(), "ended"), "a task still ran when the panic got out");
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"in the callback"));
    assert!(array.is_poisoned() && !other.is_poisoned());
    array.clear_poison().unwrap();
    assert!(array.read().unwrap()[1] > 0);
    assert_whole(&pool);
    pool.for_each(array.chunks_mut(), |mut rows, _| rows.fill(5)).unwrap();
    assert_eq!(array.read().unwrap().sum(), 10);
}

#[test]
fn a_call_from_within_a_call_is_an_error_and_no_hang() {
    for pool in [two(), Pool::serial()] {
        let mut inner = Vec::new();
        pool.call()
            .progress(|_| {
                inner.push(pool.for_each((), |(), _| ()).map_err(|error| error.kind()));
                assert_eq!(pool.worker_pids(), [0; 0]);
            })
            .for_each(Each(&[1, 2, 3]), |_, _| ())
            .unwrap();
        assert!(!inner.is_empty());
        // A pool without workers has nobody to wait for.
        let expected = if pool.workers() == 1 { Ok(()) } else { Err(ErrorKind::WouldBlock) };
        assert!(inner.iter().all(|result| *result == expected), "{inner:?}");
    }
}

#[test]
fn arrays_dropped_and_frozen_in_a_callback_are_no_hang() {
    let pool = two();
    let mut dropped = SharedArray::<u32, _>::zeros(100).unwrap();
    pool.for_each(dropped.chunks_mut(), |mut rows, _| rows.fill(1)).unwrap();
    let mut dropped = Some(dropped);
    pool.call().progress(|_| drop(dropped.take())).for_each(Each(&[1, 2]), |_, _| ()).unwrap();
    assert_whole(&pool);
}

// Descriptors

#[test]
fn a_worker_that_closes_its_descriptors_and_computes_on_is_ended_before_the_call_is() {
    let pool = two();
    let before = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u64, _>::zeros(2).unwrap();
    let start = Instant::now();
    let error = pool
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(mut rows, flags), chunk| {
            if chunk.index() == 1 {
                raise(&flags, "the other one has begun");
                return;
            }
            wait_for(&flags, "the other one has begun");
            tell(&flags, "pid", &std::process::id().to_string());
            for fd in 0..256 {
                // SAFETY: none. The test is about a task that does this.
                let _ = unsafe { libc::close(fd) };
            }
            // For ever; bounded so that a failure of the test leaves nothing behind.
            let start = Instant::now();
            while start.elapsed() < 3 * PATIENCE {
                rows += 1;
            }
        })
        .unwrap_err();
    assert!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    let pid: u32 = wait_for(&flags.path(), "pid").parse().unwrap();
    assert_reaped([pid]);
    assert_eq!((error.kind(), error.rows()), (ErrorKind::WorkerDied, [0..1].as_slice()));
    assert!(error.to_string().contains("closed its connection to the pool and was killed"), "{error}");
    assert!(before.contains(&pid) && !pool.worker_pids().contains(&pid));
    array.clear_poison().unwrap();
    assert!(array.read().unwrap()[0] > 0);
    assert_whole(&pool);
}

#[test]
fn a_worker_that_closed_its_descriptors_and_returned_did_no_harm_and_is_replaced() {
    let pool = two();
    let pid = pool
        .map((), |(), _| {
            for fd in 3..256 {
                // SAFETY: none. The test is about a task that does this.
                let _ = unsafe { libc::close(fd) };
            }
            std::process::id()
        })
        .unwrap()[0];
    wait_until_replaced(&pool, &[pid]);
    assert_reaped([pid]);
    assert_whole(&pool);
}

// Arrays that a task looks for itself

/// How reading and writing a named array end, raw and under guards.
fn ask_for(name: &str) -> [String; 4] {
    let ending =
        |result: ndshm::Result<()>| result.map_or_else(|error| format!("{:?}", error.kind()), |()| "fine".into());
    let memory = SharedMemory::attach(name).unwrap();
    // SAFETY: these tests write through guards and pools alone.
    let mut array = unsafe { SharedArray::<u32, Ix1>::attach(name) }.unwrap();
    [
        ending(memory.read_at(4096, &mut [0; 4])),
        ending(array.read().map(drop)),
        ending(memory.write_at(4096, &[0; 4])),
        ending(array.write().map(drop)),
    ]
}

#[test]
fn a_task_that_attaches_to_what_its_call_was_lent_is_told_and_waits_for_nobody() {
    // It waited for its own call's lock, and the call for it.
    let name = format!("ndshm-test-lent-{}", std::process::id());
    let mut array = SharedArray::<u32, _>::options().name(&name).zeros(4).unwrap();
    let (sender, ended) = mpsc::channel();
    let running = thread::spawn({
        let name = name.clone();
        move || {
            let pool = Pool::builder().workers(1).build().unwrap();
            let writing = pool.map((array.chunks_mut().rows(4), Param(&name)), |(_, name), _| ask_for(&name)).unwrap();
            let reading = pool.map((&array, Param(&name)), |(_, name), _| ask_for(&name)).unwrap();
            // Between calls a worker is as free as anybody.
            let neither = pool.map(Param(&name), |name: String, _| ask_for(&name)).unwrap();
            sender.send([writing, reading, neither].map(|each| each[0].clone())).unwrap();
        }
    });
    let told = ended.recv_timeout(PATIENCE);
    if told.is_err() && !running.is_finished() {
        SharedMemory::unlink_name(&name).unwrap();
    }
    let told = told.expect("the worker waits for the call, and the call for the worker");
    running.join().unwrap();
    let busy = || "WouldBlock".to_owned();
    let fine = || "fine".to_owned();
    assert_eq!(
        told,
        [[busy(), busy(), busy(), busy()], [fine(), fine(), busy(), busy()], [fine(), fine(), fine(), fine()]]
    );
}

// Forks

/// Forks; `child` runs in the child, which then ends.
fn fork_child(child: impl FnOnce()) -> u32 {
    // SAFETY: a worker has one thread, so the child may do whatever its parent could.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child.as_raw().unsigned_abs(),
        ForkResult::Child => {
            child();
            // SAFETY: ends the process, runs nothing of it.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Writes where a task's rows lie, past the borrow checker.
fn write_to(rows: *mut u32) {
    // SAFETY: none, in a child: the array is not mapped there, which is what tests are about.
    unsafe { rows.write_volatile(99) }
}

#[test]
fn a_child_that_a_task_forks_has_no_array() {
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(1).unwrap();
    let endings = pool
        .map(array.chunks_mut(), |mut rows, _| {
            let rows = rows.as_mut_ptr();
            let child = fork_child(|| write_to(rows));
            match waitpid(Pid::from_raw(child.cast_signed()), None) {
                Ok(WaitStatus::Signaled(_, signal, _)) => signal as i32,
                other => panic!("{other:?}"),
            }
        })
        .unwrap();
    assert_eq!(endings, [Signal::SIGSEGV as i32]);
    assert_eq!(array.read().unwrap()[0], 0);
    assert_whole(&pool);
}

/// Forks a child that lives on and, when it is told that the call is over, writes to the rows; then dies itself.
fn leave_a_child_behind((mut rows, flags): (ArrayViewMut1<'_, u32>, PathBuf), _: &Chunk) {
    let pointer = rows.as_mut_ptr();
    let child = fork_child(|| {
        raise(&flags, "child lives");
        wait_for(&flags, "call is over");
        write_to(pointer);
        raise(&flags, "child wrote");
    });
    wait_for(&flags, "child lives");
    tell(&flags, "child", &child.to_string());
    raise_signal(Signal::SIGKILL).unwrap();
}

#[test]
fn a_worker_is_dead_when_it_is_dead_though_its_child_keeps_the_socket_open() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(1).unwrap();
    let error = pool
        .for_each((array.chunks_mut(), Param(&flags.path())), |views, chunk| leave_a_child_behind(views, chunk))
        .unwrap_err();
    let child = wait_for(&flags.path(), "child").parse().unwrap();
    let _end = KillAtEnd(vec![child]);
    assert_eq!(error.kind(), ErrorKind::WorkerDied);
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    assert!(is_alive(child));

    array.clear_poison().unwrap();
    array.write().unwrap().fill(5);
    raise(&flags.path(), "call is over");
    wait_until_gone(&[child]);
    assert!(!is_raised(&flags.path(), "child wrote"));
    assert_eq!(array.read().unwrap()[0], 5);
    assert_whole(&pool);
}

#[test]
fn a_pool_is_dropped_though_a_child_of_its_worker_lives_on() {
    let pool = two();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    let child = pool
        .map(Param(&flags.path()), |flags: PathBuf, _| {
            fork_child(|| {
                wait_for(&flags, "pool is gone");
            })
        })
        .unwrap();
    let _end = KillAtEnd(child.clone());
    assert_whole(&pool);
    drop(pool);
    assert_reaped(pids);
    assert!(is_alive(child[0]));
    raise(&flags.path(), "pool is gone");
    wait_until_gone(&child);
}

#[test]
fn a_child_that_returns_from_the_task_answers_nothing_and_ends() {
    let pool = two();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(6).unwrap();
    for panics in [false, true] {
        let results = pool
            .map((array.chunks_mut().rows(1), Param(&flags.path()), Param(&panics)), |(mut rows, flags, panics), _| {
                // SAFETY: a worker has one thread, so the child may do whatever its parent could.
                match unsafe { fork() }.unwrap() {
                    ForkResult::Parent { child } => {
                        rows += 1;
                        child.as_raw().unsigned_abs()
                    }
                    ForkResult::Child => {
                        wait_for(&flags, "parents have returned");
                        // Longer than outcomes are kept back: one of its own would be sent.
                        thread::sleep(Duration::from_millis(6));
                        assert!(!panics, "in the child");
                        0
                    }
                }
            })
            .unwrap();
        let _end = KillAtEnd(results.clone());
        assert!(results.len() == 6 && !results.contains(&0), "{results:?}");
        raise(&flags.path(), "parents have returned");
        wait_until_gone(&results);
        assert_eq!(array.read().unwrap().sum(), if panics { 12 } else { 6 });
        assert_eq!(pool.worker_pids(), pids);
        assert_whole(&pool);
    }
}

// Stopped workers

#[test]
fn a_worker_that_is_stopped_in_its_task_and_goes_on_finishes_it() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(12).unwrap();
    thread::scope(|scope| {
        let path = flags.path();
        scope.spawn(move || {
            let pid = wait_for(&path, "pid").parse().unwrap();
            wait_until_stopped(pid);
            (1..6).for_each(|chunk| drop(wait_for(&path, &chunk.to_string())));
            signal(pid, Signal::SIGCONT);
        });
        pool.for_each((array.chunks_mut().rows(2), Param(&flags.path())), |(mut rows, flags), chunk| {
            if chunk.index() == 0 {
                tell(&flags, "pid", &std::process::id().to_string());
                raise_signal(Signal::SIGSTOP).unwrap();
            }
            rows += 1;
            raise(&flags, &chunk.index().to_string());
        })
        .unwrap();
    });
    assert!(array.read().unwrap().iter().all(|&count| count == 1));
    assert_whole(&pool);
}

#[test]
fn a_call_waits_for_a_worker_that_was_stopped_before_it_so_that_it_takes_nothing_from_the_next() {
    let pool = two();
    let stopped = pool.worker_pids()[0];
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    stop(stopped);
    let flags = Flags::new();
    let continued = thread::scope(|scope| {
        let path = flags.path();
        let continuing = scope.spawn(move || {
            wait_for(&path, "all rows are done");
            // Time for a call that does not wait.
            thread::sleep(Duration::from_millis(50));
            let continued = Instant::now();
            signal(stopped, Signal::SIGCONT);
            continued
        });
        pool.call()
            .progress(|progress| {
                if progress.rows_done == progress.rows {
                    raise(&flags.path(), "all rows are done");
                }
            })
            .for_each(array.chunks_mut().rows(1), |mut rows, _| rows += 1)
            .unwrap();
        let ended = Instant::now();
        (continuing.join().unwrap(), ended)
    });
    assert!(continued.0 < continued.1, "the call ended while a worker could still have taken a chunk");
    for round in 3..8 {
        pool.for_each(array.chunks_mut().rows(1), |mut rows, _| rows += 1).unwrap();
        assert!(array.read().unwrap().iter().all(|&count| count == round));
    }
    assert!(pool.worker_pids().contains(&stopped));
}

#[test]
fn a_stopped_worker_that_is_killed_ends_the_wait_for_it() {
    let pool = two();
    let stopped = pool.worker_pids()[1];
    stop(stopped);
    let array = SharedArray::<u32, _>::zeros(40).unwrap();
    let killing = thread::spawn(move || signal(stopped, Signal::SIGKILL));
    // It had no chunk in its hands, so nothing is lost.
    assert_eq!(pool.map(array.chunks().rows(1), |_, _| ()).unwrap().len(), 40);
    killing.join().unwrap();
    assert_reaped([stopped]);
    assert_whole(&pool);
}

#[test]
fn a_worker_that_is_killed_takes_no_more_messages_though_its_child_keeps_the_socket_open() {
    // The parent waited to send to a socket that nobody would ever read again.
    let pool = Pool::builder().workers(1).build().unwrap();
    let worker = pool.worker_pids()[0];
    let flags = Flags::new();
    let child = pool
        .map(Param(&flags.path()), |flags: PathBuf, _| {
            fork_child(|| {
                wait_for(&flags, "the call has ended");
            })
        })
        .unwrap();
    let _end = KillAtEnd(child.clone());
    stop(worker);
    // More than a socket's buffer holds.
    let arrays: Vec<_> = (0..600).map(|_| SharedArray::<u8, _>::zeros(1).unwrap()).collect();
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let outcome = pool.map(arrays.iter().collect::<Vec<_>>(), |arrays, _| arrays.len());
        sender.send((outcome, pool)).unwrap();
    });
    // Time to fill the buffer.
    assert!(ended.recv_timeout(Duration::from_millis(300)).is_err());
    signal(worker, Signal::SIGKILL);
    // The child lives longer than that.
    let (outcome, pool) = ended.recv_timeout(PATIENCE / 2).expect("the call goes on for ever");
    // It had not begun, so another one does its work.
    assert_eq!(outcome.unwrap(), [600]);
    assert_reaped([worker]);
    raise(&flags.path(), "the call has ended");
    wait_until_gone(&child);
    assert_whole(&pool);
}

/// The workers of this process that have been welcomed, as their mapping of the control page shows.
fn welcomed_workers() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let children: String = children.collect();
    let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let has = |pid: &u32, file: &str, word: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|text| text.contains(word))
    };
    // Until it runs the program anew it has its parent's memory, and so its parent's mappings and arguments.
    let is_welcomed = |pid: &u32| has(pid, "cmdline", "--ndshm-worker") && has(pid, "maps", "/memfd:");
    pids.filter(is_welcomed).collect()
}

#[test]
fn a_call_whose_workers_all_die_before_they_begin_ends() {
    const TEST: &str = "a_call_whose_workers_all_die_before_they_begin_ends";
    const ITEMS: usize = 200_000;
    // Others took the place of those that died, without end.
    if reexec::role().is_none() {
        // A process of its own, whose children are this test's.
        reexec::run(TEST, "alone");
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    // Takes a worker long to read, and the parent not too long to write: it does so for each worker.
    let items: Vec<u32> = (0..ITEMS as u32).collect();
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let outcome = pool.for_each(Each(&items), |_, _| thread::sleep(PATIENCE));
        sender.send((outcome, pool)).unwrap();
    });
    let start = Instant::now();
    let (outcome, pool) = loop {
        for pid in welcomed_workers() {
            // One that was killed before may have been reaped meanwhile.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        match ended.recv_timeout(Duration::from_millis(2)) {
            Ok(ended) => break ended,
            Err(_) => assert!(start.elapsed() < PATIENCE, "workers are replaced for ever"),
        }
    };
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::WorkerDied, [0..ITEMS].as_slice()));
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    pool.for_each((), |(), _| ()).unwrap();
    assert_whole(&pool);
}

// Pools in tasks

#[test]
fn a_task_may_have_a_pool_of_its_own() {
    let pool = two();
    let results = pool
        .map(Each(&[10_u64, 20]), |start, _| {
            let inner = Pool::builder().workers(2).build().unwrap();
            let mut array = SharedArray::<u64, _>::zeros(8).unwrap();
            inner
                .for_each((array.chunks_mut().rows(1), Param(&start)), |(mut rows, start), chunk| {
                    rows.fill(start + chunk.index() as u64);
                })
                .unwrap();
            (array.read().unwrap().sum(), inner.worker_pids())
        })
        .unwrap();
    assert_eq!((results[0].0, results[1].0), (80 + 28, 160 + 28));
    assert!(results.iter().flat_map(|(_, pids)| pids).all(|&pid| !is_alive(pid)));
}

/// Has a pool of its own work for ever, and dies in the middle.
fn die_with_a_pool(flags: &PathBuf) {
    let inner = Pool::builder().workers(1).build().unwrap();
    let call = inner.call().progress(|_| {
        wait_for(flags, "inner");
        raise_signal(Signal::SIGKILL).unwrap();
    });
    let _ = call.for_each((Each(&[0, 1]), Param(flags)), |(item, flags), _| {
        if item == 1 {
            tell(&flags, "inner", &std::process::id().to_string());
            thread::sleep(3 * PATIENCE);
        }
        // Longer than outcomes are kept back, so that the first one is sent at once.
        thread::sleep(Duration::from_millis(6));
    });
}

#[test]
fn a_worker_that_is_killed_takes_the_workers_of_its_own_pool_along() {
    let pool = two();
    let flags = Flags::new();
    let error = pool.for_each(Param(&flags.path()), |flags: PathBuf, _| die_with_a_pool(&flags)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkerDied);
    let inner = wait_for(&flags.path(), "inner").parse().unwrap();
    let _end = KillAtEnd(vec![inner]);
    wait_until_gone(&[inner]);
    assert_whole(&pool);
}
