//! Waiting for a change of the words, and waking who waits: spinning at first, then asleep on a word of one's own.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::words::Word;

/// A word to sleep on is odd while its owner sleeps or is about to. The rest counts rings that found it so.
const ASLEEP_BIT: u64 = 1;
const A_RING: u64 = 2;

/// Wakes who sleeps, or keeps who is about to from it. A system call is made only where somebody is.
///
/// Whoever is killed in here has woken nobody, and the next one to ring does. A worker that was killed in its sleep leaves
/// the word odd; then it is rung in vain until another one takes its place.
#[inline]
pub(super) fn ring<A: Word>(asleep: &A) {
    // Who is about to sleep makes the word odd, then looks at what it waits for; who rings changes that, then looks at
    // the word. With a fence between on both sides at least one of them sees what the other did.
    A::fence();
    // Relaxed: after the fence.
    if asleep.load(Relaxed) & ASLEEP_BIT != 0 {
        awaken(asleep);
    }
}

#[cold]
fn awaken<A: Word>(asleep: &A) {
    // Relaxed: the kernel compares the word under a lock of its own. Changed before the wake, so that who is about to
    // sleep does not.
    asleep.fetch_add(A_RING, Relaxed);
    asleep.wake();
}

/// How often who spins looks without a pause first. The answer to an empty call comes in that time, and a pause is a third of it.
const EAGER_LOOKS: u32 = 128;

/// `false` where it has not come after that time. `soon` is what is looked at for most of it, `come` now and then.
#[inline]
pub(super) fn spin_until(time: Duration, mut soon: impl FnMut() -> bool, come: &mut impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    look_eagerly(&mut soon) || spin_on(time, soon, come)
}

/// Has it come by then?
#[inline]
pub(super) fn look_eagerly(mut come: impl FnMut() -> bool) -> bool {
    (0..EAGER_LOOKS).any(|_| {
        let has = come();
        if !has { spin_loop(); }
        has
    })
}

#[inline(never)]
fn spin_on(time: Duration, mut soon: impl FnMut() -> bool, come: &mut impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    loop {
        if come() {
            return true;
        }
        if since.elapsed() >= time {
            return false;
        }
        for _ in 0..32 {
            spin_loop();
            if soon() {
                return true;
            }
        }
    }
}

#[cold]
pub(super) fn sleep_until<A: Word>(asleep: &A, timeout: Duration, mut come: impl FnMut() -> bool) {
    // Relaxed: before the fence, see `ring`.
    let word = asleep.fetch_add(ASLEEP_BIT, Relaxed).wrapping_add(ASLEEP_BIT);
    A::fence();
    if !come() {
        asleep.sleep(word, Some(timeout));
    }
    // Relaxed: who rings in vain does no harm.
    asleep.fetch_add(ASLEEP_BIT.wrapping_neg(), Relaxed);
}
