//! Running one call in a worker.
#![expect(unsafe_code, reason = "runs tasks over blocks that the parent has locked")]

use std::time::{Duration, Instant};

use super::{Worker, panics};
use crate::array::Bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::note_lent;
use crate::pool::args::{Cursor, MappedBlock};
use crate::pool::chunk::Chunk;
use crate::pool::control::RESULTS_LEN;
use crate::pool::protocol::{CallMessage, Outcome, ToParent, encode_record};
use crate::pool::task::{TaskRef, outcome_of};
use crate::sys::file::FileId;
use crate::sys::fork::epoch;
use crate::sys::lock::Mode;
use crate::sys::map::Access;

/// The parent is rung at most so often while chunks go on: it shows progress.
const LINGER: Duration = Duration::from_millis(5);

impl Worker {
    /// Takes chunks of the call and runs them until there are none left. An error means that none was taken.
    pub(super) fn run(&self, call: &CallMessage) -> Result<()> {
        let task = TaskRef::find(call.task)?;
        let blocks = self.find_blocks(call)?;
        let _lent = note_lent(self.ids_of(call));
        let home = epoch();
        let (mut written, mut since) = (0, Instant::now());
        while let Some(ticket) = self.page.take(self.index, call.call, call.tickets()) {
            let Some(index) = call.chunk_of(ticket) else { break };
            let outcome = run_chunk(task, call, &blocks, index);
            if epoch() != home {
                // A child that the task forked and that came back here: the worker itself will answer.
                leave();
            }
            self.report(call.call, index, outcome, &mut written);
            if since.elapsed() >= LINGER {
                self.page.parent_bell().ring();
                since = Instant::now();
            }
        }
        Ok(())
    }

    /// Puts an outcome where the parent finds it: into this worker's area, or what does not fit there into the socket.
    fn report(&self, call: u64, index: usize, outcome: Outcome, written: &mut usize) {
        let large = size_of_outcome(&outcome) > RESULTS_LEN;
        let fits = !large
            && encode_record(index, &outcome).is_ok_and(|record| self.page.append(self.index, call, written, &record));
        if !fits {
            self.say(&ToParent::Outcomes { call, outcomes: vec![(index, outcome)] });
        }
    }

    fn ids_of(&self, call: &CallMessage) -> Vec<(FileId, Mode)> {
        let mode = |writable| if writable { Mode::Exclusive } else { Mode::Shared };
        let id = |serial| Some(self.blocks.get(serial)?.as_ref().ok()?.id);
        call.blocks.iter().filter_map(|(serial, writable)| Some((id(serial)?, mode(*writable)))).collect()
    }

    fn find_blocks(&self, call: &CallMessage) -> Result<Vec<MappedBlock<'_>>> {
        call.blocks
            .iter()
            .map(|(serial, writable)| match self.blocks.get(serial) {
                Some(Ok(kept)) => {
                    let mapping = &kept.mapping;
                    let writable = *writable && mapping.access() == Access::ReadWrite;
                    Ok(MappedBlock { bytes: Bytes::of(mapping, mapping.len()), writable })
                }
                Some(Err(error)) => {
                    Err(Error::new(error.kind(), format!("a worker cannot map an array of the call: {error}")))
                }
                None => Err(Error::new(
                    ErrorKind::Io,
                    "an array of the call did not reach the worker (is it out of descriptors? see `ulimit -n`)",
                )),
            })
            .collect()
    }
}

fn run_chunk(task: TaskRef, call: &CallMessage, blocks: &[MappedBlock<'_>], index: usize) -> Outcome {
    let chunk = Chunk::new(index, call.division());
    // What an earlier task caught itself.
    let _ = panics::take_place();
    let run = || {
        let mut cursor = Cursor::new(&call.leaves, blocks, index);
        // SAFETY: the leaves were described by the arguments of the task's own type, which `TaskRef::find` compared. The
        // parent holds the locks of all blocks until this worker has said that it is done, or was reaped; the chunk was
        // taken from the control page by this worker alone.
        unsafe { task.run(&mut cursor, &chunk) }
    };
    outcome_of(run, panics::take_place)
}

fn size_of_outcome(outcome: &Outcome) -> usize {
    16 + match outcome {
        Outcome::Done(bytes) => bytes.len(),
        Outcome::Failed(message) | Outcome::Broken(message) | Outcome::Panicked { message, .. } => message.len(),
    }
}

fn leave() -> ! {
    // SAFETY: ends the process at once, without handlers that belong to the worker that it was forked from.
    unsafe { libc::_exit(0) }
}
