//! A call without worker processes: the same plan, locks, chunks and errors, run here.
#![expect(unsafe_code, reason = "runs tasks over blocks that this thread has locked")]

use super::args::{Cursor, MappedBlock};
use super::call::{Unsettled, lock};
use super::cancel::Stop;
use super::chunk::{Division, Progress};
use super::control::{Entry, Record};
use super::numbers::Form;
use super::plan::{BlockAccess, Plan};
use super::protocol::TaskFailure;
use super::tally::{Noted, Settled, Tally};
use super::task::{Share, TaskRef};
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
    let mut share = All { next: 0, division, tally: Tally::new(division), stop, progress };
    let mut cursor = Cursor::new(&plan.leaves, &blocks);
    // SAFETY: the plan was described by the arguments of the task's own type. All its blocks are locked until it is dropped,
    // and chunks run one after another.
    unsafe { task.run(&mut cursor, &mut share, &mut Record::default()) };
    let settled = share.tally.settle();
    unsettled.settle(settled.cut_short);
    Ok(settled)
}

/// All chunks in their order, until one fails or the call has to stop.
struct All<'c> {
    next: usize,
    division: Division,
    tally: Tally,
    stop: Option<&'c Stop>,
    progress: &'c mut dyn FnMut(Progress),
}

impl All<'_> {
    fn note(&mut self, noted: Noted) {
        if noted == Noted::Done {
            (self.progress)(self.tally.progress());
        } else {
            self.next = self.division.count;
        }
    }
}

impl Share for All<'_> {
    fn division(&self) -> Division {
        self.division
    }

    fn next(&mut self) -> Option<usize> {
        if self.next >= self.division.count {
            return None;
        }
        if let Some((stop, reason)) = self.stop.and_then(|stop| Some((stop, stop.reason()?))) {
            self.tally.stop(reason, stop.message(reason));
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    fn done(&mut self, chunk: usize, form: Form, record: &mut Record) {
        let words = self.tally.buffer();
        let start = words.len();
        let entry = match form {
            Form::Nothing => Entry::Nothing(chunk..chunk + 1),
            Form::Numbers => {
                record.numbers.write_names(words);
                let at = words.len();
                words.extend_from_slice(record.numbers.words());
                Entry::Numbers(chunk..chunk + 1, record.numbers.kinds(), (start, at))
            }
            Form::Bytes => {
                record.write_value(chunk, words);
                Entry::Value(chunk, start..words.len())
            }
        };
        let noted = self.tally.note_entry(entry);
        self.note(noted);
    }

    fn failed(&mut self, chunk: usize, failure: TaskFailure, _record: &mut Record) {
        let noted = self.tally.note_failed(chunk, &failure);
        self.note(noted);
    }
}
