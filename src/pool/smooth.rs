//! Calls that go as most do: all workers are there, each runs the chunks of its own share, and none of them returns
//! anything or fails.
//!
//! Then there is nothing to be tallied, and the parent looks at no more than one line of each worker. Where something else
//! comes of the call, nothing of it was taken in here, and [`Running`] goes on as if it had been there from the start.

use std::cell::Cell;
use std::time::Duration;

use super::chunk::Progress;
use super::control::ControlPage;
use super::crew::Crew;
use super::plan::BlockUse;
use super::protocol::Asked;
use super::running::{Limits, Running, UNEASE};
use super::scope::Scope;
use super::system::System;
use super::tally::Settled;
use crate::error::Result;

/// Runs a call from its description to its end. `None` where every chunk has returned nothing.
///
/// # Errors
/// Where workers could not be told of it: nobody was. And what [`Running::finish`] says.
pub(crate) fn run<'c, S: System>(
    crew: &'c mut Crew<S>,
    asked: &'c Asked<'c>,
    limits: Limits<'c>,
    progress: Option<&mut dyn FnMut(Progress)>,
) -> Result<Result<Option<Box<Settled>>>> {
    let nobody_looks = limits.stop.is_none() && progress.is_none();
    if nobody_looks && let Some(id) = crew.know(asked) {
        return Ok(run_known(crew, &asked.scope, asked.blocks, limits.retries, id));
    }
    let call = crew.next_call();
    let described = crew.describe(call, asked)?;
    let Some(id) = described.filter(|_| crew.is_whole() && nobody_looks && asked.scope.only.is_none()) else {
        let running = Running::start_described(crew, asked, limits, (call, described))?;
        return Ok(running.finish(progress).map(Box::new).map(Some));
    };
    crew.lend_first(asked.scope.division.count.min(crew.len()), asked.blocks)?;
    Ok(Smooth::new(crew, &asked.scope, asked.blocks, limits.retries, (call, id)).finish())
}

/// Runs a call of which nothing has to be told but that it is there, since the crew [knows](Crew::know) what it asks by the
/// number `id`. `None` as in [`run`].
///
/// What is handed over here and below is by reference: what was just written piece by piece takes long to be read whole.
#[inline]
pub(crate) fn run_known<'c, S: System>(
    crew: &'c mut Crew<S>,
    scope: &'c Scope<'c>,
    blocks: &'c [BlockUse<'c>],
    retries: u32,
    id: u64,
) -> Result<Option<Box<Settled>>> {
    let call = crew.next_call();
    Smooth::new(crew, scope, blocks, retries, (call, id)).finish()
}

/// A call that workers are told of. Whoever drops it waits until they have finished it, whatever comes of it.
struct Smooth<'c, S: System> {
    /// `None` once somebody goes on with the call.
    crew: Option<&'c mut Crew<S>>,
    scope: &'c Scope<'c>,
    blocks: &'c [BlockUse<'c>],
    retries: u32,
    call: u64,
    id: u64,
    /// The first so many members take part.
    participants: usize,
}

impl<'c, S: System> Smooth<'c, S> {
    #[inline]
    fn new(
        crew: &'c mut Crew<S>,
        scope: &'c Scope<'c>,
        blocks: &'c [BlockUse<'c>],
        retries: u32,
        (call, id): (u64, u64),
    ) -> Self {
        let participants = scope.division.count.min(crew.len());
        Self { crew: Some(crew), scope, blocks, retries, call, id, participants }
    }

    #[inline]
    fn finish(self) -> Result<Option<Box<Settled>>> {
        if self.is_all() {
            std::mem::forget(self);
            return Ok(None);
        }
        self.rest()
    }

    /// What became of it where that was not all.
    #[cold]
    fn rest(mut self) -> Result<Option<Box<Settled>>> {
        self.take_up().map_or(Ok(None), |running| running.finish(None).map(Box::new).map(Some))
    }

    /// Tells the workers, and waits until they have finished or there is something else to be looked at. Is that all that
    /// there was to the call?
    #[inline]
    fn is_all(&self) -> bool {
        // Compiled for a single one, too: then there is nothing to be counted and divided.
        if self.participants == 1 { self.is_all_of(1) } else { self.is_all_of(self.participants) }
    }

    #[expect(clippy::inline_always, reason = "what is known of the number is what it is for")]
    #[inline(always)]
    fn is_all_of(&self, participants: usize) -> bool {
        let Some(crew) = &self.crew else { return false };
        let Self { call, id, .. } = *self;
        let (page, tickets): (&ControlPage<_>, _) = (crew.page(), self.scope.division.count);
        page.tell(call, id, participants, tickets);
        let spin = crew.spin_beside(participants);
        let finished = Cell::new(0);
        if spin.is_zero() || !crew.rhythm().waits_for(|| self.are_finished(page, participants, &finished)) {
            self.wait(crew, spin);
        }
        (0..participants).all(|index| {
            let seen = crew.member(index).map(|member| member.news);
            seen.is_some_and(|seen| page.has_done_its_share(index, call, (participants, tickets), seen))
        })
    }

    /// Have all participants? The first so many were found to have before.
    #[inline]
    fn are_finished(&self, page: &ControlPage<S::Memory>, participants: usize, before: &Cell<usize>) -> bool {
        let mut finished = before.get();
        while finished < participants && page.has_finished(finished, self.call) {
            finished += 1;
        }
        before.set(finished);
        finished == participants
    }

    /// For who takes longer, or has died.
    #[inline(never)]
    fn wait(&self, crew: &Crew<S>, spin: Duration) {
        let participants = self.participants;
        let page = crew.page();
        let has_news = |index| crew.member(index).is_none_or(|member| member.news != page.news(index));
        let finished = Cell::new(0);
        let all_finished = || self.are_finished(page, participants, &finished);
        let come = || all_finished() || crew.has_news() || (finished.get()..participants).any(has_news);
        // Where somebody else was woken for, or the sleep is over, there is time to look at everything.
        page.wait_as_parent(spin, || UNEASE, all_finished, come);
    }

    /// The rest of the call.
    #[cold]
    fn take_up(&mut self) -> Option<Running<'c, S>> {
        let limits = Limits { retries: self.retries, stop: None };
        let crew = self.crew.take()?;
        Some(Running::go_on(crew, (*self.scope, self.blocks), limits, (self.call, self.id), self.participants))
    }
}

impl<S: System> Drop for Smooth<'_, S> {
    fn drop(&mut self) {
        drop(self.take_up());
    }
}
