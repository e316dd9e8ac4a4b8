//! What goes wrong in a call: tasks that panic and fail, workers that die, values that cannot be read. The error says
//! what, where and over which rows, the arrays say whether they are half written, and the pool goes on.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "tasks that misbehave as only unsafe code can, and init_before_main")]

mod workers;

use std::fmt;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ndarray::{Array1, ArrayViewMut1, Ix1, s};
use ndshm::{Chunk, Each, ErrorKind, Param, Pool, SharedArray, SharedMemory};
use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use workers::{Flags, assert_reaped, assert_whole, raise, signal, wait_for, wait_until_gone};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

/// Raises this chunk's flag, and waits until all other chunks have raised theirs.
fn wait_for_others(flags: &Path, chunk: &Chunk) {
    arrive(flags, chunk);
    (0..chunk.count()).for_each(|other| drop(wait_for(flags, &other.to_string())));
}

fn arrive(flags: &Path, chunk: &Chunk) {
    raise(flags, &chunk.index().to_string());
}

// Panics

const PANIC_LINE: u32 = line!() + 8;

/// Fills its rows; the third chunk panics when all others are done.
fn panic_in_the_third((mut rows, flags): (ArrayViewMut1<'_, u32>, PathBuf), chunk: &Chunk) {
    rows[0] = 7;
    if chunk.index() == 2 {
        wait_for_others(&flags, chunk);
        let row = chunk.rows().start;
        panic!("row {row} is no good");
    }
    rows.fill(7);
    arrive(&flags, chunk);
}

#[test]
fn a_task_that_panics_is_an_error_with_its_message_place_and_rows() {
    let pool = two();
    let pids = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(20).unwrap();
    let error = pool
        .for_each((array.chunks_mut().rows(3), Param(&flags.path())), |views, chunk| panic_in_the_third(views, chunk))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskPanicked);
    let message = error.to_string();
    let place = format!("panicked at {}:{PANIC_LINE}:", file!());
    assert!(message.contains("the task of rows 6..9 (chunk 2 of 7)"), "{message}");
    assert!(message.contains(&place) && message.contains("row 6 is no good"), "{message}");
    assert!(message.contains("3 of 20 rows are not finished"), "{message}");
    assert_eq!(error.rows(), [6..9]);
    // The worker survives it.
    assert_eq!(pool.worker_pids(), pids);
    assert_whole(&pool);

    assert!(array.is_poisoned());
    assert_eq!(array.read().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(array.write().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(pool.for_each(array.chunks(), |_, _| ()).unwrap_err().kind(), ErrorKind::Poisoned);
    array.clear_poison().unwrap();
    let mut expected = Array1::from_elem(20, 7);
    expected.slice_mut(s![7..9]).fill(0);
    assert_eq!(*array.read().unwrap(), expected);
    pool.for_each(array.chunks_mut(), |mut rows, _| rows.fill(1)).unwrap();
    assert_eq!(array.read().unwrap().sum(), 20);
}

#[test]
fn only_arrays_that_were_lent_for_writing_are_poisoned() {
    for pool in [two(), Pool::serial()] {
        let mut written = SharedArray::<u8, _>::zeros(4).unwrap();
        let mut also_written = SharedArray::<u8, _>::zeros((4, 2)).unwrap();
        let split = SharedArray::<u8, _>::zeros(4).unwrap();
        let whole = SharedArray::<u8, _>::zeros(4).unwrap();
        let arguments = (written.chunks_mut(), [also_written.chunks_mut()], split.chunks(), &whole);
        let error = pool.for_each(arguments, |_, _| panic!("no")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskPanicked);
        assert!(written.is_poisoned() && also_written.is_poisoned());
        assert!(!split.is_poisoned() && !whole.is_poisoned());
        assert_eq!(split.read().unwrap().sum() + whole.read().unwrap().sum(), 0);
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload's own drop");
    }
}

#[test]
fn a_payload_that_panics_when_it_is_dropped_does_no_more_than_one_that_does_not() {
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let error = pool.for_each((), |(), _| std::panic::panic_any(Bomb)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskPanicked);
        assert!(error.to_string().contains("a panic without a message"), "{error}");
        assert_eq!(error.rows(), [0..1]);
        assert_eq!(pool.worker_pids(), pids);
    }
}

#[test]
fn a_panic_that_the_task_caught_lends_its_place_to_no_other() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let error = pool
        .for_each(Each(&[0, 1]), |step, _| {
            if step == 0 {
                assert!(catch_unwind(|| panic!("caught")).is_err());
            } else {
                std::panic::resume_unwind(Box::new("thrown without the panic hook"));
            }
        })
        .unwrap_err();
    assert!(error.to_string().contains("panicked: thrown without the panic hook"), "{error}");
}

