//! Tasks that change their process, or come to odd ends: what they return arrives or is an error, and the pool goes on.
#![allow(clippy::cast_possible_wrap, clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "tasks that do what only unsafe code can, and init_before_main")]

mod reexec;
mod workers;

use std::fmt;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{CancelToken, Each, ErrorKind, Param, Pool, SharedArray};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use workers::{
    Flags, KillAtEnd, PATIENCE, assert_reaped, assert_whole, raise, signal, tell, wait_for, wait_until_gone,
    wait_until_replaced,
};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

fn one() -> Pool {
    Pool::builder().workers(1).build().unwrap()
}

// What a task does to its process

/// Makes this process one that no signal of a terminal or of a dying parent reaches.
fn break_away() {
    nix::unistd::setsid().unwrap();
    std::env::set_current_dir("/").unwrap();
    SigSet::all().thread_block().unwrap();
    // SAFETY: takes numbers alone.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) }, 0);
}

#[test]
fn a_worker_that_breaks_away_works_on_and_ends_with_its_pool() {
    let pool = two();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    pool.for_each((Each(&[0, 1]), Param(&flags.path())), |(item, flags), _| {
        break_away();
        // Each worker has one.
        raise(&flags, &item.to_string());
        wait_for(&flags, &(1 - item).to_string());
    })
    .unwrap();
    assert_whole(&pool);
    // New blocks reach it too.
    let mut array = SharedArray::<u32, _>::zeros(100).unwrap();
    pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    assert_eq!(array.read().unwrap().sum(), 100);
    assert_eq!(pool.worker_pids(), pids);
    drop(pool);
    assert_reaped(pids);
}

#[test]
fn a_worker_that_breaks_away_is_ended_with_its_call() {
    let pool = one();
    let pids = pool.worker_pids();
    let (flags, token) = (Flags::new(), CancelToken::new());
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(&flags.path(), "away");
            token.cancel();
        });
        let call = pool.call().cancel_with(&token).grace(Duration::ZERO);
        call.for_each(Param(&flags.path()), |flags, _| {
            break_away();
            raise(&flags, "away");
            thread::sleep(3 * PATIENCE);
        })
        .unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_reaped(pids);
    assert_whole(&pool);
}

#[test]
fn a_worker_that_breaks_away_ends_when_its_parent_is_killed() {
    const TEST: &str = "a_worker_that_breaks_away_ends_when_its_parent_is_killed";
    if let Some(path) = reexec::role() {
        let pool = one();
        pool.for_each((), |(), _| break_away()).unwrap();
        tell(&PathBuf::from(path), "pid", &pool.worker_pids()[0].to_string());
        thread::sleep(3 * PATIENCE);
        return;
    }
    let flags = Flags::new();
    let path = flags.path();
    let program =
        thread::spawn(move || reexec::after("echo $$ > \"$NDSHM_TEST_ROLE/parent\"", TEST, path.to_str().unwrap()));
    let worker: u32 = wait_for(&flags.path(), "pid").parse().unwrap();
    let _end = KillAtEnd(vec![worker]);
    let parent = wait_for(&flags.path(), "parent").trim().parse().unwrap();
    signal(parent, Signal::SIGKILL);
    // Nobody tells it: it looks now and then.
    wait_until_gone(&[worker]);
    program.join().unwrap();
}

#[test]
fn descriptors_that_another_takes_the_place_of_are_closed_ones() {
    let pool = two();
    let before = pool.worker_pids();
    let gone = pool
        .map((), |(), _| {
            // SAFETY: none. The test is about a task that does this.
            let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
            for fd in 3..256 {
                if fd != null {
                    // SAFETY: as above.
                    unsafe { libc::dup2(null, fd) };
                }
            }
            std::process::id()
        })
        .unwrap();
    assert!(before.contains(&gone[0]));
    wait_until_replaced(&pool, &gone);
    assert_reaped(gone);
    assert_whole(&pool);
}

