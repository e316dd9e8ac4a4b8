//! The control page: shared memory through which calls are published, chunks handed out and results brought back.
//!
//! | file | idea |
//! |---|---|
//! | `words` | atomic words that one can sleep on |
//! | `board` | the protocol: what the words mean and all that is done with them |
//! | `bell` | waiting for a change of the words, and waking who waits |
//! | `records` | outcomes as they stand in a worker's area, and how a worker writes them |
//! | `reader` | how the parent reads them |
//! | `area` | the area as a ring |
//!
//! # The words
//!
//! `call:n` stands for a call number and a smaller number in one word, `call:a..b` for a range and the last 16 bits of
//! the call number. Call numbers are never used twice, but for those of a crew that has come to the last of them and starts
//! afresh. As 16 bits come again after 65536 calls, no range is left behind for so long: who opens a call empties the *run*s
//! that it does not fill, and who has finished one takes back its *done*; the *done* of who is killed before that counts
//! for nothing in a call of which its *current* says that it has begun none. Words that travel together share a cache line.
//!
//! | line | word | writer | meaning |
//! |---|---|---|---|
//! | closed | closed `call` | parent | no more tickets of this call are drawn; tasks that ask are told that it is to end |
//! | description | description `call:bytes` | parent | the call that it was written for, and its length; it lies behind the words |
//! | parent asleep | asleep | parent, who rings | odd while the parent sleeps; what it sleeps on |
//! | talk | announced `call:ticket + 1` | parent | the call that this worker was told of last, and the ticket that it is granted |
//! | | description `call` | parent | the number of its description: that of the first call that had it |
//! | | mail | parent | how many messages the worker was sent over its socket, ever |
//! | | taken `call:place` | parent | how far it has read the worker's area, in a call that goes on |
//! | | finished `call:place` | worker | the last call that it has nothing more to do with, and *written* |
//! | | done `call:a..b` | worker | the same as in *work*, at the end of a call |
//! | | said | worker | how many messages it has sent over its socket, ever |
//! | | news | worker | how often it wanted to be looked at |
//! | run | run `call:a..b` | worker, others take from its end | the tickets that the worker goes on with |
//! | work | current `call:ticket + 1` | worker | the ticket that it began last |
//! | | done `call:a..b` | worker | the chunks that it did one after another last and that returned nothing, but for a call's only one |
//! | | written `call:place` | worker | up to where other outcomes are in its area |
//! | | numbers `call:a..b` | worker | the chunks that it did one after another last and that returned the numbers behind *written* |
//! | asleep | asleep | worker, who rings | as the parent's |
//!
//! What both sides say of every call is on one line, *talk*: processors hand a line over whole to one that reads it and then
//! writes, and two lines, one for each direction, have to be asked for twice as often.
//!
//! # A call
//!
//! ```text
//! parent                                       worker
//! sends mail: blocks to be mapped
//! writes the description, if it is another
//! than the last, a *run* for each worker,
//! announces, rings ──────────────────────────→ wakes, reads its mail, then the description, if it is another
//!                                              draws tickets: compare-and-swap on its *run*; where that is empty,
//!                                              it takes half of what another one has left
//!                ←──── rings now and then ──── begins each in turn: runs its chunk, notes it done or writes its outcome,
//!                                              or sends what is too large
//! reads areas, says how much ────────────────→ where its area is full it rings, and waits for room
//! reads areas  ←───────────────── rings ────── finished
//! announces, rings ──────────────────────────→ in its task still, where the description is the same and there is no mail
//!                                              begins …
//! ```
//!
//! A ticket stands for one chunk. It is in one *run*, or drawn, one or several at a time:
//!
//! ```text
//!            open               draw                 begin
//! (nowhere) ──────→ in a run ─────────────→ drawn ──────────→ in hand, on *current* ──→ has an outcome
//!     │              ↑    │ steal             ↑
//!     │              └────┘ (between the two words a range is on neither)
//!     └───────────────────────────────────────┘
//!            open, announce: the first of a share is granted
//! ```
//!
//! Where all workers are there and are told by an announcement, each of them is granted the first ticket of its share: it has
//! drawn it, as it were, and most calls of few chunks need no compare-and-swap, which would move a cache line.
//!
//! While chunks are quick a worker draws several tickets at a time, as to draw keeps a processor from what it could do
//! ahead; how many is up to how many it has left, so that there is always something to take from it. What it drew it begins
//! one by one, and looks each time whether the call was closed.
//!
//! A worker that has finished a call looks for the next announcement from within its task, for as long as it spins. One
//! with the same description, and no mail beside it, it takes right there: it has all that the description says. It
//! leaves the task for any other, for mail, and for its sleep.
//!
//! A worker that was granted the only ticket that it can have in a call notes *done* in its last word on the call alone.
//! One that is killed when that task has ended, and before that word, has died over the chunk.
//!
//! # Why it is safe
//!
//! - A ticket is drawn once: it leaves a run by one compare-and-swap, and only its drawer, or its thief, knows of it then.
//!   One that is granted is in no run, and in one announcement.
//! - Nobody draws for another call than its own. The parent opens a call when all participants of the one before have
//!   finished it or were reaped, so nobody is between a look at a run and its compare-and-swap then. The call's bits in
//!   the range refuse such a late one as well.
//! - The description is not changed before every worker that takes part has finished or was reaped, so a worker that has
//!   not finished never reads one that is half written.
//! - Descriptions have numbers that do not come again while a worker lives, and what one of them means changes by mail
//!   alone, which is counted before the call that needs it is announced. So what a worker has in its task is right for as
//!   long as it finds the number again, and then no other mail. It uses none of it before the announcement, from
//!   when on the parent has locked what is lent.
//! - A worker that dies leaves the rest of its run where others find it, and its *current* names the chunk that it may
//!   have begun. What else it has drawn it takes with it, and so does a thief that dies between its two words; no chunk of
//!   these was begun. They are in no run and have no outcome when everybody has finished or was reaped.
//! - Chunks that are run again get a call number, and a description that lists them, of their own: to workers a second
//!   round is another call.
//! - Who waits says so before its last look, and who rings looks for that after the change, see `ring` in `bell`; a
//!   killed ringer leaves a sleeper to the next one, which the news of its death is.
#![expect(unsafe_code, reason = "reaches atomic words in mapped memory")]

