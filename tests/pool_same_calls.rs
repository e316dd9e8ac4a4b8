//! Calls that ask the same, one after another: their worker stays in its task between them, and each is a call of its own.
//! It leaves the task for whatever else it is asked.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![expect(unsafe_code, reason = "attach, fork, and init_before_main")]

mod workers;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ndarray::Ix1;
use ndshm::{CancelToken, Each, ErrorKind, Param, Pool, Schedule, SharedArray};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use workers::{Flags, PATIENCE, assert_whole, is_raised, raise, state, tell, wait_for};

ndshm::init_before_main!();

/// Its workers do not sleep between calls.
fn awake(workers: usize) -> Pool {
    Pool::builder().workers(workers).spin(PATIENCE).build().unwrap()
}

/// How often this worker was here.
fn count() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn each_call_has_results_of_its_own() {
    let pool = awake(1);
    for call in 0..100 {
        assert_eq!(pool.map((), |(), _| count()).unwrap(), [call]);
    }
    for call in 0..100 {
        let several = pool.map(Each(&[(); 3]), |(), chunk| (chunk.index(), count())).unwrap();
        let first = 100 + 3 * call;
        assert_eq!(several, [(0, first), (1, first + 1), (2, first + 2)]);
    }
}

#[test]
fn a_call_that_asks_something_else_gets_that() {
    let pool = awake(1);
    for _ in 0..30 {
        assert_eq!(pool.map((), |(), _| 1).unwrap(), [1]);
        assert_eq!(pool.map((), |(), _| 2).unwrap(), [2]);
        for number in 3..5 {
            assert_eq!(pool.map(Param(&number), |number, _| number).unwrap(), [number]);
        }
    }
}

/// Every way by which something comes back.
fn in_turn() -> Result<Option<String>, String> {
    match count() % 6 {
        1 => Ok(Some("little".to_owned())),
        2 => Ok(Some("much ".repeat(1 << 18))),
        3 => Err("three".to_owned()),
        4 => panic!("four"),
        _ => Ok(None),
    }
}

#[test]
fn each_call_ends_in_its_own_way() {
    let pool = awake(1);
    let pids = pool.worker_pids();
    for call in 0..30 {
        let result = pool.try_map((), |(), _| in_turn());
        match call % 6 {
            1 => assert_eq!(result.unwrap(), [Some("little".to_owned())]),
            2 => assert_eq!(result.unwrap(), [Some("much ".repeat(1 << 18))]),
            kind @ (3 | 4) => {
                let error = result.unwrap_err();
                let (kind, what) =
                    if kind == 3 { (ErrorKind::TaskFailed, "three") } else { (ErrorKind::TaskPanicked, "four") };
                assert_eq!(error.kind(), kind);
                assert!(error.to_string().contains(what), "{error}");
            }
            _ => assert_eq!(result.unwrap(), [None]),
        }
    }
    assert_eq!(pool.worker_pids(), pids);
}

#[test]
fn every_row_is_written_once_a_call() {
    for workers in [1, 2] {
        let pool = awake(workers);
        let mut array = SharedArray::<u32, _>::zeros((12, 3)).unwrap();
        for rows in [12, 6, 1] {
            for schedule in [Schedule::Dynamic, Schedule::Static] {
                let before = array.read().unwrap()[(0, 0)];
                for _ in 0..20 {
                    let call = pool.call().schedule(schedule);
                    call.for_each(array.chunks_mut().rows(rows), |mut rows, _| rows += 1).unwrap();
                }
                assert!(array.read().unwrap().iter().all(|&element| element == before + 20));
            }
        }
    }
}

#[test]
fn what_is_lent_again_is_known_to_be_lent() {
    // Who did not know waited for the call, and the call for it.
    let pool = awake(1);
    let name = format!("ndshm-test-lent-again-{}", std::process::id());
    let mut array = SharedArray::<u32, _>::options().name(&name).zeros(4).unwrap();
    for _ in 0..3 {
        let endings = pool
            .map((array.chunks_mut().rows(4), Param(&name)), |(_, name), _| {
                // SAFETY: this test writes through guards and pools alone.
                let mut array = unsafe { SharedArray::<u32, Ix1>::attach(&name) }.unwrap();
                array.write_timeout(PATIENCE).err().map(|error| error.to_string())
            })
            .unwrap();
        let told = endings[0].as_ref().unwrap();
        assert!(told.contains("was lent the same block"), "{told}");
    }
}

