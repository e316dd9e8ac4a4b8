//! One call while it runs: who works on it, what has come back, what went wrong.
//!
//! ```text
//!            publish, ring
//!   planned ───────────────────────→ running ──────── every participant has finished ───→ settled
//!                                     │   ↑ ↑                    │
//!                      a worker died, │   │ │                    │ chunks are left that may run again:
//!     a task failed, it has to stop   ↓   │ └────────────────────┘ another round, with a number of its own
//!                                    closed: no chunk is taken any more ─── as above ───→ settled
//! ```
//!
//! *Settled* means that every worker that was sent the call has said its last word on it or was reaped. Nobody gets the
//! arrays back before that: [`Running`] settles when it is dropped, so neither an early return nor a panic gets around it.
//!
//! Another worker takes the place of one that died, and goes on with the round. The chunk that the dead one had in its
//! hands waits for the next round, which begins when every participant of this one has finished or was reaped: nobody can
//! still be at work on it then. So does what it had drawn beside it, or had just taken from another worker; it
//! had begun none of them, and they run in another round whether the call asks for retries or not.

mod losses;

use std::sync::Arc;
use std::time::{Duration, Instant};

use losses::Losses;

use super::cancel::Stop;
use super::chunk::Progress;
use super::control::Reader;
use super::crew::Crew;
use super::plan::BlockUse;
use super::protocol::{self, Asked, CallMessage, Outcome, Packet, ToParent, ToWorker};
use super::scope::Scope;
use super::system::{Kernel, Process, System};
use super::tally::{Noted, Settled, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::socket::Received;

/// How long a worker may take to end once its socket is closed, before it is killed.
const LAST_BREATH: Duration = Duration::from_millis(50);

/// After so long without a ring the workers are looked at anyway: for systems whose news of deaths do not come.
pub(super) const UNEASE: Duration = Duration::from_secs(1);

/// See [`Running::replacements`].
const SPARE_REPLACEMENTS: usize = 4;

/// What belongs to one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits<'c> {
    /// How often a chunk may run again because its worker died.
    pub(super) retries: u32,
    /// What ends the call early.
    pub(super) stop: Option<&'c Arc<Stop>>,
}

/// A call that workers have been told of.
pub(crate) struct Running<'c, S: System = Kernel> {
    crew: &'c mut Crew<S>,
    blocks: &'c [BlockUse<'c>],
    tally: Tally,
    limits: Limits<'c>,
    stopping: Stopping,
    /// Of most calls there is nothing to be said here.
    losses: Option<Box<Losses>>,
    round: Round,
    /// Workers that have not said their last word on this round, and whether their socket still says anything.
    participants: Vec<(usize, bool)>,
    /// How many workers may still be started in place of others that ended without a chunk: a call that kills workers
    /// before they take one has to end too.
    replacements: usize,
    /// How long nobody has rung while the parent slept.
    quiet: Duration,
    home: Epoch,
}

/// Has the call to stop?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// No more chunks begin; who is still at work then is killed, if there is a then.
    Grace(Option<Instant>),
    Killed,
}

/// What workers were told of last: a call of its own to them, which does what the crew's message says.
struct Round {
    call: u64,
    /// The number that the description has on the page; `None` where it goes by mail.
    described: Option<u64>,
    /// Workers that begin with a share of the tickets.
    sharers: usize,
    closed: bool,
}

impl Round {
    #[inline]
    fn new<S: System>(crew: &Crew<S>, call: u64, described: Option<u64>) -> Self {
        Self { call, described, sharers: crew.message().sharers(crew.len()), closed: false }
    }

    /// The same for a worker that finds it in its mail.
    fn packet<S: System>(&self, crew: &Crew<S>) -> Result<Packet> {
        let message = CallMessage { call: self.call, ..CallMessage::clone(crew.message()) };
        Packet::new(&ToWorker::Call(Box::new(message)))
    }
}

