//! Running one call in a worker.
#![expect(unsafe_code, reason = "runs tasks over blocks that the parent has locked")]

use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_bytes::ByteBuf;
use smallvec::SmallVec;

use super::{Blocks, CONFUSED, Desk, Kept, SLEEP, Told, Worker, ending, panics};
use crate::array::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{NotedLent, note_lent, note_lent_again};
use crate::pool::args::{Cursor, MappedBlock};
use crate::pool::chunk::{Chunk, Ending};
use crate::pool::control::{Announced, Record, Room, Writer};
use crate::pool::numbers::Form;
use crate::pool::protocol::{CallMessage, NOTHING, Outcome, Packet, TaskFailure, ToParent};
use crate::pool::system::System;
use crate::pool::task::{Share, TaskRef};
use crate::sys::file::FileId;
use crate::sys::lock::Mode;
use crate::sys::map::Access;
use crate::sys::process::is_hung_up;

/// The parent is rung at most so often while chunks go on: it shows progress.
const LINGER: Duration = Duration::from_millis(5);

/// When the parent is rung next.
struct Pace {
    rung: Duration,
    looked: Duration,
    /// Chunks that were begun since the clock was looked at, and how many it takes: quick ones need no look each.
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

    /// How many chunks are so quick that they may well be taken at a time.
    fn patience(&self) -> usize {
        self.patience as usize
    }

    /// To be asked before each chunk: is the clock to be looked at?
    #[inline]
    fn is_worth_a_look(&mut self) -> bool {
        let worth = self.chunks == self.patience;
        self.chunks = if worth { 1 } else { self.chunks + 1 };
        worth
    }

    /// To be asked then: is it time to ring?
    fn is_due(&mut self, now: Duration) -> bool {
        let quick = now.saturating_sub(self.looked) < Self::QUICK;
        self.patience = if quick { (2 * self.patience).min(Self::MOST) } else { 1 };
        self.looked = now;
        let due = now.saturating_sub(self.rung) >= LINGER;
        if due {
            self.rung = now;
        }
        due
    }
}

impl<S: System> Worker<S> {
    /// Runs a call that does what is known, and those that follow it and do so too, see [`run`](Self::run).
    pub(super) fn run_known(&mut self, call: u64, granted: Option<usize>) -> Result<()> {
        let Self { desk, told, blocks, leaving, record, noted, known: Some(known) } = self else {
            // It was learnt just now; a call that nobody finishes would be waited for.
            S::exit(CONFUSED)
        };
        let again = noted.take() == Some(known.id);
        let tools = Tools { desk, told, blocks, leaving };
        tools.run((call, granted), (known.task, &known.message), Some(known.id), again, record)?;
        *noted = Some(known.id);
        Ok(())
    }

    /// Draws tickets of the call and runs their chunks until there are none left, then finishes it. An error means that
    /// none was drawn.
    #[cold]
    pub(super) fn run(&mut self, task: TaskRef, message: &CallMessage) -> Result<()> {
        let Self { desk, told, blocks, leaving, record, noted, .. } = self;
        *noted = None;
        let tools = Tools { desk, told, blocks, leaving };
        tools.run((message.call, None), (task, message), None, false, record)
    }
}

/// What a worker works with.
struct Tools<'w, S: System> {
    desk: &'w Desk<S>,
    told: &'w mut Told,
    blocks: &'w Blocks,
    leaving: &'w mut Vec<Result<Kept>>,
}

impl<S: System> Tools<'_, S> {
    /// See [`Worker::run`]. `id` is the number of the call's description, where that has one; `again` where the call before
    /// lent the same blocks.
    fn run(
        self,
        (call, granted): (u64, Option<usize>),
        (task, message): (TaskRef, &CallMessage),
        id: Option<u64>,
        again: bool,
        record: &mut Record,
    ) -> Result<()> {
        let Desk { page, index, .. } = self.desk;
        let blocks = self.blocks;
        let mut found = SmallVec::<[MappedBlock<'_>; 4]>::new();
        for (serial, writable) in &message.blocks {
            found.push(find_block(blocks, *serial, *writable)?);
        }
        let lends = !found.is_empty();
        let mut work = Work {
            message,
            id,
            helped: message.helped(page.workers()),
            one_each: message.tickets() <= page.workers(),
            lends,
            lent: (lends && !again).then(|| note_lent(lent(blocks, message))),
            tickets: 0..0,
            all_drawn: false,
            at: None,
            writer: Writer::new(page, *index, call),
            pace: Pace::of_one_chunk(),
            tools: self,
        };
        work.begin(granted);
        let mut cursor = Cursor::new(&message.leaves, &found);
        // SAFETY: the leaves were described by the arguments of the task's own type, which `TaskRef::find` compared. The
        // parent holds the locks of all blocks, which are mapped for as long as they are borrowed here, until this worker
        // has said that it has finished the call, or was reaped, and again from when the next call was announced; the
        // tickets of the chunks are drawn from the control page by this worker alone, or granted to it alone.
        unsafe { task.run(&mut cursor, &mut work, record) };
        Ok(())
    }
}

