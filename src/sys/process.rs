//! Processes seen through descriptors, so that an id that was given to somebody else is never waited for or killed.
#![expect(unsafe_code, reason = "pidfd_open, pidfd_send_signal, waitid and sigaction")]

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::time::TimeSpec;

use crate::sys::fork::{Epoch, epoch};
use crate::{Error, ErrorKind, Result};

/// A process, held by descriptor.
///
/// Readable for `poll` from the moment when the process has ended: its memory and its files are gone by then.
#[derive(Debug)]
pub(crate) struct PidFd {
    fd: OwnedFd,
    /// Set by whoever reaps first: the kernel tells only once.
    ended: OnceLock<Ended>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled {
        signal: i32,
        core: bool,
    },
    /// It is no child of this process, or somebody else took its exit status: the program ignores `SIGCHLD`, or waits
    /// for any child.
    Unknown,
}

impl PidFd {
    /// Opens the process that has that id now.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no pidfds (before 5.3) or hides them.
    pub(crate) fn open(pid: i32) -> Result<PidFd> {
        // SAFETY: `pidfd_open` takes an id and flags and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let Ok(fd @ 0..) = RawFd::try_from(fd) else {
            let error = Error::last_os(format!("cannot hold process {pid} by a descriptor (pidfd_open)"));
            return Err(match error.raw_os_error() {
                // What old seccomp filters answer for calls that they do not know.
                Some(libc::ENOSYS | libc::EPERM) => error.with_kind(ErrorKind::Unsupported),
                _ => error,
            });
        };
        // SAFETY: the kernel has just opened it for this call, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(PidFd { fd, ended: OnceLock::new() })
    }

    /// Sends a signal; to a process that has ended and was reaped it is the error `ESRCH`.
    pub(crate) fn kill(&self, signal: i32) -> io::Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: `pidfd_send_signal` with a null `info` reads no memory of ours.
        let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal, info, 0) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether the process has ended, reaped or not; does not wait.
    pub(crate) fn has_ended(&self) -> bool {
        poll_readable(&[self.fd.as_fd()], Some(Duration::ZERO)).is_ok_and(|ready| ready[0])
    }

    /// Waits until the process has ended, and reaps it if it is ours. Later calls give the same answer.
    pub(crate) fn wait(&self) -> Ended {
        loop {
            if let Some(ended) = self.wait_until(None) {
                return ended;
            }
        }
    }

    /// [`wait`](Self::wait), or `None` if the process still runs after that time.
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Option<Ended> {
        self.wait_until(Some(timeout))
    }

    fn wait_until(&self, timeout: Option<Duration>) -> Option<Ended> {
        if let Some(ended) = self.ended.get() {
            return Some(*ended);
        }
        // The poll comes first: `waitid` knows no timeout, and for a child of somebody else it does not wait at all.
        let Ok(ready) = poll_readable(&[self.fd.as_fd()], timeout) else {
            // The kernel was short of memory: time to try again.
            std::thread::sleep(timeout.unwrap_or(Duration::MAX).min(Duration::from_millis(1)));
            return None;
        };
        ready[0].then(|| *self.ended.get_or_init(|| self.reap()))
    }

    /// To be called once the descriptor is readable, which makes it return at once.
    fn reap(&self) -> Ended {
        let id = self.fd.as_raw_fd().unsigned_abs();
        loop {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: `info` is writable and of the type that the call fills.
            let status = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) };
            if status != 0 {
                match Errno::last() {
                    Errno::EINTR => continue,
                    // ECHILD: not ours or reaped by somebody else. EINVAL: Linux 5.3 has no P_PIDFD.
                    _ => return Ended::Unknown,
                }
            }
            // SAFETY: all zeros is a value of that struct of integers, and the call has filled it.
            let info = unsafe { info.assume_init() };
            // SAFETY: `waitid` succeeded, so the fields of a child's `siginfo_t` are the ones in use.
            let code = unsafe { info.si_status() };
            return match info.si_code {
                libc::CLD_EXITED => Ended::Exited(code),
                libc::CLD_KILLED => Ended::Signaled { signal: code, core: false },
                libc::CLD_DUMPED => Ended::Signaled { signal: code, core: true },
                _ => Ended::Unknown,
            };
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ended::Exited(code) => write!(f, "exited with code {code}"),
            Ended::Signaled { signal, core } => {
                write!(f, "was killed by signal {signal}")?;
                if let Ok(known) = Signal::try_from(signal) {
                    write!(f, " ({known})")?;
                }
                f.write_str(if core { " and dumped core" } else { "" })
            }
            Ended::Unknown => f.write_str("ended, cause unknown: its exit status was taken by somebody else"),
        }
    }
}

