//! What the tasks of a call returned, by chunk: words or bytes until somebody knows the type.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::control::{Entry, value_at};
use super::numbers::{self, Kinds};
use super::protocol::NOTHING;
use crate::error::{Error, ErrorKind, Result};

/// A place for each chunk.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Results {
    states: Vec<State>,
    /// How many of them are not run.
    skipped: usize,
    /// What chunks have returned, each of them once, in the order in which it became known.
    parts: Vec<Part>,
    /// Where most of that lies, one behind the other.
    words: Vec<u64>,
    /// Others.
    apart: Vec<ByteBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Not known yet.
    Open,
    /// There will be none.
    Failed,
    Done,
}

/// What some chunks have returned that follow one another.
#[derive(Debug)]
struct Part {
    chunks: Range<usize>,
    form: Form,
    /// Which words these are, or which of those apart.
    place: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What encodes as [`NOTHING`].
    Nothing,
    /// Values one behind the other. Their names, where they have some, are at that word.
    Numbers(Kinds, usize),
    /// Records of values one behind the other.
    Values,
    Apart,
}

impl Results {
    pub(super) fn new(count: usize) -> Self {
        Self { states: vec![State::Open; count], skipped: 0, parts: Vec::new(), words: Vec::new(), apart: Vec::new() }
    }

    /// Of tasks that have returned nothing.
    pub(super) fn of_nothing(count: usize) -> Self {
        let mut results = Self::new(count);
        results.add(0..count, Form::Nothing, 0..0);
        results
    }

    /// Words for what [`set`](Self::set) is told; to be appended to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u64> {
        &mut self.words
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    #[inline]
    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.states.get(chunk) == Some(&State::Open)
    }

    pub(super) fn is_done(&self, chunk: usize) -> bool {
        self.states.get(chunk) == Some(&State::Done)
    }

    /// Takes in what chunks have returned, and says which; `None` where one of them is not open, and nothing is taken in, and
    /// for a failure.
    #[inline]
    pub(super) fn set(&mut self, entry: Entry) -> Option<Range<usize>> {
        let (chunks, form, place) = match entry {
            Entry::Nothing(chunks) => (chunks, Form::Nothing, 0..0),
            Entry::Numbers(chunks, kinds, (names, at)) => {
                let end = at + chunks.len() * kinds.count();
                (chunks, Form::Numbers(kinds, names.min(at)), at..end)
            }
            Entry::Value(chunk, record) => (chunk..chunk + 1, Form::Values, record),
            Entry::Failure(..) => return None,
        };
        let are_open = self.states.get(chunks.clone())?.iter().all(|state| *state == State::Open);
        are_open.then(|| {
            self.add(chunks.clone(), form, place);
            chunks
        })
    }

    /// These chunks are not run, and there is nothing of them among the results.
    pub(super) fn skip(&mut self, chunks: Range<usize>) {
        self.skipped += chunks.len();
        self.states[chunks].fill(State::Done);
    }

    /// The same as [`set`](Self::set) for an open chunk whose result did not fit elsewhere.
    pub(super) fn set_apart(&mut self, chunk: usize, bytes: ByteBuf) {
        self.apart.push(bytes);
        self.add(chunk..chunk + 1, Form::Apart, self.apart.len() - 1..self.apart.len());
    }

    pub(super) fn set_failed(&mut self, chunk: usize) {
        self.states[chunk] = State::Failed;
    }

    fn add(&mut self, chunks: Range<usize>, form: Form, place: Range<usize>) {
        self.states[chunks.clone()].fill(State::Done);
        match self.parts.last_mut() {
            Some(last) if (last.chunks.end, last.form, last.place.end) == (chunks.start, form, place.start) => {
                last.chunks.end = chunks.end;
                last.place.end = place.end;
            }
            _ => self.parts.push(Part { chunks, form, place }),
        }
    }

    /// The results of a call in which no chunk has failed, in the order of the chunks.
    pub(super) fn decode<R: DeserializeOwned>(&self) -> Result<Vec<R>> {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_unstable_by_key(|part| part.chunks.start);
        let count = self.len() - self.skipped;
        let mut values = Vec::with_capacity(count);
        for part in parts {
            self.decode_part(part, &mut values)?;
        }
        if values.len() != count {
            return Err(Error::new(ErrorKind::WorkerDied, "a chunk has no result"));
        }
        Ok(values)
    }

    fn decode_part<R: DeserializeOwned>(&self, part: &Part, values: &mut Vec<R>) -> Result<()> {
        let count = part.chunks.len();
        match part.form {
            Form::Numbers(kinds, names) => {
                numbers::decode_all((kinds, &self.words[names..]), &self.words[part.place.clone()], values)?;
            }
            Form::Values => {
                let mut at = part.place.start;
                for _ in 0..count {
                    let (bytes, next) = value_at(&self.words, at);
                    values.push(decode(bytes)?);
                    at = next;
                }
            }
            Form::Nothing => {
                for _ in 0..count {
                    values.push(decode(&NOTHING)?);
                }
            }
            Form::Apart => {
                for bytes in &self.apart[part.place.clone()] {
                    values.push(decode(bytes)?);
                }
            }
        }
        Ok(())
    }
}

/// A result that was encoded.
pub(super) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let name = std::any::type_name::<R>();
        Error::new(ErrorKind::Serialization, format!("a task's result cannot be read as {name}")).with_source(error)
    })
}
