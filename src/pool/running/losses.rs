//! What becomes of a call whose workers die: what they had in their hands, and who goes on in their place.

use std::collections::BTreeMap;

use super::{Running, Stopping};
use crate::error::ErrorKind;
use crate::pool::system::System;
use crate::pool::worker::NO_ROOM;
use crate::sys::process::Ended;

/// Workers that a call has lost.
#[derive(Default)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Losses {
    /// How many have died over a chunk.
    pub(super) deaths: BTreeMap<usize, u32>,
    /// Why workers were killed that could not be listened to.
    pub(super) silenced: Vec<(usize, ErrorKind, String)>,
}

impl<S: System> Running<'_, S> {
    /// Reaps a worker that has ended, and finds out what it had in its hands.
    pub(super) fn mourn(&mut self, index: usize) {
        self.retire(index);
        let Some((pid, ended)) = self.crew.bury(index) else { return };
        self.tally.note_lost_worker();
        let begun = self.crew.page().last_begun(index, self.round.call);
        let lost =
            begun.and_then(|ticket| self.crew.message().chunk_of(ticket)).filter(|&chunk| self.tally.is_open(chunk));
        let silenced = &mut self.losses().silenced;
        let known = silenced.iter().position(|(silenced, ..)| *silenced == index);
        let (kind, how) = match known.map(|position| silenced.swap_remove(position)) {
            Some((_, kind, why)) => (kind, format!("{why} and was killed")),
            None if ended == Ended::Exited(NO_ROOM) => {
                (ErrorKind::Io, "had no room for the descriptors that it was sent (see `ulimit -n`)".to_owned())
            }
            // Not where it was this process that killed it.
            None if self.stopping == Stopping::No => match self.crew.cause_of(ended) {
                Some(cause) => (ErrorKind::WorkerDied, format!("{ended} ({cause})")),
                None => (ErrorKind::WorkerDied, ended.to_string()),
            },
            None => (ErrorKind::WorkerDied, ended.to_string()),
        };
        let death = format!("worker {index} (process {pid}) {how}");
        if let Some(chunk) = lost {
            self.lose(chunk, kind, &format!("{death} while it ran"));
        }
        // Where there is work left, somebody has to do it.
        if self.round.closed || self.crew.page().left(self.round.call, self.round.sharers) == 0 {
            return;
        }
        if lost.is_none() && !self.may_replace() {
            if self.participants.is_empty() {
                self.fail(None, kind, format!("{death}, like others before it that had not begun a chunk"));
            }
            return;
        }
        let started = loop {
            match self.crew.replace(index) {
                // Killed before it was there.
                Err(error) if error.kind() == ErrorKind::WorkerDied && self.may_replace() => {}
                other => break other.and_then(|()| self.enlist(index)),
            }
        };
        match started {
            Err(error) if self.participants.is_empty() => {
                self.fail(None, error.kind(), format!("{death}; no worker is left, and none can be started: {error}"));
            }
            // It goes on, or the others do its work.
            Ok(()) | Err(_) => {}
        }
    }

    pub(super) fn losses(&mut self) -> &mut Losses {
        self.losses.get_or_insert_default()
    }

    /// One more replacement that had nothing to show for it: is there another one?
    pub(super) fn may_replace(&mut self) -> bool {
        let left = self.replacements.checked_sub(1);
        self.replacements = left.unwrap_or(0);
        left.is_some()
    }

    /// The worker of a chunk has died: the chunk waits for the next round, or is one time too many lost.
    pub(super) fn lose(&mut self, chunk: usize, kind: ErrorKind, how: &str) {
        self.tally.note_cut_short(chunk);
        let deaths = self.losses().deaths.entry(chunk).or_default();
        *deaths += 1;
        let deaths = *deaths;
        // Once the call has to stop, workers are killed, and that is what is told.
        if deaths > self.limits.retries && self.stopping == Stopping::No {
            let before = match deaths - 1 {
                0 => String::new(),
                1 => ", as did one worker before it".to_owned(),
                before => format!(", as did {before} workers before it"),
            };
            let message = format!("{how} {}{before}", self.tally.describe(chunk));
            self.fail(Some(chunk), kind, message);
        }
    }
}