mod area;
mod bell;
mod board;
mod reader;
mod records;
mod words;

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use nix::fcntl::SealFlag;

use area::Area;
pub(crate) use bell::Rhythm;
pub(crate) use board::{Announced, MAX_CALL, MAX_CHUNKS};
use board::{Board, MAX_BYTES};
pub(crate) use reader::{Entry, Reader};
pub(crate) use records::{Record, Room, Writer, value_at};
pub(crate) use words::{Memory, Words};
#[cfg(test)]
pub(crate) use words::{PLACES, Word};

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{copy_in, copy_out, put_words};
use crate::sys::map::{Access, Mapping};
use crate::sys::{file, memfd, space};

/// What travels between processors at a time, in bytes.
const LINE: usize = 64;

/// The page as one process sees it.
pub(crate) struct ControlPage<M = Mapped> {
    fd: OwnedFd,
    board: Board<M>,
}

/// The mapping. Invariant: it is at least `lines` times [`LINE`] bytes long, and those bytes are only ever used as
/// atomic words of 8 bytes.
pub(crate) struct Mapped {
    mapping: Mapping,
    lines: usize,
}

impl Words for Mapped {
    type Word = AtomicU64;

    #[inline]
    fn line(&self, line: usize) -> &[AtomicU64; words::PLACES] {
        const { assert!(words::PLACES * size_of::<AtomicU64>() <= LINE) };
        // Without the number, which would have to lie in memory each time.
        assert!(line < self.lines, "the page has no such line");
        // SAFETY: the line lies inside the mapping by the invariant and the assertion.
        let words = unsafe { self.mapping.ptr().add(line * LINE) };
        // SAFETY: mapped for as long as `self` lives, aligned to a line, and only ever used as atomic words.
        unsafe { words.cast().as_ref() }
    }
}