// Deaths

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Death {
    Kill,
    Fault,
    Abort,
    Exit(i32),
    StackOverflow,
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: &[usize; 256]) -> usize {
    let deeper = black_box([depth[0] + 1; 256]);
    recurse(&deeper) + black_box(deeper[255])
}

fn die(death: Death) {
    match death {
        Death::Kill => nix::sys::signal::raise(Signal::SIGKILL).unwrap(),
        Death::Fault => {
            let nowhere = std::ptr::without_provenance_mut::<u8>(4000);
            // SAFETY: there is none: the first page is mapped in no process, and the test wants the fault.
            unsafe { nowhere.write_volatile(1) }
        }
        Death::Abort => std::process::abort(),
        Death::Exit(code) => std::process::exit(code),
        Death::StackOverflow => drop(black_box(recurse(&[0; 256]))),
    }
}

/// Fills its rows; the first chunk dies half way, when all others are done.
fn die_in_the_first((mut rows, death, flags): (ArrayViewMut1<'_, u32>, Death, PathBuf), chunk: &Chunk) {
    rows[0] = 7;
    if chunk.index() == 0 {
        wait_for_others(&flags, chunk);
        die(death);
    }
    rows.fill(7);
    arrive(&flags, chunk);
}

#[test]
fn a_worker_that_dies_is_an_error_with_its_cause_and_rows_and_another_takes_its_place() {
    let pool = two();
    for (death, cause) in [
        (Death::Kill, "was killed by signal 9 (SIGKILL)"),
        (Death::Fault, "was killed by signal 11 (SIGSEGV)"),
        (Death::Abort, "was killed by signal 6 (SIGABRT)"),
        (Death::Exit(3), "exited with code 3"),
        (Death::Exit(0), "exited with code 0"),
        // Rust's handler, where there is one, makes an abort of it.
        (Death::StackOverflow, "was killed by signal"),
    ] {
        let before = pool.worker_pids();
        let flags = Flags::new();
        let mut array = SharedArray::<u32, _>::zeros(20).unwrap();
        let other = SharedArray::<u32, _>::zeros(20).unwrap();
        let arguments = ((array.chunks_mut().rows(3), Param(&death), Param(&flags.path())), &other);
        let error = pool.for_each(arguments, |(views, _), chunk| die_in_the_first(views, chunk)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
        assert!(error.to_string().contains(cause), "{death:?}: {error}");
        assert!(error.to_string().contains("while it ran rows 0..3 (chunk 0 of 7)"), "{error}");
        assert_eq!(error.rows(), [0..3], "{death:?}");

        let after = pool.worker_pids();
        let dead: Vec<u32> = before.into_iter().filter(|pid| !after.contains(pid)).collect();
        assert_eq!(dead.len(), 1, "one worker died and one was kept");
        assert!(error.to_string().contains(&format!("(process {})", dead[0])), "{error}");
        assert_reaped(dead);
        assert_whole(&pool);

        assert!(!other.is_poisoned());
        assert_eq!(array.read().unwrap_err().kind(), ErrorKind::Poisoned);
        array.clear_poison().unwrap();
        let mut expected = Array1::from_elem(20, 7);
        expected.slice_mut(s![1..3]).fill(0);
        assert_eq!(*array.read().unwrap(), expected);
    }
}

#[test]
fn what_a_worker_said_before_it_died_counts() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let worker = pool.worker_pids()[0];
    let items = [0, 1, 2, 3];
    let error = pool
        .call()
        // The parent does not look before the worker is dead, with an answer and its death to be found together.
        .progress(|_| wait_until_gone(&[worker]))
        .for_each(Each(&items), |item, _| {
            // Longer than outcomes are kept back, so that each is sent at once.
            thread::sleep(Duration::from_millis(6));
            if item == 2 {
                die(Death::Kill);
            }
        })
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::WorkerDied, [2..4].as_slice()));
    assert!(error.to_string().contains("while it ran item 2"), "{error}");
    assert_whole(&pool);
}

