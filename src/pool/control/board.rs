//! The protocol's words and all that is done with them. Nothing outside of this file knows where a word lies or what its
//! bits mean; the drawing is in the folder's `mod.rs`.

use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::bell::{Rhythm, ring, sleep_until, spin_on, spin_until};
use super::words::{PLACES, Word, Words};

const SMALL_BITS: u32 = 24;
const SMALL: u64 = (1 << SMALL_BITS) - 1;
const TAG: u64 = (1 << (64 - 2 * SMALL_BITS)) - 1;

/// One less than the small field holds, so that a chunk's number plus one fits as well.
pub(crate) const MAX_CHUNKS: usize = (1 << SMALL_BITS) - 2;

/// The last call number that fits into a word beside a small one.
pub(crate) const MAX_CALL: u64 = (1 << (64 - SMALL_BITS)) - 1;

/// The most bytes whose number fits into a word beside a call's.
pub(crate) const MAX_BYTES: usize = (1 << SMALL_BITS) - 1;

/// A place in the stream of a worker's outcomes: how many bytes of a call stand before it, in as many bits as a word has for
/// them.
pub(super) type Place = usize;

/// So many bytes on from a place.
#[inline]
pub(super) fn onward(place: Place, bytes: usize) -> Place {
    place.wrapping_add(bytes) & MAX_BYTES
}

/// How many bytes it is from one place to another further on.
#[inline]
pub(super) fn ahead(from: Place, to: Place) -> usize {
    to.wrapping_sub(from) & MAX_BYTES
}

// Lines of the page as a whole, of one word each.
const CLOSED: usize = 0;
const DESCRIPTION: usize = CLOSED + 1;
const PARENT_ASLEEP: usize = DESCRIPTION + 1;
const WORKERS: usize = PARENT_ASLEEP + 1;

// Lines of each worker, from its first on, and the places of their words.
const TALK: usize = 0;
const TALK_ANNOUNCED: usize = 0;
const TALK_DESCRIPTION: usize = 1;
const TALK_MAIL: usize = 2;
const TALK_TAKEN: usize = 3;
const TALK_FINISHED: usize = 4;
const TALK_DONE: usize = 5;
const TALK_SAID: usize = 6;
const TALK_NEWS: usize = 7;
const RUN: usize = TALK + 1;
const WORK: usize = RUN + 1;
const WORK_CURRENT: usize = 0;
const WORK_DONE: usize = 1;
const WORK_WRITTEN: usize = 2;
const WORK_NUMBERS: usize = 3;
const ASLEEP: usize = WORK + 1;
const LINES_A_WORKER: usize = ASLEEP + 1;

#[inline]
fn pack(call: u64, small: usize) -> u64 {
    debug_assert!(call <= MAX_CALL && small as u64 <= SMALL, "what is packed was checked to fit");
    call << SMALL_BITS | small as u64
}

#[inline]
fn unpack(word: u64) -> (u64, usize) {
    (word >> SMALL_BITS, small(word))
}

#[inline]
fn small(word: u64) -> usize {
    usize::try_from(word & SMALL).unwrap_or(usize::MAX)
}

/// A range with the last bits of the number of the call that it belongs to.
#[inline]
fn pack_range(call: u64, begin: usize, end: usize) -> u64 {
    pack(pack(call & TAG, begin), end)
}

/// The range of `call` that a word holds, unless it is empty or another call's.
#[inline]
fn unpack_range(word: u64, call: u64) -> Option<Range<usize>> {
    let (rest, end) = unpack(word);
    let (tag, begin) = unpack(rest);
    (tag == call & TAG && begin < end).then_some(begin..end)
}

/// Worker `index`'s share of `tickets` where `participants` begin with equal ones.
#[inline]
fn share(tickets: usize, participants: usize, index: usize) -> Range<usize> {
    // Most calls need no division.
    if participants == tickets {
        return index..index + 1;
    }
    if participants == 1 {
        return 0..tickets;
    }
    // Both factors are below 2^24.
    let from = |index| tickets * index / participants.max(1);
    from(index)..from(index + 1)
}

/// The words of one pool.
pub(crate) struct Board<W> {
    words: W,
    workers: usize,
}

impl<W: Words> Board<W> {
    /// How many lines the words of so many workers take.
    pub(super) fn lines(workers: usize) -> usize {
        WORKERS + workers * LINES_A_WORKER
    }