impl<'c, S: System> Running<'c, S> {
    /// Publishes the call and rings as many workers as there are chunks.
    #[cfg(test)]
    fn start(crew: &'c mut Crew<S>, asked: &Asked<'c>, limits: Limits<'c>) -> Result<Self> {
        let call = crew.next_call();
        let described = crew.describe(call, asked)?;
        Self::start_described(crew, asked, limits, (call, described))
    }

    /// Publishes a call that is described, and rings as many workers as there are chunks.
    pub(super) fn start_described(
        crew: &'c mut Crew<S>,
        asked: &Asked<'c>,
        limits: Limits<'c>,
        (call, described): (u64, Option<u64>),
    ) -> Result<Self> {
        let lent = (asked.scope, asked.blocks);
        let mut running = Self::of_round(Round::new(crew, call, described), crew, lent, limits);
        running.publish()?;
        Ok(running)
    }

    /// Goes on with a call that was published: its description is `id` on the page, and the first so many members take part.
    #[cold]
    pub(super) fn go_on(
        crew: &'c mut Crew<S>,
        lent: (Scope<'c>, &'c [BlockUse<'c>]),
        limits: Limits<'c>,
        (call, id): (u64, u64),
        participants: usize,
    ) -> Self {
        let mut running = Self::of_round(Round::new(crew, call, Some(id)), crew, lent, limits);
        running.participants.extend((0..participants).map(|index| (index, true)));
        running.read_from_the_start();
        running
    }

    fn of_round(
        round: Round,
        crew: &'c mut Crew<S>,
        (scope, blocks): (Scope<'c>, &'c [BlockUse<'c>]),
        limits: Limits<'c>,
    ) -> Self {
        let mut running = Self {
            home: epoch(),
            quiet: Duration::ZERO,
            participants: std::mem::take(&mut crew.participants),
            blocks,
            tally: Tally::new(scope),
            limits,
            stopping: Stopping::No,
            losses: None,
            round,
            replacements: 0,
            crew,
        };
        running.participants.clear();
        running.replacements = running.most_replacements();
        running
    }

    /// Tells workers of the round, as many as there are chunks in it. Nobody works on an earlier one any more.
    #[inline]
    fn publish(&mut self) -> Result<()> {
        let tickets = self.crew.message().tickets();
        let there = (0..self.crew.len()).filter(|&index| self.crew.member(index).is_some());
        self.participants.clear();
        self.participants.extend(there.take(tickets).map(|index| (index, true)));
        let packet = match self.prepare() {
            Ok(packet) => packet,
            Err(error) => {
                // Nobody was told.
                self.participants.clear();
                return Err(error);
            }
        };
        // From here on workers may touch what is lent, and this value sees to it that they are waited for.
        self.crew.page().open(self.round.call, self.round.sharers, tickets);
        for &(index, _) in &self.participants {
            match (&packet, self.round.described) {
                (None, Some(id)) => self.crew.page().announce(index, self.round.call, id, None),
                (Some(packet), _) => self.crew.send(index, packet),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Lends the participants what they need. Where the description is not on the page there is a message to be sent.
    #[inline]
    fn prepare(&mut self) -> Result<Option<Packet>> {
        for &(index, _) in &self.participants {
            self.crew.lend(index, self.blocks)?;
        }
        self.read_from_the_start();
        if self.round.described.is_some() { Ok(None) } else { self.round.packet(self.crew).map(Some) }
    }

    fn read_from_the_start(&mut self) {
        for &(index, _) in &self.participants {
            if let Some(member) = self.crew.member_mut(index) {
                member.outcomes = Reader::default();
            }
        }
    }

    #[inline]
    fn most_replacements(&self) -> usize {
        let retries = usize::try_from(self.limits.retries).unwrap_or(usize::MAX);
        (self.crew.len() + SPARE_REPLACEMENTS).saturating_add(retries)
    }

    /// Has workers run those chunks that are left.
    fn run_again(&mut self, left: Vec<usize>) -> Result<()> {
        // Workers that have ended meanwhile as well. Those that cannot be started now are missed only where no other is left.
        let whole = self.crew.replace_dead();
        if self.crew.is_empty() {
            return whole;
        }
        // A round in which nothing was done is one that cannot be had for ever.
        if !self.may_replace() {
            return Err(Error::new(ErrorKind::WorkerDied, "too many workers have died before they had begun a chunk"));
        }
        self.heed_stop();
        if self.stopping != Stopping::No {
            return Ok(());
        }
        let call = self.crew.next_call();
        let described = self.crew.describe_rest(call, left)?;
        self.round = Round::new(self.crew, call, described);
        self.publish()
    }

    /// Gives the call to a worker that comes late.
    fn enlist(&mut self, index: usize) -> Result<()> {
        self.crew.lend(index, self.blocks)?;
        if let Some(member) = self.crew.member_mut(index) {
            member.outcomes = Reader::default();
        }
        let packet = self.round.packet(self.crew)?;
        self.participants.push((index, true));
        self.crew.send(index, &packet);
        Ok(())
    }

    /// Waits until the call is settled, and tells `progress` how it goes.
    ///
    /// # Errors
    /// `Closed` in a child that `progress` forked: the call is the parent's.
    #[inline]
    pub(crate) fn finish(mut self, mut progress: Option<&mut dyn FnMut(Progress)>) -> Result<Settled> {
        loop {
            while !self.participants.is_empty() {
                let Some(progress) = &mut progress else {
                    self.step();
                    continue;
                };
                let before = self.tally.progress();
                self.step();
                if self.tally.progress() != before {
                    progress(self.tally.progress());
                    if self.home != epoch() {
                        return Err(Error::new(
                            ErrorKind::Closed,
                            "this call belongs to the process that this one was forked from",
                        ));
                    }
                }
            }
            if self.tally.is_whole() {
                break;
            }
            self.heed_stop();
            let left = self.tally.open();
            if self.tally.has_failed() {
                break;
            }
            if let Err(error) = self.run_again(left) {
                self.fail(None, error.kind(), format!("chunks of workers that died cannot be run again: {error}"));
                break;
            }
        }
        self.crew.forget_mail();
        let tally = std::mem::take(&mut self.tally);
        Ok(tally.settle())
    }

    /// Begins no more chunks when the call has to stop, and a while later kills those that are still at work.
    #[inline]
    fn heed_stop(&mut self) {
        if self.limits.stop.is_some() {
            self.stop_in_time();
        }
    }

    fn stop_in_time(&mut self) {
        match (self.stopping, self.limits.stop) {
            (Stopping::No, Some(stop)) => {
                if let Some(reason) = stop.reason() {
                    self.tally.stop(reason, stop.message(reason));
                    self.stopping = Stopping::Grace(stop.end_of_grace());
                    self.close();
                }
            }
            (Stopping::Grace(Some(until)), _) if S::clock() >= until => {
                self.stopping = Stopping::Killed;
                for &(index, _) in &self.participants {
                    if let Some(member) = self.crew.member(index) {
                        // Where that fails the process has ended.
                        let _ = member.process().pidfd.kill(libc::SIGKILL);
                    }
                }
            }
            _ => {}
        }
    }

    /// How long nobody has to look, if nobody rings.
    fn may_sleep(&self) -> Duration {
        let until = match (self.stopping, self.limits.stop) {
            (Stopping::No, Some(stop)) => stop.attention(),
            (Stopping::Grace(Some(until)), _) => Some(until.saturating_duration_since(S::clock())),
            _ => None,
        };
        until.map_or(UNEASE, |until| until.min(UNEASE))
    }

    /// Waits until something happens, and handles all that has.
    #[inline]
    fn step(&mut self) {
        #[cfg(test)]
        S::at_rest(|| self.state());
        self.heed_stop();
        let stirred = || {
            let told = |&(index, talking): &(usize, bool)| talking && self.has_told(index);
            self.crew.has_news() || self.participants.iter().any(told)
        };
        // A clock is looked at less often than words: the deadline is what the sleep is cut short for.
        let cancelled = || match (self.stopping, self.limits.stop) {
            (Stopping::No, Some(stop)) => stop.is_cancelled(),
            _ => false,
        };
        let spin = self.crew.spin_beside(self.participants.len());
        let mut asleep_since = None;
        let timeout = || {
            asleep_since = Some(S::clock());
            self.may_sleep()
        };
        self.crew.page().wait_as_parent(spin, timeout, stirred, || stirred() || cancelled());
        if let Some(since) = asleep_since
            && !stirred()
        {
            self.quiet += S::clock().saturating_duration_since(since);
        }
        let suspicious = self.quiet >= UNEASE;
        if suspicious {
            self.quiet = Duration::ZERO;
        }
        self.look(suspicious);
    }

    /// Has a participant finished, or does it want to be looked at?
    #[inline]
    fn has_told(&self, index: usize) -> bool {
        let seen = self.crew.member(index).map(|member| member.news);
        self.crew.page().has_finished(index, self.round.call) || seen != Some(self.crew.page().news(index))
    }

    /// Looks at every participant, and where there is news or `suspicious` is set at whether it lives.
    #[inline]
    fn look(&mut self, suspicious: bool) {
        let news = self.crew.take_news() || suspicious;
        // From the last one on: who retires moves none of those before it, and who joins has nothing to say yet. Who takes
        // the place of one that retires was looked at.
        for place in (0..self.participants.len()).rev() {
            let Some(&(index, talking)) = self.participants.get(place) else { continue };
            // Read before what it wrote: once it has finished there is nothing more to come.
            let finished = self.crew.page().has_finished(index, self.round.call);
            // Not where there is nothing to hear: what it writes is on lines that it needs for itself.
            if talking && (finished || news || self.has_told(index)) {
                self.listen(index);
            }
            if finished && self.participants.get(place) == Some(&(index, true)) {
                self.participants.swap_remove(place);
            } else if news && self.takes_part(index) {
                self.check(index);
            }
        }
    }

    fn takes_part(&self, index: usize) -> bool {
        self.participants.iter().any(|&(participant, _)| participant == index)
    }

    #[inline]
    fn is_heard(&self, index: usize) -> bool {
        self.participants.contains(&(index, true))
    }

    fn retire(&mut self, index: usize) {
        self.participants.retain(|&(participant, _)| participant != index);
    }

    /// Takes in all that a worker has written and said.
    fn listen(&mut self, index: usize) {
        if let Some((member, page)) = self.crew.member_on_page(index) {
            // Read before what it is about.
            member.news = page.news(index);
            let whose = (index, self.round.call, page.has_finished(index, self.round.call));
            let (mut done, mut failed) = (false, false);
            let read = member.outcomes.read(page, whose, &mut self.tally, Tally::buffer, |tally, entry| {
                let noted = tally.note_entry(entry);
                done |= noted == Noted::Done;
                failed |= noted == Noted::Failed;
                noted != Noted::Unexpected
            });
            self.hear_outcomes(done, failed);
            if read.is_err() {
                self.silence(index, ErrorKind::WorkerDied, "said what no worker says".to_owned());
            }
        }
        while self.is_heard(index) {
            let said = self.crew.member_on_page(index).and_then(|(member, page)| member.next_said(page));
            match said {
                None => break,
                Some(Ok(Some(received))) => {
                    if !self.take_in(index, received) {
                        self.silence(index, ErrorKind::WorkerDied, "said what no worker says".to_owned());
                    }
                }
                Some(Ok(None)) => {
                    self.silence(index, ErrorKind::WorkerDied, "closed its connection to the pool".to_owned());
                }
                Some(Err(error)) => self.silence(index, ErrorKind::Io, format!("could not be heard ({error})")),
            }
        }
    }

    /// Looks whether a worker has ended or closed its socket.
    fn check(&mut self, index: usize) {
        let Some(member) = self.crew.member(index) else { return self.retire(index) };
        // A process closes its socket shortly before it has ended; one that does not end goes on working.
        let closed = self.is_heard(index) && member.is_closed();
        if member.has_ended() || (closed && member.process().pidfd.wait_timeout(LAST_BREATH).is_some()) {
            // What it wrote and said before it died counts.
            self.listen(index);
            if self.takes_part(index) {
                self.mourn(index);
            }
        } else if closed && self.crew.page().has_finished(index, self.round.call) {
            // It did no harm; it is replaced before the next call.
            self.listen(index);
            self.retire(index);
        } else if closed {
            self.silence(index, ErrorKind::WorkerDied, "closed its connection to the pool".to_owned());
        }
    }

    /// `false` where one of the outcomes is none that was expected.
    fn note(&mut self, outcomes: Vec<(usize, Outcome)>) -> bool {
        outcomes.into_iter().all(|(chunk, outcome)| {
            let noted = self.tally.note(chunk, outcome);
            self.hear_outcomes(noted == Noted::Done, noted == Noted::Failed);
            noted != Noted::Unexpected
        })
    }

    #[inline]
    fn hear_outcomes(&mut self, done: bool, failed: bool) {
        if done {
            // It gets on.
            self.replacements = self.most_replacements();
        }
        if failed {
            self.close();
        }
    }

    /// Ends a worker that cannot be talked to; its pidfd tells when it is gone.
    fn silence(&mut self, index: usize, kind: ErrorKind, why: String) {
        if let Some(member) = self.crew.member(index) {
            // Where that fails the process has ended.
            let _ = member.process().pidfd.kill(libc::SIGKILL);
        }
        self.losses().silenced.push((index, kind, why));
        self.stop_listening(index);
    }

    fn stop_listening(&mut self, index: usize) {
        for participant in self.participants.iter_mut().filter(|(participant, _)| *participant == index) {
            participant.1 = false;
        }
    }

    /// `false` where the worker said something that it cannot have meant.
    fn take_in(&mut self, index: usize, received: Received) -> bool {
        match protocol::open(received) {
            Ok((ToParent::Outcomes { call, outcomes }, _)) if call == self.round.call => self.note(outcomes),
            Ok((ToParent::Refused { call, message }, _)) if call == self.round.call => {
                self.fail(None, ErrorKind::Io, message);
                self.retire(index);
                // What it has mapped is not what the parent thinks: another one starts afresh.
                self.crew.bury(index);
                true
            }
            _ => false,
        }
    }

    fn fail(&mut self, chunk: Option<usize>, kind: ErrorKind, message: String) {
        if chunk.is_none() {
            // Where something was given up because the call has to stop, that is the reason.
            self.heed_stop();
        }
        self.tally.fail(chunk, kind, message);
        self.close();
    }

    /// All that the rest of the call depends on beside the page.
    #[cfg(test)]
    fn state(&self) -> String {
        let stopping = std::mem::discriminant(&self.stopping);
        let round = (self.round.call, self.round.closed, &self.crew.message().left);
        let Self { participants, losses, replacements, quiet, tally, crew, .. } = self;
        format!("{:?} {}", (stopping, round, participants, losses, replacements, quiet, tally), crew.state())
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.round.closed, true) {
            self.crew.page().close(self.round.call);
        }
    }
}

impl<S: System> Drop for Running<'_, S> {
    fn drop(&mut self) {
        if self.home != epoch() {
            // A forked child in which a callback panicked: neither the call nor its workers are its own.
            return;
        }
        // Where nobody is left who could draw a ticket, the line that they look at may stay in their caches.
        if !self.participants.is_empty() {
            self.close();
            while !self.participants.is_empty() {
                self.step();
            }
        }
        std::mem::swap(&mut self.crew.participants, &mut self.participants);
    }
}

#[cfg(test)]
mod tests;
