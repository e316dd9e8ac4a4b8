//! Whether the call that runs here is to end, for its tasks to ask from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::pool::control::ControlPage;
use crate::sys::fork::{Epoch, epoch};

/// The page of the one pool that this process is a worker of; a child that a task forks has no such page.
static PAGE: OnceLock<(Arc<ControlPage>, Epoch)> = OnceLock::new();

/// The last call whose tasks were told that it is to end; call numbers grow for as long as a worker lives.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// From here on tasks ask `page`.
pub(in crate::pool) fn ask(page: &Arc<ControlPage>) {
    // A worker is welcomed once.
    let _ = PAGE.set((Arc::clone(page), epoch()));
}

/// Tells a task of `call`, if that is to end.
pub(in crate::pool) fn tell(call: u64) -> bool {
    let ends = PAGE.get().is_some_and(|(page, home)| *home == epoch() && page.is_closed(call));
    if ends {
        // Relaxed: who returns from the task because of it comes after this. The larger one stays where a thread that an
        // earlier call's task has left behind asks as well.
        TOLD.fetch_max(call, Ordering::Relaxed);
    }
    ends
}

/// Was a task of `call` told? No other one begins after that.
#[inline]
pub(super) fn was_told(call: u64) -> bool {
    // Relaxed: as above.
    TOLD.load(Ordering::Relaxed) == call
}