    /// Words that are all 0, or those that another process made so.
    pub(super) fn new(words: W, workers: usize) -> Self {
        Self { words, workers }
    }

    /// Does this word count messages, each of which is in a socket before it is counted?
    #[cfg(test)]
    pub(super) fn counts_messages(line: usize, place: usize) -> bool {
        let of_worker = line.checked_sub(WORKERS).map(|line| line % LINES_A_WORKER);
        matches!((of_worker, place), (Some(TALK), TALK_MAIL | TALK_SAID))
    }

    pub(super) fn words(&self) -> &W {
        &self.words
    }

    /// How many workers there are places for.
    #[inline]
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    #[inline]
    fn of_all(&self, line: usize) -> &W::Word {
        let [word, ..] = self.words.line(line);
        word
    }

    #[inline]
    fn of(&self, worker: usize, line: usize, place: usize) -> &W::Word {
        &self.line_of(worker, line)[place]
    }

    /// A worker that is none would have lines past the last one, which [`Words::line`] refuses.
    #[inline]
    fn line_of(&self, worker: usize, line: usize) -> &[W::Word; PLACES] {
        debug_assert!(worker < self.workers, "worker {worker} of {} has no words", self.workers);
        self.words.line(WORKERS + worker * LINES_A_WORKER + line)
    }

    // Calls, by the parent.

    /// Parent: a worker starts in this place; what another one left there is gone, but for the tickets that it had not
    /// drawn, which others may take.
    pub(crate) fn clear(&self, worker: usize) {
        // Relaxed: the worker is sent the page after this, which orders it.
        for (line, place) in [
            (TALK, TALK_ANNOUNCED),
            (TALK, TALK_MAIL),
            (TALK, TALK_TAKEN),
            (WORK, WORK_CURRENT),
            (WORK, WORK_DONE),
            (WORK, WORK_WRITTEN),
            (WORK, WORK_NUMBERS),
            (TALK, TALK_FINISHED),
            (TALK, TALK_DONE),
            (TALK, TALK_SAID),
            (TALK, TALK_NEWS),
            (ASLEEP, 0),
        ] {
            self.of(worker, line, place).store(0, Relaxed);
        }
    }

    /// Parent, where there are no workers: call numbers begin again.
    pub(crate) fn begin_again(&self) {
        // Relaxed: workers that start are sent the page after this. What the parent sleeps on goes on as it is: its other
        // threads ring.
        for line in [CLOSED, DESCRIPTION] {
            self.of_all(line).store(0, Relaxed);
        }
        for worker in 0..self.workers {
            self.clear(worker);
            self.of(worker, RUN, 0).store(0, Relaxed);
        }
    }

    /// Parent, between calls: how long the description is that was just written. Those who are announced a call after
    /// this see it.
    pub(super) fn set_description(&self, id: u64, len: usize) {
        // Relaxed: ordered by the announcement.
        self.of_all(DESCRIPTION).store(pack(id, len), Relaxed);
    }

    /// Parent: the tickets of `call` can be drawn from here on by the first `participants`, who have equal shares of them.
    /// Nobody is told yet.
    pub(crate) fn open(&self, call: u64, participants: usize, tickets: usize) {
        self.share_out(call, participants, tickets, 0);
    }

    /// All but the first so many tickets of each share can be drawn from here on.
    #[expect(clippy::inline_always, reason = "as for `tell`")]
    #[inline(always)]
    fn share_out(&self, call: u64, participants: usize, tickets: usize, first: usize) {
        for worker in 0..participants {
            let Range { start, end } = share(tickets, participants, worker);
            // Release: for a worker that is told by mail. Others acquire the announcement. All shares are there before
            // anybody is told, so that nobody finds an older call's.
            self.of(worker, RUN, 0).store(pack_range(call, start + first, end), Release);
        }
        for worker in participants..self.workers {
            // What an older call that was closed has left: in a few bits of its number it may be like this one.
            let run = self.of(worker, RUN, 0);
            if run.load(Relaxed) != 0 {
                run.store(0, Release);
            }
        }
    }

