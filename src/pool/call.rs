//! One call of a pool, with its settings.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Args;
use super::cancel::{CancelToken, Stop, StopOptions};
use super::chunk::{Chunk, Progress};
use super::plan::{BlockUse, Plan};
use super::protocol::Asked;
use super::results::Results;
use super::running::Limits;
use super::schedule::Schedule;
use super::scope::Scope;
use super::tally::Settled;
use super::task::{Fallible, Plain, TaskRef};
use super::{Kind, OnDuty, Pool, Shared, again, serial, smooth};
use crate::array::Held;
use crate::error::{ErrorKind, Result};
use crate::sys::lock::Wait;

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
    /// Most calls have none of their own.
    settings: Option<Box<Settings<'p>>>,
}

#[derive(Default)]
struct Settings<'p> {
    schedule: Schedule,
    retries: u32,
    only: Option<Vec<Range<usize>>>,
    stop: StopOptions,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    #[cfg(feature = "progress")]
    bar: Option<String>,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "taken by value, so that the arrays are borrowed for the length of the call"
)]
impl<'p> Call<'p> {
    #[inline]
    pub(super) fn new(pool: &'p Pool) -> Self {
        Self { pool, settings: None }
    }

    fn settings(&mut self) -> &mut Settings<'p> {
        self.settings.get_or_insert_default()
    }

    /// Calls `progress` in this thread whenever chunks have ended or a worker was lost. Workers go on meanwhile, until they have
    /// no room for more results. A panic in it ends the call when the chunks that run have ended, poisons the arrays that were
    /// lent for writing, and goes on from there.
    pub fn progress(mut self, progress: impl FnMut(Progress) + 'p) -> Self {
        self.settings().progress = Some(Box::new(progress));
        self
    }

    /// Shows a progress bar with that label on standard error while the call runs; nothing where that is no terminal.
    ///
    /// It counts rows, and the workers that were lost, and goes together with [`progress`](Self::progress). What tasks print
    /// tears it.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{Each, Pool};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let lengths = Pool::serial().call().progress_bar("measuring").map(Each(&["a", "bc"].map(String::from)), |s, _| s.len())?;
    /// assert_eq!(lengths, [1, 2]);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "progress")]
    pub fn progress_bar(mut self, label: impl Into<String>) -> Self {
        self.settings().bar = Some(label.into());
        self
    }

    /// Sets which workers run which chunks, in place of [`Schedule::Dynamic`]. [`Pool::serial`] runs all in their order.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.settings().schedule = schedule;
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
    /// have the same chunk. [`Progress::workers_lost`] tells how many have died. A task that panics or returns an error is
    /// not run again and ends the call as always. Where every chunk has succeeded in the end, arrays are not poisoned;
    /// otherwise the error says how often workers have died over the chunk. [`Pool::serial`] has no workers that could die.
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
        self.settings().retries = retries;
        self
    }

    /// Runs the chunks of those rows alone: such as those that a failed call did not finish.
    ///
    /// The call is cut into chunks as without this, and [`Chunk::index`], [`Chunk::count`] and [`Chunk::rows`] are the same.
    /// `map` returns the results of the chunks that ran, in their order; [`Progress`] counts them alone. Chunks run whole,
    /// so the rows have to be those of chunks, as [`Error::rows`](crate::Error::rows) are for a call with the same arguments.
    /// Since by default their size depends on the number of workers, a pool of another size, or another program that goes on
    /// later, wants `.rows(n)`. For [`Each`](super::Each) rows are the numbers of its items.
    ///
    /// What was lent to the failed call for writing is [poisoned](crate::SharedArray::clear_poison) where rows may be half
    /// written, and no call takes it until that is cleared; as for [`retries`](Self::retries), the tasks have to come out
    /// right all the same. What the chunks that a failed `map` has finished returned is gone with it: who goes on by rows
    /// has the tasks write their results into an array.
    ///
    /// # Errors
    ///
    /// The call is [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where rows are not those of whole chunks, do not
    /// exist, or there are none: an error that names no rows is not about what tasks did.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use ndshm::{ErrorKind, Param, Pool, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(2).build()?;
    ///     let mut squares = SharedArray::<usize, _>::zeros(100)?;
    ///     let unlucky = pool.worker_pids()[0];
    ///     let mut call = pool.call();
    ///     loop {
    ///         let done = call.for_each((squares.chunks_mut(), Param(&unlucky)), |(mut part, unlucky), chunk| {
    ///             if std::process::id() == unlucky {
    ///                 std::process::abort();
    ///             }
    ///             part.iter_mut().zip(chunk.rows()).for_each(|(square, i)| *square = i * i);
    ///         });
    ///         match done {
    ///             Ok(()) => break,
    ///             Err(error) if error.kind() == ErrorKind::WorkerDied => {
    ///                 eprintln!("{error}; once more");
    ///                 squares.clear_poison()?;
    ///                 call = pool.call().only_rows(error.rows());
    ///             }
    ///             Err(error) => return Err(error),
    ///         }
    ///     }
    ///     assert_eq!(squares.read()?.iter().sum::<usize>(), 328_350);
    ///     Ok(())
    /// }
    /// ```
    pub fn only_rows(mut self, rows: &[Range<usize>]) -> Self {
        self.settings().only = Some(rows.to_vec());
        self
    }

    /// Ends the call when it has taken that long, counted from its beginning: the wait for its arrays and for the pool's
    /// workers is part of it.
    ///
    /// Then no more chunks begin, and tasks that run have a [`grace`](Self::grace) of 100 ms to end in good order; where all
    /// chunks are done by that time, the call returns their results. **Tasks that still run when the grace is over are cut
    /// short: their workers, be they stuck, stopped or just slow, are killed, and the arrays that were lent for writing are
    /// poisoned.** So a call whose tasks take longer than 100 ms wants a longer grace. When the killed are reaped and replaced,
    /// the call returns [`TimedOut`](ErrorKind::TimedOut), with the rows that are not finished. A deadline cannot promise the
    /// end of a worker that the kernel does not kill, such as one that waits for a dead network mount, nor of a callback.
    /// In [`Pool::serial`] it is looked at between chunks, and where a task [asks](Chunk::is_cancelled).
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use std::thread;
    /// use std::time::Duration;
    ///
    /// use ndshm::{ErrorKind, Pool, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(2).build()?;
    ///     let mut done = SharedArray::<u8, _>::zeros(4)?;
    ///     let late = pool.call().deadline(Duration::from_secs(1)).for_each(done.chunks_mut().rows(1), |mut row, chunk| {
    ///         if chunk.index() == 0 {
    ///             thread::sleep(Duration::from_secs(3600));
    ///         }
    ///         row.fill(1);
    ///     });
    ///     let error = late.unwrap_err();
    ///     assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, &[0..1][..]));
    ///     done.clear_poison()?;
    ///     assert_eq!(done.read()?.sum(), 3);
    ///     Ok(())
    /// }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings().stop.deadline = Some(deadline);
        self
    }

    /// Sets how long tasks that run may go on when a deadline, a token or Ctrl-C ends the call, in place of 100 ms.
    ///
    /// No more chunks begin in that time; tasks that still run after it are killed with their workers, and the arrays that
    /// were lent for writing are poisoned. With [`Duration::MAX`] nobody is killed: the call waits for the tasks that run
    /// however long they take, for ever where one is stuck or stopped. A task that takes long asks
    /// [`Chunk::is_cancelled`] whether it is to end.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use std::thread;
    /// use std::time::Duration;
    ///
    /// use ndshm::{ErrorKind, Pool, SharedArray};
    ///
    /// fn main() -> ndshm::Result<()> {
    ///     ndshm::init();
    ///     let pool = Pool::builder().workers(1).build()?;
    ///     let mut done = SharedArray::<u8, _>::zeros(4)?;
    ///     let call = pool.call().deadline(Duration::from_millis(100)).grace(Duration::MAX);
    ///     let late = call.for_each(done.chunks_mut().rows(1), |mut row, _| {
    ///         thread::sleep(Duration::from_secs(1));
    ///         row.fill(1);
    ///     });
    ///     let error = late.unwrap_err();
    ///     assert_eq!((error.kind(), error.rows()), (ErrorKind::TimedOut, &[1..4][..]));
    ///     assert_eq!(done.read()?.to_vec(), [1, 0, 0, 0]); // whole, and not poisoned
    ///     Ok(())
    /// }
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings().stop.grace = grace;
        self
    }

    /// Ends the call when the token is cancelled, before it or while it runs, as a [`deadline`](Self::deadline) would, with
    /// [`Cancelled`](ErrorKind::Cancelled): tasks that still run when the [`grace`](Self::grace) of 100 ms is over are killed
    /// with their workers, and the arrays that were lent for writing are poisoned. A call may be given several tokens, and
    /// each of them ends it.
    pub fn cancel_with(mut self, token: &CancelToken) -> Self {
        self.settings().stop.tokens.push(token.clone());
        self
    }

    /// Ends the call on Ctrl-C (`SIGINT`), as a [`deadline`](Self::deadline) would, with [`Cancelled`](ErrorKind::Cancelled):
    /// tasks that still run when the [`grace`](Self::grace) of 100 ms is over are killed with their workers, and the arrays that
    /// were lent for writing are poisoned.
    ///
    /// Without this Ctrl-C does what the program made of it: by default it ends the program, and its workers with it. With
    /// this, and for the length of the call only, the signal has a handler that takes note. A second Ctrl-C in the same
    /// call does what the first would have done without: who presses it again does not have to wait. A handler that the
    /// program has installed is called each time, as ever, and the call ends too; where the program ignores the signal,
    /// so does the call. The program must not change its handler of `SIGINT` while such a call runs.
    pub fn cancel_on_ctrl_c(mut self) -> Self {
        self.settings().stop.on_ctrl_c = true;
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

    #[inline]
    fn run<A: Args>(self, args: &A, task: TaskRef) -> Result<Returned> {
        let Self { pool, settings } = self;
        let Some(mut settings) = settings else { return run_plain(pool, args, task) };
        // From here on, so that the deadline counts the arguments and the locks too.
        let stop = Stop::begin(std::mem::take(&mut settings.stop), pool.page());
        let mut plan = Plan::new();
        args.describe(&mut plan)?;
        run_anew(pool, plan, task, Some(&mut settings), stop.as_ref())
    }
}

