//! Running one call in a worker.
#![expect(unsafe_code, reason = "runs tasks over blocks that the parent has locked")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_bytes::ByteBuf;
use smallvec::SmallVec;

use super::{Desk, Kept, Worker, panics};
use crate::array::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::note_lent;
use crate::pool::args::{Cursor, MappedBlock};
use crate::pool::chunk::Chunk;
use crate::pool::control::{Record, Writer};
use crate::pool::protocol::{CallMessage, NOTHING, Packet, TaskFailure, ToParent};
use crate::pool::system::System;
use crate::pool::task::{Ended, Share, TaskRef};
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

    /// Where there will be but one chunk, most likely: where there is another one, the parent is told of the first.
    fn of_one_chunk() -> Self {
        Self::new(Duration::ZERO)
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
    #[inline]
    pub(super) fn run(&mut self, call: u64, task: TaskRef, message: &CallMessage) -> Result<()> {
        let Self { desk, blocks, leaving, record, .. } = self;
        let desk = &*desk;
        let Desk { page, index, .. } = desk;
        let mut found = SmallVec::<[MappedBlock<'_>; 4]>::new();
        for (serial, writable) in &message.blocks {
            found.push(find_block(blocks, *serial, *writable)?);
        }
        // The blocks are the parent's again when it knows that this worker has finished.
        let lent = (!found.is_empty()).then(|| note_lent(lent(blocks, message)));
        let one_each = message.tickets() <= page.workers();
        let mut work = Work {
            desk,
            message,
            helped: message.helped(page.workers()),
            writer: Writer::new(page, *index, call),
            record,
            pace: if one_each { Pace::of_one_chunk() } else { Pace::new(S::now()) },
            any_ended: false,
            leaving,
            home: epoch(),
        };
        let mut cursor = Cursor::new(&message.leaves, &found);
        // SAFETY: the leaves were described by the arguments of the task's own type, which `TaskRef::find` compared. The
        // parent holds the locks of all blocks until this worker has said that it is done, or was reaped; the tickets of
        // the chunks are drawn from the control page by this worker alone.
        unsafe { task.run(&mut cursor, &mut work) };
        let writer = work.writer;
        drop(lent);
        writer.finish();
        Ok(())
    }
}

impl<S: System> Desk<S> {
    /// Puts an outcome where the parent finds it: into this worker's area, or what does not fit there into the socket.
    fn report(&self, writer: &mut Writer<'_, S::Memory>, chunk: usize, ended: Ended, record: &mut Record) {
        let outcome = match ended {
            Ok(()) => {
                let nothing = record.body() == NOTHING;
                if if nothing { writer.nothing(chunk) } else { writer.value(chunk, record) } {
                    return;
                }
                Ok(ByteBuf::from(record.body()))
            }
            Err(failure) => {
                if rmp_serde::encode::write(record.cleared(), &failure).is_ok() && writer.failure(chunk, record) {
                    return;
                }
                Err(failure)
            }
        };
        let of_this = |outcome| ToParent::Outcomes { call: writer.call(), outcomes: vec![(chunk, outcome)] };
        let packet = Packet::new(&of_this(outcome)).or_else(|error| {
            let failure = TaskFailure::Broken(format!("its result cannot be handed over: {error}"));
            Packet::new(&of_this(Err(failure)))
        });
        self.say(packet);
    }
}

type Blocks = BTreeMap<u64, Result<Kept>>;

/// What the call lends, as far as it is mapped here.
fn lent(blocks: &Blocks, call: &CallMessage) -> impl Iterator<Item = (FileId, Mode)> {
    let mode = |writable| if writable { Mode::Exclusive } else { Mode::Shared };
    let id = |serial| Some(blocks.get(serial)?.as_ref().ok()?.id);
    call.blocks.iter().filter_map(move |(serial, writable)| Some((id(serial)?, mode(*writable))))
}

fn find_block(blocks: &Blocks, serial: u64, writable: bool) -> Result<MappedBlock<'_>> {
    match blocks.get(&serial) {
        Some(Ok(kept)) => {
            let mapping = &kept.mapping;
            let writable = writable && mapping.access() == Access::ReadWrite;
            Ok(MappedBlock { bytes: Bytes::of(mapping, mapping.len()), writable, fresh: Some(mapping) })
        }
        Some(Err(error)) => Err(Error::new(error.kind(), format!("a worker cannot map an array of the call: {error}"))),
        None => Err(Error::new(
            ErrorKind::Io,
            "an array of the call did not reach the worker (is it out of descriptors? see `ulimit -n`)",
        )),
    }
}

/// A worker's chunks of one call: those that it draws tickets for.
struct Work<'w, S: System> {
    desk: &'w Desk<S>,
    message: &'w CallMessage,
    helped: usize,
    writer: Writer<'w, S::Memory>,
    record: &'w mut Record,
    pace: Pace,
    leaving: &'w mut Vec<Result<Kept>>,
    /// Was a chunk run that the parent was perhaps not told of?
    any_ended: bool,
    home: Epoch,
}

impl<S: System> Share for Work<'_, S> {
    fn next(&mut self) -> Option<Chunk> {
        let ticket = self.desk.page.draw(self.desk.index, self.writer.call(), self.helped)?;
        let chunk = self.message.chunk_of(ticket)?;
        // After the last one there is nothing to tell but the end.
        if std::mem::replace(&mut self.any_ended, true) && self.pace.is_due(S::now) {
            self.desk.page.note_news(self.desk.index);
            // The call goes on for a while.
            self.leaving.clear();
        }
        // What an earlier task caught itself.
        panics::forget_place();
        Some(Chunk::new(chunk, self.message.division()))
    }

    fn result(&mut self) -> &mut Vec<u8> {
        self.record.cleared()
    }

    fn end(&mut self, chunk: &Chunk, mut ended: Ended) {
        if epoch() != self.home {
            // A child that the task forked and that came back here: the worker itself will answer.
            leave();
        }
        if let Err(TaskFailure::Panicked { place, .. }) = &mut ended {
            *place = panics::take_place();
        }
        let failed = ended.is_err();
        self.desk.report(&mut self.writer, chunk.index(), ended, self.record);
        if failed {
            self.desk.page.note_news(self.desk.index);
        }
    }
}

fn leave() -> ! {
    // SAFETY: ends the process at once, without handlers that belong to the worker that it was forked from.
    unsafe { libc::_exit(0) }
}
