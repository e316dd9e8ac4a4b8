//! A write that did not end is noticed by whoever locks next, in any process, until somebody accepts what it left.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching")]

mod common;
mod peer;

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{unique_name, wait_until};
use ndarray::Ix1;
use ndshm::{ErrorKind, SharedArray, SharedMemory};
use peer::Peer;

type Words = SharedArray<u32, Ix1>;

/// Longer than the kernel takes to end a process, whose memory is small here.
const LONG: Duration = Duration::from_secs(10);

fn named(label: &str) -> (Words, String) {
    let name = unique_name(label);
    (SharedArray::options().name(&name).zeros(10).unwrap(), name)
}

fn attach(name: &str) -> Words {
    // SAFETY: these tests write through guards alone, and nobody cuts the block short.
    unsafe { SharedArray::attach(name) }.unwrap()
}

fn open(path: impl AsRef<Path>) -> Words {
    // SAFETY: these tests write through guards alone, and nobody cuts the file short.
    unsafe { SharedArray::open_npy(path) }.unwrap()
}

#[track_caller]
fn assert_poisoned(array: &mut Words) {
    assert!(array.is_poisoned());
    let results = [
        array.try_read().map(drop),
        array.read().map(drop),
        array.read_timeout(LONG).map(drop),
        array.try_write().map(drop),
        array.write().map(drop),
        array.write_timeout(LONG).map(drop),
    ];
    for result in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        assert!(error.to_string().contains("clear_poison()"), "{error}");
    }
    assert!(array.is_poisoned(), "asking changes nothing");
}

#[track_caller]
fn assert_sound(array: &mut Words) {
    assert!(!array.is_poisoned());
    drop(array.try_read().unwrap());
    drop(array.try_write().unwrap());
}

/// Panics with a guard alive, after writing `value`.
fn panic_while_writing(array: &mut Words, value: u32) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = array.write().unwrap();
        guard[0] = value;
        // No message: this panic is meant.
        resume_unwind(Box::new("while writing"));
    }));
    assert!(result.is_err());
}

#[test]
fn a_writer_that_is_killed_frees_the_lock_and_poisons_for_every_process() {
    let test = "a_writer_that_is_killed_frees_the_lock_and_poisons_for_every_process";
    if let Some((role, name)) = peer::role() {
        let mut array = if name.starts_with('/') { open(name) } else { attach(&name) };
        if role == "writer" {
            let mut guard = array.write().unwrap();
            guard.fill(7);
            peer::say("writing");
            peer::hear();
        } else {
            peer::say("attached");
            peer::hear();
            assert_poisoned(&mut array);
            peer::say("poisoned");
            peer::hear();
            assert_sound(&mut array);
            peer::say("sound");
            peer::hear();
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in-place.npy");
    let mut anonymous = Words::zeros(10).unwrap();
    let number = anonymous.share_fd().unwrap().as_raw_fd();
    let (named, name) = named("killed");
    let in_place = Words::create_npy(&file, 10).unwrap();
    let arrays = [
        (named, name),
        (anonymous, format!("/proc/{}/fd/{number}", std::process::id())),
        (in_place, file.to_str().unwrap().to_owned()),
    ];
    for (mut array, place) in arrays {
        let mut third = Peer::start(test, "third", &place);
        third.expect("attached");
        let mut writer = Peer::start(test, "writer", &place);
        writer.expect("writing");
        assert_eq!(array.try_read().unwrap_err().kind(), ErrorKind::WouldBlock, "not poisoned: being written");
        assert!(!array.is_poisoned());
        let pid = writer.pid();
        writer.kill();

        let error = array.read_timeout(LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        assert!(error.to_string().contains(&format!("by process {pid} did not finish")), "{error}");
        assert_poisoned(&mut array);
        assert_eq!(third.ask("look"), "poisoned");

        array.clear_poison().unwrap();
        assert_sound(&mut array);
        assert_eq!(array.read().unwrap().to_vec(), [7; 10], "what was written is as it was left");
        assert_eq!(third.ask("look"), "sound");
    }
}

#[test]
fn the_lock_of_a_killed_writer_is_free_at_once_but_for_what_the_kernel_needs() {
    let test = "the_lock_of_a_killed_writer_is_free_at_once_but_for_what_the_kernel_needs";
    if let Some((_, name)) = peer::role() {
        let mut array = attach(&name);
        let _guard = array.write().unwrap();
        peer::say("writing");
        peer::hear();
        return;
    }
    let (mut array, name) = named("at-once");
    let mut took = Vec::new();
    // The best of several: the machine may have other things to do.
    for _ in 0..10 {
        let mut writer = Peer::start(test, "writer", &name);
        writer.expect("writing");
        let killed = Instant::now();
        writer.signal_kill();
        assert_eq!(array.write_timeout(LONG).unwrap_err().kind(), ErrorKind::Poisoned);
        took.push(killed.elapsed());
        array.clear_poison().unwrap();
        if took.iter().any(|&took| took < Duration::from_millis(10)) {
            return;
        }
    }
    panic!("about 1 ms, not {took:?}");
}

#[test]
fn a_waiting_writer_learns_that_the_one_before_was_killed() {
    let test = "a_waiting_writer_learns_that_the_one_before_was_killed";
    if let Some((_, name)) = peer::role() {
        let mut array = attach(&name);
        let _guard = array.write().unwrap();
        peer::say("writing");
        peer::hear();
        return;
    }
    let (mut array, name) = named("waiting");
    let mut writer = Peer::start(test, "writer", &name);
    writer.expect("writing");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| array.write().map(drop).unwrap_err().kind());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        writer.kill();
        assert!(wait_until(LONG, || waiting.is_finished()), "the lock of a dead process was not freed");
        assert_eq!(waiting.join().unwrap(), ErrorKind::Poisoned);
    });
}

