//! Two processes that spin and move the cache lines that an empty call moves, and do nothing else: what the layout of the
//! control page costs, whatever the code around it does.
//!
//! | line | moves | for |
//! |---|---|---|
//! | down | to the parent | the tickets, the description's number and the announcement: three stores, then a fence |
//! | down | to the worker | its look at the announcement |
//! | down | to the worker alone | the ticket that it draws: a compare-and-swap |
//! | up | to the worker alone | its last word: two stores, then a fence |
//! | up | to the parent | its look at that |
//!
//! With [`Locks`] the caller also takes, by hand and uncontended, what a call that writes an array takes: how much of such
//! a call is the locks.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use super::Rival;
use super::page::Page;
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "lines";

/// Two lines apart: processors fetch them in pairs.
const DOWN: usize = 0;
const UP: usize = 128;

/// Words of the line down, and what is announced when it is over. The line up has its own two.
const RUN: usize = DOWN + 8;
const DESCRIPTION: usize = DOWN + 16;
const DONE: usize = UP + 8;
const OVER: u32 = 0;

pub(crate) struct Lines {
    page: Page,
    call: u32,
    locks: Option<Locks>,
    process: Process,
}

/// One for the workers of a pool, one for the holders of an array, which is looked at twice, and the words of the array's
/// trailer.
#[derive(Default)]
struct Locks {
    workers: Mutex<u64>,
    holders: Mutex<u64>,
    writer: AtomicU32,
    generation: AtomicU64,
}

impl Locks {
    fn around(&self, call: impl FnOnce()) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        *self.holders.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.writer.store(1, Release);
        call();
        self.generation.fetch_add(1, AcqRel);
        self.writer.store(0, Release);
        *self.holders.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        *workers += 1;
    }
}

impl Lines {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(None)
    }

    pub(crate) fn start_with_locks() -> Result<Self> {
        Self::start_with(Some(Locks::default()))
    }

    fn start_with(locks: Option<Locks>) -> Result<Self> {
        let (page, file) = Page::create()?;
        // Before there is anybody to see it: nothing announced is what ends the other process.
        page.word(DOWN).store(1, Release);
        let mut process = Process::start(KIND, &[], |command| {
            command.stdin(file);
        })?;
        while page.word(UP).load(Acquire) != 1 {
            if let Some(status) = process.ended()? {
                return Err(format!("a peer ended with {status} before it had answered").into());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(Self { page, call: 1, locks, process })
    }

    fn move_lines(&self) {
        self.page.word(RUN).store(self.call, Release);
        self.page.word(DESCRIPTION).store(1, Relaxed);
        self.page.word(DOWN).store(self.call, Release);
        fence(SeqCst);
        wait(self.page.word(UP), |finished| finished == self.call);
    }
}

impl Rival for Lines {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn round_trip(&mut self) {
        // One of two numbers, so that none is ever the one that ends it.
        self.call = 3 - self.call;
        match &self.locks {
            Some(locks) => locks.around(|| self.move_lines()),
            None => self.move_lines(),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.page.word(DOWN).store(OVER, Release);
    }
}

pub(super) fn answer() -> Result<()> {
    let page = Page::given()?;
    let mut before = 0;
    loop {
        let mut call = before;
        wait(page.word(DOWN), |announced| {
            call = announced;
            announced != before
        });
        if call == OVER {
            return Ok(());
        }
        // Fails in the first round only, where nothing is to be drawn.
        let _ = page.word(RUN).compare_exchange(call, 0, Relaxed, Relaxed);
        page.word(DONE).store(call, Relaxed);
        page.word(UP).store(call, Release);
        fence(SeqCst);
        before = call;
    }
}

fn wait(word: &AtomicU32, mut come: impl FnMut(u32) -> bool) {
    while !come(word.load(Acquire)) {
        spin_loop();
    }
}
