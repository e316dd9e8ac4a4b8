//! News of deaths: a thread that sleeps until a worker's pidfd or socket has something to say about its end.
//!
//! A call waits on the parent's bell, and nobody can sleep on a word and on descriptors at once. So this thread sleeps on
//! the descriptors, and rings. It takes no part in calls, and none in what follows from a death.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::control::ControlPage;
use super::system::{Kernel, News};
use crate::error::{Error, Result};
use crate::start::spawn::WorkerProcess;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::process::without_signals;

/// The thread and what it watches. Dropped, the thread ends.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    home: Epoch,
}

struct Shared {
    epoll: Epoll,
    stop: EventFd,
    /// Somebody may have ended since this was last taken.
    news: AtomicBool,
    page: Arc<ControlPage>,
}

const STOP: u64 = 0;
const WORKER: u64 = 1;

impl News<Kernel> for Watch {
    fn start(page: Arc<ControlPage>) -> Result<Self> {
        let failed = |errno: Errno| Error::from_os(errno, "cannot watch worker processes");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP)).map_err(failed)?;
        let shared = Arc::new(Shared { epoll, stop, news: AtomicBool::new(false), page });
        let watching = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("ndshm watch".to_owned()).stack_size(64 * 1024);
        let thread = without_signals(|| builder.spawn(move || watching.watch()))
            .map_err(|error| Error::from_os(error, "cannot start the thread that watches worker processes"))?;
        Ok(Self { shared, thread: Some(thread), home: epoch() })
    }

    /// Each of its descriptors is reported once.
    fn add(&self, worker: &WorkerProcess) -> Result<()> {
        let once = EpollFlags::EPOLLONESHOT;
        let ended = EpollEvent::new(EpollFlags::EPOLLIN | once, WORKER);
        // Not for what it says, only for its end, which is reported without being asked for.
        let closed = EpollEvent::new(once, WORKER);
        self.shared
            .epoll
            .add(worker.pidfd.as_fd(), ended)
            .and_then(|()| self.shared.epoll.add(worker.socket.as_fd(), closed))
            .map_err(|errno| Error::from_os(errno, "cannot watch a worker process"))
    }

    #[inline]
    fn has_news(&self) -> bool {
        self.shared.news.load(Ordering::Relaxed)
    }

    #[inline]
    fn take_news(&self) -> bool {
        // Acquire pairs with the release of the thread; the bell is rung after it.
        self.has_news() && self.shared.news.swap(false, Ordering::Acquire)
    }
}

impl Shared {
    fn watch(&self) {
        let mut events = [EpollEvent::empty(); 16];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) if events[..count].iter().any(|event| event.data() == STOP) => return,
                Ok(_) => {
                    self.news.store(true, Ordering::Release);
                    self.page.ring_parent();
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.home != epoch() {
            // A forked child has no such thread.
            std::mem::forget(thread);
            return;
        }
        if self.shared.stop.write(1).is_ok() {
            // It has nothing to panic about, and nobody to tell.
            let _ = thread.join();
        }
    }
}