impl<S: System> Desk<S> {
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
}

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

/// A worker's chunks of one call after another that all ask the same: those that it draws tickets for.
struct Work<'w, S: System> {
    message: &'w CallMessage,
    /// The number of the description, where that is on the page.
    id: Option<u64>,
    helped: usize,
    /// There are no more tickets than workers.
    one_each: bool,
    lends: bool,
    lent: Option<NotedLent>,
    /// Those that it has drawn and not begun.
    tickets: Range<usize>,
    /// There are no others.
    all_drawn: bool,
    /// The one whose chunk was begun last, of this call or an earlier one.
    at: Option<usize>,
    writer: Writer<'w, S::Memory>,
    pace: Pace,
    tools: Tools<'w, S>,
}

impl<S: System> Work<'_, S> {
    /// Begins the writer's call.
    #[inline]
    fn begin(&mut self, granted: Option<usize>) {
        if self.lends && self.lent.is_none() {
            self.lent = Some(note_lent_again());
        }
        self.tickets = granted.map_or(0..0, |ticket| ticket..ticket + 1);
        self.all_drawn = granted.is_some() && self.one_each;
        if !self.all_drawn {
            self.pace = if self.one_each { Pace::of_one_chunk() } else { Pace::new(S::now()) };
        }
    }

    /// Begins the next chunk that was drawn; `false` where there is none, or no more of them is begun.
    #[expect(clippy::inline_always, reason = "a call of one chunk is not much longer than a call of this")]
    #[inline(always)]
    fn begins(&mut self, chunk: &mut Chunk) -> bool {
        let Some(ticket) = self.tickets.next() else { return false };
        // After the last one there is nothing to tell but the end.
        if !self.all_drawn && self.pace.is_worth_a_look() {
            self.look_at_clock();
        }
        if self.writer.begin(ticket) && (self.at == Some(ticket) || self.goes_to(ticket, chunk)) {
            // What an earlier task caught itself.
            panics::forget_place();
            return true;
        }
        // The call is closed.
        (self.tickets, self.all_drawn) = (0..0, true);
        false
    }

    /// The same for a chunk that was not drawn yet. Where there are none left it finishes the call, and goes on with a later
    /// one that asks the same; `false` where that does not come, or the worker has something else to do before.
    #[inline(never)]
    fn begins_another(&mut self, chunk: &mut Chunk) -> bool {
        loop {
            if !self.all_drawn {
                self.draw();
                if self.begins(chunk) {
                    return true;
                }
            }
            // The blocks are the parent's again when it knows that this worker has finished.
            self.lent = None;
            self.writer.finish();
            if !self.takes_another() {
                return false;
            }
            chunk.go_to_call(self.ending());
            if self.begins(chunk) {
                return true;
            }
        }
    }

    /// Calls that ask the same are cut in the same way: a ticket stands for the same chunk in each of them.
    #[inline]
    fn goes_to(&mut self, ticket: usize, chunk: &mut Chunk) -> bool {
        let Some(index) = self.message.chunk_of(ticket) else { return false };
        chunk.go_to(index, self.message.division());
        self.at = Some(ticket);
        true
    }

    /// Waits for another call that asks the same, and takes it.
    #[inline]
    fn takes_another(&mut self) -> bool {
        let Some(id) = self.id.filter(|_| self.tools.leaving.is_empty()) else { return false };
        #[cfg(test)]
        S::at_rest(|| format!("in its task {}", super::state(self.tools.told, self.id, self.tools.blocks)));
        let Tools { desk, told, .. } = &mut self.tools;
        let marks = self.writer.marks();
        if !marks.hears_more(desk.spin, told.heard, &desk.rhythm) {
            told.is_quiet = true;
            return false;
        }
        // A call is announced after the mail that it needs was counted.
        match marks.announced_another() {
            Some(Announced { call, id: asked, granted }) if asked == id && marks.mail() == told.heard => {
                told.call = call;
                self.writer.go_to_call(call);
                self.begin(granted);
                true
            }
            _ => false,
        }
    }

    fn ending(&self) -> Ending {
        Ending::OnPage(self.writer.call())
    }

    /// Before anything is said of a chunk.
    fn check_home(&self) {
        if !self.tools.desk.home.is_here() {
            // A child that the task forked and that came back here: the worker itself will answer.
            leave();
        }
    }

    /// Draws the next tickets, if there are any.
    #[cold]
    fn draw(&mut self) {
        let Desk { page, index, .. } = self.tools.desk;
        let drawn = page.draw(*index, self.writer.call(), self.helped, self.pace.patience());
        self.tickets = drawn.unwrap_or_default();
    }

    #[cold]
    fn look_at_clock(&mut self) {
        if self.pace.is_due(S::now()) {
            self.note_news();
            // The call goes on for a while.
            self.tools.leaving.clear();
        }
    }

    fn note_news(&self) {
        let Desk { page, index, .. } = self.tools.desk;
        page.note_news(*index);
    }

    /// Writes an outcome as soon as there is room for it; `false` where there will never be.
    #[inline]
    fn write(&mut self, mut outcome: impl FnMut(&mut Writer<'_, S::Memory>) -> Room) -> bool {
        loop {
            match outcome(&mut self.writer) {
                Room::Enough => return true,
                Room::Later => self.wait_for_room(),
                Room::Never => return false,
            }
        }
    }

    /// Waits until the parent has read what it was not known to have read.
    #[cold]
    fn wait_for_room(&self) {
        let Desk { page, index, socket, .. } = self.tools.desk;
        page.note_news(*index);
        while !self.writer.has_more_room() {
            let room = || self.writer.has_more_room();
            page.wait_as_worker(*index, Duration::ZERO, SLEEP, room, room);
            if !self.writer.has_more_room() && is_hung_up(socket.as_fd()) {
                // Nobody is left who would.
                S::exit(0);
            }
        }
    }

    /// Notes what a chunk has returned.
    #[inline(never)]
    fn note(&mut self, chunk: usize, form: Form, record: &mut Record) {
        self.check_home();
        if ending::was_told(self.writer.call()) {
            return self.failed(chunk, TaskFailure::Stopped { in_order: false }, record);
        }
        let is_written = self.write(|writer| match form {
            Form::Nothing => writer.nothing(chunk),
            Form::Numbers => writer.numbers(chunk, record),
            Form::Bytes if record.body() == NOTHING => writer.nothing(chunk),
            Form::Bytes => writer.value(chunk, record),
        });
        if !is_written {
            self.send(chunk, form, record);
        }
    }

    #[cold]
    fn send(&self, chunk: usize, form: Form, record: &mut Record) {
        let outcome = encoded(form, record);
        record.forget_large();
        self.tools.desk.send(self.writer.call(), chunk, outcome);
    }
}

