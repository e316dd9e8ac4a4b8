//! Long tasks that ask whether their call is to end: they are told by a deadline, a token and another chunk's failure, in
//! time to end by themselves, and what was told is never taken for finished.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "fork, and init_before_main")]

mod workers;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{Call, CancelToken, Chunk, Each, ErrorKind, Param, Pool, SharedArray};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use workers::{Flags, PATIENCE, assert_whole, raise, tell, wait_for};

ndshm::init_before_main!();

fn one() -> Pool {
    Pool::builder().workers(1).build().unwrap()
}

/// Waits until a chunk's call is to end; `false` where nobody says so.
fn is_told(chunk: &Chunk) -> bool {
    let start = Instant::now();
    while !chunk.is_cancelled() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Has `run` make a call, with flags of its own, that is cancelled once its task has raised "running".
fn cancelled(pool: &Pool, run: impl FnOnce(Call<'_>, PathBuf) -> ndshm::Result<()>) -> ndshm::Error {
    let (flags, token) = (Flags::new(), CancelToken::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(&flags.path(), "running");
            token.cancel();
        });
        run(pool.call().cancel_with(&token).grace(Duration::MAX), flags.path()).unwrap_err()
    })
}

#[test]
fn a_task_that_returns_when_it_is_told_has_not_finished_its_rows() {
    for pool in [one(), Pool::serial()] {
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u32, _>::zeros(3).unwrap();
        let call = pool.call().deadline(Duration::from_millis(100)).grace(Duration::MAX);
        let error = call
            .for_each(array.chunks_mut().rows(1), |mut row, chunk| {
                // The first one ends before the deadline, unless the machine is very busy, and does not ask.
                if chunk.index() > 0 {
                    assert!(is_told(chunk));
                }
                row.fill(1);
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(error.rows() == [1..3] || error.rows() == [0..3], "{error}");
        let begun = array.is_poisoned();
        array.clear_poison().unwrap();
        assert_eq!(begun, array.read().unwrap()[1] == 1, "{error:?}");
        assert_eq!(array.read().unwrap()[2], 0, "no chunk begins after that");
        assert_eq!(pool.worker_pids(), pids, "nobody was killed");
        assert_eq!(pool.map(Each(&[0, 1]), |_, chunk| chunk.is_cancelled()).unwrap(), [false, false]);
    }
}

#[test]
fn any_thread_of_a_task_may_ask_and_an_error_leaves_the_rows_in_order() {
    for pool in [one(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
        let error = cancelled(&pool, |call, flags| {
            let outcome = call.try_map((array.chunks_mut().rows(1), Param(&flags)), |(mut row, flags), chunk| {
                let before = chunk.is_cancelled();
                raise(&flags, "running");
                let theirs = chunk.clone();
                let told = thread::spawn(move || is_told(&theirs)).join().unwrap();
                row.fill(if told && !before { 1 } else { 2 });
                Err::<(), _>("stopped in good order")
            });
            outcome.map(drop)
        });
        assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [0..2].as_slice()), "{error}");
        assert!(error.to_string().starts_with("the call was cancelled by a token"), "{error}");
        assert!(!array.is_poisoned());
        assert_eq!(array.read().unwrap().to_vec(), [1, 0]);
    }
}

#[test]
fn what_a_task_returns_when_it_was_told_is_no_result() {
    for pool in [one(), Pool::serial()] {
        let mut array = SharedArray::<u32, _>::zeros(1).unwrap();
        let numbers = cancelled(&pool, |call, flags| {
            let outcome = call.map((array.chunks_mut(), Param(&flags)), |(_, flags), chunk| {
                raise(&flags, "running");
                u32::from(is_told(chunk))
            });
            outcome.map(drop)
        });
        assert!(array.is_poisoned());
        array.clear_poison().unwrap();
        let words = cancelled(&pool, |call, flags| {
            let outcome = call.try_map((array.chunks_mut(), Param(&flags)), |(_, flags), chunk| {
                raise(&flags, "running");
                assert!(is_told(chunk));
                Ok::<_, String>("as if it were done".to_owned())
            });
            outcome.map(drop)
        });
        assert!(array.is_poisoned());
        for error in [numbers, words] {
            assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, [0..1].as_slice()), "{error}");
        }
    }
}

