//! Worker processes and the tasks that they run.
//!
//! | file or folder | idea |
//! |---|---|
//! | `args` | what a task can be given, and how it gets it |
//! | `chunk`, `scope`, `plan` | a call is written down, cut into chunks and locked |
//! | `task` | a function is named across the process boundary |
//! | `numbers` | what tasks return that is a number or a few |
//! | `control`, `protocol` | the shared page and the messages |
//! | `crew`, `member`, `running`, `tally`, `results` | the parent's side: workers, one call while it runs, what comes of it |
//! | `told`, `again` | a call that is like the one before it |
//! | `smooth` | the same for calls that nothing comes of but that they are done |
//! | `cancel` | what ends a call from outside |
//! | `builder`, `fit` | how many workers there are, and what each of them gets of the machine |
//! | `watch` | the thread that hears of workers' deaths |
//! | `system` | what both sides need of the system |
//! | `worker` | the worker's side |
//! | `bar` | how far a call is, on a terminal |
//! | `serial` | the same calls without worker processes |

mod again;
pub(crate) mod args;
#[cfg(feature = "progress")]
mod bar;
mod builder;
mod call;
mod cancel;
pub(crate) mod chunk;
mod control;
mod crew;
mod fit;
mod member;
#[cfg(test)]
mod model;
mod numbers;
pub(crate) mod plan;
mod protocol;
mod results;
mod running;
mod schedule;
mod scope;
mod serial;
mod smooth;
mod system;
mod tally;
mod task;
pub(crate) mod told;
mod watch;
pub(crate) mod worker;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use args::{Args, Each, Param};
pub use builder::PoolBuilder;
pub use call::Call;
pub use cancel::CancelToken;
pub use chunk::{Chunk, Progress};
pub use schedule::Schedule;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Borrower;
use crate::sys::fork::Home;
use crate::sys::thread_id;
use cancel::Stop;
use control::ControlPage;
use crew::Crew;

