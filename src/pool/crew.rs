//! The worker processes of one pool, from the parent's side: started, told, replaced, ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cancel::Stop;
use super::control::{ControlPage, MAX_CALL, Reader, Rhythm};
use super::member::{Lent, Member};
use super::plan::{BlockAccess, BlockUse, SplitUse};
use super::protocol::{self, Asked, CallMessage, Packet, ToWorker};
use super::system::{Kernel, News, Process, System};
use super::task::TaskRef;
use super::told::Told;
use crate::error::{ErrorKind, Result};
use crate::memory::Borrower;
use crate::start::Role;
use crate::start::output::WorkerOutput;
use crate::start::spawn::{SpawnOptions, WorkerProcess};
use crate::sys::file;
use crate::sys::lock::Patience;
use crate::sys::map::Access;
use crate::sys::oom::{self, OomKills};
use crate::sys::process::Ended;

/// How long workers may take to end by themselves when their pool is dropped; then they are killed.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often a worker is started in a place where others were killed before they were there.
const START_TRIES: usize = 4;

/// A member, and the page that it is told on.
type OnPage<'c, S> = (&'c mut Member<<S as System>::Process>, &'c ControlPage<<S as System>::Memory>);

/// What workers are started with.
#[derive(Clone, Debug, Default)]
pub(crate) struct CrewOptions {
    pub(crate) workers: usize,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) spin: Duration,
    /// Of this process.
    pub(crate) cpus: usize,
    /// How many threads each may have.
    pub(crate) threads: usize,
    /// The CPUs of each; none where they may be anywhere.
    pub(crate) places: Vec<Vec<usize>>,
    /// Standard output and error.
    pub(crate) output: (WorkerOutput, WorkerOutput),
}

/// All workers of a pool. Invariant: a member that is `Some` was neither reaped nor found dead.
pub(crate) struct Crew<S: System = Kernel> {
    members: Vec<Option<Member<S::Process>>>,
    options: CrewOptions,
    oom: OomKills,
    page: Arc<ControlPage<S::Memory>>,
    watch: S::News,
    /// Somebody may have ended and was not looked at yet.
    suspicious: bool,
    /// Somebody may be missing.
    incomplete: bool,
    last_call: u64,
    /// How long workers have taken of late.
    rhythm: Rhythm,
    /// What workers were told last: most calls are like the one before.
    told: Told,
    /// Who tells workers of blocks that are gone, and so has to hear of it.
    borrower: Option<Weak<dyn Borrower>>,
    /// Empty, for who takes part in the next call.
    pub(crate) participants: Vec<(usize, bool)>,
    /// What may end the call that has the crew.
    stop: Option<Arc<Stop>>,
}

impl Crew {
    /// Starts so many workers and waits until all of them are there.
    pub(crate) fn start(options: CrewOptions) -> Result<Self> {
        Self::start_in(options)
    }
}

impl<S: System> Crew<S> {
    /// The same in any system.
    pub(crate) fn start_in(options: CrewOptions) -> Result<Self> {
        let workers = options.workers;
        let page = Arc::new(S::create_page(workers)?);
        let watch = S::News::start(Arc::clone(&page))?;
        let members = (0..workers).map(|_| None).collect();
        let mut crew = Self {
            members,
            options,
            oom: S::oom_kills(),
            page,
            watch,
            suspicious: false,
            incomplete: true,
            last_call: 0,
            rhythm: Rhythm::default(),
            told: Told::nothing(),
            borrower: None,
            participants: Vec::new(),
            stop: None,
        };
        crew.replace_missing()?;
        Ok(crew)
    }

