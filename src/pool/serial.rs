//! A call without worker processes: the same plan, locks, chunks and errors, run here.
#![expect(unsafe_code, reason = "runs tasks over blocks that this thread has locked")]

use super::args::{Cursor, MappedBlock};
use super::call::{Unsettled, lock};
use super::cancel::Stop;
use super::chunk::{Chunk, Division, Progress};
use super::plan::{BlockAccess, Plan};
use super::tally::{Noted, Settled, Tally};
use super::task::{Ended, Share, TaskRef};
use crate::error::Result;

pub(super) fn run(
    plan: &mut Plan<'_>,
    division: Division,
    task: TaskRef,
    stop: Option<&Stop>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Settled> {
    lock(plan, division, stop)?;
    let blocks: Vec<_> = plan
        .blocks
        .iter()
        .map(|block| MappedBlock {
            bytes: block.core.bytes(),
            writable: block.access == BlockAccess::Write,
            fresh: None,
        })
        .collect();
    let unsettled = Unsettled(&plan.blocks);
    let mut share = All { next: 0, division, tally: Tally::new(division), result: Vec::new(), stop, progress };
    let mut cursor = Cursor::new(&plan.leaves, &blocks);
    // SAFETY: the plan was described by the arguments of the task's own type. All its blocks are locked until it is dropped, and chunks
    // run one after another.
    unsafe { task.run(&mut cursor, &mut share) };
    let settled = share.tally.settle();
    unsettled.settle(settled.cut_short);
    Ok(settled)
}

/// All chunks in their order, until one fails or the call has to stop.
struct All<'c> {
    next: usize,
    division: Division,
    tally: Tally,
    result: Vec<u8>,
    stop: Option<&'c Stop>,
    progress: &'c mut dyn FnMut(Progress),
}

impl Share for All<'_> {
    fn next(&mut self) -> Option<Chunk> {
        if self.next >= self.division.count {
            return None;
        }
        if let Some((stop, reason)) = self.stop.and_then(|stop| Some((stop, stop.reason()?))) {
            self.tally.stop(reason, stop.message(reason));
            return None;
        }
        self.next += 1;
        Some(Chunk::new(self.next - 1, self.division))
    }

    fn result(&mut self) -> &mut Vec<u8> {
        self.result.clear();
        &mut self.result
    }

    fn end(&mut self, chunk: &Chunk, ended: Ended) {
        let result = std::mem::take(&mut self.result);
        if self.tally.note(chunk.index(), ended.map(|()| result.into())) == Noted::Done {
            (self.progress)(self.tally.progress());
        } else {
            self.next = self.division.count;
        }
    }
}
