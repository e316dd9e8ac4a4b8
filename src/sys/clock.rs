//! A clock that is read in a few nanoseconds.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since some moment, a few milliseconds late at most.
pub(crate) fn coarse() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}
