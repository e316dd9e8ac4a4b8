//! Where the protocol can be cut: between any two system calls that change something.

/// The process may be killed or stopped here.
#[cfg(not(test))]
#[inline]
pub(crate) fn step() {}

#[cfg(test)]
pub(crate) use tests::step;

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use nix::sys::signal::{Signal, raise};

    /// Steps until the signal comes; below 0: it never does.
    static LEFT: AtomicI64 = AtomicI64::new(-1);
    static SIGNAL: AtomicI64 = AtomicI64::new(0);

    /// From here on step `number`, counted from 0, raises `signal` in this process.
    pub(crate) fn arm(number: i64, signal: Signal) {
        SIGNAL.store(signal as i64, Ordering::SeqCst);
        LEFT.store(number, Ordering::SeqCst);
    }

    /// True when the signal has not come.
    pub(crate) fn disarm() -> bool {
        LEFT.swap(-1, Ordering::SeqCst) >= 0
    }

    pub(crate) fn step() {
        if LEFT.load(Ordering::SeqCst) < 0 || LEFT.fetch_sub(1, Ordering::SeqCst) != 0 {
            return;
        }
        let signal =
            if SIGNAL.load(Ordering::SeqCst) == Signal::SIGSTOP as i64 { Signal::SIGSTOP } else { Signal::SIGKILL };
        raise(signal).unwrap();
    }
}
