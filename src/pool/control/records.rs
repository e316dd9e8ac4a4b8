//! Outcomes as they stand in a worker's area of the page: each is a word that says what it is, and bytes up to a whole
//! word.
//!
//! Most tasks return nothing, and a worker runs chunks one after another: such chunks are a range on a word of their own,
//! and only when the next one does not follow it goes into the area.

use std::ops::Range;

use super::board::Marks;
use super::{ControlPage, Mapped, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::numbers::{Kinds, Numbers};
use crate::pool::protocol::TaskFailure;

const HEAD: usize = size_of::<u64>();
const KIND_BITS: u32 = 2;
const CHUNK_BITS: u32 = 24;

/// What a head's lowest bits say: a value follows, or a failure, or it is about chunks up to another one, or numbers follow,
/// of which it says what they are.
const VALUE: u64 = 0;
const FAILURE: u64 = 1;
const DONE: u64 = 2;
const NUMBERS: u64 = 3;

fn head(kind: u64, chunk: usize, rest: usize) -> u64 {
    ((rest as u64) << CHUNK_BITS | chunk as u64) << KIND_BITS | kind
}

fn parts(head: u64) -> (u64, usize, usize) {
    let number = |bits: u64| usize::try_from(bits).unwrap_or(usize::MAX);
    let rest = head >> KIND_BITS;
    (head & ((1 << KIND_BITS) - 1), number(rest & ((1 << CHUNK_BITS) - 1)), number(rest >> CHUNK_BITS))
}

/// Numbers or bytes of one outcome, behind room for its head. Used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) numbers: Numbers,
    bytes: Vec<u8>,
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
}

/// A worker's side of one call's outcomes.
pub(crate) struct Writer<'p, M: Memory = Mapped> {
    page: &'p ControlPage<M>,
    worker: usize,
    marks: Marks<'p, M>,
    /// Where its area lies.
    area: usize,
    written: usize,
    done: Range<usize>,
}

impl<'p, M: Memory> Writer<'p, M> {
    pub(crate) fn new(page: &'p ControlPage<M>, worker: usize, call: u64) -> Self {
        Self {
            page,
            worker,
            marks: page.marks(worker, call),
            area: page.results_offset(worker),
            written: 0,
            done: 0..0,
        }
    }

    pub(crate) fn call(&self) -> u64 {
        self.marks.call()
    }

    /// See [`Marks::begin`].
    #[inline]
    pub(crate) fn begin(&self, ticket: usize) -> bool {
        self.marks.begin(ticket)
    }

    /// A chunk is done and returned nothing; `false` where there is no room to say so.
    #[inline]
    pub(crate) fn nothing(&mut self, chunk: usize) -> bool {
        if self.done.end == chunk && !self.done.is_empty() {
            self.done.end += 1;
        } else {
            let Range { start, end } = self.done;
            if !self.done.is_empty() && !self.append(&head(DONE, start, end).to_ne_bytes()) {
                return false;
            }
            self.done = chunk..chunk + 1;
        }
        self.marks.note_done(&self.done);
        true
    }

    /// A chunk is done and returned the numbers in the record; `false` where there is no room for them.
    #[inline]
    pub(crate) fn numbers(&mut self, chunk: usize, numbers: &mut Numbers) -> bool {
        let kinds = numbers.kinds().bits() as usize;
        self.append(bytemuck::cast_slice(numbers.behind(head(NUMBERS, chunk, kinds))))
    }

    /// A chunk is done and returned the bytes in the record; `false` where there is no room for them.
    pub(crate) fn value(&mut self, chunk: usize, record: &mut Record) -> bool {
        self.record(VALUE, chunk, record)
    }

    /// A chunk's failure is in the record; `false` where there is no room for it.
    pub(crate) fn failure(&mut self, chunk: usize, record: &mut Record) -> bool {
        self.record(FAILURE, chunk, record)
    }

    fn record(&mut self, kind: u64, chunk: usize, Record { bytes, .. }: &mut Record) -> bool {
        let len = bytes.len() - HEAD;
        bytes[..HEAD].copy_from_slice(&head(kind, chunk, len).to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(HEAD), 0);
        let fits = self.append(bytes);
        bytes.truncate(HEAD + len);
        fits
    }

    /// Whole words.
    fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > M::RESULTS_LEN - self.written {
            return false;
        }
        self.page.memory().copy_in(self.area + self.written, bytes);
        self.written += bytes.len();
        self.marks.note_written(self.written);
        true
    }

    /// The call is over for this worker: nothing of it is touched any more.
    pub(crate) fn finish(self) {
        self.page.note_finished(self.worker, self.marks.call(), &self.done, self.written);
    }
}

/// How far the parent has read a worker's outcomes of one call.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    read: usize,
    /// What is known of the chunks that are noted as done: none of these is told twice.
    done: Range<usize>,
}

/// Something that a worker has noted.
#[derive(Debug)]
pub(crate) enum Entry {
    /// These chunks returned nothing.
    Nothing(Range<usize>),
    /// A chunk returned the numbers that begin there in the buffer.
    Numbers(usize, Kinds, usize),
    /// A chunk returned those bytes of the buffer.
    Value(usize, Range<usize>),
    Failure(usize, TaskFailure),
}

