//! The parent's side of [records](super::records). What it reads another process has written: all of it is checked.

use std::ops::Range;

use super::area::Area;
use super::board::{Noted, Place, ahead, onward};
use super::records::{DONE, FAILURE, NUMBERS, Run, VALUE, WORD, parts};
use super::{ControlPage, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::numbers::Kinds;
use crate::pool::protocol::TaskFailure;

/// How far the parent has read a worker's outcomes of one call.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    read: Place,
    /// What is known of the chunks that are noted as done: none of these is told twice. And whether they are closed: there
    /// will be no more of them.
    done: Range<usize>,
    is_closed: bool,
    /// What is known of a run that is open behind what was read, and where its names are in the buffer.
    run: Option<(Run, usize)>,
    /// The first chunk of the last run that was closed.
    closed: Option<usize>,
}

/// Something that a worker has noted.
#[derive(Debug)]
pub(crate) enum Entry {
    /// These chunks returned nothing.
    Nothing(Range<usize>),
    /// These chunks returned numbers of those kinds. Their names begin at the first of those words of the buffer, where they
    /// have any, and they themselves at the second.
    Numbers(Range<usize>, Kinds, (usize, usize)),
    /// A chunk returned a [value](super::value_at) whose record is those words of the buffer.
    Value(usize, Range<usize>),
    Failure(usize, TaskFailure),
}

impl Reader {
    /// Hands each news of a worker to `note`; words of values are appended to `buffer`, which `note` is given too.
    /// `finished` where the worker is known to have finished the call.
    ///
    /// # Errors
    /// `Layout` where there is something that no worker writes, or that `note` refuses by `false`.
    pub(crate) fn read<T, M: Memory>(
        &mut self,
        page: &ControlPage<M>,
        (worker, call, finished): (usize, u64, bool),
        target: &mut T,
        buffer: impl Fn(&mut T) -> &mut Vec<u64>,
        mut note: impl FnMut(&mut T, Entry) -> bool,
    ) -> Result<()> {
        let noted = if finished { page.noted_at_the_end(worker, call) } else { page.noted(worker, call) };
        let before = self.read;
        self.read_noted(&page.area(worker), noted, target, &buffer, &mut note)?;
        if !finished && self.read != before {
            page.note_taken(worker, call, self.read);
        }
        Ok(())
    }

    /// [`read`](Self::read) for what was noted: ranges of chunks, and how much of the area is filled, which may be of a
    /// later time.
    pub(super) fn read_noted<T, M: Memory>(
        &mut self,
        area: &Area<'_, M>,
        Noted { mut done, numbers, written }: Noted,
        target: &mut T,
        buffer: &impl Fn(&mut T) -> &mut Vec<u64>,
        note: &mut impl FnMut(&mut T, Entry) -> bool,
    ) -> Result<()> {
        let mut told = |target: &mut T, entry| note(target, entry).then_some(()).ok_or_else(damaged);
        // A range was read before the area. Where it begins as one that stands here, or did so earlier, it is of an earlier
        // time, and all of it is known.
        let mut numbers = numbers.filter(|numbers| self.closed != Some(numbers.start));
        let len = ahead(self.read, written);
        if len > M::RESULTS_LEN || !len.is_multiple_of(WORD) {
            return Err(damaged());
        }
        if len > 0 {
            let open = self.run.take();
            // Of a run that was open only what is new; it is closed now.
            let known = open.as_ref().map_or(0, |(run, _)| run.len());
            let rest = open.map(|(run, names)| {
                let end = run.chunks.start.saturating_add(number(area.get(onward(self.read, WORD))));
                (run.chunks.start, run.chunks.end..end, run.kinds, names)
            });
            let len = len.checked_sub(known).ok_or_else(damaged)?;
            let mut at = area.append_to(buffer(target), onward(self.read, known), len);
            let end = buffer(target).len();
            self.read = written;
            if let Some((first, chunks, kinds, names)) = rest {
                self.closed = Some(first);
                numbers = numbers.filter(|numbers| numbers.start != first);
                let values = at;
                at = end_of(&chunks, kinds, at).filter(|&at| at <= end).ok_or_else(damaged)?;
                if !chunks.is_empty() {
                    told(target, Entry::Numbers(chunks, kinds, (names, values)))?;
                }
            }
            while at < end {
                let words = &buffer(target)[..end];
                let (kind, chunk, rest) = parts(words[at]);
                let body = at + 1;
                let entry = match kind {
                    NUMBERS => {
                        let kinds = Kinds::of(rest).ok_or_else(damaged)?;
                        let count =
                            words.get(body).copied().map(number).filter(|&count| count > 0).ok_or_else(damaged)?;
                        let chunks = chunk..chunk.saturating_add(count);
                        let names = body + 1;
                        let values =
                            names + kinds.words_of_names(|at| words.get(names + at).copied()).ok_or_else(damaged)?;
                        at = end_of(&chunks, kinds, values).ok_or_else(damaged)?;
                        self.closed = Some(chunk);
                        numbers = numbers.filter(|numbers| numbers.start != chunk);
                        Entry::Numbers(chunks, kinds, (names, values))
                    }
                    VALUE => {
                        let record = at..body + rest.div_ceil(WORD);
                        at = record.end;
                        Entry::Value(chunk, record)
                    }
                    FAILURE => {
                        let bytes: &[u8] = bytemuck::cast_slice(&words[body..]);
                        let failure = rmp_serde::from_slice(bytes.get(..rest).ok_or_else(damaged)?);
                        at = body + rest.div_ceil(WORD);
                        Entry::Failure(chunk, failure.map_err(|error| damaged().with_source(error))?)
                    }
                    DONE => {
                        at = body;
                        // What this range was when it was last looked at is known.
                        let is_known = chunk == self.done.start && !std::mem::replace(&mut self.is_closed, true);
                        let known = if is_known { self.done.end.max(chunk) } else { chunk };
                        let last = std::mem::replace(&mut self.done, chunk..rest);
                        let is_of =
                            |range: &Range<usize>, done: &Range<usize>| !range.is_empty() && range.start == done.start;
                        done = done.filter(|done| !is_of(&last, done) && !is_of(&self.done, done));
                        if chunk >= rest {
                            return Err(damaged());
                        }
                        Entry::Nothing(known..rest)
                    }
                    _ => return Err(damaged()),
                };
                if at > end {
                    return Err(damaged());
                }
                told(target, entry)?;
            }
        }
        if let Some(done) = done {
            let known = if done.start == self.done.start { self.done.end.max(done.start) } else { done.start };
            if known < done.end {
                self.done = done.clone();
                self.is_closed = false;
                told(target, Entry::Nothing(known..done.end))?;
            }
        }
        numbers.map_or(Ok(()), |numbers| self.read_open_run(area, numbers, target, buffer, &mut told))
    }