#[test]
fn a_worker_that_may_make_no_system_call_any_more_is_one_that_died() {
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let start = Instant::now();
    let outcome = pool.for_each(array.chunks_mut().rows(2), |mut rows, _| {
        rows += 1;
        // SAFETY: takes numbers alone.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
    });
    // It may have said that it is done before it was killed.
    if let Err(error) = outcome {
        assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
        array.clear_poison().unwrap();
    }
    assert!(start.elapsed() < PATIENCE / 2, "it took {:?}", start.elapsed());
    assert_eq!(array.read().unwrap().sum(), 2);
    wait_until_whole(&pool);
}

/// Makes calls until nobody is missing.
fn wait_until_whole(pool: &Pool) {
    let start = Instant::now();
    while pool.map(Each(&[0; 50]), |item, _| item).is_err() || pool.worker_pids().len() < pool.workers() {
        assert!(start.elapsed() < PATIENCE, "the pool does not recover");
    }
}

#[test]
fn a_thread_that_outlives_its_task_may_panic_and_holds_up_nobody() {
    let pool = one();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    pool.for_each(Param(&flags.path()), |flags: PathBuf, _| {
        thread::spawn(move || {
            wait_for(&flags, "task is over");
            let told = catch_unwind(|| panic!("in a thread of its own"));
            assert!(told.is_err());
            raise(&flags, "panicked");
            thread::sleep(3 * PATIENCE);
        });
    })
    .unwrap();
    raise(&flags.path(), "task is over");
    wait_for(&flags.path(), "panicked");
    // Its place is not taken for that of another panic.
    let error = pool.for_each((), |(), _| resume_unwind(Box::new("without a place"))).unwrap_err();
    assert_eq!(error.to_string(), "the task of the only chunk panicked: without a place");
    assert_whole(&pool);
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < PATIENCE / 2);
    assert_reaped(pids);
}

#[test]
fn a_thread_that_ends_the_process_between_calls_costs_nothing() {
    let pool = one();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    pool.for_each(Param(&flags.path()), |flags: PathBuf, _| {
        thread::spawn(move || {
            wait_for(&flags, "task is over");
            std::process::exit(0);
        });
    })
    .unwrap();
    raise(&flags.path(), "task is over");
    wait_until_replaced(&pool, &pids);
    assert_whole(&pool);
}

// Panics

/// Its drop panics, where panics may.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped");
    }
}

#[test]
fn odd_panics_are_panics() {
    for pool in [one(), Pool::serial()] {
        let pids = pool.worker_pids();
        let told = |error: ndshm::Error| {
            assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskPanicked, [0..1].as_slice()), "{error}");
            error.to_string()
        };
        assert!(told(pool.for_each((), |(), _| resume_unwind(Box::new(7))).unwrap_err()).contains("without a message"));
        assert!(told(pool.for_each((), |(), _| panic_any(Bomb)).unwrap_err()).contains("without a message"));
        let message = told(pool.for_each((), |(), _| drop(Bomb)).unwrap_err());
        assert!(message.contains("dropped"), "{message}");
        let long = told(pool.for_each((), |(), _| panic!("{}", "x".repeat(1 << 20))).unwrap_err());
        assert!(long.len() > 1 << 20);
        assert_eq!(pool.worker_pids(), pids);
    }
}

#[test]
fn a_panic_hook_of_the_tasks_own_takes_the_place_of_ours() {
    let pool = one();
    pool.for_each((), |(), _| panic::set_hook(Box::new(|_| ()))).unwrap();
    let error = pool.for_each((), |(), _| panic!("unseen")).unwrap_err();
    assert_eq!(error.to_string(), "the task of the only chunk panicked: unseen");
    assert_whole(&pool);
    // A hook that panics ends the process.
    pool.for_each((), |(), _| panic::set_hook(Box::new(|_| panic!("in the hook")))).unwrap();
    let error = pool.for_each((), |(), _| panic!("unseen")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkerDied);
    assert!(error.to_string().contains("SIGABRT"), "{error}");
    assert_whole(&pool);
}

// Results