/// Worker processes that run tasks over shared arrays: rayon's ease, with processes.
///
/// A task is a closure that captures nothing, of [what it was given](Args) and its [`Chunk`]; a named function goes in as
/// `|rows, chunk| step(rows, chunk)`, since its bare name is refused (E0308). Arguments that split do so along their first
/// axis, into 8 chunks a worker by default so that uneven work evens out; since that number depends on the machine, sums
/// that have to come out the same everywhere want `.rows(n)`. Arrays that split have to be of one length; those of
/// different lengths are paired chunk by chunk where each has its `.rows(n)`, see [`Args`]. A call locks its arrays, for
/// writing or reading, and returns when every worker is done with them.
///
/// Workers are copies of the running program: [`init`](crate::init) has to be called early in `main`, or
/// [`init_before_main!`](crate::init_before_main) written once in a crate whose `main` is someone else's. A worker runs
/// its tasks one at a time on its main thread and lives as long as the pool, so a `static OnceLock` or a `thread_local!`
/// is state of that worker. Workers end with the program, however that ends.
///
/// # When something goes wrong
///
/// A task that panics is a [`TaskPanicked`](ErrorKind::TaskPanicked) error with its message, place and rows; a worker that
/// dies, of a signal, an exit or an abort, a [`WorkerDied`](ErrorKind::WorkerDied) error that says how and over which rows.
/// No further chunks are begun, those that run are finished, and [`Error::rows`] gives all rows that are not. Arrays that
/// were lent for writing are then poisoned, see [`clear_poison`](crate::SharedArray::clear_poison). The pool goes on: dead
/// workers are replaced. Where tasks may run twice, [`pool.call().retries(n)`](Call::retries) has the rows of dead workers
/// run again, and the call goes on too; [`pool.call().only_rows(error.rows())`](Call::only_rows) runs what a failed call has
/// left.
///
/// Where a worker died of `SIGKILL` and the kernel has killed somebody in this control group for lack of memory, or of
/// `SIGABRT` under a limit of memory, the error says so.
///
/// A call waits for its tasks however long they take, unless it is given a [deadline](Call::deadline) or a
/// [token](CancelToken) to cancel it with; how long tasks may go on then is its [grace](Call::grace).
///
/// # Examples
///
/// ```standalone_crate
/// use ndshm::{Param, Pool, SharedArray};
///
/// fn main() -> ndshm::Result<()> {
///     ndshm::init();
///     let pool = Pool::builder().workers(2).build()?;
///     let src = SharedArray::<f64, _>::from_shape_fn((100, 3), |(i, _)| i as f64)?;
///     let mut out = SharedArray::<f64, _>::zeros((100, 3))?;
///     let sums = pool.map(
///         (out.chunks_mut().rows(10), src.chunks(), Param(&0.5)),
///         |(mut out, src, factor), _chunk| {
///             out.assign(&(&src * factor));
///             out.sum()
///         },
///     )?;
///     assert_eq!(sums.len(), 10);
///     assert_eq!(sums.iter().sum::<f64>(), 7425.0);
///     assert_eq!(out.read()?.sum(), 7425.0);
///     Ok(())
/// }
/// ```
///
/// Where a task needs its neighbours' rows, it reads them from another array: two arrays take turns, one seen whole and one
/// written by chunks.
///
/// ```
/// use ndshm::{Pool, SharedArray};
///
/// # fn main() -> ndshm::Result<()> {
/// let pool = Pool::serial();
/// let mut now = SharedArray::<f64, _>::from_shape_fn(100, |i| if i == 50 { 1.0 } else { 0.0 })?;
/// let mut next = SharedArray::<f64, _>::zeros(100)?;
/// for _ in 0..10 {
///     pool.for_each((&now, next.chunks_mut()), |(now, mut next), chunk| {
///         for (i, cell) in chunk.rows().zip(&mut next) {
///             let (left, right) = (now[i.saturating_sub(1)], now[(i + 1).min(now.len() - 1)]);
///             *cell = 0.25 * left + 0.5 * now[i] + 0.25 * right;
///         }
///     })?;
///     std::mem::swap(&mut now, &mut next); // the handles, not the elements
/// }
/// let heat = now.read()?;
/// assert!((heat.sum() - 1.0).abs() < 1e-12 && heat[50] < 0.2 && heat[40] > 0.0);
/// # Ok(()) }
/// ```
///
/// # What a task can be
///
/// A closure that captures does not compile: what a task needs comes in as an argument, a value as [`Param`].
///
/// ```compile_fail,E0308
/// use ndshm::{Pool, SharedArray};
/// # fn main() -> ndshm::Result<()> {
/// let mut a = SharedArray::<f64, _>::zeros((8, 8))?;
/// let factor = 2.0;
/// Pool::serial().for_each(a.chunks_mut(), |mut rows, _| rows *= factor)?;
/// # Ok(()) }
/// ```
///
/// A function goes in as `|v, c| f(v, c)`. By its bare name, or by a variable that holds a pointer to it, it is refused with
/// E0308 where its arguments borrow: the compiler does not see that `ArrayViewMut<'a, …>` is what the argument's
/// `Views<'a>` stands for. A variable cannot be used in the closure, which would capture it; there naming the types helps:
///
/// ```
/// use ndarray::{ArrayViewMut, Ix2};
/// use ndshm::{Chunk, ChunksMut, Pool, SharedArray};
///
/// fn halve(mut rows: ArrayViewMut<'_, f64, Ix2>, _: &Chunk) -> f64 {
///     rows /= 2.0;
///     rows.sum()
/// }
///
/// # fn main() -> ndshm::Result<()> {
/// let mut a = SharedArray::<f64, _>::from_elem((8, 8), 4.0)?;
/// let pool = Pool::serial();
/// pool.map(a.chunks_mut(), |rows, chunk| halve(rows, chunk))?;
///
/// let chosen: for<'a, 'b> fn(ArrayViewMut<'a, f64, Ix2>, &'b Chunk) -> f64 = halve;
/// let sums = pool.map::<ChunksMut<'_, f64, Ix2>, f64>(a.chunks_mut(), chosen)?;
/// assert_eq!(sums.iter().sum::<f64>(), 64.0);
/// # Ok(()) }
/// ```
///
/// A library runs what its users write through a trait with an associated function, since a closure of theirs would be
/// captured:
///
/// ```
/// use ndshm::{Param, Pool, Result, SharedArray};
///
/// pub trait Kernel {
///     fn eval(x: f64, scale: f64) -> f64;
/// }
///
/// pub fn apply<K: Kernel>(pool: &Pool, array: &mut SharedArray<f64, ndarray::Ix1>, scale: f64) -> Result<()> {
///     pool.for_each((array.chunks_mut(), Param(&scale)), |(mut part, scale), _| {
///         part.mapv_inplace(|x| K::eval(x, scale));
///     })
/// }
///
/// struct Square;
/// impl Kernel for Square {
///     fn eval(x: f64, scale: f64) -> f64 {
///         scale * x * x
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let mut array = SharedArray::from_elem(10, 3.0)?;
/// apply::<Square>(&Pool::serial(), &mut array, 2.0)?;
/// assert_eq!(array.read()?.sum(), 180.0);
/// # Ok(()) }
/// ```
///
/// A view does not get out of its task:
///
/// ```compile_fail,E0277
/// use ndshm::{Pool, SharedArray};
/// # fn main() -> ndshm::Result<()> {
/// let a = SharedArray::<f64, _>::zeros((8, 8))?;
/// let views = Pool::serial().map(a.chunks(), |rows, _| rows)?;
/// # Ok(()) }
/// ```
///
/// ```compile_fail,E0521
/// use std::sync::Mutex;
///
/// use ndarray::{ArrayView, Ix2};
/// use ndshm::{Pool, SharedArray};
///
/// static KEPT: Mutex<Vec<ArrayView<'static, f64, Ix2>>> = Mutex::new(Vec::new());
/// # fn main() -> ndshm::Result<()> {
/// let a = SharedArray::<f64, _>::zeros((8, 8))?;
/// Pool::serial().for_each(a.chunks(), |rows, _| KEPT.lock().unwrap().push(rows))?;
/// # Ok(()) }
/// ```
#[doc(alias = "ProcessPoolExecutor")]
#[doc(alias = "multiprocessing.Pool")]
pub struct Pool {
    kind: Kind,
}