    /// Parent: has a worker finished `call`, in which it ran just the chunks of its own share, returned nothing and had no
    /// more news than those that were `seen`?
    #[inline]
    pub(crate) fn has_done_its_share(
        &self,
        worker: usize,
        call: u64,
        (participants, tickets): (usize, usize),
        seen: u64,
    ) -> bool {
        let talk = self.line_of(worker, TALK);
        let Range { start, end } = share(tickets, participants, worker);
        // Acquire: as in `has_finished`, and as in `news`.
        talk[TALK_FINISHED].load(Acquire) == pack(call, 0)
            && talk[TALK_DONE].load(Relaxed) == pack_range(call, start, end)
            && talk[TALK_NEWS].load(Acquire) == seen
    }

    /// Parent: opens `call`, whose description is `id`, and tells the participants of it. Each of them is granted the first
    /// ticket of its share, which nobody else can draw.
    #[expect(clippy::inline_always, reason = "mostly there is one participant, and then hardly anything to be done")]
    #[inline(always)]
    pub(crate) fn tell(&self, call: u64, id: u64, participants: usize, tickets: usize) {
        self.share_out(call, participants, tickets, 1);
        for worker in 0..participants {
            self.announce(worker, call, id, Some(share(tickets, participants, worker).start));
        }
    }

    /// Parent: tells a worker of a call whose description is `id`, and of the ticket that it is granted, and wakes it.
    #[inline]
    pub(crate) fn announce(&self, worker: usize, call: u64, id: u64, granted: Option<usize>) {
        let talk = self.line_of(worker, TALK);
        // Relaxed: ordered by the next store.
        talk[TALK_DESCRIPTION].store(id, Relaxed);
        let announced = pack(call, granted.map_or(0, |ticket| ticket + 1));
        // Release: whoever sees the announcement sees the description, the shares and the counted mail.
        talk[TALK_ANNOUNCED].store(announced, Release);
        self.ring_worker(worker);
    }

    /// Parent: no more tickets of `call` are drawn, but for one that is being drawn just now.
    pub(crate) fn close(&self, call: u64) {
        // Relaxed: says nothing of other memory.
        self.of_all(CLOSED).store(call, Relaxed);
    }

    /// Is `call` closed?
    #[inline]
    pub(crate) fn is_closed(&self, call: u64) -> bool {
        // Relaxed: as above.
        self.of_all(CLOSED).load(Relaxed) == call
    }

    /// Parent: how many tickets of `call` nobody has drawn, or is about to.
    pub(crate) fn left(&self, call: u64, participants: usize) -> usize {
        // Relaxed: exact where the participants are known to have finished, or to be gone, and otherwise no more than a hint.
        let run = |worker| unpack_range(self.of(worker, RUN, 0).load(Relaxed), call);
        (0..participants).filter_map(run).map(|range| range.len()).sum()
    }

    // Calls, by a worker.

    /// Worker: the call that it was told of last.
    #[inline]
    pub(crate) fn announced(&self, worker: usize) -> Announced {
        Announced::on(self.line_of(worker, TALK))
    }

    /// Worker: has it been told of another call than that?
    #[inline]
    pub(crate) fn is_announced_after(&self, worker: usize, call: u64) -> bool {
        is_announced_after(self.line_of(worker, TALK), call)
    }

    /// Worker that was told of a call: the length of the description `id`.
    pub(super) fn description_len(&self, id: u64) -> Option<usize> {
        let (of, len) = unpack(self.of_all(DESCRIPTION).load(Relaxed));
        (of == id).then_some(len)
    }

    /// Worker: tickets of `call` for itself alone, one after another and at most so many, from its own share, or else one
    /// from what the first `helped` workers have left of theirs. `None` where there are none, or the call is closed.
    ///
    /// Each is to be [begun](Marks::begin).
    pub(crate) fn draw(&self, worker: usize, call: u64, helped: usize, most: usize) -> Option<Range<usize>> {
        // Relaxed, as all that is done with ranges: what a ticket needs was acquired with the announcement, and that it
        // is drawn once follows from the order of changes of the one word that it stands in.
        if self.is_closed(call) {
            return None;
        }
        let has_others = helped > usize::from(worker < helped);
        let stolen = || if has_others { self.steal(worker, call, helped) } else { None };
        self.draw_own(worker, call, most).or_else(stolen)
    }

    fn draw_own(&self, worker: usize, call: u64, most: usize) -> Option<Range<usize>> {
        let own = self.of(worker, RUN, 0);
        let mut seen = own.load(Relaxed);
        loop {
            let Range { start, end } = unpack_range(seen, call)?;
            let next = start + self.words.portion(end - start, most);
            match own.compare_exchange(seen, pack_range(call, next, end), Relaxed) {
                Ok(_) => return Some(start..next),
                Err(now) => seen = now,
            }
        }
    }

