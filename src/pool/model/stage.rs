//! What the tasks of a call do, and what is expected of calls.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use loom::cell::UnsafeCell;
use serde_bytes::ByteBuf;

use super::life::Life;
use super::scenario::{Returns, Scenario};
use crate::error::ErrorKind;
use crate::pool::tally::Settled;

/// The rows of the calls' array, and the records of who was there.
pub(super) struct Stage {
    /// A row for each chunk, which is one worker's from when it takes the chunk until the parent knows that it is done,
    /// and the parent's between calls. The checker finds uses that nothing orders.
    rows: Vec<UnsafeCell<()>>,
    returns: RefCell<&'static [Returns]>,
    /// How often the chunk was begun in this call, and how often it came to its end.
    begun: RefCell<Vec<u32>>,
    ended: RefCell<Vec<u32>>,
    deaths: Cell<u32>,
    deaths_before: Cell<u32>,
    clock: Cell<u32>,
}

/// So many bytes do not fit into a worker's area.
const LARGE: usize = 100;

impl Stage {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let most = scenario.calls.iter().map(|call| call.len()).max().unwrap_or(0);
        Self {
            rows: (0..most).map(|_| UnsafeCell::new(())).collect(),
            returns: RefCell::new(&[]),
            begun: RefCell::default(),
            ended: RefCell::default(),
            deaths: Cell::new(0),
            deaths_before: Cell::new(0),
            clock: Cell::new(0),
        }
    }

    /// Parent: the next call begins, and has the rows.
    pub(super) fn begin(&self, returns: &'static [Returns]) {
        self.take_rows();
        self.returns.replace(returns);
        self.begun.replace(vec![0; returns.len()]);
        self.ended.replace(vec![0; returns.len()]);
        self.deaths_before.set(self.deaths.get());
    }

    /// Parent: the rows are the owner's between calls.
    fn take_rows(&self) {
        for row in &self.rows {
            row.with_mut(|_| ());
        }
    }

    /// Worker: a task runs.
    pub(super) fn run(&self, life: &Life, chunk: usize) -> Option<ByteBuf> {
        if !life.goes_on_in_task() {
            return None;
        }
        self.begun.borrow_mut()[chunk] += 1;
        self.rows[chunk].with_mut(|_| ());
        if !life.goes_on_in_task() {
            return None;
        }
        self.rows[chunk].with_mut(|_| ());
        self.ended.borrow_mut()[chunk] += 1;
        self.returns.borrow()[chunk].value(chunk)
    }

    pub(super) fn has_seen_death(&self) -> bool {
        self.deaths.get() > 0
    }

    pub(super) fn note_death(&self) {
        self.deaths.set(self.deaths.get() + 1);
    }

    /// Worker: a clock that stands still, or by which much time goes by between two looks.
    pub(super) fn tick(&self, fast: bool) -> Duration {
        self.clock.set(self.clock.get() + u32::from(fast));
        Duration::from_secs(1) * self.clock.get()
    }

    /// Parent: the call has returned.
    pub(super) fn check(&self, settled: &Settled, retries: u32) {
        // Settled: nobody has the rows any more.
        self.take_rows();
        let returns = *self.returns.borrow();
        let (begun, ended, deaths) =
            (self.begun.borrow(), self.ended.borrow(), self.deaths.get() - self.deaths_before.get());
        let unfinished = |chunk: usize| {
            let rows = settled.failure.iter().flat_map(crate::Error::rows);
            rows.clone().any(|rows| rows.contains(&chunk))
        };
        for chunk in 0..returns.len() {
            assert!(begun[chunk] <= 1 + retries.min(deaths), "chunk {chunk} was begun {} times", begun[chunk]);
            if !unfinished(chunk) {
                assert!(ended[chunk] > 0, "chunk {chunk} has an outcome and was never run");
            }
        }
        match &settled.failure {
            None => {
                let results = settled.results.decode::<Option<ByteBuf>>().expect("every chunk has a result");
                let expected = returns.iter().enumerate().map(|(chunk, returns)| returns.value(chunk));
                assert!(results.into_iter().eq(expected), "results are those of their chunks");
                assert!(!settled.cut_short);
                if deaths == 0 {
                    assert!(ended.iter().all(|&times| times == 1), "every chunk runs once");
                }
            }
            Some(failure) => {
                let message = failure.to_string();
                assert!(!message.contains("no worker says"), "outcomes come once, and whole: {message}");
                assert_eq!(failure.kind(), ErrorKind::WorkerDied, "{message}");
                assert!(message.contains("while it ran rows"), "what was lost is found: {message}");
                assert!(deaths > retries, "{deaths} deaths ended a call with {retries} retries: {message}");
            }
        }
    }
}

impl Returns {
    fn value(self, chunk: usize) -> Option<ByteBuf> {
        let byte = u8::try_from(chunk + 1).unwrap_or(u8::MAX);
        match self {
            Self::Nothing => None,
            Self::Little => Some(ByteBuf::from([byte])),
            Self::Much => Some(ByteBuf::from([byte; LARGE])),
        }
    }
}
