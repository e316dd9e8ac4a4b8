//! Sleeping on a word of shared memory until another process rings.
#![expect(unsafe_code, reason = "futex has no wrapper")]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The lower half of a word, which is all that the kernel compares.
fn lower_half(word: &AtomicU64) -> *const u32 {
    let first: *const u32 = word.as_ptr().cast();
    first.wrapping_add(usize::from(cfg!(target_endian = "big")))
}

/// Sleeps until somebody [wakes](wake) the word, a signal comes, or the time is over; returns at once where the lower half
/// of the word is not that of `expected` any more. Callers look again at what they wait for, whatever the reason.
pub(crate) fn wait(word: &AtomicU64, expected: u64, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        // A day is as good as for ever to who looks again.
        tv_sec: timeout.as_secs().min(86_400).cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let expected = u32::try_from(expected & u64::from(u32::MAX)).unwrap_or_default();
    // No FUTEX_PRIVATE_FLAG: the word is shared between processes.
    // SAFETY: the four bytes are aligned and part of a word that is borrowed; the timeout is null or a live `timespec`,
    // which the kernel only reads.
    unsafe { libc::syscall(libc::SYS_futex, lower_half(word), libc::FUTEX_WAIT, expected, timeout) };
}

/// Wakes everybody who sleeps on the word, in any process.
pub(crate) fn wake(word: &AtomicU64) {
    // SAFETY: the word is borrowed; waking reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_futex, lower_half(word), libc::FUTEX_WAKE, i32::MAX) };
}
