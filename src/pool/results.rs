//! What the tasks of a call returned, by chunk: bytes until somebody knows the type.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::protocol::NOTHING;
use crate::error::{Error, ErrorKind, Result};

/// A place for each chunk.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Results {
    slots: Vec<Slot>,
    /// Most results are small: their bytes lie here, one after another.
    bytes: Vec<u8>,
}

#[cfg_attr(test, derive(Debug))]
enum Slot {
    /// Not known yet.
    Open,
    /// There will be none.
    Failed,
    /// What encodes as [`NOTHING`].
    Nothing,
    /// So many bytes at that place of `bytes`.
    Here(usize, u32),
    Apart(Box<ByteBuf>),
}

/// What one task returned.
#[derive(Debug)]
pub(super) enum Returned {
    Nothing,
    /// Those bytes of [`Results::buffer`].
    Here(Range<usize>),
    Apart(ByteBuf),
}

impl Results {
    pub(super) fn new(count: usize) -> Self {
        Self { slots: (0..count).map(|_| Slot::Open).collect(), bytes: Vec::new() }
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
        self.slots.len()
    }

    pub(super) fn is_open(&self, chunk: usize) -> bool {
        matches!(self.slots.get(chunk), Some(Slot::Open))
    }

    pub(super) fn is_done(&self, chunk: usize) -> bool {
        !matches!(self.slots.get(chunk), None | Some(Slot::Open | Slot::Failed))
    }

    /// As [`set`](Self::set) for chunks that returned nothing; `false`, and nothing is set, where one of them is not open.
    pub(super) fn set_nothing(&mut self, chunks: Range<usize>) -> bool {
        let Some(slots) = self.slots.get_mut(chunks) else { return false };
        let all_open = slots.iter().all(|slot| matches!(slot, Slot::Open));
        if all_open {
            for slot in slots {
                *slot = Slot::Nothing;
            }
        }
        all_open
    }

    /// `None` for a chunk that has failed.
    pub(super) fn set(&mut self, chunk: usize, returned: Option<Returned>) {
        self.slots[chunk] = match returned {
            None => Slot::Failed,
            Some(Returned::Nothing) => Slot::Nothing,
            Some(Returned::Here(range)) => match u32::try_from(range.len()) {
                Ok(len) => Slot::Here(range.start, len),
                Err(_) => Slot::Apart(Box::new(ByteBuf::from(&self.bytes[range]))),
            },
            Some(Returned::Apart(bytes)) => Slot::Apart(Box::new(bytes)),
        };
    }

    /// The results of a call in which no chunk has failed.
    pub(super) fn decode<R: DeserializeOwned>(&self) -> Result<Vec<R>> {
        self.slots.iter().map(|slot| self.decode_one(slot)).collect()
    }

    fn decode_one<R: DeserializeOwned>(&self, slot: &Slot) -> Result<R> {
        let bytes = match slot {
            Slot::Nothing => &NOTHING[..],
            Slot::Here(at, len) => &self.bytes[*at..][..*len as usize],
            Slot::Apart(bytes) => bytes,
            Slot::Open | Slot::Failed => return Err(Error::new(ErrorKind::WorkerDied, "a chunk has no result")),
        };
        rmp_serde::from_slice(bytes).map_err(|error| {
            let name = std::any::type_name::<R>();
            Error::new(ErrorKind::Serialization, format!("a task's result cannot be read as {name}")).with_source(error)
        })
    }
}
