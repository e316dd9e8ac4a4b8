//! What has come of a call's chunks, and what went wrong first.

use std::collections::HashSet;

use super::chunk::{Division, Progress};
use super::protocol::Outcome;
use crate::error::{Error, ErrorKind};

/// The outcomes of a call as they come in.
pub(super) struct Tally {
    division: Division,
    outcomes: Vec<Option<Outcome>>,
    chunks_done: usize,
    rows_done: usize,
    failure: Option<Failure>,
    /// Chunks whose task was cut short, whichever failure is told in the end. One that is done since is whole.
    cut_short: HashSet<usize>,
}

/// What went wrong first, by chunk where a chunk is known.
struct Failure {
    chunk: Option<usize>,
    kind: ErrorKind,
    message: String,
    /// Nothing that went wrong later is told in its place.
    stays: bool,
}

/// What a call came to: an outcome for each chunk, or a failure.
pub(super) struct Settled {
    pub(super) outcomes: Vec<Option<Outcome>>,
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

impl Tally {
    pub(super) fn new(division: Division) -> Self {
        Self {
            division,
            outcomes: (0..division.count).map(|_| None).collect(),
            chunks_done: 0,
            rows_done: 0,
            failure: None,
            cut_short: HashSet::new(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            chunks_done: self.chunks_done,
            chunks: self.division.count,
            rows_done: self.rows_done,
            rows: self.division.len,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Chunks without an outcome.
    pub(super) fn open(&self) -> Vec<usize> {
        (0..self.outcomes.len()).filter(|&chunk| self.is_open(chunk)).collect()
    }

    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.outcomes.get(chunk).is_some_and(Option::is_none)
    }

    pub(super) fn note(&mut self, chunk: usize, outcome: Outcome) -> Noted {
        if !self.is_open(chunk) {
            return Noted::Unexpected;
        }
        let failed = match &outcome {
            Outcome::Done(_) => None,
            Outcome::Failed(message) => Some((ErrorKind::TaskFailed, format!("failed: {message}"))),
            Outcome::Panicked { message, place: Some(place) } => {
                Some((ErrorKind::TaskPanicked, format!("panicked at {place}: {message}")))
            }
            Outcome::Panicked { message, place: None } => {
                Some((ErrorKind::TaskPanicked, format!("panicked: {message}")))
            }
            Outcome::Broken(message) => Some((ErrorKind::Serialization, format!("could not be run: {message}"))),
        };
        if matches!(outcome, Outcome::Panicked { .. }) {
            self.cut_short.insert(chunk);
        }
        self.outcomes[chunk] = Some(outcome);
        if let Some((kind, what)) = failed {
            self.fail(Some(chunk), kind, format!("the task of {} {what}", self.describe(chunk)));
            return Noted::Failed;
        }
        self.chunks_done += 1;
        self.rows_done += self.division.rows_of(chunk).len();
        Noted::Done
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

    /// A worker died while it ran a chunk.
    pub(super) fn note_cut_short(&mut self, chunk: usize) {
        self.cut_short.insert(chunk);
    }

    /// A chunk, for a message.
    pub(super) fn describe(&self, chunk: usize) -> String {
        let rows = self.division.rows_of(chunk);
        format!("rows {}..{} (chunk {chunk} of {})", rows.start, rows.end, self.division.count)
    }

    /// To be called when nobody works on the call any more.
    pub(super) fn settle(self) -> Settled {
        let unfinished = self.division.rows_where(|chunk| !matches!(self.outcomes[chunk], Some(Outcome::Done(_))));
        if unfinished.is_empty() {
            return Settled { outcomes: self.outcomes, failure: None, cut_short: false };
        }
        let failure = self.failure.unwrap_or_else(|| Failure {
            chunk: None,
            kind: ErrorKind::WorkerDied,
            message: "a worker ended with a chunk in its hands".to_owned(),
            stays: false,
        });
        let rows: usize = unfinished.iter().map(ExactSizeIterator::len).sum();
        let message = format!("{} ({rows} of {} rows are not finished)", failure.message, self.division.len);
        let failure = Error::new(failure.kind, message).with_rows(unfinished);
        let is_done = |chunk: &usize| matches!(self.outcomes.get(*chunk), Some(Some(Outcome::Done(_))));
        let cut_short = failure.kind() == ErrorKind::WorkerDied || !self.cut_short.iter().all(is_done);
        Settled { outcomes: self.outcomes, failure: Some(failure), cut_short }
    }
}