    /// Worker: the words that it needs for every chunk of `call`, and for those after it.
    #[inline]
    pub(crate) fn marks(&self, worker: usize, call: u64) -> Marks<'_, W> {
        Marks {
            call,
            closed: self.of_all(CLOSED),
            talk: self.line_of(worker, TALK),
            work: self.line_of(worker, WORK),
            parent_asleep: self.of_all(PARENT_ASLEEP),
        }
    }

    #[cold]
    fn steal(&self, worker: usize, call: u64, helped: usize) -> Option<Range<usize>> {
        // A worker that has joined late is not among those who began with a share; one that is knows that its own is empty.
        (worker + 1..helped).chain(0..helped.min(worker)).find_map(|other| {
            let from = self.of(other, RUN, 0);
            let mut seen = from.load(Relaxed);
            loop {
                let Range { start, end } = unpack_range(seen, call)?;
                // The larger half, so that a single one is taken too.
                let middle = start.midpoint(end);
                match from.compare_exchange(seen, pack_range(call, start, middle), Relaxed) {
                    Ok(_) => {
                        // Its own word is empty, and nobody changes an empty one but its worker.
                        self.of(worker, RUN, 0).store(pack_range(call, middle + 1, end), Relaxed);
                        return Some(middle..middle + 1);
                    }
                    Err(now) => seen = now,
                }
            }
        })
    }

    /// Parent: the ticket of `call` that the worker began last. After it was reaped, or what it has done with that ticket was
    /// seen.
    pub(crate) fn last_begun(&self, worker: usize, call: u64) -> Option<usize> {
        let (drawn_in, ticket) = unpack(self.of(worker, WORK, WORK_CURRENT).load(Relaxed));
        if drawn_in == call { ticket.checked_sub(1) } else { None }
    }

    // Results.

    /// Parent: what the worker has noted last.
    pub(super) fn noted(&self, worker: usize, call: u64) -> Noted {
        // Acquire: pairs with the releases. In this order, so that outcomes which were written before the chunks were
        // noted are not missed.
        let range = |place| unpack_range(self.of(worker, WORK, place).load(Acquire), call);
        // Who was killed before it took its ranges back has begun nothing of a later call that is like this in a few bits.
        let has_begun = |_: &Range<usize>| self.last_begun(worker, call).is_some();
        let (done, numbers) = (range(WORK_DONE).filter(has_begun), range(WORK_NUMBERS).filter(has_begun));
        let (of, written) = unpack(self.of(worker, WORK, WORK_WRITTEN).load(Acquire));
        Noted { done, numbers, written: if of == call { written } else { 0 } }
    }

    /// Parent: has read a worker's outcomes up to there, and what stands before may be written over.
    pub(super) fn note_taken(&self, worker: usize, call: u64, place: Place) {
        // Release: whoever sees it writes only after all that was read.
        self.of(worker, TALK, TALK_TAKEN).store(pack(call, place), Release);
        self.ring_worker(worker);
    }

    /// Parent: has the worker finished `call`?
    #[inline]
    pub(crate) fn has_finished(&self, worker: usize, call: u64) -> bool {
        // Acquire: pairs with the release in `note_finished`.
        unpack(self.of(worker, TALK, TALK_FINISHED).load(Acquire)).0 == call
    }

    /// Parent, where the worker has finished: as [`noted`](Self::noted), without a look at the worker's own line.
    #[inline]
    pub(super) fn noted_at_the_end(&self, worker: usize, call: u64) -> Noted {
        // Acquire: as in `has_finished`.
        let (_, written) = unpack(self.of(worker, TALK, TALK_FINISHED).load(Acquire));
        Noted { done: unpack_range(self.of(worker, TALK, TALK_DONE).load(Relaxed), call), numbers: None, written }
    }

    // Messages and news.

    /// Parent: one more message is in the worker's socket.
    pub(crate) fn note_mail(&self, worker: usize) {
        let mail = self.of(worker, TALK, TALK_MAIL);
        // Release: whoever sees the count finds the message. Only the parent counts here, one thread at a time.
        mail.store(mail.load(Relaxed) + 1, Release);
        self.ring_worker(worker);
    }

    /// Worker: how many messages it was sent.
    #[inline]
    pub(crate) fn mail(&self, worker: usize) -> u64 {
        mail(self.line_of(worker, TALK))
    }

    /// Worker: one more message of it is in the parent's socket.
    pub(crate) fn note_said(&self, worker: usize) {
        let said = self.of(worker, TALK, TALK_SAID);
        // Release: whoever sees the count finds the message. Only the worker counts here.
        said.store(said.load(Relaxed) + 1, Release);
        self.note_news(worker);
    }

    /// Parent: how many messages the worker has sent.
    #[inline]
    pub(crate) fn said(&self, worker: usize) -> u64 {
        // Acquire: pairs with the release in `note_said`.
        self.of(worker, TALK, TALK_SAID).load(Acquire)
    }

    /// Worker: the parent should look at what it has written and said.
    pub(crate) fn note_news(&self, worker: usize) {
        let news = self.of(worker, TALK, TALK_NEWS);
        // Release: whoever sees the count sees what it is about. Only the worker counts here.
        news.store(news.load(Relaxed) + 1, Release);
        self.ring_parent();
    }

    /// Parent: how often the worker had news.
    #[inline]
    pub(crate) fn news(&self, worker: usize) -> u64 {
        // Acquire: pairs with the release in `note_news`.
        self.of(worker, TALK, TALK_NEWS).load(Acquire)
    }

    // Sleep.

    /// Wakes the parent, after a change that it waits for.
    #[inline]
    pub(crate) fn ring_parent(&self) {
        ring(self.of_all(PARENT_ASLEEP));
    }

    /// Wakes a worker, after a change that it waits for.
    #[inline]
    pub(crate) fn ring_worker(&self, worker: usize) {
        ring(self.of(worker, ASLEEP, 0));
    }

    /// Parent: returns when `come` is true, when it was rung, after `timeout`, or for no reason; spins at first, where it mostly
    /// looks at `soon` alone. The time is asked for only by who is about to sleep.
    #[inline]
    pub(crate) fn wait_as_parent(
        &self,
        spin: Duration,
        timeout: impl FnOnce() -> Duration,
        soon: impl FnMut() -> bool,
        mut come: impl FnMut() -> bool,
    ) {
        if !spin_until(spin, soon, &mut come) {
            sleep_until(self.of_all(PARENT_ASLEEP), timeout(), come);
        }
    }

    /// Worker: returns when `come` is true, when it was rung, after `timeout`, or for no reason; spins at first, where it mostly
    /// looks at `soon` alone.
    #[inline]
    pub(crate) fn wait_as_worker(
        &self,
        worker: usize,
        spin: Duration,
        timeout: Duration,
        soon: impl FnMut() -> bool,
        mut come: impl FnMut() -> bool,
    ) {
        if !spin_until(spin, soon, &mut come) {
            sleep_until(self.of(worker, ASLEEP, 0), timeout, come);
        }
    }
}