impl Reader {
    /// Hands each news of a worker to `note`; bytes of values are appended to `buffer`, which `note` is given too.
    /// `finished` where the worker is known to have finished the call.
    ///
    /// # Errors
    /// `Layout` where there is something that no worker writes, or that `note` refuses by `false`.
    pub(crate) fn read<T, M: Memory>(
        &mut self,
        page: &ControlPage<M>,
        (worker, call, finished): (usize, u64, bool),
        target: &mut T,
        buffer: impl Fn(&mut T) -> &mut Vec<u8>,
        mut note: impl FnMut(&mut T, Entry) -> bool,
    ) -> Result<()> {
        let noted = if finished { page.noted_at_the_end(worker, call) } else { page.noted(worker, call) };
        self.read_noted(page, worker, noted, target, buffer, &mut note)
    }

    /// [`read`](Self::read) for what was noted: chunks that are done, and how much of the area is filled, which may be of a
    /// later time.
    fn read_noted<T, M: Memory>(
        &mut self,
        page: &ControlPage<M>,
        worker: usize,
        (mut done, written): (Option<Range<usize>>, usize),
        target: &mut T,
        buffer: impl Fn(&mut T) -> &mut Vec<u8>,
        note: &mut impl FnMut(&mut T, Entry) -> bool,
    ) -> Result<()> {
        let damaged = || Error::new(ErrorKind::Layout, "a worker's outcomes are damaged");
        let mut told = |target: &mut T, entry| note(target, entry).then_some(()).ok_or_else(damaged);
        if written > self.read && written <= M::RESULTS_LEN {
            let bytes = buffer(target);
            let mut at = bytes.len();
            bytes.resize(at + written - self.read, 0);
            page.memory().copy_out(page.results_offset(worker) + self.read, &mut bytes[at..]);
            self.read = written;
            let end = bytes.len();
            while at < end {
                let bytes = &buffer(target)[at..end];
                let (first, bytes) = bytes.split_first_chunk().ok_or_else(damaged)?;
                let (kind, chunk, rest) = parts(u64::from_ne_bytes(*first));
                at += HEAD;
                let entry = match kind {
                    NUMBERS => {
                        let kinds = Kinds::of(rest).ok_or_else(damaged)?;
                        let first = at;
                        at += kinds.count() * size_of::<u64>();
                        if at > end {
                            return Err(damaged());
                        }
                        told(target, Entry::Numbers(chunk, kinds, first))?;
                        continue;
                    }
                    VALUE if rest <= bytes.len() => Entry::Value(chunk, at..at + rest),
                    FAILURE if rest <= bytes.len() => {
                        let failure = rmp_serde::from_slice(&bytes[..rest]);
                        Entry::Failure(chunk, failure.map_err(|error| damaged().with_source(error))?)
                    }
                    DONE => {
                        // What this range was when it was last looked at is known.
                        let known = if chunk == self.done.start { self.done.end.max(chunk) } else { chunk };
                        // The word was read before the area. Where it says what was known before, or what stands here, it
                        // is of an earlier time, and all of that range is known.
                        let last = std::mem::replace(&mut self.done, chunk..rest);
                        let is_of =
                            |range: &Range<usize>, done: &Range<usize>| !range.is_empty() && range.start == done.start;
                        done = done.filter(|done| !is_of(&last, done) && !is_of(&self.done, done));
                        told(target, Entry::Nothing(known..rest))?;
                        continue;
                    }
                    _ => return Err(damaged()),
                };
                at += rest.next_multiple_of(HEAD);
                told(target, entry)?;
            }
        }
        if let Some(done) = done {
            let known = if done.start == self.done.start { self.done.end.max(done.start) } else { done.start };
            if known < done.end {
                self.done = done.clone();
                told(target, Entry::Nothing(known..done.end))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A healthy worker was killed for saying a chunk twice: the range of done chunks was read before the worker had moved
    /// on, and the area after that.
    #[test]
    fn a_range_that_was_read_before_the_area_is_told_once() {
        let page: ControlPage = ControlPage::create(1).unwrap();
        let mut writer = Writer::new(&page, 0, 7);
        assert!(writer.begin(0));
        let mut reader = Reader::default();
        let read = |reader: &mut Reader, noted| -> Vec<(usize, usize)> {
            let mut told = Vec::new();
            let note = &mut |_: &mut Vec<u8>, entry| {
                let Entry::Nothing(chunks) = entry else { return false };
                told.extend((!chunks.is_empty()).then_some((chunks.start, chunks.end)));
                true
            };
            reader.read_noted(&page, 0, noted, &mut Vec::new(), |buffer| buffer, note).unwrap();
            told
        };
        assert!(writer.nothing(0));
        let (before, _) = page.noted(0, 7);
        assert_eq!(before, Some(0..1));
        assert!(writer.nothing(2) && writer.nothing(1));
        let (now, written) = page.noted(0, 7);
        assert_eq!(read(&mut reader, (before, written)), [(0, 1), (2, 3)]);
        assert_eq!(read(&mut reader, (now, written)), [(1, 2)]);

        // The same where the range was known from an earlier look, and has grown since.
        let (before, written_before) = page.noted(0, 7);
        assert!(writer.nothing(4));
        assert!(read(&mut reader, (before.clone(), written_before)).is_empty());
        let (_, written) = page.noted(0, 7);
        assert!(read(&mut reader, (before, written)).is_empty());
        assert_eq!(read(&mut reader, page.noted(0, 7)), [(4, 5)]);
    }
}