/// Waits until one of the descriptors is readable, closed at the other end, or in error, and says which are; none are
/// when the time is over. Without a timeout it waits for ever.
pub(crate) fn poll_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    poll(fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect(), timeout)
}

/// [`poll_readable`] for whatever each entry asks for.
pub(crate) fn poll(mut polled: Vec<PollFd<'_>>, timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    // Past what a clock can hold, there is no deadline.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Shortened to a day, which any `timespec` holds; the loop goes round again.
        let step = left.map(|left| left.min(Duration::from_secs(86_400)));
        match ppoll(&mut polled, step.map(TimeSpec::from_duration), None) {
            Ok(0) if left == step => return Ok(vec![false; polled.len()]),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Is the other end of a socket closed?
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    // Asked for nothing, the kernel reports a hang-up and errors all the same.
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    loop {
        match ppoll(&mut polled, Some(TimeSpec::from_duration(Duration::ZERO)), None) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) => return true,
        }
    }
}

/// Waits until `fd` can be written to, `other` is readable, or the time is over.
pub(crate) fn poll_writable_or(fd: BorrowedFd<'_>, other: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let mut polled = [PollFd::new(fd, PollFlags::POLLOUT), PollFd::new(other, PollFlags::POLLIN)];
    loop {
        match ppoll(&mut polled, timeout.map(TimeSpec::from_duration), None) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// A value of which every process has its own: a forked child starts without one.
///
/// It never blocks, so a fork in the middle of another thread's call cannot leave the child waiting for a lock that
/// nobody holds. Values are never freed.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    /// Null, or a leaked box. Only ever replaced by another leaked box, so that a reference lives as long as the process.
    current: AtomicPtr<Owned<T>>,
}

#[derive(Debug)]
struct Owned<T> {
    epoch: Epoch,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// This process's value. Threads that come first together may each make one; one of them is kept.
    pub(crate) fn get_or_try_init(&self, init: impl FnOnce() -> Result<T>) -> Result<&'static T> {
        let here = epoch();
        let seen = self.current.load(Ordering::Acquire);
        if let Some(value) = Self::own(seen, here) {
            return Ok(value);
        }
        let made = Box::into_raw(Box::new(Owned { epoch: here, value: init()? }));
        // Acquire and release: the value is written before it is found here, by us or by who was faster.
        let kept = match self.current.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: `made` came from `Box::into_raw` above and was not published.
                drop(unsafe { Box::from_raw(made) });
                faster
            }
        };
        Self::own(kept, here).ok_or_else(|| Error::new(ErrorKind::Closed, "the process was forked while it started"))
    }

    fn own(current: *mut Owned<T>, here: Epoch) -> Option<&'static T> {
        // SAFETY: null or a box that was leaked before its pointer was stored with release, loaded here with acquire,
        // never freed and never borrowed mutably.
        let owned: &'static Owned<T> = unsafe { current.as_ref() }?;
        (owned.epoch == here).then_some(&owned.value)
    }
}

/// Runs `start`, which starts a thread, so that no signal is ever handled on that thread: they are the program's, which may
/// block them in its own threads and wait for them there.
pub(crate) fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = start();
    if let Ok(before) = before {
        // The mask was this thread's a moment ago, so it can be again.
        let _ = before.thread_set_mask();
    }
    started
}

/// Lets all signals in, in a process that was started by a thread that blocks them.
pub(crate) fn unblock_signals() {
    // There is no mask that the kernel refuses.
    let _ = SigSet::empty().thread_set_mask();
}

extern "C" fn do_nothing(_signal: i32) {}

/// Makes `SIGINT` do nothing here, as Ctrl-C is for the parent to answer. A handler, because a signal that is ignored
/// would stay so in the programs that a task starts; where it was ignored already, it stays so.
pub(crate) fn leave_interrupts_to_parent() {
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: a handler that does nothing is safe in any context.
    let before = unsafe { sigaction(Signal::SIGINT, &action) };
    if let Ok(before) = before
        && matches!(before.handler(), SigHandler::SigIgn)
    {
        // SAFETY: ignoring a signal runs no code.
        let _ = unsafe { sigaction(Signal::SIGINT, &before) };
    }
}