/// A call as a worker was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) call: u64,
    /// The number of its description.
    pub(crate) id: u64,
    /// A ticket that the worker has drawn, as it were. Where it has one, every participant has.
    pub(crate) granted: Option<usize>,
}

impl Announced {
    /// What a worker finds on its line from the parent.
    #[inline]
    fn on<A: Word>(talk: &[A; PLACES]) -> Self {
        // Acquire: pairs with the release in `announce`.
        let (call, ticket) = unpack(talk[TALK_ANNOUNCED].load(Acquire));
        let id = talk[TALK_DESCRIPTION].load(Relaxed);
        Self { call, id, granted: ticket.checked_sub(1) }
    }
}

#[inline]
fn is_announced_after<A: Word>(talk: &[A; PLACES], call: u64) -> bool {
    // Relaxed: what there is to it is found by who looks next.
    unpack(talk[TALK_ANNOUNCED].load(Relaxed)).0 > call
}

#[inline]
fn mail<A: Word>(talk: &[A; PLACES]) -> u64 {
    // Acquire: pairs with the release in `note_mail`.
    talk[TALK_MAIL].load(Acquire)
}

/// What a worker says of its outcomes.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    /// The chunks that it did one after another last and that returned nothing.
    pub(super) done: Option<Range<usize>>,
    /// Those that returned the numbers behind what is written.
    pub(super) numbers: Option<Range<usize>>,
    pub(super) written: Place,
}