#[test]
fn when_all_workers_die_all_their_rows_are_told() {
    let pool = two();
    let before = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let error = pool
        .for_each((array.chunks_mut().rows(1), Param(&flags.path())), |(_, flags), chunk| {
            wait_for_others(&flags, chunk);
            die(Death::Kill);
        })
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::WorkerDied, [0..2].as_slice()));
    assert_reaped(before);
    assert_whole(&pool);
}

#[test]
fn a_worker_that_was_killed_between_calls_is_replaced_without_a_word() {
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    for round in 1..=20 {
        let victim = pool.worker_pids()[round % 2];
        // Not waited for: the next call may find it dead, dying or not yet told.
        signal(victim, Signal::SIGKILL);
        pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
        assert!(array.read().unwrap().iter().all(|&count| count == round as u32));
        assert_reaped([victim]);
    }
    assert_whole(&pool);
}

// Failures

#[derive(Debug)]
struct Failure(&'static str, &'static str);

/// Prints its cause only in the alternate form, as the widespread error types that keep a chain do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        if f.alternate() { write!(f, ": {}", self.1) } else { Ok(()) }
    }
}

#[test]
fn a_task_that_fails_is_an_error_with_its_whole_chain_and_rows_and_poisons_nothing() {
    let flags = Flags::new();
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u32, _>::zeros(20).unwrap();
        let error = pool
            .try_map((array.chunks_mut().rows(3), Param(&flags.path())), |(mut rows, flags), chunk| {
                rows[0] = 7;
                if chunk.index() == 6 {
                    wait_for_others(&flags, chunk);
                    return Err(Failure("cannot read the last tile", "only 3 bytes are left"));
                }
                rows.fill(7);
                arrive(&flags, chunk);
                Ok(chunk.index())
            })
            .unwrap_err();
        assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [18..20].as_slice()));
        let message = error.to_string();
        assert!(message.contains("rows 18..20 (chunk 6 of 7)"), "{message}");
        assert!(message.contains("failed: cannot read the last tile: only 3 bytes are left"), "{message}");
        assert!(!array.is_poisoned());
        assert_eq!(array.read().unwrap().sum(), 19 * 7);
        assert_eq!(pool.worker_pids(), pids);
        let fine = pool.try_map(array.chunks_mut().rows(10), |_, chunk| Ok::<_, Failure>(chunk.index()));
        assert_eq!(fine.unwrap(), [0, 1]);
    }
}

#[test]
fn no_chunk_is_begun_after_one_has_failed() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut array = SharedArray::<u32, _>::zeros(1000).unwrap();
    let error = pool
        .try_map(array.chunks_mut().rows(1), |mut row, chunk| {
            row.fill(1);
            // Longer than outcomes are kept back, so that each is sent at once.
            thread::sleep(Duration::from_millis(6));
            if chunk.index() == 1 { Err("no") } else { Ok(()) }
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    assert!(array.read().unwrap().sum() < 1000);
}

#[test]
fn a_panic_poisons_where_a_failure_of_an_earlier_chunk_is_what_is_told() {
    let pool = two();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let error = pool
        .try_map((array.chunks_mut().rows(1), Param(&flags.path())), |(_, flags), chunk| {
            wait_for_others(&flags, chunk);
            assert_ne!(chunk.index(), 1, "half way");
            Err::<(), _>("in good order")
        })
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [0..2].as_slice()));
    assert!(array.is_poisoned());
}

#[test]
fn a_death_poisons_where_a_failure_of_an_earlier_chunk_is_what_is_told() {
    // Only the failure that was told decided, and half a row of the dead worker passed for whole.
    let pool = two();
    let before = pool.worker_pids();
    let flags = Flags::new();
    let mut array = SharedArray::<u32, _>::zeros((2, 2)).unwrap();
    let error = pool
        .try_map((array.chunks_mut().rows(1), Param(&flags.path()), Param(&before)), |(mut row, flags, pids), chunk| {
            wait_for_others(&flags, chunk);
            if chunk.index() == 1 {
                row[[0, 0]] = 7;
                die(Death::Kill);
            }
            let other = pids.into_iter().find(|&pid| pid != std::process::id()).unwrap();
            wait_until_gone(&[other]);
            Err::<(), _>("in good order")
        })
        .unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, [0..2].as_slice()));
    assert!(array.is_poisoned());
    array.clear_poison().unwrap();
    assert_eq!(array.read().unwrap().row(1).to_vec(), [7, 0]);
    assert_whole(&pool);
}

