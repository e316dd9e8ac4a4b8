//! The control page: shared memory through which calls are published, chunks handed out and results brought back.
//!
//! # The words
//!
//! Each on a cache line of its own. `call:n` stands for a call number and a smaller number in one 64-bit word; call
//! numbers are never used twice.
//!
//! | word | writer | meaning |
//! |---|---|---|
//! | ticket `call:chunk` | all | the next chunk of the call that is open, in the order in which its description has them |
//! | announced `call:workers` | parent | the last call that was published, and how many workers take part in it |
//! | description `call:bytes` | parent | how long its description is, which lies behind the words |
//! | parent's [`Bell`] | all ring | something has happened that the parent should look at |
//! | worker's [`Bell`] | parent rings | there is a call or mail for the worker |
//! | mail | parent | how many messages the worker was sent over its socket, ever |
//! | current `call:chunk + 1` | worker | the chunk that it took last |
//! | written `call:bytes` | worker | how much of its results area is filled |
//! | said | worker | how many messages it has sent over its socket, ever |
//! | finished `call` | worker | the last call that it has nothing more to do with |
//!
//! # A call
//!
//! ```text
//! parent                                       worker
//! sends mail: blocks to be mapped
//! writes description, opens ticket,
//! announces, rings ──────────────────────────→ wakes, reads its mail, then the description
//!                                              takes chunks: compare-and-swap on the ticket
//!                ←──── rings now and then ──── runs them, appends outcomes to its area, or sends what is too large
//! reads areas  ←───────────────── rings ────── finished
//! ```
//!
//! The description is not changed before every worker that takes part has finished the call or was reaped, so a worker
//! that has not finished never reads one that is half written. Who takes part reads off the *announced* word alone: a
//! worker with a higher index stays away from the description. A late worker finds another call number on the ticket and
//! takes nothing. The parent closes a call by setting the ticket's chunk to the call's count.
//!
//! A worker that dies between the ticket and its *current* word leaves a chunk that was taken and has no outcome. Which one
//! that is shows when every worker of the call has finished or was reaped: it is taken, has no outcome, and is on no dead
//! worker's *current* word. Chunks that are run again get a call number, and a description that lists them, of their own:
//! to workers a second round is another call.
//!
//! # Orderings
//!
//! Every store that announces something is a release and every load that acts upon it an acquire: announced after the
//! description, finished after written, written after the bytes, mail and said after the message. The bells pair a store
//! with a load of another word (rung, asleep) on both sides and are therefore sequentially consistent.
#![expect(unsafe_code, reason = "reaches atomic words in mapped memory")]

use std::hint::spin_loop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::SealFlag;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{copy_in, copy_out};
use crate::sys::map::{Access, Mapping};
use crate::sys::{file, futex, memfd};

const SMALL_BITS: u32 = 24;

/// One less than the small field holds, so that a chunk's number plus one fits as well.
pub(crate) const MAX_CHUNKS: usize = (1 << SMALL_BITS) - 2;

const LINE: usize = 64;

// Lines of the page as a whole.
const TICKET: usize = 0;
const ANNOUNCED: usize = TICKET + 1;
const DESCRIPTION: usize = ANNOUNCED + 1;
const PARENT_BELL: usize = DESCRIPTION + 1;
const WORKERS: usize = PARENT_BELL + 1;

// Lines of each worker, from its first on.
const BELL: usize = 0;
const MAIL: usize = BELL + 1;
const CURRENT: usize = MAIL + 1;
const WRITTEN: usize = CURRENT + 1;
const SAID: usize = WRITTEN + 1;
const FINISHED: usize = SAID + 1;
const LINES_A_WORKER: usize = FINISHED + 1;

/// Room for a call's description; a longer one goes by mail. The pages of what is not used are never touched.
pub(crate) const DESCRIPTION_LEN: usize = 64 * 1024;
/// Room for a worker's outcomes in one call; more of them go over its socket.
pub(crate) const RESULTS_LEN: usize = 64 * 1024;

const _: () = assert!(RESULTS_LEN < 1 << SMALL_BITS && DESCRIPTION_LEN < 1 << SMALL_BITS);

fn pack(call: u64, small: usize) -> u64 {
    debug_assert!(small < 1 << SMALL_BITS, "what is packed was checked to fit");
    call << SMALL_BITS | small as u64
}

fn unpack(word: u64) -> (u64, usize) {
    let small = word & ((1 << SMALL_BITS) - 1);
    (word >> SMALL_BITS, usize::try_from(small).unwrap_or(usize::MAX))
}