impl Memory for Mapped {
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        copy_in(&self.mapping, offset, bytes);
    }

    #[inline]
    fn put(&self, offset: usize, words: &[u64]) {
        put_words(&self.mapping, offset, words);
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        copy_out(&self.mapping, offset, out);
    }
}

/// What is done with words alone.
impl<M> Deref for ControlPage<M> {
    type Target = Board<M>;

    fn deref(&self) -> &Self::Target {
        &self.board
    }
}

impl ControlPage {
    /// A new page for so many workers.
    pub(crate) fn create(workers: usize) -> Result<Self> {
        let len = Self::len_for(workers);
        // Past this limit comes a signal that kills.
        space::check_file_size(len)?;
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
        Ok(Self::over(Mapped { mapping, lines: Self::lines(workers) }, fd, workers))
    }
}

impl<M: Memory> ControlPage<M> {
    const FITS: () = assert!(M::RESULTS_LEN <= MAX_BYTES && M::DESCRIPTION_LEN <= MAX_BYTES);
    /// Places in the stream of outcomes begin again where the area does, too.
    const WRAPS: () = assert!(M::RESULTS_LEN.is_power_of_two());

    /// A page for so many workers over memory that others reach through `fd`.
    pub(crate) fn over(memory: M, fd: OwnedFd, workers: usize) -> Self {
        let () = Self::FITS;
        let () = Self::WRAPS;
        Self { fd, board: Board::new(memory, workers) }
    }

    /// How many lines of words the page has.
    pub(crate) fn lines(workers: usize) -> usize {
        Board::<M>::lines(workers)
    }

    /// Does this word count messages, each of which is in a socket before it is counted?
    #[cfg(test)]
    pub(crate) fn counts_messages(line: usize, place: usize) -> bool {
        Board::<M>::counts_messages(line, place)
    }

    pub(crate) fn description_offset(workers: usize) -> usize {
        (Self::lines(workers) * LINE).next_multiple_of(4096)
    }

    fn results_offset(&self, worker: usize) -> usize {
        Self::description_offset(self.board.workers()) + M::DESCRIPTION_LEN + worker * M::RESULTS_LEN
    }

    pub(crate) fn len_for(workers: usize) -> usize {
        Self::description_offset(workers) + M::DESCRIPTION_LEN + workers * M::RESULTS_LEN
    }

