//! One call of a pool, with its settings.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Args;
use super::chunk::{Chunk, Division, Progress};
use super::plan::{BlockAccess, Plan};
use super::protocol::CallMessage;
use super::results::Results;
use super::running::Running;
use super::tally::Settled;
use super::task::{Fallible, Plain, TaskRef};
use super::{Kind, Pool, Shared, serial};
use crate::array::Held;
use crate::error::Result;

/// A call of a [`Pool`] with settings of its own, made with [`Pool::call`].
///
/// # Examples
///
/// ```
/// use ndshm::{Pool, SharedArray};
///
/// # fn main() -> ndshm::Result<()> {
/// let mut squares = SharedArray::<u32, _>::from_shape_fn(1000, |i| i as u32)?;
/// let pool = Pool::serial();
/// let mut rows = 0;
/// pool.call()
///     .progress(|progress| rows = progress.rows_done)
///     .for_each(squares.chunks_mut().rows(100), |mut part, _| part.mapv_inplace(|x| x * x))?;
/// assert_eq!(rows, 1000);
/// assert_eq!(squares.read()?[30], 900);
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until it is given a task"]
pub struct Call<'p> {
    pool: &'p Pool,
    retries: u32,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "taken by value, so that the arrays are borrowed for the length of the call"
)]
impl<'p> Call<'p> {
    pub(super) fn new(pool: &'p Pool) -> Self {
        Self { pool, retries: 0, progress: None }
    }

    /// Calls `progress` in this thread whenever chunks have ended. A panic in it ends the call when the chunks that run
    /// have ended, poisons the arrays that were lent for writing, and goes on from there.
    pub fn progress(mut self, progress: impl FnMut(Progress) + 'p) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Runs chunks whose worker has died again, each at most `retries` times; by default not at all.
    ///
    /// For tasks that may run twice over the same rows. A worker may die anywhere in a task, with none, some or all of its
    /// rows written, and also when the task has ended but the pool does not know it yet; nothing is put back before the
    /// chunk runs again. So `out.assign(&(&src * 2.0))`, which reads one array and writes another, comes out right
    /// whatever happens, and so does what depends on [`Chunk::rows`] alone. But `a *= 2.0` doubles some elements twice.
    /// The same goes for what a task does outside of its arrays, such as writing to a file.
    ///
    /// With retries the death of a worker does not end the call: the others go on and another worker takes its place. The
    /// lost chunks run when all others have ended, and after the dead workers were reaped, so that no two workers ever
    /// have the same chunk. A task that panics or returns an error is not run again and ends the call as always. Where
    /// every chunk has succeeded in the end, arrays are not poisoned; otherwise the error says how often workers have died
    /// over the chunk. [`Pool::serial`] has no workers that could die.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use ndshm::{Param, Pool, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(2).build()?;
    ///     let mut squares = SharedArray::<usize, _>::zeros(100)?;
    ///     let unlucky = pool.worker_pids()[0];
    ///     pool.call().retries(2).for_each((squares.chunks_mut().rows(1), Param(&unlucky)), |(mut row, unlucky), chunk| {
    ///         if std::process::id() == unlucky {
    ///             std::process::abort();
    ///         }
    ///         row.fill(chunk.index() * chunk.index());
    ///     })?;
    ///     assert_eq!(squares.read()?[9], 81);
    ///     Ok(())
    /// }
    /// ```
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// See [`Pool::map`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map<A, R>(self, args: A, task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk) -> R) -> Result<Vec<R>>
    where
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        self.run(&args, TaskRef::new::<A, R, Plain>(task))?.decode()
    }

    /// See [`Pool::for_each`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn for_each<A: Args>(self, args: A, task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk)) -> Result<()> {
        self.run(&args, TaskRef::new::<A, (), Plain>(task)).map(drop)
    }

    /// See [`Pool::try_map`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_map<A, R, E>(
        self,
        args: A,
        task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk) -> Result<R, E>,
    ) -> Result<Vec<R>>
    where
        A: Args,
        R: Serialize + DeserializeOwned,
        E: fmt::Display,
    {
        self.run(&args, TaskRef::new::<A, Result<R, E>, Fallible>(task))?.decode()
    }

    fn run<A: Args>(mut self, args: &A, task: TaskRef) -> Result<Results> {
        let mut ignore = |_| ();
        let progress: &mut dyn FnMut(Progress) = match &mut self.progress {
            Some(progress) => progress,
            None => &mut ignore,
        };
        let mut plan = Plan::new();
        args.describe(&mut plan)?;
        let division = plan.divide(self.pool.workers())?;
        if division.count == 0 {
            return Ok(Results::new(0));
        }
        let settled = match &self.pool.kind {
            Kind::Workers(shared) => run_on_workers(shared, plan, division, task, self.retries, progress)?,
            Kind::Serial => serial::run(&plan, division, task, progress)?,
        };
        settled.failure.map_or(Ok(settled.results), Err)
    }
}

fn run_on_workers(
    shared: &Arc<Shared>,
    plan: Plan<'_>,
    division: Division,
    task: TaskRef,
    retries: u32,
    progress: &mut dyn FnMut(Progress),
) -> Result<Settled> {
    let task = task.address()?;
    // The locks before the crew: a thread that has the crew waits for nobody's guard, and guards may be held by threads
    // that wait for the crew.
    let held = plan.lock()?;
    let mut duty = shared.enter()?;
    duty.crew.replace_dead()?;
    let Plan { leaves, blocks, .. } = plan;
    for block in &blocks {
        block.core.memory().lock().block().add_borrower(shared);
    }
    let message = CallMessage {
        call: duty.crew.next_call(),
        task,
        count: division.count,
        rows: division.rows,
        len: division.len,
        blocks: blocks
            .iter()
            .map(|block| (block.core.memory().lock().block().serial(), block.access == BlockAccess::Write))
            .collect(),
        leaves,
        left: None,
    };
    // Declared after the locks, so that they go only when the call is settled, whatever happens.
    let running = Running::start(&mut duty.crew, &blocks, message, retries)?;
    let settled = running.finish(progress)?;
    poison_where_cut_short(&settled, &held);
    // Whole again for the next call; where that is not possible now, that call says why.
    let _ = duty.crew.replace_dead();
    drop(duty);
    // What was dropped by another thread since the crew was last told.
    shared.tell_forgotten_if_idle();
    Ok(settled)
}

/// A task that was cut short leaves its rows half written, and the arrays say so.
pub(super) fn poison_where_cut_short(settled: &Settled, held: &[Held<'_>]) {
    if settled.cut_short {
        held.iter().for_each(Held::poison);
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("pool", self.pool)
            .field("retries", &self.retries)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}
