//! The ready-made progress bar: there on a terminal, quiet elsewhere.
#![cfg(feature = "progress")]
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod reexec;

use std::process::Command;

use ndshm::{Each, Pool};

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
    // `script` runs it on a terminal of its own.
    let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let line = format!("'{program}' --exact {TEST} --nocapture --test-threads=1");
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("NDSHM_TEST_ROLE", "program")
        .env("TERM", "xterm")
        .output();
    let Ok(output) = output else { return println!("skipped: there is no script(1) here") };
    let shown = reexec::succeeded(&output);
    assert!(shown.contains("counting") && shown.contains("100 % (40/40 rows"), "{shown}");
}
