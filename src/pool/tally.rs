//! What has come of a call's chunks, and what went wrong first.

use std::collections::BTreeSet;
use std::ops::Range;

use super::chunk::{Division, Progress};
use super::control::Entry;
use super::protocol::{NOTHING, Outcome, TaskFailure};
use super::results::Results;
use super::scope::{Scope, Unit};
use crate::error::{Error, ErrorKind};

/// The outcomes of a call as they come in.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Tally {
    division: Division,
    unit: Unit,
    /// Chunks and rows that this call does not run; they have the results of an earlier one.
    skipped: (usize, usize),
    results: Results,
    chunks_done: usize,
    rows_done: usize,
    workers_lost: usize,
    failure: Option<Failure>,
    /// Chunks whose task was cut short, whichever failure is told in the end. One that is done since is whole.
    cut_short: BTreeSet<usize>,
}

/// What went wrong first, by chunk where a chunk is known.
#[cfg_attr(test, derive(Debug))]
struct Failure {
    chunk: Option<usize>,
    kind: ErrorKind,
    message: String,
    /// Nothing that went wrong later is told in its place.
    stays: bool,
}

/// What a call came to: a result for each chunk, or a failure.
pub(super) struct Settled {
    pub(super) results: Results,
    pub(super) failure: Option<Error>,
    /// A task panicked or its worker died: rows may be half written.
    pub(super) cut_short: bool,
}

/// Was an outcome expected, and good?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Done,
    Failed,
    /// There is no such chunk, or it had an outcome already.
    Unexpected,
}

/// Of no chunk.
impl Default for Tally {
    fn default() -> Self {
        Self::new(Scope { division: Division { count: 0, rows: 1, len: 0 }, unit: Unit::Rows, only: None })
    }
}

impl Tally {
    pub(super) fn new(scope: Scope<'_>) -> Self {
        let Scope { division, unit, only } = scope;
        let mut tally = Self {
            division,
            unit,
            skipped: (0, 0),
            results: Results::new(division.count),
            chunks_done: 0,
            rows_done: 0,
            workers_lost: 0,
            failure: None,
            cut_short: BTreeSet::new(),
        };
        if only.is_some() {
            for chunks in scope.gaps() {
                tally.results.skip(chunks.clone());
                tally.note_done(chunks);
            }
            tally.skipped = (tally.chunks_done, tally.rows_done);
        }
        tally
    }