/// What the task does until somebody says that it is enough, or the call is to end.
fn go_on(flags: &Path, chunk: &ndshm::Chunk) {
    raise(flags, "running");
    let start = Instant::now();
    while !is_raised(flags, "enough") && !chunk.is_cancelled() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_task_is_told_of_the_end_of_its_own_call() {
    let pool = awake(1);
    let flags = Flags::new();
    let run = |token: &CancelToken| {
        let call = pool.call().cancel_with(token).grace(Duration::MAX);
        call.for_each(Param(&flags.path()), |flags: PathBuf, chunk| go_on(&flags, chunk))
    };
    let quiet = CancelToken::new();
    raise(&flags.path(), "enough");
    run(&quiet).unwrap();

    for flag in ["enough", "running"] {
        std::fs::remove_file(flags.path().join(flag)).unwrap();
    }
    let token = CancelToken::new();
    let ending = thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(&flags.path(), "running");
            token.cancel();
        });
        run(&token)
    });
    let error = ending.unwrap_err();
    assert_eq!(
        (error.kind(), error.rows().len()),
        (ErrorKind::Cancelled, 1),
        "it was told, and so it has not finished"
    );

    raise(&flags.path(), "enough");
    run(&quiet).unwrap();
}

#[test]
fn a_worker_reads_its_mail_while_it_waits() {
    let pool = awake(1);
    let pids = pool.worker_pids();
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    for _ in 0..3 {
        pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    }
    // It is asked to unmap the array, and who does not is replaced.
    assert_eq!(array.freeze().unwrap().view().sum(), 120);
    assert_eq!(pool.worker_pids(), pids);
    assert_whole(&pool);
}

/// Every other time it forks a child that returns as well, and the time after that it tells how that has ended.
fn fork_now_and_then(flags: &Path) {
    static CHILD: AtomicI32 = AtomicI32::new(0);
    if count().is_multiple_of(2) {
        let child = CHILD.swap(0, Ordering::Relaxed);
        if child != 0 {
            tell(flags, "ended", &format!("{:?}", waitpid(Pid::from_raw(child), None).unwrap()));
        }
        return;
    }
    // SAFETY: a worker has one thread, so the child may do whatever its parent could.
    if let ForkResult::Parent { child } = unsafe { fork() }.unwrap() {
        CHILD.store(child.as_raw(), Ordering::Relaxed);
    }
}

#[test]
fn a_child_that_a_later_call_forks_answers_nothing_and_ends() {
    let pool = awake(1);
    let pids = pool.worker_pids();
    let flags = Flags::new();
    for call in 0..7 {
        pool.for_each(Param(&flags.path()), |flags: PathBuf, _| fork_now_and_then(&flags)).unwrap();
        assert_eq!(is_raised(&flags.path(), "ended"), call % 2 == 0 && call > 0);
        if is_raised(&flags.path(), "ended") {
            let ended = wait_for(&flags.path(), "ended");
            assert!(ended.starts_with("Exited") && ended.ends_with(", 0)"), "{ended}");
            std::fs::remove_file(flags.path().join("ended")).unwrap();
        }
    }
    assert_eq!(pool.worker_pids(), pids);
}

/// The processor time of a process, once it sleeps.
fn time_of_sleeper(pid: u32) -> Duration {
    let start = Instant::now();
    while state(pid) != Some('S') {
        assert!(start.elapsed() < PATIENCE, "the worker does not come to rest");
        thread::sleep(Duration::from_millis(1));
    }
    let times = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_worker_spins_once_after_a_call() {
    const SPIN: Duration = Duration::from_millis(200);
    let pool = Pool::builder().workers(1).spin(SPIN).build().unwrap();
    let pid = pool.worker_pids()[0];
    pool.for_each((), |(), _| ()).unwrap();
    let before = time_of_sleeper(pid);
    pool.for_each((), |(), _| ()).unwrap();
    let spun = time_of_sleeper(pid).saturating_sub(before);
    assert!(spun < SPIN * 3 / 2, "it has run for {spun:?}");
}