/// What the tasks of a call have returned.
pub(super) enum Returned {
    /// So many of them nothing.
    Nothing(usize),
    Results(Box<Results>),
}

impl Returned {
    fn decode<R: DeserializeOwned>(self) -> Result<Vec<R>> {
        match self {
            Self::Nothing(count) => Results::of_nothing(count).decode(),
            Self::Results(results) => results.decode(),
        }
    }
}

/// Runs a call without settings.
#[inline]
fn run_plain<A: Args>(pool: &Pool, args: &A, task: TaskRef) -> Result<Returned> {
    if let Kind::Workers(shared) = &pool.kind
        && let Some(returned) = again::run(shared, args, task)
    {
        return returned;
    }
    let mut plan = Plan::new();
    args.describe(&mut plan)?;
    run_anew(pool, plan, task, None, None)
}

/// A call is over.
#[inline]
pub(super) fn leave(duty: &mut OnDuty<'_>) {
    // Whole again for the next call, also where this one had to end; where that is not possible now, that call says why.
    let _ = duty.crew.replace_dead();
}

/// What came of a call.
#[inline]
pub(super) fn conclude(
    settled: Result<Option<Box<Settled>>>,
    scope: &Scope<'_>,
    stop: Option<&Arc<Stop>>,
) -> Result<Returned> {
    match settled.transpose() {
        None => Ok(Returned::Nothing(scope.chunks())),
        Some(settled) => conclude_tallied(settled, scope, stop),
    }
}

