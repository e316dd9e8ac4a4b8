//! Large pieces of memory worked on by several threads at a time.

use std::num::NonZero;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::sys::process::without_signals;

/// What a thread should at least have to do, in bytes: starting one takes as long as filling a quarter of a MiB.
const WORTH_A_THREAD: usize = 4 << 20;

/// More threads than this add nothing where memory is what they wait for.
const MAX_THREADS: usize = 8;

/// Gives the items, which stand for `bytes` bytes altogether, to this thread and as many others as pay, and returns when
/// all are done. A panic in `work` comes out here, when the other threads have ended; they begin no further item then.
///
/// Where no thread can be started, this one does it all.
pub(crate) fn share_out<I>(items: I, bytes: usize, work: impl Fn(I::Item) + Sync)
where
    I: ExactSizeIterator + Send,
{
    let threads = threads_for(bytes).min(items.len());
    if threads < 2 {
        return items.for_each(work);
    }
    let left = Mutex::new(Some(items));
    let worked = || {
        let end = EndForAll(&left);
        loop {
            // Bound first, so that the items are free while this one is worked on.
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Iterator::next);
            let Some(item) = next else { break };
            work(item);
        }
        std::mem::forget(end);
    };
    let outcome = thread::scope(|scope| {
        let helpers: Vec<_> = without_signals(|| {
            let named = || thread::Builder::new().name("ndshm-memory".to_owned());
            (1..threads).map_while(|_| named().spawn_scoped(scope, worked).ok()).collect()
        });
        worked();
        helpers.into_iter().try_for_each(thread::ScopedJoinHandle::join)
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Dropped by a panic, it leaves nothing for the others to do.
struct EndForAll<'a, I>(&'a Mutex<Option<I>>);

impl<I> Drop for EndForAll<'_, I> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn threads_for(bytes: usize) -> usize {
    // Asked once: it reads files of control groups.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let useful = bytes / WORTH_A_THREAD;
    if useful < 2 {
        return 1;
    }
    let processors = *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
    processors.min(useful).min(MAX_THREADS)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_item_is_worked_on_once_however_many_there_are() {
        for bytes in [0, 1 << 30] {
            for count in [0, 1, 1000] {
                let seen: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                share_out(seen.iter(), bytes, |item| {
                    item.fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|item| item.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_comes_out_with_its_message_and_ends_the_work() {
        for bytes in [0, 1 << 30] {
            let begun = AtomicUsize::new(0);
            let run = || {
                share_out(0..1000, bytes, |item| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    assert!(item != 5, "item {item} is bad");
                    thread::sleep(Duration::from_millis(5));
                });
            };
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), "item 5 is bad");
            assert!(begun.load(Ordering::Relaxed) < 1000);
        }
    }
}
