//! Running one call in a worker.
#![expect(unsafe_code, reason = "runs tasks over blocks that the parent has locked")]

use std::ops::Range;
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::{Kept, Worker, panics};
use crate::array::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::note_lent;
use crate::pool::args::{Cursor, MappedBlock};
use crate::pool::chunk::Division;
use crate::pool::control::{Record, Writer};
use crate::pool::numbers::Form;
use crate::pool::protocol::{CallMessage, NOTHING, Outcome, Packet, TaskFailure, ToParent};
use crate::pool::system::System;
use crate::pool::task::{Share, TaskRef};
use crate::sys::file::FileId;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::lock::Mode;
use crate::sys::map::Access;

/// The parent is rung at most so often while chunks go on: it shows progress.
const LINGER: Duration = Duration::from_millis(5);

/// When the parent is rung next.
struct Pace {
    rung: Duration,
    looked: Duration,
    /// Chunks since the clock was looked at, and how many it takes: quick ones need no look each.
    chunks: u32,
    patience: u32,
}

impl Pace {
    const QUICK: Duration = Duration::from_millis(1);
    const MOST: u32 = 16;

    fn new(now: Duration) -> Self {
        Self { rung: now, looked: now, chunks: 0, patience: 1 }
    }

    /// How many chunks are so quick that they may well be taken at a time.
    fn patience(&self) -> usize {
        self.patience as usize
    }

    /// To be asked after each chunk.
    fn is_due(&mut self, now: impl FnOnce() -> Duration) -> bool {
        self.chunks += 1;
        if self.chunks < self.patience {
            return false;
        }
        let now = now();
        let quick = now.saturating_sub(self.looked) < Self::QUICK;
        self.patience = if quick { (2 * self.patience).min(Self::MOST) } else { 1 };
        (self.looked, self.chunks) = (now, 0);
        let due = now.saturating_sub(self.rung) >= LINGER;
        if due {
            self.rung = now;
        }
        due
    }
}

impl<S: System> Worker<S> {
    /// Draws tickets of the call and runs their chunks until there are none left, then finishes it. An error means that
    /// none was drawn.
    pub(super) fn run(&mut self, call: u64, task: TaskRef, message: &CallMessage) -> Result<()> {
        let mut record = std::mem::take(&mut self.record);
        let mut leaving = std::mem::take(&mut self.leaving);
        let ran = self.run_into(&mut record, &mut leaving, call, task, message);
        (self.record, self.leaving) = (record, leaving);
        ran
    }

    fn run_into(
        &self,
        record: &mut Record,
        leaving: &mut Vec<Result<Kept>>,
        call: u64,
        task: TaskRef,
        message: &CallMessage,
    ) -> Result<()> {
        let blocks = self.find_blocks(message)?;
        let lent = note_lent(self.ids_of(message));
        let mut work = Work {
            worker: self,
            message,
            sharers: message.sharers(self.page.workers()),
            tickets: 0..0,
            writer: Writer::new(&self.page, self.index, call),
            pace: Pace::new(S::now()),
            leaving,
            home: epoch(),
        };
        let mut cursor = Cursor::new(&message.leaves, &blocks);
        // SAFETY: the leaves were described by the arguments of the task's own type, which `TaskRef::find` compared. The
        // parent holds the locks of all blocks until this worker has said that it is done, or was reaped; the tickets of
        // the chunks are drawn from the control page by this worker alone.
        unsafe { task.run(&mut cursor, &mut work, record) };
        let writer = work.writer;
        // The blocks are the parent's again when it knows that this worker has finished.
        drop(lent);
        writer.finish();
        Ok(())
    }

    /// Sends an outcome that does not fit into this worker's area.
    #[cold]
    fn send(&self, call: u64, chunk: usize, outcome: Outcome) {
        let of_this = |outcome| ToParent::Outcomes { call, outcomes: vec![(chunk, outcome)] };
        let packet = Packet::new(&of_this(outcome)).or_else(|error| {
            let failure = TaskFailure::Broken(format!("its result cannot be handed over: {error}"));
            Packet::new(&of_this(Err(failure)))
        });
        self.say(packet);
    }

