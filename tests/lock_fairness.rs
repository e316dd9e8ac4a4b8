//! Readers that overlap, in threads and in processes, let a waiting writer have its turn, and never wait for one that
//! waits for them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching")]

mod common;
mod peer;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{unique_name, wait_until};
use ndarray::Ix1;
use ndshm::{ErrorKind, SharedArray};
use peer::Peer;

type Bytes = SharedArray<u8, Ix1>;

/// Long enough to tell waiting from not waiting.
const MOMENT: Duration = Duration::from_millis(60);

/// Longer than anything here takes, if it ever ends.
const LONG: Duration = Duration::from_secs(10);

fn named(label: &str) -> (Bytes, String) {
    let name = unique_name(label);
    (SharedArray::options().name(&name).zeros(100).unwrap(), name)
}

fn attach(name: &str) -> Bytes {
    // SAFETY: these tests write through guards alone, and nobody cuts the block short.
    unsafe { SharedArray::attach(name) }.unwrap()
}

#[track_caller]
fn assert_would_block<T: std::fmt::Debug>(result: ndshm::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// Locks for reading again and again, 4 ms at a time, with hardly a pause.
fn read_for_ever(array: &Bytes) {
    loop {
        let guard = array.read().unwrap();
        thread::sleep(Duration::from_millis(4));
        drop(guard);
    }
}

/// Locks for reading in several threads that take over from each other, so that one of them always has a guard while
/// they are not held back.
fn read_in_turns(array: &Bytes, stop: &AtomicBool) {
    let reading = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let guard = array.read().unwrap();
                    reading.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    let one_less = |n| (n > 1).then(|| n - 1);
                    let another = || reading.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
                    if !wait_until(Duration::from_millis(150), another) {
                        reading.fetch_sub(1, Ordering::SeqCst);
                    }
                    drop(guard);
                }
            });
        }
    });
}

/// The writer gets its turn several times, in every form of waiting.
fn assert_writes(array: &mut Bytes) {
    assert!(wait_until(LONG, || array.try_write().is_err()), "nobody reads");
    for _ in 0..3 {
        array.write_timeout(LONG / 2).expect("the readers starve the writer")[0] += 1;
    }
    // Would hang rather than fail, hence after the others.
    for _ in 0..3 {
        array.write().unwrap()[0] += 1;
    }
}

#[test]
fn overlapping_readers_in_other_processes_do_not_starve_a_writer() {
    if let Some((_, name)) = peer::role() {
        let array = attach(&name);
        peer::say("reading");
        read_for_ever(&array);
    }
    let (mut array, name) = named("starve");
    let test = "overlapping_readers_in_other_processes_do_not_starve_a_writer";
    let mut readers: Vec<_> = (0..3).map(|_| Peer::start(test, "reader", &name)).collect();
    for reader in &mut readers {
        reader.expect("reading");
    }
    assert_writes(&mut array);
}

#[test]
fn overlapping_readers_of_one_other_process_do_not_starve_a_writer() {
    if let Some((_, name)) = peer::role() {
        let array = attach(&name);
        peer::say("reading");
        read_in_turns(&array, &AtomicBool::new(false));
    }
    let (mut array, name) = named("starve-threads");
    let test = "overlapping_readers_of_one_other_process_do_not_starve_a_writer";
    let mut reader = Peer::start(test, "reader", &name);
    reader.expect("reading");
    assert_writes(&mut array);
}

#[test]
fn overlapping_readers_of_this_process_do_not_starve_a_writer() {
    let (mut array, name) = named("starve-here");
    let (reader, stop) = (attach(&name), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| read_in_turns(&reader, &stop));
        assert_writes(&mut array);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_thread_that_reads_may_read_again_while_a_writer_waits() {
    if let Some((_, name)) = peer::role() {
        let mut array = attach(&name);
        peer::say("attached");
        peer::hear();
        let mut guard = array.write().unwrap();
        guard[0] = 1;
        peer::say("writing");
        peer::hear();
        drop(guard);
        peer::say("unlocked");
        peer::hear();
        return;
    }
    let (mut array, name) = named("again");
    let again = attach(&name);
    let mut other = Peer::start("a_thread_that_reads_may_read_again_while_a_writer_waits", "other", &name);
    other.expect("attached");
    let guard = array.read().unwrap();
    other.tell("write");
    // Another thread lets it pass once it waits.
    let try_there = || thread::scope(|scope| scope.spawn(|| array.try_read().map(drop)).join().unwrap());
    assert!(wait_until(LONG, || try_there().is_err()), "the writer does not wait");
    assert!(other.is_silent_for(MOMENT));
    // The writer waits for this thread, which must not wait for the writer.
    drop((array.read().unwrap(), again.read().unwrap()));
    thread::scope(|scope| {
        scope.spawn(|| assert_would_block(array.try_read()));
        scope.spawn(|| assert_would_block(again.read_timeout(MOMENT)));
    });
    thread::scope(|scope| {
        let later = scope.spawn(|| array.read().unwrap()[0]);
        thread::sleep(MOMENT);
        drop(again.read().unwrap());
        assert!(!later.is_finished());
        drop(guard);
        other.expect("writing");
        assert_eq!(other.ask("unlock"), "unlocked");
        assert_eq!(later.join().unwrap(), 1);
    });
    drop(array.try_write().unwrap());
}

#[test]
fn a_reader_that_let_a_writer_pass_goes_on_when_the_writer_gives_up() {
    if let Some((_, name)) = peer::role() {
        let mut array = attach(&name);
        peer::say("attached");
        peer::hear();
        assert_would_block(array.write_timeout(4 * MOMENT));
        peer::say("gave up");
        peer::hear();
        return;
    }
    let (array, name) = named("gives-up");
    let test = "a_reader_that_let_a_writer_pass_goes_on_when_the_writer_gives_up";
    let mut other = Peer::start(test, "other", &name);
    other.expect("attached");
    let guard = array.read().unwrap();
    other.tell("write");
    thread::sleep(2 * MOMENT);
    thread::scope(|scope| {
        scope.spawn(|| drop(array.read_timeout(LONG).unwrap())).join().unwrap();
    });
    other.expect("gave up");
    drop(guard);
}
