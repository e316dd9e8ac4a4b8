//! Outcomes as they stand in a worker's area of the page: each begins with a word that says what it is.
//!
//! A worker runs chunks one after another, and what they return is mostly of one kind. So outcomes are said of a range of
//! chunks wherever that is possible:
//!
//! - Chunks that returned nothing are a range on a word of their own, *done*, and only when the next one does not follow it
//!   goes into the area.
//! - Chunks that returned numbers of the same kinds are a run: a head, how many chunks they are, then their words, one value
//!   behind the other. While a run is open its chunks are a range on a word of their own, *numbers*, and it stands behind all
//!   that is said to be *written*; how many they are is written when it is closed.
//!
//! ```text
//!     what the parent has read            written
//!     ↓                                   ↓                     ┌─ not yet
//! ────┬──────┬────────┬──────┬───────┬────┬───────────────────┬─┴─────┬───────┬───────┬───────┬──────────
//!     │ head │ bytes  │ head │ count │ …  │ head: kinds of 40 │ count │ of 40 │ of 41 │ of 42 │ (free)
//! ────┴──────┴────────┴──────┴───────┴────┴───────────────────┴───────┴───────┴───────┴───────┴──────────
//!     a value          a run, closed       a run, open: numbers 40..43
//! ```
//!
//! The area is a ring. The parent says how far it has read, and a worker that has no room asks it to and waits for that.

use std::ops::Range;

use super::area::Area;
use super::board::{Marks, Place, ahead, onward};
use super::{ControlPage, Mapped, Memory};
use crate::pool::numbers::{Kinds, MOST, Numbers};

pub(super) const WORD: usize = size_of::<u64>();
const HEAD: usize = WORD;
const KIND_BITS: u32 = 2;
const CHUNK_BITS: u32 = 24;

/// What a head's lowest bits say: a value follows, or a failure, or it is about chunks up to another one, or a run of
/// numbers follows, of which it says what they are.
pub(super) const VALUE: u64 = 0;
pub(super) const FAILURE: u64 = 1;
pub(super) const DONE: u64 = 2;
pub(super) const NUMBERS: u64 = 3;

fn head(kind: u64, chunk: usize, rest: usize) -> u64 {
    ((rest as u64) << CHUNK_BITS | chunk as u64) << KIND_BITS | kind
}

pub(super) fn parts(head: u64) -> (u64, usize, usize) {
    let number = |bits: u64| usize::try_from(bits).unwrap_or(usize::MAX);
    let rest = head >> KIND_BITS;
    (head & ((1 << KIND_BITS) - 1), number(rest & ((1 << CHUNK_BITS) - 1)), number(rest >> CHUNK_BITS))
}

/// Numbers or bytes of one outcome, behind room for its head. Used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) numbers: Numbers,
    bytes: Vec<u8>,
    /// The head of a run.
    start: Vec<u64>,
}

impl Record {
    /// Bytes to be appended to.
    pub(crate) fn cleared(&mut self) -> &mut Vec<u8> {
        self.bytes.resize(HEAD, 0);
        &mut self.bytes
    }

    /// Gives memory back that most outcomes do not need.
    pub(crate) fn forget_large(&mut self) {
        const USUAL: usize = 1 << 20;
        self.bytes.truncate(HEAD);
        self.bytes.shrink_to(USUAL);
    }

    /// What was appended since they were last cleared.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(HEAD..).unwrap_or_default()
    }

    /// Appends the bytes as the record of a chunk's value, to be [found](value_at) again.
    pub(crate) fn write_value(&self, chunk: usize, words: &mut Vec<u64>) {
        let body = self.body();
        words.push(head(VALUE, chunk, body.len()));
        let at = words.len();
        words.resize(at + body.len().div_ceil(WORD), 0);
        bytemuck::cast_slice_mut(&mut words[at..])[..body.len()].copy_from_slice(body);
    }
}

