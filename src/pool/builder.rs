//! [`PoolBuilder`]: what a pool is made with.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use super::crew::{Crew, CrewOptions};
use super::{Kind, Pool, Shared, fit};
use crate::error::{Error, ErrorKind, Result};
use crate::start::output::WorkerOutput;
use crate::sys::affinity;
use crate::sys::fork::Home;

/// How to make a [`Pool`].
///
/// # Examples
///
/// ```standalone_crate
/// use ndshm::{Each, Pool};
///
/// fn main() -> ndshm::Result<()> {
///     ndshm::init();
///     // Two processes, each of which may compute with three threads.
///     let pool = Pool::builder().workers(2).threads_per_worker(3).build()?;
///     let threads = pool.map(Each(&[0, 1]), |_, _| std::env::var("RAYON_NUM_THREADS").unwrap_or_default())?;
///     assert_eq!(threads, ["3", "3"]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until build() is called"]
pub struct PoolBuilder {
    workers: Option<usize>,
    threads: Option<usize>,
    pin: bool,
    env: Vec<(OsString, Option<OsString>)>,
    spin: Option<Duration>,
    stdout: WorkerOutput,
    stderr: WorkerOutput,
}

/// Long enough for calls that follow one another closely, too short to be seen in `top`.
const DEFAULT_SPIN: Duration = Duration::from_micros(10);

impl PoolBuilder {
    /// For how long workers that wait for a call, and a call that waits for its workers, look again and again before they
    /// sleep; by default 10 µs, and not at all where this process has one CPU. A call whose workers need all the CPUs sleeps
    /// at once. Spinning keeps a CPU busy, and saves the
    /// sleep and the waking, which take longer than all the rest of a small call: worth it where calls follow one another
    /// within that time and there are CPUs to spare.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    /// So many worker processes.
    ///
    /// By default one per CPU that this process may use, which is the least of: the CPUs of its affinity mask (`taskset`,
    /// cpusets), the quota of its control group (`docker run --cpus`, `CPUQuota=`), and `SLURM_CPUS_PER_TASK` where that is
    /// set. In a task, which is a worker of another pool already, it is what [`threads_per_worker`](Self::threads_per_worker)
    /// of that pool leaves to it.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// So many threads for each worker to compute with, by default the CPUs divided among the workers, and at least one: so
    /// that n workers whose libraries start a thread per CPU do not make n × n threads.
    ///
    /// The workers are told through the environment: `RAYON_NUM_THREADS`, `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`,
    /// `MKL_NUM_THREADS`, `BLIS_NUM_THREADS`, `NUMEXPR_NUM_THREADS` and `VECLIB_MAXIMUM_THREADS`. By default a variable that
    /// this process has itself, with a lower number, stays as it is; a number set here is what all of them get. What
    /// [`env`](Self::env) sets and [`env_remove`](Self::env_remove) removes goes before either. Threads that a task starts
    /// itself are its own business.
    pub fn threads_per_worker(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Gives each worker CPUs of its own to stay on, by default `false`.
    ///
    /// The CPUs of this process's affinity mask are shared out in order: each worker gets as many that lie side by side, or
    /// one in turn where there are more workers than CPUs. A worker that takes the place of another one gets its CPUs as
    /// well. Caches stay warm that way, but nobody helps out where another program uses one of the CPUs. Where the system
    /// refuses it, as when a CPU has gone offline, a worker stays where it is allowed to be.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Sets an environment variable in the workers; all others are inherited.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable from the workers.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    /// Where the workers' standard output goes, by default where this process's goes: a file, [`WorkerOutput::null`], or a
    /// pipe's end.
    pub fn stdout(mut self, output: impl Into<WorkerOutput>) -> Self {
        self.stdout = output.into();
        self
    }

    /// Where the workers' standard error goes, panic messages among it, by default where this process's goes; see
    /// [`stdout`](Self::stdout).
    pub fn stderr(mut self, output: impl Into<WorkerOutput>) -> Self {
        self.stderr = output.into();
        self
    }

    /// Starts the workers and waits until all of them are there.
    ///
    /// # Errors
    ///
    /// As for [`Pool::new`], and [`InvalidArgument`](ErrorKind::InvalidArgument) for no workers or more than 4096, and for no
    /// threads.
    pub fn build(self) -> Result<Pool> {
        const MOST: usize = 4096;
        let invalid = |message| Err(Error::new(ErrorKind::InvalidArgument, message));
        let cpus = fit::cpus();
        let workers = match self.workers {
            Some(workers @ 1..=MOST) => workers,
            Some(workers) => return invalid(format!("a pool has 1 to {MOST} workers, found {workers}")),
            None => cpus.min(MOST),
        };
        if self.threads == Some(0) {
            return invalid("a worker has at least one thread, found threads_per_worker(0)".to_owned());
        }
        let threads = self.threads.unwrap_or((cpus / workers).max(1));
        let mut env = fit::thread_caps(threads, self.threads.is_some(), |name| std::env::var_os(name));
        // Later ones go before earlier ones.
        env.extend(self.env);
        let places = if self.pin { fit::places(&affinity::allowed(), workers) } else { Vec::new() };
        // On one CPU whoever spins keeps the one that it waits for from running.
        let spin = self.spin.unwrap_or(if cpus > 1 { DEFAULT_SPIN } else { Duration::ZERO });
        let output = (self.stdout, self.stderr);
        let crew = Crew::start(CrewOptions { workers, env, spin, cpus, threads, places, output })?;
        let shared = |shared: &Weak<Shared>| Shared {
            home: Home::here(),
            workers,
            page: Arc::clone(crew.page()),
            crew: Mutex::new(crew.on_behalf_of(shared.clone())),
            patient: AtomicUsize::new(0),
            waiting: Mutex::default(),
            freed: Condvar::new(),
            caller: AtomicU64::new(0),
            forgotten: Mutex::default(),
            any_forgotten: AtomicBool::new(false),
        };
        Ok(Pool { kind: Kind::Workers(Arc::new_cyclic(shared)) })
    }
}
