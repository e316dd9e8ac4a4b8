//! A call without worker processes: the same plan, locks, chunks and errors, run here.
#![expect(unsafe_code, reason = "runs tasks over blocks that this thread has locked")]

use std::sync::{Arc, Weak};

use super::args::{Cursor, MappedBlock};
use super::call::{Unsettled, lock};
use super::cancel::Stop;
use super::chunk::{Chunk, Ending, Progress};
use super::control::{Entry, Record};
use super::numbers::Form;
use super::plan::{BlockAccess, Plan};
use super::protocol::TaskFailure;
use super::scope::Scope;
use super::tally::{Noted, Settled, Tally};
use super::task::{Share, TaskRef};
use crate::error::Result;

pub(super) fn run(
    plan: &mut Plan<'_>,
    scope: Scope<'_>,
    task: TaskRef,
    stop: Option<&Arc<Stop>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Settled> {
    lock(plan, stop.map(|stop| &**stop))?;
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
    let mut share = All { begun: 0, scope, tally: Tally::new(scope), stop, progress };
    let mut cursor = Cursor::new(&plan.leaves, &blocks);
    // SAFETY: the plan was described by the arguments of the task's own type. All its blocks are locked until it is dropped,
    // and chunks run one after another.
    unsafe { task.run(&mut cursor, &mut share, &mut Record::default()) };
    let settled = share.tally.settle();
    unsettled.settle(settled.cut_short);
    Ok(settled)
}

/// The call's chunks in their order, until one fails or the call has to stop.
struct All<'c> {
    begun: usize,
    scope: Scope<'c>,
    tally: Tally,
    stop: Option<&'c Arc<Stop>>,
    progress: &'c mut dyn FnMut(Progress),
}

impl All<'_> {
    fn note(&mut self, noted: Noted) {
        if noted == Noted::Done {
            (self.progress)(self.tally.progress());
        } else {
            self.begun = self.scope.chunks();
        }
    }

    /// Ends the call, if it is to end.
    fn heed_stop(&mut self) -> bool {
        let Some((stop, reason)) = self.stop.and_then(|stop| Some((stop, stop.reason()?))) else { return false };
        self.tally.stop(reason, stop.message(reason));
        true
    }

    fn was_told(&self) -> bool {
        self.stop.is_some_and(|stop| stop.has_told())
    }
}

impl Share for All<'_> {
    fn no_chunk(&self) -> Chunk {
        Chunk::of_call(self.scope.division, Ending::Here(self.stop.map_or_else(Weak::new, Arc::downgrade)))
    }

    fn next(&mut self, chunk: &mut Chunk) -> bool {
        if self.begun >= self.scope.chunks() || self.heed_stop() {
            return false;
        }
        chunk.go_to(self.scope.only.map_or(self.begun, |only| only[self.begun]), self.scope.division);
        self.begun += 1;
        true
    }

    fn done(&mut self, chunk: usize, form: Form, record: &mut Record) {
        if self.was_told() {
            return self.failed(chunk, TaskFailure::Stopped { in_order: false }, record);
        }
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

    fn failed(&mut self, chunk: usize, mut failure: TaskFailure, _record: &mut Record) {
        if self.was_told() {
            self.heed_stop();
            if matches!(failure, TaskFailure::Failed(_)) {
                failure = TaskFailure::Stopped { in_order: true };
            }
        }
        let noted = self.tally.note_failed(chunk, &failure);
        self.note(noted);
    }
}
