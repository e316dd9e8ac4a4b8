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

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, fence};
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
    process: Process,
}

impl Lines {
    pub(crate) fn start() -> Result<Self> {
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
        Ok(Self { page, call: 1, process })
    }
}

impl Rival for Lines {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn round_trip(&mut self) {
        // One of two numbers, so that none is ever the one that ends it.
        self.call = 3 - self.call;
        self.page.word(RUN).store(self.call, Release);
        self.page.word(DESCRIPTION).store(1, Relaxed);
        self.page.word(DOWN).store(self.call, Release);
        fence(SeqCst);
        wait(self.page.word(UP), |finished| finished == self.call);
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