enum Kind {
    Workers(Arc<Shared>),
    Serial,
}

/// What the pool and the blocks that it was lent both hold.
struct Shared {
    home: Home,
    workers: usize,
    /// The one that all the pool's workers share.
    page: Arc<ControlPage>,
    /// Held for the length of a call: calls of several threads run one after another.
    crew: Mutex<Crew>,
    /// Threads that wait for the crew and may have to give up: they are told when it is free.
    patient: AtomicUsize,
    waiting: Mutex<()>,
    freed: Condvar,
    /// A number for the thread that holds `crew`, so that a call from within a call is an error and not a deadlock.
    caller: AtomicU64,
    /// Serials of blocks that are gone from this process.
    forgotten: Mutex<Vec<u64>>,
    /// Is there any?
    any_forgotten: AtomicBool,
}

impl Pool {
    /// A pool of one worker process per CPU that is available to this process, see [`PoolBuilder::workers`].
    ///
    /// # Errors
    ///
    /// [`NotInitialized`](ErrorKind::NotInitialized) where [`init`](crate::init) was not called, or not reached by a
    /// worker; [`Unsupported`](ErrorKind::Unsupported) where a copy of the program cannot be started (through `ld.so`,
    /// without `/proc`, setuid, in a plugin); [`Io`](ErrorKind::Io) and [`NoSpace`](ErrorKind::NoSpace) where the machine
    /// has no room for more processes.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// How to make a pool of another size or with another environment.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// A pool without processes: tasks run here, one after another. For debuggers, tests, libraries and small data; needs
    /// no [`init`](crate::init).
    pub fn serial() -> Self {
        Self { kind: Kind::Serial }
    }

    /// The number of worker processes; 1 for [`serial`](Self::serial), which works itself.
    pub fn workers(&self) -> usize {
        match &self.kind {
            Kind::Workers(shared) => shared.workers,
            Kind::Serial => 1,
        }
    }

