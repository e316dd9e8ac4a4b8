//! A task across a process boundary: named by its place in the main executable, checked, then called.
//!
//! Parent and worker run the same executable, but not at the same address, so addresses travel as offsets from where it
//! was loaded. Two are sent: that of the user's function and that of a [`TaskEntry`], a constant that holds the
//! instance of [`run`] for the task's types. The worker checks, before it jumps anywhere, that both lie in its main
//! executable, that there is an entry at all (its magic) and that it is for the types that the parent meant. That the
//! two executables are the same was settled by their build ids when the worker said hello. A task that lies elsewhere,
//! in a plugin or a dynamic library, is refused in the parent already.
#![expect(unsafe_code, reason = "turns an address that was checked back into a function")]

use std::any::Any;
use std::fmt::Display;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

use super::args::{Args, Cursor, mark_of, mix};
use super::chunk::Chunk;
use super::control::Record;
use super::numbers::Form;
use super::plan::encode_to;
use super::protocol::{TaskAddress, TaskFailure};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::exe;

/// What a pool runs for each chunk: a function, or a closure that captures nothing.
pub(crate) type Task<A, R> = for<'a, 'b> fn(<A as Args>::Views<'a>, &'b Chunk) -> R;

const MAGIC: u64 = u64::from_le_bytes(*b"ndshmTSK");

/// What became of a chunk. What the task returned is in the record, in that form.
pub(crate) type Ended = std::result::Result<Form, TaskFailure>;

type RunFn = unsafe fn(usize, &mut Cursor<'_>, &mut dyn Share, &mut Record);

/// Whose chunks a task runs, one after another. What is asked for each of them is passed in registers.
pub(crate) trait Share {
    /// No chunk yet, but for [`next`](Self::next).
    fn no_chunk(&self) -> Chunk;

    /// Goes on to the next chunk, which nobody else has: one of the call or, where it has no more and nothing of it is
    /// touched any more, one of a later call that asks the same. `false` where there is none.
    fn next(&mut self, chunk: &mut Chunk) -> bool;

    /// The chunk is done; what it returned is in the record.
    fn done(&mut self, chunk: usize, form: Form, record: &mut Record);

    /// The chunk has failed.
    fn failed(&mut self, chunk: usize, failure: TaskFailure, record: &mut Record);
}

/// The constant that stands for one instance of [`run`] in the executable's data.
#[repr(C)]
pub(crate) struct TaskEntry {
    magic: u64,
    types: u64,
    run: RunFn,
}

/// A task as the parent holds it.
#[derive(Clone, Copy)]
pub(crate) struct TaskRef {
    entry: &'static TaskEntry,
    function: usize,
}

/// The same constant may lie in several places, and several tasks may be the same code: what is equal does the same.
impl PartialEq for TaskRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.entry, other.entry) && self.function == other.function
    }
}

impl TaskRef {
    pub(crate) fn new<A: Args, R, K: Kind<R>>(task: Task<A, R>) -> Self {
        Self { entry: Instance::<A, R, K>::ENTRY, function: task as usize }
    }

    /// Runs the task in this process for every chunk of `share`.
    ///
    /// # Safety
    /// As for [`Args::take`], with a cursor over arguments of the task's own type and the chunks of `share`.
    pub(crate) unsafe fn run(self, cursor: &mut Cursor<'_>, share: &mut dyn Share, record: &mut Record) {
        // SAFETY: `function` is the task that `entry` was made for, by `new`; the rest is the caller's.
        unsafe { (self.entry.run)(self.function, cursor, share, record) }
    }

    /// How a worker is told of it.
    pub(crate) fn address(self) -> Result<TaskAddress> {
        let exe = exe::main_executable()?;
        let entry = exe.data_offset(std::ptr::from_ref(self.entry).addr(), size_of::<TaskEntry>());
        let run = exe.code_offset(self.entry.run as usize);
        let function = exe.code_offset(self.function);
        match (entry, run, function) {
            (Some(entry), Some(_), Some(function)) => Ok(TaskAddress { entry, function, types: self.entry.types }),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "the task lies in a library or plugin that was loaded into this program, and a worker finds tasks in the \
                 main executable only: link it in statically, or use Pool::serial",
            )),
        }
    }

    /// What the parent named, found again in the worker.
    pub(crate) fn find(address: TaskAddress) -> Result<Self> {
        let exe = exe::main_executable()?;
        let wrong =
            |what| Error::new(ErrorKind::Unsupported, format!("the parent named a task that is none here: {what}"));
        let entry = exe
            .data_address(address.entry, size_of::<TaskEntry>(), align_of::<TaskEntry>())
            .ok_or_else(|| wrong("its entry is outside the executable"))?;
        // SAFETY: the range lies in one mapped segment of this executable and is aligned, as `data_address` checked; any
        // bytes there are valid for the two integers read first, which decide whether it is an entry.
        let head = unsafe { std::ptr::with_exposed_provenance::<[u64; 2]>(entry).read() };
        if head != [MAGIC, address.types] {
            return Err(wrong("its types are others"));
        }
        // SAFETY: magic and mark show that this is an entry: a constant of this executable, which both sides compared.
        let entry: &'static TaskEntry = unsafe { &*std::ptr::with_exposed_provenance::<TaskEntry>(entry) };
        if exe.code_offset(entry.run as usize).is_none() {
            return Err(wrong("its entry leads out of the executable"));
        }
        let function =
            exe.code_address(address.function).ok_or_else(|| wrong("it is outside the executable's code"))?;
        Ok(Self { entry, function })
    }
}

