//! A call without worker processes: the same plan, locks, chunks and errors, run here.
#![expect(unsafe_code, reason = "runs tasks over blocks that this thread has locked")]

use super::args::{Cursor, MappedBlock};
use super::call::{Unsettled, lock};
use super::cancel::Stop;
use super::chunk::{Chunk, Division, Progress};
use super::plan::{BlockAccess, Plan};
use super::tally::{Noted, Settled, Tally};
use super::task::{TaskRef, ended};
use crate::error::Result;

pub(super) fn run(
    plan: &Plan<'_>,
    division: Division,
    task: TaskRef,
    stop: Option<&Stop>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Settled> {
    let held = lock(plan, division, stop)?;
    let blocks: Vec<_> = plan
        .blocks
        .iter()
        .map(|block| MappedBlock {
            bytes: block.core.bytes(),
            writable: block.access == BlockAccess::Write,
            fresh: None,
        })
        .collect();
    let unsettled = Unsettled(&held);
    let mut tally = Tally::new(division);
    for index in 0..division.count {
        if let Some((stop, reason)) = stop.and_then(|stop| Some((stop, stop.reason()?))) {
            tally.stop(reason, stop.message(reason));
            break;
        }
        let mut result = Vec::new();
        let chunk = Chunk::new(index, division);
        let run = || {
            let mut cursor = Cursor::new(&plan.leaves, &blocks, index);
            // SAFETY: the plan was described by the arguments of the task's own type. All its blocks are locked by `held`,
            // and chunks run one after another.
            unsafe { task.run(&mut cursor, &chunk, &mut result) }
        };
        let ended = ended(run, || None);
        if tally.note(index, ended.map(|()| result.into())) != Noted::Done {
            break;
        }
        progress(tally.progress());
    }
    let settled = tally.settle();
    unsettled.settle(&settled);
    Ok(settled)
}