    /// The ids of the worker processes that live at the moment; none for [`serial`](Self::serial). Waits for a call of
    /// another thread to end; empty from within a call.
    pub fn worker_pids(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Workers(shared) => shared.enter(None).map(|duty| duty.crew.pids()).unwrap_or_default(),
            Kind::Serial => Vec::new(),
        }
    }

    /// Runs `task` for every chunk of `args` and returns what it returned, in the order of the chunks.
    ///
    /// What it returned is what serde makes of it. `Serialize` may be asked twice for one value, so it has to say the same again.
    /// Results travel in an encoding that has one word for nothing: `Some(())` and `Some(None)` come back as `None`. A result
    /// or a parameter has 4 GiB at most; what is large goes into an array.
    ///
    /// A closure that captures a variable does not compile (`expected fn pointer, found closure`): hand the value in as a
    /// [`Param`]. A named function goes in as `|rows, chunk| step(rows, chunk)`: its bare name is refused (E0308).
    ///
    /// # Errors
    ///
    /// See [`Pool`] for tasks and workers that fail; [`ShapeMismatch`](ErrorKind::ShapeMismatch) where arguments split into
    /// different numbers of chunks, [`InvalidArgument`](ErrorKind::InvalidArgument) where the same block is given twice and
    /// once for writing, or an array has no such axis; the errors of locking, see [`SharedArray::read`](crate::SharedArray::read);
    /// [`Serialization`](ErrorKind::Serialization) where a parameter or a result cannot be turned into bytes and back;
    /// [`Unsupported`](ErrorKind::Unsupported) for a task that lies in a plugin; [`WouldBlock`](ErrorKind::WouldBlock) from
    /// within a call of the same pool; [`Closed`](ErrorKind::Closed) in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{Param, Pool, SharedArray};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let readings = SharedArray::<f64, _>::from_shape_fn(100, |i| i as f64)?;
    /// let limit = 89.5;
    /// let counts = Pool::serial().map((readings.chunks().rows(50), Param(&limit)), |(part, limit), _chunk| {
    ///     part.iter().filter(|&&x| x > limit).count()
    /// })?;
    /// assert_eq!(counts, [0, 10]);
    /// # Ok(()) }
    /// ```
    pub fn map<A, R>(&self, args: A, task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk) -> R) -> Result<Vec<R>>
    where
        A: Args,
        R: Serialize + DeserializeOwned,
    {
        self.call().map(args, task)
    }

    /// Runs `task` for every chunk of `args`.
    ///
    /// A closure that captures a variable does not compile (`expected fn pointer, found closure`): hand the value in as a
    /// [`Param`]. A named function goes in as `|rows, chunk| step(rows, chunk)`: its bare name is refused (E0308).
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{Pool, SharedArray};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let mut ramp = SharedArray::<usize, _>::zeros(100)?;
    /// Pool::serial().for_each(ramp.chunks_mut(), |mut part, chunk| {
    ///     for (element, index) in part.iter_mut().zip(chunk.rows()) {
    ///         *element = index;
    ///     }
    /// })?;
    /// assert_eq!(ramp.read()?[99], 99);
    /// # Ok(()) }
    /// ```
    pub fn for_each<A: Args>(&self, args: A, task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk)) -> Result<()> {
        self.call().for_each(args, task)
    }

    /// Runs a `task` that may fail for every chunk of `args`, and returns the results in the order of the chunks, or the
    /// first failure among the chunks that ran.
    ///
    /// A closure that captures a variable does not compile (`expected fn pointer, found closure`): hand the value in as a
    /// [`Param`]. A named function goes in as `|rows, chunk| step(rows, chunk)`: its bare name is refused (E0308).
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map), and [`TaskFailed`](ErrorKind::TaskFailed) with what the task's error prints (in the
    /// alternate form `{:#}`, which shows the whole chain of some error types) and its rows. Arrays are not poisoned by
    /// that: the task ended in good order.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, Pool, SharedArray};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// let squares = SharedArray::<f64, _>::from_shape_fn(10, |i| 8.0 - i as f64)?;
    /// let failed = Pool::serial().try_map(squares.chunks().rows(5), |part, _chunk| {
    ///     match part.iter().find(|&&x| x < 0.0) {
    ///         Some(x) => Err(format!("{x} has no root")),
    ///         None => Ok(part.mapv(f64::sqrt).sum()),
    ///     }
    /// });
    /// let error = failed.unwrap_err();
    /// assert_eq!((error.kind(), error.rows()), (ErrorKind::TaskFailed, &[5..10][..]));
    /// # Ok(()) }
    /// ```
    pub fn try_map<A, R, E>(
        &self,
        args: A,
        task: for<'a, 'b> fn(A::Views<'a>, &'b Chunk) -> Result<R, E>,
    ) -> Result<Vec<R>>
    where
        A: Args,
        R: Serialize + DeserializeOwned,
        E: fmt::Display,
    {
        self.call().try_map(args, task)
    }

    /// Where parent and workers meet; none for [`serial`](Self::serial).
    fn page(&self) -> Option<&Arc<ControlPage>> {
        match &self.kind {
            Kind::Workers(shared) => Some(&shared.page),
            Kind::Serial => None,
        }
    }

    /// A call with settings of its own.
    pub fn call(&self) -> Call<'_> {
        Call::new(self)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Workers(shared) => f.debug_struct("Pool").field("workers", &shared.workers).finish_non_exhaustive(),
            Kind::Serial => f.write_str("Pool::serial()"),
        }
    }
}

