//! Sleeping on a word of shared memory until another process rings.
#![expect(unsafe_code, reason = "futex has no wrapper")]

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps until somebody [wakes](wake) the word, a signal comes, or the time is over; returns at once where the word is
/// not `expected` any more. Callers look again at what they wait for, whatever the reason.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        // A day is as good as for ever to who looks again.
        tv_sec: timeout.as_secs().min(86_400).cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // No FUTEX_PRIVATE_FLAG: the word is shared between processes.
    // SAFETY: the word is borrowed, aligned and 4 bytes long; the timeout is null or a live `timespec`, which the kernel
    // only reads.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, timeout) };
}

/// Wakes everybody who sleeps on the word, in any process.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the word is borrowed; waking reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
