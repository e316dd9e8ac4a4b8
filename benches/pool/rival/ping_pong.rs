//! Two processes that pass one word of shared memory to and fro: the least that a call can take.
#![expect(unsafe_code, reason = "an atomic in shared memory, and the futex system call")]

use std::fs::File;
use std::hint::spin_loop;
use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Rival;
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "ping-pong";

/// What the word says: whose turn it is.
const OURS: u32 = 0;
const THEIRS: u32 = 1;
const OVER: u32 = 2;

const PAGE: usize = 4096;

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
        let file = File::from(memfd_create(c"ping-pong", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(PAGE as u64)?;
        let word = Word::map(&file)?;
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
    let word = Word::map(&File::from(io::stdin().as_fd().try_clone_to_owned()?))?;
    loop {
        word.wait_while(OURS, waiting);
        if word.turn() == OVER {
            return Ok(());
        }
        word.pass_to(OURS, waiting);
    }
}

/// The first four bytes of a shared page.
struct Word {
    page: MmapRaw,
}

impl Word {
    fn map(file: &File) -> io::Result<Self> {
        Ok(Self { page: MmapOptions::new().len(PAGE).map_raw(file)? })
    }

    fn atomic(&self) -> &AtomicU32 {
        // SAFETY: the start of a mapping is aligned to a page and readable and writable for its length, which is a page, for
        // as long as `self` lives, which the reference does not outlive; both processes touch these bytes through atomics
        // of this size only.
        unsafe { AtomicU32::from_ptr(self.page.as_mut_ptr().cast()) }
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

/// Sleeps unless `word` is no longer `expected`; may also return for no reason. A shared futex, not a private one.
fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: FUTEX_WAIT takes the address of four aligned bytes, which the reference is, the expected value and a time
    // limit, for which null is none.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, ptr::null::<libc::timespec>());
    }
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE takes the address of four aligned bytes, which the reference is, and how many to wake.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}