/// Does something else than to be written down, or read.
#[derive(Debug, PartialEq)]
enum Odd {
    PanicsWritten,
    RecursesWritten,
    PanicsRead,
    Fine,
}

#[expect(unconditional_recursion, reason = "overflows the stack")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth) + 1)) + 1
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PanicsWritten => panic!("when it is written"),
            Self::RecursesWritten => serializer.serialize_str(&recurse(0).to_string()),
            Self::PanicsRead => serializer.serialize_str("panics"),
            Self::Fine => serializer.serialize_str("fine"),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "panics" => panic!("when it is read"),
            _ => Ok(Self::Fine),
        }
    }
}

#[test]
fn results_that_cannot_be_written_are_their_tasks_failures() {
    let pool = two();
    let error = pool.map((), |(), _| Odd::PanicsWritten).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskPanicked);
    assert!(error.to_string().contains("when it is written"), "{error}");
    let error = pool.map((), |(), _| Odd::RecursesWritten).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkerDied);
    assert!(error.to_string().contains("SIGABRT") || error.to_string().contains("SIGSEGV"), "{error}");
    assert_eq!(pool.map((), |(), _| Odd::Fine).unwrap(), [Odd::Fine]);
    assert_whole(&pool);
}

#[test]
fn a_result_that_panics_when_it_is_read_panics_here_and_the_pool_goes_on() {
    for pool in [two(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
        let read = catch_unwind(AssertUnwindSafe(|| pool.map(array.chunks_mut(), |_, _| Odd::PanicsRead)));
        assert_eq!(read.unwrap_err().downcast_ref(), Some(&"when it is read"));
        assert!(!array.is_poisoned(), "all tasks have ended well");
        assert_eq!(pool.map(array.chunks_mut().rows(2), |_, _| Odd::Fine).unwrap(), [Odd::Fine]);
    }
}

/// The memory of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_worker_keeps_nothing_of_a_large_result() {
    const LARGE: usize = 32 << 20;
    // It kept the encoded one for as long as it lived.
    let pool = one();
    let before = pool.map((), |(), _| resident()).unwrap()[0];
    let large = pool.map((), |(), _| ByteBuf::from(vec![7; LARGE])).unwrap();
    assert!(large[0].len() == LARGE && large[0].iter().all(|&byte| byte == 7));
    let after = pool.map((), |(), _| resident()).unwrap()[0];
    assert!(after < before + (LARGE as u64 >> 10) / 4, "{before} KiB before, {after} KiB after");
}

/// Nested in itself so deeply that no stack holds it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Deep(Vec<Deep>);

fn deep(depth: usize) -> Deep {
    (0..depth).fold(Deep::default(), |deep, _| Deep(vec![deep]))
}

impl Drop for Deep {
    fn drop(&mut self) {
        let mut next = self.0.pop();
        while let Some(mut deep) = next {
            next = deep.0.pop();
        }
    }
}

#[test]
fn a_result_too_deep_to_be_read_is_an_error() {
    let pool = two();
    // What is read before it is given up takes a stack of its own in a debug build.
    let reading = thread::Builder::new().stack_size(64 << 20);
    let read = thread::scope(|scope| {
        reading.spawn_scoped(scope, || pool.map((), |(), _| deep(3_000)).unwrap_err()).unwrap().join().unwrap()
    });
    assert_eq!(read.kind(), ErrorKind::Serialization, "{read}");
    let error = pool.map((), |(), _| deep(200_000)).unwrap_err();
    // Where the stack has no limit it is written.
    assert!(matches!(error.kind(), ErrorKind::WorkerDied | ErrorKind::Serialization), "{error}");
    assert_whole(&pool);
}

/// An error that panics when it is told.
struct Speechless;

impl fmt::Display for Speechless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("has no words")
    }
}

#[test]
fn an_error_that_panics_when_it_is_told_is_a_panic() {
    for pool in [two(), Pool::serial()] {
        let error = pool.try_map((), |(), _| Err::<(), _>(Speechless)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskPanicked);
        assert!(error.to_string().contains("has no words"), "{error}");
    }
}
