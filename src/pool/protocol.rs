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
//! One message is one [packet](crate::wire).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::chunk::Division;
use super::plan::{BlockUse, Leaf, Plan, SplitUse};
use super::schedule::Schedule;
use super::scope::Scope;
use super::task::TaskRef;
use crate::error::{Error, ErrorKind, Result};
pub(crate) use crate::wire::{Packet, open};

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Comes once, with the control page's descriptor, and is not counted. Calls up to `call` are not for this worker,
    /// except by mail. It spins for so many nanoseconds before it sleeps.
    ///
    /// It may use so many threads, and stays on the CPUs in `place` where there are any.
    Welcome {
        threads: usize,
        place: Vec<usize>,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// The chunks that are handed out, by ticket, where that is not each of them: those that were asked for, or are left
    /// after a round in which workers died.
    pub(crate) left: Option<Vec<usize>>,
    pub(crate) schedule: Schedule,
}

impl CallMessage {
    pub(crate) fn nothing() -> Self {
        let task = TaskAddress { entry: 0, function: 0, types: 0 };
        Self {
            call: 0,
            task,
            count: 0,
            rows: 1,
            len: 0,
            blocks: Vec::new(),
            leaves: Vec::new(),
            left: None,
            schedule: Schedule::Dynamic,
        }
    }

    /// How many chunks are handed out.
    pub(crate) fn tickets(&self) -> usize {
        self.left.as_ref().map_or(self.count, Vec::len)
    }

    /// The chunk that a ticket stands for.
    #[inline]
    pub(crate) fn chunk_of(&self, ticket: usize) -> Option<usize> {
        match &self.left {
            Some(left) => left.get(ticket).copied(),
            None => (ticket < self.count).then_some(ticket),
        }
    }

    /// How many of so many workers begin with a share of the tickets; parent and workers agree on it.
    pub(crate) fn sharers(&self, workers: usize) -> usize {
        self.tickets().min(workers)
    }

    /// Do workers do what is asked when they do what this says?
    #[inline]
    pub(crate) fn is(&self, asked: &Asked<'_>) -> bool {
        let same_block = |(of, asked): (&(u64, bool), &BlockUse<'_>)| *of == asked.named();
        self.division() == asked.scope.division
            && self.schedule == asked.schedule
            && self.blocks.len() == asked.blocks.len()
            && self.blocks.iter().zip(asked.blocks).all(same_block)
            && self.leaves.len() == asked.leaves.len()
            && self.leaves.iter().zip(asked.leaves).all(|(of, asked)| of == asked)
            && self.left.as_deref() == asked.scope.only
    }

    /// From how many of so many workers' shares one takes tickets that has none of its own any more. What is left after a
    /// round in which workers died goes to whoever is free.
    pub(crate) fn helped(&self, workers: usize) -> usize {
        match self.schedule {
            Schedule::Static if self.left.is_none() => 0,
            Schedule::Static | Schedule::Dynamic => self.sharers(workers),
        }
    }

    pub(crate) fn division(&self) -> Division {
        Division { count: self.count, rows: self.rows, len: self.len }
    }
}

/// What a call asks of workers, as its parent has it before it is written down.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) task: TaskRef,
    pub(crate) scope: Scope<'a>,
    pub(crate) schedule: Schedule,
    pub(crate) blocks: &'a [BlockUse<'a>],
    pub(crate) leaves: &'a [Leaf],
    pub(crate) splits: &'a [SplitUse],
}

impl<'a> Asked<'a> {
    #[inline]
    pub(crate) fn of(plan: &'a Plan<'_>, task: TaskRef, scope: Scope<'a>, schedule: Schedule) -> Self {
        Self { task, scope, schedule, blocks: &plan.blocks, leaves: &plan.leaves, splits: &plan.splits }
    }

    /// Written down, for the call of that number.
    pub(crate) fn message(&self, call: u64) -> Result<CallMessage> {
        let Division { count, rows, len } = self.scope.division;
        let task = self.task.address()?;
        let blocks = self.blocks.iter().map(BlockUse::named).collect();
        Ok(CallMessage {
            call,
            task,
            count,
            rows,
            len,
            blocks,
            leaves: self.leaves.to_vec(),
            left: self.scope.only.map(<[usize]>::to_vec),
            schedule: self.schedule,
        })
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

/// How one chunk ended: with what the task returned, encoded, or without.
pub(crate) type Outcome = std::result::Result<ByteBuf, TaskFailure>;

/// Why a chunk has no result.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TaskFailure {
    /// The task returned an error.
    Failed(String),
    Panicked {
        message: String,
        place: Option<String>,
    },
    /// The task did not run, or its result could not be encoded.
    Broken(String),
    /// The task ended when it was told that the call is to end, and left its rows in order or not.
    Stopped {
        in_order: bool,
    },
}

/// What a task that returns nothing returns, encoded.
pub(crate) const NOTHING: [u8; 1] = [0xc0];

/// A call's description, for the control page.
pub(crate) fn encode_call(call: &CallMessage) -> Result<Vec<u8>> {
    rmp_serde::to_vec(call)
        .map_err(|error| Error::new(ErrorKind::Serialization, "a call cannot be encoded").with_source(error))
}

/// What [`encode_call`] wrote.
pub(crate) fn decode_call(bytes: &[u8]) -> Result<CallMessage> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Layout, "a call is damaged").with_source(error))
}
