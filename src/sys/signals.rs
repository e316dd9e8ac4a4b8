//! Signals that ask a process to end, as something to wait for.
#![expect(unsafe_code, reason = "installs signal handlers")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::{Error, Result};

/// Where the handler writes to, and for which process: a forked child has the handlers and the descriptor as well.
static EVENT: AtomicI32 = AtomicI32::new(-1);
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Who is to be told. The event is never closed: a handler may run while it is given up.
struct Told {
    event: Option<EventFd>,
    listeners: usize,
    before: Vec<(Signal, SigAction)>,
}

static TOLD: Mutex<Told> = Mutex::new(Told { event: None, listeners: 0, before: Vec::new() });

/// While this lives, the signals that it was made for end nothing, but make it readable, for all who have one.
#[derive(Debug)]
pub(crate) struct EndSignals {
    event: i32,
}

impl EndSignals {
    /// A signal that was ignored before, as `nohup` does it, stays ignored. Who comes second gets what the first one
    /// asked for.
    pub(crate) fn catch(signals: &[Signal]) -> Result<Self> {
        let failed = |errno| Error::from_os(errno, "cannot be told of signals");
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id().cast_signed();
        // Relaxed, here and below: handlers are installed after these are written, by system calls.
        if PROCESS.load(Ordering::Relaxed) != pid {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let event = EventFd::from_value_and_flags(0, flags).map_err(failed)?;
            EVENT.store(event.as_fd().as_raw_fd(), Ordering::Relaxed);
            let parents = std::mem::replace(&mut *told, Told { event: Some(event), listeners: 0, before: Vec::new() });
            std::mem::forget(parents.event);
            // Last, so that whoever comes after a failure tries again.
            PROCESS.store(pid, Ordering::Relaxed);
        }
        if told.listeners == 0 {
            for &signal in signals {
                let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
                // SAFETY: the handler calls only what is allowed in one: atomics, `getpid` and `write`.
                let before = unsafe { sigaction(signal, &action) }.map_err(failed)?;
                if matches!(before.handler(), SigHandler::SigIgn) {
                    // SAFETY: what was in place a moment ago can be again.
                    unsafe { sigaction(signal, &before) }.map_err(failed)?;
                } else {
                    told.before.push((signal, before));
                }
            }
        }
        told.listeners += 1;
        Ok(Self { event: EVENT.load(Ordering::Relaxed) })
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        // In a forked child they are the parent's.
        if PROCESS.load(Ordering::Relaxed) != std::process::id().cast_signed() {
            return;
        }
        told.listeners -= 1;
        if told.listeners == 0 {
            for (signal, before) in std::mem::take(&mut told.before) {
                // SAFETY: what was in place before can be again.
                let _ = unsafe { sigaction(signal, &before) };
            }
            // Whoever comes next hears of new signals only.
            let _ = told.event.as_ref().map(EventFd::read);
        }
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the event that was open when this was made is never closed, see `Told`; a forked child that makes one of
        // its own leaves its parent's open.
        unsafe { BorrowedFd::borrow_raw(self.event) }
    }
}

extern "C" fn note(_signal: i32) {
    let errno = Errno::last();
    let event = EVENT.load(Ordering::Relaxed);
    // SAFETY: `getpid` has no preconditions.
    if unsafe { libc::getpid() } == PROCESS.load(Ordering::Relaxed) {
        let one = 1_u64;
        // SAFETY: the pointer and the length describe `one`. A full event is readable already.
        unsafe { libc::write(event, (&raw const one).cast(), size_of::<u64>()) };
    }
    // What the handler interrupted may be about to look at it.
    errno.set();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::raise;

    use super::*;
    use crate::sys::process::poll_readable;

    #[test]
    fn a_signal_is_told_to_all_who_listen_and_to_nobody_later() {
        let is_told = |signals: &EndSignals| poll_readable(&[signals.as_fd()], Some(Duration::ZERO)).unwrap()[0];
        let one = EndSignals::catch(&[Signal::SIGUSR2]).unwrap();
        let other = EndSignals::catch(&[Signal::SIGUSR2]).unwrap();
        assert!(!is_told(&one));
        raise(Signal::SIGUSR2).unwrap();
        assert!(is_told(&one) && is_told(&other));
        drop(one);
        assert!(is_told(&other));
        drop(other);
        assert!(!is_told(&EndSignals::catch(&[Signal::SIGUSR2]).unwrap()));
    }
}