    /// A worker's area.
    fn area(&self, worker: usize) -> Area<'_, M> {
        Area::new(self, self.results_offset(worker))
    }

    #[inline]
    fn memory(&self) -> &M {
        self.board.words()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Parent, between calls: puts a description on the page, under the number of the call that it is for; `false` where
    /// it is too long.
    pub(crate) fn describe(&self, id: u64, description: &[u8]) -> bool {
        let fits = description.len() <= M::DESCRIPTION_LEN;
        if fits {
            self.memory().copy_in(Self::description_offset(self.board.workers()), description);
            self.board.set_description(id, description.len());
        }
        fits
    }

    /// Worker that was told of a call with the description `id`.
    pub(crate) fn description(&self, id: u64) -> Option<Vec<u8>> {
        let len = self.board.description_len(id).filter(|&len| len <= M::DESCRIPTION_LEN)?;
        let mut description = vec![0; len];
        self.memory().copy_out(Self::description_offset(self.board.workers()), &mut description);
        Some(description)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::numbers::Form;

    fn page(workers: usize) -> ControlPage {
        ControlPage::create(workers).unwrap()
    }

    fn draw(page: &ControlPage, worker: usize, call: u64, participants: usize) -> Option<usize> {
        let ticket = page.draw(worker, call, participants, 1)?.start;
        assert!(page.marks(worker, call).begin(ticket));
        Some(ticket)
    }

    #[test]
    fn a_late_worker_draws_nothing_from_the_next_call() {
        let page = page(2);
        page.open(7, 2, 2);
        assert_eq!(draw(&page, 0, 7, 2), Some(0));
        page.open(8, 2, 2);
        assert_eq!(draw(&page, 1, 7, 2), None);
        assert_eq!(draw(&page, 1, 8, 2), Some(1));
        assert_eq!(page.last_begun(0, 8), None);
        assert_eq!(page.last_begun(0, 7), Some(0));
    }

    #[test]
    fn a_closed_call_says_how_much_is_left() {
        let page = page(2);
        page.open(1, 2, 5);
        assert_eq!(page.left(1, 2), 5);
        assert_eq!(draw(&page, 0, 1, 2), Some(0));
        assert_eq!(draw(&page, 0, 1, 2), Some(1));
        page.close(1);
        assert_eq!((draw(&page, 0, 1, 2), draw(&page, 1, 1, 2)), (None, None));
        assert_eq!(page.left(1, 2), 3);
    }

    /// Calls whose numbers have the same last 16 bits.
    const ALIKE: [u64; 2] = [5, 5 + (1 << 16)];

    #[test]
    fn what_a_closed_call_has_left_is_not_drawn_65536_calls_later() {
        let page = page(3);
        page.open(ALIKE[0], 3, 6);
        page.close(ALIKE[0]);
        // The first worker is missing, and the third takes part in its place.
        page.open(ALIKE[1], 1, 1);
        assert_eq!((draw(&page, 2, ALIKE[1], 1), draw(&page, 2, ALIKE[1], 1)), (Some(0), None));
    }

    /// A worker's side of the first of these calls: chunk 3 has returned nothing, and chunk 4 a number.
    fn has_done_two(page: &ControlPage) -> Writer<'_> {
        let mut writer = Writer::new(page, 0, ALIKE[0]);
        let mut record = Record::default();
        assert_eq!(record.numbers.take(&1), Form::Numbers);
        assert!(writer.begin(3));
        assert_eq!([writer.nothing(3), writer.numbers(4, &mut record)], [Room::Enough; 2]);
        writer
    }

    #[test]
    fn what_was_done_in_one_call_is_not_done_in_another_65536_calls_later() {
        let page = page(1);
        let mut writer = has_done_two(&page);
        let noted = page.noted(0, ALIKE[0]);
        assert_eq!((noted.done, noted.numbers, noted.written), (Some(3..4), Some(4..5), 0));
        writer.finish();
        let noted = page.noted_at_the_end(0, ALIKE[0]);
        assert_eq!((noted.done, noted.numbers, noted.written), (Some(3..4), None, 24));
        page.open(ALIKE[1], 1, 9);
        assert!(Writer::new(&page, 0, ALIKE[1]).begin(0));
        let noted = page.noted(0, ALIKE[1]);
        assert_eq!((noted.done, noted.numbers, noted.written), (None, None, 0));
    }

    /// Chunks of a call were taken for done that its worker had done 65536 calls before.
    #[test]
    fn what_a_worker_had_done_that_was_killed_before_it_took_that_back_is_not_done_in_a_later_call() {
        let page = page(1);
        let _killed = has_done_two(&page);
        page.open(ALIKE[1], 1, 9);
        let noted = page.noted(0, ALIKE[1]);
        assert_eq!((noted.done, noted.numbers, noted.written), (None, None, 0));
    }

    #[test]
    fn every_ticket_is_drawn_once_whoever_sleeps() {
        for (awake, tickets) in [(4, 10_000), (1, 10_000), (3, 5), (4, 1)] {
            let page = &page(4);
            page.open(3, 4, tickets);
            let mut drawn: Vec<usize> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..awake)
                    .map(|worker| {
                        scope.spawn(move || std::iter::from_fn(|| draw(page, worker, 3, 4)).collect::<Vec<_>>())
                    })
                    .collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            drawn.sort_unstable();
            assert!(drawn.into_iter().eq(0..tickets));
            assert_eq!(page.left(3, 4), 0);
        }
    }

    #[test]
    fn granted_tickets_are_in_no_run() {
        for (participants, tickets) in [(1, 1), (1, 9), (2, 2), (2, 3), (4, 100)] {
            let page = page(4);
            page.tell(5, 1, participants, tickets);
            assert_eq!(page.left(5, participants), tickets - participants);
            let granted = |worker| page.announced(worker).granted.unwrap();
            let mut all: Vec<_> = (0..participants).map(granted).collect();
            all.extend(std::iter::from_fn(|| draw(&page, 0, 5, participants)));
            all.sort_unstable();
            assert!(all.into_iter().eq(0..tickets), "{tickets} tickets of {participants}");
        }
    }

    #[test]
    fn the_rest_of_a_run_outlives_its_worker() {
        let page = page(2);
        page.open(9, 2, 8);
        assert_eq!((draw(&page, 0, 9, 2), draw(&page, 1, 9, 2)), (Some(0), Some(4)));
        page.clear(0);
        let mut drawn: Vec<_> = std::iter::from_fn(|| draw(&page, 1, 9, 2)).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, [1, 2, 3, 5, 6, 7]);
    }

    #[test]
    fn a_worker_draws_several_tickets_while_most_are_left() {
        let page = page(2);
        page.open(4, 2, 64);
        assert_eq!(page.draw(0, 4, 2, 16), Some(0..4));
        assert_eq!(page.draw(0, 4, 2, 2), Some(4..6));
        assert_eq!(page.draw(0, 4, 2, 0), Some(6..7));
        assert_eq!(page.left(4, 2), 57);
        let mut drawn: Vec<_> = std::iter::from_fn(|| page.draw(1, 4, 2, 16)).collect();
        assert!(drawn.iter().skip_while(|tickets| tickets.len() > 1).all(|tickets| tickets.len() == 1), "{drawn:?}");
        drawn.sort_unstable_by_key(|tickets| tickets.start);
        assert!(drawn.into_iter().flatten().eq(7..64));
    }

    #[test]
    fn nothing_that_was_drawn_begins_in_a_closed_call() {
        let page = page(1);
        page.open(1, 1, 64);
        assert_eq!(page.draw(0, 1, 1, 8), Some(0..8));
        assert!(page.marks(0, 1).begin(0));
        page.close(1);
        assert!(!page.marks(0, 1).begin(1));
        assert_eq!(page.last_begun(0, 1), Some(0));
    }

    #[test]
    fn descriptions_arrive_as_they_were_written() {
        let page = page(3);
        assert!(page.describe(5, b"what to do"));
        page.announce(1, 6, 5, Some(3));
        assert_eq!(page.announced(1), Announced { call: 6, id: 5, granted: Some(3) });
        assert_eq!(page.announced(2), Announced { call: 0, id: 0, granted: None });
        assert_eq!(page.description(5).unwrap(), b"what to do");
        assert_eq!(page.description(6), None);
        assert!(!page.describe(7, &vec![1; Mapped::DESCRIPTION_LEN + 1]));
    }

    #[test]
    fn a_ring_between_looking_and_sleeping_is_heard() {
        let page = &page(1);
        // Would sleep for a minute if the ring, which comes at the last look, were missed.
        page.wait_as_worker(
            0,
            Duration::ZERO,
            Duration::from_secs(60),
            || false,
            || {
                page.ring_worker(0);
                false
            },
        );
        std::thread::scope(|scope| {
            let mail = page.mail(0);
            scope.spawn(|| page.note_mail(0));
            while page.mail(0) == mail {
                let news = || page.mail(0) != mail;
                page.wait_as_worker(0, Duration::ZERO, Duration::from_secs(60), news, news);
            }
        });
    }
}
