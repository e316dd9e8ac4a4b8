//! How long to go on asking for huge pages.
//!
//! Huge pages for 32 MiB take 2 ms where memory lies ready, small ones 20 to 30 ms, made and touched. Where there is no 2 MiB
//! in one piece the kernel moves other memory about until there is; and a virtual machine may have given its free memory
//! back to its host, which takes 60 to 120 ms to find 32 MiB again, for small pages hardly less. That is worth it: every
//! further process takes 15 ms more for its first pass over 32 MiB of small pages. What takes longer is not, for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A step that takes longer than that was too slow.
const SLOW: Duration = Duration::from_millis(150);

/// The longest row of steps that is left to small pages before huge ones are asked for again.
const LONGEST_REST: usize = 8;

/// Whether to go on asking for huge pages where they are slow to come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// Not right away: the next steps are left to small pages, more of them each time in a row.
    Short,
    Endless,
}

/// The steps that a large piece of memory is made of, some of which are to be tried with huge pages. By several threads at
/// a time.
pub(super) struct Steps {
    patience: Patience,
    state: Mutex<State>,
}

struct State {
    /// Steps that are left out before the next is tried.
    rest: usize,
    /// How many it will be after the next that is too slow.
    next_rest: usize,
    given_up: bool,
}

impl Steps {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, state: Mutex::new(State { rest: 0, next_rest: 1, given_up: false }) }
    }

    /// Is the next step one to try?
    pub(super) fn try_next(&self) -> bool {
        let mut state = self.state();
        if state.given_up {
            return false;
        }
        let resting = state.rest > 0;
        state.rest = state.rest.saturating_sub(1);
        !resting
    }

    /// Says how long a step that was tried has taken; `None` where there were no huge pages for it.
    pub(super) fn tried(&self, took: Option<Duration>) {
        let mut state = self.state();
        if self.patience == Patience::Endless || took.is_some_and(|took| took <= SLOW) {
            state.next_rest = 1;
            return;
        }
        state.rest = state.next_rest;
        state.next_rest = LONGEST_REST.min(2 * state.next_rest);
    }

    /// No further step is to be tried.
    pub(super) fn give_up(&self) {
        self.state().given_up = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Option<Duration> = Some(Duration::from_millis(2));
    const TOO_SLOW: Option<Duration> = Some(Duration::from_secs(1));

    /// Which of `count` steps are tried, where each takes what `took` says.
    fn tried(steps: &Steps, count: usize, took: impl Fn(usize) -> Option<Duration>) -> Vec<usize> {
        let mut tried = Vec::new();
        for step in 0..count {
            if steps.try_next() {
                tried.push(step);
                steps.tried(took(step));
            }
        }
        tried
    }

    #[test]
    fn slow_steps_cost_a_stretch_and_not_all_the_rest() {
        let steps = Steps::new(Patience::Short);
        assert_eq!(tried(&steps, 32, |_| TOO_SLOW), [0, 2, 5, 10, 19, 28]);
        let steps = Steps::new(Patience::Short);
        assert_eq!(tried(&steps, 8, |step| if step == 2 { TOO_SLOW } else { QUICK }), [0, 1, 2, 4, 5, 6, 7]);
        let steps = Steps::new(Patience::Short);
        assert_eq!(tried(&steps, 8, |step| if step < 3 { None } else { QUICK }), [0, 2, 5, 6, 7], "none were there");
    }

    #[test]
    fn who_requires_huge_pages_waits_for_each_until_there_is_no_hope() {
        let steps = Steps::new(Patience::Endless);
        assert_eq!(tried(&steps, 5, |_| TOO_SLOW), [0, 1, 2, 3, 4]);
        steps.give_up();
        assert!(!steps.try_next());
    }
}