    fn ids_of(&self, call: &CallMessage) -> Vec<(FileId, Mode)> {
        let mode = |writable| if writable { Mode::Exclusive } else { Mode::Shared };
        let id = |serial| Some(self.blocks.get(serial)?.as_ref().ok()?.id);
        call.blocks.iter().filter_map(|(serial, writable)| Some((id(serial)?, mode(*writable)))).collect()
    }

    fn find_blocks(&self, call: &CallMessage) -> Result<Vec<MappedBlock<'_>>> {
        call.blocks
            .iter()
            .map(|(serial, writable)| match self.blocks.get(serial) {
                Some(Ok(kept)) => {
                    let mapping = &kept.mapping;
                    let writable = *writable && mapping.access() == Access::ReadWrite;
                    Ok(MappedBlock { bytes: Bytes::of(mapping, mapping.len()), writable, fresh: Some(mapping) })
                }
                Some(Err(error)) => {
                    Err(Error::new(error.kind(), format!("a worker cannot map an array of the call: {error}")))
                }
                None => Err(Error::new(
                    ErrorKind::Io,
                    "an array of the call did not reach the worker (is it out of descriptors? see `ulimit -n`)",
                )),
            })
            .collect()
    }
}

/// A worker's chunks of one call: those that it draws tickets for.
struct Work<'w, S: System> {
    worker: &'w Worker<S>,
    message: &'w CallMessage,
    sharers: usize,
    /// Those that it has drawn and not begun.
    tickets: Range<usize>,
    writer: Writer<'w, S::Memory>,
    pace: Pace,
    leaving: &'w mut Vec<Result<Kept>>,
    home: Epoch,
}

impl<S: System> Work<'_, S> {
    /// Before anything is said of a chunk.
    fn check_home(&self) {
        if epoch() != self.home {
            // A child that the task forked and that came back here: the worker itself will answer.
            leave();
        }
    }

    fn send(&self, chunk: usize, outcome: Outcome) {
        self.worker.send(self.writer.call(), chunk, outcome);
    }
}

impl<S: System> Share for Work<'_, S> {
    fn division(&self) -> Division {
        self.message.division()
    }

    fn next(&mut self) -> Option<usize> {
        let Worker { page, index, .. } = self.worker;
        let call = self.writer.call();
        if self.tickets.is_empty() {
            self.tickets = page.draw(*index, call, self.sharers, self.pace.patience())?;
        }
        let ticket = self.tickets.next()?;
        if !self.writer.begin(ticket) {
            return None;
        }
        // What an earlier task caught itself.
        panics::forget_place();
        self.message.chunk_of(ticket)
    }

    fn done(&mut self, chunk: usize, form: Form, record: &mut Record) {
        self.check_home();
        let written = match form {
            Form::Nothing => self.writer.nothing(chunk),
            Form::Numbers => self.writer.numbers(chunk, &mut record.numbers),
            Form::Bytes if record.body() == NOTHING => self.writer.nothing(chunk),
            Form::Bytes => self.writer.value(chunk, record),
        };
        if !written {
            self.send(chunk, encoded(form, record));
        }
        if self.pace.is_due(S::now) {
            self.worker.page.note_news(self.worker.index);
            // The call goes on for a while.
            self.leaving.clear();
        }
    }

    #[cold]
    fn failed(&mut self, chunk: usize, mut failure: TaskFailure, record: &mut Record) {
        self.check_home();
        if let TaskFailure::Panicked { place, .. } = &mut failure {
            *place = panics::take_place();
        }
        let encoded = rmp_serde::encode::write(record.cleared(), &failure);
        if encoded.is_err() || !self.writer.failure(chunk, record) {
            self.send(chunk, Err(failure));
        }
        self.worker.page.note_news(self.worker.index);
    }
}

/// What a task returned, for a message.
fn encoded(form: Form, record: &mut Record) -> Outcome {
    let bytes = match form {
        Form::Nothing => NOTHING.to_vec(),
        Form::Numbers => {
            let mut bytes = Vec::new();
            record.numbers.encode_to(&mut bytes).map_err(|error| TaskFailure::Broken(error.to_string()))?;
            bytes
        }
        Form::Bytes => record.body().to_vec(),
    };
    Ok(ByteBuf::from(bytes))
}

fn leave() -> ! {
    // SAFETY: ends the process at once, without handlers that belong to the worker that it was forked from.
    unsafe { libc::_exit(0) }
}
