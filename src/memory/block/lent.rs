//! In a worker: the blocks of the call that it works on, which its parent has locked for it.
//!
//! Its own handles on the same blocks would wait for the call to end, and the call for them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::locked;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::FileId;
use crate::sys::lock::Mode;

static LENT: Mutex<Vec<(FileId, Mode)>> = Mutex::new(Vec::new());

/// Is there any? Processes that are no workers never have to look further.
static ANY_LENT: AtomicBool = AtomicBool::new(false);

/// Notes what the call lends for as long as the returned value lives.
pub(crate) fn note_lent(blocks: impl Iterator<Item = (FileId, Mode)>) -> NotedLent {
    let mut lent = locked(&LENT);
    lent.clear();
    lent.extend(blocks);
    // Relaxed: the task's own thread sees it, and so does whoever the task starts or tells.
    ANY_LENT.store(!lent.is_empty(), Ordering::Relaxed);
    NotedLent(())
}

/// The same once more for what was noted last.
#[inline]
pub(crate) fn note_lent_again() -> NotedLent {
    // Relaxed: as in `note_lent`.
    ANY_LENT.store(true, Ordering::Relaxed);
    NotedLent(())
}

/// See [`note_lent`].
pub(crate) struct NotedLent(());

impl Drop for NotedLent {
    #[inline]
    fn drop(&mut self) {
        ANY_LENT.store(false, Ordering::Relaxed);
    }
}

/// To lock such a block in that mode is an error.
pub(super) fn refuse(id: FileId, mode: Mode) -> Result<()> {
    if ANY_LENT.load(Ordering::Relaxed) && is_lent_in_conflict(id, mode) {
        return Err(Error::new(
            ErrorKind::WouldBlock,
            "the call that this task belongs to was lent the same block, and waiting for its end here would never end; \
             use the view that the task was given",
        ));
    }
    Ok(())
}

#[cold]
fn is_lent_in_conflict(id: FileId, mode: Mode) -> bool {
    let conflicts = |lent: Mode| lent == Mode::Exclusive || mode == Mode::Exclusive;
    locked(&LENT).iter().any(|&(lent, held)| lent == id && conflicts(held))
}
