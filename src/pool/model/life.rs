//! The steps of a process, and its death between two of them.

use std::cell::Cell;
use std::panic::resume_unwind;

use super::scenario::Memory;
use super::trace::Who;

/// One process: it lives from one use of shared memory to the next.
pub(super) struct Life {
    who: Who,
    memory: Memory,
    steps: Cell<usize>,
    /// The step that it does not take any more.
    last: Option<usize>,
    doomed: Cell<bool>,
    /// It has touched shared memory when it was dead, which no process does.
    haunts: Cell<bool>,
}

/// What a dying process unwinds with, up to where its thread began.
pub(super) struct Death {
    /// `None` for a killed one.
    pub(super) exit_code: Option<i32>,
}

impl Life {
    pub(super) fn new(who: Who, memory: Memory, last: Option<usize>) -> Self {
        Self { who, memory, steps: Cell::new(0), last, doomed: Cell::new(false), haunts: Cell::new(false) }
    }

    pub(super) fn who(&self) -> Who {
        self.who
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    pub(super) fn haunts(&self) -> bool {
        self.haunts.get()
    }

    /// Takes a step, or dies: then this does not return. `false` where a check has failed and all comes down.
    pub(super) fn goes_on(&self) -> bool {
        if std::thread::panicking() {
            self.haunts.set(true);
            return false;
        }
        if self.is_over() {
            die(None);
        }
        true
    }

    /// Takes a step in a task, where death must not unwind: `false` where the task ends here and now, and this process
    /// before it does anything else.
    pub(super) fn goes_on_in_task(&self) -> bool {
        let over = self.is_over();
        self.doomed.set(over);
        !over
    }

    fn is_over(&self) -> bool {
        let step = self.steps.replace(self.steps.get() + 1);
        self.doomed.get() || self.last == Some(step)
    }
}

/// Ends the process that runs: nothing that it would have done is done. What unwinds is memory of its own.
pub(super) fn die(exit_code: Option<i32>) -> ! {
    resume_unwind(Box::new(Death { exit_code }))
}
