//! What the tasks of a call returned, by chunk: words or bytes until somebody knows the type.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::numbers::{Found, Kinds};
use super::protocol::NOTHING;
use crate::error::{Error, ErrorKind, Result};

/// A place for each chunk.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Results {
    states: Vec<State>,
    /// For chunks that have returned something; empty while none has.
    places: Vec<Place>,
    /// Most results are small: they lie here, one after another.
    bytes: Vec<u8>,
    /// Others.
    apart: Vec<ByteBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not known yet.
    Open,
    /// There will be none.
    Failed,
    /// What encodes as [`NOTHING`].
    Nothing,
    /// Words of `bytes`.
    Numbers(Kinds),
    /// Some of `bytes`.
    Here,
    /// One of those apart.
    Apart,
}

/// Where it begins, and how long it is where that has to be said.
#[derive(Clone, Copy, Debug, Default)]
struct Place(usize, usize);

/// What one task returned.
#[derive(Debug)]
pub(super) enum Returned {
    Nothing,
    /// The words that begin there in [`Results::buffer`].
    Numbers(Kinds, usize),
    /// Those bytes of the buffer.
    Here(Range<usize>),
    Apart(ByteBuf),
}

impl Results {
    pub(super) fn new(count: usize) -> Self {
        Self { states: vec![State::Open; count], places: Vec::new(), bytes: Vec::new(), apart: Vec::new() }
    }

    /// Of tasks that have returned nothing.
    pub(super) fn of_nothing(count: usize) -> Self {
        let mut results = Self::new(count);
        results.set_nothing(0..count);
        results
    }

    /// Bytes for [`Returned::Here`]; to be appended to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    #[inline]
    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.states.get(chunk) == Some(&State::Open)
    }

    pub(super) fn is_done(&self, chunk: usize) -> bool {
        !matches!(self.states.get(chunk), None | Some(State::Open | State::Failed))
    }

    /// As [`set`](Self::set) for chunks that returned nothing; `false`, and nothing is set, where one of them is not open.
    pub(super) fn set_nothing(&mut self, chunks: Range<usize>) -> bool {
        let Some(states) = self.states.get_mut(chunks) else { return false };
        let all_open = states.iter().all(|state| *state == State::Open);
        if all_open {
            states.fill(State::Nothing);
        }
        all_open
    }

    /// `None` for a chunk that has failed.
    #[inline]
    pub(super) fn set(&mut self, chunk: usize, returned: Option<Returned>) {
        let (state, place) = match returned {
            None => (State::Failed, Place::default()),
            Some(Returned::Nothing) => (State::Nothing, Place::default()),
            Some(Returned::Numbers(kinds, at)) => (State::Numbers(kinds), Place(at, 0)),
            Some(Returned::Here(range)) => (State::Here, Place(range.start, range.len())),
            Some(Returned::Apart(bytes)) => {
                self.apart.push(bytes);
                (State::Apart, Place(self.apart.len() - 1, 0))
            }
        };
        self.states[chunk] = state;
        if !matches!(state, State::Failed | State::Nothing) {
            if self.places.is_empty() {
                self.places.resize(self.states.len(), Place::default());
            }
            self.places[chunk] = place;
        }
    }

    /// The results of a call in which no chunk has failed.
    pub(super) fn decode<R: DeserializeOwned>(&self) -> Result<Vec<R>> {
        let mut decoded = Vec::with_capacity(self.len());
        for chunk in 0..self.len() {
            decoded.push(self.decode_one(chunk)?);
        }
        Ok(decoded)
    }

    /// Those of some chunks, in their order.
    pub(super) fn decode_only<R: DeserializeOwned>(&self, chunks: &[usize]) -> Result<Vec<R>> {
        chunks.iter().map(|&chunk| self.decode_one(chunk)).collect()
    }

    #[inline]
    fn decode_one<R: DeserializeOwned>(&self, chunk: usize) -> Result<R> {
        let Place(at, len) = self.places.get(chunk).copied().unwrap_or_default();
        match self.states[chunk] {
            State::Numbers(kinds) => Found::new(kinds, &self.bytes[at..]).decode(),
            State::Nothing => decode(&NOTHING),
            State::Here => decode(&self.bytes[at..][..len]),
            State::Apart => decode(&self.apart[at]),
            State::Open | State::Failed => Err(Error::new(ErrorKind::WorkerDied, "a chunk has no result")),
        }
    }
}

/// A result that was encoded.
pub(super) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let name = std::any::type_name::<R>();
        Error::new(ErrorKind::Serialization, format!("a task's result cannot be read as {name}")).with_source(error)
    })
}
