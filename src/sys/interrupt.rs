//! Ctrl-C, for as long as somebody listens.
//!
//! While anybody listens `SIGINT` has a handler that counts; before and after, the program's own disposition stands as it
//! was. Where that is a handler, ours calls it as well, each time. Where it is the default, which ends the program, the
//! first signal only counts and the next one does that: who asked twice does not want to wait. One that came when it was
//! too late to do anything about it is sent again once nobody listens any more, and then does what it always does. Where the signal is
//! ignored, as for what a shell starts in the background, it stays so, and nobody hears of it.
#![expect(unsafe_code, reason = "installs a signal handler and calls the one that was there")]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How many have come while somebody listened.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// How many of them there were when one who listened had last done something about them; all, where nobody listened.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
/// Since the last listener began.
static UNANSWERED: AtomicU32 = AtomicU32::new(0);
/// The process that the handler was installed in.
static HOME: AtomicU32 = AtomicU32::new(0);
/// The handler that was there before, 0 for the default, and whether it takes three arguments. Written before ours is
/// installed, and then left alone for as long as it may run.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
static BEFORE_TAKES_INFO: AtomicBool = AtomicBool::new(false);

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners { count: 0, before: None });

struct Listeners {
    count: usize,
    /// What to put back; `None` where nothing was installed.
    before: Option<SigAction>,
}

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn count(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Nothing but atomics and calls that POSIX allows in a handler.
    COUNT.fetch_add(1, Ordering::Relaxed);
    let is_first = UNANSWERED.fetch_add(1, Ordering::Relaxed) == 0;
    let before = BEFORE.load(Ordering::Relaxed);
    if before != libc::SIG_DFL {
        if BEFORE_TAKES_INFO.load(Ordering::Relaxed) {
            // SAFETY: the address was taken from a disposition with SA_SIGINFO, whose handler has this signature.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)>(before)
            };
            handler(signal, info, context);
        } else {
            // SAFETY: the address was taken from a disposition without SA_SIGINFO, whose handler has this signature.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(before) };
            handler(signal);
        }
    } else if !is_first || HOME.load(Ordering::Relaxed) != std::process::id() {
        // SAFETY: the default runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // Blocked until the handler returns; then it ends the process.
        // SAFETY: raising a signal touches no memory.
        unsafe { libc::raise(signal) };
    }
}

/// Somebody who listens for Ctrl-C, until it is dropped.
#[derive(Debug)]
pub(crate) struct Interrupts {
    since: u64,
}

impl Interrupts {
    pub(crate) fn listen() -> Self {
        let mut listeners = listeners();
        UNANSWERED.store(0, Ordering::Relaxed);
        if listeners.count == 0 {
            ANSWERED.store(COUNT.load(Ordering::Relaxed), Ordering::Relaxed);
            listeners.before = install();
        }
        listeners.count += 1;
        Self { since: COUNT.load(Ordering::Relaxed) }
    }

    /// Has one come since?
    pub(crate) fn has_come(&self) -> bool {
        COUNT.load(Ordering::Relaxed) != self.since
    }

    /// Something was done about those that have come since. Who else listens need not, or could not any more.
    pub(crate) fn answer(&self) {
        if self.has_come() {
            ANSWERED.store(COUNT.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if HOME.load(Ordering::Relaxed) != std::process::id() {
            // Another thread may have had the mutex when this process was forked.
            return;
        }
        let mut listeners = listeners();
        listeners.count -= 1;
        if listeners.count == 0
            && let Some(before) = listeners.before.take()
            && current().is_some_and(|current| is_ours(&current))
        {
            set(&before);
            let was_default = matches!(before.handler(), SigHandler::SigDfl);
            if was_default && COUNT.load(Ordering::Relaxed) != ANSWERED.load(Ordering::Relaxed) {
                // SAFETY: raising a signal touches no memory.
                unsafe { libc::raise(libc::SIGINT) };
            }
        }
    }
}

fn install() -> Option<SigAction> {
    HOME.store(std::process::id(), Ordering::Relaxed);
    let before = current()?;
    if is_ours(&before) {
        // The program has put back what it once saw; what is behind that is known already.
        return None;
    }
    let (address, takes_info) = match before.handler() {
        SigHandler::SigIgn => return None,
        SigHandler::SigDfl => (libc::SIG_DFL, false),
        SigHandler::Handler(handler) => (handler as usize, false),
        SigHandler::SigAction(handler) => (handler as usize, true),
    };
    BEFORE.store(address, Ordering::Relaxed);
    BEFORE_TAKES_INFO.store(takes_info, Ordering::Relaxed);
    // Interrupted system calls go on or fail as they would have; nobody who left the default expects them to fail.
    let restart = if address == libc::SIG_DFL { SaFlags::SA_RESTART } else { before.flags() };
    let flags = (restart | SaFlags::SA_SIGINFO) & !SaFlags::SA_RESETHAND;
    set(&SigAction::new(SigHandler::SigAction(count), flags, before.mask()));
    Some(before)
}

fn is_ours(action: &SigAction) -> bool {
    matches!(action.handler(), SigHandler::SigAction(handler) if std::ptr::fn_addr_eq(handler, count as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)))
}

/// What `SIGINT` does now; changes nothing.
fn current() -> Option<SigAction> {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes to `current`, which is of its type.
    let status = unsafe { libc::sigaction(libc::SIGINT, std::ptr::null(), current.as_mut_ptr()) };
    // SAFETY: all zeros is a value of the struct, and where the call succeeded it has filled it.
    let current = unsafe { current.assume_init() };
    (status == 0).then(|| as_nix(&current))
}

fn as_nix(action: &libc::sigaction) -> SigAction {
    let flags = SaFlags::from_bits_truncate(action.sa_flags);
    let handler = match action.sa_sigaction {
        libc::SIG_DFL => SigHandler::SigDfl,
        libc::SIG_IGN => SigHandler::SigIgn,
        address if flags.contains(SaFlags::SA_SIGINFO) => {
            // SAFETY: the kernel says that a handler of this signature is installed at the address.
            SigHandler::SigAction(unsafe {
                std::mem::transmute::<usize, extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)>(address)
            })
        }
        address => {
            // SAFETY: the kernel says that a handler of this signature is installed at the address.
            SigHandler::Handler(unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(address) })
        }
    };
    // SAFETY: the mask was filled by the kernel or is all zeros.
    let mask = unsafe { SigSet::from_sigset_t_unchecked(action.sa_mask) };
    SigAction::new(handler, flags, mask)
}

fn set(action: &SigAction) {
    // SAFETY: `count` does only what a handler may; any other action here is one that was installed before.
    let _ = unsafe { sigaction(Signal::SIGINT, action) };
}