// Values

/// A value that makes trouble at the moment that it names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    SerializeFails,
    SerializePanics,
    DeserializeFails,
    DeserializePanics,
}

const TROUBLES: [Trouble; 5] = [
    Trouble::None,
    Trouble::SerializeFails,
    Trouble::SerializePanics,
    Trouble::DeserializeFails,
    Trouble::DeserializePanics,
];

impl Serialize for Trouble {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::SerializeFails => Err(ser::Error::custom("it will not be written")),
            Self::SerializePanics => panic!("it cannot be written"),
            _ => serializer.serialize_u8(*self as u8),
        }
    }
}

impl<'de> Deserialize<'de> for Trouble {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TROUBLES[usize::from(u8::deserialize(deserializer)?)] {
            Self::DeserializeFails => Err(de::Error::custom("it will not be read")),
            Self::DeserializePanics => panic!("it cannot be read"),
            other => Ok(other),
        }
    }
}

fn panic_message(body: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(body)).unwrap_err();
    payload.downcast_ref::<&str>().map(ToString::to_string).unwrap()
}

#[test]
fn a_parameter_that_cannot_be_written_or_read_is_an_error_and_no_task_runs() {
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u8, _>::zeros(4).unwrap();
        let mut call = |trouble: Trouble| {
            let arguments = (array.chunks_mut().rows(1), Param(&trouble), Each(&[Trouble::None; 4]));
            let error = pool.for_each(arguments, |(mut rows, _, _), _| rows.fill(1)).unwrap_err();
            (error, array.is_poisoned(), array.read().map(|rows| rows.sum()).unwrap_or_default())
        };
        let (error, poisoned, sum) = call(Trouble::SerializeFails);
        assert_eq!((error.kind(), poisoned, sum), (ErrorKind::Serialization, false, 0));
        assert!(error.to_string().contains("it will not be written"), "{error}");

        let (error, poisoned, sum) = call(Trouble::DeserializeFails);
        assert_eq!((error.kind(), poisoned, sum), (ErrorKind::Serialization, false, 0));
        let message = error.to_string();
        assert!(message.contains("Trouble") && message.contains("it will not be read"), "{message}");
        assert_eq!(error.rows(), [0..4]);

        assert_eq!(panic_message(|| drop(call(Trouble::SerializePanics))), "it cannot be written");

        // It panics where the task would have run.
        let (error, _, sum) = call(Trouble::DeserializePanics);
        assert_eq!((error.kind(), sum), (ErrorKind::TaskPanicked, 0));
        assert!(error.to_string().contains("it cannot be read"), "{error}");
        array.clear_poison().unwrap();
        assert_eq!(array.read().unwrap().sum(), 0);
        assert_eq!(pool.worker_pids(), pids);
    }
}

#[test]
fn a_result_that_cannot_be_written_or_read_is_an_error_and_the_pool_goes_on() {
    for pool in [two(), Pool::serial()] {
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u8, _>::zeros(4).unwrap();
        let mut call = |trouble: usize| {
            let error = pool
                .map((array.chunks_mut().rows(1), Param(&trouble)), |(mut rows, trouble), chunk| {
                    rows.fill(1);
                    TROUBLES[if chunk.index() == 3 { trouble } else { 0 }]
                })
                .unwrap_err();
            (error, array.is_poisoned())
        };
        let (error, poisoned) = call(1);
        assert_eq!((error.kind(), poisoned), (ErrorKind::Serialization, false));
        assert!(error.to_string().contains("it will not be written"), "{error}");
        // Perhaps with the chunk before it, which a worker may not have begun.
        assert_eq!(error.rows().last().map(|rows| rows.end), Some(4));

        let (error, poisoned) = call(3);
        assert_eq!((error.kind(), poisoned), (ErrorKind::Serialization, false));
        let message = error.to_string();
        assert!(message.contains("Trouble") && message.contains("it will not be read"), "{message}");

        assert_eq!(panic_message(|| drop(call(4))), "it cannot be read");
        assert!(!call(1).1, "the call had ended before this thread panicked");

        let (error, poisoned) = call(2);
        assert_eq!((error.kind(), poisoned), (ErrorKind::TaskPanicked, true));
        assert!(error.to_string().contains("it cannot be written"), "{error}");
        assert_eq!(pool.worker_pids(), pids);
    }
}