#[test]
fn a_reader_that_is_killed_frees_the_lock_and_poisons_nothing() {
    let test = "a_reader_that_is_killed_frees_the_lock_and_poisons_nothing";
    if let Some((_, name)) = peer::role() {
        let array = attach(&name);
        let _guard = array.read().unwrap();
        peer::say("reading");
        peer::hear();
        return;
    }
    let (mut array, name) = named("reader");
    let mut reader = Peer::start(test, "reader", &name);
    reader.expect("reading");
    assert_eq!(array.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
    reader.kill();
    drop(array.write_timeout(LONG).unwrap());
    assert_sound(&mut array);
}

#[test]
fn a_panic_under_a_write_guard_poisons_for_every_handle() {
    let (mut array, name) = named("panic");
    let mut other = attach(&name);
    panic_while_writing(&mut array, 3);
    assert_poisoned(&mut array);
    assert_poisoned(&mut other);
    let error = other.read().unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    other.clear_poison().unwrap();
    assert_sound(&mut array);
    assert_sound(&mut other);
    assert_eq!(array.read().unwrap()[0], 3);

    let mut anonymous = Words::zeros(10).unwrap();
    panic_while_writing(&mut anonymous, 4);
    assert_poisoned(&mut anonymous);
    anonymous.clear_poison().unwrap();
    assert_sound(&mut anonymous);
}

#[test]
fn a_panic_poisons_for_another_process() {
    let test = "a_panic_poisons_for_another_process";
    if let Some((_, name)) = peer::role() {
        panic_while_writing(&mut attach(&name), 8);
        return;
    }
    let (mut array, name) = named("panic-process");
    Peer::start(test, "writer", &name).succeeded();
    assert_poisoned(&mut array);
    array.clear_poison().unwrap();
    assert_eq!(array.read().unwrap()[0], 8);
}

#[test]
fn a_guard_that_was_taken_in_a_panic_and_ended_well_poisons_nothing() {
    struct WriteInDrop<'a>(&'a mut Words);
    impl Drop for WriteInDrop<'_> {
        fn drop(&mut self) {
            self.0.write().unwrap()[0] = 5;
        }
    }
    let mut array = Words::zeros(1).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _later = WriteInDrop(&mut array);
        resume_unwind(Box::new("before writing"));
    }));
    assert!(result.is_err());
    assert_sound(&mut array);
    assert_eq!(array.read().unwrap()[0], 5);
}

#[test]
fn reading_and_ending_a_write_early_poison_nothing() {
    let (mut array, _) = named("early");
    let result = catch_unwind(AssertUnwindSafe(|| {
        let guard = array.read().unwrap();
        assert_eq!(guard[0], 0);
        resume_unwind(Box::new("while reading"));
    }));
    assert!(result.is_err());
    assert_sound(&mut array);
    let mut write_one = || -> Result<(), std::num::ParseIntError> {
        array.write().unwrap()[0] = "not a number".parse()?;
        Ok(())
    };
    assert!(write_one().is_err());
    assert_sound(&mut array);
}

