//! Ctrl-C cancels the calls that asked for it, and means to the program what it always did before and after them.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![expect(unsafe_code, reason = "installs signal handlers")]

mod reexec;
mod workers;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{Each, ErrorKind, Param, Pool};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;
use workers::{Flags, PATIENCE, assert_whole, raise, wait_for};

ndshm::init_before_main!();

const SHORTLY: Duration = Duration::from_millis(100);

fn interrupt() {
    // To the process, as a terminal does it.
    kill(Pid::this(), Signal::SIGINT).unwrap();
}

/// Has two workers stuck in a call that Ctrl-C ends after a while, and presses it `times` times meanwhile.
fn interrupted_call(pool: &Pool, flags: &PathBuf, times: u32, grace: Duration) -> ndshm::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(flags, "0");
            wait_for(flags, "1");
            for _ in 0..times {
                interrupt();
                thread::sleep(Duration::from_millis(5));
            }
        });
        let call = pool.call().cancel_on_ctrl_c().grace(grace);
        call.for_each((Each(&[0, 1]), Param(flags)), |(_, flags), chunk| {
            raise(&flags, &chunk.index().to_string());
            thread::sleep(3 * PATIENCE);
        })
    })
}

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[test]
fn it_cancels_a_call_and_ends_the_program_afterwards() {
    const TEST: &str = "it_cancels_a_call_and_ends_the_program_afterwards";
    if reexec::role().is_none() {
        reexec::mind_signals();
        let output = reexec::after("", TEST, "program");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(Signal::SIGINT as i32), "{stdout}");
        assert!(stdout.contains("cancelled twice"), "{stdout}");
        return;
    }
    let pool = two();
    for _ in 0..2 {
        let error = interrupted_call(&pool, &Flags::new().path(), 1, SHORTLY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(error.rows(), std::slice::from_ref(&(0..2)));
        assert!(error.to_string().starts_with("the call was cancelled by Ctrl-C"), "{error}");
        assert_whole(&pool);
    }
    println!("cancelled twice");
    interrupt();
    thread::sleep(PATIENCE);
}

#[test]
fn the_second_one_in_a_call_ends_the_program_at_once() {
    const TEST: &str = "the_second_one_in_a_call_ends_the_program_at_once";
    if reexec::role().is_none() {
        reexec::mind_signals();
        let output = reexec::after("", TEST, "program");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(Signal::SIGINT as i32), "{stdout}");
        assert!(!stdout.contains("it came back"), "{stdout}");
        return;
    }
    let pool = two();
    // The call itself would not end before the second one, however late that comes.
    drop(interrupted_call(&pool, &Flags::new().path(), 20, PATIENCE));
    println!("it came back");
}

#[test]
fn one_that_ends_one_of_two_calls_does_not_end_the_program() {
    const TEST: &str = "one_that_ends_one_of_two_calls_does_not_end_the_program";
    if reexec::role().is_none() {
        reexec::mind_signals();
        // It was sent again when the other call, which was all but done, had ended well.
        reexec::run(TEST, "program");
        return;
    }
    let flags = Flags::new();
    let (long, short) = (two(), two());
    thread::scope(|scope| {
        let well = scope.spawn(|| {
            short.call().cancel_on_ctrl_c().map((Each(&[5]), Param(&flags.path())), |(item, flags), _| {
                raise(&flags, "short");
                wait_for(&flags, "pressed");
                // Until the other call has ended, and well within what a task has to end in.
                wait_for(&flags, "cancelled");
                item
            })
        });
        wait_for(&flags.path(), "short");
        let chunks: Vec<u32> = (0..100_000).collect();
        let pressed = AtomicU32::new(0);
        let cancelled = long
            .call()
            .cancel_on_ctrl_c()
            .progress(|_| {
                if pressed.fetch_add(1, Ordering::Relaxed) == 0 {
                    interrupt();
                    raise(&flags.path(), "pressed");
                }
            })
            .for_each(Each(&chunks), |_, _| thread::sleep(Duration::from_millis(1)));
        assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
        raise(&flags.path(), "cancelled");
        match well.join().unwrap() {
            Ok(items) => assert_eq!(items, [5]),
            // The machine was too busy for it to end in time.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
        }
    });
}