/// The bytes of the record that begins there among words which were told as [`Entry::Value`](super::Entry::Value), and where the next one begins.
#[inline]
pub(crate) fn value_at(words: &[u64], at: usize) -> (&[u8], usize) {
    let (_, _, len) = parts(words[at]);
    let next = at + 1 + len.div_ceil(WORD);
    (&bytemuck::cast_slice(&words[at + 1..next])[..len], next)
}

/// Is there room for an outcome?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Room {
    /// It is written.
    Enough,
    /// Once the parent has read what stands there.
    Later,
    Never,
}

/// Numbers of the chunks in a range, one behind the other, as far as they are known.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) chunks: Range<usize>,
    pub(super) kinds: Kinds,
    /// How many bytes its head has.
    pub(super) head: usize,
}

impl Run {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.head + self.chunks.len() * self.kinds.count() * WORD
    }
}

/// A worker's side of one call's outcomes.
pub(crate) struct Writer<'p, M: Memory = Mapped> {
    area: Area<'p, M>,
    marks: Marks<'p, M>,
    /// Up to where outcomes are written that do not change any more, and where the parent had read to when that was last
    /// looked at.
    written: Place,
    taken: Place,
    done: Range<usize>,
    /// Whether that was noted before the end of the call.
    noted_done: bool,
    /// What is open behind that, and its names.
    run: Option<Run>,
    names: [&'static str; MOST],
    had_run: bool,
}

impl<'p, M: Memory> Writer<'p, M> {
    #[inline]
    pub(crate) fn new(page: &'p ControlPage<M>, worker: usize, call: u64) -> Self {
        Self {
            area: page.area(worker),
            marks: page.marks(worker, call),
            written: 0,
            taken: 0,
            done: 0..0,
            noted_done: false,
            run: None,
            names: [""; MOST],
            had_run: false,
        }
    }

    /// Goes on to a later call, after this one was [finished](Self::finish).
    #[inline]
    pub(crate) fn go_to_call(&mut self, call: u64) {
        self.marks.go_to_call(call);
    }

