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
//! hands waits for the next round, which begins when every participant of this one has finished or was reaped. Only then
//! is it sure which chunks are lost, those of workers among them that died between the ticket and their *current* word:
//! the ones that were taken and have no outcome. And nobody can still be at work on one of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cancel::{GRACE, Stop};
use super::chunk::{Division, Progress};
use super::control::{ControlPage, DESCRIPTION_LEN};
use super::crew::Crew;
use super::plan::BlockUse;
use super::protocol::{self, CallMessage, Outcome, Packet, ToParent, ToWorker};
use super::tally::{Noted, Settled, Tally};
use super::worker::NO_ROOM;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::process::Ended;
use crate::sys::socket::Received;

/// How long a worker may take to end once its socket is closed, before it is killed.
const LAST_BREATH: Duration = Duration::from_millis(50);

/// After so long without a ring the workers are looked at anyway: for systems whose news of deaths do not come.
const UNEASE: Duration = Duration::from_secs(1);

/// See [`Running::replacements`].
const SPARE_REPLACEMENTS: usize = 4;

/// What belongs to one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// How often a chunk may run again because its worker died.
    pub(super) retries: u32,
    /// What ends the call early.
    pub(super) stop: Option<Arc<Stop>>,
}

/// A call that workers have been told of.
pub(crate) struct Running<'c> {
    crew: &'c mut Crew,
    blocks: &'c [BlockUse<'c>],
    page: Arc<ControlPage>,
    tally: Tally,
    limits: Limits,
    stopping: Stopping,
    /// How many workers have died over a chunk.
    deaths: HashMap<usize, u32>,
    round: Round,
    /// Workers that have not said their last word on this round, and whether their socket still says anything.
    participants: Vec<(usize, bool)>,
    /// Why workers were killed that could not be listened to.
    silenced: Vec<(usize, ErrorKind, String)>,
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
    /// No more chunks begin; who is still at work then is killed.
    Grace(Instant),
    Killed,
}

/// What workers were told of last: a call of its own to them.
struct Round {
    call: u64,
    description: Vec<u8>,
    tickets: usize,
    /// See [`CallMessage::left`].
    left: Option<Vec<usize>>,
    closed: bool,
    /// Tickets that were taken, known once the round is closed.
    taken: usize,
    /// Chunks of this round whose worker died.
    lost: BTreeSet<usize>,
    /// How a worker ended that may have had a chunk in its hands without having noted it.
    last_death: Option<String>,
}

impl Round {
    fn new(message: &CallMessage) -> Result<Self> {
        Ok(Self {
            call: message.call,
            description: protocol::encode_call(message)?,
            tickets: message.tickets(),
            left: message.left.clone(),
            closed: false,
            taken: 0,
            lost: BTreeSet::new(),
            last_death: None,
        })
    }

    fn chunk_of(&self, ticket: usize) -> Option<usize> {
        match &self.left {
            Some(left) => left.get(ticket).copied(),
            None => Some(ticket),
        }
    }
}