struct Instance<A, R, K>(PhantomData<(A, R, K)>);

impl<A: Args, R, K: Kind<R>> Instance<A, R, K> {
    const ENTRY: &'static TaskEntry =
        &TaskEntry { magic: MAGIC, types: mix(mix(mark_of::<R>(K::TAG), A::TYPES), MAGIC), run: run::<A, R, K> };
}

/// Calls the task for every chunk of `share`, in one call after another for as long as they ask the same. What the
/// task's arguments are is found out once.
///
/// # Safety
/// `function` is the address of a `Task<A, R>`; for the cursor and the chunks as for [`Args::take`].
unsafe fn run<A: Args, R, K: Kind<R>>(
    function: usize,
    cursor: &mut Cursor<'_>,
    share: &mut dyn Share,
    record: &mut Record,
) {
    // SAFETY: a function pointer of exactly this type was turned into the address, by the caller's word.
    let task = unsafe { std::mem::transmute::<usize, Task<A, R>>(function) };
    let found = A::find(cursor);
    let mut chunk = share.no_chunk();
    while share.next(&mut chunk) {
        let index = chunk.index();
        let ended = match &found {
            Ok(found) => ended(|| {
                // SAFETY: found right here; the rest is passed on. The views are gone when the task returns, as it takes
                // them for any lifetime.
                let views = unsafe { A::take(found, index) };
                let views = views.map_err(|error| TaskFailure::Broken(error.to_string()))?;
                K::report(task(views, &chunk), record)
            }),
            Err(error) => Err(TaskFailure::Broken(error.to_string())),
        };
        match ended {
            Ok(form) => share.done(index, form, record),
            Err(failure) => share.failed(index, failure, record),
        }
    }
}

/// How what a task returns is written down.
pub(crate) trait Kind<R> {
    const TAG: u64;
    fn report(returned: R, record: &mut Record) -> Ended;
}

/// Whatever a task returns is its result.
pub(crate) struct Plain;

/// A task's error is its chunk's failure.
pub(crate) struct Fallible;

impl<R: Serialize> Kind<R> for Plain {
    const TAG: u64 = 1;

    #[inline]
    fn report(returned: R, record: &mut Record) -> Ended {
        let form = record.numbers.take(&returned);
        if form == Form::Bytes {
            encode_to(record.cleared(), &returned).map_err(|error| TaskFailure::Broken(error.to_string()))?;
        }
        Ok(form)
    }
}

impl<R: Serialize, E: Display> Kind<Result<R, E>> for Fallible {
    const TAG: u64 = 2;

    #[inline]
    fn report(returned: Result<R, E>, record: &mut Record) -> Ended {
        match returned {
            Ok(value) => Plain::report(value, record),
            // The alternate form, in which error types that have one print their whole chain.
            Err(error) => Err(TaskFailure::Failed(format!("{error:#}"))),
        }
    }
}

/// What `run` comes to. A panic in it is a failure as well.
fn ended(run: impl FnOnce() -> Ended) -> Ended {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let message = message_of(&*payload);
        // A payload whose own drop panics must not get away.
        std::mem::forget(payload);
        Err(TaskFailure::Panicked { message, place: None })
    })
}

/// What a panic said.
fn message_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_finds_the_task_that_was_named_and_no_other() {
        let task = TaskRef::new::<(), u32, Plain>(|(), _| 2);
        let address = task.address().unwrap();
        let found = TaskRef::find(TaskAddress { ..address }).unwrap();
        assert_eq!((found.entry.run as usize, found.function), (task.entry.run as usize, task.function));

        let other = TaskRef::new::<(), u64, Plain>(|(), _| 2).address().unwrap();
        assert_ne!(other.types, address.types, "another result is another type");
        for (wrong, why) in [
            (TaskAddress { types: other.types, ..address }, "its types are others"),
            (TaskAddress { entry: other.entry, ..address }, "its types are others"),
            (TaskAddress { entry: address.entry + 8, ..address }, "its types are others"),
            (TaskAddress { entry: address.entry + 1, ..address }, "outside the executable"),
            (TaskAddress { entry: usize::MAX, ..address }, "outside the executable"),
            (TaskAddress { function: usize::MAX - 3, ..address }, "outside the executable's code"),
            (TaskAddress { function: address.entry, ..address }, "outside the executable's code"),
        ] {
            let error = TaskRef::find(wrong).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(why), "{error}, expected {why}");
        }
    }
}
