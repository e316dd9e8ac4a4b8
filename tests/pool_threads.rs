//! The threads that a pool has in its program, and how workers end when they are not needed any more.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(unsafe_code, reason = "libc's atexit, and init_before_main")]

mod workers;

use std::fs;

use ndshm::{Param, Pool};
use workers::{Flags, is_raised, raise};

ndshm::init_before_main!();

/// The blocked signals in the text of `/proc/…/status`.
fn blocked(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

// A program that blocked SIGTERM in its own threads to wait for it there was killed: ours had it unblocked.
#[test]
fn no_signal_is_handled_on_a_thread_of_a_pool_and_none_is_blocked_in_a_worker() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut ours = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        if status.starts_with("Name:\tndshm") {
            ours += 1;
            assert_ne!(blocked(&status) & (1 << (libc::SIGTERM - 1)), 0, "{status}");
        }
    }
    assert!(ours >= 2, "{ours} threads");
    for pid in pool.worker_pids() {
        assert_eq!(blocked(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap()), 0);
    }
}

// Dropped straight after a call, a pool waited half a second for workers that had missed its end, and killed them.
#[test]
fn workers_end_by_themselves_when_their_pool_is_dropped_at_once() {
    extern "C" fn at_exit() {
        // SAFETY: a worker has one thread by then, and nobody else touches the variable.
        #[expect(static_mut_refs, reason = "one thread")]
        let flags = unsafe { FLAGS.take() };
        raise(&flags.unwrap(), "ended");
    }
    static mut FLAGS: Option<std::path::PathBuf> = None;

    for _ in 0..10 {
        let flags = Flags::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.for_each(Param(&flags.path()), |flags, _| {
            // SAFETY: a worker runs its tasks on its only thread.
            unsafe { FLAGS = Some(flags) };
            // SAFETY: the handler is a function of this program.
            unsafe { libc::atexit(at_exit) };
        })
        .unwrap();
        drop(pool);
        assert!(is_raised(&flags.path(), "ended"), "the worker was killed");
    }
}