    /// The words of the call that it writes of.
    #[inline]
    pub(crate) fn marks(&self) -> &Marks<'p, M> {
        &self.marks
    }

    #[inline]
    pub(crate) fn call(&self) -> u64 {
        self.marks.call()
    }

    /// See [`Marks::begin`].
    #[inline]
    pub(crate) fn begin(&self, ticket: usize) -> bool {
        self.marks.begin(ticket)
    }

    /// Has the parent read more than was known when there was no room?
    pub(crate) fn has_more_room(&self) -> bool {
        self.marks.taken() != self.taken
    }

    /// A chunk is done and returned nothing.
    pub(crate) fn nothing(&mut self, chunk: usize) -> Room {
        if self.nothing_more(chunk) {
            return Room::Enough;
        }
        let Range { start, end } = self.done;
        if !self.done.is_empty() {
            let room = self.append(&head(DONE, start, end).to_ne_bytes());
            if room != Room::Enough {
                return room;
            }
        }
        self.done = chunk..chunk + 1;
        self.marks.note_done(&self.done);
        self.noted_done = true;
        Room::Enough
    }

    /// The same for a chunk that follows the one before; `false` where it does not.
    #[inline]
    pub(crate) fn nothing_more(&mut self, chunk: usize) -> bool {
        let follows = self.done.end == chunk && !self.done.is_empty();
        if follows {
            self.done.end += 1;
            self.marks.note_done(&self.done);
        }
        follows
    }

    /// The call's only chunk here is done and returned nothing, and the call is finished next.
    ///
    /// A worker that is killed in between has not said that the chunk is done.
    #[inline]
    pub(crate) fn nothing_at_all(&mut self, chunk: usize) {
        self.done = chunk..chunk + 1;
    }

    /// A chunk is done and returned the numbers in the record.
    #[inline]
    pub(crate) fn numbers(&mut self, chunk: usize, record: &mut Record) -> Room {
        let numbers = &record.numbers;
        let len = size_of_val(numbers.words());
        let mut end = None;
        if let Some(run) = &self.run
            && run.chunks.end == chunk
            && run.kinds == numbers.kinds()
            && numbers.names().iter().zip(&self.names).all(|(one, other)| std::ptr::eq(*one, *other))
        {
            end = Some(run.len());
        }
        let end = end.filter(|end| self.has_room(end + len));
        let end = match end.map_or_else(|| self.open_run(chunk, record), Ok) {
            Ok(end) => end,
            Err(room) => return room,
        };
        self.area.put(onward(self.written, end), record.numbers.words());
        if let Some(run) = &mut self.run {
            run.chunks.end += 1;
            self.marks.note_numbers(&run.chunks);
        }
        Room::Enough
    }

    /// Begins a run with the numbers in the record, where there is room for them, and returns how long its head is.
    #[cold]
    fn open_run(&mut self, chunk: usize, record: &mut Record) -> Result<usize, Room> {
        self.close_run();
        let Record { numbers, start, .. } = record;
        start.clear();
        start.extend([head(NUMBERS, chunk, numbers.kinds().bits() as usize), 0]);
        numbers.write_names(start);
        let len = size_of_val(&start[..]);
        self.look_for_room(len + size_of_val(numbers.words()))?;
        self.area.put(self.written, &start[..1]);
        self.area.put(onward(self.written, 2 * WORD), &start[2..]);
        self.run = Some(Run { chunks: chunk..chunk, kinds: numbers.kinds(), head: len });
        self.names[..numbers.names().len()].copy_from_slice(numbers.names());
        self.had_run = true;
        Ok(len)
    }

    fn close_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.area.put(onward(self.written, WORD), &[run.chunks.len() as u64]);
            self.written = onward(self.written, run.len());
            self.marks.note_written(self.written);
        }
    }

    /// A chunk is done and returned the bytes in the record.
    pub(crate) fn value(&mut self, chunk: usize, record: &mut Record) -> Room {
        self.record(VALUE, chunk, record)
    }

    /// A chunk's failure is in the record.
    pub(crate) fn failure(&mut self, chunk: usize, record: &mut Record) -> Room {
        self.record(FAILURE, chunk, record)
    }

    fn record(&mut self, kind: u64, chunk: usize, Record { bytes, .. }: &mut Record) -> Room {
        let len = bytes.len() - HEAD;
        bytes[..HEAD].copy_from_slice(&head(kind, chunk, len).to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        let room = self.append(bytes);
        bytes.truncate(HEAD + len);
        room
    }

    /// Whole words.
    fn append(&mut self, bytes: &[u8]) -> Room {
        self.close_run();
        if let Err(room) = self.look_for_room(bytes.len()) {
            return room;
        }
        self.area.put_bytes(self.written, bytes);
        self.written = onward(self.written, bytes.len());
        self.marks.note_written(self.written);
        Room::Enough
    }

    fn look_for_room(&mut self, len: usize) -> Result<(), Room> {
        match len {
            len if len > M::RESULTS_LEN => Err(Room::Never),
            len if self.has_room(len) => Ok(()),
            _ => Err(Room::Later),
        }
    }

    /// For so many bytes behind what is written.
    #[inline]
    fn has_room(&mut self, len: usize) -> bool {
        let fits = |taken| ahead(taken, self.written) + len <= M::RESULTS_LEN;
        fits(self.taken) || {
            self.taken = self.marks.taken();
            fits(self.taken)
        }
    }

    /// The call is over for this worker: nothing of it is touched any more.
    #[inline]
    pub(crate) fn finish(&mut self) {
        if self.had_run {
            self.close_run();
            self.marks.forget_numbers();
        }
        self.marks.note_finished(&self.done, self.written, self.noted_done);
        // For a later call, before that is waited for.
        (self.written, self.taken, self.done) = (0, 0, 0..0);
        (self.noted_done, self.had_run) = (false, false);
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