/// The page as one process sees it. Invariant: `mapping` is at least `len_for(workers)` bytes, all of whose words are
/// only ever used atomically.
pub(crate) struct ControlPage {
    fd: OwnedFd,
    mapping: Mapping,
    workers: usize,
}

impl ControlPage {
    /// A new page for so many workers.
    pub(crate) fn create(workers: usize) -> Result<Self> {
        let len = Self::len_for(workers);
        let fd = memfd::create()?;
        file::set_size(fd.as_fd(), len)?;
        memfd::add_seals(fd.as_fd(), SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
        Self::map(fd, workers)
    }

    /// The page behind a descriptor that the parent sent.
    pub(crate) fn map(fd: OwnedFd, workers: usize) -> Result<Self> {
        let len = Self::len_for(workers);
        let size = file::size(fd.as_fd())?;
        if size < len as u64 {
            return Err(Error::new(
                ErrorKind::Layout,
                format!("a control page for {workers} workers has {len} bytes, found {size}"),
            ));
        }
        let mapping = Mapping::new(fd.as_fd(), len, Access::ReadWrite, false, false)?;
        Ok(Self { fd, mapping, workers })
    }

    fn description_offset(workers: usize) -> usize {
        ((WORKERS + workers * LINES_A_WORKER) * LINE).next_multiple_of(4096)
    }

    fn results_offset(&self, worker: usize) -> usize {
        Self::description_offset(self.workers) + DESCRIPTION_LEN + worker * RESULTS_LEN
    }

    fn len_for(workers: usize) -> usize {
        Self::description_offset(workers) + DESCRIPTION_LEN + workers * RESULTS_LEN
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A word by its line.
    fn word(&self, line: usize) -> &AtomicU64 {
        assert!(line < WORKERS + self.workers * LINES_A_WORKER, "line {line} is not one of the words");
        // SAFETY: the line lies inside the mapping by the invariant and the assertion.
        let word = unsafe { self.mapping.ptr().add(line * LINE) };
        // SAFETY: mapped for as long as `self` lives, 64-byte aligned, and only ever used atomically.
        unsafe { AtomicU64::from_ptr(word.cast().as_ptr()) }
    }

    fn worker_word(&self, worker: usize, line: usize) -> &AtomicU64 {
        assert!(worker < self.workers, "worker {worker} of {} has no words", self.workers);
        self.word(WORKERS + worker * LINES_A_WORKER + line)
    }

    /// The two halves of a bell's line, of which only this makes use.
    fn bell(word: &AtomicU64) -> Bell<'_> {
        let rung = word.as_ptr().cast::<u32>();
        // SAFETY: the second half of the same 8 bytes.
        let asleep = unsafe { rung.add(1) };
        // SAFETY: mapped for as long as `word` is borrowed and aligned; the line is only ever used as two 32-bit atomics.
        let rung = unsafe { AtomicU32::from_ptr(rung) };
        // SAFETY: as above.
        let asleep = unsafe { AtomicU32::from_ptr(asleep) };
        Bell { rung, asleep }
    }

    pub(crate) fn parent_bell(&self) -> Bell<'_> {
        Self::bell(self.word(PARENT_BELL))
    }

