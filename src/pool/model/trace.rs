//! What happened in an execution, in its order, to be read where a check has failed.

use std::cell::RefCell;
use std::fmt;

thread_local! {
    static TRACE: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// Somebody did something with a word.
struct Event {
    who: Who,
    what: &'static str,
    place: (usize, usize),
    value: u64,
}

/// A process: the parent, or a worker by number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Parent,
    Worker(u32),
}

pub(super) fn begin() {
    TRACE.with_borrow_mut(Vec::clear);
}

pub(super) fn note(who: Who, what: &'static str, place: (usize, usize), value: u64) {
    TRACE.with_borrow_mut(|trace| trace.push(Event { who, what, place, value }));
}

pub(super) fn print() {
    TRACE.with_borrow(|trace| trace.iter().for_each(|event| eprintln!("{event}")));
}

impl Who {
    /// Never 0.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Parent => 1,
            Self::Worker(number) => u64::from(number) + 2,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent => write!(f, "parent    "),
            Self::Worker(number) => write!(f, "worker {number:<3}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, place) = self.place;
        write!(f, "{}{} {line}.{place} {:#x}", self.who, self.what, self.value)
    }
}
