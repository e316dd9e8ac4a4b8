//! What parent and worker say to each other.
//!
//! Calls go through the [control page](super::control). The socket carries what does not fit there, and descriptors:
//!
//! ```text
//! parent                                  worker
//! Welcome + control page ───────────────→
//!
//! Map + descriptors ────────────────────→ maps the block, keeps it          once a block and worker
//! Call ─────────────────────────────────→ one too long for the page, or for a worker that comes late
//!        ←──────────────────── Outcomes   what does not fit into its area of the page
//!        ←───────────────────── Refused   in place of outcomes: it cannot run the call
//!
//! Forget ───────────────────────────────→ unmaps
//!        ←─────────────────── Forgotten   where it was asked for
//!
//! (end of file) ────────────────────────→ exits
//! ```
//!
//! After each message its sender counts it on the page and rings, so that nobody looks into a socket for nothing.
//! Everything else that ends a worker is a death, which the parent learns from the pidfd; an end of file from a worker
//! makes the parent kill it first.
//!
//! One message is one packet. What does not fit in one travels in a memfd whose descriptor comes along.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::chunk::Division;
use super::plan::Leaf;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::memfd;
use crate::sys::socket::{MAX_MESSAGE, Received, Socket};

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Comes once, with the control page's descriptor, and is not counted. Calls up to `call` are not for this worker,
    /// except by mail. It spins for so many nanoseconds before it sleeps.
    Welcome {
        workers: usize,
        call: u64,
        spin: u64,
    },
    /// Comes with the block's descriptor, and with the one that the parent locks it through where there is a lock.
    Map {
        serial: u64,
        len: usize,
        writable: bool,
    },
    Forget {
        serials: Vec<u64>,
        answer: bool,
    },
    Call(Box<CallMessage>),
}

/// All that a worker has to know of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallMessage {
    pub(crate) call: u64,
    pub(crate) task: TaskAddress,
    /// Chunks that the arguments are cut into.
    pub(crate) count: usize,
    pub(crate) rows: usize,
    pub(crate) len: usize,
    /// Serial and whether it is written, by slot.
    pub(crate) blocks: Vec<(u64, bool)>,
    pub(crate) leaves: Vec<Leaf>,
    /// The chunks that are handed out, by ticket, where that is not each of them: those that are left after a round in
    /// which workers died.
    pub(crate) left: Option<Vec<usize>>,
}

impl CallMessage {
    /// How many chunks are handed out.
    pub(crate) fn tickets(&self) -> usize {
        self.left.as_ref().map_or(self.count, Vec::len)
    }

    /// The chunk that a ticket stands for.
    pub(crate) fn chunk_of(&self, ticket: usize) -> Option<usize> {
        match &self.left {
            Some(left) => left.get(ticket).copied(),
            None => (ticket < self.count).then_some(ticket),
        }
    }

    pub(crate) fn division(&self) -> Division {
        Division { count: self.count, rows: self.rows, len: self.len }
    }
}

/// A task by its place in the main executable: see `task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskAddress {
    pub(crate) entry: usize,
    pub(crate) function: usize,
    pub(crate) types: u64,
}

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToParent {
    Outcomes { call: u64, outcomes: Vec<(usize, Outcome)> },
    Refused { call: u64, message: String },
    Forgotten,
}

/// How one chunk ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// What the task returned, encoded.
    Done(ByteBuf),
    /// The task returned an error.
    Failed(String),
    Panicked {
        message: String,
        place: Option<String>,
    },
    /// The task did not run, or its result could not be encoded.
    Broken(String),
}

/// Outcomes as they stand in a worker's area of the control page: each behind its length.
pub(crate) fn encode_record(chunk: usize, outcome: &Outcome) -> Result<Vec<u8>> {
    let mut bytes = vec![0; RECORD_HEAD];
    rmp_serde::encode::write(&mut bytes, &(chunk, outcome))
        .map_err(|error| Error::new(ErrorKind::Serialization, "an outcome cannot be encoded").with_source(error))?;
    let len = u32::try_from(bytes.len() - RECORD_HEAD).unwrap_or(u32::MAX);
    bytes[..RECORD_HEAD].copy_from_slice(&len.to_ne_bytes());
    Ok(bytes)
}

const RECORD_HEAD: usize = size_of::<u32>();