#[test]
fn another_chunk_s_failure_is_told_and_stays_the_error() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let pids = pool.worker_pids();
    for in_order in [true, false] {
        let flags = Flags::new();
        let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
        let arguments = (array.chunks_mut().rows(1), Param(&flags.path()), Param(&in_order));
        let error = pool
            .try_map(arguments, |(_, flags, in_order), chunk| {
                if chunk.index() == 0 {
                    raise(&flags, "running");
                    assert!(is_told(chunk));
                    // Of several failures that of the first chunk is told, but this is none.
                    return if in_order { Err("told to stop") } else { Ok(()) };
                }
                wait_for(&flags, "running");
                Err("a failure of its own")
            })
            .unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [0..2].as_slice()), "{error}");
        assert!(error.to_string().contains("rows 1..2 (chunk 1 of 2) failed: a failure of its own"), "{error}");
        assert_eq!(array.is_poisoned(), !in_order);
        assert_eq!(pool.worker_pids(), pids);
    }
    assert_whole(&pool);
}

/// Threads that tasks have left behind.
static LEFT_BEHIND: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);

/// Goes on asking for its chunk until it is told to stop.
fn ask_for_ever(flags: &Path, chunk: &Chunk) {
    let (theirs, flags) = (chunk.clone(), flags.to_owned());
    let (stop, stopped) = mpsc::channel();
    *LEFT_BEHIND.lock().unwrap() = Some(stop);
    thread::spawn(move || {
        let mut told = false;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            if theirs.is_cancelled() && !std::mem::replace(&mut told, true) {
                raise(&flags, "told");
            }
        }
    });
}

#[test]
fn who_asks_for_a_chunk_of_an_earlier_call_does_the_later_ones_no_harm() {
    let pool = one();
    let told = cancelled(&pool, |call, flags| {
        call.for_each(Param(&flags), |flags, chunk| {
            ask_for_ever(&flags, chunk);
            raise(&flags, "running");
            wait_for(&flags, "told");
        })
    });
    // Its thread was.
    assert_eq!(told.kind(), ErrorKind::Cancelled);
    for _ in 0..50 {
        let results = pool.map(Each(&[1, 2, 3]), |item, chunk| if chunk.is_cancelled() { 0 } else { item });
        assert_eq!(results.unwrap(), [1, 2, 3]);
    }
    pool.for_each((), |(), _| drop(LEFT_BEHIND.lock().unwrap().take())).unwrap();
    assert_whole(&pool);
}

#[test]
fn a_call_within_a_task_is_told_of_its_own_end_alone() {
    let pool = one();
    let within = pool
        .map((), |(), outer| {
            let late = Pool::serial().call().deadline(Duration::from_millis(20)).for_each((), |(), inner| {
                assert!(is_told(inner));
            });
            (late.is_err(), outer.is_cancelled())
        })
        .unwrap();
    assert_eq!(within, [(true, false)]);
}

/// Asks in a child of this process; says what has become of the child.
fn ask_in_a_child(chunk: &Chunk) -> String {
    // SAFETY: a worker that runs this has no other thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = i32::from(chunk.is_cancelled());
            // SAFETY: ends the process.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => "no".to_owned(),
            other => format!("{other:?}"),
        },
    }
}

// A worker's page is not mapped in a child: it was killed by a signal.
#[test]
fn a_child_that_a_task_forks_is_not_told() {
    let told = one().map((), |(), chunk| ask_in_a_child(chunk)).unwrap();
    assert_eq!(told, ["no"]);
    let error = cancelled(&one(), |call, flags| {
        let outcome = call.try_map(Param(&flags), |flags, chunk| {
            raise(&flags, "running");
            assert!(is_told(chunk));
            tell(&flags, "child", &ask_in_a_child(chunk));
            Err::<(), _>("in order")
        });
        assert_eq!(wait_for(&flags, "child"), "no");
        outcome.map(drop)
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

static SEEN: Mutex<Vec<Chunk>> = Mutex::new(Vec::new());

#[test]
fn chunks_are_alike_by_their_rows() {
    let pool = Pool::serial();
    let token = CancelToken::new();
    for call in [pool.call(), pool.call().cancel_with(&token)] {
        call.for_each(Each(&[1, 2]), |_, chunk| SEEN.lock().unwrap().push(chunk.clone())).unwrap();
    }
    token.cancel();
    let seen = SEEN.lock().unwrap();
    assert!(seen[..2] == seen[2..] && seen[0] != seen[1], "{seen:?}");
    assert!(seen.iter().all(|chunk| !chunk.is_cancelled()), "their calls are over");
}