#[test]
fn a_leaked_guard_poisons_nothing_once_the_array_is_used_again_or_dropped() {
    let (mut array, name) = named("leaked");
    let mut other = attach(&name);
    std::mem::forget(array.write().unwrap());
    drop(array.write().unwrap());
    assert_sound(&mut other);
    std::mem::forget(array.write().unwrap());
    drop(array);
    assert_sound(&mut other);
    std::mem::forget(other.write().unwrap());
    other.clear_poison().unwrap();
    assert_sound(&mut other);
}

#[test]
fn clearing_what_is_not_poisoned_changes_nothing_and_waits_for_a_writer() {
    let (mut array, name) = named("clear");
    let mut other = attach(&name);
    array.clear_poison().unwrap();
    assert_sound(&mut array);
    let mut guard = array.write().unwrap();
    assert_eq!(other.clear_poison().unwrap_err().kind(), ErrorKind::WouldBlock, "this thread itself writes");
    std::thread::scope(|scope| {
        let clearing = scope.spawn(|| other.clear_poison());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!clearing.is_finished());
        guard[0] = 1;
        drop(guard);
        clearing.join().unwrap().unwrap();
    });
    assert_sound(&mut array);
}

#[test]
fn a_poisoned_array_is_neither_saved_nor_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let mut array = Words::zeros(10).unwrap();
    panic_while_writing(&mut array, 6);
    assert_eq!(array.save_npy(dir.path().join("a.npy")).unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(std::fs::read_dir(&dir).unwrap().next().is_none());
    let failed = array.freeze().unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::Poisoned);
    let mut array = failed.into_array().unwrap();
    assert_poisoned(&mut array);
    array.clear_poison().unwrap();
    assert_eq!(array.freeze().unwrap().view()[0], 6);
}

#[test]
fn a_read_only_handle_learns_of_poison_and_cannot_clear_it() {
    let (mut array, name) = named("read-only");
    // SAFETY: these tests write through guards alone.
    let mut reader = unsafe { Words::attach_read_only(&name) }.unwrap();
    panic_while_writing(&mut array, 1);
    assert!(reader.is_poisoned());
    assert_eq!(reader.read().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(reader.clear_poison().unwrap_err().kind(), ErrorKind::Permission);
    array.clear_poison().unwrap();
    drop(reader.read().unwrap());
}

#[test]
fn without_a_trailer_only_this_process_s_panics_poison() {
    let test = "without_a_trailer_only_this_process_s_panics_poison";
    if let Some((role, path)) = peer::role() {
        let mut array = open(path);
        if role == "panics" {
            panic_while_writing(&mut array, 2);
            assert_poisoned(&mut array);
        } else {
            let _guard = array.write().unwrap();
            peer::say("writing");
            peer::hear();
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.npy");
    // As `np.save` writes it, and as this crate does: header and elements, no more.
    Words::zeros(10).unwrap().save_npy(&path).unwrap();
    let mut array = open(&path);
    let mut second = open(&path);
    panic_while_writing(&mut array, 1);
    assert_poisoned(&mut array);
    assert_poisoned(&mut second);
    let error = second.read().unwrap_err();
    assert!(error.to_string().contains("a write by this process did not finish"), "{error}");
    second.clear_poison().unwrap();
    assert_sound(&mut array);

    // Another process has nowhere to leave a mark: its lock goes, and that is all.
    Peer::start(test, "panics", path.to_str().unwrap()).succeeded();
    assert_sound(&mut array);
    assert_eq!(array.read().unwrap()[0], 2);
    let mut writer = Peer::start(test, "killed", path.to_str().unwrap());
    writer.expect("writing");
    writer.kill();
    drop(array.write_timeout(LONG).unwrap());

    let name = unique_name("headerless");
    let memory = SharedMemory::create_named(&name, 40).unwrap();
    // SAFETY: nobody else knows the name.
    let mut headerless = unsafe { Words::from_memory(memory, 0, 10) }.unwrap();
    panic_while_writing(&mut headerless, 1);
    assert_poisoned(&mut headerless);
    headerless.clear_poison().unwrap();
    assert_sound(&mut headerless);
}
