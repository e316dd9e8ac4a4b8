//! Calls that are like the one before them, as most are: nothing is written down, and nobody is waited for but the workers.

use super::Shared;
use super::args::Args;
use super::call::{Returned, Unsettled, conclude, leave};
use super::smooth;
use super::task::TaskRef;
use super::told::{Blocks, Recall};
use crate::error::Result;

/// Runs a call without settings that is like the one before it, as [`smooth::run_known`] does. `None` where it is another, or
/// where something is in its way: then nothing has happened.
#[inline]
pub(super) fn run<A: Args>(shared: &Shared, args: &A, task: TaskRef) -> Option<Result<Returned>> {
    if !A::RECALLS {
        return None;
    }
    // Dropped after the crew: who waits for a block may want the crew next.
    let mut blocks = Blocks::new();
    // The crew before the locks, where calls that wait take the locks first: here nobody waits for either.
    let mut duty = shared.enter_at_once()?;
    let told = duty.crew.told(task)?;
    let mut recall = Recall::of(told, &mut blocks);
    if !(args.is_recalled(&mut recall) && recall.is_over()) {
        return None;
    }
    let scope = told.scope();
    let id = told.message.call;
    // Borrows the blocks, which have the locks: they go only when the call is settled, whatever happens.
    let unsettled = Unsettled(&blocks);
    let settled = smooth::run_known(&mut duty.crew, &scope, &blocks, 0, id);
    if let Ok(settled) = &settled {
        unsettled.settle(settled.as_ref().is_some_and(|settled| settled.cut_short));
    }
    leave(&mut duty);
    Some(conclude(settled, &scope, None))
}
