//! The steps of a process, and its death between two of them.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use super::scenario::Memory;
use super::trace::Who;
use super::{memory, steps};

/// One process: it lives from one use of shared memory to the next.
pub(super) struct Life {
    who: Who,
    memory: Memory,
    steps: Cell<usize>,
    /// The step that it does not take any more, where that was said before. Elsewhere the checker says when it dies.
    last: Option<usize>,
    doomed: Cell<bool>,
    /// It has touched shared memory when it was dead, which no process does.
    haunts: Cell<bool>,
    /// How often it looked at a clock that runs.
    looks: Cell<u32>,
    /// Time has passed since it looked at the clock.
    late: Cell<bool>,
    /// Where it slept last.
    bed: RefCell<Option<Rc<memory::Cell>>>,
    /// Its socket, for a task that does what it should not.
    socket: Cell<Option<RawFd>>,
    hung_up: Cell<bool>,
    /// The chunk that it began last, unless it came to its end and was told since.
    pub(super) chunk: Cell<Option<usize>>,
}

/// What a dying process unwinds with, up to where its thread began.
pub(super) struct Death {
    /// `None` for a killed one.
    pub(super) exit_code: Option<i32>,
}

impl Life {
    pub(super) fn new(who: Who, memory: Memory, last: Option<usize>) -> Self {
        Self {
            who,
            memory,
            steps: Cell::new(0),
            last,
            doomed: Cell::new(false),
            haunts: Cell::new(false),
            looks: Cell::new(0),
            late: Cell::new(false),
            bed: RefCell::default(),
            socket: Cell::new(None),
            hung_up: Cell::new(false),
            chunk: Cell::new(None),
        }
    }

    pub(super) fn who(&self) -> Who {
        self.who
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    pub(super) fn haunts(&self) -> bool {
        self.haunts.get()
    }

    /// Takes a step, or dies: then this does not return. `false` where a check has failed and all comes down.
    pub(super) fn goes_on(&self) -> bool {
        if std::thread::panicking() {
            self.haunts.set(true);
            return false;
        }
        if self.is_over() {
            die(None);
        }
        true
    }

    /// Takes a step in a task, where death must not unwind: `false` where the task ends here and now, and this process
    /// before it does anything else.
    pub(super) fn goes_on_in_task(&self, step: u64) -> bool {
        let over = self.is_over() || (steps::runs() && !steps::lives_through(step));
        self.doomed.set(over);
        !over
    }

    /// Does nothing until it is killed.
    pub(super) fn is_stuck(&self) {
        steps::wait_until(|| false);
        self.doomed.set(true);
    }

    pub(super) fn speaks_through(&self, socket: BorrowedFd<'_>) {
        self.socket.set(Some(socket.as_raw_fd()));
    }

    /// Closes its socket and lives on.
    pub(super) fn hang_up(&self) {
        let socket = self.socket.get().expect("it has a socket");
        shutdown(socket, Shutdown::Both).expect("it can be closed");
        self.hung_up.set(true);
    }

    /// Has either side closed its socket?
    pub(super) fn is_left(&self) -> bool {
        let socket = self.socket.get().expect("it has a socket");
        let mut byte = [0];
        let peeked = recv(socket, &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        matches!(peeked, Ok(0) | Err(Errno::ECONNRESET))
    }

    pub(super) fn has_hung_up(&self) -> bool {
        self.hung_up.get()
    }

    fn is_over(&self) -> bool {
        let step = self.steps.replace(self.steps.get() + 1);
        self.doomed.get() || self.last == Some(step)
    }

    /// A clock that stands still, or by which much time goes by between two looks.
    pub(super) fn look_at_clock(&self, runs: bool) -> Duration {
        self.late.set(false);
        self.looks.set(self.looks.get() + u32::from(runs));
        Duration::from_secs(1) * self.looks.get()
    }

    pub(super) fn sleep_in(&self, bed: &Rc<memory::Cell>) {
        self.bed.replace(Some(Rc::clone(bed)));
    }

    /// Has it slept for long enough?
    pub(super) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// A time has come that it may be waiting for.
    pub(super) fn let_time_pass(&self) {
        self.late.set(true);
        if let Some(bed) = &*self.bed.borrow() {
            bed.wake();
        }
    }
}

/// Ends the process that runs: nothing that it would have done is done. What unwinds is memory of its own.
pub(super) fn die(exit_code: Option<i32>) -> ! {
    resume_unwind(Box::new(Death { exit_code }))
}