    pub(crate) fn worker_bell(&self, worker: usize) -> Bell<'_> {
        Self::bell(self.worker_word(worker, BELL))
    }

    /// Parent: a worker starts in this place; what another one left there is gone.
    pub(crate) fn clear(&self, worker: usize) {
        for line in [MAIL, CURRENT, WRITTEN, SAID, FINISHED] {
            self.worker_word(worker, line).store(0, Ordering::Release);
        }
    }

    /// Parent: chunks of `call` may be taken from here on, by the first `workers` of the crew. Nobody is rung yet. `false`
    /// where the description is too long for the page; then it has to be in the mail of those workers already.
    pub(crate) fn publish(&self, call: u64, workers: usize, description: &[u8]) -> bool {
        let fits = description.len() <= DESCRIPTION_LEN;
        if fits {
            copy_in(&self.mapping, Self::description_offset(self.workers), description);
        }
        let len = if fits { description.len() } else { 0 };
        self.word(DESCRIPTION).store(pack(call, len), Ordering::Release);
        self.word(TICKET).store(pack(call, 0), Ordering::Release);
        self.word(ANNOUNCED).store(pack(call, workers), Ordering::Release);
        fits
    }

    /// Worker: the call that was announced last, and whether this worker takes part in it.
    pub(crate) fn announced(&self, worker: usize) -> (u64, bool) {
        let (call, workers) = unpack(self.word(ANNOUNCED).load(Ordering::Acquire));
        (call, worker < workers)
    }

    /// Worker that takes part in the announced call: its description; `None` where it came by mail.
    pub(crate) fn description(&self, call: u64) -> Option<Vec<u8>> {
        let (of, len) = unpack(self.word(DESCRIPTION).load(Ordering::Acquire));
        if of != call || len == 0 || len > DESCRIPTION_LEN {
            return None;
        }
        let mut description = vec![0; len];
        copy_out(&self.mapping, Self::description_offset(self.workers), &mut description);
        Some(description)
    }

    /// Parent: no more chunks of `call` are taken. Returns how many were.
    pub(crate) fn close(&self, call: u64, count: usize) -> usize {
        let (open, taken) = unpack(self.word(TICKET).swap(pack(call, count), Ordering::AcqRel));
        if open == call { taken.min(count) } else { count }
    }

    /// Parent: are there chunks of `call` that nobody has taken?
    pub(crate) fn has_untaken(&self, call: u64, count: usize) -> bool {
        let (open, next) = unpack(self.word(TICKET).load(Ordering::Acquire));
        open == call && next < count
    }

    /// Worker: the next chunk of `call`, exclusively; `None` where there is none or another call has begun.
    pub(crate) fn take(&self, worker: usize, call: u64, count: usize) -> Option<usize> {
        let ticket = self.word(TICKET);
        let mut seen = ticket.load(Ordering::Acquire);
        loop {
            let (open, index) = unpack(seen);
            if open != call || index >= count {
                return None;
            }
            // Acquires what the parent wrote before it opened the call; chunks need no order among themselves.
            match ticket.compare_exchange_weak(seen, pack(call, index + 1), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.worker_word(worker, CURRENT).store(pack(call, index + 1), Ordering::Release);
                    return Some(index);
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Parent, after the worker was reaped: the chunk of `call` that it took last.
    pub(crate) fn last_taken(&self, worker: usize, call: u64) -> Option<usize> {
        let (taken_in, index) = unpack(self.worker_word(worker, CURRENT).load(Ordering::Acquire));
        if taken_in == call { index.checked_sub(1) } else { None }
    }

    /// Worker: appends bytes to its results of `call`, of which it has written `written`; `false` where they do not fit.
    pub(crate) fn append(&self, worker: usize, call: u64, written: &mut usize, bytes: &[u8]) -> bool {
        if bytes.len() > RESULTS_LEN - *written {
            return false;
        }
        copy_in(&self.mapping, self.results_offset(worker) + *written, bytes);
        *written += bytes.len();
        self.worker_word(worker, WRITTEN).store(pack(call, *written), Ordering::Release);
        true
    }

    /// Parent: what a worker has appended to its results of `call` since `read`, which is moved on.
    pub(crate) fn appended(&self, worker: usize, call: u64, read: &mut usize) -> Vec<u8> {
        let (of, written) = unpack(self.worker_word(worker, WRITTEN).load(Ordering::Acquire));
        if of != call || written <= *read || written > RESULTS_LEN {
            return Vec::new();
        }
        let mut bytes = vec![0; written - *read];
        copy_out(&self.mapping, self.results_offset(worker) + *read, &mut bytes);
        *read = written;
        bytes
    }

    /// Worker: nothing of `call` is touched by it any more, and all that came of it was written or said.
    pub(crate) fn finish(&self, worker: usize, call: u64) {
        self.worker_word(worker, FINISHED).store(call, Ordering::Release);
    }

    /// Parent: has the worker finished `call`?
    pub(crate) fn has_finished(&self, worker: usize, call: u64) -> bool {
        self.worker_word(worker, FINISHED).load(Ordering::Acquire) == call
    }

    /// Parent: one more message is in the worker's socket.
    pub(crate) fn note_mail(&self, worker: usize) {
        self.worker_word(worker, MAIL).fetch_add(1, Ordering::Release);
    }

    /// Worker: how many messages it was sent.
    pub(crate) fn mail(&self, worker: usize) -> u64 {
        self.worker_word(worker, MAIL).load(Ordering::Acquire)
    }

    /// Worker: one more message of it is in the parent's socket.
    pub(crate) fn note_said(&self, worker: usize) {
        self.worker_word(worker, SAID).fetch_add(1, Ordering::Release);
    }

    /// Parent: how many messages the worker has sent.
    pub(crate) fn said(&self, worker: usize) -> u64 {
        self.worker_word(worker, SAID).load(Ordering::Acquire)
    }
}

/// A word to sleep on, and one that says whether somebody does, so that ringing for nobody costs no system call.
///
/// A worker that was killed in its sleep leaves *asleep* set; then one ring too many is made, and the next worker in its
/// place clears it.
#[derive(Clone, Copy)]
pub(crate) struct Bell<'a> {
    rung: &'a AtomicU32,
    asleep: &'a AtomicU32,
}

impl Bell<'_> {
    /// How often it was rung; to be read before looking at what one waits for.
    pub(crate) fn count(self) -> u32 {
        self.rung.load(Ordering::SeqCst)
    }

    /// Wakes who sleeps, or keeps who is about to from it.
    pub(crate) fn ring(self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) != 0 {
            futex::wake(self.rung);
        }
    }

    /// Returns when the bell was rung since `count` was read, after `timeout`, or for no reason; spins at first.
    pub(crate) fn wait(self, count: u32, spin: Duration, timeout: Option<Duration>) {
        if !spin.is_zero() {
            let since = Instant::now();
            loop {
                for _ in 0..32 {
                    if self.count() != count {
                        return;
                    }
                    spin_loop();
                }
                if since.elapsed() >= spin {
                    break;
                }
            }
        }
        self.asleep.store(1, Ordering::SeqCst);
        if self.count() == count {
            futex::wait(self.rung, count, timeout);
        }
        self.asleep.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_worker_takes_nothing_from_the_next_call() {
        let page = ControlPage::create(2).unwrap();
        page.publish(7, 2, b"seven");
        assert_eq!(page.take(0, 7, 2), Some(0));
        page.publish(8, 2, b"eight");
        assert_eq!(page.take(1, 7, 2), None);
        assert_eq!(page.take(1, 8, 2), Some(0));
        assert_eq!(page.last_taken(0, 8), None);
        assert_eq!(page.last_taken(0, 7), Some(0));
    }

    #[test]
    fn a_closed_call_says_how_much_was_taken() {
        let page = ControlPage::create(1).unwrap();
        page.publish(1, 1, b"x");
        assert_eq!(page.take(0, 1, 5), Some(0));
        assert_eq!(page.take(0, 1, 5), Some(1));
        assert!(page.has_untaken(1, 5));
        assert_eq!(page.close(1, 5), 2);
        assert!(!page.has_untaken(1, 5));
        assert_eq!(page.take(0, 1, 5), None);
        assert_eq!(page.close(1, 5), 5);
    }

    #[test]
    fn every_chunk_is_taken_once() {
        let page = &ControlPage::create(4).unwrap();
        page.publish(3, 4, b"x");
        let mut taken: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|worker| {
                    scope.spawn(move || std::iter::from_fn(|| page.take(worker, 3, 10_000)).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..10_000));
    }

    #[test]
    fn descriptions_and_results_arrive_as_they_were_written() {
        let page = ControlPage::create(3).unwrap();
        assert!(page.publish(5, 2, b"what to do"));
        assert_eq!((page.announced(1), page.announced(2)), ((5, true), (5, false)));
        assert_eq!(page.description(5).unwrap(), b"what to do");
        assert!(!page.publish(6, 1, &vec![1; DESCRIPTION_LEN + 1]));
        assert_eq!(page.description(6), None);

        let (mut written, mut read) = (0, 0);
        assert!(page.append(2, 6, &mut written, b"abc"));
        assert_eq!(page.appended(2, 5, &mut read), b"");
        assert_eq!(page.appended(2, 6, &mut read), b"abc");
        assert!(page.append(2, 6, &mut written, b"defgh"));
        assert_eq!(page.appended(2, 6, &mut read), b"defgh");
        assert!(!page.append(2, 6, &mut written, &vec![0; RESULTS_LEN]));
        assert_eq!(page.appended(1, 6, &mut 0), b"");
    }

    #[test]
    fn a_bell_that_rang_between_looking_and_sleeping_is_heard() {
        let page = ControlPage::create(1).unwrap();
        let bell = page.worker_bell(0);
        let count = bell.count();
        bell.ring();
        bell.wait(count, Duration::ZERO, None);
        std::thread::scope(|scope| {
            let count = bell.count();
            scope.spawn(|| page.worker_bell(0).ring());
            while bell.count() == count {
                bell.wait(count, Duration::ZERO, None);
            }
        });
    }
}
