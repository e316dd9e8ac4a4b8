//! What a pool does where the system refuses it something that it needs for a call: an error that says which rows are
//! missing, nothing left behind, and a pool that goes on when the system gives again.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![expect(unsafe_code, reason = "filters system calls")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]

mod reexec;
mod seccomp;
mod workers;

use std::fs;
use std::thread;

use ndshm::{ErrorKind, Pool, SharedArray};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use workers::{assert_whole, signal, wait_until_gone};

ndshm::init_before_main!();

/// The children of this process, those that have ended and that nobody has waited for among them.
fn children() -> String {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread that has just ended may be listed, and be gone.
    tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok()).collect()
}

#[test]
fn a_worker_that_cannot_be_watched_is_ended_and_reaped() {
    const TEST: &str = "a_worker_that_cannot_be_watched_is_ended_and_reaped";
    if reexec::role().is_none() {
        reexec::run(TEST, "program");
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    for _ in 0..2 {
        let before = pool.worker_pids();
        for &pid in &before {
            signal(pid, Signal::SIGKILL);
        }
        let refused = || {
            // As where the user watches as much as it may.
            seccomp::deny(libc::SYS_epoll_ctl, Errno::ENOSPC);
            (pool.for_each((), |(), _| ()), children())
        };
        let refused = || thread::scope(|scope| scope.spawn(refused).join().unwrap());
        wait_until_gone(&before);
        let (outcome, children) = refused();
        assert_eq!(outcome.unwrap_err().rows(), [0..1]);
        // It was left, and ended when its descriptors were closed, but stayed a zombie for as long as the program lived.
        assert_eq!(children, "");
        pool.for_each((), |(), _| ()).unwrap();
        assert_whole(&pool);
    }
}

#[test]
fn a_call_that_cannot_be_begun_says_that_all_its_rows_are_missing() {
    const TEST: &str = "a_call_that_cannot_be_begun_says_that_all_its_rows_are_missing";
    if reexec::role().is_none() {
        reexec::run(TEST, "program");
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut array = SharedArray::<u32, _>::zeros(10).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The array is handed to the worker through a descriptor, for which there is no room now.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let refused = pool.for_each(array.chunks_mut().rows(2), |mut rows, _| rows += 1);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    // They were none, as if all of them had been done.
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::Io, &[0..10][..]), "{error}");
    pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    assert_eq!(array.read().unwrap().sum(), 10, "nothing was done before");

    // The same where its arrays cannot be locked.
    pool.for_each(array.chunks_mut(), |_, _| panic!("poisons it")).unwrap_err();
    let error = pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::Poisoned, &[0..10][..]));
}