/// What a worker needs for every chunk of one call after another.
pub(crate) struct Marks<'w, W: Words> {
    call: u64,
    closed: &'w W::Word,
    /// The worker's own lines.
    talk: &'w [W::Word; PLACES],
    work: &'w [W::Word; PLACES],
    parent_asleep: &'w W::Word,
}

impl<W: Words> Marks<'_, W> {
    #[inline]
    pub(crate) fn call(&self) -> u64 {
        self.call
    }

    /// Goes on to a later call.
    #[inline]
    pub(super) fn go_to_call(&mut self, call: u64) {
        self.call = call;
    }

    /// Looks once, and goes on for so long, whether the worker is told of another call, and now and then whether it has
    /// more mail than it has `heard`. `false` where neither has come.
    #[inline]
    pub(crate) fn hears_more(&self, spin: Duration, heard: u64, rhythm: &Rhythm) -> bool {
        let is_announced = || is_announced_after(self.talk, self.call);
        if spin.is_zero() {
            return is_announced();
        }
        rhythm.waits_for(is_announced) || spin_on(spin, is_announced, &mut || is_announced() || self.mail() != heard)
    }

    /// The other call that it was told of.
    #[inline]
    pub(crate) fn announced_another(&self) -> Option<Announced> {
        Some(Announced::on(self.talk)).filter(|announced| announced.call > self.call)
    }

    /// As [`Board::mail`].
    #[inline]
    pub(crate) fn mail(&self) -> u64 {
        mail(self.talk)
    }

    /// Notes that the worker begins with a ticket that it has drawn; `false` where the call is closed, and nothing more is
    /// begun.
    #[inline]
    pub(crate) fn begin(&self, ticket: usize) -> bool {
        // Relaxed: as in `draw`.
        if self.closed.load(Relaxed) == self.call {
            return false;
        }
        // Relaxed: read when this worker was reaped, and then all that it did is seen. The task does not begin before: it
        // is called through a pointer.
        self.work[WORK_CURRENT].store(pack(self.call, ticket + 1), Relaxed);
        true
    }

    /// The chunks that it did one after another just now and that returned nothing. Not needed where the call is finished
    /// right after: that says so too.
    #[inline]
    pub(super) fn note_done(&self, chunks: &Range<usize>) {
        // Release: whoever sees it sees what the tasks did, and the outcomes that were written before.
        self.work[WORK_DONE].store(pack_range(self.call, chunks.start, chunks.end), Release);
    }

    /// The chunks that it did one after another just now and that returned the numbers behind what is written.
    #[inline]
    pub(super) fn note_numbers(&self, chunks: &Range<usize>) {
        // Release: as above.
        self.work[WORK_NUMBERS].store(pack_range(self.call, chunks.start, chunks.end), Release);
    }

    /// There are none, and no later call may be told of any: in those few bits of its number that stand there it may be
    /// like this one.
    pub(super) fn forget_numbers(&self) {
        // Relaxed: before this worker's next call.
        self.work[WORK_NUMBERS].store(0, Relaxed);
    }

    /// Its outcomes are written up to there.
    #[inline]
    pub(super) fn note_written(&self, written: Place) {
        // Release: as above.
        self.work[WORK_WRITTEN].store(pack(self.call, written), Release);
    }

    /// How far the parent has read them.
    pub(super) fn taken(&self) -> Place {
        // Acquire: pairs with the release in `note_taken`.
        let (of, place) = unpack(self.talk[TALK_TAKEN].load(Acquire));
        if of == self.call { place } else { 0 }
    }

    /// Nothing of the call is touched by the worker any more, and all that came of it was written or said. `noted` where
    /// chunks were [noted](Self::note_done) as done.
    #[inline]
    pub(super) fn note_finished(&self, done: &Range<usize>, written: Place, noted: bool) {
        // Relaxed: ordered by the next store.
        self.talk[TALK_DONE].store(pack_range(self.call, done.start, done.end), Relaxed);
        // Release: whoever sees it sees all that the worker did for the call.
        self.talk[TALK_FINISHED].store(pack(self.call, written), Release);
        if noted {
            // Relaxed: before this worker's next call. A later one may be like this in those few bits of its number that
            // stand there, and would be told of chunks that it has not done. Not earlier: then they would be missed where
            // this worker is killed here.
            self.work[WORK_DONE].store(0, Relaxed);
        }
        ring(self.parent_asleep);
    }
}