/// Makes a write to a closed pipe an error, as Rust's runtime does before `main`.
pub(crate) fn ignore_broken_pipes() {
    ignore(&[Signal::SIGPIPE]);
}

/// Makes these signals do nothing in this process, and in the programs that it starts.
pub(crate) fn ignore(signals: &[Signal]) {
    for &signal in signals {
        let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: ignoring a signal runs no code.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sh(script: &str) -> (Child, PidFd) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pidfd = PidFd::open(child.id().cast_signed()).unwrap();
        (child, pidfd)
    }

    #[test]
    fn an_exit_code_is_told_as_often_as_it_is_asked_for() {
        let (_child, pidfd) = sh("exit 3");
        assert_eq!(pidfd.wait(), Ended::Exited(3));
        assert_eq!(pidfd.wait_timeout(Duration::ZERO), Some(Ended::Exited(3)));
        assert!(pidfd.has_ended());
        assert_eq!(pidfd.kill(libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(pidfd.wait().to_string(), "exited with code 3");
    }

    #[test]
    fn a_killed_process_names_its_signal() {
        let (_child, pidfd) = sh("exec sleep 100");
        assert!(!pidfd.has_ended());
        assert_eq!(pidfd.wait_timeout(Duration::from_millis(20)), None);
        pidfd.kill(libc::SIGKILL).unwrap();
        assert_eq!(pidfd.wait(), Ended::Signaled { signal: libc::SIGKILL, core: false });
        assert_eq!(pidfd.wait().to_string(), "was killed by signal 9 (SIGKILL)");
        let realtime = Ended::Signaled { signal: 40, core: true };
        assert_eq!(realtime.to_string(), "was killed by signal 40 and dumped core");
    }

    #[test]
    fn threads_that_wait_together_all_learn_how_it_ended() {
        let (_child, pidfd) = sh("sleep 0.05; exit 7");
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| pidfd.wait())).collect();
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), Ended::Exited(7));
            }
        });
    }

    #[test]
    fn an_exit_status_that_somebody_took_is_unknown_and_no_hang() {
        let (mut child, pidfd) = sh("exit 3");
        child.wait().unwrap();
        assert!(pidfd.has_ended());
        assert_eq!(pidfd.wait(), Ended::Unknown);
        assert!(pidfd.wait().to_string().starts_with("ended, cause unknown"));
    }

    #[test]
    fn a_process_that_is_not_ours_is_waited_for() {
        // The shell tells its background process's id and ends; that process is then no child of ours.
        let output = Command::new("sh").args(["-c", "sleep 100 >/dev/null 2>&1 & echo $!"]).output().unwrap();
        let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let pidfd = PidFd::open(pid).unwrap();
        assert_eq!(pidfd.wait_timeout(Duration::from_millis(1)), None);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pidfd.wait());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished());
            pidfd.kill(libc::SIGKILL).unwrap();
            assert_eq!(waiting.join().unwrap(), Ended::Unknown);
        });
    }

    #[test]
    fn no_such_process_is_an_error() {
        assert_eq!(PidFd::open(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn poll_says_which_is_readable_and_gives_up_in_time() {
        let (a, b) = crate::sys::socket::Socket::pair().unwrap();
        let start = Instant::now();
        let timeout = Some(Duration::from_millis(30));
        assert_eq!(poll_readable(&[a.as_fd(), b.as_fd()], timeout).unwrap(), [false, false]);
        assert!(start.elapsed() >= Duration::from_millis(30));
        a.send(b"x", &[]).unwrap();
        assert_eq!(poll_readable(&[a.as_fd(), b.as_fd()], Some(Duration::MAX)).unwrap(), [false, true]);
        assert_eq!(poll_readable(&[a.as_fd(), b.as_fd()], None).unwrap(), [false, true]);
    }

    #[test]
    fn a_forked_child_has_its_own_value() {
        static VALUE: PerProcess<u32> = PerProcess::new();
        let mine = || VALUE.get_or_try_init(|| Ok(std::process::id())).copied();
        assert_eq!(mine().unwrap(), std::process::id());
        assert_eq!(mine().unwrap(), std::process::id());
        // SAFETY: the child only allocates, which the C library allows after a fork, and leaves through `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let right = mine().is_ok_and(|value| value == std::process::id());
                // SAFETY: ends the process, runs nothing of it.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            child => assert_eq!(PidFd::open(child).unwrap().wait(), Ended::Exited(0)),
        }
    }
}
