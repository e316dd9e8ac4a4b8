//! What is said of calls over items: errors name the item, and speak of rows only where there are any.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]

mod workers;

use std::time::Duration;

use ndshm::{Each, ErrorKind, Pool, SharedArray};
use nix::sys::signal::{Signal, raise as raise_signal};
use workers::PATIENCE;

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[test]
fn an_item_whose_task_fails_is_named() {
    // By one worker: another one may not have begun with the first item when the second fails.
    for pool in [Pool::builder().workers(1).build().unwrap(), Pool::serial()] {
        let failed =
            pool.try_map(Each(&[1, 0]), |item, _| if item == 0 { Err("divided by nothing") } else { Ok(item) });
        let error = failed.unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [1..2].as_slice()));
        assert_eq!(error.to_string(), "the task of item 1 failed: divided by nothing (1 of 2 items are not finished)");
    }
}

#[test]
fn an_item_whose_worker_dies_is_named() {
    let died = two().for_each(Each(&[1, 0, 1]), |item, _| {
        if item == 0 {
            raise_signal(Signal::SIGKILL).unwrap();
        }
    });
    let message = died.unwrap_err().to_string();
    assert!(message.contains("while it ran item 1 ("), "{message}");
    assert!(message.ends_with("of 3 items are not finished)"), "{message}");
}

#[test]
fn where_arrays_lead_rows_are_named() {
    let array = SharedArray::<u8, _>::zeros(4).unwrap();
    let failed = Pool::serial().try_map((array.chunks().rows(2), Each(&[1, 2])), |_, _| Err::<(), _>("no"));
    let message = failed.unwrap_err().to_string();
    assert_eq!(message, "the task of rows 0..2 (chunk 0 of 2) failed: no (4 of 4 rows are not finished)");
}

#[test]
fn a_call_of_one_task_counts_nothing() {
    for pool in [two(), Pool::serial()] {
        let error = pool.try_map((), |(), _| Err::<(), _>("no")).unwrap_err();
        assert_eq!(error.to_string(), "the task of the only chunk failed: no");
        assert_eq!(error.rows(), [0..1]);
    }
    let pool = two();
    let late = pool.call().deadline(Duration::from_millis(50)).grace(Duration::ZERO);
    let message = late.for_each((), |(), _| std::thread::sleep(3 * PATIENCE)).unwrap_err().to_string();
    assert!(message.starts_with("the call did not end within its deadline of 50ms"), "{message}");
    assert!(!message.contains("rows"), "{message}");
}