impl<S: System> Share for Work<'_, S> {
    fn no_chunk(&self) -> Chunk {
        Chunk::of_call(self.message.division(), self.ending())
    }

    fn next(&mut self, chunk: &mut Chunk) -> bool {
        self.begins(chunk) || self.begins_another(chunk)
    }

    fn done(&mut self, chunk: usize, form: Form, record: &mut Record) {
        let is_plain =
            form == Form::Nothing && self.tools.desk.home.is_seen_here() && !ending::was_told(self.writer.call());
        if is_plain && self.all_drawn {
            self.writer.nothing_at_all(chunk);
        } else if !(is_plain && self.writer.nothing_more(chunk)) {
            self.note(chunk, form, record);
        }
    }

    #[cold]
    fn failed(&mut self, chunk: usize, mut failure: TaskFailure, record: &mut Record) {
        self.check_home();
        if let TaskFailure::Panicked { place, .. } = &mut failure {
            *place = panics::take_place();
        }
        if matches!(failure, TaskFailure::Failed(_)) && ending::was_told(self.writer.call()) {
            failure = TaskFailure::Stopped { in_order: true };
        }
        let encoded = rmp_serde::encode::write(record.cleared(), &failure);
        if encoded.is_err() || !self.write(|writer| writer.failure(chunk, record)) {
            self.tools.desk.send(self.writer.call(), chunk, Err(failure));
        }
        // What was written of a result that is refused, too.
        record.forget_large();
        self.note_news();
    }
}

/// What a task returned, for a message.
fn encoded(form: Form, record: &Record) -> Outcome {
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
