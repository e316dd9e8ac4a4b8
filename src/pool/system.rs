//! What the pool's protocol needs of the system: shared memory, processes, news of their ends, a clock.
//!
//! Parent and worker are written against [`System`]. So the same code runs over the [`Kernel`], and in the model checker of
//! `model`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{ControlPage, Mapped, Memory};
use super::watch::Watch;
use super::worker::ending;
use crate::error::Result;
use crate::start::spawn::{SpawnOptions, StartingWorker, WorkerProcess};
use crate::sys::clock;
use crate::sys::lock::Patience;
use crate::sys::oom::OomKills;
use crate::sys::process::{Ended, PidFd};

/// Where a pool lives.
pub(crate) trait System: Sized + 'static {
    type Memory: Memory;
    type Process: Process;
    type Starting;
    type News: News<Self>;

    /// Parent: a new page for so many workers.
    fn create_page(workers: usize) -> Result<ControlPage<Self::Memory>>;

    /// Worker: the page behind a descriptor that the parent sent. From here on its tasks may ask whether a call is to end.
    fn map_page(fd: OwnedFd, workers: usize) -> Result<Arc<ControlPage<Self::Memory>>>;

    /// Parent: begins to start a worker, without waiting for it.
    fn begin(options: &SpawnOptions) -> Result<Self::Starting>;

    /// Parent: waits until the worker is there, for as long as the patience lasts.
    fn finish(starting: Self::Starting, patience: Option<&dyn Patience>) -> Result<WorkerProcess<Self::Process>>;

    /// Parent: how often the kernel has killed for lack of memory.
    fn oom_kills() -> OomKills;

    /// Parent: the time.
    fn clock() -> Instant;

    /// Worker: the time since some moment.
    fn now() -> Duration;

    /// Worker: ends this process.
    fn exit(code: i32) -> !;

    /// What a process knows at a moment when the page and `state` are all that decides what it does from there on: the
    /// model checker knows states again by it.
    #[cfg(test)]
    fn at_rest(_state: impl FnOnce() -> String) {}
}

/// The parent's hold on a process.
pub(crate) trait Process: AsFd {
    fn kill(&self, signal: i32) -> std::io::Result<()>;
    fn has_ended(&self) -> bool;
    /// Waits until it has ended, and reaps it.
    fn wait(&self) -> Ended;
    /// The same for so long at most.
    fn wait_timeout(&self, timeout: Duration) -> Option<Ended>;
}

/// Hears of the ends of workers, and rings the parent then.
pub(crate) trait News<S: System>: Sized {
    fn start(page: Arc<ControlPage<S::Memory>>) -> Result<Self>;
    /// Watches a worker until its descriptors are closed.
    fn add(&self, worker: &WorkerProcess<S::Process>) -> Result<()>;
    /// Would [`take_news`](Self::take_news) say so?
    fn has_news(&self) -> bool;
    /// May somebody have ended since this was last asked?
    fn take_news(&self) -> bool;
}

/// Processes that share memory.
#[derive(Debug)]
pub(crate) enum Kernel {}

impl System for Kernel {
    type Memory = Mapped;
    type Process = PidFd;
    type Starting = StartingWorker;
    type News = Watch;

    fn create_page(workers: usize) -> Result<ControlPage> {
        ControlPage::create(workers)
    }

    fn map_page(fd: OwnedFd, workers: usize) -> Result<Arc<ControlPage>> {
        let page = Arc::new(ControlPage::map(fd, workers)?);
        ending::ask(&page);
        Ok(page)
    }

    fn begin(options: &SpawnOptions) -> Result<StartingWorker> {
        StartingWorker::begin(options)
    }

    fn finish(starting: StartingWorker, patience: Option<&dyn Patience>) -> Result<WorkerProcess> {
        starting.finish(patience)
    }

    fn oom_kills() -> OomKills {
        OomKills::now()
    }

    #[inline]
    fn clock() -> Instant {
        Instant::now()
    }

    #[inline]
    fn now() -> Duration {
        clock::coarse()
    }

    fn exit(code: i32) -> ! {
        std::process::exit(code)
    }
}

impl Process for PidFd {
    fn kill(&self, signal: i32) -> std::io::Result<()> {
        self.kill(signal)
    }

    fn has_ended(&self) -> bool {
        self.has_ended()
    }

    fn wait(&self) -> Ended {
        self.wait()
    }

    fn wait_timeout(&self, timeout: Duration) -> Option<Ended> {
        self.wait_timeout(timeout)
    }
}