#[cold]
fn conclude_tallied(settled: Result<Box<Settled>>, scope: &Scope<'_>, stop: Option<&Arc<Stop>>) -> Result<Returned> {
    let error = match settled {
        Ok(settled) => match *settled {
            Settled { results, failure: None, .. } => return Ok(Returned::Results(Box::new(results))),
            Settled { failure: Some(failure), .. } => failure,
        },
        // Where it failed before it was begun, all rows are missing.
        Err(error) if error.rows().is_empty() => error.with_rows(scope.rows()),
        Err(error) => error,
    };
    if let Some(stop) = stop
        && error.kind() == ErrorKind::Cancelled
    {
        stop.answer();
    }
    Err(error)
}

/// Runs a call like none before it, or with settings of its own.
#[inline(never)]
fn run_anew(
    pool: &Pool,
    mut plan: Plan<'_>,
    task: TaskRef,
    mut settings: Option<&mut Settings<'_>>,
    stop: Option<&Arc<Stop>>,
) -> Result<Returned> {
    let division = plan.divide(pool.workers())?;
    // Where rows are asked for they do not exist then, and it is said so.
    if division.count == 0 && settings.as_ref().is_none_or(|settings| settings.only.is_none()) {
        return Ok(Returned::Nothing(0));
    }
    let only = match settings.as_mut().and_then(|settings| settings.only.take()) {
        Some(rows) => Some(division.chunks_of(&rows, plan.unit())?),
        None => None,
    };
    let scope = Scope { division, unit: plan.unit(), only: only.as_deref() };
    let (schedule, retries) = settings.as_ref().map_or_else(Default::default, |set| (set.schedule, set.retries));
    #[cfg(feature = "progress")]
    let bar = settings.as_mut().and_then(|set| set.bar.take()).map(|label| super::bar::Bar::start(label, scope));
    let progress = settings.as_mut().and_then(|set| set.progress.as_deref_mut());
    let progress = progress.map(|progress| progress as &mut dyn FnMut(Progress));
    #[cfg(feature = "progress")]
    let watched = bar.is_some() || progress.is_some();
    #[cfg(feature = "progress")]
    let mut unwatched = progress;
    #[cfg(feature = "progress")]
    let mut show = |so_far| {
        if let Some(bar) = &bar {
            bar.show(so_far);
        }
        if let Some(progress) = &mut unwatched {
            progress(so_far);
        }
    };
    #[cfg(feature = "progress")]
    let progress = watched.then_some(&mut show as &mut dyn FnMut(Progress));
    let mut ignore = |_| ();
    let settled = match &pool.kind {
        Kind::Workers(shared) => {
            let limits = Limits { retries, stop };
            run_on_workers(shared, &mut plan, scope, (task, schedule), limits, progress)
        }
        Kind::Serial => {
            serial::run(&mut plan, scope, task, stop, progress.unwrap_or(&mut ignore)).map(Box::new).map(Some)
        }
    };
    conclude(settled, &scope, stop)
}

