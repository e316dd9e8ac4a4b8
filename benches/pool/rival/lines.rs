//! Two processes that spin and move the cache lines that an empty call moves, and do nothing else: what the layout of the
//! control page costs, whatever the code around it does.
//!
//! | line | moves | for |
//! |---|---|---|
//! | talk | to the parent | the description's number and the announcement: two stores, then a fence |
//! | talk | to the worker | its look at the announcement |
//! | talk | to the worker alone | its last word: two stores, then a fence |
//! | talk | to the parent | its look at that |
//! | run | (the parent has it) | the tickets that nobody was granted: a store |
//! | work | (the worker has it) | the ticket that it begins: a store |
//!
//! With [`Locks`] the caller also takes, by hand and uncontended, what a call that writes an array takes: how much of such
//! a call is the locks.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use super::Rival;
use super::page::Page;
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "lines";

/// The words of the line on which both talk, each of which has room for eight bytes, and what is announced when it is over.
const ANNOUNCED: usize = 0;
const DESCRIPTION: usize = 8;
const FINISHED: usize = 32;
const DONE: usize = 40;
const OVER: u32 = 0;

/// Two lines apart: processors fetch them in pairs.
const RUN: usize = 128;
const WORK: usize = 256;

pub(crate) struct Lines {
    page: Page,
    call: u32,
    locks: Option<Locks>,
    process: Process,
}

/// One for the workers of a pool, the holder of an array, and the words of the array's trailer.
#[derive(Default)]
struct Locks {
    workers: Mutex<u64>,
    holder: AtomicU64,
    writer: AtomicU32,
    generation: AtomicU64,
}

impl Locks {
    fn around(&self, call: impl FnOnce()) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.holder.compare_exchange(0, 1, Acquire, Relaxed);
        self.writer.store(1, Release);
        call();
        self.generation.store(self.generation.load(Relaxed) + 1, Release);
        self.writer.store(0, Release);
        let given_back = self.holder.compare_exchange(1, 0, Release, Relaxed);
        assert!(taken.is_ok() && given_back.is_ok(), "nobody else holds it");
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
        page.word(ANNOUNCED).store(1, Release);
        let mut process = Process::start(KIND, &[], |command| {
            command.stdin(file);
        })?;
        while page.word(FINISHED).load(Acquire) != 1 {
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
        self.page.word(ANNOUNCED).store(self.call, Release);
        fence(SeqCst);
        wait(self.page.word(FINISHED), |finished| finished == self.call);
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
        self.page.word(ANNOUNCED).store(OVER, Release);
    }
}

pub(super) fn answer() -> Result<()> {
    let page = Page::given()?;
    let mut before = 0;
    loop {
        let mut call = before;
        wait(page.word(ANNOUNCED), |announced| {
            call = announced;
            announced != before
        });
        if call == OVER {
            return Ok(());
        }
        page.word(WORK).store(call, Relaxed);
        page.word(DONE).store(call, Relaxed);
        page.word(FINISHED).store(call, Release);
        fence(SeqCst);
        before = call;
    }
}

fn wait(word: &AtomicU32, mut come: impl FnMut(u32) -> bool) {
    while !come(word.load(Acquire)) {
        spin_loop();
    }
}