    /// What is new of the numbers behind what was read.
    fn read_open_run<T, M: Memory>(
        &mut self,
        area: &Area<'_, M>,
        chunks: Range<usize>,
        target: &mut T,
        buffer: &impl Fn(&mut T) -> &mut Vec<u64>,
        told: &mut impl FnMut(&mut T, Entry) -> Result<()>,
    ) -> Result<()> {
        let (mut run, names) = match self.run.take() {
            None => open_run(area, self.read, chunks.start, buffer(target))?,
            Some(open) if open.0.chunks.start == chunks.start => open,
            Some(_) => return Err(damaged()),
        };
        let (known, new) = (run.len(), run.chunks.end..chunks.end);
        run.chunks.end = run.chunks.end.max(chunks.end);
        if run.len() > M::RESULTS_LEN {
            return Err(damaged());
        }
        if !new.is_empty() {
            let at = area.append_to(buffer(target), onward(self.read, known), run.len() - known);
            told(target, Entry::Numbers(new, run.kinds, (names, at)))?;
        }
        self.run = Some((run, names));
        Ok(())
    }
}

fn damaged() -> Error {
    Error::new(ErrorKind::Layout, "a worker's outcomes are damaged")
}

fn number(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

/// Where the numbers of so many chunks end that begin there.
fn end_of(chunks: &Range<usize>, kinds: Kinds, at: usize) -> Option<usize> {
    let count = chunks.end.checked_sub(chunks.start)?;
    count.checked_mul(kinds.count())?.checked_add(at)
}

/// The run of which no more is known than that it begins there with that chunk; its names are appended.
fn open_run<M: Memory>(area: &Area<'_, M>, place: Place, chunk: usize, words: &mut Vec<u64>) -> Result<(Run, usize)> {
    let (kind, first, kinds) = parts(area.get(place));
    let kinds = Kinds::of(kinds).filter(|_| (kind, first) == (NUMBERS, chunk)).ok_or_else(damaged)?;
    let head = onward(place, 2 * WORD);
    let word = |at| Some(area.get(onward(head, at * WORD)));
    let len = WORD * kinds.words_of_names(word).ok_or_else(damaged)?;
    if len > M::RESULTS_LEN {
        return Err(damaged());
    }
    let names = area.append_to(words, head, len);
    Ok((Run { chunks: chunk..chunk, kinds, head: 2 * WORD + len }, names))
}