    pub(super) fn progress(&self) -> Progress {
        let (chunks, rows) = self.skipped;
        Progress {
            chunks_done: self.chunks_done - chunks,
            chunks: self.division.count - chunks,
            rows_done: self.rows_done - rows,
            rows: self.division.len - rows,
            workers_lost: self.workers_lost,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Has every chunk a result?
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.chunks_done == self.results.len()
    }

    /// Chunks without an outcome.
    pub(super) fn open(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|&chunk| self.is_open(chunk)).collect()
    }

    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.results.is_open(chunk)
    }

    /// Where words of results go, see [`Entry`].
    pub(super) fn buffer(&mut self) -> &mut Vec<u64> {
        self.results.buffer()
    }

    pub(super) fn note(&mut self, chunk: usize, outcome: Outcome) -> Noted {
        match outcome {
            Ok(bytes) if *bytes == NOTHING => self.note_entry(Entry::Nothing(chunk..chunk.saturating_add(1))),
            Ok(bytes) if self.is_open(chunk) => {
                self.results.set_apart(chunk, bytes);
                self.note_done(chunk..chunk + 1)
            }
            Ok(_) => Noted::Unexpected,
            Err(failure) => self.note_failed(chunk, &failure),
        }
    }

    /// The same for what stands in a worker's area, whose words are in the buffer.
    pub(super) fn note_entry(&mut self, entry: Entry) -> Noted {
        match entry {
            Entry::Nothing(chunks) if chunks.is_empty() => Noted::Done,
            Entry::Failure(chunk, failure) => self.note_failed(chunk, &failure),
            entry => self.results.set(entry).map_or(Noted::Unexpected, |chunks| self.note_done(chunks)),
        }
    }

    fn note_done(&mut self, chunks: Range<usize>) -> Noted {
        self.chunks_done += chunks.len();
        let rows = self.division.rows_of(chunks.start).start..self.division.rows_of(chunks.end - 1).end;
        self.rows_done += rows.len();
        Noted::Done
    }

    pub(super) fn note_failed(&mut self, chunk: usize, failure: &TaskFailure) -> Noted {
        if !self.is_open(chunk) {
            return Noted::Unexpected;
        }
        let (kind, what) = match failure {
            TaskFailure::Stopped { in_order } => {
                // It is told why the call had to end, and that was noted before.
                if !in_order {
                    self.cut_short.insert(chunk);
                }
                self.results.set_failed(chunk);
                if self.failure.is_none() {
                    // A callback has panicked: then nobody reads it.
                    self.fail(None, ErrorKind::Cancelled, "a task was told that the call is to end".to_owned());
                }
                return Noted::Failed;
            }
            TaskFailure::Failed(message) => (ErrorKind::TaskFailed, format!("failed: {message}")),
            TaskFailure::Panicked { message, place: Some(place) } => {
                (ErrorKind::TaskPanicked, format!("panicked at {place}: {message}"))
            }
            TaskFailure::Panicked { message, place: None } => (ErrorKind::TaskPanicked, format!("panicked: {message}")),
            TaskFailure::Broken(message) => (ErrorKind::Serialization, format!("could not be run: {message}")),
        };
        if matches!(failure, TaskFailure::Panicked { .. }) {
            self.cut_short.insert(chunk);
        }
        self.results.set_failed(chunk);
        self.fail(Some(chunk), kind, format!("the task of {} {what}", self.describe(chunk)));
        Noted::Failed
    }

    /// Notes a failure. Of several the first by chunk is told, so that it reads the same whoever was faster.
    pub(super) fn fail(&mut self, chunk: Option<usize>, kind: ErrorKind, message: String) {
        let replaces = match (&self.failure, chunk) {
            (None, _) | (Some(Failure { chunk: None, stays: false, .. }), Some(_)) => true,
            (Some(Failure { chunk: Some(known), .. }), Some(chunk)) => chunk < *known,
            (Some(_), _) => false,
        };
        if replaces {
            self.failure = Some(Failure { chunk, kind, message, stays: false });
        }
    }

    /// Notes that the call was ended from outside. Where nothing had gone wrong before, that is what is told.
    pub(super) fn stop(&mut self, kind: ErrorKind, message: String) {
        if self.failure.is_none() {
            self.failure = Some(Failure { chunk: None, kind, message, stays: true });
        }
    }

    /// A worker that had a part in the call is gone.
    pub(super) fn note_lost_worker(&mut self) {
        self.workers_lost += 1;
    }

    /// A worker died while it ran a chunk.
    pub(super) fn note_cut_short(&mut self, chunk: usize) {
        self.cut_short.insert(chunk);
    }

    /// A chunk, for a message.
    pub(super) fn describe(&self, chunk: usize) -> String {
        let (rows, count) = (self.division.rows_of(chunk), self.division.count);
        match self.unit {
            Unit::Rows => format!("rows {}..{} (chunk {chunk} of {count})", rows.start, rows.end),
            Unit::Items => format!("item {}", rows.start),
            Unit::Whole => "the only chunk".to_owned(),
        }
    }

    /// To be called when nobody works on the call any more.
    pub(super) fn settle(self) -> Settled {
        if self.is_whole() {
            return Settled { results: self.results, failure: None, cut_short: false };
        }
        let unfinished = self.division.rows_where(|chunk| !self.results.is_done(chunk));
        let failure = self.failure.unwrap_or_else(|| Failure {
            chunk: None,
            kind: ErrorKind::WorkerDied,
            message: "a worker ended with a chunk in its hands".to_owned(),
            stays: false,
        });
        let rows: usize = unfinished.iter().map(ExactSizeIterator::len).sum();
        let message = match self.unit {
            Unit::Whole => failure.message,
            unit => {
                let (all, unit) = (self.division.len - self.skipped.1, unit.plural());
                format!("{} ({rows} of {all} {unit} are not finished)", failure.message)
            }
        };
        let failure = Error::new(failure.kind, message).with_rows(unfinished);
        let cut_short =
            failure.kind() == ErrorKind::WorkerDied || !self.cut_short.iter().all(|&chunk| self.results.is_done(chunk));
        Settled { results: self.results, failure: Some(failure), cut_short }
    }
}
