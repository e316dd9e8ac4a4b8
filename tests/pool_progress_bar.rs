//! The ready-made progress bar: there on a terminal, quiet elsewhere.
#![cfg(feature = "progress")]
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod reexec;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ndshm::{Each, Param, Pool};
use nix::sys::signal::{Signal, raise};

ndshm::init_before_main!();

fn count() {
    let items: Vec<u32> = (0..40).collect();
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut last = 0;
    let call = pool.call().progress_bar("counting").progress(|progress| last = progress.rows_done);
    assert_eq!(call.map(Each(&items), |item, _| item).unwrap(), items);
    assert_eq!(last, 40, "the callback is told as well");
}

#[test]
fn it_is_quiet_where_there_is_no_terminal() {
    const TEST: &str = "it_is_quiet_where_there_is_no_terminal";
    if reexec::role().is_some() {
        return count();
    }
    let output = reexec::after("", TEST, "program");
    reexec::succeeded(&output);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn it_ends_full_on_a_terminal() {
    const TEST: &str = "it_ends_full_on_a_terminal";
    if reexec::role().is_some() {
        return count();
    }
    let Some(shown) = on_a_terminal(TEST) else { return println!("skipped: there is no script(1) here") };
    assert!(shown.contains("counting") && shown.contains("100 % (40/40 items, "), "{shown}");
    assert!(!shown.contains("lost"), "{shown}");
}

#[test]
fn it_tells_of_lost_workers() {
    const TEST: &str = "it_tells_of_lost_workers";
    if reexec::role().is_some() {
        let pool = Pool::builder().workers(2).build().unwrap();
        let unlucky = pool.worker_pids()[0];
        let call = pool.call().retries(1).progress_bar("counting");
        let counted = call.map((Each(&[0; 40]), Param(&unlucky)), |(_, unlucky), chunk| {
            if std::process::id() == unlucky {
                raise(Signal::SIGKILL).unwrap();
            }
            // Both have a part in it.
            while Path::new("/proc").join(unlucky.to_string()).exists() {
                thread::sleep(Duration::from_millis(1));
            }
            chunk.index()
        });
        return assert!(counted.unwrap().into_iter().eq(0..40));
    }
    let Some(shown) = on_a_terminal(TEST) else { return println!("skipped: there is no script(1) here") };
    assert!(shown.contains("100 % (40/40 items, 1 worker lost, "), "{shown}");
}

/// What the program of that test shows where `script` runs it on a terminal of its own; `None` without `script`.
fn on_a_terminal(test: &str) -> Option<String> {
    let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let line = format!("'{program}' --exact {test} --nocapture --test-threads=1");
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("NDSHM_TEST_ROLE", "program")
        .env("TERM", "xterm")
        .output();
    output.ok().map(|output| reexec::succeeded(&output))
}
