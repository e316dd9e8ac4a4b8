//! Waiting for a change of the words, and waking who waits: spinning at first, then asleep on a word of one's own.

use std::cell::Cell;
use std::hint::{black_box, spin_loop};
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

/// How often who spins looks before it asks for the time.
const EAGER_LOOKS: u32 = 32;

/// `false` where it has not come after that time. `soon` is what is looked at for most of it, `come` now and then.
#[inline]
pub(super) fn spin_until(time: Duration, mut soon: impl FnMut() -> bool, come: &mut impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    look_eagerly(&mut soon).is_some() || spin_on(time, soon, come)
}

/// How many looks were in vain before it had come; `None` where all were.
#[inline]
fn look_eagerly(mut come: impl FnMut() -> bool) -> Option<u32> {
    (0..EAGER_LOOKS).find(|_| {
        let has_come = come();
        if !has_come {
            spin_loop();
        }
        has_come
    })
}

/// When somebody who spins has found of late what it waited for: it need not look before that.
///
/// Who looks takes the line from who is about to write it, and who writes has to ask for it once more, which takes as long
/// as the answer itself. So the first look is to come when the answer is there, and hardly later.
///
/// - Answers that come after waits of different lengths are worth a rest as long as the shorter ones: each step that it is
///   too long costs all of these, and an early look costs the same however early it was. So a rest grows where a look or
///   two were in vain, which would have been in time a little later, and where some were so often in a row that there are
///   no shorter waits any more.
/// - Two that wait for each other do this both. Where both rest too long, both are in time: neither sees that it is late, and
///   who rests a little longer has the other come too early, which rests longer for it. So a rest grows by no more than a
///   step, or rests would run away upwards wherever answers are late now and then; and it shrinks by much where it was long
///   enough for so long that it can only be too long.
#[derive(Debug, Default)]
pub(crate) struct Rhythm {
    /// Until the first look, in steps of a processor's cycle or a few.
    rest: Cell<u32>,
    /// How many first looks were in time since one that was a little too early.
    in_time: Cell<u32>,
    /// How many in a row were too early.
    too_early: Cell<u32>,
    /// How many looks were in vain the last time, as [`look_eagerly`] counts them. The next wait learns from it: now somebody
    /// is waited for in turn.
    last: Cell<Option<u32>>,
}

impl Rhythm {
    /// The longest rest. What takes longer is not lengthened much by looks that come too early.
    const LONGEST: u32 = 1500;
    /// A step shorter is the next rest after so many that were in time.
    const IN_TIME: u32 = 4;
    /// After so many it is shorter by this part of it with each more.
    const LATE: u32 = 32;
    const PART: u32 = 16;
    /// A step longer it is after one with no more looks in vain than that, and where there were any more often than this in a
    /// row.
    const NEAR: u32 = 2;
    const EARLY: u32 = 32;
    /// After more looks in vain than that it was another kind of wait, of which nothing is learnt.
    const PATIENCE: u32 = 8;

    /// Has it come after a rest and some looks?
    #[inline]
    pub(crate) fn waits_for(&self, come: impl FnMut() -> bool) -> bool {
        self.learn();
        let mut left = self.rest.get();
        while left > 0 {
            left = black_box(left) - 1;
        }
        let looks = look_eagerly(come);
        self.last.set(looks);
        looks.is_some()
    }

    #[inline]
    fn learn(&self) {
        match self.last.take() {
            Some(0) => self.was_in_time(),
            Some(looks) if looks <= Self::PATIENCE => self.was_too_early(looks <= Self::NEAR),
            _ => {}
        }
    }

    #[inline]
    fn was_in_time(&self) {
        self.too_early.set(0);
        let (rest, in_time) = (self.rest.get(), self.in_time.get() + 1);
        let shorter = if in_time > Self::LATE {
            (rest / Self::PART).max(1)
        } else {
            self.in_time.set(in_time);
            u32::from(in_time.is_multiple_of(Self::IN_TIME))
        };
        self.rest.set(rest.saturating_sub(shorter));
    }

    #[inline]
    fn was_too_early(&self, a_little: bool) {
        let too_early = self.too_early.get() + 1;
        if a_little {
            self.in_time.set(0);
        }
        if a_little || too_early > Self::EARLY {
            self.rest.set((self.rest.get() + 1).min(Self::LONGEST));
        }
        self.too_early.set(too_early.min(Self::EARLY));
    }
}

#[inline(never)]
pub(super) fn spin_on(time: Duration, mut soon: impl FnMut() -> bool, come: &mut impl FnMut() -> bool) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many looks it takes until what comes with look `at` is seen.
    fn looks(rhythm: &Rhythm, at: u32) -> u32 {
        let mut looks = 0;
        let has_come = rhythm.waits_for(|| {
            looks += 1;
            looks > at
        });
        assert_eq!(has_come, looks <= EAGER_LOOKS && looks > at);
        rhythm.learn();
        looks
    }

    #[test]
    fn the_first_look_comes_later_where_it_was_a_little_too_early_and_earlier_where_it_was_not() {
        let rhythm = Rhythm::default();
        for rest in 1..3 {
            assert_eq!((looks(&rhythm, 1), rhythm.rest.get()), (2, rest));
        }
        for _ in 0..Rhythm::IN_TIME {
            assert_eq!(rhythm.rest.get(), 2);
            assert_eq!(looks(&rhythm, 0), 1);
        }
        assert_eq!(rhythm.rest.get(), 1);
    }

    #[test]
    fn the_first_look_comes_when_the_shorter_waits_are_over() {
        let rhythm = Rhythm::default();
        for _ in 0..4 {
            looks(&rhythm, 1);
        }
        // What takes longer now and then does not count.
        for _ in 0..10 {
            assert_eq!(rhythm.rest.get(), 4);
            for at in [Rhythm::NEAR, 5, 0, Rhythm::PATIENCE, 0, Rhythm::NEAR + 1, 0, 0] {
                looks(&rhythm, at);
            }
        }
        // Where all take longer it does.
        for _ in 0..Rhythm::EARLY + 10 {
            looks(&rhythm, Rhythm::PATIENCE);
        }
        assert_eq!(rhythm.rest.get(), 14);
    }

    #[test]
    fn the_first_look_comes_in_the_end_and_what_takes_long_teaches_nothing() {
        let rhythm = Rhythm::default();
        for _ in 0..2 * Rhythm::LONGEST {
            looks(&rhythm, 1);
        }
        assert_eq!(rhythm.rest.get(), Rhythm::LONGEST);
        looks(&rhythm, 0);
        for _ in 0..2 * Rhythm::EARLY {
            looks(&rhythm, Rhythm::PATIENCE + 1);
        }
        assert_eq!(looks(&rhythm, EAGER_LOOKS), EAGER_LOOKS);
        assert_eq!(rhythm.rest.get(), Rhythm::LONGEST);
        let late = (0..Rhythm::LONGEST).take_while(|_| looks(&rhythm, 0) == 1 && rhythm.rest.get() > 0).count();
        assert!(late < 150, "it took {late} looks to see that all were late");
        looks(&rhythm, 0);
        assert_eq!(rhythm.rest.get(), 0);
    }
}