impl<'c> Running<'c> {
    /// Publishes the call and rings as many workers as there are chunks.
    pub(crate) fn start(
        crew: &'c mut Crew,
        blocks: &'c [BlockUse<'c>],
        message: CallMessage,
        limits: Limits,
    ) -> Result<Self> {
        let mut running = Self {
            page: Arc::clone(crew.page()),
            home: epoch(),
            quiet: Duration::ZERO,
            crew,
            blocks,
            tally: Tally::new(message.division()),
            limits,
            stopping: Stopping::No,
            deaths: HashMap::new(),
            round: Round::new(&message)?,
            participants: Vec::new(),
            silenced: Vec::new(),
            replacements: 0,
        };
        running.publish(message)?;
        Ok(running)
    }

    /// Tells workers of the round, as many as there are chunks in it. Nobody works on an earlier one any more.
    fn publish(&mut self, message: CallMessage) -> Result<()> {
        let there = (0..self.crew.len()).filter(|&index| self.crew.member(index).is_some());
        let takers: Vec<usize> = there.take(self.round.tickets).collect();
        for &index in &takers {
            self.crew.lend(index, self.blocks)?;
            if let Some(member) = self.crew.member_mut(index) {
                member.read = 0;
            }
        }
        // Those that find no description on the page get it by mail.
        let mailed = self.round.description.len() > DESCRIPTION_LEN;
        let packet = if mailed { Some(Packet::new(&ToWorker::Call(Box::new(message)))?) } else { None };
        // From here on workers may touch what is lent, and this value sees to it that they are waited for.
        self.participants = takers.iter().map(|&index| (index, true)).collect();
        self.replacements = self.most_replacements();
        let announced = if mailed { 0 } else { takers.last().map_or(0, |last| last + 1) };
        self.page.publish(self.round.call, announced, &self.round.description);
        for &index in &takers {
            match &packet {
                Some(packet) => self.crew.send(index, packet),
                None => self.page.worker_bell(index).ring(),
            }
        }
        Ok(())
    }

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
        self.heed_stop();
        if self.stopping != Stopping::No {
            return Ok(());
        }
        let mut message = protocol::decode_call(&self.round.description)?;
        message.call = self.crew.next_call();
        message.left = Some(left);
        self.round = Round::new(&message)?;
        self.publish(message)
    }

    /// Gives the call to a worker that comes late.
    fn enlist(&mut self, index: usize) -> Result<()> {
        self.crew.lend(index, self.blocks)?;
        let message = protocol::decode_call(&self.round.description)?;
        let packet = Packet::new(&ToWorker::Call(Box::new(message)))?;
        self.participants.push((index, true));
        self.crew.send(index, &packet);
        Ok(())
    }

    /// Waits until the call is settled, and tells `progress` how it goes.
    ///
    /// # Errors
    /// `Closed` in a child that `progress` forked: the call is the parent's.
    pub(crate) fn finish(mut self, progress: &mut dyn FnMut(Progress)) -> Result<Settled> {
        loop {
            while !self.participants.is_empty() {
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
            self.end_round();
            self.heed_stop();
            let left = self.tally.open();
            if left.is_empty() || self.tally.has_failed() {
                break;
            }
            if let Err(error) = self.run_again(left) {
                let message = format!("chunks of workers that died cannot be run again: {error}");
                self.tally.fail(None, error.kind(), message);
                break;
            }
        }
        let tally = std::mem::replace(&mut self.tally, Tally::new(Division { count: 0, rows: 1, len: 0 }));
        Ok(tally.settle())
    }

    /// Nobody works on the round any more: what was taken and has no outcome is lost.
    fn end_round(&mut self) {
        self.close();
        let taken = (0..self.round.taken).filter_map(|ticket| self.round.chunk_of(ticket));
        let lost: Vec<_> =
            taken.filter(|chunk| self.tally.is_open(*chunk) && !self.round.lost.contains(chunk)).collect();
        let death = self.round.last_death.take().unwrap_or_else(|| "a worker ended".to_owned());
        for chunk in lost {
            self.lose(chunk, ErrorKind::WorkerDied, &format!("{death} when it had taken"));
        }
    }

    /// Begins no more chunks when the call has to stop, and a while later kills those that are still at work.
    fn heed_stop(&mut self) {
        match (self.stopping, &self.limits.stop) {
            (Stopping::No, Some(stop)) => {
                if let Some(reason) = stop.reason() {
                    self.tally.stop(reason, stop.message(reason));
                    self.close();
                    self.stopping = Stopping::Grace(Instant::now() + GRACE);
                }
            }
            (Stopping::Grace(until), _) if Instant::now() >= until => {
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
        let until = match (self.stopping, &self.limits.stop) {
            (Stopping::No, Some(stop)) => stop.attention(),
            (Stopping::Grace(until), _) => Some(until.saturating_duration_since(Instant::now())),
            _ => None,
        };
        until.map_or(UNEASE, |until| until.min(UNEASE))
    }

    /// Waits until something happens, and handles all that has.
    fn step(&mut self) {
        self.heed_stop();
        let page = Arc::clone(&self.page);
        let bell = page.parent_bell();
        let count = bell.count();
        if !self.look(false) {
            let pause = self.may_sleep();
            bell.wait(count, self.crew.spin(), Some(pause));
            if bell.count() == count {
                self.quiet += pause;
                if self.quiet >= UNEASE {
                    self.quiet = Duration::ZERO;
                    self.look(true);
                }
            }
        }
    }

    /// Looks at every participant, and where there is news or `suspicious` is set at whether it lives; `false` where nothing has happened.
    fn look(&mut self, suspicious: bool) -> bool {
        let news = self.crew.take_news() || suspicious;
        let mut happened = news;
        for (index, talking) in self.participants.clone() {
            // Read before what it wrote: once it has finished there is nothing more to come.
            let finished = self.page.has_finished(index, self.round.call);
            if talking {
                happened |= self.listen(index);
            }
            if finished && self.is_heard(index) {
                self.retire(index);
                happened = true;
            } else if news && self.takes_part(index) {
                self.check(index);
            }
        }
        happened
    }

    fn takes_part(&self, index: usize) -> bool {
        self.participants.iter().any(|&(participant, _)| participant == index)
    }

    fn is_heard(&self, index: usize) -> bool {
        self.participants.contains(&(index, true))
    }

    fn retire(&mut self, index: usize) {
        self.participants.retain(|&(participant, _)| participant != index);
    }

    /// Takes in all that a worker has written and said; `false` where that is nothing.
    fn listen(&mut self, index: usize) -> bool {
        let page = Arc::clone(&self.page);
        let mut happened = false;
        if let Some(member) = self.crew.member_mut(index) {
            let bytes = page.appended(index, self.round.call, &mut member.read);
            if !bytes.is_empty() {
                happened = true;
                let noted = protocol::decode_records(&bytes).is_ok_and(|outcomes| self.note(outcomes));
                if !noted {
                    self.silence(index, ErrorKind::WorkerDied, "said what no worker says".to_owned());
                }
            }
        }
        while self.is_heard(index) {
            let Some(said) = self.crew.member_mut(index).and_then(|member| member.next_said(&page)) else { break };
            happened = true;
            match said {
                Ok(Some(received)) => {
                    if !self.take_in(index, received) {
                        self.silence(index, ErrorKind::WorkerDied, "said what no worker says".to_owned());
                    }
                }
                Ok(None) => self.silence(index, ErrorKind::WorkerDied, "closed its connection to the pool".to_owned()),
                Err(error) => self.silence(index, ErrorKind::Io, format!("could not be heard ({error})")),
            }
        }
        happened
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
        } else if closed && self.page.has_finished(index, self.round.call) {
            // It did no harm; it is replaced before the next call.
            self.listen(index);
            self.retire(index);
        } else if closed {
            self.silence(index, ErrorKind::WorkerDied, "closed its connection to the pool".to_owned());
        }
    }

    /// `false` where one of the outcomes is none that was expected.
    fn note(&mut self, outcomes: Vec<(usize, Outcome)>) -> bool {
        outcomes.into_iter().all(|(chunk, outcome)| match self.tally.note(chunk, outcome) {
            Noted::Done => {
                // It gets on.
                self.replacements = self.most_replacements();
                true
            }
            Noted::Failed => {
                self.close();
                true
            }
            Noted::Unexpected => false,
        })
    }

    /// Ends a worker that cannot be talked to; its pidfd tells when it is gone.
    fn silence(&mut self, index: usize, kind: ErrorKind, why: String) {
        if let Some(member) = self.crew.member(index) {
            // Where that fails the process has ended.
            let _ = member.process().pidfd.kill(libc::SIGKILL);
        }
        self.silenced.push((index, kind, why));
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

    /// Reaps a worker that has ended, and finds out what it had in its hands.
    fn mourn(&mut self, index: usize) {
        self.retire(index);
        let Some((pid, ended)) = self.crew.bury(index) else { return };
        let taken = self.page.last_taken(index, self.round.call);
        let lost = taken.and_then(|ticket| self.round.chunk_of(ticket)).filter(|&chunk| self.tally.is_open(chunk));
        let silenced = self.silenced.iter().position(|(silenced, ..)| *silenced == index);
        let (kind, how) = match silenced.map(|position| self.silenced.swap_remove(position)) {
            Some((_, kind, why)) => (kind, format!("{why} and was killed")),
            None if ended == Ended::Exited(NO_ROOM) => {
                (ErrorKind::Io, "had no room for the descriptors that it was sent (see `ulimit -n`)".to_owned())
            }
            None => (ErrorKind::WorkerDied, ended.to_string()),
        };
        let death = format!("worker {index} (process {pid}) {how}");
        match lost {
            Some(chunk) => self.lose(chunk, kind, &format!("{death} while it ran")),
            None => self.round.last_death = Some(death.clone()),
        }
        // Where there is work left, somebody has to do it.
        if self.round.closed || !self.page.has_untaken(self.round.call, self.round.tickets) {
            return;
        }
        if lost.is_none() && !self.may_replace() {
            if self.participants.is_empty() {
                self.fail(None, kind, format!("{death}, like others before it that had not begun a chunk"));
            }
            return;
        }
        let started = loop {
            match self.crew.replace(index) {
                // Killed before it was there.
                Err(error) if error.kind() == ErrorKind::WorkerDied && self.may_replace() => {}
                other => break other.and_then(|()| self.enlist(index)),
            }
        };
        match started {
            Err(error) if self.participants.is_empty() => {
                self.fail(None, error.kind(), format!("{death}; no worker is left, and none can be started: {error}"));
            }
            // It goes on, or the others do its work.
            Ok(()) | Err(_) => {}
        }
    }

    /// One more replacement that had nothing to show for it: is there another one?
    fn may_replace(&mut self) -> bool {
        let left = self.replacements.checked_sub(1);
        self.replacements = left.unwrap_or(0);
        left.is_some()
    }

    /// The worker of a chunk has died: the chunk waits for the next round, or is one time too many lost.
    fn lose(&mut self, chunk: usize, kind: ErrorKind, how: &str) {
        self.tally.note_cut_short(chunk);
        self.round.lost.insert(chunk);
        let deaths = self.deaths.entry(chunk).or_default();
        *deaths += 1;
        let deaths = *deaths;
        // Once the call has to stop, workers are killed, and that is what is told.
        if deaths > self.limits.retries && self.stopping == Stopping::No {
            let before = match deaths - 1 {
                0 => String::new(),
                1 => ", as did one worker before it".to_owned(),
                before => format!(", as did {before} workers before it"),
            };
            let message = format!("{how} {}{before}", self.tally.describe(chunk));
            self.fail(Some(chunk), kind, message);
        }
    }

    fn fail(&mut self, chunk: Option<usize>, kind: ErrorKind, message: String) {
        self.tally.fail(chunk, kind, message);
        self.close();
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.round.closed, true) {
            self.round.taken = self.page.close(self.round.call, self.round.tickets);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.home != epoch() {
            // A forked child in which a callback panicked: neither the call nor its workers are its own.
            return;
        }
        self.close();
        while !self.participants.is_empty() {
            self.step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::args::{Args, Each};
    use crate::pool::plan::Plan;
    use crate::pool::task::{Plain, TaskRef};

    /// A call over the items 0 to 5, whose tasks double theirs.
    fn doubling(crew: &mut Crew) -> CallMessage {
        let items: Vec<u32> = (0..6).collect();
        let args = Each(&items);
        let mut plan = Plan::new();
        args.describe(&mut plan).unwrap();
        let division = plan.divide(2).unwrap();
        let task = TaskRef::new::<Each<'_, u32>, u32, Plain>(|item, _| 2 * item).address().unwrap();
        let Plan { leaves, .. } = plan;
        let Division { count, rows, len } = division;
        CallMessage { call: crew.next_call(), task, count, rows, len, blocks: Vec::new(), leaves, left: None }
    }

    /// The call with its first ticket in the hands of a worker that dies before its *current* word says so.
    fn settle_without_a_note(retries: u32) -> Settled {
        let mut crew = Crew::start(2, Vec::new(), Duration::ZERO).unwrap();
        let page = Arc::clone(crew.page());
        let stopped = [0, 1].map(|index| {
            let pidfd = &crew.member(index).unwrap().process().pidfd;
            pidfd.kill(libc::SIGSTOP).unwrap();
            crew.pids()[index]
        });
        let is_stopped = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
        while !stopped.into_iter().all(is_stopped) {
            std::thread::yield_now();
        }
        let message = doubling(&mut crew);
        let (call, tickets) = (message.call, message.tickets());
        let running = Running::start(&mut crew, &[], message, Limits { retries, stop: None }).unwrap();
        assert_eq!(page.take(1, call, tickets), Some(0));
        page.clear(1);
        running.crew.member(1).unwrap().process().pidfd.kill(libc::SIGKILL).unwrap();
        running.crew.member(0).unwrap().process().pidfd.kill(libc::SIGCONT).unwrap();
        running.finish(&mut |_| ()).unwrap()
    }

    #[test]
    fn a_chunk_whose_worker_died_before_it_could_note_it_runs_again() {
        let settled = settle_without_a_note(1);
        assert!(settled.failure.is_none() && !settled.cut_short, "{:?}", settled.failure);
        assert!(settled.outcomes.iter().all(|outcome| matches!(outcome, Some(Outcome::Done(_)))));
    }

    #[test]
    fn a_chunk_whose_worker_died_before_it_could_note_it_is_named() {
        let settled = settle_without_a_note(0);
        let error = settled.failure.unwrap();
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert!(matches!(error.rows(), [rows] if *rows == (0..1)), "{error:?}");
        assert!(settled.cut_short);
        assert!(error.to_string().contains("SIGKILL) when it had taken rows 0..1 (chunk 0 of 6)"), "{error}");
    }
}