/// The crew while a call has it.
struct OnDuty<'s> {
    shared: &'s Shared,
    crew: MutexGuard<'s, Crew>,
    // Dropped after the crew.
    _afterwards: Afterwards<'s>,
}

/// Tells those who wait for the crew that it is free, and workers what they may unmap that was noted meanwhile.
struct Afterwards<'s>(&'s Shared);

impl Drop for Afterwards<'_> {
    #[inline]
    fn drop(&mut self) {
        // Pairs with those in `lock_crew_unless` and `forget`: either that thread finds the crew free, or this one finds what
        // it has noted.
        fence(Ordering::SeqCst);
        // Relaxed: after the fence.
        if self.0.patient.load(Ordering::Relaxed) > 0 {
            self.0.freed.notify_all();
        }
        self.0.tell_forgotten_if_idle();
    }
}

/// How often a thread that waits for the crew and may have to give up looks whether it has to.
const LOOK: Duration = Duration::from_millis(5);

impl Shared {
    /// Waits for calls of other threads to end, for as long as `stop` lets it.
    #[inline]
    fn enter(&self, stop: Option<&Stop>) -> Result<OnDuty<'_>> {
        if !self.home.is_here() {
            return Err(Error::new(
                ErrorKind::Closed,
                "this pool belongs to the process that this one was forked from",
            ));
        }
        // Relaxed: only this thread stores its own number, and it reads its own stores.
        if self.caller.load(Ordering::Relaxed) == thread_id::current().number() {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "a call of this pool is running on this thread, and waiting for its end here would never end",
            ));
        }
        // A panic in a callback leaves a crew that was settled, see `running`.
        let crew = match stop {
            None => self.crew.lock().unwrap_or_else(PoisonError::into_inner),
            Some(stop) => self.lock_crew_unless(stop)?,
        };
        Ok(self.begin_duty(crew))
    }

    /// The same where nothing is in the way; `None` says nothing of what is.
    #[expect(clippy::inline_always, reason = "what it returns takes longer to be handed over than to be made")]
    #[inline(always)]
    fn enter_at_once(&self) -> Option<OnDuty<'_>> {
        if !self.home.is_here() {
            return None;
        }
        // A call that runs on this thread has it.
        let crew = self.try_crew()?;
        Some(self.begin_duty(crew))
    }

    #[inline]
    fn begin_duty<'s>(&'s self, mut crew: MutexGuard<'s, Crew>) -> OnDuty<'s> {
        self.tell_forgotten(&mut crew);
        // Relaxed: see where it is read.
        self.caller.store(thread_id::current().number(), Ordering::Relaxed);
        OnDuty { shared: self, crew, _afterwards: Afterwards(self) }
    }

    /// The crew, where nobody has it. A panic in a callback leaves one that was settled.
    #[inline]
    fn try_crew(&self) -> Option<MutexGuard<'_, Crew>> {
        match self.crew.try_lock() {
            Ok(crew) => Some(crew),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn lock_crew_unless(&self, stop: &Stop) -> Result<MutexGuard<'_, Crew>> {
        // Relaxed, as the taking back: a fence follows before the first look.
        self.patient.fetch_add(1, Ordering::Relaxed);
        // Pairs with the one in `Afterwards`. For later looks a notice that is missed costs no more than a pause.
        fence(Ordering::SeqCst);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let crew = loop {
            match self.try_crew() {
                Some(crew) => break Ok(crew),
                None if stop.reason().is_some() => {
                    break Err(Error::new(ErrorKind::WouldBlock, "a call of another thread has the workers"));
                }
                None => {
                    waiting = self.freed.wait_timeout(waiting, LOOK).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        self.patient.fetch_sub(1, Ordering::Relaxed);
        crew
    }

    /// Tells the workers which blocks they may unmap, as far as that needs no waiting.
    #[inline]
    fn tell_forgotten(&self, crew: &mut Crew) {
        if self.any_forgotten() && self.home.is_here() {
            self.tell_forgotten_now(crew);
        }
    }

    /// Were all told that there were?
    #[cold]
    fn tell_forgotten_now(&self, crew: &mut Crew) -> bool {
        let mut serials = std::mem::take(&mut *self.forgotten());
        crew.forget(&mut serials);
        let all_told = serials.is_empty();
        let mut forgotten = self.forgotten();
        forgotten.append(&mut serials);
        // Relaxed: under the mutex, as where it is set.
        self.any_forgotten.store(!forgotten.is_empty(), Ordering::Relaxed);
        all_told
    }

    /// Where a call is running it tells the workers when it ends. After a fence.
    #[inline]
    fn tell_forgotten_if_idle(&self) {
        if self.any_forgotten() {
            self.tell_forgotten_unless_busy();
        }
    }

    #[cold]
    fn tell_forgotten_unless_busy(&self) {
        if !self.home.is_here() {
            return;
        }
        loop {
            let Some(mut crew) = self.try_crew() else { return };
            let all_told = self.tell_forgotten_now(&mut crew);
            drop(crew);
            // Pairs with the one in `forget`: whoever has noted something meanwhile has found the crew busy. What workers had
            // no room to hear waits for the next call.
            fence(Ordering::SeqCst);
            if !(all_told && self.any_forgotten()) {
                return;
            }
        }
    }

    #[inline]
    fn any_forgotten(&self) -> bool {
        // Relaxed: who must not miss it has a fence before.
        self.any_forgotten.load(Ordering::Relaxed)
    }

    fn forgotten(&self) -> MutexGuard<'_, Vec<u64>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnDuty<'_> {
    #[inline]
    fn drop(&mut self) {
        self.crew.heed(None);
        self.shared.caller.store(0, Ordering::Relaxed);
    }
}

impl Borrower for Shared {
    fn forget(&self, serial: u64) {
        {
            let mut forgotten = self.forgotten();
            forgotten.push(serial);
            // Relaxed: under the mutex, and before the fence.
            self.any_forgotten.store(true, Ordering::Relaxed);
        }
        // Pairs with the one in `Afterwards`.
        fence(Ordering::SeqCst);
        self.tell_forgotten_if_idle();
    }

    fn let_go(&self, serial: u64, deadline: Instant) {
        // Dropped after the crew.
        let _afterwards = Afterwards(self);
        let mut crew = loop {
            match self.try_crew() {
                Some(crew) => break crew,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                None => return,
            }
        };
        crew.let_go(serial, deadline);
    }
}

/// In a forked child the workers are the parent's: dropping a pool there must neither wait for them nor kill them.
impl Drop for Shared {
    fn drop(&mut self) {
        if !self.home.is_here() {
            self.crew.get_mut().unwrap_or_else(PoisonError::into_inner).disown();
        }
    }
}