#[test]
fn results_of_many_megabytes_arrive_whole_and_in_order() {
    const LEN: usize = 20_000_000;
    let pool = two();
    let letters = ['a', 'b', 'c', 'd'];
    let texts = pool.map((Each(&letters), Param(&LEN)), |(letter, len), _| letter.to_string().repeat(len)).unwrap();
    assert_eq!(texts.len(), 4);
    for (text, letter) in texts.iter().zip(letters) {
        assert!(text.len() == LEN && text.bytes().all(|byte| byte == letter as u8));
    }
}

// Arguments

#[test]
fn a_block_that_is_given_twice_is_refused_where_one_of_them_writes() {
    let name = format!("ndshm-test-twice-{}", std::process::id());
    for pool in [two(), Pool::serial()] {
        let mut first = SharedArray::<u8, _>::options().name(&name).zeros(8).unwrap();
        // SAFETY: nobody but this test knows the name, and it writes through guards and pools alone.
        let mut second = unsafe { SharedArray::<u8, Ix1>::attach(&name) }.unwrap();
        for error in [
            pool.for_each((first.chunks_mut(), &second), |_, _| ()).unwrap_err(),
            pool.for_each((first.chunks_mut(), second.chunks_mut()), |_, _| ()).unwrap_err(),
            pool.for_each((&first, vec![second.chunks_mut()]), |_, _| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("same block is given twice"), "{error}");
        }
        let sums = pool.map((first.chunks().rows(8), &second, &first), |(a, b, c), _| a.sum() + b.sum() + c.sum());
        assert_eq!(sums.unwrap(), [0]);
        first.write().unwrap().fill(1);
        assert_eq!(second.read().unwrap().sum(), 8);
    }
}

#[test]
fn an_array_that_was_lent_for_reading_first_can_be_lent_for_writing_later() {
    // The description that workers hold stayed read-only for good, and a read-only one cannot be locked for writing.
    let name = format!("ndshm-test-reader-first-{}", std::process::id());
    let mut made = SharedArray::<u8, _>::options().name(&name).zeros(8).unwrap();
    let pool = two();
    made.keep();
    drop(made);
    // SAFETY: nobody but this test knows the name, and it writes through guards and pools alone.
    let mut reader = unsafe { SharedArray::<u8, Ix1>::attach_read_only(&name) }.unwrap();
    // SAFETY: as above.
    let attach = || unsafe { SharedArray::<u8, Ix1>::attach(&name) };
    let calls = || {
        pool.for_each(&reader, |_, _| ())?;
        let mut writer = attach()?;
        writer.write()?.fill(1);
        pool.for_each(writer.chunks_mut(), |mut rows, _| rows += 1)?;
        pool.map((&reader, writer.chunks().rows(8)), |(whole, rows), _| (whole.sum(), rows.sum()))
    };
    let sums = calls();
    SharedMemory::unlink_name(&name).unwrap();
    assert_eq!(sums.unwrap(), [(16, 16)]);
    let refused = pool.for_each(reader.chunks_mut(), |_, _| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Permission);
}

/// Makes a call when it is dropped whose callback panics while a task has half of its rows written.
struct CallsAtTheEnd<'a> {
    pool: &'a Pool,
    array: &'a mut SharedArray<u32, Ix1>,
}

impl Drop for CallsAtTheEnd<'_> {
    fn drop(&mut self) {
        let flags = Flags::new();
        let told = &flags.path();
        let call = self.pool.call().progress(|_| {
            wait_for(told, "half");
            raise(told, "told");
            panic!("in the callback");
        });
        let call = || {
            call.for_each((self.array.chunks_mut().rows(2), Param(told)), |(mut rows, flags), chunk| {
                if chunk.index() == 1 {
                    rows[0] = 1;
                    raise(&flags, "half");
                    wait_for(&flags, "told");
                    std::process::abort();
                }
                // Until the parent wants to be told how the call goes.
                thread::sleep(Duration::from_millis(50));
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    }
}

#[test]
fn a_panic_in_a_callback_poisons_also_where_its_thread_panics_already() {
    // The array was as good as new, half written as it was.
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
    let panics = || {
        let _calls = CallsAtTheEnd { pool: &pool, array: &mut array };
        panic!("before it");
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert!(array.is_poisoned());
}
