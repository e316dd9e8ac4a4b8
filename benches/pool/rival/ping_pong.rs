//! Two processes that pass one word of shared memory to and fro: the least that a call can take.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::Rival;
use super::page::{Page, futex_wait, futex_wake};
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "ping-pong";

/// What the word says: whose turn it is.
const OURS: u32 = 0;
const THEIRS: u32 = 1;
const OVER: u32 = 2;

/// What a process does while it is the other's turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    Asleep,
    Spinning,
}

pub(crate) struct PingPong {
    word: Word,
    waiting: Waiting,
    process: Process,
}

impl PingPong {
    pub(crate) fn start(waiting: Waiting) -> Result<Self> {
        let (page, file) = Page::create()?;
        let word = Word(page);
        let name = if waiting == Waiting::Asleep { "asleep" } else { "spinning" };
        let mut process = Process::start(KIND, &[name], |command| {
            command.stdin(file);
        })?;
        // The first turn with an eye on the process: later ones wait for it without end.
        word.pass_to(THEIRS, waiting);
        while word.turn() != OURS {
            if let Some(status) = process.ended()? {
                return Err(format!("a peer ended with {status} before it had answered").into());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(Self { word, waiting, process })
    }
}

impl Rival for PingPong {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn round_trip(&mut self) {
        self.word.pass_to(THEIRS, self.waiting);
        self.word.wait_while(THEIRS, self.waiting);
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.word.pass_to(OVER, self.waiting);
    }
}

pub(super) fn answer(waiting: &str) -> Result<()> {
    let waiting = if waiting == "asleep" { Waiting::Asleep } else { Waiting::Spinning };
    let word = Word(Page::given()?);
    loop {
        word.wait_while(OURS, waiting);
        if word.turn() == OVER {
            return Ok(());
        }
        word.pass_to(OURS, waiting);
    }
}

/// The first four bytes of a shared page.
struct Word(Page);

impl Word {
    fn atomic(&self) -> &AtomicU32 {
        self.0.word(0)
    }

    fn turn(&self) -> u32 {
        // Acquire: with the release of `pass_to`, as it would be if the word stood for data.
        self.atomic().load(Ordering::Acquire)
    }

    fn pass_to(&self, turn: u32, waiting: Waiting) {
        self.atomic().store(turn, Ordering::Release);
        if waiting == Waiting::Asleep {
            futex_wake(self.atomic());
        }
    }

    fn wait_while(&self, turn: u32, waiting: Waiting) {
        while self.turn() == turn {
            match waiting {
                Waiting::Asleep => futex_wait(self.atomic(), turn),
                Waiting::Spinning => spin_loop(),
            }
        }
    }
}
