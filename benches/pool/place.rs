//! Which processors the caller and the one process at the other end run on.
//!
//! To wake a process on another processor takes several times as long as on one's own, in a virtual machine above all, and
//! the scheduler chooses now this and now that, by the kind of call that wakes. So callers are measured where it chooses,
//! and where both sides of a ratio have the same place.

use ndshm::Pool;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::Result;
use crate::common::processors::{only, processors, this_thread};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the scheduler sees fit.
    Anywhere,
    OneProcessor,
    TwoProcessors,
}

/// The calling thread's processors as they were before, when this is dropped: what it starts later inherits them.
pub(crate) struct Placed(Option<CpuSet>);

impl Place {
    /// Whether this process may use as many processors as that takes.
    pub(crate) fn exists(self) -> Result<bool> {
        let needed = if self == Place::TwoProcessors { 2 } else { 1 };
        Ok(processors(&sched_getaffinity(this_thread())?)?.len() >= needed)
    }

    pub(crate) fn put(self, other: u32) -> Result<Placed> {
        if self == Place::Anywhere {
            return Ok(Placed(None));
        }
        let before = sched_getaffinity(this_thread())?;
        let processors = processors(&before)?;
        let (Some(&first), Some(&last)) = (processors.first(), processors.last()) else { return Ok(Placed(None)) };
        let theirs = if self == Place::OneProcessor { first } else { last };
        sched_setaffinity(Pid::from_raw(other.cast_signed()), &only(theirs)?)?;
        sched_setaffinity(this_thread(), &only(first)?)?;
        Ok(Placed(Some(before)))
    }

    pub(crate) fn put_worker(self, pool: &Pool) -> Result<Placed> {
        let [worker] = pool.worker_pids()[..] else { return Err("a pool of one worker has one process".into()) };
        self.put(worker)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            sched_setaffinity(this_thread(), before).expect("a thread may be where it was");
        }
    }
}