/// Locks the arrays of a call until its plan is dropped, and waits for them for as long as `stop` lets it.
#[inline]
pub(super) fn lock(plan: &mut Plan<'_>, stop: Option<&Stop>) -> Result<()> {
    let Some(stop) = stop else { return plan.lock(Wait::Forever) };
    stop.check("had not begun")?;
    plan.lock(Wait::With(stop)).or_else(|error| {
        if error.kind() == ErrorKind::WouldBlock {
            stop.check("was still waiting for its arrays")?;
        }
        Err(error)
    })
}

#[inline]
fn run_on_workers(
    shared: &Arc<Shared>,
    plan: &mut Plan<'_>,
    scope: Scope<'_>,
    (task, schedule): (TaskRef, Schedule),
    limits: Limits<'_>,
    progress: Option<&mut dyn FnMut(Progress)>,
) -> Result<Option<Box<Settled>>> {
    let stop = limits.stop;
    let check = |was| stop.map_or(Ok(()), |stop| stop.check(was));
    // The locks before the crew: a thread that has the crew waits for nobody's guard, and guards may be held by threads
    // that wait for the crew.
    lock(plan, stop.map(|stop| &**stop))?;
    let mut duty = shared.enter(stop.map(|stop| &**stop)).or_else(|error| {
        if error.kind() == ErrorKind::WouldBlock {
            check("was still waiting for the pool's workers")?;
        }
        Err(error)
    })?;
    if stop.is_some() {
        duty.crew.heed(stop.cloned());
    }
    if let Err(error) = duty.crew.replace_dead()
        && duty.crew.is_empty()
    {
        check("had not begun")?;
        return Err(error);
    }
    check("had not begun")?;
    let asked = Asked::of(plan, task, scope, schedule);
    let unsettled = Unsettled(&plan.blocks);
    let settled = match smooth::run(&mut duty.crew, &asked, limits, progress) {
        Ok(settled) => settled?,
        Err(error) => {
            unsettled.settle(false);
            return Err(error);
        }
    };
    unsettled.settle(settled.as_ref().is_some_and(|settled| settled.cut_short));
    if stop.is_some() {
        duty.crew.heed(None);
    }
    leave(&mut duty);
    Ok(settled)
}

/// A call that was begun. Where it does not come to an end, since a callback panics, what was lent for writing is poisoned,
/// also where the thread was panicking before.
pub(super) struct Unsettled<'h, 'p>(pub(super) &'h [BlockUse<'p>]);

impl Unsettled<'_, '_> {
    /// A task that was cut short leaves its rows half written, and the arrays say so.
    #[inline]
    pub(super) fn settle(self, cut_short: bool) {
        if !cut_short {
            std::mem::forget(self);
        }
    }
}

impl Drop for Unsettled<'_, '_> {
    fn drop(&mut self) {
        self.0.iter().filter_map(|block| block.held.as_ref()).for_each(Held::poison);
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = Settings::default();
        let settings = self.settings.as_deref().unwrap_or(&plain);
        f.debug_struct("Call")
            .field("pool", self.pool)
            .field("schedule", &settings.schedule)
            .field("retries", &settings.retries)
            .field("only_rows", &settings.only)
            .field("stop", &settings.stop)
            .field("progress", &settings.progress.is_some())
            .finish()
    }
}