    /// From here on `borrower` hears of every block that workers are lent when that is gone.
    pub(crate) fn on_behalf_of(self, borrower: Weak<dyn Borrower>) -> Self {
        // By its fields: a crew that is dropped ends its workers.
        let mut crew = self;
        crew.borrower = Some(borrower);
        crew
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    #[inline]
    pub(crate) fn page(&self) -> &Arc<ControlPage<S::Memory>> {
        &self.page
    }

    /// For how long a call spins that waits for so many workers: not where they need all the CPUs.
    #[inline]
    pub(crate) fn spin_beside(&self, workers: usize) -> Duration {
        if workers < self.options.cpus { self.options.spin } else { Duration::ZERO }
    }

    #[inline]
    pub(crate) fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }

    /// From here on waits for workers end when the call is told to; for nothing once it is `None`.
    #[inline]
    pub(crate) fn heed(&mut self, stop: Option<Arc<Stop>>) {
        self.stop = stop;
    }

    /// A call number that was never used. To be asked for after [`replace_dead`](Self::replace_dead), which sees to it that
    /// there is one.
    #[inline]
    pub(crate) fn next_call(&mut self) -> u64 {
        debug_assert!(self.last_call < MAX_CALL, "call numbers have begun again in time");
        self.last_call += 1;
        self.last_call
    }

    /// Puts what is asked for on the page, as the description of a call, unless it stands there. Nobody may be at work.
    /// Returns the number that workers find it by; `None` where it is too long.
    #[inline]
    pub(crate) fn describe(&mut self, call: u64, asked: &Asked<'_>) -> Result<Option<u64>> {
        if self.told.are(asked) {
            return Ok(Some(self.told.message.call));
        }
        self.describe_anew(asked.message(call)?, asked.task, asked.splits)
    }

    /// The number of the description of what is asked, where all workers are there, have seen it and have what it takes, as far
    /// as is known: then nobody has to be told more than that there is another such call.
    #[inline]
    pub(crate) fn know(&self, asked: &Asked<'_>) -> Option<u64> {
        let locks = self.told.lent.as_ref().filter(|_| self.is_calm() && self.told.are(asked))?;
        let has_lock =
            |(block, has): (&BlockUse<'_>, &Option<Access>)| block.lock().is_none_or(|lock| *has == Some(lock));
        asked.blocks.iter().zip(locks).all(has_lock).then_some(self.told.message.call)
    }

    /// What workers were told last, where it holds for another call of that task [as it is](Told::is_all_but_arguments).
    #[inline]
    pub(crate) fn told(&self, task: TaskRef) -> Option<&Told> {
        Some(&self.told).filter(|told| self.is_calm() && told.is_all_but_arguments(task))
    }

    /// Is nobody missing, and is there nothing to be looked at before the next call?
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        !(self.suspicious || self.incomplete || self.watch.has_news() || self.last_call == MAX_CALL)
    }

    /// The same for the chunks that are left of the last call.
    pub(crate) fn describe_rest(&mut self, call: u64, left: Vec<usize>) -> Result<Option<u64>> {
        let Told { task, message, .. } = std::mem::replace(&mut self.told, Told::nothing());
        let Some(task) = task else { return Ok(None) };
        self.describe_anew(CallMessage { call, left: Some(left), ..message }, task, &[])
    }

    #[cold]
    fn describe_anew(&mut self, message: CallMessage, task: TaskRef, splits: &[SplitUse]) -> Result<Option<u64>> {
        // Half written it is nobody's.
        self.told.on_page = false;
        let id = message.call;
        let on_page = self.page.describe(id, &protocol::encode_call(&message)?);
        self.told = Told::new(task, message, splits, on_page);
        Ok(on_page.then_some(id))
    }

    /// What went by mail may be large, and is not asked for again once its call is over.
    pub(crate) fn forget_mail(&mut self) {
        if !self.told.on_page {
            self.told = Told::nothing();
        }
    }

    /// What [`describe`](Self::describe) has told last.
    #[inline]
    pub(crate) fn message(&self) -> &CallMessage {
        &self.told.message
    }