/// The outcomes that stand in bytes of such an area; whole ones only.
pub(crate) fn decode_records(mut bytes: &[u8]) -> Result<Vec<(usize, Outcome)>> {
    let damaged = || Error::new(ErrorKind::Layout, "a worker's outcomes are damaged");
    let mut outcomes = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD>().ok_or_else(damaged)?;
        let len = usize::try_from(u32::from_ne_bytes(*head)).map_err(|_| damaged())?;
        let (record, rest) = rest.split_at_checked(len).ok_or_else(damaged)?;
        outcomes.push(rmp_serde::from_slice(record).map_err(|error| damaged().with_source(error))?);
        bytes = rest;
    }
    Ok(outcomes)
}

/// A call's description, for the control page.
pub(crate) fn encode_call(call: &CallMessage) -> Result<Vec<u8>> {
    rmp_serde::to_vec(call)
        .map_err(|error| Error::new(ErrorKind::Serialization, "a call cannot be encoded").with_source(error))
}

/// What [`encode_call`] wrote.
pub(crate) fn decode_call(bytes: &[u8]) -> Result<CallMessage> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Layout, "a call is damaged").with_source(error))
}

/// The first byte of a packet: where the message is.
const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// Bytes of a message that can go to several workers.
pub(crate) struct Packet {
    bytes: Vec<u8>,
    overflow: Option<OwnedFd>,
}

impl Packet {
    pub(crate) fn new(message: &impl Serialize) -> Result<Self> {
        let mut bytes = vec![INLINE];
        rmp_serde::encode::write(&mut bytes, message).map_err(|error| {
            Error::new(ErrorKind::Serialization, "a message to or from a worker cannot be encoded").with_source(error)
        })?;
        if bytes.len() <= MAX_MESSAGE {
            return Ok(Self { bytes, overflow: None });
        }
        let file = File::from(memfd::create()?);
        file.write_all_at(&bytes[1..], 0).map_err(|error| Error::from_os(error, "cannot write a large message"))?;
        Ok(Self { bytes: vec![IN_MEMFD], overflow: Some(file.into()) })
    }

    /// Waits while the other side's queue is full.
    pub(crate) fn send(&self, socket: &Socket) -> io::Result<()> {
        let overflow: Vec<_> = self.overflow.iter().map(AsFd::as_fd).collect();
        socket.send(&self.bytes, &overflow)
    }

    /// Fails with `WouldBlock` where it would have to wait.
    pub(crate) fn try_send(&self, socket: &Socket, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let all: Vec<_> = self.overflow.iter().map(AsFd::as_fd).chain(fds.iter().copied()).collect();
        socket.try_send(&self.bytes, &all)
    }
}

/// The message and the descriptors of a packet.
pub(crate) fn open<M: DeserializeOwned>(received: Received) -> Result<(M, Vec<OwnedFd>)> {
    let damaged = || Error::new(ErrorKind::Layout, "a message to or from a worker is damaged");
    let Received { bytes, fds } = received;
    let (&place, inline) = bytes.split_first().ok_or_else(damaged)?;
    let mut fds = fds.into_iter();
    let stored;
    let body = match place {
        INLINE => inline,
        IN_MEMFD => {
            let file = File::from(fds.next().ok_or_else(damaged)?);
            let read = || {
                let mut body = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
                file.read_exact_at(&mut body, 0)?;
                Ok(body)
            };
            stored = read().map_err(|error: io::Error| Error::from_os(error, "cannot read a large message"))?;
            &stored
        }
        _ => return Err(damaged()),
    };
    let message = rmp_serde::from_slice(body).map_err(|error| damaged().with_source(error))?;
    Ok((message, fds.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_outgrows_a_packet_arrives_whole() {
        let (here, there) = Socket::pair().unwrap();
        for len in [10, MAX_MESSAGE, 3_000_000] {
            let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let message =
                ToParent::Outcomes { call: 3, outcomes: vec![(5, Outcome::Done(ByteBuf::from(sent.clone())))] };
            Packet::new(&message).unwrap().send(&here).unwrap();
            let (received, fds): (ToParent, _) = open(there.recv().unwrap().unwrap()).unwrap();
            let ToParent::Outcomes { call: 3, outcomes } = received else { panic!("{received:?}") };
            let [(5, Outcome::Done(bytes))] = &*outcomes else { panic!("{outcomes:?}") };
            assert_eq!(**bytes, sent);
            assert!(fds.is_empty());
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [vec![], vec![7], vec![IN_MEMFD], vec![INLINE, 0xc1, 9, 9]] {
            assert_eq!(open::<ToParent>(Received { bytes, fds: Vec::new() }).unwrap_err().kind(), ErrorKind::Layout);
        }
    }
}
