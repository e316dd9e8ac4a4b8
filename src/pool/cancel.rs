//! Ending calls from outside: by a deadline, a token, or Ctrl-C.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::control::ControlPage;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::interrupt::Interrupts;
use crate::sys::lock::Patience;

/// How long tasks that run may take to end once their call is told to, unless it says otherwise.
const GRACE: Duration = Duration::from_millis(100);

/// Ctrl-C wakes nobody by itself: who listens for it looks so often.
const ATTENTION: Duration = Duration::from_millis(20);

/// Cancels calls of pools, from any thread.
///
/// Clones are the same token. It can be given to any number of calls with [`Call::cancel_with`](super::Call::cancel_with),
/// of several pools too, and once it is cancelled it stays so: calls that come later end before they begin.
///
/// # Examples
///
/// ```standalone_crate
/// use std::thread;
/// use std::time::Duration;
///
/// use ndshm::{CancelToken, ErrorKind, Pool};
///
/// fn main() -> ndshm::Result<()> {
///     ndshm::init();
///     let pool = Pool::builder().workers(1).build()?;
///     let token = CancelToken::new();
///     let canceller = token.clone();
///     thread::spawn(move || {
///         thread::sleep(Duration::from_millis(50));
///         canceller.cancel();
///     });
///     let cancelled = pool.call().cancel_with(&token).for_each((), |(), _| loop {
///         std::hint::spin_loop();
///     });
///     assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
///     pool.for_each((), |(), _| ())?; // another worker took the place of the one that was stuck
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct CancelToken {
    shared: Arc<Shared>,
}

struct Shared {
    cancelled: AtomicBool,
    /// The bells of the calls that it can end.
    pages: Mutex<Vec<Weak<ControlPage>>>,
    home: Epoch,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { cancelled: AtomicBool::new(false), pages: Mutex::default(), home: epoch() }) }
    }

    /// Ends all calls that were given this token, and those that will be. Does not wait for them; may be called any number
    /// of times. In a forked child it reaches that child's own calls only.
    pub fn cancel(&self) {
        // A call notes its bell before it looks at the flag: it sees the flag or is rung. The mutex orders the two.
        self.shared.cancelled.store(true, Ordering::Release);
        if self.shared.home == epoch() {
            for page in self.pages().iter().filter_map(Weak::upgrade) {
                page.ring_parent();
            }
        }
    }

    /// Was it cancelled?
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    fn pages(&self) -> MutexGuard<'_, Vec<Weak<ControlPage>>> {
        self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, page: &Arc<ControlPage>) {
        if self.shared.home == epoch() {
            self.pages().push(Arc::downgrade(page));
        }
    }

    fn unwatch(&self, page: &Arc<ControlPage>) {
        if self.shared.home == epoch() {
            let mut pages = self.pages();
            if let Some(position) = pages.iter().position(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(page))) {
                pages.swap_remove(position);
            }
        }
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// What may end a call early, as it was set.
#[derive(Clone, Debug)]
pub(super) struct StopOptions {
    pub(super) deadline: Option<Duration>,
    pub(super) tokens: Vec<CancelToken>,
    pub(super) on_ctrl_c: bool,
    pub(super) grace: Duration,
}

impl Default for StopOptions {
    fn default() -> Self {
        Self { deadline: None, tokens: Vec::new(), on_ctrl_c: false, grace: GRACE }
    }
}

/// What may end a call early, while it runs.
pub(crate) struct Stop {
    options: StopOptions,
    /// `None` also where the clock cannot count so far.
    deadline: Option<Instant>,
    interrupts: Option<Interrupts>,
    /// Where the call's parent sleeps.
    page: Option<Arc<ControlPage>>,
    /// A task that runs here was told that the call is to end.
    told: AtomicBool,
}

impl Stop {
    /// From now on, for a call whose parent sleeps on the bell of `page`. `None` where nothing can end it.
    pub(super) fn begin(options: StopOptions, page: Option<&Arc<ControlPage>>) -> Option<Arc<Self>> {
        if options.deadline.is_none() && options.tokens.is_empty() && !options.on_ctrl_c {
            return None;
        }
        let deadline = options.deadline.and_then(|after| Instant::now().checked_add(after));
        let interrupts = options.on_ctrl_c.then(Interrupts::listen);
        if let Some(page) = page {
            options.tokens.iter().for_each(|token| token.watch(page));
        }
        Some(Arc::new(Self { options, deadline, interrupts, page: page.cloned(), told: AtomicBool::new(false) }))
    }

    /// Does somebody want the call to end?
    pub(super) fn is_cancelled(&self) -> bool {
        let interrupted = || self.interrupts.as_ref().is_some_and(Interrupts::has_come);
        self.options.tokens.iter().any(CancelToken::is_cancelled) || interrupted()
    }

    /// Why the call is to end, if it is.
    pub(super) fn reason(&self) -> Option<ErrorKind> {
        if self.is_cancelled() {
            Some(ErrorKind::Cancelled)
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(ErrorKind::TimedOut)
        } else {
            None
        }
    }

    /// Tells a task that runs here, if the call is to end.
    pub(super) fn tell(&self) -> bool {
        let ends = self.reason().is_some();
        if ends {
            // Relaxed: who returns from the task because of it comes after this.
            self.told.store(true, Ordering::Relaxed);
        }
        ends
    }

    /// Was a task told?
    pub(super) fn has_told(&self) -> bool {
        // Relaxed: as above.
        self.told.load(Ordering::Relaxed)
    }

    /// Until when tasks may run where the call ends now. `None` where the clock cannot count so far.
    pub(super) fn end_of_grace(&self) -> Option<Instant> {
        Instant::now().checked_add(self.options.grace)
    }

    /// How long one may sleep before one has to look again.
    pub(super) fn attention(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let look = self.interrupts.as_ref().map(|_| ATTENTION);
        left.into_iter().chain(look).min()
    }

    /// The call's error says why it ended: nobody has to be told of an interrupt again.
    pub(super) fn answer(&self) {
        self.interrupts.iter().for_each(Interrupts::answer);
    }

    /// The message for a reason, as a whole sentence.
    pub(super) fn message(&self, reason: ErrorKind) -> String {
        match (reason, self.options.deadline) {
            (ErrorKind::TimedOut, Some(after)) => format!("the call did not end within its deadline of {after:?}"),
            _ if self.options.tokens.iter().any(CancelToken::is_cancelled) => {
                "the call was cancelled by a token".to_owned()
            }
            _ => "the call was cancelled by Ctrl-C".to_owned(),
        }
    }

    /// Fails where the call is to end before anything of it began; `was` says how far it was.
    pub(super) fn check(&self, was: &str) -> Result<()> {
        match self.reason() {
            Some(reason) => Err(Error::new(reason, format!("{}: it {was}", self.message(reason)))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Patience for Stop {
    fn is_over(&self) -> bool {
        self.reason().is_some()
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(page) = &self.page {
            self.options.tokens.iter().for_each(|token| token.unwatch(page));
        }
    }
}