#[test]
fn a_task_that_asks_is_told_of_it() {
    const TEST: &str = "a_task_that_asks_is_told_of_it";
    if reexec::role().is_none() {
        reexec::mind_signals();
        reexec::run(TEST, "program");
        return;
    }
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let flags = Flags::new();
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                wait_for(&flags.path(), "running");
                interrupt();
            });
            let call = pool.call().cancel_on_ctrl_c().grace(PATIENCE);
            call.for_each(Param(&flags.path()), |flags, chunk| {
                raise(&flags, "running");
                let start = Instant::now();
                while !chunk.is_cancelled() && start.elapsed() < PATIENCE / 2 {
                    thread::sleep(Duration::from_millis(1));
                }
            })
            .unwrap_err()
        });
        assert_eq!((error.kind(), error.rows()), (ErrorKind::Cancelled, std::slice::from_ref(&(0..1))));
        assert!(error.to_string().starts_with("the call was cancelled by Ctrl-C"), "{error}");
        assert_eq!(pool.worker_pids(), pids, "nobody was killed");
    }
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn handle(_signal: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_handler_of_the_program_is_called_as_ever_and_stays() {
    const TEST: &str = "a_handler_of_the_program_is_called_as_ever_and_stays";
    if reexec::role().is_none() {
        reexec::run(TEST, "program");
        return;
    }
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler counts, nothing else.
    unsafe { sigaction(Signal::SIGINT, &action) }.unwrap();
    let pool = two();
    assert_eq!(interrupted_call(&pool, &Flags::new().path(), 2, SHORTLY).unwrap_err().kind(), ErrorKind::Cancelled);
    // Signals that come together count once.
    let handled = HANDLED.load(Ordering::Relaxed);
    assert!((1..=2).contains(&handled));
    // SAFETY: as above.
    let found = unsafe { sigaction(Signal::SIGINT, &action) }.unwrap();
    assert!(matches!(found.handler(), SigHandler::Handler(found) if found as usize == handle as *const () as usize));
    interrupt();
    let start = Instant::now();
    while HANDLED.load(Ordering::Relaxed) == handled {
        assert!(start.elapsed() < PATIENCE, "it is not called any more");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_program_that_ignores_it_goes_on() {
    const TEST: &str = "a_program_that_ignores_it_goes_on";
    if reexec::role().is_none() {
        reexec::succeeded(&reexec::after("trap '' INT", TEST, "program"));
        return;
    }
    let pool = two();
    let results = pool.call().cancel_on_ctrl_c().progress(|_| interrupt()).map(Each(&[1, 2, 3]), |item, _| {
        thread::sleep(Duration::from_millis(10));
        item
    });
    assert_eq!(results.unwrap(), [1, 2, 3]);
    interrupt();
}

#[test]
fn calls_that_did_not_ask_for_it_are_not_cancelled_and_their_workers_do_not_mind() {
    const TEST: &str = "calls_that_did_not_ask_for_it_are_not_cancelled_and_their_workers_do_not_mind";
    if reexec::role().is_none() {
        reexec::run(TEST, "program");
        return;
    }
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler counts, nothing else.
    unsafe { sigaction(Signal::SIGINT, &action) }.unwrap();
    let pool = two();
    let workers = pool.worker_pids();
    let results = pool
        .call()
        .progress(|_| {
            interrupt();
            // A terminal sends it to the whole group.
            for &pid in &workers {
                workers::signal(pid, Signal::SIGINT);
            }
        })
        .map(Each(&[1, 2, 3]), |item, _| {
            thread::sleep(Duration::from_millis(10));
            item
        });
    assert_eq!(results.unwrap(), [1, 2, 3]);
    assert!(HANDLED.load(Ordering::Relaxed) > 0);
    assert_eq!(pool.worker_pids(), workers);
}
