//! The processors that a process or thread may run on.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::Result;

pub(crate) fn this_thread() -> Pid {
    Pid::from_raw(0)
}

pub(crate) fn only(processor: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(set)
}

pub(crate) fn processors(set: &CpuSet) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for processor in 0..CpuSet::count() {
        if set.is_set(processor)? {
            found.push(processor);
        }
    }
    Ok(found)
}

/// Binds the calling thread to one of its processors: each to another one, as far as they go round.
pub(crate) fn spread(index: usize) -> Result<()> {
    let all = processors(&sched_getaffinity(this_thread())?)?;
    let Some(&processor) = all.get(index % all.len().max(1)) else { return Ok(()) };
    Ok(sched_setaffinity(this_thread(), &only(processor)?)?)
}
