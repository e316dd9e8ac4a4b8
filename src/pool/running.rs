//! One call while it runs: who works on it, what has come back, what went wrong.
//!
//! ```text
//!            publish, ring
//!   planned ───────────────────────→ running ──────── every participant has finished ───→ settled
//!                                     │   ↑
//!                      a worker died, │   │ it held no chunk: another one takes its place
//!                      a task failed  ↓   │
//!                                    closed: no chunk is taken any more ─── as above ───→ settled
//! ```
//!
//! *Settled* means that every worker that was sent the call has said its last word on it or was reaped. Nobody gets the
//! arrays back before that: [`Running`] settles when it is dropped, so neither an early return nor a panic gets around it.

use std::sync::Arc;
use std::time::Duration;

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

/// A call that workers have been told of.
pub(crate) struct Running<'c> {
    crew: &'c mut Crew,
    blocks: &'c [BlockUse<'c>],
    page: Arc<ControlPage>,
    description: Vec<u8>,
    call: u64,
    count: usize,
    tally: Tally,
    /// Workers that have not said their last word, and whether their socket still says anything.
    participants: Vec<(usize, bool)>,
    /// Why workers were killed that could not be listened to.
    silenced: Vec<(usize, ErrorKind, String)>,
    closed: bool,
    /// Chunks that were taken, known once the call is closed.
    taken: usize,
    /// How many workers may still be started in place of others that ended without a chunk: a call that kills workers
    /// before they take one has to end too.
    replacements: usize,
    home: Epoch,
    /// How a worker ended that may have had a chunk in its hands without having noted it.
    last_death: Option<String>,
}

impl<'c> Running<'c> {
    /// Publishes the call and rings as many workers as there are chunks.
    pub(crate) fn start(crew: &'c mut Crew, blocks: &'c [BlockUse<'c>], message: CallMessage) -> Result<Self> {
        let (call, division) = (message.call, message.division());
        let description = protocol::encode_call(&message)?;
        let workers = crew.len().min(division.count);
        for index in 0..workers {
            crew.lend(index, blocks)?;
            if let Some(member) = crew.member_mut(index) {
                member.read = 0;
            }
        }
        // Those that find no description on the page get it by mail.
        let mailed = description.len() > DESCRIPTION_LEN;
        let packet = if mailed { Some(Packet::new(&ToWorker::Call(Box::new(message)))?) } else { None };
        // From here on workers may touch what is lent, and this value sees to it that they are waited for.
        let running = Self {
            page: Arc::clone(crew.page()),
            home: epoch(),
            crew,
            blocks,
            description,
            call,
            count: division.count,
            tally: Tally::new(division),
            participants: (0..workers).map(|index| (index, true)).collect(),
            silenced: Vec::new(),
            closed: false,
            taken: 0,
            replacements: workers + SPARE_REPLACEMENTS,
            last_death: None,
        };
        running.page.publish(call, if mailed { 0 } else { workers }, &running.description);
        for index in 0..workers {
            match &packet {
                Some(packet) => running.crew.send(index, packet),
                None => running.page.worker_bell(index).ring(),
            }
        }
        Ok(running)
    }

    /// Gives the call to a worker that comes late.
    fn enlist(&mut self, index: usize) -> Result<()> {
        self.crew.lend(index, self.blocks)?;
        let message = protocol::decode_call(&self.description)?;
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
        self.close();
        if self.tally.noted() < self.taken {
            // A chunk was taken by a worker that died before it could note which.
            self.tally.note_cut_short();
        }
        let suspect = self.last_death.take().map(|death| format!("{death} with a chunk in its hands"));
        let tally = std::mem::replace(&mut self.tally, Tally::new(Division { count: 0, rows: 1, len: 0 }));
        Ok(tally.settle(suspect))
    }

    /// Waits until something happens, and handles all that has.
    fn step(&mut self) {
        let page = Arc::clone(&self.page);
        let bell = page.parent_bell();
        let count = bell.count();
        if !self.look(false) {
            bell.wait(count, self.crew.spin(), Some(UNEASE));
            if bell.count() == count {
                self.look(true);
            }
        }
    }

    /// Looks at every participant, and where there is news or `suspicious` is set at whether it lives; `false` where nothing has happened.
    fn look(&mut self, suspicious: bool) -> bool {
        let news = self.crew.take_news() || suspicious;
        let mut happened = news;
        for (index, talking) in self.participants.clone() {
            // Read before what it wrote: once it has finished there is nothing more to come.
            let finished = self.page.has_finished(index, self.call);
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
            let bytes = page.appended(index, self.call, &mut member.read);
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
        } else if closed && self.page.has_finished(index, self.call) {
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
            Noted::Done => true,
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
            Ok((ToParent::Outcomes { call, outcomes }, _)) if call == self.call => self.note(outcomes),
            Ok((ToParent::Refused { call, message }, _)) if call == self.call => {
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
        let lost = self.page.last_taken(index, self.call).filter(|&chunk| self.tally.is_open(chunk));
        let silenced = self.silenced.iter().position(|(silenced, ..)| *silenced == index);
        let (kind, how) = match silenced.map(|position| self.silenced.swap_remove(position)) {
            Some((_, kind, why)) => (kind, format!("{why} and was killed")),
            None if ended == Ended::Exited(NO_ROOM) => {
                (ErrorKind::Io, "had no room for the descriptors that it was sent (see `ulimit -n`)".to_owned())
            }
            None => (ErrorKind::WorkerDied, ended.to_string()),
        };
        let death = format!("worker {index} (process {pid}) {how}");
        if let Some(chunk) = lost {
            let message = format!("{death} while it ran {}", self.tally.describe(chunk));
            self.tally.note_cut_short();
            self.fail(Some(chunk), kind, message);
            return;
        }
        self.last_death = Some(death.clone());
        // Nothing is known to be lost; where there is work left, somebody has to do it.
        if !self.closed && self.page.has_untaken(self.call, self.count) {
            if self.replacements == 0 {
                if self.participants.is_empty() {
                    self.fail(None, kind, format!("{death}, like others before it that had not begun a chunk"));
                }
                return;
            }
            self.replacements -= 1;
            match self.crew.replace(index).and_then(|()| self.enlist(index)) {
                Err(error) if self.participants.is_empty() => {
                    self.fail(None, error.kind(), format!("no worker is left, and none can be started: {error}"));
                }
                // It goes on, or the others do its work.
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn fail(&mut self, chunk: Option<usize>, kind: ErrorKind, message: String) {
        self.tally.fail(chunk, kind, message);
        self.close();
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.taken = self.page.close(self.call, self.count);
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