    /// Would [`take_news`](Self::take_news) say so?
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.watch.has_news()
    }

    /// May a worker have ended since this was last asked? What it was is for the asker to find out, of those that it
    /// cares about; the others are looked at before the next call.
    #[inline]
    pub(crate) fn take_news(&mut self) -> bool {
        let news = self.watch.take_news();
        self.suspicious |= news;
        news
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().flatten().map(|member| member.process.pid).collect()
    }

    #[inline]
    pub(crate) fn member(&self, index: usize) -> Option<&Member<S::Process>> {
        self.members.get(index)?.as_ref()
    }

    /// With what it is told and says.
    #[inline]
    pub(crate) fn member_on_page(&mut self, index: usize) -> Option<OnPage<'_, S>> {
        Some((self.members.get_mut(index)?.as_mut()?, &self.page))
    }

    #[inline]
    pub(crate) fn member_mut(&mut self, index: usize) -> Option<&mut Member<S::Process>> {
        self.members.get_mut(index)?.as_mut()
    }

    /// Reaps those that have ended since the last call, and starts others in their place.
    ///
    /// # Errors
    /// Where one of them could not be started. The others are there, and a call can go on with them.
    #[inline]
    pub(crate) fn replace_dead(&mut self) -> Result<()> {
        self.take_news();
        if self.last_call == MAX_CALL {
            self.begin_again();
        }
        if self.suspicious || self.incomplete {
            return self.replace_suspects();
        }
        Ok(())
    }

    #[cold]
    fn replace_suspects(&mut self) -> Result<()> {
        if std::mem::take(&mut self.suspicious) {
            for index in 0..self.members.len() {
                // A worker that is idle has nothing to say: if its socket is readable, it is closed.
                if self.members[index].as_ref().is_some_and(|member| member.has_ended() || member.is_deaf()) {
                    self.bury(index);
                }
            }
        }
        self.replace_missing()
    }

    /// Ends all workers, so that numbers which they have seen can be used again: after days of calls without a pause.
    #[cold]
    fn begin_again(&mut self) {
        self.dismiss();
        self.page.begin_again();
        // What is left of a call may have to be told yet.
        self.told.on_page = false;
        self.last_call = 0;
    }

    /// Ends all workers: their sockets close, and who has not ended soon after is killed. None is left, not even as a
    /// zombie.
    fn dismiss(&mut self) {
        self.incomplete = true;
        let leaving: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(Option::take)
            .map(|Member { index, process: WorkerProcess { pidfd, socket, .. }, .. }| {
                // Reaches the worker even where a forked child has the socket as well.
                socket.shut_down();
                drop(socket);
                // Who looks for this message finds the end of the file.
                self.page.note_mail(index);
                pidfd
            })
            .collect();
        let deadline = Instant::now() + FAREWELL;
        for pidfd in leaving {
            if pidfd.wait_timeout(deadline.saturating_duration_since(Instant::now())).is_none() {
                let _ = pidfd.kill(libc::SIGKILL);
                pidfd.wait();
            }
        }
    }

    /// As after so many calls.
    #[cfg(test)]
    pub(super) fn skip_to_call(&mut self, call: u64) {
        self.last_call = call;
    }

    #[cfg(test)]
    pub(super) fn last_call(&self) -> u64 {
        self.last_call
    }

    /// All that the next calls depend on beside the page.
    #[cfg(test)]
    pub(super) fn state(&self) -> String {
        let member = |member: &Member<S::Process>| {
            let Member { index, process, heard, news, outcomes, mapped } = member;
            format!("{:?}", (index, process.pid, heard, news, outcomes, mapped.keys()))
        };
        let members: Vec<_> = self.members.iter().map(|place| place.as_ref().map(member)).collect();
        let described = (self.told.on_page, self.told.message.call);
        format!("{members:?} {} {} {described:?} {}", self.suspicious, self.last_call, self.incomplete)
    }

    /// Is nobody missing, as far as is known?
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        !self.incomplete
    }

    /// Is no worker there at all?
    pub(crate) fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    fn replace_missing(&mut self) -> Result<()> {
        self.incomplete = self.members.iter().any(Option::is_none);
        if !self.incomplete {
            return Ok(());
        }
        for _ in 1..START_TRIES {
            match self.start_missing() {
                // It was killed before it was there: bad luck, or what always happens.
                Err(error) if error.kind() == ErrorKind::WorkerDied => {}
                other => return other,
            }
        }
        self.start_missing()
    }

    fn start_missing(&mut self) -> Result<()> {
        // All are begun before the first is waited for.
        let missing: Vec<_> = (0..self.members.len()).filter(|&index| self.members[index].is_none()).collect();
        let begun: Vec<_> = missing.into_iter().map(|index| (index, self.begin(index))).collect();
        let mut all = Ok(());
        for (index, starting) in begun {
            let welcomed = starting.and_then(|starting| self.welcome(index, starting));
            all = all.and(welcomed);
        }
        all
    }

    fn begin(&self, index: usize) -> Result<S::Starting> {
        let (stdout, stderr) = self.options.output.clone();
        S::begin(&SpawnOptions { env: self.options.env.clone(), role: Role::Worker(index), stdout, stderr })
    }

    fn welcome(&mut self, index: usize, starting: S::Starting) -> Result<()> {
        let spin = u64::try_from(self.options.spin.as_nanos()).unwrap_or(u64::MAX);
        let (workers, call, threads) = (self.members.len(), self.last_call, self.options.threads);
        let place = self.options.places.get(index).cloned().unwrap_or_default();
        let packet = Packet::new(&ToWorker::Welcome { workers, call, spin, threads, place })?;
        let process = S::finish(starting, self.stop.as_deref().map(|stop| stop as &dyn Patience))?;
        let watched = self.watch.add(&process);
        let member = Member { index, process, heard: 0, news: 0, outcomes: Reader::default(), mapped: BTreeMap::new() };
        self.page.clear(index);
        if watched.is_ok() {
            member.send(&packet, &[self.page.fd()], self.stop.as_deref());
        }
        self.members[index] = Some(member);
        self.told.lent = None;
        if watched.is_err() {
            // Nobody would hear of its end.
            self.bury(index);
        }
        watched
    }

    /// Starts a worker in an empty place.
    pub(crate) fn replace(&mut self, index: usize) -> Result<()> {
        if self.members[index].is_none() {
            let starting = self.begin(index)?;
            self.welcome(index, starting)?;
        }
        Ok(())
    }

    /// Gives the first so many workers the blocks of the call that was described, see [`lend`](Self::lend).
    pub(crate) fn lend_first(&mut self, workers: usize, blocks: &[BlockUse<'_>]) -> Result<()> {
        for index in 0..workers {
            self.lend(index, blocks)?;
        }
        self.told.lent = Some(blocks.iter().map(BlockUse::lock).collect());
        Ok(())
    }

    /// Gives a worker the blocks that it does not have yet, as far as the call needs them.
    ///
    /// An error here is the parent's own. A worker that has died meanwhile is none: its pidfd says so in time.
    #[inline]
    pub(crate) fn lend(&mut self, index: usize, blocks: &[BlockUse<'_>]) -> Result<()> {
        let Some(member) = &mut self.members[index] else { return Ok(()) };
        for block in blocks {
            let memory = block.core.memory();
            let state = memory.lock().block();
            let writable = block.access == BlockAccess::Write;
            // A block that was private when it was mapped may have been shared since, and one that this process could only
            // read may have been opened for writing: then the lock is on another description.
            if let Some(has) = member.mapped.get(&state.serial())
                && has.writable >= writable
                && block.lock().is_none_or(|lock| has.lock == Some(lock))
            {
                continue;
            }
            let lock = if block.access == BlockAccess::Frozen { None } else { state.lent_fd()? };
            let lock_access = lock.map(|(_, access)| access);
            if let Some(borrower) = &self.borrower {
                state.add_borrower(borrower);
            }
            let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
            let fd = file::reopen(memory.fd(), access)?;
            let mut fds: Vec<BorrowedFd<'_>> = vec![fd.as_fd()];
            fds.extend(lock.map(|(fd, _)| fd));
            let message = ToWorker::Map { serial: state.serial(), len: memory.size(), writable };
            member.tell(&self.page, &Packet::new(&message)?, &fds, self.stop.as_deref());
            member.mapped.insert(state.serial(), Lent { writable, lock: lock_access });
        }
        Ok(())
    }

    pub(crate) fn send(&self, index: usize, packet: &Packet) {
        if let Some(member) = &self.members[index] {
            member.tell(&self.page, packet, &[], self.stop.as_deref());
        }
    }

    /// Takes the place of a worker that has ended, or is killed now, and reaps it.
    pub(crate) fn bury(&mut self, index: usize) -> Option<(u32, Ended)> {
        let member = self.members[index].take()?;
        self.incomplete = true;
        // Sent to a process that has ended already, it does nothing.
        let _ = member.process.pidfd.kill(libc::SIGKILL);
        let ended = member.process.pidfd.wait();
        Some((member.process.pid, ended))
    }

    /// What the kernel knows about the end of a worker beyond the signal, for people.
    pub(crate) fn cause_of(&mut self, ended: Ended) -> Option<String> {
        match ended {
            Ended::Signaled { signal: libc::SIGKILL, .. } => {
                let place = self.oom.claim()?;
                Some(format!("probably for lack of memory: the kernel has killed for that in {place}"))
            }
            Ended::Signaled { signal: libc::SIGABRT, .. } => {
                let limit = oom::memory_limit()?;
                Some(format!("perhaps for lack of memory: {limit}, and an allocation that fails aborts"))
            }
            _ => None,
        }
    }

    /// Takes the workers for somebody else's: from here on they are neither waited for nor killed.
    pub(crate) fn disown(&mut self) {
        self.members.clear();
    }

    /// Tells the workers to unmap blocks that the parent has dropped. Must not wait, and loses nothing that matters where
    /// it cannot: what is left over is told with the next call.
    pub(crate) fn forget(&mut self, serials: &mut Vec<u64>) {
        if serials.is_empty() {
            return;
        }
        self.told.lent = None;
        let mut all_told = true;
        for member in self.members.iter_mut().flatten() {
            let known: Vec<u64> = serials.iter().copied().filter(|serial| member.mapped.contains_key(serial)).collect();
            if known.is_empty() {
                continue;
            }
            let told = Packet::new(&ToWorker::Forget { serials: known.clone(), answer: false })
                .is_ok_and(|packet| packet.try_send(&member.process.socket, &[]).is_ok());
            if told {
                member.note_told(&self.page);
                member.mapped.retain(|serial, _| !known.contains(serial));
            }
            all_told &= told;
        }
        if all_told {
            serials.clear();
        }
    }

    /// Has every worker unmap a block and waits until it has said so; kills and reaps one that breaks the protocol.
    pub(crate) fn let_go(&mut self, serial: u64, deadline: Instant) {
        self.told.lent = None;
        for index in 0..self.members.len() {
            let Some(member) = &mut self.members[index] else { continue };
            if member.mapped.remove(&serial).is_none() {
                continue;
            }
            let Ok(packet) = Packet::new(&ToWorker::Forget { serials: vec![serial], answer: true }) else { continue };
            let sent = packet.try_send(&member.process.socket, &[]).is_ok();
            if sent {
                member.note_told(&self.page);
            }
            if !sent || member.hear_forgotten(deadline).is_err() {
                self.bury(index);
            }
        }
    }
}

impl<S: System> Drop for Crew<S> {
    fn drop(&mut self) {
        self.dismiss();
    }
}
