//! A storm: workers are killed at random while calls are made, and every call ends with what it promised. With retries the
//! results are right; without, they are, or the error names the rows that are not. Nothing piles up meanwhile.
//!
//! A short count of calls by default; as many as `NDSHM_STORM_CALLS` says otherwise.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod reexec;
mod workers;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{ErrorKind, Param, Pool, SharedArray};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use workers::{assert_whole, wait_until_replaced};

ndshm::init_before_main!();

const CALLS: u64 = 1_000;
const ROWS: usize = 300;
const CHUNK: usize = 5;

fn calls() -> u64 {
    std::env::var("NDSHM_STORM_CALLS").map_or(CALLS, |calls| calls.parse().unwrap())
}

/// The ids of this process's children that have become workers, or are about to.
fn workers() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children: String =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok()).collect();
    let is_worker = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(14).any(|w| w == b"--ndshm-worker"))
    };
    children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_worker).collect()
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Does the worker have the page that it is sent when it is welcomed?
fn is_there(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("/memfd:"))
}

/// Kills workers, one every few milliseconds, until it is told to stop; gives its victims. While one call lasts it kills no
/// more than two that are still starting: a pool gives up on a place where four in a row were killed, which a machine that
/// is busy with something else would come to, since they take their time there.
fn rage(over: &AtomicBool, calls: &AtomicU64) -> Vec<u32> {
    let mut dice = Dice(42);
    let mut killed = Vec::new();
    let (mut call, mut unborn) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(500 + dice.roll(4_000)));
        let workers = workers();
        if workers.is_empty() {
            continue;
        }
        let victim = workers[usize::try_from(dice.roll(workers.len() as u64)).unwrap()];
        let now = calls.load(Ordering::Relaxed);
        if call != now {
            (call, unborn) = (now, 0);
        }
        if !is_there(victim) {
            unborn += 1;
            if unborn > 2 {
                continue;
            }
        }
        // Reaped meanwhile, it is nobody's id yet: the kernel counts on before it gives one out again.
        if kill(Pid::from_raw(victim), Signal::SIGKILL).is_ok() {
            killed.push(victim.cast_unsigned());
        }
    }
    killed
}

/// What must not grow.
#[derive(Debug)]
struct Holdings {
    children: usize,
    descriptors: usize,
    mappings: usize,
    /// In KiB.
    memory: u64,
}

fn holdings() -> Holdings {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread that has just ended may be listed, and be gone.
    let children: String =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok()).collect();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Holdings {
        // Zombies among them.
        children: children.split_whitespace().count(),
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        memory: resident.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// Does a bit of work that comes out the same however often it is done.
fn expected(row: usize, call: u64) -> u64 {
    (row as u64 + 1) * call
}

/// Makes calls in the storm; `check` is given each one's outcome and the array, and says whether all went well.
fn storm(retries: u32, check: impl Fn(u64, ndshm::Result<Vec<usize>>, &mut SharedArray<u64, ndarray::Ix1>) -> bool) {
    let calls = calls();
    let pool = Pool::builder().workers(3).build().unwrap();
    let mut array = SharedArray::<u64, _>::zeros(ROWS).unwrap();
    let source = SharedArray::<u64, _>::from_shape_fn(ROWS, |row| row as u64 + 1).unwrap();
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut whole, mut slow, mut longest) = (0_u64, 0_u64, Duration::ZERO);
    let start = Instant::now();
    let mut after_a_while = None;
    let killed = thread::scope(|scope| {
        let raging = scope.spawn(|| rage(&over, &made));
        // Also where a check fails.
        let storm_ends = Over(&over);
        for call in 1..=calls {
            made.store(call, Ordering::Relaxed);
            let begin = Instant::now();
            let outcome = pool.call().retries(retries).map(
                (array.chunks_mut().rows(CHUNK), source.chunks(), Param(&call)),
                |(mut rows, source, call), chunk| {
                    // Long enough to be hit in it now and then.
                    let until = Instant::now() + Duration::from_micros(20);
                    while Instant::now() < until {}
                    rows.assign(&source.mapv(|value| value * call));
                    chunk.index()
                },
            );
            longest = longest.max(begin.elapsed());
            slow += u64::from(begin.elapsed() > Duration::from_millis(900));
            whole += u64::from(check(call, outcome, &mut array));
            if call == calls / 5 {
                // The pool is whole when this is counted.
                drop(pool.worker_pids());
                after_a_while = Some(holdings());
            }
        }
        drop(storm_ends);
        raging.join().unwrap()
    });
    let took = start.elapsed();
    // The last victims may be dying yet, and are replaced once they are dead.
    wait_until_replaced(&pool, &killed[killed.len().saturating_sub(10)..]);
    let killed = killed.len() as u64;
    assert_whole(&pool);
    let (before, after) = (after_a_while.unwrap(), holdings());
    println!(
        "{calls} calls in {took:.1?}, {killed} workers killed, {whole} calls whole, {slow} took over 0.9 s, the longest {longest:.1?}"
    );
    println!("after a fifth: {before:?}\nat the end:    {after:?}");
    assert!(killed * 20 > calls, "hardly anybody was killed");
    assert_eq!(after.children, 3);
    // One more is the folder that is being read; a worker may be half way through its start at the first count.
    assert!(after.descriptors <= before.descriptors + 2, "descriptors pile up");
    assert!(after.mappings <= before.mappings + 8, "mappings pile up");
    assert!(after.memory <= before.memory + 4096, "memory piles up");
    drop(pool);
    assert_eq!(holdings().children, 0);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn with_retries_every_result_is_right() {
    const TEST: &str = "with_retries_every_result_is_right";
    // A process of its own, whose children and descriptors are this test's.
    if reexec::role().is_none() {
        return print!("{}", reexec::run(TEST, "storm"));
    }
    storm(1_000, |call, outcome, array| {
        let results = outcome.unwrap();
        assert!(results.into_iter().eq(0..ROWS / CHUNK));
        assert!(!array.is_poisoned());
        assert!(array.read().unwrap().iter().enumerate().all(|(row, &value)| value == expected(row, call)));
        true
    });
}

#[test]
fn without_retries_every_call_returns_its_results_or_names_the_lost_rows() {
    const TEST: &str = "without_retries_every_call_returns_its_results_or_names_the_lost_rows";
    if reexec::role().is_none() {
        return print!("{}", reexec::run(TEST, "storm"));
    }
    storm(0, |call, outcome, array| {
        let lost: Vec<usize> = match &outcome {
            Ok(results) => {
                assert!(results.iter().copied().eq(0..ROWS / CHUNK));
                assert!(!array.is_poisoned());
                Vec::new()
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
                assert!(!error.rows().is_empty(), "{error}");
                array.clear_poison().unwrap();
                error.rows().iter().cloned().flatten().collect()
            }
        };
        for (row, &value) in array.read().unwrap().iter().enumerate() {
            assert!(
                value == expected(row, call) || lost.contains(&row),
                "row {row} of call {call} is {value}: {outcome:?}"
            );
        }
        outcome.is_ok()
    });
}
